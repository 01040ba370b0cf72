//! What Claude Code runs at its events.
//!
//! A hook must never stand in the way of the user's agent: it exits 0 whatever happens, prints nothing,
//! and is gone after two seconds even if the store is locked, damaged or on a disk that does not answer;
//! then the next hook makes up for it. Its event is kept before anything else is tried. What went wrong
//! is in the store's log, which `agentfs status` shows.

use std::env;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::panic;
use std::path::{Path, PathBuf};
use std::process;
use std::time::{Duration, Instant};

use super::cli::{self, Reply};
use super::events::{self, Event, Kind};
use super::maintenance;
use super::note::{Checkpoint, Trigger};
use super::project::Project;
use super::scan::Budget;
use super::settings::{self, Scope};
use super::witness::Witness;
use super::writer::{Writer, now_ms};
use crate::exit::Failure;
use crate::paths;
use crate::size;
use crate::usage::Given;

/// After this a hook is ended, wherever it is: all it does can be killed.
const LAST: Duration = Duration::from_millis(1_800);
/// How long it waits for another that works on the store.
const PATIENCE: Duration = Duration::from_millis(events::PATIENCE as u64);
/// How long reading what is new may take.
const SCAN: Duration = Duration::from_millis(1_400);
/// Bytes of a hook's input that are read.
const INPUT_MAX: u64 = 64 << 20;
/// Bytes of the log that are kept.
const LOG_MAX: u64 = 64 << 10;
/// Troubles older than this are over.
const TROUBLE_AGE: i64 = 7 * 86_400_000;

/// Reads what happened from standard input and records it; `argument` names the event where that does
/// not. Ends the process.
pub fn run(argument: Option<OsString>) -> ! {
    panic::set_hook(Box::new(|_| {}));
    // Where there can be no thread, the client ends what takes too long.
    let _ = std::thread::Builder::new().spawn(|| {
        std::thread::sleep(LAST);
        process::exit(0);
    });
    let _ = panic::catch_unwind(|| {
        let mut input = Vec::new();
        let _ = io::stdin().lock().take(INPUT_MAX).read_to_end(&mut input);
        let argument = argument.as_ref().and_then(|argument| argument.to_str());
        if let Some(event) = Event::read(&input, argument, now_ms()) {
            take(&event);
        }
    });
    // Not to wait for the thread.
    process::exit(0);
}

fn take(event: &Event) {
    let Ok(Some(project)) = project_of(event) else {
        return;
    };
    if let Err(failure) = record(&project, event) {
        note_trouble(&project, &failure.message);
    }
}

/// The project in which it happened: where the shell is, else where the session began.
fn project_of(event: &Event) -> Result<Option<Project>, Failure> {
    let session = env::var_os("CLAUDE_PROJECT_DIR").map(PathBuf::from);
    let shell = event.cwd.as_ref().map(PathBuf::from);
    let here = || env::current_dir().ok();
    for dir in [shell, session].into_iter().flatten().chain(here()) {
        if let Some(project) = Project::around(&dir)? {
            return Ok(Some(project));
        }
    }
    Ok(None)
}

fn record(project: &Project, event: &Event) -> Result<(), Failure> {
    let log = project.own("events.jsonl");
    events::append(&log, event).map_err(|error| Failure::at("cannot write", &log, error))?;
    let trigger = match event.kind {
        Kind::PreTool => Trigger::PreTool,
        Kind::PostTool | Kind::ToolFailure => Trigger::PostTool,
        Kind::Stop | Kind::SubagentStop | Kind::SessionEnd => Trigger::Auto,
        // Files do not change by them; whoever scans next reads the event.
        Kind::Prompt | Kind::SessionStart | Kind::Other => return Ok(()),
    };
    let until = Instant::now() + SCAN;
    let Some(mut writer) = Writer::open(project, PATIENCE)? else {
        let name = event.kind.name();
        return Err(Failure::new(format!(
            "{name}: the store was busy, the next hook makes up for it"
        )));
    };
    let budget = Budget {
        until: Some(until),
        ..Budget::NONE
    };
    look(&mut writer, Some(event), trigger, budget).map(|_| ())
}

/// Makes a checkpoint if the directory has changed, of which the calls that ran meanwhile are the
/// authors. `event` is what it is made for, if a hook told it.
pub fn look(
    writer: &mut Writer,
    event: Option<&Event>,
    trigger: Trigger,
    budget: Budget,
) -> Result<Option<Checkpoint>, Failure> {
    let witness = Witness::of(writer.project)?;
    writer
        .scan(budget)
        .map_err(|failure| failure.advise("`agentfs checkpoint` takes the time it needs"))?;
    let made = match writer.differs()? {
        true => Some(writer.commit(witness.note(event, trigger))?.clone()),
        false => None,
    };
    writer.save()?;
    witness.scanned(event)?;
    if let Some(made) = &made {
        maintenance::after(writer.project, made);
    }
    Ok(made)
}

// ---- what went wrong --------------------------------------------------------------------------

/// Notes in the store's log what nobody is there to be told.
pub fn note_trouble(project: &Project, message: &str) {
    let path = project.own("log");
    if fs::metadata(&path).is_ok_and(|meta| meta.len() > LOG_MAX) {
        let _ = fs::rename(&path, project.own("log.old"));
    }
    let line = format!(
        "{} {}\n",
        size::rfc3339(now_ms()),
        message.replace('\n', " ")
    );
    let file = OpenOptions::new().create(true).append(true).open(&path);
    let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
}

/// What went wrong in hooks lately, the newest last, at most this many.
pub fn troubles(project: &Project, most: usize) -> Vec<String> {
    let text = fs::read_to_string(project.own("log")).unwrap_or_default();
    let since = size::rfc3339(now_ms() - TROUBLE_AGE);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| *line >= since.as_str())
        .collect();
    let from = lines.len().saturating_sub(most);
    lines[from..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

// ---- installing -------------------------------------------------------------------------------

pub fn install(given: &mut Given) -> Result<Reply, Failure> {
    let scope = match (given.flag("project"), given.flag("user")) {
        (true, true) => return Err(Failure::usage("--project and --user exclude each other")),
        (true, false) => Scope::Project(cli::project(given)?.dir),
        (false, _) => Scope::User,
    };
    let said = settings::run(scope, given.flag("remove"), &own_path()?)?;
    Ok(Reply::Text(said + "\n"))
}

/// Where this program can be found tomorrow too: by the name in `PATH` that leads to it, which stays
/// when the package behind it is replaced.
fn own_path() -> Result<PathBuf, Failure> {
    let own = env::current_exe()
        .map_err(|error| Failure::new(format!("cannot tell where agentfs is: {error}")))?;
    let leads_here = |path: &PathBuf| paths::resolve(path) == paths::resolve(Path::new(&own));
    Ok(paths::in_path("agentfs").find(leads_here).unwrap_or(own))
}
