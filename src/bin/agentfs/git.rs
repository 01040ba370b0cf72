//! The `git` program on a store: all reading, packing and transport is its.
//!
//! A child sees nothing of the user's git: no variable, no configuration, no hook, no lock it did not
//! need. Only what talks to other machines keeps the user's transport and credentials.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use super::oid::Oid;
use crate::exit::Failure;

/// Who commits, in every store: the same for all, so that an identical object has an identical name.
pub const IDENTITY: &str = "agentfs <agentfs@localhost>";

/// A git directory, and how to run git on it.
pub struct Git<'a> {
    dir: &'a Path,
}

impl<'a> Git<'a> {
    pub fn new(dir: &'a Path) -> Git<'a> {
        Git { dir }
    }

    /// `git` with these arguments, alone with the store.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.with_transport(args);
        command
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            // The caller's may have been removed, which git cannot work in.
            .current_dir(self.dir);
        command
    }

    /// The same with the user's own configuration, for what talks to other machines.
    pub fn with_transport<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new("git");
        for (name, _) in std::env::vars_os() {
            let ours = name.as_encoded_bytes().starts_with(b"GIT_");
            if ours && !is_transport(&name) {
                command.env_remove(name);
            }
        }
        command
            .env("GIT_DIR", self.dir)
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("LC_ALL", "C.UTF-8")
            .args(["-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0"])
            .args(["-c", "commit.gpgsign=false", "-c", "core.quotePath=false"])
            .args(["-c", "maintenance.auto=false", "-c", "core.bare=true"])
            .args(args)
            .stdin(Stdio::null());
        command
    }

    /// What the command prints, if it succeeds.
    pub fn output<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> Result<Vec<u8>, Failure> {
        run(&mut self.command(args)).map(|output| output.stdout)
    }

    /// A running `git cat-file --batch`.
    pub fn batch(&self) -> Result<Batch, Failure> {
        let mut command = self.command(["cat-file", "--batch"]);
        // What it cannot read is told by who asked; a hook must print nothing.
        command.stderr(Stdio::null());
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.map_err(absent)?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(ask), Some(answer)) => Ok(Batch {
                child,
                ask: Some(ask),
                answer: BufReader::with_capacity(256 << 10, answer),
            }),
            _ => Err(Failure::new("git cat-file cannot be talked to")),
        }
    }

    /// The body of one object.
    pub fn object(&self, name: &str) -> Result<Vec<u8>, Failure> {
        let mut batch = self.batch()?;
        let found = batch.get(name.as_bytes())?;
        found.ok_or_else(|| {
            Failure::at(
                "cannot read the store",
                self.dir,
                format!("{name} is missing"),
            )
            .advise("see `agentfs verify`")
        })
    }
}

/// Runs a command to its end; a failure tells what git said.
pub fn run(command: &mut Command) -> Result<Output, Failure> {
    let output = command.output().map_err(absent)?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said
        .lines()
        .map(|line| line.trim_start_matches("fatal: ").trim())
        .filter(|line| !line.is_empty())
        .collect();
    let args = command.get_args().map(|arg| arg.to_string_lossy());
    let mut names = args.filter(|arg| *arg != "-c" && !arg.contains('='));
    let what = names.next().unwrap_or_default();
    Err(Failure::new(format!("git {what}: {}", said.join("; "))))
}

fn absent(error: std::io::Error) -> Failure {
    Failure::new(format!("cannot run git: {error}")).advise("install git")
}

/// What of git's environment tells how to reach other machines.
fn is_transport(name: &OsStr) -> bool {
    let names = [
        "GIT_SSH",
        "GIT_SSH_COMMAND",
        "GIT_SSH_VARIANT",
        "GIT_ASKPASS",
    ];
    names.iter().any(|known| name == *known)
}

/// Answers for many objects from one process.
pub struct Batch {
    child: Child,
    ask: Option<ChildStdin>,
    answer: BufReader<ChildStdout>,
}

impl Batch {
    /// The body of an object, by any name that git understands; `None` if there is none.
    pub fn get(&mut self, name: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        let mut body = Vec::new();
        let found = self.copy(name, &mut body)?;
        Ok(found.map(|_| body))
    }

    /// Writes the body of an object to `out` and tells its length, in bounded memory.
    pub fn copy(&mut self, name: &[u8], out: &mut dyn Write) -> Result<Option<u64>, Failure> {
        let lost = |error: std::io::Error| {
            Failure::new(format!("cannot read the store: git cat-file: {error}"))
                .advise("see `agentfs verify`")
        };
        let Some(ask) = self.ask.as_mut() else {
            return Ok(None);
        };
        ask.write_all(name)
            .and_then(|()| ask.write_all(b"\n"))
            .map_err(lost)?;
        let mut line = Vec::new();
        self.answer.read_until(b'\n', &mut line).map_err(lost)?;
        if line.is_empty() {
            return Err(lost(std::io::ErrorKind::UnexpectedEof.into()));
        }
        let words = String::from_utf8_lossy(&line);
        let mut words = words.split_whitespace().rev();
        let Some(size) = words.next().and_then(|word| word.parse::<u64>().ok()) else {
            return Ok(None);
        };
        let mut body = (&mut self.answer).take(size);
        let copied = std::io::copy(&mut body, out).map_err(lost)?;
        let mut end = [0];
        self.answer.read_exact(&mut end).map_err(lost)?;
        match copied == size {
            true => Ok(Some(size)),
            false => Err(lost(std::io::ErrorKind::UnexpectedEof.into())),
        }
    }

    pub fn blob(&mut self, oid: Oid) -> Result<Option<Vec<u8>>, Failure> {
        self.get(oid.to_string().as_bytes())
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // It may be writing what nobody wants any more.
        self.ask = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
