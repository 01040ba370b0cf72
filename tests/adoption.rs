//! Adoption: what was written beneath the mountpoint while nothing was mounted is in the cellar after the next
//! `mount --adopt`, exactly as it was, and what is on both sides loses nothing of either.

mod common;

use common::foreign::old_release;
use common::seen::{as_mounted, assert_seen, seen};
use common::{Mount, assert_same, corpus, entries, leftovers, line, rng::Rng, stored, sys};
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

const APPEND: i32 = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND;

/// Where the mountpoint lies: on the store's file system, where adopting renames, or on another.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Beneath {
    Same,
    Other,
}

const BOTH: [Beneath; 2] = [Beneath::Same, Beneath::Other];

/// An adopting mount that is not mounted yet; nothing where there is no store.
fn adopting(name: &str, beneath: Beneath) -> Option<Mount> {
    // Nothing is old enough to be sealed by itself.
    let mount = Mount::prepare(name).seal_after(u32::MAX).adopting();
    if !mount.has_store() {
        return None;
    }
    Some(match beneath {
        Beneath::Same => mount,
        Beneath::Other => mount.beneath_on_tmpfs(),
    })
}

/// Nothing is left beneath the mountpoint, which this looks at between two daemons.
#[track_caller]
fn check_taken(mount: &mut Mount) {
    mount.sigterm();
    let left = common::tree(&mount.path(""));
    assert!(left.is_empty(), "left beneath the mountpoint: {left:?}");
    mount.mount();
    assert!(leftovers(mount, "tmp").is_empty(), "left in .cellar/tmp");
}

fn recovered(mount: &Mount) -> Vec<(String, Vec<u8>)> {
    let kept = leftovers(mount, "recovered").into_iter().map(|file| {
        let bytes = fs::read(mount.store(".cellar/recovered").join(&file)).unwrap();
        (file.to_str().unwrap().to_owned(), bytes)
    });
    kept.collect()
}

/// What was recovered of one path.
fn recovered_of(mount: &Mount, path: &str) -> Vec<Vec<u8>> {
    let stem = path.replace('/', "+") + "-";
    let all = recovered(mount).into_iter();
    all.filter(|(name, _)| name.starts_with(&stem))
        .map(|(_, bytes)| bytes)
        .collect()
}

fn put(path: &Path, data: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, data).unwrap();
}

fn sidecar(size: u64, seconds: i64) -> Vec<u8> {
    [
        size.to_le_bytes().as_slice(),
        &seconds.to_le_bytes(),
        &[7; 32],
    ]
    .concat()
}

