//! `export` writes the plain tree that the mount shows, with and without the mount, and can be ended at any instant.

mod common;

use claude_cellar::export::{Export, PART};
use common::damage::{append, flip};
use common::{Mount, assert_same, corpus, line, rng::Rng, sys, tree, zstd};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn export(mount: &Mount, dir: &Path) -> (Option<i32>, String) {
    let output = mount.command(&["export"]).arg(dir).output().unwrap();
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[track_caller]
fn exported(mount: &Mount, dir: &Path, code: i32) -> String {
    let (found, text) = export(mount, dir);
    assert_eq!(found, Some(code), "{text}");
    text
}

/// The SHA-256 of every file in a tree.
fn sums(top: &Path) -> BTreeMap<PathBuf, String> {
    let output = Command::new("sh")
        .args(["-c", "find . -type f -print0 | xargs -0 -r sha256sum -z"])
        .current_dir(top)
        .output()
        .unwrap();
    assert!(output.status.success());
    let lines = output.stdout.split(|b| *b == 0);
    let lines = lines.filter(|line| !line.is_empty());
    let sum = |line: &[u8]| {
        let path = Path::new(OsStr::from_bytes(&line[68..])).to_owned();
        (path, String::from_utf8_lossy(&line[..64]).into_owned())
    };
    lines.map(sum).collect()
}

/// All that can be seen of a tree: bytes, times, modes, owners, links, attributes.
fn seen(top: &Path) -> BTreeMap<PathBuf, String> {
    let sums = sums(top);
    let mut inodes = BTreeMap::new();
    let tree = tree(top);
    let all = tree.into_iter().map(|path| {
        let file = top.join(&path);
        let meta = fs::symlink_metadata(&file).unwrap();
        let kind = meta.file_type();
        let (mut attributes, mut group) = (String::new(), PathBuf::new());
        if kind.is_file() || kind.is_dir() {
            for name in sys::listxattr(&file).unwrap() {
                let name = String::from_utf8(name).unwrap();
                let value = sys::getxattr(&file, &name).unwrap();
                attributes += &format!("{name}={value:?} ");
            }
        }
        if kind.is_file() && meta.nlink() > 1 {
            group = inodes.entry(meta.ino()).or_insert(path.clone()).clone();
        }
        let size = if kind.is_file() { meta.len() } else { 0 };
        let text = format!(
            "{:o} {}:{} {size} {}.{:09} {:?} {:?} {attributes} link {:?} of {group:?}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            sums.get(&path),
            kind,
            fs::read_link(&file).ok(),
        );
        (path, text)
    });
    all.collect()
}

#[track_caller]
fn assert_same_tree(got: &Path, want: &BTreeMap<PathBuf, String>) {
    let got = seen(got);
    for (path, want) in want {
        assert_eq!(got.get(path), Some(want), "{}", path.display());
    }
    assert_eq!(got.len(), want.len(), "nothing more");
}

/// Everything a projects directory may hold.
fn fill(top: &Path) {
    corpus::generate(top);
    let project = top.join("-odd");
    fs::create_dir(&project).unwrap();
    let names: [&[u8]; 7] = [
        b"\xff\xfe.jsonl",
        b"with space.jsonl",
        b"new\nline.jsonl",
        b"-rf.jsonl",
        &[&[b'x'; 249][..], b".jsonl"].concat(),
        &[b'y'; 255],
        b".jsonl",
    ];
    for name in names {
        let path = project.join(OsStr::from_bytes(name));
        fs::write(&path, line("odd", name.len(), 3_000)).unwrap();
        sys::set_mtime(&path, 1_600_000_000 + name.len() as i64, 987_654_321).unwrap();
    }
    let tagged = project.join("tagged.jsonl");
    fs::write(&tagged, line("tag", 1, 9_000)).unwrap();
    sys::setxattr(&tagged, "user.tag", b"\0any\xff", 0).unwrap();
    sys::setxattr(&project, "user.dir", b"too", 0).unwrap();
    fs::set_permissions(&tagged, fs::Permissions::from_mode(0o444)).unwrap();
    fs::write(project.join("linked.jsonl"), line("link", 1, 2_000)).unwrap();
    fs::hard_link(project.join("linked.jsonl"), project.join("memory.md")).unwrap();
    fs::hard_link(
        project.join("linked.jsonl"),
        top.join("-home-user-alpha/again.jsonl"),
    )
    .unwrap();
    symlink("tagged.jsonl", project.join("link.jsonl")).unwrap();
    symlink("/nowhere/at all", project.join("dangling")).unwrap();
    sys::mkfifo(&project.join("pipe"), 0o640).unwrap();
    fs::create_dir_all(project.join("empty/deeper")).unwrap();
    fs::set_permissions(project.join("empty"), fs::Permissions::from_mode(0o1750)).unwrap();
    for path in [
        "pipe",
        "dangling",
        "link.jsonl",
        "empty/deeper",
        "empty",
        "",
    ] {
        sys::set_mtime(&project.join(path), 1_500_000_000, 111).unwrap();
    }
}

/// A mounted tree, and what is seen of it.
fn filled(name: &str) -> Option<(Mount, BTreeMap<PathBuf, String>)> {
    let mount = Mount::start_unsealing(name);
    if !mount.has_store() {
        return None;
    }
    fill(&mount.path(""));
    let want = seen(&mount.path(""));
    Some((mount, want))
}

#[test]
fn an_export_is_the_tree_that_the_mount_shows() {
    let Some((mut mount, _)) = filled("export-tree") else {
        return;
    };
    mount.seal_and_wait();
    append(&mount, "-odd/tagged.jsonl", b"more\n").unwrap();
    sys::set_mtime(&mount.path("-odd"), 1_500_000_000, 111).unwrap();
    let want = seen(&mount.path(""));
    let (with, without) = (mount.outside("deep/with"), mount.outside("without"));
    let text = exported(&mount, &with, 0);
    assert_same_tree(&with, &want);
    assert!(
        fs::metadata(with.join("-odd/pipe"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    assert_eq!(fs::metadata(&with).unwrap().mode() & 0o777, 0o700);
    assert!(
        text.contains("/deep/with: ") && text.lines().count() == 1,
        "{text}"
    );

    mount.sigterm();
    let before = tree(&mount.store(""));
    fs::create_dir(&without).unwrap();
    exported(&mount, &without, 0);
    assert_same_tree(&without, &want);
    assert_eq!(
        tree(&mount.store("")),
        before,
        "nothing is written to the store"
    );

    // Again: all is there.
    exported(&mount, &without, 0);
    assert_same_tree(&without, &want);
}

#[test]
fn the_time_0_3_0_noted_beside_a_session_is_exported() {
    let mount = Mount::prepare("export-old");
    fs::create_dir(mount.store("p")).unwrap();
    fs::write(mount.store("p/s.jsonl.zst"), zstd(&["-19"], b"old\n")).unwrap();
    let mut sidecar = [0u8; 48];
    sidecar[8..16].copy_from_slice(&1_600_000_000_i64.to_le_bytes());
    fs::write(mount.store("p/s.jsonl.meta"), sidecar).unwrap();
    let out = mount.outside("out");
    exported(&mount, &out, 0);
    assert_eq!(tree(&out), [Path::new("p"), Path::new("p/s.jsonl")]);
    assert_eq!(fs::read(out.join("p/s.jsonl")).unwrap(), b"old\n");
    assert_eq!(
        fs::metadata(out.join("p/s.jsonl")).unwrap().mtime(),
        1_600_000_000
    );
    assert!(!mount.store(".cellar").exists(), "the store is left alone");
}

#[test]
fn a_damaged_session_is_told_and_the_rest_exported() {
    let Some((mut mount, mut want)) = filled("export-damaged") else {
        return;
    };
    mount.sigterm();
    flip(&mount.store("-odd/tagged.jsonl.zst"), 100);
    fs::write(mount.store("-odd/none.jsonl.zst"), "no zstd").unwrap();
    sys::set_mtime(&mount.store("-odd"), 1_500_000_000, 111).unwrap();
    let out = mount.outside("out");
    let text = exported(&mount, &out, 1);
    for name in ["-odd/tagged.jsonl", "-odd/none.jsonl"] {
        assert!(
            text.contains(&format!("{name}: not exported: damaged at offset ")),
            "{text}"
        );
    }
    assert!(text.ends_with("; 2 not exported\n"), "{text}");
    want.remove(Path::new("-odd/tagged.jsonl"));
    assert_same_tree(&out, &want);
}

#[test]
fn nothing_is_overwritten() {
    let Some((mount, _)) = filled("export-there") else {
        return;
    };
    let out = mount.outside("out");
    exported(&mount, &out, 0);
    let (changed, kind) = (out.join("-odd/tagged.jsonl"), out.join("-odd/dangling"));
    fs::remove_file(&changed).unwrap();
    fs::write(&changed, "mine").unwrap();
    fs::remove_file(&kind).unwrap();
    fs::create_dir(&kind).unwrap();
    let text = exported(&mount, &out, 1);
    for name in ["-odd/tagged.jsonl", "-odd/dangling"] {
        assert!(
            text.contains(&format!(
                "{name}: not exported: something else has this name"
            )),
            "{text}"
        );
    }
    assert_eq!(fs::read(&changed).unwrap(), b"mine");

    let full = mount.outside("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("letter.txt"), "mine").unwrap();
    let text = exported(&mount, &full, 1);
    assert!(
        text.contains("it holds letter.txt, which is not from the store"),
        "{text}"
    );
    assert_eq!(tree(&full), [Path::new("letter.txt")]);
}

#[test]
fn where_it_cannot_be_it_is_refused() {
    let Some((mount, _)) = filled("export-where") else {
        return;
    };
    let file = mount.outside("file");
    fs::write(&file, "").unwrap();
    for (dir, reason) in [
        (mount.path("-odd/out"), "it lies in the mounted cellar"),
        (mount.path(""), "it lies in the mounted cellar"),
        (mount.store("out"), "it lies in the store"),
        (
            mount.store("").parent().unwrap().to_owned(),
            "it lies in the store or around it",
        ),
        (file, "Not a directory"),
    ] {
        let text = exported(&mount, &dir, 1);
        assert!(text.contains(reason), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    let other = mount.outside("none");
    let mut command = mount.command(&["export", "out"]);
    let output = command
        .env("CLAUDE_CELLAR_STORE_DIR", &other)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("none: No such file"), "{text}");
    assert!(!other.exists());
}

/// A small file system at a directory, gone with this.
struct Small(PathBuf);

impl Small {
    fn at(path: PathBuf, size: &str) -> Small {
        fs::create_dir(&path).unwrap();
        let options = format!("size={size},mode=0700");
        let mut mount = Command::new("mount");
        let mount = mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]);
        assert!(mount.arg(&path).status().unwrap().success());
        Small(path)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        sys::detach(&self.0);
    }
}

#[test]
fn without_space_nothing_is_written() {
    let Some((mount, _)) = filled("export-space") else {
        return;
    };
    let small = Small::at(mount.outside("small"), "1m");
    let out = small.0.join("deep/out");
    let text = exported(&mount, &out, 1);
    assert!(
        text.contains("it takes ") && text.contains("1.0 MiB are free; nothing was written"),
        "{text}"
    );
    assert!(tree(&small.0).is_empty());
}

#[test]
fn a_disk_that_fills_up_leaves_whole_files_and_it_goes_on() {
    let Some((mount, want)) = filled("export-full") else {
        return;
    };
    let whole = sums(&mount.path(""));
    let small = Small::at(mount.outside("small"), "16m");
    let out = small.0.join("out");
    let ballast = small.0.join("ballast");
    for left in [1, 3] {
        // There is space at the start, and others take it.
        let export = Export::prepare(&mount.store(""), &out).unwrap();
        fs::write(&ballast, vec![1; 20 << 20]).unwrap_err();
        let taken = fs::File::options().write(true).open(&ballast).unwrap();
        taken
            .set_len(taken.metadata().unwrap().len() - (left << 20))
            .unwrap();
        let failure = export.run().unwrap_err().message;
        assert!(failure.contains("No space left on device"), "{failure}");
        fs::remove_file(&ballast).unwrap();
        assert!(!out.join(PART).exists());
        check_whole(&out, &whole);
    }
    exported(&mount, &out, 0);
    assert_same_tree(&out, &want);
}

/// Every file of an export is whole, but for the one that tells by its name that it is not.
#[track_caller]
fn check_whole(out: &Path, want: &BTreeMap<PathBuf, String>) {
    for (path, sum) in sums(out) {
        if path != Path::new(PART) {
            assert_eq!(Some(&sum), want.get(&path), "{}", path.display());
        }
    }
}

#[test]
fn killed_at_any_instant_it_leaves_whole_files_and_goes_on() {
    let Some((mount, want)) = filled("export-kill") else {
        return;
    };
    let whole = sums(&mount.path(""));
    let out = mount.outside("out");
    let mut rng = Rng::new(8);
    for round in 0..25 {
        let mut child = mount.command(&["export"]).arg(&out).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(2 + rng.below(10 + round * 3)));
        child.kill().unwrap();
        child.wait().unwrap();
        if out.exists() {
            check_whole(&out, &whole);
        }
    }
    exported(&mount, &out, 0);
    assert_same_tree(&out, &want);
}

#[test]
fn sessions_that_change_meanwhile_are_exported_whole() {
    let mount = Mount::start("export-live");
    if !mount.has_store() {
        return;
    }
    fs::create_dir(mount.path("p")).unwrap();
    let path = mount.path("p/s.jsonl");
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut all = Vec::new();
            for number in 0..300 {
                let line = line("live", number, 2_000);
                append(&mount, "p/s.jsonl", &line).unwrap();
                all.extend(line);
                if number % 40 == 7 {
                    // Raw until it is sealed again.
                    let fd = sys::open(&path, libc::O_RDWR, 0).unwrap();
                    sys::pwrite(&fd, b"{", 0).unwrap();
                }
                if number % 60 == 30 {
                    mount.seal();
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            all
        });
        let mut found = Vec::new();
        while !writer.is_finished() {
            let out = mount.outside(format!("out{}", found.len()));
            let text = exported(&mount, &out, 0);
            found.push((fs::read(out.join("p/s.jsonl")).unwrap_or_default(), text));
        }
        let all = writer.join().unwrap();
        for (found, text) in &found {
            assert!(found.len() <= all.len(), "{text}");
            assert_same(found, &all[..found.len()], "a moment of it");
        }
        assert!(!found.is_empty());
    });
}

#[test]
fn a_repair_is_not_disturbed() {
    let mount = Mount::prepare("export-lock");
    fs::create_dir_all(mount.store(".cellar")).unwrap();
    let lock = fs::File::create(mount.store(".cellar/lock")).unwrap();
    claude_cellar::sys::ofd_lock(&lock, libc::F_WRLCK, false).unwrap();
    let text = exported(&mount, &mount.outside("out"), 1);
    assert!(
        text.contains("a repair or a migration is at work on it"),
        "{text}"
    );
}
