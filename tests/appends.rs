//! Appending from everywhere at once: no line is lost, none is torn, each writer's order is kept, and every
//! reader sees what was written as soon as `write` returned, while the background seals.

mod common;

use common::{Mount, assert_same, corpus, line, rng::Rng, stored, sys};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const APPEND: i32 = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND;

/// A project with an empty place for a session.
fn session(mount: &Mount) -> PathBuf {
    fs::create_dir_all(mount.path("p")).unwrap();
    mount.path("p/0c0ffee0-0000-4000-8000-000000000000.jsonl")
}

fn append(fd: &OwnedFd, data: &[u8]) {
    assert_eq!(
        sys::write(fd, data).unwrap(),
        data.len() as i64,
        "a whole write"
    );
}

/// All lines there, whole, each tag's numbers 0.. in order.
fn check_lines(path: &Path, tags: &[&str], count: usize, length: impl Fn(usize) -> usize) {
    let data = fs::read(path).unwrap();
    let mut next = vec![0; tags.len()];
    for text in data.split_inclusive(|byte| *byte == b'\n') {
        let tag = tags
            .iter()
            .position(|tag| text.starts_with(format!("{{\"tag\":\"{tag}\"").as_bytes()));
        let tag = tag.unwrap_or_else(|| {
            panic!(
                "a torn line: {:?}",
                String::from_utf8_lossy(&text[..40.min(text.len())])
            )
        });
        assert_same(
            text,
            &line(tags[tag], next[tag], length(next[tag])),
            "a line in its writer's order",
        );
        next[tag] += 1;
    }
    assert_eq!(next, vec![count; tags.len()], "lines of each writer");
}

#[test]
fn two_processes_appending_lose_no_line() {
    let mount = Mount::start("processes");
    let path = session(&mount);
    let lines = mount.outside("lines");
    let count = 300;
    // One process holds the file open, the other opens it for each line, as clients of both kinds do.
    let held = "i=0; while read -r line; do printf '%s\\n' \"$line\"; done <\"$1\" >>\"$2\"";
    let reopened = "while read -r line; do printf '%s\\n' \"$line\" >>\"$2\"; done <\"$1\"";
    let mut children = Vec::new();
    for (tag, script) in [("held", held), ("reopened", reopened)] {
        let input = lines.with_extension(tag);
        let text: Vec<u8> = (0..count)
            .flat_map(|number| line(tag, number, 200))
            .collect();
        fs::write(&input, text).unwrap();
        children.push(
            Command::new("sh")
                .args(["-c", script, "sh"])
                .arg(&input)
                .arg(&path)
                .spawn()
                .unwrap(),
        );
    }
    for mut child in children {
        assert!(child.wait().unwrap().success(), "every write succeeded");
    }
    check_lines(&path, &["held", "reopened"], count, |_| 200);
    mount.seal_and_wait();
    check_lines(&path, &["held", "reopened"], count, |_| 200);
}

#[test]
fn two_descriptors_appending_by_turns_lose_no_line() {
    let mut mount = Mount::start("turns");
    let path = session(&mount);
    let (a, b) = (
        sys::open(&path, APPEND, 0o600).unwrap(),
        sys::open(&path, APPEND, 0o600).unwrap(),
    );
    for number in 0..200 {
        append(&a, &line("a", number, number));
        append(&b, &line("b", number, number));
    }
    check_lines(&path, &["a", "b"], 200, |number| number);
    drop((a, b));
    mount.remount();
    check_lines(&path, &["a", "b"], 200, |number| number);
}

#[test]
fn two_daemons_on_one_store_lose_no_line() {
    let one = Mount::start_unsealing("one");
    let mut two = Mount::prepare("two").seal_after(86_400).over(&one);
    two.mount();
    let path = session(&one);
    let name = path.strip_prefix(one.path("")).unwrap();
    append(
        &sys::open(&path, APPEND, 0o600).unwrap(),
        &line("a", 0, 100),
    );
    append(
        &sys::open(&two.path(name), APPEND, 0).unwrap(),
        &line("b", 0, 100),
    );
    let held = sys::open(&path, APPEND, 0).unwrap();
    for number in 1..60 {
        append(&held, &line("a", number, 100));
        append(
            &sys::open(&two.path(name), APPEND, 0).unwrap(),
            &line("b", number, 100),
        );
        if number == 30 {
            two.seal_and_wait(); // replaces the file the other one holds
        }
    }
    std::thread::sleep(Duration::from_millis(1_200)); // what another host did is seen after a second
    check_lines(&path, &["a", "b"], 60, |_| 100);
    check_lines(&two.path(name), &["a", "b"], 60, |_| 100);
    one.seal_and_wait();
    std::thread::sleep(Duration::from_millis(1_200));
    check_lines(&two.path(name), &["a", "b"], 60, |_| 100);
}

