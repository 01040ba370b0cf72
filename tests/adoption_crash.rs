//! Killed at any step, whatever takes a directory in goes on from there: run again, everything is in the cellar once,
//! and nothing of the work is left lying about. A full disk is an error that loses nothing.

mod common;

use common::foreign::old_release;
use common::seen::{Tree, as_mounted, assert_seen, seen, without_times_of_directories};
use common::strace::{has_strace, under_strace};
use common::{Mount, assert_same, corpus, leftovers, line, rng::Rng, sys};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Which command takes the directory in, and from where.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Adopt,
    AdoptAcross,
    Migrate,
    MigrateAcross,
    MigrateFlat,
}

impl Way {
    fn adopts(self) -> bool {
        matches!(self, Way::Adopt | Way::AdoptAcross)
    }
}

/// A cellar, a directory to take into it, and what must come of it.
struct Case {
    mount: Mount,
    way: Way,
    want: Tree,
    /// What the sessions that are on both sides become.
    merged: Vec<(&'static str, Vec<u8>)>,
}

fn put(path: &Path, data: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, data).unwrap();
}

impl Case {
    fn new(way: Way) -> Option<Case> {
        let mut mount = Mount::prepare("take-crash").seal_after(u32::MAX);
        if !mount.has_store() {
            return None;
        }
        if way.adopts() {
            mount = mount.adopting();
        }
        if way == Way::AdoptAcross {
            mount = mount.beneath_on_tmpfs();
        }
        if way == Way::MigrateAcross {
            mount = mount.outside_on_tmpfs();
        }
        let mut case = Case {
            mount,
            way,
            want: Tree::new(),
            merged: Vec::new(),
        };
        case.fill();
        Some(case)
    }

    fn source(&self) -> std::path::PathBuf {
        match self.way {
            Way::Adopt | Way::AdoptAcross => self.mount.path(""),
            Way::Migrate | Way::MigrateAcross => self.mount.outside("projects"),
            Way::MigrateFlat => self.mount.outside("projects/-p"),
        }
    }

    fn fill(&mut self) {
        let top = match self.way {
            Way::MigrateFlat => self.mount.outside("projects"),
            _ => self.source(),
        };
        let mut rng = Rng::new(5);
        let session = corpus::session(&mut rng, 6_000);
        let p = top.join("-p");
        // Only here: moved or copied.
        put(&p.join("new.jsonl"), &session);
        put(&p.join("packed.jsonl.zst"), &old_release(&session));
        put(&p.join("new/subagents/agent-1.jsonl"), &session[..3_000]);
        put(&p.join("new/tool-results/t.txt"), b"result");
        put(&p.join("memory/MEMORY.md"), b"- remember\n");
        put(&p.join("hard1.txt"), b"two names");
        fs::hard_link(p.join("hard1.txt"), p.join("hard2.txt")).unwrap();
        std::os::unix::fs::symlink("new.jsonl", p.join("link")).unwrap();
        if self.way != Way::MigrateFlat {
            put(&top.join("-q/other.jsonl"), &session[..2_000]);
            put(&top.join("-q/other/tool-results/t.txt"), b"result");
            put(&top.join("loose.json"), b"[]");
        }
        self.want = as_mounted(&top);
        for entry in self.want.values_mut() {
            // Two names that a kill parts may stay parted.
            entry.same_as = Default::default();
        }
        // On both sides.
        let store = |name: &str| self.mount.store(format!("-p/{name}"));
        let (ours, theirs) = (line("ours", 1, 900), line("theirs", 2, 700));
        let both = [ours.as_slice(), &theirs].concat();
        put(&store("raw.jsonl"), &ours);
        put(&p.join("raw.jsonl"), &theirs);
        put(&store("pack.jsonl.zst"), &old_release(&ours));
        put(&p.join("pack.jsonl"), &theirs);
        put(&store("torn.jsonl"), &ours[..500]);
        put(&p.join("torn.jsonl"), &theirs);
        put(&store("longer.jsonl"), &ours);
        put(&p.join("longer.jsonl.zst"), &old_release(&both));
        put(&store("equal.jsonl"), &ours);
        put(&p.join("equal.jsonl"), &ours);
        let torn = [&ours[..500], b"\n", theirs.as_slice()].concat();
        self.merged = vec![
            ("raw.jsonl", both.clone()),
            ("pack.jsonl", both.clone()),
            ("torn.jsonl", torn),
            ("longer.jsonl", both),
            ("equal.jsonl", ours),
        ];
        sys::set_mtime(&store("sessions-index.json"), 1, 0).ok();
        put(&store("sessions-index.json"), b"older");
        sys::set_mtime(&store("sessions-index.json"), 1_650_000_000, 0).unwrap();
        put(&p.join("sessions-index.json"), b"newer");
        self.merged.push(("sessions-index.json", b"newer".to_vec()));
    }

