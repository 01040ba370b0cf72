//! Checking a history: that every object is as it was written, and every checkpoint has all it needs.
//!
//! Git tells which objects are damaged or missing; what that means (which files of which checkpoints) is
//! found by walking all checkpoints. A damaged object is put aside and the index dropped, so that the
//! next checkpoint stores again whatever of it still exists in the directory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::rc::Rc;

use serde_json::json;

use super::cli::{self, Reply};
use super::git::Batch;
use super::note::Checkpoint;
use super::oid::Oid;
use super::project::Project;
use super::writer::Writer;
use super::{commit, maintenance, refs, render};
use crate::exit::Failure;
use crate::size;
use crate::usage::Given;

/// Files that are named; more are only counted.
const NAMED: usize = 20;

/// What was found.
#[derive(Default)]
struct Report {
    branches: usize,
    checkpoints: usize,
    /// Whole sentences.
    damage: Vec<String>,
    /// What was put right, or can be.
    advice: Vec<String>,
}

pub fn verify(given: &mut Given) -> Result<Reply, Failure> {
    let project = cli::project(given)?;
    let report = check(&project)?;
    let whole = report.damage.is_empty();
    let text = match given.flag("json") {
        true => format!(
            "{:#}\n",
            json!({
                "whole": whole,
                "branches": report.branches,
                "checkpoints": report.checkpoints,
                "damage": report.damage,
                "advice": report.advice,
            })
        ),
        false => written(&report),
    };
    Ok(match whole {
        true => Reply::Text(text),
        false => Reply::Failed(text),
    })
}

fn written(report: &Report) -> String {
    let checkpoints = size::count(report.checkpoints as u64, "checkpoint");
    let branches = match report.branches {
        1 => "1 branch".to_owned(),
        count => format!("{count} branches"),
    };
    if report.damage.is_empty() {
        return format!("everything is whole: {checkpoints} on {branches}\n");
    }
    let lines = report
        .damage
        .iter()
        .map(|line| format!("damaged: {line}\n"));
    let advice = report.advice.iter().map(|line| format!("{line}\n"));
    lines.chain(advice).collect()
}

fn check(project: &Project) -> Result<Report, Failure> {
    let mut report = Report::default();
    let found = fsck(project)?;
    let bad = &found.bad;
    let mut walk = Walk {
        batch: project.git().batch()?,
        bad,
        trees: HashMap::new(),
        lost: bad.iter().map(|oid| (*oid, Loss::default())).collect(),
    };
    let mut seen = HashSet::new();
    for branch in branch_names(project)? {
        report.branches += 1;
        let Ok(Some(tip)) = refs::read(project, &branch) else {
            report
                .damage
                .push(format!("branch {branch}: what it ends in cannot be read"));
            continue;
        };
        if let Some(broken) = walk.line(tip, &mut seen)? {
            report.damage.push(format!("branch {branch}: {broken}"));
        }
    }
    report.checkpoints = seen.len();
    report.damage.extend(walk.told());
    report.damage.extend(found.other);
    if found.index {
        report
            .damage
            .push("the index of the history, which is made again".into());
        let _ = fs::remove_dir_all(project.store.join("objects/info/commit-graphs"));
        maintenance::pack_soon(project);
    }
    if !bad.is_empty() || !report.damage.is_empty() {
        report.advice = mend(project, bad)?;
    }
    Ok(report)
}

/// The names of all branches, those whose file is damaged too.
fn branch_names(project: &Project) -> Result<Vec<String>, Failure> {
    let heads = project.store.join("refs/heads");
    let mut names: Vec<String> =
        match project
            .git()
            .output(["for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads"])
        {
            Ok(listed) => String::from_utf8_lossy(&listed)
                .lines()
                .map(str::to_owned)
                .collect(),
            Err(_) => Vec::new(),
        };
    collect(&heads, "", &mut names);
    names.sort();
    names.dedup();
    Ok(names)
}

fn collect(dir: &Path, prefix: &str, names: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            collect(&entry.path(), &format!("{name}/"), names);
        } else if !name.ends_with(".lock") {
            names.push(name);
        }
    }
}

// ---- what git finds ---------------------------------------------------------------------------

#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    /// Objects that are missing or not what they were.
    bad: HashSet<Oid>,
    /// Whether the commit-graph is damaged, which holds nothing of its own.
    index: bool,
    /// What is said in git's words, for want of better ones.
    other: Vec<String>,
}

fn fsck(project: &Project) -> Result<Found, Failure> {
    let args = ["fsck", "--full", "--no-dangling", "--no-progress"];
    let output = project
        .git()
        .command(args)
        .output()
        .map_err(|error| Failure::new(format!("cannot run git: {error}")))?;
    let text = [output.stdout, output.stderr].concat();
    let mut found = understood(&String::from_utf8_lossy(&text));
    if !output.status.success() && found == Found::default() {
        found.other.push(format!("git fsck: {}", output.status));
    }
    Ok(found)
}

