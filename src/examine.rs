//! A session in whatever form it is stored, examined while others may be changing it.
//!
//! A daemon may replace a store file, append to it or change its form while it is read. So what
//! looks wrong is looked at again, and counts only if the same state of the files is wrong twice: an
//! append in progress looks like a torn one.

use crate::frames::Checker;
use crate::inspect::{self, Fault};
use crate::names::{OWN, is_session, packed_name, visible_name};
use crate::rewrite::{Content, compare};
use crate::sys::{self, Stat, is};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// A look at a session that is being written to is repeated this often.
const LOOKS: u32 = 6;
const PAUSE: Duration = Duration::from_millis(100);

/// A session by its directory and visible name, in whatever form it is.
pub struct Named {
    pub dir: PathBuf,
    pub name: OsString,
}

/// The session a file is.
pub fn named(path: &Path) -> io::Result<Named> {
    let name = path
        .file_name()
        .and_then(visible_name)
        .filter(|name| is_session(name))
        .ok_or_else(|| io::Error::other("neither a directory, a .jsonl.zst nor a .jsonl file"))?;
    Ok(Named {
        dir: path.parent().unwrap_or(Path::new("")).to_owned(),
        name: name.to_owned(),
    })
}

/// All sessions in a directory, at every depth, in the order of their paths. Links are not followed.
pub fn collect(top: &Path, found: &mut Vec<Named>) -> io::Result<()> {
    let mut dirs = vec![top.to_owned()];
    while let Some(path) = dirs.pop() {
        let dir = match File::open(&path) {
            // Gone since its name was read.
            Err(e) if e.kind() == io::ErrorKind::NotFound && path != top => continue,
            dir => dir?,
        };
        let (mut names, mut below) = (BTreeSet::new(), BTreeSet::new());
        for entry in sys::read_dir(dir.as_fd())? {
            let Ok(stat) = sys::stat_at(dir.as_fd(), &entry.name) else {
                continue;
            };
            if stat.is(libc::S_IFDIR) && !(path == top && entry.name == OWN) {
                below.insert(path.join(&entry.name));
            } else if stat.is(libc::S_IFREG)
                && let Some(name) = visible_name(&entry.name).filter(|name| is_session(name))
            {
                names.insert(name.to_owned());
            }
        }
        found.extend(names.into_iter().map(|name| {
            let dir = path.clone();
            Named { dir, name }
        }));
        dirs.extend(below.into_iter().rev());
    }
    Ok(())
}

// ---- one session ------------------------------------------------------------------------------

/// A fault, and the store file it is in.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    pub path: PathBuf,
    pub fault: Fault,
}

/// What was done to a session to make it sound.
#[derive(Debug, PartialEq, Eq)]
pub struct Repaired {
    /// The store file.
    pub path: PathBuf,
    pub what: String,
    /// Where bytes were set aside.
    pub kept: Option<PathBuf>,
}

/// A session that could not be repaired.
#[derive(Debug, PartialEq, Eq)]
pub struct Hopeless {
    /// The session.
    pub path: PathBuf,
    pub why: String,
}

/// What a look at a session gave.
#[derive(Default)]
pub struct Looked {
    pub original: u64,
    pub stored: u64,
    pub findings: Vec<Finding>,
    /// What a repair has done to it.
    pub repaired: Option<Repaired>,
    pub hopeless: Option<Hopeless>,
    /// The states of the store files looked at.
    stats: Vec<Stat>,
}

impl Named {
    /// Whether there is a file of either form.
    pub fn exists(&self) -> bool {
        let there = |name: &OsStr| self.dir.join(name).symlink_metadata().is_ok();
        there(&self.name) || packed_name(&self.name).is_some_and(|stored| there(&stored))
    }

