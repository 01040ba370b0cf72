//! Bringing an earlier state back, without ever destroying a later one.
//!
//! First what is there now becomes a checkpoint, then only what differs is touched: files are complete
//! under a temporary name before they take their place. A kill leaves a mixture of both states; run
//! again, the restore is finished. Nothing that the checkpoint before does not hold is overwritten or
//! deleted: what is excluded, too large, unreadable, or changed since it was looked at stays.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use super::commit;
use super::git::Batch;
use super::history;
use super::ignore::{Ignore, Verdict};
use super::note::{Checkpoint, Note, Trigger};
use super::oid::Oid;
use super::project::Project;
use super::scan::{Budget, TEMPORARY};
use super::tree::{Dir, Extras, Leaf, Node, Stamp};
use super::writer::{self, Writer};
use crate::exit::Failure;
use crate::size;
use crate::sys;

/// Free bytes that a restore leaves on the disk.
const RESERVE: u64 = 16 << 20;

/// What a restore is about to do; paths are relative to the project.
#[derive(Debug, Default)]
pub struct Plan {
    pub writes: BTreeMap<Vec<u8>, Content>,
    pub removes: BTreeSet<Vec<u8>>,
    /// Directories with their permissions, parents first.
    pub make_dirs: BTreeMap<Vec<u8>, u32>,
    pub remove_dirs: BTreeSet<Vec<u8>>,
    pub chmods: BTreeMap<Vec<u8>, u32>,
    /// What stays as it is, and why.
    pub kept: Vec<(Vec<u8>, &'static str)>,
    /// Bytes that are written.
    pub size: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    pub oid: Oid,
    pub is_link: bool,
    /// Permission bits.
    pub mode: u32,
    /// Whether something is there now.
    pub replaces: bool,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
            && self.removes.is_empty()
            && self.make_dirs.is_empty()
            && self.remove_dirs.is_empty()
            && self.chmods.is_empty()
    }
}

/// What a restore has done.
#[derive(Debug)]
pub struct Restored {
    pub plan: Plan,
    /// The checkpoint of what was there before; the newest one when nothing had changed since.
    pub before: Option<Checkpoint>,
    /// The checkpoint of what is there now; none when nothing had to be done.
    pub after: Option<Checkpoint>,
}

/// Which part of a checkpoint comes back; everything when empty.
pub type Paths = [Vec<u8>];

/// Brings `paths` back to what they were in `to`, and makes a checkpoint of the result. A dry run
/// changes nothing but the cache.
pub fn restore(
    writer: &mut Writer,
    to: &Checkpoint,
    paths: &Paths,
    note: Note,
    dry_run: bool,
) -> Result<Restored, Failure> {
    let mut done = prepare(writer, to, paths, &note.message, dry_run)?;
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
    let mut done = prepare(writer, to, &[], what, dry_run)?;
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
    paths: &Paths,
    what: &str,
    dry_run: bool,
) -> Result<Restored, Failure> {
    writer.scan(Budget::NONE)?;
    let plan = plan(writer, to, paths)?;
    if !dry_run {
        check_room(writer.project, &plan)?;
        safety(writer, &format!("before: {what}"))?;
    }
    Ok(Restored {
        plan,
        before: writer.tip.clone(),
        after: None,
    })
}

/// Makes a checkpoint of what was scanned, unless the newest one holds it.
pub fn safety(writer: &mut Writer, message: &str) -> Result<Option<Checkpoint>, Failure> {
    if writer.differs()? {
        writer.commit(Note {
            message: message.to_owned(),
            trigger: Trigger::Auto,
            ..Note::default()
        })?;
    }
    Ok(writer.tip.clone())
}

