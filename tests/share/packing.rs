//! What is done to a store in the background.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use super::{World, git, ids, wait_for};

fn loose(store: &Path) -> u64 {
    let printed = git(store, ["count-objects", "-v"]);
    let line = printed
        .lines()
        .find_map(|line| line.strip_prefix("count: "));
    line.unwrap().parse().unwrap()
}

#[test]
fn the_first_import_is_packed_in_the_background_whatever_happens_to_the_caller() {
    let world = World::new();
    let machine = world.machine("a");
    for number in 0..50 {
        machine.write(&format!("f{number}"), &format!("text {number}\n"));
    }
    let mut init = machine.command(["init"]);
    init.process_group(0).stdout(Stdio::null());
    let mut init = init.spawn().unwrap();
    let group = init.id() as libc::pid_t;
    assert!(init.wait().unwrap().success());
    // SAFETY: takes plain numbers; the group is the one made above.
    unsafe { libc::kill(-group, libc::SIGKILL) };
    let store = machine.store();
    // The newest commit is kept at hand.
    wait_for("packed", || loose(&store) <= 1);
    let graphs = store.join("objects/info/commit-graphs/commit-graph-chain");
    wait_for("indexed", || graphs.exists());
    machine.check();
}

#[test]
fn kills_while_packing_lose_nothing_of_checkpoints_made_meanwhile() {
    let world = World::new();
    let machine = world.machine("a");
    machine.write("f", "0");
    machine.run(["init"]);
    let store = machine.store();
    let mut made = Vec::new();
    let until = Instant::now() + Duration::from_secs(6);
    let mut round = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut delay = 1;
            while Instant::now() < until {
                let mut packing = machine.command(["maintain".as_ref(), store.as_os_str()]);
                packing.stderr(Stdio::null());
                // SAFETY: only a system call between fork and exec.
                unsafe {
                    packing.pre_exec(|| {
                        libc::setsid();
                        Ok(())
                    });
                }
                let mut packing = packing.spawn().unwrap();
                std::thread::sleep(Duration::from_millis(delay));
                delay = delay * 7 % 97 + 1;
                // SAFETY: takes plain numbers; the group is the child's own.
                unsafe { libc::kill(-(packing.id() as libc::pid_t), libc::SIGKILL) };
                packing.wait().unwrap();
            }
        });
        while Instant::now() < until {
            round += 1;
            // Contents that come back are found again, loose or packed.
            let content = format!("{}", round % 13 + 1);
            made.push((machine.checkpoint("f", &content), content));
        }
    });
    machine.run(["maintain".as_ref(), store.as_os_str()]);
    machine.check();
    for (id, content) in &made {
        assert_eq!(machine.run(["show", &format!("f@{id}")]), *content);
    }
    assert_eq!(ids(&store, "main").len(), made.len() + 1);
    assert!(made.len() > 20);
}

#[test]
fn leftovers_of_kills_go_when_nobody_can_be_writing_them() {
    let world = World::new();
    let machine = world.machine("a");
    machine.run(["init"]);
    let store = machine.store();
    let pack = store.join("objects/pack");
    let graphs = store.join("objects/info/commit-graphs");
    wait_for("indexed", || graphs.join("commit-graph-chain").exists());
    let leftovers = [
        pack.join("tmp_pack_abcdef"),
        pack.join("tmp_idx_abcdef"),
        pack.join(".tmp-123-pack-0123.pack"),
        store.join("objects/tmp_obj_1_1"),
        graphs.join("commit-graph-chain.lock"),
        store.join("refs/heads/main.lock"),
        store.join("packed-refs.lock"),
    ];
    let maintain = || machine.run(["maintain".as_ref(), store.as_os_str()]);
    for path in &leftovers[..4] {
        fs::write(path, "x").unwrap();
    }
    wait_for("alone", || {
        maintain();
        loose(&store) <= 1
    });
    assert!(leftovers[..4].iter().all(|path| path.exists()));
    for path in &leftovers {
        fs::write(path, "x").unwrap();
        let old = SystemTime::now() - Duration::from_secs(7_200);
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(old).unwrap();
    }
    maintain();
    let left: Vec<_> = leftovers.iter().filter(|path| path.exists()).collect();
    assert!(left.is_empty(), "{left:?}");
}
