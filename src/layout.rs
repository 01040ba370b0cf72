//! Where `install` puts the store, decided from what the projects directory holds.
//!
//! | projects directory | store |
//! | --- | --- |
//! | empty, absent, or with directories of its own | the default place, or the one that is named |
//! | exactly one symbolic link to a directory (a project kept on a network file system) | that directory |
//!
//! A default store that has something in it is not left for another one, which would hide it.
//!
//! A directory that a link leads to holds the sessions of one project, flat: they go into a project
//! directory named after the link, within the store. While that is under way a mark in the store
//! says so, because a half moved directory looks like something else. One that has projects in it
//! is a store already (of another host, say) and is joined as it is.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{Config, StoreFrom};
use crate::exit::Failure;
use crate::migrate::{How, Migration, Taken, is_flat};
use crate::names::OWN;
use crate::paths;
use crate::shared::Shared;

/// In `.cellar` of a store whose top directory is being made a project: names that project.
const MARK: &str = "flat";

pub struct Layout {
    pub store: PathBuf,
    /// The link that leads to the store.
    pub link: Option<Link>,
    /// Links to directories that stay links.
    pub others: Vec<OsString>,
}

pub struct Link {
    pub name: OsString,
    /// What the store's sessions are to be moved to beneath it.
    pub project: Option<OsString>,
}

impl Layout {
    /// A store that is not to be decided on.
    pub fn given(store: &Path) -> Layout {
        Layout {
            store: paths::resolve(store),
            link: None,
            others: Vec::new(),
        }
    }

    /// Reads the projects directory, which is not mounted.
    pub fn decide(config: &Config) -> Result<Layout, Failure> {
        let cannot = |e: io::Error| Failure::at("cannot read", &config.mount_dir, e);
        let mut layout = Layout::given(&config.store_dir);
        let mut links = links(&config.mount_dir).map_err(cannot)?;
        let projects = paths::resolve(&config.mount_dir);
        let free = config.store_from == StoreFrom::Default && !in_use(&layout.store);
        let follows =
            |target: &Path| !paths::overlap(target, &projects) && (free || *target == layout.store);
        if links.len() == 1 && follows(&links[0].1) {
            let (name, target) = links.remove(0);
            let project =
                flat_project(&target, &name).map_err(|e| Failure::at("cannot read", &target, e))?;
            layout.store = target;
            layout.link = Some(Link { name, project });
        }
        layout.others = links.into_iter().map(|(name, _)| name).collect();
        Ok(layout)
    }

    /// Moves the sessions of a flat store into their project directory.
    pub fn unflatten(&self, shared: &Arc<Shared>) -> io::Result<Taken> {
        let Some(project) = self.link.as_ref().and_then(|link| link.project.as_ref()) else {
            return Ok(Taken::default());
        };
        let mark = mark(&self.store);
        let new = mark.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(project.as_encoded_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &mark)?;
        let top = File::open(&self.store)?;
        let migration = Migration::new(shared.clone(), top.into(), Path::new(project), How::Adopt)?;
        let taken = migration.run()?;
        if taken.failures.is_empty() {
            fs::remove_file(&mark)?;
        }
        Ok(taken)
    }

    /// Removes the link, which the mount takes the place of.
    pub fn remove_link(&self, projects: &Path) -> io::Result<()> {
        let Some(link) = &self.link else {
            return Ok(());
        };
        let path = projects.join(&link.name);
        if path.symlink_metadata()?.is_symlink() {
            fs::remove_file(path)?;
        }
        File::open(projects)?.sync_all()
    }
}

/// Whether a store has anything in it.
fn in_use(store: &Path) -> bool {
    let mut entries = fs::read_dir(store).into_iter().flatten().flatten();
    entries.any(|entry| entry.file_name() != OWN)
}

/// The links to directories in a directory, and where they lead, in order.
fn links(dir: &Path) -> io::Result<Vec<(OsString, PathBuf)>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut links = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_symlink()
            && let Ok(target) = entry.path().canonicalize()
            && target.is_dir()
        {
            links.push((entry.file_name(), target));
        }
    }
    links.sort();
    Ok(links)
}

fn mark(store: &Path) -> PathBuf {
    store.join(OWN).join(MARK)
}

/// The project that what lies flat in a directory is to become; `None` if nothing does.
fn flat_project(target: &Path, link: &OsStr) -> io::Result<Option<OsString>> {
    match fs::read(mark(target)) {
        Ok(name) => return Ok(Some(OsString::from_vec(name))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    Ok(is_flat(target)?.then(|| link.to_owned()))
}
