//! Sessions to be damaged, and the damage.

use super::frames::frames;
use super::{Mount, line, sys};
use std::fs;
use std::ops::Range;
use std::path::Path;

pub const PIECE: usize = 100_000;

/// A mount with `p/<name>.jsonl` written as `count` appends of 100 kB, then stopped; nothing where there is no store.
pub fn stopped(name: &str, count: usize) -> Option<(Mount, Vec<Vec<u8>>)> {
    let mut mount = Mount::start_unsealing(name);
    fs::create_dir(mount.path("p")).unwrap();
    let pieces: Vec<Vec<u8>> = (0..count).map(|number| line("d", number, PIECE)).collect();
    for piece in &pieces {
        append(&mount, "p/s.jsonl", piece).unwrap();
    }
    mount.sigterm();
    mount.has_store().then_some((mount, pieces))
}

pub fn append(mount: &Mount, name: &str, data: &[u8]) -> std::io::Result<i64> {
    sys::write(
        &sys::open(
            &mount.path(name),
            libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND,
            0o600,
        )?,
        data,
    )
}

/// Flip one bit in the middle of the frame that holds byte `at`: the bytes of the session that are lost, and the
/// bytes of the store file they came from.
pub fn flip(file: &Path, at: usize) -> (Range<usize>, Range<usize>) {
    let mut packed = fs::read(file).unwrap();
    let mut decoded = 0;
    for frame in frames(&packed).into_iter().filter(|frame| frame.content) {
        let part = &packed[frame.at..frame.at + frame.length];
        let length = super::zstd(&["-d"], part).len();
        if decoded + length > at {
            packed[frame.at + frame.length / 2] ^= 0x10;
            fs::write(file, packed).unwrap();
            return (decoded..decoded + length, frame.at..frame.at + frame.length);
        }
        decoded += length;
    }
    panic!("no byte {at}");
}
