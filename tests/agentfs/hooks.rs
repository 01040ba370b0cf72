//! Every change is recorded and told to be due to who made it.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::agent::{Agent, author, checkpoints, events, newest, real, real_names, start, tell};
use super::tree;
use super::world::World;

fn recorded() -> World {
    let world = World::empty();
    world.write("a.txt", "alpha\n");
    world.init();
    world
}

#[test]
fn every_input_of_the_real_client_is_taken_in_silence() {
    for name in real_names() {
        let world = recorded();
        world.write("changed.txt", &name);
        tell(&world, real(&world, &name));
        let noted = events(&world);
        assert_eq!(noted.len(), 1, "{name}");
        let input: serde_json::Value = serde_json::from_str(&real(&world, &name)).unwrap();
        assert_eq!(noted[0]["session_id"], input["session_id"], "{name}");
        assert_eq!(noted[0]["tool_use_id"], input["tool_use_id"], "{name}");
        let event = input["hook_event_name"].as_str().unwrap();
        let looks = ["PreToolUse", "PostToolUse", "PostToolUseFailure", "Stop"].contains(&event)
            || ["SubagentStop", "SessionEnd"].contains(&event);
        let all = checkpoints(&world);
        assert_eq!(all.len(), 1 + usize::from(looks), "{name}");
        if !looks {
            continue;
        }
        let made = all.last().unwrap();
        let harmless = ["Agent", "Read"].contains(&input["tool_name"].as_str().unwrap_or_default());
        if event.starts_with("Post") && !harmless {
            for field in ["session_id", "tool_use_id", "tool_input", "transcript_path"] {
                assert_eq!(made[field], input[field], "{name} {field}");
            }
            assert_eq!(made["tool"], input["tool_name"], "{name}");
            let agent = input["agent_type"].as_str().unwrap_or("claude-code");
            assert_eq!(made["agent"], agent, "{name}");
        } else {
            assert_eq!(made["tool"], json!(null), "{name}");
            assert_eq!(made["session_id"], json!(null), "{name}");
        }
        world.assert_sound();
    }
}

#[test]
fn a_real_session_is_told_call_by_call() {
    let world = recorded();
    let tell = |name: &str| tell(&world, real(&world, name));
    tell("SessionStart.startup.json");
    tell("UserPromptSubmit.json");
    tell("PreToolUse.Write.json");
    world.write("a.txt", "alpha\nbeta\nwordFILE\n");
    tell("PostToolUse.Write.json");
    tell("PreToolUse.Read.json");
    tell("PostToolUse.Read.json");
    tell("PreToolUse.Edit.json");
    world.write("a.txt", "alpha\ngammaword\nwordFILE\n");
    tell("PostToolUse.Edit.json");
    tell("PreToolUse.Bash.json");
    tell("PostToolUse.Bash.json");
    tell("PostToolBatch.json");
    tell("Stop.json");
    tell("SessionEnd.other.json");
    let tools: Vec<_> = checkpoints(&world)
        .iter()
        .map(|made| made["tool"].clone())
        .collect();
    assert_eq!(tools, [json!(null), json!("Write"), json!("Edit")]);
    let line = world.json(["blame", "a.txt:2"]);
    let prompt = "first please add error handling to the parser";
    assert_eq!(line[0]["calls"][0]["prompt"], prompt);
    assert_eq!(line[0]["calls"][0]["tool"], "Edit");
    assert_eq!(
        author(&world, "a.txt:3"),
        ["toolu_cd8b70c6f4634a3087a5bd9f"]
    );
    assert!(author(&world, "a.txt:1").is_empty());
    let told = world.run("blame a.txt:2").ends(0).out;
    for word in ["Edit", prompt, "6c832c59", "v3"] {
        assert!(told.contains(word), "no {word} in {told}");
    }
    assert_eq!(world.json(["sessions"])[0]["prompts"], json!([prompt]));
}

