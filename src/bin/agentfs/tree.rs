//! The files of a project as they were last seen: names, stamps, blobs; and their forms outside memory.
//!
//! Two forms: git's tree objects, which are what `git write-tree` would make of the same files, and
//! the index, a cache from stamps to blobs that can be lost without losing anything. What git's trees
//! cannot say (empty directories, permissions) is in the [`Extras`], a blob of its own.
//!
//! Entries are sorted by name as bytes.

use std::collections::HashMap;
use std::io;

use super::objects::{Kind, Objects};
use super::oid::Oid;
use crate::sys::Stat;

/// What tells that a file is the one seen before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    pub size: u64,
    /// Nanoseconds since the epoch.
    pub mtime: i64,
    pub ctime: i64,
    pub ino: u64,
    /// With the file's type.
    pub mode: u32,
}

impl Stamp {
    pub fn of(stat: &Stat) -> Stamp {
        let nanoseconds = |(seconds, part): (i64, i64)| seconds.wrapping_mul(1_000_000_000) + part;
        Stamp {
            size: stat.size,
            mtime: nanoseconds(stat.mtime),
            ctime: nanoseconds(stat.ctime),
            ino: stat.ino,
            mode: stat.mode,
        }
    }

    pub fn is(&self, kind: u32) -> bool {
        self.mode & libc::S_IFMT == kind
    }
}

/// A regular file or symbolic link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    pub stamp: Stamp,
    /// The stamp is too young to be believed next time.
    pub young: bool,
    pub oid: Oid,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dir {
    /// Permission bits.
    pub mode: u32,
    /// Its tree; the empty one for a directory without files below.
    pub oid: Oid,
    pub entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: Vec<u8>,
    pub node: Node,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    Leaf(Leaf),
    Dir(Dir),
}

impl Dir {
    /// Writes the directory's tree object from its entries, whose own are written.
    pub fn seal(&mut self, objects: &Objects) -> io::Result<()> {
        let mut rows: Vec<(&[u8], bool, &'static str, Oid)> = self
            .entries
            .iter()
            .filter_map(|entry| match &entry.node {
                Node::Dir(dir) if dir.oid == Oid::EMPTY_TREE => None,
                Node::Dir(dir) => Some((entry.name.as_slice(), true, "40000", dir.oid)),
                Node::Leaf(leaf) => Some((entry.name.as_slice(), false, leaf.git_mode(), leaf.oid)),
            })
            .collect();
        // Git sorts a directory as if its name ended in a slash.
        let key = |name: &'_ [u8], is_dir: bool| {
            let slash: &'static [u8] = if is_dir { b"/" } else { b"" };
            [name, slash].concat()
        };
        rows.sort_by(|a, b| {
            let (a, b) = ((a.0, a.1), (b.0, b.1));
            let common = a.0.len().min(b.0.len());
            a.0[..common]
                .cmp(&b.0[..common])
                .then_with(|| key(&a.0[common..], a.1).cmp(&key(&b.0[common..], b.1)))
        });
        if rows.is_empty() {
            // Named by no other tree, so nobody misses the object.
            self.oid = Oid::EMPTY_TREE;
            return Ok(());
        }
        let mut body = Vec::with_capacity(rows.len() * 40);
        for (name, _, mode, oid) in rows {
            body.extend_from_slice(mode.as_bytes());
            body.push(b' ');
            body.extend_from_slice(name);
            body.push(0);
            body.extend_from_slice(&oid.0);
        }
        self.oid = objects.write(Kind::Tree, &body)?;
        Ok(())
    }

    pub fn find(&self, name: &[u8]) -> Result<usize, usize> {
        self.entries
            .binary_search_by(|entry| entry.name.as_slice().cmp(name))
    }

    /// The node at a path of any depth.
    pub fn get(&self, path: &[u8]) -> Option<&Node> {
        let (name, rest) = split(path);
        let node = &self.entries[self.find(name).ok()?].node;
        match (node, rest) {
            (node, None) => Some(node),
            (Node::Dir(dir), Some(rest)) => dir.get(rest),
            (Node::Leaf(_), Some(_)) => None,
        }
    }

