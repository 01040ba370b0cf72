//! A rename or unlink on one host against a change of form or a seal on the other: the name is what
//! the rename made it, and no byte goes to another session.

use super::{Hosts, append};
use crate::common::{Mount, assert_same, corpus, leftovers, rng::Rng, sys};
use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What the other host does to a session.
#[derive(Clone, Copy, Debug)]
enum Act {
    Replace,
    Unlink,
    Away,
}

const ACTS: [Act; 3] = [Act::Replace, Act::Unlink, Act::Away];

/// One race: the session, what is to replace it, and where it may go.
struct Race {
    act: Act,
    old: String,
    new: String,
    away: String,
    /// What the session holds, and what the one that may replace it holds.
    data: [Vec<u8>; 2],
    /// What the session holds after the change that runs against the act.
    changed: Option<Vec<u8>>,
}

impl Race {
    fn prepare(hosts: &Hosts, act: Act, number: u64, data: [Vec<u8>; 2]) -> Race {
        let name = |what: &str| format!("p/{act:?}{number}-{what}.jsonl");
        let (old, new, away) = (name("old"), name("new"), name("away"));
        fs::write(hosts.a.path(&old), &data[0]).unwrap();
        fs::write(hosts.b.path(&new), &data[1]).unwrap();
        let changed = None;
        Race {
            act,
            old,
            new,
            away,
            data,
            changed,
        }
    }

    fn act(&self, host: &Mount) {
        let done = match self.act {
            Act::Replace => fs::rename(host.path(&self.new), host.path(&self.old)),
            Act::Unlink => fs::remove_file(host.path(&self.old)),
            Act::Away => fs::rename(host.path(&self.old), host.path(&self.away)),
        };
        done.unwrap_or_else(|e| panic!("{:?}, {}: {e}", self.act, self.old));
    }

    /// Overwrite a few bytes in the middle, which changes the session's form.
    fn overwrite(&self, host: &Mount) -> io::Result<i64> {
        let fd = sys::open(&host.path(&self.old), libc::O_WRONLY, 0)?;
        sys::pwrite(&fd, b"MID", 5)
    }

    #[track_caller]
    fn check(&self, host: &Mount) {
        let (at_old, at_away) = (read(host, &self.old), read(host, &self.away));
        let what = &self.old;
        match self.act {
            Act::Replace => {
                let mut found = at_old.unwrap_or_else(|| panic!("{what}: gone"));
                // The overwrite may come after the rename and meet the new file.
                if self.changed.is_some() && found[5..8] == *b"MID" {
                    found[5..8].copy_from_slice(&self.data[1][5..8]);
                }
                assert_same(&found, &self.data[1], what);
            }
            Act::Unlink => assert!(at_old.is_none(), "{what}: came back"),
            Act::Away => {
                assert!(at_old.is_none(), "{what}: came back");
                let found = at_away.unwrap_or_else(|| panic!("{what}: gone"));
                assert_same(&found, self.changed.as_ref().unwrap_or(&self.data[0]), what);
            }
        }
    }
}

/// A file's content; `None` where there is none.
fn read(host: &Mount, name: &str) -> Option<Vec<u8>> {
    match fs::read(host.path(name)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        data => Some(data.unwrap()),
    }
}

#[track_caller]
fn check(hosts: &Hosts, races: &[Race]) {
    hosts.wait_until_seen();
    for race in races {
        race.check(&hosts.a);
        race.check(&hosts.b);
    }
}

pub fn a_rename_or_unlink_holds_against_the_other_hosts_change_of_form(hosts: &mut Hosts) {
    let mut rng = Rng::new(41);
    let (old, new) = (rng.bytes(6 << 20), corpus::session(&mut rng, 9_000));
    let mut races = Vec::new();
    for act in ACTS {
        for number in 0..4 {
            races.push(Race::prepare(
                hosts,
                act,
                number,
                [old.clone(), new.clone()],
            ));
        }
    }
    hosts.wait_until_seen();
    for race in &mut races {
        let delay = Duration::from_micros(rng.below(25_000));
        let written = std::thread::scope(|scope| {
            let overwrite = scope.spawn(|| race.overwrite(&hosts.a));
            std::thread::sleep(delay);
            race.act(&hosts.b);
            overwrite.join().unwrap()
        });
        // A write that got an error did nothing; one that did not is where the file is.
        if written.is_ok() {
            let mut changed = old.clone();
            changed[5..8].copy_from_slice(b"MID");
            race.changed = Some(changed);
        }
    }
    check(hosts, &races);
}

