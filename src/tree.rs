//! The visible tree: names, attributes, directories. Every rule about what a name may be, and what
//! happens to the two forms of a session when names change, is here.
//!
//! Errors are the errno a plain directory gives. Where a step must not be lost to a power cut
//! (one form takes the other's place), the directory is synced between the two steps.

use crate::dirty::Dirty;
use crate::inodes::{Inodes, Node, ROOT};
use crate::pool;
use crate::rewrite::{Content, compare};
use crate::session::{Session, Shared};
use crate::store::{
    self, Form, Found, HINT, Place, Store, is_reserved, is_session, packed_name, sync_dir,
    visible_name,
};
use crate::sys::{self, SetTime, Stat, errno, is};
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
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
    max_open: Option<usize>,
    open: AtomicUsize,
    /// Created files are given to the caller.
    gives_away: bool,
}

impl Tree {
    /// `max_open` bounds the open files (EMFILE beyond it).
    pub fn new(shared: Arc<Shared>, dirty: Dirty, max_open: Option<usize>) -> io::Result<Tree> {
        let root = sys::fstat(shared.store.root())?;
        let inodes = Inodes::new(shared.clone(), &root);
        Ok(Tree {
            shared,
            inodes,
            dirty,
            max_open,
            open: AtomicUsize::new(0),
            gives_away: sys::euid() == 0,
        })
    }

    fn store(&self) -> &Store {
        &self.shared.store
    }

    // ---- looking ------------------------------------------------------------------------------

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

