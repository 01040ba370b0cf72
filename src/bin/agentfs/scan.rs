//! Looking at the working directory: what is new since the last look is read and stored.
//!
//! One thread, one pass, by descriptors: no symbolic link is followed and no other file system entered.
//! A file is believed unchanged when its stamp is the index's and was not young when that was written;
//! a file that changes while it is read is read again. Files are streamed. What cannot be read keeps the
//! blob it had, so that a permission taken away does not look like a deletion.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::ignore::{Ignore, Verdict};
use super::objects::{FileError, Kind, Objects};
use super::oid::Oid;
use super::tree::{Dir, Entry, Leaf, Node, Stamp};
use crate::exit::Failure;
use crate::size;
use crate::sys;

/// A larger file is left out unless `.agentfsignore` wants it.
pub const FILE_MAX: u64 = 50 << 20;
/// A file changed this shortly before a scan can change again without its stamp telling.
const YOUNG: Duration = Duration::from_millis(20);
/// Times that a file which changes while it is read is read.
const ATTEMPTS: u32 = 3;
/// How the temporary names of a restore begin: never part of a project.
pub const TEMPORARY: &[u8] = b".agentfs-restore-";

/// Whether a restore gives such a name: process and number behind the beginning.
fn is_temporary(name: &[u8]) -> bool {
    let numbers = name.strip_prefix(TEMPORARY).unwrap_or_default();
    let mut numbers = numbers.split(|byte| *byte == b'-');
    let mut is_number = || {
        let digits = numbers.next().unwrap_or_default();
        !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
    };
    is_number() && is_number() && numbers.next().is_none()
}

/// How much a scan may take.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub until: Option<Instant>,
    /// Files and links seen.
    pub files: u64,
    /// Bytes read because they are new.
    pub bytes: u64,
}

impl Budget {
    pub const NONE: Budget = Budget {
        until: None,
        files: u64::MAX,
        bytes: u64::MAX,
    };
}

/// Why something in the directory is not in the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    Excluded,
    /// Its size in bytes.
    TooLarge(u64),
    /// Neither file nor directory nor link.
    Special,
    OtherFileSystem,
    Unreadable(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Relative to the project.
    pub path: Vec<u8>,
    pub reason: Reason,
}

/// What a scan found.
pub struct Scan {
    pub root: Dir,
    pub files: u64,
    pub bytes: u64,
    pub left_out: Vec<LeftOut>,
    /// Temporary files of a restore that was killed.
    pub strays: Vec<Vec<u8>>,
    /// The index is worth writing: an entry or its stamp is new.
    pub changed: bool,
}

/// Scans `dir`, believing `known`, the root of the last scan; objects of what is new are written.
pub fn scan(
    dir: &Path,
    known: Dir,
    ignore: &Ignore,
    objects: &Objects,
    budget: Budget,
) -> Result<Scan, Failure> {
    let failed = |error: io::Error| Failure::at("cannot read the project", dir, error);
    let top = std::fs::File::open(dir).map_err(failed)?;
    let stat = sys::fstat(&top).map_err(failed)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let mut scanner = Scanner {
        ignore,
        objects,
        budget,
        device: stat.dev,
        young_from: (now.unwrap_or_default().saturating_sub(YOUNG)).as_nanos() as i64,
        path: Vec::new(),
        listing: vec![0; 64 << 10],
        out: Scan {
            root: Dir::default(),
            files: 0,
            bytes: 0,
            left_out: Vec::new(),
            strays: Vec::new(),
            changed: false,
        },
    };
    let root = scanner
        .dir(top.as_fd(), stat.mode & 0o7777, Some(known))
        .map_err(|stop| match stop {
            Stop::Budget(message) => Failure::new(format!("{}: {message}", dir.display())),
            Stop::Store(error) => Failure::new(format!("cannot write to the store: {error}")),
            Stop::Read(error) => failed(error),
        })?;
    scanner.out.root = root;
    Ok(scanner.out)
}

/// Why a scan ends before its end.
enum Stop {
    Budget(String),
    Store(io::Error),
    /// Of the directory itself.
    Read(io::Error),
}

struct Scanner<'a> {
    ignore: &'a Ignore,
    objects: &'a Objects,
    budget: Budget,
    device: u64,
    /// Stamps from here on are young, nanoseconds.
    young_from: i64,
    /// Of the directory that is looked at, with a slash at its end, or nothing.
    path: Vec<u8>,
    listing: Vec<u8>,
    out: Scan,
}

