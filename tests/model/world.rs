//! A directory with open descriptors, to which operations are applied and which can be compared with another.

use super::operations::{Operation, SLOTS};
use crate::common::{sys, tree};
use std::collections::BTreeMap;
use std::fs;
use std::io::Result;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Times before this were set on purpose and must be equal; later ones are a clock's.
const SET_BEFORE: i64 = 1_500_000_000;

pub struct World {
    root: PathBuf,
    slots: Vec<Option<OwnedFd>>,
}

/// What an operation gave, to be equal in both worlds.
#[derive(PartialEq)]
pub enum Outcome {
    Done(i64),
    Errno(i32),
    Bytes(Vec<u8>),
    Names(Vec<Vec<u8>>),
    Facts(Facts),
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Outcome::Done(value) => write!(f, "{value}"),
            Outcome::Errno(errno) => write!(f, "{}", std::io::Error::from_raw_os_error(*errno)),
            Outcome::Bytes(data) => write!(
                f,
                "{} bytes, hash {:x}, \"{}\"",
                data.len(),
                hash(data),
                data[..data.len().min(24)].escape_ascii()
            ),
            Outcome::Names(names) => f
                .debug_list()
                .entries(
                    names
                        .iter()
                        .map(|n| n[..n.len().min(24)].escape_ascii().to_string()),
                )
                .finish(),
            Outcome::Facts(facts) => facts.fmt(f),
        }
    }
}

/// The attributes that do not depend on the clock or the file system's own layout.
#[derive(Debug, PartialEq)]
pub struct Facts {
    mode: u32,
    size: u64,
    links: u64,
    owner: (u32, u32),
    set_time: Option<(i64, i64)>,
}

impl Facts {
    fn of(meta: &fs::Metadata) -> Facts {
        let directory = meta.is_dir();
        Facts {
            mode: meta.mode(),
            // A directory's size, links and times are its file system's; sealing replaces entries of the store's.
            size: if directory { 0 } else { meta.size() },
            links: if directory { 0 } else { meta.nlink() },
            owner: (meta.uid(), meta.gid()),
            // Writing to a pipe reaches no file system beneath FUSE.
            set_time: ((meta.is_file() || meta.is_symlink()) && meta.mtime() < SET_BEFORE)
                .then(|| (meta.mtime(), meta.mtime_nsec())),
        }
    }
}

