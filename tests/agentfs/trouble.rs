//! A store that is locked, damaged or full never stands in a hook's way, and what was missed is made up for.

use std::fs::{self, File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::agent::{Agent, author, checkpoints, events, newest, tell, troubles};
use super::world::World;

/// A project in which a call has just been recorded.
fn recorded() -> World {
    let world = World::empty();
    begun(&world);
    world
}

fn begun(world: &World) {
    world.write("a.txt", "alpha\n");
    world.hand_over();
    world.init();
    let agent = Agent::new(world, "one");
    agent.ask("make it so");
    agent.write("before.txt", "before\n");
    world.hand_over();
}

/// A call while something is wrong; it is told in silence. Gives its id.
fn during(world: &World) -> String {
    let agent = Agent::new(world, "one");
    agent.bash("make", &[("during.txt", "during\n")])
}

/// Once nothing is wrong any more the next hook records what the last one could not.
#[track_caller]
fn made_up_for(world: &World, id: &str) {
    let agent = Agent::new(world, "one");
    let next = agent.begin("Bash", json!({"command": "next"}));
    assert_eq!(newest(world)["tool_use_id"], id, "{}", troubles(world));
    world.write("after.txt", "after\n");
    agent.end(&next);
    assert_eq!(author(world, "during.txt"), [id]);
    assert_eq!(author(world, "after.txt"), [next.id]);
    assert_eq!(world.json(["status"])["changed"], json!([]));
    world.assert_sound();
}

/// What `agentfs status` says of it, whether it can say anything else or not.
#[track_caller]
fn status_says(world: &World, text: &str) {
    let ran = world.run("status");
    let said = format!("{}{}", ran.out, ran.err);
    assert!(said.contains(text), "no {text:?} in {said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_hook_does_not_wait_for_who_keeps_the_store() {
    let world = recorded();
    let lock = File::options()
        .write(true)
        .open(world.store().join("agentfs/lock"))
        .unwrap();
    // SAFETY: takes a descriptor that is open.
    assert_eq!(unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) }, 0);
    let before = events(&world).len();
    let id = during(&world);
    assert_eq!(events(&world).len(), before + 2, "both events are kept");
    drop(lock);
    status_says(&world, "the store was busy");
    made_up_for(&world, &id);
}

#[test]
fn a_damaged_index_costs_only_time() {
    let world = recorded();
    let good = fs::read(world.index()).unwrap();
    for (n, bad) in [&b""[..], b"garbage", &good[..good.len() / 2], &[0xff; 4096]]
        .into_iter()
        .enumerate()
    {
        fs::write(world.index(), bad).unwrap();
        let agent = Agent::new(&world, "one");
        let name = format!("new{n}.txt");
        let id = agent.bash("make", &[(&name, "new\n")]);
        assert_eq!(author(&world, &name), [id]);
    }
    fs::remove_file(world.index()).unwrap();
    let id = during(&world);
    made_up_for(&world, &id);
    assert_eq!(troubles(&world), "");
}

#[test]
fn a_lost_state_is_made_again_from_the_events() {
    let world = recorded();
    let state = world.store().join("agentfs/state.json");
    let good = fs::read_to_string(&state).unwrap();
    for (n, bad) in [
        "",
        "{",
        "null",
        "[]",
        "{\"offset\": 0}",
        &good[..good.len() / 2],
    ]
    .into_iter()
    .enumerate()
    {
        let agent = Agent::new(&world, "one");
        agent.ask("make it so");
        let name = format!("new{n}.txt");
        let begun = agent.begin("Bash", json!({"command": "make"}));
        fs::write(&state, bad).unwrap();
        world.write(&name, "new\n");
        agent.end(&begun);
        assert_eq!(author(&world, &name), [begun.id]);
        let line = world.json(["blame", &name]);
        assert_eq!(line[0]["calls"][0]["prompt"], "make it so", "{bad:?}");
    }
    fs::remove_file(&state).unwrap();
    let id = during(&world);
    made_up_for(&world, &id);
}

#[test]
fn events_that_were_torn_or_lost_cost_no_others() {
    let world = recorded();
    let log = world.store().join("agentfs/events.jsonl");
    let mut torn = fs::read(&log).unwrap();
    torn.extend_from_slice(b"{\"time\": 17, \"event\": \"PreTo");
    fs::write(&log, torn).unwrap();
    let agent = Agent::new(&world, "one");
    let id = agent.bash("make", &[("torn.txt", "torn\n")]);
    assert_eq!(author(&world, "torn.txt"), [id]);
    fs::remove_file(&log).unwrap();
    let id = during(&world);
    made_up_for(&world, &id);
}

#[test]
fn what_is_missing_from_the_store_is_told_and_made_up_for_when_it_is_back() {
    for part in ["HEAD", "objects"] {
        let world = recorded();
        let (place, aside) = (world.store().join(part), world.store().join("aside"));
        fs::rename(&place, &aside).unwrap();
        let id = during(&world);
        world
            .run("status")
            .complains(&["cannot read the store", "agentfs verify"]);
        // Whatever was begun in its place goes with it.
        let _ = fs::remove_dir_all(&place);
        fs::rename(&aside, &place).unwrap();
        status_says(&world, "cannot read the store");
        made_up_for(&world, &id);
    }
}

