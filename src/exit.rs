//! Exit codes, and the errors that carry one.
//!
//! The numbers are a contract with scripts and never change meaning. A failure is one line:
//! what failed, on which path, why, and what to do about it.

use std::fmt;
use std::path::Path;

/// What the process ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    NotMounted = 3,
}

impl Exit {
    /// The exit that has this number; any unknown number is a failure.
    pub fn from_code(code: u8) -> Exit {
        match code {
            0 => Exit::Done,
            2 => Exit::Usage,
            3 => Exit::NotMounted,
            _ => Exit::Failed,
        }
    }
}

/// A command that did not succeed: the line for stderr and the exit code.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
}

impl Failure {
    pub fn new(message: impl Into<String>) -> Failure {
        Failure {
            exit: Exit::Failed,
            message: message.into(),
        }
    }

    pub fn usage(message: impl Into<String>) -> Failure {
        Failure {
            exit: Exit::Usage,
            ..Failure::new(message)
        }
    }

    pub fn not_mounted(message: impl Into<String>) -> Failure {
        Failure {
            exit: Exit::NotMounted,
            ..Failure::new(message)
        }
    }

    /// `what: path: reason`
    pub fn at(what: &str, path: &Path, reason: impl fmt::Display) -> Failure {
        Failure::new(format!("{what}: {}: {reason}", path.display()))
    }

    /// Adds what the user can do.
    pub fn advise(mut self, advice: impl fmt::Display) -> Failure {
        self.message = format!("{}; {advice}", self.message);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
