//! One daemon per mountpoint: a pid file that is also the lock.
//!
//! ```text
//! daemon-<hash of the mountpoint>.pid   locked while the daemon lives, holds its pid
//! daemon.pid -> daemon-….pid            the daemon mounted last
//! ```
//! The lock belongs to the open file (an OFD lock), so it survives the fork that detaches the
//! daemon, vanishes with the process however that ends, and can be asked about without being
//! taken. It is taken before anything is mounted: of a second mount an ordinary user learns only
//! a text without an error number.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::exit::Failure;
use crate::paths;

/// The lock, held.
pub struct PidFile {
    file: File,
    path: PathBuf,
    latest: PathBuf,
}

/// The daemon that holds a lock; its pid is unknown in the moment before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    pub pid: Option<u32>,
}

impl PidFile {
    /// Takes the lock of a resolved mountpoint, or says who has it.
    pub fn lock(latest: &Path, mount_dir: &Path) -> Result<Result<PidFile, Holder>, Failure> {
        if let Some(run_dir) = latest.parent() {
            paths::create_trusted(run_dir)?;
        }
        let path = of(latest, mount_dir);
        take(&path)
            .map(|taken| {
                taken.map(|file| PidFile {
                    file,
                    path: path.clone(),
                    latest: latest.to_path_buf(),
                })
            })
            .map_err(|error| Failure::at("cannot lock the pid file", &path, error))
    }

    /// Records this process, which after the fork is not the one that took the lock.
    pub fn write_pid(&self) -> io::Result<()> {
        let mut file = &self.file;
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(format!("{}\n", std::process::id()).as_bytes())?;
        let Some(name) = self.path.file_name() else {
            return Ok(());
        };
        // Renamed into place: another mountpoint's daemon may do the same at this moment.
        let link = self.path.with_extension("link");
        let _ = fs::remove_file(&link);
        symlink(name, &link)?;
        fs::rename(&link, &self.latest)
    }

    /// Removes the file while the lock is still held, so that nobody waits for a deleted one.
    pub fn remove(&self) {
        if fs::read_link(&self.latest).is_ok_and(|target| self.path.ends_with(target)) {
            let _ = fs::remove_file(&self.latest);
        }
        let _ = fs::remove_file(&self.path);
    }
}

/// The daemon that serves this resolved mountpoint, if one lives.
pub fn holder(latest: &Path, mount_dir: &Path) -> io::Result<Option<Holder>> {
    match File::open(of(latest, mount_dir)) {
        Ok(file) => holder_of(&file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Waits until no daemon serves the mountpoint; the one that still does when time is up.
pub fn wait_gone(latest: &Path, mount_dir: &Path, limit: Duration) -> io::Result<Option<Holder>> {
    let deadline = Instant::now() + limit;
    loop {
        match holder(latest, mount_dir)? {
            Some(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
            other => return Ok(other),
        }
    }
}

fn of(latest: &Path, mount_dir: &Path) -> PathBuf {
    latest.with_file_name(format!(
        "daemon-{:016x}.pid",
        fnv1a(mount_dir.as_os_str().as_bytes())
    ))
}

/// A hash that every version computes alike: another version's daemon must be found.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn take(path: &Path) -> io::Result<Result<File, Holder>> {
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        if ofd_lock(&file, libc::F_OFD_SETLK)?.is_none() {
            return Ok(Err(holder_of(&file)?.unwrap_or(Holder { pid: None })));
        }
        // A daemon that ended between the two calls has removed the file that was locked here.
        if fs::metadata(path).is_ok_and(|now| file.metadata().is_ok_and(|f| f.ino() == now.ino())) {
            return Ok(Ok(file));
        }
    }
}

fn holder_of(file: &File) -> io::Result<Option<Holder>> {
    let lock = ofd_lock(file, libc::F_OFD_GETLK)?;
    if lock.is_none_or(|lock| lock.l_type == libc::F_UNLCK as libc::c_short) {
        return Ok(None);
    }
    let (mut file, mut text) = (file, Vec::new());
    file.rewind()?;
    file.take(32).read_to_end(&mut text)?;
    Ok(Some(Holder {
        pid: String::from_utf8_lossy(&text).trim().parse().ok(),
    }))
}

/// One lock operation on the whole file; `None` when another open file holds the lock.
fn ofd_lock(file: &File, operation: libc::c_int) -> io::Result<Option<libc::flock>> {
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open and the structure is the one these operations expect.
    if unsafe { libc::fcntl(file.as_raw_fd(), operation, &mut lock) } == 0 {
        return Ok(Some(lock));
    }
    match io::Error::last_os_error() {
        error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(None),
        error => Err(error),
    }
}