    fn command(&self) -> Command {
        let source = self.source();
        match self.way.adopts() {
            true => self
                .mount
                .command(&self.mount.mount_line(&["--foreground"])),
            false => {
                let from = source.to_str().unwrap();
                self.mount.command(&["migrate-store", "--from", from])
            }
        }
    }

    /// The same under strace, which kills it at the `n`th call of this name.
    fn killed_at(&self, call: &str, n: usize) -> Command {
        under_strace(&self.command(), call, &format!("signal=KILL:when={n}"))
    }

    /// Runs it until it ends, or until it has mounted and is killed then. Returns whether it was killed before.
    fn run(&self, mut command: Command) -> bool {
        let null = || Stdio::null();
        command.stdin(null()).stdout(null()).stderr(null());
        let mut child = command.spawn().unwrap();
        let started = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return was_killed(status);
            }
            if self.way.adopts() && self.mount.mounted() && sys::is_fuse(&self.mount.path("")) {
                // It serves: there is nothing more to be killed in.
                kill_tree(child.id());
                child.wait().unwrap();
                return false;
            }
            assert!(started.elapsed() < Duration::from_secs(30), "hangs");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Runs it again without any harm, and looks at everything.
    #[track_caller]
    fn finish(mut self, what: &str) {
        if !self.way.adopts() {
            let output = self.command().output().unwrap();
            assert!(output.status.success(), "{what}: {output:?}");
        }
        self.mount.mount();
        let mut got = seen(&self.mount.path(""));
        for entry in got.values_mut() {
            entry.same_as = Default::default();
        }
        for (name, want) in &self.merged {
            let path = Path::new("-p").join(name);
            let merged = got
                .remove(&path)
                .unwrap_or_else(|| panic!("{what}: no {name}"));
            assert_same(&merged.content, want, &format!("{what}: {name}"));
        }
        let times = without_times_of_directories;
        // A kill between making and finishing a directory or a link leaves it as it was made.
        let modes = |mut tree: Tree| {
            for entry in tree.values_mut() {
                match entry.mode & libc::S_IFMT {
                    libc::S_IFDIR => entry.mode = 0,
                    libc::S_IFLNK => entry.mtime = (0, 0),
                    _ => {}
                }
            }
            tree
        };
        assert_seen(&modes(times(got)), &modes(times(self.want.clone())), what);
        let theirs = line("theirs", 2, 700);
        for name in ["raw", "pack", "torn"] {
            let kept = leftovers(&self.mount, "recovered").into_iter().any(|file| {
                let path = self.mount.store(".cellar/recovered").join(&file);
                file.to_str()
                    .unwrap()
                    .starts_with(&format!("-p+{name}.jsonl"))
                    && fs::read(path).unwrap() == theirs
            });
            assert!(kept, "{what}: the fragment of {name} is kept");
        }
        let started = Instant::now();
        while !leftovers(&self.mount, "tmp").is_empty() {
            let left = leftovers(&self.mount, "tmp");
            assert!(
                started.elapsed() < Duration::from_secs(10),
                "{what}: {left:?} in tmp"
            );
            thread::sleep(Duration::from_millis(5));
        }
        self.mount.sigterm();
        let left = common::tree(&self.source());
        assert!(left.is_empty(), "{what}: {left:?} left in the source");
    }
}

fn was_killed(status: ExitStatus) -> bool {
    // strace ends like the program it ran.
    status.signal() == Some(libc::SIGKILL) || status.code() == Some(128 + libc::SIGKILL)
}

/// Kills a process and those it has started.
fn kill_tree(pid: u32) {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    for child in children.unwrap_or_default().split_whitespace() {
        kill_tree(child.parse().unwrap());
    }
    // SAFETY: ends what this test has started and not yet waited for.
    unsafe { libc::kill(pid as i32, libc::SIGKILL) };
}

const STEPS: [&str; 10] = [
    "renameat2",
    "unlinkat",
    "fsync",
    "pwrite64",
    "copy_file_range",
    "mkdirat",
    "linkat",
    "utimensat",
    "openat2",
    "write",
];

/// Kills at calls that change something, in turn, until the work gets through: at some of them, or at every one if
/// `CELLAR_TEST_EVERY_STEP` is set, which takes minutes.
fn killed_at_every_step(way: Way) {
    if !has_strace() {
        eprintln!("no strace: not tested");
        return;
    }
    let all = std::env::var_os("CELLAR_TEST_EVERY_STEP").is_some();
    for (number, call) in STEPS.into_iter().enumerate() {
        // Opening changes nothing and is done often.
        let step = match (all, call) {
            (true, "openat2") => 16,
            (true, _) => 1,
            (false, "openat2") => 61,
            (false, _) => 5,
        };
        for n in (1 + (number + way as usize) % step..400).step_by(step) {
            let Some(case) = Case::new(way) else { return };
            let killed = case.run(case.killed_at(call, n));
            case.finish(&format!("{way:?} killed at {call} {n}"));
            if !killed {
                break;
            }
        }
    }
}

