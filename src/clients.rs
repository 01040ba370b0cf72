//! Which programs have something open in a directory: moving files away under a writer, or a
//! directory under a shell, would part them from it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process;

/// A program that uses a directory.
#[derive(Debug)]
pub struct Client {
    pub pid: u32,
    pub name: String,
    /// What it has open, or its working directory.
    pub path: PathBuf,
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} (pid {}) uses {}",
            self.name,
            self.pid,
            self.path.display()
        )
    }
}

/// The first program found that has a file beneath this resolved directory open, or works in it or one
/// of its directories. Other users' programs cannot be seen.
pub fn of(dir: &Path) -> Option<Client> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != process::id()).find_map(|pid| {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let open = fs::read_dir(proc.join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        // The directory itself may be open: that parts nobody from a file.
        let open = open.filter_map(|fd| fs::read_link(fd.path()).ok());
        let open = open.filter(|target| target != dir);
        let mut targets = open.chain(fs::read_link(proc.join("cwd")));
        let path = targets.find(|target| target.starts_with(dir))?;
        let name = fs::read_to_string(proc.join("comm")).unwrap_or_default();
        Some(Client {
            pid,
            name: name.trim_end().to_owned(),
            path,
        })
    })
}

/// The store that a daemon of this program serves: it has the lock in it open.
pub fn store_of(pid: u32) -> Option<PathBuf> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
    let mut targets = open.filter_map(|fd| fs::read_link(fd.path()).ok());
    let lock = targets.find(|target| target.ends_with(".cellar/lock"))?;
    Some(lock.parent()?.parent()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_program_that_works_in_a_directory_is_found() {
        let dir = std::env::temp_dir().join(format!("cellar-clients-{}", process::id()));
        fs::create_dir_all(dir.join("inner")).unwrap();
        let dir = dir.canonicalize().unwrap();
        let inner = dir.join("inner");
        assert!(of(&dir).is_none());
        for place in [&inner, &dir] {
            let mut cat = Command::new("cat")
                .current_dir(place)
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            let found = of(&dir).unwrap();
            assert_eq!((found.pid, &found.path), (cat.id(), place));
            drop(cat.stdin.take());
            cat.wait().unwrap();
            assert!(of(&dir).is_none());
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
