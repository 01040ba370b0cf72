//! Commands that look at checkpoints: lists, differences, files as they were.

use std::os::unix::ffi::OsStrExt;

use serde_json::{Value, json};

use super::cli::{self, Reply};
use super::history;
use super::note::{Change, Checkpoint};
use super::oid::Oid;
use super::project::Project;
use super::reference::{self, Resolver};
use super::render::{self, Parents};
use super::sdk;
use super::terminal::Painter;
use super::words;
use super::writer::now_ms;
use crate::exit::Failure;
use crate::usage::Given;

pub fn log(given: &mut Given) -> Result<Reply, Failure> {
    let project = cli::project_or_named(given)?;
    let most: Option<usize> = given.number("number")?;
    let session = cli::text(given, "session")?;
    let path = match given.value("file") {
        Some(file) => Some(project.relative(file)?),
        None => None,
    };
    // A session's checkpoints are not next to each other: all have to be looked at.
    let limit = most.filter(|_| session.is_none());
    let mut found = history::of_head(&project, limit, path.as_deref())?;
    if let Some(session) = &session {
        found.retain(|c| is_of_session(c, session));
        found.truncate(most.unwrap_or(usize::MAX));
    }
    if given.flag("json") {
        history::fill(&project, &mut found)?;
        let pairs = history::pairs(&project, &found)?;
        let changes = history::changes(&project, &pairs, None)?;
        let all = history::head(&project)?;
        return Ok(Reply::Json(render::list_json(
            &found,
            &Parents::among(&all),
            &changes,
        )));
    }
    Ok(Reply::Text(listed(&found)))
}

/// Whether a checkpoint is of the session that begins so, if only among others.
pub fn is_of_session(checkpoint: &Checkpoint, session: &str) -> bool {
    let mut ids = checkpoint.note.sessions();
    ids.any(|id| id.starts_with(session))
}

/// One line for each: number, id, age, tool and message.
fn listed(checkpoints: &[Checkpoint]) -> String {
    let (paint, now) = (Painter::stdout(), now_ms());
    let width = |of: &dyn Fn(&Checkpoint) -> usize| checkpoints.iter().map(of).max().unwrap_or(0);
    let version = |c: &Checkpoint| format!("v{}", c.note.version);
    let ago = |c: &Checkpoint| render::ago(c.note.time, now);
    let tool = |c: &Checkpoint| paint.line(c.note.call.tool.as_deref().unwrap_or("-"));
    let versions = width(&|c| version(c).len());
    let agos = width(&|c| ago(c).len());
    let tools = width(&|c| tool(c).chars().count()).min(20);
    let lines = checkpoints.iter().map(|c| {
        let pin = if c.note.pinned { " [pinned]" } else { "" };
        format!(
            "{}  {}  {:<agos$}  {:<tools$}  \"{}\"{pin}\n",
            paint.yellow(&format!("{:<versions$}", version(c))),
            c.note.id,
            ago(c),
            tool(c),
            paint.line(&render::subject(&c.note.message)),
        )
    });
    lines.collect()
}

pub fn changes(given: &mut Given) -> Result<Reply, Failure> {
    let project = cli::project(given)?;
    let since = cli::text(given, "since")?;
    let since = since.as_deref().unwrap_or("@-1");
    let resolver = Resolver::new(&project)?;
    // Longer ago than the first checkpoint: everything since that one.
    let from = match reference::duration(since.trim_start_matches('@')) {
        Some(_) => resolver
            .find(since)
            .ok()
            .or_else(|| resolver.line.last().cloned()),
        None => Some(resolver.find(since)?),
    };
    let from = from.map_or(Oid::EMPTY_TREE, |checkpoint| checkpoint.tree);
    let now = sdk::now(&project)?;
    let changes = history::changes(&project, &[(from, now)], None)?
        .pop()
        .unwrap_or_default();
    if given.flag("json") {
        return Ok(Reply::Json(
            changes.iter().map(render::change_json).collect(),
        ));
    }
    Ok(Reply::Text(match changes.is_empty() {
        true => "nothing has changed\n".into(),
        false => coloured(&changes),
    }))
}

fn coloured(changes: &[Change]) -> String {
    let paint = Painter::stdout();
    let lines = changes.iter().map(|change| {
        let line = render::files(std::slice::from_ref(change));
        match change.status {
            'A' => paint.green(line.trim_end()) + "\n",
            'D' => paint.red(line.trim_end()) + "\n",
            _ => line,
        }
    });
    lines.collect()
}

pub fn diff(given: &mut Given) -> Result<Reply, Failure> {
    let project = cli::project(given)?;
    let (from, to) = (given.operand(), given.more_operands().pop());
    let resolver = Resolver::new(&project)?;
    let from = resolver.find(cli::reference(&from)?)?;
    let to = match &to {
        Some(to) => resolver.find(cli::reference(to)?)?.tree,
        None => sdk::now(&project)?,
    };
    let pair = (from.tree, to);
    if given.flag("json") {
        let changes = history::changes(&project, &[pair], None)?
            .pop()
            .unwrap_or_default();
        return Ok(Reply::Json(
            changes.iter().map(render::change_json).collect(),
        ));
    }
    Ok(Reply::Text(patch(&project, pair)?))
}

