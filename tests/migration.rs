//! `migrate-store` moves a directory of sessions into the store and compresses on the way; `import` copies one, beside
//! a running daemon too.

mod common;

use common::foreign::old_release;
use common::seen::{as_mounted, assert_seen, seen};
use common::strace::{has_strace, under_strace};
use common::{Mount, assert_same, corpus, entries, leftovers, line, rng::Rng, sys, zstd_dc};
use std::fs;
use std::path::Path;
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

const APPEND: i32 = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND;

fn put(path: &Path, data: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, data).unwrap();
}

/// A cellar and a directory of sessions outside it.
fn prepare(name: &str) -> Option<Mount> {
    let mount = Mount::prepare(name).seal_after(u32::MAX);
    if !mount.has_store() {
        return None;
    }
    let from = mount.outside("projects");
    let mut rng = Rng::new(12);
    for (project, size) in [("-a", 90_000), ("-b", 700)] {
        let session = corpus::session(&mut rng, size);
        let p = from.join(project);
        put(&p.join("1.jsonl"), &session);
        put(&p.join("empty.jsonl"), b"");
        put(&p.join("2.jsonl.zst"), &old_release(&session));
        put(
            &p.join("2.jsonl.meta"),
            &[
                [9; 8],
                1_600_000_123i64.to_le_bytes(),
                [0; 8],
                [0; 8],
                [0; 8],
                [0; 8],
            ]
            .concat(),
        );
        put(&p.join("1/subagents/agent-1.jsonl"), &session[..500]);
        put(&p.join("memory/MEMORY.md"), b"- remember\n");
        put(&p.join("sessions-index.json"), b"{}");
        put(&p.join("linked.txt"), b"two names");
        fs::hard_link(p.join("linked.txt"), p.join("1/linked.txt")).unwrap();
        std::os::unix::fs::symlink("1.jsonl", p.join("link")).unwrap();
    }
    put(&from.join("-a/closed.jsonl"), b"closed\n");
    sys::setxattr(&from.join("-a/1.jsonl"), "user.a", b"value", 0).unwrap();
    let closed = sys::open(&from.join("-a/closed.jsonl"), libc::O_RDONLY, 0).unwrap();
    sys::fchmod(&closed, 0o400).unwrap();
    let mut names = common::tree(&from);
    names.reverse();
    for (number, name) in names.iter().enumerate() {
        let number = number as i64;
        sys::set_mtime(&from.join(name), 1_700_000_000 + number, 1_000 + number).unwrap();
    }
    Some(mount)
}

fn from(mount: &Mount) -> String {
    mount.outside("projects").to_str().unwrap().to_owned()
}

#[track_caller]
fn ends(output: Output, code: i32) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn migrate_store_moves_everything_and_compresses_sessions() {
    let Some(mut mount) = prepare("migrate") else {
        return;
    };
    let (source, want) = (from(&mount), as_mounted(&mount.outside("projects")));
    let before = seen(&mount.outside("projects"));

    let (told, progress) = ends(
        mount.run(&["migrate-store", "--from", &source, "--dry-run"]),
        0,
    );
    assert!(told.contains("2 projects"), "{told}");
    assert_eq!(progress, "");
    assert_seen(
        &seen(&mount.outside("projects")),
        &before,
        "after a dry run",
    );
    assert_eq!(entries(&mount.store("")), [] as [std::path::PathBuf; 0]);

    let (told, progress) = ends(mount.run(&["migrate-store", "--from", &source]), 0);
    assert!(told.contains("moved"), "{told}");
    assert_eq!(progress, "", "no progress without a terminal");
    assert!(entries(&mount.outside("projects")).is_empty());
    for (name, session) in want
        .iter()
        .filter(|(name, _)| name.extension().is_some_and(|e| e == "jsonl"))
    {
        let packed = mount.store(name).with_extension("jsonl.zst");
        let own = name.components().count() == 2;
        assert_eq!(packed.exists(), own, "{name:?}");
        if own {
            assert_same(&zstd_dc(&packed), &session.content, "by zstd");
        }
    }
    assert!(leftovers(&mount, "tmp").is_empty() && leftovers(&mount, "recovered").is_empty());

    let (again, _) = ends(mount.run(&["migrate-store", "--from", &source]), 0);
    assert!(again.contains("0 entries moved"), "{again}");
    mount.mount();
    assert_seen(&seen(&mount.path("")), &want, "through the mount");
}

