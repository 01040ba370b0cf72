//! The restart: a client goes on writing while the daemon is killed and mounted again. Every line that a `write` had
//! returned for is in its session exactly once and in order, whichever side of the mount it went to.

mod common;

use common::{Mount, entries, sys};
use std::collections::HashSet;
use std::fs;
use std::io::Result;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const APPEND: i32 = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND;

/// One attempt at a line; no two are alike.
fn text(who: &str, number: usize, attempt: usize) -> String {
    let length = 20 + (number * 7919) % 3_000;
    format!(
        "{{\"n\":\"{who} {number}.{attempt}\",\"text\":\"{}\"}}\n",
        "x".repeat(length)
    )
}

fn key(line: &str) -> Option<String> {
    let key = line.strip_prefix("{\"n\":\"")?.split('"').next()?;
    line.ends_with("\"}").then(|| key.to_owned())
}

/// As the client does it: open, write, close. The project's directory is made when it is missing.
fn append(path: &Path, line: &[u8]) -> Result<bool> {
    let file = match sys::open(path, APPEND, 0o600) {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
            let made = sys::mkdir(path.parent().unwrap(), 0o700);
            if sys::errno(&made) != libc::EEXIST {
                made?;
            }
            sys::open(path, APPEND, 0o600)?
        }
        opened => opened?,
    };
    Ok(sys::write(&file, line)? == line.len() as i64)
}

/// Writes lines until told to stop, each one until it is acknowledged; gives the acknowledged attempts.
fn write_lines(path: &Path, who: &str, stop: &AtomicBool) -> Vec<String> {
    let (mut acknowledged, mut attempt) = (Vec::new(), 0);
    let mut number = 0;
    let started = Instant::now();
    while !stop.load(Ordering::SeqCst) {
        assert!(
            started.elapsed() < Duration::from_secs(120),
            "never told to stop"
        );
        let line = text(who, number, attempt);
        if append(path, line.as_bytes()).unwrap_or(false) {
            acknowledged.push(key(line.trim_end()).unwrap());
            (number, attempt) = (number + 1, 0);
            thread::sleep(Duration::from_millis(1 + number as u64 % 5));
        } else {
            attempt += 1;
            thread::sleep(Duration::from_micros(200));
        }
    }
    acknowledged
}

