//! One file of the mount: its single state, shared by every descriptor.
//!
//! Two writers see each other's bytes at once because there is only one copy: the store file. A file
//! is in one of two forms. *Packed* (sessions): an append adds one frame and its commit trailer in
//! one write, so what a `write()` returned for survives a kill; nothing is kept in memory that a kill
//! could lose. *Raw* (everything else, and sessions that were overwritten in the middle, extended or
//! linked): bytes go straight through.
//!
//! Invariants: the state's lock is held while the store file is changed, and so is the store file's
//! own lock against other hosts; after taking both, the file is looked at again, because another host
//! may have replaced it. `version` changes with every change that is not an append. A packed file is
//! never changed before its end but by replacing it whole, with one exception that loses nothing: a
//! cut on a frame boundary. What the state remembers is valid for one `Stamp` of the store file only.

mod read;
mod reshape;
mod write;

pub use reshape::{Replacement, Snapshot, finish, finish_unsynced};

use crate::cache::lock;
use crate::frames::{self, Ends, Index};
use crate::names::{Form, Place};
use crate::pool;
use crate::shared::Shared;
use crate::store::{Found, Hint, Store, sync_dir};
use crate::sys::{self, Stat, Time, errno, is};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

/// An index larger than this is not kept for a file nobody has open.
const INDEX_KEPT: usize = 1024;
/// A store file larger than this is not walked on a request thread.
const QUICK_WALK: u64 = 256 << 10;

/// What tells one state of a store file from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: Time,
}

impl Stamp {
    fn of(stat: &Stat) -> Stamp {
        Stamp {
            dev: stat.dev,
            ino: stat.ino,
            size: stat.size,
            mtime: stat.mtime,
        }
    }
}

/// An open store file.
pub struct Body {
    pub file: File,
    pub form: Form,
    writable: bool,
}

impl Body {
    fn open(file: File, form: Form, writable: bool) -> Arc<Body> {
        Arc::new(Body {
            file,
            form,
            writable,
        })
    }
}

/// What is known of the store file while it has this stamp.
#[derive(Clone, Copy)]
struct Known {
    stamp: Stamp,
    ends: Ends,
    torn: u64,
    /// Its end was not written by us.
    foreign: bool,
}

#[derive(Default)]
struct State {
    body: Option<Arc<Body>>,
    opens: u32,
    known: Option<Known>,
    index: Option<Index>,
    version: u64,
    /// The size found without opening the file.
    seen_size: Option<(Stamp, u64)>,
    /// After a seal: the store file's new ctime and the one to show for it.
    shown_ctime: Option<(Time, Time)>,
    /// The state of the store file that the kernel's cached pages are of.
    cached_pages: Option<Stamp>,
    /// The name came or changed since the directory was last synced.
    unsynced_name: bool,
    unlinked: bool,
}

/// Where a file is now. Asked only while the file's state is locked, because a rename holds that
/// lock: a place learned earlier may be another file's by now.
pub type Where<'a> = &'a dyn Fn() -> Option<Place>;

/// A regular file of the mount.
pub struct Session {
    /// Names the file in the cache of decoded frames.
    id: u64,
    shared: Arc<Shared>,
    state: Mutex<State>,
}

/// A file that stays open.
pub struct Kept<'a>(&'a Session);

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        self.0.close_locked(&mut lock(&self.0.state));
    }
}

/// Several files that nobody changes while their names do.
pub struct Held<'a> {
    guards: Vec<(*const Session, MutexGuard<'a, State>)>,
}

impl Held<'_> {
    fn state(&mut self, session: &Session) -> Option<&mut State> {
        self.guards
            .iter_mut()
            .find(|(of, _)| std::ptr::eq(*of, session))
            .map(|(_, state)| &mut **state)
    }

    /// The last name is about to go. Who has looked the file up may still open it, so the store file
    /// stays open as long as the kernel knows it.
    pub fn keep(&mut self, session: &Session, dir: BorrowedFd, stored: &OsStr, form: Form) {
        let Some(state) = self.state(session).filter(|state| state.body.is_none()) else {
            return;
        };
        if let Ok(file) = session.store().open_file(dir, stored, libc::O_RDWR) {
            state.body = Some(Body::open(file, form, true));
        }
    }

    /// A name is gone. If it was the `last`, open descriptors go on; if not, or if the removal failed,
    /// what [`Held::keep`] opened is closed again.
    pub fn removed(&mut self, session: &Session, last: bool) {
        if let Some(state) = self.state(session) {
            state.unlinked |= last;
            if !last && state.opens == 0 {
                state.body = None;
            }
        }
    }

    /// The file has another name now.
    pub fn renamed(&mut self, session: &Session) {
        if let Some(state) = self.state(session) {
            state.unsynced_name = true;
        }
    }
}

