//! Plays Claude Code: runs the hooks of a session as the client does.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::world::{Ran, World};

/// Two seconds, and what a busy machine takes to begin and end a process.
pub const LIMIT: Duration = Duration::from_millis(2_500);

/// One session of the client.
pub struct Agent<'w> {
    world: &'w World,
    pub session: String,
    pub transcript: PathBuf,
    pub cwd: PathBuf,
    /// The identifier of the prompt that is being answered.
    turn: AtomicU32,
    /// The sub-agent in which all happens.
    pub inside: Option<&'static str>,
}

/// A tool call that has begun.
pub struct Begun {
    pub id: String,
    fields: Value,
}

impl<'w> Agent<'w> {
    /// A session with nothing but its name.
    pub fn new(world: &'w World, name: &str) -> Agent<'w> {
        let session = format!("{name}-6c832c59-84cc-4da9-b029-50b94deedae3");
        let projects = world.root.join("home/.claude/projects/-project");
        Agent {
            world,
            transcript: projects.join(format!("{session}.jsonl")),
            session,
            cwd: world.dir.clone(),
            turn: AtomicU32::new(0),
            inside: None,
        }
    }

    /// What the client gives a hook.
    pub fn input(&self, event: &str, fields: &Value) -> Value {
        let turn = self.turn.load(Ordering::Relaxed);
        let mut input = json!({
            "session_id": self.session,
            "transcript_path": self.transcript,
            "cwd": self.cwd,
            "prompt_id": format!("{}-{turn}", self.session),
            "permission_mode": "default",
            "hook_event_name": event,
        });
        if let Some(kind) = self.inside {
            input["agent_id"] = json!("a9526eccdfe5d100d");
            input["agent_type"] = json!(kind);
        }
        for (name, value) in fields.as_object().unwrap() {
            input[name] = value.clone();
        }
        input
    }

    #[track_caller]
    pub fn tell(&self, event: &str, fields: Value) {
        tell(self.world, self.input(event, &fields).to_string());
    }

    #[track_caller]
    pub fn ask(&self, prompt: &str) {
        self.turn.fetch_add(1, Ordering::Relaxed);
        self.tell("UserPromptSubmit", json!({"prompt": prompt}));
    }

    #[track_caller]
    pub fn begin(&self, tool: &str, input: Value) -> Begun {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("toolu_{count:024}");
        let fields = json!({"tool_name": tool, "tool_input": input, "tool_use_id": id});
        self.tell("PreToolUse", fields.clone());
        Begun { id, fields }
    }

    #[track_caller]
    pub fn end(&self, call: &Begun) {
        let mut fields = call.fields.clone();
        fields["tool_response"] = json!({"stdout": "done"});
        self.tell("PostToolUse", fields);
    }

    #[track_caller]
    pub fn fail(&self, call: &Begun) {
        let mut fields = call.fields.clone();
        fields["error"] = json!("Exit code 3");
        self.tell("PostToolUseFailure", fields);
    }

    /// A whole tool call; gives its id.
    #[track_caller]
    pub fn call(&self, tool: &str, input: Value, work: impl FnOnce()) -> String {
        let call = self.begin(tool, input);
        work();
        self.end(&call);
        call.id
    }

    /// A call of `Write` that writes what it says.
    #[track_caller]
    pub fn write(&self, path: &str, content: &str) -> String {
        let input = json!({"file_path": self.world.dir.join(path), "content": content});
        self.call("Write", input, || self.world.write(path, content))
    }

    /// A call of `Bash` that leaves these files.
    #[track_caller]
    pub fn bash(&self, command: &str, files: &[(&str, &str)]) -> String {
        let leave = || files.iter().for_each(|(p, text)| self.world.write(p, text));
        self.call("Bash", json!({"command": command}), leave)
    }
}

/// A hook that runs.
pub struct Hook {
    child: Child,
    started: Instant,
}

pub fn start(command: &mut Command) -> Hook {
    let started = Instant::now();
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    Hook { child, started }
}

impl Hook {
    /// Gives the input; the hook may go before it has read all of it.
    pub fn feed(&mut self, input: &[u8]) {
        let _ = self.child.stdin.take().unwrap().write_all(input);
    }

    /// Gives the input and keeps the pipe open.
    pub fn hold(&mut self, input: &[u8]) {
        let pipe = self.child.stdin.as_mut().unwrap();
        pipe.write_all(input).unwrap();
    }

    /// It succeeded in time and said nothing.
    #[track_caller]
    pub fn ends_quietly(mut self) {
        // Waiting for a child would close it.
        let _held = self.child.stdin.take();
        let output = self.child.wait_with_output().unwrap();
        let took = self.started.elapsed();
        let ran = Ran::from(output).ends(0);
        assert_eq!((ran.out.as_str(), ran.err.as_str()), ("", ""));
        assert!(took < LIMIT, "it took {took:?}");
    }
}

/// Runs a hook that must succeed in time and say nothing.
#[track_caller]
pub fn tell(world: &World, input: impl AsRef<[u8]>) {
    let mut hook = start(&mut world.command(["hook"]));
    hook.feed(input.as_ref());
    hook.ends_quietly();
}

/// An input of the real client, moved to the test's project.
pub fn real(world: &World, name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agentfs/hooks");
    let text = fs::read_to_string(dir.join(name)).unwrap();
    let (dir, home) = (world.dir.display(), world.root.join("home"));
    text.replace("/home/user/app", &dir.to_string())
        .replace("/home/user", &home.display().to_string())
}

pub fn real_names() -> Vec<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agentfs/hooks");
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let mut names: Vec<String> = names
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The checkpoints of a project, the oldest first.
#[track_caller]
pub fn checkpoints(world: &World) -> Vec<Value> {
    let mut all = world.json(["log"]).as_array().unwrap().clone();
    all.reverse();
    all
}

#[track_caller]
pub fn newest(world: &World) -> Value {
    checkpoints(world).pop().unwrap()
}

/// Who wrote a line: `nobody`, or the ids of the calls.
#[track_caller]
pub fn author(world: &World, line: &str) -> Vec<String> {
    let found = world.json(["blame", line]);
    let found = &found.as_array().unwrap()[0];
    let calls = found["calls"].as_array().unwrap();
    let mut ids: Vec<String> = calls
        .iter()
        .map(|call| call["tool_use_id"].as_str().unwrap().to_owned())
        .collect();
    let by = found["by"].as_str().unwrap();
    let wanted = ["nobody", "call", "shared"][ids.len().min(2)];
    assert_eq!(by, wanted, "{found:#}");
    ids.sort();
    ids
}

/// The events that the store holds.
pub fn events(world: &World) -> Vec<Value> {
    let text = fs::read_to_string(world.store().join("agentfs/events.jsonl")).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// What `agentfs status` says went wrong.
#[track_caller]
pub fn troubles(world: &World) -> String {
    let status = world.json(["status"]);
    let lines = status["troubles"].as_array().unwrap();
    let lines: Vec<&str> = lines.iter().map(|line| line.as_str().unwrap()).collect();
    lines.join("\n")
}
