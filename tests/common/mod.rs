//! What every integration test shares: a private mount that always goes away again.
//!
//! A [`Mount`] owns a temporary directory with a mountpoint, a store and a home of its own, so tests run in
//! parallel and touch nothing of the user's. `CELLAR_TEST_BACKEND=plain` puts a plain directory in the mount's
//! place: the tests then state what any file system does, which proves the tests themselves. Assertions about
//! the store are behind [`Mount::has_store`].

#![allow(dead_code)] // each test binary uses a part of it

pub mod corpus;
mod daemon;
pub mod damage;
pub mod foreign;
pub mod frames;
mod mount;
pub mod rng;
pub mod seen;
pub mod strace;
pub mod sys;

pub use mount::Mount;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The paths in a directory, sorted; empty where there is none.
pub fn entries(directory: &Path) -> Vec<PathBuf> {
    let Ok(list) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = list.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Every path below `directory`, relative, directories before their contents.
pub fn tree(directory: &Path) -> Vec<PathBuf> {
    fn walk(base: &Path, directory: &Path, found: &mut Vec<PathBuf>) {
        for path in entries(directory) {
            found.push(path.strip_prefix(base).unwrap().to_path_buf());
            if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir()) {
                walk(base, &path, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(directory, directory, &mut found);
    found
}

/// The sizes of all files in `.cellar/<name>` of a store.
pub fn leftovers(mount: &Mount, name: &str) -> Vec<PathBuf> {
    let directory = mount.store(".cellar").join(name);
    tree(&directory)
        .into_iter()
        .filter(|path| directory.join(path).is_file())
        .collect()
}

/// What plain `zstd -dc` makes of a file: the promise that stores are readable without us.
pub fn zstd_dc(file: &Path) -> Vec<u8> {
    let output = Command::new("zstd")
        .args(["-dcq", "--long=31"])
        .arg(file)
        .output()
        .expect("the zstd program");
    assert!(
        output.status.success(),
        "zstd -dc {}: {}",
        file.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// What the `zstd` program makes of `data` with these options.
pub fn zstd(options: &[&str], data: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut zstd = Command::new("zstd")
        .args(options)
        .args(["-q", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the zstd program");
    let mut input = zstd.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || input.write_all(data).unwrap());
        let output = zstd.wait_with_output().unwrap();
        assert!(output.status.success());
        output.stdout
    })
}

/// The session's bytes in the store, whichever form it has.
pub fn stored(mount: &Mount, name: &str) -> Vec<u8> {
    match fs::read(mount.store(name)) {
        Ok(raw) => raw,
        Err(_) => zstd_dc(&mount.store(format!("{name}.zst"))),
    }
}

/// `"key": 12` anywhere in a JSON text.
pub fn json_number(json: &str, key: &str) -> Option<u64> {
    let after = json
        .split(&format!("\"{key}\""))
        .nth(1)?
        .trim_start()
        .strip_prefix(':')?
        .trim_start();
    after[..after
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(after.len())]
        .parse()
        .ok()
}

/// Equality of long contents, told by place and surroundings instead of by megabytes.
#[track_caller]
pub fn assert_same(got: &[u8], want: &[u8], what: &str) {
    if got == want {
        return;
    }
    let at = got
        .iter()
        .zip(want)
        .position(|(a, b)| a != b)
        .unwrap_or(got.len().min(want.len()));
    let near = |data: &[u8]| {
        String::from_utf8_lossy(&data[at.min(data.len())..(at + 60).min(data.len())]).into_owned()
    };
    panic!(
        "{what}: {} bytes instead of {}; differs at {at}: {:?} instead of {:?}",
        got.len(),
        want.len(),
        near(got),
        near(want)
    );
}

/// A line as sessions hold it: `tag` and `number` come back from [`line_key`], the rest is `length` bytes of text.
pub fn line(tag: &str, number: usize, length: usize) -> Vec<u8> {
    let mut text = format!("{{\"tag\":\"{tag}\",\"n\":{number},\"text\":\"").into_bytes();
    let mut rng = rng::Rng::new(number as u64 * 31 + length as u64 + 7);
    rng.words(&mut text, length);
    text.extend_from_slice(b"\"}\n");
    text
}

/// The name of the session [`sealed_session`] makes.
pub const ID: &str = "7a1e0000-0000-4000-8000-000000000001";

/// A project with a sealed session of about 300 kB; its path and contents.
pub fn sealed_session(mount: &Mount) -> (PathBuf, Vec<u8>) {
    fs::create_dir_all(mount.path("-home-user-alpha")).unwrap();
    let path = mount.path(format!("-home-user-alpha/{ID}.jsonl"));
    let data = corpus::session(&mut rng::Rng::new(11), 300_000);
    fs::write(&path, &data).unwrap();
    mount.seal_and_wait();
    (path, data)
}
