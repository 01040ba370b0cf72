//! Commands that go to another state: restore, undo, branches, export.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::cli::{self, Reply};
use super::commit;
use super::history;
use super::note::{Checkpoint, Note};
use super::objects::Objects;
use super::plan::{self, Plan, Scope};
use super::project::Project;
use super::reference::Resolver;
use super::restore::{self, Restored, shown};
use super::terminal::Painter;
use super::tree::Extras;
use super::writer::{Writer, now_ms};
use super::{refs, render};
use crate::exit::Failure;
use crate::size;
use crate::usage::Given;

pub fn restore(given: &mut Given) -> Result<Reply, Failure> {
    let project = cli::project(given)?;
    let to = given.operand();
    let paths = given.more_operands();
    let to = Resolver::new(&project)?.find(cli::reference(&to)?)?;
    let paths: Result<Vec<Vec<u8>>, Failure> =
        paths.iter().map(|path| project.relative(path)).collect();
    let paths = paths?;
    for path in &paths {
        check_known(&project, &to, path)?;
    }
    let what = match paths.as_slice() {
        [] => String::new(),
        [one] => format!("{} from ", shown(one)),
        many => format!("{} from ", size::count(many.len() as u64, "path")),
    };
    let note = Note {
        message: format!("restore {what}v{}", to.note.version),
        restored: Some(to.note.id.clone()),
        ..Note::default()
    };
    go(given, &project, &to, &Scope::below(paths), note)
}

/// Refuses a path that is neither in the checkpoint nor in the directory: it is misspelt.
fn check_known(project: &Project, to: &Checkpoint, path: &[u8]) -> Result<(), Failure> {
    let on_disk = project.dir.join(std::ffi::OsStr::from_bytes(path));
    if path.is_empty() || on_disk.symlink_metadata().is_ok() {
        return Ok(());
    }
    match !plan::holds(project, to, path)? {
        true => Err(Failure::at(
            "no such file",
            &on_disk,
            format!("not in v{}", to.note.version),
        )
        .advise("see `agentfs history`")),
        false => Ok(()),
    }
}

/// Restores, and tells.
fn go(
    given: &Given,
    project: &Project,
    to: &Checkpoint,
    scope: &Scope,
    note: Note,
) -> Result<Reply, Failure> {
    let dry_run = given.flag("dry-run");
    let mut writer = Writer::insist(project)?;
    let done = restore::restore(&mut writer, to, scope, note, dry_run)?;
    drop(writer);
    Ok(told(given, to, &done, dry_run))
}

