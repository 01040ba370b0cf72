//! The commands for directories that are not mounted: list, compress, decompress, archive, verify.

mod cellar;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use cellar::{Home, Ran};
use claude_cellar::frames::Encoder;
use claude_cellar::rewrite::Builder;

/// Lines like a session's, some of them not text.
fn session(lines: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for n in 0..lines {
        let line = format!(
            "{{\"type\":\"user\",\"n\":{n},\"text\":\"{}\"}}\n",
            n * 7919
        );
        bytes.extend(line.as_bytes());
    }
    bytes.extend(b"\xff\xfe half a line");
    bytes
}

fn aged(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(time).unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// What `zstd` makes of a file.
fn zstd(args: &[&str], path: &Path) -> Vec<u8> {
    let output = Command::new("zstd").args(args).arg(path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

/// A directory with one session in it.
fn with_session(home: &Home, bytes: &[u8]) -> (PathBuf, PathBuf) {
    let dir = home.dir.join("p");
    fs::create_dir(&dir).unwrap();
    let path = dir.join("a.jsonl");
    fs::write(&path, bytes).unwrap();
    (dir, path)
}

#[test]
fn a_compressed_session_is_zstd_and_looks_like_the_original() {
    let home = Home::new();
    let bytes = session(1000);
    let (dir, path) = with_session(&home, &bytes);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    aged(&path, 1_700_000_000);
    let ran = home.run("compress p/a.jsonl").ends(0);
    assert!(
        ran.out.starts_with("p/a.jsonl.zst: 39.8 KiB stored as 3"),
        "{}",
        ran.out
    );
    assert_eq!(ran.err, "");
    assert_eq!(names(&dir), ["a.jsonl.zst"]);
    let stored = dir.join("a.jsonl.zst");
    assert_eq!(zstd(&["-dc"], &stored), bytes);
    let meta = fs::metadata(&stored).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o640, 1_700_000_000));

    let ran = home.run("decompress p/a.jsonl.zst").ends(0);
    assert!(ran.out.starts_with("p/a.jsonl: "), "{}", ran.out);
    assert_eq!(names(&dir), ["a.jsonl", "a.jsonl.zst"]);
    assert_eq!(fs::read(&path).unwrap(), bytes);
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o640, 1_700_000_000));
}

#[test]
fn keep_keeps() {
    let home = Home::new();
    let (dir, _) = with_session(&home, b"line\n");
    home.run("compress --keep p/a.jsonl").ends(0);
    assert_eq!(names(&dir), ["a.jsonl", "a.jsonl.zst"]);
    home.run("verify p").ends(0);
}

#[test]
fn an_empty_session_comes_back_empty() {
    let home = Home::new();
    let (dir, path) = with_session(&home, b"");
    home.run("compress p/a.jsonl").ends(0);
    home.run("decompress p/a.jsonl.zst").ends(0);
    assert_eq!(fs::read(path).unwrap(), b"");
    home.run("verify p").ends(0);
    assert_eq!(names(&dir).len(), 2);
}

#[test]
fn nothing_is_overwritten() {
    let home = Home::new();
    let (dir, path) = with_session(&home, b"line\n");
    let stored = dir.join("a.jsonl.zst");
    fs::write(&stored, "precious").unwrap();
    home.run("compress p/a.jsonl")
        .ends(1)
        .complains(&["p/a.jsonl", "a.jsonl.zst is there already"]);
    assert_eq!(fs::read(&stored).unwrap(), b"precious");
    assert_eq!(fs::read(&path).unwrap(), b"line\n");
    fs::remove_file(&stored).unwrap();
    home.run("compress --keep p/a.jsonl").ends(0);
    fs::write(&path, "newer").unwrap();
    for line in [
        "decompress p/a.jsonl.zst",
        "decompress p/a.jsonl.zst p/a.jsonl",
    ] {
        home.run(line)
            .ends(1)
            .complains(&["p/a.jsonl", "never overwritten"]);
    }
    assert_eq!(fs::read(&path).unwrap(), b"newer");
    assert_eq!(names(&dir), ["a.jsonl", "a.jsonl.zst"]);
}