/// Everything that can lie in a projects directory, with times and modes of its own.
fn rich(top: &Path, ours: &[u8]) {
    let mut rng = Rng::new(71);
    let p = top.join("-home-user-alpha");
    let session = corpus::session(&mut rng, 40_000);
    put(&p.join("raw.jsonl"), &session);
    put(&p.join("empty.jsonl"), b"");
    put(&p.join("within a line.jsonl"), b"{\"a\":1}\n{\"b\"");
    put(&p.join("ours.jsonl.zst"), ours);
    put(&p.join("theirs.jsonl.zst"), &old_release(&session));
    put(&p.join("old.jsonl.zst"), &old_release(b"from 0.3.0\n"));
    put(&p.join("old.jsonl.meta"), &sidecar(11, 1_600_000_123));
    put(&p.join("orphan.jsonl.meta"), &sidecar(11, 1_600_000_123));
    put(&p.join("sessions-index.json"), b"{\"version\":1}");
    put(&p.join("memory/MEMORY.md"), b"- remember\n");
    put(&p.join("raw/subagents/agent-1.jsonl"), &session[..9_000]);
    put(&p.join("raw/subagents/agent-1.meta.json"), b"{}");
    put(&p.join("raw/tool-results/toolu_1.txt"), &rng.bytes(3_000));
    put(
        &p.join("raw/subagents/packed.jsonl.zst"),
        &old_release(&session),
    );
    put(&top.join("loose.json"), b"[]");
    put(&top.join("loose.jsonl"), b"{}\n");
    put(&top.join(".session-aliases"), b"{}");
    fs::create_dir_all(p.join("nothing/in/it")).unwrap();
    fs::create_dir(top.join("-empty-project")).unwrap();
    put(&p.join(OsStr::from_bytes(b"not\xffutf\xfe8.jsonl")), b"x\n");
    put(
        &top.join(OsStr::from_bytes(b"-caf\xe9/s.jsonl")),
        b"{\"n\":1}\n",
    );
    put(
        &p.join(format!("{}.jsonl", "l".repeat(249))),
        b"too long for .zst\n",
    );
    put(&p.join("m".repeat(255)), b"as long as can be");
    put(&p.join("new\nline.jsonl"), b"in its name\n");
    put(&p.join("readonly.jsonl"), b"may not be written\n");
    put(&p.join("closed.jsonl"), b"may not be read\n");
    put(&p.join("script.sh"), b"#!/bin/sh\n");
    symlink("raw.jsonl", p.join("relative")).unwrap();
    symlink("/proc/version", p.join("absolute")).unwrap();
    symlink("gone/nowhere", p.join("dangling.jsonl")).unwrap();
    symlink("../-home-user-alpha", p.join("to-directory")).unwrap();
    symlink("-home-user-alpha", top.join("linked-project")).unwrap();
    put(&p.join("hard.txt"), b"two names");
    fs::hard_link(p.join("hard.txt"), p.join("raw/hard2.txt")).unwrap();
    put(&p.join("linked.jsonl"), b"a session with two names\n");
    fs::hard_link(p.join("linked.jsonl"), p.join("linked2.jsonl")).unwrap();
    sys::mkfifo(&p.join("fifo"), 0o640).unwrap();
    sys::mkfifo(&p.join("fifo.jsonl"), 0o600).unwrap();
    for (name, attribute) in [
        ("raw.jsonl", "user.a"),
        ("memory", "user.dir"),
        ("memory/MEMORY.md", "user.b"),
    ] {
        sys::setxattr(&p.join(name), attribute, b"\x00value\xff", 0).unwrap();
    }
    let mut names: Vec<PathBuf> = common::tree(top);
    names.reverse();
    for (number, name) in names.iter().enumerate() {
        let path = top.join(name);
        let meta = fs::symlink_metadata(&path).unwrap();
        let mode = match name.file_name().unwrap().to_str() {
            Some("readonly.jsonl") => 0o400,
            Some("closed.jsonl") => 0o000,
            Some("script.sh") => 0o755,
            Some("nothing") => 0o555,
            Some("memory") => 0o2770,
            _ if meta.is_dir() => 0o700,
            _ => [0o600, 0o644, 0o640][number % 3],
        };
        if meta.is_file() || meta.is_dir() {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        }
    }
    for (number, name) in names.iter().enumerate() {
        let number = number as i64;
        sys::set_mtime(
            &top.join(name),
            1_650_000_000 + number * 86_400,
            123_456_789 + number,
        )
        .unwrap();
    }
}

/// A store file as this program writes it: appended to and not sealed.
fn store_file() -> Vec<u8> {
    let mut mount = Mount::start_unsealing("adopt-ours");
    fs::create_dir(mount.path("p")).unwrap();
    for number in 0..5 {
        let file = sys::open(&mount.path("p/s.jsonl"), APPEND, 0o600).unwrap();
        sys::write(&file, &line("ours", number, 3_000)).unwrap();
    }
    mount.sigterm();
    fs::read(mount.store("p/s.jsonl.zst")).unwrap()
}

#[test]
fn what_lies_beneath_is_in_the_mount_as_it_was() {
    for beneath in BOTH {
        let Some(mut mount) = adopting("adopt-tree", beneath) else {
            return;
        };
        rich(&mount.path(""), &store_file());
        let want = as_mounted(&mount.path(""));
        assert!(want.len() > 40, "{}", want.len());
        mount.mount();
        let what = format!("{beneath:?}");
        assert_seen(&seen(&mount.path("")), &want, &what);
        check_taken(&mut mount);
        assert_seen(&seen(&mount.path("")), &want, &format!("{what}, remounted"));
        mount.seal_and_wait();
        assert_seen(&seen(&mount.path("")), &want, &format!("{what}, sealed"));
        assert_eq!(recovered(&mount), [], "nothing had no place");
    }
}

/// How a session lies in the store, or a fragment beneath the mountpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Raw,
    Zstd,
}

