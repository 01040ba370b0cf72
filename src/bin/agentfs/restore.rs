//! Bringing an earlier state back, without ever destroying a later one.
//!
//! First what is there now becomes a checkpoint, then only what differs is touched: files are complete
//! under a temporary name before they take their place. A kill leaves a mixture of both states; run
//! again, the restore is finished. Nothing that the checkpoint before does not hold is overwritten or
//! deleted: what is excluded, too large, unreadable, or changed since it was looked at stays.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use super::git::Batch;
use super::note::{Checkpoint, Note, Trigger};
use super::plan::{self, Content, Plan, Scope};
use super::scan::{Budget, TEMPORARY};
use super::tree::{Dir, Leaf, Node, Stamp};
use super::witness::Witness;
use super::writer::Writer;
use crate::exit::Failure;
use crate::sys;

/// What a restore has done.
#[derive(Debug)]
pub struct Restored {
    pub plan: Plan,
    /// The checkpoint of what was there before; the newest one when nothing had changed since.
    pub before: Option<Checkpoint>,
    /// The checkpoint of what is there now; none when nothing had to be done.
    pub after: Option<Checkpoint>,
}

/// Brings `scope` back to what it was in `to`, and makes a checkpoint of the result. A dry run
/// changes nothing but the cache.
pub fn restore(
    writer: &mut Writer,
    to: &Checkpoint,
    scope: &Scope,
    note: Note,
    dry_run: bool,
) -> Result<Restored, Failure> {
    let mut done = prepare(writer, to, scope, &note.message, dry_run)?;
    if !dry_run && !done.plan.is_empty() {
        let applied = apply(writer, &mut done.plan);
        if writer.differs()? {
            done.after = Some(writer.commit(note)?.clone());
        }
        applied?;
    }
    writer.save()?;
    Ok(done)
}

/// Brings the whole directory to `to` without a checkpoint of the result, which is `to` itself.
pub fn bring(
    writer: &mut Writer,
    to: &Checkpoint,
    what: &str,
    dry_run: bool,
) -> Result<Restored, Failure> {
    let mut done = prepare(writer, to, &Scope::Everything, what, dry_run)?;
    if !dry_run && !done.plan.is_empty() {
        apply(writer, &mut done.plan)?;
    }
    writer.save()?;
    Ok(done)
}

/// Plans, and unless it is a dry run makes sure that nothing can be lost.
fn prepare(
    writer: &mut Writer,
    to: &Checkpoint,
    scope: &Scope,
    what: &str,
    dry_run: bool,
) -> Result<Restored, Failure> {
    let witness = Witness::of(writer.project)?;
    writer.scan(Budget::NONE)?;
    let plan = plan::plan(writer, to, scope)?;
    if !dry_run {
        plan::check_room(writer.project, &plan)?;
        remove_strays(writer);
        if writer.differs()? {
            writer.commit(witness.complete(unasked(&format!("before: {what}"))))?;
        }
        witness.scanned(None)?;
    }
    Ok(Restored {
        plan,
        before: writer.tip.clone(),
        after: None,
    })
}

/// Removes what a restore left that was killed.
fn remove_strays(writer: &Writer) {
    let Ok(top) = File::open(&writer.project.dir) else {
        return;
    };
    for path in &writer.strays {
        let at = path.iter().rposition(|byte| *byte == b'/');
        let (parent, name) = path.split_at(at.map_or(0, |at| at + 1));
        let parent = OsStr::from_bytes(parent);
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        let _ = sys::open_beneath(top.as_fd(), parent, flags)
            .and_then(|dir| sys::unlink_at(dir.as_fd(), OsStr::from_bytes(name)));
    }
}

/// Makes a checkpoint of what was scanned, unless the newest one holds it.
pub fn safety(writer: &mut Writer, message: &str) -> Result<Option<Checkpoint>, Failure> {
    if writer.differs()? {
        writer.commit(unasked(message))?;
    }
    Ok(writer.tip.clone())
}

/// What is noted about a checkpoint that nobody asked for.
fn unasked(message: &str) -> Note {
    Note {
        message: message.to_owned(),
        trigger: Trigger::Auto,
        ..Note::default()
    }
}

