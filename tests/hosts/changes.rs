//! What one host changes, the other sees: names and attributes within a second, contents when it next
//! opens the file. Nothing that either remembers of a file outlives the other's change.

use super::{APPEND, Hosts, append};
use crate::common::{Mount, assert_same, corpus, entries, leftovers, line, rng::Rng, sys};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SESSION: &str = "p/s.jsonl";

fn names(host: &Mount, directory: &str) -> Vec<String> {
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_string();
    entries(&host.path(directory))
        .iter()
        .map(|path| name(path))
        .collect()
}

pub fn each_host_sees_the_others_changes_within_the_attribute_timeout(hosts: &mut Hosts) {
    for (here, there) in [(&hosts.a, &hosts.b), (&hosts.b, &hosts.a)] {
        let read = |name: &str| fs::read(there.path(name)).unwrap();
        let is_there = |name: &str| there.path(name).symlink_metadata().is_ok();
        let size = |name: &str| there.path(name).metadata().unwrap().len();

        for name in ["p/s.jsonl", "p/moved.jsonl", "p/t.txt", "p/gone.jsonl"] {
            fs::write(here.path(name), "first\n").unwrap();
            assert!(!is_there("p/none.jsonl"));
        }
        fs::create_dir(here.path("p/d")).unwrap();
        symlink("s.jsonl", here.path("p/link")).unwrap();
        hosts.wait_until_seen();
        let all = ["d", "gone.jsonl", "link", "moved.jsonl", "s.jsonl", "t.txt"];
        assert_eq!(names(there, "p"), all, "new names");
        for name in ["p/s.jsonl", "p/t.txt", "p/link", "p/moved.jsonl"] {
            assert_eq!(read(name), b"first\n", "{name}");
        }

        // Readers that were there before hold the old content and attributes in the kernel.
        let held = sys::open(&there.path(SESSION), libc::O_RDONLY, 0).unwrap();
        assert_eq!(sys::read(&held, 100).unwrap(), b"first\n");
        append(&here.path(SESSION), b"second\n").unwrap();
        append(&here.path("p/t.txt"), b"second\n").unwrap();
        fs::rename(here.path("p/moved.jsonl"), here.path("p/name.txt")).unwrap();
        fs::remove_file(here.path("p/gone.jsonl")).unwrap();
        fs::remove_dir(here.path("p/d")).unwrap();
        let mode = fs::Permissions::from_mode(0o640);
        fs::set_permissions(here.path(SESSION), mode).unwrap();
        sys::set_mtime(&here.path("p/t.txt"), 1_700_000_000, 0).unwrap();
        hosts.wait_until_seen();
        assert_eq!((size(SESSION), size("p/t.txt")), (13, 13), "sizes");
        assert_eq!(
            read(SESSION),
            b"first\nsecond\n",
            "an append, at the next open"
        );
        assert_eq!(
            sys::read(&held, 100).unwrap(),
            b"second\n",
            "an append, by a held reader"
        );
        assert_eq!(names(there, "p"), ["link", "name.txt", "s.jsonl", "t.txt"]);
        assert!(!is_there("p/moved.jsonl") && !is_there("p/gone.jsonl") && !is_there("p/d"));
        assert_eq!(read("p/name.txt"), b"first\n", "under its new name");
        let meta = |name: &str| there.path(name).metadata().unwrap();
        assert_eq!(meta(SESSION).mode() & 0o777, 0o640);
        assert_eq!(meta("p/t.txt").mtime(), 1_700_000_000);

        // Changes that leave the size as it is; the session becomes raw, and packed again.
        let fd = sys::open(&here.path(SESSION), libc::O_WRONLY, 0).unwrap();
        sys::pwrite(&fd, b"FIRST", 0).unwrap();
        let other = sys::open(&here.path("p/t.txt"), libc::O_WRONLY, 0).unwrap();
        sys::pwrite(&other, b"FIRST", 0).unwrap();
        assert_eq!(
            read(SESSION),
            b"FIRST\nsecond\n",
            "an overwrite, at the next open"
        );
        assert_eq!(
            read("p/t.txt"),
            b"FIRST\nsecond\n",
            "an overwrite, at the next open"
        );
        drop((fd, other));
        here.seal_and_wait();
        assert_eq!(
            read(SESSION),
            b"FIRST\nsecond\n",
            "sealed by the other host"
        );
        sys::truncate(&here.path(SESSION), 6).unwrap();
        append(&here.path(SESSION), b"SECOND\n").unwrap();
        assert_eq!(read(SESSION), b"FIRST\nSECOND\n", "cut and appended");
        fs::write(here.path("p/tmp"), "a new file\n").unwrap();
        fs::rename(here.path("p/tmp"), here.path(SESSION)).unwrap();
        hosts.wait_until_seen();
        assert_eq!(read(SESSION), b"a new file\n", "replaced by a rename");
        for name in ["s.jsonl", "t.txt", "link", "name.txt"] {
            fs::remove_file(there.path(format!("p/{name}"))).unwrap();
        }
        hosts.wait_until_seen();
        assert_eq!(names(here, "p"), [""; 0], "removed by the other host");
    }
}

