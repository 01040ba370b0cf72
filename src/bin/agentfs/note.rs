//! What is noted about a checkpoint: who made it, with what, asked by whom.

use serde_json::Value;

use super::oid::Oid;

/// What made a checkpoint happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trigger {
    #[default]
    Manual,
    /// Found before a tool call: what happened since the last one.
    PreTool,
    PostTool,
    /// A quiet moment while the directory is watched.
    Auto,
}

impl Trigger {
    pub const ALL: [(&str, Trigger); 4] = [
        ("manual", Trigger::Manual),
        ("pre_tool", Trigger::PreTool),
        ("post_tool", Trigger::PostTool),
        ("auto", Trigger::Auto),
    ];

    pub fn name(self) -> &'static str {
        let found = Trigger::ALL.iter().find(|(_, trigger)| *trigger == self);
        found.map_or("manual", |(name, _)| name)
    }
}

/// A tool call that ran while a checkpoint's changes were made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Call {
    /// The client's `tool_use_id`.
    pub id: Option<String>,
    pub session: Option<String>,
    pub agent: Option<String>,
    pub tool: Option<String>,
    pub input: Option<Value>,
    pub prompt: Option<String>,
    pub transcript: Option<String>,
}

/// The metadata of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Note {
    /// `cp_` and hexadecimal digits; survives `gc` and `sync`.
    pub id: String,
    /// Runs through one store: 12 is `v12`.
    pub version: u64,
    /// Milliseconds since the epoch.
    pub time: i64,
    /// One line.
    pub message: String,
    pub trigger: Trigger,
    /// The call that made the changes; all of it is absent when no tool call did.
    pub call: Call,
    /// Other calls that ran meanwhile: what neither input names is shared.
    pub others: Vec<Call>,
    /// SHA-256 of the whole prompt of `call`, of which the text may be cut or not read.
    pub prompt_sum: Option<String>,
    /// Kept by `gc`.
    pub pinned: bool,
    /// The checkpoint whose state was restored.
    pub restored: Option<String>,
    /// What `--context` said beyond the fields above.
    pub context: Option<Value>,
}

impl Note {
    /// The call that made the changes and those that ran meanwhile.
    pub fn calls(&self) -> impl Iterator<Item = &Call> {
        std::iter::once(&self.call).chain(&self.others)
    }

    /// The sessions of all these calls, each once.
    pub fn sessions(&self) -> impl Iterator<Item = &str> {
        let mut known: Vec<&str> = Vec::new();
        let sessions = self.calls().filter_map(|call| call.session.as_deref());
        sessions.filter(move |id| {
            let is_new = !known.contains(id);
            known.push(id);
            is_new
        })
    }
}

/// A checkpoint as it stands in the store.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    pub commit: Oid,
    pub tree: Oid,
    /// The checkpoint before it.
    pub parent: Option<Oid>,
    /// The commit that holds the long fields.
    pub side: Option<Oid>,
    pub note: Note,
}

/// How a file changed from one checkpoint to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Relative to the project; any bytes.
    pub path: Vec<u8>,
    /// As `git diff --name-status`: `A`, `M`, `D`, `T`.
    pub status: char,
    /// Lines, absent for binary files.
    pub added: Option<u64>,
    pub removed: Option<u64>,
}