/// A path for people.
pub fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Does what the plan says, and tells the index. What cannot be done any more goes to `kept`.
fn apply(writer: &mut Writer, plan: &mut Plan) -> Result<(), Failure> {
    let dir = &writer.project.dir;
    let failed = |path: &[u8], error: io::Error| {
        Failure::at("cannot restore", &dir.join(OsStr::from_bytes(path)), error)
            .advise("what was there is kept in the checkpoint before; run it again")
    };
    // Why a path stays as it is, if not for something that concerns them all.
    let told = |path: &[u8], done: Result<bool, WriteError>| match done {
        Ok(true) => Ok(None),
        Ok(false) => Ok(Some(CHANGED)),
        Err(WriteError::Io(error)) => match error.raw_os_error() {
            Some(libc::EACCES | libc::EPERM) => Ok(Some(DENIED)),
            // Its directory is none any more.
            Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP) => Ok(Some(CHANGED)),
            _ => Err(failed(path, error)),
        },
        Err(WriteError::Store(failure)) => Err(failure),
    };
    let top = File::open(dir).map_err(|error| failed(b"", error))?;
    let mut hands = Hands {
        top,
        parent: None,
        opened: BTreeMap::new(),
        index: std::mem::take(&mut writer.index.root),
        made: 0,
    };
    let mut batch = writer.project.git().batch()?;
    let done = (|| {
        for path in std::mem::take(&mut plan.removes) {
            match told(&path, hands.remove(&path).map_err(WriteError::Io))? {
                None => drop(plan.removes.insert(path)),
                Some(reason) => plan.kept.push((path, reason)),
            }
        }
        for path in std::mem::take(&mut plan.remove_dirs).into_iter().rev() {
            if hands.remove_dir(&path) {
                plan.remove_dirs.insert(path);
            }
        }
        for (path, mode) in std::mem::take(&mut plan.make_dirs) {
            match told(&path, hands.make_dir(&path, mode).map_err(WriteError::Io))? {
                None => drop(plan.make_dirs.insert(path, mode)),
                Some(reason) => plan.kept.push((path, reason)),
            }
        }
        for (path, content) in std::mem::take(&mut plan.writes) {
            match told(&path, hands.write(&path, &content, &mut batch))? {
                None => drop(plan.writes.insert(path, content)),
                Some(reason) => plan.kept.push((path, reason)),
            }
        }
        let mut modes = hands.opened.clone();
        modes.extend(plan.chmods.clone());
        for (path, mode) in modes.iter().rev() {
            let done = hands.chmod(path, *mode).map(|()| true);
            if let Some(reason) = told(path, done.map_err(WriteError::Io))? {
                plan.chmods.remove(path);
                plan.kept.push((path.clone(), reason));
            }
        }
        Ok(())
    })();
    hands.close();
    let index = hands.index;
    writer.edit_index(|root| *root = index)?;
    done
}

/// Why something was not restored after all.
const CHANGED: &str = "it changed meanwhile, or something is in the way";
const DENIED: &str = "permission denied";

/// What touches the directory, and knows what it did.
struct Hands {
    top: File,
    /// The directory used last.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Directories that were not writable and are for now, with their permissions.
    opened: BTreeMap<Vec<u8>, u32>,
    index: Dir,
    made: u32,
}

enum WriteError {
    Io(io::Error),
    Store(Failure),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> WriteError {
        WriteError::Io(error)
    }
}