#[test]
fn ten_hooks_at_once_of_two_agents_lose_nothing_and_blame_nobody_wrongly() {
    let world = recorded();
    let (one, two) = (Agent::new(&world, "one"), Agent::new(&world, "two"));
    one.ask("write five files");
    two.ask("run five commands");
    // An editor's doing, before any call begins.
    world.write("editor.txt", "mine\n");
    let begun: Vec<_> = thread::scope(|scope| {
        let hooks: Vec<_> = (0..10)
            .map(|n| {
                let (one, two, world) = (&one, &two, &world);
                scope.spawn(move || match n % 2 {
                    0 => {
                        let path = world.dir.join(format!("named{n}.txt"));
                        one.begin("Write", json!({"file_path": path, "content": "x"}))
                    }
                    _ => two.begin("Bash", json!({"command": format!("make part{n}")})),
                })
            })
            .collect();
        hooks.into_iter().map(|hook| hook.join().unwrap()).collect()
    });
    for (n, call) in begun.iter().enumerate() {
        let name = if n % 2 == 0 { "named" } else { "part" };
        world.write(&format!("{name}{n}.txt"), format!("{}\n", call.id));
    }
    thread::scope(|scope| {
        for (n, call) in begun.iter().enumerate() {
            let agent = if n % 2 == 0 { &one } else { &two };
            scope.spawn(move || agent.end(call));
        }
    });
    let noted = events(&world);
    let of = |kind: &str, call: &str| {
        let same = |e: &&serde_json::Value| e["event"] == kind && e["tool_use_id"] == call;
        noted.iter().filter(same).count()
    };
    for call in &begun {
        let counts = (of("PreToolUse", &call.id), of("PostToolUse", &call.id));
        assert_eq!(counts, (1, 1), "{}", call.id);
    }
    assert!(author(&world, "editor.txt").is_empty());
    let mut commands: Vec<String> = (1..10).step_by(2).map(|n| begun[n].id.clone()).collect();
    commands.sort();
    for (n, call) in begun.iter().enumerate() {
        match n % 2 {
            0 => assert_eq!(author(&world, &format!("named{n}.txt")), [call.id.as_str()]),
            // Any of the commands may have written it, but none of the others.
            _ => assert_eq!(author(&world, &format!("part{n}.txt")), commands),
        }
    }
    let status = world.json(["status"]);
    assert_eq!(status["changed"], json!([]));
    assert_eq!(status["troubles"], json!([]));
    for session in ["one", "two"] {
        let log = world.json(["log", "--session", session]);
        assert!(!log.as_array().unwrap().is_empty(), "{session}");
        let told = world.json(["session", session]);
        assert!(told["id"].as_str().unwrap().starts_with(session));
    }
    world.assert_sound();
}

#[test]
fn what_two_agents_did_one_after_the_other_is_each_one_s_own() {
    let world = recorded();
    let (one, two) = (Agent::new(&world, "one"), Agent::new(&world, "two"));
    one.ask("first");
    two.ask("second");
    let first = one.bash("make a", &[("made/a", "a\n")]);
    let second = two.bash("make b", &[("made/b", "b\n")]);
    // A long call, during which the other writes what it names.
    let long = one.begin("Bash", json!({"command": "make c"}));
    world.write("made/c", "c\n");
    let third = two.write("d.txt", "d\n");
    world.write("made/e", "e\n");
    one.end(&long);
    for (file, id) in [
        ("made/a", &first),
        ("made/b", &second),
        ("made/c", &long.id),
        ("d.txt", &third),
        ("made/e", &long.id),
    ] {
        assert_eq!(author(&world, file), [id.as_str()], "{file}");
    }
}

#[test]
fn a_file_that_two_commands_may_have_written_names_both() {
    let world = recorded();
    let (one, two) = (Agent::new(&world, "one"), Agent::new(&world, "two"));
    one.ask("first");
    two.ask("second");
    let first = one.begin("Bash", json!({"command": "a"}));
    let second = two.begin("Bash", json!({"command": "b"}));
    world.write("either", "x\n");
    one.end(&first);
    two.end(&second);
    assert_eq!(author(&world, "either"), [first.id, second.id]);
    let told = world.run("blame either:1").ends(0).out;
    for session in ["one-6c83", "two-6c83"] {
        assert!(told.contains(session), "no {session} in {told}");
    }
    for session in ["one", "two"] {
        let log = world.json(["log", "--session", session]);
        assert_eq!(log.as_array().unwrap().len(), 1, "{session}");
        world.json(["session", session]);
    }
    assert_eq!(world.json(["sessions"]).as_array().unwrap().len(), 2);
}

