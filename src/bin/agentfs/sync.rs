//! Sharing a history with other machines, so that no line of checkpoints is ever lost.
//!
//! Two lines are compared by the ids of their checkpoints, not by their commits: `gc` writes commits
//! anew, ids stay. Where one line continues another, what it has more is put on top of the other's own
//! commits, so a remote only ever moves forward and is never forced. Where two went different ways both
//! stay, one under another name; which of the remote's branches a branch goes with is noted, so that
//! from then on each side continues its own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::cli::{self, Reply};
use super::gc::with_parent;
use super::git::{self, Batch, Git};
use super::history;
use super::note::Checkpoint;
use super::objects::Objects;
use super::oid::Oid;
use super::project::Project;
use super::remote::{Line, Peer, Remote, this_host};
use super::restore;
use super::scan::Budget;
use super::terminal::Painter;
use super::writer::Writer;
use super::{commit, maintenance, refs};
use crate::exit::Failure;
use crate::size;
use crate::usage::{Given, one_of};

/// Times that a push is tried while others push too.
const ATTEMPTS: u32 = 5;

#[derive(Clone, Copy)]
enum Action {
    Push,
    Pull,
    Status,
}

pub fn sync(given: &mut Given) -> Result<Reply, Failure> {
    let actions = [
        ("push", Action::Push),
        ("pull", Action::Pull),
        ("status", Action::Status),
    ];
    let action = one_of("action", &given.operand(), &actions)?;
    let project = cli::project(given)?;
    let word: Option<OsString> = given.more_operands().pop();
    let mut remote = Remote::new(&project, word.as_deref())?;
    let is_json = given.flag("json");
    let rows = match action {
        Action::Push => push(&project, &mut remote, is_json)?,
        Action::Pull => pull(&project, &mut remote)?,
        Action::Status => status(&project, &remote)?,
    };
    Ok(told(is_json, &remote.address, &rows))
}

/// What was done or found about a branch.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    branch: String,
    /// The branch of the remote, where there is one.
    counterpart: Option<String>,
    state: &'static str,
    /// Checkpoints that only we have, and that only the remote has; absent when unknown.
    ahead: Option<usize>,
    behind: Option<usize>,
    /// For people.
    said: String,
}

impl Row {
    fn new(branch: &str, counterpart: &str, state: &'static str, said: impl Into<String>) -> Row {
        Row {
            branch: branch.into(),
            counterpart: Some(counterpart.into()),
            state,
            ahead: None,
            behind: None,
            said: said.into(),
        }
    }

    fn with(self, ahead: usize, behind: usize) -> Row {
        Row {
            ahead: Some(ahead),
            behind: Some(behind),
            ..self
        }
    }
}

fn told(is_json: bool, address: &str, rows: &[Row]) -> Reply {
    if is_json {
        let rows = rows.iter().map(|row| {
            json!({
                "branch": row.branch,
                "remote_branch": row.counterpart,
                "state": row.state,
                "ahead": row.ahead,
                "behind": row.behind,
            })
        });
        return Reply::Json(json!({"remote": address, "branches": rows.collect::<Value>()}));
    }
    let paint = Painter::stdout();
    let width = rows.iter().map(|row| row.branch.chars().count()).max();
    let width = width.unwrap_or(0);
    let lines = rows.iter().map(|row| {
        let branch = paint.line(&row.branch);
        format!("{branch:<width$}  {}\n", paint.line(&row.said))
    });
    match rows.is_empty() {
        true => Reply::Text("the remote has nothing, and neither has this project\n".into()),
        false => Reply::Text(lines.collect()),
    }
}

// ---- comparing --------------------------------------------------------------------------------

/// How our line stands to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Same,
    /// We have so many more.
    Ahead(usize),
    /// It has so many more.
    Behind(usize),
    /// Both have some more, so many.
    Diverged(usize, usize),
}

fn relation(ours: &[Checkpoint], theirs: &[Checkpoint]) -> Relation {
    match common(ours, theirs) {
        Some((0, 0)) => Relation::Same,
        Some((ahead, 0)) => Relation::Ahead(ahead),
        Some((0, behind)) => Relation::Behind(behind),
        Some((ahead, behind)) => Relation::Diverged(ahead, behind),
        None => Relation::Diverged(ours.len(), theirs.len()),
    }
}