pub fn a_rename_or_unlink_holds_against_the_other_hosts_seal(hosts: &mut Hosts) {
    let mut rng = Rng::new(42);
    let mut races = Vec::new();
    for act in ACTS {
        for number in 0..4 {
            let data = [
                corpus::session(&mut rng, 300_000),
                corpus::session(&mut rng, 9_000),
            ];
            let race = Race::prepare(hosts, act, number, data);
            if number % 2 == 1 {
                // Sealed from its raw form.
                race.overwrite(&hosts.a).unwrap();
                fs::write(hosts.a.path(&race.old), &race.data[0][..8]).unwrap();
                append(&hosts.a.path(&race.old), &race.data[0][8..]).unwrap();
            }
            races.push(race);
        }
    }
    hosts.wait_until_seen();
    hosts.a.seal();
    for race in &races {
        std::thread::sleep(Duration::from_millis(rng.below(120)));
        race.act(&hosts.b);
    }
    hosts.seal_and_wait();
    check(hosts, &races);
    if hosts.a.has_store() {
        assert!(leftovers(&hosts.a, "tmp").is_empty(), "unfinished copies");
    }
}

pub fn a_new_session_is_not_touched_by_who_holds_the_one_that_was_moved_away(hosts: &mut Hosts) {
    let data = || [b"old line\n".repeat(300), b"new line\n".repeat(100)];
    let acts = ["seal", "overwrite", "cut", "append"];
    let prepare = |number: u64| Race::prepare(hosts, Act::Away, number, data());
    let mut races: Vec<Race> = (0..acts.len() as u64).map(prepare).collect();
    let held: Vec<_> = races
        .iter()
        .map(|race| sys::open(&hosts.a.path(&race.old), libc::O_RDWR, 0).unwrap())
        .collect();
    hosts.wait_until_seen();
    for ((race, fd), act) in races.iter_mut().zip(&held).zip(acts) {
        let mut changed = race.data[0].clone();
        race.act(&hosts.b);
        fs::rename(hosts.b.path(&race.new), hosts.b.path(&race.old)).unwrap();
        let done = match act {
            "seal" => {
                hosts.a.seal();
                Ok(0)
            }
            "overwrite" => sys::pwrite(fd, b"MID", 3),
            "cut" => sys::ftruncate(fd, 100),
            _ => sys::pwrite(fd, b"end\n", changed.len() as i64),
        };
        match act {
            "overwrite" => changed[3..6].copy_from_slice(b"MID"),
            "cut" => changed.truncate(100),
            "append" => changed.extend_from_slice(b"end\n"),
            _ => {}
        }
        race.changed = done.is_ok().then_some(changed);
    }
    hosts.wait_until_seen();
    for (race, act) in races.iter().zip(acts) {
        for host in [&hosts.a, &hosts.b] {
            let at = |name: &str| read(host, name).unwrap();
            assert_same(
                &at(&race.old),
                &race.data[1],
                &format!("{act}: the new session"),
            );
            let moved = race.changed.as_ref().unwrap_or(&race.data[0]);
            assert_same(&at(&race.away), moved, &format!("{act}: the moved session"));
        }
        // Who opens the name now, opens the new session, whatever else is open.
        append(&hosts.a.path(&race.old), b"by name\n").unwrap();
    }
    hosts.wait_until_seen();
    for race in &races {
        let want = [race.data[1].as_slice(), b"by name\n"].concat();
        assert_same(&hosts.seen(&race.old), &want, "an append by name");
    }
}

pub fn a_name_that_is_always_there_is_never_missing(hosts: &mut Hosts) {
    for name in ["p/v.jsonl", "p/v.txt"] {
        let (there, here) = (hosts.b.path(name), hosts.a.path(name));
        fs::write(&there, "0").unwrap();
        hosts.wait_until_seen();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let temporary = hosts.b.path("p/v.tmp");
                    fs::write(&temporary, format!("{number}")).unwrap();
                    fs::rename(&temporary, &there).unwrap();
                    if number % 40 == 0 {
                        hosts.b.seal();
                    }
                }
            });
            let started = Instant::now();
            let mut missing = Vec::new();
            let mut looked = 0;
            while started.elapsed() < Duration::from_millis(1_500) {
                let results = [
                    fs::read(&here).map(drop),
                    fs::metadata(&here).map(drop),
                    sys::open(&here, libc::O_WRONLY | libc::O_APPEND, 0).map(drop),
                ];
                looked += 1;
                missing.extend(results.into_iter().filter_map(Result::err));
            }
            stop.store(true, Ordering::SeqCst);
            assert!(missing.is_empty(), "{name}, {looked} looks: {missing:?}");
        });
    }
}