fn write_form(path: &Path, form: Form, data: &[u8]) {
    match form {
        Form::Raw => put(path, data),
        Form::Zstd => put(&path.with_extension("jsonl.zst"), &old_release(data)),
    }
}

const OLD: i64 = 1_650_000_000;
const NEW: i64 = 1_660_000_000;

fn age(path: &Path, form: Form, seconds: i64) {
    let path = match form {
        Form::Raw => path.to_owned(),
        Form::Zstd => path.with_extension("jsonl.zst"),
    };
    sys::set_mtime(&path, seconds, 0).unwrap();
}

/// What is in the store, what comes from beneath, what is there in the end, and whether the fragment is kept.
const MERGES: [(&str, &str, &str, &str, bool); 13] = [
    ("equal", "1\n2\n", "1\n2\n", "1\n2\n", false),
    ("begins the session", "1\n2\n", "1\n", "1\n2\n", false),
    (
        "within a line of it",
        "1\n2222\n",
        "1\n22",
        "1\n2222\n",
        false,
    ),
    ("goes on", "1\n", "1\n2\n", "1\n2\n", false),
    (
        "goes on within a line",
        "1\n22",
        "1\n2222\n",
        "1\n2222\n",
        false,
    ),
    (
        "nothing in common",
        "1\n2\n",
        "3\n4\n",
        "1\n2\n3\n4\n",
        true,
    ),
    ("after a torn line", "1\n2", "3\n4\n", "1\n2\n3\n4\n", true),
    ("itself torn", "1\n2\n", "3\n4", "1\n2\n3\n4", true),
    ("forked", "1\n2\n", "1\n3\n", "1\n2\n3\n", true),
    (
        "forked within a line",
        "1\n{a}\n",
        "1\n{b}\n",
        "1\n{a}\n{b}\n",
        true,
    ),
    ("to an empty session", "", "1\n", "1\n", false),
    ("an empty fragment", "1\n", "", "1\n", false),
    ("blank lines", "\n\n1\n", "\n2\n", "\n\n1\n2\n", true),
];

#[test]
fn a_session_on_both_sides_loses_nothing_of_either() {
    for beneath in BOTH {
        for stored_as in [Form::Raw, Form::Zstd] {
            let Some(mut mount) = adopting("adopt-merge", beneath) else {
                return;
            };
            for form in [Form::Raw, Form::Zstd] {
                for (name, session, fragment, _, _) in MERGES {
                    let name = format!("p/{name} {form:?}.jsonl");
                    write_form(&mount.store(&name), stored_as, session.as_bytes());
                    age(&mount.store(&name), stored_as, OLD);
                    write_form(&mount.path(&name), form, fragment.as_bytes());
                    age(&mount.path(&name), form, NEW);
                }
            }
            mount.mount();
            for form in [Form::Raw, Form::Zstd] {
                for (name, session, fragment, want, kept) in MERGES {
                    let name = format!("p/{name} {form:?}.jsonl");
                    let what = format!("{name} to {stored_as:?}, {beneath:?}");
                    assert_same(
                        &fs::read(mount.path(&name)).unwrap(),
                        want.as_bytes(),
                        &what,
                    );
                    let modified = fs::metadata(mount.path(&name)).unwrap().mtime();
                    let appended = want.len() > session.len();
                    assert_eq!(modified, if appended { NEW } else { OLD }, "time of {what}");
                    let raw = form == Form::Raw;
                    let stem = if raw { name } else { format!("{name}.zst") };
                    let bytes = match form {
                        Form::Raw => fragment.as_bytes().to_vec(),
                        Form::Zstd => old_release(fragment.as_bytes()),
                    };
                    // The name of what is kept tells the session, whatever its form was.
                    let mut found = recovered_of(&mount, &stem);
                    found.extend(if raw {
                        vec![]
                    } else {
                        recovered_of(&mount, stem.trim_end_matches(".zst"))
                    });
                    let want: &[Vec<u8>] = if kept { &[bytes] } else { &[] };
                    assert_eq!(found, want, "kept of {what}");
                }
            }
            check_taken(&mut mount);
            mount.seal_and_wait();
            for form in [Form::Raw, Form::Zstd] {
                for (name, _, _, want, _) in MERGES {
                    let name = format!("p/{name} {form:?}.jsonl");
                    assert_same(&stored(&mount, &name), want.as_bytes(), &name);
                }
            }
        }
    }
}

