//! `export`: plain copies of everything in a store, made without the mount.
//!
//! Reads the store itself, beside a daemon or without one, and writes nothing to it. What a daemon
//! changes while it is read is read again, as `verify` does. The names are those of the moment it
//! starts.
//!
//! Every file is written under one name at the top of the directory, [`PART`], synced, and renamed to
//! its own, which must be free. So whatever ends an export, a full disk or a kill, each name in the
//! directory is a whole file, and running it again goes on: what is there and equal is left as it is,
//! and what differs is told, never overwritten. Directories get their attributes last.
//!
//! Half a session must not look like one: a damaged one is told and not exported.

mod copy;

use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::frames;
use crate::names::{OWN, Place, is_reserved, visible_name};
use crate::progress::Progress;
use crate::store::{carry_attributes, carry_times};
use crate::survey;
use crate::sys::{self, Stat, errno, is};
use crate::{mounts, paths, size};
use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The one name in the directory that is no whole file.
pub const PART: &str = ".claude-cellar-export.part";
/// A file takes whole blocks.
const BLOCK: u64 = 4096;

/// Exports the configured store to a directory that is empty, missing, or from an export before, and
/// tells `out` about it.
pub fn run(config: &Config, dir: &Path, out: &mut dyn Write) -> Result<Exit, Failure> {
    let export = Export::prepare(&config.store_dir, dir)?;
    export.refuse_strangers()?;
    let done = export.run()?;
    tell(&done, dir, out)
        .map_err(|e| Failure::new(format!("cannot write the output: {e}")))
        .map(|()| match done.failed.is_empty() {
            true => Exit::Done,
            false => Exit::Failed,
        })
}

fn tell(done: &Exported, dir: &Path, out: &mut dyn Write) -> io::Result<()> {
    for Failed { path, why } in &done.failed {
        writeln!(out, "{}: not exported: {why}", path.display())?;
    }
    let (files, bytes) = (size::count(done.files, "file"), size::bytes(done.bytes));
    write!(out, "{}: {files}, {bytes}", dir.display())?;
    match done.failed.len() {
        0 => writeln!(out)?,
        failed => writeln!(out, "; {failed} not exported")?,
    }
    out.flush()
}

/// What an export did.
#[derive(Debug, Default)]
pub struct Exported {
    /// What is in the directory now and was in the store, but for directories.
    pub files: u64,
    /// Their sizes.
    pub bytes: u64,
    /// What is not there.
    pub failed: Vec<Failed>,
}

#[derive(Debug)]
pub struct Failed {
    /// Visible path beneath the store.
    pub path: PathBuf,
    pub why: String,
}

/// An export that can begin: everything is listed and there is space for it. Nothing is written yet.
pub struct Export {
    store: OwnedFd,
    /// Keeps repairs and migrations away.
    _lock: Option<File>,
    dir: PathBuf,
    /// Directories before what is in them.
    entries: Vec<Entry>,
    /// What could not be listed.
    failed: Vec<Failed>,
}

/// One visible entry of the store.
struct Entry {
    place: Place,
    stat: Stat,
    /// Its visible size.
    size: u64,
}

impl Entry {
    fn is_dir(&self) -> bool {
        self.stat.is(libc::S_IFDIR)
    }
}

impl Export {
    /// Looks at the store and the directory, which need not exist.
    pub fn prepare(store: &Path, dir: &Path) -> Result<Export, Failure> {
        let cannot = |reason: &dyn std::fmt::Display| Failure::at("cannot export", store, reason);
        let root: OwnedFd = File::open(store).map_err(|e| cannot(&e))?.into();
        let lock = share(root.as_fd()).map_err(|e| match is(&e, libc::EAGAIN) {
            true => cannot(&"a repair or a migration is at work on it").advise("wait for its end"),
            false => cannot(&e),
        })?;
        let dir = target(store, dir)?;
        let mut export = Export {
            store: root,
            _lock: lock,
            dir,
            entries: Vec::new(),
            failed: Vec::new(),
        };
        export.list().map_err(|e| cannot(&e))?;
        export.expect_space()?;
        Ok(export)
    }

    /// A directory with other things in it was probably not meant.
    pub fn refuse_strangers(&self) -> Result<(), Failure> {
        let cannot = |reason: &dyn std::fmt::Display| Failure::at(CANNOT, &self.dir, reason);
        let there = match File::open(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            dir => sys::read_dir(dir.map_err(|e| cannot(&e))?.as_fd()).map_err(|e| cannot(&e))?,
        };
        let top = |entry: &&Entry| entry.place.dir.as_os_str().is_empty();
        let known = self.entries.iter().filter(top).map(|e| &e.place.name);
        let known: HashSet<&OsString> = known.collect();
        match there
            .iter()
            .find(|e| e.name != PART && !known.contains(&e.name))
        {
            Some(stranger) => Err(cannot(&format!(
                "it holds {}, which is not from the store",
                stranger.name.display()
            ))
            .advise("name an empty directory, or one that does not exist")),
            None => Ok(()),
        }
    }

