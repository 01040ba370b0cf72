//! Which tool calls may have made what a scan finds.
//!
//! Whoever scans under the lock and makes a checkpoint asks here, a hook or not: changes that a restore
//! or a checkpoint by hand finds while a call runs are that call's. Afterwards [`Witness::scanned`] must
//! be told, or a call that is over is blamed for what comes later.

use std::path::PathBuf;

use super::attribution::{self, paths_in};
use super::events::{Event, State};
use super::note::{Call, Note, Trigger};
use super::project::Project;
use super::writer::now_ms;
use super::{commit, render};
use crate::exit::Failure;

/// What the events tell until now.
pub struct Witness<'a> {
    project: &'a Project,
    state: State,
    path: PathBuf,
}

impl<'a> Witness<'a> {
    /// To be called with the lock, before the scan.
    ///
    /// # Errors
    /// When the events cannot be read.
    pub fn of(project: &'a Project) -> Result<Witness<'a>, Failure> {
        let log = project.own("events.jsonl");
        let path = project.own("state.json");
        let mut state = State::load(&path, &log);
        state
            .catch_up(&log)
            .map_err(|error| Failure::at("cannot read", &log, error))?;
        Ok(Witness {
            project,
            state,
            path,
        })
    }

    /// What to note about a checkpoint of what the scan found. `event` is what it is made for, if a hook
    /// told it.
    pub fn note(&self, event: Option<&Event>, trigger: Trigger) -> Note {
        let now = event.map_or_else(now_ms, |event| event.time);
        let responsible = self.state.responsible(event, now);
        let (mut call, others) = attribution::split(responsible, event);
        let prompt_sum = self.state.prompt_sum(&call);
        let message = match call == Call::default() {
            true => "changed by no tool call".to_owned(),
            false => title(self.project, &call),
        };
        if call != Call::default() && call.agent.is_none() {
            call.agent = Some("claude-code".to_owned());
        }
        Note {
            message,
            trigger,
            call,
            others,
            prompt_sum,
            ..Note::default()
        }
    }

    /// The same where something else is known already: a message, perhaps even who it was.
    pub fn complete(&self, note: Note) -> Note {
        if note.call != Call::default() {
            return note;
        }
        let found = self.note(None, note.trigger);
        Note {
            call: found.call,
            others: found.others,
            prompt_sum: found.prompt_sum,
            ..note
        }
    }

    /// What the scan found is recorded.
    ///
    /// # Errors
    /// When the state cannot be written.
    pub fn scanned(mut self, event: Option<&Event>) -> Result<(), Failure> {
        self.state.scanned(event);
        self.state
            .save(&self.path)
            .map_err(|error| Failure::at("cannot write", &self.path, error))
    }
}

/// A call in a few words: `Edit src/auth.ts`, `Bash: npm test`.
fn title(project: &Project, call: &Call) -> String {
    let tool = call.tool.as_deref().unwrap_or("tool");
    if let Some(path) = paths_in(call, &project.dir).first() {
        return format!("{tool} {}", render::path(path));
    }
    let member = |name: &str| call.input.as_ref()?.get(name)?.as_str();
    let about = member("command")
        .or(member("description"))
        .or(member("prompt"));
    match about {
        Some(about) => format!(
            "{tool}: {}",
            commit::cut(&render::subject(about.trim()), 100)
        ),
        None => tool.to_owned(),
    }
}
