//! The store on a real distributed file system, GlusterFS with three replicas: what holds for two hosts
//! holds there too, and servers that are lost and come back cost nothing that was acknowledged.

mod common;
mod hosts;

use common::{Mount, assert_same, entries, sys, zstd_dc};
use hosts::cluster::Cluster;
use hosts::{Hosts, Way, append, append_from_both, append_until, check_written, lines_of};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Every session in the store is one that `zstd` reads.
fn check_store(hosts: &Hosts) {
    if !hosts.a.has_store() {
        return;
    }
    let packed: Vec<_> = entries(&hosts.a.store("p"))
        .into_iter()
        .filter(|file| file.extension().is_some_and(|e| e == "zst"))
        .collect();
    assert!(!packed.is_empty(), "sessions in the store");
    for file in packed {
        zstd_dc(&file);
    }
}

macro_rules! promises {
    ($cluster:expr, $($part:ident: $($promise:ident)*;)*) => {
        $($(
            let started = Instant::now();
            let mut hosts = Hosts::on(stringify!($promise), &$cluster.path("a"), &$cluster.path("b"));
            hosts::$part::$promise(&mut hosts);
            drop(hosts);
            eprintln!("{}: {:.1?}", stringify!($promise), started.elapsed());
        )*)*
    };
}

#[test]
fn appends_from_two_hosts_hold_on_a_distributed_file_system() {
    let cluster = Cluster::start("appends");
    promises! {
        cluster,
        appends:
            a_look_at_a_session_while_it_is_written_takes_nothing_from_it
            appends_from_both_hosts_to_different_sessions_lose_nothing
            appends_from_both_hosts_to_one_session_lose_nothing
            both_hosts_creating_one_session_at_once_lose_no_line
            kill_9_of_one_host_holds_up_the_other_for_no_time_and_loses_nothing
            sealing_on_both_hosts_while_both_append_loses_nothing
            sealing_on_one_host_while_the_other_appends_loses_nothing;
    }
}

#[test]
fn changes_by_two_hosts_hold_on_a_distributed_file_system() {
    let cluster = Cluster::start("changes");
    promises! {
        cluster,
        changes:
            an_atomic_save_keeps_its_bytes_and_the_other_hosts_later_lines
            an_older_form_beside_a_raw_session_is_kept_aside
            each_host_sees_the_others_changes_within_the_attribute_timeout
            frames_cached_by_one_host_are_not_shown_for_the_others;
        races:
            a_new_session_is_not_touched_by_who_holds_the_one_that_was_moved_away
            a_rename_or_unlink_holds_against_the_other_hosts_seal;
    }
}

#[test]
fn a_server_lost_and_back_while_both_hosts_append_costs_nothing() {
    let mut cluster = Cluster::start("one-lost");
    let hosts = Hosts::on("one-lost", &cluster.path("a"), &cluster.path("b"));
    let names = ["p/one.jsonl", "p/one.jsonl", "p/two.jsonl", "p/one.jsonl"];
    let started = Instant::now();
    let (mut killed, mut back) = (false, false);
    let written = append_from_both(&hosts, names, Duration::from_secs(6), || {
        if !killed && started.elapsed() > Duration::from_secs(1) {
            cluster.kill_server(0);
            killed = true;
            hosts.a.seal();
        }
        if !back && started.elapsed() > Duration::from_secs(3) {
            cluster.start_server(0);
            back = true;
            hosts.b.seal();
        }
    });
    assert!(killed && back);
    check_written(&hosts, &written);
    // The other two are enough to have all of it, and then any two.
    cluster.kill_server(1);
    writable_again(&hosts);
    hosts.seal_and_wait();
    check_written(&hosts, &written);
    check_store(&hosts);
}

