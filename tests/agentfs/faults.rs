//! Killed at any step, on a full disk, with a damaged store: nothing is lost, and run again the work is done.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use super::tree::{self, Item, Tree, assert_same};
use super::world::{Ran, World};
use crate::rng::Rng;
use crate::strace::{has_strace, under_strace};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Work {
    Checkpoint,
    Restore,
}

impl Work {
    fn args(self) -> &'static [&'static str] {
        match self {
            Work::Checkpoint => &["checkpoint", "work", "--json"],
            Work::Restore => &["restore", "v1", "--json"],
        }
    }
}

/// A project whose first state is recorded and whose present one is not.
struct Case {
    world: World,
    first: Tree,
    present: Tree,
}

impl Case {
    fn new(files: u64) -> Case {
        let world = World::empty();
        let mut rng = Rng::new(files);
        let unique = |rng: &mut Rng, what: &str| format!("{what} {}\n", rng.next()).repeat(30);
        for number in 0..files {
            world.write(
                &format!("d{}/file{number}", number % 5),
                unique(&mut rng, "first"),
            );
        }
        world.write("swap", "a file");
        world.write("tree/below/deep", unique(&mut rng, "first"));
        fs::create_dir(world.dir.join("empty")).unwrap();
        std::os::unix::fs::symlink("swap", world.dir.join("link")).unwrap();
        let first = world.tree();
        world.init();
        for number in (0..files).step_by(2) {
            world.write(
                &format!("d{}/file{number}", number % 5),
                unique(&mut rng, "second"),
            );
        }
        fs::remove_file(world.dir.join("swap")).unwrap();
        world.write("swap/inside", unique(&mut rng, "second"));
        fs::remove_dir_all(world.dir.join("tree")).unwrap();
        world.write("tree", unique(&mut rng, "second"));
        fs::remove_dir(world.dir.join("empty")).unwrap();
        fs::remove_file(world.dir.join("link")).unwrap();
        std::os::unix::fs::symlink("tree", world.dir.join("link")).unwrap();
        world.write("new/large", rng.bytes((1 << 20) + 5));
        let present = world.tree();
        let case = Case {
            world,
            first,
            present,
        };
        case.copy("", "kept/");
        case
    }

    fn copy(&self, from: &str, to: &str) {
        self.world.settle();
        let root = &self.world.root;
        fs::create_dir_all(root.join("kept")).unwrap();
        for name in ["project", "histories"] {
            let to = root.join(format!("{to}{name}"));
            let _ = fs::remove_dir_all(&to);
            let from = root.join(format!("{from}{name}"));
            let copied = Command::new("cp").arg("-a").args([from, to]).status();
            assert!(copied.unwrap().success());
        }
    }

    fn reset(&self) {
        self.copy("kept/", "");
    }

    /// Runs until it ends or is killed, and tells which.
    fn is_killed(&self, mut command: Command) -> bool {
        command.stdout(Stdio::null()).stderr(Stdio::null());
        was_killed(command.status().unwrap())
    }

    /// Every content is in the directory or in a checkpoint, and the store is sound.
    #[track_caller]
    fn assert_nothing_lost(&self, what: &str) {
        let now = self.world.tree();
        let git = |args: &[&str]| Ran::of(&mut self.world.git(args)).ends(0).out;
        let listed = git(&["rev-list", "--objects", "--all"]);
        let held: HashSet<&str> = listed.lines().map(|line| &line[..40]).collect();
        for (path, item) in &self.present {
            if let Item::File(_, bytes) = item
                && now.get(path) != Some(item)
            {
                let oid = self.name_of(bytes);
                let path = String::from_utf8_lossy(path);
                assert!(held.contains(oid.as_str()), "{what}: {path} is lost");
            }
        }
        let ran = Ran::of(
            &mut self
                .world
                .git(["fsck", "--full", "--strict", "--no-dangling"]),
        );
        assert!(ran.code == Some(0) && ran.err.is_empty(), "{what}: {ran:?}");
    }

