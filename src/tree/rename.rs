//! Removing and renaming, and what that means for the two forms of a session.
//!
//! The sessions concerned are held while names change, so nobody writes under an old name. Where a
//! raw file takes a packed one's name, the rename makes it the visible one at once, and the packed
//! one goes when that is durable.

use super::Tree;
use crate::frames;
use crate::inodes::Node;
use crate::names::{Form, Place, is_reserved, is_session, packed_name};
use crate::pool;
use crate::rewrite::{Content, compare};
use crate::session::Session;
use crate::store::{Found, sync_dir};
use crate::sys::{self, Stat, errno, is};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

impl Tree {
    pub fn unlink(&self, parent: u64, name: &OsStr) -> io::Result<()> {
        let place = self.visible(parent, name)?;
        let dir = self.store().dir(&place.dir)?;
        let node = self.inodes.peek(parent, name);
        let session = node.as_ref().and_then(|n| n.session.as_ref());
        let mut held = Session::hold(session.as_slice())?;
        let (found, _lock) = self.find_locked(dir.as_fd(), name)?;
        if found.stat.is(libc::S_IFDIR) {
            return Err(errno(libc::EISDIR));
        }
        // An older packed form must not come to light when the raw one goes.
        self.settle(&place, dir.as_fd(), &found)?;
        let stored = self.store().stored_name(name, found.form)?;
        if let Some(session) = session {
            held.keep(session, dir.as_fd(), &stored, found.form);
        }
        let kept = self.trash.as_ref().map_or(Ok(false), |trash| {
            trash.keep(self.store(), &place, dir.as_fd(), &stored, &found.stat)
        });
        let removed = kept.and_then(|kept| match kept {
            true => Ok(()),
            false => sys::unlink_at(dir.as_fd(), &stored),
        });
        if removed.is_ok() {
            self.store().drop_sidecar(dir.as_fd(), name);
        }
        let last = removed.is_ok() && self.inodes.removed(parent, name, &found.stat);
        if let Some(session) = session {
            held.removed(session, last);
        }
        removed?;
        self.forget_unlinked(node.as_deref());
        Ok(())
    }

    /// The background pass has nothing to do with what has no name.
    fn forget_unlinked(&self, node: Option<&Node>) {
        if let Some(node) = node.filter(|node| self.inodes.place(node.ino).is_none()) {
            self.dirty.forget(node.ino, &self.inodes);
        }
    }

    /// What a name stands for; a session is locked against other hosts, which may be replacing it.
    fn find_locked(&self, dir: BorrowedFd, name: &OsStr) -> io::Result<(Found, Option<File>)> {
        loop {
            let found = self.store().find(dir, name)?;
            let lock = self.lock_session(dir, name, &found)?;
            let now = self.store().find(dir, name)?;
            if same_file(&now, &found) {
                return Ok((now, lock));
            }
        }
    }

    /// The lock goes with the descriptor. A file that cannot be opened is not locked: whoever may not
    /// open it does not replace it either.
    fn lock_session(
        &self,
        dir: BorrowedFd,
        name: &OsStr,
        found: &Found,
    ) -> io::Result<Option<File>> {
        if !is_session(name) || !found.stat.is(libc::S_IFREG) {
            return Ok(None);
        }
        let stored = self.store().stored_name(name, found.form)?;
        let Ok(file) = self.store().open_file(dir, &stored, libc::O_RDWR) else {
            return Ok(None);
        };
        self.store().lock_file(&file)?;
        Ok(Some(file))
    }

    /// The place of a name that is visible; ENOENT for the cellar's own.
    fn visible(&self, parent: u64, name: &OsStr) -> io::Result<Place> {
        let place = Place {
            dir: self.inodes.dir(parent)?,
            name: name.to_owned(),
        };
        if is_reserved(&place.dir, name) {
            Err(errno(libc::ENOENT))
        } else {
            Ok(place)
        }
    }

    pub fn rmdir(&self, parent: u64, name: &OsStr) -> io::Result<()> {
        let place = self.visible(parent, name)?;
        let dir = self.store().dir(&place.dir)?;
        let stat = match self.store().find(dir.as_fd(), name)? {
            found if found.stat.is(libc::S_IFDIR) => found.stat,
            _ => return Err(errno(libc::ENOTDIR)),
        };
        match sys::rmdir_at(dir.as_fd(), name) {
            Err(e) if is(&e, libc::ENOTEMPTY) || is(&e, libc::EEXIST) => {
                self.clear_hidden(&place, dir.as_fd())?;
                sys::rmdir_at(dir.as_fd(), name)?;
            }
            done => done?,
        }
        self.inodes
            .removed(parent, name, &Stat { nlink: 1, ..stat });
        Ok(())
    }