/// Waits until both clients have found enough servers: to one that is back they connect in their own
/// time.
fn writable_again(hosts: &Hosts) {
    let deadline = Instant::now() + Duration::from_secs(60);
    for host in [&hosts.a, &hosts.b] {
        while let Err(error) = append(&host.path("p/probe.txt"), b"?") {
            assert!(Instant::now() < deadline, "{error}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn the_loss_of_most_servers_is_an_error_and_costs_nothing_acknowledged() {
    let mut cluster = Cluster::start("most-lost");
    let hosts = Hosts::on("most-lost", &cluster.path("a"), &cluster.path("b"));
    let stop = AtomicBool::new(false);
    let held = "p/held.jsonl";
    let reopened = "p/reopened.jsonl";
    let sealed = common::corpus::session(&mut common::rng::Rng::new(6), 300_000);
    fs::write(hosts.a.path("p/sealed.jsonl"), &sealed).unwrap();
    // Programs that have a session open before, during and after.
    let idle = "p/idle.jsonl";
    append(&hosts.a.path(idle), b"before\n").unwrap();
    let writer = sys::open(&hosts.a.path(idle), hosts::APPEND, 0).unwrap();
    let reader = sys::open(&hosts.a.path(idle), libc::O_RDONLY, 0).unwrap();
    let written: Vec<_> = std::thread::scope(|scope| {
        let start = |host: &common::Mount, name: &str, tag, way| {
            let (path, stop) = (host.path(name), &stop);
            scope.spawn(move || append_until(&path, tag, way, stop))
        };
        let writers = [
            start(&hosts.a, held, "a", Way::Held),
            start(&hosts.b, held, "b", Way::Held),
            start(&hosts.a, reopened, "a", Way::Reopened),
            start(&hosts.b, reopened, "b", Way::Reopened),
        ];
        std::thread::sleep(Duration::from_secs(1));
        hosts.a.seal();
        cluster.kill_server(1);
        cluster.kill_server(2);
        std::thread::sleep(Duration::from_secs(3));
        stop.store(true, Ordering::SeqCst);
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .collect()
    });
    for writer in &written {
        let error = writer.error.as_ref().map(|e| e.raw_os_error());
        assert!(
            error.is_some(),
            "{}: a write that most servers miss is an error",
            writer.tag
        );
        eprintln!(
            "{}: {:?} after {} lines",
            writer.tag, writer.error, writer.count
        );
    }
    assert!(
        append(&hosts.a.path("p/new.jsonl"), b"x\n").is_err(),
        "nor a new file"
    );
    cluster.start_server(1);
    cluster.start_server(2);
    // The mounts come back by themselves.
    let again = hosts.a.path(reopened);
    let started = Instant::now();
    while let Err(e) = fs::read(&again).and_then(|_| fs::read(hosts.b.path(held))) {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "still not back: {e}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    hosts::write(&writer, b"held\n").unwrap();
    append(&hosts.a.path(idle), b"by name\n").unwrap();
    let want = b"before\nheld\nby name\n";
    assert_same(&sys::pread(&reader, 100, 0).unwrap(), want, "a held reader");
    assert_same(
        &hosts.content(idle),
        want,
        "the session that was open all the time",
    );
    for (name, writers) in [(held, &written[..2]), (reopened, &written[2..])] {
        let found = lines_of(&hosts.content(name));
        for writer in writers {
            // The line in flight may be there: it was neither acknowledged nor refused for good.
            let lines = found.get(&writer.tag).copied().unwrap_or(0);
            let sure = writer.count;
            assert!(
                lines == sure || lines == sure + 1,
                "{name}: {lines} lines of {sure} acknowledged"
            );
        }
        for host in [&hosts.a, &hosts.b] {
            let before = fs::read(host.path(name)).unwrap();
            append(&host.path(name), b"goes on\n").unwrap();
            let want = [before.as_slice(), b"goes on\n"].concat();
            assert_same(&hosts.content(name), &want, "writing goes on");
        }
    }
    assert_same(
        &hosts.content("p/sealed.jsonl"),
        &sealed,
        "the session that was being sealed",
    );
    hosts.seal_and_wait();
    assert_same(&hosts.content("p/sealed.jsonl"), &sealed, "sealed");
    check_store(&hosts);
    assert!(sys::is_fuse(&hosts.a.path("")));
}

#[test]
fn a_store_whose_reads_are_stale_is_for_one_host_at_a_time() {
    let caches = ["write-behind", "quick-read", "open-behind", "md-cache"];
    let cluster = Cluster::with_caches("stale", &caches);
    let (at_a, at_b) = (
        cluster.path("a").join("store"),
        cluster.path("b").join("store"),
    );
    let mut a = Mount::prepare("stale").over_store(&at_a);
    let mut b = Mount::prepare("stale").over_store(&at_b).beside(&a);
    if !a.has_store() {
        return;
    }
    a.mount();
    fs::create_dir(a.path("p")).unwrap();
    append(&a.path("p/s.jsonl"), b"from a\n").unwrap();
    let refused = b.run(&["mount"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && !b.mounted());
    assert!(said.contains("client caches of GlusterFS"), "{said}");
    assert!(said.contains("performance.*"), "{said}");
    assert!(a.run(&["umount"]).status.success());
    // What the other host's cache still shows of before is old in a second.
    std::thread::sleep(hosts::SEEN);
    b.mount();
    append(&b.path("p/s.jsonl"), b"from b\n").unwrap();
    assert_eq!(fs::read(b.path("p/s.jsonl")).unwrap(), b"from a\nfrom b\n");
}
