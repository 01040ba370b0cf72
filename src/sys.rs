//! The system calls that `std` has no safe form of, and nothing else.
//!
//! Every `unsafe` block of the daemon's data path is here, so that the rest can be read without it.
//! All functions return `io::Error` with the errno of the call; names are bytes, never UTF-8.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Seconds and nanoseconds since the epoch.
pub type Time = (i64, i64);

/// What `stat` tells of a store file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub dev: u64,
    pub ino: u64,
    pub mode: u32,
    pub nlink: u64,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    pub size: u64,
    /// Allocated, in units of 512 bytes.
    pub blocks: u64,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
}

impl Stat {
    /// Whether the mode is of this `S_IF…` kind.
    pub fn is(&self, kind: u32) -> bool {
        self.mode & libc::S_IFMT == kind
    }
}

/// `io::Error` of a bare errno.
pub fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

/// Whether an error is this errno.
pub fn is(e: &io::Error, code: i32) -> bool {
    e.raw_os_error() == Some(code)
}

/// A name or path as the kernel takes it; a NUL inside gives EINVAL.
fn c(name: &OsStr) -> io::Result<CString> {
    CString::new(name.as_bytes()).map_err(|_| errno(libc::EINVAL))
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

fn check_len(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
    let fd = check(fd)?;
    // SAFETY: the kernel has just returned this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[allow(
    clippy::unnecessary_cast,
    reason = "st_nlink is 32 bits wide on aarch64"
)]
fn to_stat(s: &libc::stat) -> Stat {
    Stat {
        dev: s.st_dev,
        ino: s.st_ino,
        mode: s.st_mode,
        nlink: s.st_nlink as u64,
        uid: s.st_uid,
        gid: s.st_gid,
        rdev: s.st_rdev,
        size: u64::try_from(s.st_size).unwrap_or(0),
        blocks: u64::try_from(s.st_blocks).unwrap_or(0),
        atime: (s.st_atime, s.st_atime_nsec),
        mtime: (s.st_mtime, s.st_mtime_nsec),
        ctime: (s.st_ctime, s.st_ctime_nsec),
    }
}

/// `fstat`; works on `O_PATH` descriptors.
pub fn fstat(fd: impl AsFd) -> io::Result<Stat> {
    // SAFETY: `stat` is plain data and is filled by the call.
    unsafe {
        let mut s: libc::stat = std::mem::zeroed();
        check(libc::fstat(fd.as_fd().as_raw_fd(), &raw mut s))?;
        Ok(to_stat(&s))
    }
}

/// Has the kernel ask a network file system for the attributes of a file, whatever it remembers.
pub fn refresh(fd: impl AsFd) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_FORCE_SYNC;
    let mask = libc::STATX_BASIC_STATS;
    // SAFETY: `statx` is plain data and is filled by the call; the empty name is NUL-terminated.
    unsafe {
        let mut s: libc::statx = std::mem::zeroed();
        check(libc::statx(
            fd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            mask,
            &raw mut s,
        ))?;
    }
    Ok(())
}

/// `stat` of one name in a directory, never through a symbolic link.
pub fn stat_at(dir: BorrowedFd, name: &OsStr) -> io::Result<Stat> {
    let name = c(name)?;
    // SAFETY: `stat` is plain data and is filled by the call; the name is NUL-terminated.
    unsafe {
        let mut s: libc::stat = std::mem::zeroed();
        check(libc::fstatat(
            dir.as_raw_fd(),
            name.as_ptr(),
            &raw mut s,
            libc::AT_SYMLINK_NOFOLLOW,
        ))?;
        Ok(to_stat(&s))
    }
}