/// Makes sense of what `git fsck` prints.
fn understood(text: &str) -> Found {
    let mut found = Found::default();
    for line in text.lines().map(str::trim) {
        let oids = line
            .split(|c: char| !c.is_ascii_hexdigit())
            .filter_map(|word| word.parse::<Oid>().ok());
        let is_link = line.starts_with("broken link from") || line.starts_with("to ");
        if line.is_empty() || line.starts_with("notice:") || line.starts_with("dangling") {
            continue;
        }
        if line.contains("commit-graph") || line.contains("Commit-graph") {
            found.index = true;
        } else if let (Some(oid), false) = (oids.clone().next(), is_link) {
            found.bad.insert(oid);
        } else if is_link {
            // `to blob …` names what is missing; what links to it is whole.
            found.bad.extend(oids.filter(|_| line.starts_with("to ")));
        } else if let Some(oid) = loose_path(line) {
            found.bad.insert(oid);
        } else if line.starts_with("error:") || line.starts_with("fatal:") {
            found.other.push(line.to_owned());
        }
    }
    // An object of which git only says so along with a better reason.
    found
        .other
        .retain(|line| !line.contains("unable to unpack") && !line.contains("inflate"));
    found
}

/// The object whose file a line names, as in `./objects/ab/cdef…`.
fn loose_path(line: &str) -> Option<Oid> {
    let rest = line.split("objects/").nth(1)?;
    let name: String = rest
        .chars()
        .take(41)
        .filter(char::is_ascii_hexdigit)
        .collect();
    name.parse().ok()
}

// ---- what it means ----------------------------------------------------------------------------

/// Where a lost object was needed.
#[derive(Default)]
struct Loss {
    paths: HashSet<Vec<u8>>,
    /// The oldest and newest version, and how many.
    versions: Option<(u64, u64)>,
    count: usize,
    /// Whether files are concerned, not only what is known about the checkpoint.
    is_about: bool,
}

/// The lost objects below a tree, with their paths in it.
type Losses = Rc<Vec<(Vec<u8>, Oid)>>;

struct Walk<'a> {
    batch: Batch,
    bad: &'a HashSet<Oid>,
    trees: HashMap<Oid, Losses>,
    lost: BTreeMap<Oid, Loss>,
}

impl Walk<'_> {
    /// Walks a line back from its end; tells where it breaks off.
    fn line(&mut self, tip: Oid, seen: &mut HashSet<Oid>) -> Result<Option<String>, Failure> {
        let mut next = Some(tip);
        let mut after: Option<Checkpoint> = None;
        while let Some(oid) = next {
            if seen.contains(&oid) {
                return Ok(None);
            }
            let body = match self.bad.contains(&oid) {
                true => None,
                false => self.batch.blob(oid)?,
            };
            let read = body.map(|body| commit::parse(oid, &String::from_utf8_lossy(&body)));
            let before = match &after {
                Some(after) => format!("the checkpoint before v{}", after.note.version),
                None => "its newest checkpoint".to_owned(),
            };
            let checkpoint = match read {
                None => return Ok(Some(format!("{before} is lost ({oid})"))),
                Some(None) => return Ok(Some(format!("{before} is no checkpoint ({oid})"))),
                Some(Some(checkpoint)) => checkpoint,
            };
            seen.insert(oid);
            self.checkpoint(&checkpoint)?;
            next = checkpoint.parent;
            after = Some(checkpoint);
        }
        Ok(None)
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), Failure> {
        let version = checkpoint.note.version;
        for (path, oid) in self.below(checkpoint.tree)?.iter() {
            self.lose(*oid, version, Some(path));
        }
        let Some(side) = checkpoint.side else {
            return Ok(());
        };
        let body = match self.bad.contains(&side) {
            true => None,
            false => self.batch.blob(side)?,
        };
        let text = body.map(|body| String::from_utf8_lossy(&body).into_owned());
        let tree = text.and_then(|text| text.strip_prefix("tree ")?.get(..40)?.parse().ok());
        match tree {
            None => self.lose(side, version, None),
            Some(tree) => {
                for (_, oid) in self.below(tree)?.iter() {
                    self.lose(*oid, version, None);
                }
            }
        }
        Ok(())
    }

    fn lose(&mut self, oid: Oid, version: u64, path: Option<&[u8]>) {
        let loss = self.lost.entry(oid).or_default();
        loss.count += 1;
        loss.is_about |= path.is_none();
        if let Some(path) = path {
            loss.paths.insert(path.to_vec());
        }
        let (oldest, newest) = loss.versions.unwrap_or((version, version));
        loss.versions = Some((oldest.min(version), newest.max(version)));
    }

    /// What is lost of a tree: each is looked at once.
    fn below(&mut self, tree: Oid) -> Result<Losses, Failure> {
        if let Some(known) = self.trees.get(&tree) {
            return Ok(known.clone());
        }
        let mut found = Vec::new();
        let body = match self.bad.contains(&tree) {
            true => None,
            false => self.batch.blob(tree)?,
        };
        match body {
            None => found.push((Vec::new(), tree)),
            Some(body) => {
                for (mode, name, oid) in rows(&body) {
                    if mode == b"40000" {
                        for (path, oid) in self.below(oid)?.iter() {
                            found.push(([&name, &b"/"[..], path].concat(), *oid));
                        }
                    } else if self.bad.contains(&oid) {
                        found.push((name, oid));
                    }
                }
            }
        }
        let found = Rc::new(found);
        self.trees.insert(tree, found.clone());
        Ok(found)
    }

    fn told(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut unused = 0;
        for (oid, loss) in &self.lost {
            let Some((oldest, newest)) = loss.versions else {
                unused += 1;
                continue;
            };
            let versions = match oldest == newest {
                true => format!("in v{oldest}"),
                false => format!(
                    "in {} from v{oldest} to v{newest}",
                    size::count(loss.count as u64, "checkpoint")
                ),
            };
            let mut paths: Vec<String> = loss
                .paths
                .iter()
                .map(|path| render::path(path).trim_end_matches('/').to_owned())
                .map(|path| {
                    if path.is_empty() {
                        "all files".into()
                    } else {
                        path
                    }
                })
                .collect();
            paths.sort();
            if loss.is_about {
                paths.push("what is known about the checkpoint".into());
            }
            lines.push(format!("{} {versions} ({oid})", paths.join(", ")));
        }
        let more = lines.len().saturating_sub(NAMED);
        lines.truncate(NAMED);
        if more > 0 {
            lines.push(format!("and {}", size::count(more as u64, "more object")));
        }
        if unused > 0 {
            let noun = size::count(unused, "object");
            lines.push(format!("{noun} that no checkpoint's files need"));
        }
        lines
    }
}

