//! The store directory: what is in it, temporary files, replacement, locks.
//!
//! Every path is resolved beneath the store's own descriptor, component by component without
//! following links, so neither a symbolic link in the store nor a race with somebody who changes it
//! leads outside.
//!
//! `.cellar/` is the cellar's own: `lock` (shared by daemons, exclusive for repair), `tmp/` for files
//! on their way in (on the store's file system, so that `rename` takes them), `recovered/` for bytes
//! that must not be lost but have no place, `trash/`. It is never visible.

use crate::frames::{self, Ends};
use crate::names::{Form, NAME_MAX, OWN, Place, packed_name, sidecar_name};
use crate::pool;
use crate::sys::{self, SetTime, Stat, Time, errno, is};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

/// The attribute of a store file that holds a [`Hint`]; never listed in the mount.
pub const HINT: &str = "user.cellar";

/// What a visible name stands for in the store.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    pub form: Form,
    pub stat: Stat,
}

/// An open store.
pub struct Store {
    path: PathBuf,
    root: OwnedFd,
    tmp: OwnedFd,
    recovered: OwnedFd,
    lock: File,
    /// Other machines may change it: a replaced file is seen only by looking at its name again.
    network: bool,
    /// Sessions inside bundles are compressed too.
    bundles: bool,
    locks_work: AtomicBool,
    serial: AtomicU64,
    /// Held alone while names change in a way that must not show.
    names: RwLock<()>,
}

impl Store {
    /// Opens a store, creating what is missing of it (0700), and takes its lock: shared, or
    /// exclusively for work that no daemon may disturb (EAGAIN while one runs).
    pub fn open(path: &Path, exclusive: bool, bundles: bool) -> io::Result<Store> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(path)?;
        let path = path.canonicalize()?;
        let root: OwnedFd = File::open(&path)?.into();
        let own = OsStr::new(OWN);
        for name in ["", "tmp", "recovered", "trash"] {
            match sys::mkdir_at(root.as_fd(), Path::new(own).join(name).as_os_str(), 0o700) {
                Err(e) if !is(&e, libc::EEXIST) => return Err(e),
                _ => {}
            }
        }
        let sub = |name: &str| {
            let path = Path::new(own).join(name);
            sys::open_beneath(
                root.as_fd(),
                path.as_os_str(),
                libc::O_RDONLY | libc::O_DIRECTORY,
            )
        };
        let (own, tmp, recovered) = (sub("")?, sub("tmp")?, sub("recovered")?);
        let lock: File = sys::open_at(
            own.as_fd(),
            OsStr::new("lock"),
            libc::O_RDWR | libc::O_CREAT,
            0o600,
        )?
        .into();
        let network = is_network(sys::fs_magic(root.as_fd())?);
        let (locks_work, serial) = (AtomicBool::new(true), AtomicU64::new(0));
        let store = Store {
            path,
            root,
            tmp,
            recovered,
            lock,
            network,
            bundles,
            locks_work,
            serial,
            names: RwLock::default(),
        };
        match sys::ofd_lock(
            &store.lock,
            if exclusive {
                libc::F_WRLCK
            } else {
                libc::F_RDLCK
            },
            false,
        ) {
            Err(e) if is(&e, libc::ENOLCK) || is(&e, libc::EOPNOTSUPP) || is(&e, libc::ENOSYS) => {
                store.no_locks()
            }
            done => done?,
        }
        Ok(store)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Whether other machines may change the store.
    pub fn is_network(&self) -> bool {
        self.network
    }

    /// A directory of the store, for `…at` calls.
    pub fn dir(&self, dir: &Path) -> io::Result<OwnedFd> {
        sys::open_beneath(
            self.root(),
            dir.as_os_str(),
            libc::O_PATH | libc::O_DIRECTORY,
        )
    }

    /// Whether a session of this name is compressed when it is written.
    pub fn compresses(&self, place: &Place) -> bool {
        let depth = place.dir.components().count();
        packed_name(&place.name).is_some() && (depth == 1 || (self.bundles && depth > 1))
    }