#[test]
fn adoption_killed_at_any_step_goes_on() {
    killed_at_every_step(Way::Adopt);
}

#[test]
fn adoption_across_file_systems_killed_at_any_step_goes_on() {
    killed_at_every_step(Way::AdoptAcross);
}

#[test]
fn migration_killed_at_any_step_goes_on() {
    killed_at_every_step(Way::Migrate);
}

#[test]
fn migration_across_file_systems_killed_at_any_step_goes_on() {
    killed_at_every_step(Way::MigrateAcross);
}

#[test]
fn migration_of_one_project_killed_at_any_step_goes_on() {
    killed_at_every_step(Way::MigrateFlat);
}

/// Runs it on a store with no room for everything, then with room.
fn full_disk(way: Way) {
    let Some(mut case) = Case::new(way) else {
        return;
    };
    let big = case.source().join("-p/big.jsonl");
    let data = Rng::new(3).bytes(3 << 20);
    put(&big, &data);
    let other = case.source().join("-p/other.txt");
    put(&other, &data);
    case.want = {
        let kept: Vec<_> = case
            .merged
            .iter()
            .map(|(name, _)| Path::new("-p").join(name))
            .collect();
        let mut want = as_mounted(&case.source());
        want.retain(|name, _| !kept.contains(name));
        for entry in want.values_mut() {
            entry.same_as = Default::default();
        }
        want
    };
    // What is in the store already moves to the small disk.
    let before = case.mount.outside("../before");
    fs::rename(case.mount.store(""), &before).unwrap();
    fs::create_dir(case.mount.store("")).unwrap();
    case.mount = case.mount.on_tmpfs(4 << 20);
    let copied = Command::new("cp")
        .arg("-a")
        .arg(before.join("."))
        .arg(case.mount.store(""))
        .status();
    assert!(copied.unwrap().success());
    for _ in 0..2 {
        let said = match way.adopts() {
            // What is in the store is served all the same.
            true => {
                case.mount.mount();
                let (status, _) = case.mount.sigterm();
                assert!(status.success(), "{way:?}: {status}");
                case.mount.log()
            }
            false => {
                let output = case.command().output().unwrap();
                assert_eq!(output.status.code(), Some(1), "{way:?}: {output:?}");
                String::from_utf8_lossy(&output.stderr).into_owned()
            }
        };
        assert!(said.contains("No space left"), "{way:?}: {said}");
        assert!(!case.mount.mounted(), "{way:?}: a mount is left");
        assert!(leftovers(&case.mount, "tmp").is_empty(), "{way:?}");
        assert!(
            big.exists() || other.exists(),
            "{way:?}: what has no room stays"
        );
    }
    let larger = Command::new("mount")
        .args(["-o", "remount,size=64m"])
        .arg(case.mount.store(""))
        .status();
    assert!(larger.unwrap().success());
    case.finish(&format!("{way:?} after a full disk"));
}

#[test]
fn adoption_onto_a_full_disk_serves_what_there_is_and_loses_nothing() {
    full_disk(Way::AdoptAcross);
}

#[test]
fn migration_onto_a_full_disk_fails_and_loses_nothing() {
    full_disk(Way::Migrate);
}

/// Killed at many moments of a work that takes a while and goes on in several threads.
fn killed_at_any_moment(way: Way) {
    let Some(mut case) = Case::new(way) else {
        return;
    };
    let mut rng = Rng::new(8);
    let source = case.source();
    for number in 0..150 {
        let session = corpus::session(&mut rng, 20_000 + number % 7 * 30_000);
        let name = format!("-big/{number}.jsonl");
        put(&source.join(&name), &session);
        if number % 5 == 0 {
            // Half of it is in the store already.
            let half = case.mount.store(&name);
            put(&half, &session[..session.len() / 2]);
            sys::set_mtime(&half, 1_650_000_000, 0).unwrap();
        }
        if number % 3 == 0 {
            put(
                &source.join(format!("-big/{number}/tool-results/t.txt")),
                &session[..900],
            );
        }
    }
    for (name, mut entry) in as_mounted(&source) {
        entry.same_as = Default::default();
        if name.starts_with("-big") {
            case.want.insert(name, entry);
        }
    }
    for round in 0..12 {
        let mut command = case.command();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        thread::sleep(Duration::from_millis(2 + round * round));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    case.finish(&format!("{way:?} killed again and again"));
}

#[test]
fn adoption_killed_at_any_moment_goes_on() {
    killed_at_any_moment(Way::AdoptAcross);
}

#[test]
fn migration_killed_at_any_moment_goes_on() {
    killed_at_any_moment(Way::Migrate);
}
