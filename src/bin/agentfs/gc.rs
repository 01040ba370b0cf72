//! Removing old checkpoints, and making the history small.
//!
//! Commits never change, so a line without some of its checkpoints is a line of new commits: each
//! survivor's with all it says, but another parent. What they are is decided by the survivors alone, so
//! branches go on sharing what they shared, and a second run after a kill makes the same commits again.
//! Nothing is deleted before every branch ends in a line that needs none of it.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::time::Duration;

use serde_json::{Value, json};

use super::cli::{self, Reply};
use super::events::{Event, State, TAIL};
use super::git::{self, Batch};
use super::maintenance::{self, Stored};
use super::note::Checkpoint;
use super::objects::{Kind, Objects};
use super::oid::Oid;
use super::project::Project;
use super::remote::{self, Remote};
use super::terminal::Painter;
use super::writer::{Writer, now_ms};
use super::{commit, history, reference, refs, render};
use crate::exit::Failure;
use crate::size;
use crate::sys;
use crate::usage::Given;

/// What keeps the objects of the index while others are deleted.
const INDEX_REF: &str = "refs/agentfs/index";
/// How long to wait for who packs in the background, or works on the store.
const PATIENCE: Duration = Duration::from_secs(120);
/// Events of the last days are kept even where no checkpoint is so old, milliseconds.
const EVENTS_KEPT: i64 = 7 * 86_400_000;

/// Which checkpoints go: those that every rule given wants to remove.
#[derive(Clone, Copy, Debug, Default)]
struct Rules {
    keep_last: Option<usize>,
    /// Milliseconds since the epoch.
    older_than: Option<i64>,
}

impl Rules {
    fn of(given: &Given) -> Result<Rules, Failure> {
        let age = cli::text(given, "older-than")?;
        let older_than = match &age {
            Some(age) => Some(reference::duration(age).ok_or_else(|| {
                Failure::usage(format!("{age:?} is no length of time")).advise("as in 30d, 12h")
            })?),
            None => None,
        };
        Ok(Rules {
            keep_last: given.number("keep-last")?,
            older_than: older_than.map(|age| now_ms() - age),
        })
    }

    fn is_empty(&self) -> bool {
        self.keep_last.is_none() && self.older_than.is_none()
    }

    /// Whether a checkpoint stays, `before` the newest of its branch by so many.
    fn keep(&self, checkpoint: &Checkpoint, before: usize) -> bool {
        before == 0
            || checkpoint.note.pinned
            || self.keep_last.is_some_and(|count| before < count)
            || self
                .older_than
                .is_some_and(|limit| checkpoint.note.time >= limit)
    }
}

/// A branch with its checkpoints, the newest first.
type Line = (String, Vec<Checkpoint>);

/// What stays and what goes, by id.
struct Plan {
    lines: Vec<Line>,
    kept: HashSet<String>,
    /// The oldest first.
    removed: Vec<Checkpoint>,
}

impl Plan {
    fn new(lines: Vec<Line>, rules: &Rules) -> Plan {
        let kept: HashSet<String> = lines
            .iter()
            .flat_map(|(_, line)| line.iter().enumerate())
            .filter(|(before, checkpoint)| rules.keep(checkpoint, *before))
            .map(|(_, checkpoint)| checkpoint.note.id.clone())
            .collect();
        let mut seen = HashSet::new();
        let mut removed: Vec<Checkpoint> = lines
            .iter()
            .flat_map(|(_, line)| line)
            .filter(|c| !kept.contains(&c.note.id) && seen.insert(c.note.id.clone()))
            .cloned()
            .collect();
        removed.sort_by_key(|checkpoint| checkpoint.note.time);
        Plan {
            lines,
            kept,
            removed,
        }
    }

    fn oldest_kept(&self) -> Option<i64> {
        let all = self.lines.iter().flat_map(|(_, line)| line);
        let kept = all.filter(|checkpoint| self.kept.contains(&checkpoint.note.id));
        kept.map(|checkpoint| checkpoint.note.time).min()
    }
}

pub fn gc(given: &mut Given) -> Result<Reply, Failure> {
    let project = cli::project(given)?;
    let rules = Rules::of(given)?;
    if given.flag("dry-run") {
        let plan = match rules.is_empty() {
            true => Plan::new(Vec::new(), &rules),
            false => Plan::new(history::lines(&project)?, &rules),
        };
        return Ok(told(given, &plan, None));
    }
    let lock = maintenance::insist(&project)?;
    lock.share();
    let before = Stored::of(&project)?;
    let plan = match rules.is_empty() {
        true => {
            pack_all(&project)?;
            Plan::new(Vec::new(), &rules)
        }
        false => remove(&project, &rules)?,
    };
    let after = Stored::of(&project)?;
    Ok(told(given, &plan, Some((before, after))))
}