    /// What a visible name stands for; ENOENT for names that are not visible.
    pub fn find(&self, dir: BorrowedFd, name: &OsStr) -> io::Result<Found> {
        let raw = match sys::stat_at(dir, name) {
            Err(e) if is(&e, libc::ENOENT) => {
                let packed = packed_name(name).ok_or(e)?;
                match sys::stat_at(dir, &packed) {
                    // Only a file can be a session's compressed form; anything else stays unseen.
                    Ok(stat) if stat.is(libc::S_IFREG) => {
                        return Ok(Found {
                            form: Form::Packed,
                            stat,
                        });
                    }
                    Err(e) if !is(&e, libc::ENOENT) => return Err(e),
                    // Between the two looks it may have become raw.
                    _ => sys::stat_at(dir, name)?,
                }
            }
            found => found?,
        };
        Ok(Found {
            form: Form::Raw,
            stat: raw,
        })
    }

    /// Opens what a visible name stands for; ENOENT only if it stands for nothing. Another host may
    /// change its form between the look and the open.
    pub fn open_found(
        &self,
        dir: BorrowedFd,
        name: &OsStr,
        flags: i32,
    ) -> io::Result<(Found, File)> {
        loop {
            let found = self.find(dir, name)?;
            if !found.stat.is(libc::S_IFREG) {
                return Err(errno(libc::ESTALE));
            }
            let stored = self.stored_name(name, found.form)?;
            match self.open_file(dir, &stored, flags) {
                Err(e) if is(&e, libc::ENOENT) => {}
                opened => return Ok((found, opened?)),
            }
        }
    }

    /// The store name of a visible name in this form.
    pub fn stored_name(&self, name: &OsStr, form: Form) -> io::Result<OsString> {
        match form {
            Form::Raw => Ok(name.to_owned()),
            Form::Packed => packed_name(name).ok_or_else(|| errno(libc::ENAMETOOLONG)),
        }
    }

    /// Opens a store file that the caller may use whatever its mode says: the kernel has checked the
    /// mode on the mount, and a mode without `u+rw` must not keep the daemon from its own file.
    pub fn open_file(&self, dir: BorrowedFd, name: &OsStr, flags: i32) -> io::Result<File> {
        let flags = flags | libc::O_NONBLOCK | libc::O_NOCTTY;
        match sys::open_at(dir, name, flags, 0) {
            Err(e) if is(&e, libc::EACCES) => {
                let handle = sys::open_at(dir, name, libc::O_PATH, 0)?;
                let mode = sys::fstat(&handle)?.mode & 0o7777;
                sys::chmod(handle.as_fd(), mode | 0o600).map_err(|_| e)?;
                let opened = sys::open_at(dir, name, flags, 0);
                sys::chmod(handle.as_fd(), mode)?;
                opened.map(File::from)
            }
            opened => opened.map(File::from),
        }
    }

    /// A name that no other daemon on this store uses.
    pub fn unique(&self, stem: &str) -> OsString {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        format!("{stem}-{:x}-{now:x}-{serial:x}", std::process::id()).into()
    }

