//! The compatibility table of the README, row by row: what Claude Code does to `projects/` under each setting, replayed as
//! it was traced, and what is left in the mount and in the store.

mod cellar;
mod common;

use cellar::{Home, Ran, mounted};
use common::{Mount, assert_same, entries, line, stored, sys, tree};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const PROJECT: &str = "-home-user-alpha";
const DAY: u64 = 86_400;

#[test]
fn every_row_of_the_table_is_tested_here() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let section = readme
        .split("\n## ")
        .find(|part| part.starts_with("Compatibility\n"));
    let rows = section.unwrap().lines().filter_map(|line| {
        let first = line.strip_prefix("| ")?.split(" | ").next()?;
        Some(first.to_owned())
    });
    let rows: Vec<String> = rows.skip(1).collect();
    assert_eq!(
        rows,
        [
            "Default install (`~/.claude/projects`)",
            "`CLAUDE_CONFIG_DIR`",
            "`CLAUDE_CODE_SKIP_PROMPT_HISTORY=1`",
            "`--no-session-persistence`",
            "`cleanupPeriodDays` in `settings.json`",
        ]
    );
}

/// A start of the client: it resolves the directory of projects and makes its project's own with an empty memory.
fn start(projects: &Path) -> PathBuf {
    let fd = sys::open(projects, libc::O_PATH | libc::O_DIRECTORY, 0).unwrap();
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    assert_eq!(fs::read_link(link).unwrap(), projects);
    let project = projects.join(PROJECT);
    fs::create_dir_all(project.join("memory")).unwrap();
    entries(&project);
    entries(&project.join("memory"));
    project
}

/// A turn that is written: an append-only descriptor for each batch of lines.
fn turn(path: &Path, number: usize) -> Vec<u8> {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND;
    let data = line("turn", number, 2_000);
    let fd = sys::open(path, flags, 0o600).unwrap();
    assert_eq!(sys::write(&fd, &data).unwrap(), data.len() as i64);
    data
}

fn id(number: usize) -> String {
    format!("7a1e0000-0000-4000-8000-{number:012}")
}

#[test]
fn a_default_install_works_without_configuration() {
    let home = Home::new();
    home.run("mount").ends(0);
    let projects = home.dir.join(".claude/projects");
    assert!(mounted(&projects).is_some());
    let path = start(&projects).join(format!("{}.jsonl", id(1)));
    let want = [turn(&path, 1), turn(&path, 2)].concat();
    assert_same(&fs::read(&path).unwrap(), &want, "the session");
    let stored = home
        .dir
        .join(".local/share/claude-cellar/store")
        .join(PROJECT)
        .join(format!("{}.jsonl.zst", id(1)));
    assert_same(&common::zstd_dc(&stored), &want, "as zstd reads it");
}

#[test]
fn with_claude_config_dir_the_mount_is_projects_in_it() {
    let home = Home::new();
    let config = home.dir.join("config of mine");
    let run = |word: &str| {
        let mut command = home.command([word]);
        Ran::from(command.env("CLAUDE_CONFIG_DIR", &config).output().unwrap())
    };
    run("mount").ends(0);
    assert_eq!(mounted(&home.mount_dir()), None);
    let path = start(&config.join("projects")).join(format!("{}.jsonl", id(1)));
    let want = turn(&path, 1);
    assert_same(&fs::read(&path).unwrap(), &want, "the session");
    let status = run("status").ends(0).out;
    assert!(status.contains("config of mine/projects"), "{status}");
    run("umount").ends(0);
}

/// A store file: its path, bytes, and times of modification and change.
type State = (PathBuf, Vec<u8>, (i64, i64), (i64, i64));

/// The state of every file of the store but the cellar's own.
fn state(mount: &Mount) -> Vec<State> {
    let all = tree(&mount.store(""));
    let own = all.into_iter().filter(|path| !path.starts_with(".cellar"));
    own.filter(|path| mount.store(path).is_file())
        .map(|path| {
            let (meta, bytes) = (
                fs::metadata(mount.store(&path)).unwrap(),
                fs::read(mount.store(&path)).unwrap(),
            );
            let modified = (meta.mtime(), meta.mtime_nsec());
            (path, bytes, modified, (meta.ctime(), meta.ctime_nsec()))
        })
        .collect()
}

#[test]
fn with_skip_prompt_history_nothing_is_stored() {
    let mut mount = Mount::start("skip-history");
    let project = start(&mount.path(""));
    for _ in 0..2 {
        assert_eq!(entries(&project), [project.join("memory")]);
        assert_eq!(state(&mount), []);
        let status = mount.run(&["status", "--json"]).stdout;
        let status = String::from_utf8(status).unwrap();
        assert_eq!(common::json_number(&status, "sessions"), Some(0));
        assert_eq!(common::json_number(&status, "unsealed"), Some(0));
        mount.remount();
    }
    fs::remove_dir(project.join("memory")).unwrap();
    fs::remove_dir(project).unwrap();
}

