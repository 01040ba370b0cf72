//! What stands around the sessions: cleanup, new projects, memory, and programs that scan, copy or keep a database
//! in the projects directory. All of it works as on a plain directory.

mod common;

use common::{ID, Mount, assert_same, json_number, line, sealed_session, sys};
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

#[test]
fn cleanup_removes_sessions_bundles_and_empty_projects() {
    let mount = Mount::start("cleanup");
    let (path, _) = sealed_session(&mount);
    let (bundle, project) = (path.with_extension(""), path.parent().unwrap());
    fs::create_dir_all(bundle.join("tool-results")).unwrap();
    fs::write(bundle.join("tool-results/r.txt"), "r").unwrap();
    let rmdir = |path: &Path| sys::errno(&sys::unlink(path, libc::AT_REMOVEDIR));
    assert_eq!(
        sys::errno(&sys::unlink(&bundle, 0)),
        libc::EISDIR,
        "unlink of a directory"
    );
    assert_eq!(rmdir(&path), libc::ENOTDIR, "rmdir of a session");
    for full in [
        &bundle.join("tool-results"),
        &bundle,
        &project.to_path_buf(),
    ] {
        assert_eq!(rmdir(full), libc::ENOTEMPTY, "{}", full.display());
    }
    sys::unlink(&bundle.join("tool-results/r.txt"), 0).unwrap();
    assert_eq!(rmdir(&bundle.join("tool-results")), 0);
    assert_eq!(rmdir(&bundle), 0);
    sys::unlink(&path, 0).unwrap();
    assert_eq!(sys::errno(&fs::metadata(&path)), libc::ENOENT);
    assert_eq!(sys::errno(&sys::unlink(&path, 0)), libc::ENOENT);
    assert_eq!(
        rmdir(project),
        0,
        "a project whose visible directory is empty"
    );
    assert_eq!(fs::read_dir(mount.path("")).unwrap().count(), 0);
    if mount.has_store() {
        let left = common::tree(&mount.store(""));
        assert!(
            left.iter().all(|path| path.starts_with(".cellar")),
            "deleted means deleted: {left:?}"
        );
    }
}

#[test]
fn a_new_project_directory_stays_though_it_is_empty() {
    let mut mount = Mount::start("empty");
    fs::create_dir_all(mount.path("-new/memory")).unwrap();
    std::thread::sleep(Duration::from_millis(1_300));
    assert!(mount.path("-new/memory").is_dir());
    mount.remount();
    assert!(mount.path("-new/memory").is_dir());
    assert_eq!(fs::read_dir(mount.path("-new/memory")).unwrap().count(), 0);
}

#[test]
fn memory_and_index_files_can_be_written_again_and_again() {
    let mount = Mount::start("memory");
    fs::create_dir_all(mount.path("p/memory")).unwrap();
    for name in [
        "p/memory/MEMORY.md",
        "p/sessions-index.json",
        "p/.session-aliases",
        "p/x.cast",
        "top.json",
    ] {
        for text in ["first and longer", "second", ""] {
            fs::write(mount.path(name), text).unwrap();
            assert_eq!(
                fs::read_to_string(mount.path(name)).unwrap(),
                text,
                "{name}"
            );
        }
        // Temporary file and rename, as editors and claude-code-log write.
        fs::write(mount.path("p/new.tmp"), "third").unwrap();
        fs::rename(mount.path("p/new.tmp"), mount.path(name)).unwrap();
        assert_eq!(
            fs::read_to_string(mount.path(name)).unwrap(),
            "third",
            "{name}"
        );
    }
}

#[test]
fn the_projects_directory_resolves_through_proc() {
    let mount = Mount::start("proc");
    sealed_session(&mount);
    let fd = fs::File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(mount.path(""))
        .unwrap();
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    assert_eq!(
        fs::read_link(&link).unwrap(),
        mount.path("").components().collect::<PathBuf>()
    );
    let names: Vec<PathBuf> = common::entries(Path::new(&format!("{link}/-home-user-alpha")));
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn deleting_during_a_scan_skips_nothing() {
    let mount = Mount::start("scan");
    fs::create_dir(mount.path("p")).unwrap();
    for number in 0..3_000 {
        fs::write(mount.path(format!("p/{number:08}.jsonl")), b"").unwrap();
    }
    let mut seen = 0;
    for entry in fs::read_dir(mount.path("p")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
        seen += 1;
    }
    assert_eq!(seen, 3_000);
    assert_eq!(fs::read_dir(mount.path("p")).unwrap().count(), 0);
}

#[test]
fn a_hundred_sessions_are_open_at_once() {
    let mount = Mount::start("hundred");
    fs::create_dir(mount.path("p")).unwrap();
    let path = |number| mount.path(format!("p/{number:08}.jsonl"));
    for number in 0..100 {
        fs::write(path(number), line("s", number, 3_000)).unwrap();
    }
    mount.seal_and_wait();
    let open = |number| {
        fs::File::options()
            .read(true)
            .append(true)
            .open(path(number))
            .unwrap()
    };
    let files: Vec<fs::File> = (0..100).map(open).collect();
    for (number, mut file) in files.iter().enumerate() {
        let mut data = Vec::new();
        file.read_to_end(&mut data).unwrap();
        assert_same(&data, &line("s", number, 3_000), "one of a hundred");
    }
}

#[test]
fn cp_tar_and_rsync_like_copies_are_identical() {
    let mount = Mount::start("copies");
    let (path, want) = sealed_session(&mount);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    sys::set_mtime(&path, 1_600_000_000, 7).unwrap();
    let project = path.parent().unwrap();
    let copy = mount.outside("copy");
    assert!(
        Command::new("cp")
            .arg("-a")
            .arg(project)
            .arg(&copy)
            .status()
            .unwrap()
            .success()
    );
    let tar = format!("tar -cf - . | tar -xf - -C {}", mount.outside("").display());
    let output = Command::new("sh")
        .args(["-c", &tar])
        .current_dir(project)
        .output()
        .unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "tar: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    for copied in [
        copy.join(format!("{ID}.jsonl")),
        mount.outside(format!("{ID}.jsonl")),
    ] {
        let meta = fs::metadata(&copied).unwrap();
        assert_same(&fs::read(&copied).unwrap(), &want, "the copy");
        assert_eq!((meta.mtime(), meta.mode() & 0o777), (1_600_000_000, 0o640));
    }
}

