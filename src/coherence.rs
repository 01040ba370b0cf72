//! Whether a store's file system shows at once what another host wrote.
//!
//! Locks keep two hosts from writing at the same time, but GlusterFS with its default client caches
//! answers a read under a lock from before it: two daemons would then damage sessions. Such a store is
//! for one daemon at a time; which caches a mount has, GlusterFS tells in its directory `.meta`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Whether reads from the store may be older than a lock that was taken before them.
pub fn has_stale_reads(store: &Path) -> bool {
    let Some(top) = mountpoint(store) else {
        return false;
    };
    let Ok(layers) = fs::read_dir(top.join(".meta/graphs/active")) else {
        return false;
    };
    let kinds = layers.filter_map(|layer| fs::read_to_string(layer.ok()?.path().join("type")).ok());
    // Threads alone keep nothing.
    kinds
        .map(|kind| kind.trim().to_owned())
        .any(|kind| kind.starts_with("performance/") && kind != "performance/io-threads")
}

/// The topmost directory of the file system that a path is on.
fn mountpoint(path: &Path) -> Option<PathBuf> {
    let path = path.canonicalize().ok()?;
    let device = fs::metadata(&path).ok()?.dev();
    let is_inside = |dir: &&Path| fs::metadata(dir).is_ok_and(|meta| meta.dev() == device);
    path.ancestors()
        .take_while(is_inside)
        .last()
        .map(Path::to_path_buf)
}
