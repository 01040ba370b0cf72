//! Machines that share a history: no line is lost, and none is there twice.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::{Machine, World, git, ids};
use crate::rng::Rng;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Ids of all checkpoints of all branches.
fn all_ids(store: &Path) -> BTreeSet<String> {
    let listed = git(store, ["for-each-ref", "--format=%(refname)", "refs/heads"]);
    listed.lines().flat_map(|name| ids(store, name)).collect()
}

fn states(machine: &Machine, action: &str, remote: &Path) -> Vec<(String, String)> {
    let done = machine.json(["sync", action, text(remote), "--json"]);
    let rows = done["branches"].as_array().unwrap().iter();
    let word = |row: &serde_json::Value, name: &str| row[name].as_str().unwrap().to_owned();
    rows.map(|row| (word(row, "branch"), word(row, "state")))
        .collect()
}

/// Two machines, the second cloned from what the first pushed.
fn two(world: &World, remote: &Path) -> (Machine, Machine) {
    let a = world.machine("a");
    a.write("f", "0");
    a.run(["init"]);
    a.checkpoint("f", "1");
    a.run(["sync", "push", text(remote)]);
    let b = world.machine("b");
    b.run(["clone", "--from", text(remote), "."]);
    (a, b)
}

#[test]
fn taking_turns_moves_the_directory_forward_on_both_machines() {
    let world = World::new();
    let remote = world.dir.join("new/remote.git");
    fs::create_dir(world.dir.join("new")).unwrap();
    let (a, b) = two(&world, &remote);
    assert_eq!(b.read("f"), "1");
    assert_eq!(
        b.run(["checkpoint"]),
        "nothing has changed since the newest checkpoint\n"
    );
    assert_eq!(a.ids("main"), b.ids("main"));
    for turn in 0..3 {
        let id = b.checkpoint("f", &format!("b{turn}"));
        assert!(b.run(["sync", "push"]).contains("1 checkpoint pushed"));
        assert!(a.run(["sync", "status"]).contains("the remote has"));
        assert!(
            a.run(["sync", "pull"])
                .contains("the directory is brought forward")
        );
        assert_eq!(
            (a.read("f"), a.ids("main")[0].clone()),
            (format!("b{turn}"), id)
        );
        assert_eq!(
            a.run(["checkpoint"]),
            "nothing has changed since the newest checkpoint\n"
        );
        a.checkpoint("g", &turn.to_string());
        assert!(a.run(["sync", "status"]).contains("1 checkpoint to push"));
        a.run(["sync", "push"]);
        b.run(["sync", "pull"]);
        assert_eq!(b.read("g"), turn.to_string());
    }
    assert_eq!(
        states(&a, "status", &remote),
        [("main".into(), "same".into())]
    );
    assert_eq!(ids(&remote, "main"), a.ids("main"));
    let versions = a.json(["log", "--json"]);
    let versions: BTreeSet<u64> = versions
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["version"].as_u64().unwrap())
        .collect();
    assert_eq!(versions.len(), 8);
    a.check();
    b.check();
}

#[test]
fn a_directory_that_has_changed_is_not_touched_by_a_pull() {
    let world = World::new();
    let remote = world.remote();
    let (a, b) = two(&world, &remote);
    let id = b.checkpoint("f", "theirs");
    b.run(["sync", "push"]);
    a.write("f", "mine, not yet recorded");
    let said = a.run(["sync", "pull"]);
    assert!(said.contains("agentfs switch main-remote"), "{said}");
    assert_eq!(a.read("f"), "mine, not yet recorded");
    assert_eq!(a.ids("main-remote")[0], id);
    assert_eq!(
        states(&a, "pull", &remote),
        [
            ("main-remote".into(), "same".into()),
            ("main".into(), "apart".into())
        ]
    );
    a.run(["switch", "main-remote"]);
    assert_eq!(a.read("f"), "theirs");
    // The branch that was kept goes on with the remote's, and the other one gets its own.
    a.checkpoint("f", "after theirs");
    let said = a.run(["sync", "push"]);
    assert!(said.contains("1 checkpoint pushed to main"), "{said}");
    assert!(
        b.run(["sync", "pull"])
            .contains("the directory is brought forward")
    );
    assert_eq!(b.read("f"), "after theirs");
    assert_eq!(all_ids(&remote), all_ids(&a.store()));
}

