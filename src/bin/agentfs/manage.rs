//! Commands about projects as a whole, and the one that makes a checkpoint by hand.

use std::path::Path;

use serde_json::{Value, json};

use super::cli::{self, Reply};
use super::history::{self, Differ, Lines};
use super::maintenance::Stored;
use super::note::{Checkpoint, Note, Trigger};
use super::project::{self, Project};
use super::record;
use super::scan::Budget;
use super::terminal::Painter;
use super::writer::{Writer, now_ms};
use super::{hook, refs, render};
use crate::exit::Failure;
use crate::size;
use crate::usage::Given;

pub fn init(given: &mut Given) -> Result<Reply, Failure> {
    let mut words = given.more_operands().into_iter();
    let (name, dir) = (words.next(), words.next());
    let dir = match (dir, given.path("directory")?) {
        (Some(dir), _) => dir.into(),
        (None, Some(dir)) => dir,
        (None, None) => cli::current_dir()?,
    };
    let name = match &name {
        Some(name) => Some(cli::reference(name)?),
        None => None,
    };
    let (project, first) = record::init(name, &dir, given.flag("force"))?;
    super::maintenance::pack_soon(&project);
    let writer = Writer::insist(&project)?;
    let count = count_files(&writer);
    if given.flag("json") {
        return Ok(Reply::Json(json!({
            "name": project.name,
            "dir": project.dir.to_string_lossy(),
            "store": project.store.to_string_lossy(),
            "files": count,
            "checkpoint": render::json(&first, None, &[]),
        })));
    }
    let mut out = format!(
        "recording {} as {}: {}, checkpoint v1 ({})\n",
        project.dir.display(),
        project.name,
        size::count(count, "file"),
        first.note.id
    );
    for option in ["size", "band-size"] {
        if given.flag(option) {
            out.push_str(&format!(
                "--{option} is not needed: the history takes what it takes\n"
            ));
        }
    }
    out.push_str("for a checkpoint at every tool call of Claude Code: agentfs install-hooks\n");
    Ok(Reply::Text(out))
}

fn count_files(writer: &Writer) -> u64 {
    let mut count = 0;
    writer.index.root.leaves(&mut |_, _| count += 1);
    count
}

pub fn status(given: &mut Given) -> Result<Reply, Failure> {
    let project = cli::project(given)?;
    let mut writer = Writer::insist(&project)?;
    writer.scan(Budget::NONE)?;
    writer.save()?;
    let changed = match &writer.tip {
        Some(tip) => {
            let pair = (tip.tree, writer.index.root.oid);
            history::changes(&project, &[pair], None)?
                .pop()
                .unwrap_or_default()
        }
        None => Vec::new(),
    };
    let files = count_files(&writer);
    let left_out = record::left_out(&writer);
    let (branch, tip) = (writer.branch.clone(), writer.tip.clone());
    drop(writer);
    let count = match &tip {
        Some(_) => history::count(&project)?,
        None => 0,
    };
    let stored = Stored::of(&project)?;
    let stored = stored.loose + stored.packed;
    let troubles = hook::troubles(&project, 5);
    if given.flag("json") {
        return Ok(Reply::Json(json!({
            "name": project.name,
            "dir": project.dir.to_string_lossy(),
            "store": project.store.to_string_lossy(),
            "branch": branch,
            "newest": tip.as_ref().map(|tip| render::json(tip, None, &[])),
            "checkpoints": count,
            "files": files,
            "stored_bytes": stored,
            "changed": changed.iter().map(render::change_json).collect::<Value>(),
            "left_out": left_out,
            "troubles": troubles,
        })));
    }
    let paint = Painter::stdout();
    let mut out = format!(
        "{} {}, branch {branch}\n",
        paint.bold(&paint.line(&project.name)),
        paint.line(&project.dir.to_string_lossy())
    );
    if let Some(tip) = &tip {
        out.push_str(&format!(
            "newest:    {} {} {}  {}\n",
            paint.yellow(&format!("v{}", tip.note.version)),
            tip.note.id,
            render::ago(tip.note.time, now_ms()),
            paint.line(&render::subject(&tip.note.message)),
        ));
    }
    out.push_str(&format!(
        "history:   {}, {} in {}\n",
        size::count(count, "checkpoint"),
        size::bytes(stored),
        paint.line(&project.store.to_string_lossy())
    ));
    match changed.len() {
        0 => out.push_str(&format!(
            "now:       {}, as in the newest\n",
            size::count(files, "file")
        )),
        n => {
            let noun = size::count(n as u64, "file");
            out.push_str(&format!("now:       {noun} changed since the newest\n"));
            out.push_str(&render::files(&changed));
        }
    }
    for line in left_out {
        out.push_str(&format!("left out:  {}\n", paint.line(&line)));
    }
    for line in &troubles {
        out.push_str(&paint.red(&format!("trouble:   {}", paint.line(line))));
        out.push('\n');
    }
    Ok(Reply::Text(out))
}

/// A project and where it is, as JSON.
fn place(project: &Project) -> Value {
    json!({
        "name": project.name,
        "dir": project.dir.to_string_lossy(),
        "store": project.store.to_string_lossy(),
        "exists": project.dir.is_dir(),
    })
}