fn plan(writer: &Writer, to: &Checkpoint, paths: &Paths) -> Result<Plan, Failure> {
    let project = writer.project;
    let root = &writer.index.root;
    let extras = extras(project, to)?;
    let differing = differing(project, root.oid, to.tree, paths)?;
    let same_extras = paths.is_empty() && Extras::encode(root) == extras.bytes;
    let mut plan = Plan::default();
    if differing.is_empty() && same_extras {
        return Ok(plan);
    }
    let ignore = writer::ignore(&project.dir);
    let mut target = Target::default();
    for (path, entry) in differing {
        let now = match root.get(&path) {
            Some(Node::Leaf(leaf)) => Some(leaf),
            _ => None,
        };
        if is_out(&ignore, &path) {
            plan.kept.push((path, "it is left out of checkpoints now"));
        } else if now.is_none() && is_unknown(project, root, &path) {
            plan.kept.push((path, "what is there is in no checkpoint"));
        } else if let Some((oid, mode)) = entry {
            let content = Content {
                oid,
                is_link: mode == 0o120_000,
                mode: extras.read.file_mode(&path, mode & 0o100 != 0),
                replaces: now.is_some(),
            };
            plan.writes.insert(path, content);
        } else if now.is_some() {
            plan.removes.insert(path);
        }
    }
    root.leaves(&mut |path, leaf| {
        if plan.removes.contains(path) || !covers(paths, path) {
            // What is outside the paths keeps its directories.
            if !plan.removes.contains(path) {
                target.needs_parents(path);
            }
            return;
        }
        target.needs_parents(path);
        let mode = leaf.stamp.mode & 0o7777;
        let wanted = extras.read.file_mode(path, mode & 0o100 != 0);
        let is_written = plan.writes.contains_key(path);
        if !leaf.is_link() && !is_written && mode != wanted {
            plan.chmods.insert(path.to_vec(), wanted);
        }
    });
    for path in plan.writes.keys() {
        target.needs_parents(path);
    }
    for dir in extras.read.dirs().filter(|dir| covers(paths, dir)) {
        target.needs(dir);
    }
    plan_dirs(&mut plan, &target, root, &extras.read, paths);
    plan.make_dirs.retain(|path, _| !is_out(&ignore, path));
    plan.size = sizes(project, &plan)?;
    Ok(plan)
}

/// The directories that there will be.
#[derive(Default)]
struct Target {
    dirs: BTreeSet<Vec<u8>>,
}

impl Target {
    fn needs(&mut self, dir: &[u8]) {
        if self.dirs.insert(dir.to_vec()) {
            self.needs_parents(dir);
        }
    }

    fn needs_parents(&mut self, path: &[u8]) {
        if let Some(at) = path.iter().rposition(|byte| *byte == b'/')
            && !self.dirs.contains(&path[..at])
        {
            self.needs(&path[..at]);
        }
    }
}

fn plan_dirs(plan: &mut Plan, target: &Target, root: &Dir, extras: &Extras, paths: &Paths) {
    let mut now = HashMap::new();
    dirs(root, &mut Vec::new(), &mut now);
    for dir in &target.dirs {
        match now.get(dir) {
            None => {
                let mode = extras.dir_mode(dir);
                plan.make_dirs.insert(dir.clone(), mode);
                // Files have to be put into it first.
                if mode & 0o700 != 0o700 {
                    plan.chmods.insert(dir.clone(), mode);
                }
            }
            Some(mode) => {
                let wanted = extras.dir_mode(dir);
                if *mode != wanted && covers(paths, dir) {
                    plan.chmods.insert(dir.clone(), wanted);
                }
            }
        }
    }
    for dir in now.into_keys() {
        if !target.dirs.contains(&dir) && covers(paths, &dir) {
            plan.remove_dirs.insert(dir);
        }
    }
}

fn dirs(dir: &Dir, path: &mut Vec<u8>, out: &mut HashMap<Vec<u8>, u32>) {
    for entry in &dir.entries {
        if let Node::Dir(below) = &entry.node {
            let length = path.len();
            path.extend_from_slice(&entry.name);
            out.insert(path.clone(), below.mode);
            path.push(b'/');
            dirs(below, path, out);
            path.truncate(length);
        }
    }
}

/// Whether a path is one of `paths` or below one.
fn covers(paths: &Paths, path: &[u8]) -> bool {
    paths.is_empty()
        || paths.iter().any(|of| {
            path.strip_prefix(of.as_slice())
                .is_some_and(|rest| of.is_empty() || rest.is_empty() || rest[0] == b'/')
        })
}

fn is_out(ignore: &Ignore, path: &[u8]) -> bool {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    let mut parents = slashes.map(|(at, _)| &path[..at]);
    let has_git = path.split(|byte| *byte == b'/').any(|name| name == b".git");
    has_git
        || parents.any(|parent| ignore.verdict(parent, true) == Verdict::Out)
        || ignore.verdict(path, false) == Verdict::Out
}

/// Whether the disk has something at this path that the scan does not know as file or directory.
fn is_unknown(project: &Project, root: &Dir, path: &[u8]) -> bool {
    let on_disk = project.dir.join(OsStr::from_bytes(path));
    on_disk.symlink_metadata().is_ok() && root.get(path).is_none()
}

/// What a checkpoint says beyond its tree.
struct KnownExtras {
    bytes: Vec<u8>,
    read: Extras,
}