    // ---- making -------------------------------------------------------------------------------

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
        let file: File = sys::open_at(dir.as_fd(), &stored, flags, mode & 0o7777)?.into();
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
        sys::mknod_at(dir.as_fd(), name, mode, rdev)?;
        self.made(parent, name, dir.as_fd(), caller)
    }

    pub fn mkdir(&self, parent: u64, name: &OsStr, mode: u32, caller: Caller) -> io::Result<Entry> {
        let (dir, _) = self.vacant(parent, name)?;
        sys::mkdir_at(dir.as_fd(), name, mode & 0o7777)?;
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
        sys::symlink_at(target, dir.as_fd(), name)?;
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
                sys::link_at(from_dir.as_fd(), &from.name, dir.as_fd(), name)?;
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

    // ---- removing and renaming ----------------------------------------------------------------

    pub fn unlink(&self, parent: u64, name: &OsStr) -> io::Result<()> {
        let place = self.visible(parent, name)?;
        let dir = self.store().dir(&place.dir)?;
        let node = self.inodes.peek(parent, name);
        let session = node.as_ref().and_then(|n| n.session.as_ref());
        let mut held = Session::hold(session.as_slice())?;
        let found = self.store().find(dir.as_fd(), name)?;
        if found.stat.is(libc::S_IFDIR) {
            return Err(errno(libc::EISDIR));
        }
        // An older packed form must not come to light when the raw one goes: it goes first.
        if let Some(packed) = packed_name(name).filter(|_| found.stat.is(libc::S_IFREG)) {
            match sys::unlink_at(dir.as_fd(), &packed) {
                Err(e) if is(&e, libc::ENOENT) && found.form == Form::Raw => {}
                done => done?,
            }
        }
        if found.form == Form::Raw {
            sys::unlink_at(dir.as_fd(), name)?;
        }
        self.store().drop_sidecar(dir.as_fd(), name);
        if self.inodes.removed(parent, name, &found.stat)
            && let Some(session) = session
        {
            held.unlinked(session);
        }
        Ok(())
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
            let same_file = target
                .is_some_and(|t| (t.stat.dev, t.stat.ino) == (source.stat.dev, source.stat.ino));
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
                if same_file {
                    return Ok(());
                }
                self.move_stored(
                    &from,
                    &to,
                    (dirs.0.as_fd(), dirs.1.as_fd()),
                    &source,
                    target.as_ref(),
                    flags,
                )?;
                if let Some(target) = &target
                    && self.inodes.removed(new_parent, new_name, &target.stat)
                    && let Some(session) = nodes.1.as_ref().and_then(|n| n.session.as_ref())
                {
                    held.unlinked(session);
                }
                self.inodes.renamed(parent, name, new_parent, new_name);
            }
            for session in sessions {
                held.renamed(session);
            }
            if source.form == Form::Raw
                && source.stat.is(libc::S_IFREG)
                && self.store().compresses(&to)
            {
                self.note_new_session(&nodes.0);
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
            // From the rename on the raw form is the visible one; the old one goes when that is durable.
            sync_dir(dirs.1)?;
            sys::unlink_at(dirs.1, &self.store().stored_name(&to.name, Form::Packed)?)?;
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
        let index = crate::frames::index(&old, sys::fstat(&old)?.size);
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
            self.store().recover_file(place, dir, &packed)
        }
    }

    fn note_new_session(&self, node: &Option<Arc<Node>>) {
        if let Some(node) = node {
            self.dirty.note(node.ino, &self.inodes);
        }
    }

    // ---- changing -----------------------------------------------------------------------------

    pub fn set_attributes(&self, ino: u64, changes: Changes) -> io::Result<Stat> {
        let node = self.inodes.get(ino)?;
        let place = self.inodes.place(ino);
        if let (Some(size), Some(session)) = (changes.size, &node.session) {
            session.truncate(&|| self.inodes.place(ino), size)?;
            self.dirty.note(ino, &self.inodes);
        }
        let times = !matches!(
            (changes.atime, changes.mtime),
            (SetTime::Omit, SetTime::Omit)
        );
        if times || changes.mode.is_some() || changes.uid.is_some() || changes.gid.is_some() {
            self.with_handle(&node, place.as_ref(), |fd| {
                let before = sys::fstat(fd)?;
                if changes.uid.is_some() || changes.gid.is_some() {
                    sys::chown(fd, changes.uid, changes.gid)?;
                }
                if let Some(mode) = changes.mode {
                    sys::chmod(fd, mode & 0o7777)?;
                }
                if times {
                    sys::utimens(fd, changes.atime, changes.mtime)?;
                }
                if let Some(session) = &node.session {
                    session.touched(&before, &sys::fstat(fd)?)?;
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
        node: &Node,
        place: Option<&Place>,
        work: impl FnOnce(BorrowedFd) -> io::Result<T>,
    ) -> io::Result<T> {
        if node.ino == ROOT {
            return work(self.store().root());
        }
        if let Some(session) = &node.session
            && let Some(body) = session.open_body(&|| self.inodes.place(node.ino))?
        {
            return work(body.file.as_fd());
        }
        let place = place.ok_or_else(|| errno(libc::ENOENT))?;
        let dir = self.store().dir(&place.dir)?;
        let found = self.store().find(dir.as_fd(), &place.name)?;
        let stored = self.store().stored_name(&place.name, found.form)?;
        work(sys::open_at(dir.as_fd(), &stored, libc::O_PATH, 0)?.as_fd())
    }

    pub fn set_xattr(&self, ino: u64, name: &OsStr, value: &[u8], flags: i32) -> io::Result<()> {
        if name == HINT {
            return Err(errno(libc::EPERM));
        }
        self.with_handle(
            &*self.inodes.get(ino)?,
            self.inodes.place(ino).as_ref(),
            |fd| sys::setxattr(fd, name, value, flags),
        )
    }

    pub fn get_xattr(&self, ino: u64, name: &OsStr) -> io::Result<Vec<u8>> {
        if name == HINT {
            return Err(errno(libc::ENODATA));
        }
        let mut value = vec![0; 64 * 1024];
        let n = self.with_handle(
            &*self.inodes.get(ino)?,
            self.inodes.place(ino).as_ref(),
            |fd| sys::getxattr(fd, name, &mut value),
        )?;
        value.truncate(n);
        Ok(value)
    }

    pub fn list_xattr(&self, ino: u64) -> io::Result<Vec<u8>> {
        let names = self.with_handle(
            &*self.inodes.get(ino)?,
            self.inodes.place(ino).as_ref(),
            sys::listxattr,
        )?;
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
        self.with_handle(
            &*self.inodes.get(ino)?,
            self.inodes.place(ino).as_ref(),
            |fd| sys::removexattr(fd, name),
        )
    }

    // ---- open files ---------------------------------------------------------------------------

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
            self.dirty.note(ino, &self.inodes);
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
        if at().is_some_and(|place| self.store().compresses(&place)) {
            self.dirty.note(ino, &self.inodes);
        }
        Ok(written)
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
        self.with_handle(
            &*self.inodes.get(ino)?,
            self.inodes.place(ino).as_ref(),
            |fd| sys::chmod(fd, stat.mode & !taken & 0o7777),
        )
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
        self.dirty.note(ino, &self.inodes);
        Ok(())
    }
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

/// Damage is worth a line in the log: the caller sees only EIO.
fn report(place: Option<Place>, error: &io::Error) {
    if error.kind() == io::ErrorKind::InvalidData {
        log::error!(
            "{}: {error}",
            place.map(|p| p.path()).unwrap_or_default().display()
        );
    }
}