fn told(given: &Given, plan: &Plan, stored: Option<(Stored, Stored)>) -> Reply {
    let bytes = |stored: &Stored| stored.loose + stored.packed;
    let stored = stored.map(|(before, after)| (bytes(&before), bytes(&after)));
    if given.flag("json") {
        let row = |c: &Checkpoint| json!({"id": c.note.id, "version": c.note.version, "timestamp": size::rfc3339(c.note.time)});
        return Reply::Json(json!({
            "dry_run": stored.is_none(),
            "removed": plan.removed.iter().map(row).collect::<Value>(),
            "kept": (!plan.lines.is_empty()).then_some(plan.kept.len()),
            "bytes_before": stored.map(|(before, _)| before),
            "bytes_after": stored.map(|(_, after)| after),
        }));
    }
    let (paint, now) = (Painter::stdout(), now_ms());
    let mut out = String::new();
    if stored.is_none() {
        for checkpoint in &plan.removed {
            let note = &checkpoint.note;
            let subject = paint.line(&render::subject(&note.message));
            let ago = render::ago(note.time, now);
            out.push_str(&format!(
                "remove  v{} {}  {ago}  {subject}\n",
                note.version, note.id
            ));
        }
    }
    let count = size::count(plan.removed.len() as u64, "checkpoint");
    let kept = plan.kept.len();
    out.push_str(&match stored {
        None if plan.lines.is_empty() => {
            "nothing would be removed: neither --keep-last nor --older-than is given\n".into()
        }
        None => format!("{count} would be removed, {kept} kept; nothing was done\n"),
        Some((before, after)) => {
            let removed = match plan.lines.is_empty() {
                true => "packed".to_owned(),
                false => format!("{count} removed, {kept} kept"),
            };
            let (before, after) = (size::bytes(before), size::bytes(after));
            format!("{removed}: {after}, was {before}\n")
        }
    });
    Reply::Text(out)
}

// ---- packing only -----------------------------------------------------------------------------

/// Packs everything and removes nothing.
fn pack_all(project: &Project) -> Result<(), Failure> {
    maintenance::pack(project)?;
    if Stored::of(project)?.packs > 1 {
        check_room(project)?;
        maintenance::pack_whole(project)?;
        maintenance::keep_at_hand(project)?;
    }
    maintenance::index(project, "--split=replace")
}

fn check_room(project: &Project) -> Result<(), Failure> {
    let stored = Stored::of(project)?;
    let free = maintenance::free(&project.store)?;
    maintenance::need(project, free, stored.loose + stored.packed)
}

// ---- removing ---------------------------------------------------------------------------------

fn remove(project: &Project, rules: &Rules) -> Result<Plan, Failure> {
    let has_room = match check_room(project) {
        Ok(()) => {
            // Most of the work, while others can still make checkpoints.
            maintenance::pack(project)?;
            true
        }
        // Only what is loose can go without room to write the rest anew.
        Err(failure) if Stored::of(project)?.loose == 0 => return Err(failure),
        Err(_) => false,
    };
    let writer = Writer::open(project, PATIENCE)?;
    let mut writer = writer.ok_or_else(|| {
        let reason = "another agentfs works on it";
        Failure::at("the store is busy", &project.store, reason).advise("try again")
    })?;
    let plan = Plan::new(history::lines(project)?, rules);
    shorten(&mut writer, &plan)?;
    forget_remote(project)?;
    delete_unreachable(&writer, has_room)?;
    trim_events(project, &plan)?;
    Ok(plan)
}

/// Deletes what neither a branch nor the index leads to.
fn delete_unreachable(writer: &Writer, has_room: bool) -> Result<(), Failure> {
    let project = writer.project;
    // First of all, so that the index of the history never names what is gone.
    if maintenance::index(project, "--split=replace").is_err() {
        // It can be made again when there is room.
        let graphs = project.store.join("objects/info/commit-graphs");
        fs::remove_dir_all(&graphs)
            .map_err(|error| Failure::at("cannot write to the store", &graphs, error))?;
    }
    keep_index(writer)?;
    if has_room {
        let args = ["repack", "-q", "-a", "-d", "-l"];
        git::run(&mut maintenance::packing(project, args))?;
    }
    let args = ["prune", "--expire=now"];
    git::run(&mut maintenance::packing(project, args))?;
    maintenance::keep_at_hand(project)?;
    release_index(project)
}

