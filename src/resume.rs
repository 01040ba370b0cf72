//! `resume`: becomes `claude --resume` in the directory a session belongs to.
//!
//! Claude Code looks for a session in the project directory of the directory it is started in, so
//! finding the right one is most of the work. The session must be visible to it as a plain file: where
//! it is looked for in the mount or in its store, the cellar is mounted first. In any other directory
//! it is found in either form, but only a plain one can be resumed.
//!
//! Everything that can fail fails before anything is mounted or started, as far as it can be known.

use crate::claude;
use crate::config::{self, Config};
use crate::exit::{Exit, Failure};
use crate::mounts::{self, Health};
use crate::pick::pick;
use crate::survey::{Surveyed, survey};
use crate::transcript::{beginning, directory, project_and_id};
use crate::{mount, paths, size, trash};
use std::cmp::Reverse;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns only if there is nothing to resume. `out` gets a table if there is too much.
pub fn run(
    config: &Config,
    id: &OsStr,
    projects_dir: Option<&Path>,
    claude_bin: Option<&Path>,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    if id.is_empty() {
        return Err(Failure::usage("an empty ID names no session"));
    }
    let claude = claude::binary(config, claude_bin)?;
    let projects = projects(config, projects_dir)?;
    let session = find(config, &projects, id, out)?;
    if session.packed.is_some() {
        let path = projects.join(&session.path);
        return Err(
            Failure::at("cannot resume", &path, "it is stored compressed")
                .advise("mount it: claude-cellar mount --store-dir DIR --mount-dir DIR"),
        );
    }
    let cwd = working_directory(&projects, &session)?;
    let mut command = Command::new(&claude);
    command.arg("--resume").arg(project_and_id(&session).1);
    if let Some(dir) = config_dir(&projects) {
        command.env("CLAUDE_CONFIG_DIR", dir);
    }
    let error = command.current_dir(&cwd).exec();
    Err(Failure::at("cannot start Claude Code", &claude, error)
        .advise("name its binary with --claude-bin"))
}

/// The directory of projects to look in, mounted if it is the cellar's.
fn projects(config: &Config, given: Option<&Path>) -> Result<PathBuf, Failure> {
    let mount_dir = paths::resolve(&config.mount_dir);
    if let Some(given) = given {
        let dir = paths::resolve(&std::path::absolute(given).unwrap_or_else(|_| given.to_owned()));
        if dir != mount_dir && dir != paths::resolve(&config.store_dir) {
            return Ok(dir);
        }
    }
    let cannot = |error: io::Error| Failure::at("cannot tell the state of", &mount_dir, error);
    let mounted = mounts::at(&mount_dir).map_err(cannot)?;
    match mounted.filter(mounts::Mount::is_cellar) {
        Some(_) if mounts::health(&mount_dir) == Health::Answers => {}
        _ => {
            let how = mount::How {
                adopt: true,
                ..mount::How::default()
            };
            mount::run(config, how)?;
        }
    }
    Ok(mount_dir)
}

/// The one session that is meant.
fn find(
    config: &Config,
    projects: &Path,
    id: &OsStr,
    out: &mut dyn Write,
) -> Result<Surveyed, Failure> {
    let cannot = |error: io::Error| Failure::at("cannot read", projects, error);
    let all = survey(projects, false).map_err(cannot)?.sessions;
    // Sub-agents of earlier versions lie beside their sessions.
    let own = |session: &Surveyed| !project_and_id(session).1.as_bytes().starts_with(b"agent-");
    let sessions = all.into_iter().filter(own);
    let mut meant = pick(id, sessions, project_and_id);
    let (count, shown) = (meant.len() as u64, id.display());
    match (meant.pop(), count) {
        (Some(session), 1) => Ok(session),
        (None, _) => {
            let reason = format!("no session there begins with {shown}");
            let failure = Failure::at("cannot resume", projects, reason);
            Err(match in_trash(config, id) {
                true => failure.advise("one was deleted: see `claude-cellar trash list`"),
                false => failure.advise("see `claude-cellar list DIR`"),
            })
        }
        (Some(last), _) => {
            meant.push(last);
            meant.sort_by_key(|session| Reverse(session.stat.mtime));
            let table = table(projects, &meant);
            out.write_all(table.as_bytes())
                .map_err(|error| Failure::new(format!("cannot write the output: {error}")))?;
            let sessions = size::count(count, "session");
            Err(Failure::usage(format!("{shown} may be any of {sessions}"))
                .advise("give more of it, or `-- PROJECT/ID`"))
        }
    }
}

fn in_trash(config: &Config, id: &OsStr) -> bool {
    let deleted = trash::read(&paths::resolve(&config.store_dir)).unwrap_or_default();
    let deleted = deleted.iter().filter(|deleted| deleted.session.is_some());
    !pick(id, deleted, |deleted| (&deleted.project, &deleted.id)).is_empty()
}

fn table(projects: &Path, sessions: &[Surveyed]) -> String {
    let names = sessions
        .iter()
        .map(|session| session.path.with_extension(""));
    let names: Vec<String> = names.map(|n| n.to_string_lossy().into_owned()).collect();
    let wide = names.iter().map(|n| n.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    let mut row = |name: &str, size: &str, modified: &str, begins: &str| {
        let _ = writeln!(out, "{name:<wide$}  {size:>10}  {modified:<16}  {begins}");
    };
    row("PROJECT/ID", "SIZE", "MODIFIED (UTC)", "BEGINS");
    for (session, name) in sessions.iter().zip(&names) {
        let begins = beginning(projects, session).unwrap_or_default();
        let size = session.original.map_or("?".to_owned(), size::bytes);
        row(name, &size, &size::utc(session.stat.mtime.0), &begins);
    }
    out
}

/// The session's own directory, which must be there.
fn working_directory(projects: &Path, session: &Surveyed) -> Result<PathBuf, Failure> {
    let path = projects.join(&session.path);
    let cannot = |error: io::Error| Failure::at("cannot read", &path, error);
    let Some(cwd) = directory(projects, session).map_err(cannot)? else {
        let reason = "its lines name no directory";
        return Err(Failure::at("cannot resume", &path, reason)
            .advise("run `claude --resume` in the directory of its project"));
    };
    let gone = match fs::metadata(&cwd) {
        Ok(meta) if meta.is_dir() => return Ok(cwd),
        Ok(_) => "is no directory any more".to_owned(),
        Err(error) => format!("is gone: {error}"),
    };
    let reason = format!("the directory it belongs to, {}, {gone}", cwd.display());
    Err(Failure::at("cannot resume", &path, reason).advise("put that back first"))
}

/// The configuration directory of which these are the projects, if Claude Code would take another.
fn config_dir(projects: &Path) -> Option<&Path> {
    let own = config::claude_projects().map(|dir| paths::resolve(&dir));
    let named = projects.file_name() == Some(OsStr::new("projects"));
    projects
        .parent()
        .filter(|_| named && own.as_deref() != Some(projects))
}