    /// Puts a node at a path, or takes away what is there. Directories that a node needs are made; none
    /// that becomes empty goes. The trees on the way have no name until [`Dir::seal_changed`].
    pub fn put(&mut self, path: &[u8], node: Option<Node>) {
        self.oid = Oid::default();
        let (name, rest) = split(path);
        let found = self.find(name);
        let Some(rest) = rest else {
            match (found, node) {
                (Ok(at), Some(node)) => self.entries[at].node = node,
                (Ok(at), None) => drop(self.entries.remove(at)),
                (Err(at), Some(node)) => {
                    let name = name.to_vec();
                    self.entries.insert(at, Entry { name, node });
                }
                (Err(_), None) => {}
            }
            return;
        };
        let fresh = || {
            Node::Dir(Dir {
                mode: 0o755,
                ..Dir::default()
            })
        };
        let at = match found {
            Ok(at) => {
                if let (Node::Leaf(_), true) = (&self.entries[at].node, node.is_some()) {
                    self.entries[at].node = fresh();
                }
                at
            }
            Err(_) if node.is_none() => return,
            Err(at) => {
                let (name, node) = (name.to_vec(), fresh());
                self.entries.insert(at, Entry { name, node });
                at
            }
        };
        if let Node::Dir(dir) = &mut self.entries[at].node {
            dir.put(rest, node);
        }
    }

    /// Writes the trees of the directories that were changed by [`Dir::put`].
    pub fn seal_changed(&mut self, objects: &Objects) -> io::Result<()> {
        if self.oid != Oid::default() {
            return Ok(());
        }
        for entry in &mut self.entries {
            if let Node::Dir(dir) = &mut entry.node {
                dir.seal_changed(objects)?;
            }
        }
        self.seal(objects)
    }

    /// Tells every file and link below with its path, in order.
    pub fn leaves(&self, each: &mut dyn FnMut(&[u8], &Leaf)) {
        self.walk(&mut Vec::new(), &mut |path, node| {
            if let Node::Leaf(leaf) = node {
                each(path, leaf);
            }
        });
    }

    fn walk(&self, path: &mut Vec<u8>, each: &mut dyn FnMut(&[u8], &Node)) {
        for entry in &self.entries {
            let length = path.len();
            path.extend_from_slice(&entry.name);
            each(path, &entry.node);
            if let Node::Dir(dir) = &entry.node {
                path.push(b'/');
                dir.walk(path, each);
            }
            path.truncate(length);
        }
    }
}

fn split(path: &[u8]) -> (&[u8], Option<&[u8]>) {
    match path.iter().position(|byte| *byte == b'/') {
        Some(at) => (&path[..at], Some(&path[at + 1..])),
        None => (path, None),
    }
}

impl Leaf {
    pub fn is_link(&self) -> bool {
        self.stamp.is(libc::S_IFLNK)
    }

    fn git_mode(&self) -> &'static str {
        match (self.is_link(), self.stamp.mode & 0o100) {
            (true, _) => "120000",
            (false, 0) => "100644",
            (false, _) => "100755",
        }
    }
}

/// What a tree object cannot say of a project: permissions and empty directories.
///
/// Format: fields that end in NUL. First `MODE MODE MODE`, octal, the most common permissions of plain
/// files, executable files and directories; then `MODE PATH` for each that differs, and for each
/// directory without entries; a directory's path ends in a slash. Sorted as the walk goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    pub plain: u32,
    pub executable: u32,
    pub dir: u32,
    /// Permission bits by path; a directory's ends in a slash.
    pub differ: HashMap<Vec<u8>, u32>,
}

impl Extras {
    /// The bytes for a tree in memory.
    pub fn encode(root: &Dir) -> Vec<u8> {
        let mut counts = [(); 3].map(|()| HashMap::<u32, u32>::new());
        root.walk(&mut Vec::new(), &mut |_, node| {
            if let Some((class, mode)) = class_and_mode(node) {
                *counts[class].entry(mode).or_default() += 1;
            }
        });
        let usual: Vec<u32> = counts
            .iter()
            .zip([0o644, 0o755, 0o755])
            .map(|(count, default)| {
                let most = count.iter().max_by_key(|(mode, n)| (**n, **mode));
                most.map_or(default, |(mode, _)| *mode)
            })
            .collect();
        let mut out = format!("{:o} {:o} {:o}\0", usual[0], usual[1], usual[2]).into_bytes();
        root.walk(&mut Vec::new(), &mut |path, node| {
            let Some((class, mode)) = class_and_mode(node) else {
                return;
            };
            let (is_dir, is_empty) = match node {
                Node::Dir(dir) => (true, dir.entries.is_empty()),
                Node::Leaf(_) => (false, false),
            };
            if mode != usual[class] || is_empty {
                out.extend_from_slice(format!("{mode:o} ").as_bytes());
                out.extend_from_slice(path);
                out.extend_from_slice(if is_dir { b"/\0" } else { b"\0" });
            }
        });
        out
    }

