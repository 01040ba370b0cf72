//! Removing checkpoints, and checking what is left.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::{Machine, World, git};
use crate::rng::Rng;

/// Every checkpoint's id with the tree it must have.
type Trees = BTreeMap<String, String>;

fn trees(store: &Path, rev: &str) -> Trees {
    let format = "--format=%T %(trailers:key=Checkpoint,valueonly,separator=%x20)";
    let printed = git(store, ["log", "--first-parent", format, rev, "--"]);
    let rows = printed.lines().filter_map(|line| {
        let (tree, id) = line.split_once(' ')?;
        id.starts_with("cp_")
            .then(|| (id.to_owned(), tree.to_owned()))
    });
    rows.collect()
}

/// A project with three branches that share some history; gives all checkpoints.
fn grown(machine: &Machine, seed: u64) -> Trees {
    let mut rng = Rng::new(seed);
    machine.write("f", "0");
    machine.run(["init"]);
    for branch in ["main", "side", "other"] {
        if branch != "main" {
            let back = format!("@-{}", rng.below(4));
            machine.run(["branch", &back, "--name", branch]);
            machine.run(["switch", branch]);
        }
        for number in 0..6 {
            let name = format!("d{}/f{}", rng.below(2), rng.below(4));
            let pin = if rng.chance(15) { "--pin" } else { "--json" };
            machine.write(&name, &format!("{branch} {number} {}", rng.next()));
            machine.run(["checkpoint", "some", pin]);
        }
    }
    all_trees(machine)
}

fn all_trees(machine: &Machine) -> Trees {
    let store = machine.store();
    let branches = ["main", "side", "other"].map(|b| format!("refs/heads/{b}"));
    branches.iter().flat_map(|b| trees(&store, b)).collect()
}

fn objects(store: &Path) -> usize {
    let args = [
        "cat-file",
        "--batch-all-objects",
        "--batch-check",
        "--unordered",
    ];
    git(store, args).lines().count()
}

fn reachable(store: &Path) -> usize {
    git(store, ["rev-list", "--objects", "--all"])
        .lines()
        .count()
}

#[test]
fn the_newest_and_the_pinned_stay_as_they_were_and_the_rest_is_gone() {
    for seed in 1..=3 {
        let world = World::new();
        let machine = world.machine("a");
        let before = grown(&machine, seed);
        let store = machine.store();
        let dry = machine.json(["gc", "--keep-last", "2", "--dry-run", "--json"]);
        let told = dry["removed"].as_array().unwrap().len();
        assert_eq!(all_trees(&machine), before);
        let lines: Vec<Vec<String>> = ["main", "side", "other"].map(|b| machine.ids(b)).into();

        let done = machine.json(["gc", "--keep-last", "2", "--json"]);
        assert_eq!(done["removed"].as_array().unwrap().len(), told);
        let after = all_trees(&machine);
        assert_eq!(after.len(), before.len() - told);
        assert!(told > 0);
        for (id, tree) in &after {
            assert_eq!(before[id], *tree, "{id}");
        }
        for (branch, line) in ["main", "side", "other"].iter().zip(&lines) {
            let left = machine.ids(branch);
            assert_eq!(left[..2], line[..2]);
            let expected: Vec<_> = line.iter().filter(|id| after.contains_key(*id)).collect();
            assert_eq!(left.iter().collect::<Vec<_>>(), expected);
        }
        machine.check();
        assert!(
            objects(&store) <= reachable(&store) + 40,
            "nothing more than the index needs"
        );
        // What was kept can be had, and life goes on.
        let out = machine.home.join("out");
        let newest = machine.ids("main")[0].clone();
        machine.run(["export".as_ref(), newest.as_ref(), out.as_os_str()]);
        machine.run(["switch", "main"]);
        assert_eq!(
            machine.run(["checkpoint", "x"]),
            "nothing has changed since the newest checkpoint\n"
        );
        machine.checkpoint("f", "after");
        machine.check();
    }
}

#[test]
fn files_that_were_only_looked_at_survive() {
    let world = World::new();
    let machine = world.machine("a");
    machine.write("f", "0");
    machine.run(["init"]);
    for number in 1..5 {
        machine.checkpoint("f", &number.to_string());
    }
    machine.write("new/seen", "by status alone");
    std::thread::sleep(Duration::from_millis(50));
    machine.run(["status"]);
    machine.run(["maintain".as_ref(), machine.store().as_os_str()]);
    machine.run(["gc", "--keep-last", "1"]);
    assert_eq!(machine.ids("main").len(), 1);
    machine.run(["checkpoint", "now"]);
    machine.check();
    assert_eq!(machine.run(["show", "new/seen@"]), "by status alone");
}

