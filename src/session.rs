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

use crate::cache::{Cache, KEEP_WHOLE, lock};
use crate::frames::{
    self, Encoder, Ends, FRAME_MAX, Frame, Index, LEVEL_APPEND, SmallDecoder, TRAILER, Trailer,
};
use crate::pool;
use crate::rewrite::{Builder, Content, write_plain};
use crate::store::{
    Form, Found, Hint, Place, Store, Temporary, carry_attributes, carry_times, sync_dir,
};
use crate::sys::{self, SetTime, Stat, Time, errno, is};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

/// Frames up to this size are decoded where they are read and not kept.
const SMALL: u64 = 128 << 10;
/// An index larger than this is not kept for a file nobody has open.
const INDEX_KEPT: usize = 1024;
/// A store file larger than this is not walked on a request thread.
const QUICK_WALK: u64 = 256 << 10;

/// What all files of a mount share.
pub struct Shared {
    pub store: Store,
    pub cache: Cache,
    encoders: Mutex<Vec<Encoder>>,
    decoders: Mutex<Vec<SmallDecoder>>,
    bodies: AtomicU64,
}

impl Shared {
    pub fn new(store: Store) -> Shared {
        let (encoders, decoders) = (Mutex::default(), Mutex::default());
        Shared {
            store,
            cache: Cache::default(),
            encoders,
            decoders,
            bodies: AtomicU64::new(0),
        }
    }

    /// Runs `work` with an encoder for appends, whose memory is kept for the next.
    fn with_encoder<T>(&self, work: impl FnOnce(&mut Encoder) -> io::Result<T>) -> io::Result<T> {
        let kept = lock(&self.encoders).pop();
        let mut encoder = kept.map_or_else(|| Encoder::new(LEVEL_APPEND), Ok)?;
        let result = work(&mut encoder);
        lock(&self.encoders).push(encoder);
        result
    }

    fn with_decoder<T>(
        &self,
        work: impl FnOnce(&mut SmallDecoder) -> io::Result<T>,
    ) -> io::Result<T> {
        let kept = lock(&self.decoders).pop();
        let mut decoder = kept.map_or_else(SmallDecoder::new, Ok)?;
        let result = work(&mut decoder);
        lock(&self.decoders).push(decoder);
        result
    }

