//! With CLAUDE_CELLAR_TRASH_DAYS a deleted session is kept with its bundle and can be brought back as it was.
//! Deletions are made as Claude Code's cleanup makes them, through a mount.

mod common;

use common::{ID, Mount, assert_same, entries, line, sealed_session, sys, tree};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const PROJECT: &str = "-home-user-alpha";
const OTHER: &str = "7a1e0000-0000-4000-8000-000000000002";

fn with_trash(name: &str) -> Mount {
    let mut mount = Mount::prepare(name)
        .seal_after(86_400)
        .env("CLAUDE_CELLAR_TRASH_DAYS", "30");
    mount.mount();
    mount
}

/// A bundle as Claude Code makes it; what is in it, by path in the project.
fn bundle(mount: &Mount, id: &str) -> Vec<(String, Vec<u8>)> {
    let files = [
        ("subagents/agent-a1.jsonl", 4_000),
        ("subagents/agent-a1.meta.json", 30),
        ("subagents/workflows/wf_1/journal.jsonl", 900),
        ("tool-results/toolu_1.txt", 50_000),
    ];
    files
        .iter()
        .map(|(name, size)| {
            let path = mount.path(PROJECT).join(id).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let data = line(name, 1, *size);
            fs::write(&path, &data).unwrap();
            (format!("{id}/{name}"), data)
        })
        .collect()
}

/// What the client does to a bundle: files one by one, then the directories.
fn remove_bundle(path: &Path) {
    for entry in entries(path) {
        match sys::unlink(&entry, 0) {
            Err(e) if e.raw_os_error() == Some(libc::EISDIR) => remove_bundle(&entry),
            done => assert_eq!(done.unwrap(), 0),
        }
    }
    sys::unlink(path, libc::AT_REMOVEDIR).expect("the emptied directory");
}

/// Everything that is kept, by path in the trash.
fn kept(mount: &Mount) -> Vec<PathBuf> {
    common::leftovers(mount, "trash")
}

#[track_caller]
fn run(mount: &Mount, args: &[&str], code: i32) -> (String, String) {
    let output = mount.run(args);
    let (out, err) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert_eq!(output.status.code(), Some(code), "{args:?}: {out}{err}");
    if code != 0 {
        assert_eq!(err.lines().count(), 1, "one line: {err}");
    }
    (out, err)
}

/// What is found at a path within the second in which the kernel may still believe that there is nothing.
fn read_soon(path: &Path) -> Vec<u8> {
    let started = Instant::now();
    loop {
        match fs::read(path) {
            Err(_) if started.elapsed() < Duration::from_millis(1_500) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            read => return read.unwrap(),
        }
    }
}

#[test]
fn a_deleted_session_comes_back_with_its_bundle_whichever_goes_first() {
    let mut mount = with_trash("trash-back");
    for (bundle_first, running) in [(false, true), (true, true), (true, false)] {
        let (path, want) = sealed_session(&mount);
        let files = bundle(&mount, ID);
        let dir = path.with_extension("");
        sys::set_mtime(&path, 1_500_000_000, 0).unwrap();
        if bundle_first {
            remove_bundle(&dir);
        }
        fs::remove_file(&path).unwrap();
        if !bundle_first {
            remove_bundle(&dir);
        }
        sys::unlink(&mount.path(PROJECT), libc::AT_REMOVEDIR).expect("the emptied project");
        assert_eq!(entries(&mount.path("")), [] as [PathBuf; 0]);
        assert_eq!(kept(&mount).len(), 5);
        let (list, _) = run(&mount, &["trash", "list"], 0);
        let row = list.lines().nth(1).unwrap();
        assert!(row.contains(ID) && row.ends_with(PROJECT), "{list}");
        assert!(row.contains("  294.1 KiB    53.9 KiB  "), "{list}");

        if !running {
            mount.sigterm();
        }
        let (said, _) = run(&mount, &["trash", "restore", "7a1e"], 0);
        assert_eq!(
            said,
            format!("restored {PROJECT}/{ID} with 4 files of its bundle\n")
        );
        if !running {
            mount.mount();
        }
        assert_same(&read_soon(&path), &want, "the session");
        let age = fs::metadata(&path).unwrap().modified().unwrap().elapsed();
        assert!(age.unwrap_or_default() < Duration::from_secs(60));
        for (name, data) in &files {
            let path = mount.path(PROJECT).join(name);
            assert_same(&read_soon(&path), data, name);
        }
        assert_eq!(tree(&mount.store(".cellar/trash")), [] as [PathBuf; 0]);
        sys::write(
            &sys::open(&path, libc::O_WRONLY | libc::O_APPEND, 0).unwrap(),
            b"goes on\n",
        )
        .unwrap();
        assert!(fs::read(&path).unwrap().ends_with(b"goes on\n"));
        fs::remove_dir_all(mount.path(PROJECT)).expect("rm -rf of a project");
        fs::remove_dir_all(mount.store(".cellar/trash")).unwrap();
    }
}