#[test]
fn what_is_no_session_is_refused() {
    let home = Home::new();
    let (dir, path) = with_session(&home, b"line\n");
    fs::write(dir.join("notes.md"), "x").unwrap();
    fs::write(dir.join("b.jsonl.zst"), "not zstd at all").unwrap();
    fs::create_dir(dir.join("d.jsonl")).unwrap();
    symlink("a.jsonl", dir.join("l.jsonl")).unwrap();
    fs::hard_link(&path, dir.join("h.jsonl")).unwrap();
    let before = names(&dir);
    for (line, reason) in [
        ("compress p/notes.md", "does not end in .jsonl"),
        ("compress p/b.jsonl.zst", "compressed already"),
        ("compress p/d.jsonl", "no regular file"),
        ("compress p/l.jsonl", "symbolic link"),
        ("compress p/h.jsonl", "--keep"),
        ("compress p/none.jsonl", "No such file"),
        ("compress /", "names no file"),
        ("decompress p/a.jsonl", "does not end in .jsonl.zst"),
        ("decompress p/b.jsonl.zst", "damaged at offset 0"),
        ("decompress p/none.jsonl.zst", "No such file"),
        ("verify p/notes.md", "neither a directory"),
        ("verify none", "No such file"),
        ("list none", "No such file"),
    ] {
        let ran = home.run(line).ends(1);
        ran.complains(&[line.split(' ').nth(1).unwrap(), reason]);
        assert_eq!(ran.out, "");
    }
    assert_eq!(names(&dir), before);
}

#[test]
fn a_name_too_long_for_the_suffix_is_told() {
    let home = Home::new();
    let (dir, _) = with_session(&home, b"");
    let name = format!("{}.jsonl", "x".repeat(249));
    fs::write(dir.join(&name), "x").unwrap();
    let ran = home.run(&format!("compress p/{name}")).ends(1);
    ran.complains(&["too long"]);
    assert!(dir.join(name).exists());
}

#[test]
fn foreign_zstd_files_are_decompressed() {
    let home = Home::new();
    let bytes = session(500);
    let (dir, path) = with_session(&home, &bytes);
    let one = zstd(&["-c", "--no-check"], &path);
    let piped = home
        .shell("cat p/a.jsonl | zstd -c")
        .output()
        .unwrap()
        .stdout;
    fs::write(dir.join("b.jsonl.zst"), [&one[..], &piped].concat()).unwrap();
    home.run("decompress p/b.jsonl.zst out").ends(0);
    let twice = [&bytes[..], &bytes].concat();
    assert_eq!(fs::read(home.dir.join("out")).unwrap(), twice);
    home.run("verify p").ends(0);
    let list = home.run("list p").ends(0).out;
    assert!(list.contains("b.jsonl"), "{list}");
    assert!(!list.contains('?'), "{list}");

    // Half a file must not look like a whole one.
    fs::write(dir.join("c.jsonl.zst"), &one[..one.len() / 2]).unwrap();
    let ran = home.run("decompress p/c.jsonl.zst").ends(1);
    ran.complains(&["c.jsonl.zst", "damaged at offset 0", "zstd -dc"]);
    assert!(!dir.join("c.jsonl").exists());
}

#[test]
fn list_is_a_table_of_sessions_newest_first() {
    let home = Home::new();
    let (dir, path) = with_session(&home, &[b'a'; 2048]);
    aged(&path, 1_700_000_000);
    fs::create_dir_all(dir.join("u/deeper")).unwrap();
    for (name, seconds) in [("u/b.jsonl", 1_800_000_000), ("u/deeper/c.jsonl", 0)] {
        fs::write(dir.join(name), [b'b'; 1000]).unwrap();
        aged(&dir.join(name), seconds);
    }
    fs::write(dir.join("notes.md"), "x").unwrap();
    symlink("u", dir.join("link")).unwrap();
    symlink("a.jsonl", dir.join("l.jsonl")).unwrap();
    let expected = "  ORIGINAL      STORED    RATIO  MODIFIED (UTC)    NAME
    1000 B      1000 B     1.0x  2027-01-15 08:00  u/b.jsonl
   2.0 KiB     2.0 KiB     1.0x  2023-11-14 22:13  a.jsonl
   3.0 KiB     3.0 KiB     1.0x                    TOTAL of 2 sessions
";
    assert_eq!(home.run("list p").ends(0).out, expected);
    home.run("compress p/a.jsonl").ends(0);
    let compressed = home.run("list p").ends(0).out;
    let line = compressed.lines().nth(2).unwrap();
    assert!(line.starts_with("   2.0 KiB ") && line.ends_with("2023-11-14 22:13  a.jsonl"));
}

