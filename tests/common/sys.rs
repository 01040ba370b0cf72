//! The system calls tests make by name, where the standard library hides flags or repeats calls.

use std::ffi::CString;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn check(result: impl Into<i64>) -> Result<i64> {
    match result.into() {
        -1 => Err(Error::last_os_error()),
        value => Ok(value),
    }
}

pub fn errno<T>(result: &Result<T>) -> i32 {
    result
        .as_ref()
        .err()
        .map_or(0, |e| e.raw_os_error().unwrap_or(-1))
}

pub fn open(path: &Path, flags: i32, mode: u32) -> Result<OwnedFd> {
    // SAFETY: a terminated path; the new descriptor has no other owner.
    unsafe {
        Ok(OwnedFd::from_raw_fd(
            check(libc::open(c(path).as_ptr(), flags | libc::O_CLOEXEC, mode))? as RawFd,
        ))
    }
}

pub fn read(fd: &OwnedFd, length: usize) -> Result<Vec<u8>> {
    let mut data = vec![0; length];
    // SAFETY: the buffer has room for `length` bytes.
    let got =
        check(unsafe { libc::read(fd.as_raw_fd(), data.as_mut_ptr().cast(), length) } as i64)?;
    data.truncate(got as usize);
    Ok(data)
}

pub fn pread(fd: &OwnedFd, length: usize, offset: i64) -> Result<Vec<u8>> {
    let mut data = vec![0; length];
    // SAFETY: the buffer has room for `length` bytes.
    let got = check(
        unsafe { libc::pread(fd.as_raw_fd(), data.as_mut_ptr().cast(), length, offset) } as i64,
    )?;
    data.truncate(got as usize);
    Ok(data)
}

/// One `write(2)`, which may write less.
pub fn write(fd: &OwnedFd, data: &[u8]) -> Result<i64> {
    // SAFETY: the buffer holds the bytes.
    check(unsafe { libc::write(fd.as_raw_fd(), data.as_ptr().cast(), data.len()) } as i64)
}

pub fn pwrite(fd: &OwnedFd, data: &[u8], offset: i64) -> Result<i64> {
    // SAFETY: the buffer holds the bytes.
    check(unsafe { libc::pwrite(fd.as_raw_fd(), data.as_ptr().cast(), data.len(), offset) } as i64)
}

pub fn lseek(fd: &OwnedFd, offset: i64, whence: i32) -> Result<i64> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::lseek(fd.as_raw_fd(), offset, whence) })
}

pub fn ftruncate(fd: &OwnedFd, size: i64) -> Result<i64> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::ftruncate(fd.as_raw_fd(), size) })
}

pub fn truncate(path: &Path, size: i64) -> Result<i64> {
    // SAFETY: a terminated path.
    check(unsafe { libc::truncate(c(path).as_ptr(), size) })
}

pub fn fallocate(fd: &OwnedFd, mode: i32, offset: i64, length: i64) -> Result<i64> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::fallocate(fd.as_raw_fd(), mode, offset, length) })
}

pub fn fsync(fd: &OwnedFd) -> Result<i64> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::fsync(fd.as_raw_fd()) })
}

/// Drop what the kernel caches of the file, so that the next read asks the daemon.
pub fn forget_pages(fd: &OwnedFd) {
    // SAFETY: no memory is involved.
    unsafe { libc::posix_fadvise(fd.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

pub fn get_flags(fd: &OwnedFd) -> Result<i64> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })
}

pub fn set_flags(fd: &OwnedFd, flags: i32) -> Result<i64> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) })
}

pub fn fchmod(fd: &OwnedFd, mode: u32) -> Result<i64> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::fchmod(fd.as_raw_fd(), mode) })
}

pub fn chown(path: &Path, user: u32, group: u32) -> Result<i64> {
    // SAFETY: a terminated path.
    check(unsafe { libc::lchown(c(path).as_ptr(), user, group) })
}

pub fn copy_file_range(from: &OwnedFd, to: &OwnedFd, length: usize) -> Result<i64> {
    let none = std::ptr::null_mut();
    // SAFETY: null offsets mean the descriptors' own.
    check(
        unsafe { libc::copy_file_range(from.as_raw_fd(), none, to.as_raw_fd(), none, length, 0) }
            as i64,
    )
}

pub fn sendfile(from: &OwnedFd, to: &OwnedFd, length: usize) -> Result<i64> {
    // SAFETY: a null offset means the descriptor's own.
    check(unsafe {
        libc::sendfile(
            to.as_raw_fd(),
            from.as_raw_fd(),
            std::ptr::null_mut(),
            length,
        )
    } as i64)
}

/// `renameat2`, which not every libc has; flags 0 is `rename`.
pub fn rename(from: &Path, to: &Path, flags: u32) -> Result<i64> {
    let at = libc::AT_FDCWD;
    // SAFETY: terminated paths.
    check(unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            at,
            c(from).as_ptr(),
            at,
            c(to).as_ptr(),
            flags,
        )
    })
}