#[test]
fn both_rules_must_want_a_checkpoint_removed() {
    let world = World::new();
    let machine = world.machine("a");
    machine.run(["init"]);
    for number in 0..5 {
        machine.checkpoint("f", &number.to_string());
    }
    machine.run(["gc", "--keep-last", "2", "--older-than", "1h"]);
    assert_eq!(machine.ids("main").len(), 6);
    std::thread::sleep(Duration::from_millis(1_100));
    machine.run(["gc", "--keep-last", "2", "--older-than", "1s"]);
    assert_eq!(machine.ids("main").len(), 2);
    assert!(
        !machine
            .try_run(["gc", "--older-than", "soon"])
            .status
            .success()
    );
    machine.run(["gc"]);
    machine.check();
}

#[test]
fn a_killed_gc_leaves_every_branch_whole_and_the_next_one_finishes() {
    let world = World::new();
    let machine = world.machine("a");
    let mut before = grown(&machine, 7);
    let store = machine.store();
    let mut rng = Rng::new(7);
    for round in 0..12 {
        let mut gc = machine.command(["gc", "--keep-last", "2"]);
        let mut gc = gc.process_group(0).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(rng.below(160)));
        // SAFETY: takes plain numbers; the group is the child's own.
        unsafe { libc::kill(-(gc.id() as libc::pid_t), libc::SIGKILL) };
        gc.wait().unwrap();
        git(&store, ["fsck", "--full", "--strict", "--no-dangling"]);
        for (id, tree) in all_trees(&machine) {
            assert_eq!(before[&id], tree);
        }
        machine.checkpoint("more", &round.to_string());
        before.extend(all_trees(&machine));
    }
    machine.run(["gc", "--keep-last", "2"]);
    assert_eq!(machine.ids("other")[..2].len(), 2);
    machine.check();
}

#[test]
fn damage_is_told_in_words_and_healed_where_the_content_still_exists() {
    let world = World::new();
    let machine = world.machine("a");
    machine.write("kept", "still here");
    machine.write("gone", "only in the history");
    machine.run(["init"]);
    machine.checkpoint("gone", "another text");
    machine.check();
    let store = machine.store();
    let whole = machine.json(["verify", "--json"]);
    assert_eq!(
        (&whole["whole"], &whole["checkpoints"]),
        (&true.into(), &2.into())
    );

    // Two blobs become nonsense, loose as a crash would leave them.
    let pack_dir = store.join("objects/pack");
    let log = store.join("objects/info/commit-graphs/commit-graph-chain");
    super::wait_for("packed in the background", || log.exists());
    machine.run(["gc"]);
    for pack in fs::read_dir(&pack_dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect::<Vec<_>>()
    {
        if pack.extension().is_some_and(|e| e == "pack") {
            let away = store.join("moved.pack");
            fs::rename(&pack, &away).unwrap();
            for end in ["idx", "rev"] {
                let _ = fs::remove_file(pack.with_extension(end));
            }
            let unpack = std::process::Command::new("git")
                .arg("unpack-objects")
                .arg("-q")
                .current_dir(&store)
                .stdin(fs::File::open(&away).unwrap())
                .status();
            assert!(unpack.unwrap().success());
            fs::remove_file(&away).unwrap();
        }
    }
    let damage = |spec: &str| {
        let oid = git(&store, ["rev-parse", spec]);
        let path = store.join("objects").join(&oid[..2]).join(oid[2..].trim());
        let _ = fs::remove_file(&path);
        fs::write(path, "nonsense").unwrap();
    };
    damage("main:kept");
    damage("main~1:gone");
    let output = machine.try_run(["verify"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("damaged: kept in 2 checkpoints from v1 to v2"),
        "{said}"
    );
    assert!(said.contains("damaged: gone in v1 "), "{said}");
    machine.checkpoint("new", "x");
    let said = String::from_utf8(machine.try_run(["verify"]).stdout).unwrap();
    assert!(
        !said.contains("damaged: kept") && said.contains("damaged: gone in v1 "),
        "{said}"
    );
    assert_eq!(machine.run(["show", "kept@v1"]), "still here");
}
