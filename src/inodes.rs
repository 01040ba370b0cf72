//! Which object an inode number of the mount means.
//!
//! A number is the store file's own where that is free, else one from a range of its own; it stays
//! while the kernel knows it, through every replacement of the store file (seal, change of form).
//! Generations make a number that is used again another one to the kernel.
//!
//! An entry lives as long as the kernel's lookups, its children and the background pass hold it, so
//! memory follows what the kernel holds. Names, not store inodes, say which session is meant:
//! another host may replace a session's store file, and it is the same session. Only files with
//! several links are found by their store inode.
//!
//! One lock, never held across I/O.

use crate::cache::lock;
use crate::names::{Place, is_session};
use crate::session::Session;
use crate::shared::Shared;
use crate::sys::{Stat, errno};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// The top directory's number, by the FUSE protocol.
pub const ROOT: u64 = 1;
/// Numbers from here on are not a store file's.
const OWN_NUMBERS: u64 = 1 << 48;

type Key = (u64, u64);

/// An object the kernel knows.
pub struct Node {
    pub ino: u64,
    pub generation: u64,
    /// Its `S_IF…` kind.
    pub kind: u32,
    /// Of regular files.
    pub session: Option<Session>,
    /// Attributes at the time its last name went.
    last: Mutex<Option<Stat>>,
}

impl Node {
    pub fn last(&self) -> Option<Stat> {
        *lock(&self.last)
    }
}

struct Slot {
    node: Arc<Node>,
    lookups: u64,
    children: u64,
    names: Vec<(u64, OsString)>,
    key: Key,
}

struct Table {
    slots: HashMap<u64, Slot>,
    names: HashMap<(u64, OsString), u64>,
    /// Files with several links, by store inode.
    linked: HashMap<Key, u64>,
    own_numbers: u64,
    generations: u64,
}

/// The inode table of one mount.
pub struct Inodes {
    shared: Arc<Shared>,
    table: Mutex<Table>,
}

impl Inodes {
    pub fn new(shared: Arc<Shared>, root: &Stat) -> Inodes {
        let node = Node {
            ino: ROOT,
            generation: 0,
            kind: libc::S_IFDIR,
            session: None,
            last: Mutex::default(),
        };
        let slot = Slot {
            node: Arc::new(node),
            lookups: 1,
            children: 0,
            names: Vec::new(),
            key: (root.dev, root.ino),
        };
        let table = Table {
            slots: HashMap::from([(ROOT, slot)]),
            names: HashMap::new(),
            linked: HashMap::new(),
            own_numbers: OWN_NUMBERS,
            generations: 0,
        };
        Inodes {
            shared,
            table: Mutex::new(table),
        }
    }

    pub fn get(&self, ino: u64) -> io::Result<Arc<Node>> {
        lock(&self.table)
            .slots
            .get(&ino)
            .map(|slot| slot.node.clone())
            .ok_or_else(|| errno(libc::ESTALE))
    }

    /// The session of a file; EISDIR or EINVAL for other kinds.
    pub fn file(&self, ino: u64) -> io::Result<Arc<Node>> {
        let node = self.get(ino)?;
        match node.kind {
            libc::S_IFREG => Ok(node),
            libc::S_IFDIR => Err(errno(libc::EISDIR)),
            _ => Err(errno(libc::EINVAL)),
        }
    }

    /// A name of the object; `None` when it has none (any more), and for the top.
    pub fn place(&self, ino: u64) -> Option<Place> {
        let table = lock(&self.table);
        let (parent, name) = table.slots.get(&ino)?.names.first()?;
        Some(Place {
            dir: table.path(*parent)?,
            name: name.clone(),
        })
    }

    /// A directory's path beneath the store; empty for the top.
    pub fn dir(&self, ino: u64) -> io::Result<PathBuf> {
        lock(&self.table)
            .path(ino)
            .ok_or_else(|| errno(libc::ENOENT))
    }

    /// The node known under a name.
    pub fn peek(&self, parent: u64, name: &OsStr) -> Option<Arc<Node>> {
        let table = lock(&self.table);
        let ino = table.names.get(&(parent, name.to_owned()))?;
        table.slots.get(ino).map(|slot| slot.node.clone())
    }