    // ---- what there is ------------------------------------------------------------------------

    /// Lists everything visible. What is not readable is noted, unless it is the store itself.
    fn list(&mut self) -> io::Result<()> {
        let mut dirs = vec![PathBuf::new()];
        while let Some(path) = dirs.pop() {
            match self.list_dir(&path) {
                Ok(entries) => {
                    let below = entries.iter().filter(|e| e.is_dir());
                    dirs.extend(below.map(|e| e.place.path()).rev());
                    self.entries.extend(entries);
                }
                Err(e) if path.as_os_str().is_empty() => return Err(e),
                Err(e) if is(&e, libc::ENOENT) => {}
                Err(e) => self.failed.push(Failed {
                    path,
                    why: e.to_string(),
                }),
            }
        }
        Ok(())
    }

    fn list_dir(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let dir = open_dir(self.store.as_fd(), path)?;
        let mut found: BTreeMap<OsString, Entry> = BTreeMap::new();
        for stored in sys::read_dir(dir.as_fd())? {
            let Some(name) = visible_name(&stored.name).filter(|n| !is_reserved(path, n)) else {
                continue;
            };
            // What vanishes meanwhile is not there.
            let Ok(stat) = sys::stat_at(dir.as_fd(), &stored.name) else {
                continue;
            };
            let packed = name != stored.name;
            if packed && (!stat.is(libc::S_IFREG) || found.contains_key(name)) {
                continue;
            }
            let size = match stat.mode & libc::S_IFMT {
                libc::S_IFREG if packed => unpacked_size(dir.as_fd(), &stored.name, &stat),
                libc::S_IFREG => stat.size,
                _ => 0,
            };
            let place = Place {
                dir: path.to_owned(),
                name: name.to_owned(),
            };
            found.insert(name.to_owned(), Entry { place, stat, size });
        }
        Ok(found.into_values().collect())
    }

    /// There must be space for all that is not there yet.
    fn expect_space(&self) -> Result<(), Failure> {
        let cannot = |e: io::Error| Failure::at(CANNOT, &self.dir, e);
        let there = File::open(&self.dir).ok().map(OwnedFd::from);
        let exported = |entry: &&Entry| {
            let path = entry.place.path();
            there.as_ref().is_some_and(|there| {
                sys::open_beneath(there.as_fd(), path.as_os_str(), libc::O_PATH)
                    .and_then(sys::fstat)
                    .is_ok_and(|found| found.is(libc::S_IFREG) && found.size == entry.size)
            })
        };
        let mut seen = HashSet::new();
        let files = self.entries.iter().filter(|e| e.stat.is(libc::S_IFREG));
        let once = files.filter(|e| seen.insert((e.stat.dev, e.stat.ino)));
        let needed: u64 = once
            .filter(|entry| !exported(entry))
            .map(|entry| entry.size.div_ceil(BLOCK).saturating_mul(BLOCK))
            .fold(0, u64::saturating_add);
        let space = mounts::statvfs(existing(&self.dir)).map_err(cannot)?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        if needed > free {
            let (needed, free) = (size::bytes(needed), size::bytes(free));
            let reason = format!("it takes {needed} and {free} are free; nothing was written");
            return Err(Failure::at(CANNOT, &self.dir, reason)
                .advise("free some, or name another directory"));
        }
        Ok(())
    }

    // ---- copying ------------------------------------------------------------------------------

    /// Copies everything.
    pub fn run(mut self) -> Result<Exported, Failure> {
        let cannot = |e: io::Error| Failure::at(CANNOT, &self.dir, e);
        paths::create_private(&self.dir).map_err(cannot)?;
        let to: OwnedFd = File::open(&self.dir).map_err(cannot)?.into();
        let mut done = Exported {
            failed: std::mem::take(&mut self.failed),
            ..Exported::default()
        };
        let progress = Progress::new("exporting");
        let all: u64 = self.entries.iter().map(|entry| entry.size).sum();
        let mut copier = copy::Copier::new(self.store.as_fd(), to.as_fd());
        copier.clear().map_err(cannot)?;
        for entry in &self.entries {
            progress.show(|| format!("{} of {}", size::bytes(done.bytes), size::bytes(all)));
            match copier.copy(entry) {
                Ok(true) if !entry.is_dir() => {
                    (done.files, done.bytes) = (done.files + 1, done.bytes + entry.size);
                }
                Ok(_) => {}
                Err(e) if ends_all(&e) => {
                    let _ = copier.clear();
                    return Err(cannot(e)
                        .advise("what is there is whole; run it again when there is space"));
                }
                Err(e) => done.failed.push(Failed {
                    path: entry.place.path(),
                    why: e.to_string(),
                }),
            }
        }
        copier.clear().map_err(cannot)?;
        for entry in self.entries.iter().rev().filter(|entry| entry.is_dir()) {
            let path = entry.place.path();
            match self.finish_dir(to.as_fd(), &path) {
                Err(e) if !is(&e, libc::ENOENT) => done.failed.push(Failed {
                    path,
                    why: e.to_string(),
                }),
                _ => {}
            }
        }
        self.finish(to).map_err(cannot)?;
        Ok(done)
    }

