//! `list`: the sessions in a directory as a table, mounted or not.
//!
//! Sizes come from hints, last bytes and frame headers; only a foreign file whose headers do not tell
//! its size is decoded. Links are not followed.

use crate::exit::Failure;
use crate::survey::{self, Surveyed};
use crate::sys;
use crate::{frames, mounts, size};
use std::fmt::Write;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// A table of the sessions in a directory and in the directories directly in it, newest first.
pub fn table(dir: &Path) -> Result<String, Failure> {
    let cannot = |error: io::Error| Failure::at("cannot list", dir, error);
    let root = File::open(dir).map_err(cannot)?;
    let mounted = mounts::in_cellar(&root).map_err(cannot)?;
    let found = survey::near(dir, root.as_fd())
        .map_err(|(path, error)| Failure::at("cannot list", &path, error))?;
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
            true => session.allocated,
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

/// The size of a session whose frame headers do not tell it.
fn walked_size(dir: &Path, session: &Surveyed) -> Option<u64> {
    let path = match &session.packed {
        Some(stored) => dir.join(session.path.with_file_name(stored)),
        None => return None,
    };
    let file = File::open(path).ok()?;
    let index = frames::index(&file, sys::fstat(&file).ok()?.size).ok()?;
    (!index.frames.is_empty()).then_some(index.ends.logical)
}