    fn name_of(&self, bytes: &[u8]) -> String {
        let mut command = self.world.git(["hash-object", "--stdin", "--no-filters"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        let output = child.wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Run again, the work is done.
    #[track_caller]
    fn finish(&self, work: Work, what: &str) {
        let ran = Ran::of(&mut self.world.command(work.args()));
        assert_eq!(ran.code, Some(0), "{what}: again: {ran:?}");
        match work {
            Work::Restore => assert_same(&self.world.tree(), &self.first, what),
            Work::Checkpoint => {
                assert_same(&self.world.tree(), &self.present, what);
                let newest = self.world.json(["log", "-n1"])[0]["version"].clone();
                assert_eq!(
                    newest, 2,
                    "{what}: one checkpoint, however often it was begun"
                );
            }
        }
        let made = self.world.checkpoint("nothing");
        assert!(made.is_null(), "{what}: {made}");
        self.world.assert_sound();
        let own = self.world.store().join("agentfs");
        let left: Vec<_> = fs::read_dir(own)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert!(
            left.iter()
                .all(|name| !name.to_string_lossy().contains("tmp")),
            "{what}: {left:?}"
        );
        let names = tree::read(&self.world.dir);
        assert!(
            names
                .keys()
                .all(|path| !String::from_utf8_lossy(path).contains("agentfs-restore")),
            "{what}: a temporary file stays"
        );
    }
}

fn was_killed(status: ExitStatus) -> bool {
    // strace ends like the program it ran.
    status.signal() == Some(libc::SIGKILL) || status.code() == Some(128 + libc::SIGKILL)
}

/// Calls that change something, and calls between them; `?` for those that not every machine has.
const STEPS: [&str; 9] = [
    "?rename,?renameat,renameat2",
    "?unlink,unlinkat",
    "?mkdir,mkdirat",
    "?chmod,fchmodat,?fchmodat2",
    "write",
    "openat",
    "openat2",
    "?symlink,symlinkat",
    "read,pread64,getdents64,newfstatat,statx",
];

fn killed_at_every_step(work: Work) {
    if !has_strace() {
        eprintln!("no strace: not tested");
        return;
    }
    let all = std::env::var_os("AGENTFS_TEST_EVERY_STEP").is_some();
    let case = Case::new(12);
    for (number, call) in STEPS.into_iter().enumerate() {
        let step = match number {
            _ if all => 1,
            0..4 => 4,
            4 => 9,
            _ => 37,
        };
        let first = 1 + (number + work as usize) % step.min(3);
        for n in (first..2_000).step_by(step) {
            case.reset();
            let command = case.world.command(work.args());
            let killed = under_strace(&command, call, &format!("signal=KILL:when={n}"));
            let killed = case.is_killed(killed);
            let what = format!("{work:?} killed at {call} {n}");
            case.assert_nothing_lost(&what);
            case.finish(work, &what);
            if !killed {
                break;
            }
        }
    }
}

#[test]
fn a_checkpoint_killed_at_any_step_is_made_when_run_again() {
    killed_at_every_step(Work::Checkpoint);
}

#[test]
fn a_restore_killed_at_any_step_is_finished_when_run_again() {
    killed_at_every_step(Work::Restore);
}

fn killed_at_any_moment(work: Work) {
    let case = Case::new(200);
    let mut rng = Rng::new(5);
    for round in 0..25 {
        case.reset();
        for _ in 0..3 {
            let mut command = case.world.command(work.args());
            command.stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = command.spawn().unwrap();
            thread::sleep(Duration::from_micros(rng.below(60_000)));
            let _ = child.kill();
            child.wait().unwrap();
            case.assert_nothing_lost(&format!("{work:?} killed, round {round}"));
        }
        case.finish(work, &format!("{work:?} round {round}"));
    }
}

#[test]
fn a_checkpoint_killed_at_any_moment_is_made_when_run_again() {
    killed_at_any_moment(Work::Checkpoint);
}

#[test]
fn a_restore_killed_at_any_moment_is_finished_when_run_again() {
    killed_at_any_moment(Work::Restore);
}

/// The kernel refuses a call; the program says so in one line or gets by, and nothing is lost.
fn failing_at_every_step(work: Work) {
    if !has_strace() {
        eprintln!("no strace: not tested");
        return;
    }
    let all = std::env::var_os("AGENTFS_TEST_EVERY_STEP").is_some();
    let case = Case::new(12);
    for (number, (call, error)) in [
        ("write", "ENOSPC"),
        ("write", "EIO"),
        ("?rename,?renameat,renameat2", "ENOSPC"),
        ("?rename,?renameat,renameat2", "EIO"),
        ("openat", "EIO"),
        ("openat", "EMFILE"),
        ("?mkdir,mkdirat", "ENOSPC"),
        ("?unlink,unlinkat", "EIO"),
        ("pread64", "EIO"),
        ("getdents64", "EIO"),
        ("newfstatat,fstat", "EIO"),
        ("flock", "ENOLCK"),
    ]
    .into_iter()
    .enumerate()
    {
        let (step, end) = if all { (1, 400) } else { (13, 120) };
        for n in (1 + (number * 3 + work as usize) % step..end).step_by(step) {
            case.reset();
            let command = case.world.command(work.args());
            let mut failing = under_strace(&command, call, &format!("error={error}:when={n}"));
            let ran = Ran::of(&mut failing);
            let what = format!("{work:?}: {error} at {call} {n}: {ran:?}");
            assert!(!ran.err.contains("panicked"), "{what}");
            assert!(matches!(ran.code, Some(0 | 1 | 127)), "{what}");
            assert!(ran.err.lines().count() <= 1, "{what}");
            case.assert_nothing_lost(&what);
            case.finish_after_failure(work, &what);
        }
    }
}

impl Case {
    /// As [`Case::finish`], where a step that failed may have made a checkpoint without what it could
    /// not read.
    #[track_caller]
    fn finish_after_failure(&self, work: Work, what: &str) {
        let ran = Ran::of(&mut self.world.command(work.args()));
        assert_eq!(ran.code, Some(0), "{what}: again: {ran:?}");
        match work {
            Work::Restore => assert_same(&self.world.tree(), &self.first, what),
            Work::Checkpoint => assert_same(&self.world.tree(), &self.present, what),
        }
        self.world.checkpoint("to compare");
        let newest = self.world.json(["log", "-n1"])[0]["tree"].clone();
        let by_git = tree::name_by_git(&self.world.tree(), &self.world.root.join("scratch"));
        assert_eq!(newest, by_git, "{what}");
    }
}

#[test]
fn a_checkpoint_that_the_kernel_fails_says_so_and_loses_nothing() {
    failing_at_every_step(Work::Checkpoint);
}

#[test]
fn a_restore_that_the_kernel_fails_says_so_and_loses_nothing() {
    failing_at_every_step(Work::Restore);
}

fn small_disk(at: &Path, size: &str) -> bool {
    let mut mount = Command::new("mount");
    mount
        .args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"])
        .arg(at);
    let mounted = mount.stderr(Stdio::null()).status();
    let mounted = mounted.is_ok_and(|status| status.success());
    if !mounted {
        eprintln!("no mount: not tested");
    }
    mounted
}

#[test]
fn a_full_disk_of_histories_is_an_error_that_loses_nothing() {
    let world = World::empty();
    let histories = world.root.join("histories");
    if !small_disk(&histories, "1m") {
        return;
    }
    let mut rng = Rng::new(1);
    world.write("large", rng.bytes(2 << 20));
    world.run("init").complains(&["No space left"]);
    assert_eq!(
        fs::read_dir(&histories).unwrap().count(),
        0,
        "nothing half made stays"
    );
    fs::remove_file(world.dir.join("large")).unwrap();
    world.write("small", "x");
    world.init();
    world.write("large", rng.bytes(2 << 20));
    world.write("small", "y");
    for _ in 0..3 {
        world.run("checkpoint").complains(&["No space left"]);
        world.assert_sound();
    }
    world.run("restore v1").complains(&["No space left"]);
    assert_eq!(
        world.read("small"),
        "y",
        "no restore without a checkpoint before it"
    );
    let mut mount = Command::new("mount");
    mount.args(["-o", "remount,size=16m"]).arg(&histories);
    assert!(mount.status().unwrap().success());
    assert!(!world.checkpoint("room").is_null());
    world.assert_sound();
}

#[test]
fn a_restore_that_would_fill_the_disk_is_refused_with_a_list() {
    let world = World::empty();
    if !small_disk(&world.dir, "40m") {
        return;
    }
    let mut rng = Rng::new(2);
    world.write("large", rng.bytes(20 << 20));
    world.write("small", "one");
    world.init();
    fs::remove_file(world.dir.join("large")).unwrap();
    world.write("small", "two");
    world.write("other", rng.bytes(20 << 20));
    world.checkpoint("other");
    let before = world.tree();
    world.run("restore v1 large").complains(&["large", "MiB"]);
    assert_same(&world.tree(), &before, "refused");
    world.run("restore v1 small").ends(0);
    assert_eq!(world.read("small"), "one");
}

#[test]
fn a_damaged_index_costs_time_only() {
    let case = Case::new(10);
    let world = &case.world;
    world.checkpoint("second");
    let whole = fs::read(world.index()).unwrap();
    let mut garbage = whole.clone();
    garbage[100] ^= 1;
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("truncated", whole[..whole.len() / 2].to_vec()),
        ("garbage", Rng::new(9).bytes(whole.len())),
        ("one bit", garbage),
        ("of another version", [b"agentfs0", &whole[8..]].concat()),
    ] {
        fs::write(world.index(), &bytes).unwrap();
        assert!(world.checkpoint(what).is_null(), "{what}");
        fs::write(world.index(), &bytes).unwrap();
        world.write("d0/file0", what);
        let made = world.checkpoint(what);
        assert_eq!(made["files_changed"].as_array().unwrap().len(), 1, "{what}");
        world.assert_sound();
    }
    let log = world.json(["log"]);
    let versions: Vec<u64> = log
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["version"].as_u64().unwrap())
        .collect();
    assert_eq!(versions, [7, 6, 5, 4, 3, 2, 1]);
}

#[test]
fn what_a_kill_of_git_leaves_behind_is_taken_over() {
    let case = Case::new(5);
    let store = case.world.store();
    for name in [
        "refs/heads/main.lock",
        "HEAD.lock",
        "config.lock",
        "packed-refs.lock",
        "index.lock",
    ] {
        fs::write(store.join(name), "").unwrap();
    }
    for name in [
        "objects/tmp_obj_1_0",
        "objects/pack/tmp_pack_x",
        "agentfs/index.new",
    ] {
        fs::create_dir_all(store.join(name).parent().unwrap()).unwrap();
        fs::write(store.join(name), "half").unwrap();
    }
    case.finish(Work::Checkpoint, "leftovers");
    case.world.json(["restore", "v1"]);
    assert_same(&case.world.tree(), &case.first, "restored");
}

#[test]
fn a_store_that_lacks_something_says_so_and_nothing_is_lost() {
    let commands = [
        "status",
        "checkpoint x",
        "log",
        "restore v1",
        "undo",
        "show v1",
        "verify",
        "branches",
        "gc",
    ];
    type Damage<'a> = (&'a str, &'a dyn Fn(&World));
    let damages: [Damage; 8] = [
        ("no objects", &|world| {
            fs::remove_dir_all(world.store().join("objects")).unwrap()
        }),
        ("objects cut", &|world| {
            cut_objects(&world.store().join("objects"))
        }),
        ("empty branch", &|world| {
            fs::write(world.store().join("refs/heads/main"), "").unwrap()
        }),
        ("garbled branch", &|world| {
            fs::write(world.store().join("refs/heads/main"), "\0\0").unwrap()
        }),
        ("no branch", &|world| {
            fs::remove_file(world.store().join("refs/heads/main")).unwrap()
        }),
        ("empty HEAD", &|world| {
            fs::write(world.store().join("HEAD"), "").unwrap()
        }),
        ("no configuration", &|world| {
            fs::write(world.store().join("config"), "[[[").unwrap()
        }),
        ("own files gone", &|world| {
            fs::write(world.store().join("agentfs/state.json"), "{").unwrap();
            fs::write(world.store().join("agentfs/events.jsonl"), "{\n\0\n").unwrap();
            let _ = fs::remove_file(world.store().join("agentfs/lock"));
        }),
    ];
    for (what, damage) in damages {
        let case = Case::new(5);
        damage(&case.world);
        for line in commands {
            let ran = case.world.run(line);
            let said = format!("{what}: {line}: {ran:?}");
            assert!(matches!(ran.code, Some(0 | 1)), "{said}");
            assert!(!ran.err.contains("panicked"), "{said}");
            assert!(ran.err.lines().count() <= 1, "{said}");
            let restored = line.starts_with("restore") && ran.code == Some(0);
            let wanted = if restored { &case.first } else { &case.present };
            assert_same(&case.world.tree(), wanted, &said);
            if restored {
                break;
            }
        }
    }
}

fn cut_objects(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            cut_objects(&path);
        } else {
            let bytes = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        }
    }
}

