//! Promise 6 on a full disk: ENOSPC reaches the call that met it, the file is as before, earlier bytes are intact,
//! and everything works again once there is space. On small tmpfs mounts, so these tests run as root.

mod common;

use common::{Mount, assert_same, corpus, leftovers, rng::Rng, stored, sys};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const APPEND: i32 = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND;
const MIB: usize = 1 << 20;

fn small(name: &str, size: usize) -> Mount {
    let mut mount = Mount::prepare(name).seal_after(86_400).on_tmpfs(size);
    mount.mount();
    fs::create_dir(mount.path("p")).unwrap();
    mount
}

/// Append until the disk refuses; what was taken.
fn fill(path: &Path, rng: &mut Rng, size: usize) -> Vec<u8> {
    let mut taken = Vec::new();
    loop {
        let data = rng.bytes(size);
        let written = sys::open(path, APPEND, 0o600).and_then(|fd| sys::write(&fd, &data));
        match written {
            Ok(count) => taken.extend_from_slice(&data[..count as usize]),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
                return taken;
            }
        }
        assert!(taken.len() < 64 * MIB, "a disk this small fills up");
    }
}

#[test]
fn a_full_disk_reaches_write_and_costs_no_earlier_byte() {
    let mut mount = small("full-append", 4 * MIB);
    let mut rng = Rng::new(4);
    let (session, ballast) = (mount.path("p/s.jsonl"), mount.path("p/ballast.bin"));
    fs::write(&ballast, rng.bytes(MIB)).unwrap();
    let before = rng.bytes(50_000);
    fs::write(mount.path("p/other.jsonl"), &before).unwrap();
    let mut want = Vec::new();
    for size in [20_000, 700, 5_000, 100] {
        want.extend(fill(&session, &mut rng, size));
        assert_same(
            &fs::read(&session).unwrap(),
            &want,
            "what was taken, and nothing else",
        );
        assert_eq!(fs::metadata(&session).unwrap().len(), want.len() as u64);
    }
    if mount.has_store() {
        assert_same(
            &stored(&mount, "p/s.jsonl"),
            &want,
            "readable by zstd while full",
        );
    }
    let newcomer = sys::open(&mount.path("p/new.jsonl"), APPEND, 0o600)
        .and_then(|fd| sys::write(&fd, &[b'n'; 9_000]));
    if let Ok(fd) = sys::open(&mount.path("p/new.jsonl"), libc::O_RDONLY, 0) {
        let length = newcomer.as_ref().copied().unwrap_or(0);
        assert_eq!(
            sys::read(&fd, 10_000).unwrap(),
            vec![b'n'; length as usize],
            "a new session holds what was taken"
        );
    }
    mount.kill9();
    mount.mount();
    assert_same(
        &fs::read(&session).unwrap(),
        &want,
        "after kill -9 on a full disk",
    );
    assert_same(
        &fs::read(mount.path("p/other.jsonl")).unwrap(),
        &before,
        "the other session",
    );
    fs::remove_file(&ballast).unwrap();
    let more = rng.bytes(30_000);
    sys::write(&sys::open(&session, APPEND, 0).unwrap(), &more).unwrap();
    assert_same(
        &fs::read(&session).unwrap(),
        &[want, more].concat(),
        "it goes on when there is space",
    );
    assert!(
        leftovers(&mount, "recovered").is_empty(),
        "nothing was torn"
    );
}

#[test]
fn fsync_and_a_held_descriptor_survive_a_full_disk() {
    let mount = small("full-held", 2 * MIB);
    let mut rng = Rng::new(14);
    let (session, ballast) = (mount.path("p/s.jsonl"), mount.path("p/ballast.bin"));
    fs::write(&ballast, rng.bytes(MIB / 2)).unwrap();
    let fd = sys::open(&session, APPEND, 0o600).unwrap();
    let mut want = Vec::new();
    for round in 0..2 {
        loop {
            let data = rng.bytes(9_000);
            match sys::write(&fd, &data) {
                Ok(count) => want.extend_from_slice(&data[..count as usize]),
                Err(error) => break assert_eq!(error.raw_os_error(), Some(libc::ENOSPC)),
            }
        }
        sys::fsync(&fd).unwrap();
        assert_same(&fs::read(&session).unwrap(), &want, "what was taken");
        let _ = if round == 0 {
            fs::remove_file(&ballast)
        } else {
            Ok(())
        };
    }
}

