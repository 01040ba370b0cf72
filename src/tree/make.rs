//! Making objects: files, directories, links of both kinds, device nodes.
//!
//! A name is vacant when nothing visible has it, in either form. A daemon run by root gives what it
//! makes to the caller.

use super::{Caller, Entry, Tree};
use crate::names::{Form, Place, is_reserved};
use crate::session::Session;
use crate::store::Found;
use crate::sys::{self, Stat, errno, is};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

impl Tree {
    /// The directory and full place of a new name; EEXIST if something visible has it.
    fn vacant(&self, parent: u64, name: &OsStr) -> io::Result<(OwnedFd, Place)> {
        let place = Place {
            dir: self.inodes.dir(parent)?,
            name: name.to_owned(),
        };
        if is_reserved(&place.dir, name) {
            return Err(errno(libc::EPERM));
        }
        let dir = self.store().dir(&place.dir)?;
        match self.store().find(dir.as_fd(), name) {
            Ok(_) => Err(errno(libc::EEXIST)),
            Err(e) if is(&e, libc::ENOENT) => Ok((dir, place)),
            Err(e) => Err(e),
        }
    }

    fn give_away(&self, dir: BorrowedFd, made: impl AsFd, caller: Caller) -> io::Result<()> {
        if !self.gives_away || caller.uid == 0 && caller.gid == 0 {
            return Ok(());
        }
        // In a set-group-ID directory the file system has already chosen the group.
        let inherits = sys::fstat(dir)?.mode & libc::S_ISGID != 0;
        sys::chown(made, Some(caller.uid), (!inherits).then_some(caller.gid))
    }

    /// Creates a regular file, open.
    pub fn create(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        caller: Caller,
    ) -> io::Result<Entry> {
        self.count_open()?;
        let result = self.create_counted(parent, name, mode, caller);
        if result.is_err() {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
        result
    }

    fn create_counted(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        caller: Caller,
    ) -> io::Result<Entry> {
        let (dir, place) = self.vacant(parent, name)?;
        let form = if self.store().compresses(&place) {
            Form::Packed
        } else {
            Form::Raw
        };
        let stored = self.store().stored_name(name, form)?;
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
        let create = || sys::open_at(dir.as_fd(), &stored, flags, mode & 0o7777);
        let file: File = self.store().seen(create)?.into();
        self.give_away(dir.as_fd(), &file, caller)?;
        let node = self.inodes.reach(parent, name, &sys::fstat(&file)?);
        let Some(session) = &node.session else {
            return Err(errno(libc::EIO));
        };
        let stat = session
            .created(file, form)
            .inspect_err(|_| self.inodes.forget(node.ino, 1))?;
        Ok(Entry {
            stat: Stat {
                ino: node.ino,
                ..stat
            },
            node,
        })
    }

    pub fn mknod(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        rdev: u64,
        caller: Caller,
    ) -> io::Result<Entry> {
        if matches!(mode & libc::S_IFMT, 0 | libc::S_IFREG) {
            let entry = self.create(parent, name, mode, caller)?;
            self.close(entry.node.ino)?;
            return Ok(entry);
        }
        let (dir, _) = self.vacant(parent, name)?;
        self.store()
            .seen(|| sys::mknod_at(dir.as_fd(), name, mode, rdev))?;
        self.made(parent, name, dir.as_fd(), caller)
    }

    pub fn mkdir(&self, parent: u64, name: &OsStr, mode: u32, caller: Caller) -> io::Result<Entry> {
        let (dir, _) = self.vacant(parent, name)?;
        self.store()
            .seen(|| sys::mkdir_at(dir.as_fd(), name, mode & 0o7777))?;
        self.made(parent, name, dir.as_fd(), caller)
    }

    pub fn symlink(
        &self,
        parent: u64,
        name: &OsStr,
        target: &OsStr,
        caller: Caller,
    ) -> io::Result<Entry> {
        let (dir, _) = self.vacant(parent, name)?;
        self.store()
            .seen(|| sys::symlink_at(target, dir.as_fd(), name))?;
        self.made(parent, name, dir.as_fd(), caller)
    }

    fn made(
        &self,
        parent: u64,
        name: &OsStr,
        dir: BorrowedFd,
        caller: Caller,
    ) -> io::Result<Entry> {
        self.give_away(dir, sys::open_at(dir, name, libc::O_PATH, 0)?, caller)?;
        self.lookup(parent, name)
    }

    pub fn link(&self, ino: u64, parent: u64, name: &OsStr) -> io::Result<Entry> {
        let node = self.inodes.get(ino)?;
        let from = self.inodes.place(ino).ok_or_else(|| errno(libc::ENOENT))?;
        if node.kind == libc::S_IFDIR {
            return Err(errno(libc::EPERM));
        }
        let (dir, place) = self.vacant(parent, name)?;
        let from_dir = self.store().dir(&from.dir)?;
        loop {
            let _held = node
                .session
                .as_ref()
                .map(|s| Session::hold(&[s]))
                .transpose()?;
            if self.store().find(from_dir.as_fd(), &from.name)?.form == Form::Raw {
                let link = || sys::link_at(from_dir.as_fd(), &from.name, dir.as_fd(), name);
                self.store().seen(link)?;
                break;
            }
            drop(_held);
            if let Some(session) = &node.session {
                session.to_raw(&|| self.inodes.place(ino))?;
            }
        }
        let stat = sys::stat_at(dir.as_fd(), name)?;
        self.inodes.linked(ino, parent, name, &stat);
        let found = Found {
            form: Form::Raw,
            stat,
        };
        let stat = node
            .session
            .as_ref()
            .map_or(Ok(stat), |s| s.attributes(dir.as_fd(), &place, found))?;
        Ok(Entry {
            stat: Stat { ino, ..stat },
            node,
        })
    }
}
