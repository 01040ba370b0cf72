//! Changing attributes: size, mode, owner, times, extended attributes.
//!
//! Everything but the size is changed through a descriptor of the store file, which needs no right to
//! read it; a session's store file carries the session's own mode, owner, times and attributes.

use super::Tree;
use crate::inodes::ROOT;
use crate::names::is_session;
use crate::store::HINT;
use crate::sys::{self, SetTime, Stat, errno};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// What `setattr` may change.
#[derive(Clone, Copy)]
pub struct Changes {
    pub size: Option<u64>,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub atime: SetTime,
    pub mtime: SetTime,
}

impl Tree {
    pub fn set_attributes(&self, ino: u64, changes: Changes) -> io::Result<Stat> {
        let node = self.inodes.get(ino)?;
        let place = self.inodes.place(ino);
        if let (Some(size), Some(session)) = (changes.size, &node.session) {
            session.truncate(&|| self.inodes.place(ino), size)?;
            self.note_written(ino);
        }
        let times = !matches!(
            (changes.atime, changes.mtime),
            (SetTime::Omit, SetTime::Omit)
        );
        if times || changes.mode.is_some() || changes.uid.is_some() || changes.gid.is_some() {
            self.with_handle(ino, |fd| {
                if changes.uid.is_some() || changes.gid.is_some() {
                    sys::chown(fd, changes.uid, changes.gid)?;
                }
                if let Some(mode) = changes.mode {
                    sys::chmod(fd, mode & 0o7777)?;
                }
                if times {
                    sys::utimens(fd, changes.atime, changes.mtime)?;
                }
                Ok(())
            })?;
            if let Some(place) = place.filter(|p| times && is_session(&p.name)) {
                self.store()
                    .drop_sidecar(self.store().dir(&place.dir)?.as_fd(), &place.name);
            }
        }
        self.attributes(ino)
    }

    /// Runs `work` on a descriptor of the store file (`O_PATH` where it is not open).
    fn with_handle<T>(
        &self,
        ino: u64,
        work: impl FnOnce(BorrowedFd) -> io::Result<T>,
    ) -> io::Result<T> {
        if ino == ROOT {
            return work(self.store().root());
        }
        let node = self.inodes.get(ino)?;
        if let Some(session) = &node.session {
            return session.with_store_file(&|| self.inodes.place(ino), work);
        }
        let place = self.inodes.place(ino).ok_or_else(|| errno(libc::ENOENT))?;
        let dir = self.store().dir(&place.dir)?;
        work(sys::open_at(dir.as_fd(), &place.name, libc::O_PATH, 0)?.as_fd())
    }

    pub fn set_xattr(&self, ino: u64, name: &OsStr, value: &[u8], flags: i32) -> io::Result<()> {
        if name == HINT {
            return Err(errno(libc::EPERM));
        }
        self.with_handle(ino, |fd| sys::setxattr(fd, name, value, flags))
    }

    pub fn get_xattr(&self, ino: u64, name: &OsStr) -> io::Result<Vec<u8>> {
        if name == HINT {
            return Err(errno(libc::ENODATA));
        }
        let mut value = vec![0; 64 * 1024];
        let n = self.with_handle(ino, |fd| sys::getxattr(fd, name, &mut value))?;
        value.truncate(n);
        Ok(value)
    }

    pub fn list_xattr(&self, ino: u64) -> io::Result<Vec<u8>> {
        let names = self.with_handle(ino, sys::listxattr)?;
        let own = |name: &&[u8]| *name != HINT.as_bytes();
        Ok(names
            .split_inclusive(|&b| b == 0)
            .filter(|n| own(&&n[..n.len() - 1]))
            .flatten()
            .copied()
            .collect())
    }

    pub fn remove_xattr(&self, ino: u64, name: &OsStr) -> io::Result<()> {
        if name == HINT {
            return Err(errno(libc::ENODATA));
        }
        self.with_handle(ino, |fd| sys::removexattr(fd, name))
    }

    /// Takes set-user-ID and set-group-ID away after a write, as any file system does.
    pub fn drop_privileges(&self, ino: u64) -> io::Result<()> {
        let stat = self.attributes(ino)?;
        let group = if stat.mode & libc::S_IXGRP != 0 {
            libc::S_ISGID
        } else {
            0
        };
        let taken = stat.mode & (libc::S_ISUID | group);
        if taken == 0 {
            return Ok(());
        }
        self.with_handle(ino, |fd| sys::chmod(fd, stat.mode & !taken & 0o7777))
    }
}
