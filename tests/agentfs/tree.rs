//! Directories as a test sees them: read without agentfs, compared byte by byte, named by git.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[derive(Clone, PartialEq, Eq)]
pub enum Item {
    /// Permissions and content.
    File(u32, Vec<u8>),
    Link(Vec<u8>),
    /// Permissions.
    Dir(u32),
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let start =
            |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        match self {
            Item::File(mode, bytes) => {
                write!(f, "file {mode:o} {} {:?}", bytes.len(), start(bytes))
            }
            Item::Link(target) => write!(f, "link {:?}", start(target)),
            Item::Dir(mode) => write!(f, "dir {mode:o}"),
        }
    }
}

/// By path, relative; the directory itself is not in it.
pub type Tree = BTreeMap<Vec<u8>, Item>;

/// All that a project holds: everything below a directory but what is called `.git`.
pub fn read(dir: &Path) -> Tree {
    fn walk(dir: &Path, prefix: &[u8], tree: &mut Tree) {
        for entry in fs::read_dir(dir).unwrap() {
            let name = entry.unwrap().file_name();
            if name == ".git" {
                continue;
            }
            let (place, path) = (dir.join(&name), [prefix, name.as_bytes()].concat());
            let meta = place.symlink_metadata().unwrap();
            let mode = meta.mode() & 0o7777;
            let item = if meta.is_dir() {
                walk(&place, &[&path, &b"/"[..]].concat(), tree);
                Item::Dir(mode)
            } else if meta.is_symlink() {
                Item::Link(
                    fs::read_link(&place)
                        .unwrap()
                        .as_os_str()
                        .as_bytes()
                        .to_vec(),
                )
            } else {
                Item::File(mode, fs::read(&place).unwrap())
            };
            tree.insert(path, item);
        }
    }
    let mut tree = Tree::new();
    walk(dir, b"", &mut tree);
    tree
}

/// Says what differs, not all there is.
#[track_caller]
pub fn assert_same(found: &Tree, wanted: &Tree, what: &str) {
    if found == wanted {
        return;
    }
    let paths: std::collections::BTreeSet<_> = found.keys().chain(wanted.keys()).collect();
    let mut told = String::new();
    for path in paths {
        let (is, should) = (found.get(path), wanted.get(path));
        if is != should {
            let path = String::from_utf8_lossy(path);
            told.push_str(&format!("\n  {path:?}: {is:?}, not {should:?}"));
        }
    }
    panic!("{what}:{told}");
}

/// What `git write-tree` names the same files, in a repository of its own below `scratch`.
pub fn name_by_git(tree: &Tree, scratch: &Path) -> String {
    let blobs = scratch.join("blobs");
    let _ = fs::remove_dir_all(scratch);
    fs::create_dir_all(&blobs).unwrap();
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_DIR", scratch.join("git"))
            .current_dir(scratch);
        command
    };
    fed(&mut git(&["init", "-q", "--bare"]), b"");
    let (mut listed, mut rows) = (Vec::new(), Vec::new());
    for (path, item) in tree {
        let (mode, bytes) = match item {
            Item::Dir(_) => continue,
            Item::Link(target) => ("120000", target),
            Item::File(mode, bytes) if mode & 0o100 != 0 => ("100755", bytes),
            Item::File(_, bytes) => ("100644", bytes),
        };
        let blob: PathBuf = blobs.join(rows.len().to_string());
        fs::write(&blob, bytes).unwrap();
        listed.extend_from_slice(blob.as_os_str().as_bytes());
        listed.push(b'\n');
        rows.push((mode, path));
    }
    let hash = ["hash-object", "-w", "--no-filters", "--stdin-paths"];
    let oids = fed(&mut git(&hash), &listed);
    let mut info = Vec::new();
    for (oid, (mode, path)) in oids.split(|byte| *byte == b'\n').zip(rows) {
        info.extend_from_slice(format!("{mode} ").as_bytes());
        info.extend_from_slice(oid);
        info.push(b'\t');
        info.extend_from_slice(path);
        info.push(0);
    }
    let lenient = [
        "-c",
        "core.protectNTFS=false",
        "-c",
        "core.protectHFS=false",
    ];
    let add = [&lenient[..], &["update-index", "-z", "--index-info"]].concat();
    fed(&mut git(&add), &info);
    let named = fed(&mut git(&["write-tree"]), b"");
    String::from_utf8(named).unwrap().trim().to_owned()
}

fn fed(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).unwrap());
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{command:?}");
    output.stdout
}

/// A path in a directory.
pub fn at(dir: &Path, path: &[u8]) -> PathBuf {
    dir.join(OsStr::from_bytes(path))
}

/// Whether `path` is `of` or below it.
pub fn covers(of: &[u8], path: &[u8]) -> bool {
    path.strip_prefix(of)
        .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}
