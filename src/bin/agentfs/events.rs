//! What Claude Code's hooks tell, one line of JSON each, and what follows from it: which calls run.
//!
//! A hook appends its event to `events.jsonl` without a lock; whoever holds the project's lock folds the
//! lines that are not folded yet into the [`State`]. An event is bounded in size whatever a tool was
//! given, and a line that was torn by a killed writer costs that one event alone.
//!
//! A call that nobody ends must not be blamed for ever: its turn's end, its session's end, the next
//! prompt, and an hour of silence end it. A call whose own `PreToolUse` hook has not returned has not begun: the
//! changes that this hook finds are older. What is told here about a client's habits was seen with
//! 2.1; where an older client says less, by its `agent_id` or `prompt_id`, the session alone counts.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::note::Call;
use super::settings::HARMLESS;
use crate::fields::{Members, objects, text};

/// Bytes of a string in a tool's input, and of what the agent said.
const STRING: usize = 8 << 10;
/// Bytes of a tool's input, and of a prompt.
const WHOLE: usize = 64 << 10;
/// Bytes of names and paths.
const NAME: usize = 4 << 10;
/// Bytes of events that are looked at again when the state is lost.
pub const TAIL: u64 = 4 << 20;

/// Milliseconds after which a hook no longer waits for the lock, so that its tool begins.
pub const PATIENCE: i64 = 1_000;
const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// How long a session is remembered that never ended: its process was killed.
const FORGOTTEN: i64 = 7 * DAY;
/// Sessions that are remembered.
const SESSIONS: usize = 64;
/// Prompts of one session that calls may still belong to.
const PROMPTS: usize = 4;
/// Calls whose end is remembered, in case it is told twice.
const FINISHED: usize = 64;

// ---- events -------------------------------------------------------------------------------------

/// What happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    PreTool,
    PostTool,
    ToolFailure,
    Prompt,
    SessionStart,
    Stop,
    SubagentStop,
    SessionEnd,
    /// An event that says nothing about files; its session is alive.
    #[default]
    Other,
}

impl Kind {
    const NAMES: [(&str, Kind); 12] = [
        ("PreToolUse", Kind::PreTool),
        ("PostToolUse", Kind::PostTool),
        ("PostToolUseFailure", Kind::ToolFailure),
        ("UserPromptSubmit", Kind::Prompt),
        ("SessionStart", Kind::SessionStart),
        ("Stop", Kind::Stop),
        ("SubagentStop", Kind::SubagentStop),
        ("SessionEnd", Kind::SessionEnd),
        ("Other", Kind::Other),
        ("pre-tool", Kind::PreTool),
        ("post-tool", Kind::PostTool),
        ("session-end", Kind::SessionEnd),
    ];

    /// The client's name of the event.
    pub fn name(self) -> &'static str {
        let found = Kind::NAMES.iter().find(|(_, kind)| *kind == self);
        found.map_or("Other", |(name, _)| name)
    }

    fn named(name: &str) -> Kind {
        let found = Kind::NAMES.iter().find(|(known, _)| *known == name);
        found.map_or(Kind::Other, |(_, kind)| *kind)
    }
}

/// One run of a hook.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    /// Milliseconds since the epoch.
    pub time: i64,
    pub kind: Kind,
    pub session: Option<String>,
    /// The sub-agent in which it happened; absent in the main one.
    pub agent_id: Option<String>,
    pub agent_type: Option<String>,
    pub tool: Option<String>,
    pub tool_use_id: Option<String>,
    /// What the tool was given, long texts cut.
    pub input: Option<Value>,
    /// What the user asked, perhaps cut.
    pub prompt: Option<String>,
    /// SHA-256 of the whole prompt.
    pub prompt_sum: Option<String>,
    pub prompt_id: Option<String>,
    pub cwd: Option<String>,
    pub transcript: Option<String>,
    /// What the agent said last, perhaps cut.
    pub words: Option<String>,
    /// Why a session began or ended.
    pub reason: Option<String>,
}

impl Event {
    /// Reads a hook's input. The argument of `agentfs hook` counts where the input names no event: a
    /// configuration may call what runs at each `Stop` the end of the session, and it is not.
    pub fn read(stdin: &[u8], argument: Option<&str>, now: i64) -> Option<Event> {
        let members = Members::of(objects(stdin).next()?);
        let found = |name: &str| members.get(name).and_then(text);
        let string = |name: &str| found(name).map(|text| cut(text, NAME));
        let name = found("hook_event_name");
        let prompt = found("prompt");
        Some(Event {
            time: now,
            kind: Kind::named(name.as_deref().or(argument)?),
            session: string("session_id"),
            agent_id: string("agent_id"),
            agent_type: string("agent_type"),
            tool: string("tool_name"),
            tool_use_id: string("tool_use_id"),
            input: members.get("tool_input").map(bounded),
            prompt_sum: prompt.as_deref().map(sum),
            prompt: prompt.map(|prompt| cut(prompt, WHOLE)),
            prompt_id: string("prompt_id"),
            cwd: string("cwd"),
            transcript: string("transcript_path"),
            words: found("last_assistant_message").map(|words| cut(words, STRING)),
            reason: string("source").or_else(|| string("reason")),
        })
    }

    /// A line of `events.jsonl`, with its newline.
    pub fn line(&self) -> Vec<u8> {
        let mut line = Map::new();
        line.insert("time".to_owned(), self.time.into());
        line.insert("event".to_owned(), self.kind.name().into());
        for (name, value) in self.texts() {
            if let Some(value) = value {
                line.insert(name.to_owned(), value.as_str().into());
            }
        }
        if let Some(input) = &self.input {
            line.insert("tool_input".to_owned(), input.clone());
        }
        (Value::Object(line).to_string() + "\n").into_bytes()
    }

