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
use crate::session::Session;
use crate::shared::Shared;
use crate::store::{Place, is_session};
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
        if stat.nlink > 1 && stat.is(libc::S_IFREG) {
            table.linked.insert((stat.dev, stat.ino), ino);
        }
        let Some(slot) = table.slots.get_mut(&ino) else {
            unreachable!("attached above")
        };
        slot.lookups += 1;
        slot.key = (stat.dev, stat.ino);
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
            table.linked.remove(&key);
        }
        table.release(ino);
        last
    }

    /// A file has one name more.
    pub fn linked(&self, ino: u64, parent: u64, name: &OsStr, stat: &Stat) {
        let mut table = lock(&self.table);
        table.attach(ino, parent, name);
        table.linked.insert((stat.dev, stat.ino), ino);
        if let Some(slot) = table.slots.get_mut(&ino) {
            slot.key = (stat.dev, stat.ino);
            slot.lookups += 1;
        }
    }

    /// A name has moved; what had the new name has lost it before.
    pub fn renamed(&self, parent: u64, name: &OsStr, new_parent: u64, new_name: &OsStr) {
        let mut table = lock(&self.table);
        if let Some(ino) = table.detach(parent, name) {
            table.attach(ino, new_parent, new_name);
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
        let by_link = self.linked.get(&key).filter(|_| stat.nlink > 1);
        if let Some(ino) = by_link {
            return Some(*ino);
        }
        let ino = *self.names.get(&(parent, name.to_owned()))?;
        let slot = self.slots.get(&ino)?;
        let same_kind = stat.is(slot.node.kind);
        (same_kind && (slot.key == key || (stat.is(libc::S_IFREG) && is_session(name))))
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

    /// Takes a name from its node, which is returned and may have to be released.
    fn detach(&mut self, parent: u64, name: &OsStr) -> Option<u64> {
        let key = (parent, name.to_owned());
        let ino = self.names.remove(&key)?;
        if let Some(slot) = self.slots.get_mut(&ino) {
            slot.names.retain(|n| *n != key);
        }
        if let Some(slot) = self.slots.get_mut(&parent) {
            slot.children = slot.children.saturating_sub(1);
            self.release(parent);
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