/// Opens a path of any depth beneath `root`: no symbolic link is followed, nothing above `root` is
/// reached, whoever changes the tree meanwhile (`openat2`, Linux 5.6). An empty path is `root`.
pub fn open_beneath(root: BorrowedFd, path: &OsStr, flags: i32) -> io::Result<OwnedFd> {
    let path = c(if path.is_empty() {
        OsStr::new(".")
    } else {
        path
    })?;
    // SAFETY: `open_how` is plain data, its size is passed, the path is NUL-terminated.
    unsafe {
        let mut how: libc::open_how = std::mem::zeroed();
        how.flags = (flags | libc::O_CLOEXEC) as u64;
        how.resolve =
            libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;
        loop {
            let fd = libc::syscall(
                libc::SYS_openat2,
                root.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                size_of::<libc::open_how>(),
            );
            match owned(fd as libc::c_int) {
                // A rename elsewhere made the kernel unsure whether the path stayed beneath.
                Err(e) if is(&e, libc::EAGAIN) || is(&e, libc::EINTR) => {}
                done => return done,
            }
        }
    }
}

/// `openat` of one name, never through a symbolic link.
pub fn open_at(dir: BorrowedFd, name: &OsStr, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    let name = c(name)?;
    // SAFETY: the name is NUL-terminated; the returned descriptor is ours.
    owned(unsafe {
        libc::openat(
            dir.as_raw_fd(),
            name.as_ptr(),
            flags | libc::O_NOFOLLOW | libc::O_CLOEXEC,
            mode,
        )
    })
}

pub fn mkdir_at(dir: BorrowedFd, name: &OsStr, mode: u32) -> io::Result<()> {
    let name = c(name)?;
    // SAFETY: the name is NUL-terminated.
    check(unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), mode) }).map(drop)
}

pub fn mknod_at(dir: BorrowedFd, name: &OsStr, mode: u32, rdev: u64) -> io::Result<()> {
    let name = c(name)?;
    // SAFETY: the name is NUL-terminated.
    check(unsafe { libc::mknodat(dir.as_raw_fd(), name.as_ptr(), mode, rdev) }).map(drop)
}

pub fn unlink_at(dir: BorrowedFd, name: &OsStr) -> io::Result<()> {
    let name = c(name)?;
    // SAFETY: the name is NUL-terminated.
    check(unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), 0) }).map(drop)
}

pub fn rmdir_at(dir: BorrowedFd, name: &OsStr) -> io::Result<()> {
    let name = c(name)?;
    // SAFETY: the name is NUL-terminated.
    check(unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), libc::AT_REMOVEDIR) }).map(drop)
}

pub fn symlink_at(target: &OsStr, dir: BorrowedFd, name: &OsStr) -> io::Result<()> {
    let (target, name) = (c(target)?, c(name)?);
    // SAFETY: both strings are NUL-terminated.
    check(unsafe { libc::symlinkat(target.as_ptr(), dir.as_raw_fd(), name.as_ptr()) }).map(drop)
}

/// Whether this process may write to a file, as far as the mode and the file system say.
pub fn may_write(path: &std::path::Path) -> io::Result<()> {
    let path = c(path.as_os_str())?;
    // SAFETY: the path is terminated.
    let may =
        unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::W_OK, libc::AT_EACCESS) };
    check(may).map(drop)
}

pub fn readlink_at(dir: BorrowedFd, name: &OsStr) -> io::Result<OsString> {
    let name = c(name)?;
    let mut buf = vec![0u8; libc::PATH_MAX as usize];
    // SAFETY: the buffer's length is passed with it.
    let n = check_len(unsafe {
        libc::readlinkat(
            dir.as_raw_fd(),
            name.as_ptr(),
            buf.as_mut_ptr().cast(),
            buf.len(),
        )
    })?;
    buf.truncate(n);
    Ok(OsString::from_vec(buf))
}

pub fn link_at(from: BorrowedFd, name: &OsStr, to: BorrowedFd, new: &OsStr) -> io::Result<()> {
    let (name, new) = (c(name)?, c(new)?);
    // SAFETY: both names are NUL-terminated.
    check(unsafe {
        libc::linkat(
            from.as_raw_fd(),
            name.as_ptr(),
            to.as_raw_fd(),
            new.as_ptr(),
            0,
        )
    })
    .map(drop)
}

