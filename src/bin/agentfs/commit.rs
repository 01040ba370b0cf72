//! A checkpoint as a git commit, there and back.
//!
//! The commit's tree is the project's files and nothing else, so that a plain `git clone` of a store
//! gives the project. Its first parent is the checkpoint before. What is known about it stands at the
//! end of the message as trailers; what is too long for a line is in blobs of a side commit, the second
//! parent, which keeps them reachable. Side commits have no parent and a fixed date: equal ones are one.

use std::io;

use serde_json::{Map, Value, json};
use sha1::{Digest, Sha1};
use sha2::Sha256;

use super::git::{Batch, IDENTITY};
use super::note::{Call, Checkpoint, Note, Trigger};
use super::objects::{Kind, Objects};
use super::oid::Oid;
use super::project::Project;
use crate::exit::Failure;

/// The names in the tree of a side commit.
const EXTRAS: &str = "extras";
const CONTEXT: &str = "context.json";
const INPUT: &str = "input.json";
const OTHERS: &str = "others.json";
const PROMPT: &str = "prompt.txt";

/// The most bytes of a long field that are kept, and of a trailer.
const LONG_MAX: usize = 256 << 10;
const SHORT_MAX: usize = 1_000;

/// A checkpoint's name: random enough to be unique over all machines that share a history.
pub fn new_id(note: &Note, tree: Oid) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let mut sha = Sha1::new();
    sha.update(tree.0);
    sha.update(note.version.to_le_bytes());
    sha.update(now.unwrap_or_default().as_nanos().to_le_bytes());
    sha.update(std::process::id().to_le_bytes());
    let name = Oid(sha.finalize().into()).to_string();
    format!("cp_{}", &name[..10])
}

/// SHA-256 of a prompt, in hexadecimal.
pub fn prompt_sum(prompt: &str) -> String {
    let sum = Sha256::digest(prompt.as_bytes());
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes the commit of a checkpoint and all it needs but its tree and extras, which are there.
pub fn write(
    objects: &Objects,
    note: Note,
    tree: Oid,
    parent: Option<&Checkpoint>,
    extras: Oid,
) -> io::Result<Checkpoint> {
    let side = write_side(objects, &note, extras)?;
    let first = parent.map(|parent| parent.commit);
    // A checkpoint without one before has the side commit as its only parent, told by its message.
    let body = [
        format!("tree {tree}\n"),
        first
            .map(|oid| format!("parent {oid}\n"))
            .unwrap_or_default(),
        format!("parent {side}\n"),
        signature(note.time.div_euclid(1000)),
        message(&note),
    ]
    .concat();
    Ok(Checkpoint {
        commit: objects.write(Kind::Commit, body.as_bytes())?,
        tree,
        parent: first,
        side: Some(side),
        note,
    })
}

fn write_side(objects: &Objects, note: &Note, extras: Oid) -> io::Result<Oid> {
    let mut rows = vec![(EXTRAS, extras)];
    let mut add = |name, text: String| -> io::Result<()> {
        rows.push((name, objects.write(Kind::Blob, text.as_bytes())?));
        Ok(())
    };
    if let Some(prompt) = &note.call.prompt {
        add(PROMPT, cut(prompt, LONG_MAX))?;
    }
    for (name, value) in [(INPUT, &note.call.input), (CONTEXT, &note.context)] {
        if let Some(value) = value {
            add(name, bounded(value))?;
        }
    }
    if !note.others.is_empty() {
        add(
            OTHERS,
            note.others
                .iter()
                .map(call_json)
                .collect::<Value>()
                .to_string(),
        )?;
    }
    rows.sort_unstable();
    let mut tree = Vec::new();
    for (name, oid) in rows {
        tree.extend_from_slice(format!("100644 {name}\0").as_bytes());
        tree.extend_from_slice(&oid.0);
    }
    let tree = objects.write(Kind::Tree, &tree)?;
    let body = format!("tree {tree}\n{}{SIDE}\n", signature(0));
    objects.write(Kind::Commit, body.as_bytes())
}

/// The trailer that names another session of a checkpoint, so that one is found without long fields.
const SHARED: &str = "Shared-With";

/// The message of a side commit.
const SIDE: &str = "about a checkpoint";

fn signature(seconds: i64) -> String {
    format!("author {IDENTITY} {seconds} +0000\ncommitter {IDENTITY} {seconds} +0000\n\n")
}

fn message(note: &Note) -> String {
    let text = cut(note.message.trim(), LONG_MAX).replace('\0', " ");
    let text = match text.is_empty() {
        true => "checkpoint".to_owned(),
        false => text,
    };
    let call = &note.call;
    let version = format!("v{}", note.version);
    let time = note.time.to_string();
    // Of a prompt that was cut only who saw the whole knows it.
    let sum = note.prompt_sum.clone();
    let sum = sum.or_else(|| call.prompt.as_deref().map(prompt_sum));
    let mut out = format!("{text}\n\n");
    let shared: Vec<&str> = note.sessions().collect();
    let shared = shared
        .iter()
        .filter(|id| Some(**id) != call.session.as_deref());
    let rows = [
        ("Checkpoint", Some(note.id.as_str())),
        ("Version", Some(&version)),
        ("Time-Ms", Some(&time)),
        ("Trigger", Some(note.trigger.name())),
        ("Agent", call.agent.as_deref()),
        ("Session", call.session.as_deref()),
        ("Tool", call.tool.as_deref()),
        ("Tool-Use", call.id.as_deref()),
        ("Prompt-SHA256", sum.as_deref()),
        ("Transcript", call.transcript.as_deref()),
        ("Restored", note.restored.as_deref()),
        ("Pinned", note.pinned.then_some("yes")),
    ];
    for (name, value) in rows.into_iter().chain(shared.map(|id| (SHARED, Some(*id)))) {
        if let Some(value) = value {
            let value: String = value
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect();
            out.push_str(&format!("{name}: {}\n", cut(value.trim(), SHORT_MAX)));
        }
    }
    out
}

/// A commit of ours, without its long fields.
pub fn read(project: &Project, objects: &Objects, oid: Oid) -> Result<Checkpoint, Failure> {
    let body = match objects.read_loose(oid) {
        Ok(body) => body,
        Err(_) => project.git().object(&oid.to_string())?,
    };
    parse(oid, &String::from_utf8_lossy(&body)).ok_or_else(|| {
        Failure::at(
            "no checkpoint",
            &project.store,
            format!("{oid} is some other object"),
        )
        .advise("see `agentfs verify`")
    })
}

/// Reads the text of a commit object.
pub fn parse(commit: Oid, text: &str) -> Option<Checkpoint> {
    let (head, message) = text.split_once("\n\n")?;
    let field = |name: &'static str| {
        head.lines()
            .filter_map(move |line| line.strip_prefix(name)?.trim().parse::<Oid>().ok())
    };
    let parents: Vec<Oid> = field("parent ").collect();
    let note = parse_message(message)?;
    Some(Checkpoint {
        commit,
        tree: field("tree ").next()?,
        parent: (parents.len() > 1).then(|| parents[0]),
        side: parents.last().copied(),
        note,
    })
}