#[test]
fn without_from_the_projects_directory_is_migrated() {
    let Some(mut mount) = prepare("migrate-default") else {
        return;
    };
    let want = as_mounted(&mount.outside("projects"));
    fs::remove_dir(mount.path("")).unwrap();
    fs::rename(mount.outside("projects"), mount.path("")).unwrap();
    ends(mount.run(&["migrate-store"]), 0);
    // Nothing is in the way of a mount that does not adopt.
    mount.mount();
    assert_seen(&seen(&mount.path("")), &want, "through the mount");
}

#[test]
fn a_running_daemon_keeps_its_store_to_itself() {
    let Some(mut mount) = prepare("migrate-running") else {
        return;
    };
    let before = seen(&mount.outside("projects"));
    mount.mount();
    let source = from(&mount);
    let (_, said) = ends(mount.run(&["migrate-store", "--from", &source]), 1);
    assert!(
        said.contains("mounted") && said.contains("unmount"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
    let (_, said) = ends(mount.run(&["migrate-store"]), 1);
    assert!(said.contains("cellar already"), "{said}");
    let store = mount.store("").to_str().unwrap().to_owned();
    let (_, said) = ends(mount.run(&["migrate-store", "--from", &store]), 1);
    assert!(said.contains("store"), "{said}");
    let (_, said) = ends(mount.run(&["migrate-store", "--from", "no/such/place"]), 1);
    assert!(said.contains("no/such/place"), "{said}");
    assert_seen(&seen(&mount.outside("projects")), &before, "the source");
}

#[test]
fn the_sessions_of_one_project_get_its_directory() {
    for dot in [false, true] {
        let Some(mut mount) = prepare("migrate-flat") else {
            return;
        };
        let flat = mount.outside("projects/-a");
        let want = as_mounted(&flat);
        let mut command = match dot {
            false => mount.command(&["migrate-store", "--from", flat.to_str().unwrap()]),
            true => mount.command(&["migrate-store", "--from", "."]),
        };
        ends(command.current_dir(&flat).output().unwrap(), 0);
        assert!(entries(&flat).is_empty(), "{:?}", entries(&flat));
        mount.mount();
        let names: Vec<_> = entries(&mount.path(""));
        assert_eq!(names, [mount.path("-a")]);
        assert_seen(&seen(&mount.path("-a")), &want, "through the mount");
    }
}

#[test]
fn what_is_on_both_sides_is_merged_by_migration_and_import_alike() {
    for how in ["migrate-store", "import"] {
        let Some(mut mount) = prepare("migrate-both") else {
            return;
        };
        let p = mount.outside("projects/-a");
        let (ours, theirs) = (line("ours", 1, 5_000), line("theirs", 2, 4_000));
        let both = [ours.as_slice(), &theirs].concat();
        let cases = [
            ("equal", &ours, &ours, &ours),
            ("longer", &ours, &both, &both),
            ("shorter", &both, &ours, &both),
            ("other", &ours, &theirs, &both),
        ];
        for form in ["raw", "packed"] {
            for (name, store, source, _) in cases {
                let session = mount.store(format!("-a/{name}-{form}.jsonl"));
                match form {
                    "raw" => put(&session, store),
                    _ => put(&session.with_extension("jsonl.zst"), &old_release(store)),
                }
                put(&p.join(format!("{name}-{form}.jsonl")), source);
            }
        }
        put(&mount.store("-a/older.json"), b"in the store");
        sys::set_mtime(&mount.store("-a/older.json"), 1_500_000_000, 0).unwrap();
        put(&p.join("older.json"), b"from outside");
        let (source, before) = (from(&mount), seen(&mount.outside("projects")));
        let check = |mount: &mut Mount, when: &str| {
            mount.mount();
            for form in ["raw", "packed"] {
                for (name, _, _, want) in cases {
                    let path = mount.path(format!("-a/{name}-{form}.jsonl"));
                    let what = format!("{name}-{form} {when} {how}");
                    assert_same(&fs::read(path).unwrap(), want, &what);
                }
            }
            assert_eq!(
                fs::read(mount.path("-a/older.json")).unwrap(),
                b"from outside"
            );
            let kept = leftovers(mount, "recovered");
            let fragments = if how == "import" { 0 } else { 2 };
            assert_eq!(kept.len(), 1 + fragments, "{kept:?} {when} {how}");
            mount.sigterm();
        };
        for when in ["after", "after a second"] {
            let words = match how {
                "import" => vec!["import", source.as_str()],
                _ => vec!["migrate-store", "--from", &source],
            };
            ends(mount.run(&words), 0);
            check(&mut mount, when);
            if how == "import" {
                assert_seen(&seen(&mount.outside("projects")), &before, "the source");
            }
        }
    }
}

#[test]
fn what_cannot_be_taken_is_named_and_the_rest_is() {
    let Some(mount) = prepare("migrate-failure") else {
        return;
    };
    put(&mount.store("-a/memory"), b"a file here");
    let source = from(&mount);
    for _ in 0..2 {
        let (_, said) = ends(mount.run(&["migrate-store", "--from", &source]), 1);
        assert!(
            said.contains("projects/-a/memory") && said.contains("run it again"),
            "{said}"
        );
    }
    let left = common::tree(&mount.outside("projects"));
    let want = ["-a", "-a/memory", "-a/memory/MEMORY.md"].map(std::path::PathBuf::from);
    assert_eq!(left, want);
    fs::remove_file(mount.store("-a/memory")).unwrap();
    ends(mount.run(&["migrate-store", "--from", &source]), 0);
    assert!(entries(&mount.outside("projects")).is_empty());
}

/// More files than are finished at once, with links between the first and the last.
#[test]
fn links_between_projects_are_links_in_the_store() {
    let Some(mut mount) = prepare("migrate-links") else {
        return;
    };
    let top = mount.outside("projects");
    put(&top.join("-c/1/t.txt"), b"linked");
    put(&top.join("-c/s.jsonl"), b"linked session\n");
    for number in 0..1_100 {
        put(
            &top.join(format!("-c/{number}.jsonl")),
            format!("{number}\n").as_bytes(),
        );
    }
    fs::create_dir(top.join("-d")).unwrap();
    fs::hard_link(top.join("-c/1/t.txt"), top.join("-d/t.txt")).unwrap();
    fs::hard_link(top.join("-c/s.jsonl"), top.join("-d/s.jsonl")).unwrap();
    let (source, want) = (from(&mount), as_mounted(&top));
    let mount_as = |name: &str| Mount::prepare(name).seal_after(u32::MAX);
    let mut imported = mount_as("import-links");
    ends(imported.run(&["import", &source]), 0);
    imported.mount();
    assert_seen(&seen(&imported.path("")), &want, "imported");
    ends(mount.run(&["migrate-store", "--from", &source]), 0);
    mount.mount();
    assert_seen(&seen(&mount.path("")), &want, "migrated");
}

/// The last name of a linked file is taken when the others are gone from the source already.
#[test]
fn links_across_file_systems_survive_batches() {
    let Some(mount) = prepare("migrate-link-batches") else {
        return;
    };
    let mut mount = mount.outside_on_tmpfs();
    let top = mount.outside("projects");
    put(&top.join("-c/s.jsonl"), b"linked session\n");
    for number in 0..1_100 {
        put(
            &top.join(format!("-c/{number}.jsonl")),
            format!("{number}\n").as_bytes(),
        );
    }
    fs::create_dir(top.join("-d")).unwrap();
    fs::hard_link(top.join("-c/s.jsonl"), top.join("-d/s.jsonl")).unwrap();
    let (source, want) = (from(&mount), as_mounted(&top));
    ends(mount.run(&["migrate-store", "--from", &source]), 0);
    mount.mount();
    assert_seen(&seen(&mount.path("")), &want, "migrated");
}

#[test]
fn import_leaves_the_source_alone_and_may_be_repeated() {
    let Some(mut mount) = prepare("import") else {
        return;
    };
    let (source, want) = (from(&mount), as_mounted(&mount.outside("projects")));
    let before = seen(&mount.outside("projects"));
    for round in 0..2 {
        let (_, progress) = ends(mount.run(&["import", &source]), 0);
        assert_eq!(progress, "", "no progress without a terminal");
        assert_seen(&seen(&mount.outside("projects")), &before, "the source");
        mount.mount();
        assert_seen(&seen(&mount.path("")), &want, &format!("round {round}"));
        assert!(leftovers(&mount, "tmp").is_empty() && leftovers(&mount, "recovered").is_empty());
        mount.sigterm();
    }
}

#[test]
fn import_beside_a_running_daemon_shows_within_a_second_and_loses_no_append() {
    let Some(mut mount) = prepare("import-running") else {
        return;
    };
    mount.mount();
    // Looked for before it is there, and one that is being written.
    assert!(!mount.path("-b/1.jsonl").exists());
    fs::create_dir(mount.path("-a")).unwrap();
    let own = mount.path("-a/1.jsonl");
    let append = |number: usize| {
        let file = sys::open(&own, APPEND, 0o600).unwrap();
        sys::write(&file, &line("own", number, 300)).unwrap();
        line("own", number, 300)
    };
    let mut mine = append(0);
    let (source, shared) = (from(&mount), &mount);
    thread::scope(|scope| {
        let import = scope.spawn(|| ends(shared.run(&["import", &source]), 0));
        for number in 1..40 {
            mine.extend(append(number));
            thread::sleep(Duration::from_millis(3));
        }
        import.join().unwrap();
    });
    let started = Instant::now();
    let theirs = fs::read(mount.outside("projects/-b/1.jsonl")).unwrap();
    while fs::read(mount.path("-b/1.jsonl")).ok() != Some(theirs.clone()) {
        assert!(
            started.elapsed() < Duration::from_millis(1_500),
            "not shown"
        );
        thread::sleep(Duration::from_millis(10));
    }
    let imported = fs::read_to_string(mount.outside("projects/-a/1.jsonl")).unwrap();
    mine.extend(append(40));
    let both = fs::read_to_string(&own).unwrap();
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (own_lines, _): (Vec<_>, Vec<_>) = lines(&both)
        .into_iter()
        .partition(|l| l.contains("\"own\""));
    assert_eq!(
        own_lines,
        lines(&String::from_utf8(mine).unwrap()),
        "lines of the client"
    );
    assert!(
        both.contains(&imported),
        "the imported lines stand together"
    );
    assert_eq!(
        both.lines().count(),
        own_lines.len() + imported.lines().count()
    );
}

#[test]
fn import_tells_of_sessions_that_a_cleanup_would_take() {
    let Some(mount) = prepare("import-old") else {
        return;
    };
    let source = from(&mount);
    let (told, _) = ends(mount.run(&["import", &source]), 0);
    assert!(told.contains("cleanupPeriodDays"), "{told}");
    for name in common::tree(&mount.outside("projects")) {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        sys::set_mtime(
            &mount.outside("projects").join(name),
            now.as_secs() as i64,
            0,
        )
        .unwrap();
    }
    let (told, _) = ends(mount.run(&["import", &source]), 0);
    assert!(!told.contains("cleanupPeriodDays"), "{told}");
}

#[test]
fn a_client_that_writes_to_what_is_migrated_loses_no_line() {
    for across in [false, true] {
        let Some(mut mount) = prepare("migrate-live") else {
            return;
        };
        if across {
            mount = mount.outside_on_tmpfs();
        }
        let names =
            ["1", "2", "3", "4"].map(|name| mount.outside(format!("projects/-live/{name}.jsonl")));
        fs::create_dir_all(mount.outside("projects/-live")).unwrap();
        let source = from(&mount);
        let written: Vec<Vec<u8>> = thread::scope(|scope| {
            let stop = std::sync::atomic::AtomicBool::new(false);
            let stop = &*Box::leak(Box::new(stop));
            let pauses = [500, 5_000, 15_000, 25_000].map(Duration::from_micros);
            let writers: Vec<_> = names
                .iter()
                .zip(pauses)
                .map(|(path, pause)| {
                    scope.spawn(move || {
                        let mut written = Vec::new();
                        for number in 0.. {
                            if stop.load(std::sync::atomic::Ordering::SeqCst) {
                                break;
                            }
                            let text = line("live", number, 200);
                            fs::create_dir_all(path.parent().unwrap()).unwrap();
                            let Ok(file) = sys::open(path, APPEND, 0o600) else {
                                continue;
                            };
                            sys::write(&file, &text).unwrap();
                            written.extend(text);
                            thread::sleep(pause);
                        }
                        written
                    })
                })
                .collect();
            for _ in 0..6 {
                thread::sleep(Duration::from_millis(30));
                // While somebody writes all the time it may say so. Removing is held up: a line may come just then.
                let mut command = mount.command(&["migrate-store", "--from", &source]);
                if has_strace() {
                    command = under_strace(&command, "unlinkat", "delay_enter=12000");
                }
                command.output().unwrap();
            }
            stop.store(true, std::sync::atomic::Ordering::SeqCst);
            writers.into_iter().map(|w| w.join().unwrap()).collect()
        });
        ends(mount.run(&["migrate-store", "--from", &source]), 0);
        mount.mount();
        for (path, written) in names.iter().zip(written) {
            let name = Path::new("-live").join(path.file_name().unwrap());
            let found = fs::read(mount.path(&name)).unwrap();
            assert_same(&found, &written, &format!("{name:?}, across: {across}"));
        }
    }
}