/// Where in both lines the newest checkpoint is that both have.
fn common(ours: &[Checkpoint], theirs: &[Checkpoint]) -> Option<(usize, usize)> {
    let places: HashMap<&str, usize> = theirs
        .iter()
        .enumerate()
        .map(|(place, checkpoint)| (checkpoint.note.id.as_str(), place))
        .collect();
    ours.iter()
        .enumerate()
        .find_map(|(place, checkpoint)| Some((place, *places.get(checkpoint.note.id.as_str())?)))
}

/// Writes commits.
struct Grafter {
    batch: Batch,
    objects: Objects,
}

impl Grafter {
    fn new(git: &Git, objects: Objects) -> Result<Grafter, Failure> {
        let batch = git.batch()?;
        Ok(Grafter { batch, objects })
    }

    /// The line `more` with everything up to the newest common checkpoint as `base` has it. Where both
    /// have the same commits it is `more` itself.
    fn onto(
        &mut self,
        more: &[Checkpoint],
        base: &[Checkpoint],
    ) -> Result<Vec<Checkpoint>, Failure> {
        let Some((place, at)) = common(more, base) else {
            return Ok(more.to_vec());
        };
        let mut line = base[at..].to_vec();
        for checkpoint in more[..place].iter().rev() {
            let parent = line.first().map(|parent| parent.commit);
            let commit = with_parent(&mut self.batch, &self.objects, checkpoint, parent)?;
            line.insert(
                0,
                Checkpoint {
                    commit,
                    parent,
                    ..checkpoint.clone()
                },
            );
        }
        Ok(line)
    }
}

/// The line that shares most with ours.
fn nearest<'a>(
    ours: &[Checkpoint],
    lines: &'a BTreeMap<String, Vec<Checkpoint>>,
) -> &'a [Checkpoint] {
    let place = |line: &Vec<Checkpoint>| common(ours, line).map(|(place, _)| place);
    let near = lines.values().filter(|line| place(line).is_some());
    near.min_by_key(|line| place(line))
        .map_or(&[], Vec::as_slice)
}

// ---- push -------------------------------------------------------------------------------------

fn push(project: &Project, remote: &mut Remote, is_json: bool) -> Result<Vec<Row>, Failure> {
    make_ready(&remote.address)?;
    let _lock = maintenance::insist(project)?;
    maintenance::remove_leftovers(project);
    let mut said = String::new();
    for _ in 0..ATTEMPTS {
        let ours = history::lines(project)?;
        let known = remote.known()?;
        let goes_on = |known: &Vec<Line>| continues(remote, &ours, known);
        let (theirs, foreign, peer) = match known.filter(goes_on) {
            Some(known) => (known, Vec::new(), Some(Peer::new(remote)?)),
            None => {
                let (theirs, foreign) = remote.fetch()?;
                (theirs, foreign, None)
            }
        };
        if theirs.is_empty() && !foreign.is_empty() {
            let reason = "it holds another history, not checkpoints";
            return Err(
                Failure::new(format!("cannot push to {}: {reason}", remote.address))
                    .advise("give an empty repository"),
            );
        }
        if !is_json {
            warn(remote);
        }
        let grafter = match &peer {
            Some(peer) => Grafter::new(&peer.git(), peer.objects())?,
            None => Grafter::new(&project.git(), Objects::new(&project.store))?,
        };
        let plan = Pushes::plan(grafter, remote, &ours, theirs, &foreign)?;
        if !plan.moves.is_empty()
            && let Some(reason) = remote.push(&plan.moves, peer.as_ref())?
        {
            said = reason;
            continue;
        }
        for (ours, theirs) in &plan.goes_with {
            remote.goes_with(ours, theirs);
        }
        remote.remember()?;
        return Ok(plan.rows);
    }
    Err(Failure::new(said).advise("others may be pushing too: try again"))
}

/// Says once what a remote gets.
fn warn(remote: &mut Remote) {
    if !remote.notes.warned {
        eprintln!(
            "agentfs: {} gets all that the checkpoints hold, secrets in the directory too",
            remote.address
        );
        remote.notes.warned = true;
    }
}

/// Whether the ends of the remote's lines tell enough of them: each of ours that goes with one holds its
/// end.
fn continues(remote: &Remote, ours: &[Line], known: &[Line]) -> bool {
    ours.iter().all(|(branch, line)| {
        let name = remote.counterpart(branch);
        let end = known.iter().find(|(known, _)| known == name);
        end.is_none_or(|(_, end)| !matches!(relation(line, end), Relation::Diverged(..)))
    })
}