fn extras(project: &Project, of: &Checkpoint) -> Result<KnownExtras, Failure> {
    let mut batch = project.git().batch()?;
    let bytes = match of.side {
        Some(side) => batch.get(format!("{side}:{}", commit::EXTRAS).as_bytes())?,
        None => None,
    };
    let bytes = bytes.unwrap_or_default();
    let read = Extras::decode(&bytes);
    Ok(KnownExtras { bytes, read })
}

/// The paths whose own permissions, or being an empty directory, differ between two checkpoints.
pub fn extras_changed(
    project: &Project,
    a: &Checkpoint,
    b: &Checkpoint,
) -> Result<Vec<Vec<u8>>, Failure> {
    let (a, b) = (
        extras(project, a)?.read.differ,
        extras(project, b)?.read.differ,
    );
    let paths = a
        .keys()
        .chain(b.keys().filter(|path| !a.contains_key(*path)));
    let differ = paths.filter(|path| a.get(*path) != b.get(*path));
    Ok(differ
        .map(|path| path.strip_suffix(b"/").unwrap_or(path).to_vec())
        .collect())
}

type Differing = Vec<(Vec<u8>, Option<(Oid, u32)>)>;

/// The paths that differ between two trees, with what the second has there.
fn differing(project: &Project, from: Oid, to: Oid, paths: &Paths) -> Result<Differing, Failure> {
    if from == to {
        return Ok(Vec::new());
    }
    let options = [
        "diff-tree",
        "-r",
        "-z",
        "--raw",
        "--no-renames",
        "--no-abbrev",
    ];
    let mut command = project.git().command(options);
    command.args([from.to_string(), to.to_string()]).arg("--");
    for path in paths.iter().filter(|path| !path.is_empty()) {
        command.arg(history::literal(path));
    }
    let printed = super::git::run(&mut command)?.stdout;
    let mut fields = printed.split(|byte| *byte == 0);
    let mut found = Vec::new();
    // `:old-mode new-mode old new status NUL path NUL`
    while let (Some(head), Some(path)) = (fields.next(), fields.next()) {
        let head = String::from_utf8_lossy(head);
        let words: Vec<&str> = head.trim_start_matches(':').split(' ').collect();
        let [_, mode, _, oid, status] = words[..] else {
            return Err(Failure::new(format!("git diff-tree: cannot read {head:?}")));
        };
        let entry = match (status, oid.parse(), u32::from_str_radix(mode, 8)) {
            ("D", ..) => None,
            (_, Ok(oid), Ok(mode)) => Some((oid, mode)),
            _ => return Err(Failure::new(format!("git diff-tree: cannot read {head:?}"))),
        };
        found.push((path.to_vec(), entry));
    }
    Ok(found)
}

/// The bytes of all that is to be written.
fn sizes(project: &Project, plan: &Plan) -> Result<u64, Failure> {
    if plan.writes.is_empty() {
        return Ok(0);
    }
    let asked: String = plan
        .writes
        .values()
        .map(|c| format!("{}\n", c.oid))
        .collect();
    let mut command = project
        .git()
        .command(["cat-file", "--batch-check=%(objectsize)"]);
    let printed = history::feed(&mut command, asked.as_bytes())?;
    let printed = String::from_utf8_lossy(&printed);
    let sizes = printed.lines().zip(&plan.writes).map(|(line, (path, _))| {
        line.trim().parse::<u64>().map_err(|_| {
            let path = std::path::Path::new(OsStr::from_bytes(path));
            Failure::at(
                "cannot restore",
                path,
                "its content is missing in the store",
            )
            .advise("see `agentfs verify`")
        })
    });
    sizes.sum()
}

