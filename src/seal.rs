//! The background pass: one thread, one file at a time, at the lowest CPU and I/O priority.
//!
//! *Fold*: the tail of small frames of a session in use has grown past max([`FOLD_MIN`], a quarter of
//! the file): it is encoded again at level 9. Not earlier, because a rewrite copies the file.
//! *Seal*: a session has been quiet for `seal_after`: all of it that is not in full sealed frames is
//! encoded at level 19. A sealed session that got a few lines waits until the copy is worth it
//! (`worth_sealing`). One pass does both; they differ in trigger, level and what they keep.
//!
//! Nothing is replaced before the new file has been decoded, compared byte for byte with the old one
//! and synced. The session's lock is held only for the last step; what is appended meanwhile is
//! carried over first in rounds. If anything else happens to the session, the new file is thrown
//! away. A kill at any instant leaves the old file, or the new one, and perhaps a file in
//! `.cellar/tmp` that the next start sweeps away.
//!
//! After a start, a walk over the store that reads only file ends finds what was left unsealed: raw
//! sessions (after an install there may be gigabytes of them) are folded first, all of them, oldest
//! first, and sealed afterwards. With nothing waiting the thread sleeps without a timeout, or until the
//! trash is to be pruned if there is one.

use crate::dirty::{Dirty, Wake};
use crate::frames::{Encoder, Ends, FOREIGN_MAX, FRAME_MAX, Frame, Index, LEVEL_FOLD, LEVEL_SEAL};
use crate::names::{Form, Place, is_reserved, is_session, visible_name};
use crate::rewrite::Builder;
use crate::session::{Replacement, Session, Snapshot, Where};
use crate::store::Hint;
use crate::survey::look;
use crate::sys::{self, Stat};
use crate::trash::Trash;
use crate::tree::Tree;
use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Stored bytes of small frames that are not folded yet.
pub const FOLD_MIN: u64 = 1 << 20;
/// A frame that decodes to more than this came from a fold or seal: one write gives at most this.
const SMALL: u64 = 1 << 20;
/// An active session is folded in a pause of this length.
const PAUSE: Duration = Duration::from_secs(2);
/// Decoded frames nobody has read for this long are dropped.
const CACHE_IDLE: Duration = Duration::from_secs(30);
/// Bytes appended during a pass that may be left to the last step.
const CARRY_LAST: u64 = 64 << 10;
/// A session that could not be sealed (no space, damage) is tried again after this.
const RETRY: Duration = Duration::from_secs(60);
/// So often a session that changed under the pass is tried again at once, when all is to be sealed now.
const AGAIN: usize = 5;

/// The session changed under the pass in a way that cannot be carried over; it is looked at again.
const CHANGED: io::ErrorKind = io::ErrorKind::WouldBlock;

/// How far a pass goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Depth {
    Fold,
    Seal,
}

/// The handle to the background thread.
#[derive(Clone)]
pub struct Sealer {
    tree: Arc<Tree>,
    seal_after: Duration,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Sealer {
    pub fn new(tree: Arc<Tree>, seal_after: Duration) -> Sealer {
        Sealer {
            tree,
            seal_after,
            thread: Arc::default(),
        }
    }

    /// Starts the thread; to be called by the process that serves the mount, after any fork.
    pub fn start(&self) {
        let pass = Pass {
            tree: self.tree.clone(),
            dirty: self.tree.dirty.clone(),
            seal_after: self.seal_after,
        };
        match std::thread::Builder::new()
            .name("cellar-seal".into())
            .spawn(move || pass.run())
        {
            Ok(thread) => *crate::cache::lock(&self.thread) = Some(thread),
            Err(e) => log::error!("no thread for sealing: {e}; sessions stay as they were written"),
        }
    }

    /// Seals everything now, however recently written.
    pub fn seal_now(&self) {
        self.tree.dirty.everything();
    }

    /// Ends the thread at its next step. What it had half done is thrown away.
    pub fn stop(&self) {
        self.tree.dirty.stop();
        // A step may be one level-19 frame, seconds long: it is not waited for. Its unfinished file
        // is in `tmp` and nothing depends on it.
        drop(crate::cache::lock(&self.thread).take());
    }
}

struct Pass {
    tree: Arc<Tree>,
    dirty: Dirty,
    seal_after: Duration,
}

impl Pass {
    fn run(&self) {
        sys::lowest_priority();
        if let Err(e) = self.tree.shared.store.sweep() {
            log::warn!("clearing .cellar/tmp: {e}");
        }
        self.prune();
        self.backlog();
        let mut folded = HashMap::new();
        let mut cache = CacheWatch::default();
        loop {
            let (worked, next) = self.look(false, &mut folded);
            if worked {
                self.tree.shared.release_memory();
            }
            let idle = cache.left(self.tree.shared.cache.uses());
            let prune = self.tree.trash.as_ref().map(Trash::due_in);
            match self
                .dirty
                .wait([next, idle, prune].into_iter().flatten().min())
            {
                Wake::Stop => return,
                Wake::Everything => {
                    self.backlog_now();
                    self.look(true, &mut folded);
                    self.tree.shared.release_memory();
                    log::info!("sealed everything");
                }
                Wake::Look => {}
            }
            if cache.is_idle(self.tree.shared.cache.uses()) {
                self.tree.shared.release_memory();
            }
            self.prune();
        }
    }

