//! Trees of files, and what two of them must have in common.

use super::{SESSION, put};
use crate::common::{corpus, rng::Rng, sys};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// What must stay of an entry. Directories may get another time: they are made anew on the way.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    mode: u32,
    owner: (u32, u32),
    links: u64,
    mtime: Option<(i64, i64)>,
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let start = String::from_utf8_lossy(&self.bytes[..self.bytes.len().min(40)]);
        let (mode, len) = (self.mode, self.bytes.len());
        write!(
            f,
            "{mode:o} {:?} x{} {:?} {len} bytes {start:?}",
            self.owner, self.links, self.mtime
        )
    }
}

pub type Tree = BTreeMap<PathBuf, Entry>;

/// Everything below a directory, by path.
#[track_caller]
pub fn tree(dir: &Path) -> Tree {
    let mut found = Tree::new();
    walk(dir, Path::new(""), &mut found);
    found
}

#[track_caller]
fn walk(dir: &Path, path: &Path, found: &mut Tree) {
    let here = dir.join(path);
    let entries = fs::read_dir(&here).unwrap_or_else(|e| panic!("{}: {e}", here.display()));
    for entry in entries {
        let path = path.join(entry.unwrap().file_name());
        let full = dir.join(&path);
        let meta = full
            .symlink_metadata()
            .unwrap_or_else(|e| panic!("{}: {e}", full.display()));
        let kind = meta.file_type();
        let bytes = match () {
            () if kind.is_file() => {
                fs::read(&full).unwrap_or_else(|e| panic!("{}: {e}", full.display()))
            }
            () if kind.is_symlink() => fs::read_link(&full)
                .unwrap()
                .as_os_str()
                .as_bytes()
                .to_vec(),
            () => Vec::new(),
        };
        let entry = Entry {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            links: if kind.is_dir() { 0 } else { meta.nlink() },
            mtime: (!kind.is_dir()).then(|| (meta.mtime(), meta.mtime_nsec())),
            bytes,
        };
        found.insert(path.clone(), entry);
        if kind.is_dir() {
            walk(dir, &path, found);
        }
    }
}

/// The part of a tree below a directory of it.
pub fn below(tree: &Tree, dir: &str) -> Tree {
    let inside = tree.iter().filter_map(|(path, entry)| {
        let path = path.strip_prefix(dir).ok()?;
        (path != Path::new("")).then(|| (path.to_owned(), entry.clone()))
    });
    inside.collect()
}

/// A tree in a directory of another.
pub fn within(tree: &Tree, dir: &str) -> Tree {
    let moved = tree
        .iter()
        .map(|(path, entry)| (Path::new(dir).join(path), entry.clone()));
    moved.collect()
}

pub fn without(tree: &Tree, gone: &[&str]) -> Tree {
    let mut tree = tree.clone();
    tree.retain(|path, _| !gone.iter().any(|gone| path.starts_with(gone)));
    tree
}

pub fn united(trees: &[&Tree]) -> Tree {
    trees.iter().flat_map(|tree| (*tree).clone()).collect()
}

/// The same names with the same bytes, modes, owners, times and links.
#[track_caller]
pub fn assert_same(got: &Tree, want: &Tree, when: &str) {
    let mut wrong = Vec::new();
    for (path, entry) in want {
        match got.get(path) {
            None => wrong.push(format!("lost: {}", path.display())),
            Some(got) if got != entry => {
                wrong.push(format!("{}: {got:?}, not {entry:?}", path.display()));
            }
            Some(_) => {}
        }
    }
    let new = got.keys().filter(|path| !want.contains_key(*path));
    wrong.extend(new.map(|path| format!("not there before: {}", path.display())));
    assert!(wrong.is_empty(), "{when}:\n{}", wrong.join("\n"));
}

/// The same files with the same bytes, modes, owners and times. After a kill directories and links may
/// be made anew.
#[track_caller]
pub fn assert_files(got: &Tree, want: &Tree, when: &str) {
    let files = |tree: &Tree| {
        let mut tree = tree.clone();
        for entry in tree.values_mut() {
            match entry.mtime {
                Some(_) => entry.links = 1,
                None => entry.mode = libc::S_IFDIR,
            }
        }
        tree
    };
    assert_same(&files(got), &files(want), when);
}

