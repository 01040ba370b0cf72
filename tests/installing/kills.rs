//! Killed at any instant and run again: no file is lost or altered.
//!
//! `CELLAR_TEST_ROUNDS` sets how many kills each test makes (4 unless told otherwise). Where `strace` is installed,
//! kills also hit exactly the calls after which the state on disk is another.

use super::trees::{self, Tree, assert_files, assert_same, tree, united};
use super::{file_system, store};
use crate::cellar::{Home, mounted};
use crate::common::rng::Rng;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

fn rounds() -> u64 {
    let named = std::env::var("CELLAR_TEST_ROUNDS").ok();
    named.and_then(|text| text.parse().ok()).unwrap_or(4)
}

/// Where the projects come from.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    Same,
    /// The store is on another file system.
    Other,
    /// One link, whose target is on the same file system.
    Link,
    /// One link, whose target is on another file system.
    FarLink,
}

/// A home before its install, and what must be seen after it.
struct Start {
    home: Home,
    want: Tree,
    variables: Vec<(&'static str, PathBuf)>,
}

impl Start {
    fn new(layout: Layout) -> Start {
        let home = Home::new();
        trees::odd(&home.mount_dir());
        let mut want = tree(&home.mount_dir());
        let mut variables = Vec::new();
        let far = matches!(layout, Layout::Other | Layout::FarLink);
        let other = match far {
            true => file_system(&home, "other", "size=64m,mode=0755"),
            false => home.dir.join("other"),
        };
        if layout == Layout::Other {
            variables.push(("CLAUDE_CELLAR_STORE_DIR", other.clone()));
        } else if layout != Layout::Same {
            // With a name within it that is in the way of the project's.
            trees::flat(&other);
            let flat = trees::within(&tree(&other), "-linked");
            fs::create_dir(home.dir.join("-linked")).unwrap();
            let dir = tree(&home.dir).remove(Path::new("-linked")).unwrap();
            fs::remove_dir(home.dir.join("-linked")).unwrap();
            want = united(&[
                &want,
                &flat,
                &[("-linked".into(), dir)].into_iter().collect(),
            ]);
            symlink(&other, home.mount_dir().join("-linked")).unwrap();
        }
        Start {
            home,
            want,
            variables,
        }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = self.home.command(line.split(' '));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Runs it to its end.
    #[track_caller]
    fn run(&self, line: &str, when: &str) {
        let output = self
            .command(line)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output();
        let output = output.unwrap();
        assert!(output.status.success(), "{when}: {output:?}");
    }

    /// Runs it and kills it after this time; whether it was still at work.
    fn killed_after(&self, line: &str, time: Duration) -> bool {
        let mut child = self.command(line).spawn().unwrap();
        thread::sleep(time);
        let running = child.try_wait().unwrap().is_none();
        let _ = child.kill();
        child.wait().unwrap();
        running
    }

    /// Runs it and kills it at the `n`th of these calls; whether it came to that.
    fn killed_at(&self, line: &str, call: &str, n: u64) -> bool {
        let program = self.command(line);
        let mut strace = Command::new("strace");
        strace.args([
            "-f",
            "-I1",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            &format!("trace={call}"),
        ]);
        strace.args(["-e", &format!("inject={call}:signal=KILL:when={n}"), "--"]);
        strace.arg(program.get_program()).args(program.get_args());
        strace.env_clear().current_dir(&self.home.dir);
        strace.envs(
            program
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        strace
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut strace = strace.spawn().unwrap();
        let started = Instant::now();
        // It follows the daemon too, which goes on when strace ends.
        let was_mounted = mounted(&self.home.mount_dir()).is_some();
        let ended = loop {
            if strace.try_wait().unwrap().is_some() {
                break true;
            }
            if !was_mounted && mounted(&self.home.mount_dir()).is_some() {
                thread::sleep(Duration::from_millis(100));
                break false;
            }
            assert!(started.elapsed() < LIMIT, "{line} with {call} {n} hangs");
            thread::sleep(Duration::from_millis(5));
        };
        if !ended {
            let _ = Command::new("kill").arg(strace.id().to_string()).status();
        }
        let status = strace.wait().unwrap();
        ended && !status.success()
    }
}

fn has_strace() -> bool {
    let found = Command::new("strace")
        .arg("-V")
        .stdout(Stdio::null())
        .status();
    if found.is_err() {
        eprintln!("there is no strace: kills at single calls are left out");
    }
    found.is_ok()
}

/// How long it takes undisturbed.
fn duration(layout: Layout) -> Duration {
    let start = Start::new(layout);
    let began = Instant::now();
    start.run("install --no-systemd", "undisturbed");
    let took = began.elapsed();
    assert_same(&tree(&start.home.mount_dir()), &start.want, "undisturbed");
    took
}

fn killed_at_any_time(layout: Layout, seed: u64) {
    let mut rng = Rng::new(seed);
    let (took, mut hits) = (duration(layout), 0);
    for round in 0..rounds() {
        let start = Start::new(layout);
        for _ in 0..1 + rng.below(2) {
            let time = took.mul_f64(rng.below(1_000) as f64 / 1_000.0);
            hits += u64::from(start.killed_after("install --no-systemd", time));
        }
        let when = format!("round {round}");
        start.run("install --no-systemd", &when);
        assert_files(&tree(&start.home.mount_dir()), &start.want, &when);
    }
    println!("{hits} kills in {} rounds, nothing lost", rounds());
}

fn killed_at_calls(layout: Layout, seed: u64) {
    if !has_strace() {
        return;
    }
    let mut rng = Rng::new(seed);
    let calls = [
        "rename",
        "renameat2",
        "unlink",
        "unlinkat",
        "fsync",
        "mkdirat",
        "openat",
    ];
    let (mut hits, mut rounds_left) = (0, rounds());
    // How many of them there are is found by missing.
    let mut most = calls.map(|_| 64);
    while rounds_left > 0 {
        rounds_left -= 1;
        let which = rng.below(calls.len() as u64) as usize;
        let n = 1 + rng.below(most[which]);
        let start = Start::new(layout);
        let hit = start.killed_at("install --no-systemd", calls[which], n);
        if !hit {
            most[which] = n.max(2) - 1;
        }
        hits += u64::from(hit);
        let when = format!("killed at {} {n}", calls[which]);
        start.run("install --no-systemd", &when);
        assert_files(&tree(&start.home.mount_dir()), &start.want, &when);
    }
    println!("{hits} kills at calls in {} rounds, nothing lost", rounds());
}

#[test]
fn an_install_on_one_file_system_killed_at_any_time_loses_nothing() {
    killed_at_any_time(Layout::Same, 1);
}

#[test]
fn an_install_to_another_file_system_killed_at_any_time_loses_nothing() {
    killed_at_any_time(Layout::Other, 2);
}

#[test]
fn an_install_into_a_link_s_target_killed_at_any_time_loses_nothing() {
    killed_at_any_time(Layout::Link, 3);
    killed_at_any_time(Layout::FarLink, 4);
}

#[test]
fn an_install_on_one_file_system_killed_at_any_call_loses_nothing() {
    killed_at_calls(Layout::Same, 5);
}

#[test]
fn an_install_to_another_file_system_killed_at_any_call_loses_nothing() {
    killed_at_calls(Layout::Other, 6);
}

#[test]
fn an_install_into_a_link_s_target_killed_at_any_call_loses_nothing() {
    killed_at_calls(Layout::Link, 7);
    killed_at_calls(Layout::FarLink, 8);
}

#[test]
fn a_restore_killed_at_any_time_loses_nothing() {
    let mut rng = Rng::new(9);
    let start = Start::new(Layout::Same);
    start.run("install --no-systemd", "first");
    let began = Instant::now();
    start.run("uninstall --restore", "undisturbed");
    let took = began.elapsed();
    assert_same(&tree(&start.home.mount_dir()), &start.want, "undisturbed");
    let mut hits = 0;
    for round in 0..rounds() {
        start.run("install --no-systemd", "again");
        assert_same(
            &tree(&start.home.mount_dir()),
            &start.want,
            "installed again",
        );
        let time = took.mul_f64(rng.below(1_000) as f64 / 1_000.0);
        hits += u64::from(start.killed_after("uninstall --restore", time));
        let when = format!("round {round}");
        // The next login, or the same again.
        match rng.chance(50) {
            true => start.run("install --no-systemd", &when),
            false => start.run("uninstall --restore", &when),
        }
        assert_files(&tree(&start.home.mount_dir()), &start.want, &when);
    }
    assert!(store(&start.home).is_dir());
    println!("{hits} kills in {} rounds, nothing lost", rounds());
}

#[test]
fn a_restore_killed_at_any_call_loses_nothing() {
    if !has_strace() {
        return;
    }
    let mut rng = Rng::new(10);
    let start = Start::new(Layout::Same);
    for _ in 0..rounds() {
        start.run("install --no-systemd", "again");
        let call = *rng.pick(&[
            "renameat2",
            "unlinkat",
            "fsync",
            "mkdirat",
            "linkat",
            "openat",
        ]);
        let n = 1 + rng.below(60);
        start.killed_at("uninstall --restore", call, n);
        let when = format!("killed at {call} {n}");
        match rng.chance(50) {
            true => start.run("install --no-systemd", &when),
            false => start.run("uninstall --restore", &when),
        }
        assert_files(&tree(&start.home.mount_dir()), &start.want, &when);
    }
}

/// Between its fork and its mount a daemon is seen by its lock alone.
#[test]
fn an_install_beside_a_daemon_that_starts_waits_for_it() {
    if !has_strace() {
        return;
    }
    let start = Start::new(Layout::Same);
    let program = start.command("mount --adopt");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-I1", "-qq", "-o", "/dev/null", "-e", "trace=mount"]);
    strace.args(["-e", "inject=mount:delay_enter=1500000", "--"]);
    strace.arg(program.get_program()).args(program.get_args());
    strace.env_clear().current_dir(&start.home.dir);
    strace.envs(
        program
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let mut strace = strace
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    crate::cellar::within(LIMIT, "it has the lock", || {
        crate::cellar::pid_file(&start.home).exists()
    });
    start.run("install --no-systemd", "beside a daemon that starts");
    assert_same(&tree(&start.home.mount_dir()), &start.want, "after install");
    start.run("umount", "afterwards");
    strace.wait().unwrap();
}

#[test]
#[ignore = "not yet: what a killed copy made is taken for what was there"]
fn a_killed_copy_keeps_the_modes_of_directories_and_hard_links() {
    for n in [8, 14, 20] {
        let start = Start::new(Layout::Other);
        if has_strace() && start.killed_at("install --no-systemd", "mkdirat", n) {
            let when = format!("killed at mkdirat {n}");
            start.run("install --no-systemd", &when);
            assert_same(&tree(&start.home.mount_dir()), &start.want, &when);
        }
    }
}