#[test]
fn two_ways_are_both_kept_and_each_machine_goes_on_with_its_own() {
    let world = World::new();
    let remote = world.remote();
    let (a, b) = two(&world, &remote);
    a.checkpoint("f", "a");
    b.checkpoint("f", "b");
    a.run(["sync", "push"]);
    let said = b.run(["sync", "push"]);
    assert!(said.contains("main went another way there"), "{said}");
    b.checkpoint("f", "b2");
    assert!(
        b.run(["sync", "push"])
            .contains("1 checkpoint pushed to main-")
    );
    b.run(["sync", "pull"]);
    a.run(["sync", "pull"]);
    let everything = all_ids(&remote);
    assert_eq!(all_ids(&a.store()), everything);
    assert_eq!(all_ids(&b.store()), everything);
    assert_eq!((a.read("f"), b.read("f")), ("a".into(), "b2".into()));
    for machine in [&a, &b] {
        assert!(
            states(machine, "push", &remote)
                .iter()
                .all(|(_, state)| state == "same")
        );
        assert!(
            states(machine, "pull", &remote)
                .iter()
                .all(|(_, state)| state == "same")
        );
    }
}

#[test]
fn a_line_that_gc_shortened_is_the_same_line() {
    let world = World::new();
    let remote = world.remote();
    let (a, b) = two(&world, &remote);
    for number in 2..6 {
        a.checkpoint("f", &number.to_string());
    }
    a.run(["sync", "push"]);
    a.run(["gc", "--keep-last", "2"]);
    assert_eq!(a.ids("main").len(), 2);
    assert_eq!(
        states(&a, "status", &remote),
        [("main".into(), "same".into())]
    );
    assert_eq!(
        states(&a, "push", &remote),
        [("main".into(), "same".into())]
    );
    a.checkpoint("f", "after gc");
    assert_eq!(
        states(&a, "status", &remote),
        [("main".into(), "ahead".into())]
    );
    assert!(a.run(["sync", "push"]).contains("1 checkpoint pushed"));
    assert_eq!(ids(&remote, "main").len(), 7);
    // Nothing of what gc removed has come back.
    let count = |store: &Path| {
        git(store, ["rev-list", "--objects", "--all"])
            .lines()
            .count()
    };
    let stored = || {
        git(
            &a.store(),
            ["cat-file", "--batch-all-objects", "--batch-check"],
        )
        .lines()
        .count()
    };
    assert!(
        stored() <= count(&a.store()) + 20,
        "{} of {}",
        stored(),
        count(&a.store())
    );
    assert!(
        states(&a, "pull", &remote)
            .iter()
            .all(|(_, state)| state == "same")
    );
    a.checkpoint("f", "once more");
    a.run(["sync", "push"]);
    a.run(["branch", "@-1", "--name", "side"]);
    a.run(["switch", "side"]);
    a.checkpoint("g", "on the side");
    assert!(a.run(["sync", "push"]).contains("pushed"));
    a.run(["switch", "main"]);
    assert_eq!(ids(&remote, "side"), a.ids("side"));
    assert!(stored() <= count(&a.store()) + 30);
    assert!(!a.store().join("agentfs/peer.git").exists());
    b.run(["sync", "pull"]);
    assert_eq!(b.ids("main"), ids(&remote, "main"));
    b.checkpoint("f", "b again");
    b.run(["sync", "push"]);
    a.run(["sync", "pull"]);
    assert_eq!((a.read("f"), a.ids("main").len()), ("b again".into(), 5));
    let branches = git(&remote, ["for-each-ref", "--format=%(refname)"]);
    assert_eq!(branches, "refs/heads/main\nrefs/heads/side\n");
    for machine in [&a, &b] {
        machine.check();
    }
    git(&remote, ["fsck", "--full", "--strict"]);
}