#[test]
fn every_form_of_a_session_is_kept_as_it_is() {
    let mount = with_trash("trash-forms");
    let (sealed, want) = sealed_session(&mount);
    let project = mount.path(PROJECT);
    let appended = project.join("appended.jsonl");
    fs::write(&appended, &want[..50_000]).unwrap();
    let raw = project.join("raw.jsonl");
    fs::write(&raw, &want[..60_000]).unwrap();
    let fd = sys::open(&raw, libc::O_WRONLY, 0).unwrap();
    sys::pwrite(&fd, b"middle", 1_000).unwrap();
    let raw_want = fs::read(&raw).unwrap();
    // A raw form beside an older packed one, and a sidecar of 0.3.
    let double = project.join("double.jsonl");
    fs::write(mount.store(PROJECT).join("double.jsonl"), "newer\n").unwrap();
    fs::write(
        mount.store(PROJECT).join("double.jsonl.zst"),
        common::zstd(&["-3"], b"older\n"),
    )
    .unwrap();
    fs::write(mount.store(format!("{PROJECT}/{ID}.jsonl.meta")), [0; 48]).unwrap();
    let all = [
        (&sealed, want.as_slice()),
        (&appended, &want[..50_000]),
        (&raw, &raw_want),
        (&double, b"newer\n"),
    ];
    for (path, _) in &all {
        fs::remove_file(path).unwrap();
    }
    assert_eq!(entries(&mount.store(PROJECT)), [] as [PathBuf; 0]);
    assert_eq!(kept(&mount).len(), 4);
    for id in ["7a1", "app", "raw", "double"] {
        run(&mount, &["trash", "restore", id], 0);
    }
    for (path, want) in &all {
        assert_same(&read_soon(path), want, &path.display().to_string());
    }
    run(&mount, &["verify"], 0);
}

#[test]
fn only_sessions_and_their_bundles_are_kept() {
    let mount = with_trash("trash-only");
    let (path, _) = sealed_session(&mount);
    let project = mount.path(PROJECT);
    fs::create_dir(project.join("memory")).unwrap();
    for name in [
        "memory/MEMORY.md",
        "memory/x.jsonl",
        "claude.db-wal",
        "x.tmp",
    ] {
        fs::write(project.join(name), "x").unwrap();
        fs::remove_file(project.join(name)).unwrap();
    }
    fs::write(mount.path("top.jsonl"), "x").unwrap();
    fs::remove_file(mount.path("top.jsonl")).unwrap();
    fs::remove_dir(project.join("memory")).unwrap();
    fs::write(project.join("new.jsonl"), "new\n").unwrap();
    fs::rename(project.join("new.jsonl"), &path).expect("rename over a session");
    assert_eq!(kept(&mount), [] as [PathBuf; 0]);
}

