//! What the store holds, session by session, from names, sizes, hints and last bytes alone; only of
//! a foreign file, whose last bytes tell nothing, the frame and block headers are read.
//!
//! Decodes nothing and writes nothing, so it can run beside a daemon, without one, and on a store
//! that is read-only. No link is followed.

use crate::frames::{self, FOREIGN_MAX, FrameSizes};
use crate::names::{OWN, is_session, packed_name, visible_name};
use crate::store::{HINT, Hint};
use crate::sys::{self, Entry, Stat, is};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The unit in which `stat` counts what is allocated.
const BLOCK: u64 = 512;

/// What opening as a directory gives for files, links, and what has just gone.
const NO_DIRECTORY: [i32; 3] = [libc::ENOTDIR, libc::ELOOP, libc::ENOENT];

/// What a store holds.
#[derive(Default)]
pub struct Survey {
    /// The sessions directly in project directories.
    pub sessions: Vec<Surveyed>,
    pub bundles: Vec<Bundle>,
}

/// One session of a store.
#[derive(Debug, Clone)]
pub struct Surveyed {
    /// Visible path beneath the store.
    pub path: PathBuf,
    /// Bytes of its store file, of both where it is there in two forms.
    pub stored: u64,
    /// Bytes allocated for them.
    pub allocated: u64,
    /// Its size; `None` where only decoding could tell.
    pub original: Option<u64>,
    /// How many bytes of its store file wait to be compressed; `None` if it needs nothing more.
    pub waiting: Option<u64>,
    /// Its store name, where it is another than the visible one.
    pub packed: Option<OsString>,
    /// What its store file's `stat` says.
    pub stat: Stat,
}

/// A directory in a project directory, with everything beneath it.
pub struct Bundle {
    /// Path beneath the store.
    pub path: PathBuf,
    /// The sessions of sub-agents, at every depth.
    pub sessions: Vec<Surveyed>,
    /// Bytes of the other files, and bytes allocated for them.
    pub other: u64,
    pub other_allocated: u64,
}

/// All sessions directly in the project directories of a store, and the bundles there if they are
/// asked for; nothing if there is no store.
pub fn survey(store: &Path, bundles: bool) -> io::Result<Survey> {
    let root = match File::open(store) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Survey::default()),
        root => root?,
    };
    let mut found = Survey::default();
    for project in sys::read_dir(root.as_fd())? {
        if project.name == OWN {
            continue;
        }
        let path = Path::new(&project.name);
        let Ok(dir) = open_dir(root.as_fd(), path) else {
            continue;
        };
        let others = directory(path, dir.as_fd(), &mut found.sessions)?;
        if bundles {
            let below = others.into_iter().map(|entry| path.join(entry.name));
            found
                .bundles
                .extend(below.filter_map(|path| bundle(root.as_fd(), path)));
        }
    }
    Ok(found)
}

/// What lies in a directory, at every depth; `None` if nothing does, or if it is no directory. What
/// cannot be read is not counted.
fn bundle(root: BorrowedFd, path: PathBuf) -> Option<Bundle> {
    let mut dirs = vec![path.clone()];
    let mut bundle = Bundle {
        path,
        sessions: Vec::new(),
        other: 0,
        other_allocated: 0,
    };
    while let Some(path) = dirs.pop() {
        let Ok(dir) = open_dir(root, &path) else {
            continue;
        };
        let others = directory(&path, dir.as_fd(), &mut bundle.sessions);
        for entry in others.unwrap_or_default() {
            let Ok(stat) = sys::stat_at(dir.as_fd(), &entry.name) else {
                continue;
            };
            if stat.is(libc::S_IFDIR) {
                dirs.push(path.join(entry.name));
            } else {
                bundle.other += stat.size;
                bundle.other_allocated += stat.blocks * BLOCK;
            }
        }
    }
    (bundle.other > 0 || !bundle.sessions.is_empty()).then_some(bundle)
}

fn open_dir(root: BorrowedFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    sys::open_beneath(root, path.as_os_str(), flags)
}