#[test]
fn a_name_that_is_not_text_is_listed() {
    use std::os::unix::ffi::OsStrExt;
    let home = Home::new();
    let (dir, _) = with_session(&home, b"");
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9.jsonl");
    fs::write(dir.join(name), "x").unwrap();
    assert!(home.run("list p").ends(0).out.contains("caf\u{fffd}.jsonl"));
    let output = home.command(["compress".as_ref(), dir.join(name).as_os_str()]);
    Ran::from({ output }.output().unwrap()).ends(0);
    assert!(home.run("verify p").ends(0).out.ends_with("sound\n"));
}

/// A directory of two projects with four sessions, the oldest first in the order of their names.
fn projects(home: &Home) -> PathBuf {
    let dir = home.dir.join("d");
    for project in ["p", "q/u/subagents"] {
        fs::create_dir_all(dir.join(project)).unwrap();
    }
    let sessions = ["p/1.jsonl", "q/2.jsonl", "3.jsonl", "p/4.jsonl"];
    for (n, name) in sessions.iter().enumerate() {
        fs::write(dir.join(name), session(100 * (n + 1))).unwrap();
        aged(&dir.join(name), 1_700_000_000 + n as u64);
    }
    for other in ["q/u/subagents/agent-1.jsonl", "p/notes.md"] {
        fs::write(dir.join(other), "x\n").unwrap();
        aged(&dir.join(other), 1_600_000_000);
    }
    dir
}

#[test]
fn archive_compresses_all_but_the_newest_of_the_whole_directory() {
    let home = Home::new();
    let dir = projects(&home);
    let before = home.run("list d").ends(0).out;

    let dry = home.run("archive d --keep 2 --dry-run").ends(0).out;
    assert_eq!(
        dry,
        "d/p/1.jsonl: 3.8 KiB\nd/q/2.jsonl: 7.8 KiB\nwould compress 2 sessions, 11.6 KiB\n"
    );
    assert_eq!(home.run("list d").ends(0).out, before);

    // Five are left alone unless it is said otherwise.
    let none = home.run("archive d").ends(0).out;
    assert_eq!(none, "nothing to compress\n");

    let ran = home.run("archive d --keep 2").ends(0);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines.len(), 3, "{ran:?}");
    assert!(lines[0].starts_with("d/p/1.jsonl.zst: 3.8 KiB stored as "));
    assert!(lines[1].starts_with("d/q/2.jsonl.zst: 7.8 KiB stored as "));
    assert!(lines[2].starts_with("compressed 2 sessions, 11.6 KiB stored as "));
    assert_eq!(
        names(&dir.join("p")),
        ["1.jsonl.zst", "4.jsonl", "notes.md"]
    );
    assert_eq!(names(&dir.join("q")), ["2.jsonl.zst", "u"]);
    assert_eq!(names(&dir.join("q/u/subagents")), ["agent-1.jsonl"]);
    assert_eq!(zstd(&["-dc"], &dir.join("p/1.jsonl.zst")), session(100));

    // The newest are the same two, whatever was done before.
    let again = home.run("archive d --keep 2").ends(0).out;
    assert_eq!(again, "nothing to compress\n");
    home.run("archive d --keep 0").ends(0);
    assert_eq!(names(&dir), ["3.jsonl.zst", "p", "q"]);
}

#[test]
fn a_session_that_cannot_be_archived_does_not_stop_the_others() {
    let home = Home::new();
    let dir = projects(&home);
    fs::write(dir.join("p/1.jsonl.zst"), "precious").unwrap();
    let ran = home.run("archive d --keep 0").ends(1);
    ran.complains(&["cannot compress: d/p/1.jsonl: ", "is there already"]);
    assert_eq!(ran.out.lines().count(), 4, "{ran:?}");
    let total = ran.out.lines().last().unwrap();
    assert!(total.starts_with("compressed 3 sessions, ") && total.ends_with("; 1 not compressed"));
    assert_eq!(fs::read(dir.join("p/1.jsonl")).unwrap(), session(100));
    assert_eq!(fs::read(dir.join("p/1.jsonl.zst")).unwrap(), b"precious");
    assert_eq!(names(&dir), ["3.jsonl.zst", "p", "q"]);

    home.run("archive none")
        .ends(1)
        .complains(&["cannot archive: none: ", "No such file"]);
}