    /// A new empty file (0600) in `.cellar/tmp`, locked as long as it is open and removed when
    /// dropped unless it was put in its place.
    pub fn temporary(&self) -> io::Result<Temporary<'_>> {
        let name = self.unique("new");
        let file: File = sys::open_at(
            self.tmp.as_fd(),
            &name,
            libc::O_RDWR | libc::O_CREAT | libc::O_EXCL,
            0o600,
        )?
        .into();
        // The lock tells other daemons' sweep that somebody is at work on it.
        let _ = sys::ofd_lock(&file, libc::F_WRLCK, false);
        Ok(Temporary {
            store: self,
            name: Some(name),
            file,
        })
    }

    /// Removes what killed daemons left in `.cellar/tmp`: never anything but unfinished copies.
    pub fn sweep(&self) -> io::Result<()> {
        for entry in sys::read_dir(self.tmp.as_fd())? {
            let special = sys::stat_at(self.tmp.as_fd(), &entry.name)
                .is_ok_and(|stat| !stat.is(libc::S_IFREG) && !stat.is(libc::S_IFDIR));
            if special {
                // Cannot be locked; who is at work on it makes it again.
                sys::unlink_at(self.tmp.as_fd(), &entry.name)?;
                continue;
            }
            let Ok(file) = sys::open_at(
                self.tmp.as_fd(),
                &entry.name,
                libc::O_RDWR | libc::O_NONBLOCK,
                0,
            ) else {
                continue;
            };
            if sys::ofd_lock(&file, libc::F_WRLCK, false).is_ok() {
                sys::unlink_at(self.tmp.as_fd(), &entry.name)?;
            }
        }
        Ok(())
    }

    /// Puts what `make` makes in a place, whole: it is made in `.cellar/tmp`. EEXIST if something is
    /// there, EAGAIN if another daemon's sweep has taken it for a leftover.
    pub fn place_made(
        &self,
        dir: BorrowedFd,
        name: &OsStr,
        make: impl FnOnce(BorrowedFd, &OsStr) -> io::Result<()>,
    ) -> io::Result<()> {
        let (tmp, new) = (self.tmp.as_fd(), self.unique("new"));
        let placed = make(tmp, &new)
            .and_then(|()| sys::rename_at(tmp, &new, dir, name, libc::RENAME_NOREPLACE));
        match placed {
            Err(e) if is(&e, libc::ENOENT) => Err(errno(libc::EAGAIN)),
            Err(e) => {
                let _ = sys::unlink_at(tmp, &new);
                Err(e)
            }
            Ok(()) => Ok(()),
        }
    }

    /// Keeps bytes that have no place any more in `.cellar/recovered`.
    pub fn recover_bytes(&self, place: &Place, bytes: &mut dyn io::Read) -> io::Result<OsString> {
        self.recover(place, |dir, name| {
            let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
            let mut file: File = sys::open_at(dir, name, flags, 0o600)?.into();
            io::copy(bytes, &mut file)?;
            file.flush()?;
            file.sync_all()
        })
    }

    /// Keeps what `make` makes in `.cellar/recovered`, durably; half of it is not kept.
    pub fn recover(
        &self,
        place: &Place,
        make: impl FnOnce(BorrowedFd, &OsStr) -> io::Result<()>,
    ) -> io::Result<OsString> {
        let name = self.recovered_name(place);
        if let Err(e) = make(self.recovered.as_fd(), &name) {
            let _ = sys::unlink_at(self.recovered.as_fd(), &name);
            return Err(e);
        }
        sync_dir(self.recovered.as_fd())?;
        log::warn!(
            "{}: kept what had no place any more as {OWN}/recovered/{}",
            place.path().display(),
            name.display()
        );
        Ok(name)
    }

    /// Gives a store file, which is about to be replaced, a second name in `.cellar/recovered`,
    /// durably; where the file system has no links, a copy.
    pub fn recover_link(
        &self,
        place: &Place,
        dir: BorrowedFd,
        stored: &OsStr,
    ) -> io::Result<OsString> {
        let name = self.recovered_name(place);
        match sys::link_at(dir, stored, self.recovered.as_fd(), &name) {
            Err(e) if is(&e, libc::EPERM) || is(&e, libc::EOPNOTSUPP) || is(&e, libc::EMLINK) => {
                let mut file = self.open_file(dir, stored, libc::O_RDONLY)?;
                self.recover_bytes(place, &mut file)
            }
            Err(e) => Err(e),
            Ok(()) => {
                sync_dir(self.recovered.as_fd())?;
                Ok(name)
            }
        }
    }

    /// Moves a store file to `.cellar/recovered`.
    pub fn recover_file(
        &self,
        place: &Place,
        dir: BorrowedFd,
        stored: &OsStr,
    ) -> io::Result<OsString> {
        let name = self.recovered_name(place);
        let to = self.recovered.as_fd();
        match sys::rename_at(dir, stored, to, &name, libc::RENAME_NOREPLACE) {
            // Not every file system has the flag; nobody else uses the name.
            Err(e) if is(&e, libc::EINVAL) => sys::rename_at(dir, stored, to, &name, 0)?,
            moved => moved?,
        }
        sync_dir(self.recovered.as_fd())?;
        log::warn!(
            "{}: moved {} to {OWN}/recovered/{}",
            place.path().display(),
            stored.display(),
            name.display()
        );
        Ok(name)
    }

    fn recovered_name(&self, place: &Place) -> OsString {
        let path: Vec<u8> = place.path().into_os_string().into_vec();
        let flat: Vec<u8> = path
            .iter()
            .map(|&b| if b == b'/' { b'+' } else { b })
            .collect();
        // The end of the path says most; the name must fit beside the unique part.
        let tail = &flat[flat.len().saturating_sub(NAME_MAX - 80)..];
        let mut name = OsStr::from_bytes(tail).to_owned();
        name.push(self.unique(""));
        name
    }

    /// Locks a store file against other hosts while it is changed; what the kernel remembers of its
    /// size is from before, so it asks again. Where the file system has no locks the store is used
    /// alone, which the log says once.
    pub fn lock_file(&self, file: &File) -> io::Result<()> {
        if self.try_lock_file(file)? {
            return Ok(());
        }
        pool::slow()?;
        let held = sys::ofd_lock(file, libc::F_WRLCK, true);
        self.locked(file, held)
    }

    /// The same without waiting; false if another host has the lock.
    pub fn try_lock_file(&self, file: &File) -> io::Result<bool> {
        if !self.locks_work.load(Ordering::Relaxed) {
            return Ok(true);
        }
        match sys::ofd_lock(file, libc::F_WRLCK, false) {
            Err(e) if is(&e, libc::EAGAIN) || is(&e, libc::EACCES) => Ok(false),
            held => self.locked(file, held).map(|()| true),
        }
    }

    fn locked(&self, file: &File, held: io::Result<()>) -> io::Result<()> {
        match held {
            Err(e) if is(&e, libc::ENOLCK) || is(&e, libc::EOPNOTSUPP) || is(&e, libc::ENOSYS) => {
                self.no_locks();
                Ok(())
            }
            Ok(()) if self.network => sys::refresh(file).inspect_err(|_| self.unlock_file(file)),
            done => done,
        }
    }

    pub fn unlock_file(&self, file: &File) {
        if self.locks_work.load(Ordering::Relaxed)
            && let Err(e) = sys::ofd_lock(file, libc::F_UNLCK, false)
        {
            log::warn!("unlocking a store file: {e}");
        }
    }

    fn no_locks(&self) {
        self.locks_work.store(false, Ordering::Relaxed);
        log::warn!(
            "{}: the file system has no locks; do not use this store from a second host",
            self.path.display()
        );
    }

    /// The size of a compressed session from its hint or its last bytes; `None` when it takes a walk.
    pub fn quick_size(
        &self,
        dir: BorrowedFd,
        stored: &OsStr,
        size: u64,
    ) -> io::Result<Option<u64>> {
        let mut hint = [0; Hint::LEN];
        let n = sys::getxattr_at(dir, stored, OsStr::new(HINT), &mut hint).unwrap_or(0);
        if let Some(hint) = Hint::decode(&hint[..n], size) {
            return Ok(Some(hint.logical));
        }
        let file = self.open_file(dir, stored, libc::O_RDONLY)?;
        match frames::ends(&file, size) {
            // It was replaced by a shorter one, or cut, since it was found.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            ends => Ok(ends?.map(|ends| ends.logical)),
        }
    }

    /// Gives a compressed session the modification time that 0.3.0's sidecar tells.
    pub fn apply_sidecar(&self, dir: BorrowedFd, name: &OsStr) -> io::Result<()> {
        let (Some(time), Some(packed)) = (sidecar_time(dir, name), packed_name(name)) else {
            return Ok(());
        };
        let session = sys::open_at(dir, &packed, libc::O_PATH, 0)?;
        sys::utimens(session, SetTime::Omit, SetTime::At(time))
    }

    /// Removes the sidecar of a session that is being changed.
    pub fn drop_sidecar(&self, dir: BorrowedFd, name: &OsStr) {
        if let Some(sidecar) = sidecar_name(name).filter(|name| sys::stat_at(dir, name).is_ok()) {
            let _ = self.unseen(dir, || sys::unlink_at(dir, &sidecar));
        }
    }

    /// Runs `work`, which changes a name that users see.
    pub fn seen<T>(&self, work: impl FnOnce() -> T) -> T {
        let _shared = self.names.read().unwrap_or_else(PoisonError::into_inner);
        work()
    }

    /// Runs `work`, which changes names of a directory so that its users see the same as before: its
    /// modification time stays.
    pub fn unseen<T>(
        &self,
        dir: BorrowedFd,
        work: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let _alone = self.names.write().unwrap_or_else(PoisonError::into_inner);
        let before = sys::fstat(dir)?.mtime;
        let result = work();
        // A directory of somebody else's has a newer time then.
        let _ = sys::utimens(dir, SetTime::Omit, SetTime::At(before));
        result
    }
}

