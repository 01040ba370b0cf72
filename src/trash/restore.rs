//! Bringing a deletion back to where it was.
//!
//! By `rename` within the store, so that it takes no space and no time, and a running daemon needs
//! not be told: it looks names up again within a second. Nothing that is there is overwritten. The
//! session comes last: if this is killed before, another `restore` goes on where it stopped.

use super::{Deleted, When, mirror, move_into, remove_empty};
use crate::exit::Failure;
use crate::names::{Place, visible_name};
use crate::store::{Store, sync_dir};
use crate::sys::{self, SetTime, errno, is};
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// What came back.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Restored {
    pub bundle_files: u64,
    /// Files of the bundle that stay in the trash, because there are others of their names.
    pub left: u64,
}

pub fn restore(store: &Store, deleted: &Deleted) -> Result<Restored, Failure> {
    let mut name = deleted.id.clone();
    name.push(".jsonl");
    let place = Place {
        dir: deleted.project.clone().into(),
        name,
    };
    let cannot = |error: io::Error| Failure::at("cannot restore", &place.path(), error);
    let there = || {
        let failure = Failure::at("cannot restore", &place.path(), "there is such a session");
        failure.advise("move it out of the way first")
    };
    if deleted.session.is_some() && exists(store, &place).map_err(cannot)? {
        return Err(there());
    }
    let mut restored = Restored::default();
    for when in &deleted.bundle {
        let top = place.dir.join(&deleted.id);
        bundle(store, *when, top, &mut restored).map_err(cannot)?;
    }
    if let Some(session) = &deleted.session {
        match bring_back(store, deleted.when, &place, &session.stored) {
            Err(e) if is(&e, libc::EEXIST) => return Err(there()),
            done => done.map_err(cannot)?,
        }
    }
    finish(store, deleted, &place.dir).map_err(cannot)?;
    Ok(restored)
}

fn exists(store: &Store, place: &Place) -> io::Result<bool> {
    let found = store
        .dir(&place.dir)
        .and_then(|dir| store.find(dir.as_fd(), &place.name));
    match found {
        Err(e) if is(&e, libc::ENOENT) => Ok(false),
        found => found.map(|_| true),
    }
}

/// Brings back what is in a directory of the trash and in the directories in it.
fn bundle(store: &Store, when: When, top: PathBuf, restored: &mut Restored) -> io::Result<()> {
    let mut dirs = vec![top];
    let mut at = 0;
    while let Some(path) = dirs.get(at).cloned() {
        at += 1;
        let dir = store.dir(&when.dir().join(&path))?;
        for entry in sys::read_dir(dir.as_fd())? {
            if sys::stat_at(dir.as_fd(), &entry.name)?.is(libc::S_IFDIR) {
                dirs.push(path.join(&entry.name));
                continue;
            }
            let place = Place {
                dir: path.clone(),
                name: visible_name(&entry.name).unwrap_or(&entry.name).to_owned(),
            };
            match bring_back(store, when, &place, &entry.name) {
                Ok(()) => restored.bundle_files += 1,
                Err(e) if is(&e, libc::EEXIST) => restored.left += 1,
                Err(e) => return Err(e),
            }
        }
    }
    for path in dirs.iter().rev() {
        match store.dir(path) {
            // Nothing came out of an empty directory.
            Err(e) if is(&e, libc::ENOENT) => {}
            dir => sync_dir(dir?.as_fd())?,
        }
        remove_empty(store, &when.dir().join(path))?;
    }
    Ok(())
}

/// Brings one file back, modified now: the next cleanup must not take it again.
fn bring_back(store: &Store, when: When, place: &Place, stored: &OsStr) -> io::Result<()> {
    let base = when.dir();
    let dir = store.dir(&base.join(&place.dir))?;
    if exists(store, place)? {
        return Err(errno(libc::EEXIST));
    }
    mirror(store, &base, Path::new(""), &place.dir)?;
    let file = sys::open_at(dir.as_fd(), stored, libc::O_PATH, 0)?;
    sys::utimens(file, SetTime::Omit, SetTime::Now)?;
    move_into(store, Path::new(""), place, dir.as_fd(), stored)
}

/// Makes it durable, and clears the trash of empty directories.
fn finish(store: &Store, deleted: &Deleted, project: &Path) -> io::Result<()> {
    sync_dir(store.dir(project)?.as_fd())?;
    sync_dir(store.root())?;
    for when in deleted.bundle.iter().chain([&deleted.when]) {
        remove_empty(store, &when.dir().join(project))?;
        remove_empty(store, &when.dir())?;
    }
    Ok(())
}
