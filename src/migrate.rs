//! Taking a directory of sessions into a store: adoption, `install`, `migrate-store` and `import`.
//!
//! One engine for all of them. Whatever lies in the source comes to lie under the same path in the
//! store: plain and compressed sessions, 0.3.0's sidecars, bundles, links, everything else, with
//! modes, times and attributes. *Adopt* moves, by `rename` where both are on one file system, and
//! leaves compressing to the daemon. *Migrate* moves and compresses on the way, at the fold's level,
//! on two processors. *Import* does the same and leaves the source alone.
//!
//! Nothing is removed before what takes its place is complete, compared and durable, so a kill at
//! any instant leaves every file on one side or on both, equal; running again goes on from there.
//! What is on both sides and differs is merged (`merge`), or the newer stays and the older goes to
//! `.cellar/recovered`. One entry that cannot be taken does not stop the others; a full disk does.
//!
//! Every path is resolved beneath the two directories' descriptors and no link is followed, so an
//! adoption can look beneath a mountpoint that has been mounted over since.

mod copy;
mod inventory;
mod merge;

pub use inventory::{Inventory, inventory, is_flat, note_flat};

use crate::export::PART;
use crate::frames::{Encoder, LEVEL_FOLD};
use crate::names::{Form, OWN, Place, is_session, packed_name, visible_name};
use crate::progress::Progress;
use crate::session;
use crate::shared::Shared;
use crate::size;
use crate::store::{Found, Temporary, carry_attributes, carry_times, sync_dir};
use crate::sys::{self, SetTime, Stat, errno, is};
use copy::{Links, same};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// In the source's top directory: what nobody is to write to any more, on its way out.
const ASIDE: &str = ".cellar-adopting";

const WORKERS: usize = 2;
/// Files whose copies are synced together: the first sync pays for all of them.
const BATCH: usize = 64;
/// Projects are finished together until they have this many files to copy.
const FULL: usize = 1024;
/// Progress is looked at this often when nothing else happens.
const TICK: Duration = Duration::from_millis(200);
/// What changes while it is copied is copied again this often.
const PASSES: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    Adopt,
    Migrate,
    Import,
}

/// What came of it.
#[derive(Default, Debug)]
pub struct Taken {
    /// Entries moved or copied; a directory that was moved whole counts as one.
    pub entries: u64,
    /// Sessions that were on both sides and lacked something of each other.
    pub merged: u64,
    /// Files that went to `.cellar/recovered`.
    pub recovered: u64,
    /// What was left where it is, and why.
    pub failures: Vec<(PathBuf, io::Error)>,
}

impl Taken {
    pub fn add(&mut self, other: Taken) {
        self.entries += other.entries;
        self.merged += other.merged;
        self.recovered += other.recovered;
        self.failures.extend(other.failures);
    }
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = match self.entries {
            1 => "1 entry".to_owned(),
            n => format!("{n} entries"),
        };
        write!(f, "{entries} moved")?;
        if self.merged > 0 {
            write!(f, ", {} merged", size::count(self.merged, "session"))?;
        }
        if self.recovered > 0 {
            let kept = size::count(self.recovered, "file");
            write!(f, ", {kept} kept in {OWN}/recovered")?;
        }
        Ok(())
    }
}

/// One directory on its way into a store.
pub struct Migration {
    shared: Arc<Shared>,
    how: How,
    /// The source's top directory.
    top: OwnedFd,
    /// Where it comes to lie beneath the store.
    to: PathBuf,
    /// The source is the directory the store is in, so what is in its place stays there.
    within: bool,
    taken: Taken,
    links: Links,
    batch: Batch,
    /// Something changed while it was taken and is to be looked at again.
    changed: bool,
    total: u64,
    started: Instant,
    done: AtomicU64,
}

