//! Branches: which commit each ends in, and which is the current one.
//!
//! Written in git's own files, under the store's lock, so git's lock files left by a kill are nobody's
//! and are taken over.

use std::fs;
use std::io;

use super::commit;
use super::oid::Oid;
use super::project::{MAIN, Project};
use crate::exit::Failure;

const HEADS: &str = "refs/heads/";

/// The name of the current branch.
pub fn current(project: &Project) -> Result<String, Failure> {
    let path = project.store.join("HEAD");
    let head = fs::read_to_string(&path).map_err(|error| {
        Failure::at("cannot read the store", &path, error).advise("see `agentfs verify`")
    })?;
    let name = head.trim().strip_prefix("ref: refs/heads/");
    Ok(name.unwrap_or(MAIN).to_owned())
}

pub fn set_current(project: &Project, branch: &str) -> Result<(), Failure> {
    put(project, "HEAD", &format!("ref: {HEADS}{branch}\n"))
}

/// The newest commit of a branch; `None` for a branch without any.
pub fn read(project: &Project, branch: &str) -> Result<Option<Oid>, Failure> {
    let path = project.store.join(HEADS).join(branch);
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse() {
            Ok(oid) => Ok(Some(oid)),
            Err(()) => Err(Failure::at("cannot read the store", &path, "it is damaged")
                .advise("see `agentfs verify`")),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => packed(project, branch),
        Err(error) => Err(Failure::at("cannot read the store", &path, error)),
    }
}

/// Git may have moved the name to its list of packed ones.
fn packed(project: &Project, branch: &str) -> Result<Option<Oid>, Failure> {
    let path = project.store.join("packed-refs");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::at("cannot read the store", &path, error)),
    };
    let wanted = format!("{HEADS}{branch}");
    let found = text.lines().find_map(|line| {
        let (oid, name) = line.split_once(' ')?;
        (name == wanted).then(|| oid.parse().ok())?
    });
    Ok(found)
}

pub fn write(project: &Project, branch: &str, oid: Oid) -> Result<(), Failure> {
    put(project, &format!("{HEADS}{branch}"), &format!("{oid}\n"))
}

/// Writes a file of git's that names something, in one step.
pub fn put(project: &Project, name: &str, text: &str) -> Result<(), Failure> {
    let path = project.store.join(name);
    let lock = project.store.join(format!("{name}.lock"));
    let written = fs::write(&lock, text)
        .or_else(|error| match path.parent() {
            Some(parent) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(parent)?;
                fs::write(&lock, text)
            }
            _ => Err(error),
        })
        .and_then(|()| fs::rename(&lock, &path));
    written.map_err(|error| Failure::at("cannot write to the store", &path, error))
}

/// All branches with their newest commits, by name.
pub fn all(project: &Project) -> Result<Vec<(String, Oid)>, Failure> {
    let format = "--format=%(objectname) %(refname)";
    let listed = project.git().output(["for-each-ref", format, HEADS])?;
    let listed = String::from_utf8_lossy(&listed);
    let rows = listed.lines().filter_map(|line| {
        let (oid, name) = line.split_once(' ')?;
        let name = name.strip_prefix(HEADS)?;
        Some((name.to_owned(), oid.parse().ok()?))
    });
    Ok(rows.collect())
}

/// The highest version that any branch ends in.
pub fn highest_version(project: &Project) -> Result<u64, Failure> {
    let mut highest = 0;
    let objects = super::objects::Objects::new(&project.store);
    for (_, oid) in all(project)? {
        let checkpoint = commit::read(project, &objects, oid)?;
        highest = highest.max(checkpoint.note.version);
    }
    Ok(highest)
}

/// Whether a branch may have this name: git's rules, and nothing that reads as another reference.
pub fn check_name(project: &Project, name: &str) -> Result<(), Failure> {
    let full = format!("{HEADS}{name}");
    let valid = project.git().output(["check-ref-format", &full]).is_ok();
    let taken = super::reference::is_other_than_branch(name);
    match valid && !taken && !name.starts_with('-') && !name.contains('@') {
        true => Ok(()),
        false => Err(Failure::usage(format!("{name:?} is no name for a branch"))
            .advise("use letters, digits, - and /")),
    }
}