/// Every acknowledged line once and in order, and between them only lines whose `write` failed after all.
#[track_caller]
fn check(content: &[u8], acknowledged: &[String], what: &str) {
    let text = String::from_utf8(content.to_vec()).unwrap();
    let mut seen = HashSet::new();
    let known: HashSet<&String> = acknowledged.iter().collect();
    let mut order = Vec::new();
    for line in text.lines() {
        let key = key(line).unwrap_or_else(|| panic!("{what}: not a line: {line:?}"));
        assert!(seen.insert(key.clone()), "{what}: {key} twice");
        if known.contains(&key) {
            order.push(key);
        }
    }
    let missing: Vec<&String> = acknowledged.iter().filter(|k| !seen.contains(*k)).collect();
    assert!(
        missing.is_empty(),
        "{what}: acknowledged and lost: {missing:?}"
    );
    let wrong = order
        .iter()
        .zip(acknowledged)
        .find(|(got, want)| got != want);
    assert_eq!(wrong, None, "{what}: not in order");
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn restarts(mut mount: Mount, rounds: u32) {
    let names = [
        "-home-a/1.jsonl",
        "-home-a/2.jsonl",
        "-home-b/3.jsonl",
        "-home-b/3/subagents/agent-4.jsonl",
    ];
    mount.mount();
    fs::create_dir_all(mount.path("-home-b/3/subagents")).unwrap();
    let stop = AtomicBool::new(false);
    let paths: Vec<_> = names.iter().map(|name| mount.path(name)).collect();
    let acknowledged: Vec<Vec<String>> = thread::scope(|scope| {
        let writers: Vec<_> = paths
            .iter()
            .map(|path| scope.spawn(|| write_lines(path, "a", &stop)))
            .collect();
        // Whatever happens, the writers end.
        let _end = End(&stop);
        for round in 0..rounds {
            thread::sleep(Duration::from_millis(u64::from(20 + round * 37 % 90)));
            if round % 4 == 1 {
                mount.seal();
            }
            mount.kill9();
            thread::sleep(Duration::from_millis(u64::from(round * 13 % 40)));
            if round % 3 == 0 {
                // As after a stop in good order: nothing is mounted for a while.
                sys::detach(&mount.path(""));
                thread::sleep(Duration::from_millis(u64::from(round % 25)));
            }
            mount.mount();
        }
        thread::sleep(Duration::from_millis(50));
        stop.store(true, Ordering::SeqCst);
        writers.into_iter().map(|w| w.join().unwrap()).collect()
    });
    let check_all = |mount: &Mount, when: &str| {
        for (name, acknowledged) in names.iter().zip(&acknowledged) {
            let content = fs::read(mount.path(name)).unwrap();
            check(&content, acknowledged, &format!("{name} {when}"));
        }
    };
    let lines: usize = acknowledged.iter().map(Vec::len).sum();
    assert!(
        lines > rounds as usize * 4,
        "only {lines} lines in {rounds} rounds"
    );
    check_all(&mount, "after the last restart");
    mount.sigterm();
    let left = common::tree(&mount.path(""));
    assert!(left.is_empty(), "left beneath the mountpoint: {left:?}");
    mount.mount();
    mount.seal_and_wait();
    check_all(&mount, "sealed");
    assert!(entries(&mount.store(".cellar/tmp")).is_empty());
}

#[test]
fn lines_written_during_restarts_are_there_once_and_in_order() {
    let mount = Mount::prepare("restart").adopting();
    if mount.has_store() {
        restarts(mount, 40);
    }
}

#[test]
fn lines_written_during_restarts_cross_file_systems() {
    let mount = Mount::prepare("restart-tmpfs").adopting();
    if mount.has_store() {
        // Only the cellar's mounts are detached between two rounds.
        restarts(mount.beneath_on_tmpfs(), 40);
    }
}

#[test]
fn two_hosts_on_one_store_restart_at_once() {
    let one = Mount::prepare("restart-one").adopting();
    if !one.has_store() {
        return;
    }
    let two = Mount::prepare("restart-two").adopting().over(&one);
    let mut hosts = [one, two];
    let names = ["-home-a/shared.jsonl", "-home-a/own-"];
    let path = |host: &Mount, name: &str, who: &str| match name.ends_with('-') {
        true => host.path(format!("{name}{who}.jsonl")),
        false => host.path(name),
    };
    for host in &mut hosts {
        host.mount();
    }
    let stop = AtomicBool::new(false);
    let tags = ["a", "b"];
    let targets: Vec<_> = hosts
        .iter()
        .zip(tags)
        .flat_map(|(host, who)| names.map(|name| (path(host, name, who), who)))
        .collect();
    let acknowledged: Vec<Vec<String>> = thread::scope(|scope| {
        let writers: Vec<_> = targets
            .iter()
            .map(|(path, who)| scope.spawn(|| write_lines(path, who, &stop)))
            .collect();
        let _end = End(&stop);
        thread::scope(|scope| {
            for (number, host) in hosts.iter_mut().enumerate() {
                scope.spawn(move || {
                    for round in 0..15 {
                        let pause = 20 + (round * 37 + number as u64 * 11) % 60;
                        thread::sleep(Duration::from_millis(pause));
                        host.kill9();
                        sys::detach(&host.path(""));
                        thread::sleep(Duration::from_millis(round % 20));
                        host.mount();
                    }
                });
            }
        });
        // A daemon ends with the thread that has started it.
        for host in &mut hosts {
            host.sigterm();
            host.mount();
        }
        stop.store(true, Ordering::SeqCst);
        writers.into_iter().map(|w| w.join().unwrap()).collect()
    });
    for host in &mut hosts {
        host.sigterm();
        let left = common::tree(&host.path(""));
        assert!(left.is_empty(), "left beneath the mountpoint: {left:?}");
        host.mount();
    }
    for host in &hosts {
        for ((target, who), acknowledged) in targets.iter().zip(&acknowledged) {
            let name = target.file_name().unwrap();
            let content = fs::read(host.path("-home-a").join(name)).unwrap();
            check(&content, acknowledged, &format!("{name:?} of {who}"));
        }
    }
}

/// Large fragments of one session, taken in by two hosts at the same moment.
#[test]
fn two_hosts_adopt_fragments_of_one_session_at_once() {
    let one = Mount::prepare("adopt-one").adopting();
    if !one.has_store() {
        return;
    }
    let two = Mount::prepare("adopt-two").adopting().over(&one);
    let mut hosts = [one, two];
    fs::create_dir(hosts[0].store("p")).unwrap();
    fs::write(hosts[0].store("p/s.jsonl"), text("start", 0, 0)).unwrap();
    let mut keys = vec![vec![], vec![]];
    for ((host, keys), who) in hosts.iter().zip(&mut keys).zip(["a", "b"]) {
        fs::create_dir(host.path("p")).unwrap();
        let lines: Vec<String> = (0..3_000).map(|n| text(who, n, 0)).collect();
        keys.extend(lines.iter().map(|line| key(line.trim_end()).unwrap()));
        for name in ["s", "new"] {
            fs::write(host.path(format!("p/{name}.jsonl")), lines.concat()).unwrap();
        }
    }
    thread::scope(|scope| {
        for host in &mut hosts {
            scope.spawn(|| host.mount());
        }
    });
    for host in &mut hosts {
        // A daemon ends with the thread that has started it.
        host.sigterm();
        assert!(entries(&host.path("")).is_empty(), "all is taken");
        host.mount();
        for name in ["s", "new"] {
            let content = fs::read(host.path(format!("p/{name}.jsonl"))).unwrap();
            for keys in &keys {
                check(&content, keys, name);
            }
        }
    }
}

#[test]
fn a_program_that_keeps_its_file_open_across_a_restart_loses_nothing() {
    for across in [false, true] {
        let mut mount = Mount::prepare("restart-held")
            .adopting()
            .seal_after(u32::MAX);
        if !mount.has_store() {
            return;
        }
        if across {
            mount = mount.beneath_on_tmpfs();
        }
        // One session goes on in the store, the other is new.
        fs::create_dir(mount.store("p")).unwrap();
        fs::write(mount.store("p/old.jsonl"), "before\n").unwrap();
        fs::create_dir(mount.path("p")).unwrap();
        let held = ["old", "new", "empty"].map(|name| {
            let file = sys::open(&mount.path(format!("p/{name}.jsonl")), APPEND, 0o600).unwrap();
            if name != "empty" {
                sys::write(&file, b"beneath\n").unwrap();
            }
            file
        });
        mount.mount();
        for file in &held {
            sys::write(file, b"while mounted\n").unwrap();
        }
        drop(held);
        mount.sigterm();
        mount.mount();
        let read = |name: &str| fs::read_to_string(mount.path(format!("p/{name}.jsonl"))).unwrap();
        assert_eq!(read("old"), "before\nbeneath\nwhile mounted\n", "{across}");
        assert_eq!(read("new"), "beneath\nwhile mounted\n", "{across}");
        assert_eq!(read("empty"), "while mounted\n", "{across}");
    }
}