#[test]
fn fragments_of_several_restarts_follow_each_other() {
    for beneath in BOTH {
        let Some(mut mount) = adopting("adopt-again", beneath) else {
            return;
        };
        let mut want = Vec::new();
        for round in 0..6 {
            let beneath = line("beneath", round, 2_000_000 * (round % 2) + 50);
            put(&mount.path("p/s.jsonl"), &beneath);
            mount.mount();
            let through = line("through", round, 70);
            let file = sys::open(&mount.path("p/s.jsonl"), APPEND, 0o600).unwrap();
            sys::write(&file, &through).unwrap();
            want.extend([beneath, through].concat());
            assert_same(
                &fs::read(mount.path("p/s.jsonl")).unwrap(),
                &want,
                "session",
            );
            drop(file);
            if round % 3 == 0 {
                mount.seal_and_wait();
            }
            mount.sigterm();
        }
        mount.mount();
        assert_same(
            &fs::read(mount.path("p/s.jsonl")).unwrap(),
            &want,
            "session",
        );
    }
}

#[test]
fn damage_on_either_side_is_kept_as_it_is() {
    for beneath in BOTH {
        let Some(mut mount) = adopting("adopt-damage", beneath) else {
            return;
        };
        let session = corpus::session(&mut Rng::new(3), 30_000);
        let packed = old_release(&session);
        let mut damaged = packed.clone();
        damaged[packed.len() / 2] ^= 0x55;
        let cut = &packed[..packed.len() / 2];
        let fragment = b"{\"new\":1}\n".as_slice();
        // Beneath: damaged, alone and beside a sound session.
        for (name, bytes) in [("flipped", damaged.as_slice()), ("cut", cut)] {
            put(&mount.path(format!("p/{name}-alone.jsonl.zst")), bytes);
            put(&mount.path(format!("p/{name}.jsonl.zst")), bytes);
            put(&mount.store(format!("p/{name}.jsonl")), &session);
        }
        // In the store: damaged, and lines from beneath.
        for (name, bytes) in [
            ("store-flipped", damaged.as_slice()),
            ("store-garbage", b"no zstd"),
        ] {
            put(&mount.store(format!("p/{name}.jsonl.zst")), bytes);
            put(&mount.path(format!("p/{name}.jsonl")), fragment);
        }
        mount.mount();
        for (name, bytes) in [("flipped", damaged.as_slice()), ("cut", cut)] {
            let alone = fs::read(mount.store(format!("p/{name}-alone.jsonl.zst"))).unwrap();
            assert_same(&alone, bytes, name);
            let sound = fs::read(mount.path(format!("p/{name}.jsonl"))).unwrap();
            assert_same(&sound, &session, name);
            let kept = recovered(&mount).into_iter();
            let mut kept = kept.filter(|(file, _)| file.starts_with(&format!("p+{name}.jsonl")));
            assert_eq!(
                kept.next().map(|(_, kept)| kept == bytes),
                Some(true),
                "{name} is kept"
            );
            assert!(kept.next().is_none(), "{name} once");
        }
        for (name, bytes) in [
            ("store-flipped", damaged.as_slice()),
            ("store-garbage", b"no zstd"),
        ] {
            let there = fs::read(mount.store(format!("p/{name}.jsonl.zst"))).unwrap();
            assert_same(
                &there[..bytes.len()],
                bytes,
                "what is damaged is not touched",
            );
            let kept = recovered_of(&mount, &format!("p/{name}.jsonl"));
            assert_eq!(kept, [fragment], "{name}: the new lines are kept");
        }
        check_taken(&mut mount);
    }
}