#[test]
fn without_the_variable_deleted_means_deleted() {
    let mount = Mount::start("trash-off");
    let (path, _) = sealed_session(&mount);
    bundle(&mount, ID);
    fs::remove_file(&path).unwrap();
    remove_bundle(&path.with_extension(""));
    assert_eq!(tree(&mount.store(".cellar/trash")), [] as [PathBuf; 0]);
    assert_eq!(entries(&mount.store(PROJECT)), [] as [PathBuf; 0]);
    let (list, _) = run(&mount, &["trash", "list"], 0);
    assert_eq!(list.lines().count(), 1, "{list}");
}

#[test]
fn of_a_name_deleted_several_times_the_last_comes_back() {
    let mount = with_trash("trash-twice");
    fs::create_dir(mount.path(PROJECT)).unwrap();
    let path = mount.path(format!("{PROJECT}/{ID}.jsonl"));
    for number in 0..5 {
        fs::write(&path, line("delete", number, 500)).unwrap();
        if number % 2 == 1 {
            // In another form.
            let fd = sys::open(&path, libc::O_WRONLY, 0).unwrap();
            sys::pwrite(&fd, b"{", 0).unwrap();
        }
        fs::remove_file(&path).unwrap();
    }
    let (list, _) = run(&mount, &["trash", "list"], 0);
    assert_eq!(list.lines().count(), 6, "{list}");
    for number in [4, 3, 2] {
        run(&mount, &["trash", "restore", ID], 0);
        assert_same(&read_soon(&path), &line("delete", number, 500), "the last");
        let (_, said) = run(&mount, &["trash", "restore", ID], 1);
        assert!(said.contains("there is such a session"), "{said}");
        assert_same(
            &fs::read(&path).unwrap(),
            &line("delete", number, 500),
            "as it was",
        );
        fs::rename(&path, path.with_extension(number.to_string())).unwrap();
    }
    assert_eq!(kept(&mount).len(), 2);
}

#[test]
fn a_file_with_another_name_loses_only_this_one() {
    let mount = with_trash("trash-links");
    let (path, want) = sealed_session(&mount);
    let other = path.with_file_name("link.jsonl");
    sys::link(&path, &other).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(kept(&mount), [] as [PathBuf; 0]);
    assert_same(&fs::read(&other).unwrap(), &want, "the other name");
    fs::remove_file(&other).unwrap();
    assert_eq!(kept(&mount).len(), 1);
    run(&mount, &["trash", "restore", "link"], 0);
    assert_same(&read_soon(&other), &want, "the last name");
}

#[test]
fn open_descriptors_outlive_the_name() {
    let mount = with_trash("trash-open");
    let (path, mut want) = sealed_session(&mount);
    let fd = sys::open(&path, libc::O_RDWR | libc::O_APPEND, 0).unwrap();
    let reader = sys::open(&path, libc::O_RDONLY, 0).unwrap();
    fs::remove_file(&path).unwrap();
    sys::write(&fd, b"after the deletion\n").unwrap();
    want.extend_from_slice(b"after the deletion\n");
    let stat = |fd: &OwnedFd| fs::File::from(fd.as_fd().try_clone_to_owned().unwrap()).metadata();
    for fd in [&fd, &reader] {
        assert_eq!(stat(fd).unwrap().nlink(), 0);
        assert_eq!(stat(fd).unwrap().len(), want.len() as u64);
        assert_same(
            &sys::pread(fd, want.len(), 0).unwrap(),
            &want,
            "the descriptor",
        );
    }
    fs::write(&path, "a new one\n").unwrap();
    assert_same(&fs::read(&path).unwrap(), b"a new one\n", "the new session");
    drop((fd, reader));
    fs::remove_file(&path).unwrap();
    assert_eq!(kept(&mount).len(), 2);
    run(&mount, &["trash", "restore", ID], 0);
    assert_same(&read_soon(&path), b"a new one\n", "the last");
    fs::rename(&path, path.with_extension("moved")).unwrap();
    run(&mount, &["trash", "restore", ID], 0);
    assert_same(&read_soon(&path), &want, "with what was written last");
}