    /// The node of what was found under a name; counts one lookup.
    pub fn reach(&self, parent: u64, name: &OsStr, stat: &Stat) -> Arc<Node> {
        let mut table = lock(&self.table);
        let ino = table
            .known(parent, name, stat)
            .unwrap_or_else(|| table.insert(&self.shared, stat));
        table.attach(ino, parent, name);
        table.rekey(ino, stat);
        if stat.nlink > 1 && !stat.is(libc::S_IFDIR) {
            table.linked.insert((stat.dev, stat.ino), ino);
        }
        let Some(slot) = table.slots.get_mut(&ino) else {
            unreachable!("attached above")
        };
        slot.lookups += 1;
        slot.node.clone()
    }

    /// One more holder of a node that is known.
    pub fn hold(&self, ino: u64) {
        if let Some(slot) = lock(&self.table).slots.get_mut(&ino) {
            slot.lookups += 1;
        }
    }

    /// `count` lookups less.
    pub fn forget(&self, ino: u64, count: u64) {
        let mut table = lock(&self.table);
        if let Some(slot) = table.slots.get_mut(&ino) {
            slot.lookups = slot.lookups.saturating_sub(count);
            table.release(ino);
        }
    }

    /// A name is gone. Returns whether it was its node's last; `stat` is what is remembered then.
    pub fn removed(&self, parent: u64, name: &OsStr, stat: &Stat) -> bool {
        let mut table = lock(&self.table);
        let Some(ino) = table.detach(parent, name) else {
            return false;
        };
        table.release(parent);
        let Some(slot) = table.slots.get(&ino) else {
            return false;
        };
        let last = slot.names.is_empty();
        if last {
            *lock(&slot.node.last) = Some(Stat {
                ino,
                nlink: stat.nlink.saturating_sub(1),
                ..*stat
            });
            let key = slot.key;
            if table.linked.get(&key) == Some(&ino) {
                table.linked.remove(&key);
            }
        }
        table.release(ino);
        last
    }

    /// A file has one name more.
    pub fn linked(&self, ino: u64, parent: u64, name: &OsStr, stat: &Stat) {
        let mut table = lock(&self.table);
        table.attach(ino, parent, name);
        table.rekey(ino, stat);
        if let Some(slot) = table.slots.get_mut(&ino) {
            slot.lookups += 1;
            table.linked.insert((stat.dev, stat.ino), ino);
        }
    }

    /// A name has moved; what had the new name has lost it before. `stat` is what moved: under a name
    /// that is no session's a file is known by its store inode alone, and changing form gave it another.
    pub fn renamed(
        &self,
        (parent, name): (u64, &OsStr),
        (new_parent, new_name): (u64, &OsStr),
        stat: &Stat,
    ) {
        let mut table = lock(&self.table);
        if let Some(ino) = table.detach(parent, name) {
            table.attach(ino, new_parent, new_name);
            table.rekey(ino, stat);
            table.release(parent);
        }
    }

    /// Two names have changed places.
    pub fn exchanged(&self, a: (u64, &OsStr), b: (u64, &OsStr)) {
        let mut table = lock(&self.table);
        let (first, second) = (table.detach(a.0, a.1), table.detach(b.0, b.1));
        if let Some(ino) = first {
            table.attach(ino, b.0, b.1);
        }
        if let Some(ino) = second {
            table.attach(ino, a.0, a.1);
        }
        table.release(a.0);
        table.release(b.0);
    }
}

impl Table {
    fn path(&self, ino: u64) -> Option<PathBuf> {
        let mut names = Vec::new();
        let mut at = ino;
        while at != ROOT {
            let (parent, name) = self.slots.get(&at)?.names.first()?;
            names.push(name);
            at = *parent;
        }
        Some(names.iter().rev().collect())
    }

