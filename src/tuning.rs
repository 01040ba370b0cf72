//! What the daemon asks of its process: descriptors, memory, and no umask.
//!
//! Each is a wish. The daemon works without, so a refusal is only logged.

use std::io;

pub fn apply() {
    if let Err(error) = raise_descriptor_limit() {
        log::warn!("cannot raise the limit of open files: {error}");
    }
    give_memory_back();
}

/// Requests bring modes that the caller's own umask has already narrowed.
pub fn drop_umask() {
    // SAFETY: takes a number and cannot fail.
    unsafe { libc::umask(0) };
}

/// Every open session, and every directory that a scan is in, costs a descriptor; the soft limit is often 1,024.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the structure is the one the call fills.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the structure was filled above.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// glibc raises its mmap threshold with each large block that is freed, and then keeps blocks for
/// ever that it would have returned: 128–156 MiB instead of 66 after reading 1.2 GB.
#[cfg(target_env = "gnu")]
fn give_memory_back() {
    // SAFETY: sets two documented parameters before other threads exist.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 256 << 10);
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

#[cfg(not(target_env = "gnu"))]
fn give_memory_back() {}
