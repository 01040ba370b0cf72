//! Commands that tell why: what a line, a file, a session comes from.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::{Value, json};

use super::attribution::{Author, author};
use super::cli::{self, Reply};
use super::commit;
use super::history;
use super::note::{Call, Change, Checkpoint, Note};
use super::objects::{Kind, Objects};
use super::oid::Oid;
use super::project::Project;
use super::read::{self, is_of_session};
use super::reference::{self, Resolver};
use super::render::{self, Parents};
use super::scan::Budget;
use super::terminal::{self, Painter};
use super::timeline::{self, Moment, Origin};
use super::tree::Node;
use super::writer::{Writer, now_ms};
use super::{viz as page, words};
use crate::exit::Failure;
use crate::size;
use crate::usage::Given;

/// Lines that follow each other and come from the same checkpoint.
struct Group {
    /// The first line's number, from 1.
    line: u64,
    text: Vec<String>,
    commit: Oid,
    /// The first line's number in that commit.
    born: u64,
}

impl Group {
    fn count(&self) -> u64 {
        self.text.len() as u64
    }
}

/// A file in some state, and the lines of it that are asked about.
struct Question {
    path: Vec<u8>,
    /// What `git blame` starts from.
    commit: Oid,
    lines: Option<(u64, u64)>,
}

pub fn blame(given: &mut Given) -> Result<Reply, Failure> {
    let project = cli::project(given)?;
    let word = given.operand();
    let question = question(&project, &word)?;
    let groups = groups(&project, &question)?;
    let origins = Origins::read(&project, &groups, &question.path)?;
    Ok(match given.flag("json") {
        true => Reply::Json(origins.json(&groups)),
        false => Reply::Text(origins.text(&groups, question.lines.is_some())),
    })
}

/// Reads `FILE[@CP][:LINE[-LINE]]`. A file that is called just so is meant first.
fn question(project: &Project, word: &OsStr) -> Result<Question, Failure> {
    let whole = word.as_bytes();
    let is_file = |name: &[u8]| {
        let path = project.relative(OsStr::from_bytes(name)).ok()?;
        let on_disk = project.dir.join(OsStr::from_bytes(&path));
        on_disk.symlink_metadata().is_ok().then_some(path)
    };
    let (name, lines) = match is_file(whole) {
        Some(_) => (whole, None),
        None => split_lines(whole)?,
    };
    if let Some(path) = is_file(name) {
        let commit = now(project, &path)?;
        return Ok(Question {
            path,
            commit,
            lines,
        });
    }
    let (file, at) = reference::split_file(name);
    let at = Resolver::new(project)?.find(&at)?;
    let path = project.relative(OsStr::from_bytes(file))?;
    // Told better than by git.
    read::content(project, &at, &path)?;
    Ok(Question {
        path,
        commit: at.commit,
        lines,
    })
}

type Lines = Option<(u64, u64)>;

fn split_lines(word: &[u8]) -> Result<(&[u8], Lines), Failure> {
    let Some(at) = word.iter().rposition(|byte| *byte == b':') else {
        return Ok((word, None));
    };
    let Ok(digits) = std::str::from_utf8(&word[at + 1..]) else {
        return Ok((word, None));
    };
    let (first, last) = digits.split_once('-').unwrap_or((digits, digits));
    let (Ok(first), Ok(last)) = (first.parse::<u64>(), last.parse::<u64>()) else {
        return Ok((word, None));
    };
    match first > 0 && first <= last {
        true => Ok((&word[..at], Some((first, last)))),
        false => Err(Failure::usage(format!("no lines are {digits}"))
            .advise("the first line is 1: FILE:LINE or FILE:FIRST-LAST")),
    }
}