    fn known(&self, parent: u64, name: &OsStr, stat: &Stat) -> Option<u64> {
        let key = (stat.dev, stat.ino);
        let same_kind = |ino: &u64| self.slots.get(ino).is_some_and(|s| stat.is(s.node.kind));
        let by_link = self.linked.get(&key).filter(|_| stat.nlink > 1);
        if let Some(ino) = by_link.filter(|ino| same_kind(ino)) {
            return Some(*ino);
        }
        let ino = *self.names.get(&(parent, name.to_owned()))?;
        let slot = self.slots.get(&ino)?;
        (same_kind(&ino) && (slot.key == key || (stat.is(libc::S_IFREG) && is_session(name))))
            .then_some(ino)
    }

    fn insert(&mut self, shared: &Arc<Shared>, stat: &Stat) -> u64 {
        let free = stat.ino > ROOT && stat.ino < OWN_NUMBERS && !self.slots.contains_key(&stat.ino);
        let ino = if free { stat.ino } else { self.own_numbers };
        self.own_numbers += u64::from(!free);
        self.generations += 1;
        let kind = stat.mode & libc::S_IFMT;
        let session = (kind == libc::S_IFREG).then(|| Session::new(shared.clone()));
        let node = Arc::new(Node {
            ino,
            generation: self.generations,
            kind,
            session,
            last: Mutex::default(),
        });
        self.slots.insert(
            ino,
            Slot {
                node,
                lookups: 0,
                children: 0,
                names: Vec::new(),
                key: (stat.dev, stat.ino),
            },
        );
        ino
    }

    /// Notes the store inode a node has now. The number it had may soon be another file's.
    fn rekey(&mut self, ino: u64, stat: &Stat) {
        let key = (stat.dev, stat.ino);
        let Some(slot) = self.slots.get_mut(&ino) else {
            return;
        };
        let old = std::mem::replace(&mut slot.key, key);
        if old != key && self.linked.get(&old) == Some(&ino) {
            self.linked.remove(&old);
        }
    }

    /// Gives a node a name, which leaves whoever had it.
    fn attach(&mut self, ino: u64, parent: u64, name: &OsStr) {
        let key = (parent, name.to_owned());
        if self.names.get(&key) == Some(&ino) {
            return;
        }
        if let Some(other) = self.detach(parent, name) {
            self.release(other);
        }
        if let Some(slot) = self.slots.get_mut(&ino) {
            slot.names.push(key.clone());
            self.names.insert(key, ino);
            if let Some(parent) = self.slots.get_mut(&parent) {
                parent.children += 1;
            }
        }
    }

    /// Takes a name from its node, which is returned. It and the parent may have to be released, but
    /// not before both have what they get instead.
    fn detach(&mut self, parent: u64, name: &OsStr) -> Option<u64> {
        let key = (parent, name.to_owned());
        let ino = self.names.remove(&key)?;
        if let Some(slot) = self.slots.get_mut(&ino) {
            slot.names.retain(|n| *n != key);
        }
        if let Some(slot) = self.slots.get_mut(&parent) {
            slot.children = slot.children.saturating_sub(1);
        }
        Some(ino)
    }

