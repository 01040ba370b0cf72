//! What other programs call: the operations of the command line on a directory, as values.
//!
//! ```no_run
//! use claude_cellar::agentfs::{self, note::Note};
//! use std::path::Path;
//!
//! let dir = Path::new("/home/alice/app");
//! let note = Note { message: "before the migration".into(), ..Note::default() };
//! let made = agentfs::checkpoint(dir, note)?;
//! let changes = agentfs::diff(dir, "@-1", None)?;
//! let done = agentfs::restore(dir, "@-1", &[])?;
//! # Ok::<(), claude_cellar::exit::Failure>(())
//! ```

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::note::{Change, Checkpoint, Note};
use super::oid::Oid;
use super::plan::Scope;
use super::project::Project;
use super::reference::Resolver;
use super::restore::{self, Restored};
use super::scan::Budget;
use super::writer::Writer;
use super::{history, record};
use crate::exit::Failure;

/// Records the state of the project around `dir`; `None` when nothing has changed since the newest
/// checkpoint. Id, version and time of the note are given by the store.
///
/// # Errors
/// No project is there, or the directory or the store cannot be read or written.
pub fn checkpoint(dir: &Path, note: Note) -> Result<Option<Checkpoint>, Failure> {
    record::checkpoint(&project(dir)?, note)
}

/// Brings `paths`, relative to the project, back to what they were at a reference; everything when
/// there are none. What is there now becomes a checkpoint first.
///
/// # Errors
/// The reference names nothing, the disk is too full, or a file cannot be written; what was there is in
/// the newest checkpoint then.
pub fn restore(dir: &Path, reference: &str, paths: &[PathBuf]) -> Result<Restored, Failure> {
    let project = project(dir)?;
    let to = Resolver::new(&project)?.find(reference)?;
    let paths: Vec<Vec<u8>> = paths
        .iter()
        .map(|path| path.as_os_str().as_encoded_bytes().to_vec())
        .collect();
    let note = Note {
        message: format!("restore v{}", to.note.version),
        restored: Some(to.note.id.clone()),
        ..Note::default()
    };
    restore::restore(
        &mut Writer::insist(&project)?,
        &to,
        &Scope::below(paths),
        note,
        false,
    )
}

/// The files that changed from one reference to another, or to the directory as it is now.
///
/// # Errors
/// A reference names nothing, or the store cannot be read.
pub fn diff(dir: &Path, from: &str, to: Option<&str>) -> Result<Vec<Change>, Failure> {
    let project = project(dir)?;
    let resolver = Resolver::new(&project)?;
    let from = resolver.find(from)?.tree;
    let to = match to {
        Some(to) => resolver.find(to)?.tree,
        None => now(&project)?,
    };
    let changes = history::changes(&project, &[(from, to)], None)?.pop();
    Ok(changes.unwrap_or_default())
}

/// The tree of what the directory holds now. Nothing is recorded.
pub fn now(project: &Project) -> Result<Oid, Failure> {
    let mut writer = Writer::insist(project)?;
    writer.scan(Budget::NONE)?;
    writer.save()?;
    Ok(writer.index.root.oid)
}

fn project(dir: &Path) -> Result<Project, Failure> {
    Project::named(Some(OsStr::new(dir)))
}
