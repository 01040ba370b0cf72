//! `uninstall`: ends what `install` began. The store is kept.
//!
//! With `--restore` every session comes back as a plain file first, into the projects directory where
//! it was seen. The daemon ends before that, so nothing is written meanwhile; the service goes after
//! it, so that an interrupted restore is taken in again at the next login, or finished by running
//! this again.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::config::Config;
use crate::exit::Failure;
use crate::export::Export;
use crate::migrate::{How, Migration};
use crate::migrate_store::complete;
use crate::mounts::{self, Health};
use crate::service::Service;
use crate::shared::Shared;
use crate::store::Store;
use crate::{clients, mount, paths, size, umount, unit};

/// A name that an export could have.
const NOWHERE: &str = ".claude-cellar-restore";

/// Uninstalls; returns what to tell about it.
pub fn run(restore: bool) -> Result<String, Failure> {
    let service = Service::find(false)?;
    let config = &service.config()?;
    let mount_dir = paths::resolve(&config.mount_dir);
    let store = paths::resolve(&config.store_dir);
    if restore {
        // Looked at beside the mount, before it ends: there must be space for all.
        Export::prepare(&store, &mount_dir.with_file_name(NOWHERE))?;
    }
    if let Some(client) = clients::of(&mount_dir) {
        return Err(Failure::at("cannot unmount", &mount_dir, client)
            .advise("close it first; nothing has been changed"));
    }
    let mut told = Vec::new();
    let mounted = mounts::at(&mount_dir).is_ok_and(|mount| mount.is_some());
    if let Some(manager) = service.manager()
        && manager.is_active(unit::NAME)
    {
        manager.run(&["stop", unit::NAME])?;
    }
    end_mount(config, &mount_dir)?;
    if restore {
        told.push(bring_back(config, &store, &mount_dir)?);
    }
    told.extend(remove_unit(&service)?);
    if mounted {
        told.push(format!("unmounted {}", mount_dir.display()));
    }
    told.push(kept(&store, restore));
    Ok(told.join("\n") + "\n")
}

fn end_mount(config: &Config, mount_dir: &Path) -> Result<(), Failure> {
    let cannot = |e: io::Error| Failure::at("cannot unmount", mount_dir, e);
    let mount = mounts::at(mount_dir).map_err(cannot)?;
    if !mount.is_some_and(|mount| mount.is_cellar()) {
        return Ok(());
    }
    if mounts::health(mount_dir) == Health::Stale {
        return mounts::unmount_anyway(mount_dir).map(drop).map_err(cannot);
    }
    umount::run(config, false).map(drop)
}

/// Writes every session back as a plain file, after what lies there now has been taken in.
fn bring_back(config: &Config, store: &Path, mount_dir: &Path) -> Result<String, Failure> {
    let cannot = |e: io::Error| Failure::at("cannot restore to", mount_dir, e);
    paths::create_private(mount_dir).map_err(cannot)?;
    let opened = Store::open(store, false, config.compress_bundles)
        .map_err(|e| Failure::at("cannot open the store", store, e))?;
    let (top, unmounted) = mount::beneath(config, mount_dir)?;
    let shared = Arc::new(Shared::new(opened));
    let taken = Migration::new(shared, top.into(), Path::new(""), How::Adopt)
        .and_then(Migration::run)
        .map_err(cannot)?;
    complete(mount_dir, taken)?;
    let done = Export::prepare(store, mount_dir)?.run()?;
    unmounted.remove();
    if let Some(failed) = done.failed.first() {
        let (path, count) = (mount_dir.join(&failed.path), done.failed.len() as u64);
        let reason = format!("{} ({} in all)", failed.why, size::count(count, "file"));
        return Err(Failure::at("cannot restore", &path, reason)
            .advise("the service is kept; `claude-cellar verify --repair` mends what is damaged"));
    }
    let (files, bytes) = (size::count(done.files, "file"), size::bytes(done.bytes));
    Ok(format!(
        "restored {files}, {bytes} to {}",
        mount_dir.display()
    ))
}

/// Removes the service if it is ours, and lets no package's start.
fn remove_unit(service: &Service) -> Result<Option<String>, Failure> {
    let (Service::None { file, .. } | Service::Own { file, .. } | Service::Elsewhere { file, .. }) =
        service;
    if !file.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
        return elsewhere(service);
    }
    match service {
        Service::Elsewhere { .. } => return elsewhere(service),
        Service::Own { manager, .. } => manager.run(&["disable", unit::NAME])?,
        // No manager is there to do it.
        Service::None { .. } => drop(fs::remove_file(unit::wanted_by(file))),
    }
    fs::remove_file(file).map_err(|e| Failure::at("cannot remove", file, e))?;
    if let Service::Own { manager, .. } = service {
        manager.run(&["daemon-reload"])?;
    }
    Ok(Some(format!("removed {}", file.display())))
}

fn elsewhere(service: &Service) -> Result<Option<String>, Failure> {
    let Service::Elsewhere { manager, file, .. } = service else {
        return Ok(None);
    };
    if service.is_packaged() {
        manager.run(&["disable", unit::NAME])?;
        if !manager.is_enabled(unit::NAME) {
            return Ok(Some(format!("disabled {}", file.display())));
        }
    }
    Ok(Some(format!(
        "the service {} is managed elsewhere: disable it there, or it starts at the next login",
        file.display()
    )))
}

fn kept(store: &Path, restored: bool) -> String {
    let place = store.display();
    let next = match restored {
        true => format!("everything in it is back in its place; to delete it: rm -r {place}"),
        false => "`claude-cellar install` uses it again; for plain files: \
                  `claude-cellar export DIR`, or `zstd -dc` for each"
            .to_owned(),
    };
    format!("the store is kept: {place}\n{next}")
}