pub fn frames_cached_by_one_host_are_not_shown_for_the_others(hosts: &mut Hosts) {
    let mut rng = Rng::new(3);
    let head = b"head\n".repeat(10);
    let files = [900_000, 300_000, 600_000].map(|length| {
        let name = format!("p/{length}.jsonl");
        let (old, new) = (rng.bytes(600_000), rng.bytes(length));
        append(&hosts.a.path(&name), &head).unwrap();
        append(&hosts.a.path(&name), &old).unwrap();
        let held = sys::open(&hosts.a.path(&name), libc::O_RDONLY, 0).unwrap();
        let before = fs::read(hosts.a.path(&name)).unwrap();
        assert_same(&before, &[head.as_slice(), &old].concat(), "before");
        (name, held, new)
    });
    hosts.wait_until_seen();
    for (name, _, new) in &files {
        // Cut on a frame's boundary, then another frame at the same place in the store file.
        sys::truncate(&hosts.b.path(name), head.len() as i64).unwrap();
        append(&hosts.b.path(name), new).unwrap();
    }
    hosts.wait_until_seen();
    for (name, _, new) in &files {
        let want = [head.as_slice(), new].concat();
        assert_same(
            &fs::read(hosts.a.path(name)).unwrap(),
            &want,
            "at the next open",
        );
        // A cut inside that frame encodes it again, from what it holds now.
        sys::truncate(&hosts.a.path(name), 1_050).unwrap();
    }
    hosts.wait_until_seen();
    for (name, _, new) in &files {
        let want = [head.as_slice(), new].concat();
        assert_same(&hosts.seen(name), &want[..1_050], "after the cut");
    }
}

pub fn a_session_truncated_to_nothing_is_what_is_written_after(hosts: &mut Hosts) {
    // Equal compressed sizes of different lengths: nothing remembered of the file may match both.
    let lengths = [999, 1_000, 1_001];
    let name = |length: usize| format!("p/{length}.jsonl");
    for length in lengths {
        fs::write(hosts.a.path(name(length)), "x".repeat(1_000)).unwrap();
    }
    hosts.seal_and_wait();
    hosts.wait_until_seen();
    for length in lengths {
        let seen = hosts.b.path(name(length)).metadata().unwrap();
        assert_eq!(seen.len(), 1_000);
        fs::write(hosts.a.path(name(length)), "y".repeat(length)).unwrap();
    }
    hosts.wait_until_seen();
    for length in lengths {
        let seen = fs::read(hosts.b.path(name(length))).unwrap();
        assert_same(&seen, "y".repeat(length).as_bytes(), "written again");
        append(&hosts.b.path(name(length)), b"end\n").unwrap();
    }
    hosts.wait_until_seen();
    for length in lengths {
        let want = "y".repeat(length) + "end\n";
        assert_same(&hosts.seen(&name(length)), want.as_bytes(), "appended to");
    }
}

