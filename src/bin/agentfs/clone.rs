//! A project with its history from somewhere else.
//!
//! The store belongs to nobody until everything is there, so a kill leaves no half project.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::cli::{self, Reply};
use super::history;
use super::note::Checkpoint;
use super::project::{MAIN, Project};
use super::remote::{self, Line, Remote};
use super::scan::Budget;
use super::travel;
use super::writer::Writer;
use super::{maintenance, refs};
use crate::exit::Failure;
use crate::size;
use crate::usage::Given;

pub fn clone(given: &mut Given) -> Result<Reply, Failure> {
    let from = given
        .value("from")
        .ok_or_else(|| Failure::usage("clone needs to know where from").advise("--from REMOTE"))?;
    let address = remote::address(from)?;
    let name = cli::text(given, "name")?;
    let dir = match given.more_operands().pop() {
        Some(dir) => PathBuf::from(dir),
        None => remote::last_name(&address)
            .map(PathBuf::from)
            .ok_or_else(|| {
                Failure::usage(format!("{address} gives the directory no name")).advise("give DIR")
            })?,
    };
    let is_new = !dir.exists();
    travel::make_empty(&dir)?;
    let made = make(&dir, name.as_deref(), &address);
    if made.is_err() && is_new {
        let _ = fs::remove_dir_all(&dir);
    }
    let (project, newest, files) = made?;
    maintenance::pack_soon(&project);
    let branch = refs::current(&project)?;
    Ok(match given.flag("json") {
        true => Reply::Json(json!({
            "name": project.name,
            "dir": project.dir.to_string_lossy(),
            "store": project.store.to_string_lossy(),
            "branch": branch,
            "checkpoint": newest.note.id,
            "files": files,
        })),
        false => Reply::Text(format!(
            "{} in {}: {} of v{}, branch {branch}\n",
            project.name,
            project.dir.display(),
            size::count(files, "file"),
            newest.note.version
        )),
    })
}

fn make(
    dir: &Path,
    name: Option<&str>,
    address: &str,
) -> Result<(Project, Checkpoint, u64), Failure> {
    let (project, begun) = Project::prepare(name, dir)?;
    let filled = fill(&project, address).and_then(|(newest, files)| {
        project.settle(begun)?;
        Ok((newest, files))
    });
    match filled {
        Ok((newest, files)) => Ok((project, newest, files)),
        Err(failure) => {
            let _ = fs::remove_dir_all(&project.store);
            Err(failure)
        }
    }
}

fn fill(project: &Project, address: &str) -> Result<(Checkpoint, u64), Failure> {
    let mut remote = Remote::new(project, Some(OsStr::new(address)))?;
    let (mut lines, _) = remote.fetch()?;
    lines.retain(|(branch, _)| refs::check_name(project, branch).is_ok());
    for (branch, line) in &lines {
        if let Some(newest) = line.first() {
            refs::write(project, branch, newest.commit)?;
        }
    }
    let head = remote.head()?;
    let (branch, newest) = chosen(&lines, head.as_deref()).ok_or_else(|| {
        Failure::new(format!("{address} holds no checkpoints")).advise("see `agentfs help sync`")
    })?;
    refs::set_current(project, branch)?;
    let files = travel::write_all(project, newest, &project.dir)?;
    remote.remember()?;
    let mut writer = Writer::insist(project)?;
    writer.scan(Budget::NONE)?;
    writer.index.version = history::everything(project)?
        .iter()
        .map(|checkpoint| checkpoint.note.version)
        .max()
        .unwrap_or(0);
    writer.adopt_tip()?;
    Ok((newest.clone(), files))
}

/// The branch that the remote works on, else `main`, else the newest.
fn chosen<'a>(lines: &'a [Line], head: Option<&str>) -> Option<(&'a str, &'a Checkpoint)> {
    let newest = |(branch, line): &'a Line| Some((branch.as_str(), line.first()?));
    let named = |name: &str| lines.iter().find(|(branch, _)| branch == name);
    let found = head.and_then(named).or_else(|| named(MAIN));
    let latest = || {
        let time = |line: &&Line| line.1.first().map(|c| c.note.time);
        lines.iter().max_by_key(time)
    };
    newest(found.or_else(latest)?)
}
