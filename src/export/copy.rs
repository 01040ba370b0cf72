//! Copying one entry of a store to its place in an export.

use super::{Entry, PART, open_dir};
use crate::frames::{self, Index};
use crate::names::{Form, packed_name};
use crate::rewrite::{Content, compare, write_plain};
use crate::store::{carry_attributes, sidecar_time};
use crate::sys::{self, SetTime, Stat, Time, is};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

/// What changes while it is read is read this often.
const LOOKS: u32 = 6;
const PAUSE: Duration = Duration::from_millis(100);

/// What was put where, so far.
pub struct Copier<'a> {
    store: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
    /// Files with several names, by device and inode in the store.
    linked: HashMap<(u64, u64), PathBuf>,
}

impl<'a> Copier<'a> {
    pub fn new(store: BorrowedFd<'a>, to: BorrowedFd<'a>) -> Copier<'a> {
        Copier {
            store,
            to,
            linked: HashMap::new(),
        }
    }

    /// Removes the unfinished file of an export that was ended, or of one that failed.
    pub fn clear(&self) -> io::Result<()> {
        match sys::unlink_at(self.to, OsStr::new(PART)) {
            Err(e) if !is(&e, libc::ENOENT) => Err(e),
            _ => Ok(()),
        }
    }

    /// Copies one entry, unless it is there and equal. False if it is not in the store any more.
    pub fn copy(&mut self, entry: &Entry) -> io::Result<bool> {
        let from = match open_dir(self.store, &entry.place.dir) {
            Err(e) if is(&e, libc::ENOENT) => return Ok(false),
            dir => dir?,
        };
        let to = open_dir(self.to, &entry.place.dir)?;
        let (from, to) = (from.as_fd(), to.as_fd());
        match entry.stat.mode & libc::S_IFMT {
            libc::S_IFDIR => make_dir(to, &entry.place.name).map(|()| true),
            libc::S_IFREG => self.file(entry, from, to),
            _ => self.special(entry, from, to),
        }
    }

    // ---- regular files ------------------------------------------------------------------------

    fn file(&mut self, entry: &Entry, from: BorrowedFd, to: BorrowedFd) -> io::Result<bool> {
        let name = &entry.place.name;
        let id = (entry.stat.nlink > 1).then_some((entry.stat.dev, entry.stat.ino));
        let first = id.and_then(|id| self.linked.get(&id));
        if let Some(first) = first
            && stat(to, name)?.is_none()
        {
            let dir = open_dir(self.to, first.parent().unwrap_or(first))?;
            let first = first.file_name().unwrap_or_default();
            match sys::link_at(dir.as_fd(), first, to, name) {
                // File systems without links, or with no more for this file, get copies.
                Err(e)
                    if [libc::EPERM, libc::EOPNOTSUPP, libc::EMLINK]
                        .iter()
                        .any(|c| is(&e, *c)) => {}
                linked => return linked.map(|()| true),
            }
        }
        let copied = self.copy_file(entry, from, to)?;
        if let Some(id) = id.filter(|_| copied) {
            self.linked.entry(id).or_insert_with(|| entry.place.path());
        }
        Ok(copied)
    }

    /// Copies until nothing changes meanwhile, or for the last time.
    fn copy_file(&self, entry: &Entry, from: BorrowedFd, to: BorrowedFd) -> io::Result<bool> {
        let name = &entry.place.name;
        for look in 1.. {
            // Neither form is there: it is gone, or between the going of one and the coming of the
            // other.
            let source = Source::open(from, name)?;
            let Some(source) = source else {
                if look == LOOKS {
                    break;
                }
                thread::sleep(PAUSE);
                continue;
            };
            let taken = self.take(&source, name, to);
            let steady = source.is_steady(from);
            let doubtful = match (&taken, source.form) {
                (Err(_), _) | (Ok(_), Form::Raw) => !steady,
                // A torn append may be one that is being written.
                (Ok(taken), Form::Packed) => taken.torn && (!steady || look == 1),
            };
            if look == LOOKS || !doubtful {
                let placed = taken.and_then(|taken| match taken.there {
                    true => Ok(()),
                    false => self.place(to, name),
                });
                return match placed {
                    Ok(()) => Ok(true),
                    Err(e) => self.clear().and(Err(e)),
                };
            }
            self.clear()?;
            thread::sleep(PAUSE);
        }
        Ok(false)
    }

    /// Writes the unfinished file, complete and durable but for its name, or compares with what has
    /// the name already.
    fn take(&self, source: &Source, name: &OsStr, to: BorrowedFd) -> io::Result<Taken> {
        let index = source.index()?;
        let torn = index.as_ref().is_some_and(|index| index.torn > 0);
        if let Some(at) = index.as_ref().and_then(|index| index.lost_at) {
            return Err(frames::damaged(at, "frames are missing"));
        }
        let content = source.content(index.as_ref());
        if let Some(there) = stat(to, name)? {
            if !there.is(libc::S_IFREG) {
                return Err(in_the_way());
            }
            let file = &open(to, name)?;
            let size = there.size;
            return match compare(content, Content::Raw { file, size })? {
                true => Ok(Taken { there: true, torn }),
                false => Err(in_the_way()),
            };
        }
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
        let part: File = sys::open_at(self.to, OsStr::new(PART), flags, 0o600)?.into();
        write_plain(content, &part)?;
        carry_attributes(&source.file, &part)?;
        let (atime, mtime) = (source.stat.atime, source.mtime);
        sys::utimens(&part, SetTime::At(atime), SetTime::At(mtime))?;
        part.sync_all()?;
        Ok(Taken { there: false, torn })
    }

    /// Gives the unfinished file its name, unless that is taken.
    fn place(&self, to: BorrowedFd, name: &OsStr) -> io::Result<()> {
        let part = OsStr::new(PART);
        match sys::rename_at(self.to, part, to, name, libc::RENAME_NOREPLACE) {
            Err(e) if is(&e, libc::EEXIST) => {
                self.clear()?;
                Err(in_the_way())
            }
            placed => placed,
        }
    }

    // ---- what is no file ----------------------------------------------------------------------

    /// Symbolic links, pipes, sockets and devices.
    fn special(&self, entry: &Entry, from: BorrowedFd, to: BorrowedFd) -> io::Result<bool> {
        let (name, part) = (&entry.place.name, OsStr::new(PART));
        let link = entry.stat.is(libc::S_IFLNK);
        let source = match sys::open_at(from, name, libc::O_PATH, 0) {
            Err(e) if is(&e, libc::ENOENT) => return Ok(false),
            source => sys::fstat(source?)?,
        };
        let target = match link {
            true => Some(sys::readlink_at(from, name)?),
            false => None,
        };
        if let Some(there) = stat(to, name)? {
            let kind = |s: &Stat| (s.mode & libc::S_IFMT, s.rdev);
            let same = match &target {
                Some(target) => there.is(libc::S_IFLNK) && sys::readlink_at(to, name)? == *target,
                None => kind(&there) == kind(&source),
            };
            return if same { Ok(true) } else { Err(in_the_way()) };
        }
        match &target {
            Some(target) => sys::symlink_at(target, self.to, part)?,
            None => {
                let mode = source.mode & libc::S_IFMT | 0o600;
                sys::mknod_at(self.to, part, mode, source.rdev)?;
            }
        }
        self.attributes_of_special(&source, link)
            .and_then(|()| self.place(to, name))
            .inspect_err(|_| drop(self.clear()))
            .map(|()| true)
    }

    fn attributes_of_special(&self, source: &Stat, link: bool) -> io::Result<()> {
        let new = sys::open_at(self.to, OsStr::new(PART), libc::O_PATH, 0)?;
        match sys::chown(&new, Some(source.uid), Some(source.gid)) {
            // Only root may give files away.
            Err(e) if !is(&e, libc::EPERM) => return Err(e),
            _ => {}
        }
        if !link {
            sys::chmod(new.as_fd(), source.mode & 0o7777)?;
        }
        sys::utimens(&new, SetTime::At(source.atime), SetTime::At(source.mtime))
    }
}