impl Session {
    pub fn new(shared: Arc<Shared>) -> Session {
        Session {
            id: shared.next_session(),
            shared,
            state: Mutex::default(),
        }
    }

    fn store(&self) -> &Store {
        &self.shared.store
    }

    /// The state, locked. Whoever holds it may be at something slow, and a thread that reads requests
    /// does not wait for that.
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        match self.state.try_lock() {
            Ok(state) => Ok(state),
            Err(TryLockError::Poisoned(state)) => Ok(state.into_inner()),
            Err(TryLockError::WouldBlock) => {
                pool::slow()?;
                Ok(lock(&self.state))
            }
        }
    }

    /// The visible attributes of a file found in `dir`.
    pub fn attributes(&self, dir: BorrowedFd, place: &Place, found: Found) -> io::Result<Stat> {
        let mut found = found;
        loop {
            match self.attributes_of(dir, place, found) {
                // Another host may have changed its form since; or it is gone.
                Err(e) if is(&e, libc::ENOENT) => {
                    found = self.store().find(dir, &place.name)?;
                }
                done => return done,
            }
        }
    }

    fn attributes_of(&self, dir: BorrowedFd, place: &Place, found: Found) -> io::Result<Stat> {
        let mut st = self.state()?;
        let shown = st.shown_ctime;
        if found.form != Form::Packed {
            return Ok(show(found.stat, shown));
        }
        if let Some(size) = st.size_at(Stamp::of(&found.stat)) {
            let stat = found.stat;
            return Ok(show(Stat { size, ..stat }, shown));
        }
        // It was found before its state was locked: a write may have come between.
        let found = self.store().find(dir, &place.name)?;
        let mut stat = found.stat;
        if found.form == Form::Packed {
            let stamp = Stamp::of(&stat);
            let stored = self.store().stored_name(&place.name, Form::Packed)?;
            let size = match st.size_at(stamp) {
                Some(size) => Some(size),
                None => self.store().quick_size(dir, &stored, stat.size)?,
            };
            stat.size = match size {
                Some(size) => {
                    st.seen_size = Some((stamp, size));
                    size
                }
                None => {
                    stat = self.meet(&mut st, dir, place, stat.size)?;
                    st.known.map_or(0, |k| k.ends.logical)
                }
            };
        }
        Ok(show(stat, shown))
    }

    /// The first sight of a file that its last bytes do not explain: walks it, notes its size on it,
    /// and takes the modification time that 0.3.0 kept beside it. Returns its attributes since.
    fn meet(&self, st: &mut State, dir: BorrowedFd, place: &Place, size: u64) -> io::Result<Stat> {
        if size > QUICK_WALK {
            pool::slow()?;
        }
        self.store().apply_sidecar(dir, &place.name)?;
        let stored = self.store().stored_name(&place.name, Form::Packed)?;
        let file = self.store().open_file(dir, &stored, libc::O_RDONLY)?;
        // It may have changed since it was found, and may change while it is walked.
        let mut stat = sys::fstat(&file)?;
        let index = loop {
            let walked = frames::index(&file, stat.size);
            let size = std::mem::replace(&mut stat, sys::fstat(&file)?).size;
            if stat.size == size {
                break walked?;
            }
        };
        if index.torn == 0 && index.lost_at.is_none() {
            Hint::from(index.ends).set(file.as_fd());
        }
        let known = Known {
            stamp: Stamp::of(&stat),
            ends: index.ends,
            torn: index.torn,
            foreign: true,
        };
        st.learn(known, Some(index));
        sys::fstat(&file)
    }

    /// The visible attributes of an open file; `None` when it is not open.
    pub fn open_attributes(&self, at: Where) -> io::Result<Option<Stat>> {
        let mut st = self.state()?;
        let place = at();
        if st.body.is_none() {
            return Ok(None);
        }
        let (body, mut stat) = self.current(&mut st, place.as_ref())?;
        if body.form == Form::Packed {
            stat.size = self.known(&mut st, &body, &stat)?.ends.logical;
        }
        if st.unlinked {
            stat.nlink = 0;
        }
        Ok(Some(show(stat, st.shown_ctime)))
    }

    /// Takes the file into use. Returns whether the kernel may keep the pages it has cached of it.
    pub fn open(&self, at: Where, write: bool, truncate: bool) -> io::Result<bool> {
        let mut st = self.state()?;
        let place = at();
        let opened = match &st.body {
            Some(body) if body.writable || !write => {
                // Another host may have moved the file away and given its name to another.
                let body = body.clone();
                let other = |found: bool| found && !st.unlinked;
                match self.replaced_by_name(place.as_ref(), &body, &sys::fstat(&body.file)?) {
                    Err(e) if !is(&e, libc::ENOENT) => return Err(e),
                    Ok(found) if other(found) => self.reopen(&mut st, place.as_ref(), write)?,
                    _ => self.current(&mut st, place.as_ref())?,
                }
            }
            _ => self.reopen(&mut st, place.as_ref(), write)?,
        };
        st.opens += 1;
        let stamp = Stamp::of(&opened.1);
        let keep = st.cached_pages == Some(stamp);
        st.cached_pages = Some(stamp);
        if truncate {
            // Not opened if not truncated; on the way to the pool the open is undone too.
            if let Err(e) = self.truncate_locked(&mut st, place.as_ref(), 0) {
                self.close_locked(&mut st);
                return Err(e);
            }
        }
        Ok(keep)
    }

    /// Takes a file into use that `create` has just made.
    pub fn created(&self, file: File, form: Form) -> io::Result<Stat> {
        let mut st = self.state()?;
        let mut stat = sys::fstat(&file)?;
        *st = State {
            opens: st.opens + 1,
            version: st.version + 1,
            unsynced_name: true,
            ..State::default()
        };
        let body = Body::open(file, form, true);
        st.body = Some(body.clone());
        if form == Form::Raw {
            st.changed(&stat, &stat, Ends::default());
        }
        // Another host may be writing to it already; then it begins with that.
        if form == Form::Packed && self.store().try_lock_file(&body.file)? {
            let locked = Locked {
                store: self.store(),
                stat: sys::fstat(&body.file)?,
                body: body.clone(),
            };
            if locked.stat.size == 0 {
                let ends = write::begin(&body.file)?;
                stat = sys::fstat(&body.file)?;
                st.changed(&locked.stat, &stat, ends);
                st.index = Some(Index {
                    ends,
                    ..Index::default()
                });
            }
        }
        st.cached_pages = Some(Stamp::of(&stat));
        if form == Form::Packed {
            stat.size = self.known(&mut st, &body, &stat)?.ends.logical;
        }
        Ok(stat)
    }

    /// Keeps the file open for writing until the guard is dropped, for several steps that are to meet
    /// one open file.
    pub fn keep_open(&self, at: Where) -> io::Result<Kept<'_>> {
        let mut st = self.state()?;
        self.make_writable(&mut st, at().as_ref())?;
        st.opens += 1;
        Ok(Kept(self))
    }

    pub fn close(&self) -> io::Result<()> {
        self.close_locked(&mut *self.state()?);
        Ok(())
    }

    fn close_locked(&self, st: &mut State) {
        st.opens = st.opens.saturating_sub(1);
        if st.opens == 0 && !st.unlinked {
            st.body = None;
            if st
                .index
                .as_ref()
                .is_some_and(|i| i.frames.len() > INDEX_KEPT)
            {
                st.index = None;
            }
        }
    }

    /// Opens what the name stands for now. ESTALE if that is no file of this session any more: the
    /// kernel then looks the name up again.
    fn reopen(
        &self,
        st: &mut State,
        place: Option<&Place>,
        write: bool,
    ) -> io::Result<(Arc<Body>, Stat)> {
        let gone = || errno(libc::ESTALE);
        let place = place.filter(|_| !st.unlinked).ok_or_else(gone)?;
        let dir = self.store().dir(&place.dir)?;
        let write = write || st.body.as_ref().is_some_and(|b| b.writable);
        let mode = if write { libc::O_RDWR } else { libc::O_RDONLY };
        let (found, file) = match self.store().open_found(dir.as_fd(), &place.name, mode) {
            Err(e) if is(&e, libc::ENOENT) => return Err(gone()),
            opened => opened?,
        };
        let stat = sys::fstat(&file)?;
        let body = Body::open(file, found.form, write);
        st.body = Some(body.clone());
        Ok((body, stat))
    }

    /// The open store file, opened anew if another host has replaced it.
    fn current(&self, st: &mut State, place: Option<&Place>) -> io::Result<(Arc<Body>, Stat)> {
        let Some(body) = st.body.clone() else {
            return self.reopen(st, place, false);
        };
        let stat = match sys::fstat(&body.file) {
            Err(e) if lost(&e) && !st.unlinked => return self.reopen(st, place, body.writable),
            stat => stat?,
        };
        let replaced =
            !st.unlinked && (stat.nlink == 0 || self.replaced_elsewhere(place, &body, &stat)?);
        if replaced {
            self.reopen(st, place, body.writable)
        } else {
            Ok((body, stat))
        }
    }

    /// On a network file system a replaced file may look alive through its descriptor. One that another
    /// host has moved away is alive, and its descriptors stay with it.
    fn replaced_elsewhere(
        &self,
        place: Option<&Place>,
        body: &Body,
        stat: &Stat,
    ) -> io::Result<bool> {
        if !self.store().is_network() {
            return Ok(false);
        }
        match self.replaced_by_name(place, body, stat) {
            Ok(false) => return Ok(false),
            Err(e) if !is(&e, libc::ENOENT) => return Err(e),
            _ => {}
        }
        match sys::refresh(&body.file).and_then(|()| sys::fstat(&body.file)) {
            Err(e) if lost(&e) => Ok(true),
            Err(e) => Err(e),
            Ok(now) => Ok(now.nlink == 0 || self.superseded(place, body, &now)?),
        }
    }

    /// The name stands for another file than this one.
    fn replaced_by_name(
        &self,
        place: Option<&Place>,
        body: &Body,
        stat: &Stat,
    ) -> io::Result<bool> {
        let Some(place) = place else { return Ok(false) };
        let dir = self.store().dir(&place.dir)?;
        let found = self.store().find(dir.as_fd(), &place.name)?;
        Ok((found.form, found.stat.dev, found.stat.ino) != (body.form, stat.dev, stat.ino))
    }

    /// The ends of the packed store file in its present state.
    fn known(&self, st: &mut State, body: &Body, stat: &Stat) -> io::Result<Known> {
        let stamp = Stamp::of(stat);
        if let Some(known) = st.known.filter(|k| k.stamp == stamp) {
            return Ok(known);
        }
        let (known, index) = match frames::ends(&body.file, stat.size)? {
            Some(ends) => (
                Known {
                    stamp,
                    ends,
                    torn: 0,
                    foreign: false,
                },
                None,
            ),
            None => {
                if stat.size > QUICK_WALK {
                    pool::slow()?;
                }
                let index = frames::index(&body.file, stat.size)?;
                (
                    Known {
                        stamp,
                        ends: index.ends,
                        torn: index.torn,
                        foreign: true,
                    },
                    Some(index),
                )
            }
        };
        st.learn(known, index);
        Ok(known)
    }

    /// The index of the packed store file in its present state.
    fn index<'s>(&self, st: &'s mut State, body: &Body, stat: &Stat) -> io::Result<&'s mut Index> {
        self.known(st, body, stat)?;
        if st.index.is_none() {
            st.index = Some(frames::index(&body.file, stat.size)?);
        }
        st.index.as_mut().ok_or_else(|| errno(libc::EIO))
    }

    /// The open store file, locked against other hosts and certainly the present one. Under the lock
    /// the file itself tells whether it was replaced; if it lives on under another name, that is where
    /// its descriptors write, and not to a file that has its old name now.
    fn lock_current(&self, st: &mut State, place: Option<&Place>) -> io::Result<Locked<'_>> {
        let mut tries = 2;
        loop {
            let body = match &st.body {
                Some(body) if body.writable => body.clone(),
                _ => self.reopen(st, place, true)?.0,
            };
            match self.store().lock_file(&body.file) {
                // The server does not know the file, or the descriptor, any more.
                Err(e) if tries > 0 && !st.unlinked && lost(&e) => {
                    tries -= 1;
                    self.reopen(st, place, true)?;
                    continue;
                }
                done => done?,
            }
            let locked = Locked {
                store: self.store(),
                stat: sys::fstat(&body.file)?,
                body,
            };
            let replaced = !st.unlinked
                && (locked.stat.nlink == 0
                    || self.superseded(place, &locked.body, &locked.stat)?);
            if !replaced {
                if st.known.is_some_and(|known| known.torn > 0) {
                    // Without the lock an append that is under way looks like one that was cut short.
                    (st.known, st.index) = (None, None);
                }
                return Ok(locked);
            }
            drop(locked);
            self.reopen(st, place, true)?;
        }
    }

    /// Another host was killed after it had put a raw file beside this packed one, which is now hidden.
    fn superseded(&self, place: Option<&Place>, body: &Body, stat: &Stat) -> io::Result<bool> {
        let Some(place) = place.filter(|_| self.store().is_network() && body.form == Form::Packed)
        else {
            return Ok(false);
        };
        let dir = self.store().dir(&place.dir)?;
        if sys::stat_at(dir.as_fd(), &place.name).is_err() {
            return Ok(false);
        }
        let own = self.store().stored_name(&place.name, Form::Packed)?;
        let own = sys::stat_at(dir.as_fd(), &own);
        Ok(own.is_ok_and(|own| (own.dev, own.ino) == (stat.dev, stat.ino)))
    }

    /// Runs `work` with the file open for writing, closing it again if nobody else has it open.
    fn with_open<T>(
        &self,
        st: &mut State,
        place: Option<&Place>,
        work: impl FnOnce(&Session, &mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        self.make_writable(st, place)?;
        st.opens += 1;
        let result = work(self, st);
        self.close_locked(st);
        result
    }

    fn make_writable(&self, st: &mut State, place: Option<&Place>) -> io::Result<()> {
        if !st.body.as_ref().is_some_and(|b| b.writable) {
            self.reopen(st, place, true)?;
        }
        Ok(())
    }

    /// Makes the bytes durable, and the name if it is new.
    pub fn sync(&self, at: Where, data_only: bool) -> io::Result<()> {
        pool::slow()?;
        let mut st = self.state()?;
        let place = at();
        let (body, _) = self.current(&mut st, place.as_ref())?;
        let name = place.filter(|_| st.unsynced_name && !st.unlinked);
        drop(st);
        if data_only {
            body.file.sync_data()?
        } else {
            body.file.sync_all()?
        }
        if let Some(place) = name {
            sync_dir(self.store().dir(&place.dir)?.as_fd())?;
            lock(&self.state).unsynced_name = false;
        }
        Ok(())
    }

    /// Keeps every change away from these files; they are locked in one order, whatever is given.
    pub fn hold<'a>(sessions: &[&'a Session]) -> io::Result<Held<'a>> {
        let mut order: Vec<&Session> = sessions.to_vec();
        order.sort_by_key(|s| std::ptr::from_ref::<Session>(s) as usize);
        order.dedup_by_key(|s| std::ptr::from_ref::<Session>(s) as usize);
        let guards = order
            .into_iter()
            .map(|s| Ok((std::ptr::from_ref(s), s.state()?)));
        Ok(Held {
            guards: guards.collect::<io::Result<_>>()?,
        })
    }

    /// Runs `work`, which changes no bytes, on a descriptor of the store file (`O_PATH` where it is
    /// not open). Nobody replaces the file meanwhile.
    pub fn with_store_file<T>(
        &self,
        at: Where,
        work: impl FnOnce(BorrowedFd) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut st = self.state()?;
        let place = at();
        if st.body.is_some() {
            let (body, before) = self.current(&mut st, place.as_ref())?;
            return st.touched(&before, body.file.as_fd(), work);
        }
        let place = place.ok_or_else(|| errno(libc::ESTALE))?;
        let dir = self.store().dir(&place.dir)?;
        let (_, file) = self
            .store()
            .open_found(dir.as_fd(), &place.name, libc::O_PATH)?;
        st.touched(&sys::fstat(&file)?, file.as_fd(), work)
    }
}