#[test]
fn a_restore_that_finds_a_content_missing_touches_nothing() {
    let case = Case::new(5);
    let world = &case.world;
    world.checkpoint("second");
    let oid = world.asked_git("rev-parse main:d0/file0");
    let path = world
        .store()
        .join("objects")
        .join(&oid[..2])
        .join(&oid[2..]);
    fs::remove_file(path).unwrap();
    world.write("d0/file0", "third");
    let before = world.tree();
    world.run("restore v2").complains(&["d0/file0", "verify"]);
    assert_same(&world.tree(), &before, "untouched");
}

#[test]
fn ten_at_once_make_one_line_of_checkpoints() {
    let world = World::empty();
    world.write("file", "0");
    world.init();
    thread::scope(|scope| {
        for number in 0..10 {
            let world = &world;
            scope.spawn(move || {
                for round in 0..4 {
                    world.write(&format!("by{number}"), format!("{round}"));
                    let ran = Ran::of(&mut world.command(["checkpoint", "x", "--json"]));
                    assert_eq!(ran.code, Some(0), "{ran:?}");
                    serde_json::from_str::<serde_json::Value>(&ran.out).unwrap();
                }
            });
        }
    });
    world.checkpoint("last");
    let log = world.json(["log"]);
    let log = log.as_array().unwrap();
    let versions: Vec<u64> = log.iter().map(|c| c["version"].as_u64().unwrap()).collect();
    let wanted: Vec<u64> = (1..=versions.len() as u64).rev().collect();
    assert_eq!(versions, wanted, "each version once, in one line");
    let ids: HashSet<&str> = log.iter().map(|c| c["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), log.len());
    let by_git = tree::name_by_git(&world.tree(), &world.root.join("scratch"));
    assert_eq!(log[0]["tree"], by_git);
    world.assert_sound();
}
