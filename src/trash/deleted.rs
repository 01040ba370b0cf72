//! What is in the trash: deletions of sessions, each with what was deleted of its bundle.
//!
//! Claude Code takes seconds to remove a bundle, so parts of it may lie under other seconds than the
//! session. Each part belongs to that deletion of its session which is nearest in time. Parts of a
//! session that was not deleted make a deletion of their own.
//!
//! Reads names, sizes and last bytes, and decodes nothing.

use super::{When, trash_dir};
use crate::names::visible_name;
use crate::survey;
use crate::sys::{self, is};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// One deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleted {
    pub project: OsString,
    /// The session's name without `.jsonl`.
    pub id: OsString,
    pub when: When,
    /// None if only files of its bundle were deleted.
    pub session: Option<Kept>,
    /// Where files of its bundle are.
    pub bundle: Vec<When>,
    pub bundle_bytes: u64,
}

/// A deleted session's store file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub stored: OsString,
    /// Of the session; `None` where only decoding could tell.
    pub size: Option<u64>,
}

/// The parts of what was deleted of one session.
#[derive(Default)]
struct Parts {
    sessions: Vec<(When, Kept)>,
    bundles: Vec<(When, u64)>,
}

/// All deletions of which something is kept in the store, the last first.
pub fn deleted(store: BorrowedFd) -> io::Result<Vec<Deleted>> {
    let mut parts = BTreeMap::new();
    for when in names(store, &trash_dir())? {
        let Some(when) = When::parse(&when) else {
            continue;
        };
        for project in names(store, &when.dir())? {
            project_parts(store, when, &project, &mut parts)?;
        }
    }
    let mut all: Vec<Deleted> = parts.into_iter().flat_map(together).collect();
    all.sort_by_key(|deleted| std::cmp::Reverse(deleted.when));
    Ok(all)
}

fn project_parts(
    store: BorrowedFd,
    when: When,
    project: &OsStr,
    parts: &mut BTreeMap<(OsString, OsString), Parts>,
) -> io::Result<()> {
    let path = when.dir().join(project);
    let Some(dir) = open(store, &path)? else {
        return Ok(());
    };
    for entry in sys::read_dir(dir.as_fd())? {
        let Ok(stat) = sys::stat_at(dir.as_fd(), &entry.name) else {
            continue;
        };
        let name = visible_name(&entry.name).unwrap_or(&entry.name);
        let session = match name.as_bytes().strip_suffix(b".jsonl") {
            _ if stat.is(libc::S_IFDIR) => None,
            Some(id) => Some(OsStr::from_bytes(id)),
            None => continue,
        };
        let key = (project.into(), session.unwrap_or(&entry.name).into());
        let of_id: &mut Parts = parts.entry(key).or_default();
        if session.is_none() {
            let bytes = bytes_in(store, path.join(&entry.name))?;
            of_id.bundles.push((when, bytes));
            continue;
        }
        let size = match name == entry.name {
            true => Some(stat.size),
            false => survey::look(dir.as_fd(), &entry.name, stat.size).map(|h| h.logical),
        };
        let stored = entry.name;
        of_id.sessions.push((when, Kept { stored, size }));
    }
    Ok(())
}

/// The deletions that parts are of.
fn together(((project, id), parts): ((OsString, OsString), Parts)) -> Vec<Deleted> {
    let deletion = |when: When, session: Option<Kept>| Deleted {
        project: project.clone(),
        id: id.clone(),
        when,
        session,
        bundle: Vec::new(),
        bundle_bytes: 0,
    };
    let mut all: Vec<Deleted> = parts
        .sessions
        .into_iter()
        .map(|(when, session)| deletion(when, Some(session)))
        .collect();
    all.sort_by_key(|deleted| deleted.when);
    if let (true, Some((last, _))) = (all.is_empty(), parts.bundles.iter().max()) {
        all.push(deletion(*last, None));
    }
    for (when, bytes) in parts.bundles {
        let away = |deleted: &&mut Deleted| {
            let seconds = deleted.when.seconds.abs_diff(when.seconds);
            (seconds, deleted.when.number.abs_diff(when.number))
        };
        if let Some(nearest) = all.iter_mut().min_by_key(away) {
            nearest.bundle.push(when);
            nearest.bundle_bytes += bytes;
        }
    }
    all
}

/// All files beneath a directory of the trash.
fn bytes_in(store: BorrowedFd, top: PathBuf) -> io::Result<u64> {
    let (mut bytes, mut dirs) = (0, vec![top]);
    while let Some(path) = dirs.pop() {
        let Some(dir) = open(store, &path)? else {
            continue;
        };
        for entry in sys::read_dir(dir.as_fd())? {
            match sys::stat_at(dir.as_fd(), &entry.name) {
                Ok(stat) if stat.is(libc::S_IFDIR) => dirs.push(path.join(&entry.name)),
                Ok(stat) => bytes += stat.size,
                Err(_) => {}
            }
        }
    }
    Ok(bytes)
}

fn names(store: BorrowedFd, path: &Path) -> io::Result<Vec<OsString>> {
    let Some(dir) = open(store, path)? else {
        return Ok(Vec::new());
    };
    Ok(sys::read_dir(dir.as_fd())?
        .into_iter()
        .map(|entry| entry.name)
        .collect())
}

/// None for what is no directory, or has just gone.
fn open(store: BorrowedFd, path: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    match sys::open_beneath(store, path.as_os_str(), flags) {
        Err(e) if is(&e, libc::ENOENT) || is(&e, libc::ENOTDIR) => Ok(None),
        dir => dir.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn when(seconds: u64) -> When {
        When { seconds, number: 0 }
    }

    fn of(sessions: &[u64], bundles: &[u64]) -> Vec<(u64, bool, Vec<u64>)> {
        let kept = || Kept {
            stored: "a.jsonl.zst".into(),
            size: Some(1),
        };
        let parts = Parts {
            sessions: sessions.iter().map(|s| (when(*s), kept())).collect(),
            bundles: bundles.iter().map(|s| (when(*s), 7)).collect(),
        };
        let all = together((("-p".into(), "a".into()), parts));
        for deleted in &all {
            assert_eq!(deleted.bundle_bytes, 7 * deleted.bundle.len() as u64);
        }
        all.into_iter()
            .map(|deleted| {
                let bundle = deleted.bundle.iter().map(|when| when.seconds).collect();
                (deleted.when.seconds, deleted.session.is_some(), bundle)
            })
            .collect()
    }

    #[test]
    fn parts_of_a_bundle_belong_to_the_nearest_deletion_of_their_session() {
        assert_eq!(
            of(&[100, 900], &[98, 101, 102, 899, 900]),
            [(100, true, vec![98, 101, 102]), (900, true, vec![899, 900])]
        );
        // Claude Code removes the session first.
        assert_eq!(
            of(&[100, 102], &[101]),
            [(100, true, vec![101]), (102, true, vec![])]
        );
        assert_eq!(of(&[], &[5, 9]), [(9, false, vec![5, 9])]);
    }
}
