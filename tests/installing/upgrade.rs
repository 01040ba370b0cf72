//! Taking over from 0.3.0: its store, its mount, its scratch directory, its process.

use super::trees::{Tree, assert_same, tree};
use super::{SESSION, put, run_with, store, unmount};
use crate::cellar::{Home, Ran, mounted};
use crate::common::foreign::old_release;
use crate::common::sys;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const INSTALL: &str = "install --no-systemd";

fn line(id: &str, n: usize) -> String {
    format!("{{\"type\":\"user\",\"sessionId\":\"{id}\",\"n\":{n}}}\n")
}

fn lines(id: &str, range: std::ops::Range<usize>) -> String {
    range.map(|n| line(id, n)).collect()
}

/// A session in the store as 0.3.0 leaves it.
fn stored(home: &Home, name: &str, data: &str, seconds: i64) {
    let path = store(home).join(name);
    put(
        &path.with_extension("jsonl.zst"),
        old_release(data.as_bytes()),
    );
    let meta = [
        &(data.len() as u64).to_le_bytes()[..],
        &seconds.to_le_bytes(),
        &[7; 32],
    ];
    put(&path.with_extension("jsonl.meta"), meta.concat());
}

fn scratch(home: &Home) -> PathBuf {
    home.dir.join("run/claude-cellar/scratch")
}