/// Modes, names and objects of a tree.
fn rows(mut body: &[u8]) -> Vec<(Vec<u8>, Vec<u8>, Oid)> {
    let mut rows = Vec::new();
    while let Some(end) = body.iter().position(|byte| *byte == 0) {
        let mut head = body[..end].splitn(2, |byte| *byte == b' ');
        let (mode, name) = (head.next(), head.next());
        let (Some(mode), Some(name), Some((oid, rest))) =
            (mode, name, body[end + 1..].split_first_chunk::<20>())
        else {
            break;
        };
        rows.push((mode.to_vec(), name.to_vec(), Oid(*oid)));
        body = rest;
    }
    rows
}

// ---- what can be done -------------------------------------------------------------------------

/// Puts damaged files of objects aside, so that they are written again when their content turns up, and
/// lets the next checkpoint read everything.
fn mend(project: &Project, bad: &HashSet<Oid>) -> Result<Vec<String>, Failure> {
    let writer = Writer::insist(project)?;
    let aside = project.own("damaged");
    let mut moved = 0;
    for oid in bad {
        let name = oid.to_string();
        let path = project
            .store
            .join("objects")
            .join(&name[..2])
            .join(&name[2..]);
        if path.exists() && fs::create_dir_all(&aside).is_ok() {
            moved += usize::from(fs::rename(&path, aside.join(&name)).is_ok());
        }
    }
    let mut advice = Vec::new();
    if !bad.is_empty() {
        let _ = fs::remove_file(project.own("index"));
        advice.push(
            "the next `agentfs checkpoint` reads every file and stores again what is still there"
                .into(),
        );
        advice.push(
            "what it cannot bring back may be in a copy of the history: see `agentfs help clone`"
                .into(),
        );
        advice.push("all other checkpoints and files can be used as before".into());
    }
    if moved > 0 {
        let noun = size::count(moved as u64, "damaged object");
        advice.push(format!("{noun} put aside in {}", aside.display()));
    }
    drop(writer);
    Ok(advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_says_is_understood() {
        let (a, b) = ("a".repeat(40), "b".repeat(40));
        let text = format!(
            "error: inflate: data stream error (unknown compression method)\n\
             error: unable to unpack {a} header\n\
             error: {a}: object corrupt or missing: ./objects/aa/{}\n\
             broken link from    tree {b}\n              to    blob {a}\n\
             missing blob {a}\n\
             notice: HEAD points to an unborn branch (main)\n",
            "a".repeat(38)
        );
        let found = understood(&text);
        assert_eq!(found.bad, HashSet::from([a.parse().unwrap()]));
        assert!(!found.index && found.other.is_empty());
        let graph = understood("error: commit-graph has incorrect checksum\n");
        assert!(graph.index && graph.bad.is_empty());
        let other = understood("error: refs/heads/x: badRefContent: nonsense\n");
        assert_eq!(other.other.len(), 1);
    }
}
