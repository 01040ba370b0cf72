//! What Claude Code and the tools around it do to `~/.claude/projects`, call by call, as traced of 2.1.197 and
//! 2.0.55. Each works as on a plain directory, with the session sealed as well as fresh.

mod common;

use common::{ID, Mount, assert_same, corpus, line, rng::Rng, sealed_session, sys};
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

fn append_open(path: &Path, more: i32, mode: u32) -> std::io::Result<std::os::fd::OwnedFd> {
    sys::open(
        path,
        libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | more,
        mode,
    )
}

#[test]
fn the_append_cycle_of_2_1_197_keeps_every_batch() {
    let mount = Mount::start("cycle-new");
    let (path, mut want) = sealed_session(&mount);
    let mode = fs::metadata(&path).unwrap().mode();
    for number in 0..120 {
        let batch = line("a", number, 340 + number * number * 16);
        let fd = append_open(&path, 0, 0o600).unwrap();
        assert_eq!(sys::write(&fd, &batch).unwrap(), batch.len() as i64);
        want.extend_from_slice(&batch);
    }
    assert_eq!(
        sys::errno(&append_open(&path, libc::O_EXCL, 0o600)),
        libc::EEXIST,
        "the probe near the end"
    );
    sys::write(&append_open(&path, 0, 0o666).unwrap(), b"last\n").unwrap();
    want.extend_from_slice(b"last\n");
    assert_same(&fs::read(&path).unwrap(), &want, "all batches");
    assert_eq!(
        fs::metadata(&path).unwrap().mode(),
        mode,
        "opening with another mode changes nothing"
    );
}

#[test]
fn the_append_cycle_of_2_0_55_keeps_every_line() {
    let mount = Mount::start("cycle-old");
    fs::create_dir(mount.path("p")).unwrap();
    let path = mount.path("p/agent-0badcafe.jsonl");
    let fd = sys::open(&path, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC, 0o600).unwrap();
    sys::fsync(&fd).unwrap();
    drop(fd);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    let mut want = Vec::new();
    for number in 0..80 {
        for _ in 0..5 {
            assert_eq!(
                fs::metadata(&path).unwrap().len(),
                want.len() as u64,
                "a stat before each line"
            );
        }
        let line = line("a", number, 700);
        assert_eq!(
            sys::write(&append_open(&path, 0, 0o600).unwrap(), &line).unwrap(),
            line.len() as i64
        );
        want.extend_from_slice(&line);
    }
    assert_same(&fs::read(&path).unwrap(), &want, "all lines");
}

#[test]
fn tail_head_and_whole_reads_give_the_session() {
    let mut mount = Mount::start("reads");
    let (path, want) = sealed_session(&mount);
    mount.remount();
    for appended in [false, true] {
        let mut want = want.clone();
        if appended {
            sys::write(&append_open(&path, 0, 0).unwrap(), b"{\"more\":1}\n").unwrap();
            want.extend_from_slice(b"{\"more\":1}\n");
        }
        let file = fs::File::open(&path).unwrap();
        let size = file.metadata().unwrap().len();
        assert_eq!(size, want.len() as u64);
        // Tail: one pread of the last 64 KiB; picker: the first 64 KiB, or 512 bytes.
        let mut tail = vec![0; 65_536];
        assert_eq!(file.read_at(&mut tail, size - 65_536).unwrap(), 65_536);
        assert_same(&tail, &want[want.len() - 65_536..], "the tail");
        for length in [65_536, 512, 3] {
            let mut head = vec![0; length];
            assert_eq!(
                fs::File::open(&path)
                    .unwrap()
                    .read_at(&mut head, 0)
                    .unwrap(),
                length
            );
            assert_same(&head, &want[..length], "the head");
        }
        // Resume: 256 KiB reads to the end, then one pread of everything; tar reads 10 KiB.
        for chunk in [262_144, 10_240] {
            let (mut file, mut all, mut buffer) =
                (fs::File::open(&path).unwrap(), Vec::new(), vec![0; chunk]);
            while let got @ 1.. = file.read(&mut buffer).unwrap() {
                all.extend_from_slice(&buffer[..got]);
            }
            assert_same(&all, &want, "read in pieces");
        }
        let mut all = vec![0; want.len()];
        assert_eq!(
            file.read_at(&mut all, 0).unwrap(),
            want.len(),
            "one pread of the full size"
        );
        assert_same(&all, &want, "read at once");
    }
}