/// The modification time that 0.3.0 noted beside a session.
pub fn sidecar_time(dir: BorrowedFd, name: &OsStr) -> Option<Time> {
    let flags = libc::O_RDONLY | libc::O_NONBLOCK;
    let file: File = sys::open_at(dir, &sidecar_name(name)?, flags, 0)
        .ok()?
        .into();
    let mut bytes = [0; 48];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let mut seconds = [0; 8];
    seconds.copy_from_slice(&bytes[8..16]);
    Some((i64::from_le_bytes(seconds), 0))
}

/// What is noted on a store file so that nobody needs to open it for a stat: logical size, store
/// size, end of the sealed part, u64 little-endian each. Believed while the store size is the file's;
/// absent where the store has no attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    pub logical: u64,
    pub stored: u64,
    /// Equal to `stored` for what needs no sealing.
    pub sealed: u64,
}

impl Hint {
    pub const LEN: usize = 24;

    pub fn decode(bytes: &[u8], store_size: u64) -> Option<Hint> {
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let hint = Hint {
            logical: number(0)?,
            stored: number(8)?,
            sealed: number(16)?,
        };
        (bytes.len() == Hint::LEN && hint.stored == store_size).then_some(hint)
    }

    /// Notes it; a store without attributes does without.
    pub fn set(&self, fd: BorrowedFd) {
        let bytes = [self.logical, self.stored, self.sealed]
            .map(u64::to_le_bytes)
            .concat();
        let _ = sys::setxattr(fd, OsStr::new(HINT), &bytes, 0);
    }

