//! Cutting, changing form, and being replaced by a smaller equal: everything that puts another store
//! file in the session's place.
//!
//! The new file is complete and synced before its `rename`. Where one form takes the other's place
//! the directory is synced between the rename and the unlink; a kill between leaves both, equal, and
//! the raw one counts.

use super::write::begin;
use super::{Body, Locked, Session, State, Where};
use crate::cache::lock;
use crate::frames::{self, Ends, FRAME_MAX, Index, TRAILER, Trailer};
use crate::names::{Form, Place};
use crate::pool;
use crate::rewrite::{Builder, Content, write_plain};
use crate::store::{Hint, Temporary, carry_attributes, carry_times, sync_dir};
use crate::sys::{self, SetTime, Stat, errno, is};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

impl Session {
    /// Sets the file's size.
    pub fn truncate(&self, at: Where, size: u64) -> io::Result<()> {
        let mut st = self.state()?;
        let place = at();
        self.with_open(&mut st, place.as_ref(), |session, st| {
            session.truncate_locked(st, place.as_ref(), size)
        })
    }

    pub(super) fn truncate_locked(
        &self,
        st: &mut State,
        place: Option<&Place>,
        size: u64,
    ) -> io::Result<()> {
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
            Hint::forget(body.file.as_fd());
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
            Hint::forget(body.file.as_fd());
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
                self.shared.cache.read(
                    (self.id, st.version),
                    &body.file,
                    &frame,
                    from,
                    to,
                    &mut data,
                )?;
                self.shared
                    .with_encoder(|encoder| builder.append(encoder, &data))?;
                from = to;
            }
        }
        let ends = builder.ends();
        carry_attributes(&body.file, &temporary.file)?;
        temporary.file.sync_all()?;
        let file = self.put(st, place, (body, stat), temporary, Form::Packed)?;
        self.sync_name(place.filter(|_| !st.unlinked))?;
        let now = sys::fstat(&file)?;
        st.version += 1;
        (st.body, st.index) = (Some(Body::open(file, Form::Packed, true)), None);
        st.changed(stat, &now, ends);
        Ok(())
    }

    /// Puts a finished file in the session's place, or nowhere if that is gone. The name is durable
    /// only after [`Session::sync_name`]. ESTALE if another host has given the name to another file
    /// than `old`, which is locked: nothing of that file may be lost. A raw one is still locked,
    /// because the packed one has to go first.
    fn put(
        &self,
        st: &State,
        place: Option<&Place>,
        old: (&Body, &Stat),
        temporary: Temporary,
        form: Form,
    ) -> io::Result<File> {
        if st.unlinked || old.1.nlink == 0 {
            return temporary.keep_unnamed();
        }
        let place = place.ok_or_else(|| errno(libc::ESTALE))?;
        match self.replaced_by_name(Some(place), old.0, old.1) {
            Ok(false) => {}
            Err(e) if !is(&e, libc::ENOENT) => return Err(e),
            _ => return Err(errno(libc::ESTALE)),
        }
        let dir = self.store().dir(&place.dir)?;
        let stored = self.store().stored_name(&place.name, form)?;
        let file = self
            .store()
            .unseen(dir.as_fd(), || temporary.place(dir.as_fd(), &stored))?;
        if form == Form::Packed {
            self.store().unlock_file(&file);
        }
        self.store().drop_sidecar(dir.as_fd(), &place.name);
        Ok(file)
    }

    fn sync_name(&self, place: Option<&Place>) -> io::Result<()> {
        place.map_or(Ok(()), |place| {
            sync_dir(self.store().dir(&place.dir)?.as_fd())
        })
    }

    /// Removes the other form of a session, `old`, whose new form is in its place, durably.
    fn remove_other(&self, place: &Place, form: Form, old: &Stat) -> io::Result<()> {
        let dir = self.store().dir(&place.dir)?;
        sync_dir(dir.as_fd())?;
        let stored = self.store().stored_name(&place.name, form)?;
        match sys::stat_at(dir.as_fd(), &stored) {
            Ok(there) if (there.dev, there.ino) == (old.dev, old.ino) => {
                let unlink = || sys::unlink_at(dir.as_fd(), &stored);
                self.store().unseen(dir.as_fd(), unlink)?;
            }
            // Another host has cleared it away.
            Err(e) if !is(&e, libc::ENOENT) => return Err(e),
            _ => {}
        }
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
    pub(super) fn to_raw_locked(&self, st: &mut State, place: Option<&Place>) -> io::Result<()> {
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
        let file = self.put(st, place, (body, stat), temporary, Form::Raw)?;
        // From here on the raw file is the one that counts, whatever happens to the other.
        let new = Locked {
            store: self.store(),
            stat: sys::fstat(&file)?,
            body: Body::open(file, Form::Raw, true),
        };
        st.replaced(stat, &new.stat, new.body.clone(), Ends::default());
        match place.filter(|_| !st.unlinked) {
            Some(place) => self.remove_other(place, Form::Packed, stat),
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

    /// Sets the bytes of a torn append aside, as the next write would, and makes an empty store file
    /// one that `zstd` reads.
    pub fn mend(&self, at: Where) -> io::Result<()> {
        let mut st = self.state()?;
        let Some(place) = at().filter(|_| !st.unlinked) else {
            return Ok(());
        };
        self.with_open(&mut st, Some(&place), |session, st| {
            let locked = session.lock_current(st, Some(&place))?;
            if locked.body.form == Form::Raw {
                return Ok(());
            }
            if locked.stat.size == 0 {
                // Made by a daemon that was killed before it could write the first trailer.
                begin(&locked.body.file)?;
            }
            let known = session.known(st, &locked.body, &sys::fstat(&locked.body.file)?)?;
            if known.torn > 0 {
                session.set_torn_aside(st, Some(&place), &locked.body, &known)?;
            }
            // To its users the session has not changed.
            let file = &locked.body.file;
            let now = sys::fstat(file)?;
            if now.mtime != locked.stat.mtime {
                let mtime = SetTime::At(locked.stat.mtime);
                let keep = |fd: BorrowedFd| sys::utimens(fd, SetTime::Omit, mtime);
                st.touched(&now, file.as_fd(), keep)?;
            }
            Ok(())
        })
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
        replacement: Replacement,
    ) -> io::Result<bool> {
        let mut st = self.state()?;
        let Some(place) = at().filter(|_| !st.unlinked) else {
            return Ok(false);
        };
        let replaced = self.with_open(&mut st, Some(&place), |session, st| {
            session.replace_locked(st, &place, snapshot, replacement)
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
        mut replacement: Replacement,
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
        if !replacement.looks_like(stat) {
            replacement.carry(&now, snapshot.index.frames.len())?;
        }
        let ends = replacement.ends();
        let old = (&**body, stat);
        let file = self.put(st, Some(place), old, replacement.temporary, Form::Packed)?;
        if body.form == Form::Raw {
            self.remove_other(place, Form::Raw, stat)?;
        }
        // Until the directory is synced, an fsync of the session must sync it too.
        st.unsynced_name = true;
        let after = sys::fstat(&file)?;
        st.replaced(stat, &after, Body::open(file, Form::Packed, true), ends);
        Ok(true)
    }
}

/// A store file that is to take a session's place: complete, durable, and looking like the old one as
/// that was when it was last looked at.
pub struct Replacement<'a> {
    temporary: Temporary<'a>,
    ends: Ends,
    as_of: Stat,
}

impl<'a> Replacement<'a> {
    pub fn new(temporary: Temporary<'a>, ends: Ends, of: &Snapshot) -> io::Result<Self> {
        finish(&of.body.file, &temporary.file, &ends)?;
        Ok(Replacement {
            temporary,
            ends,
            as_of: of.stat,
        })
    }

    pub fn ends(&self) -> Ends {
        self.ends
    }

    /// Takes over the snapshot's frames from number `known` on, and how the old file looks now.
    pub fn carry(&mut self, now: &Snapshot, known: usize) -> io::Result<()> {
        let mut builder = Builder::resume(&self.temporary.file, self.ends);
        builder.carry(&now.body.file, &now.index.frames[known..])?;
        self.ends = builder.ends();
        self.as_of = now.stat;
        finish(&now.body.file, &self.temporary.file, &self.ends)
    }

    /// Nothing has changed since: neither bytes nor mode, owner, times or attributes.
    fn looks_like(&self, stat: &Stat) -> bool {
        let seen = |s: &Stat| (s.ctime, s.mtime, s.size, s.mode, s.uid, s.gid);
        seen(stat) == seen(&self.as_of)
    }
}

/// The last steps on a new store file: it looks like the old one and is durable.
pub fn finish(old: &File, new: &File, ends: &Ends) -> io::Result<()> {
    finish_unsynced(old, new, ends)?;
    new.sync_all()
}

/// The same for one that is synced later, with others.
pub fn finish_unsynced(old: &File, new: &File, ends: &Ends) -> io::Result<()> {
    carry_attributes(old, new)?;
    Hint::from(*ends).set(new.as_fd());
    carry_times(old, new)
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
                // Another host may set the times back, but not this one.
                Form::Raw => {
                    (self.stat.size, self.stat.ctime) == (earlier.stat.size, earlier.stat.ctime)
                }
                Form::Packed => self.index.frames.starts_with(&earlier.index.frames),
            }
    }
}