/// What is finished only when all of a directory's files are durable.
#[derive(Default)]
struct Batch {
    jobs: Vec<Job>,
    /// Store directories with new names.
    unsynced: BTreeSet<PathBuf>,
    /// Source files that have a durable copy.
    removals: Vec<(PathBuf, OsString, Stat)>,
    /// Source directories, deepest first, and what those looked like whose copy is new.
    left: Vec<(PathBuf, Option<Stat>)>,
}

/// A file to copy.
struct Job {
    dir: PathBuf,
    name: OsString,
    place: Place,
    form: Form,
}

/// A finished copy that is not in its place yet.
struct Copied<'a> {
    job: usize,
    temporary: Temporary<'a>,
    stat: Stat,
}

impl Migration {
    /// Takes what is in `top` to `to` beneath the store.
    pub fn new(shared: Arc<Shared>, top: OwnedFd, to: &Path, how: How) -> io::Result<Migration> {
        let (source, root) = (sys::fstat(&top)?, sys::fstat(shared.store.root())?);
        Ok(Migration {
            shared,
            how,
            within: (source.dev, source.ino) == (root.dev, root.ino),
            top,
            to: to.to_owned(),
            taken: Taken::default(),
            links: Links::default(),
            batch: Batch::default(),
            changed: false,
            total: 0,
            started: Instant::now(),
            done: AtomicU64::new(0),
        })
    }

    /// Shows progress towards this many bytes.
    pub fn expect(&mut self, bytes: u64) {
        self.total = bytes;
    }

    /// Takes everything; an error is one that the remaining entries would meet too.
    pub fn run(mut self) -> io::Result<Taken> {
        self.finish_merges()?;
        for _ in 0..PASSES {
            self.taken.failures.clear();
            self.changed = false;
            self.pass()?;
            if !self.changed {
                break;
            }
        }
        if self.changed {
            let reason = io::Error::other("something is writing to it all the time");
            self.taken.failures.push((PathBuf::from("."), reason));
        }
        sync_dir(self.top.as_fd())?;
        Ok(self.taken)
    }

    /// Goes through the source once.
    fn pass(&mut self) -> io::Result<()> {
        let like = sys::fstat(&self.top)?;
        self.make_dir(&self.to.clone(), Some(&like))?;
        for entry in sorted(self.top.as_fd())? {
            let here = self.within && self.to.starts_with(&entry);
            if !is_own(&entry) && !here {
                self.entry(Path::new(""), &entry)?;
                if self.batch.jobs.len() >= FULL {
                    self.finish_batch()?;
                }
            }
        }
        self.finish_batch()
    }