    /// Takes it from a file that is about to be cut where it is: other content may grow to the same
    /// store size. What only grows keeps it, since its size will not come back.
    pub fn forget(fd: BorrowedFd) {
        let _ = sys::removexattr(fd, OsStr::new(HINT));
    }
}

impl From<Ends> for Hint {
    fn from(ends: Ends) -> Hint {
        Hint {
            logical: ends.logical,
            stored: ends.stored,
            sealed: ends.sealed,
        }
    }
}

/// Makes the names in a directory durable, as far as the file system can.
pub fn sync_dir(dir: BorrowedFd) -> io::Result<()> {
    // An O_PATH descriptor cannot be synced.
    let dir = sys::open_beneath(dir, OsStr::new(""), libc::O_RDONLY | libc::O_DIRECTORY)?;
    match File::from(dir).sync_all() {
        // Some file systems of other machines sync no directories.
        Err(e) if is(&e, libc::EINVAL) || is(&e, libc::EOPNOTSUPP) => Ok(()),
        done => done,
    }
}

/// Carries mode, owner, attributes and ACLs of one store file over to another. Times come last, with
/// [`carry_times`]: writing moves them.
pub fn carry_attributes(from: &File, to: &File) -> io::Result<()> {
    let stat = sys::fstat(from)?;
    let new = sys::fstat(to)?;
    if (stat.uid, stat.gid) != (new.uid, new.gid) {
        // Only root may give files away; an ordinary user's store holds no others'.
        if let Err(e) = sys::chown(to, Some(stat.uid), Some(stat.gid))
            && !is(&e, libc::EPERM)
        {
            return Err(e);
        }
    }
    let names = match sys::listxattr(from.as_fd()) {
        Err(e) if is(&e, libc::EOPNOTSUPP) => Vec::new(),
        names => names?,
    };
    let mut value = vec![0; 64 * 1024];
    for name in names
        .split(|&b| b == 0)
        .map(OsStr::from_bytes)
        .filter(|n| !n.is_empty() && *n != HINT)
    {
        let n = sys::getxattr(from.as_fd(), name, &mut value)?;
        match sys::setxattr(to.as_fd(), name, &value[..n], 0) {
            // Labels that only root may set are set by the system's own policy on the new file.
            Err(e) if is(&e, libc::EPERM) || is(&e, libc::EOPNOTSUPP) => {
                log::debug!("attribute {} not carried over: {e}", name.display());
            }
            done => done?,
        }
    }
    sys::chmod(to.as_fd(), stat.mode & 0o7777)
}