impl State {
    /// The session's size in this state of the store file, if it has been found out.
    fn size_at(&self, stamp: Stamp) -> Option<u64> {
        let known = self.known.filter(|known| known.stamp == stamp);
        let seen = self.seen_size.filter(|(of, _)| *of == stamp);
        known
            .map(|known| known.ends.logical)
            .or(seen.map(|(_, size)| size))
    }

    /// Takes in what the store file says. If something else was known of it, another host wrote, and
    /// even frames at known places may be others.
    fn learn(&mut self, known: Known, index: Option<Index>) {
        if self.known.is_some_and(|k| k.stamp != known.stamp) {
            self.version += 1;
        }
        (self.known, self.index) = (Some(known), index);
    }

    /// Runs work on the store file that changes other things than bytes.
    fn touched<T>(
        &mut self,
        before: &Stat,
        file: BorrowedFd,
        work: impl FnOnce(BorrowedFd) -> io::Result<T>,
    ) -> io::Result<T> {
        let result = work(file);
        let after = sys::fstat(file)?;
        let known = self.known.filter(|k| k.stamp == Stamp::of(before));
        if let Some(known) = known.filter(|_| after != *before) {
            self.changed(before, &after, known.ends);
            // What is known of its end is as it was.
            self.known = Some(Known {
                stamp: Stamp::of(&after),
                ..known
            });
        }
        result
    }