#[test]
fn a_branch_whose_name_was_lost_keeps_its_history() {
    for lost in ["refs", "refs/heads/main"] {
        let world = recorded();
        let place = world.store().join(lost);
        let _ = fs::remove_file(&place);
        let _ = fs::remove_dir_all(&place);
        let id = during(&world);
        assert_eq!(checkpoints(&world).len(), 3, "{lost}");
        assert_eq!(author(&world, "during.txt"), [id.as_str()]);
        is_newest(&world, &id);
    }
}

#[test]
fn a_checkpoint_that_cannot_be_read_is_told() {
    let world = recorded();
    let tip = world.asked_git("rev-parse HEAD");
    let object = world
        .store()
        .join(format!("objects/{}/{}", &tip[..2], &tip[2..]));
    let good = fs::read(&object).unwrap();
    fs::set_permissions(&object, Permissions::from_mode(0o644)).unwrap();
    fs::write(&object, b"").unwrap();
    let id = during(&world);
    world.run("status").complains(&[&tip, "agentfs verify"]);
    fs::write(&object, good).unwrap();
    status_says(&world, "trouble");
    made_up_for(&world, &id);
}

#[test]
fn a_store_that_may_not_be_written_is_told_and_caught_up_with() {
    let Some(world) = World::of_ordinary_user() else {
        return;
    };
    begun(&world);
    let modes = |mode: &str| {
        let changed = Command::new("chmod")
            .args(["-R", mode])
            .arg(world.store())
            .status();
        assert!(changed.unwrap().success());
    };
    modes("a-w");
    let agent = Agent::new(&world, "one");
    agent.bash("make", &[("during.txt", "during\n")]);
    world.hand_over();
    status_says(&world, "ermission denied");
    modes("u+w");
    // Even the events could not be kept: who did it is not known any more, but it is not lost.
    let next = agent.begin("Bash", json!({"command": "next"}));
    assert_eq!(world.json(["status"])["changed"], json!([]));
    world.write("after.txt", "after\n");
    agent.end(&next);
    assert!(author(&world, "during.txt").is_empty());
    assert_eq!(author(&world, "after.txt"), [next.id]);
    world.assert_sound();
}

#[test]
fn a_full_disk_is_told_and_caught_up_with() {
    // SAFETY: takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("not root: not tested");
        return;
    }
    let world = World::empty();
    let histories = world.root.join("histories");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
        .arg(&histories)
        .status();
    assert!(mounted.unwrap().success());
    begun(&world);
    let filler = histories.join("filler");
    let filled = |path: &Path| {
        let mut zeros = File::open("/dev/zero").unwrap();
        std::io::copy(&mut zeros, &mut File::create(path).unwrap())
    };
    assert!(filled(&filler).is_err());
    during(&world);
    status_says(&world, "No space left");
    fs::remove_file(filler).unwrap();
    let agent = Agent::new(&world, "one");
    let next = agent.begin("Bash", json!({"command": "next"}));
    assert_eq!(world.json(["status"])["changed"], json!([]));
    world.write("after.txt", "after\n");
    agent.end(&next);
    assert_eq!(author(&world, "after.txt"), [next.id]);
    world.assert_sound();
}

#[test]
fn a_place_that_is_no_store_is_passed_over() {
    let world = recorded();
    let histories = world.root.join("histories");
    fs::write(histories.join("a-file"), "x").unwrap();
    fs::create_dir_all(histories.join("torn-12345678/agentfs")).unwrap();
    fs::write(histories.join("torn-12345678/agentfs/project.json"), "{").unwrap();
    let id = during(&world);
    is_newest(&world, &id);
    // Nor is a home of histories that is no directory.
    let aside = world.root.join("aside");
    fs::rename(&histories, &aside).unwrap();
    fs::write(&histories, "x").unwrap();
    tell(
        &world,
        Agent::new(&world, "one")
            .input("PostToolUse", &json!({}))
            .to_string(),
    );
    fs::remove_file(&histories).unwrap();
    fs::rename(&aside, &histories).unwrap();
}

#[track_caller]
fn is_newest(world: &World, id: &str) {
    assert_eq!(newest(world)["tool_use_id"], id);
}

#[test]
fn hooks_that_are_killed_at_any_moment_leave_nothing_to_mend() {
    let world = recorded();
    for n in 0..30 {
        let agent = Agent::new(&world, "one");
        let begun = agent.begin("Bash", json!({"command": "make"}));
        let name = format!("kill{n}.txt");
        world.write(&name, "x\n");
        let input = agent.input(
            "PostToolUse",
            &json!({"tool_name": "Bash", "tool_use_id": begun.id}),
        );
        let mut child = world
            .command(["hook"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        use std::io::Write;
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.to_string().as_bytes())
            .unwrap();
        std::thread::sleep(std::time::Duration::from_micros(1_000 * n));
        let _ = child.kill();
        let _ = child.wait();
        agent.tell("PostToolBatch", json!({}));
        agent.end(&begun);
        assert_eq!(author(&world, &name), [begun.id], "kill {n}");
    }
    world.assert_sound();
    world.run("verify").ends(0);
}