/// An empty place becomes a repository; one that somebody works in is refused.
fn make_ready(address: &str) -> Result<(), Failure> {
    let path = Path::new(address);
    if !path.is_absolute() {
        return Ok(());
    }
    if path.join(".git").exists() {
        return Err(
            Failure::at("cannot push to", path, "it is a working directory of git")
                .advise("give a bare repository, or a new path"),
        );
    }
    let is_empty = match fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(_) => !path.exists() && path.parent().is_some_and(Path::is_dir),
    };
    if is_empty {
        let mut init = Command::new("git");
        init.args(["init", "--quiet", "--bare", "--initial-branch=main", "--"])
            .arg(path)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env_remove("GIT_DIR");
        git::run(&mut init)?;
    }
    Ok(())
}

/// What a push does.
struct Pushes<'a> {
    remote: &'a Remote<'a>,
    /// What the remote will have.
    theirs: BTreeMap<String, Vec<Checkpoint>>,
    /// Names that are not to be used.
    taken: HashSet<String>,
    grafter: Grafter,
    moves: Vec<(String, Checkpoint)>,
    goes_with: Vec<(String, String)>,
    rows: Vec<Row>,
}

/// The outcome of planning.
struct Planned {
    moves: Vec<(String, Checkpoint)>,
    goes_with: Vec<(String, String)>,
    rows: Vec<Row>,
}

impl Pushes<'_> {
    fn plan(
        grafter: Grafter,
        remote: &Remote,
        ours: &[Line],
        theirs: Vec<Line>,
        foreign: &[String],
    ) -> Result<Planned, Failure> {
        let mut taken: HashSet<String> = foreign.iter().cloned().collect();
        taken.extend(remote.current_elsewhere());
        let mut pushes = Pushes {
            remote,
            theirs: theirs.into_iter().collect(),
            taken,
            grafter,
            moves: Vec::new(),
            goes_with: Vec::new(),
            rows: Vec::new(),
        };
        // Who continues a line of the remote has it before those that have gone other ways.
        let mut late = Vec::new();
        for (branch, line) in ours {
            if !pushes.with_counterpart(branch, line)? {
                late.push((branch, line));
            }
        }
        for (branch, line) in late {
            if !pushes.with_counterpart(branch, line)? {
                pushes.apart(branch, line, ours)?;
            }
        }
        Ok(Planned {
            moves: pushes.moves,
            goes_with: pushes.goes_with,
            rows: pushes.rows,
        })
    }

    /// Pushes to the branch that ours goes with, unless the two have gone different ways.
    fn with_counterpart(&mut self, branch: &str, line: &[Checkpoint]) -> Result<bool, Failure> {
        let name = self.remote.counterpart(branch).to_owned();
        let known = self.theirs.get(&name).map(|theirs| relation(line, theirs));
        match known {
            Some(Relation::Diverged(..)) => return Ok(false),
            Some(Relation::Same) => {
                self.rows
                    .push(Row::new(branch, &name, "same", "nothing new").with(0, 0));
            }
            Some(Relation::Behind(behind)) => {
                let more = size::count(behind as u64, "checkpoint");
                let said = format!("nothing new; {more} to get: agentfs sync pull");
                self.rows
                    .push(Row::new(branch, &name, "behind", said).with(0, behind));
            }
            Some(Relation::Ahead(_)) | None if self.taken.contains(&name) => return Ok(false),
            Some(Relation::Ahead(ahead)) => {
                self.send(branch, &name, line)?;
                let said = said_pushed(ahead, branch, &name);
                self.rows
                    .push(Row::new(branch, &name, "pushed", said).with(0, 0));
            }
            None => {
                self.send(branch, &name, line)?;
                let said = said_pushed(line.len(), branch, &name);
                self.rows
                    .push(Row::new(branch, &name, "pushed", said).with(0, 0));
            }
        }
        Ok(true)
    }

    /// Pushes to a branch of our own.
    fn apart(&mut self, branch: &str, line: &[Checkpoint], ours: &[Line]) -> Result<(), Failure> {
        let counterpart = self.remote.counterpart(branch).to_owned();
        let base = format!("{branch}-{}", this_host());
        let numbered = (2..).map(|number| format!("{base}-{number}"));
        for name in [base.clone()].into_iter().chain(numbered) {
            let is_anothers = ours
                .iter()
                .any(|(other, _)| other != branch && self.remote.counterpart(other) == name);
            if is_anothers || self.taken.contains(&name) {
                continue;
            }
            let known = self.theirs.get(&name).map(|theirs| relation(line, theirs));
            match known {
                Some(Relation::Diverged(..)) => continue,
                Some(Relation::Same | Relation::Behind(_)) => {}
                Some(Relation::Ahead(_)) | None => self.send(branch, &name, line)?,
            }
            self.goes_with.push((branch.to_owned(), name.clone()));
            let said = match self.taken.contains(&counterpart) {
                true => format!("pushed as {name}: {counterpart} is in use there"),
                false => format!("pushed as {name}: {counterpart} went another way there"),
            };
            self.rows
                .push(Row::new(branch, &name, "apart", said).with(0, 0));
            return Ok(());
        }
        Ok(())
    }

    fn send(&mut self, branch: &str, name: &str, line: &[Checkpoint]) -> Result<(), Failure> {
        let grafted = match self.theirs.get(name) {
            Some(theirs) => self.grafter.onto(line, theirs)?,
            None => self.grafter.onto(line, nearest(line, &self.theirs))?,
        };
        let Some(newest) = grafted.first() else {
            return Err(Failure::new(format!("branch {branch} has no checkpoints")));
        };
        self.moves.retain(|(known, _)| known != name);
        self.moves.push((name.to_owned(), newest.clone()));
        self.theirs.insert(name.to_owned(), grafted);
        Ok(())
    }
}

