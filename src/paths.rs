//! What is done to a path before it is used: made private, made comparable.
//!
//! A mountpoint may be dead ("transport endpoint is not connected") or not exist yet, so nothing
//! here asks the last component for anything but its name when it does not answer.

use std::env;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::exit::Failure;

/// Creates a directory and its missing parents for this user alone (0700).
pub fn create_private(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// The same, and insists that the directory is ours: files in it are trusted.
pub fn create_trusted(dir: &Path) -> Result<(), Failure> {
    create_private(dir).map_err(|error| Failure::at("cannot create the directory", dir, error))?;
    let owner = dir
        .metadata()
        .map_err(|error| Failure::at("cannot read the directory", dir, error))?
        .uid();
    if owner != effective_uid() {
        let reason = format!("it belongs to user {owner}");
        return Err(Failure::at("cannot use the directory", dir, reason)
            .advise("set XDG_RUNTIME_DIR to a directory of your own"));
    }
    Ok(())
}

pub fn effective_uid() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// The path without symbolic links, as far as it exists; the rest is appended as written.
pub fn resolve(path: &Path) -> PathBuf {
    if let Ok(resolved) = path.canonicalize() {
        return resolved;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => resolve(parent).join(name),
        _ => path.to_path_buf(),
    }
}

/// Every program of this name that a shell could mean, the first first.
pub fn in_path(name: &str) -> impl Iterator<Item = PathBuf> + use<> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> = env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .collect();
    let name = name.to_owned();
    dirs.into_iter()
        .map(move |dir| dir.join(&name))
        .filter(|path| is_program(path))
}

/// Whether a path leads to a file that can be run.
pub fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0)
}

/// Whether one of two resolved paths is the other or lies inside it.
pub fn overlap(a: &Path, b: &Path) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tail_is_kept_as_written() {
        assert_eq!(
            resolve(Path::new("/proc/self/no/such"))
                .file_name()
                .unwrap(),
            "such"
        );
        assert!(!resolve(Path::new("/proc/self/no/such")).starts_with("/proc/self"));
    }

    #[test]
    fn overlap_is_by_component() {
        let overlaps = |a: &str, b: &str| overlap(Path::new(a), Path::new(b));
        assert!(overlaps("/a/b", "/a/b"));
        assert!(overlaps("/a/b/c", "/a/b"));
        assert!(overlaps("/a", "/a/b"));
        assert!(!overlaps("/a/b", "/a/bc"));
    }
}
