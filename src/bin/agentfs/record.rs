//! Making checkpoints on request, and the directories they are made of.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::history::{self, Pair};
use super::note::{Change, Checkpoint, Note};
use super::oid::Oid;
use super::project::{self, Project};
use super::scan::Budget;
use super::witness::Witness;
use super::writer::Writer;
use crate::exit::Failure;
use crate::size;

/// What a project may hold unless somebody insists.
const FILES_MAX: u64 = 200_000;
const BYTES_MAX: u64 = 10 << 30;
const TIME_MAX: Duration = Duration::from_secs(300);

/// Begins to record a directory: makes its store and the first checkpoint.
pub fn init(name: Option<&str>, dir: &Path, force: bool) -> Result<(Project, Checkpoint), Failure> {
    let around = Project::around(dir)?;
    if let Some(known) = around.filter(|known| Some(&known.dir) == dir.canonicalize().ok().as_ref())
    {
        return Err(
            Failure::at("recorded already", &known.dir, format!("as {}", known.name))
                .advise("see `agentfs status`"),
        );
    }
    if let (false, Some(network)) = (force, project::network(dir)) {
        let reason = format!("it is on {network}, where every checkpoint asks for every file");
        return Err(Failure::at("cannot record", dir, reason).advise("--force records it anyway"));
    }
    let project = Project::create(name, dir)?;
    let budget = match force {
        true => Budget::NONE,
        false => Budget {
            until: Some(Instant::now() + TIME_MAX),
            files: FILES_MAX,
            bytes: BYTES_MAX,
        },
    };
    let first = (|| {
        let mut writer = Writer::insist(&project)?;
        writer.scan(budget).map_err(|failure| {
            failure.advise("leave directories out with .agentfsignore, or --force")
        })?;
        let note = Note {
            message: "init".into(),
            ..Note::default()
        };
        writer.commit(note).cloned()
    })();
    match first {
        Ok(first) => Ok((project, first)),
        Err(failure) => {
            let _ = std::fs::remove_dir_all(&project.store);
            Err(failure)
        }
    }
}

/// Records the state of a project now; `None` when it is that of the newest checkpoint, unless the new
/// one is to be pinned.
pub fn checkpoint(project: &Project, note: Note) -> Result<Option<Checkpoint>, Failure> {
    checkpoint_compared(project, note, |_| ())
}

/// [`checkpoint`] that tells the trees before and after as soon as they are written.
pub fn checkpoint_compared(
    project: &Project,
    note: Note,
    compare: impl FnOnce(Pair),
) -> Result<Option<Checkpoint>, Failure> {
    let mut writer = Writer::insist(project)?;
    let witness = Witness::of(project)?;
    writer.scan(Budget::NONE)?;
    if !note.pinned && !writer.differs()? {
        writer.save()?;
        witness.scanned(None)?;
        return Ok(None);
    }
    let before = writer.tip.as_ref().map_or(Oid::EMPTY_TREE, |tip| tip.tree);
    compare((before, writer.index.root.oid));
    let made = writer.commit(witness.complete(note))?.clone();
    witness.scanned(None)?;
    drop(writer);
    super::maintenance::after(project, &made);
    Ok(Some(made))
}

/// What a checkpoint changed.
pub fn changes(project: &Project, checkpoint: &Checkpoint) -> Result<Vec<Change>, Failure> {
    let pairs = history::pairs(project, std::slice::from_ref(checkpoint))?;
    Ok(history::changes(project, &pairs, None)?
        .pop()
        .unwrap_or_default())
}

/// Takes from `--context` what has a field of its own.
pub fn apply_context(note: &mut Note, context: &str) -> Result<(), Failure> {
    let misused = |reason: &str| Failure::usage(format!("--context is no JSON object: {reason}"));
    let value = serde_json::from_str::<Value>(context).map_err(|e| misused(&e.to_string()))?;
    let Value::Object(mut members) = value else {
        return Err(misused("something else"));
    };
    let call = &mut note.call;
    for (field, names) in [
        (&mut call.agent, &["agent"][..]),
        (&mut call.session, &["session_id", "session"]),
        (&mut call.tool, &["tool", "tool_name", "action"]),
        (&mut call.id, &["tool_use_id"]),
        (&mut call.prompt, &["prompt", "user_request", "user_prompt"]),
        (&mut call.transcript, &["transcript_path"]),
    ] {
        for name in names {
            if let Some(Value::String(text)) = members.get(*name)
                && field.is_none()
            {
                *field = Some(text.clone());
                members.remove(*name);
            }
        }
    }
    if call.input.is_none() {
        call.input = members.remove("tool_input");
    }
    note.context =
        (!members.is_empty()).then(|| Value::Object(members.into_iter().collect::<Map<_, _>>()));
    Ok(())
}

/// What was left out of a scan, for people: a line for each reason.
pub fn left_out(writer: &Writer) -> Vec<String> {
    use super::scan::Reason;
    let mut lines = Vec::new();
    let mut excluded = Vec::new();
    for out in &writer.left_out {
        let path = super::render::path(&out.path);
        match &out.reason {
            Reason::Excluded => excluded.push(path),
            Reason::TooLarge(bytes) => {
                lines.push(format!("{path}: too large, {}", size::bytes(*bytes)))
            }
            Reason::Special => lines.push(format!("{path}: neither file, directory nor link")),
            Reason::OtherFileSystem => lines.push(format!("{path}: another file system")),
            Reason::Unreadable(error) => lines.push(format!("{path}: cannot be read: {error}")),
        }
    }
    if !excluded.is_empty() {
        let more = excluded.len().saturating_sub(10);
        excluded.truncate(10);
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        lines.insert(0, format!("excluded: {}{more}", excluded.join(", ")));
    }
    lines
}