#[test]
fn any_tool_that_writes_is_told_by_its_name() {
    let world = recorded();
    let agent = Agent::new(&world, "one");
    agent.ask("use everything");
    let mcp = json!({"path": world.dir.join("m.txt"), "content": "m"});
    let mcp = agent.call("mcp__files__write_file", mcp, || {
        world.write("m.txt", "m\n")
    });
    let edit =
        json!({"file_path": world.dir.join("a.txt"), "old_string": "alpha", "new_string": "beta"});
    let edit = agent.call("Edit", edit, || world.write("a.txt", "beta\n"));
    let failed = agent.begin("Bash", json!({"command": "make; exit 3"}));
    world.write("half.o", "half\n");
    agent.fail(&failed);
    let mut inner = Agent::new(&world, "one");
    inner.inside = Some("general-purpose");
    let inside = inner.bash("sub", &[("sub.txt", "s\n")]);
    agent.tell("SubagentStop", json!({"agent_id": "a9526eccdfe5d100d"}));
    for (file, id, tool) in [
        ("m.txt", &mcp, "mcp__files__write_file"),
        ("a.txt", &edit, "Edit"),
        ("half.o", &failed.id, "Bash"),
        ("sub.txt", &inside, "Bash"),
    ] {
        assert_eq!(author(&world, file), [id.as_str()], "{file}");
        let told = world.run(&format!("blame {file}:1")).ends(0).out;
        assert!(told.contains(tool), "no {tool} in {told}");
        let found = world.json(["history", file]);
        assert_eq!(found[0]["tool"], tool);
    }
    assert_eq!(newest(&world)["agent"], "general-purpose");
    // A tool that only reads is no author, whatever happens meanwhile.
    let read = agent.begin("Read", json!({"file_path": world.dir.join("a.txt")}));
    world.write("a.txt", "typed\n");
    agent.end(&read);
    assert!(author(&world, "a.txt").is_empty());
}

#[test]
fn what_no_tool_call_did_is_said_to_be_so() {
    let world = recorded();
    let agent = Agent::new(&world, "one");
    agent.ask("do it");
    agent.write("b.txt", "b\n");
    world.write("between.txt", "typed\n");
    agent.write("c.txt", "c\n");
    world.write("after.txt", "built\n");
    agent.tell("Stop", json!({"last_assistant_message": "done"}));
    world.write("later.txt", "typed\n");
    agent.tell("SessionEnd", json!({"reason": "other"}));
    for file in ["between.txt", "after.txt", "later.txt", "a.txt"] {
        assert!(author(&world, file).is_empty(), "{file}");
    }
    let told = world.run("blame between.txt:1").ends(0).out;
    assert!(told.contains("by no tool call"), "{told}");
    let triggers: Vec<_> = checkpoints(&world)
        .iter()
        .map(|made| made["trigger"].clone())
        .collect();
    let wanted = [
        "manual",
        "post_tool",
        "pre_tool",
        "post_tool",
        "auto",
        "auto",
    ];
    assert_eq!(triggers, wanted);
}

#[test]
fn who_made_a_change_is_known_however_it_comes_to_be_recorded() {
    let world = recorded();
    let agent = Agent::new(&world, "one");
    agent.ask("record it yourself");
    // The agent's own command, a user's restore, and the quiet moment of a watch.
    let own = agent.begin("Bash", json!({"command": "make; agentfs checkpoint made"}));
    world.write("made.txt", "made\n");
    assert_eq!(world.checkpoint("made")["tool_use_id"], own.id);
    agent.end(&own);
    assert_eq!(author(&world, "made.txt"), [own.id]);
    let meanwhile = agent.begin("Bash", json!({"command": "make"}));
    world.write("meanwhile.txt", "made\n");
    world.run("restore v1 made.txt").ends(0);
    assert!(!world.dir.join("made.txt").exists());
    world.run("undo").ends(0);
    agent.end(&meanwhile);
    world.write("typed.txt", "typed\n");
    world.checkpoint("by hand");
    assert_eq!(author(&world, "meanwhile.txt"), [meanwhile.id]);
    assert!(author(&world, "typed.txt").is_empty());
    // What somebody says is believed.
    world.write("said.txt", "said\n");
    let last = agent.begin("Bash", json!({"command": "make"}));
    world.write("told.txt", "told\n");
    let made = world.json(["checkpoint", "told", "--tool", "deploy", "--agent", "me"]);
    assert_eq!(
        (&made["tool"], &made["agent"]),
        (&json!("deploy"), &json!("me"))
    );
    agent.end(&last);
    assert!(author(&world, "said.txt").is_empty());
}