/// A file that was read to its end.
struct Taken {
    /// It has its name already, and is equal.
    there: bool,
    /// Its last append was cut short.
    torn: bool,
}

fn make_dir(to: BorrowedFd, name: &OsStr) -> io::Result<()> {
    match sys::mkdir_at(to, name, 0o700) {
        Err(e) if is(&e, libc::EEXIST) => match stat(to, name)? {
            Some(there) if there.is(libc::S_IFDIR) => Ok(()),
            _ => Err(in_the_way()),
        },
        made => made,
    }
}

fn stat(dir: BorrowedFd, name: &OsStr) -> io::Result<Option<Stat>> {
    match sys::stat_at(dir, name) {
        Err(e) if is(&e, libc::ENOENT) => Ok(None),
        stat => stat.map(Some),
    }
}

fn open(dir: BorrowedFd, name: &OsStr) -> io::Result<File> {
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    sys::open_at(dir, name, flags, 0).map(File::from)
}

fn in_the_way() -> io::Error {
    io::Error::other("something else has this name there already and is never overwritten")
}

// ---- where it comes from ----------------------------------------------------------------------

/// A file of the store as it was when it was opened.
struct Source {
    stored: OsString,
    form: Form,
    file: File,
    stat: Stat,
    mtime: Time,
}

impl Source {
    /// Opens what a visible name stands for; `None` if that is nothing.
    fn open(dir: BorrowedFd, name: &OsStr) -> io::Result<Option<Source>> {
        let forms = [
            (Some(name.to_owned()), Form::Raw),
            (packed_name(name), Form::Packed),
        ];
        for (stored, form) in forms {
            let Some(stored) = stored else { continue };
            let file = match open(dir, &stored) {
                Err(e) if is(&e, libc::ENOENT) => continue,
                file => file?,
            };
            let stat = sys::fstat(&file)?;
            if !stat.is(libc::S_IFREG) {
                return Err(io::Error::other("it is no file any more"));
            }
            let noted = match form {
                Form::Raw => None,
                Form::Packed => sidecar_time(dir, name),
            };
            return Ok(Some(Source {
                stored,
                form,
                file,
                mtime: noted.unwrap_or(stat.mtime),
                stat,
            }));
        }
        Ok(None)
    }

    /// Whether nobody has changed it since.
    fn is_steady(&self, dir: BorrowedFd) -> bool {
        sys::stat_at(dir, &self.stored).is_ok_and(|now| {
            let seen = |s: &Stat| (s.dev, s.ino, s.size, s.mtime, s.ctime);
            seen(&now) == seen(&self.stat)
        })
    }

    fn index(&self) -> io::Result<Option<Index>> {
        match self.form {
            Form::Raw => Ok(None),
            Form::Packed => frames::index(&self.file, self.stat.size).map(Some),
        }
    }

    fn content<'s>(&'s self, index: Option<&'s Index>) -> Content<'s> {
        let (file, size) = (&self.file, self.stat.size);
        match index {
            Some(index) => Content::Packed { file, index },
            None => Content::Raw { file, size },
        }
    }
}
