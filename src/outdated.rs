//! Whether a daemon still runs another build than the one that asks, as after an update.
//!
//! The programs themselves are compared: a version number says nothing about builds between
//! releases, and their paths say nothing where every build has its own. `/proc/PID/exe` leads to the
//! daemon's program even after that was replaced. What cannot be read counts as up to date: another
//! user's daemon is not this one's to restart.

use crate::sys;
use std::fs::File;
use std::io::{self, Read};

/// Whether the process `pid` runs a program other than this one.
pub fn runs_another(pid: u32) -> bool {
    differ(&format!("/proc/{pid}/exe"), "/proc/self/exe").unwrap_or(false)
}

fn differ(a: &str, b: &str) -> io::Result<bool> {
    let (a, b) = (File::open(a)?, File::open(b)?);
    let (a_stat, b_stat) = (sys::fstat(&a)?, sys::fstat(&b)?);
    if (a_stat.dev, a_stat.ino) == (b_stat.dev, b_stat.ino) {
        return Ok(false);
    }
    // A copy of the same build is no other one.
    Ok(a_stat.size != b_stat.size || contents(a)? != contents(b)?)
}

fn contents(mut file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::process::Command;

    #[test]
    fn this_process_runs_this_program() {
        assert!(!runs_another(std::process::id()));
    }

    #[test]
    fn a_copy_is_the_same_and_another_program_is_not() {
        let name = format!("cellar-outdated-{}", std::process::id());
        let copy = std::env::temp_dir().join(name);
        fs::copy("/proc/self/exe", &copy).unwrap();
        let same = differ(copy.to_str().unwrap(), "/proc/self/exe").unwrap();
        fs::remove_file(&copy).unwrap();
        assert!(!same);
        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        // Until it has become `sleep` it is this program.
        let seen = (0..1000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            runs_another(other.id())
        });
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(seen);
    }

    #[test]
    fn what_cannot_be_told_is_no_reason_to_warn() {
        assert!(!runs_another(u32::MAX));
    }
}