/// A commit that has the file as it is in the directory now: the newest checkpoint, or one that no
/// branch has.
fn now(project: &Project, path: &[u8]) -> Result<Oid, Failure> {
    let mut writer = Writer::insist(project)?;
    writer.scan(Budget::NONE)?;
    writer.save()?;
    let none = || {
        let file = Path::new(OsStr::from_bytes(path));
        Failure::at("cannot tell", file, "it is no file that checkpoints hold")
            .advise("see `agentfs status` for what is left out")
    };
    let Some(Node::Leaf(_)) = writer.index.root.get(path) else {
        return Err(none());
    };
    let tip = writer.tip.as_ref().ok_or_else(none)?;
    if tip.tree == writer.index.root.oid {
        return Ok(tip.commit);
    }
    let identity = super::git::IDENTITY;
    let text = format!(
        "tree {}\nparent {}\nauthor {identity} 0 +0000\ncommitter {identity} 0 +0000\n\nnow\n",
        writer.index.root.oid, tip.commit
    );
    let written = Objects::new(&project.store).write(Kind::Commit, text.as_bytes());
    written.map_err(|error| Failure::at("cannot write to the store", &project.store, error))
}

/// The lines with the checkpoints that they come from. What a restore brought back comes from where it
/// was brought back from.
fn groups(project: &Project, question: &Question) -> Result<Vec<Group>, Failure> {
    let (path, objects) = (&question.path, Objects::new(&project.store));
    let mut open = blamed(project, path, question.commit, question.lines)?;
    open.reverse();
    let mut resolver = None;
    let mut done: Vec<Group> = Vec::new();
    while let Some(group) = open.pop() {
        let found = commit::read(project, &objects, group.commit).ok();
        if let Some(at) = found.filter(|at| at.note.restored.is_some()) {
            let resolver = match &mut resolver {
                Some(resolver) => resolver,
                none => none.insert(Resolver::new(project)?),
            };
            if let Some(from) = source(project, resolver, &at, path)? {
                let lines = (group.born, group.born + group.count() - 1);
                let mut before = blamed(project, path, from, Some(lines))?;
                for part in &mut before {
                    part.line = part.line - group.born + group.line;
                }
                open.extend(before.into_iter().rev());
                continue;
            }
        }
        match done.last_mut() {
            Some(last) if last.commit == group.commit && last.line + last.count() == group.line => {
                last.text.extend(group.text);
            }
            _ => done.push(group),
        }
    }
    Ok(done)
}

/// The commit from which a restore brought a file back; `None` if that is gone, or the file another.
fn source(
    project: &Project,
    resolver: &Resolver,
    at: &Checkpoint,
    path: &[u8],
) -> Result<Option<Oid>, Failure> {
    let id = at.note.restored.as_deref().unwrap_or_default();
    let earlier = |from: &Checkpoint| from.note.version < at.note.version;
    let Some(from) = resolver.find(id).ok().filter(earlier) else {
        return Ok(None);
    };
    // It may have had another name then.
    let Some(blob) = read::blob(project, at.tree, path)? else {
        return Ok(None);
    };
    let same = read::blob(project, from.tree, path)? == Some(blob);
    Ok(same.then_some(from.commit))
}

/// What git says where lines come from.
fn blamed(
    project: &Project,
    path: &[u8],
    commit: Oid,
    lines: Lines,
) -> Result<Vec<Group>, Failure> {
    let mut command = project
        .git()
        .command(["blame", "--first-parent", "--porcelain"]);
    if let Some((first, last)) = lines {
        command.arg(format!("-L{first},{last}"));
    }
    let path = OsStr::from_bytes(path);
    command.arg(commit.to_string()).arg("--").arg(path);
    let printed = super::git::run(&mut command).map_err(|failure| {
        let path = Path::new(path);
        match failure.message.contains("has only") {
            true => Failure::at(
                "no such line",
                path,
                failure.message.replace("git blame: ", ""),
            ),
            false => Failure::at("cannot tell", path, failure.message),
        }
    })?;
    Ok(parse_blame(&printed.stdout))
}

