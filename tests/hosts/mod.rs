//! Two hosts that share a store, and what holds for them on every file system with working locks.
//!
//! Two mounts on one machine stand for the hosts: neither daemon knows of the other. Without
//! `CELLAR_TEST_STORES` the store is a local directory. `CELLAR_TEST_STORES=DIR:DIR`, one directory of
//! a network file system as two clients see it, runs the same tests there.

#![allow(dead_code)] // each test program uses a part of it

pub mod appends;
pub mod changes;
pub mod cluster;
pub mod races;

use crate::common::{Mount, assert_same, line, stored, sys};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub const APPEND: i32 = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND;

/// After this long, what one host did shows on the other: the attribute timeout and a little.
pub const SEEN: Duration = Duration::from_millis(1_100);

pub struct Hosts {
    pub a: Mount,
    pub b: Mount,
    /// The store's directory, when it is not within the first mount's.
    shared: Option<PathBuf>,
}

impl Hosts {
    /// Two running hosts that seal only when told to, and a project `p`.
    pub fn start(name: &str) -> Hosts {
        let given = std::env::var("CELLAR_TEST_STORES").unwrap_or_default();
        match given.split_once(':') {
            Some((a, b)) => Hosts::on(name, Path::new(a), Path::new(b)),
            None => {
                let a = Mount::prepare(name);
                let b = Mount::prepare(name).over(&a);
                Hosts::run(a, b, None)
            }
        }
    }

    /// The same with the store on a shared file system, which the hosts see as `a` and as `b`.
    pub fn on(name: &str, a: &Path, b: &Path) -> Hosts {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let store = format!("{name}-{}-{serial}", std::process::id());
        let (at_a, at_b) = (a.join(&store), b.join(&store));
        let a = Mount::prepare(name).over_store(&at_a);
        let b = Mount::prepare(name).over_store(&at_b).beside(&a);
        Hosts::run(a, b, Some(at_a))
    }

    fn run(a: Mount, b: Mount, shared: Option<PathBuf>) -> Hosts {
        let (mut a, mut b) = (a.seal_after(86_400), b.seal_after(86_400));
        a.mount();
        fs::create_dir(a.path("p")).unwrap();
        b.mount();
        Hosts { a, b, shared }
    }

    /// Wait until each host has seen what the other did.
    pub fn wait_until_seen(&self) {
        std::thread::sleep(SEEN);
    }

    /// The content of a file once both hosts have seen it.
    #[track_caller]
    pub fn content(&self, name: &str) -> Vec<u8> {
        self.wait_until_seen();
        self.seen(name)
    }

    /// The content of a file, which must be the same on both hosts and, decoded, in the store.
    #[track_caller]
    pub fn seen(&self, name: &str) -> Vec<u8> {
        let data = fs::read(self.a.path(name)).unwrap();
        assert_same(
            &fs::read(self.b.path(name)).unwrap(),
            &data,
            "on the other host",
        );
        assert_eq!(
            fs::metadata(self.a.path(name)).unwrap().len(),
            fs::metadata(self.b.path(name)).unwrap().len(),
        );
        if self.a.has_store() {
            assert_same(&stored(&self.b, name), &data, "in the store");
        }
        data
    }

    /// Seal everything on both hosts.
    pub fn seal_and_wait(&self) {
        self.a.seal_and_wait();
        self.b.seal_and_wait();
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in [&mut self.b, &mut self.a] {
            host.sigterm();
        }
        if let Some(store) = &self.shared {
            let _ = fs::remove_dir_all(store);
        }
    }
}

/// The text length of a writer's line; small and large ones.
fn length(number: usize) -> usize {
    20 + number * 977 % 3_000
}

/// How a program appends: through one descriptor, or through a new one for each line.
#[derive(Clone, Copy)]
pub enum Way {
    Held,
    Reopened,
}

/// What became of a writer: how many lines were acknowledged, and the error that ended it.
pub struct Written {
    pub tag: String,
    pub count: usize,
    pub error: Option<io::Error>,
}