    /// Reads them; what is malformed is left out.
    pub fn decode(bytes: &[u8]) -> Extras {
        let octal = |digits: &[u8]| {
            let text = std::str::from_utf8(digits).ok()?;
            u32::from_str_radix(text, 8).ok().map(|mode| mode & 0o7777)
        };
        let mut fields = bytes.split(|byte| *byte == 0).filter(|f| !f.is_empty());
        let usual = fields.next().unwrap_or_default();
        let mut usual = usual.split(|byte| *byte == b' ').map(octal);
        let mut next = |default| usual.next().flatten().unwrap_or(default);
        Extras {
            plain: next(0o644),
            executable: next(0o755),
            dir: next(0o755),
            differ: fields
                .filter_map(|field| {
                    let at = field.iter().position(|byte| *byte == b' ')?;
                    Some((field[at + 1..].to_vec(), octal(&field[..at])?))
                })
                .collect(),
        }
    }

    /// The permissions of a file whose tree entry is executable or not.
    pub fn file_mode(&self, path: &[u8], executable: bool) -> u32 {
        let usual = if executable {
            self.executable
        } else {
            self.plain
        };
        self.differ.get(path).copied().unwrap_or(usual)
    }

    /// The permissions of a directory, its path without a slash.
    pub fn dir_mode(&self, path: &[u8]) -> u32 {
        let found = self.differ.get([path, b"/"].concat().as_slice());
        found.copied().unwrap_or(self.dir)
    }

    /// The directories among them, without the slash; every empty one is.
    pub fn dirs(&self) -> impl Iterator<Item = &[u8]> {
        self.differ
            .keys()
            .filter_map(|path| path.strip_suffix(b"/"))
    }
}

fn class_and_mode(node: &Node) -> Option<(usize, u32)> {
    match node {
        Node::Dir(dir) => Some((2, dir.mode)),
        Node::Leaf(leaf) if leaf.is_link() => None,
        Node::Leaf(leaf) => {
            let mode = leaf.stamp.mode & 0o7777;
            Some((usize::from(mode & 0o100 != 0), mode))
        }
    }
}

/// The cache between two scans.
///
/// Format: magic, then little-endian: last version given out (u64), commit, tree and extras recorded
/// last (20 bytes each), the root directory, CRC-32 of all before. A directory is its mode (u32), tree,
/// number of entries (u32), entries; an entry is its kind (u8), length of the name (u16), name, and then
/// a directory, or a leaf's stamp (5 fields) and blob.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    pub version: u64,
    pub commit: Oid,
    pub tree: Oid,
    pub extras: Oid,
    pub root: Dir,
}

const MAGIC: &[u8; 8] = b"agentfs1";
const LEAF: u8 = 0;
const YOUNG_LEAF: u8 = 1;
const DIR: u8 = 2;

impl Index {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&self.version.to_le_bytes());
        for oid in [self.commit, self.tree, self.extras] {
            out.extend_from_slice(&oid.0);
        }
        encode_dir(&self.root, &mut out);
        let mut crc = flate2::Crc::new();
        crc.update(&out);
        out.extend_from_slice(&crc.sum().to_le_bytes());
        out
    }

    /// `None` if any byte is not as it was written.
    pub fn decode(bytes: &[u8]) -> Option<Index> {
        let (body, sum) = bytes.split_last_chunk::<4>()?;
        let mut crc = flate2::Crc::new();
        crc.update(body);
        if crc.sum() != u32::from_le_bytes(*sum) {
            return None;
        }
        let mut rest = body.strip_prefix(MAGIC)?;
        let from = &mut rest;
        Some(Index {
            version: u64::from_le_bytes(take(from)?),
            commit: Oid(take(from)?),
            tree: Oid(take(from)?),
            extras: Oid(take(from)?),
            root: decode_dir(from)?,
        })
    }
}