/// The sessions in any directory and in the directories directly in it, newest first, by paths
/// beneath it. An error names what could not be read.
pub fn near(dir: &Path, root: BorrowedFd) -> Result<Vec<Surveyed>, (PathBuf, io::Error)> {
    let mut found = Vec::new();
    let others =
        directory(Path::new(""), root, &mut found).map_err(|error| (dir.to_owned(), error))?;
    for Entry { name, .. } in others {
        let cannot = |error| (dir.join(&name), error);
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        match sys::open_at(root, &name, flags, 0) {
            Ok(below) => {
                directory(Path::new(&name), below.as_fd(), &mut found).map_err(cannot)?;
            }
            Err(e) if NO_DIRECTORY.iter().any(|&code| is(&e, code)) => {}
            Err(e) => return Err(cannot(e)),
        }
    }
    found.sort_by(|a, b| {
        let by_time = b.stat.mtime.cmp(&a.stat.mtime);
        by_time.then_with(|| a.path.cmp(&b.path))
    });
    Ok(found)
}

/// The sessions directly in one directory; `path` is what their paths begin with. Returns the entries
/// that are no sessions.
pub fn directory(
    path: &Path,
    dir: BorrowedFd,
    found: &mut Vec<Surveyed>,
) -> io::Result<Vec<Entry>> {
    let mut seen: HashMap<PathBuf, usize> = HashMap::new();
    let mut others = Vec::new();
    for entry in sys::read_dir(dir)? {
        let Some(name) = visible_name(&entry.name).filter(|n| is_session(n)) else {
            others.push(entry);
            continue;
        };
        // What vanishes meanwhile is not there.
        let Ok(stat) = sys::stat_at(dir, &entry.name) else {
            continue;
        };
        if !stat.is(libc::S_IFREG) {
            others.push(entry);
            continue;
        }
        let path = path.join(name);
        let raw = name == entry.name;
        let (original, waiting) = if raw {
            (Some(stat.size), Some(stat.size))
        } else {
            packed(dir, &entry.name, stat.size)
        };
        // With several links or a long name it stays as it is, so it does not wait.
        let stays = stat.nlink > 1 || packed_name(name).is_none();
        let session = Surveyed {
            path: path.clone(),
            stored: stat.size,
            allocated: stat.blocks * BLOCK,
            original,
            waiting: waiting.filter(|_| !stays),
            packed: (!raw).then_some(entry.name),
            stat,
        };
        // Of two forms the raw one is the session, and both take space.
        match seen.get(&path) {
            None => {
                seen.insert(path, found.len());
                found.push(session);
            }
            Some(&at) => {
                let stored = found[at].stored + session.stored;
                let allocated = found[at].allocated + session.allocated;
                if raw {
                    found[at] = session;
                }
                (found[at].stored, found[at].allocated) = (stored, allocated);
            }
        }
    }
    Ok(others)
}

/// The size of a packed session, and how many bytes of its store file wait to be compressed.
fn packed(dir: BorrowedFd, stored: &OsStr, size: u64) -> (Option<u64>, Option<u64>) {
    if let Some(hint) = look(dir, stored, size) {
        let rest = size.saturating_sub(hint.sealed);
        return (Some(hint.logical), (rest > 0).then_some(rest));
    }
    match headers(dir, stored, size) {
        Some(FrameSizes { logical, frames }) => {
            let small = frames <= 1 && logical <= FOREIGN_MAX;
            (Some(logical), (!small).then_some(size))
        }
        None => (None, Some(size)),
    }
}

fn headers(dir: BorrowedFd, stored: &OsStr, size: u64) -> Option<FrameSizes> {
    frames::sizes(&open(dir, stored).ok()?, size).ok()?
}

/// What the hint or the last bytes of a packed store file tell; `None` when only a walk can.
pub fn look(dir: BorrowedFd, stored: &OsStr, size: u64) -> Option<Hint> {
    let mut bytes = [0; Hint::LEN];
    let n = sys::getxattr_at(dir, stored, OsStr::new(HINT), &mut bytes).unwrap_or(0);
    Hint::decode(&bytes[..n], size).or_else(|| {
        let ends = frames::ends(&open(dir, stored).ok()?, size).ok()??;
        Some(Hint {
            logical: ends.logical,
            stored: ends.stored,
            sealed: ends.sealed,
        })
    })
}

fn open(dir: BorrowedFd, stored: &OsStr) -> io::Result<File> {
    sys::open_at(dir, stored, libc::O_RDONLY | libc::O_NONBLOCK, 0).map(File::from)
}