/// Refuses what would fill the disk, naming what is largest.
fn check_room(project: &Project, plan: &Plan) -> Result<(), Failure> {
    if plan.size == 0 {
        return Ok(());
    }
    let dir = File::open(&project.dir)
        .and_then(|dir| sys::statvfs(dir.as_fd()))
        .map_err(|error| Failure::at("cannot read the project", &project.dir, error))?;
    let free = dir.f_bavail.saturating_mul(dir.f_frsize);
    if plan.size.saturating_add(RESERVE) <= free {
        return Ok(());
    }
    let names: Vec<_> = plan.writes.keys().take(20).map(|p| shown(p)).collect();
    let more = plan.writes.len().saturating_sub(names.len());
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    Err(Failure::at(
        "cannot restore to",
        &project.dir,
        format!(
            "{} are free, {} would be written: {}{more}",
            size::bytes(free),
            size::bytes(plan.size),
            names.join(", ")
        ),
    )
    .advise("make room, or restore single paths"))
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
    let top = File::open(dir).map_err(|error| failed(b"", error))?;
    let mut hands = Hands {
        top,
        parent: None,
        index: std::mem::take(&mut writer.index.root),
        made: 0,
    };
    let mut batch = writer.project.git().batch()?;
    let done = (|| {
        for path in &writer.strays {
            hands.remove_stray(path);
        }
        for path in std::mem::take(&mut plan.removes) {
            match hands.remove(&path).map_err(|error| failed(&path, error))? {
                true => drop(plan.removes.insert(path)),
                false => plan.kept.push((path, CHANGED)),
            }
        }
        for path in plan.remove_dirs.iter().rev() {
            hands.remove_dir(path);
        }
        for (path, mode) in &plan.make_dirs {
            hands
                .make_dir(path, *mode)
                .map_err(|error| failed(path, error))?;
        }
        for (path, content) in std::mem::take(&mut plan.writes) {
            let written = hands.write(&path, &content, &mut batch);
            match written.map_err(|error| error.told(|error| failed(&path, error)))? {
                true => drop(plan.writes.insert(path, content)),
                false => plan.kept.push((path, CHANGED)),
            }
        }
        for (path, mode) in plan.chmods.iter().rev() {
            hands
                .chmod(path, *mode)
                .map_err(|error| failed(path, error))?;
        }
        Ok(())
    })();
    let index = hands.index;
    writer.edit_index(|root| *root = index)?;
    done
}

/// Why something was not restored after all.
const CHANGED: &str = "it changed meanwhile";

/// What touches the directory, and knows what it did.
struct Hands {
    top: File,
    /// The directory used last.
    parent: Option<(Vec<u8>, OwnedFd)>,
    index: Dir,
    made: u32,
}

enum WriteError {
    Io(io::Error),
    Store(Failure),
}

impl WriteError {
    fn told(self, tell: impl FnOnce(io::Error) -> Failure) -> Failure {
        match self {
            WriteError::Io(error) => tell(error),
            WriteError::Store(failure) => failure,
        }
    }
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
        if self
            .parent
            .as_ref()
            .is_none_or(|(known, _)| known != parent)
        {
            let flags = libc::O_RDONLY | libc::O_DIRECTORY;
            let fd = sys::open_beneath(self.top.as_fd(), OsStr::from_bytes(parent), flags)?;
            self.parent = Some((parent.to_vec(), fd));
        }
        match &self.parent {
            Some((_, fd)) => Ok((fd, OsStr::from_bytes(name))),
            None => Err(io::ErrorKind::NotFound.into()),
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
    fn remove_dir(&mut self, path: &[u8]) {
        let removed = self
            .place(path)
            .and_then(|(dir, name)| sys::rmdir_at(dir.as_fd(), name));
        if removed.is_ok() {
            self.parent = None;
            self.index.put(path, None);
        }
    }

    fn remove_stray(&mut self, path: &[u8]) {
        let _ = self
            .place(path)
            .and_then(|(dir, name)| sys::unlink_at(dir.as_fd(), name));
    }

    fn make_dir(&mut self, path: &[u8], mode: u32) -> io::Result<()> {
        let (dir, name) = self.place(path)?;
        // Entered at once; its own permissions come last.
        match sys::mkdir_at(dir.as_fd(), name, 0o700) {
            Err(error) if !sys::is(&error, libc::EEXIST) => return Err(error),
            _ => {}
        }
        let fd = sys::open_at(dir.as_fd(), name, libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
        sys::chmod(fd.as_fd(), mode | 0o700)?;
        let fresh = Dir {
            mode: mode | 0o700,
            ..Dir::default()
        };
        if !matches!(self.index.get(path), Some(Node::Dir(_))) {
            self.index.put(path, Some(Node::Dir(fresh)));
        }
        Ok(())
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
        let (dir, name) = self.place(path)?;
        let dir = dir.as_fd();
        let done = fill(dir, temporary, content, batch).and_then(|()| {
            sys::rename_at(dir, temporary, dir, name, 0)?;
            Ok(sys::stat_at(dir, name)?)
        });
        let stat = done.inspect_err(|_| drop(sys::unlink_at(dir, temporary)))?;
        let leaf = Leaf {
            stamp: Stamp::of(&stat),
            young: true,
            oid: content.oid,
        };
        self.index.put(path, Some(Node::Leaf(leaf)));
        Ok(true)
    }

    fn chmod(&mut self, path: &[u8], mode: u32) -> io::Result<()> {
        let (dir, name) = self.place(path)?;
        let fd = sys::open_at(dir.as_fd(), name, libc::O_PATH, 0)?;
        let now = sys::fstat(&fd)?;
        if now.is(libc::S_IFLNK) {
            return Ok(());
        }
        sys::chmod(fd.as_fd(), mode)?;
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