    /// Takes one entry, or notes why it stays.
    fn entry(&mut self, dir: &Path, name: &OsStr) -> io::Result<()> {
        match self.take(dir, name) {
            Err(e) if is_full(&e) => Err(e),
            // Gone since its name was read.
            Err(e) if is(&e, libc::ENOENT) => Ok(()),
            Err(e) if is(&e, libc::EAGAIN) || is(&e, libc::EEXIST) => {
                self.changed = true;
                Ok(())
            }
            Err(e) => {
                self.taken.failures.push((dir.join(name), e));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn take(&mut self, dir: &Path, name: &OsStr) -> io::Result<()> {
        let source = self.source(dir)?;
        let stat = sys::stat_at(source.as_fd(), name)?;
        if stat.is(libc::S_IFDIR) {
            return self.take_dir(source.as_fd(), dir, name, &stat);
        }
        let visible = visible_name(name).filter(|visible| is_session(visible));
        match visible {
            Some(visible) if stat.is(libc::S_IFREG) => {
                let place = self.place(dir, visible);
                self.take_session(source.as_fd(), dir, name, &stat, place)
            }
            _ => {
                let place = self.place(dir, name);
                self.take_other(source.as_fd(), dir, name, &stat, place)
            }
        }
    }

    fn source(&self, dir: &Path) -> io::Result<OwnedFd> {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        sys::open_beneath(self.top.as_fd(), dir.as_os_str(), flags)
    }

    /// What the store has under a visible name.
    fn find(&self, parent: BorrowedFd, name: &OsStr) -> io::Result<Option<Found>> {
        match self.shared.store.find(parent, name) {
            Err(e) if is(&e, libc::ENOENT) => Ok(None),
            found => found.map(Some),
        }
    }

    fn place(&self, dir: &Path, name: &OsStr) -> Place {
        Place {
            dir: self.to.join(dir),
            name: name.to_owned(),
        }
    }

    // ---- directories --------------------------------------------------------------------------

    fn take_dir(
        &mut self,
        source: BorrowedFd,
        dir: &Path,
        name: &OsStr,
        stat: &Stat,
    ) -> io::Result<()> {
        let place = self.place(dir, name);
        let parent = self.shared.store.dir(&place.dir)?;
        let there = self.find(parent.as_fd(), name)?;
        if there.is_some_and(|there| !there.stat.is(libc::S_IFDIR)) {
            let reason = "the store has something that is no directory under this name";
            return Err(io::Error::other(reason));
        }
        let whole = there.is_none() && self.moves_whole(&place);
        if whole && self.move_entry(source, name, parent.as_fd(), &place)? {
            return Ok(());
        }
        let path = dir.join(name);
        let made = there.is_none();
        if made {
            self.make_dir(&place.path(), Some(stat))?;
        }
        let entries = sorted(self.source(&path)?.as_fd())?;
        for entry in &entries {
            self.entry(&path, entry)?;
        }
        self.batch.left.push((path, made.then_some(*stat)));
        Ok(())
    }

    /// Whether a directory needs no look inside.
    fn moves_whole(&self, place: &Place) -> bool {
        match self.how {
            How::Adopt => true,
            How::Import => false,
            How::Migrate => {
                let session = OsString::from("x.jsonl");
                let inside = Place {
                    dir: place.path(),
                    name: session,
                };
                !self.shared.store.compresses(&inside)
            }
        }
    }

    /// Makes a directory of the store, and those above it.
    fn make_dir(&mut self, path: &Path, like: Option<&Stat>) -> io::Result<()> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(());
        };
        self.make_dir(parent, None)?;
        let dir = self.shared.store.dir(parent)?;
        // The owner's rights come with the source's mode once everything is inside.
        let mode = like.map_or(0o700, |stat| stat.mode & 0o7777 | 0o700);
        match sys::mkdir_at(dir.as_fd(), name, mode) {
            Err(e) if is(&e, libc::EEXIST) => Ok(()),
            made => {
                made?;
                self.batch.unsynced.insert(parent.to_owned());
                Ok(())
            }
        }
    }

    // ---- files --------------------------------------------------------------------------------

    fn take_session(
        &mut self,
        source: BorrowedFd,
        dir: &Path,
        name: &OsStr,
        stat: &Stat,
        place: Place,
    ) -> io::Result<()> {
        let form = if name == place.name {
            Form::Raw
        } else {
            Form::Packed
        };
        if form == Form::Packed {
            if sys::stat_at(source, &place.name).is_ok() {
                return self.settle(source, name, stat, &place);
            }
            if self.how != How::Import {
                self.shared.store.apply_sidecar(source, &place.name)?;
            }
        }
        let parent = self.shared.store.dir(&place.dir)?;
        if let Some(found) = self.find(parent.as_fd(), &place.name)? {
            return self.merge(source, dir, name, stat, &place, &found);
        }
        let compress = self.how != How::Adopt
            && form == Form::Raw
            && stat.nlink == 1
            && self.links.get(stat).is_none()
            && self.shared.store.compresses(&place);
        if !compress
            && self.how != How::Import
            && self.move_entry(source, name, parent.as_fd(), &place)?
        {
            return self.check_forms(source, name, parent.as_fd(), &place, form);
        }
        self.copy_entry(
            dir,
            name,
            stat,
            place,
            if compress { Form::Packed } else { form },
        )
    }

    /// Somebody may have made the other form of a session in the moment before this one came.
    fn check_forms(
        &mut self,
        source: BorrowedFd,
        name: &OsStr,
        parent: BorrowedFd,
        place: &Place,
        form: Form,
    ) -> io::Result<()> {
        let other = match form {
            Form::Raw => packed_name(&place.name),
            Form::Packed => Some(place.name.clone()),
        };
        if other.is_none_or(|other| sys::stat_at(parent, &other).is_err()) {
            return Ok(());
        }
        sys::rename_at(parent, name, source, name, libc::RENAME_NOREPLACE)?;
        Err(errno(libc::EAGAIN))
    }

    fn take_other(
        &mut self,
        source: BorrowedFd,
        dir: &Path,
        name: &OsStr,
        stat: &Stat,
        place: Place,
    ) -> io::Result<()> {
        let parent = self.shared.store.dir(&place.dir)?;
        if let Some(Found { form, stat: there }) = self.find(parent.as_fd(), name)? {
            if form == Form::Raw
                && same_content(source, parent.as_fd(), name, stat, &there, &self.shared)?
            {
                return self.remove(dir, name, stat);
            }
            if there.is(libc::S_IFDIR) || there.mtime >= stat.mtime {
                return self.recover(source, name, stat, &place);
            }
            let store = &self.shared.store;
            store.recover_file(&place, parent.as_fd(), &store.stored_name(name, form)?)?;
            self.taken.recovered += 1;
        }
        if self.how != How::Import && self.move_entry(source, name, parent.as_fd(), &place)? {
            return Ok(());
        }
        if stat.is(libc::S_IFREG) {
            return self.copy_entry(dir, name, stat, place, Form::Raw);
        }
        let make = |to: BorrowedFd, new: &OsStr| copy::special(source, name, stat, to, new);
        self.shared.store.place_made(parent.as_fd(), name, make)?;
        self.copied(dir, name, stat, &place)
    }

    /// Moves an entry to its place. False if it lies on another file system.
    fn move_entry(
        &mut self,
        source: BorrowedFd,
        name: &OsStr,
        parent: BorrowedFd,
        place: &Place,
    ) -> io::Result<bool> {
        match sys::rename_at(source, name, parent, name, libc::RENAME_NOREPLACE) {
            Err(e) if is(&e, libc::EXDEV) => return Ok(false),
            moved => moved?,
        }
        self.taken.entries += 1;
        self.batch.unsynced.insert(place.dir.clone());
        Ok(true)
    }

    /// Has a regular file copied; one with several links by whoever comes first.
    fn copy_entry(
        &mut self,
        dir: &Path,
        name: &OsStr,
        stat: &Stat,
        place: Place,
        form: Form,
    ) -> io::Result<()> {
        let store = &self.shared.store;
        let stored = store.stored_name(&place.name, form)?;
        if let Some(first) = self.links.get(stat) {
            let to = store.dir(&place.dir)?;
            let from = store.dir(&first.dir)?;
            sys::link_at(from.as_fd(), &first.name, to.as_fd(), &stored)?;
            return self.copied(dir, name, stat, &place);
        }
        let job = Job {
            dir: dir.to_owned(),
            name: name.to_owned(),
            place,
            form,
        };
        if stat.nlink == 1 {
            self.batch.jobs.push(job);
            return Ok(());
        }
        let mut encoder = Encoder::new(LEVEL_FOLD)?;
        let (temporary, stat) = self.copy(&job, &mut encoder)?;
        temporary.file.sync_all()?;
        let parent = self.shared.store.dir(&job.place.dir)?;
        temporary.place_new(parent.as_fd(), &stored)?;
        self.links.put(
            &stat,
            Place {
                dir: job.place.dir.clone(),
                name: stored,
            },
        );
        self.copied(dir, name, &stat, &job.place)
    }

    /// Notes that an entry has its copy.
    fn copied(&mut self, dir: &Path, name: &OsStr, stat: &Stat, place: &Place) -> io::Result<()> {
        self.taken.entries += 1;
        self.batch.unsynced.insert(place.dir.clone());
        self.remove(dir, name, stat)
    }

    /// Has a source file removed when its copy is durable.
    fn remove(&mut self, dir: &Path, name: &OsStr, stat: &Stat) -> io::Result<()> {
        if self.how != How::Import {
            self.batch
                .removals
                .push((dir.to_owned(), name.to_owned(), *stat));
        }
        Ok(())
    }

    /// Keeps a source file that has no place in the store as something to look at.
    fn recover(
        &mut self,
        source: BorrowedFd,
        name: &OsStr,
        stat: &Stat,
        place: &Place,
    ) -> io::Result<()> {
        if self.how == How::Import {
            return Ok(());
        }
        let store = &self.shared.store;
        match store.recover_file(place, source, name) {
            Err(e) if is(&e, libc::EXDEV) => {
                if stat.is(libc::S_IFREG) {
                    let mut file = store.open_file(source, name, libc::O_RDONLY)?;
                    store.recover_bytes(place, &mut file)?;
                } else {
                    store.recover(place, |to, new| copy::special(source, name, stat, to, new))?;
                }
                match same(&sys::stat_at(source, name)?, stat) {
                    true => sys::unlink_at(source, name)?,
                    false => self.changed = true,
                }
            }
            done => drop(done?),
        }
        self.taken.recovered += 1;
        Ok(())
    }

    // ---- copies, on two processors ------------------------------------------------------------

    /// Copies what waits, makes it durable, then removes what has been copied.
    fn finish_batch(&mut self) -> io::Result<()> {
        let jobs = std::mem::take(&mut self.batch.jobs);
        for (job, outcome) in self.copy_all(&jobs)? {
            let Job {
                dir, name, place, ..
            } = &jobs[job];
            match outcome {
                Ok(stat) => self.copied(dir, name, &stat, place)?,
                Err(e) if is(&e, libc::EAGAIN) || is(&e, libc::EEXIST) => self.changed = true,
                Err(e) if is(&e, libc::ENOENT) => {}
                Err(e) if is_full(&e) => return Err(e),
                Err(e) => self.taken.failures.push((dir.join(name), e)),
            }
        }
        let batch = std::mem::take(&mut self.batch);
        // Before anything is removed: that changes the times of the source.
        for (dir, was) in &batch.left {
            if let Some(was) = was
                && let Err(e) = self.finish_dir(dir, was)
            {
                self.taken.failures.push((dir.clone(), e));
            }
        }
        for dir in &batch.unsynced {
            sync_dir(self.shared.store.dir(dir)?.as_fd())?;
        }
        for (dir, name, stat) in &batch.removals {
            match self.remove_now(dir, name, stat) {
                // Somebody else has removed it.
                Err(e) if is(&e, libc::ENOENT) => {}
                Err(e) if is_full(&e) => return Err(e),
                Err(e) => self.taken.failures.push((dir.join(name), e)),
                Ok(()) => {}
            }
        }
        for (dir, ..) in &batch.removals {
            self.drop_aside(dir);
        }
        if self.how != How::Import {
            for (dir, _) in batch.left {
                match self.leave_dir(&dir) {
                    // Because of what could not be taken, or because something new has come.
                    Err(e) if is(&e, libc::ENOTEMPTY) || is(&e, libc::EEXIST) => {
                        let failed = &self.taken.failures;
                        self.changed |= !failed.iter().any(|(path, _)| path.starts_with(&dir));
                    }
                    Err(e) if is(&e, libc::ENOENT) => {}
                    Err(e) => self.taken.failures.push((dir, e)),
                    Ok(()) => {}
                }
            }
        }
        Ok(())
    }

    /// Removes a source file that has a durable copy. A client may be writing to it at this moment: it
    /// goes aside first, and what has come since the copy was made is taken too.
    fn remove_now(&mut self, dir: &Path, name: &OsStr, stat: &Stat) -> io::Result<()> {
        let path = dir.join(name);
        let aside = self.put_aside(dir, name)?;
        let store = &self.shared.store;
        let quiet = !stat.is(libc::S_IFREG)
            || merge::wait_for_writers(&store.open_file(aside.as_fd(), name, libc::O_RDONLY)?);
        if quiet && same(&sys::stat_at(aside.as_fd(), name)?, stat) {
            return sys::unlink_at(aside.as_fd(), name);
        }
        self.finish_aside_entry(&path)
    }

    /// Makes a new directory look like the one it is a copy of, when everything is inside.
    fn finish_dir(&self, dir: &Path, was: &Stat) -> io::Result<()> {
        let source = File::from(self.source(dir)?);
        let path = self.to.join(dir);
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        let copy = sys::open_beneath(self.shared.store.root(), path.as_os_str(), flags)?;
        let copy = File::from(copy);
        carry_attributes(&source, &copy)?;
        sys::utimens(&copy, SetTime::At(was.atime), SetTime::At(was.mtime))
    }

    /// Removes a source directory if it is empty.
    fn leave_dir(&self, dir: &Path) -> io::Result<()> {
        match (dir.parent(), dir.file_name()) {
            (Some(parent), Some(name)) => sys::rmdir_at(self.source(parent)?.as_fd(), name),
            _ => Ok(()),
        }
    }

    /// Copies all jobs; what came of each, in no order.
    fn copy_all(&self, jobs: &[Job]) -> io::Result<Vec<(usize, io::Result<Stat>)>> {
        let next = AtomicUsize::new(0);
        let progress = Progress::new(match self.how {
            How::Adopt => "moving",
            How::Migrate => "migrating",
            How::Import => "importing",
        });
        thread::scope(|scope| {
            let (send, receive) = mpsc::channel();
            for _ in 0..WORKERS.min(jobs.len()) {
                let (send, next) = (send.clone(), &next);
                scope.spawn(move || self.work(jobs, next, &send));
            }
            drop(send);
            let mut outcomes = Vec::with_capacity(jobs.len());
            loop {
                match receive.recv_timeout(TICK) {
                    Ok(outcome) => outcomes.push(outcome),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return Ok(outcomes),
                }
                progress.show(|| self.rate());
            }
        })
    }

    fn rate(&self) -> String {
        let done = self.done.load(Ordering::Relaxed);
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = done as f64 / seconds.max(0.001);
        let left = self.total.saturating_sub(done) as f64 / rate.max(1.0);
        format!(
            "{} of {}, {}/s, {} left",
            size::bytes(done),
            size::bytes(self.total.max(done)),
            size::bytes(rate as u64),
            size::duration(Duration::from_secs_f64(left.min(1e9)))
        )
    }

    /// One worker: copies, syncs a batch of copies together, puts them in their places.
    fn work(
        &self,
        jobs: &[Job],
        next: &AtomicUsize,
        send: &mpsc::Sender<(usize, io::Result<Stat>)>,
    ) {
        let mut encoder = Encoder::new(LEVEL_FOLD);
        let mut waiting = Vec::with_capacity(BATCH);
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= jobs.len() || waiting.len() == BATCH {
                for Copied {
                    job,
                    temporary,
                    stat,
                } in waiting.drain(..)
                {
                    let placed = self.put(&jobs[job], temporary).map(|()| stat);
                    let _ = send.send((job, placed));
                }
            }
            let Some(job) = jobs.get(n) else { return };
            let copied = match &mut encoder {
                Ok(encoder) => self.copy(job, encoder),
                Err(e) => Err(io::Error::new(e.kind(), e.to_string())),
            };
            match copied {
                Ok((temporary, stat)) => waiting.push(Copied {
                    job: n,
                    temporary,
                    stat,
                }),
                Err(e) => {
                    let _ = send.send((n, Err(e)));
                }
            }
        }
    }