    fn prune(&self) {
        if let Some(trash) = &self.tree.trash {
            trash.prune_if_due(&self.tree.shared.store);
        }
    }

    /// Goes through the waiting sessions. Returns whether there was work and when to look again.
    /// `folded` remembers which have been looked at in their present pause.
    fn look(
        &self,
        everything: bool,
        folded: &mut HashMap<u64, Instant>,
    ) -> (bool, Option<Duration>) {
        let pause = PAUSE.min(self.seal_after);
        let mut worked = false;
        for (ino, written) in self.dirty.waiting() {
            let quiet = written.elapsed();
            let depth = match () {
                () if everything || quiet >= self.seal_after => Depth::Seal,
                () if quiet >= pause && folded.get(&ino) != Some(&written) => Depth::Fold,
                () => continue,
            };
            folded.insert(ino, written);
            let mut visited = self.visit(ino, depth, everything);
            // Told to seal now, it does not wait for a quieter time: another host may be at the same.
            for _ in 0..if everything { AGAIN } else { 0 } {
                if visited.as_ref().is_err_and(|e| e.kind() == CHANGED) {
                    visited = self.visit(ino, depth, everything);
                }
            }
            let finished = match visited {
                Ok(done) => {
                    worked |= done;
                    depth == Depth::Seal
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => return (true, None),
                Err(e) if e.kind() == CHANGED => false,
                Err(e) => {
                    let place = self
                        .tree
                        .inodes
                        .place(ino)
                        .map(|p| p.path())
                        .unwrap_or_default();
                    log::warn!("{}: not sealed: {e}", place.display());
                    !matches!(e.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
                }
            };
            if finished {
                folded.remove(&ino);
                self.dirty.done(ino, written, &self.tree.inodes);
            }
        }
        let due = |written: Instant| {
            let quiet = written.elapsed();
            let next = [pause, self.seal_after].into_iter().find(|at| quiet < *at);
            next.map_or(RETRY, |at| at - quiet)
        };
        (
            worked,
            self.dirty
                .waiting()
                .into_iter()
                .map(|(_, written)| due(written))
                .min(),
        )
    }

    /// Folds or seals one session if that is due. Returns whether it was.
    fn visit(&self, ino: u64, depth: Depth, always: bool) -> io::Result<bool> {
        let node = self.tree.inodes.get(ino)?;
        let (Some(place), Some(session)) = (self.tree.inodes.place(ino), &node.session) else {
            return Ok(false);
        };
        if !self.tree.shared.store.compresses(&place) {
            return Ok(false);
        }
        // A session that gets another name meanwhile is left alone: its new name is noted anew.
        let at = || self.tree.inodes.place(ino).filter(|p| *p == place);
        self.settle(session, &at)?;
        // A file that its owner may not write is opened by changing its mode for a moment, which
        // changes its times; once is enough.
        let _open = session.keep_open(&at)?;
        if depth == Depth::Seal {
            session.mend(&at)?;
        }
        let Some(mut snapshot) = session.snapshot(&at)? else {
            return Ok(false);
        };
        let due = match (depth, snapshot.body.form) {
            (Depth::Seal, _) => worth_sealing(&snapshot, always),
            (Depth::Fold, Form::Packed) => worth_folding(&snapshot.index),
            // A raw session in use may be overwritten again at once; one of a backlog is not in use.
            (Depth::Fold, Form::Raw) => always,
        };
        if !due {
            if depth == Depth::Seal && !snapshot.index.ends.is_sealed() && snapshot.is_intact() {
                // As good as sealed: nobody needs to look again.
                let ends = snapshot.index.ends;
                Hint {
                    sealed: ends.stored,
                    ..Hint::from(ends)
                }
                .set(snapshot.body.file.as_fd());
            }
            return Ok(false);
        }
        // What is free is the users' before it is ours: their writes must not fail for a copy.
        let space = self.tree.statfs()?;
        if space.f_bavail * space.f_frsize < snapshot.stat.size {
            return Err(sys::errno(libc::ENOSPC));
        }
        // The compressor needs the memory more than readers of other sessions.
        self.tree.shared.cache.clear();
        let started = Instant::now();
        let temporary = self.tree.shared.store.temporary()?;
        let mut builder = Builder::new(&temporary.file);
        let stop = || self.dirty.stopping();
        self.build(&mut builder, &snapshot, depth, &stop)?;
        if !builder.holds(snapshot.content())? {
            if !session.catch_up(&at, &mut snapshot)? {
                return Err(CHANGED.into());
            }
            return Err(io::Error::other(
                "the compressed copy does not decode to the session",
            ));
        }
        let ends = builder.ends();
        let mut replacement = Replacement::new(temporary, ends, &snapshot)?;
        loop {
            let known = snapshot.index.frames.len();
            let before = snapshot.index.ends.stored;
            if stop() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if !session.catch_up(&at, &mut snapshot)? {
                return Err(CHANGED.into());
            }
            if snapshot.index.frames.len() > known {
                replacement.carry(&snapshot, known)?;
            }
            if snapshot.index.ends.stored - before <= CARRY_LAST {
                break;
            }
        }
        let (old, new) = (snapshot.stat.size, replacement.ends());
        if !session.replace(&at, &snapshot, replacement)? {
            return Err(CHANGED.into());
        }
        log::info!(
            "{}: {depth:?} {} bytes, stored {old} -> {} in {:.1} s",
            place.path().display(),
            new.logical,
            new.stored,
            started.elapsed().as_secs_f64()
        );
        Ok(true)
    }

    /// Clears an older packed form away that a kill or somebody's hand left beside a raw session.
    fn settle(&self, session: &Session, at: Where) -> io::Result<()> {
        let _held = Session::hold(&[session])?;
        let Some(place) = at() else { return Ok(()) };
        let dir = self.tree.shared.store.dir(&place.dir)?;
        let found = self.tree.shared.store.find(dir.as_fd(), &place.name)?;
        self.tree.settle(&place, dir.as_fd(), &found)
    }

    fn build(
        &self,
        builder: &mut Builder,
        snapshot: &Snapshot,
        depth: Depth,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<()> {
        let file = &snapshot.body.file;
        let content = snapshot.content();
        match depth {
            Depth::Seal => {
                let full = full_sealed_frames(&snapshot.index.frames, snapshot.index.ends);
                builder.keep(file, full)?;
                let from = full.last().map_or(0, Frame::end);
                builder.encode_rest(
                    content,
                    from,
                    &mut Encoder::new(LEVEL_SEAL)?,
                    Builder::add,
                    stop,
                )?;
                builder.seal()
            }
            Depth::Fold => {
                let kept = folded_end(&snapshot.index);
                builder.copy_start(file, kept)?;
                builder.encode_rest(
                    content,
                    kept.logical,
                    &mut Encoder::new(LEVEL_FOLD)?,
                    Builder::append,
                    stop,
                )
            }
        }
    }

    // ---- what earlier runs left ---------------------------------------------------------------

    /// Compresses what earlier runs left behind.
    fn backlog(&self) {
        let mut left = self.unsealed(&mut |stat| quiet_for(stat) >= self.seal_after);
        // Raw sessions first, so that the space comes back soon; the others are small already.
        for depth in [Depth::Fold, Depth::Seal] {
            for (path, form, _) in &mut left {
                if self.dirty.stopping() {
                    return;
                }
                if depth == Depth::Seal || *form == Form::Raw {
                    self.visit_path(path, depth);
                }
            }
        }
        for (path, _, _) in self.unsealed(&mut |stat| quiet_for(stat) < self.seal_after) {
            if let Ok(node) = self.tree.pin(&path) {
                self.dirty.note(node.ino, &self.tree.inodes);
                self.tree.inodes.forget(node.ino, 1);
            }
        }
        self.tree.shared.release_memory();
    }

    /// Everything that is not sealed, whatever its age.
    fn backlog_now(&self) {
        for (path, _, _) in self.unsealed(&mut |_| true) {
            if self.dirty.stopping() {
                return;
            }
            if let Ok(node) = self.tree.pin(&path) {
                self.dirty.note(node.ino, &self.tree.inodes);
                self.tree.inodes.forget(node.ino, 1);
            }
        }
    }

    fn visit_path(&self, path: &Path, depth: Depth) {
        let visited = self.tree.pin(path).and_then(|node| {
            let result = self.visit(node.ino, depth, depth == Depth::Fold);
            if result.as_ref().is_err_and(|e| e.kind() == CHANGED) {
                self.dirty.note(node.ino, &self.tree.inodes);
            }
            self.tree.inodes.forget(node.ino, 1);
            result
        });
        if let Err(e) = visited
            && ![io::ErrorKind::Interrupted, CHANGED].contains(&e.kind())
        {
            log::warn!("{}: not compressed: {e}", path.display());
        }
    }

    /// Paths of the sessions that are not sealed, oldest first.
    fn unsealed(&self, wanted: &mut dyn FnMut(&Stat) -> bool) -> Vec<(PathBuf, Form, Stat)> {
        let mut found = Vec::new();
        let mut dirs = vec![PathBuf::new()];
        while let Some(path) = dirs.pop() {
            if self.dirty.stopping() {
                break;
            }
            if let Err(e) = self.unsealed_in(&path, &mut dirs, wanted, &mut found) {
                log::warn!("{}: not looked through: {e}", path.display());
            }
        }
        found.sort_by_key(|(_, _, stat)| stat.mtime);
        found
    }

    fn unsealed_in(
        &self,
        path: &Path,
        dirs: &mut Vec<PathBuf>,
        wanted: &mut dyn FnMut(&Stat) -> bool,
        found: &mut Vec<(PathBuf, Form, Stat)>,
    ) -> io::Result<()> {
        let store = &self.tree.shared.store;
        let dir = store.dir(path)?;
        for entry in sys::read_dir(dir.as_fd())? {
            let Some(name) = visible_name(&entry.name) else {
                continue;
            };
            let place = Place {
                dir: path.to_owned(),
                name: name.to_owned(),
            };
            if is_reserved(path, name) {
                continue;
            }
            if !is_session(name) || !store.compresses(&place) {
                let stat = sys::stat_at(dir.as_fd(), &entry.name);
                if stat.is_ok_and(|s| s.is(libc::S_IFDIR)) {
                    dirs.push(place.path());
                }
                continue;
            }
            let Ok(stat) = sys::stat_at(dir.as_fd(), &entry.name) else {
                continue;
            };
            let form = if name == entry.name {
                Form::Raw
            } else {
                Form::Packed
            };
            let sealed = || {
                let hint = look(dir.as_fd(), &entry.name, stat.size);
                stat.size > 0 && hint.is_some_and(|h| h.sealed == h.stored)
            };
            if stat.is(libc::S_IFREG)
                && stat.nlink == 1
                && wanted(&stat)
                && (form == Form::Raw || !sealed())
            {
                found.push((place.path(), form, stat));
            }
        }
        Ok(())
    }
}

/// When nobody has read through the cache for a while.
#[derive(Default)]
struct CacheWatch {
    uses: u64,
    since: Option<Instant>,
}

impl CacheWatch {
    /// How long until the cache counts as idle, if it is not empty.
    fn left(&mut self, uses: u64) -> Option<Duration> {
        if uses != self.uses {
            (self.uses, self.since) = (uses, Some(Instant::now()));
        }
        self.since
            .map(|since| CACHE_IDLE.saturating_sub(since.elapsed()))
    }

    /// Whether it has become idle; once for each time.
    fn is_idle(&mut self, uses: u64) -> bool {
        let idle = self.left(uses) == Some(Duration::ZERO);
        if idle {
            self.since = None;
        }
        idle
    }
}

fn quiet_for(stat: &Stat) -> Duration {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    now.saturating_sub(Duration::from_secs(
        u64::try_from(stat.mtime.0).unwrap_or(0),
    ))
}

/// The frames at the start of a sealed part that hold as much as a frame may: they stay as they are.
fn full_sealed_frames(frames: &[Frame], ends: Ends) -> &[Frame] {
    let mut at = 0;
    let full = frames.iter().take_while(|f| {
        let contiguous = f.at == at;
        at = f.at + f.len;
        contiguous && f.size == FRAME_MAX && f.at + f.len <= ends.sealed
    });
    &frames[..full.count()]
}

/// The end of what a fold leaves alone: the sealed part and earlier folds.
fn folded_end(index: &Index) -> Ends {
    let (frames, ends) = (&index.frames, index.ends);
    let kept = frames
        .iter()
        .rposition(|f| f.size > SMALL || f.at + f.len <= ends.sealed)
        .map_or(0, |i| i + 1);
    let stored = frames.get(kept).map_or(ends.stored, |f| f.at);
    let logical = frames.get(kept).map_or(ends.logical, |f| f.start);
    Ends {
        logical,
        stored,
        sealed: ends.sealed,
    }
}

fn worth_folding(index: &Index) -> bool {
    let stored = index.ends.stored;
    stored - folded_end(index).stored > FOLD_MIN.max(stored / 4)
}

/// Whether sealing gains enough: always for what was never sealed, and after that when an eighth of
/// the file is new or the copy is cheap.
fn worth_sealing(snapshot: &Snapshot, always: bool) -> bool {
    const CHEAP: u64 = 16 << 20;
    if snapshot.body.form == Form::Raw {
        return true;
    }
    let (index, ends) = (&snapshot.index, snapshot.index.ends);
    if ends.is_sealed() && !index.foreign {
        return false;
    }
    if !snapshot.is_intact() {
        return false;
    }
    if index.foreign && index.frames.len() <= 1 {
        return index
            .frames
            .first()
            .is_some_and(|f| f.size > FOREIGN_MAX || index.unsized_frames);
    }
    always
        || ends.sealed == 0
        || ends.stored <= CHEAP
        || (ends.stored - ends.sealed) * 8 >= ends.stored
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::TRAILER;

    /// An index of frames of these (stored, decoded) sizes, of which the first `sealed` are sealed
    /// with a seek table of 100 bytes and the others appended.
    fn index(frames: &[(u64, u64)], sealed: usize) -> Index {
        let mut index = Index::default();
        for (number, &(len, size)) in frames.iter().enumerate() {
            if number < sealed {
                let (at, start) = (index.ends.stored, index.ends.logical);
                index.frames.push(Frame {
                    at,
                    len,
                    start,
                    size,
                });
                index.ends.stored += len;
                index.ends.logical += size;
                if number + 1 == sealed {
                    index.ends.stored += 100;
                    index.ends.sealed = index.ends.stored;
                }
            } else {
                index.push(len, size);
            }
        }
        index
    }

    const FULL: (u64, u64) = (2 << 20, FRAME_MAX);

    #[test]
    fn only_full_frames_of_the_sealed_part_are_kept() {
        let count = |index: &Index| full_sealed_frames(&index.frames, index.ends).len();
        assert_eq!(count(&index(&[FULL, FULL, (9, 99)], 3)), 2);
        assert_eq!(count(&index(&[(9, 99), FULL], 2)), 0);
        // As large, but appended: it is not of the seal's level.
        assert_eq!(count(&index(&[FULL, FULL], 1)), 1);
        assert_eq!(count(&index(&[FULL], 0)), 0);
    }

    #[test]
    fn a_fold_begins_after_the_sealed_part_and_earlier_folds() {
        let line = (1_000, 3_000);
        let unsealed = index(&[line, line], 0);
        assert_eq!(folded_end(&unsealed), Ends::default());

        let sealed = index(&[FULL, FULL, line], 2);
        let end = folded_end(&sealed);
        assert_eq!(
            (end.stored, end.logical),
            (sealed.ends.sealed, 2 * FRAME_MAX)
        );

        let folded = index(&[FULL, (500_000, 2 << 20), line, line], 1);
        let end = folded_end(&folded);
        assert_eq!(end.logical, FRAME_MAX + (2 << 20));
        assert_eq!(end.stored, folded.ends.sealed + 500_000 + TRAILER);
        assert_eq!(end.sealed, folded.ends.sealed);

        let all = index(&[FULL], 1);
        assert_eq!(folded_end(&all), all.ends);
    }

    #[test]
    fn a_fold_waits_for_a_megabyte_and_a_quarter_of_the_file() {
        let write = (FOLD_MIN / 4, 1 << 20);
        assert!(!worth_folding(&index(&[write; 3], 0)));
        assert!(worth_folding(&index(&[write; 5], 0)));
        let large = (8 << 20, FRAME_MAX);
        assert!(!worth_folding(&index(
            &[large, write, write, write, write, write],
            1
        )));
        let mut frames = vec![large];
        frames.extend([write; 20]);
        assert!(worth_folding(&index(&frames, 1)));
    }

    #[test]
    fn the_cache_is_idle_once_after_its_last_use() {
        let mut watch = CacheWatch::default();
        assert_eq!(watch.left(0), None);
        assert!(watch.left(1).is_some_and(|left| left > Duration::ZERO));
        assert!(!watch.is_idle(1));
        watch.since = Instant::now().checked_sub(CACHE_IDLE);
        assert!(watch.is_idle(1));
        assert!(!watch.is_idle(1));
        assert_eq!(watch.left(1), None);
    }
}