/// Carries access and modification time over.
pub fn carry_times(from: &File, to: &File) -> io::Result<()> {
    let stat = sys::fstat(from)?;
    sys::utimens(to, SetTime::At(stat.atime), SetTime::At(stat.mtime))
}

/// A file on its way into the store.
pub struct Temporary<'a> {
    store: &'a Store,
    name: Option<OsString>,
    pub file: File,
}

impl Temporary<'_> {
    /// Puts the file, which must be complete and synced, in a place: `rename` replaces atomically. It
    /// is still locked, for steps that have to follow before another host may touch it.
    pub fn place(mut self, dir: BorrowedFd, stored: &OsStr) -> io::Result<File> {
        if let Some(name) = &self.name {
            sys::rename_at(self.store.tmp.as_fd(), name, dir, stored, 0)?;
        }
        self.name = None;
        self.file.try_clone()
    }

    /// The same where nothing must be there yet: EEXIST if something is.
    pub fn place_new(mut self, dir: BorrowedFd, stored: &OsStr) -> io::Result<()> {
        if let Some(name) = &self.name {
            let flags = libc::RENAME_NOREPLACE;
            sys::rename_at(self.store.tmp.as_fd(), name, dir, stored, flags)?;
        }
        self.name = None;
        Ok(())
    }

    /// Keeps the file without a name: a session that was unlinked while open.
    pub fn keep_unnamed(self) -> io::Result<File> {
        let file = self.file.try_clone()?;
        self.store.unlock_file(&file);
        Ok(file)
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            let _ = sys::unlink_at(self.store.tmp.as_fd(), name);
        }
    }
}

