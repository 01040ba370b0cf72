//! Checkpoints that are made while a directory is watched.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::{Machine, World, wait_for};

struct Watch {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Watch {
    /// Watches, and waits until it does.
    fn start(machine: &Machine, quiet: &str) -> Watch {
        let mut command = machine.command(["watch", "--quiet", quiet]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            out.lines()
                .map_while(Result::ok)
                .for_each(|line| send.send(line).unwrap_or(()))
        });
        let watch = Watch { child, lines };
        assert!(watch.line().starts_with("watching "));
        watch
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    fn silent_for(&self, time: Duration) {
        assert_eq!(self.lines.recv_timeout(time).ok(), None);
    }

    fn end(mut self, signal: i32) {
        // SAFETY: takes plain numbers.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
        assert!(self.child.wait().unwrap().success());
    }
}

#[test]
fn every_quiet_moment_after_a_change_makes_one_checkpoint() {
    let world = World::new();
    let machine = world.machine("a");
    machine.write("f", "0");
    machine.run(["init"]);
    machine.write("before", "it began");
    let watch = Watch::start(&machine, "0.3");
    assert!(watch.line().contains("v2 cp_"));
    for number in 0..10 {
        machine.write("f", &number.to_string());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(watch.line().contains("v3 cp_"));
    // Directories that are made, moved and filled while nobody looks.
    machine.write("a/b/c/new", "1");
    assert!(watch.line().contains("1 file"));
    machine.write("a/b/c/new", "2");
    assert!(watch.line().contains("1 file"));
    fs::rename(machine.project.join("a/b"), machine.project.join("moved")).unwrap();
    assert!(watch.line().contains("2 files"));
    machine.write("moved/c/new", "3");
    assert!(watch.line().contains("1 file"));
    // What is left out wakes nobody.
    machine.write("node_modules/x/y", "1");
    machine.write(".git/index", "1");
    machine.write(".agentfsignore", "private/\n");
    assert!(watch.line().contains("1 file"));
    machine.write("private/key", "1");
    watch.silent_for(Duration::from_millis(900));
    machine.write("f", "the last");
    watch.end(libc::SIGTERM);
    assert_eq!(machine.run(["show", "f@"]), "the last");
    let newest = &machine.json(["log", "-n", "1", "--json"])[0];
    assert_eq!(
        (&newest["trigger"], &newest["tool"]),
        (&"auto".into(), &serde_json::Value::Null)
    );
    machine.check();
}

#[test]
fn watching_costs_nothing_while_nothing_happens() {
    let world = World::new();
    let machine = world.machine("a");
    machine.write("f", "0");
    machine.run(["init"]);
    let watch = Watch::start(&machine, "0.1");
    std::thread::sleep(Duration::from_millis(500));
    let spent = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", watch.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let (before, start) = (spent(), Instant::now());
    watch.silent_for(Duration::from_secs(2));
    assert!(spent() - before <= 1, "in {:?}", start.elapsed());
    watch.end(libc::SIGINT);
}

#[test]
fn watching_ends_when_the_project_is_forgotten() {
    let world = World::new();
    let machine = world.machine("a");
    machine.run(["init"]);
    let mut watch = Watch::start(&machine, "0.1");
    machine.run(["forget"]);
    machine.write("f", "1");
    wait_for("ended", || watch.child.try_wait().unwrap().is_some());
    assert!(!watch.child.wait().unwrap().success());
}