/// `renameat2`; where the file system knows no flags, `RENAME_NOREPLACE` is a link-free check and a
/// plain rename (the store's lock holder is the only writer of such a name but for other hosts).
pub fn rename_at(
    from: BorrowedFd,
    name: &OsStr,
    to: BorrowedFd,
    new: &OsStr,
    flags: u32,
) -> io::Result<()> {
    let (old, target) = (c(name)?, c(new)?);
    // SAFETY: both names are NUL-terminated.
    let rename = |flags: u32| unsafe {
        check(libc::syscall(
            libc::SYS_renameat2,
            from.as_raw_fd(),
            old.as_ptr(),
            to.as_raw_fd(),
            target.as_ptr(),
            flags,
        ) as libc::c_int)
        .map(drop)
    };
    match rename(flags) {
        Err(e) if is(&e, libc::EINVAL) && flags == libc::RENAME_NOREPLACE => match stat_at(to, new)
        {
            Ok(_) => Err(errno(libc::EEXIST)),
            Err(e) if is(&e, libc::ENOENT) => rename(0),
            Err(e) => Err(e),
        },
        done => done,
    }
}

/// Through `/proc/self/fd`, so that an `O_PATH` descriptor will do.
pub fn chmod(fd: BorrowedFd, mode: u32) -> io::Result<()> {
    let path = proc_path(fd)?;
    // SAFETY: the path is NUL-terminated.
    check(unsafe { libc::chmod(path.as_ptr(), mode) }).map(drop)
}