    /// Makes a compared copy, durable only once it is synced. EAGAIN if the source changed meanwhile.
    fn copy(&self, job: &Job, encoder: &mut Encoder) -> io::Result<(Temporary<'_>, Stat)> {
        let store = &self.shared.store;
        let source = self.source(&job.dir)?;
        let file = store.open_file(source.as_fd(), &job.name, libc::O_RDONLY)?;
        let stat = sys::fstat(&file)?;
        if !stat.is(libc::S_IFREG) {
            return Err(errno(libc::EAGAIN));
        }
        let temporary = store.temporary()?;
        let packs = job.form == Form::Packed && job.name == job.place.name;
        let copied = if packs {
            copy::compress(&file, stat.size, &temporary.file, encoder)
                .and_then(|ends| session::finish_unsynced(&file, &temporary.file, &ends))
        } else {
            copy::plain(&file, stat.size, &temporary.file)
                .and_then(|()| carry_attributes(&file, &temporary.file))
                .and_then(|()| carry_times(&file, &temporary.file))
        };
        let now = sys::fstat(&file)?;
        if !same(&now, &stat) {
            return Err(errno(libc::EAGAIN));
        }
        copied?;
        self.done.fetch_add(stat.size, Ordering::Relaxed);
        Ok((temporary, stat))
    }

