//! The command line of `agentfs`: one command, one call, one reply.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::Value;

use super::help::PROGRAM;
use super::project::Project;
use super::terminal;
use super::{clone, gc, hook, maintenance, manage, read, sync, travel, verify, watch, why};
use crate::completions::Shell;
use crate::exit::{Exit, Failure};
use crate::usage::{self, Given, Parsed, one_of};
use crate::{man, signals, tuning};

/// What a command answers.
pub enum Reply {
    /// For people; long ones through the pager.
    Text(String),
    Json(Value),
    /// A file's content, as it is.
    Bytes(Vec<u8>),
    /// The same as text, and something was wrong.
    Failed(String),
}

/// Runs the program with the arguments that follow its name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    maintenance::this_is_the_program();
    let exit = match run(args.into_iter().collect()).and_then(answer) {
        Ok(exit) => exit,
        Err(failure) => {
            let _ = writeln!(io::stderr(), "agentfs: {}", one_line(&failure.to_string()));
            failure.exit
        }
    };
    ExitCode::from(exit as u8)
}

/// Names in it may hold anything, line ends too.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line
}

fn run(args: Vec<OsString>) -> Result<Reply, Failure> {
    if let Some((command, rest)) = args.split_first()
        && command == maintenance::COMMAND
    {
        return maintenance::run(rest).map(|()| Reply::Text(String::new()));
    }
    let args = ordered(args);
    let hook = args.split_first().filter(|(command, _)| *command == "hook");
    let event = hook.map(|(_, rest)| rest.first().cloned());
    let parsed = match (usage::parse(&PROGRAM, args), event) {
        // Whatever the settings have it given: by exit code 2 the client keeps a tool from running.
        (Err(_), Some(event)) => hook::run(event),
        (parsed, _) => parsed?,
    };
    let mut given = match parsed {
        Parsed::Help(text) => return Ok(Reply::Text(text)),
        Parsed::Version => {
            let version = concat!("agentfs ", env!("CARGO_PKG_VERSION"), "\n");
            return Ok(Reply::Text(version.into()));
        }
        Parsed::Run(given) => given,
    };
    let given = &mut given;
    match given.usage.name {
        "init" => manage::init(given),
        "status" => manage::status(given),
        "list" => manage::list(given),
        "relocate" => manage::relocate(given),
        "forget" => manage::forget(given),
        "open" | "close" => manage::nothing_to_mount(given),
        "checkpoint" => manage::checkpoint(given),
        "log" => read::log(given),
        "changes" => read::changes(given),
        "diff" => read::diff(given),
        "show" => read::show(given),
        "export" => travel::export(given),
        "restore" => travel::restore(given),
        "undo" => travel::undo(given),
        "branch" => travel::branch(given),
        "branches" => travel::branches(given),
        "switch" => travel::switch(given),
        "blame" => why::blame(given),
        "history" => why::history(given),
        "sessions" => why::sessions(given),
        "session" => why::session(given),
        "timeline" => why::timeline(given),
        "viz" => why::viz(given),
        "install-hooks" => hook::install(given),
        "hook" => hook::run(given.more_operands().pop()),
        "watch" => watch::run(given),
        "sync" => sync::sync(given),
        "clone" => clone::clone(given),
        "gc" => gc::gc(given),
        "verify" => verify::verify(given),
        "completions" => {
            let shell = one_of("shell", &given.operand(), Shell::NAMES)?;
            Ok(Reply::Text(shell.script(&PROGRAM)))
        }
        _ => help(given),
    }
}

fn help(given: &mut Given) -> Result<Reply, Failure> {
    if given.flag("man") {
        return Ok(Reply::Text(man::page(&PROGRAM)));
    }
    Ok(Reply::Text(match given.more_operands().pop() {
        Some(name) => PROGRAM.help(PROGRAM.find(&name)?),
        None => PROGRAM.overview(),
    }))
}

/// The arguments with the command first: `-C` may stand before it, and `manage` is `init`.
fn ordered(mut args: Vec<OsString>) -> Vec<OsString> {
    let mut before = Vec::new();
    while args
        .first()
        .is_some_and(|arg| arg.as_encoded_bytes().starts_with(b"-C"))
    {
        let count = if args[0] == "-C" { 2 } else { 1 };
        before.extend(args.drain(..count.min(args.len())));
    }
    if let Some(command) = args.first_mut() {
        if command == "manage" {
            *command = "init".into();
        }
        args.splice(1..1, before);
        return args;
    }
    before
}

fn answer(reply: Reply) -> Result<Exit, Failure> {
    // Not before: a git that has gone is a failure, which a hook survives.
    signals::end_on_broken_pipe();
    let _ = tuning::raise_descriptor_limit();
    let mut exit = Exit::Done;
    let written = match reply {
        Reply::Text(text) => terminal::show(&text),
        Reply::Failed(text) => {
            exit = Exit::Failed;
            terminal::show(&text)
        }
        Reply::Json(value) => terminal::show(&format!("{value:#}\n")),
        Reply::Bytes(bytes) => {
            let mut out = io::stdout().lock();
            out.write_all(&bytes).and_then(|()| out.flush())
        }
    };
    match written {
        Ok(()) => Ok(exit),
        Err(error) => Err(Failure::new(format!("cannot write the output: {error}"))),
    }
}

/// The project that a command is about.
pub fn project(given: &Given) -> Result<Project, Failure> {
    Project::named(given.value("directory"))
}

/// The same, where the form `log NAME` is accepted too.
pub fn project_or_named(given: &mut Given) -> Result<Project, Failure> {
    match given.more_operands().pop() {
        Some(name) => Project::named(Some(&name)),
        None => project(given),
    }
}

/// An option's value as text; what is no UTF-8 is refused.
pub fn text(given: &Given, name: &str) -> Result<Option<String>, Failure> {
    let Some(value) = given.value(name) else {
        return Ok(None);
    };
    match value.to_str() {
        Some(text) => Ok(Some(text.to_owned())),
        None => Err(Failure::usage(format!("--{name} is no text"))),
    }
}

/// A reference, from the command line.
pub fn reference(word: &OsString) -> Result<&str, Failure> {
    word.to_str()
        .ok_or_else(|| Failure::usage(format!("no checkpoint is called {}", word.display())))
}

/// Where relative paths of the command line begin.
pub fn current_dir() -> Result<PathBuf, Failure> {
    std::env::current_dir().map_err(|error| Failure::new(format!("no current directory: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_may_stand_before_the_command() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(ordered(words("-C app log -n 3")), words("log -C app -n 3"));
        assert_eq!(ordered(words("-Capp manage x")), words("init -Capp x"));
        assert_eq!(ordered(words("log")), words("log"));
        assert_eq!(ordered(words("-C")), words("-C"));
    }
}
