//! `migrate-store` and `import`: a directory of sessions into the store, compressed on the way.
//!
//! Migrating moves and needs the store for itself. Importing copies, beside a running daemon as if
//! from another host.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::config::Config;
use crate::exit::Failure;
use crate::migrate::{How, Inventory, Migration, Taken, inventory, is_flat, note_flat};
use crate::shared::Shared;
use crate::store::Store;
use crate::sys::is;
use crate::{mounts, paths, size};

/// Claude Code deletes what has not been modified for this long, unless told otherwise.
const CLEANUP: Duration = Duration::from_secs(30 * 86_400);

/// Moves what is in `from` (the projects directory, if none is given) into the store. Returns what to
/// tell about it.
pub fn migrate(config: &Config, from: Option<&Path>, dry_run: bool) -> Result<String, Failure> {
    let from = from.unwrap_or(&config.mount_dir);
    let source = Source::find(config, from)?;
    let plan = format!(
        "{} to {}: {}\n",
        from.display(),
        config.store_dir.join(&source.to).display(),
        source.inventory
    );
    if dry_run {
        return Ok(plan);
    }
    source.take(config, How::Migrate)
}

/// Copies what is in `from` into the cellar.
pub fn import(config: &Config, from: &Path) -> Result<String, Failure> {
    let source = Source::find(config, from)?;
    let old = source.old_sessions();
    let mut told = source.take(config, How::Import)?;
    if old > 0 {
        told += &format!(
            "{} not modified for 30 days: Claude Code deletes them at its next start, unless \
             cleanupPeriodDays in its settings.json says otherwise\n",
            size::count(old, "session")
        );
    }
    Ok(told)
}

/// A directory to take.
struct Source {
    dir: PathBuf,
    /// Where it goes beneath the store.
    to: PathBuf,
    inventory: Inventory,
}

impl Source {
    fn find(config: &Config, from: &Path) -> Result<Source, Failure> {
        let cannot = |reason: &dyn std::fmt::Display| Failure::at("cannot take", from, reason);
        let dir = from.canonicalize().map_err(|e| cannot(&e))?;
        let open = File::open(&dir).map_err(|e| cannot(&e))?;
        if mounts::in_cellar(&open).map_err(|e| cannot(&e))? {
            return Err(cannot(&"it is the cellar already"));
        }
        let store = paths::resolve(&config.store_dir);
        if paths::overlap(&dir, &store) {
            return Err(cannot(&format!(
                "it overlaps the store {}",
                store.display()
            )));
        }
        let inventory = inventory(&dir).map_err(|e| cannot(&e))?;
        // The sessions of one project, without its directory. `.` has no name of its own.
        let name = from.file_name().or(dir.file_name());
        let projects = dir == paths::resolve(&config.mount_dir);
        let to = match !projects && is_flat(&dir).map_err(|e| cannot(&e))? {
            true => name.map(PathBuf::from).unwrap_or_default(),
            false => PathBuf::new(),
        };
        Ok(Source { dir, to, inventory })
    }

    fn take(&self, config: &Config, how: How) -> Result<String, Failure> {
        let dir = &config.store_dir;
        let store = Store::open(dir, how == How::Migrate, config.compress_bundles)
            .map_err(|e| busy(dir, e))?;
        let started = Instant::now();
        let cannot = |e: io::Error| {
            Failure::at("cannot take all of", &self.dir, e).advise("run it again to go on")
        };
        let flat = how == How::Migrate && !self.to.as_os_str().is_empty();
        let taken = File::open(&self.dir)
            .and_then(|top| {
                if flat {
                    note_flat(&top, true)?;
                }
                let shared = Arc::new(Shared::new(store));
                let source = top.try_clone()?.into();
                let mut migration = Migration::new(shared, source, &self.to, how)?;
                migration.expect(self.inventory.bytes());
                let taken = migration.run()?;
                if flat && taken.failures.is_empty() {
                    note_flat(&top, false)?;
                }
                Ok(taken)
            })
            .map_err(cannot)?;
        let seconds = started.elapsed().as_secs_f64();
        let told = format!(
            "{taken}, {} in {seconds:.1} s\n",
            size::bytes(self.inventory.bytes())
        );
        complete(&self.dir, taken).map(|()| told)
    }

    /// Sessions that a cleanup would take at once.
    fn old_sessions(&self) -> u64 {
        let Some(limit) = SystemTime::now().checked_sub(CLEANUP) else {
            return 0;
        };
        let projects = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let dirs = projects
            .map(|project| project.path())
            .chain([self.dir.clone()]);
        let files = dirs.flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
        let old = files.filter(|file| {
            let session = file
                .path()
                .extension()
                .is_some_and(|e| e == "jsonl" || e == "zst");
            let modified = file.metadata().and_then(|meta| meta.modified());
            session && modified.is_ok_and(|modified| modified < limit)
        });
        old.count() as u64
    }
}

/// All was taken, or a failure that names what was not.
pub fn complete(from: &Path, taken: Taken) -> Result<(), Failure> {
    let Some((path, error)) = taken.failures.first() else {
        return Ok(());
    };
    let others = match taken.failures.len() - 1 {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    for (path, error) in &taken.failures[1..] {
        eprintln!("{}: {error}", from.join(path).display());
    }
    let path = from.join(path);
    Err(
        Failure::at("cannot take", &path, format!("{error}{others}"))
            .advise("the rest is in the store; run it again when that is mended"),
    )
}

fn busy(store: &Path, error: io::Error) -> Failure {
    let in_use = is(&error, libc::EAGAIN) || is(&error, libc::EACCES);
    let failure = Failure::at("cannot open the store", store, error);
    if in_use {
        return Failure::at("cannot use the store", store, "it is mounted").advise(
            "unmount it first (systemctl --user stop claude-cellar, or claude-cellar umount)",
        );
    }
    failure
}
