//! How far a long piece of work has come, for somebody who watches.
//!
//! Written to stderr, only if that is a terminal and only once the work has taken a second. The line
//! is wiped when the work ends, so what follows stands alone.

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

const SILENT: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(200);

pub struct Progress {
    what: &'static str,
    terminal: bool,
    next: Cell<Instant>,
    shown: Cell<bool>,
}

impl Progress {
    pub fn new(what: &'static str) -> Progress {
        Progress {
            what,
            terminal: io::stderr().is_terminal(),
            next: Cell::new(Instant::now() + SILENT),
            shown: Cell::new(false),
        }
    }

    /// Shows the state if it is time to; `state` is asked only then.
    pub fn show(&self, state: impl FnOnce() -> String) {
        let now = Instant::now();
        if !self.terminal || now < self.next.get() {
            return;
        }
        self.next.set(now + STEP);
        self.shown.set(true);
        let _ = write!(io::stderr(), "\r\x1b[K{}: {}", self.what, state());
    }

    /// Wipes the line, so that something else can be written.
    pub fn wipe(&self) {
        if self.shown.take() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.wipe();
    }
}
