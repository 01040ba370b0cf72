//! Promise 5 from the other side: whatever `zstd` and `cat` make mounts as it is, reads like `zstd -dc` of it at any
//! place, and can be written on.

mod common;

use common::foreign::{check_reads, old_release, store};
use common::frames::{seek_table, skippable};
use common::{assert_same, corpus, leftovers, line, rng::Rng, stored, sys, zstd, zstd_dc};
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

const APPEND: i32 = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND;

#[test]
fn files_of_zstd_and_cat_read_and_take_appends() {
    let Some(mut mount) = store("foreign") else {
        return;
    };
    let (a, b) = (
        corpus::session(&mut Rng::new(1), 120_000),
        corpus::session(&mut Rng::new(2), 3_000),
    );
    let both = [a.as_slice(), &b].concat();
    let (za, zb) = (old_release(&a), old_release(&b));
    let (skip, empty) = (skippable(3, b"not ours"), zstd(&[], b""));
    let join = |parts: &[&[u8]]| parts.concat();
    let lines: Vec<Vec<u8>> = (0..300).map(|n| line("f", n, 200)).collect();
    let variants: Vec<(&str, Vec<u8>, Vec<u8>)> = vec![
        ("one-frame", za.clone(), a.clone()),
        ("cat", join(&[&za, &zb]), both.clone()),
        (
            "many-frames",
            lines.iter().flat_map(|l| zstd(&["-1"], l)).collect(),
            lines.concat(),
        ),
        ("no-content-size", zstd(&[], &a), a.clone()),
        (
            "no-content-size-cat",
            join(&[&zstd(&[], &a), &zstd(&["-19"], &b)]),
            both.clone(),
        ),
        ("no-checksum", zstd(&["--no-check"], &a), a.clone()),
        (
            "mixed",
            join(&[&za, &zstd(&["--no-check"], &b)]),
            both.clone(),
        ),
        ("skippable-first", join(&[&skip, &za]), a.clone()),
        (
            "skippable-between",
            join(&[&za, &skip, &skip, &zb]),
            both.clone(),
        ),
        (
            "skippable-last",
            join(&[&za, &skippable(0, &[7; 24])]),
            a.clone(),
        ),
        (
            "skippable-of-a-trailer-s-size",
            join(&[&za, &skippable(13, &[0xFF; 24])]),
            a.clone(),
        ),
        ("skippable-only", skip.clone(), Vec::new()),
        ("empty-frame", empty.clone(), Vec::new()),
        (
            "empty-frames",
            join(&[&empty, &za, &empty, &zb, &empty]),
            both.clone(),
        ),
        ("zero-bytes", Vec::new(), Vec::new()),
        (
            "seek-table",
            join(&[
                &za,
                &zb,
                &seek_table(&[(za.len(), a.len()), (zb.len(), b.len())]),
            ]),
            both.clone(),
        ),
        (
            "raw-blocks",
            zstd(&["--fast=5"], &Rng::new(3).bytes(300_000)),
            Rng::new(3).bytes(300_000),
        ),
        ("run-length", zstd(&[], &[0; 700_000]), vec![0; 700_000]),
        (
            "long",
            zstd(&["-3", "--long=27"], &a.repeat(80)),
            a.repeat(80),
        ),
    ];
    for (name, packed, want) in &variants {
        let file = mount.store(format!("p/{name}.jsonl.zst"));
        fs::write(&file, packed).unwrap();
        if !packed.is_empty() {
            assert_same(&zstd_dc(&file), want, &format!("the test's own {name}"));
        }
    }
    mount.mount();
    assert_eq!(common::entries(&mount.path("p")).len(), variants.len());
    for (name, packed, want) in &variants {
        check_reads(&mount.path(format!("p/{name}.jsonl")), want, name);
        assert_eq!(
            &fs::read(mount.store(format!("p/{name}.jsonl.zst"))).unwrap(),
            packed,
            "reading {name} changes nothing"
        );
    }
    let more = line("more", 0, 500);
    let full = |want: &[u8]| [want, more.as_slice()].concat();
    for (name, _, want) in &variants {
        let name = format!("p/{name}.jsonl");
        sys::write(&sys::open(&mount.path(&name), APPEND, 0).unwrap(), &more).unwrap();
        check_reads(
            &mount.path(&name),
            &full(want),
            &format!("{name} after an append"),
        );
        assert_same(
            &stored(&mount, &name),
            &full(want),
            &format!("{name} in the store after an append"),
        );
    }
    mount.seal_and_wait();
    mount.remount();
    for (name, _, want) in &variants {
        let name = format!("p/{name}.jsonl");
        check_reads(&mount.path(&name), &full(want), &format!("{name} sealed"));
        assert_same(
            &stored(&mount, &name),
            &full(want),
            &format!("{name} in the store, sealed"),
        );
    }
    let recovered = leftovers(&mount, "recovered");
    assert!(recovered.is_empty(), "nothing was damaged: {recovered:?}");
}