    /// What [`Event::line`] wrote; `None` for anything else.
    pub fn from_line(line: &[u8]) -> Option<Event> {
        let mut value: Value = serde_json::from_slice(line).ok()?;
        let mut event = Event {
            time: value.get("time")?.as_i64()?,
            kind: Kind::named(value.get("event")?.as_str()?),
            input: value.get_mut("tool_input").map(Value::take),
            ..Event::default()
        };
        for (name, field) in event.texts_mut() {
            *field = string_in(&value, name);
        }
        Some(event)
    }

    fn texts(&self) -> [(&'static str, &Option<String>); 12] {
        [
            ("session_id", &self.session),
            ("agent_id", &self.agent_id),
            ("agent_type", &self.agent_type),
            ("tool_name", &self.tool),
            ("tool_use_id", &self.tool_use_id),
            ("prompt", &self.prompt),
            ("prompt_sha256", &self.prompt_sum),
            ("prompt_id", &self.prompt_id),
            ("cwd", &self.cwd),
            ("transcript_path", &self.transcript),
            ("last_assistant_message", &self.words),
            ("reason", &self.reason),
        ]
    }

    fn texts_mut(&mut self) -> [(&'static str, &mut Option<String>); 12] {
        [
            ("session_id", &mut self.session),
            ("agent_id", &mut self.agent_id),
            ("agent_type", &mut self.agent_type),
            ("tool_name", &mut self.tool),
            ("tool_use_id", &mut self.tool_use_id),
            ("prompt", &mut self.prompt),
            ("prompt_sha256", &mut self.prompt_sum),
            ("prompt_id", &mut self.prompt_id),
            ("cwd", &mut self.cwd),
            ("transcript_path", &mut self.transcript),
            ("last_assistant_message", &mut self.words),
            ("reason", &mut self.reason),
        ]
    }

    /// Whether the client itself speaks in a user's place, about a task in the background.
    fn is_notice(&self) -> bool {
        let prompt = self.prompt.as_deref().unwrap_or_default();
        self.kind == Kind::Prompt && prompt.starts_with("<task-notification>")
    }

    /// Whether it is about a tool that may write.
    fn of_writer(&self) -> bool {
        let tool = self.tool.as_deref();
        tool.is_some_and(|tool| !HARMLESS.contains(&tool))
    }
}

/// Appends an event. Needs no lock: the line is one write at the file's end.
pub fn append(path: &Path, event: &Event) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    let mut line = event.line();
    let (size, mut last) = (file.metadata()?.len(), [b'\n']);
    if size > 0 {
        file.read_exact_at(&mut last, size - 1)?;
    }
    if last != *b"\n" {
        line.insert(0, b'\n');
    }
    match file.write(&line)? {
        written if written == line.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

fn sum(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The text's beginning and how much is missing, if it is longer than `most` bytes.
fn cut(text: String, most: usize) -> String {
    if text.len() <= most {
        return text;
    }
    let end = (0..=most)
        .rev()
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(0);
    format!("{}… [{} bytes cut]", &text[..end], text.len() - end)
}

/// A tool's input that is small enough to keep, in one of ever shorter forms.
fn bounded(input: &[u8]) -> Value {
    let mark = || Value::from(format!("[{} bytes cut]", input.len()));
    let Ok(whole) = serde_json::from_str::<Value>(&mended(input)) else {
        return mark();
    };
    let short = |value: &Value| value.to_string().len() <= WHOLE;
    let forms = [
        |value| shortened(value, STRING),
        |value| shortened(value, STRING / 16),
        outline,
    ];
    let mut forms = forms.into_iter().map(|form| form(whole.clone()));
    forms.find(short).unwrap_or_else(mark)
}

/// With every text cut; but a path is of no use without its end.
fn shortened(value: Value, most: usize) -> Value {
    match value {
        Value::String(text) => cut(text, most).into(),
        Value::Array(items) => items
            .into_iter()
            .map(|item| shortened(item, most))
            .collect(),
        Value::Object(members) => {
            let member = |(name, value): (String, Value)| {
                let most = if name.ends_with("path") { STRING } else { most };
                (name, shortened(value, most))
            };
            Value::Object(members.into_iter().map(member).collect())
        }
        scalar => scalar,
    }
}

/// The first few short members alone.
fn outline(value: Value) -> Value {
    const MEMBERS: usize = 16;
    let Value::Object(members) = value else {
        return "[cut]".into();
    };
    let members = members.into_iter().filter(|(name, _)| name.len() < 256);
    let short = members.take(MEMBERS).map(|(name, value)| match value {
        Value::Array(_) | Value::Object(_) => (name, "[cut]".into()),
        Value::String(text) if !name.ends_with("path") => (name, cut(text, STRING / 16).into()),
        scalar => (name, shortened(scalar, STRING)),
    });
    Value::Object(short.collect())
}

/// JSON whose texts are Unicode: JavaScript cuts strings between the halves of a surrogate pair.
fn mended(json: &[u8]) -> String {
    let text = String::from_utf8_lossy(json);
    let unit = |at: usize| {
        let escape = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(escape, 16).ok()
    };
    let (mut out, mut at, mut from) = (String::new(), 0, 0);
    while let Some(found) = text[at..].find('\\') {
        at += found;
        let (high, low) = (unit(at), unit(at + 6));
        at += match (high, low) {
            (Some(0xd800..0xdc00), Some(0xdc00..0xe000)) => 12,
            (Some(0xd800..0xe000), _) => {
                out.push_str(&text[from..at]);
                out.push_str("\\ufffd");
                from = at + 6;
                6
            }
            // The next character is one byte in JSON, whatever it is.
            _ => 2.min(text.len() - at),
        };
        while !text.is_char_boundary(at) {
            at += 1;
        }
    }
    out + &text[from..]
}

fn string_in(value: &Value, name: &str) -> Option<String> {
    value.get(name)?.as_str().map(str::to_owned)
}

// ---- state --------------------------------------------------------------------------------------

/// What is known after the events so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Bytes of `events.jsonl` that are folded in.
    pub offset: u64,
    sessions: Vec<Session>,
    /// Those that run, and those that ran at some moment since the last scan; the oldest first.
    running: Vec<Running>,
    finished: Vec<String>,
    /// What was known is lost, and the events that follow were taken in before.
    lost: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Session {
    id: String,
    prompts: Vec<Prompt>,
    transcript: Option<String>,
    /// The time of its last event.
    last: i64,
    ended: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Prompt {
    id: Option<String>,
    text: Option<String>,
    sum: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Running {
    call: Call,
    agent_id: Option<String>,
    prompt_sum: Option<String>,
    opened: i64,
    /// Its own hook has returned.
    begun: bool,
    over: bool,
}

impl State {
    /// The state in `path`, or if that is lost or of another file of events, an empty one shortly before
    /// the end of the `events`.
    pub fn load(path: &Path, events: &Path) -> State {
        let size = fs::metadata(events).map_or(0, |meta| meta.len());
        let read = fs::read(path).ok();
        let state = read.and_then(|bytes| State::from_json(&serde_json::from_slice(&bytes).ok()?));
        state.filter(|state| state.offset <= size).unwrap_or(State {
            offset: size.saturating_sub(TAIL),
            lost: size > 0,
            ..State::default()
        })
    }

    /// Writes the state, so that after a kill either this or the one before is there. What a crash of the machine
    /// destroys is made again from the events.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let new = path.with_extension("json.new");
        let saved = File::create(&new)
            .and_then(|mut file| file.write_all(self.to_json().to_string().as_bytes()))
            .and_then(|()| fs::rename(&new, path));
        saved.inspect_err(|_| {
            let _ = fs::remove_file(&new);
        })
    }

    /// Folds the whole lines that follow the offset. Of those that were lost each but the last counts as
    /// scanned after: a scan would else find all the calls of days responsible.
    pub fn catch_up(&mut self, events: &Path) -> io::Result<()> {
        let mut file = match File::open(events) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        file.seek(SeekFrom::Start(self.offset))?;
        let (mut lines, mut line) = (BufReader::new(file), Vec::new());
        let mut before: Option<Event> = None;
        loop {
            line.clear();
            let read = lines.read_until(b'\n', &mut line)?;
            if line.last() != Some(&b'\n') {
                self.lost = false;
                return Ok(());
            }
            self.offset += read as u64;
            let Some(event) = Event::from_line(&line) else {
                continue;
            };
            if self.lost && before.is_some() {
                self.scanned(before.as_ref());
            }
            self.fold(&event);
            before = Some(event);
        }
    }

    /// Takes in what happened.
    pub fn fold(&mut self, event: &Event) {
        let goes_on = self.goes_on(event);
        self.note_session(event);
        let session = event.session.as_deref();
        match event.kind {
            Kind::Prompt if goes_on => {}
            Kind::PreTool => self.open(event),
            Kind::PostTool | Kind::ToolFailure => self.close(event),
            // A turn that was interrupted ends without `Stop`.
            Kind::Stop | Kind::Prompt => {
                self.end(|call| {
                    call.call.session.as_deref() == session && call.agent_id == event.agent_id
                });
            }
            Kind::SubagentStop if event.agent_id.is_some() => {
                self.end(|call| {
                    call.call.session.as_deref() == session && call.agent_id == event.agent_id
                });
            }
            // Only a session whose process is gone begins once more, but for compaction.
            Kind::SessionStart if event.reason.as_deref() == Some("compact") => {}
            Kind::SessionStart | Kind::SessionEnd => {
                self.end(|call| call.call.session.as_deref() == session);
            }
            Kind::SubagentStop | Kind::Other => {}
        }
        self.expire(event.time);
    }

    /// The calls that may have made the changes that a scan finds now: all that ran since the last.
    /// `event` is what the scan is for.
    pub fn responsible(&self, event: Option<&Event>, now: i64) -> Vec<Call> {
        let own = event.filter(|event| event.kind == Kind::PreTool);
        let ran = |call: &&Running| {
            let waited = now.saturating_sub(call.opened) >= PATIENCE;
            let begun = call.over || call.begun || waited;
            begun && (call.over || call.begun || !own.is_some_and(|event| call.is_of(event)))
        };
        self.running
            .iter()
            .filter(ran)
            .map(|running| running.call.clone())
            .collect()
    }

    /// To be told after each scan: what is over has been accounted for, and the call that `event`
    /// announces begins.
    pub fn scanned(&mut self, event: Option<&Event>) {
        self.running.retain(|call| !call.over);
        let Some(event) = event.filter(|event| event.kind == Kind::PreTool) else {
            return;
        };
        let own = self
            .running
            .iter_mut()
            .find(|call| !call.begun && call.is_of(event));
        if let Some(own) = own {
            own.begun = true;
        }
    }

    /// SHA-256 of the whole prompt behind a call that [`State::responsible`] named.
    pub fn prompt_sum(&self, call: &Call) -> Option<String> {
        let found = self.running.iter().find(|running| running.call == *call);
        found?.prompt_sum.clone()
    }

    fn open(&mut self, event: &Event) {
        let known = |id: &String| {
            let mut calls = self.running.iter();
            self.finished.contains(id) || calls.any(|call| call.call.id.as_ref() == Some(id))
        };
        if !event.of_writer() || event.tool_use_id.as_ref().is_some_and(known) {
            return;
        }
        let running = self.running_of(event);
        self.running.push(running);
    }

    fn close(&mut self, event: &Event) {
        if !event.of_writer() {
            return;
        }
        if let Some(id) = &event.tool_use_id {
            if self.finished.contains(id) {
                return;
            }
            self.finished.push(id.clone());
            let many = self.finished.len().saturating_sub(FINISHED);
            self.finished.drain(..many);
        }
        let of_event =
            |call: &&mut Running| call.is_of(event) && (event.tool_use_id.is_some() || !call.over);
        match self.running.iter_mut().find(of_event) {
            Some(running) => running.over = true,
            // Its beginning was never told, or it was thought to be over.
            None => {
                let running = Running {
                    over: true,
                    ..self.running_of(event)
                };
                self.running.push(running);
            }
        }
    }

    fn end(&mut self, which: impl Fn(&Running) -> bool) {
        for call in self.running.iter_mut().filter(|call| which(call)) {
            call.over = true;
        }
    }

    fn running_of(&self, event: &Event) -> Running {
        let session = self.session(event.session.as_deref());
        let prompt = self.prompt_of(event);
        Running {
            call: Call {
                id: event.tool_use_id.clone(),
                session: event.session.clone(),
                agent: Some(
                    event
                        .agent_type
                        .clone()
                        .unwrap_or_else(|| "claude-code".to_owned()),
                ),
                tool: event.tool.clone(),
                input: event.input.clone(),
                prompt: prompt.and_then(|prompt| prompt.text.clone()),
                transcript: session.and_then(|session| session.transcript.clone()),
            },
            agent_id: event.agent_id.clone(),
            prompt_sum: prompt.and_then(|prompt| prompt.sum.clone()),
            opened: event.time,
            begun: false,
            over: false,
        }
    }

    /// The prompt of that id, else the session's last one, unless that is known to be another.
    fn prompt_of(&self, event: &Event) -> Option<&Prompt> {
        let all = self.sessions.iter().flat_map(|session| &session.prompts);
        let mut same =
            all.filter(|prompt| event.prompt_id.is_some() && prompt.id == event.prompt_id);
        same.next().or_else(|| {
            let last = self.session(event.session.as_deref())?.prompts.last()?;
            (event.prompt_id.is_none() || last.id.is_none()).then_some(last)
        })
    }

    fn session(&self, id: Option<&str>) -> Option<&Session> {
        self.sessions
            .iter()
            .find(|session| Some(session.id.as_str()) == id)
    }

    /// Whether a prompt begins no turn: the client says in the middle of one that a background task
    /// is done, or hands on what was typed meanwhile.
    fn goes_on(&self, event: &Event) -> bool {
        let session = self.session(event.session.as_deref());
        event.is_notice() || session.is_some_and(|session| session.knows(&event.prompt_id))
    }

    fn note_session(&mut self, event: &Event) {
        let Some(id) = &event.session else {
            return;
        };
        let at = self.sessions.iter().position(|session| session.id == *id);
        let at = at.unwrap_or_else(|| {
            self.sessions.push(Session {
                id: id.clone(),
                ..Session::default()
            });
            self.sessions.len() - 1
        });
        let session = &mut self.sessions[at];
        session.last = session.last.max(event.time);
        session.ended = event.kind == Kind::SessionEnd;
        if event.transcript.is_some() {
            session.transcript.clone_from(&event.transcript);
        }
        if session.ended {
            session.prompts.clear();
        }
        if event.kind == Kind::Prompt && !session.knows(&event.prompt_id) {
            let asked = Prompt {
                id: event.prompt_id.clone(),
                text: event.prompt.clone(),
                sum: event.prompt_sum.clone(),
            };
            // A notice is no user's: it leads on with what was asked before.
            let before = session.prompts.last().filter(|_| event.is_notice());
            let asked = before.map_or(asked.clone(), |before| Prompt {
                id: asked.id,
                ..before.clone()
            });
            session.prompts.push(asked);
            let many = session.prompts.len().saturating_sub(PROMPTS);
            session.prompts.drain(..many);
        }
    }

    /// Ends calls that nobody will end, and forgets sessions.
    fn expire(&mut self, now: i64) {
        let sessions = &self.sessions;
        for call in self.running.iter_mut() {
            let of = |session: &&Session| call.call.session.as_ref() == Some(&session.id);
            let last = sessions
                .iter()
                .find(of)
                .map_or(call.opened, |session| session.last);
            call.over |= now.saturating_sub(last.max(call.opened)) > HOUR;
        }
        self.sessions.retain(|session| {
            let kept = if session.ended { DAY } else { FORGOTTEN };
            now.saturating_sub(session.last) <= kept
        });
        self.sessions.sort_by_key(|session| session.last);
        let many = self.sessions.len().saturating_sub(SESSIONS);
        self.sessions.drain(..many);
    }

    pub fn to_json(&self) -> Value {
        json!({
            "offset": self.offset,
            "sessions": self.sessions.iter().map(Session::to_json).collect::<Value>(),
            "running": self.running.iter().map(Running::to_json).collect::<Value>(),
            "finished": self.finished,
        })
    }

    /// `None` for what [`State::to_json`] did not write.
    pub fn from_json(value: &Value) -> Option<State> {
        let list = |name: &str| value.get(name)?.as_array();
        Some(State {
            offset: value.get("offset")?.as_u64()?,
            sessions: list("sessions")?
                .iter()
                .map(Session::from_json)
                .collect::<Option<_>>()?,
            running: list("running")?
                .iter()
                .map(Running::from_json)
                .collect::<Option<_>>()?,
            finished: list("finished")?
                .iter()
                .map(|id| Some(id.as_str()?.to_owned()))
                .collect::<Option<_>>()?,
            lost: false,
        })
    }
}

impl Session {
    /// Whether a prompt of this id was submitted; old clients give none.
    fn knows(&self, prompt: &Option<String>) -> bool {
        prompt.is_some() && self.prompts.iter().any(|known| known.id == *prompt)
    }

    fn to_json(&self) -> Value {
        let prompt =
            |prompt: &Prompt| json!({"id": prompt.id, "text": prompt.text, "sha256": prompt.sum});
        json!({
            "id": self.id,
            "prompts": self.prompts.iter().map(prompt).collect::<Value>(),
            "transcript_path": self.transcript,
            "last": self.last,
            "ended": self.ended,
        })
    }

    fn from_json(value: &Value) -> Option<Session> {
        let prompt = |value: &Value| Prompt {
            id: string_in(value, "id"),
            text: string_in(value, "text"),
            sum: string_in(value, "sha256"),
        };
        Some(Session {
            id: string_in(value, "id")?,
            prompts: value
                .get("prompts")?
                .as_array()?
                .iter()
                .map(prompt)
                .collect(),
            transcript: string_in(value, "transcript_path"),
            last: value.get("last")?.as_i64()?,
            ended: value.get("ended")?.as_bool()?,
        })
    }
}

impl Running {
    /// Whether an event is about this call; without an id, tool and session decide.
    fn is_of(&self, event: &Event) -> bool {
        match (&self.call.id, &event.tool_use_id) {
            (Some(id), Some(other)) => id == other,
            (None, None) => {
                self.call.session == event.session
                    && self.call.tool == event.tool
                    && self.agent_id == event.agent_id
            }
            _ => false,
        }
    }

    fn to_json(&self) -> Value {
        json!({
            "tool_use_id": self.call.id,
            "session_id": self.call.session,
            "agent": self.call.agent,
            "tool_name": self.call.tool,
            "tool_input": self.call.input,
            "prompt": self.call.prompt,
            "transcript_path": self.call.transcript,
            "agent_id": self.agent_id,
            "prompt_sha256": self.prompt_sum,
            "opened": self.opened,
            "begun": self.begun,
            "over": self.over,
        })
    }

    fn from_json(value: &Value) -> Option<Running> {
        Some(Running {
            call: Call {
                id: string_in(value, "tool_use_id"),
                session: string_in(value, "session_id"),
                agent: string_in(value, "agent"),
                tool: string_in(value, "tool_name"),
                input: value
                    .get("tool_input")
                    .filter(|input| !input.is_null())
                    .cloned(),
                prompt: string_in(value, "prompt"),
                transcript: string_in(value, "transcript_path"),
            },
            agent_id: string_in(value, "agent_id"),
            prompt_sum: string_in(value, "prompt_sha256"),
            opened: value.get("opened")?.as_i64()?,
            begun: value.get("begun")?.as_bool()?,
            over: value.get("over")?.as_bool()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::path::PathBuf;
    use std::thread;

    use super::*;

    fn sample(name: &str) -> Vec<u8> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agentfs/hooks");
        fs::read(dir.join(name)).unwrap()
    }

    fn event(kind: Kind, session: &str, time: i64) -> Event {
        Event {
            time,
            kind,
            session: Some(session.to_owned()),
            ..Event::default()
        }
    }

    fn tool(kind: Kind, session: &str, id: &str, time: i64) -> Event {
        Event {
            tool: Some("Bash".to_owned()),
            tool_use_id: Some(id.to_owned()),
            ..event(kind, session, time)
        }
    }

    fn in_agent(agent: &str, event: Event) -> Event {
        Event {
            agent_id: Some(agent.to_owned()),
            ..event
        }
    }

    /// What a hook does: fold, see who is responsible, scan.
    fn hook(state: &mut State, event: &Event) -> Vec<String> {
        state.fold(event);
        let names = named(state, event);
        state.scanned(Some(event));
        names
    }

    fn named(state: &State, event: &Event) -> Vec<String> {
        let calls = state.responsible(Some(event), event.time);
        calls
            .into_iter()
            .map(|call| call.id.unwrap_or_default())
            .collect()
    }

    fn scratch(name: &str) -> PathBuf {
        let dir = env::temp_dir().join(format!("agentfs-events-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn every_real_input_is_read_and_its_line_says_the_same() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agentfs/hooks");
        let mut read = 0;
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let input = fs::read(&path).unwrap();
            let value: Value = serde_json::from_slice(&input).unwrap();
            let event = Event::read(&input, None, 7).unwrap();
            let name = value["hook_event_name"].as_str().unwrap();
            assert_eq!(event.kind, Kind::named(name));
            let known = path.file_name().unwrap().to_str().unwrap();
            let other = [
                "Instr",
                "Mess",
                "Notif",
                "Permi",
                "PostC",
                "PostToolB",
                "PreC",
                "SubagentStart",
            ];
            let other = other.iter().any(|start| known.starts_with(start));
            assert_eq!(event.kind == Kind::Other, other, "{known}");
            for (field, name) in [
                (&event.session, "session_id"),
                (&event.agent_id, "agent_id"),
                (&event.tool, "tool_name"),
                (&event.tool_use_id, "tool_use_id"),
                (&event.prompt, "prompt"),
                (&event.prompt_id, "prompt_id"),
                (&event.cwd, "cwd"),
                (&event.transcript, "transcript_path"),
                (&event.words, "last_assistant_message"),
            ] {
                assert_eq!(field.as_deref(), value[name].as_str(), "{known}: {name}");
            }
            assert_eq!(event.input.as_ref(), value.get("tool_input"));
            let line = event.line();
            assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
            assert_eq!(Event::from_line(&line), Some(event));
            read += 1;
        }
        assert_eq!(read, 31);
    }

    #[test]
    fn the_argument_counts_where_the_input_names_no_event() {
        let short =
            br#"{"session_id": "s", "tool_name": "Edit", "tool_input": {"file_path": "/p/f"}}"#;
        let kind = |input: &[u8], argument| Event::read(input, argument, 0).map(|event| event.kind);
        assert_eq!(kind(short, Some("pre-tool")), Some(Kind::PreTool));
        assert_eq!(kind(short, Some("post-tool")), Some(Kind::PostTool));
        assert_eq!(
            kind(short, Some("PostToolUseFailure")),
            Some(Kind::ToolFailure)
        );
        assert_eq!(kind(short, None), None);
        assert_eq!(
            kind(&sample("Stop.json"), Some("session-end")),
            Some(Kind::Stop)
        );
        for broken in [&b""[..], b"[]", b"null", b"{", b"\xff"] {
            assert_eq!(kind(broken, None), None);
        }
    }

    #[test]
    fn an_input_is_bounded_and_keeps_its_path() {
        let texts = [
            "x".repeat(1 << 20),
            "\u{1}".repeat(1 << 20),
            "\u{1f600}".repeat(100_000),
        ];
        let path = "/p/".to_owned() + &"d".repeat(3_000);
        for text in &texts {
            let edits: Vec<Value> = (0..2_000)
                .map(|_| json!({"old_string": text[..400], "n": 1}))
                .collect();
            for input in [
                json!({"file_path": path, "content": text}),
                json!({"file_path": path, "edits": edits}),
            ] {
                let stdin =
                    json!({"hook_event_name": "PreToolUse", "prompt": text, "tool_input": input});
                let event = Event::read(stdin.to_string().as_bytes(), None, 0).unwrap();
                let kept = event.input.as_ref().unwrap();
                assert!(kept.to_string().len() <= WHOLE);
                assert_eq!(kept["file_path"], path.as_str());
                assert!(event.prompt.as_ref().unwrap().len() <= WHOLE + 32);
                assert_eq!(event.prompt_sum, Some(sum(text)));
                assert_eq!(Event::from_line(&event.line()), Some(event));
            }
        }
        let deep = format!(
            r#"{{"hook_event_name":"Stop","tool_input":{}1{}}}"#,
            "[".repeat(500),
            "]".repeat(500)
        );
        assert!(
            Event::read(deep.as_bytes(), None, 0)
                .unwrap()
                .input
                .unwrap()
                .is_string()
        );
    }

    #[test]
    fn half_a_surrogate_pair_costs_no_event() {
        let stdin = br#"{"hook_event_name":"PreToolUse","tool_input":{"file_path":"/f","content":"\ud83d \ude00 \ud83d\ude00 \\ud83d \\\ud83d\u0041"}}"#;
        let input = Event::read(stdin, None, 0).unwrap().input.unwrap();
        assert_eq!(input["file_path"], "/f");
        assert_eq!(
            input["content"],
            "\u{fffd} \u{fffd} \u{1f600} \\ud83d \\\u{fffd}A"
        );
    }

    #[test]
    fn parallel_hooks_lose_no_event_and_a_torn_line_only_itself() {
        let dir = scratch("append");
        let (events, path) = (dir.join("events.jsonl"), dir.join("state.json"));
        fs::write(&events, b"{\"time\":1,\"eve").unwrap();
        thread::scope(|scope| {
            for hook in 0..10 {
                let events = &events;
                scope.spawn(move || {
                    for call in 0..50 {
                        let id = format!("{hook}.{call}");
                        append(events, &tool(Kind::PreTool, "s", &id, 1)).unwrap();
                    }
                });
            }
        });
        let mut state = State::load(&path, &events);
        state.catch_up(&events).unwrap();
        assert_eq!(state.running.len(), 500);
        assert_eq!(state.offset, fs::metadata(&events).unwrap().len());
        state.save(&path).unwrap();
        assert_eq!(State::load(&path, &events), state);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_lost_state_is_made_again_from_the_last_events() {
        let dir = scratch("lost");
        let (events, path) = (dir.join("events.jsonl"), dir.join("state.json"));
        let filler = Event {
            words: Some("w".repeat(8_000)),
            ..event(Kind::Other, "s", 1)
        };
        let lines: Vec<u8> = (0..1_000).flat_map(|_| filler.line()).collect();
        fs::write(&events, lines).unwrap();
        for (kind, id) in [
            (Kind::PreTool, "over"),
            (Kind::PostTool, "over"),
            (Kind::PreTool, "open"),
            (Kind::PreTool, "last"),
            (Kind::PostTool, "last"),
        ] {
            append(&events, &tool(kind, "s", id, 2)).unwrap();
        }
        let size = fs::metadata(&events).unwrap().len();
        for damaged in [
            "",
            "{}",
            "nonsense",
            "{\"offset\":99999999999,\"sessions\":[],\"running\":[],\"finished\":[]}",
        ] {
            fs::write(&path, damaged).unwrap();
            let mut state = State::load(&path, &events);
            assert_eq!(state.offset, size - TAIL);
            state.catch_up(&events).unwrap();
            let calls = state.responsible(None, 2);
            let ids: Vec<_> = calls.iter().flat_map(|call| &call.id).collect();
            assert_eq!(ids, ["open", "last"]);
        }
        assert_eq!(State::load(&path, &dir.join("none")), State::default());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_call_is_responsible_from_its_begin_to_the_scan_after_its_end() {
        let mut state = State::default();
        assert!(hook(&mut state, &tool(Kind::PreTool, "s", "a", 0)).is_empty());
        assert_eq!(hook(&mut state, &tool(Kind::PostTool, "s", "a", 50)), ["a"]);
        assert!(hook(&mut state, &event(Kind::Stop, "s", 60)).is_empty());
    }

    #[test]
    fn a_failed_call_is_responsible_like_any_other() {
        let mut state = State::default();
        hook(&mut state, &tool(Kind::PreTool, "s", "a", 0));
        assert_eq!(
            hook(&mut state, &tool(Kind::ToolFailure, "s", "a", 50)),
            ["a"]
        );
        assert!(state.running.is_empty());
    }

    #[test]
    fn two_sessions_that_overlap_are_both_responsible() {
        let mut state = State::default();
        hook(&mut state, &tool(Kind::PreTool, "s", "a", 0));
        assert_eq!(hook(&mut state, &tool(Kind::PreTool, "t", "b", 10)), ["a"]);
        assert_eq!(
            hook(&mut state, &tool(Kind::PostTool, "s", "a", 20)),
            ["a", "b"]
        );
        assert_eq!(hook(&mut state, &tool(Kind::PostTool, "t", "b", 30)), ["b"]);
        assert!(hook(&mut state, &event(Kind::Stop, "t", 40)).is_empty());
    }

    #[test]
    fn ten_parallel_calls_are_not_blamed_before_their_own_hook_has_returned() {
        let mut state = State::default();
        let ids: Vec<String> = (0..10).map(|id| id.to_string()).collect();
        let begin: Vec<Event> = ids
            .iter()
            .map(|id| tool(Kind::PreTool, "s", id, 0))
            .collect();
        begin.iter().for_each(|event| state.fold(event));
        for (begun, event) in begin.iter().enumerate() {
            assert_eq!(
                named(&state, event),
                ids[..begun],
                "an editor's change is nobody's"
            );
            state.scanned(Some(event));
        }
        for (over, id) in ids.iter().enumerate() {
            assert_eq!(
                hook(&mut state, &tool(Kind::PostTool, "s", id, 100)),
                ids[over..]
            );
        }
        assert!(state.running.is_empty());
    }

    #[test]
    fn a_call_whose_hook_gave_up_begins_without_it() {
        let mut state = State::default();
        state.fold(&tool(Kind::PreTool, "s", "a", 0));
        assert!(state.responsible(None, PATIENCE - 1).is_empty());
        assert_eq!(state.responsible(None, PATIENCE).len(), 1);
    }

    #[test]
    fn the_end_of_a_turn_or_session_ends_its_calls_alone() {
        for (ending, left) in [
            (event(Kind::Stop, "s", 9), vec!["bg", "other"]),
            (event(Kind::Prompt, "s", 9), vec!["bg", "other"]),
            (event(Kind::SessionEnd, "s", 9), vec!["other"]),
            (event(Kind::SessionStart, "s", 9), vec!["other"]),
            (
                in_agent("x", event(Kind::SubagentStop, "s", 9)),
                vec!["main", "other"],
            ),
            (
                event(Kind::SubagentStop, "s", 9),
                vec!["main", "bg", "other"],
            ),
            (
                Event {
                    reason: Some("compact".to_owned()),
                    ..event(Kind::SessionStart, "s", 9)
                },
                vec!["main", "bg", "other"],
            ),
        ] {
            let mut state = State::default();
            hook(&mut state, &tool(Kind::PreTool, "s", "main", 0));
            hook(
                &mut state,
                &in_agent("x", tool(Kind::PreTool, "s", "bg", 1)),
            );
            hook(&mut state, &tool(Kind::PreTool, "t", "other", 2));
            assert_eq!(
                hook(&mut state, &ending),
                ["main", "bg", "other"],
                "they ran until now"
            );
            assert_eq!(named(&state, &ending), left, "{ending:?}");
        }
    }

    #[test]
    fn an_end_that_is_told_twice_or_alone_counts_once() {
        let mut state = State::default();
        assert_eq!(hook(&mut state, &tool(Kind::PostTool, "s", "a", 1)), ["a"]);
        assert!(hook(&mut state, &tool(Kind::PostTool, "s", "a", 2)).is_empty());
        assert!(hook(&mut state, &tool(Kind::PreTool, "s", "a", 3)).is_empty());
        assert!(state.running.is_empty());
        hook(&mut state, &tool(Kind::PreTool, "s", "b", 4));
        hook(&mut state, &event(Kind::Prompt, "s", 5));
        assert_eq!(
            hook(&mut state, &tool(Kind::PostTool, "s", "b", 6)),
            ["b"],
            "it went on"
        );
    }

    #[test]
    fn a_crashed_session_s_calls_end_after_an_hour_of_silence() {
        let mut state = State::default();
        hook(&mut state, &tool(Kind::PreTool, "crashed", "a", 0));
        hook(&mut state, &tool(Kind::PreTool, "slow", "b", 0));
        hook(&mut state, &event(Kind::Other, "slow", HOUR));
        assert_eq!(
            hook(&mut state, &event(Kind::Other, "new", HOUR + 1)),
            ["a", "b"]
        );
        assert_eq!(
            hook(&mut state, &event(Kind::Other, "new", HOUR + 2)),
            ["b"]
        );
    }

    #[test]
    fn calls_without_an_id_are_paired_by_session_and_tool() {
        let nameless = |kind, session, time| Event {
            tool_use_id: None,
            ..tool(kind, session, "", time)
        };
        let mut state = State::default();
        hook(&mut state, &nameless(Kind::PreTool, "s", 0));
        hook(&mut state, &nameless(Kind::PreTool, "t", 1));
        assert_eq!(hook(&mut state, &nameless(Kind::PostTool, "t", 2)).len(), 2);
        assert_eq!(hook(&mut state, &nameless(Kind::PostTool, "s", 3)).len(), 1);
        assert!(state.running.is_empty());
    }

    #[test]
    fn tools_that_write_nothing_are_never_responsible() {
        let mut state = State::default();
        for name in ["PreToolUse.Agent.json", "PreToolUse.Read.json"] {
            hook(&mut state, &Event::read(&sample(name), None, 0).unwrap());
        }
        let inside = Event::read(&sample("PreToolUse.Bash.in-subagent.json"), None, 1).unwrap();
        hook(&mut state, &inside);
        let after = Event::read(&sample("PostToolUse.Bash.in-subagent.json"), None, 2).unwrap();
        state.fold(&after);
        let calls = state.responsible(Some(&after), 2);
        assert_eq!(calls.len(), 1);
        assert_eq!(calls[0].agent.as_deref(), Some("general-purpose"));
        assert_eq!(calls[0].session, inside.session);
    }

    #[test]
    fn a_call_has_the_prompt_of_its_id_else_its_session_s_last() {
        let prompt = |session, id: Option<&str>, text: &str| Event {
            prompt_id: id.map(str::to_owned),
            prompt: Some(text.to_owned()),
            prompt_sum: Some(sum(text)),
            ..event(Kind::Prompt, session, 0)
        };
        let call = |session, id, prompt: Option<&str>| Event {
            prompt_id: prompt.map(str::to_owned),
            ..tool(Kind::PostTool, session, id, 1)
        };
        let mut state = State::default();
        state.fold(&prompt("s", Some("1"), "first"));
        state.fold(&prompt("s", Some("2"), "second"));
        state.fold(&prompt("t", None, "old client"));
        state.fold(&call("s", "a", Some("1")));
        state.fold(&call("s", "b", Some("2")));
        state.fold(&call("s", "c", None));
        state.fold(&call("s", "d", Some("3")));
        state.fold(&call("t", "e", None));
        let calls = state.responsible(None, 1);
        let prompts: Vec<Option<&str>> = calls.iter().map(|call| call.prompt.as_deref()).collect();
        assert_eq!(
            prompts,
            [
                Some("first"),
                Some("second"),
                Some("second"),
                None,
                Some("old client")
            ]
        );
        assert_eq!(state.prompt_sum(&calls[0]), Some(sum("first")));
    }

    #[test]
    fn a_notice_about_a_task_neither_ends_a_turn_nor_is_what_was_asked() {
        let prompt = |id: &str, text: &str| Event {
            prompt_id: Some(id.to_owned()),
            prompt: Some(text.to_owned()),
            ..event(Kind::Prompt, "s", 0)
        };
        let in_turn = |id: &str, event: Event| Event {
            prompt_id: Some(id.to_owned()),
            ..event
        };
        let notice = "<task-notification>\n<task-id>a21781</task-id>";
        let mut state = State::default();
        hook(&mut state, &prompt("1", "build it"));
        hook(&mut state, &in_turn("1", tool(Kind::PreTool, "s", "a", 1)));
        for _ in 0..2 * PROMPTS {
            hook(&mut state, &prompt("1", notice));
        }
        hook(&mut state, &prompt("1", "and test it"));
        assert_eq!(named(&state, &event(Kind::Other, "s", 2)), ["a"], "it runs");
        // One that comes between turns begins one of its own.
        hook(&mut state, &in_turn("1", event(Kind::Stop, "s", 3)));
        hook(&mut state, &prompt("2", notice));
        for turn in ["1", "2"] {
            let call = in_turn(turn, tool(Kind::PostTool, "s", turn, 4));
            state.fold(&call);
            let calls = state.responsible(Some(&call), 4);
            let own = calls.iter().find(|call| call.id.as_deref() == Some(turn));
            assert_eq!(own.unwrap().prompt.as_deref(), Some("build it"), "{turn}");
        }
    }

    #[test]
    fn sessions_are_forgotten_and_the_state_stays_small() {
        let mut state = State::default();
        state.fold(&event(Kind::SessionEnd, "ended", 0));
        state.fold(&event(Kind::Stop, "killed", 0));
        state.fold(&event(Kind::Stop, "new", DAY + 1));
        assert!(state.session(Some("ended")).is_none());
        assert!(state.session(Some("killed")).is_some());
        for number in 0..1_000 {
            state.fold(&event(Kind::Prompt, &number.to_string(), 2 * DAY));
            state.fold(&tool(Kind::PostTool, "s", &number.to_string(), 2 * DAY));
            state.scanned(None);
        }
        assert_eq!(state.sessions.len(), SESSIONS);
        assert_eq!(state.finished.len(), FINISHED);
        assert!(state.running.is_empty());
    }
}
