//! Checkpoints as people and programs read them.

use serde_json::{Value, json};

use super::commit::prompt_sum;
use super::note::{Change, Checkpoint};
use crate::size;

/// One checkpoint as JSON; `parent` is the id of the one before.
pub fn json(checkpoint: &Checkpoint, parent: Option<&str>, changes: &[Change]) -> Value {
    let note = &checkpoint.note;
    let call = &note.call;
    let sum = call.prompt.as_deref().map(prompt_sum);
    let shared: Vec<Value> = note
        .others
        .iter()
        .map(|call| {
            json!({
                "session_id": call.session,
                "tool": call.tool,
                "tool_use_id": call.id,
            })
        })
        .collect();
    json!({
        "id": note.id,
        "version": note.version,
        "parent": parent,
        "timestamp": size::rfc3339(note.time),
        "message": note.message,
        "trigger": note.trigger.name(),
        "agent": call.agent,
        "session_id": call.session,
        "tool": call.tool,
        "tool_use_id": call.id,
        "tool_input": call.input,
        "prompt": call.prompt,
        "prompt_sha256": note.prompt_sum.clone().or(sum),
        "transcript_path": call.transcript,
        "shared_with": shared,
        "pinned": note.pinned,
        "restored_from": note.restored,
        "context": note.context,
        "tree": checkpoint.tree.to_string(),
        "files_changed": changes.iter().map(change_json).collect::<Vec<_>>(),
    })
}

pub fn change_json(change: &Change) -> Value {
    json!({
        "path": String::from_utf8_lossy(&change.path),
        "status": change.status.to_string(),
        "added": change.added,
        "removed": change.removed,
    })
}

/// Each checkpoint of a list as JSON, the one before named where it is known.
pub fn list_json(checkpoints: &[Checkpoint], parents: &Parents, changes: &[Vec<Change>]) -> Value {
    let rows = checkpoints.iter().zip(changes);
    rows.map(|(checkpoint, changes)| json(checkpoint, parents.of(checkpoint), changes))
        .collect()
}

/// The ids of checkpoints by their commits.
pub struct Parents(std::collections::HashMap<super::oid::Oid, String>);

impl Parents {
    pub fn among<'c>(all: impl IntoIterator<Item = &'c Checkpoint>) -> Parents {
        let ids = all.into_iter().map(|c| (c.commit, c.note.id.clone()));
        Parents(ids.collect())
    }

    pub fn of(&self, checkpoint: &Checkpoint) -> Option<&str> {
        Some(self.0.get(&checkpoint.parent?)?.as_str())
    }
}

/// How long ago, in the largest unit that keeps the number above one: `2m`.
pub fn ago(then_ms: i64, now_ms: i64) -> String {
    let seconds = (now_ms - then_ms).max(0) / 1000;
    let units = [(86_400, 'd'), (3_600, 'h'), (60, 'm')];
    let found = units.iter().find(|(length, _)| seconds >= *length);
    match found {
        Some((length, unit)) => format!("{}{unit} ago", seconds / length),
        None => format!("{seconds}s ago"),
    }
}

/// The first line of a message, without what a terminal would obey.
pub fn subject(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    line.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// `+47 -12`; for binary files that they are.
pub fn counts(change: &Change) -> String {
    match (change.added, change.removed) {
        (Some(added), Some(removed)) => format!("+{added} -{removed}"),
        _ => "binary".to_owned(),
    }
}

/// All lines of several changes together.
pub fn total(changes: &[Change]) -> String {
    let sum = |of: fn(&Change) -> Option<u64>| changes.iter().filter_map(of).sum::<u64>();
    format!("+{} -{}", sum(|c| c.added), sum(|c| c.removed))
}

/// One line for each changed file: `M  src/auth.ts  +47 -12`.
pub fn files(changes: &[Change]) -> String {
    let names: Vec<String> = changes.iter().map(|change| path(&change.path)).collect();
    let width = names
        .iter()
        .map(|name| name.chars().count())
        .max()
        .unwrap_or(0)
        .min(60);
    changes
        .iter()
        .zip(names)
        .map(|(change, name)| format!("  {}  {name:<width$}  {}\n", change.status, counts(change)))
        .collect()
}

/// One line for each changed file, its lines not counted: `M  src/auth.ts`.
pub fn names(changes: &[Change]) -> String {
    let lines = changes.iter();
    let lines = lines.map(|change| format!("  {}  {}\n", change.status, path(&change.path)));
    lines.collect()
}

/// A path for people, without what a terminal would obey.
pub fn path(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_past_read_well() {
        let ago = |seconds: i64| ago(0, seconds * 1000);
        assert_eq!(ago(5), "5s ago");
        assert_eq!(ago(119), "1m ago");
        assert_eq!(ago(7_300), "2h ago");
        assert_eq!(ago(900_000), "10d ago");
    }
}
