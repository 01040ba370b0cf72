//! The file system exerciser of Apple and FreeBSD: 10,000 random reads, writes, cuts and mappings on one file, each
//! checked, on a session that is sealed all the while and on a file that is stored as it is.

mod common;

use common::Mount;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The program from `$FSX` or the search path.
fn fsx() -> PathBuf {
    let named = std::env::var_os("FSX").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = named
        .into_iter()
        .chain(std::env::split_paths(&path).map(|directory| directory.join("fsx")));
    found.into_iter().find(|program| program.is_file()).expect(
        "the fsx program is missing: `cargo install fsx --root DIR`, then put DIR/bin in PATH or set FSX=DIR/bin/fsx",
    )
}

fn exercise(name: &str, seed: u32) {
    let mount = Mount::start("fsx");
    std::fs::create_dir(mount.path("p")).unwrap();
    let log = mount.outside("fsx.log");
    let output = std::fs::File::create(&log).unwrap();
    let mut child = Command::new(fsx())
        .args(["-N", "10000", "-S", &seed.to_string(), "-P"])
        .arg(mount.outside(""))
        .arg(mount.path(name))
        .stdout(Stdio::from(output.try_clone().unwrap()))
        .stderr(Stdio::from(output))
        .spawn()
        .expect("fsx runs");
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(300));
        mount.seal();
    };
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    let tail: Vec<&str> = said.lines().rev().take(40).collect();
    assert!(
        status.success(),
        "fsx on {name}: {status}\n{}",
        tail.into_iter().rev().collect::<Vec<_>>().join("\n")
    );
}

#[test]
fn ten_thousand_operations_on_a_session_are_right() {
    exercise("p/session.jsonl", 7);
}

#[test]
fn ten_thousand_operations_on_another_file_are_right() {
    exercise("p/notes.txt", 7);
}
