//! Appending from both hosts: no acknowledged line is lost or torn, and each writer's order is kept.

use super::{Hosts, Way, append, append_from_both, append_until, check_written, lines_of};
use crate::common::{Mount, assert_same, corpus, leftovers, line, rng::Rng};
use std::fs;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const TIME: Duration = Duration::from_millis(1_500);
const ONE: &str = "p/one.jsonl";

pub fn appends_from_both_hosts_to_different_sessions_lose_nothing(hosts: &mut Hosts) {
    let names = ["p/a1.jsonl", "p/a2.jsonl", "p/b1.jsonl", "p/b2.jsonl"];
    let written = append_from_both(hosts, names, TIME, || ());
    check_written(hosts, &written);
    hosts.seal_and_wait();
    check_written(hosts, &written);
}

pub fn appends_from_both_hosts_to_one_session_lose_nothing(hosts: &mut Hosts) {
    let written = append_from_both(hosts, [ONE; 4], TIME, || ());
    check_written(hosts, &written);
    hosts.seal_and_wait();
    check_written(hosts, &written);
}

pub fn sealing_on_one_host_while_the_other_appends_loses_nothing(hosts: &mut Hosts) {
    let base = corpus::session(&mut Rng::new(5), 400_000);
    fs::write(hosts.a.path(ONE), &base).unwrap();
    hosts.wait_until_seen();
    let (path, stop) = (hosts.b.path(ONE), AtomicBool::new(false));
    let writers: Vec<_> = std::thread::scope(|scope| {
        let (path, stop) = (&path, &stop);
        let start = |tag, way| scope.spawn(move || append_until(path, tag, way, stop));
        let writers = [start("held", Way::Held), start("reopened", Way::Reopened)];
        for _ in 0..20 {
            hosts.a.seal();
            std::thread::sleep(Duration::from_millis(100));
        }
        stop.store(true, Ordering::SeqCst);
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .collect()
    });
    for sealed in [false, true] {
        if sealed {
            hosts.seal_and_wait();
        }
        let data = hosts.content(ONE);
        assert!(data.starts_with(&base), "what was there before the appends");
        let found = lines_of(&data[base.len()..]);
        for writer in &writers {
            assert!(
                writer.error.is_none(),
                "{} got {:?}",
                writer.tag,
                writer.error
            );
            assert_eq!(
                found.get(&writer.tag),
                Some(&writer.count),
                "lines of {}",
                writer.tag
            );
        }
    }
}

pub fn sealing_on_both_hosts_while_both_append_loses_nothing(hosts: &mut Hosts) {
    let names = [ONE, "p/two.jsonl", "p/two.jsonl", ONE];
    let mut turn = 0;
    let written = append_from_both(hosts, names, Duration::from_secs(2), || {
        turn += 1;
        if turn % 3 != 0 { &hosts.a } else { &hosts.b }.seal();
    });
    check_written(hosts, &written);
    hosts.seal_and_wait();
    check_written(hosts, &written);
}

pub fn both_hosts_creating_one_session_at_once_lose_no_line(hosts: &mut Hosts) {
    let (barrier, stop) = (Barrier::new(2), AtomicBool::new(false));
    let started = Instant::now();
    let create = |host: &Mount, tag: &str| {
        for number in 0.. {
            // One of them decides, before both go on.
            if tag == "a" && started.elapsed() > Duration::from_secs(2) {
                stop.store(true, Ordering::SeqCst);
            }
            barrier.wait();
            if stop.load(Ordering::SeqCst) {
                return number;
            }
            let done = append(
                &host.path(format!("p/new{number}.jsonl")),
                &line(tag, 0, super::length(0)),
            );
            done.unwrap_or_else(|e| panic!("{tag} creating new{number}: {e}"));
            barrier.wait();
        }
        0
    };
    let count = std::thread::scope(|scope| {
        let hosts = &*hosts;
        scope.spawn(|| create(&hosts.b, "b"));
        create(&hosts.a, "a")
    });
    assert!(count > 10, "enough was created: {count}");
    let names = (0..count).map(|number| format!("p/new{number}.jsonl"));
    let names: Vec<String> = names.collect();
    hosts.wait_until_seen();
    for name in &names {
        let data = fs::read(hosts.a.path(name)).unwrap();
        let found = lines_of(&data);
        assert_eq!(
            (found.get("a"), found.get("b")),
            (Some(&1), Some(&1)),
            "{name}"
        );
        assert_eq!(
            fs::read(hosts.b.path(name)).unwrap(),
            data,
            "{name} on the other host"
        );
    }
}

