//! Going into the background, and telling whoever waits when the mount can be used.
//!
//! The fork comes first, before any thread, the store or the FUSE session exists: none of them
//! survives it. The parent stays until the child reports over a pipe, so `mount` returns only when
//! the mount works, and prints the child's error with the child's exit code when it does not.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::process;

use crate::exit::{Exit, Failure};
use crate::notify;

/// Whom the daemon tells that it is ready.
pub enum Readiness {
    /// systemd, if it asked.
    Foreground,
    /// The parent; nobody once it has been told.
    Background(Option<PipeWriter>),
}

impl Readiness {
    /// Everything works. In the background the terminal is let go of first, so that nothing that
    /// waits for the parent's output to end waits for the daemon.
    pub fn announce(&mut self, status: &str) {
        let told = match self {
            Readiness::Foreground => notify::ready(status),
            Readiness::Background(parent) => silence_stdio().and_then(|()| match parent.take() {
                Some(mut parent) => parent.write_all(&[Exit::Done as u8]),
                None => Ok(()),
            }),
        };
        if let Err(error) = told {
            log::warn!("cannot tell that the mount is ready: {error}");
        }
    }
}

/// Runs `daemon`, which ends the process itself unless it fails, in a child of its own session.
/// Returns in the parent, with the child's verdict.
pub fn in_background(
    daemon: impl FnOnce(&mut Readiness) -> Result<Infallible, Failure>,
) -> Result<(), Failure> {
    let (from_child, to_parent) = io::pipe().map_err(cannot_detach)?;
    // SAFETY: no other thread exists yet, so the child may do anything.
    match unsafe { libc::fork() } {
        -1 => Err(cannot_detach(io::Error::last_os_error())),
        0 => {
            drop(from_child);
            process::exit(child(daemon, to_parent) as i32)
        }
        _ => {
            drop(to_parent);
            verdict(from_child)
        }
    }
}

fn child(
    daemon: impl FnOnce(&mut Readiness) -> Result<Infallible, Failure>,
    to_parent: PipeWriter,
) -> Exit {
    // SAFETY: takes nothing; a fresh child leads no process group, so it cannot fail.
    unsafe { libc::setsid() };
    // A daemon that stays in the caller's directory keeps its file system busy.
    let _ = std::env::set_current_dir("/");
    let mut readiness = Readiness::Background(Some(to_parent));
    let Err(failure) = daemon(&mut readiness);
    if let Readiness::Background(Some(mut parent)) = readiness {
        let _ = parent.write_all(&[failure.exit as u8]);
        let _ = parent.write_all(failure.message.as_bytes());
    }
    failure.exit
}

fn verdict(mut from_child: PipeReader) -> Result<(), Failure> {
    let mut report = Vec::new();
    from_child.read_to_end(&mut report).map_err(cannot_detach)?;
    match report.split_first() {
        Some((&code, _)) if code == Exit::Done as u8 => Ok(()),
        Some((&code, message)) => Err(Failure {
            exit: Exit::from_code(code),
            message: String::from_utf8_lossy(message).into_owned(),
        }),
        None => {
            Err(Failure::new("the daemon died before it was ready")
                .advise("see `claude-cellar log`"))
        }
    }
}

fn silence_stdio() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    for descriptor in 0..=2 {
        // SAFETY: both descriptors are open; the old one is replaced atomically.
        if unsafe { libc::dup2(null.as_raw_fd(), descriptor) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn cannot_detach(error: io::Error) -> Failure {
    Failure::new(format!("cannot start the daemon: {error}"))
}

/// Closes what the caller left open, before anything of ours is: a daemon that keeps a caller's
/// pipe makes the caller's reader wait for ever.
pub fn close_inherited() {
    // SAFETY: nothing in this process has opened a descriptor above stdio yet.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
}