/// What is seen at a path of the mount.
fn seen(home: &Home, name: &str) -> String {
    fs::read_to_string(home.mount_dir().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn recovered(home: &Home) -> Tree {
    tree(&store(home).join(".cellar/recovered"))
}

#[test]
fn copies_that_a_killed_0_3_left_are_merged_into_their_sessions() {
    let home = Home::new();
    let other = SESSION.replace('1', "2");
    stored(
        &home,
        &format!("-p/{SESSION}.jsonl"),
        &lines(SESSION, 0..50),
        1_600_000_000,
    );
    stored(
        &home,
        &format!("-q/{other}.jsonl"),
        &lines(&other, 0..5),
        1_600_000_001,
    );
    put(
        &scratch(&home).join("fd-999999-3-17.jsonl"),
        lines(SESSION, 0..60),
    );
    // The last line was cut by the end.
    put(
        &scratch(&home).join("fd-999999-4-18.jsonl"),
        lines(&other, 0..7) + "{\"half",
    );
    let told = home.run(INSTALL).ends(0).out;
    assert!(told.contains("2 sessions merged"), "{told}");
    assert_eq!(
        seen(&home, &format!("-p/{SESSION}.jsonl")),
        lines(SESSION, 0..60)
    );
    assert_eq!(
        seen(&home, &format!("-q/{other}.jsonl")),
        lines(&other, 0..7) + "{\"half"
    );
    assert_eq!(fs::read_dir(scratch(&home)).unwrap().count(), 0);
    assert_eq!(recovered(&home), Tree::new());
}

#[test]
fn a_session_that_went_on_after_the_copy_was_orphaned_has_both_ends() {
    let home = Home::new();
    let name = format!("-p/{SESSION}.jsonl");
    let went_on = lines(SESSION, 0..5) + &lines(SESSION, 10..12);
    stored(&home, &name, &went_on, 1_600_000_000);
    put(
        &scratch(&home).join("fd-999999-3-17.jsonl"),
        lines(SESSION, 0..7),
    );
    home.run(INSTALL).ends(0);
    assert_eq!(seen(&home, &name), went_on + &lines(SESSION, 5..7));
}

#[test]
fn a_sub_agent_s_copy_is_not_merged_into_the_session_it_names() {
    let home = Home::new();
    let agent = |n: usize| {
        format!(
            "{{\"isSidechain\":true,\"sessionId\":\"{SESSION}\",\"agentId\":\"3430b97e\",\"n\":{n}}}\n"
        )
    };
    let agents: String = (0..4).map(agent).collect();
    stored(
        &home,
        &format!("-p/{SESSION}.jsonl"),
        &lines(SESSION, 0..3),
        1_600_000_000,
    );
    stored(&home, "-p/agent-3430b97e.jsonl", &agent(0), 1_600_000_000);
    put(&scratch(&home).join("fd-999999-3-17.jsonl"), &agents);
    // One whose file never came to be is kept, and the session is not touched.
    let lost = agents.replace("3430b97e", "388fb764");
    put(&scratch(&home).join("fd-999999-3-18.jsonl"), &lost);
    home.run(INSTALL).ends(0);
    assert_eq!(
        seen(&home, &format!("-p/{SESSION}.jsonl")),
        lines(SESSION, 0..3)
    );
    assert_eq!(seen(&home, "-p/agent-3430b97e.jsonl"), agents);
    let kept: Vec<_> = recovered(&home)
        .into_values()
        .map(|entry| entry.bytes)
        .collect();
    assert!(kept.contains(&lost.into_bytes()), "{kept:?}");
}

#[test]
fn a_copy_that_belongs_to_nothing_is_kept() {
    let home = Home::new();
    for (n, text) in [
        lines("unknown", 0..3),
        "no session at all\n".into(),
        "\u{0}".repeat(99),
    ]
    .iter()
    .enumerate()
    {
        put(
            &scratch(&home).join(format!("fd-999999-{n}-17.jsonl")),
            text,
        );
    }
    put(&scratch(&home).join("fd-999999-9-17.jsonl"), "");
    let told = home.run(INSTALL).ends(0).out;
    assert_eq!(fs::read_dir(scratch(&home)).unwrap().count(), 0, "{told}");
    let kept: Vec<_> = recovered(&home)
        .into_values()
        .map(|entry| entry.bytes)
        .collect();
    assert!(
        kept.contains(&lines("unknown", 0..3).into_bytes()),
        "{kept:?}"
    );
    assert!(kept.contains(&b"no session at all\n".to_vec()), "{kept:?}");
}

#[test]
fn other_files_of_the_scratch_directory_stay() {
    let home = Home::new();
    for name in ["notes.jsonl", "fd-x-1-2.jsonl", "fd-999999-1-2.txt"] {
        put(&scratch(&home).join(name), "{}\n");
    }
    let before = tree(&scratch(&home));
    home.run(INSTALL).ends(0);
    assert_same(&tree(&scratch(&home)), &before, "scratch");
}

/// Without XDG_RUNTIME_DIR 0.3.0 keeps its copies in the temporary directory.
#[test]
fn copies_in_the_temporary_directory_are_found_too() {
    let home = Home::new();
    let name = format!("-p/{SESSION}.jsonl");
    stored(&home, &name, &lines(SESSION, 0..5), 1_600_000_000);
    let copy = home
        .dir
        .join("tmp/claude-cellar-scratch/fd-999999-3-17.jsonl");
    put(&copy, lines(SESSION, 0..9));
    let temporary = home.dir.join("tmp");
    run_with(&home, INSTALL, &[("TMPDIR", &temporary)]).ends(0);
    assert_eq!(seen(&home, &name), lines(SESSION, 0..9));
    assert!(!copy.exists());
}

/// A stand-in for the daemon of 0.3.0: the same name, the same mount table entry, its pid file. Its mount is
/// a bare kernel session that nobody answers but for the unmount.
struct Old {
    process: Child,
}

impl Old {
    /// Runs until its mount has ended and then for a while.
    fn start(home: &Home, pid_file: &Path, store: Option<&Path>) -> Old {
        fs::create_dir_all(home.mount_dir()).unwrap();
        let script = "
import os, sys, ctypes, struct, select, time
point, ready, pid = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(15, b'claude-cellar', 0, 0, 0)
fd = os.open('/dev/fuse', os.O_RDWR)
options = f'fd={fd},rootmode=40000,user_id=0,group_id=0'.encode()
assert libc.mount(b'claude-cellar', point.encode(), b'fuse', 0, options) == 0, ctypes.get_errno()
open(pid, 'w').write(str(os.getpid()))
def reply(unique, error, data=b''):
    os.write(fd, struct.pack('<IiQ', 16 + len(data), error, unique) + data)
while True:
    try:
        request = os.read(fd, 1 << 20 | 1 << 12)
    except OSError:
        break
    length, opcode, unique = struct.unpack_from('<IIQ', request)
    if opcode == 26:
        reply(unique, 0, struct.pack('<IIIIHHIIHHI28x', 7, 31, 0, 0, 0, 0, 65536, 1, 0, 0, 0))
        open(ready, 'w').close()
    elif opcode == 17:
        reply(unique, 0, struct.pack('<QQQQQIIII24x', 1, 1, 1, 1, 1, 4096, 255, 4096, 0))
    elif opcode == 3:
        reply(unique, 0, struct.pack('<QII', 1, 0, 0) + struct.pack('<QQQQQQIIIIIIIIII', 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0))
    elif opcode in (2, 42):
        pass
    else:
        reply(unique, -38)
time.sleep(0.3)
open(ready + '.ended', 'w').close()
";
        fs::create_dir_all(pid_file.parent().unwrap()).unwrap();
        let ready = home.dir.join("old-ready");
        let mut command = Command::new("python3");
        command
            .args(["-c", script])
            .arg(home.mount_dir())
            .arg(&ready)
            .arg(pid_file);
        command.stdin(Stdio::null());
        command.env_remove("CLAUDE_CELLAR_STORE_DIR");
        command.envs(store.map(|store| ("CLAUDE_CELLAR_STORE_DIR", store)));
        let process = command.spawn().unwrap();
        crate::cellar::within(Duration::from_secs(10), "the old daemon", || ready.exists());
        Old { process }
    }
}

impl Drop for Old {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_running_0_3_is_stopped_when_it_is_idle_and_what_it_hid_is_taken_in() {
    for runtime_dir in [true, false] {
        let home = Home::new();
        let name = format!("-p/{SESSION}.jsonl");
        stored(&home, &name, &lines(SESSION, 0..5), 1_600_000_000);
        // It left this beneath its mount.
        put(&home.mount_dir().join("-p/memory/MEMORY.md"), "hidden\n");
        put(&home.mount_dir().join("-p/sessions-index.json"), "{}");
        let (pid_file, scratch) = match runtime_dir {
            true => (
                home.dir.join("run/claude-cellar/daemon.pid"),
                scratch(&home),
            ),
            false => (
                home.dir.join(".local/state/claude-cellar/daemon.pid"),
                home.dir.join("tmp/claude-cellar-scratch"),
            ),
        };
        let mut old = Old::start(&home, &pid_file, None);
        let copy = scratch.join(format!("fd-{}-3-17.jsonl", old.process.id()));
        put(&copy, lines(SESSION, 0..9));
        assert_eq!(mounted(&home.mount_dir()).as_deref(), Some("fuse"));

        let mut install = home.command(INSTALL.split(' '));
        install.env("TMPDIR", home.dir.join("tmp"));
        if !runtime_dir {
            install.env_remove("XDG_RUNTIME_DIR");
        }
        let install = install
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(700));
        assert_eq!(
            mounted(&home.mount_dir()).as_deref(),
            Some("fuse"),
            "it waits"
        );
        // The old one has compressed it.
        stored(&home, &name, &lines(SESSION, 0..9), 1_600_000_009);
        fs::remove_file(&copy).unwrap();
        let ran = Ran::from(install.wait_with_output().unwrap()).ends(0);
        assert!(
            home.dir.join("old-ready.ended").exists(),
            "waited for its end: {ran:?}"
        );
        assert!(old.process.wait().unwrap().success());
        assert_eq!(
            mounted(&home.mount_dir()).as_deref(),
            Some("fuse.claude-cellar")
        );
        assert_eq!(seen(&home, &name), lines(SESSION, 0..9));
        assert_eq!(seen(&home, "-p/memory/MEMORY.md"), "hidden\n");
        assert_eq!(seen(&home, "-p/sessions-index.json"), "{}");
        let time = fs::metadata(home.mount_dir().join(&name))
            .unwrap()
            .modified()
            .unwrap();
        let time = time.duration_since(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(time, Duration::from_secs(1_600_000_009));
    }
}

#[test]
fn the_store_of_a_running_0_3_is_kept_though_nothing_names_it() {
    let home = Home::new();
    let named = home.dir.join("nfs");
    put(&named.join("-p/s.jsonl.zst"), old_release(b"{\"n\":1}\n"));
    let old = Old::start(
        &home,
        &home.dir.join("run/claude-cellar/daemon.pid"),
        Some(&named),
    );
    home.run(INSTALL).ends(0);
    assert_eq!(seen(&home, "-p/s.jsonl"), "{\"n\":1}\n");
    unmount(&home);
    home.run("mount").ends(0);
    assert_eq!(seen(&home, "-p/s.jsonl"), "{\"n\":1}\n");
    drop(old);
}

#[test]
fn the_dead_mount_of_a_killed_0_3_is_cleared_and_its_copies_recovered() {
    let home = Home::new();
    let name = format!("-p/{SESSION}.jsonl");
    stored(&home, &name, &lines(SESSION, 0..5), 1_600_000_000);
    let mut old = Old::start(&home, &home.dir.join("run/claude-cellar/daemon.pid"), None);
    put(
        &scratch(&home).join(format!("fd-{}-3-17.jsonl", old.process.id())),
        lines(SESSION, 0..9),
    );
    old.process.kill().unwrap();
    old.process.wait().unwrap();
    assert_eq!(sys::errno(&fs::read_dir(home.mount_dir())), libc::ENOTCONN);
    home.run(INSTALL).ends(0);
    assert_eq!(seen(&home, &name), lines(SESSION, 0..9));
}