/// Reads `git blame --porcelain`: a head for each line, its text after a tab.
fn parse_blame(printed: &[u8]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let (mut commit, mut born, mut number) = (Oid::default(), 0, 0);
    for line in printed.split(|byte| *byte == b'\n') {
        if let Some(text) = line.strip_prefix(b"\t") {
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            let text = String::from_utf8_lossy(text).into_owned();
            match groups.last_mut() {
                Some(last)
                    if last.commit == commit
                        && last.line + last.count() == number
                        && last.born + last.count() == born =>
                {
                    last.text.push(text);
                }
                _ => groups.push(Group {
                    line: number,
                    text: vec![text],
                    commit,
                    born,
                }),
            }
            continue;
        }
        let head = String::from_utf8_lossy(line);
        let mut words = head.split(' ');
        if let (Some(Ok(oid)), Some(Ok(first)), Some(Ok(at))) = (
            words.next().map(str::parse),
            words.next().map(str::parse),
            words.next().map(str::parse),
        ) {
            (commit, born, number) = (oid, first, at);
        }
    }
    groups
}

/// What the checkpoints behind some groups of lines say.
struct Origins<'p> {
    project: &'p Project,
    path: Vec<u8>,
    known: HashMap<Oid, (Checkpoint, Option<Change>)>,
    /// What was asked and said before a call, by its id.
    said: HashMap<String, words::Said>,
}

impl<'p> Origins<'p> {
    fn read(project: &'p Project, groups: &[Group], path: &[u8]) -> Result<Origins<'p>, Failure> {
        let objects = Objects::new(&project.store);
        let mut found: Vec<Checkpoint> = Vec::new();
        for group in groups {
            if found
                .iter()
                .any(|checkpoint| checkpoint.commit == group.commit)
            {
                continue;
            }
            // What is not recorded yet has no checkpoint.
            if let Ok(checkpoint) = commit::read(project, &objects, group.commit) {
                found.push(checkpoint);
            }
        }
        history::fill(project, &mut found)?;
        let pairs = history::pairs(project, &found)?;
        let changes = history::changes(project, &pairs, Some(path))?;
        let mut said = HashMap::new();
        for checkpoint in &mut found {
            let note = &mut checkpoint.note;
            for call in std::iter::once(&mut note.call).chain(&mut note.others) {
                let Some(id) = &call.id else { continue };
                let words = said
                    .entry(id.clone())
                    .or_insert_with(|| words::before(call));
                if call.prompt.is_none() {
                    call.prompt.clone_from(&words.prompt);
                }
            }
        }
        let of_file = |changes: Vec<Change>| changes.into_iter().find(|c| c.path == path);
        let known = found
            .into_iter()
            .zip(changes)
            .map(|(checkpoint, changes)| (checkpoint.commit, (checkpoint, of_file(changes))))
            .collect();
        Ok(Origins {
            project,
            path: path.to_vec(),
            known,
            said,
        })
    }

    fn calls<'a>(&self, note: &'a Note) -> Vec<&'a Call> {
        match author(note, &self.path, &self.project.dir) {
            Author::Nobody => Vec::new(),
            Author::Call(call) => vec![call],
            Author::Shared(calls) => calls,
        }
    }

    /// What the agent said before the one call that is responsible.
    fn words(&self, calls: &[&Call]) -> Option<&str> {
        let [call] = calls else { return None };
        self.said.get(call.id.as_ref()?)?.words.as_deref()
    }

    /// All that is known about some lines, or a line for each of a whole file.
    fn text(&self, groups: &[Group], in_full: bool) -> String {
        let unrecorded = Note {
            message: "not in any checkpoint yet".into(),
            time: now_ms(),
            version: 0,
            ..Note::default()
        };
        let origins: Vec<Origin> = groups
            .iter()
            .map(|group| {
                let found = self.known.get(&group.commit);
                let note = found.map_or(&unrecorded, |(checkpoint, _)| &checkpoint.note);
                let calls = self.calls(note);
                Origin {
                    line: group.line,
                    text: group.text.clone(),
                    note,
                    change: found.and_then(|(_, change)| change.as_ref()),
                    words: self.words(&calls),
                    calls,
                }
            })
            .collect();
        let show = if in_full {
            timeline::blame
        } else {
            timeline::annotated
        };
        show(&origins, terminal::columns(), &Painter::stdout())
    }

    fn json(&self, groups: &[Group]) -> Value {
        let rows = groups.iter().map(|group| {
            let Some((checkpoint, change)) = self.known.get(&group.commit) else {
                return json!({"line": group.line, "text": group.text, "checkpoint": null});
            };
            let calls = self.calls(&checkpoint.note);
            let changes = change.as_slice();
            json!({
                "line": group.line,
                "text": group.text,
                "checkpoint": render::json(checkpoint, None, changes),
                "by": match calls.len() { 0 => "nobody", 1 => "call", _ => "shared" },
                "calls": calls.iter().map(|call| json!({
                    "session_id": call.session,
                    "tool": call.tool,
                    "tool_use_id": call.id,
                    "prompt": call.prompt,
                })).collect::<Value>(),
                "agent_said": self.words(&calls),
            })
        });
        rows.collect()
    }
}

