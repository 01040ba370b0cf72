//! A tree as programs see it: kinds, modes, times, contents, attributes, links.

use super::{sys, tree, zstd_dc};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

#[derive(Clone, PartialEq, Eq)]
pub struct Seen {
    /// Kind and permissions.
    pub mode: u32,
    pub mtime: (i64, i64),
    /// A file's bytes, a link's target.
    pub content: Vec<u8>,
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// The first name of the same file; of a directory, itself.
    pub same_as: PathBuf,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let start = &self.content[..self.content.len().min(40)];
        let start = String::from_utf8_lossy(start);
        write!(
            f,
            "{:o} {:?} {} bytes {start:?} {:?} = {}",
            self.mode,
            self.mtime,
            self.content.len(),
            self.attributes,
            self.same_as.display()
        )
    }
}

pub type Tree = BTreeMap<PathBuf, Seen>;

/// Everything below a directory.
pub fn seen(directory: &Path) -> Tree {
    let (mut all, mut first) = (Tree::new(), BTreeMap::new());
    for name in tree(directory) {
        let path = directory.join(&name);
        let meta = fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let content = match meta.mode() & libc::S_IFMT {
            libc::S_IFREG => fs::read(&path).unwrap_or_else(|e| panic!("{path:?}: {e}")),
            libc::S_IFLNK => fs::read_link(&path).unwrap().into_os_string().into_vec(),
            _ => Vec::new(),
        };
        let plain = meta.is_file() || meta.is_dir();
        let names = plain.then(|| sys::listxattr(&path).unwrap());
        let attributes = names.into_iter().flatten().map(|attribute| {
            let name = String::from_utf8(attribute.clone()).unwrap();
            (attribute, sys::getxattr(&path, &name).unwrap())
        });
        let attributes = attributes.collect();
        let same_as = first.entry(meta.ino()).or_insert_with(|| name.clone());
        let seen = Seen {
            mode: meta.mode(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            content,
            attributes,
            same_as: same_as.clone(),
        };
        all.insert(name, seen);
    }
    all
}

/// What the mount shows of a tree with the store's own kinds of files: a packed session is a session, with the time
/// of its sidecar, and sidecars are not there.
pub fn as_mounted(directory: &Path) -> Tree {
    let raw = seen(directory);
    let mut shown = Tree::new();
    for (name, mut entry) in raw.clone() {
        let bytes = name.as_os_str().as_bytes();
        let file = entry.mode & libc::S_IFMT == libc::S_IFREG;
        let visible = match bytes.strip_suffix(b".zst") {
            Some(session) if file && session.ends_with(b".jsonl") => {
                entry.content = zstd_dc(&directory.join(&name));
                let session = PathBuf::from(std::ffi::OsString::from_vec(session.to_vec()));
                let sidecar = session.with_extension("jsonl.meta");
                if let Some(sidecar) = raw.get(&sidecar) {
                    let seconds = sidecar.content[8..16].try_into().unwrap();
                    entry.mtime = (i64::from_le_bytes(seconds), 0);
                }
                entry.attributes.retain(|(name, _)| name != b"user.cellar");
                entry.same_as = session.clone();
                session
            }
            _ if bytes.ends_with(b".jsonl.meta") => continue,
            _ => name,
        };
        shown.insert(visible, entry);
    }
    shown
}

/// The same without what moves when entries do.
pub fn without_times_of_directories(mut tree: Tree) -> Tree {
    for entry in tree.values_mut() {
        if entry.mode & libc::S_IFMT == libc::S_IFDIR {
            entry.mtime = (0, 0);
        }
    }
    tree
}

#[track_caller]
pub fn assert_seen(got: &Tree, want: &Tree, what: &str) {
    for (name, want) in want {
        match got.get(name) {
            None => panic!("{what}: {name:?} is missing"),
            Some(got) => assert!(got == want, "{what}: {name:?}\n is {got:?}\n not {want:?}"),
        }
    }
    for name in got.keys() {
        assert!(want.contains_key(name), "{what}: {name:?} is too much");
    }
}
