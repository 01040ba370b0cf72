//! `verify` decodes the whole store: it names every damaged file with the place, goes on, and tells by its exit code.

mod common;

use common::damage::{PIECE, append, flip, stopped};
use common::{Mount, line, zstd};
use std::fs;

/// `verify` with its exit code and all it says.
fn verify(mount: &Mount) -> (Option<i32>, String) {
    let output = mount.run(&["verify"]);
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[test]
fn verify_names_every_damaged_file_with_the_place_and_goes_on() {
    let Some((mut mount, _)) = stopped("verify", 8) else {
        return;
    };
    let file = mount.store("p/s.jsonl.zst");
    let (lost, place) = flip(&file, PIECE * 4);
    fs::copy(&file, mount.store("p/z-other.jsonl.zst")).unwrap();
    fs::write(mount.store("p/a-sound.jsonl.zst"), zstd(&[], b"sound\n")).unwrap();
    fs::write(mount.store("p/nonsense.jsonl.zst"), "no zstd at all").unwrap();
    for running in [false, true] {
        if running {
            mount.mount();
        }
        let (code, text) = verify(&mount);
        assert_eq!(code, Some(1), "running: {running}: {text}");
        for name in ["s.jsonl", "z-other.jsonl", "nonsense.jsonl"] {
            assert!(text.contains(name), "every damaged file, {name}: {text}");
        }
        assert!(
            !text.contains("a-sound.jsonl"),
            "a sound file is not accused: {text}"
        );
        let numbers = text
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|number| number.parse::<usize>().ok());
        let mut numbers = numbers.filter(|n| place.contains(n) || lost.contains(n));
        assert!(
            numbers.next().is_some(),
            "the offset, one of {place:?} or {lost:?}: {text}"
        );
    }
}

#[test]
fn status_and_verify_tell_of_recovered_bytes() {
    let Some((mut mount, _)) = stopped("tell", 3) else {
        return;
    };
    let file = mount.store("p/s.jsonl.zst");
    let packed = fs::read(&file).unwrap();
    fs::write(&file, &packed[..packed.len() - 500]).unwrap();
    mount.mount();
    append(&mount, "p/s.jsonl", b"next\n").unwrap();
    let status = String::from_utf8_lossy(&mount.run(&["status"]).stdout).into_owned();
    assert!(status.contains("recovered"), "status tells: {status}");
    let (code, text) = verify(&mount);
    assert!(text.contains("recovered"), "verify tells: {text}");
    assert_eq!(code, Some(0), "what is in the store is sound: {text}");
}

#[test]
fn a_sound_store_verifies() {
    let mount = Mount::start("sound");
    fs::create_dir(mount.path("p")).unwrap();
    for number in 0..20 {
        fs::write(
            mount.path(format!("p/{number}.jsonl")),
            line("s", number, number * 500),
        )
        .unwrap();
    }
    if mount.has_store() {
        assert_eq!(
            verify(&mount).0,
            Some(0),
            "while they wait: {}",
            verify(&mount).1
        );
        mount.seal_and_wait();
        assert_eq!(verify(&mount).0, Some(0), "sealed: {}", verify(&mount).1);
    }
}