pub fn history(given: &mut Given) -> Result<Reply, Failure> {
    let project = cli::project(given)?;
    let file = given.operand();
    if given.flag("blame") {
        let question = question(&project, &file)?;
        let groups = groups(&project, &question)?;
        let origins = Origins::read(&project, &groups, &question.path)?;
        return Ok(match given.flag("json") {
            true => Reply::Json(origins.json(&groups)),
            false => Reply::Text(origins.text(&groups, false)),
        });
    }
    let path = project.relative(&file)?;
    let mut found = history::of_head(&project, None, Some(&path))?;
    if found.is_empty() {
        return Err(
            Failure::at("no history", Path::new(&file), "no checkpoint changed it")
                .advise("see `agentfs status` for what is left out"),
        );
    }
    history::fill(&project, &mut found)?;
    let pairs = history::pairs(&project, &found)?;
    let changes = history::changes(&project, &pairs, Some(&path))?;
    if given.flag("json") {
        let all = history::head(&project)?;
        return Ok(Reply::Json(render::list_json(
            &found,
            &Parents::among(&all),
            &changes,
        )));
    }
    let rows = moments(found, changes);
    Ok(Reply::Text(timeline::history(
        &path,
        &rows,
        terminal::columns(),
        &Painter::stdout(),
    )))
}

fn moments(checkpoints: Vec<Checkpoint>, changes: Vec<Vec<Change>>) -> Vec<Moment> {
    let rows = checkpoints.into_iter().zip(changes);
    rows.map(|(checkpoint, changes)| Moment {
        checkpoint,
        changes,
    })
    .collect()
}

/// All checkpoints of the current branch with their changes, the oldest first; only those of a session,
/// if one is named.
fn all_moments(project: &Project, session: Option<&str>) -> Result<Vec<Moment>, Failure> {
    let mut found = history::head(project)?;
    if let Some(session) = session {
        found.retain(|checkpoint| is_of_session(checkpoint, session));
        if found.is_empty() {
            return Err(
                Failure::new(format!("no session {session} made a checkpoint"))
                    .advise("see `agentfs sessions`"),
            );
        }
    }
    found.reverse();
    history::fill(project, &mut found)?;
    let pairs = history::pairs(project, &found)?;
    let changes = history::changes(project, &pairs, None)?;
    Ok(moments(found, changes))
}

/// What one session did, in the order of its checkpoints.
struct Session<'m> {
    id: &'m str,
    moments: Vec<&'m Moment>,
}