    /// Looks until two looks agree. `None` if there is no such session any more.
    pub fn verify(&self, checker: &mut Checker, done: &dyn Fn(u64)) -> Option<Looked> {
        let look = |checker: &mut Checker| {
            let mut looked = self.look(checker, done);
            // Looked at between the going of one form and the coming of the other.
            for _ in 0..2 {
                if looked.is_some() {
                    break;
                }
                looked = self.look(checker, done);
            }
            looked
        };
        let mut looked = look(checker)?;
        for _ in 1..LOOKS {
            if looked.findings.is_empty() {
                break;
            }
            thread::sleep(PAUSE);
            let again = look(checker)?;
            let settled = states(&again) == states(&looked);
            looked = again;
            if settled {
                break;
            }
        }
        Some(looked)
    }

    /// Looks once, which is enough where nobody can change it, at both forms; `None` if there is
    /// neither.
    pub fn look(&self, checker: &mut Checker, done: &dyn Fn(u64)) -> Option<Looked> {
        let mut looked = Looked::default();
        let raw = looked.open(&self.dir, &self.name);
        let packed = packed_name(&self.name).and_then(|stored| looked.open(&self.dir, &stored));
        if let Some((path, file, stat)) = &raw {
            looked.original = stat.size;
            let read = io::copy(&mut file.take(stat.size), &mut io::sink());
            looked.note(path, read);
            done(stat.size);
        }
        if let Some((path, file, stat)) = &packed {
            let mut faults = Vec::new();
            let index = inspect::packed(file, stat.size, checker, &mut faults, done);
            let sound = faults.is_empty();
            looked.findings.extend(faults.into_iter().map(|fault| {
                let path = path.clone();
                Finding { path, fault }
            }));
            let index = looked.note(path, index);
            match (&index, &raw) {
                (Some(index), None) => looked.original = index.ends.logical,
                (Some(index), Some(raw)) if sound => {
                    self.compare(&mut looked, path, Content::Packed { file, index }, raw);
                }
                _ => {}
            }
        }
        (!looked.stats.is_empty() || !looked.findings.is_empty()).then_some(looked)
    }

    /// Two forms are what a kill leaves between the steps of a change of form: equal.
    fn compare(&self, looked: &mut Looked, path: &Path, packed: Content, raw: &Opened) {
        let (_, file, Stat { size, .. }) = raw;
        let compared = compare(packed, Content::Raw { file, size: *size });
        if looked.note(path, compared) == Some(false) {
            let name = self.name.display();
            let what = format!("differs from {name} beside it, which is the one readers see");
            let (path, fault) = (path.to_owned(), Fault::new(0, what));
            looked.findings.push(Finding { path, fault });
        }
    }
}

fn states(looked: &Looked) -> Vec<impl PartialEq> {
    let stats = looked.stats.iter();
    stats.map(|s| (s.dev, s.ino, s.size, s.mtime)).collect()
}

/// A store file, open.
type Opened = (PathBuf, File, Stat);

impl Looked {
    /// Whether there is something to tell of it.
    pub fn is_news(&self) -> bool {
        !self.findings.is_empty() || self.repaired.is_some() || self.hopeless.is_some()
    }

    fn open(&mut self, dir: &Path, name: &OsStr) -> Option<Opened> {
        let path = dir.join(name);
        let opened = open(&path);
        if let Err(e) = &opened
            && [libc::ENOENT, libc::ELOOP, libc::ENOTDIR]
                .iter()
                .any(|c| is(e, *c))
        {
            return None;
        }
        let (file, stat) = self.note(&path, opened)??;
        self.stored += stat.size;
        self.stats.push(stat);
        Some((path, file, stat))
    }

    /// The value, or a finding and nothing.
    fn note<T>(&mut self, path: &Path, result: io::Result<T>) -> Option<T> {
        result
            .map_err(|e| {
                let (path, fault) = (path.to_owned(), Fault::of(&e));
                self.findings.push(Finding { path, fault });
            })
            .ok()
    }
}

/// Opens a regular file; other kinds are `None`.
fn open(path: &Path) -> io::Result<Option<(File, Stat)>> {
    let dir = File::open(match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    })?;
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    let name = path.file_name().unwrap_or_default();
    let file: File = sys::open_at(dir.as_fd(), name, flags, 0)?.into();
    let stat = sys::fstat(&file)?;
    Ok(stat.is(libc::S_IFREG).then_some((file, stat)))
}