    /// Gives back what idle encoders, decoders and cached frames hold.
    pub fn release_memory(&self) {
        lock(&self.encoders).clear();
        lock(&self.decoders).clear();
        self.cache.clear();
        sys::trim_memory();
    }
}

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
    /// Names this state of the file in the cache of decoded frames.
    id: u64,
    writable: bool,
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
    shared: Arc<Shared>,
    state: Mutex<State>,
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

    /// The last name is gone; open descriptors go on.
    pub fn unlinked(&mut self, session: &Session) {
        if let Some(state) = self.state(session) {
            state.unlinked = true;
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

    // ---- attributes ---------------------------------------------------------------------------

    /// The visible attributes of a file found in `dir`.
    pub fn attributes(&self, dir: BorrowedFd, place: &Place, found: Found) -> io::Result<Stat> {
        let mut st = self.state()?;
        let mut stat = found.stat;
        let shown = st.shown_ctime;
        if found.form == Form::Packed {
            let stamp = Stamp::of(&stat);
            let known = st
                .known
                .filter(|k| k.stamp == stamp)
                .map(|k| k.ends.logical);
            let seen = st
                .seen_size
                .filter(|(of, _)| *of == stamp)
                .map(|(_, size)| size);
            stat.size = match known.or(seen) {
                Some(size) => size,
                None => {
                    let stored = self.store().stored_name(&place.name, Form::Packed)?;
                    let size = self.store().quick_size(dir, &stored, stat.size)?;
                    if let Some(size) = size {
                        st.seen_size = Some((stamp, size));
                        size
                    } else {
                        stat = self.meet(&mut st, dir, place, stat)?;
                        st.known.map_or(0, |k| k.ends.logical)
                    }
                }
            };
        }
        Ok(show(stat, shown))
    }

    /// The first sight of a file that its last bytes do not explain: walks it, notes its size on it,
    /// and takes the modification time that 0.3.0 kept beside it. Returns its attributes since.
    fn meet(&self, st: &mut State, dir: BorrowedFd, place: &Place, stat: Stat) -> io::Result<Stat> {
        if stat.size > QUICK_WALK {
            pool::slow()?;
        }
        self.store().apply_sidecar(dir, &place.name)?;
        let stored = self.store().stored_name(&place.name, Form::Packed)?;
        let file = self.store().open_file(dir, &stored, libc::O_RDONLY)?;
        let index = frames::index(&file, stat.size)?;
        if index.torn == 0 && index.lost_at.is_none() {
            Hint::from(index.ends).set(file.as_fd());
        }
        let stat = sys::fstat(&file)?;
        let known = Known {
            stamp: Stamp::of(&stat),
            ends: index.ends,
            torn: index.torn,
            foreign: true,
        };
        st.learn(known, Some(index));
        Ok(stat)
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

    // ---- opening ------------------------------------------------------------------------------

    /// Takes the file into use. Returns whether the kernel may keep the pages it has cached of it.
    pub fn open(&self, at: Where, write: bool, truncate: bool) -> io::Result<bool> {
        let mut st = self.state()?;
        let place = at();
        let opened = match &st.body {
            Some(body) if body.writable || !write => self.current(&mut st, place.as_ref())?,
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
        let mut ends = Ends::default();
        if form == Form::Packed {
            ends = begin(&file)?;
            stat = sys::fstat(&file)?;
            st.index = Some(Index {
                ends,
                ..Index::default()
            });
        }
        st.known = Some(Known {
            stamp: Stamp::of(&stat),
            ends,
            torn: 0,
            foreign: false,
        });
        st.cached_pages = Some(Stamp::of(&stat));
        st.body = Some(self.body(file, form, true));
        stat.size = 0;
        Ok(stat)
    }

    pub fn close(&self) -> io::Result<()> {
        self.close_locked(&mut *self.state()?);
        Ok(())
    }

    fn close_locked(&self, st: &mut State) {
        st.opens = st.opens.saturating_sub(1);
        if st.opens == 0 {
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

    fn body(&self, file: File, form: Form, writable: bool) -> Arc<Body> {
        let id = self.shared.bodies.fetch_add(1, Ordering::Relaxed);
        Arc::new(Body {
            file,
            form,
            id,
            writable,
        })
    }

    /// Opens what the name stands for now.
    fn reopen(
        &self,
        st: &mut State,
        place: Option<&Place>,
        write: bool,
    ) -> io::Result<(Arc<Body>, Stat)> {
        let place = place
            .filter(|_| !st.unlinked)
            .ok_or_else(|| errno(libc::ENOENT))?;
        let dir = self.store().dir(&place.dir)?;
        let found = self.store().find(dir.as_fd(), &place.name)?;
        if !found.stat.is(libc::S_IFREG) {
            return Err(errno(libc::ESTALE));
        }
        let stored = self.store().stored_name(&place.name, found.form)?;
        let write = write || st.body.as_ref().is_some_and(|b| b.writable);
        let mode = if write { libc::O_RDWR } else { libc::O_RDONLY };
        let file = self.store().open_file(dir.as_fd(), &stored, mode)?;
        let stat = sys::fstat(&file)?;
        let same = st.known.is_some_and(|k| k.stamp == Stamp::of(&stat));
        // The cache goes on with the same state of the same file.
        let body = match st.body.take().filter(|old| same && old.form == found.form) {
            Some(old) => Arc::new(Body {
                file,
                form: found.form,
                id: old.id,
                writable: write,
            }),
            None => self.body(file, found.form, write),
        };
        st.body = Some(body.clone());
        Ok((body, stat))
    }

    /// The open store file, opened anew if another host has replaced it.
    fn current(&self, st: &mut State, place: Option<&Place>) -> io::Result<(Arc<Body>, Stat)> {
        let Some(body) = st.body.clone() else {
            return self.reopen(st, place, false);
        };
        let stat = sys::fstat(&body.file)?;
        let replaced = !st.unlinked
            && (stat.nlink == 0
                || (self.store().is_network() && self.replaced_by_name(place, &body, &stat)?));
        if replaced {
            self.reopen(st, place, body.writable)
        } else {
            Ok((body, stat))
        }
    }

    /// On a network file system a replaced file may look alive through its descriptor.
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

    // ---- reading ------------------------------------------------------------------------------

    /// Up to `size` bytes from `offset`; fewer only at the end of the file.
    pub fn read(&self, at: Where, offset: u64, size: usize) -> io::Result<Vec<u8>> {
        loop {
            let mut st = self.state()?;
            let place = at();
            let (body, stat) = self.current(&mut st, place.as_ref())?;
            if body.form == Form::Raw {
                drop(st);
                return read_raw(&body.file, offset, size);
            }
            let index = self.index(&mut st, &body, &stat)?;
            let end = index.ends.logical.min(offset.saturating_add(size as u64));
            let frames: Vec<Frame> = if offset < end {
                index.covering(offset, end).to_vec()
            } else {
                Vec::new()
            };
            let version = st.version;
            drop(st);
            match self.read_packed(&body, &frames, offset, end) {
                // The file was cut and written on while this read had no lock: look again.
                Err(_) if self.state()?.version != version => {}
                done => return done,
            }
        }
    }

    fn read_packed(
        &self,
        body: &Body,
        frames: &[Frame],
        offset: u64,
        end: u64,
    ) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(end.saturating_sub(offset) as usize);
        let mut rest = frames;
        // A gap ends the loop: up to damage the bytes are good, the read that starts there fails.
        while let Some(frame) = rest
            .first()
            .filter(|f| f.start <= offset + out.len() as u64)
        {
            let before = out.len();
            let run = rest.iter().take_while(|f| f.size <= SMALL).count();
            let result = if run > 0 {
                self.read_small(body, &rest[..run], offset, end, &mut out)
            } else {
                if frame.size > KEEP_WHOLE {
                    pool::slow()?;
                }
                let from = offset + before as u64;
                self.shared.cache.read(
                    body.id,
                    &body.file,
                    frame,
                    from,
                    frame.end().min(end),
                    &mut out,
                )
            };
            match result {
                Err(e) if out.is_empty() => return Err(e),
                Err(_) => return Ok(out),
                Ok(()) => rest = &rest[run.max(1)..],
            }
        }
        if out.is_empty() && offset < end {
            return Err(frames::damaged(
                frames.first().map_or(0, |f| f.at),
                "frames are missing",
            ));
        }
        Ok(out)
    }

    /// A run of small frames: one read for all of them, trailers and all.
    fn read_small(
        &self,
        body: &Body,
        run: &[Frame],
        offset: u64,
        end: u64,
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return Ok(());
        };
        let mut stored = vec![0; (last.at + last.len - first.at) as usize];
        body.file.read_exact_at(&mut stored, first.at)?;
        self.shared.with_decoder(|decoder| {
            for frame in run {
                let pos = offset + out.len() as u64;
                if frame.start > pos {
                    break;
                }
                let from = (frame.at - first.at) as usize;
                let data = decoder.decode(frame, &stored[from..from + frame.len as usize])?;
                out.extend_from_slice(
                    &data[(pos - frame.start) as usize
                        ..(frame.end().min(end) - frame.start) as usize],
                );
            }
            Ok(())
        })
    }

    // ---- writing ------------------------------------------------------------------------------

    /// Writes `data`; returns how much of it. With `append` it goes to the end of the file as it is
    /// now, whatever `offset` says. `write_back` marks pages the kernel writes from a mapping.
    pub fn write(
        &self,
        at: Where,
        offset: u64,
        data: &[u8],
        append: bool,
        write_back: bool,
    ) -> io::Result<u32> {
        let mut st = self.state()?;
        let place = at();
        let file = self.lock_current(&mut st, place.as_ref())?;
        if file.body.form == Form::Packed {
            let end = self.known(&mut st, &file.body, &file.stat)?.ends.logical;
            if !write_back && (append || offset == end) {
                return self.append(&mut st, place.as_ref(), &file, data);
            }
            drop(file);
            self.to_raw_locked(&mut st, place.as_ref())?;
            drop(st);
            return self.write(at, offset, data, append, write_back);
        }
        let from = if append { file.stat.size } else { offset };
        let mut done = 0;
        let result = loop {
            match file.body.file.write_at(&data[done..], from + done as u64) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Err(e),
                Ok(0) if done < data.len() => break Err(errno(libc::EIO)),
                Ok(n) => done += n,
            }
            if done == data.len() {
                break Ok(());
            }
        };
        if !append {
            st.version += 1;
        }
        st.changed(&file.stat, &sys::fstat(&file.body.file)?, Ends::default());
        match result {
            // Like any file system: what was written counts, the error comes with the next write.
            Err(e) if done == 0 => Err(e),
            _ => Ok(done as u32),
        }
    }

    /// The write path: one frame and its trailer, in one write.
    fn append(
        &self,
        st: &mut State,
        place: Option<&Place>,
        locked: &Locked,
        data: &[u8],
    ) -> io::Result<u32> {
        if data.is_empty() {
            return Ok(0);
        }
        let (body, stat) = (&locked.body, &locked.stat);
        let known = self.known(st, body, stat)?;
        if known.torn > 0 {
            self.set_torn_aside(st, place, body, &known)?;
        }
        if known.foreign
            && let Some(place) = place.filter(|_| !st.unlinked)
        {
            self.drop_sidecar(place);
        }
        let at = known.ends.stored;
        let logical = known.ends.logical + data.len() as u64;
        let frame_len = self.shared.with_encoder(|encoder| {
            let mut record = encoder.encode(data)?.to_vec();
            let frame_len = record.len() as u32;
            let trailer = Trailer {
                logical,
                sealed_end: known.ends.sealed,
                frame_len,
            };
            record.extend(trailer.encode(at + u64::from(frame_len)));
            if let Err(e) = body.file.write_all_at(&record, at) {
                // As it was before: what was not committed must not stand there.
                if let Err(cut) = body.file.set_len(at) {
                    log::error!("cutting a failed append back: {cut}");
                }
                return Err(e);
            }
            Ok(u64::from(frame_len))
        })?;
        let ends = Ends {
            logical,
            stored: at + frame_len + TRAILER,
            sealed: known.ends.sealed,
        };
        if let Some(index) = &mut st.index {
            index.push(frame_len, data.len() as u64);
        }
        st.changed(stat, &sys::fstat(&body.file)?, ends);
        Ok(data.len() as u32)
    }

    fn drop_sidecar(&self, place: &Place) {
        if let Ok(dir) = self.store().dir(&place.dir) {
            self.store().drop_sidecar(dir.as_fd(), &place.name);
        }
    }

    /// Moves the bytes of an append that was cut short out of the way of the next one.
    fn set_torn_aside(
        &self,
        st: &mut State,
        place: Option<&Place>,
        body: &Body,
        known: &Known,
    ) -> io::Result<()> {
        let mut torn = vec![0; known.torn as usize];
        body.file.read_exact_at(&mut torn, known.ends.stored)?;
        if let Some(place) = place {
            self.store().recover_bytes(place, &mut torn.as_slice())?;
        }
        body.file.set_len(known.ends.stored)?;
        let stat = sys::fstat(&body.file)?;
        st.known = Some(Known {
            stamp: Stamp::of(&stat),
            torn: 0,
            ..*known
        });
        if let Some(index) = &mut st.index {
            index.torn = 0;
        }
        Ok(())
    }

    /// The open store file, locked against other hosts and certainly the present one.
    fn lock_current(&self, st: &mut State, place: Option<&Place>) -> io::Result<Locked<'_>> {
        loop {
            let (body, stat) = match &st.body {
                Some(body) if !body.writable => self.reopen(st, place, true)?,
                _ => self.current(st, place)?,
            };
            self.store().lock_file(&body.file)?;
            let mut locked = Locked {
                store: self.store(),
                body,
                stat,
            };
            let (now, stat) = self.current(st, place)?;
            if Arc::ptr_eq(&now, &locked.body) {
                locked.stat = stat;
                return Ok(locked);
            }
        }
    }

    // ---- cutting and changing form ------------------------------------------------------------

    /// Sets the file's size.
    pub fn truncate(&self, at: Where, size: u64) -> io::Result<()> {
        let mut st = self.state()?;
        let place = at();
        self.with_open(&mut st, place.as_ref(), |session, st| {
            session.truncate_locked(st, place.as_ref(), size)
        })
    }

    /// Runs `work` with the file open for writing, closing it again if nobody else has it open.
    fn with_open<T>(
        &self,
        st: &mut State,
        place: Option<&Place>,
        work: impl FnOnce(&Session, &mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        if !st.body.as_ref().is_some_and(|b| b.writable) {
            self.reopen(st, place, true)?;
        }
        st.opens += 1;
        let result = work(self, st);
        self.close_locked(st);
        result
    }

    fn truncate_locked(&self, st: &mut State, place: Option<&Place>, size: u64) -> io::Result<()> {
        let file = self.lock_current(st, place)?;
        let (body, stat) = (&file.body, &file.stat);
        if body.form == Form::Raw {
            body.file.set_len(size)?;
            st.version += 1;
            st.changed(stat, &sys::fstat(&body.file)?, Ends::default());
            return Ok(());
        }
        let known = self.known(st, body, stat)?;
        if size > known.ends.logical {
            drop(file);
            self.to_raw_locked(st, place)?;
            return self.truncate_locked(st, place, size);
        }
        if size == known.ends.logical && size > 0 {
            sys::utimens(&body.file, SetTime::Omit, SetTime::Now)?;
            st.changed(stat, &sys::fstat(&body.file)?, known.ends);
            return Ok(());
        }
        if size == 0 {
            body.file.set_len(0)?;
            let ends = begin(&body.file)?;
            if let Some(place) = place {
                self.drop_sidecar(place);
            }
            return self.was_cut(
                st,
                body,
                stat,
                Index {
                    ends,
                    ..Index::default()
                },
            );
        }
        self.cut(st, place, body, stat, size)
    }

    /// Takes note that the open store file was cut in place.
    fn was_cut(&self, st: &mut State, body: &Body, before: &Stat, index: Index) -> io::Result<()> {
        st.version += 1;
        st.body = Some(self.body(body.file.try_clone()?, body.form, body.writable));
        st.changed(before, &sys::fstat(&body.file)?, index.ends);
        st.index = Some(index);
        Ok(())
    }

    /// Cuts a packed file to a size inside it. On the boundary of an appended frame the file is cut
    /// where it is; elsewhere what is kept goes to a new file first, so that a kill loses nothing.
    fn cut(
        &self,
        st: &mut State,
        place: Option<&Place>,
        body: &Arc<Body>,
        stat: &Stat,
        size: u64,
    ) -> io::Result<()> {
        let mut index = self.index(st, body, stat)?.clone();
        let count = index.frames.partition_point(|f| f.end() <= size);
        let cut_frame = index.frames.get(count).copied().filter(|f| f.start < size);
        let kept = Ends {
            logical: cut_frame.map_or(size, |f| f.start),
            stored: index.frames[..count].last().map_or(0, |f| f.at + f.len) + TRAILER,
            sealed: index.ends.sealed,
        };
        let appended = count > 0 && kept.stored >= index.ends.sealed && {
            let mut bytes = [0; TRAILER as usize];
            let at = kept.stored - TRAILER;
            body.file.read_exact_at(&mut bytes, at)?;
            Trailer::decode(&bytes, at).is_some_and(|t| t.logical == kept.logical)
        };
        if appended && cut_frame.is_none() {
            body.file.set_len(kept.stored)?;
            index.frames.truncate(count);
            (index.ends, index.torn) = (kept, 0);
            return self.was_cut(st, body, stat, index);
        }
        if let Some(at) = index.lost_at {
            return Err(frames::damaged(at, "frames are missing before the cut"));
        }
        pool::slow()?;
        let temporary = self.store().temporary()?;
        let mut builder = Builder::new(&temporary.file);
        if appended {
            builder.copy_start(&body.file, kept)?;
        } else {
            builder.keep(&body.file, &index.frames[..count])?;
            builder.seal()?;
        }
        if let Some(frame) = cut_frame {
            let mut from = frame.start;
            while from < size {
                let (mut data, to) = (Vec::new(), size.min(from + FRAME_MAX));
                self.shared
                    .cache
                    .read(body.id, &body.file, &frame, from, to, &mut data)?;
                self.shared
                    .with_encoder(|encoder| builder.append(encoder, &data))?;
                from = to;
            }
        }
        let ends = builder.ends();
        carry_attributes(&body.file, &temporary.file)?;
        temporary.file.sync_all()?;
        let file = self.put(st, place, temporary, Form::Packed)?;
        self.sync_name(place.filter(|_| !st.unlinked))?;
        let now = sys::fstat(&file)?;
        st.version += 1;
        (st.body, st.index) = (Some(self.body(file, Form::Packed, true)), None);
        st.changed(stat, &now, ends);
        Ok(())
    }

    /// Puts a finished file in the session's place, or nowhere if that is gone. The name is durable
    /// only after [`Session::sync_name`].
    fn put(
        &self,
        st: &State,
        place: Option<&Place>,
        temporary: Temporary,
        form: Form,
    ) -> io::Result<File> {
        let Some(place) = place.filter(|_| !st.unlinked) else {
            return temporary.keep_unnamed();
        };
        let dir = self.store().dir(&place.dir)?;
        let file = temporary.place(dir.as_fd(), &self.store().stored_name(&place.name, form)?)?;
        self.store().drop_sidecar(dir.as_fd(), &place.name);
        Ok(file)
    }

    fn sync_name(&self, place: Option<&Place>) -> io::Result<()> {
        place.map_or(Ok(()), |place| {
            sync_dir(self.store().dir(&place.dir)?.as_fd())
        })
    }

    /// Removes the other form of a session whose new form is in its place, durably.
    fn remove_other(&self, place: &Place, form: Form) -> io::Result<()> {
        let dir = self.store().dir(&place.dir)?;
        sync_dir(dir.as_fd())?;
        sys::unlink_at(dir.as_fd(), &self.store().stored_name(&place.name, form)?)?;
        sync_dir(dir.as_fd())
    }

    /// Makes a packed file raw, for what only a plain file can do.
    pub fn to_raw(&self, at: Where) -> io::Result<()> {
        let mut st = self.state()?;
        let place = at();
        self.with_open(&mut st, place.as_ref(), |session, st| {
            session.to_raw_locked(st, place.as_ref())
        })
    }

    /// Decodes to a new file, synced and renamed to its raw name; only then the packed one goes. A
    /// kill between leaves both, equal, and the raw one counts.
    fn to_raw_locked(&self, st: &mut State, place: Option<&Place>) -> io::Result<()> {
        let locked = self.lock_current(st, place)?;
        let (body, stat) = (&locked.body, &locked.stat);
        if body.form == Form::Raw {
            return Ok(());
        }
        pool::slow()?;
        let index = self.index(st, body, stat)?.clone();
        let temporary = self.store().temporary()?;
        write_plain(
            Content::Packed {
                file: &body.file,
                index: &index,
            },
            &temporary.file,
        )?;
        let known = self.known(st, body, stat)?;
        if known.torn > 0 {
            self.set_torn_aside(st, place, body, &known)?;
        }
        carry_attributes(&body.file, &temporary.file)?;
        carry_times(&body.file, &temporary.file)?;
        temporary.file.sync_all()?;
        let file = self.put(st, place, temporary, Form::Raw)?;
        // From here on the raw file is the one that counts, whatever happens to the other.
        let now = sys::fstat(&file)?;
        st.replaced(
            stat,
            &now,
            self.body(file, Form::Raw, true),
            Ends::default(),
        );
        match place.filter(|_| !st.unlinked) {
            Some(place) => self.remove_other(place, Form::Packed),
            None => Ok(()),
        }
    }

    /// `fallocate`; a packed file becomes raw for it.
    pub fn allocate(&self, at: Where, mode: i32, offset: i64, len: i64) -> io::Result<()> {
        let mut st = self.state()?;
        let place = at();
        self.with_open(&mut st, place.as_ref(), |session, st| {
            session.to_raw_locked(st, place.as_ref())?;
            let locked = session.lock_current(st, place.as_ref())?;
            sys::fallocate(&locked.body.file, mode, offset, len)?;
            st.version += 1;
            st.changed(
                &locked.stat,
                &sys::fstat(&locked.body.file)?,
                Ends::default(),
            );
            Ok(())
        })
    }

    // ---- syncing, names, sealing --------------------------------------------------------------

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

    /// The open store file, for what is changed through a descriptor; `None` when nobody has it open.
    pub fn open_body(&self, at: Where) -> io::Result<Option<Arc<Body>>> {
        let mut st = self.state()?;
        let place = at();
        if st.body.is_none() {
            return Ok(None);
        }
        Ok(Some(self.current(&mut st, place.as_ref())?.0))
    }

    /// What an open descriptor's owner changed other than bytes (times, mode, attributes).
    pub fn touched(&self, before: &Stat, after: &Stat) -> io::Result<()> {
        let mut st = self.state()?;
        if let Some(ends) = st
            .known
            .filter(|k| k.stamp == Stamp::of(before))
            .map(|k| k.ends)
        {
            st.changed(before, after, ends);
        }
        Ok(())
    }

    /// The present content, for the background pass; `None` if there is nothing to compress.
    pub fn snapshot(&self, at: Where) -> io::Result<Option<Snapshot>> {
        let mut st = self.state()?;
        let Some(place) = at().filter(|_| !st.unlinked) else {
            return Ok(None);
        };
        self.with_open(&mut st, Some(&place), |session, st| {
            let locked = session.lock_current(st, Some(&place))?;
            let (body, stat) = (locked.body.clone(), locked.stat);
            if stat.nlink != 1 {
                return Ok(None);
            }
            let index = match body.form {
                Form::Raw => Index::default(),
                Form::Packed => session.index(st, &body, &stat)?.clone(),
            };
            Ok(Some(Snapshot {
                body,
                index,
                stat,
                version: st.version,
            }))
        })
    }

    /// Takes over what was appended since a snapshot, as far as it can be: false if the file has
    /// changed in another way and the snapshot is worth nothing any more.
    pub fn catch_up(&self, at: Where, snapshot: &mut Snapshot) -> io::Result<bool> {
        match self.snapshot(at)? {
            Some(now) if now.continues(snapshot) => {
                *snapshot = now;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Replaces the store file by one built from `snapshot` (complete, compared and synced), carrying
    /// over what was appended since. False, and nothing done, if the file has changed otherwise.
    pub fn replace(
        &self,
        at: Where,
        snapshot: &Snapshot,
        temporary: Temporary,
        built: Ends,
    ) -> io::Result<bool> {
        let mut st = self.state()?;
        let Some(place) = at().filter(|_| !st.unlinked) else {
            return Ok(false);
        };
        let replaced = self.with_open(&mut st, Some(&place), |session, st| {
            session.replace_locked(st, &place, snapshot, temporary, built)
        })?;
        drop(st);
        if replaced {
            self.sync_name(Some(&place))?;
            lock(&self.state).unsynced_name = false;
        }
        Ok(replaced)
    }

    fn replace_locked(
        &self,
        st: &mut State,
        place: &Place,
        snapshot: &Snapshot,
        temporary: Temporary,
        built: Ends,
    ) -> io::Result<bool> {
        let locked = self.lock_current(st, Some(place))?;
        let (body, stat) = (&locked.body, &locked.stat);
        let index = match body.form {
            Form::Raw => snapshot.index.clone(),
            Form::Packed => self.index(st, body, stat)?.clone(),
        };
        let now = Snapshot {
            body: body.clone(),
            index,
            stat: *stat,
            version: st.version,
        };
        if stat.nlink != 1 || !now.continues(snapshot) {
            return Ok(false);
        }
        let mut builder = Builder::resume(&temporary.file, built);
        builder.carry(&body.file, &now.index.frames[snapshot.index.frames.len()..])?;
        let ends = builder.ends();
        if (stat.ctime, stat.mtime, stat.size)
            != (snapshot.stat.ctime, snapshot.stat.mtime, snapshot.stat.size)
        {
            finish(&body.file, &temporary.file, &ends)?;
        }
        let file = self.put(st, Some(place), temporary, Form::Packed)?;
        if body.form == Form::Raw {
            self.remove_other(place, Form::Raw)?;
        }
        // Until the directory is synced, an fsync of the session must sync it too.
        st.unsynced_name = true;
        let after = sys::fstat(&file)?;
        st.replaced(stat, &after, self.body(file, Form::Packed, true), ends);
        Ok(true)
    }
}

/// Makes an empty store file a valid empty session. On a full disk it stays empty, which is one too.
fn begin(file: &File) -> io::Result<Ends> {
    let trailer = Trailer {
        logical: 0,
        sealed_end: TRAILER,
        frame_len: 0,
    };
    if let Err(e) = file.write_all_at(&trailer.encode(0), 0) {
        log::debug!("an empty session without trailer: {e}");
        file.set_len(0)?;
        return Ok(Ends::default());
    }
    Ok(Ends {
        logical: 0,
        stored: TRAILER,
        sealed: TRAILER,
    })
}

/// The last steps on a new store file: it looks like the old one and is durable.
pub fn finish(old: &File, new: &File, ends: &Ends) -> io::Result<()> {
    carry_attributes(old, new)?;
    Hint::from(*ends).set(new.as_fd());
    carry_times(old, new)?;
    new.sync_all()
}

/// The content of a session at one moment.
pub struct Snapshot {
    pub body: Arc<Body>,
    pub index: Index,
    pub stat: Stat,
    version: u64,
}

impl Snapshot {
    pub fn content(&self) -> Content<'_> {
        match self.body.form {
            Form::Raw => Content::Raw {
                file: &self.body.file,
                size: self.stat.size,
            },
            Form::Packed => Content::Packed {
                file: &self.body.file,
                index: &self.index,
            },
        }
    }

    /// Nothing is torn or lost.
    pub fn is_intact(&self) -> bool {
        self.index.torn == 0 && self.index.lost_at.is_none()
    }

    /// Whether this is `earlier` with nothing but appends since (for a raw file: nothing at all).
    fn continues(&self, earlier: &Snapshot) -> bool {
        let same_file = (self.stat.dev, self.stat.ino) == (earlier.stat.dev, earlier.stat.ino);
        same_file
            && self.version == earlier.version
            && self.body.form == earlier.body.form
            && match self.body.form {
                Form::Raw => Stamp::of(&self.stat) == Stamp::of(&earlier.stat),
                Form::Packed => self.index.frames.starts_with(&earlier.index.frames),
            }
    }
}

impl State {
    /// Takes in what the store file says. If something else was known of it, another host wrote, and
    /// even frames at known places may be others.
    fn learn(&mut self, known: Known, index: Option<Index>) {
        if self.known.is_some_and(|k| k.stamp != known.stamp) {
            self.version += 1;
        }
        (self.known, self.index) = (Some(known), index);
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

fn read_raw(file: &File, offset: u64, size: usize) -> io::Result<Vec<u8>> {
    let mut out = vec![0; size];
    let mut done = 0;
    while done < size {
        match file.read_at(&mut out[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if is(&e, libc::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
    out.truncate(done);
    Ok(out)
}