/// Reads message and trailers; `None` when a checkpoint's are not there.
pub fn parse_message(message: &str) -> Option<Note> {
    let message = message.trim_end();
    let (text, trailers) = message.rsplit_once("\n\n")?;
    let mut note = Note {
        message: text.to_owned(),
        ..Note::default()
    };
    for line in trailers.lines() {
        let Some((name, value)) = line.split_once(": ") else {
            continue;
        };
        let text = || Some(value.to_owned());
        match name {
            "Checkpoint" => note.id = value.to_owned(),
            "Version" => note.version = value.strip_prefix('v')?.parse().ok()?,
            "Time-Ms" => note.time = value.parse().ok()?,
            "Trigger" => {
                let found = Trigger::ALL.iter().find(|(name, _)| *name == value);
                note.trigger = found.map_or(Trigger::Manual, |(_, trigger)| *trigger);
            }
            "Agent" => note.call.agent = text(),
            "Session" => note.call.session = text(),
            "Tool" => note.call.tool = text(),
            "Tool-Use" => note.call.id = text(),
            "Prompt-SHA256" => note.prompt_sum = text(),
            "Transcript" => note.call.transcript = text(),
            "Restored" => note.restored = text(),
            "Pinned" => note.pinned = true,
            SHARED => note.others.push(Call {
                session: text(),
                ..Call::default()
            }),
            _ => {}
        }
    }
    (note.id.starts_with("cp_") && note.version > 0).then_some(note)
}

/// The bytes of a checkpoint's extras; none when it has no side commit.
pub fn extras(batch: &mut Batch, checkpoint: &Checkpoint) -> Result<Vec<u8>, Failure> {
    let found = match checkpoint.side {
        Some(side) => batch.get(format!("{side}:{EXTRAS}").as_bytes())?,
        None => None,
    };
    Ok(found.unwrap_or_default())
}

/// Reads the long fields of a checkpoint.
pub fn fill(batch: &mut Batch, checkpoint: &mut Checkpoint) -> Result<(), Failure> {
    let Some(side) = checkpoint.side else {
        return Ok(());
    };
    let tree = batch.get(format!("{side}^{{tree}}").as_bytes())?;
    for (name, oid) in entries(&tree.unwrap_or_default()) {
        if name == EXTRAS.as_bytes() {
            continue;
        }
        let body = batch.blob(oid)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&body);
        let value = || serde_json::from_str::<Value>(&text).ok();
        let note = &mut checkpoint.note;
        match name.as_slice() {
            name if name == PROMPT.as_bytes() => note.call.prompt = Some(text.into_owned()),
            name if name == INPUT.as_bytes() => note.call.input = value(),
            name if name == CONTEXT.as_bytes() => note.context = value(),
            name if name == OTHERS.as_bytes() => {
                let calls = value().and_then(|value| value.as_array().cloned());
                note.others = calls.unwrap_or_default().iter().map(call_of).collect();
            }
            _ => {}
        }
    }
    Ok(())
}

