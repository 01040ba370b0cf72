//! Threads for work that would hold up the threads that read requests.
//!
//! A request is first tried where it was read. Code that is about to do something slow (fsync, a
//! change of form, a walk through a foreign file, waiting for another host's lock) calls [`slow`],
//! which turns back with an error there and passes here; the request is then run again on a thread
//! of this pool. So the common case costs no hand-over, and nothing must be guessed beforehand.
//!
//! Rule: before [`slow`] a request changes nothing. Threads are started on demand and end when idle.

use crate::cache::lock;
use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

const THREADS: usize = 16;
const IDLE: Duration = Duration::from_secs(2);

thread_local! {
    static PATIENT: Cell<bool> = const { Cell::new(true) };
}

/// The error that sends a request to the pool.
const TURN_BACK: i32 = libc::EINPROGRESS;

/// Passes on a patient thread, else turns back.
pub fn slow() -> io::Result<()> {
    if PATIENT.get() {
        Ok(())
    } else {
        Err(crate::sys::errno(TURN_BACK))
    }
}

/// Runs `work`; a bug that panics in it costs this request, not the mount.
pub fn guarded<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|_| {
        log::error!("a request failed by a bug; please report it");
        Err(crate::sys::errno(libc::EIO))
    })
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

/// The pool of one mount.
#[derive(Clone, Default)]
pub struct Pool {
    queue: Arc<(Mutex<Queue>, Condvar)>,
}

impl Pool {
    /// Does the work without patience; `None` if it turned back.
    pub fn attempt<T>(work: impl FnOnce() -> io::Result<T>) -> Option<io::Result<T>> {
        PATIENT.set(false);
        let result = guarded(work);
        PATIENT.set(true);
        let turned_back = result.as_ref().is_err_and(|e| crate::sys::is(e, TURN_BACK));
        (!turned_back).then_some(result)
    }

    /// Queues a job; a thread is started if none is idle.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let (queue, wake) = &*self.queue;
        let mut state = lock(queue);
        state.jobs.push_back(Box::new(job));
        if state.idle < state.jobs.len() && state.threads < THREADS {
            let pool = self.clone();
            let started = std::thread::Builder::new()
                .name("cellar-slow".into())
                .spawn(move || pool.work());
            match started {
                Ok(_) => state.threads += 1,
                Err(e) if state.threads == 0 => {
                    log::error!("no thread for slow requests: {e}");
                    let jobs = std::mem::take(&mut state.jobs);
                    drop(state);
                    jobs.into_iter().for_each(|job| job());
                    return;
                }
                Err(_) => {}
            }
        }
        wake.notify_one();
    }

    fn work(&self) {
        let (queue, wake) = &*self.queue;
        let mut state = lock(queue);
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = lock(queue);
                continue;
            }
            state.idle += 1;
            let (woken, waited) = wake
                .wait_timeout(state, IDLE)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if waited.timed_out() && state.jobs.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}