#[test]
fn a_run_without_session_persistence_changes_nothing_in_the_store() {
    let mount = Mount::start("no-persistence");
    let project = start(&mount.path(""));
    let path = project.join(format!("{}.jsonl", id(1)));
    let want = [turn(&path, 1), turn(&path, 2)].concat();
    mount.seal_and_wait();
    let before = state(&mount);
    // It starts, looks through the sessions, and reads one whole.
    start(&mount.path(""));
    let file = fs::File::open(&path).unwrap();
    file.metadata().unwrap();
    let mut head = [0; 512];
    std::os::unix::fs::FileExt::read_at(&file, &mut head, 0).unwrap();
    assert_same(&fs::read(&path).unwrap(), &want, "the session");
    std::thread::sleep(Duration::from_millis(1_300));
    assert_eq!(state(&mount), before);
}

// ---- cleanupPeriodDays ------------------------------------------------------------------------

/// What the client's cleanup does: it asks for nothing but modification times, and tries to remove directories to see
/// whether they are empty. Returns what the attempts gave, by path beneath `projects`.
fn cleanup(projects: &Path, days: u64) -> Vec<(PathBuf, i32)> {
    let mut attempts = Vec::new();
    let mut rmdir = |path: &Path| {
        let errno = match sys::unlink(path, libc::AT_REMOVEDIR) {
            Ok(_) => 0,
            Err(error) => error.raw_os_error().unwrap(),
        };
        let path = path.strip_prefix(projects).unwrap();
        attempts.push((path.to_owned(), errno));
    };
    let before = SystemTime::now() - Duration::from_secs(days * DAY);
    let old = |path: &Path| fs::metadata(path).is_ok_and(|m| m.modified().unwrap() < before);
    for project in entries(projects) {
        for entry in entries(&project) {
            if entry.extension().is_some_and(|e| e == "jsonl") {
                if old(&entry) {
                    sys::unlink(&entry, 0).unwrap();
                    remove_all(&entry.with_extension(""));
                }
            } else if entry.is_dir() && !entry.ends_with("memory") {
                for result in entries(&entry.join("tool-results")) {
                    if old(&result) {
                        sys::unlink(&result, 0).unwrap();
                    }
                }
                rmdir(&entry.join("tool-results"));
                rmdir(&entry);
            }
        }
        rmdir(&project.join("memory"));
        rmdir(&project);
    }
    attempts
}

/// Recursive removal as node does it.
fn remove_all(path: &Path) {
    match sys::unlink(path, 0) {
        Ok(_) => {}
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::EISDIR), "a directory");
            for entry in entries(path) {
                remove_all(&entry);
            }
            sys::unlink(path, libc::AT_REMOVEDIR).expect("an emptied directory");
        }
    }
}

fn set_age(path: &Path, days: u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let then = now.as_secs() - days * DAY;
    sys::set_mtime(path, then as i64, 987_654_321).unwrap();
}

fn bundle(path: &Path) {
    for (name, length) in [
        ("subagents/agent-a1.jsonl", 3_000),
        ("tool-results/toolu_1.txt", 9_000),
    ] {
        let path = path.with_extension("").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, line(name, 1, length)).unwrap();
    }
}

/// The client's cleanup on sessions of every form and age, with a bundle each.
fn cleanup_takes_what_is_old(mut mount: Mount, kept: usize) {
    mount.mount();
    let project = start(&mount.path(""));
    let path = |number: usize| project.join(format!("{}.jsonl", id(number)));
    // 1 to 3 are old and sealed, appended to since, and overwritten since; 4 to 6 the same and young.
    let mut want = Vec::new();
    for number in 1..=6 {
        let mut data = turn(&path(number), number);
        data.extend(turn(&path(number), 10 + number));
        want.push(data);
        bundle(&path(number));
    }
    mount.seal_and_wait();
    for number in [2, 5] {
        want[number - 1].extend(turn(&path(number), 20 + number));
    }
    for number in [3, 6] {
        let fd = sys::open(&path(number), libc::O_WRONLY, 0).unwrap();
        sys::pwrite(&fd, b"[", 0).unwrap();
        want[number - 1][0] = b'[';
    }
    for number in 1..=6 {
        set_age(&path(number), if number > 3 { 29 } else { 31 });
    }
    // Old as well, but the heartbeat has touched it.
    set_age(&path(6), 300);
    let file = fs::File::options().append(true).open(path(6)).unwrap();
    file.set_modified(SystemTime::now()).unwrap();
    drop(file);
    fs::write(project.join("memory/MEMORY.md"), "notes").unwrap();
    // A project whose only file is one that the store hides.
    fs::create_dir(mount.path("-left")).unwrap();
    if mount.has_store() {
        fs::write(mount.store("-left/gone.jsonl.meta"), [0; 48]).unwrap();
    }

    let attempts = cleanup(&mount.path(""), 30);
    let of = |name: &str| {
        let attempt = attempts.iter().find(|(path, _)| path == Path::new(name));
        attempt.map(|(_, errno)| *errno)
    };
    for number in 4..=6 {
        let dir = format!("{PROJECT}/{}", id(number));
        assert_eq!(of(&format!("{dir}/tool-results")), Some(libc::ENOTEMPTY));
        assert_eq!(of(&dir), Some(libc::ENOTEMPTY));
    }
    assert_eq!(of(&format!("{PROJECT}/memory")), Some(libc::ENOTEMPTY));
    assert_eq!(of(PROJECT), Some(libc::ENOTEMPTY));
    assert_eq!(of("-left/memory"), Some(libc::ENOENT));
    assert_eq!(of("-left"), Some(0), "what looks empty is");

    for _ in 0..2 {
        for number in 1..=6 {
            let young = number > 3;
            assert_eq!(path(number).exists(), young, "session {number}");
            assert_eq!(path(number).with_extension("").exists(), young);
            if young {
                let want = &want[number - 1];
                assert_same(&fs::read(path(number)).unwrap(), want, "what is young");
            }
        }
        if mount.has_store() {
            let store = entries(&mount.store(PROJECT));
            assert_eq!(store.len(), 7, "three sessions, bundles, memory: {store:?}");
            assert_eq!(common::leftovers(&mount, "trash").len(), kept);
        }
        mount.remount();
    }
    // A second cleanup has nothing to do, and one of everything leaves nothing.
    cleanup(&mount.path(""), 30);
    for number in 4..=6 {
        assert!(path(number).exists());
        set_age(&path(number), 31);
    }
    fs::remove_file(project.join("memory/MEMORY.md")).unwrap();
    let attempts = cleanup(&mount.path(""), 30);
    assert_eq!(attempts.last(), Some(&(PROJECT.into(), 0)), "{attempts:?}");
    assert_eq!(entries(&mount.path("")), [] as [PathBuf; 0]);
    if mount.has_store() {
        assert_eq!(entries(&mount.store("")), [mount.store(".cellar")]);
        assert_eq!(common::leftovers(&mount, "trash").len(), 2 * kept);
    }
}

