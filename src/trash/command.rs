//! `trash list`, `trash restore` and `trash prune`: with and without a running daemon, because both
//! work by names alone.

use super::restore::restore;
use super::{Deleted, deleted, prune};
use crate::cli::Trash as Action;
use crate::config::Config;
use crate::exit::Failure;
use crate::pick::pick;
use crate::store::Store;
use crate::sys::is;
use crate::{paths, size};
use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// Does it, and returns what to tell.
pub fn run(config: &Config, action: &Action) -> Result<String, Failure> {
    let store_dir = paths::resolve(&config.store_dir);
    match action {
        Action::List => Ok(table(&read(&store_dir)?)),
        Action::Restore(ids) => restore_all(&store_dir, ids),
        Action::Prune if config.trash_days == 0 => Err(Failure::usage(
            "trash prune keeps what CLAUDE_CELLAR_TRASH_DAYS says, which is not set",
        )
        .advise(format!(
            "set it; to empty the trash, remove what is in {}",
            store_dir.join(super::trash_dir()).display()
        ))),
        Action::Prune => {
            // A directory that is no store yet must not become one.
            read(&store_dir)?;
            let failed = |e: io::Error| Failure::at("cannot prune the trash of", &store_dir, e);
            let count = prune(&open(&store_dir)?, config.trash_days).map_err(failed)?;
            let days = size::count(u64::from(config.trash_days), "day");
            let files = size::count(count, "file");
            Ok(format!("removed {files} deleted more than {days} ago\n"))
        }
    }
}

/// What is in a store's trash; nothing if there is no store.
pub fn read(store_dir: &Path) -> Result<Vec<Deleted>, Failure> {
    let all = match File::open(store_dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => Err(e),
        Ok(store) => deleted(store.as_fd()),
    };
    all.map_err(|error| Failure::at("cannot read the trash of", store_dir, error))
}

fn open(store_dir: &Path) -> Result<Store, Failure> {
    Store::open(store_dir, false, false).map_err(|error| {
        let busy = is(&error, libc::EAGAIN) || is(&error, libc::EACCES);
        let failure = Failure::at("cannot open the store", store_dir, error);
        match busy {
            true => failure.advise("something works on it alone; try again when that is done"),
            false => failure,
        }
    })
}

fn restore_all(store_dir: &Path, ids: &[OsString]) -> Result<String, Failure> {
    let all = read(store_dir)?;
    // All are found before anything is moved.
    let chosen = ids
        .iter()
        .map(|id| choose(&all, id))
        .collect::<Result<Vec<&Deleted>, Failure>>()?;
    let store = open(store_dir)?;
    let mut out = String::new();
    for deleted in chosen {
        let restored = restore(&store, deleted)?;
        let name = Path::new(&deleted.project).join(&deleted.id);
        let _ = write!(out, "restored {}", name.display());
        if restored.bundle_files > 0 {
            let files = size::count(restored.bundle_files, "file");
            let _ = write!(out, " with {files} of its bundle");
        }
        if restored.left > 0 {
            let files = size::count(restored.left, "file");
            let _ = write!(out, "; {files} whose names are taken stay in the trash");
        }
        out.push('\n');
    }
    Ok(out)
}

/// The last deletion of the one session that is meant.
fn choose<'a>(all: &'a [Deleted], id: &OsStr) -> Result<&'a Deleted, Failure> {
    let meant = pick(id, all, |deleted| (&deleted.project, &deleted.id));
    let shown = id.display();
    let Some(last) = meant.first() else {
        return Err(
            Failure::new(format!("nothing in the trash begins with {shown}"))
                .advise("see `claude-cellar trash list`"),
        );
    };
    let name = |deleted: &Deleted| Path::new(&deleted.project).join(&deleted.id);
    match meant.iter().find(|other| name(other) != name(last)) {
        None => Ok(last),
        Some(other) => Err(Failure::usage(format!(
            "{shown} may be {} or {}",
            name(last).display(),
            name(other).display()
        ))
        .advise("give more of it, or `-- PROJECT/ID`")),
    }
}

fn table(all: &[Deleted]) -> String {
    let longest = |name: &dyn Fn(&Deleted) -> &OsStr| {
        let lengths = all
            .iter()
            .map(|deleted| name(deleted).to_string_lossy().chars().count());
        lengths.max().unwrap_or(0)
    };
    let wide = longest(&|deleted| &deleted.id).max(2);
    let mut out = String::new();
    let mut row = |when: &str, size: &str, bundle: &str, id: &str, project: &str| {
        let _ = writeln!(
            out,
            "{when:<16}  {size:>10}  {bundle:>10}  {id:<wide$}  {project}"
        );
    };
    row("DELETED (UTC)", "SIZE", "BUNDLE", "ID", "PROJECT");
    for deleted in all {
        let size = match &deleted.session {
            Some(session) => session.size.map_or("?".to_owned(), size::bytes),
            None => "-".to_owned(),
        };
        let bundle = match deleted.bundle.is_empty() {
            true => "-".to_owned(),
            false => size::bytes(deleted.bundle_bytes),
        };
        row(
            &size::utc(i64::try_from(deleted.when.seconds).unwrap_or(i64::MAX)),
            &size,
            &bundle,
            &deleted.id.to_string_lossy(),
            &deleted.project.to_string_lossy(),
        );
    }
    out
}