/// File systems that other machines may write to.
fn is_network(magic: u64) -> bool {
    // NFS, SMB/CIFS, SMB2, FUSE, Ceph, AFS (two), 9P, Lustre, GPFS, OCFS2, GFS2, Coda.
    const NETWORK: [u64; 13] = [
        0x6969,
        0xff53_4d42,
        0xfe53_4d42,
        0x6573_5546,
        0x00c3_6400,
        0x5346_414f,
        0x6b41_4653,
        0x0102_1997,
        0x0bd0_0bd0,
        0x4750_4653,
        0x7461_636f,
        0x0116_1970,
        0x7375_7245,
    ];
    NETWORK.contains(&magic)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::sync::atomic::AtomicU32;

    /// A store of its own, removed at the end.
    struct Fresh {
        store: Store,
        dir: PathBuf,
    }

    impl Fresh {
        fn new() -> Fresh {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("cellar-store-{}-{count}", std::process::id());
            let dir = std::env::temp_dir().join(name);
            let store = Store::open(&dir, false, false).unwrap();
            Fresh { store, dir }
        }
    }

    impl Drop for Fresh {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }

    fn place(path: &str) -> Place {
        let path = Path::new(path);
        Place {
            dir: path.parent().unwrap().to_owned(),
            name: path.file_name().unwrap().to_owned(),
        }
    }

    #[test]
    fn a_store_is_made_private() {
        let fresh = Fresh::new();
        for dir in [
            "",
            ".cellar",
            ".cellar/tmp",
            ".cellar/recovered",
            ".cellar/trash",
        ] {
            let mode = fs::metadata(fresh.dir.join(dir)).unwrap().mode();
            assert_eq!(mode & 0o777, 0o700, "{dir}");
        }
    }

    #[test]
    fn the_lock_is_shared_or_exclusive() {
        let fresh = Fresh::new();
        let second = Store::open(&fresh.dir, false, false).unwrap();
        let refused = Store::open(&fresh.dir, true, false).map(drop).unwrap_err();
        assert!(is(&refused, libc::EAGAIN));
        drop(second);
    }

    #[test]
    fn nothing_outside_is_reached() {
        let fresh = Fresh::new();
        let outside = Fresh::new();
        fs::create_dir(outside.dir.join("d")).unwrap();
        fs::create_dir(fresh.dir.join("real")).unwrap();
        symlink(outside.dir.join("d"), fresh.dir.join("link")).unwrap();
        symlink("real", fresh.dir.join("inner")).unwrap();
        assert!(fresh.store.dir(Path::new("real")).is_ok());
        assert!(fresh.store.dir(Path::new("")).is_ok());
        for (path, code) in [
            ("link", libc::ELOOP),
            ("inner", libc::ELOOP),
            ("link/d", libc::ELOOP),
            ("..", libc::EXDEV),
            ("real/../..", libc::EXDEV),
            ("/etc", libc::EXDEV),
        ] {
            let error = fresh.store.dir(Path::new(path)).unwrap_err();
            assert!(is(&error, code), "{path}: {error}");
        }
    }

    #[test]
    fn a_visible_name_finds_the_raw_form_first() {
        let fresh = Fresh::new();
        let (store, session) = (&fresh.store, OsStr::new("a.jsonl"));
        let found = || store.find(store.root(), session);
        assert!(is(&found().unwrap_err(), libc::ENOENT));
        fs::create_dir(fresh.dir.join("a.jsonl.zst")).unwrap();
        assert!(is(&found().unwrap_err(), libc::ENOENT));
        fs::remove_dir(fresh.dir.join("a.jsonl.zst")).unwrap();
        fs::write(fresh.dir.join("a.jsonl.zst"), "packed").unwrap();
        assert_eq!(found().unwrap().form, Form::Packed);
        fs::write(fresh.dir.join("a.jsonl"), "raw").unwrap();
        assert_eq!(found().unwrap().form, Form::Raw);
    }

    #[test]
    fn sessions_directly_in_projects_are_compressed() {
        let fresh = Fresh::new();
        let bundles = Store::open(&fresh.dir, false, true).unwrap();
        for (path, plain, with_bundles) in [
            ("-p/a.jsonl", true, true),
            ("-p/u/subagents/a.jsonl", false, true),
            ("a.jsonl", false, false),
            ("-p/a.txt", false, false),
        ] {
            assert_eq!(fresh.store.compresses(&place(path)), plain, "{path}");
            assert_eq!(bundles.compresses(&place(path)), with_bundles, "{path}");
        }
    }

    #[test]
    fn the_sweep_leaves_what_somebody_works_on() {
        let fresh = Fresh::new();
        let tmp = fresh.dir.join(".cellar/tmp");
        let working = fresh.store.temporary().unwrap();
        fs::write(tmp.join("left"), "half").unwrap();
        // Another daemon's sweep.
        let other = Store::open(&fresh.dir, false, false).unwrap();
        other.sweep().unwrap();
        let left = || fs::read_dir(&tmp).unwrap().count();
        assert_eq!(left(), 1);
        assert!(!tmp.join("left").exists());
        drop(working);
        assert_eq!(left(), 0);
    }

    #[test]
    fn a_temporary_file_replaces_what_is_in_its_place() {
        let fresh = Fresh::new();
        fs::write(fresh.dir.join("f"), "old").unwrap();
        let temporary = fresh.store.temporary().unwrap();
        temporary.file.write_all_at(b"new", 0).unwrap();
        temporary
            .place(fresh.store.root(), OsStr::new("f"))
            .unwrap();
        assert_eq!(fs::read(fresh.dir.join("f")).unwrap(), b"new");
        assert_eq!(
            fs::read_dir(fresh.dir.join(".cellar/tmp")).unwrap().count(),
            0
        );
    }

    #[test]
    fn what_has_no_place_is_kept_under_a_name_of_its_own() {
        let fresh = Fresh::new();
        fs::create_dir(fresh.dir.join("-p")).unwrap();
        fs::write(fresh.dir.join("-p/a.jsonl"), "moved").unwrap();
        let place = place("-p/a.jsonl");
        let dir = fresh.store.dir(&place.dir).unwrap();
        for _ in 0..2 {
            let mut bytes = &b"bytes"[..];
            fresh.store.recover_bytes(&place, &mut bytes).unwrap();
        }
        fresh
            .store
            .recover_file(&place, dir.as_fd(), &place.name)
            .unwrap();
        let kept = fs::read_dir(fresh.dir.join(".cellar/recovered")).unwrap();
        let mut kept: Vec<_> = kept.map(|e| fs::read(e.unwrap().path()).unwrap()).collect();
        kept.sort();
        assert_eq!(kept, [&b"bytes"[..], b"bytes", b"moved"]);
        let longest = Place {
            dir: "d".repeat(255).into(),
            name: OsString::from("x".repeat(255)),
        };
        assert!(fresh.store.recovered_name(&longest).len() <= NAME_MAX);
    }

    #[test]
    fn a_hint_counts_for_one_store_size() {
        let hint = Hint {
            logical: 1 << 40,
            stored: 9,
            sealed: 5,
        };
        let bytes = [hint.logical, hint.stored, hint.sealed]
            .map(u64::to_le_bytes)
            .concat();
        assert_eq!(Hint::decode(&bytes, 9), Some(hint));
        assert_eq!(Hint::decode(&bytes, 10), None);
        assert_eq!(Hint::decode(&bytes[..23], 9), None);
        assert_eq!(Hint::decode(&[&bytes[..], b"x"].concat(), 9), None);
        assert_eq!(Hint::decode(b"", 0), None);
    }

    #[test]
    fn a_sidecar_gives_its_time_and_goes() {
        let fresh = Fresh::new();
        let session = OsStr::new("a.jsonl");
        fs::write(fresh.dir.join("a.jsonl.zst"), "").unwrap();
        let mut sidecar = [0; 48];
        sidecar[8..16].copy_from_slice(&1_000_000_000i64.to_le_bytes());
        fs::write(fresh.dir.join("a.jsonl.meta"), sidecar).unwrap();
        fresh
            .store
            .apply_sidecar(fresh.store.root(), session)
            .unwrap();
        let mtime = fs::metadata(fresh.dir.join("a.jsonl.zst")).unwrap().mtime();
        assert_eq!(mtime, 1_000_000_000);
        fresh.store.drop_sidecar(fresh.store.root(), session);
        assert!(!fresh.dir.join("a.jsonl.meta").exists());
        // One that is cut short says nothing.
        fs::write(fresh.dir.join("a.jsonl.meta"), "short").unwrap();
        fresh
            .store
            .apply_sidecar(fresh.store.root(), session)
            .unwrap();
    }

    #[test]
    fn a_file_nobody_may_open_is_the_store_s_own() {
        let fresh = Fresh::new();
        let path = fresh.dir.join("f");
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        let opened = fresh
            .store
            .open_file(fresh.store.root(), OsStr::new("f"), libc::O_RDWR);
        assert!(opened.is_ok());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0);
    }
}