/// Names and objects of a tree object's body; what is malformed ends it.
pub fn entries(mut body: &[u8]) -> Vec<(Vec<u8>, Oid)> {
    let mut rows = Vec::new();
    while let Some(end) = body.iter().position(|byte| *byte == 0) {
        let name = body[..end].splitn(2, |byte| *byte == b' ').nth(1);
        let (Some(name), Some((oid, rest))) = (name, body[end + 1..].split_first_chunk::<20>())
        else {
            break;
        };
        rows.push((name.to_vec(), Oid(*oid)));
        body = rest;
    }
    rows
}

fn call_json(call: &Call) -> Value {
    json!({
        "tool_use_id": call.id,
        "session_id": call.session,
        "agent": call.agent,
        "tool": call.tool,
        "tool_input": call.input,
        "prompt": call.prompt,
        "transcript_path": call.transcript,
    })
}

fn call_of(value: &Value) -> Call {
    let text = |name: &str| value.get(name)?.as_str().map(str::to_owned);
    Call {
        id: text("tool_use_id"),
        session: text("session_id"),
        agent: text("agent"),
        tool: text("tool"),
        input: value
            .get("tool_input")
            .filter(|input| !input.is_null())
            .cloned(),
        prompt: text("prompt"),
        transcript: text("transcript_path"),
    }
}

/// A value as JSON, its longest texts cut until it is short enough.
fn bounded(value: &Value) -> String {
    let mut most = LONG_MAX;
    loop {
        let text = shorten(value, most).to_string();
        if text.len() <= LONG_MAX || most < 16 {
            return text;
        }
        most /= 4;
    }
}

fn shorten(value: &Value, most: usize) -> Value {
    match value {
        Value::String(text) => Value::String(cut(text, most)),
        Value::Array(items) => items.iter().map(|item| shorten(item, most)).collect(),
        Value::Object(members) => {
            let members = members.iter();
            let members = members.map(|(name, value)| (name.clone(), shorten(value, most)));
            Value::Object(members.collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

/// At most this many bytes of a text, with a mark where it was cut.
pub fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let mut end = most.saturating_sub('…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_survives_its_message() {
        let mut note = Note {
            id: "cp_0123456789".into(),
            version: 35,
            time: 1_769_510_520_123,
            message: "Make it robust\n\nReally: robust".into(),
            trigger: Trigger::PostTool,
            pinned: true,
            restored: Some("cp_ffffffffff".into()),
            prompt_sum: Some("0123abcd".into()),
            ..Note::default()
        };
        note.call.session = Some("abc\nSession: forged".into());
        note.call.tool = Some("Edit".into());
        note.call.id = Some("toolu_1".into());
        note.call.prompt = Some("of which this is the beginning".into());
        let read = parse_message(&message(&note)).unwrap();
        note.call.session = Some("abc Session: forged".into());
        note.call.prompt = None;
        assert_eq!(read, note);
    }

    #[test]
    fn every_session_that_shares_a_checkpoint_is_named_once() {
        let of = |session: &str| Call {
            session: Some(session.to_owned()),
            ..Call::default()
        };
        let note = Note {
            id: "cp_0123456789".into(),
            version: 2,
            message: "m".into(),
            call: of("one"),
            others: vec![
                of("one"),
                of("two"),
                of("two"),
                of("three"),
                Call::default(),
            ],
            ..Note::default()
        };
        let read = parse_message(&message(&note)).unwrap();
        assert_eq!(read.others, [of("two"), of("three")]);
        assert_eq!(read.sessions().collect::<Vec<_>>(), ["one", "two", "three"]);
    }

    #[test]
    fn an_empty_message_has_a_subject_and_a_foreign_one_is_no_checkpoint() {
        let note = Note {
            id: "cp_0123456789".into(),
            version: 1,
            ..Note::default()
        };
        assert_eq!(
            parse_message(&message(&note)).unwrap().message,
            "checkpoint"
        );
        assert_eq!(parse_message("fix things\n\nSigned-off-by: x\n"), None);
        assert_eq!(parse_message(SIDE), None);
    }

    #[test]
    fn a_long_input_stays_json_and_bounded() {
        let value = json!({"content": "x".repeat(2 << 20), "old": "é".repeat(1 << 20)});
        let text = bounded(&value);
        assert!(text.len() <= LONG_MAX);
        let read: Value = serde_json::from_str(&text).unwrap();
        assert!(read["content"].as_str().unwrap().ends_with('…'));
    }
}