#[test]
fn a_wrong_seek_table_is_not_believed() {
    let Some(mut mount) = store("seek-table") else {
        return;
    };
    let (a, b) = (
        corpus::session(&mut Rng::new(1), 120_000),
        corpus::session(&mut Rng::new(2), 3_000),
    );
    let (za, zb) = (old_release(&a), old_release(&b));
    let tables = [
        (
            "sizes",
            seek_table(&[(za.len(), a.len() - 9), (zb.len(), b.len() + 7)]),
        ),
        ("absurd", seek_table(&[(zb.len(), 1 << 30), (4, 0)])),
        ("too-few", seek_table(&[(za.len(), a.len())])),
        ("none", seek_table(&[])),
        (
            "one-for-two",
            seek_table(&[(za.len() + zb.len(), a.len() + b.len())]),
        ),
    ];
    for (name, table) in &tables {
        fs::write(
            mount.store(format!("p/{name}.jsonl.zst")),
            [za.as_slice(), &zb, table].concat(),
        )
        .unwrap();
    }
    mount.mount();
    for (name, _) in &tables {
        check_reads(
            &mount.path(format!("p/{name}.jsonl")),
            &[a.as_slice(), &b].concat(),
            name,
        );
    }
}

#[test]
fn looking_at_a_foreign_file_while_it_is_first_written_loses_nothing() {
    const FILES: usize = 400;
    let Some(mut mount) = store("looked-at") else {
        return;
    };
    let want = line("f", 0, 20_000);
    let (whole, name) = (zstd(&["-1"], &want), |number| {
        format!("p/{number:04}.jsonl")
    });
    for number in 0..FILES {
        // Every other one with a byte at its end that an append left behind when it was killed.
        let torn = &[0x5C][..number % 2];
        fs::write(
            mount.store(name(number) + ".zst"),
            [whole.as_slice(), torn].concat(),
        )
        .unwrap();
    }
    mount.mount();
    let current = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let look = || {
            while let number @ 0..FILES = current.load(Ordering::SeqCst) {
                assert!(fs::metadata(mount.path(name(number))).unwrap().len() > 0);
            }
        };
        scope.spawn(look);
        scope.spawn(look);
        for number in 0..FILES {
            current.store(number, Ordering::SeqCst);
            for _ in 0..3 {
                let fd = sys::open(&mount.path(name(number)), APPEND, 0).unwrap();
                sys::write(&fd, b"next\n").unwrap();
            }
        }
        current.store(FILES, Ordering::SeqCst);
    });
    let want = [want.as_slice(), b"next\nnext\nnext\n"].concat();
    let wrong = (0..FILES).filter(|number| fs::read(mount.path(name(*number))).unwrap() != want);
    let wrong: Vec<usize> = wrong.collect();
    assert!(
        wrong.is_empty(),
        "acknowledged lines are missing from {wrong:?}"
    );
}

#[test]
fn a_single_frame_of_fifty_megabytes_reads_from_any_side() {
    let Some(mut mount) = store("large") else {
        return;
    };
    let want = corpus::session(&mut Rng::new(12), 5 << 20).repeat(10);
    fs::write(
        mount.store("p/sized.jsonl.zst"),
        zstd(
            &["-3", "--long=27", &format!("--stream-size={}", want.len())],
            &want,
        ),
    )
    .unwrap();
    fs::write(mount.store("p/unsized.jsonl.zst"), zstd(&["-3"], &want)).unwrap();
    mount.mount();
    for name in ["p/sized.jsonl", "p/unsized.jsonl"] {
        check_reads(&mount.path(name), &want, name);
        let more = line("more", 0, 500);
        sys::write(&sys::open(&mount.path(name), APPEND, 0).unwrap(), &more).unwrap();
        let full = [want.as_slice(), &more].concat();
        check_reads(&mount.path(name), &full, name);
        assert_same(&stored(&mount, name), &full, name);
    }
}

#[test]
fn a_session_that_cannot_be_decoded_is_an_error_and_not_empty() {
    let Some(mut mount) = store("undecodable") else {
        return;
    };
    // Through a pipe: a frame that does not say what it holds.
    let mut flipped = common::zstd(&["-3"], &corpus::session(&mut Rng::new(8), 200_000));
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x10;
    let stored = [
        ("flipped", flipped.clone()),
        ("cut", flipped[..middle / 2].to_vec()),
        ("text", b"this was never compressed\n".to_vec()),
    ];
    for (name, bytes) in &stored {
        fs::write(mount.store(format!("p/{name}.jsonl.zst")), bytes).unwrap();
    }
    mount.mount();
    for (name, bytes) in &stored {
        let read = fs::read(mount.path(format!("p/{name}.jsonl")));
        assert_eq!(sys::errno(&read), libc::EIO, "{name}");
        let file = mount.store(format!("p/{name}.jsonl.zst"));
        assert_eq!(&fs::read(file).unwrap(), bytes, "{name} is left alone");
    }
}