pub fn an_older_form_beside_a_raw_session_is_kept_aside(hosts: &mut Hosts) {
    if !hosts.a.has_store() {
        return;
    }
    fs::write(hosts.a.path(SESSION), "older\n").unwrap();
    fs::write(hosts.b.store(SESSION), "newer\n").unwrap(); // put there by hand
    hosts.wait_until_seen();
    append(&hosts.b.path(SESSION), b"end\n").unwrap();
    hosts.seal_and_wait();
    assert_same(
        &hosts.content(SESSION),
        b"newer\nend\n",
        "the raw one counts",
    );
    assert_eq!(
        leftovers(&hosts.a, "recovered").len(),
        1,
        "the other is kept"
    );
}

pub fn a_raw_session_overwritten_during_the_other_hosts_seal_keeps_the_new_bytes(
    hosts: &mut Hosts,
) {
    let mut rng = Rng::new(12);
    let mut files: Vec<_> = (0..6)
        .map(|number| {
            let name = format!("p/raw{number}.jsonl");
            let mut data = corpus::session(&mut rng, 700_000);
            fs::write(hosts.b.path(&name), &data).unwrap();
            // Overwriting makes it raw.
            let fd = sys::open(&hosts.b.path(&name), libc::O_WRONLY, 0).unwrap();
            sys::pwrite(&fd, b"first", 200).unwrap();
            data[200..205].copy_from_slice(b"first");
            (name, data, fd)
        })
        .collect();
    hosts.wait_until_seen();
    hosts.a.seal();
    for (name, data, fd) in &mut files {
        std::thread::sleep(Duration::from_millis(rng.below(300)));
        // Neither size nor mtime tells of the change.
        let path = hosts.b.path(name);
        let before = path.metadata().unwrap();
        sys::pwrite(fd, b"changed!", 100).unwrap();
        data[100..108].copy_from_slice(b"changed!");
        sys::set_mtime(&path, before.mtime(), before.mtime_nsec()).unwrap();
    }
    hosts.seal_and_wait();
    hosts.wait_until_seen();
    for (name, data, _) in &files {
        assert_same(&hosts.seen(name), data, name);
    }
}

pub fn an_atomic_save_keeps_its_bytes_and_the_other_hosts_later_lines(hosts: &mut Hosts) {
    let (a, b) = (hosts.a.path(SESSION), hosts.b.path(SESSION));
    let mut number = 0;
    append(&b, &line("b", 0, super::length(0))).unwrap();
    hosts.wait_until_seen();
    for round in 0..4 {
        let stop = AtomicBool::new(false);
        let (saved, next) = std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                let mut next = number;
                while !stop.load(Ordering::SeqCst) {
                    append(&a, &line("a", next, super::length(next))).unwrap();
                    next += 1;
                }
                next
            });
            if round % 3 == 2 {
                hosts.a.seal();
            }
            std::thread::sleep(Duration::from_millis(20));
            // An editor: read all, write all to another file, rename that over the first.
            let saved = [fs::read(&b).unwrap(), line("saved", round, 500)].concat();
            fs::write(hosts.b.path("p/s.tmp"), &saved).unwrap();
            fs::rename(hosts.b.path("p/s.tmp"), &b).unwrap();
            stop.store(true, Ordering::SeqCst);
            (saved, other.join().unwrap())
        });
        number = next;
        append(&a, &line("after", round, 500)).unwrap();
        hosts.wait_until_seen();
        for path in [&a, &b] {
            let data = fs::read(path).unwrap();
            assert!(
                data.starts_with(&saved),
                "what was saved is there, in round {round}"
            );
            let rest = &data[saved.len()..];
            assert!(
                rest.ends_with(&line("after", round, 500)),
                "a line after the save"
            );
            // In a plain directory too, lines may go to the file that was replaced; none is torn.
            let mut at = 0;
            for text in rest.split_inclusive(|byte| *byte == b'\n') {
                let whole = (0..next)
                    .skip(at)
                    .find(|n| text == line("a", *n, super::length(*n)));
                at = whole.map_or(at, |n| n + 1);
                assert!(
                    whole.is_some() || text == line("after", round, 500),
                    "a torn line"
                );
            }
        }
    }
    let data = hosts.content(SESSION);
    hosts.seal_and_wait();
    assert_same(&hosts.content(SESSION), &data, "sealed");
    assert_eq!(names(&hosts.b, "p"), ["s.jsonl"]);
}