/// A sealed, compressible session, and a disk too full for its raw form.
fn crowded(name: &str) -> (Mount, Vec<u8>) {
    let mount = small(name, 3 * MIB);
    let data = corpus::session(&mut Rng::new(2), 150_000).repeat(8);
    fs::write(mount.path("p/s.jsonl"), &data).unwrap();
    mount.seal_and_wait();
    fs::write(mount.path("p/space.bin"), Rng::new(9).bytes(MIB)).unwrap();
    fill(&mount.path("p/ballast.bin"), &mut Rng::new(3), 40_000);
    (mount, data)
}

#[test]
fn a_change_of_form_without_space_is_refused_and_leaves_the_session() {
    let (mut mount, mut want) = crowded("full-form");
    if !mount.has_store() {
        return; // a plain file has one form
    }
    let path = mount.path("p/s.jsonl");
    let packed = fs::read(mount.store("p/s.jsonl.zst")).unwrap();
    let fd = sys::open(&path, libc::O_RDWR, 0).unwrap();
    assert_eq!(
        sys::errno(&sys::pwrite(&fd, b"x", 5)),
        libc::ENOSPC,
        "an overwrite"
    );
    assert_eq!(
        sys::errno(&sys::link(&path, &mount.path("p/l.jsonl"))),
        libc::ENOSPC,
        "a link"
    );
    assert_eq!(
        sys::errno(&sys::rename(&path, &mount.path("p/s.bak"), 0)),
        libc::ENOSPC,
        "another kind"
    );
    assert_same(&fs::read(&path).unwrap(), &want, "the session");
    assert_eq!(
        fs::read(mount.store("p/s.jsonl.zst")).unwrap(),
        packed,
        "its store file"
    );
    assert!(leftovers(&mount, "tmp").is_empty(), "space is given back");
    fs::remove_file(mount.path("p/ballast.bin")).unwrap();
    fs::remove_file(mount.path("p/space.bin")).unwrap();
    assert_eq!(
        sys::pwrite(&fd, b"x", 5).unwrap(),
        1,
        "with space it works, on the same descriptor"
    );
    want[5] = b'x';
    assert_same(&fs::read(&path).unwrap(), &want, "overwritten");
    drop(fd);
    mount.remount();
    assert_same(&fs::read(&path).unwrap(), &want, "after a remount");
}

#[test]
fn cutting_and_deleting_work_on_a_full_disk() {
    let (mount, want) = crowded("full-cut");
    let path = mount.path("p/s.jsonl");
    let cut = sys::truncate(&path, 100_000);
    let found = fs::read(&path).unwrap();
    match cut {
        Ok(_) => assert_same(&found, &want[..100_000], "cut"),
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
            assert_same(&found, &want, "refused and left alone");
        }
    }
    fs::remove_file(&path).expect("unlink needs no space");
    assert!(!path.exists());
}

#[test]
fn a_seal_without_space_waits_and_leaves_the_session() {
    let mount = small("full-seal", 3 * MIB);
    let mut rng = Rng::new(6);
    let path = mount.path("p/s.jsonl");
    let mut want = Vec::new();
    for _ in 0..40 {
        let piece = corpus::session(&mut rng, 40_000);
        sys::write(&sys::open(&path, APPEND, 0o600).unwrap(), &piece).unwrap();
        want.extend_from_slice(&piece);
    }
    fill(&mount.path("p/ballast.bin"), &mut rng, 10_000);
    mount.seal();
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(100));
        assert_same(
            &fs::read(&path).unwrap(),
            &want,
            "while sealing finds no space",
        );
    }
    if mount.has_store() {
        assert_same(&stored(&mount, "p/s.jsonl"), &want, "in the store");
        let started = Instant::now();
        while !leftovers(&mount, "tmp").is_empty() {
            let waited = started.elapsed();
            assert!(
                waited < Duration::from_secs(30),
                "a failed attempt gives its space back"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    fs::remove_file(mount.path("p/ballast.bin")).unwrap();
    mount.seal_and_wait();
    assert_same(
        &fs::read(&path).unwrap(),
        &want,
        "sealed when there is space",
    );
}