impl<'m> Session<'m> {
    /// Every session among the moments, the one with the newest checkpoint first.
    fn all(moments: &'m [Moment]) -> Vec<Session<'m>> {
        let mut sessions: Vec<Session> = Vec::new();
        let found = moments.iter().flat_map(|moment| {
            let ids = moment.checkpoint.note.sessions();
            ids.map(move |id| (id, moment))
        });
        for (id, moment) in found {
            match sessions.iter_mut().find(|session| session.id == id) {
                Some(session) => session.moments.push(moment),
                None => sessions.push(Session {
                    id,
                    moments: vec![moment],
                }),
            }
        }
        sessions.sort_by_key(|session| std::cmp::Reverse(session.end()));
        sessions
    }

    fn start(&self) -> i64 {
        self.moments
            .first()
            .map_or(0, |moment| moment.checkpoint.note.time)
    }

    fn end(&self) -> i64 {
        self.moments
            .last()
            .map_or(0, |moment| moment.checkpoint.note.time)
    }

    /// The session's own call behind a checkpoint.
    fn call_of(&self, moment: &'m Moment) -> &'m Call {
        let note = &moment.checkpoint.note;
        let mut calls = note.calls();
        let own = calls.find(|call| call.session.as_deref() == Some(self.id));
        own.unwrap_or(&note.call)
    }

    /// What was asked, each once, in order.
    fn prompts(&self) -> Vec<&'m str> {
        let mut prompts: Vec<&str> = Vec::new();
        for moment in &self.moments {
            if let Some(prompt) = self.call_of(moment).prompt.as_deref()
                && !prompts.contains(&prompt)
            {
                prompts.push(prompt);
            }
        }
        prompts
    }

    /// Changed files with how often each was, the most often first.
    fn files(&self) -> Vec<(&'m [u8], usize)> {
        let mut counts: HashMap<&[u8], usize> = HashMap::new();
        for change in self.moments.iter().flat_map(|moment| &moment.changes) {
            *counts.entry(&change.path).or_default() += 1;
        }
        let mut files: Vec<_> = counts.into_iter().collect();
        files.sort_by_key(|(path, count)| (std::cmp::Reverse(*count), *path));
        files
    }

    fn json(&self) -> Value {
        json!({
            "id": self.id,
            "started": size::rfc3339(self.start()),
            "ended": size::rfc3339(self.end()),
            "checkpoints": self.moments.len(),
            "prompts": self.prompts(),
            "files": self.files().iter().map(|(path, count)| json!({
                "path": String::from_utf8_lossy(path),
                "checkpoints": count,
            })).collect::<Value>(),
        })
    }

    /// Whichever call knows most about where the transcript is.
    fn call(&self) -> Call {
        let last = self.moments.last();
        last.map_or_else(Call::default, |moment| self.call_of(moment).clone())
    }
}

fn duration(milliseconds: i64) -> String {
    size::duration(std::time::Duration::from_millis(
        milliseconds.max(0).unsigned_abs(),
    ))
}

pub fn sessions(given: &mut Given) -> Result<Reply, Failure> {
    let project = cli::project(given)?;
    let moments = all_moments(&project, None)?;
    let sessions = Session::all(&moments);
    if given.flag("json") {
        return Ok(Reply::Json(sessions.iter().map(Session::json).collect()));
    }
    if sessions.is_empty() {
        return Ok(Reply::Text(
            "no session has made a checkpoint; see `agentfs help install-hooks`\n".into(),
        ));
    }
    let (paint, now, columns) = (Painter::stdout(), now_ms(), terminal::columns());
    let lines = sessions.iter().map(|session| {
        let head = format!(
            "{}  {:<8}  {:<11}  {:<15}  {:<9}",
            paint.line(session.id),
            render::ago(session.end(), now),
            duration(session.end() - session.start()),
            size::count(session.moments.len() as u64, "checkpoint"),
            size::count(session.files().len() as u64, "file"),
        );
        let prompt = session
            .prompts()
            .first()
            .map(|prompt| paint.line(prompt))
            .unwrap_or_default();
        let room = columns.saturating_sub(terminal::width(&head) + 4).max(20);
        format!("{head}  \"{}\"\n", paint.cut(&prompt, room))
    });
    Ok(Reply::Text(lines.collect()))
}

pub fn session(given: &mut Given) -> Result<Reply, Failure> {
    let project = cli::project(given)?;
    let id = given.operand();
    let id = cli::reference(&id)?;
    let mut moments = all_moments(&project, Some(id))?;
    recall(&mut moments, id);
    let mut sessions = Session::all(&moments);
    // Others only share some of its checkpoints.
    sessions.retain(|session| session.id.starts_with(id));
    let [session] = sessions.as_slice() else {
        let ids: Vec<&str> = sessions.iter().map(|session| session.id).collect();
        return Err(
            Failure::new(format!("{id} may be {}", ids.join(" or "))).advise("give more of the id")
        );
    };
    let said = words::at_end(&session.call());
    if given.flag("json") {
        let mut value = session.json();
        value["agent_said"] = json!(said.words);
        let parents = Parents::among(moments.iter().map(|moment| &moment.checkpoint));
        value["log"] = moments
            .iter()
            .map(|m| render::json(&m.checkpoint, parents.of(&m.checkpoint), &m.changes))
            .collect();
        return Ok(Reply::Json(value));
    }
    let (paint, columns) = (Painter::stdout(), terminal::columns());
    if given.flag("timeline") {
        return Ok(Reply::Text(timeline::timeline(
            &project.name,
            &moments,
            columns,
            &paint,
        )));
    }
    Ok(Reply::Text(told(
        session,
        said.words.as_deref(),
        columns,
        &paint,
    )))
}

/// Reads the prompts of a session that no hook heard of from its transcript.
fn recall(moments: &mut [Moment], id: &str) {
    let notes = moments.iter_mut().map(|moment| &mut moment.checkpoint.note);
    let calls = notes.flat_map(|note| std::iter::once(&mut note.call).chain(&mut note.others));
    let mut silent: Vec<&mut Call> = calls
        .filter(|call| call.prompt.is_none())
        .filter(|call| call.session.as_deref().is_some_and(|s| s.starts_with(id)))
        .collect();
    let Some(one) = silent.first() else {
        return;
    };
    let ids = silent.iter().filter_map(|call| call.id.clone()).collect();
    let said = words::before_each(one, &ids);
    for call in &mut silent {
        let found = call.id.as_ref().and_then(|id| said.get(id));
        call.prompt = found.and_then(|said| said.prompt.clone());
    }
}

/// A session prompt by prompt, each with what followed from it.
fn told(session: &Session, words: Option<&str>, columns: usize, paint: &Painter) -> String {
    let mut out = format!(
        "session {}  {}, {}\n",
        paint.bold(&paint.line(session.id)),
        duration(session.end() - session.start()),
        size::count(session.moments.len() as u64, "checkpoint"),
    );
    let mut asked: Option<&str> = None;
    for moment in &session.moments {
        let note = &moment.checkpoint.note;
        let call = session.call_of(moment);
        let prompt = call.prompt.as_deref();
        if prompt.is_some() && prompt != asked {
            let text = paint.cut(
                &paint.line(prompt.unwrap_or_default()),
                columns.saturating_sub(4),
            );
            out.push_str(&format!("\n{}\n", paint.cyan(&format!("> {text}"))));
            asked = prompt;
        }
        out.push_str(&format!(
            "  {}  {:<12}  {:<10}  {}\n",
            paint.yellow(&format!("{:<5}", format!("v{}", note.version))),
            paint.line(call.tool.as_deref().unwrap_or("-")),
            render::total(&moment.changes),
            paint.cut(
                &paint.line(&render::subject(&note.message)),
                columns.saturating_sub(36).max(20)
            ),
        ));
    }
    if let Some(words) = words {
        let text = paint.cut(&paint.line(words), columns.saturating_sub(4).max(200));
        out.push_str(&format!("\nlast words: {text}\n"));
    }
    let files = session.files();
    let most: Vec<String> = files
        .iter()
        .take(5)
        .map(|(path, count)| format!("{} ({count}x)", render::path(path)))
        .collect();
    out.push_str(&format!("\nfiles most changed: {}\n", most.join(", ")));
    out
}

pub fn timeline(given: &mut Given) -> Result<Reply, Failure> {
    let project = cli::project(given)?;
    let moments = all_moments(&project, None)?;
    if given.flag("json") {
        let parents = Parents::among(moments.iter().map(|moment| &moment.checkpoint));
        let rows = moments.iter();
        let rows = rows.map(|m| render::json(&m.checkpoint, parents.of(&m.checkpoint), &m.changes));
        return Ok(Reply::Json(rows.collect()));
    }
    let (columns, paint) = (terminal::columns(), Painter::stdout());
    Ok(Reply::Text(timeline::timeline(
        &project.name,
        &moments,
        columns,
        &paint,
    )))
}

/// The most bytes of one diff on the page, and of all of them.
const DIFF_MAX: usize = 64 << 10;
const DIFFS_MAX: usize = 32 << 20;

pub fn viz(given: &mut Given) -> Result<Reply, Failure> {
    let project = cli::project(given)?;
    let session = cli::text(given, "session")?;
    let moments = all_moments(&project, session.as_deref())?;
    let data = page_data(&project, &moments)?;
    if given.flag("json") {
        return Ok(Reply::Json(data));
    }
    let output = given.path("output")?;
    let output = output.unwrap_or_else(|| project.own("history.html"));
    std::fs::write(&output, page::page(&data))
        .map_err(|error| Failure::at("cannot write", &output, error))?;
    Ok(Reply::Text(format!("{}\n", output.display())))
}

fn page_data(project: &Project, moments: &[Moment]) -> Result<Value, Failure> {
    let parents = Parents::among(moments.iter().map(|moment| &moment.checkpoint));
    let checkpoints: Vec<Checkpoint> = moments.iter().map(|m| m.checkpoint.clone()).collect();
    let mut room = DIFFS_MAX;
    let pairs = history::pairs(project, &checkpoints)?;
    let mut rows = Vec::with_capacity(moments.len());
    for (moment, diffs) in moments
        .iter()
        .zip(history::diffs(project, &pairs, DIFF_MAX)?)
    {
        let mut value = render::json(
            &moment.checkpoint,
            parents.of(&moment.checkpoint),
            &moment.changes,
        );
        value["diffs"] = moment
            .changes
            .iter()
            .map(|change| {
                let found = diffs.iter().find(|diff| diff.path == change.path);
                let text = found
                    .filter(|_| change.added.is_some())
                    .map(|diff| diff.text.as_str());
                let text = text.filter(|text| text.len() <= room);
                room -= text.map_or(0, str::len);
                let mut value = render::change_json(change);
                value["text"] = json!(text);
                value["cut"] = json!(
                    found.is_some_and(|diff| diff.cut)
                        || (text.is_none() && change.added.is_some())
                );
                value
            })
            .collect();
        rows.push(value);
    }
    let mut sessions = Session::all(moments);
    sessions.reverse();
    Ok(json!({
        "project": project.name,
        "dir": project.dir.to_string_lossy(),
        "generated": size::rfc3339(now_ms()),
        "sessions": sessions.iter().map(|s| json!({"id": s.id, "prompts": s.prompts()})).collect::<Value>(),
        "checkpoints": rows,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_named_after_the_last_colon() {
        let split = |word: &'static str| split_lines(word.as_bytes()).unwrap();
        assert_eq!(split("a.rs:42"), (&b"a.rs"[..], Some((42, 42))));
        assert_eq!(split("a.rs:4-8"), (&b"a.rs"[..], Some((4, 8))));
        assert_eq!(split("a:b"), (&b"a:b"[..], None));
        assert!(split_lines(b"a.rs:0").is_err());
        assert!(split_lines(b"a.rs:9-3").is_err());
    }

    #[test]
    fn lines_of_one_checkpoint_that_follow_each_other_are_a_group() {
        let (a, b) = ("a".repeat(40), "b".repeat(40));
        let printed = format!(
            "{a} 1 1 2\nauthor x\nfilename f\n\tone\n{a} 2 2\n\ttwo\n{b} 9 3 1\nsummary s\n\tthree\r\n"
        );
        let groups = parse_blame(printed.as_bytes());
        let seen: Vec<_> = groups.iter().map(|g| (g.line, g.text.join("|"))).collect();
        assert_eq!(seen, [(1, "one|two".to_owned()), (3, "three".to_owned())]);
    }
}