    fn put(&self, job: &Job, temporary: Temporary) -> io::Result<()> {
        temporary.file.sync_all()?;
        let store = &self.shared.store;
        let dir = store.dir(&job.place.dir)?;
        match store.find(dir.as_fd(), &job.place.name) {
            Err(e) if is(&e, libc::ENOENT) => {}
            Err(e) => return Err(e),
            Ok(Found { .. }) => return Err(errno(libc::EEXIST)),
        }
        temporary.place_new(dir.as_fd(), &store.stored_name(&job.place.name, job.form)?)
    }
}

/// Whether the remaining entries would meet this error too.
pub fn is_full(e: &io::Error) -> bool {
    [libc::ENOSPC, libc::EDQUOT, libc::EROFS]
        .iter()
        .any(|code| is(e, *code))
}

/// Whether a name in the source's top directory is the cellar's.
fn is_own(name: &OsStr) -> bool {
    name == OWN || name == PART || name.as_encoded_bytes().starts_with(ASIDE.as_bytes())
}

/// The names in a directory, in order: what is done can be foretold and repeated. A session's packed
/// form comes before the plain one beside it, and sidecars come last.
fn sorted(dir: BorrowedFd) -> io::Result<Vec<OsString>> {
    let mut names: Vec<OsString> = sys::read_dir(dir)?.into_iter().map(|e| e.name).collect();
    names.sort_by_cached_key(|name| match visible_name(name) {
        Some(visible) => (false, visible.to_owned(), visible == name),
        None => (true, name.clone(), true),
    });
    Ok(names)
}

fn same_content(
    source: BorrowedFd,
    parent: BorrowedFd,
    name: &OsStr,
    a: &Stat,
    b: &Stat,
    shared: &Shared,
) -> io::Result<bool> {
    match (a.mode & libc::S_IFMT, b.mode & libc::S_IFMT) {
        (libc::S_IFREG, libc::S_IFREG) if a.size == b.size => {
            let a = shared.store.open_file(source, name, libc::O_RDONLY)?;
            let b = shared.store.open_file(parent, name, libc::O_RDONLY)?;
            copy::equal(&a, &b)
        }
        (libc::S_IFLNK, libc::S_IFLNK) => {
            Ok(sys::readlink_at(source, name)? == sys::readlink_at(parent, name)?)
        }
        (x, y) => Ok(x == y && ![libc::S_IFREG, libc::S_IFDIR].contains(&x) && a.rdev == b.rdev),
    }
}
