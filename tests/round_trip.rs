//! Promise 1, every byte back: what is copied into the mount reads back identical, with size, mode and time, in
//! every form the store gives it, and plain `zstd -dc` reads it too. And it costs what `zstd -19` costs.

mod common;

use common::{Mount, assert_same, corpus, line, rng::Rng, stored, sys, tree, zstd, zstd_dc};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Sealed sessions up to this size are one frame.
const FRAME_BOUND: u64 = 8 << 20;

/// What identifies a file of the original tree.
struct Original {
    name: PathBuf,
    size: u64,
    mode: u32,
    mtime: (i64, i64),
}

/// `cp -a`, by the program, so that the calls are a real program's.
fn copy_tree(from: &Path, to: &Path) -> Vec<Original> {
    let done = Command::new("cp")
        .arg("-a")
        .arg(from.join("."))
        .arg(to)
        .status();
    assert!(done.unwrap().success(), "cp -a into the mount");
    let files = tree(from)
        .into_iter()
        .filter(|name| from.join(name).is_file());
    files
        .map(|name| {
            let meta = fs::metadata(from.join(&name)).unwrap();
            Original {
                name,
                size: meta.size(),
                mode: meta.mode(),
                mtime: (meta.mtime(), meta.mtime_nsec()),
            }
        })
        .collect()
}

/// Every file of the mount against the original: bytes, size, mode, mtime to the nanosecond.
fn check(mount: &Mount, source: &Path, originals: &[Original], when: &str) {
    assert_eq!(tree(&mount.path("")), tree(source), "the tree {when}");
    for original in originals {
        let (name, path) = (original.name.display(), mount.path(&original.name));
        let meta = fs::metadata(&path).unwrap();
        assert_eq!(meta.size(), original.size, "size of {name} {when}");
        assert_eq!(meta.mode(), original.mode, "mode of {name} {when}");
        assert_eq!(
            (meta.mtime(), meta.mtime_nsec()),
            original.mtime,
            "mtime of {name} {when}"
        );
        let want = fs::read(source.join(&original.name)).unwrap();
        assert_same(&fs::read(&path).unwrap(), &want, &format!("{name} {when}"));
    }
    let sums = |directory: &Path| {
        let sums = Command::new("sh")
            .args([
                "-c",
                "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum",
            ])
            .current_dir(directory)
            .output();
        String::from_utf8(sums.unwrap().stdout).unwrap()
    };
    assert_eq!(sums(&mount.path("")), sums(source), "SHA-256 {when}");
}

fn is_session(name: &Path) -> bool {
    name.components().count() == 2 && name.extension().is_some_and(|e| e == "jsonl")
}

#[test]
fn every_byte_of_the_corpus_comes_back_in_every_form() {
    let mut mount = Mount::prepare("corpus").seal_after(86_400);
    mount.mount();
    let source = corpus::unpack(&mount.outside(""));
    let mut rng = Rng::new(3);
    let long = source.join("-long/00000000-0000-4000-8000-00000000000a.jsonl");
    fs::create_dir_all(long.parent().unwrap()).unwrap();
    fs::write(&long, corpus::session(&mut rng, 20 << 20)).unwrap();
    sys::set_mtime(&long, 1_712_345_678, 123_456_789).unwrap();
    let originals = copy_tree(&source, &mount.path(""));
    assert!(originals.len() > 50, "a corpus worth the name");

    check(&mount, &source, &originals, "after the copy");
    mount.seal_and_wait();
    check(&mount, &source, &originals, "after the seal");
    mount.remount();
    check(&mount, &source, &originals, "after the remount");
    if mount.has_store() {
        check_store(&mount, &source, &originals);
    }
}

/// Sessions compressed and readable by `zstd -dc`, everything else as it is, at the size of `zstd -19`.
fn check_store(mount: &Mount, source: &Path, originals: &[Original]) {
    let (mut ours, mut theirs) = (0, 0);
    for original in originals {
        let name = &original.name;
        let want = fs::read(source.join(name)).unwrap();
        if !is_session(name) {
            assert_same(
                &fs::read(mount.store(name)).unwrap(),
                &want,
                &format!("{} in the store", name.display()),
            );
            continue;
        }
        assert!(
            !mount.store(name).exists(),
            "{} is still raw after the seal",
            name.display()
        );
        let packed = mount.store(format!("{}.zst", name.display()));
        if want.is_empty() && fs::metadata(&packed).unwrap().len() == 0 {
            continue; // nothing is the shortest way to store nothing
        }
        assert_same(
            &zstd_dc(&packed),
            &want,
            &format!("zstd -dc of {}", name.display()),
        );
        if original.size <= FRAME_BOUND {
            let (our, their) = (
                fs::metadata(&packed).unwrap().len(),
                zstd(&["-19"], &want).len() as u64,
            );
            assert!(
                our <= their * 101 / 100 + 64,
                "{}: {our} bytes, zstd -19 {their}",
                name.display()
            );
            (ours, theirs) = (ours + our, theirs + their);
        }
    }
    assert!(ours > 0 && ours <= theirs * 101 / 100 + 64 * originals.len() as u64);
    let shown = tree(&mount.store(".cellar/tmp"));
    assert!(shown.is_empty(), "left in tmp: {shown:?}");
}

