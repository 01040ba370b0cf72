//! What was asked and said is quoted from the transcript, in whatever form the cellar keeps it.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::agent::Agent;
use super::world::{Ran, World};
use crate::common::Mount;

const PROMPT: &str = "make the parser robust against empty input";
const WORDS: &str = "I add a check for empty input first.";
const LAST: &str = "The parser now survives empty input.";

/// A transcript as the client writes it, around one tool call.
fn transcript(call: &str) -> String {
    let line = |value: serde_json::Value| format!("{value}\n");
    let assistant = |block: serde_json::Value| {
        line(json!({"type": "assistant", "message": {"role": "assistant", "content": [block]}}))
    };
    let user = |content: serde_json::Value| {
        line(json!({"type": "user", "message": {"role": "user", "content": content}}))
    };
    [
        user(json!("an earlier question")),
        assistant(json!({"type": "text", "text": "An earlier answer."})),
        user(json!(PROMPT)),
        assistant(json!({"type": "text", "text": WORDS})),
        assistant(json!({"type": "tool_use", "id": call, "name": "Write", "input": {}})),
        user(json!([{"type": "tool_result", "tool_use_id": call, "content": "ok"}])),
        assistant(json!({"type": "text", "text": LAST})),
    ]
    .concat()
}

/// A project with a line whose prompt no hook heard of, and the transcript that tells it.
fn written(world: &World, projects: &Path) -> String {
    world.write("a.txt", "alpha\n");
    world.init();
    let mut agent = Agent::new(world, "one");
    agent.transcript = projects
        .join("-project")
        .join(format!("{}.jsonl", agent.session));
    let id = agent.write("parser.rs", "if input.is_empty() { return; }\n");
    let status = world.run("status").ends(0).out;
    assert!(status.contains("as in the newest"), "{status}");
    fs::create_dir_all(agent.transcript.parent().unwrap()).unwrap();
    fs::write(&agent.transcript, transcript(&id)).unwrap();
    id
}

/// Every command that says why quotes what was asked and said.
#[track_caller]
fn quoted(world: &World, set: &dyn Fn(&mut Command)) {
    let run = |line: &str| {
        let mut command = world.command(line.split(' '));
        set(&mut command);
        Ran::of(&mut command).ends(0).out
    };
    for (line, texts) in [
        ("blame parser.rs:1", [PROMPT, WORDS]),
        ("show v2", [PROMPT, WORDS]),
        ("session one", [PROMPT, LAST]),
        ("blame parser.rs:1 --json", [PROMPT, WORDS]),
        ("session one --json", [PROMPT, LAST]),
    ] {
        let said = run(line);
        // Lines are broken and framed as the terminal is wide.
        let plain: Vec<&str> = said
            .split(['│', ' ', '\n'])
            .filter(|w| !w.is_empty())
            .collect();
        let plain = plain.join(" ");
        for text in texts {
            assert!(plain.contains(text), "no {text:?} in {line}: {said}");
        }
    }
}

/// Without the transcript the same commands say what they know, and nothing is wrong.
#[track_caller]
fn less_is_said(world: &World, set: &dyn Fn(&mut Command)) {
    for line in [
        "blame parser.rs:1",
        "history --blame parser.rs",
        "show v2",
        "session one",
        "log --session one",
        "blame parser.rs:1 --json",
    ] {
        let mut command = world.command(line.split(' '));
        set(&mut command);
        let ran = Ran::of(&mut command).ends(0);
        assert_eq!(ran.err, "");
        assert!(ran.out.contains("Write"), "{line}: {}", ran.out);
        assert!(
            !ran.out.contains(WORDS) && !ran.out.contains(LAST),
            "{line}"
        );
    }
}

#[test]
fn a_plain_transcript_is_quoted_and_a_lost_one_is_no_trouble() {
    let world = World::empty();
    let projects = world.root.join("home/.claude/projects");
    written(&world, &projects);
    quoted(&world, &|_| {});
    // Cut in the middle, as by a crash: what is there is quoted.
    let file = fs::read_dir(projects.join("-project"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, &text[..text.len() - 30]).unwrap();
    let told = world.run("blame parser.rs:1").ends(0).out;
    assert!(told.contains("make the parser robust"), "{told}");
    for damaged in [&b""[..], b"{}\n{\n", &[0xff; 1000]] {
        fs::write(&file, damaged).unwrap();
        less_is_said(&world, &|_| {});
    }
    fs::remove_dir_all(projects).unwrap();
    less_is_said(&world, &|_| {});
}

#[test]
fn a_prompt_that_a_hook_heard_needs_no_transcript() {
    let world = World::empty();
    world.write("a.txt", "alpha\n");
    world.init();
    let agent = Agent::new(&world, "one");
    agent.ask(PROMPT);
    agent.write("parser.rs", "x\n");
    for line in ["blame parser.rs:1", "show v2", "session one"] {
        let said = world.run(line).ends(0).out;
        assert!(said.contains("make the parser robust"), "{line}: {said}");
    }
    let log = world.json(["log", "--session", "one"]);
    assert_eq!(log[0]["prompt"], PROMPT);
    // What takes some lines to ask is quoted to its end.
    let long = "and then the next thing; ".repeat(12);
    agent.ask(&long);
    agent.write("next.rs", "y\n");
    let said = world.run("blame next.rs:1").ends(0).out;
    assert!(said.contains(long.trim()), "{said}");
}

#[test]
fn the_cellar_s_mount_and_its_store_alone_answer_alike() {
    let mut mount = Mount::start_unsealing("agentfs-words");
    let world = World::empty();
    written(&world, &mount.path(""));
    let set = |command: &mut Command| {
        command.env("CLAUDE_CELLAR_STORE_DIR", mount.store(""));
    };
    quoted(&world, &set);
    if !mount.has_store() {
        return;
    }
    mount.seal_and_wait();
    quoted(&world, &set);
    let packed = |mount: &Mount| {
        let dir = fs::read_dir(mount.store("-project")).unwrap();
        let mut names = dir.map(|entry| entry.unwrap().path());
        names
            .find(|path| path.extension().is_some_and(|e| e == "zst"))
            .expect("a sealed session")
    };
    let file = packed(&mount);
    let store = mount.store("");
    mount.sigterm();
    assert!(!mount.mounted());
    let set = |command: &mut Command| {
        command.env("CLAUDE_CELLAR_STORE_DIR", &store);
    };
    quoted(&world, &set);
    fs::remove_file(file).unwrap();
    less_is_said(&world, &set);
}