#[test]
fn of_other_kinds_the_newer_stays_and_the_older_is_kept() {
    for beneath in BOTH {
        let Some(mut mount) = adopting("adopt-kinds", beneath) else {
            return;
        };
        let sides = |name: &str| {
            (
                mount.store(format!("p/{name}")),
                mount.path(format!("p/{name}")),
            )
        };
        for newer in ["store", "beneath"] {
            let age = |store: &Path, source: &Path| {
                let (a, b) = if newer == "store" {
                    (NEW, OLD)
                } else {
                    (OLD, NEW)
                };
                sys::set_mtime(store, a, 0).unwrap();
                sys::set_mtime(source, b, 0).unwrap();
            };
            let files = |name: &str, ours: &[u8], theirs: &[u8]| {
                let (store, source) = sides(&format!("{newer} {name}"));
                put(&store, ours);
                put(&source, theirs);
                age(&store, &source);
            };
            files("memory/MEMORY.md", b"in the store", b"beneath");
            files("same.json", b"equal", b"equal");
            files("id/tool-results/t.txt", b"in the store", b"beneath");
            let (store, source) = sides(&format!("{newer} link"));
            symlink("in-the-store", &store).unwrap();
            symlink("beneath", &source).unwrap();
            age(&store, &source);
            let (store, source) = sides(&format!("{newer} same-link"));
            symlink("same", &store).unwrap();
            symlink("same", &source).unwrap();
            age(&store, &source);
            let (store, source) = sides(&format!("{newer} link-or-file"));
            put(&store, b"in the store");
            symlink("beneath", &source).unwrap();
            age(&store, &source);
            let (store, source) = sides(&format!("{newer} file-or-link"));
            symlink("in-the-store", &store).unwrap();
            put(&source, b"beneath");
            age(&store, &source);
            let (store, source) = sides(&format!("{newer} file-or-fifo"));
            put(&store, b"in the store");
            sys::mkfifo(&source, 0o600).unwrap();
            age(&store, &source);
            let (store, source) = sides(&format!("{newer} fifo-or-file"));
            sys::mkfifo(&store, 0o600).unwrap();
            put(&source, b"beneath");
            age(&store, &source);
            // A session's name on something else, against a session in its packed form.
            let (store, source) = sides(&format!("{newer} link.jsonl"));
            let store = store.with_extension("jsonl.zst");
            put(&store, &old_release(b"a session\n"));
            symlink("beneath", &source).unwrap();
            age(&store, &source);
        }
        mount.mount();
        let is = |name: &str, want: &str| {
            let path = mount.path(format!("p/{name}"));
            let meta = fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
            let found = match meta.mode() & libc::S_IFMT {
                libc::S_IFLNK => fs::read_link(&path).unwrap().display().to_string(),
                libc::S_IFIFO => "fifo".to_owned(),
                _ => String::from_utf8(fs::read(&path).unwrap()).unwrap(),
            };
            assert_eq!(found, want, "{name}, {beneath:?}");
        };
        for (newer, file, link) in [
            ("store", "in the store", "in-the-store"),
            ("beneath", "beneath", "beneath"),
        ] {
            let name = |name: &str| format!("{newer} {name}");
            let store = newer == "store";
            is(&name("memory/MEMORY.md"), file);
            is(&name("same.json"), "equal");
            is(&name("id/tool-results/t.txt"), file);
            is(&name("link"), link);
            is(&name("same-link"), "same");
            is(&name("link-or-file"), file);
            is(&name("file-or-link"), link);
            is(
                &name("file-or-fifo"),
                if store { "in the store" } else { "fifo" },
            );
            is(
                &name("fifo-or-file"),
                if store { "fifo" } else { "beneath" },
            );
            is(
                &name("link.jsonl"),
                if store { "a session\n" } else { "beneath" },
            );
        }
        let kept = common::entries(&mount.store(".cellar/recovered"));
        assert_eq!(kept.len(), 2 * 8, "{kept:?}");
        check_taken(&mut mount);
    }
}

