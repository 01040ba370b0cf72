//! What the store holds, session by session, from names, sizes, hints and last bytes alone.
//!
//! Decodes nothing and writes nothing, so it can run beside a daemon, without one, and on a store
//! that is read-only.

use crate::frames;
use crate::names::{OWN, is_session, packed_name, visible_name};
use crate::store::{HINT, Hint};
use crate::sys::{self, Stat};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// One session of a store.
#[derive(Debug, Clone)]
pub struct Surveyed {
    /// Visible path beneath the store.
    pub path: PathBuf,
    /// Bytes of its store file, of both where it is there in two forms.
    pub stored: u64,
    /// Its size; `None` where only decoding could tell.
    pub original: Option<u64>,
    /// Nothing waits to be compressed.
    pub sealed: bool,
    /// Its store name, where it is another than the visible one.
    pub packed: Option<OsString>,
    /// What its store file's `stat` says.
    pub stat: Stat,
}

/// All sessions directly in the project directories of a store; none if there is no store.
pub fn survey(store: &Path) -> io::Result<Vec<Surveyed>> {
    let root = match File::open(store) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        root => root?,
    };
    let mut found = Vec::new();
    for project in sys::read_dir(root.as_fd())? {
        if project.name == OWN {
            continue;
        }
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        if let Ok(dir) = sys::open_at(root.as_fd(), &project.name, flags, 0) {
            directory(Path::new(&project.name), dir.as_fd(), &mut found)?;
        }
    }
    Ok(found)
}

/// The sessions directly in one directory; `path` is what their paths begin with.
pub fn directory(path: &Path, dir: BorrowedFd, found: &mut Vec<Surveyed>) -> io::Result<()> {
    let mut seen: HashMap<PathBuf, usize> = HashMap::new();
    for entry in sys::read_dir(dir)? {
        let Some(name) = visible_name(&entry.name).filter(|n| is_session(n)) else {
            continue;
        };
        // What vanishes meanwhile is not there.
        let Ok(stat) = sys::stat_at(dir, &entry.name) else {
            continue;
        };
        if !stat.is(libc::S_IFREG) {
            continue;
        }
        let path = path.join(name);
        let raw = name == entry.name;
        let session = if raw {
            Surveyed {
                path: path.clone(),
                stored: stat.size,
                original: Some(stat.size),
                // With several links or a long name it stays raw, so it does not wait.
                sealed: stat.nlink > 1 || packed_name(name).is_none(),
                packed: None,
                stat,
            }
        } else {
            let hint = look(dir, &entry.name, stat.size);
            let original = hint.map(|h| h.logical);
            let sealed = hint.is_some_and(|h| h.sealed == h.stored);
            Surveyed {
                path: path.clone(),
                stored: stat.size,
                original,
                sealed,
                packed: Some(entry.name),
                stat,
            }
        };
        // Of two forms the raw one is the session, and both take space.
        match seen.get(&path) {
            None => {
                seen.insert(path, found.len());
                found.push(session);
            }
            Some(&at) => {
                let stored = found[at].stored + session.stored;
                if raw {
                    found[at] = session;
                }
                found[at].stored = stored;
            }
        }
    }
    Ok(())
}

/// What the hint or the last bytes of a packed store file tell; `None` when only a walk can.
pub fn look(dir: BorrowedFd, stored: &OsStr, size: u64) -> Option<Hint> {
    let mut bytes = [0; Hint::LEN];
    let n = sys::getxattr_at(dir, stored, OsStr::new(HINT), &mut bytes).unwrap_or(0);
    Hint::decode(&bytes[..n], size).or_else(|| {
        let file: File = sys::open_at(dir, stored, libc::O_RDONLY | libc::O_NONBLOCK, 0)
            .ok()?
            .into();
        let ends = frames::ends(&file, size).ok()??;
        Some(Hint {
            logical: ends.logical,
            stored: ends.stored,
            sealed: ends.sealed,
        })
    })
}