#[test]
fn touching_a_session_sets_its_time_and_leaves_it_sealed() {
    let mount = Mount::start("touch");
    let (path, want) = sealed_session(&mount);
    sys::set_mtime(&path, 1_500_000_000, 123_456_789).unwrap();
    assert_eq!(
        (
            fs::metadata(&path).unwrap().mtime(),
            fs::metadata(&path).unwrap().mtime_nsec()
        ),
        (1_500_000_000, 123_456_789)
    );
    fs::File::options()
        .append(true)
        .open(&path)
        .unwrap()
        .set_modified(SystemTime::now())
        .unwrap();
    let age = fs::metadata(&path)
        .unwrap()
        .modified()
        .unwrap()
        .elapsed()
        .unwrap_or_default();
    assert!(age < Duration::from_secs(60), "utimensat(now)");
    assert_same(&fs::read(&path).unwrap(), &want, "the session");
    if mount.has_store() {
        assert!(
            mount
                .store(format!("-home-user-alpha/{ID}.jsonl.zst"))
                .exists(),
            "a new time needs no new form"
        );
    }
}

#[test]
fn bundle_files_are_rewritten_as_the_client_does() {
    let mount = Mount::start("bundle");
    let (path, _) = sealed_session(&mount);
    let bundle = path.with_extension("");
    // agent-*.meta.json: opened without O_TRUNC, written, cut to the length.
    fs::create_dir_all(bundle.join("subagents")).unwrap();
    let meta = bundle.join("subagents/agent-a1.meta.json");
    for text in [
        "{\"agentType\":\"general-purpose\",\"description\":\"long\"}",
        "{\"agentType\":\"x\"}",
    ] {
        let fd = sys::open(&meta, libc::O_WRONLY | libc::O_CREAT, 0o600).unwrap();
        sys::write(&fd, text.as_bytes()).unwrap();
        sys::ftruncate(&fd, text.len() as i64).unwrap();
        assert_eq!(fs::read_to_string(&meta).unwrap(), text);
    }
    // tool-results: a link from elsewhere fails, so it is copied.
    fs::create_dir(bundle.join("tool-results")).unwrap();
    let (source, result) = (
        mount.outside("result.txt"),
        bundle.join("tool-results/toolu_1.txt"),
    );
    let text = corpus::session(&mut Rng::new(4), 150_000);
    fs::write(&source, &text).unwrap();
    if mount.has_store() {
        assert_eq!(sys::errno(&sys::link(&source, &result)), libc::EXDEV);
    }
    let from = sys::open(&source, libc::O_RDONLY, 0).unwrap();
    let to = sys::open(
        &result,
        libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL,
        0o600,
    )
    .unwrap();
    let mut copied = sys::copy_file_range(&from, &to, 100_000).unwrap_or(0);
    while let sent @ 1.. = sys::sendfile(&from, &to, 1 << 20).unwrap() {
        copied += sent;
    }
    assert_eq!(copied, text.len() as i64);
    sys::ftruncate(&to, copied).unwrap();
    sys::fchmod(&to, 0o644).unwrap();
    assert_same(&fs::read(&result).unwrap(), &text, "the copied result");
    assert_eq!(fs::metadata(&result).unwrap().mode() & 0o7777, 0o644);
    // A link inside the bundle works, and a symlink elsewhere leads to a sub-agent's session.
    sys::link(&result, &bundle.join("tool-results/toolu_2.txt")).unwrap();
    let agent = bundle.join("subagents/agent-a1.jsonl");
    fs::write(&agent, line("agent", 0, 3_000)).unwrap();
    std::os::unix::fs::symlink(&agent, mount.outside("output")).unwrap();
    sys::write(
        &append_open(&mount.outside("output"), 0, 0).unwrap(),
        &line("agent", 1, 50),
    )
    .unwrap();
    assert_same(
        &fs::read(&agent).unwrap(),
        &[line("agent", 0, 3_000), line("agent", 1, 50)].concat(),
        "the sub-agent",
    );
    if mount.has_store() {
        let raw = mount.store(format!("-home-user-alpha/{ID}/subagents/agent-a1.jsonl"));
        assert_same(
            &fs::read(raw).unwrap(),
            &fs::read(&agent).unwrap(),
            "bundles are stored as they are",
        );
    }
}

