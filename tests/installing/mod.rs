//! A home to install in, and whole trees compared.

mod kills;
mod layouts;
mod leaving;
mod managed;
mod manager;
mod refusals;
mod service;
mod trees;
mod upgrade;

use crate::cellar::{Home, Ran};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

pub const SESSION: &str = "11111111-0000-4000-8000-000000000001";

/// Runs a command line whose words hold no spaces with more variables.
pub fn run_with(home: &Home, line: &str, variables: &[(&str, &Path)]) -> Ran {
    let mut command = home.command(line.split_whitespace());
    command.envs(variables.iter().copied());
    Ran::from(command.output().unwrap())
}

pub fn store(home: &Home) -> PathBuf {
    home.dir.join(".local/share/claude-cellar/store")
}

/// A directory of the home with a small file system of its own, which goes with the home.
pub fn file_system(home: &Home, name: &str, options: &str) -> PathBuf {
    let dir = home.dir.join(name);
    fs::create_dir_all(&dir).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", options, "tmpfs"])
        .arg(&dir)
        .status();
    assert!(mounted.unwrap().success(), "run this test as root");
    dir
}

/// Unmounts. A program that another test starts holds what was open here until it has begun.
#[track_caller]
pub fn unmount(home: &Home) {
    let deadline = Instant::now() + 10 * crate::cellar::SECOND;
    loop {
        let ran = home.run("umount");
        // Of a try that did not wait until the daemon had ended, the next finds nothing mounted.
        if matches!(ran.code, Some(0 | 3)) {
            return;
        }
        assert!(Instant::now() < deadline, "{ran:?}");
    }
}

/// Writes a file and the directories above it.
pub fn put(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}
