//! What is mounted, whether it answers, and ending it.
//!
//! The kernel's table is the only witness: after a daemon was killed, `stat` on the mountpoint
//! fails and `mountpoint` says no, yet the dead mount still covers the place. Whether a mount
//! answers is asked with `statvfs`, because `stat` may be answered from the kernel's cache for a
//! second after the daemon has died.

use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::sys;

/// The subtype of our mounts, and their source.
pub const NAME: &str = "claude-cellar";

const FUSERMOUNT: &str = "fusermount3";

/// How long a mount may take to answer before it counts as silent.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub point: PathBuf,
    /// `major:minor`, unique as long as the mounted file system lives, even when detached.
    pub device: OsString,
    pub kind: OsString,
    source: OsString,
}

impl Mount {
    /// Ours. A mount made by root with version 0.3 has no subtype and is known by its source.
    pub fn is_cellar(&self) -> bool {
        self.kind == "fuse.claude-cellar" || (self.kind == "fuse" && self.source == NAME)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Answers,
    /// The daemon has died: "transport endpoint is not connected".
    Stale,
    /// The daemon lives but gives no answer.
    Silent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// Fails with [`io::ErrorKind::ResourceBusy`] while anything is open.
    Plain,
    /// Takes the mount out of the tree at once; open files live on.
    Lazy,
}

/// The mount one sees at this resolved path, if the path is a mountpoint.
pub fn at(point: &Path) -> io::Result<Option<Mount>> {
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(parse(&table).filter(|mount| mount.point == point).last())
}

/// The first mountpoint below this resolved path.
pub fn below(dir: &Path) -> io::Result<Option<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo")?;
    let mut points = parse(&table).map(|mount| mount.point);
    Ok(points.find(|point| point != dir && point.starts_with(dir)))
}

/// Whether an open file or directory lies in a mounted cellar.
pub fn in_cellar(fd: impl AsFd) -> io::Result<bool> {
    let device = sys::fstat(fd)?.dev;
    let number = format!("{}:{}", libc::major(device), libc::minor(device));
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(parse(&table).any(|mount| mount.is_cellar() && mount.device == number.as_str()))
}

/// The lines of `mountinfo`: `id parent device root point options [tags] - kind source options`.
fn parse(table: &[u8]) -> impl Iterator<Item = Mount> {
    table.split(|&byte| byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|&byte| byte == b' ');
        let device = fields.nth(2)?;
        let point = fields.nth(1)?;
        fields.find(|field| *field == b"-")?;
        let kind = fields.next()?;
        let source = fields.next()?;
        Some(Mount {
            point: PathBuf::from(unescape(point)),
            device: unescape(device),
            kind: unescape(kind),
            source: unescape(source),
        })
    })
}

/// Undoes the kernel's `\ooo` for space, tab, newline and backslash.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        match tail {
            [
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                after @ ..,
            ] if first == b'\\' => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out)
}

/// Asks the file system at `point` for its state. A daemon that hangs is not waited for; a thread
/// that got its answer is, because a fork may follow.
pub fn health(point: &Path) -> Health {
    let (answer, answered) = mpsc::channel();
    let path = point.to_path_buf();
    let asking = thread::spawn(move || {
        let _ = answer.send(statvfs(&path).err().and_then(|error| error.raw_os_error()));
    });
    let Ok(error) = answered.recv_timeout(PATIENCE) else {
        return Health::Silent;
    };
    let _ = asking.join();
    match error {
        Some(libc::ENOTCONN | libc::ECONNABORTED) => Health::Stale,
        _ => Health::Answers,
    }
}

pub fn statvfs(path: &Path) -> io::Result<libc::statvfs> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut stat = MaybeUninit::uninit();
    // SAFETY: the path is NUL-terminated and the buffer has the right size.
    if unsafe { libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so the buffer is filled.
    Ok(unsafe { stat.assume_init() })
}

/// Ends the topmost mount at `point`: directly where that is allowed, else through fusermount3.
pub fn unmount(point: &Path, how: Unmount) -> io::Result<()> {
    let flags = match how {
        Unmount::Plain => libc::UMOUNT_NOFOLLOW,
        Unmount::Lazy => libc::UMOUNT_NOFOLLOW | libc::MNT_DETACH,
    };
    let path = CString::new(point.as_os_str().as_bytes())?;
    // SAFETY: the path is NUL-terminated.
    if unsafe { libc::umount2(path.as_ptr(), flags) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EPERM) => fusermount(point, how),
        error => Err(error),
    }
}

fn fusermount(point: &Path, how: Unmount) -> io::Result<()> {
    // The FUSE library looks here too.
    let program = env::var_os("FUSERMOUNT_PATH").unwrap_or_else(|| FUSERMOUNT.into());
    let mut command = Command::new(program);
    command.arg("-u");
    if how == Unmount::Lazy {
        command.arg("-z");
    }
    let output = command.arg("--").arg(point).output().map_err(|error| {
        let reason = format!("{FUSERMOUNT}: {error}; install it (apt install fuse3)");
        io::Error::new(error.kind(), reason)
    })?;
    if output.status.success() {
        return Ok(());
    }
    let text = OsStr::from_bytes(output.stderr.trim_ascii())
        .to_string_lossy()
        .replace('\n', ", ");
    if text.to_lowercase().contains("busy") {
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
    }
    Err(io::Error::other(text))
}

/// [`unmount`] that does not let open files stop it. Returns whether they tried to.
pub fn unmount_anyway(point: &Path) -> io::Result<bool> {
    match unmount(point, Unmount::Plain) {
        Ok(()) => Ok(false),
        Err(_) => unmount(point, Unmount::Lazy).map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = br"22 27 0:21 / /proc rw,relatime - proc proc rw
50 27 0:48 / /home/a\040b\134c/projects rw,nosuid,nodev shared:2 master:1 - fuse.claude-cellar claude-cellar rw,user_id=1
51 27 0:49 / /home/\377 rw - fuse claude-cellar rw
52 27 0:50 / /mnt rw - fuse.sshfs host: rw
broken line
";

    #[test]
    fn mountinfo_is_read_with_tags_and_escapes() {
        let mounts: Vec<Mount> = parse(TABLE).collect();
        assert_eq!(mounts.len(), 4);
        assert_eq!(
            mounts[1],
            Mount {
                point: "/home/a b\\c/projects".into(),
                device: "0:48".into(),
                kind: "fuse.claude-cellar".into(),
                source: "claude-cellar".into(),
            }
        );
        assert_eq!(mounts[2].point.as_os_str().as_bytes(), b"/home/\xff");
    }

    #[test]
    fn ours_are_told_from_others() {
        let ours: Vec<bool> = parse(TABLE).map(|mount| mount.is_cellar()).collect();
        assert_eq!(ours, [false, true, true, false]);
    }

    #[test]
    fn an_incomplete_escape_stays_as_it_is() {
        assert_eq!(unescape(br"a\04"), r"a\04");
        assert_eq!(unescape(br"\0401"), " 1");
        assert_eq!(unescape(br"\999"), r"\999");
    }

    #[test]
    fn proc_is_a_mount_that_answers() {
        let proc = at(Path::new("/proc")).unwrap().unwrap();
        assert!(!proc.is_cellar());
        assert_eq!(health(&proc.point), Health::Answers);
        assert_eq!(at(Path::new("/proc/self")).unwrap(), None);
    }
}
