//! `list`: the sessions in a directory as a table, mounted or not.
//!
//! Sizes come from hints and last bytes; only a foreign file, whose last bytes tell nothing, is
//! walked. Links are not followed.

use crate::exit::Failure;
use crate::survey::{self, Surveyed};
use crate::sys::{self, is};
use crate::{frames, mounts, size};
use std::fmt::Write;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// What opening as a directory gives for files, links, and what has just gone.
const NO_DIRECTORY: [i32; 3] = [libc::ENOTDIR, libc::ELOOP, libc::ENOENT];

/// A table of the sessions in a directory and in the directories directly in it, newest first.
pub fn table(dir: &Path) -> Result<String, Failure> {
    let cannot = |error: io::Error| Failure::at("cannot list", dir, error);
    let root = File::open(dir).map_err(cannot)?;
    let mounted = mounts::in_cellar(&root).map_err(cannot)?;
    let mut found = Vec::new();
    survey::directory(Path::new(""), root.as_fd(), &mut found).map_err(cannot)?;
    for entry in sys::read_dir(root.as_fd()).map_err(cannot)? {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        match sys::open_at(root.as_fd(), &entry.name, flags, 0) {
            Ok(below) => survey::directory(Path::new(&entry.name), below.as_fd(), &mut found)
                .map_err(|e| Failure::at("cannot list", &dir.join(&entry.name), e))?,
            Err(e) if NO_DIRECTORY.iter().any(|&c| is(&e, c)) => {}
            Err(e) => return Err(Failure::at("cannot list", &dir.join(&entry.name), e)),
        }
    }
    found.sort_by(|a, b| {
        b.stat
            .mtime
            .cmp(&a.stat.mtime)
            .then_with(|| a.path.cmp(&b.path))
    });
    Ok(rows(dir, &found, mounted))
}

fn rows(dir: &Path, found: &[Surveyed], mounted: bool) -> String {
    let mut out = String::new();
    let mut row = |original: &str, stored: &str, ratio: &str, modified: &str, name: &str| {
        let _ = writeln!(
            out,
            "{original:>10}  {stored:>10}  {ratio:>7}  {modified:<16}  {name}"
        );
    };
    row("ORIGINAL", "STORED", "RATIO", "MODIFIED (UTC)", "NAME");
    let (mut original_sum, mut stored_sum) = (0, 0);
    for session in found {
        // Inside a mount the size is the original's and only the allocation shows the store.
        let stored = match mounted {
            true => session.stat.blocks * 512,
            false => session.stored,
        };
        let original = session.original.or_else(|| walked_size(dir, session));
        original_sum += original.unwrap_or(stored);
        stored_sum += stored;
        row(
            &original.map_or("?".to_owned(), size::bytes),
            &size::bytes(stored),
            &original.map_or("?".to_owned(), |original| size::ratio(original, stored)),
            &size::utc(session.stat.mtime.0),
            &session.path.to_string_lossy(),
        );
    }
    let total = format!("TOTAL of {}", size::count(found.len() as u64, "session"));
    row(
        &size::bytes(original_sum),
        &size::bytes(stored_sum),
        &size::ratio(original_sum, stored_sum),
        "",
        &total,
    );
    out
}

/// The size of a session whose last bytes do not tell it.
fn walked_size(dir: &Path, session: &Surveyed) -> Option<u64> {
    let path = match &session.packed {
        Some(stored) => dir.join(session.path.with_file_name(stored)),
        None => return None,
    };
    let file = File::open(path).ok()?;
    let index = frames::index(&file, sys::fstat(&file).ok()?.size).ok()?;
    (!index.frames.is_empty()).then_some(index.ends.logical)
}