pub fn append(path: &Path, data: &[u8]) -> io::Result<()> {
    write(&sys::open(path, APPEND, 0o600)?, data)
}

pub fn write(fd: &std::os::fd::OwnedFd, data: &[u8]) -> io::Result<()> {
    let count = sys::write(fd, data)?;
    assert_eq!(count, data.len() as i64, "a whole write");
    Ok(())
}

/// Append numbered lines until told to stop or refused.
pub fn append_until(path: &Path, tag: &str, way: Way, stop: &AtomicBool) -> Written {
    let mut written = Written {
        tag: tag.into(),
        count: 0,
        error: None,
    };
    let mut held = None;
    while !stop.load(Ordering::SeqCst) {
        let line = line(tag, written.count, length(written.count));
        let opened = match held.take() {
            Some(fd) => Ok(fd),
            None => sys::open(path, APPEND, 0o600),
        };
        let done = opened.and_then(|fd| {
            write(&fd, &line)?;
            Ok(fd)
        });
        match (done, way) {
            (Ok(fd), Way::Held) => held = Some(fd),
            (Ok(_), Way::Reopened) => {}
            (Err(e), _) => {
                written.error = Some(e);
                break;
            }
        }
        written.count += 1;
        std::thread::sleep(Duration::from_millis(4));
    }
    written
}

/// Two writers on each host append to the sessions they are given, while `meanwhile` runs for `time`.
pub fn append_from_both(
    hosts: &Hosts,
    names: [&str; 4],
    time: Duration,
    mut meanwhile: impl FnMut(),
) -> Vec<(String, Written)> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = [
            (&hosts.a, "a-held", Way::Held),
            (&hosts.a, "a-reopened", Way::Reopened),
            (&hosts.b, "b-held", Way::Held),
            (&hosts.b, "b-reopened", Way::Reopened),
        ]
        .into_iter()
        .zip(names)
        .map(|((host, tag, way), name)| {
            let (path, stop) = (host.path(name), &stop);
            let writer = scope.spawn(move || append_until(&path, tag, way, stop));
            (name.to_string(), writer)
        })
        .collect();
        let started = Instant::now();
        while started.elapsed() < time {
            meanwhile();
            std::thread::sleep(Duration::from_millis(50));
        }
        stop.store(true, Ordering::SeqCst);
        writers
            .into_iter()
            .map(|(name, writer)| (name, writer.join().unwrap()))
            .collect()
    })
}

/// The lines of a session: every one whole, each writer's from 0 in its order. How many of each.
#[track_caller]
pub fn lines_of(data: &[u8]) -> BTreeMap<String, usize> {
    let mut next = BTreeMap::new();
    for text in data.split_inclusive(|byte| *byte == b'\n') {
        let shown = String::from_utf8_lossy(&text[..60.min(text.len())]).into_owned();
        let tag = shown
            .strip_prefix("{\"tag\":\"")
            .and_then(|rest| rest.split_once('"'))
            .unwrap_or_else(|| panic!("a torn line: {shown:?}"))
            .0;
        let number = next.entry(tag.to_string()).or_insert(0);
        assert_same(
            text,
            &line(tag, *number, length(*number)),
            "a line in its writer's order",
        );
        *number += 1;
    }
    next
}

/// No writer met an error, and exactly what was acknowledged is there.
#[track_caller]
pub fn check_written(hosts: &Hosts, written: &[(String, Written)]) {
    let mut want: BTreeMap<&str, BTreeMap<String, usize>> = BTreeMap::new();
    for (name, of) in written {
        assert!(of.error.is_none(), "{} got {:?}", of.tag, of.error);
        assert!(of.count > 0, "{} wrote nothing", of.tag);
        want.entry(name)
            .or_default()
            .insert(of.tag.clone(), of.count);
    }
    hosts.wait_until_seen();
    for (name, want) in want {
        assert_eq!(
            lines_of(&hosts.seen(name)),
            want,
            "lines of each writer in {name}"
        );
    }
}
