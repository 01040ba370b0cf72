//! Our hooks in a Claude Code settings file.
//!
//! The file is the user's: what is not ours stays byte for byte. So it is never written anew from a
//! parsed value; the spans of its containers are found and text is put between them, in the file's own
//! indentation. [`remove`] undoes [`install`] exactly: a container that `install` found empty gets a
//! space after its opening bracket, a container it made gets none, so that later the one is emptied
//! and the other goes. Ours is every command whose program is called `agentfs` and whose first
//! argument is `hook`, wherever it stands and whoever wrote it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::exit::Failure;
use crate::{config, paths, sys};

/// What we listen to, and whether it is about a tool.
pub const EVENTS: [(&str, bool); 8] = [
    ("PreToolUse", true),
    ("PostToolUse", true),
    (FAILURE, true),
    ("UserPromptSubmit", false),
    ("SessionStart", false),
    ("Stop", false),
    ("SubagentStop", false),
    ("SessionEnd", false),
];

/// A client older than [`KNOWS_FAILURE`] takes none of a settings file that names this event.
const FAILURE: &str = "PostToolUseFailure";
const KNOWS_FAILURE: [u32; 3] = [2, 0, 56];

/// Tools that write no file of the project: only a process is saved by not hearing of them. All
/// others are heard of, those of MCP servers and of later versions too. The tools that start a
/// sub-agent are here because its own calls are what writes.
pub const HARMLESS: [&str; 29] = [
    "Read",
    "Glob",
    "Grep",
    "LS",
    "LSP",
    "NotebookRead",
    "WebFetch",
    "WebSearch",
    "TodoRead",
    "TodoWrite",
    "TaskCreate",
    "TaskGet",
    "TaskList",
    "TaskUpdate",
    "TaskOutput",
    "TaskStop",
    "Task",
    "Agent",
    "AgentOutputTool",
    "BashOutput",
    "KillBash",
    "KillShell",
    "AskUserQuestion",
    "EnterPlanMode",
    "ExitPlanMode",
    "ToolSearch",
    "ListMcpResourcesTool",
    "ReadMcpResourceTool",
    "StructuredOutput",
];

/// How long the client may take to say its version.
const PATIENCE: Duration = Duration::from_secs(5);

/// Seconds that the client waits for a hook; its own default for `SessionEnd` is shorter than our two.
const TIMEOUT: u32 = 10;

/// A level of indentation where the file shows none.
const INDENT: &str = "  ";

/// Whose settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `.claude/settings.json` in this directory.
    Project(PathBuf),
    /// Of all projects of this user.
    User,
}

// ---- the file -----------------------------------------------------------------------------------

/// Adds our hooks to a settings file, or takes them out; says what was done.
///
/// # Errors
/// The file is left as it is when it is no JSON, cannot be written, or belongs to a configuration
/// manager.
pub fn run(scope: Scope, remove: bool, program: &Path) -> Result<String, Failure> {
    let client = (!remove).then(client_version).flatten();
    edit(&scope, remove, program, client)
}

fn edit(
    scope: &Scope,
    remove: bool,
    program: &Path,
    client: Option<[u32; 3]>,
) -> Result<String, Failure> {
    let old = client.is_some_and(|version| version < KNOWS_FAILURE);
    let events: Vec<(&str, bool)> = EVENTS
        .into_iter()
        .filter(|(name, _)| !old || *name != FAILURE)
        .collect();
    let named = file_of(scope)?;
    let file = target(&named)?;
    let before = read(&file)?;
    let text = before.as_deref().unwrap_or_default();
    let edited = match remove {
        true => self::remove(text),
        false => command(program).and_then(|command| install_events(text, &command, &events)),
    };
    let after = edited.map_err(|failure| Failure::at("cannot edit", &file, failure))?;
    if after == text {
        return Ok(match remove {
            true => format!("{}: no hooks of agentfs in it", named.display()),
            false => format!("{}: the hooks are in it already", named.display()) + idle(&after),
        });
    }
    refuse_read_only(&file)?;
    let linked = file != named;
    if remove && after.trim().is_empty() && !linked {
        fs::remove_file(&file).map_err(|error| Failure::at("cannot remove", &file, error))?;
        return Ok(format!(
            "removed {}: nothing else was in it",
            named.display()
        ));
    }
    replace(&file, before.as_deref(), &after)?;
    Ok(match remove {
        true => format!("removed the hooks from {}", named.display()),
        false => format!("installed the hooks in {}", named.display()) + idle(&after),
    })
}