/// Lets every branch end in a line of the survivors.
fn shorten(writer: &mut Writer, plan: &Plan) -> Result<(), Failure> {
    let project = writer.project;
    let mut batch = project.git().batch()?;
    let mut made: HashMap<Oid, Oid> = HashMap::new();
    let mut tips = Vec::new();
    for (branch, line) in &plan.lines {
        let mut parent = None;
        for checkpoint in line.iter().rev() {
            if !plan.kept.contains(&checkpoint.note.id) {
                continue;
            }
            let known = made.get(&checkpoint.commit).copied();
            let commit = match known {
                Some(commit) => commit,
                None => with_parent(&mut batch, &writer.objects, checkpoint, parent)?,
            };
            made.insert(checkpoint.commit, commit);
            parent = Some(commit);
        }
        if let (Some(newest), Some(tip)) = (line.first(), parent) {
            tips.push((branch, newest.commit, tip));
        }
    }
    sync(project)?;
    for (branch, before, after) in tips {
        // A push to this store may have come between.
        if before == after || refs::read(project, branch)? != Some(before) {
            continue;
        }
        refs::write(project, branch, after)?;
        if *branch == writer.branch {
            let tip = commit::read(project, &writer.objects, after)?;
            writer.follow(tip)?;
        }
    }
    sync(project)
}

/// The commit of a checkpoint that follows another one, or none, with all else as it is.
pub fn with_parent(
    batch: &mut Batch,
    objects: &Objects,
    checkpoint: &Checkpoint,
    parent: Option<Oid>,
) -> Result<Oid, Failure> {
    if checkpoint.parent == parent {
        return Ok(checkpoint.commit);
    }
    let missing = || {
        let what = format!("the store has lost {}", checkpoint.note.id);
        Failure::new(what).advise("see `agentfs verify`")
    };
    let body = batch.blob(checkpoint.commit)?.ok_or_else(missing)?;
    let body = reparented(&body, checkpoint.parent, parent).ok_or_else(missing)?;
    objects
        .write(Kind::Commit, &body)
        .map_err(|error| Failure::new(format!("cannot write to the store: {error}")))
}

/// A commit object whose first parent is another one; the last parent, which holds the long fields,
/// stays.
fn reparented(body: &[u8], from: Option<Oid>, to: Option<Oid>) -> Option<Vec<u8>> {
    let line = |oid: Option<Oid>| oid.map_or(String::new(), |oid| format!("parent {oid}\n"));
    let end = body.iter().position(|byte| *byte == b'\n')? + 1;
    let (tree, rest) = body.split_at(end);
    let rest = rest.strip_prefix(line(from).as_bytes())?;
    Some([tree, line(to).as_bytes(), rest].concat())
}

/// What only a remote has is not kept alive here.
fn forget_remote(project: &Project) -> Result<(), Failure> {
    if let Ok(mut remote) = Remote::new(project, None) {
        remote.let_go()?;
    }
    remote::forget_tracked(project)
}

/// The index believes in objects that no checkpoint has yet: files that were only looked at.
fn keep_index(writer: &Writer) -> Result<(), Failure> {
    let root = writer.index.root.oid;
    if root == Oid::EMPTY_TREE || root == Oid::default() {
        return release_index(writer.project);
    }
    refs::put(writer.project, INDEX_REF, &format!("{root}\n"))
}

fn release_index(project: &Project) -> Result<(), Failure> {
    let path = project.store.join(INDEX_REF);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure::at("cannot write to the store", &path, error))
        }
        _ => Ok(()),
    }
}

/// Waits until all of the store is on the disk: what it replaces is about to be deleted.
fn sync(project: &Project) -> Result<(), Failure> {
    let failed = |error| Failure::at("cannot write to the store", &project.store, error);
    let dir = File::open(&project.store).map_err(failed)?;
    // SAFETY: takes a descriptor that is open.
    match unsafe { libc::syncfs(dir.as_raw_fd()) } {
        0 => Ok(()),
        _ => Err(failed(io::Error::last_os_error())),
    }
}

// ---- events -----------------------------------------------------------------------------------