#[test]
fn a_wal_database_of_two_processes_stays_sound() {
    let mount = Mount::start("sqlite");
    fs::create_dir(mount.path("p")).unwrap();
    let script = r#"
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
assert db.execute("pragma journal_mode=wal").fetchone()[0] == "wal"
db.execute("create table if not exists t (who text, n int, body text)")
for n in range(150):
    db.execute("insert into t values (?, ?, ?)", (sys.argv[2], n, sys.argv[2] * 900))
    db.execute("select count(*) from t").fetchone()
"#;
    let database = mount.path("p/cache.db");
    let run = |who: &str| {
        Command::new("python3")
            .args(["-c", script])
            .arg(&database)
            .arg(who)
            .spawn()
            .unwrap()
    };
    assert!(run("first").wait().unwrap().success());
    for mut child in [run("a"), run("b")] {
        assert!(child.wait().unwrap().success());
    }
    let check = r#"
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
print(db.execute("pragma integrity_check").fetchone()[0], db.execute("select count(*), count(distinct who || n) from t").fetchone())
"#;
    let output = Command::new("python3")
        .args(["-c", check])
        .arg(&database)
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "ok (450, 450)",
        "{output:?}"
    );
}

#[test]
fn advisory_locks_exclude_each_other() {
    let mount = Mount::start("locks");
    let (path, _) = sealed_session(&mount);
    let open = || {
        fs::File::options()
            .read(true)
            .append(true)
            .open(&path)
            .unwrap()
    };
    let (one, two) = (open(), open());
    one.lock().unwrap();
    assert!(two.try_lock().is_err(), "locked by the other descriptor");
    one.unlock().unwrap();
    two.try_lock().expect("free again");
    drop(two);
    one.try_lock().expect("closing frees it");
}

#[test]
fn free_space_is_the_store_s() {
    let mount = Mount::start("statfs");
    let free = |path: &Path| {
        let output = Command::new("stat")
            .args(["-f", "-c", "%b %S %l"])
            .arg(path)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(
        free(&mount.path("")),
        free(&mount.store("")),
        "blocks, block size, longest name"
    );
}

#[test]
fn status_counts_as_waiting_only_what_will_be_sealed() {
    let mount = Mount::start("waiting");
    fs::create_dir(mount.path("p")).unwrap();
    let long = format!("p/{}.jsonl", "l".repeat(248));
    for name in ["p/linked.jsonl", &long, "p/plain.jsonl"] {
        fs::write(mount.path(name), line("s", 0, 3_000)).unwrap();
    }
    fs::hard_link(mount.path("p/linked.jsonl"), mount.path("p/other.jsonl")).unwrap();
    mount.seal_and_wait();
    if mount.has_store() {
        let status = mount.run(&["status", "--json"]).stdout;
        let waiting = json_number(&String::from_utf8_lossy(&status), "unsealed");
        assert_eq!(
            waiting,
            Some(0),
            "linked sessions and long names stay raw, so they do not wait"
        );
    }
}

#[test]
fn an_open_that_races_with_a_save_finds_the_old_file_or_the_new() {
    let mount = Mount::start("race");
    fs::create_dir(mount.path("p")).unwrap();
    for name in ["p/v.jsonl", "p/v.txt"] {
        let (path, temporary) = (mount.path(name), mount.path("p/v.tmp"));
        fs::write(&path, "0\n").unwrap();
        std::thread::scope(|scope| {
            let saving = scope.spawn(|| {
                for number in 1..400 {
                    fs::write(&temporary, format!("{number}\n")).unwrap();
                    fs::rename(&temporary, &path).unwrap();
                }
            });
            while !saving.is_finished() {
                let read = fs::read_to_string(&path).unwrap();
                assert!(read.trim().parse::<u32>().is_ok(), "{read:?}");
                let append = fs::OpenOptions::new().append(true).open(&path);
                append.unwrap_or_else(|e| panic!("{name}: {e}"));
            }
        });
        assert_eq!(fs::read_to_string(&path).unwrap(), "399\n");
    }
}