/// The version of the `claude` that a shell would start, if it says one.
fn client_version() -> Option<[u32; 3]> {
    let mut child = Command::new(paths::in_path("claude").next()?)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let started = Instant::now();
    while matches!(child.try_wait(), Ok(None)) {
        if started.elapsed() > PATIENCE {
            let _ = child.kill();
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    let said = child.wait_with_output().ok()?.stdout;
    version(&String::from_utf8_lossy(&said))
}

/// As in `2.0.55 (Claude Code)`.
fn version(said: &str) -> Option<[u32; 3]> {
    let mut numbers = said.split_whitespace().next()?.split('.').map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some([next()?, next()?, next()?])
}

/// The command line for hooks: the program's absolute path, and `hook`.
pub fn command(program: &Path) -> Result<String, Failure> {
    let path = std::path::absolute(program).unwrap_or_else(|_| program.to_owned());
    let Some(text) = path.to_str() else {
        return Err(Failure::at(
            "cannot name the program",
            &path,
            "its path is no UTF-8",
        ));
    };
    if path.file_name().is_none_or(|name| name != "agentfs") {
        let failure = Failure::at("cannot name the program", &path, "it is not called agentfs");
        return Err(failure.advise("hooks are recognised by that name"));
    }
    Ok(format!("{} hook", quoted(text)))
}

/// One word for a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%=:,".contains(c);
    match text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

fn file_of(scope: &Scope) -> Result<PathBuf, Failure> {
    let dir = match scope {
        Scope::Project(dir) => Some(dir.join(".claude")),
        Scope::User => config::claude_projects().and_then(|dir| dir.parent().map(Path::to_owned)),
    };
    let dir = dir.ok_or_else(|| {
        Failure::new("cannot find the settings of Claude Code: HOME is not set")
            .advise("set HOME or CLAUDE_CONFIG_DIR")
    })?;
    Ok(dir.join("settings.json"))
}

/// The file that a link stands for, so that it is written and the link stays.
fn target(named: &Path) -> Result<PathBuf, Failure> {
    match named.symlink_metadata() {
        Ok(meta) if meta.is_symlink() => named.canonicalize().map_err(|error| {
            Failure::at("cannot follow the link", named, error)
                .advise("make what it points to, or remove it")
        }),
        _ => Ok(named.to_owned()),
    }
}

fn read(file: &Path) -> Result<Option<String>, Failure> {
    match fs::read(file) {
        Ok(bytes) => String::from_utf8(bytes)
            .map(Some)
            .map_err(|_| Failure::at("cannot edit", file, "it is no UTF-8")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::at("cannot read", file, error)),
    }
}

fn refuse_read_only(file: &Path) -> Result<(), Failure> {
    let refused = |reason: &str| {
        Err(Failure::at("cannot write", file, reason).advise(
            "if home-manager or a dotfile manager made it, add the hooks there \
             (programs.agentfs.claudeCodeHooks)",
        ))
    };
    if paths::resolve(file).starts_with("/nix/store") {
        return refused("it is in the Nix store");
    }
    // Root may write to what the mode forbids, but whoever set the mode meant it.
    match file.metadata() {
        Ok(meta) if meta.mode() & 0o222 == 0 => refused("it is read-only"),
        Ok(_) => match sys::may_write(file) {
            Err(error) => refused(&error.to_string()),
            Ok(()) => Ok(()),
        },
        Err(_) => Ok(()),
    }
}

/// Puts the text in the file's place, with the file's mode, unless somebody wrote to it meanwhile.
fn replace(file: &Path, before: Option<&str>, text: &str) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::at("cannot write", file, error);
    let dir = file.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir).map_err(failed)?;
    let new = dir.join(format!(".settings.json.agentfs-{}", process::id()));
    let result = write_new(&new, file, text).map_err(failed).and_then(|()| {
        if read(file)?.as_deref() != before {
            return Err(Failure::at("cannot write", file, "it changed meanwhile")
                .advise("run the command again"));
        }
        fs::rename(&new, file).map_err(failed)
    });
    if result.is_err() {
        let _ = fs::remove_file(&new);
    }
    result
}

fn write_new(new: &Path, like: &Path, text: &str) -> io::Result<()> {
    let mut out = File::create(new)?;
    if let Ok(meta) = like.metadata() {
        out.set_permissions(meta.permissions())?;
        // Only root can give a file away, and must when it edits a user's.
        let _ = sys::chown(&out, Some(meta.uid()), Some(meta.gid()));
    }
    out.write_all(text.as_bytes())?;
    out.sync_all()
}

/// What to say when the file itself keeps hooks from running.
fn idle(text: &str) -> &'static str {
    let value: Value =
        serde_json::from_str(text.trim_start_matches('\u{feff}')).unwrap_or_default();
    match value["disableAllHooks"] == true {
        true => "; they do not run, because disableAllHooks is set there",
        false => "",
    }
}

// ---- what is ours -------------------------------------------------------------------------------

/// Matches the names of all tools but the harmless ones. The client takes it for a JavaScript regular
/// expression, because it holds more than names and `|`.
pub fn matcher() -> String {
    format!("^(?!({})$)", HARMLESS.join("|"))
}

fn group(command: &str, of_tools: bool) -> Value {
    let hooks = json!([{"type": "command", "command": command, "timeout": TIMEOUT}]);
    match of_tools {
        true => json!({"matcher": matcher(), "hooks": hooks}),
        false => json!({"hooks": hooks}),
    }
}