#[test]
fn a_writer_that_holds_the_file_open_while_others_look_loses_no_line() {
    let mount = Mount::start("looked-at");
    let path = session(&mount);
    let fd = sys::open(&path, APPEND, 0o600).unwrap();
    let mut size = 0;
    for number in 0..60 {
        let line = line("a", number, 300);
        append(&fd, &line);
        size += line.len() as u64;
        assert_eq!(
            fs::metadata(&path).unwrap().len(),
            size,
            "a stat right after the write"
        );
        assert_eq!(
            fs::read(&path).unwrap().len() as u64,
            size,
            "a read right after the write"
        );
        let seen = Command::new("stat")
            .args(["-c", "%s"])
            .arg(&path)
            .output()
            .unwrap()
            .stdout;
        assert_eq!(
            String::from_utf8(seen).unwrap().trim(),
            size.to_string(),
            "another process' stat"
        );
        if number % 25 == 24 {
            std::thread::sleep(Duration::from_millis(1_200)); // the kernel forgets attributes, the daemon may seal
        }
    }
    check_lines(&path, &["a"], 60, |_| 300);
}

#[test]
fn append_mode_set_and_cleared_by_fcntl_is_obeyed() {
    let mount = Mount::start("fcntl");
    let path = session(&mount);
    fs::write(&path, "one\ntwo\n").unwrap();
    let fd = sys::open(&path, libc::O_RDWR, 0).unwrap();
    sys::set_flags(&fd, libc::O_APPEND).unwrap();
    append(&fd, b"three\n");
    assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\nthree\n");
    sys::set_flags(&fd, 0).unwrap();
    sys::lseek(&fd, 4, libc::SEEK_SET).unwrap();
    append(&fd, b"2wo\n");
    assert_eq!(fs::read(&path).unwrap(), b"one\n2wo\nthree\n");
}

#[test]
fn pwrite_on_an_append_descriptor_appends() {
    let mount = Mount::start("pwrite");
    let path = session(&mount);
    let fd = sys::open(&path, APPEND, 0o600).unwrap();
    append(&fd, b"one\n");
    assert_eq!(sys::pwrite(&fd, b"two\n", 0).unwrap(), 4);
    assert_eq!(
        fs::read(&path).unwrap(),
        b"one\ntwo\n",
        "as Linux does on every file system"
    );
}

#[test]
fn open_readers_and_shared_mappings_see_appends_at_once() {
    let mount = Mount::start("readers");
    let path = session(&mount);
    let writer = sys::open(&path, APPEND, 0o600).unwrap();
    append(&writer, &line("a", 0, 100));
    let reader = sys::open(&path, libc::O_RDONLY, 0).unwrap();
    let map = sys::Map::shared(&reader, 1 << 20, false).unwrap();
    let mut want = fs::read(&path).unwrap();
    assert_eq!(map.read(0, want.len()), want);
    for number in 1..200 {
        let line = line("a", number, 100 + number * 7);
        append(&writer, &line);
        let tail = sys::pread(&reader, line.len() + 10, want.len() as i64).unwrap();
        assert_same(&tail, &line, "pread on a descriptor opened before");
        assert_same(
            &map.read(want.len(), line.len()),
            &line,
            "a mapping made before",
        );
        want.extend_from_slice(&line);
        if number % 50 == 0 {
            mount.seal_and_wait();
        }
    }
    assert_same(
        &sys::pread(&reader, want.len() + 1, 0).unwrap(),
        &want,
        "the whole",
    );
    assert_same(&map.read(0, want.len()), &want, "the whole mapping");
}