#[test]
fn what_is_no_history_of_checkpoints_is_left_alone() {
    let world = World::new();
    let a = world.machine("a");
    a.write("f", "0");
    a.run(["init"]);
    let theirs = world.dir.join("theirs");
    fs::create_dir(&theirs).unwrap();
    git(&theirs, ["init", "-q", "-b", "main"]);
    git(
        &theirs,
        [
            "-c",
            "user.name=x",
            "-c",
            "user.email=x",
            "commit",
            "-q",
            "--allow-empty",
            "-m",
            "their own",
        ],
    );
    let fails = |args: &[&str], words: &str| {
        let output = a.try_run(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(words), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    };
    fails(&["sync", "push", text(&theirs)], "working directory of git");
    fails(
        &["sync", "push", text(&theirs.join(".git"))],
        "another history",
    );
    fails(&["sync", "push", "/nowhere/at/all"], "/nowhere/at/all");
    fails(&["sync", "pull"], "no remote is known");
    fails(
        &["clone", "--from", text(&theirs), "x"],
        "holds no checkpoints",
    );
    fails(
        &["clone", "--from", "/nowhere/at/all", "x"],
        "/nowhere/at/all",
    );
    assert!(!a.project.join("x").exists());
    assert_eq!(a.json(["list", "--json"]).as_array().unwrap().len(), 1);
    let empty = world.remote();
    fails(
        &["clone", "--from", text(&empty), "x"],
        "holds no checkpoints",
    );
    assert!(states(&a, "pull", &empty).is_empty());
}

#[test]
fn the_user_s_own_configuration_says_how_to_get_there_and_runs_no_hooks() {
    let world = World::new();
    let remote = world.remote();
    let a = world.machine("a");
    a.write("f", "0");
    a.run(["init"]);
    let hooks = a.home.join("hooks");
    fs::create_dir(&hooks).unwrap();
    fs::write(hooks.join("pre-push"), "#!/bin/sh\nexit 1\n").unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(hooks.join("pre-push"), executable).unwrap();
    let config = format!(
        "[url \"{}/\"]\n insteadOf = mine:\n[core]\n hooksPath = {}\n[push]\n gpgSign = if-asked\n[fetch]\n prune = true\n",
        text(&world.dir),
        text(&hooks)
    );
    fs::write(a.home.join(".gitconfig"), config).unwrap();
    let output = a.try_run(["sync", "push", "mine:remote.git"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && said.contains("secrets"),
        "{said}"
    );
    assert_eq!(ids(&remote, "main"), a.ids("main"));
    let again = a.try_run(["sync", "push"]);
    assert!(again.status.success() && again.stderr.is_empty());
    assert!(a.run(["sync", "pull"]).contains("nothing new"));
}

#[test]
fn a_line_from_another_host_is_called_after_it() {
    let world = World::new();
    let remote = world.remote();
    let (a, b) = two(&world, &remote);
    let script = a.home.join("ssh");
    fs::write(
        &script,
        "#!/bin/sh\nfor last; do :; done\nexec sh -c \"$last\"\n",
    )
    .unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&script, executable).unwrap();
    let address = format!("me@box.example.org:{}", text(&remote));
    let over_ssh = |args: &[&str]| {
        let mut command = a.command(args);
        let output = command.env("GIT_SSH_COMMAND", &script).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    b.checkpoint("f", "b");
    b.run(["sync", "push"]);
    a.checkpoint("f", "a");
    let said = over_ssh(&["sync", "pull", &address]);
    assert!(said.contains("agentfs switch main-box"), "{said}");
    // A line that is continued without being here, over a real connection.
    a.run(["gc", "--keep-last", "1"]);
    a.checkpoint("f", "a2");
    over_ssh(&["sync", "push"]);
    assert!(over_ssh(&["sync", "status"]).contains("the same on both sides"));
    assert!(all_ids(&remote).is_superset(&all_ids(&a.store())));
    git(&remote, ["fsck", "--full", "--strict"]);
}

#[test]
fn a_remote_cannot_write_where_it_should_not() {
    let world = World::new();
    let remote = world.remote();
    let a = world.machine("a");
    a.write("f", "0");
    a.run(["init"]);
    a.run(["sync", "push", text(&remote)]);
    let made = |args: &[&str], input: &[u8]| {
        let mut command = std::process::Command::new("git");
        let command = command
            .args(args)
            .current_dir(&remote)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    for (number, name) in ["..", ".git"].iter().enumerate() {
        let tree = git(&remote, ["rev-parse", "main^{tree}"]);
        let row = |name: &str| {
            let oid: Vec<u8> = (0..20)
                .map(|at| u8::from_str_radix(&tree[2 * at..2 * at + 2], 16).unwrap())
                .collect();
            [format!("40000 {name}\0").into_bytes(), oid].concat()
        };
        let tree = made(
            &["hash-object", "-w", "-t", "tree", "--literally", "--stdin"],
            &row(name),
        );
        let commit = git(&remote, ["cat-file", "commit", "main"]);
        let commit = commit.replacen(&commit[5..45], &tree, 1);
        let commit = made(
            &["hash-object", "-w", "-t", "commit", "--stdin"],
            commit.as_bytes(),
        );
        git(&remote, ["update-ref", "refs/heads/evil", &commit]);
        let dir = format!("clone{number}");
        let output = a.try_run(["clone", "--from", text(&remote), &dir]);
        assert!(!output.status.success(), "{name}");
        assert!(!a.project.join(&dir).exists());
    }
}

#[test]
fn a_store_that_somebody_works_in_keeps_its_current_branch() {
    let world = World::new();
    let a = world.machine("a");
    a.write("f", "0");
    a.run(["init"]);
    let b = world.machine("b");
    let store = a.store();
    b.run(["clone", "--from", text(&store), "."]);
    b.checkpoint("f", "b");
    let said = b.run(["sync", "push"]);
    assert!(said.contains("main is in use there"), "{said}");
    assert_eq!(a.ids("main").len(), 1);
    assert_eq!(all_ids(&store), all_ids(&b.store()));
    assert_eq!(
        a.run(["checkpoint"]),
        "nothing has changed since the newest checkpoint\n"
    );
}

#[test]
fn a_clone_brings_every_byte_and_a_killed_one_leaves_no_project() {
    let world = World::new();
    let remote = world.remote();
    let a = world.machine("a");
    for number in 0..200 {
        a.write(
            &format!("d{}/f{number}", number % 7),
            &"text\n".repeat(number),
        );
    }
    std::os::unix::fs::symlink("nowhere", a.project.join("link")).unwrap();
    fs::create_dir(a.project.join("empty")).unwrap();
    a.run(["init"]);
    a.run(["branch", "@", "--name", "side"]);
    a.run(["sync", "push", text(&remote)]);
    let b = world.machine("b");
    let mut rng = Rng::new(3);
    for round in 0..8 {
        let dir = format!("killed{round}");
        let mut clone = b.command(["clone", "--from", text(&remote), &dir]);
        let mut clone = clone
            .process_group(0)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(5 + rng.below(60)));
        // SAFETY: takes plain numbers; the group is the child's own.
        unsafe { libc::kill(-(clone.id() as libc::pid_t), libc::SIGKILL) };
        if !clone.wait().unwrap().success() {
            let listed = b.json(["list", "--json"]);
            let is_listed = listed
                .as_array()
                .unwrap()
                .iter()
                .any(|p| p["dir"].as_str().unwrap().ends_with(&dir));
            // Whoever is registered is whole.
            if is_listed {
                b.run(["verify", "-C", &dir]);
            }
        }
    }
    let stores = || fs::read_dir(b.home.join("histories")).unwrap().count();
    let made = b.json([
        "clone",
        "--from",
        text(&remote),
        "whole",
        "--name",
        "mine",
        "--json",
    ]);
    let listed = b.json(["list", "--json"]).as_array().unwrap().len();
    assert_eq!((&made["name"], stores()), (&"mine".into(), listed));
    let diff = std::process::Command::new("diff")
        .arg("-r")
        .arg("--no-dereference")
        .arg(&a.project)
        .arg(b.project.join("whole"))
        .output()
        .unwrap();
    assert!(diff.status.success() && diff.stdout.is_empty(), "{diff:?}");
    assert!(b.project.join("whole/empty").is_dir());
    assert!(
        !b.try_run(["clone", "--from", text(&remote), "whole"])
            .status
            .success()
    );
    assert!(b.run(["branches", "-C", "whole"]).contains("side"));
}

/// Whatever two machines do, in any order, every checkpoint stays somewhere unless its own machine's gc
/// removed it before anybody else had it; and when both have talked enough, nothing is left to do.
#[test]
fn whatever_two_machines_do_no_line_is_lost() {
    for seed in 1..=4 {
        let world = World::new();
        let remote = world.remote();
        let (a, b) = two(&world, &remote);
        let machines = [a, b];
        let mut rng = Rng::new(seed);
        let mut removed: BTreeSet<String> = BTreeSet::new();
        let mut made: BTreeSet<String> = all_ids(&remote);
        let mut on_remote = made.clone();
        for step in 0..45 {
            let machine = &machines[rng.below(2) as usize];
            let branches = machine.json(["branches", "--json"]);
            let names: Vec<&str> = branches
                .as_array()
                .unwrap()
                .iter()
                .map(|b| b["name"].as_str().unwrap())
                .collect();
            let current = branches
                .as_array()
                .unwrap()
                .iter()
                .find(|b| b["current"] == true)
                .unwrap()["name"]
                .as_str()
                .unwrap();
            match rng.below(12) {
                0..4 => {
                    let name = format!("f{}", rng.below(3));
                    made.insert(machine.checkpoint(&name, &format!("{seed} {step}")));
                }
                4..8 if rng.chance(25) => {
                    let action = if rng.chance(50) { "push" } else { "pull" };
                    let mut sync = machine.command(["sync", action, text(&remote)]);
                    let sync = sync.stdout(Stdio::null()).stderr(Stdio::null());
                    let mut sync = sync.process_group(0).spawn().unwrap();
                    std::thread::sleep(Duration::from_millis(rng.below(100)));
                    // SAFETY: takes plain numbers; the group is the child's own.
                    unsafe { libc::kill(-(sync.id() as libc::pid_t), libc::SIGKILL) };
                    sync.wait().unwrap();
                    // The other side was killed too, and is not ours to tidy.
                    let dirs = [remote.join("refs/heads"), remote.clone()];
                    let files = dirs
                        .iter()
                        .flat_map(|dir| fs::read_dir(dir).unwrap().flatten());
                    for file in files.map(|file| file.path()) {
                        if file.extension().is_some_and(|end| end == "lock") {
                            fs::remove_file(file).unwrap();
                        }
                    }
                }
                4..6 => {
                    states(machine, "push", &remote);
                }
                6..8 => {
                    let before = machine.ids(current);
                    states(machine, "pull", &remote);
                    let after = machine.ids(current);
                    assert!(after.ends_with(&before), "seed {seed} step {step}");
                }
                8 => machine.write("f0", &format!("unrecorded {step}")),
                9 => {
                    let other = *rng.pick(&names);
                    if other != current {
                        machine.run(["switch", other]);
                    }
                }
                10 if names.len() < 4 => {
                    let name = format!("b{}", rng.below(3));
                    machine.try_run(["branch", "@-1", "--name", &name]);
                }
                _ => {
                    let keep = (1 + rng.below(4)).to_string();
                    let done = machine.json(["gc", "--keep-last", &keep, "--json"]);
                    for checkpoint in done["removed"].as_array().unwrap() {
                        removed.insert(checkpoint["id"].as_str().unwrap().to_owned());
                    }
                }
            }
            for machine in &machines {
                made.extend(all_ids(&machine.store()));
            }
            let now = all_ids(&remote);
            assert!(
                now.is_superset(&on_remote),
                "seed {seed} step {step}: the remote lost something"
            );
            on_remote = now;
            let mut anywhere = on_remote.clone();
            machines
                .iter()
                .for_each(|m| anywhere.extend(all_ids(&m.store())));
            let lost: Vec<_> = made
                .difference(&anywhere)
                .filter(|id| !removed.contains(*id))
                .collect();
            assert!(lost.is_empty(), "seed {seed} step {step}: {lost:?}");
        }
        for _ in 0..3 {
            for machine in &machines {
                machine.run(["checkpoint", "at the end"]);
                states(machine, "push", &remote);
                states(machine, "pull", &remote);
            }
        }
        for machine in &machines {
            made.extend(all_ids(&machine.store()));
            for action in ["pull", "push"] {
                let left = states(machine, action, &remote);
                assert!(
                    left.iter().all(|(_, state)| state == "same"),
                    "seed {seed}: {left:?}"
                );
            }
            assert!(all_ids(&remote).is_superset(&all_ids(&machine.store())));
            machine.check();
        }
        let lost: Vec<_> = made
            .difference(&all_ids(&remote))
            .filter(|id| !removed.contains(*id))
            .cloned()
            .collect();
        assert!(lost.is_empty(), "seed {seed}: {lost:?}");
        git(&remote, ["fsck", "--full", "--strict"]);
    }
}