fn is_ours(command: &str) -> bool {
    let mut rest = command;
    let program = word(&mut rest);
    let name = program.rsplit('/').next();
    name == Some("agentfs") && word(&mut rest) == "hook"
}

/// The next word as a shell reads it.
fn word(rest: &mut &str) -> String {
    let (mut out, mut quote) = (String::new(), None);
    let mut chars = rest.trim_start().chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            ('\\', None | Some('"')) => out.extend(chars.next()),
            (c, None) if c.is_whitespace() => break,
            (c, _) => out.push(c),
        }
    }
    *rest = chars.as_str();
    out
}

/// The text with our hooks for all [`EVENTS`] in it; the same text when they are there already.
///
/// # Errors
/// No JSON, or `hooks` is not what the client takes; says where.
pub fn install(text: &str, command: &str) -> Result<String, Failure> {
    install_events(text, command, &EVENTS)
}

fn install_events(text: &str, command: &str, events: &[(&str, bool)]) -> Result<String, Failure> {
    if !is_ours(command) {
        return Err(Failure::new(format!("{command} is no hook of agentfs")));
    }
    if up_to_date(text, command, events)? {
        return Ok(text.to_owned());
    }
    insert(&remove(text)?, command, events)
}

/// The text without our hooks.
///
/// # Errors
/// As for [`install`].
pub fn remove(text: &str) -> Result<String, Failure> {
    let Some(document) = Document::read(text)? else {
        return Ok(text.to_owned());
    };
    let mut cuts = Vec::new();
    let gone = document.cut_hooks(&mut cuts);
    let members = document.root.items();
    // What we made of nothing becomes nothing again.
    if members.len() == 1 && gone.contains(&0) && document.found_empty(&document.root).is_none() {
        let (head, tail) = (
            &text[..document.root.span.start],
            &text[document.root.span.end..],
        );
        if matches!(tail, "" | "\n" | "\r\n") {
            return Ok(head.to_owned());
        }
    }
    document.cut_items(&document.root, &gone, &mut cuts);
    Ok(apply(
        text,
        cuts.into_iter()
            .map(|(range, with)| (range, with.to_owned()))
            .collect(),
    ))
}

fn up_to_date(text: &str, command: &str, events: &[(&str, bool)]) -> Result<bool, Failure> {
    let Some(document) = Document::read(text)? else {
        return Ok(false);
    };
    let groups = |event: &Node| event.items().len();
    let mut ours = 0;
    for hooks in document.root.named("hooks") {
        for event in hooks.items() {
            let handlers = event.items().iter().flat_map(|group| group.handlers());
            ours += handlers.filter(|handler| handler.is_ours()).count();
        }
    }
    let Some(hooks) = document.root.named("hooks").last() else {
        return Ok(false);
    };
    let installed = |(name, of_tools): &(&str, bool)| {
        let event = hooks.named(name).last().filter(|event| groups(event) > 0);
        let wanted = group(command, *of_tools);
        event.is_some_and(|event| {
            let mut groups = event.items().iter();
            groups.any(|group| {
                serde_json::from_str(&text[group.span.clone()])
                    .ok()
                    .as_ref()
                    == Some(&wanted)
            })
        })
    };
    Ok(ours == events.len() && events.iter().all(installed))
}

/// Adds our hooks to a text that has none of them.
fn insert(text: &str, command: &str, events: &[(&str, bool)]) -> Result<String, Failure> {
    let style = Style::of(text);
    let groups = |(name, of_tools): &(_, bool)| (*name, group(command, *of_tools));
    let groups: Vec<(&str, Value)> = events.iter().map(groups).collect();
    let event = |(name, group): &(&str, Value)| (name.to_string(), json!([group]));
    let all = || Value::Object(groups.iter().map(event).collect());
    let Some(document) = Document::read(text)? else {
        let made = style.written(&json!({"hooks": all()}), "", true);
        return Ok(format!("{text}{made}{}", style.newline));
    };
    let mut edits = Vec::new();
    match document.root.named("hooks").last() {
        None => edits.push(document.added(&style, &document.root, &[(Some("hooks"), all())])),
        Some(hooks) => {
            let mut missing = Vec::new();
            for (name, group) in &groups {
                match hooks.named(name).last() {
                    Some(event) => {
                        edits.push(document.added(&style, event, &[(None, group.clone())]))
                    }
                    None => missing.push((Some(*name), json!([group]))),
                }
            }
            if !missing.is_empty() {
                edits.push(document.added(&style, hooks, &missing));
            }
        }
    }
    Ok(apply(text, edits))
}

/// Puts texts in the place of ranges that do not overlap.
fn apply(text: &str, mut edits: Vec<(Range<usize>, String)>) -> String {
    edits.sort_by_key(|(range, _)| range.start);
    let (mut out, mut at) = (String::new(), 0);
    for (range, with) in edits {
        out.push_str(&text[at..range.start]);
        out.push_str(&with);
        at = range.end;
    }
    out.push_str(&text[at..]);
    out
}

// ---- how the file is written --------------------------------------------------------------------