fn told(given: &Given, to: &Checkpoint, done: &Restored, dry_run: bool) -> Reply {
    let kept =
        |(path, reason): &(Vec<u8>, &'static str)| json!({"path": shown(path), "reason": reason});
    let names =
        |paths: &mut dyn Iterator<Item = &Vec<u8>>| paths.map(|p| shown(p)).collect::<Value>();
    let plan = &done.plan;
    if given.flag("json") {
        let id = |c: &Option<Checkpoint>| c.as_ref().map(|c| c.note.id.clone());
        return Reply::Json(json!({
            "to": to.note.id,
            "dry_run": dry_run,
            "before": id(&done.before),
            "after": id(&done.after),
            "written": names(&mut plan.writes.keys()),
            "removed": names(&mut plan.removes.iter()),
            "kept": plan.kept.iter().map(kept).collect::<Value>(),
        }));
    }
    let mut out = planned(plan);
    let version = format!("v{}", to.note.version);
    match (&done.before, &done.after) {
        _ if plan.is_empty() => out.push_str(&format!("everything is as in {version}\n")),
        _ if dry_run => out.push_str("nothing was done\n"),
        (Some(before), Some(after)) => out.push_str(&format!(
            "restored {version} as v{}; what was there before is v{}\n",
            after.note.version, before.note.version
        )),
        _ => out.push_str(&format!("restored {version}\n")),
    }
    Reply::Text(out)
}

/// A plan, for people.
fn planned(plan: &Plan) -> String {
    let paint = Painter::stdout();
    let mut lines = Vec::new();
    for (path, content) in &plan.writes {
        let verb = if content.replaces { "write " } else { "create" };
        lines.push(format!("{verb}  {}\n", render::path(path)));
    }
    for path in &plan.removes {
        lines.push(paint.red(&format!("remove  {}", render::path(path))) + "\n");
    }
    for path in plan.make_dirs.keys() {
        lines.push(format!("create  {}/\n", render::path(path)));
    }
    for path in &plan.remove_dirs {
        lines.push(paint.red(&format!("remove  {}/", render::path(path))) + "\n");
    }
    for (path, mode) in &plan.chmods {
        lines.push(format!("mode    {} {mode:o}\n", render::path(path)));
    }
    for (path, reason) in &plan.kept {
        lines.push(paint.yellow(&format!("keep    {}: {reason}", render::path(path))) + "\n");
    }
    lines.concat()
}

/// Takes back what the newest checkpoint that is a restore or a tool call's did, in its files alone.
pub fn undo(given: &mut Given) -> Result<Reply, Failure> {
    let project = cli::project(given)?;
    let line = history::head(&project)?;
    let is_undoable = |c: &&Checkpoint| c.note.restored.is_some() || c.note.call.tool.is_some();
    let done = line.iter().find(is_undoable).ok_or_else(|| {
        Failure::new("nothing to undo: no restore and no tool call").advise("see `agentfs log`")
    })?;
    let parent = done
        .parent
        .ok_or_else(|| Failure::new("the first checkpoint cannot be undone"))?;
    let before = commit::read(&project, &Objects::new(&project.store), parent)?;
    let scope = plan::changed(&project, &before, done)?;
    let what = render::subject(&done.note.message);
    let note = Note {
        message: format!("undo v{}: {what}", done.note.version),
        restored: Some(before.note.id.clone()),
        ..Note::default()
    };
    go(given, &project, &before, &scope, note)
}

pub fn branch(given: &mut Given) -> Result<Reply, Failure> {
    let project = cli::project(given)?;
    let at = given.operand();
    let name = cli::text(given, "name")?
        .ok_or_else(|| Failure::usage("the branch needs a name").advise("--name NAME"))?;
    refs::check_name(&project, &name)?;
    let at = Resolver::new(&project)?.find(cli::reference(&at)?)?;
    let _writer = Writer::insist(&project)?;
    if refs::read(&project, &name)?.is_some() {
        return Err(Failure::new(format!("there is a branch {name} already"))
            .advise("see `agentfs branches`"));
    }
    refs::write(&project, &name, at.commit)?;
    Ok(match given.flag("json") {
        true => Reply::Json(json!({"branch": name, "at": at.note.id, "version": at.note.version})),
        false => Reply::Text(format!(
            "branch {name} begins at v{}; to go on from there: agentfs switch {name}\n",
            at.note.version
        )),
    })
}

pub fn branches(given: &mut Given) -> Result<Reply, Failure> {
    let project = cli::project(given)?;
    let current = refs::current(&project)?;
    let objects = Objects::new(&project.store);
    let mut rows = Vec::new();
    for (name, oid) in refs::all(&project)? {
        rows.push((name, commit::read(&project, &objects, oid)?));
    }
    if given.flag("json") {
        let rows = rows.iter().map(|(name, tip)| {
            json!({
                "name": name,
                "current": *name == current,
                "newest": tip.note.id,
                "version": tip.note.version,
                "timestamp": size::rfc3339(tip.note.time),
            })
        });
        return Ok(Reply::Json(rows.collect()));
    }
    let (paint, now) = (Painter::stdout(), now_ms());
    let width = rows
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    let lines = rows.iter().map(|(name, tip)| {
        let mark = if *name == current { '*' } else { ' ' };
        let version = paint.yellow(&format!("v{}", tip.note.version));
        let message = paint.line(&render::subject(&tip.note.message));
        let ago = render::ago(tip.note.time, now);
        format!(
            "{mark} {:<width$}  {version}  {ago}  \"{message}\"\n",
            paint.line(name)
        )
    });
    Ok(Reply::Text(lines.collect()))
}

/// Leaves the current branch with all that is there, and brings the directory to where another ends.
pub fn switch(given: &mut Given) -> Result<Reply, Failure> {
    let project = cli::project(given)?;
    let name = given.operand();
    let name = cli::reference(&name)?;
    let mut writer = Writer::insist(&project)?;
    if writer.branch == name {
        return Err(Failure::new(format!("{name} is the current branch")));
    }
    let oid = refs::read(&project, name)?.ok_or_else(|| {
        Failure::new(format!("no branch {name}")).advise("see `agentfs branches`")
    })?;
    let to = commit::read(&project, &writer.objects, oid)?;
    let dry_run = given.flag("dry-run");
    let done = restore::bring(&mut writer, &to, &format!("switch to {name}"), dry_run)?;
    if !dry_run {
        writer.set_branch(name)?;
        // Whatever could not be brought is the first change on the branch.
        restore::safety(&mut writer, &format!("after switching to {name}"))?;
        writer.save()?;
    }
    if given.flag("json") {
        return Ok(told(given, &to, &done, dry_run));
    }
    let mut out = planned(&done.plan);
    out.push_str(&match dry_run {
        true => "nothing was done\n".to_owned(),
        false => format!("on branch {name}, at v{}\n", to.note.version),
    });
    Ok(Reply::Text(out))
}

/// Writes a checkpoint's files where nothing is yet.
pub fn export(given: &mut Given) -> Result<Reply, Failure> {
    let project = cli::project(given)?;
    let (at, dir) = (given.operand(), given.operand());
    let at = Resolver::new(&project)?.find(cli::reference(&at)?)?;
    let dir = PathBuf::from(dir);
    make_empty(&dir)?;
    let written = write_all(&project, &at, &dir)?;
    Ok(match given.flag("json") {
        true => Reply::Json(json!({"checkpoint": at.note.id, "files": written})),
        false => Reply::Text(format!(
            "v{}: {} in {}\n",
            at.note.version,
            size::count(written, "file"),
            dir.display()
        )),
    })
}

/// Makes a directory, which may be there but must be empty.
pub fn make_empty(dir: &Path) -> Result<(), Failure> {
    let failed = |error| Failure::at("cannot write to", dir, error);
    match fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(Failure::at("cannot write to", dir, "it is not empty")
                .advise("choose a new directory")),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => {
            fs::create_dir_all(dir).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Writes all files, links and directories of a checkpoint below `dir`, and counts the files.
pub fn write_all(project: &Project, at: &Checkpoint, dir: &Path) -> Result<u64, Failure> {
    let mut batch = project.git().batch()?;
    let extras = Extras::decode(&commit::extras(&mut batch, at)?);
    let tree = at.tree.to_string();
    let listed = project
        .git()
        .output(["ls-tree", "-r", "-z", "--full-tree", &tree])?;
    let place = |path: &[u8]| dir.join(std::ffi::OsStr::from_bytes(path));
    let mut written = 0;
    let mut dirs: std::collections::BTreeSet<Vec<u8>> = extras.dirs().map(<[u8]>::to_vec).collect();
    for row in listed
        .split(|byte| *byte == 0)
        .filter(|row| !row.is_empty())
    {
        let Some(tab) = row.iter().position(|byte| *byte == b'\t') else {
            continue;
        };
        let (head, path) = (String::from_utf8_lossy(&row[..tab]), &row[tab + 1..]);
        let words: Vec<&str> = head.split(' ').collect();
        let [mode, "blob", oid] = words[..] else {
            continue;
        };
        let failed = |error| Failure::at("cannot write", &place(path), error);
        for (slash, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            if dirs.insert(path[..slash].to_vec()) || !place(&path[..slash]).is_dir() {
                fs::create_dir_all(place(&path[..slash])).map_err(failed)?;
            }
        }
        let missing =
            || Failure::new(format!("the store has lost {oid}")).advise("see `agentfs verify`");
        if mode == "120000" {
            let target = batch.get(oid.as_bytes())?.ok_or_else(missing)?;
            std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(&target), place(path))
                .map_err(failed)?;
        } else {
            let mut file = fs::File::create_new(place(path)).map_err(failed)?;
            batch.copy(oid.as_bytes(), &mut file)?.ok_or_else(missing)?;
            let bits = extras.file_mode(path, mode == "100755");
            file.set_permissions(fs::Permissions::from_mode(bits))
                .map_err(failed)?;
        }
        written += 1;
    }
    for path in dirs.iter().rev() {
        let failed = |error| Failure::at("cannot write", &place(path), error);
        fs::create_dir_all(place(path)).map_err(failed)?;
        let bits = fs::Permissions::from_mode(extras.dir_mode(path));
        fs::set_permissions(place(path), bits).map_err(failed)?;
    }
    Ok(written)
}
