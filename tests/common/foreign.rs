//! Stores that the cellar did not write.

use super::{Mount, assert_same, zstd};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A store that is not mounted yet, or nothing where there are no stores.
pub fn store(name: &str) -> Option<Mount> {
    let mount = Mount::prepare(name).seal_after(86_400);
    fs::create_dir(mount.store("p")).unwrap();
    mount.has_store().then_some(mount)
}

/// As 0.3.0 wrote sessions: one frame at level 19 with its content size.
pub fn old_release(data: &[u8]) -> Vec<u8> {
    zstd(&["-19", &format!("--stream-size={}", data.len())], data)
}

/// Size, whole, head, tail and middle.
pub fn check_reads(path: &Path, want: &[u8], what: &str) {
    let file = fs::File::open(path).unwrap();
    assert_eq!(
        file.metadata().unwrap().len(),
        want.len() as u64,
        "size of {what}"
    );
    for at in [want.len().saturating_sub(65_536), 0, want.len() / 2] {
        let mut piece = vec![0; 65_536.min(want.len() - at)];
        file.read_exact_at(&mut piece, at as u64).unwrap();
        assert_same(
            &piece,
            &want[at..at + piece.len()],
            &format!("{what} at {at}"),
        );
    }
    assert_same(&fs::read(path).unwrap(), want, what);
}