#[test]
fn a_session_rewritten_whole_or_forked_is_the_new_one() {
    let mount = Mount::start("rewrite");
    let (path, want) = sealed_session(&mount);
    let fork = path.with_file_name("f0f0f0f0-0000-4000-8000-000000000002.jsonl");
    for piece in want.chunks(120_000) {
        sys::write(&append_open(&fork, 0, 0o600).unwrap(), piece).unwrap();
    }
    assert_same(&fs::read(&fork).unwrap(), &want, "the fork");
    let half = &want[..want.len() / 2];
    fs::write(&path, half).unwrap();
    assert_same(&fs::read(&path).unwrap(), half, "rewritten with O_TRUNC");
    assert_same(&fs::read(&fork).unwrap(), &want, "the fork is untouched");
}

#[test]
fn cd_moves_a_session_and_its_bundle_to_another_project() {
    let mut mount = Mount::start("cd");
    let (path, want) = sealed_session(&mount);
    fs::create_dir_all(path.with_extension("").join("subagents")).unwrap();
    fs::write(
        path.with_extension("").join("subagents/agent-1.jsonl"),
        "{}\n",
    )
    .unwrap();
    fs::create_dir(mount.path("-home-user-beta")).unwrap();
    let moved = mount.path(format!("-home-user-beta/{ID}.jsonl"));
    let fd = append_open(&path, 0, 0).unwrap();
    fs::rename(&path, &moved).unwrap();
    fs::rename(path.with_extension(""), moved.with_extension("")).unwrap();
    sys::write(&fd, b"written after the move\n").unwrap();
    drop(fd);
    let want = [want.as_slice(), b"written after the move\n"].concat();
    for _ in 0..2 {
        assert_same(&fs::read(&moved).unwrap(), &want, "the moved session");
        assert_eq!(
            fs::read(moved.with_extension("").join("subagents/agent-1.jsonl")).unwrap(),
            b"{}\n"
        );
        assert!(!path.exists() && !path.with_extension("").exists());
        mount.remount();
    }
    fs::remove_dir(mount.path("-home-user-alpha")).expect("the left project is empty");
}

#[test]
fn a_session_that_changes_its_kind_by_name_stays_the_same_file() {
    let mount = Mount::start_unsealing("kinds");
    let (path, want) = sealed_session(&mount);
    let fd = sys::open(&path, libc::O_RDWR | libc::O_APPEND, 0).unwrap();
    let held = || fs::File::from(fd.try_clone().unwrap()).metadata().unwrap();
    let inode = held().ino();
    let mut size = want.len() as u64;
    let mut now = path.clone();
    for name in [
        "session.bak",
        "again.jsonl",
        "other.txt",
        "last.jsonl",
        "end.txt",
    ] {
        let next = path.with_file_name(name);
        fs::rename(&now, &next).unwrap();
        now = next;
        mount.seal_and_wait();
        let listed = common::entries(path.parent().unwrap());
        assert_eq!(listed, [now.clone()], "one name");
        assert_eq!(
            fs::metadata(&now).unwrap().ino(),
            inode,
            "{name}: the inode number"
        );
        assert_eq!(held().ino(), inode, "{name}: the descriptor's");
        sys::write(&fd, b"more\n").unwrap();
        size += 5;
        assert_eq!(
            fs::metadata(&now).unwrap().len(),
            size,
            "{name}: a write is seen by name"
        );
        assert_eq!(
            fs::read(&now).unwrap().len() as u64,
            size,
            "{name}: and read"
        );
    }
    fs::remove_file(&now).unwrap();
    assert_eq!(
        (held().len(), held().nlink()),
        (size, 0),
        "the descriptor outlives the name"
    );
    assert_eq!(sys::pread(&fd, 5, size as i64 - 5).unwrap(), b"more\n");
}

#[test]
fn compressing_and_changing_form_move_no_time_of_the_directory() {
    let mount = Mount::start_unsealing("dirtime");
    let project = mount.path("-p");
    fs::create_dir(&project).unwrap();
    let path = project.join("session.jsonl");
    fs::write(&path, line("t", 0, 50_000)).unwrap();
    // Seen in the store, where no attribute is cached.
    let shown = if mount.has_store() {
        mount.store("-p")
    } else {
        project.clone()
    };
    let modified = || fs::metadata(&shown).unwrap().modified().unwrap();
    let before = modified();
    mount.seal_and_wait();
    assert_eq!(modified(), before, "sealed");
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.write_at(b"X", 100).unwrap();
    assert_eq!(modified(), before, "overwritten in the middle");
    file.set_len(1_000).unwrap();
    mount.seal_and_wait();
    file.set_len(500).unwrap();
    assert_eq!(modified(), before, "cut");
    fs::write(project.join("other"), "").unwrap();
    assert!(modified() > before, "a new name");
}
