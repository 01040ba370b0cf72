//! What a restore is going to do, decided before anything is touched.
//!
//! It may write or remove only what the last scan saw, which the checkpoint before the restore holds, or
//! where nothing is. Whatever else is on the disk (excluded, too large, special, on another file
//! system) stays, and what would have to take its place is told as kept. A file that the state to
//! come back had left out of checkpoints is not taken for one that was not there.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use super::commit;
use super::history;
use super::ignore::{Ignore, Verdict};
use super::note::Checkpoint;
use super::oid::Oid;
use super::project::Project;
use super::restore::shown;
use super::tree::{Dir, Extras, Leaf, Node};
use super::writer::{self, IGNORE_FILE, Writer};
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

/// Which part of a checkpoint comes back; paths are relative to the project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    Everything,
    /// These and all that is below them.
    Below(BTreeSet<Vec<u8>>),
    /// These files and directories themselves.
    Exactly(BTreeSet<Vec<u8>>),
}

impl Scope {
    /// What a user named; everything, if nothing.
    pub fn below(paths: Vec<Vec<u8>>) -> Scope {
        match paths.is_empty() || paths.iter().any(Vec::is_empty) {
            true => Scope::Everything,
            false => Scope::Below(paths.into_iter().collect()),
        }
    }

    fn covers(&self, path: &[u8]) -> bool {
        match self {
            Scope::Everything => true,
            Scope::Exactly(paths) => paths.contains(path),
            Scope::Below(paths) => {
                paths.contains(path) || parents(path).any(|parent| paths.contains(parent))
            }
        }
    }
}

/// The directories that a path is in, the outermost first.
fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    slashes.map(|(at, _)| &path[..at])
}

/// Why something stays as it is.
const LEFT_OUT_NOW: &str = "it is left out of checkpoints now";
const LEFT_OUT_THEN: &str = "that checkpoint left it out";
const IN_THE_WAY: &str = "what is there is in no checkpoint";
const OUT_OF_SCOPE: &str = "something else is in its place";

/// Plans to bring `scope` to what it is in `to`; the directory has just been scanned.
pub fn plan(writer: &Writer, to: &Checkpoint, scope: &Scope) -> Result<Plan, Failure> {
    let project = writer.project;
    let root = &writer.index.root;
    let extras = extras(project, to)?;
    let mut differing = differing(project, root.oid, to.tree)?;
    let target = Target::new(root, &differing, &extras.read);
    differing.retain(|(path, _)| scope.covers(path));
    let same_extras = *scope == Scope::Everything && Extras::encode(root) == extras.bytes;
    let mut planner = Planner {
        project,
        root,
        extras: &extras.read,
        scope,
        ignore: writer::ignore(&project.dir),
        plan: Plan::default(),
        target,
        states: HashMap::new(),
    };
    if differing.is_empty() && same_extras {
        return Ok(planner.plan);
    }
    let ignored_then = ignore_of(project, to)?;
    let (gone, present): (Vec<_>, Vec<_>) = differing.into_iter().partition(|(_, e)| e.is_none());
    for (path, _) in gone {
        planner.remove(path, &ignored_then);
    }
    for (path, entry) in present {
        if let Some((oid, mode)) = entry {
            planner.write(path, oid, mode);
        }
    }
    planner.permissions();
    planner.dirs();
    let mut plan = planner.plan;
    plan.size = sizes(project, &plan)?;
    Ok(plan)
}

/// What the checkpoint has, of the directories now and then.
struct Target {
    /// Files that it has not.
    absent: HashSet<Vec<u8>>,
    dirs: HashSet<Vec<u8>>,
}

impl Target {
    fn new(root: &Dir, differing: &Differing, extras: &Extras) -> Target {
        let (mut absent, mut dirs) = (HashSet::new(), HashSet::new());
        let mut add = |path: &[u8]| {
            for parent in parents(path) {
                if !dirs.contains(parent) {
                    dirs.insert(parent.to_vec());
                }
            }
        };
        for (path, entry) in differing {
            match entry {
                Some(_) => add(path),
                None => drop(absent.insert(path.clone())),
            }
        }
        root.leaves(&mut |path, _| {
            if !absent.contains(path) {
                add(path);
            }
        });
        extras.dirs().for_each(&mut add);
        dirs.extend(extras.dirs().map(<[u8]>::to_vec));
        Target { absent, dirs }
    }
}

#[derive(Clone, Copy)]
enum State {
    Dir,
    /// Nothing will be there.
    Vacant,
    Taken(&'static str),
}

struct Planner<'a> {
    project: &'a Project,
    root: &'a Dir,
    extras: &'a Extras,
    scope: &'a Scope,
    ignore: Ignore,
    plan: Plan,
    target: Target,
    states: HashMap<Vec<u8>, State>,
}

