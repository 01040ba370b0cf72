//! What a directory of sessions holds, before anything is done to it.

use super::is_own;
use crate::names::{is_session, visible_name};
use crate::size;
use crate::sys;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// In a directory that is being taken as one project's.
const FLAT: &str = ".cellar-adopting.flat";

/// Counts and bytes of what is in a directory, at every depth.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// Directories at the top.
    pub projects: u64,
    /// Sessions, plain and compressed, those of bundles too.
    pub sessions: u64,
    pub session_bytes: u64,
    /// Everything else that is no directory.
    pub others: u64,
    pub other_bytes: u64,
}

impl Inventory {
    pub fn bytes(&self) -> u64 {
        self.session_bytes + self.other_bytes
    }

    pub fn is_empty(&self) -> bool {
        *self == Inventory::default()
    }
}

impl fmt::Display for Inventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing");
        }
        write!(
            f,
            "{}, {}, {}, {} in all",
            size::count(self.projects, "project"),
            size::count(self.sessions, "session"),
            size::count(self.others, "other file"),
            size::bytes(self.bytes())
        )
    }
}

/// Whether a directory is one project's: it has sessions itself, and no directory in it has; or it was
/// noted to be, when it still had them.
pub fn is_flat(dir: &Path) -> io::Result<bool> {
    let top = File::open(dir)?;
    if sys::stat_at(top.as_fd(), FLAT.as_ref()).is_ok() {
        return Ok(true);
    }
    let has_sessions = |dir: BorrowedFd| -> io::Result<bool> {
        let mut names = sys::read_dir(dir)?.into_iter().map(|e| e.name);
        Ok(names.any(|name| visible_name(&name).is_some_and(is_session)))
    };
    if !has_sessions(top.as_fd())? {
        return Ok(false);
    }
    for entry in sys::read_dir(top.as_fd())? {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        if let Ok(inner) = sys::open_at(top.as_fd(), &entry.name, flags, 0)
            && has_sessions(inner.as_fd())?
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Notes that a directory is one project's, or that all of it has been taken.
pub fn note_flat(dir: &File, flat: bool) -> io::Result<()> {
    if flat {
        let flags = libc::O_WRONLY | libc::O_CREAT;
        sys::open_at(dir.as_fd(), FLAT.as_ref(), flags, 0o600)?;
    } else {
        sys::unlink_at(dir.as_fd(), FLAT.as_ref())?;
    }
    dir.sync_all()
}

/// Counts what is in a directory; links are not followed. What a directory nobody may read holds
/// counts as nothing.
pub fn inventory(dir: &Path) -> io::Result<Inventory> {
    let mut counted = Inventory::default();
    match File::open(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        opened => count(opened?.as_fd(), true, &mut counted)?,
    }
    Ok(counted)
}

fn count(dir: BorrowedFd, top: bool, counted: &mut Inventory) -> io::Result<()> {
    for entry in sys::read_dir(dir)? {
        if top && is_own(&entry.name) {
            continue;
        }
        let Ok(stat) = sys::stat_at(dir, &entry.name) else {
            continue;
        };
        if stat.is(libc::S_IFDIR) {
            counted.projects += u64::from(top);
            let flags = libc::O_RDONLY | libc::O_DIRECTORY;
            if let Ok(inner) = sys::open_at(dir, &entry.name, flags, 0) {
                count(inner.as_fd(), false, counted)?;
            }
        } else if stat.is(libc::S_IFREG) && visible_name(&entry.name).is_some_and(is_session) {
            counted.sessions += 1;
            counted.session_bytes += stat.size;
        } else {
            counted.others += 1;
            counted.other_bytes += stat.size;
        }
    }
    Ok(())
}