fn said_pushed(count: usize, branch: &str, name: &str) -> String {
    let count = size::count(count as u64, "checkpoint");
    match branch == name {
        true => format!("{count} pushed"),
        false => format!("{count} pushed to {name}"),
    }
}

// ---- pull -------------------------------------------------------------------------------------

fn pull(project: &Project, remote: &mut Remote) -> Result<Vec<Row>, Failure> {
    let _lock = maintenance::insist(project)?;
    maintenance::remove_leftovers(project);
    let known = remote.known()?;
    let (theirs, foreign) = match known {
        Some(known) if has_all(project, remote, &known)? => (known, Vec::new()),
        _ => remote.fetch()?,
    };
    let mut pulls = Pulls {
        writer: Writer::insist(project)?,
        ours: history::lines(project)?.into_iter().collect(),
        grafter: Grafter::new(&project.git(), Objects::new(&project.store))?,
        remote,
        rows: Vec::new(),
        forward: None,
    };
    for (name, line) in &theirs {
        pulls.branch(name, line)?;
    }
    let got = pulls.rows.iter().any(|row| row.state != "same");
    let finished = pulls.finish();
    remote.remember()?;
    let mut rows = finished?;
    for name in foreign {
        rows.push(Row::new(
            &name,
            &name,
            "foreign",
            "left there: it holds no checkpoints",
        ));
    }
    if got {
        maintenance::pack_soon(project);
    }
    Ok(rows)
}

/// Whether we hold the end of every line of the remote, where it belongs.
fn has_all(project: &Project, remote: &Remote, known: &[Line]) -> Result<bool, Failure> {
    let ours = history::lines(project)?;
    let is_held = |name: &str, end: &[Checkpoint]| {
        ours.iter().any(|(branch, line)| {
            let is_there = !matches!(relation(line, end), Relation::Diverged(..));
            remote.counterpart(branch) == name && is_there
        })
    };
    Ok(continues(remote, &ours, known) && known.iter().all(|(name, end)| is_held(name, end)))
}

/// What a pull does.
struct Pulls<'a, 'b, 'c> {
    writer: Writer<'a>,
    ours: BTreeMap<String, Vec<Checkpoint>>,
    grafter: Grafter,
    remote: &'c mut Remote<'b>,
    rows: Vec<Row>,
    /// How the current branch is to go on, and in which row that is told.
    forward: Option<(Vec<Checkpoint>, usize)>,
}