    /// Empties a directory that looks empty; ENOTEMPTY if it does not.
    fn clear_hidden(&self, place: &Place, parent: BorrowedFd) -> io::Result<()> {
        let dir = sys::open_at(parent, &place.name, libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
        let entries = sys::read_dir(dir.as_fd())?;
        let is_sidecar = |name: &OsStr| name.as_bytes().ends_with(b".jsonl.meta");
        if entries.iter().any(|e| !is_sidecar(&e.name)) {
            return Err(errno(libc::ENOTEMPTY));
        }
        for entry in entries {
            self.store().recover_file(
                &Place {
                    dir: place.path(),
                    name: entry.name.clone(),
                },
                dir.as_fd(),
                &entry.name,
            )?;
        }
        Ok(())
    }

    pub fn rename(
        &self,
        parent: u64,
        name: &OsStr,
        new_parent: u64,
        new_name: &OsStr,
        flags: u32,
    ) -> io::Result<()> {
        if flags & !(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE) != 0 || flags.count_ones() > 1
        {
            return Err(errno(libc::EINVAL));
        }
        let from = self.visible(parent, name)?;
        let to = Place {
            dir: self.inodes.dir(new_parent)?,
            name: new_name.to_owned(),
        };
        if is_reserved(&to.dir, new_name) {
            return Err(errno(libc::EPERM));
        }
        let dirs = (self.store().dir(&from.dir)?, self.store().dir(&to.dir)?);
        loop {
            let nodes = (
                self.inodes.peek(parent, name),
                self.inodes.peek(new_parent, new_name),
            );
            let sessions: Vec<&Session> = [&nodes.0, &nodes.1]
                .into_iter()
                .flatten()
                .filter_map(|n| n.session.as_ref())
                .collect();
            let mut held = Session::hold(&sessions)?;
            let source = self.store().find(dirs.0.as_fd(), name)?;
            let target = match self.store().find(dirs.1.as_fd(), new_name) {
                Err(e) if is(&e, libc::ENOENT) => None,
                target => Some(target?),
            };
            if let Some(make_raw) = must_be_raw(&source, target.as_ref(), name, new_name, flags)? {
                drop(held);
                let (node, place) = if make_raw == Side::Source {
                    (&nodes.0, &from)
                } else {
                    (&nodes.1, &to)
                };
                match node.as_ref().and_then(|n| n.session.as_ref()) {
                    Some(session) => session.to_raw(&|| Some(place.clone()))?,
                    None => Session::new(self.shared.clone()).to_raw(&|| Some(place.clone()))?,
                }
                continue;
            }
            // Two hosts lock in one order, and look again once they have both.
            let mut sides = vec![(dirs.0.as_fd(), name, source)];
            sides.extend(target.map(|t| (dirs.1.as_fd(), new_name, t)));
            sides.sort_by_key(|(_, _, found)| (found.stat.dev, found.stat.ino));
            sides.dedup_by(|a, b| same_file(&a.2, &b.2));
            let locks = sides
                .iter()
                .map(|(dir, name, found)| self.lock_session(*dir, name, found));
            let _locks = locks.collect::<io::Result<Vec<_>>>()?;
            let unchanged = |(dir, name, found): &(BorrowedFd, &OsStr, Found)| {
                let now = self.store().find(*dir, name);
                now.is_ok_and(|now| same_file(&now, found))
            };
            if !sides.iter().all(unchanged) {
                continue;
            }
            if flags == libc::RENAME_EXCHANGE {
                self.settle(&from, dirs.0.as_fd(), &source)?;
                self.settle(
                    &to,
                    dirs.1.as_fd(),
                    target.as_ref().ok_or_else(|| errno(libc::ENOENT))?,
                )?;
                let stored = (
                    self.store().stored_name(name, source.form)?,
                    self.store().stored_name(new_name, source.form)?,
                );
                sys::rename_at(dirs.0.as_fd(), &stored.0, dirs.1.as_fd(), &stored.1, flags)?;
                self.inodes
                    .exchanged((parent, name), (new_parent, new_name));
            } else {
                if target.is_some_and(|t| same_file(&t, &source)) {
                    return Ok(());
                }
                let replaced = nodes.1.as_ref().and_then(|n| n.session.as_ref());
                if let (Some(target), Some(session)) = (&target, replaced) {
                    let stored = self.store().stored_name(new_name, target.form)?;
                    held.keep(session, dirs.1.as_fd(), &stored, target.form);
                }
                let moved = self.move_stored(
                    &from,
                    &to,
                    (dirs.0.as_fd(), dirs.1.as_fd()),
                    &source,
                    target.as_ref(),
                    flags,
                );
                let last = moved.is_ok()
                    && target.is_some_and(|t| self.inodes.removed(new_parent, new_name, &t.stat));
                if let Some(session) = replaced {
                    held.removed(session, last);
                }
                moved?;
                self.forget_unlinked(nodes.1.as_deref());
                self.inodes
                    .renamed((parent, name), (new_parent, new_name), &source.stat);
            }
            for session in sessions {
                held.renamed(session);
            }
            if let Some(node) = &nodes.0 {
                self.note_written(node.ino);
            }
            return Ok(());
        }
    }

    fn move_stored(
        &self,
        from: &Place,
        to: &Place,
        dirs: (BorrowedFd, BorrowedFd),
        source: &Found,
        target: Option<&Found>,
        flags: u32,
    ) -> io::Result<()> {
        let directory = |found: &Found| found.stat.is(libc::S_IFDIR);
        match target {
            Some(_) if flags & libc::RENAME_NOREPLACE != 0 => return Err(errno(libc::EEXIST)),
            Some(t) if directory(source) && !directory(t) => return Err(errno(libc::ENOTDIR)),
            Some(t) if !directory(source) && directory(t) => return Err(errno(libc::EISDIR)),
            _ => {}
        }
        let replaces_packed =
            source.form == Form::Raw && target.is_some_and(|t| t.form == Form::Packed);
        if replaces_packed {
            pool::slow()?;
        }
        self.settle(from, dirs.0, source)?;
        if let Some(target) = target {
            self.settle(to, dirs.1, target)?;
        }
        let stored = (
            self.store().stored_name(&from.name, source.form)?,
            self.store().stored_name(&to.name, source.form)?,
        );
        match sys::rename_at(dirs.0, &stored.0, dirs.1, &stored.1, flags) {
            Err(e) if directory(source) && (is(&e, libc::ENOTEMPTY) || is(&e, libc::EEXIST)) => {
                self.clear_hidden(to, dirs.1)?;
                sys::rename_at(dirs.0, &stored.0, dirs.1, &stored.1, flags)?;
            }
            done => done?,
        }
        if replaces_packed {
            // From the rename on the raw form is the visible one; the old one goes when that is
            // durable. If it cannot go now, the background pass clears it away.
            let packed = self.store().stored_name(&to.name, Form::Packed)?;
            let removed = sync_dir(dirs.1).and_then(|()| sys::unlink_at(dirs.1, &packed));
            if let Err(e) = removed {
                log::warn!(
                    "{}: its replaced form stays for now: {e}",
                    to.path().display()
                );
            }
        }
        self.store().drop_sidecar(dirs.0, &from.name);
        self.store().drop_sidecar(dirs.1, &to.name);
        Ok(())
    }

    /// Clears away an older packed form beside a raw session: equal bytes go, others are kept in
    /// `recovered`.
    pub fn settle(&self, place: &Place, dir: BorrowedFd, found: &Found) -> io::Result<()> {
        let Some(packed) = packed_name(&place.name).filter(|_| found.form == Form::Raw) else {
            return Ok(());
        };
        match sys::stat_at(dir, &packed) {
            Ok(stat) if stat.is(libc::S_IFREG) => {}
            _ => return Ok(()),
        }
        pool::slow()?;
        let raw = self.store().open_file(dir, &place.name, libc::O_RDONLY)?;
        let old = self.store().open_file(dir, &packed, libc::O_RDONLY)?;
        let index = frames::index(&old, sys::fstat(&old)?.size);
        let size = sys::fstat(&raw)?.size;
        let equal = index.is_ok_and(|index| {
            index.torn == 0
                && compare(
                    Content::Packed {
                        file: &old,
                        index: &index,
                    },
                    Content::Raw { file: &raw, size },
                )
                .unwrap_or(false)
        });
        if equal {
            raw.sync_all()?;
            sys::unlink_at(dir, &packed)
        } else {
            self.store().recover_file(place, dir, &packed).map(drop)
        }
    }
}

fn same_file(a: &Found, b: &Found) -> bool {
    (a.stat.dev, a.stat.ino) == (b.stat.dev, b.stat.ino)
}

#[derive(PartialEq, Eq)]
enum Side {
    Source,
    Target,
}

/// Which side of a rename has to be made raw before names can move, if any.
fn must_be_raw(
    source: &Found,
    target: Option<&Found>,
    name: &OsStr,
    new_name: &OsStr,
    flags: u32,
) -> io::Result<Option<Side>> {
    if flags == libc::RENAME_EXCHANGE {
        let target = target.ok_or_else(|| errno(libc::ENOENT))?;
        let session =
            |found: &Found, name: &OsStr| found.stat.is(libc::S_IFREG) && is_session(name);
        if session(source, name) != session(target, new_name) {
            return Err(errno(libc::EINVAL));
        }
        return Ok(match (source.form, target.form) {
            (Form::Packed, Form::Raw) => Some(Side::Source),
            (Form::Raw, Form::Packed) => Some(Side::Target),
            _ => None,
        });
    }
    let stays_packed =
        packed_name(new_name).is_some() && target.is_none_or(|t| t.form == Form::Packed);
    Ok((source.form == Form::Packed && !stays_packed).then_some(Side::Source))
}