struct Style {
    newline: &'static str,
    indent: String,
    /// All on one line.
    flat: bool,
}

impl Style {
    fn of(text: &str) -> Style {
        let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
        let first = text.trim_start_matches('\u{feff}').trim_start();
        let inside = first.strip_prefix('{').unwrap_or_default();
        let space = &inside[..inside.len() - inside.trim_start().len()];
        let indent = space.rsplit('\n').next().unwrap_or_default();
        Style {
            newline,
            indent: match space.contains('\n') && !indent.is_empty() {
                true => indent.to_owned(),
                false => INDENT.to_owned(),
            },
            flat: !text.trim().contains('\n'),
        }
    }

    /// The value as text; its lines after the first begin with `margin`.
    fn written(&self, value: &Value, margin: &str, spread: bool) -> String {
        let inner = format!("{margin}{}", self.indent);
        let (open, close, items): (_, _, Vec<String>) = match value {
            Value::Object(members) => {
                let member = |(name, value): (&String, &Value)| {
                    let value = self.written(value, &inner, spread);
                    format!("{}: {value}", Value::from(name.as_str()))
                };
                ("{", "}", members.iter().map(member).collect())
            }
            Value::Array(elements) => {
                let element = |value| self.written(value, &inner, spread);
                ("[", "]", elements.iter().map(element).collect())
            }
            scalar => return scalar.to_string(),
        };
        match spread {
            true => {
                let (first, last) = (self.line(&inner), self.line(margin));
                let items = items.join(&format!(",{first}"));
                format!("{open}{first}{items}{last}{close}")
            }
            false => format!("{open}{}{close}", items.join(", ")),
        }
    }

    fn line(&self, margin: &str) -> String {
        format!("{}{margin}", self.newline)
    }
}

// ---- spans --------------------------------------------------------------------------------------

/// A text that is known to be a JSON object, and where everything in it is.
struct Document<'a> {
    text: &'a str,
    root: Node,
}

struct Node {
    /// A member's begins at its name.
    item: Range<usize>,
    /// The value's own.
    span: Range<usize>,
    /// A member's.
    name: Option<String>,
    kind: Kind,
}

enum Kind {
    Object(Vec<Node>),
    Array(Vec<Node>),
    Text(String),
    Other,
}

impl Node {
    fn items(&self) -> &[Node] {
        match &self.kind {
            Kind::Object(items) | Kind::Array(items) => items,
            _ => &[],
        }
    }

    /// The members of this name; of several the last one counts.
    fn named<'n>(&'n self, name: &'n str) -> impl Iterator<Item = &'n Node> {
        let members = match &self.kind {
            Kind::Object(members) => members.as_slice(),
            _ => &[],
        };
        members
            .iter()
            .filter(move |member| member.name.as_deref() == Some(name))
    }

    /// The handlers of a group of them.
    fn handlers(&self) -> &[Node] {
        self.named("hooks").last().map_or(&[], Node::items)
    }

    fn is_ours(&self) -> bool {
        let command = self.named("command").last().map(|command| &command.kind);
        matches!(command, Some(Kind::Text(command)) if is_ours(command))
    }
}

