//! The visible tree: names, attributes, directories. Every rule about what a name may be, and what
//! happens to the two forms of a session when names change, is here.
//!
//! Errors are the errno a plain directory gives. Where a step must not be lost to a power cut
//! (one form takes the other's place), the directory is synced between the two steps.

mod change;
mod make;
mod rename;

pub use change::Changes;

use crate::dirty::Dirty;
use crate::inodes::{Inodes, Node, ROOT};
use crate::names::{Place, is_reserved, is_session, visible_name};
use crate::pool;
use crate::shared::Shared;
use crate::store::{self, Store};
use crate::sys::{self, Stat, errno};
use crate::trash::Trash;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// An object as the kernel is told of it.
pub struct Entry {
    pub node: Arc<Node>,
    pub stat: Stat,
}

/// Who asks: a daemon run by root gives new files to the caller.
#[derive(Clone, Copy)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
}

/// One visible entry of a directory: its name, store inode and `DT_…` type.
pub struct Listed {
    pub name: OsString,
    pub ino: u64,
    pub kind: u8,
}

/// The tree of one mount.
pub struct Tree {
    pub shared: Arc<Shared>,
    pub inodes: Inodes,
    pub dirty: Dirty,
    /// Where deleted sessions go, if they are kept.
    pub trash: Option<Trash>,
    max_open: Option<usize>,
    open: AtomicUsize,
    /// Created files are given to the caller.
    gives_away: bool,
}

impl Tree {
    /// `max_open` bounds the open files (EMFILE beyond it).
    pub fn new(
        shared: Arc<Shared>,
        dirty: Dirty,
        trash: Option<Trash>,
        max_open: Option<usize>,
    ) -> io::Result<Tree> {
        let root = sys::fstat(shared.store.root())?;
        let inodes = Inodes::new(shared.clone(), &root);
        Ok(Tree {
            shared,
            inodes,
            dirty,
            trash,
            max_open,
            open: AtomicUsize::new(0),
            gives_away: sys::euid() == 0,
        })
    }

    fn store(&self) -> &Store {
        &self.shared.store
    }

    pub fn lookup(&self, parent: u64, name: &OsStr) -> io::Result<Entry> {
        let path = self.inodes.dir(parent)?;
        let dir = self.store().dir(&path)?;
        self.lookup_in(parent, &path, dir.as_fd(), name)
    }

    /// A lookup in a directory that is open already; counts for the kernel as any lookup.
    pub fn lookup_in(
        &self,
        parent: u64,
        path: &Path,
        dir: BorrowedFd,
        name: &OsStr,
    ) -> io::Result<Entry> {
        if is_reserved(path, name) {
            return Err(errno(libc::ENOENT));
        }
        let found = self.store().find(dir, name)?;
        let node = self.inodes.reach(parent, name, &found.stat);
        let place = Place {
            dir: path.to_owned(),
            name: name.to_owned(),
        };
        let stat = match &node.session {
            Some(session) => session.attributes(dir, &place, found),
            None => Ok(found.stat),
        };
        match stat {
            Ok(stat) => Ok(Entry {
                stat: Stat {
                    ino: node.ino,
                    ..stat
                },
                node,
            }),
            Err(e) => {
                self.inodes.forget(node.ino, 1);
                Err(e)
            }
        }
    }

    pub fn attributes(&self, ino: u64) -> io::Result<Stat> {
        if ino == ROOT {
            return Ok(Stat {
                ino,
                ..sys::fstat(self.store().root())?
            });
        }
        let node = self.inodes.get(ino)?;
        let place = self.inodes.place(ino);
        if let Some(session) = &node.session
            && let Some(stat) = session.open_attributes(&|| self.inodes.place(ino))?
        {
            return Ok(Stat { ino, ..stat });
        }
        let Some(place) = place else {
            return node.last().ok_or_else(|| errno(libc::ENOENT));
        };
        let dir = self.store().dir(&place.dir)?;
        let found = self.store().find(dir.as_fd(), &place.name)?;
        let stat = match &node.session {
            Some(session) => session.attributes(dir.as_fd(), &place, found)?,
            None => found.stat,
        };
        Ok(Stat { ino, ..stat })
    }

    /// A path beneath the store as a node, held until [`Inodes::forget`] is told once.
    pub fn pin(&self, path: &Path) -> io::Result<Arc<Node>> {
        let mut node = self.inodes.get(ROOT)?;
        self.inodes.hold(ROOT);
        for name in path {
            let next = self.lookup(node.ino, name);
            self.inodes.forget(node.ino, 1);
            node = next?.node;
        }
        Ok(node)
    }

    pub fn readlink(&self, ino: u64) -> io::Result<OsString> {
        let place = self.inodes.place(ino).ok_or_else(|| errno(libc::ENOENT))?;
        sys::readlink_at(self.store().dir(&place.dir)?.as_fd(), &place.name)
    }