    /// Drops a node that nobody holds, and its parents after it.
    fn release(&mut self, ino: u64) {
        let unused = self
            .slots
            .get(&ino)
            .is_some_and(|s| s.lookups == 0 && s.children == 0 && ino != ROOT);
        if !unused {
            return;
        }
        if let Some(slot) = self.slots.remove(&ino) {
            if self.linked.get(&slot.key) == Some(&ino) {
                self.linked.remove(&slot.key);
            }
            for (parent, name) in slot.names {
                self.names.remove(&(parent, name));
                if let Some(slot) = self.slots.get_mut(&parent) {
                    slot.children = slot.children.saturating_sub(1);
                }
                self.release(parent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use std::path::Path;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn table() -> Inodes {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cellar-inodes-{}-{count}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let store = Store::open(&dir, false, false).unwrap();
        // The table never looks into the store.
        std::fs::remove_dir_all(&dir).unwrap();
        Inodes::new(Arc::new(Shared::new(store)), &stat(2, libc::S_IFDIR, 1))
    }

    fn stat(ino: u64, kind: u32, nlink: u64) -> Stat {
        Stat {
            dev: 7,
            ino,
            mode: kind | 0o600,
            nlink,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            blocks: 0,
            atime: (0, 0),
            mtime: (0, 0),
            ctime: (0, 0),
        }
    }

    fn reach(inodes: &Inodes, parent: u64, name: &str, store_ino: u64) -> u64 {
        let stat = stat(store_ino, libc::S_IFREG, 1);
        inodes.reach(parent, OsStr::new(name), &stat).ino
    }

    fn dir(inodes: &Inodes, parent: u64, name: &str, store_ino: u64) -> u64 {
        let stat = stat(store_ino, libc::S_IFDIR, 2);
        inodes.reach(parent, OsStr::new(name), &stat).ino
    }

    fn path(inodes: &Inodes, ino: u64) -> Option<PathBuf> {
        inodes.place(ino).map(|place| place.path())
    }

    fn sizes(inodes: &Inodes) -> (usize, usize, usize) {
        let table = lock(&inodes.table);
        (table.slots.len(), table.names.len(), table.linked.len())
    }

    #[test]
    fn forgetting_frees_a_node_and_its_parents() {
        let inodes = table();
        let a = dir(&inodes, ROOT, "a", 10);
        let b = dir(&inodes, a, "b", 11);
        let file = reach(&inodes, b, "x.jsonl", 12);
        reach(&inodes, b, "x.jsonl", 12);
        inodes.forget(a, 1);
        inodes.forget(b, 1);
        assert_eq!(path(&inodes, file), Some("a/b/x.jsonl".into()));
        inodes.forget(file, 1);
        assert_eq!(sizes(&inodes).0, 4);
        inodes.forget(file, 1);
        assert_eq!(sizes(&inodes), (1, 0, 0));
        // More than was counted, and the top, change nothing.
        inodes.forget(file, 1);
        inodes.forget(ROOT, 1);
        assert!(inodes.get(ROOT).is_ok());
        assert!(inodes.get(file).is_err());
    }

    #[test]
    fn a_held_node_outlives_the_kernel_s_interest() {
        let inodes = table();
        let file = reach(&inodes, ROOT, "f", 10);
        inodes.hold(file);
        inodes.forget(file, 1);
        assert!(inodes.get(file).is_ok());
        inodes.forget(file, 1);
        assert!(inodes.get(file).is_err());
    }

    #[test]
    fn a_session_stays_itself_when_its_store_file_is_replaced() {
        let inodes = table();
        let session = reach(&inodes, ROOT, "x.jsonl", 10);
        assert_eq!(reach(&inodes, ROOT, "x.jsonl", 11), session);
        // The number of its first store file is taken; whoever gets it is another object.
        let other = reach(&inodes, ROOT, "other", 10);
        assert_ne!(other, session);
        // What is no session is another object when its store file is.
        assert_ne!(reach(&inodes, ROOT, "other", 12), other);
        // And so is one of another kind.
        assert_ne!(dir(&inodes, ROOT, "x.jsonl", 13), session);
    }

    #[test]
    fn a_number_that_is_used_again_has_a_new_generation() {
        let inodes = table();
        let stat = stat(10, libc::S_IFREG, 1);
        let first = inodes.reach(ROOT, OsStr::new("f"), &stat);
        inodes.forget(first.ino, 1);
        let second = inodes.reach(ROOT, OsStr::new("f"), &stat);
        assert_eq!(second.ino, first.ino);
        assert_ne!(second.generation, first.generation);
    }

    #[test]
    fn numbers_never_collide_with_the_top_or_each_other() {
        let inodes = table();
        let numbers = [1, 0, OWN_NUMBERS, u64::MAX, 10].map(|store_ino| {
            let name = format!("f{store_ino}");
            reach(&inodes, ROOT, &name, store_ino)
        });
        for (n, ino) in numbers.iter().enumerate() {
            assert_ne!(*ino, ROOT);
            assert!(!numbers[..n].contains(ino));
        }
    }

    #[test]
    fn hard_links_share_a_number() {
        let inodes = table();
        let (a, b) = (OsStr::new("a"), OsStr::new("b"));
        let two = stat(10, libc::S_IFREG, 2);
        let file = inodes.reach(ROOT, a, &two).ino;
        assert_eq!(inodes.reach(ROOT, b, &two).ino, file);
        let c = OsStr::new("c");
        inodes.linked(file, ROOT, c, &stat(10, libc::S_IFREG, 3));
        assert_eq!(inodes.peek(ROOT, c).unwrap().ino, file);
        assert!(!inodes.removed(ROOT, a, &two));
        assert!(!inodes.removed(ROOT, b, &two));
        assert!(inodes.get(file).unwrap().last().is_none());
        assert!(inodes.removed(ROOT, c, &stat(10, libc::S_IFREG, 1)));
        let last = inodes.get(file).unwrap().last().unwrap();
        assert_eq!((last.ino, last.nlink), (file, 0));
        inodes.forget(file, 3);
        assert_eq!(sizes(&inodes), (1, 0, 0));
    }

    #[test]
    fn a_store_inode_left_behind_leads_nobody_to_the_old_node() {
        let inodes = table();
        let (a, b) = (OsStr::new("a.jsonl"), OsStr::new("b.jsonl"));
        let session = inodes.reach(ROOT, a, &stat(10, libc::S_IFREG, 2)).ino;
        inodes.reach(ROOT, b, &stat(10, libc::S_IFREG, 2));
        inodes.removed(ROOT, b, &stat(10, libc::S_IFREG, 2));
        // Sealed: another store file. Its old number goes to a file with two links.
        assert_eq!(reach(&inodes, ROOT, "a.jsonl", 11), session);
        let other = inodes
            .reach(ROOT, OsStr::new("o"), &stat(10, libc::S_IFREG, 2))
            .ino;
        assert_ne!(other, session);
        inodes.forget(session, 3);
        inodes.forget(other, 1);
        assert_eq!(sizes(&inodes), (1, 0, 0));
    }

    #[test]
    fn a_rename_moves_a_tree_and_replaces_a_name() {
        let inodes = table();
        let (a, b) = (dir(&inodes, ROOT, "a", 10), dir(&inodes, ROOT, "b", 11));
        let (x, y) = (reach(&inodes, a, "x", 12), reach(&inodes, b, "y", 13));
        let target = stat(13, libc::S_IFREG, 1);
        assert!(inodes.removed(b, OsStr::new("y"), &target));
        inodes.renamed(
            (a, OsStr::new("x")),
            (b, OsStr::new("y")),
            &stat(12, libc::S_IFREG, 1),
        );
        assert_eq!(path(&inodes, x), Some("b/y".into()));
        assert_eq!(path(&inodes, y), None);
        assert!(inodes.peek(a, OsStr::new("x")).is_none());
        inodes.renamed(
            (ROOT, OsStr::new("b")),
            (a, OsStr::new("c")),
            &stat(11, libc::S_IFDIR, 2),
        );
        assert_eq!(path(&inodes, x), Some("a/c/y".into()));
        assert_eq!(inodes.dir(b).unwrap(), Path::new("a/c"));
        for ino in [a, b, x, y] {
            inodes.forget(ino, 1);
        }
        assert_eq!(sizes(&inodes), (1, 0, 0));
    }

    #[test]
    fn a_rename_in_a_directory_nobody_else_holds_keeps_it() {
        let inodes = table();
        let a = dir(&inodes, ROOT, "a", 10);
        let x = reach(&inodes, a, "x", 11);
        inodes.forget(a, 1);
        inodes.renamed(
            (a, OsStr::new("x")),
            (a, OsStr::new("y")),
            &stat(11, libc::S_IFREG, 1),
        );
        assert_eq!(path(&inodes, x), Some("a/y".into()));
        assert_eq!(reach(&inodes, a, "y", 12), 12);
        assert_eq!(path(&inodes, 12), Some("a/y".into()));
    }

    #[test]
    fn an_exchange_swaps_two_names() {
        let inodes = table();
        let a = dir(&inodes, ROOT, "a", 10);
        let (x, y) = (reach(&inodes, a, "x", 11), reach(&inodes, ROOT, "y", 12));
        inodes.exchanged((a, OsStr::new("x")), (ROOT, OsStr::new("y")));
        assert_eq!(path(&inodes, x), Some("y".into()));
        assert_eq!(path(&inodes, y), Some("a/x".into()));
    }
}