fn encode_dir(dir: &Dir, out: &mut Vec<u8>) {
    out.extend_from_slice(&dir.mode.to_le_bytes());
    out.extend_from_slice(&dir.oid.0);
    out.extend_from_slice(&(dir.entries.len() as u32).to_le_bytes());
    for entry in &dir.entries {
        out.push(match &entry.node {
            Node::Dir(_) => DIR,
            Node::Leaf(leaf) if leaf.young => YOUNG_LEAF,
            Node::Leaf(_) => LEAF,
        });
        out.extend_from_slice(&(entry.name.len() as u16).to_le_bytes());
        out.extend_from_slice(&entry.name);
        match &entry.node {
            Node::Dir(dir) => encode_dir(dir, out),
            Node::Leaf(Leaf { stamp, oid, .. }) => {
                out.extend_from_slice(&stamp.size.to_le_bytes());
                out.extend_from_slice(&stamp.mtime.to_le_bytes());
                out.extend_from_slice(&stamp.ctime.to_le_bytes());
                out.extend_from_slice(&stamp.ino.to_le_bytes());
                out.extend_from_slice(&stamp.mode.to_le_bytes());
                out.extend_from_slice(&oid.0);
            }
        }
    }
}

fn decode_dir(from: &mut &[u8]) -> Option<Dir> {
    let (mode, oid) = (u32::from_le_bytes(take(from)?), Oid(take(from)?));
    let count = u32::from_le_bytes(take(from)?) as usize;
    let mut entries = Vec::with_capacity(count.min(from.len()));
    for _ in 0..count {
        let [kind] = take(from)?;
        let length = u16::from_le_bytes(take(from)?);
        let (name, rest) = from.split_at_checked(usize::from(length))?;
        *from = rest;
        let node = match kind {
            DIR => Node::Dir(decode_dir(from)?),
            _ => Node::Leaf(Leaf {
                young: kind == YOUNG_LEAF,
                stamp: Stamp {
                    size: u64::from_le_bytes(take(from)?),
                    mtime: i64::from_le_bytes(take(from)?),
                    ctime: i64::from_le_bytes(take(from)?),
                    ino: u64::from_le_bytes(take(from)?),
                    mode: u32::from_le_bytes(take(from)?),
                },
                oid: Oid(take(from)?),
            }),
        };
        let name = name.to_vec();
        entries.push(Entry { name, node });
    }
    Some(Dir { mode, oid, entries })
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, rest) = from.split_first_chunk::<N>()?;
    *from = rest;
    Some(*bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(mode: u32) -> Node {
        Node::Leaf(Leaf {
            stamp: Stamp {
                mode: libc::S_IFREG | mode,
                size: 7,
                ..Stamp::default()
            },
            young: mode == 0o600,
            oid: Oid([mode as u8; 20]),
        })
    }

    fn sample() -> Dir {
        let mut root = Dir {
            mode: 0o755,
            ..Dir::default()
        };
        for path in ["a/one", "a/two", "a.b", "z"] {
            root.put(path.as_bytes(), Some(leaf(0o644)));
        }
        root.put(b"secret", Some(leaf(0o600)));
        root.put(b"\xff\n", Some(leaf(0o755)));
        let empty = Dir {
            mode: 0o700,
            oid: Oid::EMPTY_TREE,
            ..Dir::default()
        };
        root.put(b"a/none", Some(Node::Dir(empty)));
        root
    }

    #[test]
    fn an_index_is_read_as_it_was_written_and_no_changed_byte_is_believed() {
        let index = Index {
            version: 9,
            commit: Oid([1; 20]),
            root: sample(),
            ..Index::default()
        };
        let bytes = index.encode();
        assert_eq!(Index::decode(&bytes), Some(index));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(Index::decode(&changed), None);
            assert_eq!(Index::decode(&bytes[..at]), None);
        }
    }

    #[test]
    fn extras_hold_unusual_permissions_and_empty_directories_only() {
        let bytes = Extras::encode(&sample());
        let want: &[u8] = b"644 755 755\x00700 a/none/\x00600 secret\0";
        assert_eq!(bytes, want);
        let extras = Extras::decode(&bytes);
        assert_eq!(extras.file_mode(b"secret", false), 0o600);
        assert_eq!(extras.file_mode(b"z", false), 0o644);
        assert_eq!(extras.dir_mode(b"a/none"), 0o700);
        assert_eq!(extras.dirs().collect::<Vec<_>>(), [b"a/none"]);
    }

    #[test]
    fn a_path_leads_to_what_was_put_there() {
        let mut root = sample();
        assert!(matches!(root.get(b"a/one"), Some(Node::Leaf(_))));
        root.put(b"a/one/deeper", Some(leaf(0o644)));
        assert!(matches!(root.get(b"a/one"), Some(Node::Dir(_))));
        root.put(b"a", None);
        assert_eq!(root.get(b"a/one/deeper"), None);
        root.put(b"gone/entirely", None);
        assert_eq!(root.get(b"gone"), None);
    }
}
