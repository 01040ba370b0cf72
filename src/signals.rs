//! Signals as values: blocked in every thread, taken by one that sleeps until there is one.
//!
//! A handler could do next to nothing safely, and a blocked signal sent during start-up waits for
//! the moment when it can be served properly.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM, SIGINT, SIGHUP
    Finish,
    /// SIGUSR1
    SealNow,
}

const TAKEN: [libc::c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1];

/// To be called before any other thread exists: threads inherit the mask.
pub fn block() -> io::Result<()> {
    // SAFETY: a plain request to ignore one signal.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    // SAFETY: the set is initialised and no old mask is asked for.
    check(unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &taken(), std::ptr::null_mut()) })
}

/// Sleeps until one of the blocked signals arrives.
pub fn wait() -> io::Result<Signal> {
    let mut number = 0;
    // SAFETY: the set is initialised and the result has the right type.
    check(unsafe { libc::sigwait(&taken(), &mut number) })?;
    Ok(match number {
        libc::SIGUSR1 => Signal::SealNow,
        _ => Signal::Finish,
    })
}

/// Blocks the signals that end a process and gives a descriptor that can be read once one has come. To be
/// called before any other thread exists.
pub fn descriptor() -> io::Result<OwnedFd> {
    let set = set_of(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP]);
    // SAFETY: the set is initialised and no old mask is asked for.
    check(unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) })?;
    // SAFETY: the set is initialised; -1 asks for a new descriptor.
    match unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: a new descriptor that nobody else owns.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}

/// Gives SIGPIPE its usual meaning back: a command whose reader has gone ends quietly.
pub fn end_on_broken_pipe() {
    // SAFETY: a plain request for the default action.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

fn taken() -> libc::sigset_t {
    set_of(&TAKEN)
}

fn set_of(numbers: &[libc::c_int]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set, and all numbers are valid.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for number in numbers {
            libc::sigaddset(set.as_mut_ptr(), *number);
        }
        set.assume_init()
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}