/// What a host may do to a small set of names, and what must be there then.
#[derive(Default)]
struct Model {
    files: BTreeMap<String, Vec<u8>>,
}

impl Model {
    fn change(&mut self, host: &Mount, rng: &mut Rng, step: usize) {
        const NAMES: [&str; 5] = ["p/1.jsonl", "p/2.jsonl", "p/3.jsonl", "p/4.txt", "p/5.bak"];
        let name = *rng.pick(&NAMES);
        let path = host.path(name);
        let size = self.files.get(name).map_or(0, Vec::len);
        match (self.files.contains_key(name), rng.below(12)) {
            (false, 0..=8) | (true, 0) => {
                let length = rng.below(40_000) as usize;
                let data = corpus::session(rng, length);
                fs::write(&path, &data).unwrap();
                self.files.insert(name.into(), data);
            }
            (true, 1..=4) => {
                let data = line("r", step, rng.below(5_000) as usize);
                append(&path, &data).unwrap();
                self.files.get_mut(name).unwrap().extend_from_slice(&data);
            }
            (true, 5) => {
                let at = rng.below(size as u64 + 1) as usize;
                let fd = sys::open(&path, libc::O_WRONLY, 0).unwrap();
                sys::pwrite(&fd, b"overwritten", at as i64).unwrap();
                let file = self.files.get_mut(name).unwrap();
                file.resize(size.max(at + 11), 0);
                file[at..at + 11].copy_from_slice(b"overwritten");
            }
            (true, 6) => {
                let to = rng.below(size as u64 + 200) as usize;
                sys::truncate(&path, to as i64).unwrap();
                self.files.get_mut(name).unwrap().resize(to, 0);
            }
            (true, 7) => {
                fs::remove_file(&path).unwrap();
                self.files.remove(name);
            }
            (true, 8..=9) => {
                let to = *rng.pick(&NAMES);
                fs::rename(&path, host.path(to)).unwrap();
                let file = self.files.remove(name).unwrap();
                self.files.insert(to.into(), file);
            }
            (true, 10) => host.seal(),
            _ => host.seal_and_wait(),
        }
    }

    #[track_caller]
    fn check(&self, host: &Mount, what: &str) {
        let want: Vec<&str> = self.files.keys().map(|name| &name[2..]).collect();
        assert_eq!(names(host, "p"), want, "{what}");
        for (name, want) in &self.files {
            let found = host.path(name).metadata().unwrap().len();
            assert_same(
                &fs::read(host.path(name)).unwrap(),
                want,
                &format!("{name}, {what}"),
            );
            assert_eq!(found, want.len() as u64, "size of {name}, {what}");
        }
    }
}

pub fn a_random_mixture_of_changes_by_turns_matches_a_model(hosts: &mut Hosts) {
    let mut rng = Rng::new(2026);
    let mut model = Model::default();
    // Held open all along on one host, as readers do.
    let mut held = Vec::new();
    for turn in 0..5 {
        let (host, other) = if turn % 2 == 0 {
            (&hosts.a, &hosts.b)
        } else {
            (&hosts.b, &hosts.a)
        };
        for step in 0..60 {
            if step % 15 == 0 {
                other.seal();
            }
            model.change(host, &mut rng, step);
        }
        model.check(host, &format!("on the host that changed it, turn {turn}"));
        hosts.wait_until_seen();
        model.check(other, &format!("on the other host, turn {turn}"));
        held.extend(model.files.keys().filter_map(|name| {
            let flags = if turn % 3 == 0 {
                APPEND
            } else {
                libc::O_RDONLY
            };
            sys::open(&other.path(name), flags, 0).ok()
        }));
    }
    drop(held);
    hosts.seal_and_wait();
    hosts.wait_until_seen();
    model.check(&hosts.a, "sealed");
    model.check(&hosts.b, "sealed");
}