impl<'a> Document<'a> {
    /// Nothing when the text is empty.
    fn read(text: &'a str) -> Result<Option<Document<'a>>, Failure> {
        let json = text.trim_start_matches('\u{feff}');
        if json.trim_matches([' ', '\t', '\r', '\n']).is_empty() {
            return Ok(None);
        }
        serde_json::from_str::<Value>(json).map_err(|error| broken(json, &error))?;
        let mut reader = Reader {
            text,
            at: text.len() - json.len(),
        };
        let document = Document {
            text,
            root: reader.value(),
        };
        document.check()?;
        Ok(Some(document))
    }

    fn check(&self) -> Result<(), Failure> {
        let object = |node: &Node| matches!(node.kind, Kind::Object(_));
        if !object(&self.root) {
            return Err(self.unusable(&self.root, "the settings are no object"));
        }
        for hooks in self.root.named("hooks") {
            if !object(hooks) {
                return Err(self.unusable(hooks, "hooks is no object"));
            }
            let ours = |event: &&Node| {
                EVENTS
                    .iter()
                    .any(|(name, _)| event.name.as_deref() == Some(name))
            };
            for event in hooks.items().iter().filter(ours) {
                if !matches!(event.kind, Kind::Array(_)) {
                    let name = event.name.as_deref().unwrap_or_default();
                    return Err(self.unusable(event, &format!("hooks.{name} is no array")));
                }
            }
        }
        Ok(())
    }

    fn unusable(&self, node: &Node, why: &str) -> Failure {
        let before = &self.text[..node.span.start];
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.matches('\n').count() + 1;
        Failure::new(format!(
            "line {line}, column {}: {why}",
            before[start..].chars().count() + 1
        ))
    }

    /// The edit that adds items to a container, behind those that are there.
    fn added(
        &self,
        style: &Style,
        to: &Node,
        new: &[(Option<&str>, Value)],
    ) -> (Range<usize>, String) {
        let write = |margin: &str, spread: bool, between: &str| {
            let item = |(name, value): &(Option<&str>, Value)| {
                let value = style.written(value, margin, spread);
                match name {
                    Some(name) => format!("{}: {value}", Value::from(*name)),
                    None => value,
                }
            };
            new.iter().map(item).collect::<Vec<_>>().join(between)
        };
        let items = to.items();
        if let Some(last) = items.last() {
            let space = match items.len() {
                1 => &self.text[to.span.start + 1..last.item.start],
                n => after_comma(&self.text[items[n - 2].item.end..last.item.start]),
            };
            let (between, written) = match space.rsplit_once('\n') {
                Some((_, margin)) => {
                    let between = format!(",{}", style.line(margin));
                    let written = write(margin, true, &between);
                    (between, written)
                }
                None => (", ".to_owned(), write("", false, ", ")),
            };
            return (last.item.end..last.item.end, between + &written);
        }
        let end = to.span.end - 1;
        let is_root = to.span == self.root.span;
        if style.flat && !is_root {
            return (end..end, format!(" {}", write("", false, ", ")));
        }
        let margin = if is_root {
            ""
        } else {
            self.margin(to.span.start)
        };
        let inner = format!("{margin}{}", style.indent);
        let (first, last) = (style.line(&inner), style.line(margin));
        let written = write(&inner, true, &format!(",{first}"));
        (end..end, format!(" {first}{written}{last}"))
    }

    /// How the line is indented that holds this place.
    fn margin(&self, at: usize) -> &str {
        let line = self.text[..at].rsplit('\n').next().unwrap_or_default();
        &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
    }

    /// What a container held when [`install`] found it empty; nothing if `install` made it.
    fn found_empty(&self, node: &Node) -> Option<&'a str> {
        let (first, last) = (node.items().first()?, node.items().last()?);
        let before = &self.text[node.span.start + 1..first.item.start];
        let after = &self.text[last.item.end..node.span.end - 1];
        let Some(line) = after.find('\n') else {
            return before.strip_suffix(' ').filter(|_| after.is_empty());
        };
        let newline = &after[..=line];
        let (held, _) = before.rsplit_once('\n')?;
        held.strip_suffix(newline.trim_end_matches('\n'))?
            .strip_suffix(' ')
    }