pub fn a_look_at_a_session_while_it_is_written_takes_nothing_from_it(hosts: &mut Hosts) {
    // Large lines that do not compress take a while to reach the store.
    let mut rng = Rng::new(14);
    let lines: Vec<Vec<u8>> = (0..24).map(|_| rng.bytes(900_000)).collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for host in [&hosts.a, &hosts.b] {
            let stop = &stop;
            // `ls -l` asks for attributes anew, and so does the background pass.
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    host.seal();
                    let list = fs::read_dir(host.path("p")).unwrap();
                    list.for_each(|entry| drop(entry.unwrap().metadata()));
                }
            });
        }
        for (number, line) in lines.iter().enumerate() {
            let host = [&hosts.a, &hosts.b][number / 4 % 2];
            append(&host.path(ONE), line).unwrap();
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert_same(&hosts.content(ONE), &lines.concat(), "every line");
    if hosts.a.has_store() {
        assert!(
            leftovers(&hosts.a, "recovered").is_empty(),
            "nothing was torn"
        );
    }
}

pub fn kill_9_of_one_host_holds_up_the_other_for_no_time_and_loses_nothing(hosts: &mut Hosts) {
    let mut rng = Rng::new(9);
    let mut sure = [("a".to_string(), 0), ("b".to_string(), 0)];
    let mut longest = Duration::ZERO;
    for round in 0..4 {
        // A new name in each round: the killed one may or may not have written its last line.
        let name = format!("p/round{round}.jsonl");
        let (stop, delay) = (
            AtomicBool::new(false),
            Duration::from_millis(50 + rng.below(150)),
        );
        let (killed, lived) = std::thread::scope(|scope| {
            let (here, there) = (hosts.a.path(&name), hosts.b.path(&name));
            let stop = &stop;
            let dying = scope.spawn(move || append_until(&here, "a", Way::Reopened, stop));
            let living = scope.spawn(move || append_until(&there, "b", Way::Held, stop));
            hosts.a.seal();
            std::thread::sleep(delay);
            hosts.a.signal(libc::SIGKILL);
            let killed = Instant::now();
            append(&hosts.b.path(format!("p/other{round}.jsonl")), b"goes on\n").unwrap();
            append(&hosts.b.path(&name), &line("main", 0, super::length(0))).unwrap();
            longest = longest.max(killed.elapsed());
            std::thread::sleep(Duration::from_millis(100));
            stop.store(true, Ordering::SeqCst);
            (dying.join().unwrap(), living.join().unwrap())
        });
        assert!(
            lived.error.is_none(),
            "the other host got {:?}",
            lived.error
        );
        hosts.a.kill9();
        let found = lines_of(&fs::read(hosts.b.path(&name)).unwrap());
        hosts.a.mount();
        assert_eq!(
            lines_of(&hosts.content(&name)),
            found,
            "the same after the next mount"
        );
        let of = |tag: &str| found.get(tag).copied().unwrap_or(0);
        assert_eq!((of("b"), of("main")), (lived.count, 1), "round {round}");
        let alive = killed.error.is_none();
        assert!(
            of("a") == killed.count || (!alive && of("a") == killed.count + 1),
            "round {round}: {} lines of the killed host, acknowledged {}",
            of("a"),
            killed.count
        );
        sure[0].1 += killed.count;
        sure[1].1 += lived.count;
    }
    assert!(
        sure.iter().all(|(_, count)| *count > 0),
        "enough was written: {sure:?}"
    );
    assert!(
        longest < Duration::from_secs(5),
        "the other host stood still for {longest:?}"
    );
}