    /// Opens a directory for reading.
    pub fn open_dir(&self, ino: u64) -> io::Result<OwnedFd> {
        let path = self.inodes.dir(ino)?;
        sys::open_beneath(
            self.store().root(),
            path.as_os_str(),
            libc::O_RDONLY | libc::O_DIRECTORY,
        )
    }

    /// The visible entries of an open directory: one for a session in two forms, none for sidecars.
    pub fn list(&self, ino: u64, dir: BorrowedFd) -> io::Result<Vec<Listed>> {
        let path = self.inodes.dir(ino)?;
        let entries = sys::read_dir(dir)?;
        let raw: HashSet<OsString> = entries
            .iter()
            .filter(|e| is_session(&e.name))
            .map(|e| e.name.clone())
            .collect();
        let visible = entries.into_iter().filter_map(|e| {
            let name = visible_name(&e.name)?;
            let packed = name != e.name;
            // A type the file system does not tell is found out by the lookup that follows.
            let hidden = (packed
                && (raw.contains(name) || ![libc::DT_REG, libc::DT_UNKNOWN].contains(&e.kind)))
                || is_reserved(&path, name);
            (!hidden).then(|| Listed {
                name: name.to_owned(),
                ino: e.ino,
                kind: e.kind,
            })
        });
        Ok(visible.collect())
    }

    pub fn statfs(&self) -> io::Result<libc::statvfs> {
        sys::statvfs(self.store().root())
    }

    /// The background pass is to look at a file, if it is one that is compressed.
    fn note_written(&self, ino: u64) {
        let place = self.inodes.place(ino);
        if place.is_some_and(|place| self.store().compresses(&place)) {
            self.dirty.note(ino, &self.inodes);
        }
    }

    fn count_open(&self) -> io::Result<()> {
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        if self.max_open.is_some_and(|max| open >= max) {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(errno(libc::EMFILE));
        }
        Ok(())
    }

    /// Opens a file. Returns whether cached pages of it are still good.
    pub fn open(&self, ino: u64, write: bool, truncate: bool) -> io::Result<bool> {
        let node = self.inodes.file(ino)?;
        let session = node.session.as_ref().ok_or_else(|| errno(libc::EINVAL))?;
        self.count_open()?;
        let result = session.open(&|| self.inodes.place(ino), write, truncate);
        if result.is_err() {
            self.open.fetch_sub(1, Ordering::Relaxed);
        } else if truncate {
            self.note_written(ino);
        }
        result
    }

    pub fn close(&self, ino: u64) -> io::Result<()> {
        if let Some(session) = &self.inodes.get(ino)?.session {
            session.close()?;
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }

    pub fn read(&self, ino: u64, offset: u64, size: usize) -> io::Result<Vec<u8>> {
        let node = self.inodes.file(ino)?;
        let session = node.session.as_ref().ok_or_else(|| errno(libc::EINVAL))?;
        let at = || self.inodes.place(ino);
        session
            .read(&at, offset, size)
            .inspect_err(|e| report(at(), e))
    }

    pub fn write(
        &self,
        ino: u64,
        offset: u64,
        data: &[u8],
        append: bool,
        write_back: bool,
    ) -> io::Result<u32> {
        let node = self.inodes.file(ino)?;
        let session = node.session.as_ref().ok_or_else(|| errno(libc::EINVAL))?;
        let at = || self.inodes.place(ino);
        let written = session
            .write(&at, offset, data, append, write_back)
            .inspect_err(|e| report(at(), e))?;
        self.note_written(ino);
        Ok(written)
    }

    pub fn sync(&self, ino: u64, data_only: bool) -> io::Result<()> {
        let node = self.inodes.file(ino)?;
        let session = node.session.as_ref().ok_or_else(|| errno(libc::EINVAL))?;
        session.sync(&|| self.inodes.place(ino), data_only)
    }

    pub fn sync_dir(&self, ino: u64) -> io::Result<()> {
        pool::slow()?;
        store::sync_dir(self.store().dir(&self.inodes.dir(ino)?)?.as_fd())
    }

    pub fn allocate(&self, ino: u64, mode: i32, offset: i64, len: i64) -> io::Result<()> {
        let node = self.inodes.file(ino)?;
        let session = node.session.as_ref().ok_or_else(|| errno(libc::EINVAL))?;
        session.allocate(&|| self.inodes.place(ino), mode, offset, len)?;
        self.note_written(ino);
        Ok(())
    }
}

/// Damage is worth a line in the log: the caller sees only EIO.
fn report(place: Option<Place>, error: &io::Error) {
    if error.kind() == io::ErrorKind::InvalidData {
        log::error!(
            "{}: {error}",
            place.map(|p| p.path()).unwrap_or_default().display()
        );
    }
}
