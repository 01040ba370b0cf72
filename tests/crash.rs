//! Promise 3, durable as a plain file: whatever instant the daemon is killed at, every byte a `write` had returned
//! for is there after the next mount, in order, without any manual step; and stopping in order is quick.

mod common;

use common::{Mount, assert_same, corpus, leftovers, line, rng::Rng, stored, sys};
use std::collections::BTreeMap;
use std::fs;
use std::io::Result;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const APPEND: i32 = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND;

/// What a killed daemon left half done is gone soon after the next start.
fn check_no_leftovers(mount: &Mount) {
    let started = Instant::now();
    while mount.has_store() && !leftovers(mount, "tmp").is_empty() {
        let left = leftovers(mount, "tmp");
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "left in .cellar/tmp: {left:?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Append lines until told to stop or refused: the contents acknowledged, and the line in flight at the end.
fn append_until(
    mount: &Mount,
    name: &str,
    kind: usize,
    mut acknowledged: Vec<u8>,
    stop: &AtomicBool,
) -> (Vec<u8>, Vec<u8>) {
    let path = mount.path(name);
    let held = sys::open(&path, APPEND, 0o600).ok();
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let line = line(name, number, 100 + (number * 977) % 9_000);
        let written = match (kind, &held) {
            (0, Some(fd)) => sys::write(fd, &line),
            (1, Some(fd)) => sys::write(fd, &line).and_then(|n| sys::fsync(fd).map(|_| n)),
            _ => sys::open(&path, APPEND, 0o600).and_then(|fd| sys::write(&fd, &line)),
        };
        match written {
            Ok(count) if count == line.len() as i64 => acknowledged.extend_from_slice(&line),
            _ => return (acknowledged, line),
        }
    }
    (acknowledged, Vec::new())
}

#[test]
fn kill_9_during_appends_loses_no_acknowledged_line() {
    let mut mount = Mount::start("kill-append");
    let mut rng = Rng::new(9);
    fs::create_dir(mount.path("p")).unwrap();
    let names = ["p/held.jsonl", "p/synced.jsonl", "p/reopened.jsonl"];
    let mut contents: Vec<Vec<u8>> = vec![Vec::new(); names.len()];
    for round in 0..12 {
        let stop = AtomicBool::new(false);
        let delay = Duration::from_millis(rng.below(250));
        let shared = &mount;
        let ends: Vec<(Vec<u8>, Vec<u8>)> = std::thread::scope(|scope| {
            let start = |kind: usize| {
                let (stop, before) = (&stop, contents[kind].clone());
                scope.spawn(move || append_until(shared, names[kind], kind, before, stop))
            };
            let writers: Vec<_> = (0..names.len()).map(start).collect();
            if round % 3 == 0 {
                shared.seal();
            }
            std::thread::sleep(delay);
            shared.signal(libc::SIGKILL);
            stop.store(true, Ordering::SeqCst);
            writers
                .into_iter()
                .map(|writer| writer.join().unwrap())
                .collect()
        });
        mount.kill9();
        mount.mount();
        for (kind, (acknowledged, in_flight)) in ends.into_iter().enumerate() {
            let found = fs::read(mount.path(names[kind])).unwrap_or_default();
            let with_last = [acknowledged.as_slice(), &in_flight].concat();
            if found != with_last {
                assert_same(
                    &found,
                    &acknowledged,
                    &format!("{} after kill {round}", names[kind]),
                );
            }
            contents[kind] = found;
        }
    }
    mount.seal_and_wait();
    for (name, want) in names.iter().zip(&contents) {
        assert_same(&fs::read(mount.path(name)).unwrap(), want, name);
    }
    check_no_leftovers(&mount);
}

/// Names and what they hold; names of one file hold the same number.
#[derive(Clone, Default)]
struct Model {
    names: BTreeMap<String, usize>,
    files: Vec<Vec<u8>>,
}

#[derive(Debug)]
enum Change {
    Overwrite(usize, Vec<u8>),
    Append(Vec<u8>),
    Resize(usize),
    Link,
    Unlink,
    Rename(&'static str, &'static str),
}

const SESSION: &str = "session.jsonl";
const LINK: &str = "linked.jsonl";
const BACKUP: &str = "session.bak";

impl Model {
    fn apply(&mut self, change: &Change) {
        let session = self.names.get(SESSION).copied();
        match change {
            Change::Overwrite(at, data) => {
                let file = &mut self.files[session.unwrap()];
                file.resize(file.len().max(at + data.len()), 0);
                file[*at..at + data.len()].copy_from_slice(data);
            }
            Change::Append(data) => self.files[session.unwrap()].extend_from_slice(data),
            Change::Resize(size) => self.files[session.unwrap()].resize(*size, 0),
            Change::Link => drop(self.names.insert(LINK.into(), session.unwrap())),
            Change::Unlink => drop(self.names.remove(LINK)),
            Change::Rename(from, to) => {
                let file = self.names.remove(*from).unwrap();
                self.names.insert((*to).into(), file);
            }
        }
    }

    fn choose(&self, rng: &mut Rng) -> Change {
        let Some(session) = self.names.get(SESSION) else {
            return Change::Rename(BACKUP, SESSION);
        };
        let size = self.files[*session].len();
        match rng.below(8) {
            0 | 1 => Change::Overwrite(
                rng.below(size as u64) as usize,
                b"overwritten".repeat(1 + rng.below(300) as usize),
            ),
            2 => Change::Append(line("a", 1, 1_000)),
            3 => Change::Resize(size - rng.below(size as u64 / 4 + 1) as usize),
            4 => Change::Resize(size + rng.below(70_000) as usize),
            5 | 6 if self.names.contains_key(LINK) => Change::Unlink,
            5 | 6 => Change::Link,
            _ => Change::Rename(SESSION, BACKUP),
        }
    }

    /// What a directory listing with contents must show.
    fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        self.names
            .iter()
            .map(|(name, file)| (name.clone(), self.files[*file].clone()))
            .collect()
    }
}