impl Scanner<'_> {
    fn dir(&mut self, fd: BorrowedFd, mode: u32, known: Option<Dir>) -> Result<Dir, Stop> {
        let mut names: Vec<(Vec<u8>, u8)> = Vec::new();
        sys::list(fd, &mut self.listing, &mut |name, _, kind| {
            names.push((name.to_vec(), kind));
        })
        .map_err(Stop::Read)?;
        names.sort_unstable();

        let mut known = known.unwrap_or_default();
        let is_new = known.oid == Oid::default();
        let mut dir = Dir {
            mode,
            oid: known.oid,
            entries: Vec::with_capacity(names.len()),
        };
        // Whether the tree object has to be made anew; the index can change without it.
        let mut differs = is_new;
        self.out.changed |= is_new || known.mode != mode;
        let mut old = std::mem::take(&mut known.entries).into_iter().peekable();
        for (name, kind) in names {
            while old.next_if(|entry| entry.name < name).is_some() {
                differs = true;
            }
            let before = old.next_if(|entry| entry.name == name);
            let seen = before.as_ref().map(|entry| identity(&entry.node));
            let node = self.entry(fd, &name, kind, before.map(|entry| entry.node))?;
            differs |= seen != node.as_ref().map(identity);
            if let Some(node) = node {
                dir.entries.push(Entry { name, node });
            }
        }
        differs |= old.next().is_some();
        if differs {
            self.out.changed = true;
            dir.seal(self.objects).map_err(Stop::Store)?;
        }
        Ok(dir)
    }

    /// What a name is now; `None` for what is no part of the project.
    fn entry(
        &mut self,
        dir: BorrowedFd,
        name: &[u8],
        kind: u8,
        known: Option<Node>,
    ) -> Result<Option<Node>, Stop> {
        if name == b".git" {
            return Ok(None);
        }
        let length = self.path.len();
        self.path.extend_from_slice(name);
        let node = self.look(dir, OsStr::from_bytes(name), kind, known);
        self.path.truncate(length);
        node
    }

    fn look(
        &mut self,
        dir: BorrowedFd,
        name: &OsStr,
        kind: u8,
        known: Option<Node>,
    ) -> Result<Option<Node>, Stop> {
        if kind == libc::DT_DIR {
            return self.subdirectory(dir, name, known);
        }
        let stat = match sys::stat_at(dir, name) {
            Ok(stat) => stat,
            Err(error) if sys::is(&error, libc::ENOENT) => return Ok(None),
            Err(error) => return Ok(self.unreadable(&error, known)),
        };
        if stat.is(libc::S_IFDIR) {
            return self.subdirectory(dir, name, known);
        }
        let is_link = stat.is(libc::S_IFLNK);
        if !is_link && !stat.is(libc::S_IFREG) {
            self.leave_out(Reason::Special);
            return Ok(None);
        }
        if is_temporary(name.as_bytes()) {
            self.out.strays.push(self.path.clone());
            return Ok(None);
        }
        let verdict = match self.ignore.only_directories() {
            true => Verdict::Keep,
            false => self.ignore.verdict(&self.path, false),
        };
        if verdict == Verdict::Out {
            self.leave_out(Reason::Excluded);
            return Ok(None);
        }
        if stat.size > FILE_MAX && verdict != Verdict::Wanted {
            self.leave_out(Reason::TooLarge(stat.size));
            return Ok(None);
        }
        self.out.files += 1;
        if self.out.files > self.budget.files {
            let limit = size::count(self.budget.files, "file");
            return Err(Stop::Budget(format!("more than {limit}")));
        }
        let stamp = Stamp::of(&stat);
        let known = match known {
            Some(Node::Leaf(leaf)) => Some(leaf),
            _ => None,
        };
        if let Some(leaf) = known.as_ref().filter(|leaf| leaf.stamp == stamp)
            && !leaf.young
        {
            return Ok(known.map(Node::Leaf));
        }
        self.out.changed = true;
        self.time_left()?;
        let read = match is_link {
            true => self.link(dir, name, stamp),
            false => self.file(dir, name, stamp),
        };
        match read {
            Ok(leaf) => Ok(Some(Node::Leaf(leaf))),
            Err(ReadError::Gone) => Ok(None),
            Err(ReadError::Unreadable(error)) => Ok(self.unreadable(&error, known.map(Node::Leaf))),
            Err(ReadError::Stop(stop)) => Err(stop),
        }
    }

    fn subdirectory(
        &mut self,
        dir: BorrowedFd,
        name: &OsStr,
        known: Option<Node>,
    ) -> Result<Option<Node>, Stop> {
        if self.ignore.verdict(&self.path, true) == Verdict::Out {
            self.leave_out(Reason::Excluded);
            return Ok(None);
        }
        self.time_left()?;
        let opened = sys::open_at(dir, name, libc::O_RDONLY | libc::O_DIRECTORY, 0)
            .and_then(|fd| sys::fstat(&fd).map(|stat| (fd, stat)));
        let (fd, stat) = match opened {
            Ok(opened) => opened,
            Err(error) if sys::is(&error, libc::ENOENT) => return Ok(None),
            Err(error) => return Ok(self.unreadable(&error, known)),
        };
        if stat.dev != self.device {
            self.leave_out(Reason::OtherFileSystem);
            return Ok(None);
        }
        let known = match known {
            Some(Node::Dir(dir)) => Some(dir),
            _ => None,
        };
        let length = self.path.len();
        self.path.push(b'/');
        let read = self.dir(fd.as_fd(), stat.mode & 0o7777, known);
        self.path.truncate(length);
        read.map(|dir| Some(Node::Dir(dir)))
    }

    fn link(&mut self, dir: BorrowedFd, name: &OsStr, stamp: Stamp) -> Result<Leaf, ReadError> {
        let target = sys::readlink_at(dir, name).map_err(ReadError::from_read)?;
        let written = self.objects.write(Kind::Blob, target.as_bytes());
        let oid = written.map_err(ReadError::from_store)?;
        Ok(self.leaf(stamp, oid, true))
    }

    fn file(&mut self, dir: BorrowedFd, name: &OsStr, mut stamp: Stamp) -> Result<Leaf, ReadError> {
        // Not to wait for a pipe that took the file's place.
        let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = sys::open_at(dir, name, flags, 0).map_err(ReadError::from_read)?;
        let file = std::fs::File::from(file);
        for attempt in 1.. {
            self.spend(stamp.size).map_err(ReadError::Stop)?;
            let read = self.objects.write_file(&file, stamp.size);
            let after = Stamp::of(&sys::fstat(&file).map_err(ReadError::from_read)?);
            let quiet = after == stamp;
            match read {
                Ok(oid) if quiet || attempt == ATTEMPTS => {
                    return Ok(self.leaf(stamp, oid, quiet));
                }
                Err(FileError::Store(error)) => return Err(ReadError::from_store(error)),
                Err(FileError::Read(error)) if quiet || attempt == ATTEMPTS => {
                    return Err(ReadError::Unreadable(error));
                }
                Err(FileError::Changed) if attempt == ATTEMPTS => {
                    return Err(ReadError::Unreadable(io::ErrorKind::Interrupted.into()));
                }
                _ => stamp = after,
            }
            if !stamp.is(libc::S_IFREG) {
                return Err(ReadError::Gone);
            }
        }
        Err(ReadError::Gone)
    }

    fn leaf(&self, stamp: Stamp, oid: Oid, quiet: bool) -> Leaf {
        let young = !quiet || stamp.mtime >= self.young_from || stamp.ctime >= self.young_from;
        Leaf { stamp, young, oid }
    }

    fn unreadable(&mut self, error: &io::Error, known: Option<Node>) -> Option<Node> {
        self.leave_out(Reason::Unreadable(error.to_string()));
        known
    }

    fn leave_out(&mut self, reason: Reason) {
        let path = self.path.clone();
        self.out.left_out.push(LeftOut { path, reason });
    }

    fn spend(&mut self, bytes: u64) -> Result<(), Stop> {
        self.out.bytes += bytes;
        match self.out.bytes > self.budget.bytes {
            true => Err(Stop::Budget(format!(
                "more than {} to read",
                size::bytes(self.budget.bytes)
            ))),
            false => self.time_left(),
        }
    }

    fn time_left(&self) -> Result<(), Stop> {
        match self.budget.until {
            Some(until) if Instant::now() > until => {
                Err(Stop::Budget("no time left to read it all".into()))
            }
            _ => Ok(()),
        }
    }
}

/// Why a file or link has no blob.
enum ReadError {
    Gone,
    Unreadable(io::Error),
    Stop(Stop),
}

impl ReadError {
    fn from_read(error: io::Error) -> ReadError {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ELOOP) => ReadError::Gone,
            _ => ReadError::Unreadable(error),
        }
    }

    fn from_store(error: io::Error) -> ReadError {
        ReadError::Stop(Stop::Store(error))
    }
}

/// What of a node is in its directory's tree object, and in the extras.
fn identity(node: &Node) -> (u32, Oid) {
    match node {
        Node::Leaf(leaf) => (leaf.stamp.mode, leaf.oid),
        Node::Dir(dir) => (dir.mode, dir.oid),
    }
}
