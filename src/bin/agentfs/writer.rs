//! The one process that may change a store, and how a checkpoint is made.
//!
//! Order: objects, then the branch by rename, then the index by rename. A kill between leaves objects
//! that nobody names, or an index that is behind, which costs the next scan some reading. Nothing needs
//! clearing up: the lock is the kernel's and goes with the process.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::ignore::Ignore;
use super::note::{Checkpoint, Note};
use super::objects::{Kind, Objects};
use super::oid::Oid;
use super::project::Project;
use super::scan::{self, Budget, LeftOut};
use super::tree::{Dir, Extras, Index};
use super::{commit, refs};
use crate::exit::Failure;
use crate::sys;

/// The file with the project's own patterns.
pub const IGNORE_FILE: &str = ".agentfsignore";

/// A locked store.
pub struct Writer<'a> {
    pub project: &'a Project,
    pub objects: Objects,
    pub branch: String,
    /// The newest checkpoint of the branch.
    pub tip: Option<Checkpoint>,
    pub index: Index,
    pub left_out: Vec<LeftOut>,
    pub strays: Vec<Vec<u8>>,
    /// Files and bytes that the last scan saw and read.
    pub seen: (u64, u64),
    index_changed: bool,
    _lock: File,
}

impl<'a> Writer<'a> {
    /// Waits for the lock at most this long; `None` when another process kept it.
    pub fn open(project: &'a Project, patience: Duration) -> Result<Option<Writer<'a>>, Failure> {
        let Some(lock) = lock(&project.own("lock"), patience)? else {
            return Ok(None);
        };
        let objects = Objects::new(&project.store);
        let index = fs::read(project.own("index")).unwrap_or_default();
        let index = Index::decode(&index).unwrap_or_default();
        let branch = refs::current(project)?;
        let mut end = refs::read(project, &branch)?;
        if end.is_none() && index.commit != Oid::default() {
            // The branch was lost: to begin another would part it from its history.
            refs::write(project, &branch, index.commit)?;
            end = Some(index.commit);
        }
        let tip = end.map(|oid| commit::read(project, &objects, oid));
        let tip = tip.transpose()?;
        Ok(Some(Writer {
            project,
            objects,
            branch,
            tip,
            index,
            left_out: Vec::new(),
            strays: Vec::new(),
            seen: (0, 0),
            index_changed: false,
            _lock: lock,
        }))
    }

    /// [`Writer::open`] for who cannot do without.
    pub fn insist(project: &'a Project) -> Result<Writer<'a>, Failure> {
        let patience = Duration::from_secs(30);
        Writer::open(project, patience)?.ok_or_else(|| {
            Failure::at(
                "the store is busy",
                &project.store,
                "another agentfs works on it",
            )
            .advise("try again")
        })
    }

    /// Brings the index up to what is in the directory now.
    pub fn scan(&mut self, budget: Budget) -> Result<(), Failure> {
        let ignore = ignore(&self.project.dir);
        let known = std::mem::take(&mut self.index.root);
        let scan = scan::scan(&self.project.dir, known, &ignore, &self.objects, budget)?;
        self.index.root = scan.root;
        self.left_out = scan.left_out;
        self.strays = scan.strays;
        self.seen = (scan.files, scan.bytes);
        self.index_changed |= scan.changed;
        Ok(())
    }

    /// Whether what was scanned differs from the newest checkpoint.
    pub fn differs(&mut self) -> Result<bool, Failure> {
        self.seal()?;
        let Some(tip) = &self.tip else {
            return Ok(true);
        };
        if tip.tree != self.index.root.oid {
            return Ok(true);
        }
        Ok(self.recorded_extras()? != self.extras()?)
    }

    /// Makes a checkpoint of what was scanned, whether it differs or not. Gives the note its id,
    /// version and time.
    pub fn commit(&mut self, mut note: Note) -> Result<&Checkpoint, Failure> {
        self.seal()?;
        let extras = self.extras()?;
        let tree = self.index.root.oid;
        if tree == Oid::EMPTY_TREE {
            let written = self.objects.write(Kind::Tree, b"");
            written.map_err(|error| self.failed(error))?;
        }
        note.time = now_ms();
        note.version = self.next_version();
        note.id = commit::new_id(&note, tree);
        let parent = self.tip.as_ref();
        let checkpoint = commit::write(&self.objects, note, tree, parent, extras)
            .map_err(|error| self.failed(error))?;
        refs::write(self.project, &self.branch, checkpoint.commit)?;
        self.index.version = checkpoint.note.version;
        self.index.commit = checkpoint.commit;
        self.index.tree = tree;
        self.index.extras = extras;
        self.index_changed = true;
        self.save()?;
        Ok(self.tip.insert(checkpoint))
    }

    /// Writes the index if it changed. Without a checkpoint a failure costs only time later.
    pub fn save(&mut self) -> Result<(), Failure> {
        if self.index_changed {
            // Under the lock one name is enough, and what a kill leaves is taken over.
            let (new, index) = (self.project.own("index.new"), self.project.own("index"));
            let bytes = self.index.encode();
            let replaced = File::create(&new).and_then(|mut file| {
                // With its room set aside ext4 does not write it out at once, as it does with a file
                // that replaces another: it is a cache, and its sum tells if it was lost.
                let _ = sys::fallocate(&file, 0, 0, bytes.len() as i64);
                file.write_all(&bytes)?;
                fs::rename(&new, index)
            });
            replaced.map_err(|error| self.failed(error))?;
            self.index_changed = false;
        }
        Ok(())
    }

    /// Lets the index say what the caller has done to the directory.
    pub fn edit_index(&mut self, edit: impl FnOnce(&mut Dir)) -> Result<(), Failure> {
        edit(&mut self.index.root);
        self.seal()?;
        self.index_changed = true;
        Ok(())
    }

    /// An edit may have failed before its trees were written, and they have no names then.
    fn seal(&mut self) -> Result<(), Failure> {
        let sealed = self.index.root.seal_changed(&self.objects);
        sealed.map_err(|error| self.failed(error))
    }

    /// Goes on from another branch.
    pub fn set_branch(&mut self, branch: &str) -> Result<(), Failure> {
        self.tip = match refs::read(self.project, branch)? {
            Some(oid) => Some(commit::read(self.project, &self.objects, oid)?),
            None => None,
        };
        refs::set_current(self.project, branch)?;
        branch.clone_into(&mut self.branch);
        Ok(())
    }

    /// Takes note that the branch now ends in this checkpoint, which holds what the one before it held
    /// where the index says so.
    pub fn follow(&mut self, tip: Checkpoint) -> Result<(), Failure> {
        let known = self.tip.as_ref().map(|tip| tip.commit);
        self.index.commit = match known == Some(self.index.commit) {
            true => tip.commit,
            // What it names may be about to go.
            false => Oid::default(),
        };
        self.index_changed = true;
        self.tip = Some(tip);
        self.save()
    }

    /// Lets the next version be higher than this one, which has come from elsewhere.
    pub fn raise_version(&mut self, version: u64) {
        if self.index.version > 0 && self.index.version < version {
            self.index.version = version;
            self.index_changed = true;
        }
    }

    /// Lets the index say that the directory, as it was scanned, is the newest checkpoint's, if it is.
    pub fn adopt_tip(&mut self) -> Result<(), Failure> {
        if let Some(tip) = &self.tip
            && tip.tree == self.index.root.oid
        {
            (self.index.commit, self.index.tree) = (tip.commit, tip.tree);
            self.index.extras = self.extras()?;
            self.index_changed = true;
        }
        self.save()
    }

    fn next_version(&self) -> u64 {
        let tip = self.tip.as_ref().map_or(0, |tip| tip.note.version);
        // The index may be lost or behind.
        let known = match self.index.version {
            0 => refs::highest_version(self.project).unwrap_or(0),
            version => version,
        };
        known.max(tip) + 1
    }

    fn extras(&self) -> Result<Oid, Failure> {
        let bytes = Extras::encode(&self.index.root);
        let written = self.objects.write(Kind::Blob, &bytes);
        written.map_err(|error| self.failed(error))
    }

    fn recorded_extras(&self) -> Result<Oid, Failure> {
        match &self.tip {
            Some(tip) if tip.commit != self.index.commit => {
                let bytes = commit::extras(&mut self.project.git().batch()?, tip)?;
                let written = self.objects.write(Kind::Blob, &bytes);
                written.map_err(|error| self.failed(error))
            }
            _ => Ok(self.index.extras),
        }
    }

    fn failed(&self, error: io::Error) -> Failure {
        Failure::at("cannot write to the store", &self.project.store, error)
    }
}

/// The patterns of a project.
pub fn ignore(dir: &Path) -> Ignore {
    Ignore::new(&fs::read(dir.join(IGNORE_FILE)).unwrap_or_default())
}

/// Milliseconds since the epoch.
pub fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_millis() as i64
}

/// Takes the lock of a store, for as long as the file is open.
fn lock(path: &Path, patience: Duration) -> Result<Option<File>, Failure> {
    let failed = |error| Failure::at("cannot lock the store", path, error);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(failed)?;
    let until = Instant::now() + patience;
    loop {
        // SAFETY: takes a descriptor that is open.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(Some(file));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::WouldBlock {
            return Err(failed(error));
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