impl Hands {
    /// The directory that a path is in, and its name there. No symbolic link is followed.
    fn place<'p>(&mut self, path: &'p [u8]) -> io::Result<(&OwnedFd, &'p OsStr)> {
        let at = path.iter().rposition(|byte| *byte == b'/');
        let (parent, name) = match at {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&path[..0], path),
        };
        let known = self.parent.take().filter(|(known, _)| known == parent);
        let fd = match known {
            Some((_, fd)) => fd,
            None => {
                let flags = libc::O_RDONLY | libc::O_DIRECTORY;
                let fd = sys::open_beneath(self.top.as_fd(), OsStr::from_bytes(parent), flags)?;
                self.open_up(parent, &fd)?;
                fd
            }
        };
        let (_, fd) = self.parent.insert((parent.to_vec(), fd));
        Ok((fd, OsStr::from_bytes(name)))
    }

    /// A directory of one's own that is read-only can be changed all the same.
    fn open_up(&mut self, path: &[u8], fd: &OwnedFd) -> io::Result<()> {
        let mode = sys::fstat(fd)?.mode & 0o7777;
        if mode & 0o300 != 0o300 && sys::euid() != 0 {
            sys::chmod(fd.as_fd(), mode | 0o300)?;
            self.opened.insert(path.to_vec(), mode);
        }
        Ok(())
    }

    /// Gives directories their permissions back, as far as that has not been done.
    fn close(&mut self) {
        for (path, mode) in std::mem::take(&mut self.opened).into_iter().rev() {
            let _ = self.chmod(&path, mode);
        }
    }

    /// Whether what is there is what the last scan saw: nothing, or that very file.
    fn is_as_scanned(&mut self, path: &[u8]) -> io::Result<bool> {
        let known = match self.index.get(path) {
            Some(Node::Leaf(leaf)) => Some(leaf.stamp),
            _ => None,
        };
        let (dir, name) = self.place(path)?;
        match sys::stat_at(dir.as_fd(), name) {
            Ok(stat) if stat.is(libc::S_IFDIR) => Ok(false),
            Ok(stat) => Ok(known == Some(Stamp::of(&stat))),
            Err(error) if sys::is(&error, libc::ENOENT) => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn remove(&mut self, path: &[u8]) -> io::Result<bool> {
        if !self.is_as_scanned(path)? {
            return Ok(false);
        }
        let (dir, name) = self.place(path)?;
        match sys::unlink_at(dir.as_fd(), name) {
            Err(error) if !sys::is(&error, libc::ENOENT) => return Err(error),
            _ => {}
        }
        self.index.put(path, None);
        Ok(true)
    }

    /// A directory that still holds something stays.
    fn remove_dir(&mut self, path: &[u8]) -> bool {
        let removed = self
            .place(path)
            .and_then(|(dir, name)| sys::rmdir_at(dir.as_fd(), name));
        if removed.is_ok() {
            self.parent = None;
            self.opened.remove(path);
            self.index.put(path, None);
        }
        removed.is_ok()
    }

    fn make_dir(&mut self, path: &[u8], mode: u32) -> io::Result<bool> {
        let (dir, name) = self.place(path)?;
        // Entered at once; its own permissions come last.
        match sys::mkdir_at(dir.as_fd(), name, 0o700) {
            Err(error) if sys::is(&error, libc::EEXIST) => return Ok(false),
            made => made?,
        }
        let fd = sys::open_at(dir.as_fd(), name, libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
        sys::chmod(fd.as_fd(), mode | 0o700)?;
        let fresh = Dir {
            mode: mode | 0o700,
            ..Dir::default()
        };
        self.index.put(path, Some(Node::Dir(fresh)));
        Ok(true)
    }

    fn write(
        &mut self,
        path: &[u8],
        content: &Content,
        batch: &mut Batch,
    ) -> Result<bool, WriteError> {
        if !self.is_as_scanned(path)? {
            return Ok(false);
        }
        self.made += 1;
        let temporary = format!("{}-{}", std::process::id(), self.made);
        let temporary = [TEMPORARY, temporary.as_bytes()].concat();
        let temporary = OsStr::from_bytes(&temporary);
        let (dir, _) = self.place(path)?;
        let made = fill(dir.as_fd(), temporary, content, batch);
        let renamed = made.and_then(|()| self.put_in_place(path, temporary));
        let (dir, name) = self.place(path)?;
        let dir = dir.as_fd();
        if !matches!(renamed, Ok(true)) {
            let _ = sys::unlink_at(dir, temporary);
            return renamed;
        }
        let stat = sys::stat_at(dir, name)?;
        let leaf = Leaf {
            stamp: Stamp::of(&stat),
            young: true,
            oid: content.oid,
        };
        self.index.put(path, Some(Node::Leaf(leaf)));
        Ok(true)
    }

    /// Making the file took time: what it replaces is looked at again.
    fn put_in_place(&mut self, path: &[u8], temporary: &OsStr) -> Result<bool, WriteError> {
        if !self.is_as_scanned(path)? {
            return Ok(false);
        }
        let flags = match self.index.get(path) {
            Some(Node::Leaf(_)) => 0,
            _ => libc::RENAME_NOREPLACE,
        };
        let (dir, name) = self.place(path)?;
        match sys::rename_at(dir.as_fd(), temporary, dir.as_fd(), name, flags) {
            Err(error) if sys::is(&error, libc::EEXIST) => Ok(false),
            done => Ok(done.map(|()| true)?),
        }
    }

    fn chmod(&mut self, path: &[u8], mode: u32) -> io::Result<()> {
        let (dir, name) = self.place(path)?;
        let fd = sys::open_at(dir.as_fd(), name, libc::O_PATH, 0)?;
        let now = sys::fstat(&fd)?;
        if now.is(libc::S_IFLNK) {
            return Ok(());
        }
        sys::chmod(fd.as_fd(), mode)?;
        self.opened.remove(path);
        let stamp = Stamp::of(&sys::fstat(&fd)?);
        let node = match self.index.get(path) {
            Some(Node::Leaf(leaf)) => Node::Leaf(Leaf {
                stamp,
                young: true,
                oid: leaf.oid,
            }),
            Some(Node::Dir(dir)) => Node::Dir(Dir {
                mode,
                ..dir.clone()
            }),
            None => return Ok(()),
        };
        self.index.put(path, Some(node));
        Ok(())
    }
}

/// Makes the complete file or link under its temporary name.
fn fill(
    dir: std::os::fd::BorrowedFd,
    temporary: &OsStr,
    content: &Content,
    batch: &mut Batch,
) -> Result<(), WriteError> {
    let name = content.oid.to_string();
    let missing =
        || Failure::new(format!("the store has lost {name}")).advise("see `agentfs verify`");
    if content.is_link {
        let target = batch.blob(content.oid).map_err(WriteError::Store)?;
        let target = target.ok_or_else(|| WriteError::Store(missing()))?;
        sys::symlink_at(OsStr::from_bytes(&target), dir, temporary)?;
        return Ok(());
    }
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
    let mut file = File::from(sys::open_at(dir, temporary, flags, 0o600)?);
    let copied = batch
        .copy(name.as_bytes(), &mut file)
        .map_err(WriteError::Store)?;
    copied.ok_or_else(|| WriteError::Store(missing()))?;
    file.flush()?;
    sys::chmod(file.as_fd(), content.mode)?;
    Ok(())
}