fn hash(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

impl World {
    pub fn new(root: PathBuf) -> World {
        for directory in ["p", "q", "p/d"] {
            fs::create_dir(root.join(directory)).unwrap();
        }
        World {
            root,
            slots: (0..SLOTS).map(|_| None).collect(),
        }
    }

    pub fn is_directory(&self, path: &Path) -> bool {
        fs::symlink_metadata(self.root.join(path)).is_ok_and(|meta| meta.is_dir())
    }

    /// Whether what is there is a file named like a session; nothing where there is nothing.
    pub fn is_session(&self, path: &Path) -> Option<bool> {
        let meta = fs::symlink_metadata(self.root.join(path)).ok()?;
        Some(meta.is_file() && path.as_os_str().as_encoded_bytes().ends_with(b".jsonl"))
    }

    /// The size of the file in a slot, 0 where it has none.
    pub fn size(&self, slot: usize) -> i64 {
        self.slots[slot]
            .as_ref()
            .and_then(|fd| stat(fd).ok())
            .map_or(0, |meta| {
                if meta.is_file() {
                    meta.size() as i64
                } else {
                    0
                }
            })
    }

    /// O_RDONLY, O_WRONLY or O_RDWR of an open descriptor on a file.
    pub fn access(&self, slot: usize) -> Option<i32> {
        let fd = self.slots[slot].as_ref()?;
        let flags = sys::get_flags(fd).ok()?;
        stat(fd)
            .is_ok_and(|meta| meta.is_file())
            .then_some(flags as i32 & libc::O_ACCMODE)
    }

    pub fn names(&self) -> Vec<PathBuf> {
        tree(&self.root)
    }

    pub fn close_all(&mut self) {
        self.slots.iter_mut().for_each(|slot| *slot = None);
    }

    pub fn apply(&mut self, operation: &Operation) -> Outcome {
        match self.perform(operation) {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Errno(error.raw_os_error().unwrap_or(-1)),
        }
    }

    fn perform(&mut self, operation: &Operation) -> Result<Outcome> {
        use Operation::*;
        use Outcome::{Bytes, Done, Names};
        if let Open {
            slot,
            path,
            flags,
            mode,
        } = operation
        {
            self.slots[*slot] = None;
            self.slots[*slot] = Some(sys::open(&self.root.join(path), *flags, *mode)?);
            return Ok(Done(0));
        }
        if let Close { slot } = operation {
            self.slots[*slot] = None;
            return Ok(Done(0));
        }
        let at = |path: &Path| self.root.join(path);
        let fd = |slot: &usize| {
            self.slots[*slot]
                .as_ref()
                .ok_or(std::io::Error::from_raw_os_error(libc::EBADF))
        };
        Ok(match operation {
            Open { .. } | Close { .. } | Seal { .. } => Done(0),
            Write { slot, data } => Done(sys::write(fd(slot)?, &data.bytes())?),
            Pwrite { slot, data, at } => Done(sys::pwrite(fd(slot)?, &data.bytes(), *at)?),
            Read { slot, length } => Bytes(sys::read(fd(slot)?, *length)?),
            Pread {
                slot,
                length,
                at,
                cold,
            } => {
                if *cold {
                    sys::forget_pages(fd(slot)?);
                }
                Bytes(sys::pread(fd(slot)?, *length, *at)?)
            }
            Seek { slot, .. } if stat(fd(slot)?)?.is_dir() => Done(0), // offsets in directories are opaque
            Seek { slot, to, whence } => Done(sys::lseek(fd(slot)?, *to, *whence)?),
            Ftruncate { slot, size } => Done(sys::ftruncate(fd(slot)?, *size)?),
            Fallocate {
                slot,
                mode,
                at,
                length,
            } => Done(sys::fallocate(fd(slot)?, *mode, *at, *length)?),
            Fsync { slot } => Done(sys::fsync(fd(slot)?)?),
            Fstat { slot } => Outcome::Facts(Facts::of(&stat(fd(slot)?)?)),
            Fchmod { slot, mode } => Done(sys::fchmod(fd(slot)?, *mode)?),
            SetAppend { slot, on } => Done(sys::set_flags(
                fd(slot)?,
                if *on { libc::O_APPEND } else { 0 } | libc::O_NONBLOCK,
            )?),
            MapRead { slot } => {
                let size = stat(fd(slot)?)?.size() as usize;
                Bytes(sys::Map::shared(fd(slot)?, size, false)?.read(0, size))
            }
            MapWrite { slot, at, data } => {
                let size = stat(fd(slot)?)?.size() as usize;
                let map = sys::Map::shared(fd(slot)?, size, true)?;
                let at = (*at).min(size);
                let bytes = data.bytes();
                map.write(at, &bytes[..bytes.len().min(size - at)]);
                Done(map.sync()?)
            }
            CopyRange { from, to, length } => {
                Done(sys::copy_file_range(fd(from)?, fd(to)?, *length)?)
            }
            Truncate { path, size } => Done(sys::truncate(&at(path), *size)?),
            Rename { from, to, flags } => Done(sys::rename(&at(from), &at(to), *flags)?),
            Link { from, to } => Done(sys::link(&at(from), &at(to))?),
            Symlink { target, path } => {
                std::os::unix::fs::symlink(target, at(path))?;
                Done(0)
            }
            ReadLink { path } => Bytes(
                fs::read_link(at(path))?
                    .into_os_string()
                    .into_encoded_bytes(),
            ),
            Unlink { path } => Done(sys::unlink(&at(path), 0)?),
            Mkdir { path, mode } => Done(sys::mkdir(&at(path), *mode)?),
            Rmdir { path } => Done(sys::unlink(&at(path), libc::AT_REMOVEDIR)?),
            Mkfifo { path } => Done(sys::mkfifo(&at(path), 0o600)?),
            Chmod { path, mode } => {
                fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))?;
                Done(0)
            }
            Chown { path, user } => Done(sys::chown(&at(path), *user, *user)?),
            SetTime {
                path,
                seconds,
                nanoseconds,
            } => Done(sys::set_mtime(&at(path), *seconds, *nanoseconds)?),
            List { path } => {
                let entry = |entry: Result<fs::DirEntry>| -> Result<Vec<u8>> {
                    let entry = entry?;
                    let kind = format!("{:?} ", entry.file_type()?).into_bytes();
                    Ok([kind, entry.file_name().into_encoded_bytes()].concat())
                };
                let mut names = fs::read_dir(at(path))?
                    .map(entry)
                    .collect::<Result<Vec<_>>>()?;
                names.sort();
                Names(names)
            }
            Stat { path, follow } => {
                let path = at(path);
                Outcome::Facts(Facts::of(&if *follow {
                    fs::metadata(path)
                } else {
                    fs::symlink_metadata(path)
                }?))
            }
            SetAttribute {
                path,
                name,
                value,
                flags,
            } => Done(sys::setxattr(&at(path), name, &value.bytes(), *flags)?),
            GetAttribute { path, name } => Bytes(sys::getxattr(&at(path), name)?),
            RemoveAttribute { path, name } => Done(sys::removexattr(&at(path), name)?),
            ListAttributes { path } => Names(sys::listxattr(&at(path))?),
        })
    }

    /// What differs between the two trees, if anything: names, attributes, contents, which names are one file.
    pub fn difference(&self, other: &World) -> Option<String> {
        let (mine, theirs) = (tree(&self.root), tree(&other.root));
        if mine != theirs {
            return Some(format!("the mount shows\n{theirs:?}\ninstead of\n{mine:?}"));
        }
        let (mut pairs, mut owners) = (BTreeMap::new(), BTreeMap::new());
        for name in mine {
            let (a, b) = (self.root.join(&name), other.root.join(&name));
            let (meta, shown) = (
                fs::symlink_metadata(&a).unwrap(),
                fs::symlink_metadata(&b).unwrap(),
            );
            let (want, got) = (Facts::of(&meta), Facts::of(&shown));
            if want != got {
                return Some(format!("{name:?} shows {got:?} instead of {want:?}"));
            }
            if *pairs.entry(meta.ino()).or_insert(shown.ino()) != shown.ino()
                || *owners.entry(shown.ino()).or_insert(meta.ino()) != meta.ino()
            {
                return Some(format!(
                    "{name:?} shares its inode number with other names than it should"
                ));
            }
            let attributes = |path: &Path| sys::listxattr(path).ok();
            if attributes(&a) != attributes(&b) {
                return Some(format!(
                    "{name:?} has attributes {:?} instead of {:?}",
                    attributes(&b),
                    attributes(&a)
                ));
            }
            if meta.is_file() {
                let (want, got) = (fs::read(&a).ok(), fs::read(&b).ok());
                if want != got {
                    return Some(format!(
                        "{name:?} holds {:?} instead of {:?}",
                        got.map(Outcome::Bytes),
                        want.map(Outcome::Bytes)
                    ));
                }
            }
        }
        None
    }
}

fn stat(fd: &OwnedFd) -> Result<fs::Metadata> {
    fs::File::from(fd.as_fd().try_clone_to_owned()?).metadata()
}