impl Pulls<'_, '_, '_> {
    fn branch(&mut self, name: &str, theirs: &[Checkpoint]) -> Result<(), Failure> {
        let current = self.writer.branch.clone();
        // The current branch comes last: what it lacks may come to another that goes with it.
        let mut with: Vec<String> = self
            .ours
            .keys()
            .filter(|ours| self.remote.counterpart(ours) == name)
            .cloned()
            .collect();
        with.sort_by_key(|branch| *branch == current);
        let mut has_it = None;
        let mut apart = None;
        for branch in with {
            let line = self.ours[&branch].clone();
            match relation(&line, theirs) {
                Relation::Same => {
                    self.say(Row::new(&branch, name, "same", "nothing new").with(0, 0));
                    has_it = Some(branch);
                }
                Relation::Ahead(ahead) => {
                    let more = size::count(ahead as u64, "checkpoint");
                    let said = format!("nothing new; {more} to push");
                    self.say(Row::new(&branch, name, "ahead", said).with(ahead, 0));
                    has_it = Some(branch);
                }
                Relation::Behind(behind) => {
                    let line = self.grafter.onto(theirs, &line)?;
                    let said = format!("{} pulled", size::count(behind as u64, "checkpoint"));
                    let row = Row::new(&branch, name, "pulled", said).with(0, 0);
                    if branch != current {
                        self.set(&branch, line)?;
                        self.say(row);
                    } else if self.is_clean()? {
                        self.forward = Some((line, self.rows.len()));
                        self.say(row);
                    } else {
                        apart = Some((branch, "the directory has changed"));
                        continue;
                    }
                    has_it = Some(branch);
                }
                Relation::Diverged(..) => {
                    apart.get_or_insert((branch, "it went another way"));
                }
            }
        }
        match (has_it, apart) {
            (Some(_), None) => Ok(()),
            (Some(kept), Some((branch, why))) => {
                let said = format!("{why}: what the remote has is {kept}; agentfs switch {kept}");
                self.say(Row::new(&branch, name, "apart", said));
                Ok(())
            }
            (None, apart) => self.keep(name, theirs, apart),
        }
    }

    /// Keeps a line of the remote as a branch of its own.
    fn keep(
        &mut self,
        name: &str,
        theirs: &[Checkpoint],
        apart: Option<(String, &str)>,
    ) -> Result<(), Failure> {
        if refs::check_name(self.writer.project, name).is_err() {
            self.say(Row::new(
                name,
                name,
                "foreign",
                "left there: its name is none for a branch",
            ));
            return Ok(());
        }
        let base = format!("{name}-{}", self.remote.host());
        let numbered = (2..).map(|number| format!("{base}-{number}"));
        let names = [name.to_owned(), base.clone()].into_iter().chain(numbered);
        // A branch can neither be where another has its directory nor the other way round.
        let is_free = |new: &String| {
            let is_within =
                |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.starts_with('/'));
            let clashes = |old: &String| old == new || is_within(old, new) || is_within(new, old);
            !self.ours.keys().any(clashes)
        };
        let Some(ours) = names.into_iter().find(is_free) else {
            return Ok(());
        };
        let line = self.grafter.onto(theirs, nearest(theirs, &self.ours))?;
        // Noted first: a branch without its counterpart would be kept and pushed once more.
        self.remote.goes_with(&ours, name);
        self.remote.remember()?;
        self.set(&ours, line)?;
        let count = size::count(theirs.len() as u64, "checkpoint");
        let said = match apart {
            None => format!("{count} pulled"),
            Some((_, why)) => {
                format!("{count} kept as a branch of its own, {why}: agentfs switch {ours}")
            }
        };
        self.say(Row::new(&ours, name, "kept", said).with(0, 0));
        Ok(())
    }

    /// Whether the directory is as the newest checkpoint.
    fn is_clean(&mut self) -> Result<bool, Failure> {
        self.writer.scan(Budget::NONE)?;
        Ok(!self.writer.differs()?)
    }

    fn set(&mut self, branch: &str, line: Vec<Checkpoint>) -> Result<(), Failure> {
        if let Some(newest) = line.first() {
            refs::write(self.writer.project, branch, newest.commit)?;
            self.writer.raise_version(newest.note.version);
        }
        self.ours.insert(branch.to_owned(), line);
        Ok(())
    }

    fn say(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Brings the directory and the current branch forward, last of all: only this can fail halfway.
    fn finish(mut self) -> Result<Vec<Row>, Failure> {
        if let Some((line, row)) = self.forward.take()
            && let Some(newest) = line.first()
        {
            let branch = self.writer.branch.clone();
            restore::bring(&mut self.writer, newest, "sync pull", false)?;
            self.writer.raise_version(newest.note.version);
            refs::write(self.writer.project, &branch, newest.commit)?;
            self.writer.set_branch(&branch)?;
            // Whatever could not be brought is the first change after it.
            if restore::safety(&mut self.writer, "after sync pull")?.map(|c| c.commit)
                == Some(newest.commit)
            {
                self.writer.adopt_tip()?;
            }
            self.rows[row]
                .said
                .push_str("; the directory is brought forward");
        }
        self.writer.save()?;
        Ok(self.rows)
    }
}

