//! Stores as 0.3.0 or a hand left them: sidecars, raw sessions, packed bundles, both forms of one session. They mount
//! as they are; nothing stays visible that is the store's own, and nothing vanishes.

mod common;

use common::foreign::{check_reads, old_release, store};
use common::{assert_same, corpus, leftovers, rng::Rng, stored, sys};
use std::fs;
use std::os::unix::fs::MetadataExt;

const APPEND: i32 = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND;

/// A sidecar of 0.3.0: size, mtime in seconds, SHA-256 (of which only the length matters here).
fn sidecar(size: u64, mtime: i64) -> Vec<u8> {
    [
        size.to_le_bytes().as_slice(),
        &mtime.to_le_bytes(),
        &[0xAB; 32],
    ]
    .concat()
}

#[test]
fn a_sidecar_gives_the_time_and_is_otherwise_not_believed() {
    let Some(mut mount) = store("sidecars") else {
        return;
    };
    let data = corpus::session(&mut Rng::new(1), 20_000);
    let meta = [
        ("right", sidecar(data.len() as u64, 1_600_000_123)),
        ("wrong-size", sidecar(7, 1_600_000_123)),
        ("huge-size", sidecar(u64::MAX, 1_600_000_123)),
        ("short", vec![1; 10]),
        ("garbage", vec![0xFF; 48]),
    ];
    for (name, meta) in &meta {
        fs::write(
            mount.store(format!("p/{name}.jsonl.zst")),
            old_release(&data),
        )
        .unwrap();
        fs::write(mount.store(format!("p/{name}.jsonl.meta")), meta).unwrap();
    }
    fs::create_dir(mount.store("orphan")).unwrap();
    fs::write(mount.store("orphan/gone.jsonl.meta"), sidecar(1, 1)).unwrap();
    mount.mount();
    let names: Vec<_> = common::entries(&mount.path("p"))
        .into_iter()
        .map(|path| path.file_name().unwrap().to_owned())
        .collect();
    assert_eq!(
        names,
        [
            "garbage.jsonl",
            "huge-size.jsonl",
            "right.jsonl",
            "short.jsonl",
            "wrong-size.jsonl"
        ],
        "no sidecars"
    );
    for (name, _) in &meta {
        check_reads(&mount.path(format!("p/{name}.jsonl")), &data, name);
        let errno = sys::errno(&fs::symlink_metadata(
            mount.path(format!("p/{name}.jsonl.meta")),
        ));
        assert_eq!(errno, libc::ENOENT, "sidecars are not there");
    }
    for name in ["right", "wrong-size", "huge-size"] {
        assert_eq!(
            fs::metadata(mount.path(format!("p/{name}.jsonl")))
                .unwrap()
                .mtime(),
            1_600_000_123,
            "mtime of {name}"
        );
    }
    mount.remount();
    assert_eq!(
        fs::metadata(mount.path("p/right.jsonl")).unwrap().mtime(),
        1_600_000_123,
        "after a remount"
    );
    for (name, _) in &meta {
        sys::write(
            &sys::open(&mount.path(format!("p/{name}.jsonl")), APPEND, 0).unwrap(),
            b"more\n",
        )
        .unwrap();
        assert!(
            !mount.store(format!("p/{name}.jsonl.meta")).exists(),
            "the sidecar goes with the first change of {name}"
        );
        check_reads(
            &mount.path(format!("p/{name}.jsonl")),
            &[data.as_slice(), b"more\n"].concat(),
            name,
        );
        let now = fs::metadata(mount.path(format!("p/{name}.jsonl")))
            .unwrap()
            .modified()
            .unwrap();
        assert!(
            now.elapsed().unwrap_or_default().as_secs() < 60,
            "the time of the append"
        );
    }
    fs::remove_dir(mount.path("orphan")).expect("what the store hides does not keep a directory");
}

#[test]
fn a_deleted_or_moved_session_takes_its_sidecar_along() {
    let Some(mut mount) = store("sidecar-moves") else {
        return;
    };
    for name in ["deleted", "moved"] {
        fs::write(
            mount.store(format!("p/{name}.jsonl.zst")),
            old_release(b"old\n"),
        )
        .unwrap();
        fs::write(
            mount.store(format!("p/{name}.jsonl.meta")),
            sidecar(4, 1_600_000_123),
        )
        .unwrap();
    }
    mount.mount();
    fs::remove_file(mount.path("p/deleted.jsonl")).unwrap();
    fs::create_dir(mount.path("q")).unwrap();
    fs::rename(mount.path("p/moved.jsonl"), mount.path("q/moved.jsonl")).unwrap();
    assert_eq!(
        fs::metadata(mount.path("q/moved.jsonl")).unwrap().mtime(),
        1_600_000_123
    );
    for name in ["deleted", "moved"] {
        fs::write(mount.path(format!("p/{name}.jsonl")), "new\n").unwrap();
        let now = fs::metadata(mount.path(format!("p/{name}.jsonl")))
            .unwrap()
            .modified()
            .unwrap();
        assert!(
            now.elapsed().unwrap_or_default().as_secs() < 60,
            "a new session does not inherit an old time"
        );
        assert_eq!(
            fs::read(mount.path(format!("p/{name}.jsonl"))).unwrap(),
            b"new\n"
        );
    }
    mount.remount();
    assert_eq!(fs::read(mount.path("q/moved.jsonl")).unwrap(), b"old\n");
}