/// Gives back the space of events older than every checkpoint. They become a hole, so that hooks, which
/// append without a lock, and the noted offset are not disturbed.
fn trim_events(project: &Project, plan: &Plan) -> Result<(), Failure> {
    let path = project.own("events.jsonl");
    let limit = now_ms() - EVENTS_KEPT;
    let limit = plan.oldest_kept().map_or(limit, |oldest| oldest.min(limit));
    let failed = |error| Failure::at("cannot shorten", &path, error);
    let file = match File::options().read(true).write(true).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    let folded = State::load(&project.own("state.json"), &path).offset;
    let length = fs::metadata(&path).map_err(failed)?.len();
    // What is looked at again when the state is lost.
    let most = folded.min(length.saturating_sub(TAIL));
    let end = old_events(&file, limit, most).map_err(failed)?;
    if end == 0 {
        return Ok(());
    }
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    match sys::fallocate(&file, mode, 0, end as i64) {
        Err(error) if !sys::is(&error, libc::EOPNOTSUPP) => Err(failed(error)),
        _ => Ok(()),
    }
}

/// Where the first event begins that is not older than `limit`, at most `most`.
fn old_events(file: &File, limit: i64, most: u64) -> io::Result<u64> {
    // SAFETY: takes a descriptor that is open.
    let data = unsafe { libc::lseek(file.as_raw_fd(), 0, libc::SEEK_DATA) };
    let mut at = data.max(0) as u64;
    let mut end = 0;
    let mut reader = BufReader::new(file);
    reader.seek(SeekFrom::Start(at))?;
    let mut line = Vec::new();
    loop {
        line.clear();
        at += reader.read_until(b'\n', &mut line)? as u64;
        if at > most || line.is_empty() {
            return Ok(end);
        }
        match Event::from_line(&line) {
            Some(event) if event.time >= limit => return Ok(end),
            Some(_) => end = at,
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::note::Note;
    use super::*;

    fn checkpoint(id: &str, time: i64, pinned: bool) -> Checkpoint {
        Checkpoint {
            note: Note {
                id: id.into(),
                time,
                pinned,
                ..Note::default()
            },
            ..Checkpoint::default()
        }
    }

    #[test]
    fn a_checkpoint_goes_only_when_every_rule_and_branch_lets_it_go() {
        let c = |id: &str| {
            checkpoint(
                id,
                id.trim_start_matches("cp_").parse().unwrap(),
                id == "cp_2",
            )
        };
        let line = |ids: &[&str]| ids.iter().map(|id| c(id)).collect::<Vec<_>>();
        let lines = vec![
            (
                "main".to_owned(),
                line(&["cp_6", "cp_5", "cp_3", "cp_2", "cp_1"]),
            ),
            ("side".to_owned(), line(&["cp_4", "cp_3", "cp_2", "cp_1"])),
        ];
        let removed = |keep_last, older_than| {
            let rules = Rules {
                keep_last,
                older_than,
            };
            let plan = Plan::new(lines.clone(), &rules);
            let ids = plan.removed.into_iter().map(|c| c.note.id);
            ids.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(removed(Some(1), None), "cp_1 cp_3 cp_5");
        assert_eq!(removed(Some(2), None), "cp_1");
        assert_eq!(removed(None, Some(3)), "cp_1");
        assert_eq!(removed(Some(1), Some(5)), "cp_1 cp_3");
        assert_eq!(removed(Some(9), Some(100)), "");
        assert_eq!(removed(Some(0), None), "cp_1 cp_3 cp_5");
    }

    #[test]
    fn events_are_old_up_to_the_first_that_is_not() {
        let path = std::env::temp_dir().join(format!("agentfs-gc-{}", std::process::id()));
        let event = |time| Event {
            time,
            ..Event::default()
        };
        let lines: Vec<Vec<u8>> = [1, 2, 5, 3].map(|time| event(time).line()).into();
        fs::write(&path, lines.concat()).unwrap();
        let file = File::open(&path).unwrap();
        let length = lines[0].len() as u64;
        assert_eq!(old_events(&file, 4, u64::MAX).unwrap(), 2 * length);
        assert_eq!(old_events(&file, 4, 2 * length - 1).unwrap(), length);
        assert_eq!(old_events(&file, 0, u64::MAX).unwrap(), 0);
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_commit_gets_another_parent_and_keeps_all_else() {
        let (a, b) = (Oid([0xaa; 20]), Oid([0xbb; 20]));
        let rest = "parent cc\nauthor x\n\nparent dd\n";
        let with = |parent: &str| format!("tree t\n{parent}{rest}").into_bytes();
        let (of_a, of_b) = (format!("parent {a}\n"), format!("parent {b}\n"));
        assert_eq!(
            reparented(&with(&of_a), Some(a), Some(b)),
            Some(with(&of_b))
        );
        assert_eq!(reparented(&with(&of_a), Some(a), None), Some(with("")));
        assert_eq!(reparented(&with(""), None, Some(b)), Some(with(&of_b)));
        assert_eq!(reparented(&with(&of_a), Some(b), None), None);
    }
}