    /// The store file was changed here, from `before` to `after`.
    fn changed(&mut self, before: &Stat, after: &Stat, ends: Ends) {
        if self.cached_pages == Some(Stamp::of(before)) {
            self.cached_pages = Some(Stamp::of(after));
        }
        self.known = Some(Known {
            stamp: Stamp::of(after),
            ends,
            torn: 0,
            foreign: false,
        });
        self.shown_ctime = None;
    }

    /// The store file was replaced by another with the same content: nothing of it may show.
    fn replaced(&mut self, before: &Stat, after: &Stat, body: Arc<Body>, ends: Ends) {
        let shown = show(*before, self.shown_ctime).ctime;
        self.changed(before, after, ends);
        self.shown_ctime = Some((after.ctime, shown));
        self.version += 1;
        (self.index, self.body) = (None, Some(body));
    }
}

/// A server has lost what a descriptor stands for; the file is there when it is opened anew.
fn lost(error: &io::Error) -> bool {
    is(error, libc::ESTALE) || is(error, libc::EBADFD)
}

/// The attributes to show for a store file that has been replaced by an equal one.
fn show(mut stat: Stat, shown_ctime: Option<(Time, Time)>) -> Stat {
    if let Some((store, shown)) = shown_ctime
        && store == stat.ctime
    {
        stat.ctime = shown;
    }
    stat
}