#[test]
fn cleanup_takes_what_is_old_and_nothing_else() {
    cleanup_takes_what_is_old(Mount::prepare("cleanup").seal_after(86_400), 0);
}

#[test]
fn cleanup_looks_the_same_with_a_trash_and_can_be_undone() {
    let with_trash = |name: &str| {
        let mount = Mount::prepare(name).seal_after(86_400);
        mount.env("CLAUDE_CELLAR_TRASH_DAYS", "7")
    };
    // Three sessions with two files of a bundle each.
    cleanup_takes_what_is_old(with_trash("cleanup-trash"), 9);

    let mut mount = with_trash("cleanup-undone");
    mount.mount();
    let path = start(&mount.path("")).join(format!("{}.jsonl", id(1)));
    let want = turn(&path, 1);
    bundle(&path);
    set_age(&path, 31);
    cleanup(&mount.path(""), 30);
    assert!(!path.exists());
    let restored = mount.run(&["trash", "restore", "7a1e"]);
    assert!(restored.status.success(), "{restored:?}");
    // The kernel may believe for a second that there is nothing.
    std::thread::sleep(Duration::from_millis(1_100));
    cleanup(&mount.path(""), 30);
    assert_same(&fs::read(&path).unwrap(), &want, "after the next cleanup");
    assert_eq!(tree(&path.with_extension("")).len(), 4, "with its bundle");
}

#[test]
fn neither_sealing_nor_mounting_again_moves_a_modification_time() {
    let mut mount = Mount::start_unsealing("mtimes");
    let project = start(&mount.path(""));
    let path = |number: usize| project.join(format!("{}.jsonl", id(number)));
    let time = |number: usize| {
        let meta = fs::metadata(path(number)).unwrap();
        (meta.mtime(), meta.mtime_nsec())
    };
    for number in 1..=3 {
        turn(&path(number), number);
    }
    let fd = sys::open(&path(2), libc::O_WRONLY, 0).unwrap();
    sys::pwrite(&fd, b"[", 0).unwrap();
    drop(fd);
    for number in 1..=2 {
        set_age(&path(number), 30 * number as u64);
    }
    let before = [1, 2, 3].map(time);
    assert_eq!([before[0].1, before[1].1], [987_654_321; 2]);
    let unmoved = |what: &str| assert_eq!([1, 2, 3].map(time), before, "{what}");
    mount.remount();
    unmoved("mounted again, unsealed");
    mount.seal_and_wait();
    unmoved("sealed");
    mount.remount();
    unmoved("mounted again, sealed");
    fs::read(path(1)).unwrap();
    mount.kill9();
    mount.mount();
    unmoved("after a kill");
    // In the store it is the same, so a copy of that keeps it too.
    if mount.has_store() {
        for (number, before) in before.iter().enumerate() {
            let name = format!("{PROJECT}/{}.jsonl", id(number + 1));
            assert_eq!(stored(&mount, &name), fs::read(path(number + 1)).unwrap());
            let meta = fs::metadata(mount.store(format!("{name}.zst"))).unwrap();
            assert_eq!((meta.mtime(), meta.mtime_nsec()), *before);
        }
    }
}