#[test]
fn on_a_full_disk_a_session_can_still_be_deleted() {
    let mut mount = Mount::prepare("trash-full")
        .seal_after(86_400)
        .env("CLAUDE_CELLAR_TRASH_DAYS", "30")
        .on_tmpfs(4 << 20);
    mount.mount();
    let (path, _) = sealed_session(&mount);
    // No inode is left for a directory in the trash.
    let output = Command::new("df")
        .args(["--output=iused"])
        .arg(mount.store(""))
        .output()
        .unwrap();
    let used = String::from_utf8(output.stdout).unwrap();
    let used = used.lines().nth(1).unwrap().trim().to_owned();
    let remounted = Command::new("mount")
        .args(["-o", &format!("remount,nr_inodes={used}")])
        .arg(mount.store(""))
        .status()
        .unwrap();
    assert!(remounted.success());
    fs::remove_file(&path).expect("deleting makes room");
    assert_eq!(kept(&mount), [] as [PathBuf; 0]);
    assert_eq!(entries(&mount.store(PROJECT)), [] as [PathBuf; 0]);
    assert!(mount.log().contains("deleted, not kept in the trash"));
}

#[test]
fn what_cannot_be_kept_for_another_reason_is_not_deleted() {
    let mount = with_trash("trash-refused");
    let (path, want) = sealed_session(&mount);
    fs::remove_dir(mount.store(".cellar/trash")).unwrap();
    fs::write(mount.store(".cellar/trash"), "no directory").unwrap();
    let removed = sys::unlink(&path, 0);
    assert_eq!(sys::errno(&removed), libc::ENOTDIR);
    assert_same(&fs::read(&path).unwrap(), &want, "the session");
    assert!(mount.log().contains("not deleted"));
    fs::remove_file(mount.store(".cellar/trash")).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(kept(&mount).len(), 1, "the trash is made again");
}

/// Makes what was deleted look as if that had been so many days earlier.
fn age(mount: &Mount, days: u64) {
    for when in entries(&mount.store(".cellar/trash")) {
        let name = when.file_name().unwrap().to_str().unwrap();
        if let Ok(then) = name.parse::<u64>() {
            let earlier = (then - days * 86_400).to_string();
            fs::rename(&when, when.with_file_name(earlier)).unwrap();
        }
    }
}

#[test]
fn what_was_kept_long_enough_goes_at_the_next_start_or_by_prune() {
    let mut mount = with_trash("trash-prune");
    for restart in [true, false] {
        let (path, _) = sealed_session(&mount);
        bundle(&mount, ID);
        fs::remove_dir_all(mount.path(PROJECT)).unwrap();
        fs::write(mount.store(".cellar/trash/note"), "somebody's").unwrap();
        age(&mount, 29);
        run(&mount, &["trash", "prune"], 0);
        mount.remount();
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(kept(&mount).len(), 6, "younger than 30 days");
        age(&mount, 2);
        if restart {
            mount.remount();
            let started = Instant::now();
            let left = || entries(&mount.store(".cellar/trash")).len();
            while left() > 1 && started.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(20));
            }
        } else {
            let (said, _) = run(&mount, &["trash", "prune"], 0);
            assert_eq!(said, "removed 5 files deleted more than 30 days ago\n");
        }
        assert_eq!(kept(&mount), [Path::new("note")]);
        assert_eq!(entries(&mount.store(".cellar/trash")).len(), 1);
        assert!(!path.exists());
    }
}

#[test]
fn prune_without_the_variable_removes_nothing() {
    let mount = with_trash("trash-unset");
    let (path, _) = sealed_session(&mount);
    fs::remove_file(&path).unwrap();
    age(&mount, 300);
    let mut prune = mount.command(&["trash", "prune"]);
    let output = prune
        .env_remove("CLAUDE_CELLAR_TRASH_DAYS")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("CLAUDE_CELLAR_TRASH_DAYS"), "{said}");
    assert!(said.contains(".cellar/trash"), "{said}");
    assert_eq!(kept(&mount).len(), 1);
}