    /// Takes ours out of all events; gives the members of the root that go as a whole.
    fn cut_hooks(&self, cuts: &mut Vec<(Range<usize>, &'a str)>) -> Vec<usize> {
        indices(self.root.items(), |hooks| {
            if hooks.name.as_deref() != Some("hooks") {
                return false;
            }
            let mut inside = Vec::new();
            let gone = indices(hooks.items(), |event| {
                let mut inside_event = Vec::new();
                let gone = indices(event.items(), |group| {
                    self.cut_group(group, &mut inside_event)
                });
                let whole = self.goes(event, &gone);
                if !whole {
                    self.cut_items(event, &gone, &mut inside_event);
                    inside.append(&mut inside_event);
                }
                whole
            });
            let whole = self.goes(hooks, &gone);
            if !whole {
                self.cut_items(hooks, &gone, &mut inside);
                cuts.append(&mut inside);
            }
            whole
        })
    }

    /// Whether a group goes as a whole; else takes ours out of it.
    fn cut_group(&self, group: &Node, cuts: &mut Vec<(Range<usize>, &'a str)>) -> bool {
        let Some(handlers) = group.named("hooks").last() else {
            return false;
        };
        let gone = indices(handlers.items(), Node::is_ours);
        let whole = !gone.is_empty() && gone.len() == handlers.items().len();
        if !whole {
            self.cut_items(handlers, &gone, cuts);
        }
        whole
    }

    /// Whether a container goes that loses these items.
    fn goes(&self, container: &Node, gone: &[usize]) -> bool {
        let emptied = !gone.is_empty() && gone.len() == container.items().len();
        emptied && self.found_empty(container).is_none()
    }

    /// Cuts items, each with the comma that parts it from one that stays.
    fn cut_items(&self, container: &Node, gone: &[usize], cuts: &mut Vec<(Range<usize>, &'a str)>) {
        let items = container.items();
        if gone.is_empty() {
            return;
        }
        if gone.len() == items.len() {
            let inside = container.span.start + 1..container.span.end - 1;
            cuts.push((inside, self.found_empty(container).unwrap_or_default()));
            return;
        }
        let kept = (0..items.len())
            .find(|index| !gone.contains(index))
            .unwrap_or_default();
        for &index in gone {
            let range = match index < kept {
                true => items[index].item.start..items[index + 1].item.start,
                false => items[index - 1].item.end..items[index].item.end,
            };
            cuts.push((range, ""));
        }
    }
}

fn indices(items: &[Node], mut wanted: impl FnMut(&Node) -> bool) -> Vec<usize> {
    (0..items.len())
        .filter(|&index| wanted(&items[index]))
        .collect()
}

fn after_comma(text: &str) -> &str {
    text.split_once(',').map_or(text, |(_, after)| after)
}

fn broken(json: &str, error: &serde_json::Error) -> Failure {
    let (line, column) = (error.line(), error.column());
    let said = error.to_string();
    let what = said.split(" at line ").next().unwrap_or(&said);
    let failure = Failure::new(format!("line {line}, column {column}: no JSON: {what}"));
    let here = json
        .split('\n')
        .nth(line.saturating_sub(1))
        .unwrap_or_default();
    match here
        .get(column.saturating_sub(1)..)
        .is_some_and(|at| at.starts_with('/'))
    {
        true => failure.advise("remove the comment"),
        false => failure.advise("repair the file"),
    }
}

/// Finds where values are in a text that is known to be JSON.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn value(&mut self) -> Node {
        self.space();
        let start = self.at;
        let kind = match self.peek() {
            b'{' => Kind::Object(self.items(b'}', Reader::member)),
            b'[' => Kind::Array(self.items(b']', Reader::value)),
            b'"' => Kind::Text(self.string()),
            _ => {
                while !matches!(
                    self.peek(),
                    b',' | b']' | b'}' | b' ' | b'\t' | b'\r' | b'\n' | 0
                ) {
                    self.at += 1;
                }
                Kind::Other
            }
        };
        let span = start..self.at;
        Node {
            item: span.clone(),
            span,
            name: None,
            kind,
        }
    }

    fn items(&mut self, close: u8, read: fn(&mut Self) -> Node) -> Vec<Node> {
        let mut items = Vec::new();
        loop {
            self.at += 1;
            self.space();
            if self.peek() == close && items.is_empty() {
                break;
            }
            items.push(read(self));
            self.space();
            if self.peek() != b',' {
                break;
            }
        }
        self.at += 1;
        items
    }

    fn member(&mut self) -> Node {
        let start = self.at;
        let name = self.string();
        self.space();
        self.at += 1;
        let mut node = self.value();
        node.item.start = start;
        node.name = Some(name);
        node
    }

    fn string(&mut self) -> String {
        let start = self.at;
        self.at += 1;
        while !matches!(self.peek(), b'"' | 0) {
            self.at += 1 + usize::from(self.peek() == b'\\');
        }
        self.at += 1;
        let text = self.text.get(start..self.at).unwrap_or_default();
        serde_json::from_str(text).unwrap_or_default()
    }

    fn space(&mut self) {
        while matches!(self.peek(), b' ' | b'\t' | b'\r' | b'\n') {
            self.at += 1;
        }
    }

    /// Zero at the end, which JSON never holds.
    fn peek(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn the_hooks_for_declared_settings_are_those_that_are_installed() {
        let declared: Value = serde_json::from_str(include_str!("hooks.json")).unwrap();
        let installed = install("", "agentfs hook").unwrap();
        let installed: Value = serde_json::from_str(&installed).unwrap();
        assert_eq!(installed["hooks"], declared);
    }

    const COMMAND: &str = "/usr/bin/agentfs hook";

    fn both_ways(text: &str) -> String {
        let installed = install(text, COMMAND).unwrap();
        let shown = format!("{text:?} became {installed:?}");
        let value: Value = serde_json::from_str(installed.trim_start_matches('\u{feff}')).unwrap();
        for (event, of_tools) in EVENTS {
            let groups = value["hooks"][event].as_array().unwrap();
            assert_eq!(groups.last(), Some(&group(COMMAND, of_tools)), "{shown}");
        }
        assert_eq!(remove(&installed).unwrap(), text, "{shown}");
        assert_eq!(install(&installed, COMMAND).unwrap(), installed);
        assert_eq!(remove(text).unwrap(), text);
        installed
    }

    #[test]
    fn removing_brings_back_every_byte() {
        for text in [
            "",
            "\n",
            " \r\n",
            "{}",
            "{}\n",
            "{ }",
            "{\n}\n",
            "{\r\n}\r\n",
            "{\r}",
            "\u{feff}{}",
            "{\"model\":\"opus\"}",
            "{\"model\": \"opus\", \"n\": [1, 2]}\n",
            "{\n  \"model\": \"opus\"\n}\n",
            "{\n\t\"model\": \"opus\",\n\t\"env\": {\"A\": \"}\\\"{\"}\n}",
            "{\r\n    \"model\": \"opus\"\r\n}\r\n",
            "{\"hooks\":{}}",
            "{\"hooks\": { } ,\"a\":1}",
            "{\n  \"hooks\": {},\n  \"a\": 1\n}\n",
            "{\n  \"hooks\": {\n  }\n}\n",
            "{\"hooks\":{\"Stop\":[],\"SessionEnd\":[ ]}}",
            "{\n  \"hooks\": {\n    \"Stop\": [],\n    \"PreToolUse\": [\n    ]\n  }\n}",
            "{\"hooks\": {\"Stop\": []}, \"hooks\": {\"Stop\": [{\"hooks\": []}], \"Stop\": []}}",
            "{\n  \"hooks\": {\n    \"Stop\": [\n      {\n        \"hooks\": [\n          { \"type\": \"command\", \"command\": \"notify\" }\n        ]\n      }\n    ]\n  }\n}\n",
        ] {
            both_ways(text);
        }
    }

    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 16) as usize % bound
        }

        fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
            from[self.below(from.len())]
        }

        fn space(&mut self) -> &'static str {
            self.pick(&[
                "", "", "", " ", "\n", "\n  ", "\n    ", "\t", "\r\n", "\r", " \n", "\n ",
            ])
        }

        fn list(
            &mut self,
            open: &str,
            close: &str,
            item: &mut dyn FnMut(&mut Random) -> String,
        ) -> String {
            let mut out = format!("{open}{}", self.space());
            for index in 0..self.below(4) {
                if index > 0 {
                    out += &format!("{},{}", self.space(), self.space());
                }
                out += &item(self);
                out += self.space();
            }
            out + close
        }

        fn value(&mut self, depth: usize) -> String {
            match self.below(if depth > 2 { 4 } else { 6 }) {
                0 => "-1.5e3".to_owned(),
                1 => "null".to_owned(),
                2 => "\"agentfs hook \\\\\\\"}]\\u00e9é\"".to_owned(),
                3 => "\"\"".to_owned(),
                4 => self.list("[", "]", &mut |random| random.value(depth + 1)),
                _ => self.list("{", "}", &mut |random| {
                    let name = random.pick(&["a", "hooks", "command", "matcher"]);
                    format!(
                        "\"{name}\"{}:{}{}",
                        random.space(),
                        random.space(),
                        random.value(depth + 1)
                    )
                }),
            }
        }

        fn hooks(&mut self) -> String {
            self.list("{", "}", &mut |random| {
                let name = random.pick(&["Stop", "PreToolUse", "SessionEnd", "Notification"]);
                let groups = random.list("[", "]", &mut |random| random.value(1));
                format!("\"{name}\"{}:{}{groups}", random.space(), random.space())
            })
        }

        fn settings(&mut self) -> String {
            let object = self.list("{", "}", &mut |random| match random.below(2) {
                0 => format!(
                    "\"hooks\"{}:{}{}",
                    random.space(),
                    random.space(),
                    random.hooks()
                ),
                _ => format!(
                    "\"model\"{}:{}{}",
                    random.space(),
                    random.space(),
                    random.value(0)
                ),
            });
            format!("{}{object}{}", self.space(), self.space())
        }
    }

    #[test]
    fn removing_brings_back_every_byte_of_random_settings() {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for _ in 0..5_000 {
            both_ways(&random.settings());
        }
    }

    #[test]
    fn a_new_file_reads_well() {
        let text = install("", "/a/agentfs hook").unwrap();
        let start =
            "{\n  \"hooks\": {\n    \"PreToolUse\": [\n      {\n        \"matcher\": \"^(?!(Read|";
        assert!(text.starts_with(start), "{text}");
        let end = "          {\n            \"type\": \"command\",\n            \"command\": \"/a/agentfs hook\",\n            \"timeout\": 10\n          }\n        ]\n      }\n    ]\n  }\n}\n";
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn the_file_s_own_style_is_kept() {
        let tabs = install("{\n\t\"a\": 1\n}\n", COMMAND).unwrap();
        assert!(
            tabs.starts_with("{\n\t\"a\": 1,\n\t\"hooks\": {\n\t\t\"PreToolUse\": [\n\t\t\t{\n")
        );
        let crlf = install("{\r\n  \"a\": 1\r\n}", COMMAND).unwrap();
        assert_eq!(crlf.matches('\n').count(), crlf.matches("\r\n").count());
        let line = install("{\"a\": 1}\n", COMMAND).unwrap();
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn an_older_variant_is_brought_up_to_date() {
        let seed = r#"{"hooks": {
            "PreToolUse": [{"matcher": "Edit|Write", "hooks": [{"type": "command", "command": "agentfs hook pre-tool"}]}],
            "Notification": [{"hooks": [{"command": "'/old place/agentfs' hook"}, {"command": "mine"}]}],
            "Stop": [{"hooks": [{"command": "agentfs hooks"}]}, {"hooks": [{"command": "\"/x/agentfs\" hook session-end"}]}]
        }}"#;
        let installed = install(seed, COMMAND).unwrap();
        assert_eq!(install(&installed, COMMAND).unwrap(), installed);
        assert_eq!(
            installed.matches("/usr/bin/agentfs hook").count(),
            EVENTS.len()
        );
        for gone in ["pre-tool", "/old place", "/x/agentfs"] {
            assert!(!installed.contains(gone), "{installed}");
        }
        let left: Value = serde_json::from_str(&remove(&installed).unwrap()).unwrap();
        let wanted = json!({"hooks": {
            "Notification": [{"hooks": [{"command": "mine"}]}],
            "Stop": [{"hooks": [{"command": "agentfs hooks"}]}],
        }});
        assert_eq!(left, wanted);
    }

    #[test]
    fn a_file_that_another_program_wrote_anew_is_emptied_all_the_same() {
        for text in ["", "{}", "{\"a\": 1}"] {
            let installed = install(text, COMMAND).unwrap();
            let value: Value = serde_json::from_str(&installed).unwrap();
            let anew = serde_json::to_string_pretty(&value).unwrap();
            assert_eq!(install(&anew, COMMAND).unwrap(), anew);
            let left = remove(&anew).unwrap();
            assert!(!left.contains("hook"), "{left}");
        }
    }

    #[test]
    fn what_is_no_settings_file_is_refused_with_its_place() {
        for (text, place) in [
            ("{\n  // mine\n}", "line 2, column 3"),
            ("{\"a\": 1,}", "line 1, column 9"),
            ("{\"a\": 1", "line 1, column 7"),
            ("[]", "line 1, column 1"),
            ("{\n \"hooks\": []}", "line 2, column 11"),
            ("{\"hooks\": 0, \"hooks\": {}}", "line 1, column 11"),
            ("{\"hooks\": {\"Stop\": {}}}", "line 1, column 20"),
        ] {
            for failure in [install(text, COMMAND), remove(text)] {
                let message = failure.unwrap_err().message;
                assert!(message.starts_with(place), "{text:?}: {message}");
            }
        }
    }

    #[test]
    fn ours_is_told_by_program_and_first_argument() {
        for command in [
            "agentfs hook",
            "/usr/bin/agentfs hook",
            "  'a b/agentfs'  hook pre-tool",
            "\"/x y/agentfs\" hook",
            "/x\\ y/agentfs hook",
        ] {
            assert!(is_ours(command), "{command}");
        }
        for command in [
            "agentfs",
            "agentfs hooks",
            "my-agentfs hook",
            "echo agentfs hook",
            "",
        ] {
            assert!(!is_ours(command), "{command}");
        }
        let command = command(Path::new("/it's here/agentfs")).unwrap();
        assert_eq!(command, r"'/it'\''s here/agentfs' hook");
        assert!(is_ours(&command));
    }

    fn scratch(name: &str) -> PathBuf {
        let dir = env::temp_dir().join(format!("agentfs-settings-{name}-{}", process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn a_file_that_was_not_there_goes_again() {
        let dir = scratch("new");
        let (scope, program) = (Scope::Project(dir.clone()), Path::new("/usr/bin/agentfs"));
        let said = edit(&scope, false, program, None).unwrap();
        assert!(said.starts_with("installed"), "{said}");
        let file = dir.join(".claude/settings.json");
        let text = fs::read_to_string(&file).unwrap();
        assert!(
            edit(&scope, false, program, None)
                .unwrap()
                .contains("already")
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
        edit(&scope, true, program, None).unwrap();
        assert!(!file.exists());
        assert!(
            edit(&scope, true, program, None)
                .unwrap()
                .contains("no hooks")
        );
        assert_eq!(fs::read_dir(dir.join(".claude")).unwrap().count(), 0);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_client_that_would_choke_on_an_event_is_spared_it() {
        let dir = scratch("old");
        let (scope, program) = (Scope::Project(dir.clone()), Path::new("/usr/bin/agentfs"));
        let file = dir.join(".claude/settings.json");
        for (client, named) in [
            ("2.0.55 (Claude Code)", false),
            ("2.0.56 (Claude Code)", true),
            ("?", true),
        ] {
            edit(&scope, false, program, version(client)).unwrap();
            let text = fs::read_to_string(&file).unwrap();
            assert_eq!(text.contains(FAILURE), named, "{client}");
            assert!(text.contains("SessionEnd"));
        }
        edit(&scope, true, program, None).unwrap();
        assert!(!file.exists());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn mode_and_link_stay_and_a_read_only_file_is_refused() {
        let dir = scratch("link");
        let (scope, program) = (Scope::Project(dir.clone()), Path::new("/usr/bin/agentfs"));
        fs::create_dir(dir.join(".claude")).unwrap();
        let (real, link) = (dir.join("dotfile"), dir.join(".claude/settings.json"));
        fs::write(&real, "{\"disableAllHooks\": true}\n").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        symlink("../dotfile", &link).unwrap();
        assert!(
            edit(&scope, false, program, None)
                .unwrap()
                .contains("disableAllHooks")
        );
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(real.metadata().unwrap().mode() & 0o777, 0o640);
        fs::set_permissions(&real, fs::Permissions::from_mode(0o444)).unwrap();
        let text = fs::read_to_string(&real).unwrap();
        let refused = edit(&scope, true, program, None).unwrap_err();
        assert!(refused.message.contains("home-manager"), "{refused}");
        assert_eq!(fs::read_to_string(&real).unwrap(), text);
        fs::set_permissions(&real, fs::Permissions::from_mode(0o600)).unwrap();
        edit(&scope, true, program, None).unwrap();
        assert_eq!(
            fs::read_to_string(&real).unwrap(),
            "{\"disableAllHooks\": true}\n"
        );
        fs::remove_file(&real).unwrap();
        assert!(edit(&scope, false, program, None).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