#[test]
fn appends_during_a_seal_lose_nothing() {
    let mount = Mount::start_unsealing("sealing");
    let path = session(&mount);
    let base = corpus::session(&mut Rng::new(5), 3 << 20);
    fs::write(&path, &base).unwrap();
    let started = Instant::now();
    let mut lines = Vec::new();
    let mut number = 0;
    while started.elapsed() < Duration::from_secs(6) {
        if number % 150 == 0 {
            mount.seal();
        }
        let fd = sys::open(&path, APPEND, 0o600).unwrap();
        let line = line("a", number, 500 + number % 3_000);
        append(&fd, &line);
        lines.extend_from_slice(&line);
        number += 1;
        std::thread::sleep(Duration::from_millis(2));
    }
    let want = [base, lines].concat();
    assert_same(&fs::read(&path).unwrap(), &want, "while it seals");
    mount.seal_and_wait();
    assert_same(&fs::read(&path).unwrap(), &want, "when sealed");
    if mount.has_store() {
        assert_same(
            &stored(&mount, "p/0c0ffee0-0000-4000-8000-000000000000.jsonl"),
            &want,
            "in the store",
        );
    }
}

#[test]
fn writes_and_lines_of_any_size_are_kept_whole() {
    let mut mount = Mount::start("sizes");
    let path = session(&mount);
    let mut want = Vec::new();
    for (number, length) in [
        1,
        600_000,
        10,
        5 << 20,
        3,
        1 << 20,
        (1 << 20) + 1,
        131_072,
        4_096,
    ]
    .into_iter()
    .enumerate()
    {
        let fd = sys::open(&path, APPEND, 0o600).unwrap();
        let line = line("a", number, length);
        append(&fd, &line);
        want.extend_from_slice(&line);
        assert_eq!(fs::metadata(&path).unwrap().len(), want.len() as u64);
    }
    assert_same(&fs::read(&path).unwrap(), &want, "as written");
    mount.seal_and_wait();
    mount.remount();
    assert_same(&fs::read(&path).unwrap(), &want, "after seal and remount");
}

#[test]
fn a_removed_last_message_is_gone_and_nothing_else() {
    for sealed in [false, true] {
        let mount = Mount::start_unsealing("removal");
        let path = session(&mount);
        let lines: Vec<Vec<u8>> = (0..400).map(|number| line("a", number, 900)).collect();
        for line in &lines {
            append(&sys::open(&path, APPEND, 0o600).unwrap(), line);
        }
        if sealed {
            mount.seal_and_wait();
        }
        // The client: open r+, read the last 64 KiB, cut before the line, write back what came after it.
        let fd = sys::open(&path, libc::O_RDWR, 0).unwrap();
        let size = sys::lseek(&fd, 0, libc::SEEK_END).unwrap();
        let tail = sys::pread(&fd, 65_536, size - 65_536).unwrap();
        let gone = &lines[397];
        let at = tail
            .windows(gone.len())
            .position(|window| window == gone.as_slice())
            .expect("the line in the tail");
        let cut = size - 65_536 + at as i64;
        sys::ftruncate(&fd, cut).unwrap();
        let rest = &tail[at + gone.len()..];
        assert_eq!(sys::pwrite(&fd, rest, cut).unwrap(), rest.len() as i64);
        drop(fd);
        let want = [lines[..397].concat(), lines[398..].concat()].concat();
        assert_same(
            &fs::read(&path).unwrap(),
            &want,
            &format!("after the removal, sealed before: {sealed}"),
        );
        append(&sys::open(&path, APPEND, 0o600).unwrap(), b"next\n");
        mount.seal_and_wait();
        assert_same(
            &fs::read(&path).unwrap(),
            &[want.as_slice(), b"next\n"].concat(),
            "and it goes on",
        );
    }
}

#[test]
fn a_session_cut_and_grown_to_the_same_store_size_keeps_its_true_size() {
    let mut mount = Mount::start("same-store-size");
    let path = session(&mount);
    fs::write(&path, line("x", 1, 300_000)).unwrap();
    mount.seal_and_wait();
    let file = mount
        .store("p")
        .join(path.file_name().unwrap())
        .with_extension("jsonl.zst");
    if !mount.has_store() {
        return;
    }
    let stored = fs::metadata(&file).unwrap().len();
    let mut length = stored as usize;
    let noise = Rng::new(5).bytes(length);
    loop {
        fs::write(&path, &noise[..length]).unwrap();
        let grown = fs::metadata(&file).unwrap().len();
        if grown == stored {
            break;
        }
        length -= (grown - stored) as usize;
    }
    mount.remount();
    assert_eq!(fs::metadata(&path).unwrap().len(), length as u64);
    assert!(fs::read(&path).unwrap() == noise[..length]);
}