#[test]
fn zstd_reads_the_store_at_every_moment_of_a_session_s_life() {
    let mount = Mount::start_unsealing("zstd-dc");
    fs::create_dir(mount.path("p")).unwrap();
    let name = "p/11111111-0000-4000-8000-000000000000.jsonl";
    let fd = sys::open(
        &mount.path(name),
        libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND,
        0o600,
    )
    .unwrap();
    let mut want = Vec::new();
    for number in 0..60 {
        let line = line("s", number, 50 + number * 40);
        assert_eq!(sys::write(&fd, &line).unwrap(), line.len() as i64);
        want.extend_from_slice(&line);
        if mount.has_store() {
            assert_same(
                &stored(&mount, name),
                &want,
                &format!("the store after line {number}, descriptor open"),
            );
        }
        if number % 20 == 10 {
            mount.seal_and_wait();
        }
        assert_same(&fs::read(mount.path(name)).unwrap(), &want, "the mount");
    }
}

#[test]
fn du_tells_the_saving_and_ls_the_session() {
    let mount = Mount::start("du");
    fs::create_dir(mount.path("p")).unwrap();
    let path = mount.path("p/session.jsonl");
    let data = line("s", 0, 10).repeat(100_000);
    fs::write(&path, &data).unwrap();
    mount.seal_and_wait();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(meta.len(), data.len() as u64, "st_size is the session's");
    if mount.has_store() {
        let packed = fs::metadata(mount.store("p/session.jsonl.zst")).unwrap();
        assert_eq!(meta.blocks(), packed.blocks(), "st_blocks is the store's");
        assert!(packed.blocks() * 512 < data.len() as u64 / 10);
    }
}

#[test]
fn sealing_moves_neither_inode_number_nor_ctime() {
    let mut mount = Mount::start_unsealing("identity");
    fs::create_dir(mount.path("p")).unwrap();
    let (fresh, appended) = (mount.path("p/fresh.jsonl"), mount.path("p/appended.jsonl"));
    fs::write(&fresh, line("s", 0, 90_000)).unwrap();
    fs::write(&appended, line("s", 0, 50_000)).unwrap();
    mount.seal_and_wait();
    let fd = sys::open(&appended, libc::O_WRONLY | libc::O_APPEND, 0).unwrap();
    sys::write(&fd, &line("s", 1, 3_000)).unwrap();
    sys::fchmod(&fd, 0o640).unwrap();
    let facts = |path: &Path| {
        let meta = fs::metadata(path).unwrap();
        let times = (
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
        );
        (
            meta.ino(),
            times,
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.nlink(),
            meta.size(),
        )
    };
    std::thread::sleep(std::time::Duration::from_millis(1_100)); // past the kernel's attribute cache
    let before = (facts(&fresh), facts(&appended));
    mount.seal_and_wait();
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    assert_eq!(
        (facts(&fresh), facts(&appended)),
        before,
        "(inode, (mtime, ctime), mode, owner, group, links, size)"
    );
    assert_eq!(
        fs::File::from(fd).metadata().unwrap().ino(),
        before.1.0,
        "the open descriptor is on the same file"
    );
    mount.remount();
    let (_, (mtime, nanoseconds, ..), ..) = facts(&appended);
    let (_, (mtime_before, nanoseconds_before, ..), ..) = before.1;
    assert_eq!(
        (mtime, nanoseconds),
        (mtime_before, nanoseconds_before),
        "mtime after the remount"
    );
}

#[test]
fn sealing_keeps_owner_mode_and_extended_attributes() {
    let mut mount = Mount::start_unsealing("metadata");
    fs::create_dir(mount.path("p")).unwrap();
    let path = mount.path("p/s.jsonl");
    fs::write(&path, line("s", 0, 9_000)).unwrap();
    sys::setxattr(&path, "user.note", b"kept \xff", 0).unwrap();
    sys::chown(&path, 1, 2).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o604)).unwrap();
    sys::set_mtime(&path, -5, 999_999_999).unwrap();
    mount.seal_and_wait();
    for when in ["after the seal", "after the remount"] {
        let meta = fs::metadata(&path).unwrap();
        assert_eq!(
            (meta.uid(), meta.gid(), meta.mode() & 0o7777),
            (1, 2, 0o604),
            "{when}"
        );
        assert_eq!(
            (meta.mtime(), meta.mtime_nsec()),
            (-5, 999_999_999),
            "{when}"
        );
        assert_eq!(
            sys::getxattr(&path, "user.note").unwrap(),
            b"kept \xff",
            "{when}"
        );
        assert_eq!(
            sys::listxattr(&path).unwrap(),
            [b"user.note"],
            "the cellar's own attributes stay unseen {when}"
        );
        mount.remount();
    }
}