#[test]
fn what_a_restore_brings_back_is_still_whose_it_was() {
    let world = recorded();
    let agent = Agent::new(&world, "one");
    agent.ask("write it");
    let first = agent.write("b.txt", "one\ntwo\nthree\n");
    let second = agent.write("b.txt", "one\n2\nthree\n");
    let blamed = |line: u32| author(&world, &format!("b.txt:{line}"));
    world.run("restore v1").ends(0);
    world.run("undo").ends(0);
    assert_eq!(blamed(2), [second.as_str()]);
    assert_eq!(blamed(3), [first.as_str()]);
    // The undo of an undo, one file of many, and a line written after it.
    world.run("restore v2 b.txt").ends(0);
    assert_eq!(blamed(2), [first.as_str()]);
    world.run("undo").ends(0);
    let third = agent.write("b.txt", "zero\none\n2\nthree\n");
    assert_eq!(blamed(1), [third]);
    assert_eq!(blamed(3), [second.as_str()]);
    assert_eq!(blamed(4), [first.as_str()]);
    let all = world.json(["blame", "b.txt"]);
    let lines: Vec<_> = all.as_array().unwrap().iter().map(|g| &g["line"]).collect();
    assert_eq!(lines, [1, 2, 3, 4], "{all:#}");
    world.write("a.txt", "typed\n");
    world.checkpoint("typed");
    world.run("restore v1 a.txt").ends(0);
    assert!(author(&world, "a.txt").is_empty());
    fs::rename(world.dir.join("b.txt"), world.dir.join("c.txt")).unwrap();
    world.run("blame c.txt").ends(0);
}

#[test]
fn an_interrupted_call_keeps_its_changes_and_gets_no_later_ones() {
    let world = recorded();
    let agent = Agent::new(&world, "one");
    agent.ask("start");
    let stopped = agent.begin("Bash", json!({"command": "make"}));
    world.write("half.o", "half\n");
    // Escape: neither PostToolUse nor Stop is heard of.
    agent.ask("do something else");
    let next = agent.write("b.txt", "b\n");
    world.write("c.txt", "typed\n");
    agent.tell("SessionEnd", json!({"reason": "other"}));
    assert_eq!(author(&world, "half.o"), [stopped.id]);
    assert_eq!(author(&world, "b.txt"), [next]);
    assert!(author(&world, "c.txt").is_empty());
    let line = world.json(["blame", "half.o:1"]);
    assert_eq!(line[0]["calls"][0]["prompt"], "start");
    // The same when the client is killed and comes back.
    let killed = agent.begin("Bash", json!({"command": "make"}));
    world.write("d.o", "d\n");
    agent.tell("SessionStart", json!({"source": "resume"}));
    agent.write("e.txt", "e\n");
    assert_eq!(author(&world, "d.o"), [killed.id]);
}

#[test]
fn a_long_prompt_is_known_by_the_sum_of_all_of_it() {
    let world = recorded();
    let agent = Agent::new(&world, "one");
    let prompt = "ä long story. ".repeat(20_000);
    agent.ask(&prompt);
    agent.write("b.txt", "b\n");
    fs::write(world.root.join("prompt"), &prompt).unwrap();
    let sum = Command::new("sha256sum")
        .arg(world.root.join("prompt"))
        .output();
    let sum = String::from_utf8(sum.unwrap().stdout).unwrap();
    let made = newest(&world);
    assert_eq!(made["prompt_sha256"], sum.split(' ').next().unwrap());
    assert!(made["prompt"].as_str().unwrap().len() < prompt.len());
}

#[test]
fn where_nothing_is_recorded_nothing_is_done() {
    let world = World::empty();
    world.write("a.txt", "a\n");
    fs::remove_dir(world.root.join("histories")).unwrap();
    let before = tree::read(&world.root);
    for name in real_names() {
        tell(&world, real(&world, &name));
    }
    let project = world.root.join("project");
    let mut hook = start(world.command(["hook"]).env("CLAUDE_PROJECT_DIR", project));
    hook.feed(real(&world, "PostToolUse.Write.json").as_bytes());
    hook.ends_quietly();
    tree::assert_same(&tree::read(&world.root), &before, "a hook left something");
    // Another project that is recorded is not this one.
    let other = world.root.join("home/other");
    fs::create_dir(&other).unwrap();
    world.json(["init", "-C", other.to_str().unwrap()]);
    tell(&world, real(&world, "PostToolUse.Write.json"));
    assert!(events(&world).is_empty());
}