/// Through any descriptor, `O_PATH` included. `None` leaves the owner or group as it is.
pub fn chown(fd: impl AsFd, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
    let (uid, gid) = (uid.unwrap_or(u32::MAX), gid.unwrap_or(u32::MAX));
    // SAFETY: the path is a NUL-terminated empty string; -1 (all ones) means "leave".
    check(unsafe {
        libc::fchownat(
            fd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            uid,
            gid,
            libc::AT_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// A time to set; `utimensat`'s UTIME_NOW and UTIME_OMIT are its other cases.
#[derive(Clone, Copy, Debug)]
pub enum SetTime {
    Omit,
    Now,
    At(Time),
}

fn timespecs(atime: SetTime, mtime: SetTime) -> [libc::timespec; 2] {
    [atime, mtime].map(|t| match t {
        SetTime::Omit => libc::timespec {
            tv_sec: 0,
            tv_nsec: libc::UTIME_OMIT,
        },
        SetTime::Now => libc::timespec {
            tv_sec: 0,
            tv_nsec: libc::UTIME_NOW,
        },
        SetTime::At((sec, nsec)) => libc::timespec {
            tv_sec: sec,
            tv_nsec: nsec,
        },
    })
}

/// Through any descriptor, `O_PATH` included (Linux 5.8).
pub fn utimens(fd: impl AsFd, atime: SetTime, mtime: SetTime) -> io::Result<()> {
    let times = timespecs(atime, mtime);
    // SAFETY: the path is a NUL-terminated empty string, `times` has the two entries the call reads.
    check(unsafe {
        libc::utimensat(
            fd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            times.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    })
    .map(drop)
}

pub fn fallocate(file: &File, mode: i32, offset: i64, len: i64) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) }).map(drop)
}

/// Copies `len` bytes between two files in the kernel (shared extents where the file system can).
/// Returns what was copied: 0 at the end of the source.
pub fn copy_range(
    from: &File,
    mut at: i64,
    to: &File,
    mut to_at: i64,
    len: usize,
) -> io::Result<usize> {
    // SAFETY: the two offsets live through the call.
    check_len(unsafe {
        libc::copy_file_range(
            from.as_raw_fd(),
            &raw mut at,
            to.as_raw_fd(),
            &raw mut to_at,
            len,
            0,
        )
    })
}

pub fn statvfs(fd: BorrowedFd) -> io::Result<libc::statvfs> {
    // SAFETY: `statvfs` is plain data and is filled by the call.
    unsafe {
        let mut s: libc::statvfs = std::mem::zeroed();
        check(libc::fstatvfs(fd.as_raw_fd(), &raw mut s))?;
        Ok(s)
    }
}

/// The `f_type` of the file system a descriptor is on.
pub fn fs_magic(fd: BorrowedFd) -> io::Result<u64> {
    // SAFETY: `statfs` is plain data and is filled by the call.
    unsafe {
        let mut s: libc::statfs = std::mem::zeroed();
        check(libc::fstatfs(fd.as_raw_fd(), &raw mut s))?;
        Ok(s.f_type as u64 & 0xffff_ffff)
    }
}

/// An open-file-description lock on a whole file. `kind`: `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
pub fn ofd_lock(file: impl AsFd, kind: i32, wait: bool) -> io::Result<()> {
    // SAFETY: `flock` is plain data, all zero but for the kind: the whole file.
    unsafe {
        let mut l: libc::flock = std::mem::zeroed();
        l.l_type = kind as libc::c_short;
        l.l_whence = libc::SEEK_SET as libc::c_short;
        let op = if wait {
            libc::F_OFD_SETLKW
        } else {
            libc::F_OFD_SETLK
        };
        loop {
            match check(libc::fcntl(file.as_fd().as_raw_fd(), op, &raw const l)) {
                Err(e) if is(&e, libc::EINTR) => {}
                done => return done.map(drop),
            }
        }
    }
}

fn proc_path(fd: BorrowedFd) -> io::Result<CString> {
    c(OsStr::new(&format!("/proc/self/fd/{}", fd.as_raw_fd())))
}

/// `/proc/self/fd/N/name`: a name in an open directory as a path, for calls that know no `…at` form.
fn proc_name(dir: BorrowedFd, name: &OsStr) -> io::Result<CString> {
    let mut path = OsString::from(format!("/proc/self/fd/{}/", dir.as_raw_fd()));
    path.push(name);
    c(&path)
}

/// An extended attribute of one name, never through a symbolic link, read into `buf`.
pub fn getxattr_at(
    dir: BorrowedFd,
    name: &OsStr,
    attr: &OsStr,
    buf: &mut [u8],
) -> io::Result<usize> {
    let (path, attr) = (proc_name(dir, name)?, c(attr)?);
    // SAFETY: the buffer's length is passed with it.
    check_len(unsafe {
        libc::lgetxattr(
            path.as_ptr(),
            attr.as_ptr(),
            buf.as_mut_ptr().cast(),
            buf.len(),
        )
    })
}

/// An extended attribute through any descriptor, `O_PATH` included.
pub fn getxattr(fd: BorrowedFd, attr: &OsStr, buf: &mut [u8]) -> io::Result<usize> {
    let (path, attr) = (proc_path(fd)?, c(attr)?);
    // SAFETY: the buffer's length is passed with it.
    check_len(unsafe {
        libc::getxattr(
            path.as_ptr(),
            attr.as_ptr(),
            buf.as_mut_ptr().cast(),
            buf.len(),
        )
    })
}

pub fn setxattr(fd: BorrowedFd, attr: &OsStr, value: &[u8], flags: i32) -> io::Result<()> {
    let (path, attr) = (proc_path(fd)?, c(attr)?);
    // SAFETY: the value's length is passed with it.
    check(unsafe {
        libc::setxattr(
            path.as_ptr(),
            attr.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            flags,
        )
    })
    .map(drop)
}

pub fn removexattr(fd: BorrowedFd, attr: &OsStr) -> io::Result<()> {
    let (path, attr) = (proc_path(fd)?, c(attr)?);
    // SAFETY: both strings are NUL-terminated.
    check(unsafe { libc::removexattr(path.as_ptr(), attr.as_ptr()) }).map(drop)
}

/// All attribute names, each ending in NUL, as the kernel lists them.
pub fn listxattr(fd: BorrowedFd) -> io::Result<Vec<u8>> {
    let path = proc_path(fd)?;
    let mut buf = vec![0u8; 64 * 1024];
    // SAFETY: the buffer's length is passed with it; 64 KiB is the kernel's own bound.
    let n =
        check_len(unsafe { libc::listxattr(path.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) })?;
    buf.truncate(n);
    Ok(buf)
}

/// One entry of a directory: its name, inode and `DT_…` type (`DT_UNKNOWN` where the file system does
/// not say).
pub struct Entry {
    pub name: OsString,
    pub ino: u64,
    pub kind: u8,
}

/// All entries of a directory but "." and "..".
pub fn read_dir(dir: BorrowedFd) -> io::Result<Vec<Entry>> {
    // A descriptor of its own: the read position belongs to the open file.
    let dir = open_beneath(dir, OsStr::new(""), libc::O_RDONLY | libc::O_DIRECTORY)?;
    let mut entries = Vec::new();
    list(
        dir.as_fd(),
        &mut vec![0; 64 << 10],
        &mut |name, ino, kind| {
            let name = OsStr::from_bytes(name).to_owned();
            entries.push(Entry { name, ino, kind });
        },
    )?;
    Ok(entries)
}

/// Tells name, inode and type of all entries of a directory but "." and "..", from the descriptor's
/// position on, which moves to the end. The buffer is used for the calls.
pub fn list(
    dir: BorrowedFd,
    buf: &mut [u8],
    each: &mut dyn FnMut(&[u8], u64, u8),
) -> io::Result<()> {
    loop {
        // SAFETY: the buffer's length is passed with it.
        let n = check_len(unsafe {
            libc::syscall(
                libc::SYS_getdents64,
                dir.as_raw_fd(),
                buf.as_mut_ptr(),
                buf.len(),
            )
        } as libc::ssize_t)?;
        if n == 0 {
            return Ok(());
        }
        // Each record: u64 inode, i64 offset, u16 record length, u8 type, name, NUL.
        let mut rest = &buf[..n];
        while rest.len() > 19 {
            let len = usize::from(u16::from_ne_bytes([rest[16], rest[17]])).clamp(20, rest.len());
            let name = &rest[19..len];
            let name = &name[..name.iter().position(|&b| b == 0).unwrap_or(name.len())];
            if name != b"." && name != b".." {
                let ino = rest[..8]
                    .iter()
                    .rev()
                    .fold(0, |n, &b| n << 8 | u64::from(b));
                each(name, ino, rest[18]);
            }
            rest = &rest[len..];
        }
    }
}

/// Whether `wanted` stands somewhere in `bytes`.
pub fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    // SAFETY: both are given with their lengths and only read.
    let found = unsafe {
        libc::memmem(
            bytes.as_ptr().cast(),
            bytes.len(),
            wanted.as_ptr().cast(),
            wanted.len(),
        )
    };
    !found.is_null()
}

