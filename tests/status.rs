//! What `status` answers to "is all well?".

mod common;

use claude_cellar::frames::TRAILER;
use common::{Mount, json_number, line};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

fn text(mount: &Mount) -> String {
    String::from_utf8(mount.run(&["status"]).stdout).unwrap()
}

fn json(mount: &Mount) -> String {
    String::from_utf8(mount.run(&["status", "--json"]).stdout).unwrap()
}

#[track_caller]
fn told(mount: &Mount, field: &str, value: u64) {
    let json = json(mount);
    assert_eq!(json_number(&json, field), Some(value), "{field} in {json}");
}

fn append(path: &Path, bytes: &[u8]) {
    let mut options = File::options();
    let mut file = options.create(true).append(true).open(path).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn what_waits_is_counted_raw_and_unsealed() {
    let mount = Mount::start_unsealing("status-waiting");
    if !mount.has_store() {
        return;
    }
    fs::create_dir_all(mount.path("p/u/subagents")).unwrap();
    append(&mount.path("p/a.jsonl"), &line("a", 0, 3_000));
    fs::write(mount.store("p/b.jsonl"), [b'b'; 5_000]).unwrap();
    fs::write(mount.path("p/u/subagents/agent-1.jsonl"), [b'c'; 700]).unwrap();
    // A new session is a sealed empty one: its first trailer does not wait.
    let stored = fs::metadata(mount.store("p/a.jsonl.zst")).unwrap().len() - TRAILER;
    told(&mount, "unsealed", 2);
    told(&mount, "unsealed_bytes", stored + 5_000);
    told(&mount, "raw", 1);
    told(&mount, "raw_bytes", 5_000);
    let answer = text(&mount);
    assert!(
        answer.contains("\nwaiting     1 to be compressed, 4.9 KiB; 1 to be sealed, "),
        "{answer}"
    );
    assert!(answer.ends_with("\nall is well\n"), "{answer}");

    mount.seal_and_wait();
    told(&mount, "unsealed_bytes", 0);
    assert!(text(&mount).contains("\nwaiting     none\n"));

    // Of a sealed session only what came after waits.
    append(&mount.path("p/a.jsonl"), &line("a", 1, 300));
    let now = fs::metadata(mount.store("p/a.jsonl.zst")).unwrap().len();
    let json = json(&mount);
    assert!(
        json_number(&json, "unsealed_bytes").is_some_and(|bytes| bytes > 0 && bytes < now / 2),
        "{json}"
    );

    let mount = mount.env("CLAUDE_CELLAR_BUNDLES", "compress");
    told(&mount, "raw_bytes", 700);
}

#[test]
fn a_store_without_room_for_what_waits_is_warned_of() {
    let mut mount = Mount::prepare("status-full")
        .seal_after(86_400)
        .on_tmpfs(32 << 20);
    if !mount.has_store() {
        return;
    }
    mount.mount();
    fs::create_dir(mount.store("p")).unwrap();
    let warned = || {
        let answer = text(&mount);
        let warned = answer.contains("\nwarning     the store's file system is nearly full; ");
        let json = json(&mount);
        assert!(json.contains(&format!("\"low_space\":{warned}")), "{json}");
        assert_ne!(warned, answer.ends_with("\nall is well\n"), "{answer}");
        warned
    };
    assert!(!warned());
    fs::write(mount.store("p/a.jsonl"), vec![b'a'; 12 << 20]).unwrap();
    assert!(warned(), "12 of 32 MiB wait and 20 are free");
    fs::remove_file(mount.store("p/a.jsonl")).unwrap();
    assert!(!warned());
    fs::write(mount.store("filler"), vec![0; 31 << 20]).unwrap();
    assert!(warned(), "1 of 32 MiB is free");
}

#[test]
fn a_daemon_of_another_build_is_to_be_restarted() {
    let mut mount = Mount::prepare("status-outdated");
    if !mount.has_store() {
        return;
    }
    let binary = Path::new(env!("CARGO_BIN_EXE_claude-cellar"));
    let installed = mount.outside("claude-cellar");
    fs::copy(binary, &installed).unwrap();
    mount.mount();
    let outdated = |mount: &Mount| {
        let run = |json: &[&str]| {
            let mut command = mount.command_of(&installed);
            let output = command.arg("status").args(json).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let (answer, json) = (run(&[]), run(&["--json"]));
        let warned = answer.contains("\nwarning     the daemon runs another build");
        assert!(json.contains(&format!("\"outdated\":{warned}")), "{json}");
        assert_ne!(warned, answer.ends_with("\nall is well\n"), "{answer}");
        warned
    };
    assert!(!outdated(&mount), "a copy is the same build");

    // An update puts another file in the old one's place.
    let update = mount.outside("update");
    fs::copy(binary, &update).unwrap();
    append(&update, b"newer");
    fs::rename(&update, &installed).unwrap();
    assert!(outdated(&mount));
    mount.sigterm();
    let down = mount.command_of(&installed).arg("status").output().unwrap();
    assert!(!String::from_utf8(down.stdout).unwrap().contains("build"));
}

#[test]
fn deleted_sessions_that_are_kept_are_counted() {
    let mount = Mount::prepare("status-deleted");
    told(&mount, "trash", 0);
    assert!(!text(&mount).contains("trash"));
    for (time, name) in [
        ("17", "a.jsonl.zst"),
        ("17", "b.jsonl"),
        ("18.1", "a.jsonl.zst"),
    ] {
        let dir = mount.store(".cellar/trash").join(time).join("-p");
        fs::create_dir_all(dir.join("u")).unwrap();
        fs::write(dir.join(name), "x").unwrap();
        fs::write(dir.join("u/notes.txt"), "x").unwrap();
    }
    told(&mount, "trash", 3);
    assert!(text(&mount).contains("\ntrash       3 deleted sessions; see "));
    told(&mount, "sessions", 0);
}

#[test]
fn a_session_of_an_older_release_does_not_wait() {
    let mount = Mount::prepare("status-foreign");
    fs::create_dir(mount.store("p")).unwrap();
    let session = common::foreign::old_release(&[b'a'; 4_000]);
    fs::write(mount.store("p/a.jsonl.zst"), &session).unwrap();
    told(&mount, "unsealed", 0);
    told(&mount, "original_bytes", 4_000);
    fs::write(
        mount.store("p/b.jsonl.zst"),
        [&session[..], &session].concat(),
    )
    .unwrap();
    told(&mount, "unsealed", 1);
    told(&mount, "original_bytes", 12_000);
}