pub fn list(given: &mut Given) -> Result<Reply, Failure> {
    let projects = project::all()?;
    if given.flag("json") {
        return Ok(Reply::Json(projects.iter().map(place).collect()));
    }
    if projects.is_empty() {
        return Ok(Reply::Text(
            "nothing is recorded; see `agentfs help init`\n".into(),
        ));
    }
    let paint = Painter::stdout();
    let width = projects
        .iter()
        .map(|p| p.name.chars().count())
        .max()
        .unwrap_or(0);
    let rows = projects.iter().map(|project| {
        let gone = if project.dir.is_dir() {
            ""
        } else {
            "  (gone; see `agentfs help relocate`)"
        };
        let dir = paint.line(&project.dir.to_string_lossy());
        format!("{:<width$}  {dir}{gone}\n", paint.line(&project.name))
    });
    Ok(Reply::Text(rows.collect()))
}

pub fn relocate(given: &mut Given) -> Result<Reply, Failure> {
    let to = given.operand();
    let mut project = moved(given, Path::new(&to))?;
    let from = project.dir.clone();
    if from.is_dir() && from != crate::paths::resolve(Path::new(&to)) {
        return Err(
            Failure::at("the project has not moved", &from, "it is still there")
                .advise("run `agentfs init` in a copy"),
        );
    }
    project.relocate(Path::new(&to))?;
    if given.flag("json") {
        return Ok(Reply::Json(place(&project)));
    }
    let (from, to) = (from.display(), project.dir.display());
    Ok(Reply::Text(format!(
        "{}: {to} (was {from})\n",
        project.name
    )))
}

/// The project meant by `relocate`: named, or the only one whose directory is gone.
fn moved(given: &Given, to: &Path) -> Result<Project, Failure> {
    if let Some(name) = given.value("directory") {
        let mut all = project::all()?;
        let path = Path::new(name);
        all.retain(|p| p.name.as_str() == name || p.dir == path);
        return all.pop().ok_or_else(|| {
            Failure::at("no project", path, "neither name nor directory")
                .advise("see `agentfs list`")
        });
    }
    let mut gone = project::all()?;
    gone.retain(|project| !project.dir.is_dir());
    let same_name = |p: &Project| p.dir.file_name() == crate::paths::resolve(to).file_name();
    if gone.len() > 1 {
        gone.retain(same_name);
    }
    match gone.len() {
        1 => Ok(gone.remove(0)),
        0 => Err(Failure::new("no project's directory is gone").advise("name it: -C NAME")),
        _ => Err(Failure::new("several projects' directories are gone").advise("name it: -C NAME")),
    }
}

pub fn forget(given: &mut Given) -> Result<Reply, Failure> {
    let project = cli::project_or_named(given)?;
    project.forget()?;
    if given.flag("json") {
        return Ok(Reply::Json(place(&project)));
    }
    Ok(Reply::Text(format!(
        "{} is not recorded any more; its history stays in {}\n",
        project.dir.display(),
        project.store.display()
    )))
}

pub fn nothing_to_mount(given: &mut Given) -> Result<Reply, Failure> {
    let project = cli::project_or_named(given)?;
    if given.flag("json") {
        return Ok(Reply::Json(place(&project)));
    }
    Ok(Reply::Text(format!(
        "nothing to mount: work in {}\n",
        project.dir.display()
    )))
}

pub fn checkpoint(given: &mut Given) -> Result<Reply, Failure> {
    let project = cli::project(given)?;
    let message = given.more_operands().pop();
    let mut note = Note {
        message: message
            .map(|m| m.to_string_lossy().into_owned())
            .unwrap_or_default(),
        trigger: Trigger::Manual,
        pinned: given.flag("pin"),
        ..Note::default()
    };
    note.call.tool = cli::text(given, "tool")?;
    note.call.session = cli::text(given, "session")?;
    note.call.agent = cli::text(given, "agent")?;
    note.call.prompt = cli::text(given, "prompt")?;
    if let Some(context) = cli::text(given, "context")? {
        record::apply_context(&mut note, &context)?;
    }
    // Counting lines takes longer than all the rest.
    let lines = match given.flag("json") {
        true => Lines::Counted,
        false => Lines::Left,
    };
    let mut differ = Differ::start(&project, None, lines)?;
    let made = record::checkpoint_compared(&project, note, |pair| differ.begin(pair))?;
    told(given, &project, made.as_ref(), differ)
}

/// A new checkpoint with what it changed, or that there is none.
fn told(
    given: &Given,
    project: &Project,
    made: Option<&Checkpoint>,
    differ: Differ,
) -> Result<Reply, Failure> {
    let Some(made) = made else {
        return Ok(match given.flag("json") {
            true => Reply::Json(Value::Null),
            false => Reply::Text("nothing has changed since the newest checkpoint\n".into()),
        });
    };
    let pairs = history::pairs(project, std::slice::from_ref(made))?;
    let changes = differ.changes(&pairs)?.pop().unwrap_or_default();
    if given.flag("json") {
        let parent = match made.parent {
            Some(oid) => {
                let objects = super::objects::Objects::new(&project.store);
                Some(super::commit::read(project, &objects, oid)?.note.id)
            }
            None => None,
        };
        return Ok(Reply::Json(render::json(made, parent.as_deref(), &changes)));
    }
    let branch = refs::current(project)?;
    let on = if branch == project::MAIN {
        String::new()
    } else {
        format!(" on {branch}")
    };
    Ok(Reply::Text(format!(
        "v{} {}{on}: {}\n{}",
        made.note.version,
        made.note.id,
        size::count(changes.len() as u64, "file"),
        render::names(&changes)
    )))
}
