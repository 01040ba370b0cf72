//! What scripts and hands get from the command line: texts, exit codes, complaints.

mod cellar;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;

use cellar::{Home, Ran};

#[test]
fn help_and_version_go_to_stdout() {
    let home = Home::new();
    for line in ["help", "--help", "-h"] {
        let overview = home.run(line).ends(0);
        assert!(overview.out.starts_with("Keeps Claude Code sessions"));
        assert_eq!(overview.err, "");
    }
    for command in [
        "mount",
        "umount",
        "status",
        "list",
        "compress",
        "decompress",
        "verify",
        "log",
    ] {
        let by_option = home.run(&format!("{command} --help")).ends(0).out;
        let by_topic = home.run(&format!("help {command}")).ends(0).out;
        assert_eq!(by_option, by_topic);
        assert!(by_option.contains(&format!("Usage: claude-cellar {command}")));
    }
    let version = concat!("claude-cellar ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(home.run("--version").ends(0).out, version);
    assert_eq!(home.run("-V").ends(0).out, version);
}

#[test]
fn packages_get_the_service_that_install_would_write() {
    let home = Home::new();
    let unit = home.run("help --unit /usr/bin/claude-cellar").ends(0).out;
    let text = claude_cellar::unit::text("/usr/bin/claude-cellar".as_ref(), &[]);
    assert_eq!(Ok(unit), text);
    home.run("help --unit").ends(2).complains(&["--unit"]);
}

#[test]
fn wrong_usage_is_2_with_one_line_that_helps() {
    let home = Home::new();
    for (line, hint) in [
        ("", "claude-cellar help"),
        ("moutn", "did you mean mount?"),
        ("mount --forground", "did you mean --foreground?"),
        ("mount --store-dir", "--store-dir"),
        ("status --verbose", "claude-cellar help status"),
        ("compress", "FILE"),
        ("umount here", "here"),
        ("log --tail x", "x is not a whole number"),
        ("help nothing-like-it", "claude-cellar help"),
    ] {
        let ran = home.run(line).ends(2);
        assert_eq!(ran.out, "");
        ran.complains(&[hint]);
    }
}

#[test]
fn a_bad_variable_is_wrong_usage_and_named() {
    let home = Home::new();
    for (name, value) in [
        ("CLAUDE_CELLAR_SEAL_AFTER", "abc"),
        ("CLAUDE_CELLAR_MAX_FDS", "0"),
        ("CLAUDE_CELLAR_BUNDLES", "zip"),
        ("CLAUDE_CELLAR_LOG", "loud"),
    ] {
        let output = home.command(["mount"]).env(name, value).output().unwrap();
        Ran::from(output).ends(2).complains(&[name, value]);
    }
    let output = home
        .command(["status"])
        .env_remove("HOME")
        .output()
        .unwrap();
    Ran::from(output).ends(2).complains(&["HOME"]);
}

#[test]
fn a_name_that_is_not_text_is_no_reason_to_panic() {
    let home = Home::new();
    let name = OsStr::from_bytes(b"caf\xe9");
    let output = home.command([name]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let output = home
        .command([OsStr::new("umount"), OsStr::new("--mount-dir"), name])
        .output();
    assert_eq!(output.unwrap().status.code(), Some(3));
}

#[test]
fn a_reader_that_has_gone_is_no_reason_to_panic() {
    let home = Home::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let child = home
        .command(["help"])
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(Ran::from(child.wait_with_output().unwrap()).err, "");
}

#[test]
fn a_full_disk_is_told() {
    let home = Home::new();
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = home.command(["help"]).stdout(full).output().unwrap();
    Ran::from(output)
        .ends(1)
        .complains(&["cannot write the output"]);
}

#[test]
fn status_without_a_mount_counts_the_store_and_is_3() {
    let home = Home::new();
    let store = home.dir.join(".local/share/claude-cellar/store");
    fs::create_dir_all(store.join("-p/u/subagents")).unwrap();
    fs::create_dir_all(store.join(".cellar/recovered")).unwrap();
    fs::write(store.join("-p/a.jsonl.zst"), [0; 10]).unwrap();
    fs::write(store.join("-p/b.jsonl"), [0; 5]).unwrap();
    fs::write(store.join("-p/b.jsonl.zst"), [0; 2]).unwrap();
    fs::write(store.join("-p/u/subagents/c.jsonl"), [0; 100]).unwrap();
    fs::write(store.join("-p/notes.md"), [0; 100]).unwrap();
    fs::write(store.join(".cellar/recovered/x"), "x").unwrap();

    let json = home.run("status --json").ends(3).out;
    for field in [
        r#""mounted":false"#,
        r#""alive":false"#,
        r#""pid":null"#,
        r#""sessions":2"#,
        r#""stored_bytes":17"#,
        r#""recovered":1"#,
    ] {
        assert!(json.contains(field), "no {field} in {json}");
    }
    let text = home.run("status").ends(3).out;
    assert!(text.contains("not mounted"));
    assert!(text.contains("stored as 17 B"));
    assert!(text.contains("recovered"));
}

#[test]
fn log_without_a_log_says_so() {
    let home = Home::new();
    home.run("log")
        .ends(1)
        .complains(&["cellar.log", "none yet"]);
}

#[test]
fn log_shows_the_last_lines() {
    let home = Home::new();
    let dir = home.dir.join(".local/state/claude-cellar");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("cellar.log.1"), "one\ntwo\n").unwrap();
    fs::write(dir.join("cellar.log"), "three\n").unwrap();
    assert_eq!(home.run("log").ends(0).out, "one\ntwo\nthree\n");
    assert_eq!(home.run("log --tail 2").ends(0).out, "two\nthree\n");
}
