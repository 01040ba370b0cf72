//! The format is what its description says: a reader that was written from that alone finds any part of a
//! session, and decodes no more than it needs.

mod common;

use common::{Mount, corpus, line, rng::Rng};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// The part as the reader gives it, and how many frames that took.
fn read(file: &Path, from: usize, length: usize) -> (Vec<u8>, usize) {
    let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reader.py");
    let output = Command::new("python3")
        .arg(reader)
        .arg(file)
        .args([from.to_string(), length.to_string()])
        .output()
        .expect("python3");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", file.display());
    (output.stdout, said.lines().count())
}

#[test]
fn another_reader_finds_any_part_of_a_session_in_every_state() {
    let mount = Mount::start("format");
    fs::create_dir(mount.path("p")).unwrap();
    let mut rng = Rng::new(9);
    let append = |name: &str, bytes: &[u8]| {
        let options = fs::File::options()
            .append(true)
            .create(true)
            .open(mount.path(name));
        options.unwrap().write_all(bytes).unwrap();
    };
    // Appended only; sealed in one frame; sealed in several; and sealed, then appended to.
    let states = [
        ("p/a.jsonl", 60_000),
        ("p/b.jsonl", 400_000),
        ("p/c.jsonl", 9 << 20),
    ];
    let mut whole: Vec<Vec<u8>> = Vec::new();
    for (name, size) in states {
        let session = corpus::session(&mut rng, size);
        append(name, &session);
        whole.push(session);
    }
    if !mount.has_store() {
        return;
    }
    for round in 0..3 {
        if round == 1 {
            mount.seal_and_wait();
        }
        if round != 1 {
            for ((name, _), session) in states.iter().zip(&mut whole) {
                for number in 0..3 {
                    let more = line("more", number, 2_000);
                    append(name, &more);
                    session.extend(more);
                }
            }
        }
        for ((name, _), session) in states.iter().zip(&whole) {
            let file = mount.store(format!("{name}.zst"));
            if !file.exists() {
                continue;
            }
            let (all, frames) = read(&file, 0, session.len());
            assert!(all == *session, "{name} in round {round}");
            assert!(frames > 0);
            for _ in 0..4 {
                let from = rng.below(session.len() as u64) as usize;
                let length = (rng.below(5_000) as usize).min(session.len() - from);
                let (part, needed) = read(&file, from, length);
                assert!(part == session[from..from + length], "{name} at {from}");
                assert!(
                    needed <= 4 && needed <= frames,
                    "{needed} of {frames} frames"
                );
            }
        }
    }
}