fn perform(mount: &Mount, change: &Change) -> Result<i64> {
    let path = |name: &str| mount.path("p").join(name);
    let session = |flags| sys::open(&path(SESSION), flags, 0);
    match change {
        Change::Overwrite(at, data) => {
            session(libc::O_WRONLY).and_then(|fd| sys::pwrite(&fd, data, *at as i64))
        }
        Change::Append(data) => session(APPEND).and_then(|fd| sys::write(&fd, data)),
        Change::Resize(size) => {
            session(libc::O_RDWR).and_then(|fd| sys::ftruncate(&fd, *size as i64))
        }
        Change::Link => sys::link(&path(SESSION), &path(LINK)),
        Change::Unlink => sys::unlink(&path(LINK), 0),
        Change::Rename(from, to) => sys::rename(&path(from), &path(to), 0),
    }
}

#[test]
fn kill_9_during_a_change_of_form_leaves_the_file_before_or_after_it() {
    let mut mount = Mount::start_unsealing("kill-form");
    let mut rng = Rng::new(31);
    fs::create_dir(mount.path("p")).unwrap();
    let data = corpus::session(&mut rng, 400_000);
    fs::write(mount.path("p").join(SESSION), &data).unwrap();
    let mut model = Model {
        names: BTreeMap::from([(SESSION.into(), 0)]),
        files: vec![data],
    };
    for round in 0..25 {
        if round % 4 != 3 {
            mount.seal_and_wait();
        }
        let delay = Duration::from_micros(rng.below(25_000));
        let (shared, base) = (&mount, model.clone());
        let mut choices = Rng::new(1_000 + round);
        let stop = AtomicBool::new(false);
        let (mut before, in_flight) = std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let mut model = base;
                while !stop.load(Ordering::SeqCst) {
                    let change = model.choose(&mut choices);
                    if perform(shared, &change).is_err() {
                        return (model, Some(change));
                    }
                    model.apply(&change);
                }
                (model, None)
            });
            std::thread::sleep(delay);
            shared.signal(libc::SIGKILL);
            stop.store(true, Ordering::SeqCst);
            worker.join().unwrap()
        });
        mount.kill9();
        mount.mount();
        let names = common::entries(&mount.path("p"));
        let found = names.iter().map(|path| {
            (
                path.file_name().unwrap().to_str().unwrap().to_string(),
                fs::read(path).unwrap(),
            )
        });
        let found: BTreeMap<String, Vec<u8>> = found.collect();
        if found != before.contents() {
            let change = in_flight
                .as_ref()
                .unwrap_or_else(|| panic!("round {round}: changed with nothing in flight"));
            before.apply(change);
            let want = before.contents();
            assert_eq!(
                found.keys().collect::<Vec<_>>(),
                want.keys().collect::<Vec<_>>(),
                "round {round}, {change:?}"
            );
            for (name, want) in &want {
                assert_same(
                    &found[name],
                    want,
                    &format!("{name} in round {round}, neither before nor after {change:?}"),
                );
            }
        }
        model = before;
        check_no_leftovers(&mount);
    }
}