/// A store with a session of several sealed frames; returns it and the session's bytes.
fn store(home: &Home) -> (PathBuf, Vec<u8>) {
    let bytes = session(2000);
    let store = home.dir.join(".local/share/claude-cellar/store");
    fs::create_dir_all(store.join(".cellar/recovered")).unwrap();
    fs::create_dir(store.join("-p")).unwrap();
    let mut options = File::options();
    let file = options.read(true).write(true).create_new(true);
    let file = file.open(store.join("-p/a.jsonl.zst")).unwrap();
    let (mut builder, mut encoder) = (Builder::new(&file), Encoder::new(1).unwrap());
    for part in bytes.chunks(30_000) {
        builder.add(&mut encoder, part).unwrap();
    }
    builder.seal().unwrap();
    (store, bytes)
}

#[test]
fn verify_names_file_and_offset_and_goes_on() {
    let home = Home::new();
    let (store, bytes) = store(&home);
    let stored = store.join("-p/a.jsonl.zst");
    let size = fs::metadata(&stored).unwrap().len();
    fs::create_dir_all(store.join("-p/u/subagents")).unwrap();
    fs::write(store.join("-p/u/subagents/z.jsonl"), "raw\n").unwrap();
    let ran = home.run("verify").ends(0);
    assert!(ran.out.starts_with("2 sessions, ") && ran.out.ends_with(": sound\n"));

    // The first of the frames; what is behind it stays whole.
    let whole = fs::read(&stored).unwrap();
    let file = File::options().write(true).open(&stored).unwrap();
    file.write_all_at(b"\x00\x00\x00\x00", 1000).unwrap();
    fs::write(store.join(".cellar/recovered/x"), "x").unwrap();
    let ran = home.run("verify").ends(1);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines.len(), 3, "{}", ran.out);
    let start = format!("{}: damaged at offset 0: ", stored.display());
    assert!(lines[0].starts_with(&start), "{}", ran.out);
    assert!(lines[1].starts_with("2 sessions, ") && lines[1].ends_with(": 1 finding"));
    assert_eq!(lines[2], "1 file to look at in .cellar/recovered");
    assert_eq!(ran.err, "");

    let json = home.run("verify --json").ends(1).out;
    let original = bytes.len() + 4;
    let stored_bytes = size + 4;
    let start = format!(
        "{{\"files\":2,\"original_bytes\":{original},\"stored_bytes\":{stored_bytes},\
         \"recovered\":1,\"findings\":[{{\"path\":\"{}\",\"offset\":0,\"what\":\"",
        stored.display()
    );
    assert!(
        json.starts_with(&start) && json.ends_with("\"}]}\n"),
        "{json}"
    );
    home.run("decompress .local/share/claude-cellar/store/-p/a.jsonl.zst out")
        .ends(1)
        .complains(&["damaged"]);
    assert!(!home.dir.join("out").exists());

    // Of a single file, as well as of the directory.
    let path = stored.display();
    home.run(&format!("verify {path}")).ends(1);
    fs::write(&stored, &whole).unwrap();
    home.run(&format!("verify {path}")).ends(0);
    home.run(&format!("verify {}", store.join("-p/a.jsonl").display()))
        .ends(0);
}

#[test]
fn verify_tells_torn_from_damaged() {
    let home = Home::new();
    let (store, _) = store(&home);
    let stored = store.join("-p/a.jsonl.zst");
    let whole = fs::read(&stored).unwrap();
    let size = whole.len();
    let with = |bytes: &[u8]| {
        fs::write(&stored, bytes).unwrap();
        let ran = home.run("verify").ends(1);
        let first = ran.out.lines().next().unwrap();
        first.split_once(": ").unwrap().1.to_owned()
    };
    assert_eq!(
        with(&[&whole[..], b"half an append"].concat()),
        format!("torn append at offset {size}, 14 bytes: readers see the file up to there")
    );
    // A size in the seek table that is not the frame's.
    let mut wrong = whole.clone();
    let entry = size - 9 - 8 + 4;
    wrong[entry] ^= 1;
    let told = with(&wrong);
    assert!(
        told.ends_with("seek table disagrees with the frames"),
        "{told}"
    );
    let mut wrong = whole.clone();
    wrong[size - 1] ^= 1;
    assert!(with(&wrong).contains("seek table is damaged"));
    // Nothing that was ever a session is no torn append.
    let told = with(b"no zstd");
    assert!(told.starts_with("damaged at offset 0"), "{told}");
}