#[test]
fn a_directory_against_a_file_loses_neither() {
    for beneath in BOTH {
        let Some(mut mount) = adopting("adopt-dir-file", beneath) else {
            return;
        };
        put(&mount.store("p/file-first"), b"in the store");
        put(&mount.path("p/file-first/inside.txt"), b"beneath");
        put(&mount.store("p/dir-first/inside.txt"), b"in the store");
        put(&mount.path("p/dir-first"), b"beneath");
        put(
            &mount.store("p/packed.jsonl.zst"),
            &old_release(b"a session\n"),
        );
        put(&mount.path("p/packed.jsonl/inside.txt"), b"beneath");
        put(&mount.store("p/dir.jsonl/inside.txt"), b"in the store");
        put(&mount.path("p/dir.jsonl"), b"a session\n");
        put(&mount.path("p/z-after-them.txt"), b"taken all the same");
        mount.mount();
        let read = |mount: &Mount, name: &str| fs::read(mount.path(name)).unwrap();
        assert_eq!(read(&mount, "p/file-first"), b"in the store");
        assert_eq!(read(&mount, "p/dir-first/inside.txt"), b"in the store");
        assert_eq!(read(&mount, "p/packed.jsonl"), b"a session\n");
        assert_eq!(read(&mount, "p/dir.jsonl/inside.txt"), b"in the store");
        assert_eq!(read(&mount, "p/z-after-them.txt"), b"taken all the same");
        assert_eq!(recovered_of(&mount, "p/dir-first"), [b"beneath"]);
        assert_eq!(recovered_of(&mount, "p/dir.jsonl"), [b"a session\n"]);
        let log = mount.log();
        for name in ["p/file-first", "p/packed.jsonl"] {
            let told = |line: &&str| line.contains("[ERROR]") && line.contains(&format!("{name}:"));
            assert!(log.lines().any(|line| told(&line)), "the log names {name}");
        }
        mount.sigterm();
        // What had no place is where it was.
        assert_eq!(read(&mount, "p/file-first/inside.txt"), b"beneath");
        assert_eq!(read(&mount, "p/packed.jsonl/inside.txt"), b"beneath");
    }
}

#[test]
fn of_two_forms_beneath_the_plain_one_is_the_session() {
    for beneath in BOTH {
        for in_store in [false, true] {
            let Some(mut mount) = adopting("adopt-forms", beneath) else {
                return;
            };
            if in_store {
                put(&mount.store("p/other.jsonl"), b"so that p is there\n");
            }
            put(&mount.path("p/equal.jsonl"), b"1\n2\n");
            put(&mount.path("p/equal.jsonl.zst"), &old_release(b"1\n2\n"));
            put(&mount.path("p/differ.jsonl"), b"1\nchanged\n");
            put(
                &mount.path("p/differ.jsonl.zst"),
                &old_release(b"1\nbefore\n"),
            );
            mount.mount();
            let what = format!("{beneath:?}, in the store: {in_store}");
            for sealed in [false, true] {
                let read = |name: &str| fs::read(mount.path(name)).unwrap();
                let what = format!("{what}, sealed: {sealed}");
                assert_same(&read("p/equal.jsonl"), b"1\n2\n", &what);
                assert_same(&read("p/differ.jsonl"), b"1\nchanged\n", &what);
                mount.seal_and_wait();
            }
            let kept: Vec<Vec<u8>> = recovered(&mount).into_iter().map(|(_, b)| b).collect();
            assert_eq!(kept, [old_release(b"1\nbefore\n")], "{what}");
            check_taken(&mut mount);
        }
    }
}

#[test]
fn an_old_sidecar_gives_a_session_that_went_on_no_old_time() {
    for beneath in BOTH {
        let Some(mut mount) = adopting("adopt-sidecar", beneath) else {
            return;
        };
        put(&mount.store("p/s.jsonl.zst"), &old_release(b"1\n2\n3\n"));
        sys::set_mtime(&mount.store("p/s.jsonl.zst"), NEW, 0).unwrap();
        put(&mount.path("p/s.jsonl.zst"), &old_release(b"1\n2\n"));
        put(&mount.path("p/s.jsonl.meta"), &sidecar(4, 1_500_000_000));
        mount.mount();
        let path = mount.path("p/s.jsonl");
        assert_eq!(fs::read(&path).unwrap(), b"1\n2\n3\n");
        assert_eq!(fs::metadata(&path).unwrap().mtime(), NEW, "{beneath:?}");
        check_taken(&mut mount);
        assert_eq!(fs::metadata(&path).unwrap().mtime(), NEW, "{beneath:?}");
    }
}

#[test]
fn without_adopt_what_lies_beneath_is_left_there() {
    let mount = Mount::prepare("adopt-not");
    if !mount.has_store() {
        return;
    }
    put(&mount.path("p/s.jsonl"), b"1\n");
    let refused = mount.run(&["mount"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("--adopt"), "{said}");
    assert_eq!(fs::read(mount.path("p/s.jsonl")).unwrap(), b"1\n");
    assert_eq!(entries(&mount.store("p")), [] as [PathBuf; 0]);
}