#[test]
fn kill_9_during_seals_and_folds_changes_nothing() {
    let mut mount = Mount::start_unsealing("kill-seal");
    let mut rng = Rng::new(77);
    fs::create_dir(mount.path("p")).unwrap();
    let name = |number: usize| format!("p/{number:08x}.jsonl");
    let mut contents: Vec<Vec<u8>> = [2_000, 300_000, 1_500_000, 9_000_000]
        .map(|size| corpus::session(&mut rng, size))
        .to_vec();
    for (number, data) in contents.iter().enumerate() {
        for piece in data.chunks(60_000) {
            sys::write(
                &sys::open(&mount.path(name(number)), APPEND, 0o600).unwrap(),
                piece,
            )
            .unwrap();
        }
    }
    for round in 0..12 {
        mount.seal();
        std::thread::sleep(Duration::from_millis(rng.below(500)));
        mount.kill9();
        mount.mount();
        for (number, want) in contents.iter_mut().enumerate() {
            assert_same(
                &fs::read(mount.path(name(number))).unwrap(),
                want,
                &format!("{} after kill {round}", name(number)),
            );
            if rng.chance(40) {
                let line = line("after", round, 2_000);
                sys::write(
                    &sys::open(&mount.path(name(number)), APPEND, 0).unwrap(),
                    &line,
                )
                .unwrap();
                want.extend_from_slice(&line);
            }
        }
    }
    mount.seal_and_wait();
    check_no_leftovers(&mount);
    for (number, want) in contents.iter().enumerate() {
        assert_same(
            &fs::read(mount.path(name(number))).unwrap(),
            want,
            &name(number),
        );
        if mount.has_store() {
            assert_same(&stored(&mount, &name(number)), want, "in the store");
        }
    }
    assert!(
        leftovers(&mount, "recovered").is_empty(),
        "nothing was damaged, so nothing needed recovering"
    );
}

#[test]
fn fsynced_lines_survive_kill_9_without_a_manual_step() {
    let mut mount = Mount::start("fsync");
    fs::create_dir(mount.path("p")).unwrap();
    let path = mount.path("p/s.jsonl");
    let mut want = Vec::new();
    for number in 0..8 {
        let fd = sys::open(&path, APPEND, 0o600).unwrap();
        sys::write(&fd, &line("a", number, 500)).unwrap();
        want.extend_from_slice(&line("a", number, 500));
        sys::fsync(&fd).unwrap();
        mount.kill9();
        drop(fd);
        mount.mount();
        assert_same(&fs::read(&path).unwrap(), &want, "after the kill");
    }
    // An ordinary detached mount clears a stale one just the same.
    mount.kill9();
    if mount.has_store() {
        let output = mount.run(&["mount"]);
        assert!(output.status.success(), "{output:?}");
        assert_same(&fs::read(&path).unwrap(), &want, "mounted again");
        let output = mount.run(&["umount"]);
        assert!(output.status.success(), "{output:?}");
        assert!(!mount.mounted());
    }
}

#[test]
fn sigterm_is_quick_and_keeps_everything_while_a_large_seal_runs() {
    let mut mount = Mount::start_unsealing("sigterm");
    fs::create_dir(mount.path("p")).unwrap();
    let (large, path) = (mount.path("p/large.jsonl"), mount.path("p/s.jsonl"));
    let data = corpus::session(&mut Rng::new(8), 40 << 20);
    fs::write(&large, &data).unwrap();
    let mut want = Vec::new();
    for round in 0..3 {
        mount.seal();
        std::thread::sleep(Duration::from_millis(400 * round as u64));
        let held = sys::open(&path, APPEND, 0o600).unwrap();
        sys::write(&held, &line("a", round, 4_000)).unwrap();
        want.extend_from_slice(&line("a", round, 4_000));
        let (status, took) = mount.sigterm();
        assert_eq!(status.code(), Some(0), "exit status of round {round}");
        assert!(
            took < Duration::from_secs(1),
            "stopping took {took:?} in round {round}"
        );
        assert!(!mount.mounted(), "the mount is gone");
        drop(held);
        mount.mount();
        assert_same(&fs::read(&path).unwrap(), &want, "the session");
        assert_same(&fs::read(&large).unwrap(), &data, "the large session");
    }
}