#[test]
fn verify_compares_two_forms() {
    let home = Home::new();
    let (store, bytes) = store(&home);
    fs::write(store.join("-p/a.jsonl"), &bytes).unwrap();
    let ran = home.run("verify").ends(0);
    assert!(ran.out.starts_with("1 session, "));
    fs::write(store.join("-p/a.jsonl"), &bytes[1..]).unwrap();
    let ran = home.run("verify").ends(1);
    assert!(
        ran.out
            .contains("a.jsonl.zst: damaged at offset 0: differs from a.jsonl beside it")
    );
}

#[test]
fn verify_changes_nothing() {
    let home = Home::new();
    let (store, _) = store(&home);
    let stored = store.join("-p/a.jsonl.zst");
    let bytes = fs::read(&stored).unwrap();
    let torn = [&bytes[..], b"torn"].concat();
    fs::write(&stored, &torn).unwrap();
    let before = fs::metadata(&stored).unwrap();
    home.run("verify").ends(1);
    let after = fs::metadata(&stored).unwrap();
    assert_eq!(before.ctime_nsec(), after.ctime_nsec());
    assert_eq!(fs::read(&stored).unwrap(), torn);
    assert_eq!(names(&store), ["-p", ".cellar"]);
    assert_eq!(names(&store.join(".cellar")), ["recovered"]);
}

#[test]
fn inside_a_mount_there_is_nothing_to_compress() {
    let home = Home::new();
    home.run("mount").ends(0);
    let project = home.mount_dir().join("-p");
    fs::create_dir(&project).unwrap();
    let path = project.join("a.jsonl");
    fs::write(&path, session(10)).unwrap();
    for line in ["compress", "compress --keep"] {
        home.run(&format!("{line} {}", path.display()))
            .ends(1)
            .complains(&["a.jsonl", "already in the cellar"]);
    }
    for dir in [&home.mount_dir(), &project] {
        home.run(&format!("archive --keep 0 {}", dir.display()))
            .ends(1)
            .complains(&[&dir.to_string_lossy(), "already in the cellar"]);
    }
    home.run(&format!("decompress {}.zst", path.display()))
        .ends(1)
        .complains(&["already in the cellar"]);
    assert_eq!(names(&project), ["a.jsonl"]);
    let list = home.run(&format!("list {}", home.mount_dir().display()));
    assert!(list.ends(0).out.contains("-p/a.jsonl"));
    let out = home.dir.join("b.jsonl");
    fs::write(&out, "x\n").unwrap();
    home.run("compress b.jsonl").ends(0);
    home.run(&format!(
        "decompress b.jsonl.zst {}",
        project.join("b.jsonl").display()
    ))
    .ends(1)
    .complains(&["lies in the cellar"]);
    home.run("umount").ends(0);
}

#[test]
fn verify_runs_beside_a_daemon_that_writes() {
    use std::io::Write;
    let home = Home::new();
    let mount = home
        .command(["mount"])
        .env("CLAUDE_CELLAR_SEAL_AFTER", "1")
        .output();
    Ran::from(mount.unwrap()).ends(0);
    let project = home.mount_dir().join("-p");
    fs::create_dir(&project).unwrap();
    let path = project.join("a.jsonl");
    let writer = std::thread::spawn(move || {
        let mut options = File::options();
        for n in 0..400 {
            let mut file = options.create(true).append(true).open(&path).unwrap();
            writeln!(file, "{{\"line\":{n}}}").unwrap();
            if n % 50 == 0 {
                // Raw for a moment, and cut.
                file.write_all_at(b"{", 0).ok();
                let cut = File::options().write(true).open(&path).unwrap();
                cut.write_all_at(b"{", 0).unwrap();
                cut.set_len(cut.metadata().unwrap().len() - 1).unwrap();
            }
        }
    });
    while !writer.is_finished() {
        let ran = home.run("verify");
        assert!(ran.out.ends_with(": sound\n"), "{ran:?}");
    }
    writer.join().unwrap();
    home.run("umount").ends(0);
    home.run("verify").ends(0);
}