#[test]
fn raw_sessions_and_packed_bundles_are_taken_as_they_are() {
    let Some(mut mount) = store("by-hand") else {
        return;
    };
    let data = corpus::session(&mut Rng::new(6), 50_000);
    fs::create_dir_all(mount.store("p/id/subagents")).unwrap();
    fs::write(mount.store("p/raw.jsonl"), &data).unwrap();
    fs::write(
        mount.store("p/id/subagents/agent.jsonl.zst"),
        old_release(&data),
    )
    .unwrap();
    fs::write(mount.store("top.jsonl.zst"), old_release(&data)).unwrap();
    fs::write(mount.store("p/notes.txt.zst"), b"only its name").unwrap();
    mount.mount();
    for name in ["p/raw.jsonl", "p/id/subagents/agent.jsonl", "top.jsonl"] {
        check_reads(&mount.path(name), &data, name);
        sys::write(&sys::open(&mount.path(name), APPEND, 0).unwrap(), b"more\n").unwrap();
    }
    assert_eq!(
        fs::read(mount.path("p/notes.txt.zst")).unwrap(),
        b"only its name"
    );
    mount.seal_and_wait();
    for name in ["p/raw.jsonl", "p/id/subagents/agent.jsonl", "top.jsonl"] {
        check_reads(
            &mount.path(name),
            &[data.as_slice(), b"more\n"].concat(),
            name,
        );
        assert_same(
            &stored(&mount, name),
            &[data.as_slice(), b"more\n"].concat(),
            name,
        );
    }
    assert!(
        mount.store("p/raw.jsonl.zst").exists() && !mount.store("p/raw.jsonl").exists(),
        "the raw session is sealed"
    );
}

#[test]
fn of_two_forms_the_raw_one_wins_and_the_other_is_kept_if_it_differs() {
    let Some(mut mount) = store("both") else {
        return;
    };
    let (new, old) = (
        b"raw\nand newer\n".as_slice(),
        b"packed and different\n".as_slice(),
    );
    for (name, packed) in [("differ", old), ("equal", new)] {
        fs::write(mount.store(format!("p/{name}.jsonl")), new).unwrap();
        fs::write(
            mount.store(format!("p/{name}.jsonl.zst")),
            old_release(packed),
        )
        .unwrap();
    }
    mount.mount();
    assert_eq!(common::entries(&mount.path("p")).len(), 2, "one name each");
    for sealed in [false, true] {
        for name in ["differ", "equal"] {
            check_reads(
                &mount.path(format!("p/{name}.jsonl")),
                new,
                &format!("{name}, sealed: {sealed}"),
            );
        }
        mount.seal_and_wait();
    }
    let recovered: Vec<Vec<u8>> = leftovers(&mount, "recovered")
        .iter()
        .map(|file| fs::read(mount.store(".cellar/recovered").join(file)).unwrap())
        .collect();
    assert_eq!(
        recovered,
        [old_release(old)],
        "the differing one, and only that"
    );
    fs::remove_file(mount.path("p/differ.jsonl")).unwrap();
    mount.remount();
    assert!(
        !mount.path("p/differ.jsonl").exists(),
        "a deleted session does not come back in its other form"
    );
}

#[test]
fn deleting_and_moving_a_session_of_two_forms_brings_neither_back() {
    let Some(mut mount) = store("both-gone") else {
        return;
    };
    for name in ["deleted", "moved", "replaced"] {
        fs::write(mount.store(format!("p/{name}.jsonl")), "raw\n").unwrap();
        fs::write(
            mount.store(format!("p/{name}.jsonl.zst")),
            old_release(b"packed\n"),
        )
        .unwrap();
    }
    mount.mount();
    fs::remove_file(mount.path("p/deleted.jsonl")).unwrap();
    fs::rename(mount.path("p/moved.jsonl"), mount.path("p/elsewhere.jsonl")).unwrap();
    fs::write(mount.path("p/new.jsonl"), "new\n").unwrap();
    fs::rename(mount.path("p/new.jsonl"), mount.path("p/replaced.jsonl")).unwrap();
    for _ in 0..2 {
        assert!(!mount.path("p/deleted.jsonl").exists() && !mount.path("p/moved.jsonl").exists());
        assert_eq!(fs::read(mount.path("p/elsewhere.jsonl")).unwrap(), b"raw\n");
        assert_eq!(fs::read(mount.path("p/replaced.jsonl")).unwrap(), b"new\n");
        mount.seal_and_wait();
        mount.remount();
    }
    let kept = leftovers(&mount, "recovered");
    for name in ["deleted", "moved", "replaced"] {
        let is_kept = kept
            .iter()
            .any(|file| file.to_str().unwrap().contains(name));
        assert!(
            is_kept,
            "the packed form of {name} was never shown, so it is kept: {kept:?}"
        );
    }
}