// ---- status -----------------------------------------------------------------------------------

fn status(project: &Project, remote: &Remote) -> Result<Vec<Row>, Failure> {
    let ours = history::lines(project)?;
    let theirs: BTreeMap<String, Oid> = remote.list()?.into_iter().collect();
    let objects = Objects::new(&project.store);
    let mut rows = Vec::new();
    for (branch, line) in &ours {
        let name = remote.counterpart(branch);
        let Some(end) = theirs.get(name) else {
            let said = format!(
                "{} to push, new there",
                size::count(line.len() as u64, "checkpoint")
            );
            let row = Row::new(branch, name, "new", said).with(line.len(), 0);
            rows.push(Row {
                counterpart: None,
                ..row
            });
            continue;
        };
        let known = match commit::read(project, &objects, *end) {
            Ok(_) => history::log(project, &end.to_string(), None, None).ok(),
            Err(_) => None,
        };
        rows.push(match known {
            Some(theirs) => compared(branch, name, relation(line, &theirs)),
            None => from_notes(remote, branch, name, line, *end),
        });
    }
    for name in theirs.keys() {
        if !ours
            .iter()
            .any(|(branch, _)| remote.counterpart(branch) == name)
        {
            let row = Row::new(
                name,
                name,
                "remote",
                "only on the remote: agentfs sync pull",
            );
            rows.push(row);
        }
    }
    Ok(rows)
}

fn compared(branch: &str, name: &str, relation: Relation) -> Row {
    let count = |count: usize| size::count(count as u64, "checkpoint");
    match relation {
        Relation::Same => Row::new(branch, name, "same", "the same on both sides").with(0, 0),
        Relation::Ahead(n) => {
            Row::new(branch, name, "ahead", format!("{} to push", count(n))).with(n, 0)
        }
        Relation::Behind(n) => {
            Row::new(branch, name, "behind", format!("{} to pull", count(n))).with(0, n)
        }
        Relation::Diverged(a, b) => {
            let said = format!("went two ways: {} here, {} there", count(a), count(b));
            Row::new(branch, name, "diverged", said).with(a, b)
        }
    }
}

/// What is known of a line that is not here.
fn from_notes(remote: &Remote, branch: &str, name: &str, line: &[Checkpoint], end: Oid) -> Row {
    let noted = remote.notes.ends.get(name);
    let noted = noted.filter(|noted| noted.commit == end);
    let place = noted.and_then(|noted| line.iter().position(|c| c.note.id == noted.id));
    match place {
        Some(0) => compared(branch, name, Relation::Same),
        Some(ahead) => compared(branch, name, Relation::Ahead(ahead)),
        None => Row::new(
            branch,
            name,
            "unknown",
            "the remote has what is not here: agentfs sync pull",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::note::Note;
    use super::*;

    fn line(ids: &str) -> Vec<Checkpoint> {
        let checkpoint = |id: char| Checkpoint {
            note: Note {
                id: format!("cp_{id}"),
                ..Note::default()
            },
            ..Checkpoint::default()
        };
        ids.chars().rev().map(checkpoint).collect()
    }

    #[test]
    fn lines_are_compared_by_ids_whatever_gc_removed() {
        for (ours, theirs, expected) in [
            ("abc", "abc", Relation::Same),
            ("c", "abc", Relation::Same),
            ("abcd", "ab", Relation::Ahead(2)),
            ("bd", "ab", Relation::Ahead(1)),
            ("ab", "bcd", Relation::Behind(2)),
            ("abx", "abyz", Relation::Diverged(1, 2)),
            ("ab", "xy", Relation::Diverged(2, 2)),
        ] {
            assert_eq!(
                relation(&line(ours), &line(theirs)),
                expected,
                "{ours} {theirs}"
            );
        }
    }
}