    /// Writing into a directory moves its time, and may need another mode than it is to have.
    fn finish_dir(&self, to: BorrowedFd, path: &Path) -> io::Result<()> {
        let from: File = open_dir(self.store.as_fd(), path)?.into();
        let to: File = open_dir(to, path)?.into();
        carry_attributes(&from, &to)?;
        carry_times(&from, &to)?;
        to.sync_all()
    }

    /// The directory itself stays its owner's but for its times, and its name becomes durable.
    fn finish(&self, to: OwnedFd) -> io::Result<()> {
        let (from, to) = (File::from(self.store.try_clone()?), File::from(to));
        match carry_times(&from, &to) {
            Err(e) if !is(&e, libc::EPERM) => return Err(e),
            _ => to.sync_all()?,
        }
        match self.dir.parent().map(File::open) {
            // Whoever may not read it did not make a directory in it either.
            Some(Ok(parent)) => parent.sync_all(),
            _ => Ok(()),
        }
    }
}

const CANNOT: &str = "cannot export to";

/// No other file would fare better.
fn ends_all(error: &io::Error) -> bool {
    let codes = [libc::ENOSPC, libc::EDQUOT, libc::EROFS];
    codes.iter().any(|code| is(error, *code))
}

/// The store's lock, shared, as a daemon holds it; a store without one was never used by us.
fn share(store: BorrowedFd) -> io::Result<Option<File>> {
    let path = Path::new(OWN).join("lock");
    let lock = match sys::open_beneath(store, path.as_os_str(), libc::O_RDONLY) {
        Err(e) if is(&e, libc::ENOENT) => return Ok(None),
        lock => File::from(lock?),
    };
    match sys::ofd_lock(&lock, libc::F_RDLCK, false) {
        Err(e) if is(&e, libc::ENOLCK) || is(&e, libc::EOPNOTSUPP) || is(&e, libc::ENOSYS) => {
            Ok(None)
        }
        done => done.map(|()| Some(lock)),
    }
}

/// The directory's path without symbolic links, if it can be exported to.
fn target(store: &Path, dir: &Path) -> Result<PathBuf, Failure> {
    let cannot = |reason: &dyn std::fmt::Display| Failure::at(CANNOT, dir, reason);
    let resolved = paths::resolve(&std::path::absolute(dir).map_err(|e| cannot(&e))?);
    if paths::overlap(&resolved, &paths::resolve(store)) {
        let reason = "it lies in the store or around it";
        return Err(cannot(&reason).advise("name a directory elsewhere"));
    }
    let existing = File::open(existing(&resolved)).map_err(|e| cannot(&e))?;
    if mounts::in_cellar(&existing).map_err(|e| cannot(&e))? {
        return Err(cannot(&"it lies in the mounted cellar").advise("name a directory elsewhere"));
    }
    if resolved.exists() && !resolved.is_dir() {
        return Err(cannot(&errno(libc::ENOTDIR)));
    }
    Ok(resolved)
}

/// The path, or what of it exists.
fn existing(path: &Path) -> &Path {
    let exists = |dir: &&Path| dir.symlink_metadata().is_ok();
    path.ancestors().find(exists).unwrap_or(path)
}

fn open_dir(root: BorrowedFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    sys::open_beneath(root, path.as_os_str(), flags)
}

/// A session's size; that of its store file where nothing tells.
fn unpacked_size(dir: BorrowedFd, stored: &OsStr, stat: &Stat) -> u64 {
    let look = || {
        let flags = libc::O_RDONLY | libc::O_NONBLOCK;
        let file: File = sys::open_at(dir, stored, flags, 0).ok()?.into();
        Some(frames::index(&file, stat.size).ok()?.ends.logical)
    };
    match survey::look(dir, stored, stat.size) {
        Some(hint) => hint.logical,
        None => look().unwrap_or(stat.size),
    }
}