impl Planner<'_> {
    fn leaf(&self, path: &[u8]) -> Option<&Leaf> {
        match self.root.get(path) {
            Some(Node::Leaf(leaf)) => Some(leaf),
            _ => None,
        }
    }

    fn remove(&mut self, path: Vec<u8>, ignored_then: &Ignore) {
        if self.leaf(&path).is_none() {
            return;
        }
        match is_out(ignored_then, &path, false) {
            true => self.plan.kept.push((path, LEFT_OUT_THEN)),
            false => drop(self.plan.removes.insert(path)),
        }
    }

    fn write(&mut self, path: Vec<u8>, oid: Oid, mode: u32) {
        if let Some(reason) = self.obstacle(&path, false) {
            self.plan.kept.push((path, reason));
            return;
        }
        let content = Content {
            oid,
            is_link: mode == 0o120_000,
            mode: self.extras.file_mode(&path, mode & 0o100 != 0),
            replaces: self.leaf(&path).is_some(),
        };
        self.plan.writes.insert(path, content);
    }

    /// Why nothing can be put at a path, if so.
    fn obstacle(&mut self, path: &[u8], is_dir: bool) -> Option<&'static str> {
        if is_out(&self.ignore, path, is_dir) {
            return Some(LEFT_OUT_NOW);
        }
        for parent in parents(path) {
            match self.state(parent) {
                State::Dir => {}
                State::Vacant => return None,
                State::Taken(reason) => return Some(reason),
            }
        }
        let foreign = self.root.get(path).is_none() && self.is_on_disk(path);
        foreign.then_some(IN_THE_WAY)
    }

    /// What a file in this directory would meet; all its parents are directories.
    fn state(&mut self, dir: &[u8]) -> State {
        if let Some(known) = self.states.get(dir) {
            return *known;
        }
        let state = match self.root.get(dir) {
            Some(Node::Dir(_)) => State::Dir,
            Some(Node::Leaf(_)) if self.plan.removes.contains(dir) => State::Vacant,
            Some(Node::Leaf(_)) => State::Taken(OUT_OF_SCOPE),
            None if self.is_on_disk(dir) => State::Taken(IN_THE_WAY),
            None => State::Vacant,
        };
        self.states.insert(dir.to_vec(), state);
        state
    }

    fn is_on_disk(&self, path: &[u8]) -> bool {
        let place = self.project.dir.join(OsStr::from_bytes(path));
        place.symlink_metadata().is_ok()
    }

    /// What keeps its content may have other permissions.
    fn permissions(&mut self) {
        let (root, extras) = (self.root, self.extras);
        root.leaves(&mut |path, leaf| {
            let is_written = self.plan.writes.contains_key(path);
            if leaf.is_link()
                || is_written
                || self.target.absent.contains(path)
                || !self.scope.covers(path)
            {
                return;
            }
            let mode = leaf.stamp.mode & 0o7777;
            let wanted = extras.file_mode(path, mode & 0o100 != 0);
            if mode != wanted {
                self.plan.chmods.insert(path.to_vec(), wanted);
            }
        });
    }

    fn dirs(&mut self) {
        let extras = self.extras;
        let mut needed: BTreeSet<Vec<u8>> = BTreeSet::new();
        for path in self.plan.writes.keys() {
            needed.extend(parents(path).map(<[u8]>::to_vec));
        }
        for dir in extras.dirs().filter(|dir| self.scope.covers(dir)) {
            match self.obstacle(dir, true) {
                None => {
                    needed.extend(parents(dir).map(<[u8]>::to_vec));
                    needed.insert(dir.to_vec());
                }
                Some(reason) => self.plan.kept.push((dir.to_vec(), reason)),
            }
        }
        let mut now = HashMap::new();
        dirs(self.root, &mut Vec::new(), &mut now);
        for dir in needed {
            if !now.contains_key(&dir) {
                let mode = extras.dir_mode(&dir);
                // Files have to be put into it first.
                if mode & 0o700 != 0o700 {
                    self.plan.chmods.insert(dir.clone(), mode);
                }
                self.plan.make_dirs.insert(dir, mode);
            }
        }
        let holding = self.holding_what_stays();
        for (dir, mode) in now {
            let has = self.target.dirs.contains(&dir);
            let wanted = extras.dir_mode(&dir);
            if !self.scope.covers(&dir) {
                continue;
            }
            if has && mode != wanted {
                self.plan.chmods.insert(dir, wanted);
            } else if !has && !holding.contains(&dir) {
                self.plan.remove_dirs.insert(dir);
            }
        }
    }

    /// The directories that a file is in that is not removed.
    fn holding_what_stays(&self) -> HashSet<Vec<u8>> {
        let mut holding = HashSet::new();
        for path in &self.target.absent {
            if self.leaf(path).is_some() && !self.plan.removes.contains(path) {
                holding.extend(parents(path).map(<[u8]>::to_vec));
            }
        }
        holding
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

fn is_out(ignore: &Ignore, path: &[u8], is_dir: bool) -> bool {
    let has_git = path.split(|byte| *byte == b'/').any(|name| name == b".git");
    has_git
        || parents(path).any(|parent| ignore.verdict(parent, true) == Verdict::Out)
        || ignore.verdict(path, is_dir) == Verdict::Out
}

/// The patterns that a checkpoint was made with.
fn ignore_of(project: &Project, checkpoint: &Checkpoint) -> Result<Ignore, Failure> {
    let name = format!("{}:{IGNORE_FILE}", checkpoint.tree);
    let text = project.git().batch()?.get(name.as_bytes())?;
    Ok(Ignore::new(&text.unwrap_or_default()))
}

/// Whether a checkpoint has a file or directory at this path.
pub fn holds(project: &Project, checkpoint: &Checkpoint, path: &[u8]) -> Result<bool, Failure> {
    let mut command = project
        .git()
        .command(["ls-tree", "-z", "--name-only", "--full-tree"]);
    command
        .arg(checkpoint.tree.to_string())
        .arg("--")
        .arg(history::literal(path));
    if !super::git::run(&mut command)?.stdout.is_empty() {
        return Ok(true);
    }
    let extras = extras(project, checkpoint)?.read;
    let is_path = |of: &[u8]| of == path;
    Ok(extras
        .dirs()
        .any(|dir| dir == path || parents(dir).any(is_path)))
}

/// The files and directories that are not in both checkpoints, or not with the same content and
/// permissions.
pub fn changed(project: &Project, from: &Checkpoint, to: &Checkpoint) -> Result<Scope, Failure> {
    let (from, to) = (nodes(project, from)?, nodes(project, to)?);
    let differs = |path: &&Vec<u8>| from.get(*path) != to.get(*path);
    let paths = from.keys().chain(to.keys()).filter(differs);
    Ok(Scope::Exactly(paths.cloned().collect()))
}

type Nodes = HashMap<Vec<u8>, (Option<Oid>, u32)>;

/// Every file with its blob, every directory, and their permissions.
fn nodes(project: &Project, of: &Checkpoint) -> Result<Nodes, Failure> {
    let extras = extras(project, of)?.read;
    let mut nodes = Nodes::new();
    let tree = of.tree.to_string();
    let listed = project
        .git()
        .output(["ls-tree", "-r", "-z", "--full-tree", &tree])?;
    let dir = |path: &[u8]| (path.to_vec(), (None, extras.dir_mode(path)));
    // `mode blob oid TAB path`
    for row in listed.split(|byte| *byte == 0) {
        let Some(tab) = row.iter().position(|byte| *byte == b'\t') else {
            continue;
        };
        let (head, path) = (String::from_utf8_lossy(&row[..tab]), &row[tab + 1..]);
        let mut words = head.split(' ');
        let mode = words.next().and_then(|w| u32::from_str_radix(w, 8).ok());
        let (mode, oid) = (mode.unwrap_or_default(), words.nth(1));
        let bits = match mode == 0o120_000 {
            true => mode,
            false => extras.file_mode(path, mode & 0o100 != 0),
        };
        let oid = oid.and_then(|oid| oid.parse().ok());
        nodes.insert(path.to_vec(), (oid, bits));
        nodes.extend(parents(path).map(dir));
    }
    for path in extras.dirs() {
        nodes.extend(parents(path).map(dir));
        nodes.extend([dir(path)]);
    }
    Ok(nodes)
}

/// What a checkpoint says beyond its tree.
struct KnownExtras {
    bytes: Vec<u8>,
    read: Extras,
}

fn extras(project: &Project, of: &Checkpoint) -> Result<KnownExtras, Failure> {
    let bytes = commit::extras(&mut project.git().batch()?, of)?;
    let read = Extras::decode(&bytes);
    Ok(KnownExtras { bytes, read })
}

type Differing = Vec<(Vec<u8>, Option<(Oid, u32)>)>;

/// The paths that differ between two trees, with what the second has there.
fn differing(project: &Project, from: Oid, to: Oid) -> Result<Differing, Failure> {
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
pub fn check_room(project: &Project, plan: &Plan) -> Result<(), Failure> {
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