#[test]
fn the_project_is_found_from_wherever_the_shell_is() {
    let world = recorded();
    world.write("deep/er/x", "x\n");
    let mut agent = Agent::new(&world, "one");
    agent.cwd = world.dir.join("deep/er");
    let here = agent.bash("y", &[("y.txt", "y\n")]);
    assert_eq!(author(&world, "y.txt"), [here]);
    // A directory that is gone, a link to the project, and one outside while the session is inside.
    agent.cwd = world.dir.join("deep/gone");
    let gone = agent.bash("z", &[("z.txt", "z\n")]);
    assert_eq!(author(&world, "z.txt"), [gone]);
    std::os::unix::fs::symlink(&world.dir, world.root.join("link")).unwrap();
    agent.cwd = world.root.join("link/deep");
    let linked = json!({"file_path": world.root.join("link/w.txt"), "content": "w"});
    let linked = agent.call("Write", linked, || world.write("w.txt", "w\n"));
    assert_eq!(author(&world, "w.txt"), [linked]);
    agent.cwd = world.root.clone();
    let input = agent.input(
        "PostToolUse",
        &json!({"tool_name": "Bash", "tool_use_id": "t"}),
    );
    world.write("v.txt", "v\n");
    let mut command = world.command(["hook"]);
    command
        .current_dir("/")
        .env("CLAUDE_PROJECT_DIR", &world.dir);
    let mut hook = start(&mut command);
    hook.feed(input.to_string().as_bytes());
    hook.ends_quietly();
    assert_eq!(author(&world, "v.txt"), ["t"]);
}

#[test]
fn the_seed_s_event_names_count_where_the_input_names_none() {
    let world = recorded();
    world.write("b.txt", "b\n");
    let mut hook = start(&mut world.command(["hook", "post-tool"]));
    hook.feed(br#"{"session_id": "s", "tool_name": "Bash", "tool_use_id": "t"}"#);
    hook.ends_quietly();
    assert_eq!(author(&world, "b.txt"), ["t"]);
    for word in ["pre-tool", "session-end", "no-such-event"] {
        let mut hook = start(&mut world.command(["hook", word]));
        hook.feed(b"{}");
        hook.ends_quietly();
    }
    // Settings that somebody wrote by hand keep no tool from running either.
    for line in [
        "hook post-tool --tool Bash",
        "hook --quiet",
        "-C x hook a b",
        "hook -C",
    ] {
        let mut hook = start(&mut world.command(line.split(' ')));
        hook.feed(real(&world, "PostToolUse.Bash.json").as_bytes());
        hook.ends_quietly();
    }
    assert_eq!(events(&world).last().unwrap()["tool_name"], "Bash");
    assert!(
        world
            .run("hook --help")
            .ends(0)
            .out
            .contains("Usage: agentfs hook")
    );
}

#[test]
fn what_is_no_input_is_passed_over() {
    let world = recorded();
    let nested = "[".repeat(1 << 20);
    for input in [
        &b""[..],
        b"\n",
        b"null",
        b"garbage",
        b"{",
        b"{}",
        b"{\"hook_event_name\":",
        b"{\"hook_event_name\": 7}",
        b"{\"hook_event_name\": \"PostToolUse\", \"tool_input\": [[[",
        b"\0\xff\xfe",
        nested.as_bytes(),
    ] {
        tell(&world, input);
    }
    // Wrong types in the right places, and words that are no text.
    tell(
        &world,
        br#"{"hook_event_name": "PostToolUse", "session_id": 1, "tool_name": {}, "cwd": []}"#,
    );
    tell(&world, b"{\"hook_event_name\": \"PostToolUse\", \"tool_name\": \"B\xffsh\", \"tool_use_id\": \"\\ud800\"}");
    world.assert_sound();
    assert_eq!(world.json(["status"])["troubles"], json!([]));
}

#[test]
fn fifty_megabytes_are_read_and_a_little_of_them_is_kept() {
    let world = recorded();
    let agent = Agent::new(&world, "one");
    let content = "0123456789abcde\n".repeat(50 << 16);
    let path = world.dir.join("big.txt");
    let fields = json!({
        "tool_name": "Write",
        "tool_input": {"file_path": path, "content": content},
        "tool_use_id": "big",
    });
    world.write("big.txt", "big\n");
    agent.tell("PostToolUse", fields);
    assert_eq!(author(&world, "big.txt"), ["big"]);
    let size = fs::metadata(world.store().join("agentfs/events.jsonl"))
        .unwrap()
        .len();
    assert!(size < 100_000, "{size}");
}

#[test]
fn a_hook_whose_input_never_ends_is_soon_gone() {
    let world = recorded();
    let mut silent = start(&mut world.command(["hook"]));
    let mut endless = start(&mut world.command(["hook"]));
    let zeros = fs::File::open("/dev/zero").unwrap();
    let mut infinite = world.command(["hook"]);
    let infinite = infinite.stdin(zeros).status().unwrap();
    assert!(infinite.success());
    thread::sleep(Duration::from_millis(10));
    endless.hold(b"{\"hook_event_name\": \"PostToolUse\", ");
    silent.hold(b"");
    endless.ends_quietly();
    silent.ends_quietly();
}