/// The difference between two trees as git writes it.
fn patch(project: &Project, (from, to): history::Pair) -> Result<String, Failure> {
    let paint = Painter::stdout();
    let colour = if paint.colour {
        "--color=always"
    } else {
        "--color=never"
    };
    let args = [
        "diff-tree",
        "-r",
        "-p",
        "--no-ext-diff",
        "--no-textconv",
        colour,
    ];
    let (from, to) = (from.to_string(), to.to_string());
    let printed = project
        .git()
        .output(args.into_iter().chain([from.as_str(), to.as_str()]))?;
    Ok(String::from_utf8_lossy(&printed).into_owned())
}

pub fn show(given: &mut Given) -> Result<Reply, Failure> {
    let project = cli::project(given)?;
    let word = given.operand();
    let resolver = Resolver::new(&project)?;
    // A checkpoint alone, unless a file is called so.
    let alone = !word.as_bytes().iter().skip(1).any(|byte| *byte == b'@');
    let meant = word.to_str().filter(|_| alone);
    let known = meant.map(|text| resolver.find(text));
    if let Some(Ok(checkpoint)) = known {
        return about(given, &project, &resolver, checkpoint);
    }
    let (file, at) = reference::split_file(word.as_bytes());
    let checkpoint = resolver.find(&at)?;
    let path = project.relative(std::ffi::OsStr::from_bytes(file))?;
    let content = match (content(&project, &checkpoint, &path), known) {
        // What can only be a checkpoint is not missed as a file.
        (Err(_), Some(Err(unknown))) if meant.is_some_and(reference::is_other_than_branch) => {
            return Err(unknown);
        }
        (content, _) => content?,
    };
    if given.flag("json") {
        return Ok(Reply::Json(json!({
            "path": String::from_utf8_lossy(&path),
            "checkpoint": checkpoint.note.id,
            "size": content.len(),
            "text": String::from_utf8(content).ok(),
        })));
    }
    Ok(Reply::Bytes(content))
}

/// A file's bytes in a checkpoint.
pub fn content(project: &Project, at: &Checkpoint, path: &[u8]) -> Result<Vec<u8>, Failure> {
    let oid = blob(project, at.tree, path)?.ok_or_else(|| {
        let file = std::path::Path::new(std::ffi::OsStr::from_bytes(path));
        Failure::at("no such file", file, format!("not in v{}", at.note.version))
            .advise("see `agentfs history`")
    })?;
    project.git().object(&oid.to_string())
}

/// The object that holds a file in a tree; `None` where there is no file.
pub fn blob(project: &Project, tree: Oid, path: &[u8]) -> Result<Option<Oid>, Failure> {
    let args = ["ls-tree", "-z", "--full-tree"];
    let mut command = project.git().command(args);
    let literal = history::literal(path);
    command.arg(tree.to_string()).arg("--").arg(literal);
    let listed = super::git::run(&mut command)?.stdout;
    let head = listed
        .split(|byte| *byte == b'\t')
        .next()
        .unwrap_or_default();
    let head = String::from_utf8_lossy(head);
    let words: Vec<&str> = head.split_whitespace().collect();
    Ok(match words[..] {
        [_, "blob", oid] => oid.parse().ok(),
        _ => None,
    })
}

fn about(
    given: &Given,
    project: &Project,
    resolver: &Resolver,
    checkpoint: Checkpoint,
) -> Result<Reply, Failure> {
    let mut one = [checkpoint];
    history::fill(project, &mut one)?;
    let pairs = history::pairs(project, &one)?;
    let changes = history::changes(project, &pairs, None)?
        .pop()
        .unwrap_or_default();
    let parents = Parents::among(&resolver.line);
    let said = words::before(&one[0].note.call);
    let note = &mut one[0].note;
    note.call.prompt = note.call.prompt.take().or(said.prompt);
    if given.flag("json") {
        let mut value: Value = render::json(&one[0], parents.of(&one[0]), &changes);
        value["agent_said"] = json!(said.words);
        return Ok(Reply::Json(value));
    }
    let paint = Painter::stdout();
    let note = &one[0].note;
    let mut out = format!(
        "{} {}  {}\n",
        paint.yellow(&format!("v{}", note.version)),
        note.id,
        crate::size::rfc3339(note.time)
    );
    let input = note.call.input.as_ref().map(Value::to_string);
    for (name, value) in [
        ("message", Some(note.message.as_str())),
        ("trigger", Some(note.trigger.name())),
        ("agent", note.call.agent.as_deref()),
        ("session", note.call.session.as_deref()),
        ("tool", note.call.tool.as_deref()),
        ("input", input.as_deref()),
        ("prompt", note.call.prompt.as_deref()),
        ("said", said.words.as_deref()),
        ("restored", note.restored.as_deref()),
    ] {
        if let Some(value) = value {
            out.push_str(&format!(
                "{name:<9} {}\n",
                paint.cut(&paint.line(value), 400)
            ));
        }
    }
    out.push('\n');
    out.push_str(&render::files(&changes));
    out.push('\n');
    out.push_str(&patch(project, pairs[0])?);
    Ok(Reply::Text(out))
}
