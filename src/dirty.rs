//! Which sessions were written to and wait for the background pass.
//!
//! An entry holds its node, so that the pass and the kernel share one state of the file. Noting a
//! session that is noted already costs one lock and no wake-up.

use crate::cache::lock;
use crate::inodes::Inodes;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

#[derive(Default)]
struct State {
    /// When each was last written to.
    written: HashMap<u64, Instant>,
    /// Everything is to be sealed, however recently written.
    now: bool,
    stop: bool,
    /// Something happened that the pass has not looked at.
    news: bool,
}

/// The waiting sessions, and the signal to the pass.
#[derive(Clone, Default)]
pub struct Dirty {
    state: Arc<(Mutex<State>, Condvar)>,
}

/// What the pass is woken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    Stop,
    /// Seal everything now.
    Everything,
    /// Look at the sessions that wait.
    Look,
}

impl Dirty {
    /// A session was written to. The caller knows the node; it stays known until [`Dirty::done`].
    pub fn note(&self, ino: u64, inodes: &Inodes) {
        let mut state = lock(&self.state.0);
        if state.written.insert(ino, Instant::now()).is_none() {
            inodes.hold(ino);
            state.news = true;
            self.state.1.notify_all();
        }
    }

    /// Seal everything now.
    pub fn everything(&self) {
        lock(&self.state.0).now = true;
        self.state.1.notify_all();
    }

    pub fn stop(&self) {
        lock(&self.state.0).stop = true;
        self.state.1.notify_all();
    }

    pub fn stopping(&self) -> bool {
        lock(&self.state.0).stop
    }

    /// Waits for something to do, without end if there is no `timeout`.
    pub fn wait(&self, timeout: Option<Duration>) -> Wake {
        let (mutex, wake) = &*self.state;
        let mut state = lock(mutex);
        let deadline = timeout.map(|t| Instant::now() + t);
        loop {
            if state.stop {
                return Wake::Stop;
            }
            if std::mem::take(&mut state.now) {
                return Wake::Everything;
            }
            if std::mem::take(&mut state.news) {
                return Wake::Look;
            }
            state = match deadline.map(|d| d.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return Wake::Look,
                Some(left) => {
                    wake.wait_timeout(state, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                None => wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// The waiting sessions and when each was last written to, the longest ago first.
    pub fn waiting(&self) -> Vec<(u64, Instant)> {
        let mut waiting: Vec<_> = lock(&self.state.0)
            .written
            .iter()
            .map(|(&ino, &at)| (ino, at))
            .collect();
        waiting.sort_by_key(|(_, at)| *at);
        waiting
    }

    /// A session needs nothing more, whatever was written.
    pub fn forget(&self, ino: u64, inodes: &Inodes) {
        if lock(&self.state.0).written.remove(&ino).is_some() {
            inodes.forget(ino, 1);
        }
    }

    /// A session needs nothing more, unless it was written to since `written`.
    pub fn done(&self, ino: u64, written: Instant, inodes: &Inodes) {
        let mut state = lock(&self.state.0);
        if state.written.get(&ino) == Some(&written) {
            state.written.remove(&ino);
            drop(state);
            inodes.forget(ino, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inodes::ROOT;
    use crate::shared::Shared;
    use crate::store::Store;
    use crate::sys;
    use std::ffi::OsStr;
    use std::path::PathBuf;

    const SOON: Option<Duration> = Some(Duration::from_millis(1));

    /// A table that knows one file, once.
    fn known(test: &str) -> (Inodes, u64) {
        let name = format!("cellar-dirty-{}-{test}", std::process::id());
        let dir: PathBuf = std::env::temp_dir().join(name);
        let store = Store::open(&dir, false, false).unwrap();
        let root = sys::fstat(store.root()).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        let inodes = Inodes::new(Arc::new(Shared::new(store)), &root);
        let mut stat = root;
        (stat.mode, stat.ino) = (libc::S_IFREG, root.ino + 1);
        let ino = inodes.reach(ROOT, OsStr::new("x.jsonl"), &stat).ino;
        (inodes, ino)
    }

    #[test]
    fn a_noted_session_is_held_until_it_is_done() {
        let (inodes, ino) = known("held");
        let dirty = Dirty::default();
        dirty.note(ino, &inodes);
        dirty.note(ino, &inodes);
        inodes.forget(ino, 1);
        assert!(inodes.get(ino).is_ok());
        let [(waiting, written)] = dirty.waiting()[..] else {
            panic!("one session waits");
        };
        assert_eq!(waiting, ino);
        dirty.done(ino, written, &inodes);
        assert!(inodes.get(ino).is_err());
        assert!(dirty.waiting().is_empty());
        dirty.done(ino, written, &inodes);
    }

    #[test]
    fn a_session_written_to_meanwhile_is_not_done() {
        let (inodes, ino) = known("meanwhile");
        let dirty = Dirty::default();
        dirty.note(ino, &inodes);
        let (_, before) = dirty.waiting()[0];
        std::thread::sleep(Duration::from_millis(1));
        dirty.note(ino, &inodes);
        dirty.done(ino, before, &inodes);
        let (_, after) = dirty.waiting()[0];
        assert!(after > before);
        dirty.done(ino, after, &inodes);
        assert!(dirty.waiting().is_empty());
    }

    #[test]
    fn the_pass_is_woken_once_for_each_reason_and_stops_first() {
        let (inodes, ino) = known("woken");
        let dirty = Dirty::default();
        dirty.note(ino, &inodes);
        dirty.everything();
        assert_eq!(dirty.wait(None), Wake::Everything);
        assert_eq!(dirty.wait(None), Wake::Look);
        // Noted already: nothing new, only the time runs out.
        dirty.note(ino, &inodes);
        let started = Instant::now();
        assert_eq!(dirty.wait(SOON), Wake::Look);
        assert!(started.elapsed() >= SOON.unwrap());
        dirty.everything();
        dirty.stop();
        assert!(dirty.stopping());
        assert_eq!(dirty.wait(None), Wake::Stop);
        assert_eq!(dirty.wait(None), Wake::Stop);
    }

    #[test]
    fn a_sleeping_pass_is_woken() {
        let dirty = Dirty::default();
        let pass = dirty.clone();
        let thread = std::thread::spawn(move || pass.wait(None));
        dirty.stop();
        assert_eq!(thread.join().unwrap(), Wake::Stop);
    }
}