/// What is in the directory and all else a client or a hand puts beside it, without links to
/// directories at the top.
pub fn odd(dir: &Path) {
    corpus::generate(dir);
    let project = dir.join("-home-user-alpha");
    let session = project.join(format!("{SESSION}.jsonl"));
    put(&session, corpus::session(&mut Rng::new(5), 30_000));
    put(&dir.join("loose.jsonl"), "{\"loose\":1}\n");
    put(&dir.join("notes.txt"), "a hand's\n");
    put(&dir.join(".session-aliases"), "{}");
    put(&dir.join("memory/MEMORY.md"), "at the top\n");
    put(&project.join("memory/user.md"), "remember\n");
    put(&project.join("read-only.jsonl"), "{}\n");
    put(&project.join("secret.jsonl"), "{}\n");
    put(&dir.join("-closed/s.jsonl"), "{}\n");
    put(&project.join("two.txt"), "two names\n");
    fs::hard_link(project.join("two.txt"), dir.join("memory/two.txt")).unwrap();
    put(&project.join("linked.jsonl"), "two names\n");
    fs::hard_link(project.join("linked.jsonl"), project.join("also.jsonl")).unwrap();
    fs::create_dir_all(dir.join("-empty")).unwrap();
    fs::create_dir_all(project.join("empty/deeper")).unwrap();
    symlink("notes.txt", dir.join("to-file")).unwrap();
    symlink("nowhere", dir.join("dangling")).unwrap();
    symlink("memory", project.join("to-dir")).unwrap();
    symlink("../notes.txt", project.join("up.jsonl")).unwrap();
    sys::mkfifo(&dir.join("pipe"), 0o640).unwrap();
    sys::mkfifo(&project.join("pipe.jsonl"), 0o600).unwrap();
    let name = OsStr::from_bytes(b"-\xff\xfe b\n'\"%");
    put(
        &dir.join(name).join(OsStr::from_bytes(b"\xc3\x28.jsonl")),
        b"\xff\x00\n",
    );
    put(&dir.join(name).join(OsStr::from_bytes(b" \xf0")), b"x");
    put(
        &project.join(format!("{}.jsonl", "l".repeat(249))),
        "long\n",
    );
    for (path, mode) in [
        ("-home-user-alpha/read-only.jsonl", 0o400),
        ("-home-user-alpha/secret.jsonl", 0),
        ("-closed/s.jsonl", 0o640),
        ("-closed", 0o500),
        ("-empty", 0o1777),
    ] {
        fs::set_permissions(dir.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    sys::chown(&project.join("two.txt"), 12, 34).unwrap();
    let old = tree(dir);
    let files = old
        .keys()
        .filter(|path| !dir.join(path).is_dir() || dir.join(path).is_symlink());
    for (n, path) in files.enumerate() {
        let seconds = 1_500_000_000 + 86_400 * n as i64;
        sys::set_mtime(&dir.join(path), seconds, 123_456_789).unwrap();
    }
}

/// One project's directory, as it lies on a network file system.
pub fn flat(dir: &Path) {
    for n in 0..4 {
        let id = format!("22222222-0000-4000-8000-{n:012}");
        put(
            &dir.join(format!("{id}.jsonl")),
            corpus::session(&mut Rng::new(n), 20_000),
        );
        put(
            &dir.join(format!("{id}/subagents/agent-{n}.jsonl")),
            "{\"agent\":1}\n",
        );
        put(&dir.join(format!("{id}/tool-results/t.txt")), "result\n");
    }
    put(&dir.join("memory/MEMORY.md"), "flat\n");
    put(&dir.join("sessions-index.json"), "{}");
    put(&dir.join(".hidden"), "dot\n");
    symlink("memory/MEMORY.md", dir.join("link")).unwrap();
    for (n, path) in tree(dir).keys().enumerate() {
        sys::set_mtime(&dir.join(path), 1_600_000_000 + n as i64, 987_654_321).unwrap();
    }
}