#[test]
fn an_id_that_is_not_one_session_s_restores_nothing() {
    let mount = with_trash("trash-ids");
    let (path, _) = sealed_session(&mount);
    fs::copy(&path, path.with_file_name(format!("{OTHER}.jsonl"))).unwrap();
    fs::create_dir(mount.path("-b")).unwrap();
    fs::write(mount.path(format!("-b/{ID}.jsonl")), "of b\n").unwrap();
    for project in [PROJECT, "-b"] {
        fs::remove_dir_all(mount.path(project)).unwrap();
    }
    let before = kept(&mount);
    assert_eq!(before.len(), 3);
    for (ids, code, told) in [
        (&["7a1e"][..], 2, "PROJECT/ID"),
        (&[ID], 2, "PROJECT/ID"),
        (&["8"], 1, "trash list"),
        (&["--", "-b/8"], 1, "trash list"),
        // All or none.
        (&[OTHER, "8"], 1, "trash list"),
    ] {
        let args = [&["trash", "restore"], ids].concat();
        let (_, said) = run(&mount, &args, code);
        assert!(said.contains(told), "{said}");
    }
    assert_eq!(kept(&mount), before);
    let (said, _) = run(&mount, &["trash", "restore", "--", "-b/7", OTHER], 0);
    assert_eq!(
        said,
        format!("restored -b/{ID}\nrestored {PROJECT}/{OTHER}\n")
    );
    assert_same(
        &read_soon(&mount.path(format!("-b/{ID}.jsonl"))),
        b"of b\n",
        "b's",
    );
    assert_eq!(kept(&mount).len(), 1);
}

#[test]
fn a_bundle_that_was_deleted_alone_comes_back_around_what_is_there() {
    let mount = with_trash("trash-bundle");
    let (path, want) = sealed_session(&mount);
    let files = bundle(&mount, ID);
    let dir = path.with_extension("");
    fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o750)).unwrap();
    remove_bundle(&dir);
    fs::create_dir_all(dir.join("tool-results")).unwrap();
    fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    fs::write(dir.join("tool-results/toolu_1.txt"), "newer").unwrap();
    let (list, _) = run(&mount, &["trash", "list"], 0);
    assert!(list.lines().nth(1).unwrap().contains("  -  "), "{list}");
    let (said, _) = run(&mount, &["trash", "restore", ID], 0);
    assert_eq!(
        said,
        format!(
            "restored {PROJECT}/{ID} with 3 files of its bundle; 1 file whose names are taken stay in the trash\n"
        )
    );
    for (name, data) in &files[..3] {
        assert_same(&read_soon(&mount.path(PROJECT).join(name)), data, name);
    }
    assert_eq!(
        fs::read(dir.join("tool-results/toolu_1.txt")).unwrap(),
        b"newer"
    );
    assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o7777, 0o711);
    assert_same(&fs::read(&path).unwrap(), &want, "the session");
    assert_eq!(kept(&mount).len(), 1);
}

#[test]
fn the_trash_is_in_no_listing_of_sessions() {
    let mount = with_trash("trash-listing");
    let (path, _) = sealed_session(&mount);
    bundle(&mount, ID);
    fs::remove_dir_all(mount.path(PROJECT)).unwrap();
    assert!(!path.exists());
    let (status, _) = run(&mount, &["status", "--json"], 0);
    assert_eq!(common::json_number(&status, "sessions"), Some(0));
    let store = mount.store("");
    let (list, _) = run(&mount, &["list", store.to_str().unwrap()], 0);
    assert!(list.contains("TOTAL of 0 sessions"), "{list}");
    let (verify, _) = run(&mount, &["verify"], 0);
    assert!(verify.starts_with("0 sessions"), "{verify}");
}

#[test]
fn there_is_no_trash_where_there_is_no_store() {
    let mount = Mount::prepare("trash-none").env("CLAUDE_CELLAR_TRASH_DAYS", "9");
    let store = mount.store("");
    fs::remove_dir(&store).unwrap();
    run(&mount, &["trash", "list"], 0);
    run(&mount, &["trash", "restore", "x"], 1);
    assert!(!store.exists());
}