/// The present store file, locked against other hosts until this is dropped.
struct Locked<'a> {
    store: &'a Store,
    body: Arc<Body>,
    stat: Stat,
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.store.unlock_file(&self.body.file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A store with a project, removed at the end.
    struct Fresh {
        shared: Arc<Shared>,
        dir: PathBuf,
    }

    impl Drop for Fresh {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }

    fn fresh() -> Fresh {
        let name = format!("cellar-session-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let store = Store::open(&dir, false, false).unwrap();
        std::fs::create_dir(dir.join("p")).unwrap();
        let shared = Arc::new(Shared::new(store));
        Fresh { shared, dir }
    }

    #[test]
    fn a_look_from_before_an_append_has_ended_tears_nothing() {
        let fresh = fresh();
        let store = &fresh.shared.store;
        let session = Session::new(fresh.shared.clone());
        let (dir, name) = ("p".into(), "x.jsonl".into());
        let place = Place { dir, name };
        let at = || Some(place.clone());
        let dir = store.dir(&place.dir).unwrap();
        let path = fresh.dir.join("p/x.jsonl.zst");
        let file = File::create_new(&path).unwrap();
        drop(file);
        let file = store.open_file(dir.as_fd(), OsStr::new("x.jsonl.zst"), libc::O_RDWR);
        session.created(file.unwrap(), Form::Packed).unwrap();
        let line = b"0123456789".repeat(5);
        session.write(&at, 0, &line, true, false).unwrap();
        session.close().unwrap();
        // What somebody saw while half of the frame was written.
        let mut found = store.find(dir.as_fd(), &place.name).unwrap();
        found.stat.size -= 40;
        session.attributes(dir.as_fd(), &place, found).unwrap();
        // What somebody saw before another host replaced it by a smaller one.
        found.stat.size += 1_000;
        session.attributes(dir.as_fd(), &place, found).unwrap();
        session.open(&at, true, false).unwrap();
        session.write(&at, 0, b"end", true, false).unwrap();
        let want = [line.as_slice(), b"end"].concat();
        assert_eq!(session.read(&at, 0, 100).unwrap(), want);
        let stat = session.open_attributes(&at).unwrap().unwrap();
        assert_eq!(stat.size, want.len() as u64);
    }
}