/// Whether somebody has the file, opened here for reading, open for writing: a lease is refused then,
/// and given back otherwise. False where nobody can tell (network file systems, files of other users).
pub fn has_writers(file: &File) -> bool {
    /// Not in the libc crate.
    const F_SETSIG: libc::c_int = 10;
    let fd = file.as_raw_fd();
    // SAFETY: plain numbers. Should somebody open the file while the lease is held, the signal is one
    // that does nothing by default.
    unsafe {
        libc::fcntl(fd, F_SETSIG, libc::SIGURG);
        let refused = libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) < 0
            && is(&io::Error::last_os_error(), libc::EAGAIN);
        libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK);
        refused
    }
}

/// Puts the calling thread at the lowest CPU and I/O priority.
pub fn lowest_priority() {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    const IOPRIO_IDLE: libc::c_int = 3 << 13;
    // SAFETY: both calls take plain numbers; 0 is the calling thread. A refusal changes nothing.
    unsafe {
        let tid = libc::syscall(libc::SYS_gettid) as libc::id_t;
        libc::setpriority(libc::PRIO_PROCESS, tid, 19);
        libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE);
    }
}

/// Gives freed memory back to the system.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a plain number.
    unsafe {
        libc::malloc_trim(0);
    }
}

pub fn euid() -> u32 {
    // SAFETY: cannot fail and takes nothing.
    unsafe { libc::geteuid() }
}