pub fn link(from: &Path, to: &Path) -> Result<i64> {
    // SAFETY: terminated paths.
    check(unsafe { libc::link(c(from).as_ptr(), c(to).as_ptr()) })
}

/// `unlinkat`; `AT_REMOVEDIR` makes it `rmdir`.
pub fn unlink(path: &Path, flags: i32) -> Result<i64> {
    // SAFETY: a terminated path.
    check(unsafe { libc::unlinkat(libc::AT_FDCWD, c(path).as_ptr(), flags) })
}

pub fn mkdir(path: &Path, mode: u32) -> Result<i64> {
    // SAFETY: a terminated path.
    check(unsafe { libc::mkdir(c(path).as_ptr(), mode) })
}

pub fn mkfifo(path: &Path, mode: u32) -> Result<i64> {
    // SAFETY: a terminated path.
    check(unsafe { libc::mkfifo(c(path).as_ptr(), mode) })
}

/// Set the mtime (and the atime to the same), not following a symbolic link.
pub fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) -> Result<i64> {
    let time = libc::timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = [time, time];
    // SAFETY: a terminated path and two times.
    check(unsafe {
        libc::utimensat(
            libc::AT_FDCWD,
            c(path).as_ptr(),
            times.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
        )
    })
}

pub fn setxattr(path: &Path, name: &str, value: &[u8], flags: i32) -> Result<i64> {
    let name = CString::new(name).unwrap();
    // SAFETY: terminated path and name; the value holds its length.
    check(unsafe {
        libc::lsetxattr(
            c(path).as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            flags,
        )
    })
}

pub fn getxattr(path: &Path, name: &str) -> Result<Vec<u8>> {
    let name = CString::new(name).unwrap();
    let mut value = vec![0; 65536];
    // SAFETY: terminated path and name; the buffer has the room it says.
    let got = check(unsafe {
        libc::lgetxattr(
            c(path).as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    } as i64)?;
    value.truncate(got as usize);
    Ok(value)
}

pub fn removexattr(path: &Path, name: &str) -> Result<i64> {
    let name = CString::new(name).unwrap();
    // SAFETY: terminated path and name.
    check(unsafe { libc::lremovexattr(c(path).as_ptr(), name.as_ptr()) })
}

/// The names of a file's `user.` attributes, sorted.
pub fn listxattr(path: &Path) -> Result<Vec<Vec<u8>>> {
    let mut list = vec![0u8; 65536];
    // SAFETY: a terminated path; the buffer has the room it says.
    let got =
        check(
            unsafe { libc::llistxattr(c(path).as_ptr(), list.as_mut_ptr().cast(), list.len()) }
                as i64,
        )?;
    list.truncate(got as usize);
    let names = list
        .split(|byte| *byte == 0)
        .filter(|name| name.starts_with(b"user."));
    let mut names: Vec<Vec<u8>> = names.map(<[u8]>::to_vec).collect();
    names.sort();
    Ok(names)
}

/// Is the advisory lock of the whole file free for this descriptor? Takes it when it is.
pub fn flock(fd: &OwnedFd, operation: i32) -> Result<i64> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::flock(fd.as_raw_fd(), operation) })
}

/// Does a FUSE daemon answer here?
pub fn is_fuse(path: &Path) -> bool {
    const FUSE_SUPER_MAGIC: u64 = 0x6573_5546;
    // SAFETY: all zeros is a valid statfs.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a terminated path and room for the answer.
    unsafe {
        libc::statfs(c(path).as_ptr(), &mut found) == 0 && found.f_type as u64 == FUSE_SUPER_MAGIC
    }
}

/// Lazily unmount what is mounted here; false when nothing was, or we may not.
pub fn detach(path: &Path) -> bool {
    // SAFETY: a terminated path.
    unsafe { libc::umount2(c(path).as_ptr(), libc::MNT_DETACH) == 0 }
}

/// A shared mapping of the start of a file.
pub struct Map {
    address: *mut u8,
    length: usize,
}

impl Map {
    pub fn shared(fd: &OwnedFd, length: usize, writable: bool) -> Result<Map> {
        let protection = if writable {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_READ
        };
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                protection,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        Ok(Map {
            address: address.cast(),
            length,
        })
    }

    pub fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        assert!(offset + length <= self.length);
        // SAFETY: within the mapping; volatile, since the file changes beneath it.
        (offset..offset + length)
            .map(|at| unsafe { self.address.add(at).read_volatile() })
            .collect()
    }

    pub fn write(&self, offset: usize, data: &[u8]) {
        assert!(offset + data.len() <= self.length);
        // SAFETY: within the mapping, which does not overlap `data`.
        unsafe {
            std::ptr::copy_nonoverlapping(data.as_ptr(), self.address.add(offset), data.len())
        };
    }

    pub fn sync(&self) -> Result<i64> {
        // SAFETY: the whole mapping.
        check(unsafe { libc::msync(self.address.cast(), self.length, libc::MS_SYNC) })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, once.
        unsafe { libc::munmap(self.address.cast(), self.length) };
    }
}
