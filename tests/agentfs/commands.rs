//! What scripts and hands get from the command line: help, JSON, complaints with the next step.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use claude_cellar::agentfs::help::PROGRAM;

use super::agent::Agent;
use super::world::{Ran, World};

/// A project with two checkpoints, the second by a tool call.
fn recorded() -> World {
    let world = World::empty();
    world.write("a.txt", "alpha\n");
    world.init();
    let agent = Agent::new(&world, "one");
    agent.ask("write b");
    agent.write("b.txt", "b\n");
    world
}

#[test]
fn every_command_tells_about_itself() {
    let world = World::empty();
    for line in ["help", "--help", "-h"] {
        let overview = world.run(line).ends(0);
        assert!(
            overview
                .out
                .starts_with("Checkpoints of a working directory")
        );
        assert_eq!(overview.err, "");
    }
    for usage in PROGRAM.commands() {
        let name = usage.name;
        let by_option = world.run(&format!("{name} --help")).ends(0).out;
        let by_topic = world.run(&format!("help {name}")).ends(0).out;
        assert_eq!(by_option, by_topic);
        assert!(
            by_option.contains(&format!("Usage: agentfs {name}")),
            "{by_option}"
        );
        let wide = by_option.lines().find(|line| line.chars().count() > 100);
        assert_eq!(wide, None, "{name}");
    }
    let version = concat!("agentfs ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(world.run("--version").ends(0).out, version);
    assert_eq!(world.run("-V").ends(0).out, version);
    // Nothing of all this has begun a history.
    assert_eq!(
        fs::read_dir(world.root.join("histories")).unwrap().count(),
        0
    );
}

#[test]
fn json_is_json() {
    let world = recorded();
    for line in [
        "status",
        "list",
        "log",
        "log -n 1",
        "log --session one",
        "log --session nobody",
        "log --file b.txt",
        "changes",
        "diff v1",
        "diff v1 v2",
        "show v2",
        "show b.txt@v2",
        "blame b.txt",
        "blame b.txt:1",
        "history b.txt",
        "history b.txt --blame",
        "sessions",
        "session one",
        "session one --timeline",
        "timeline",
        "viz",
        "branches",
        "checkpoint nothing",
        "restore v1 --dry-run",
        "undo --dry-run",
        "branch v1 --name other",
        "switch other --dry-run",
        "restore v1",
        "undo",
        "export v2 ../out",
    ] {
        let value = world.json(line.split(' '));
        assert_eq!(value.is_null(), line == "checkpoint nothing", "{line}");
    }
    let moved = world.root.join("moved");
    let named = world.dir.to_str().unwrap();
    for line in [&["open"][..], &["close"], &["forget"], &["init", "again"]] {
        assert_eq!(world.json(line.iter().copied())["dir"], named, "{line:?}");
    }
    fs::rename(&world.dir, &moved).unwrap();
    let to = moved.to_str().unwrap();
    let mut command = world.command(["relocate", to, "--json"]);
    let told = Ran::of(command.current_dir(&moved)).json();
    assert_eq!(told["dir"], to);
}

#[test]
fn the_json_of_a_checkpoint_has_its_members_in_order() {
    let world = recorded();
    let made = &world.json(["log", "--session", "one"])[0];
    let keys: Vec<&str> = made
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let wanted = [
        "id",
        "version",
        "parent",
        "timestamp",
        "message",
        "trigger",
        "agent",
        "session_id",
        "tool",
        "tool_use_id",
        "tool_input",
        "prompt",
        "prompt_sha256",
        "transcript_path",
        "shared_with",
        "pinned",
        "restored_from",
        "context",
    ];
    assert_eq!(keys[..wanted.len()], wanted);
    assert_eq!(made["agent"], "claude-code");
    assert_eq!(made["prompt"], "write b");
}

#[test]
fn wrong_usage_is_2_with_one_line_that_helps() {
    let world = recorded();
    for (line, hint) in [
        ("", "agentfs help"),
        ("chekpoint", "did you mean checkpoint?"),
        ("stats", "did you mean status?"),
        ("log --sesion x", "did you mean --session?"),
        ("log -n x", "x is not a whole number"),
        ("log --session", "--session"),
        ("status --verbose", "agentfs help status"),
        ("blame", "FILE[:LINE[-LINE]]"),
        ("blame a.txt:0", "the first line is 1"),
        ("blame a.txt:3-2", "FILE:FIRST-LAST"),
        ("init one two three", "three"),
        ("restore", "restore needs CP"),
        ("branch v1", "--name NAME"),
        ("checkpoint m --context [", "--context is no JSON object"),
        ("install-hooks --user --project", "exclude each other"),
        ("completions tcsh", "unknown shell tcsh"),
        ("help nothing-like-it", "agentfs help"),
    ] {
        let ran = world.run(line).ends(2);
        assert_eq!(ran.out, "", "{line}");
        assert!(ran.err.starts_with("agentfs: "), "{ran:?}");
        assert_eq!(ran.err.lines().count(), 1, "{ran:?}");
        assert!(ran.err.contains(hint), "no {hint:?} in {ran:?}");
    }
}

#[test]
fn what_is_not_there_is_named_with_the_next_step() {
    let world = recorded();
    for (line, texts) in [
        ("show v9", &["no checkpoint v9", "agentfs log"][..]),
        (
            "show cp_00000000ff",
            &["no checkpoint cp_00000000ff", "agentfs log"],
        ),
        ("show @-40", &["@-40", "2 of them", "agentfs log"]),
        (
            "show none.txt",
            &["no such file: none.txt", "agentfs history"],
        ),
        ("show none.txt@v1", &["no such file: none.txt", "not in v1"]),
        ("show b.txt@v1", &["no such file: b.txt", "not in v1"]),
        (
            "diff v1 elsewhere",
            &["no checkpoint elsewhere", "agentfs log"],
        ),
        ("diff v1 v9", &["no checkpoint v9", "agentfs log"]),
        ("restore v9", &["no checkpoint v9", "agentfs log"]),
        (
            "restore cp_",
            &["cp_ may be cp_", " or cp_", "give more of the id"],
        ),
        ("blame none.txt", &["no such file: none.txt"]),
        ("blame a.txt:9", &["no such line", "a.txt", "1 line"]),
        ("blame a.txt@v7:1", &["no checkpoint @v7"]),
        (
            "history none.txt",
            &["none.txt", "no checkpoint changed it", "agentfs status"],
        ),
        ("session nobody", &["no session nobody", "agentfs sessions"]),
        ("switch nowhere", &["no branch nowhere", "agentfs branches"]),
        (
            "changes --since then",
            &["no checkpoint then", "agentfs log"],
        ),
        (
            "log elsewhere",
            &["no project", "elsewhere", "agentfs list"],
        ),
        (
            "log -C elsewhere",
            &["no project", "elsewhere", "agentfs list"],
        ),
        ("export v1 .", &["not empty", "choose a new directory"]),
    ] {
        let ran = world.run(line);
        assert_eq!(ran.out, "", "{line}");
        ran.complains(texts);
    }
    let nowhere = World::empty();
    for usage in PROGRAM.commands() {
        let line = match usage.name {
            "status" | "log" | "changes" | "undo" | "sessions" | "timeline" | "viz"
            | "branches" | "checkpoint" | "forget" | "gc" | "verify" | "watch" => {
                usage.name.to_owned()
            }
            "diff" | "show" | "restore" | "blame" | "history" | "session" | "switch" => {
                format!("{} v1", usage.name)
            }
            _ => continue,
        };
        let ran = nowhere.run(&line);
        if !ran.err.contains("stub") {
            ran.complains(&["no project", "agentfs init"]);
        }
    }
    assert_eq!(
        fs::read_dir(nowhere.root.join("histories"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_project_that_was_moved_is_told_how_to_go_on() {
    let world = recorded();
    let moved = world.root.join("moved");
    fs::rename(&world.dir, &moved).unwrap();
    let run = |line: &str| {
        let mut command = world.command(line.split(' '));
        Ran::of(command.current_dir(&moved))
    };
    run("status").complains(&["no project", "agentfs init", "agentfs relocate ."]);
    assert!(run("list").ends(0).out.contains("gone"));
    run("relocate .").ends(0);
    assert!(run("status").ends(0).out.contains("as in the newest"));
    run("restore v1 --dry-run").ends(0);
}

#[test]
fn names_that_are_not_text_are_no_reason_to_panic() {
    let world = recorded();
    let name = OsStr::from_bytes(b"caf\xe9");
    assert_eq!(Ran::of(&mut world.command([name])).code, Some(2));
    fs::write(world.dir.join(name), "x\n").unwrap();
    world.run("checkpoint odd").ends(0);
    for command in ["blame", "history"] {
        let ran = Ran::of(&mut world.command([OsStr::new(command), name]));
        assert!(ran.ends(0).err.is_empty());
    }
    for command in ["show", "restore", "session", "switch"] {
        let ran = Ran::of(&mut world.command([OsStr::new(command), OsStr::from_bytes(b"v\xff")]));
        assert!([Some(1), Some(2)].contains(&ran.code), "{ran:?}");
        assert!(!ran.err.contains("panicked"), "{ran:?}");
    }
    for empty in [
        "show", "blame", "history", "restore", "session", "switch", "log", "forget",
    ] {
        let ran = Ran::of(&mut world.command([empty, ""]));
        assert!(
            [Some(0), Some(1), Some(2)].contains(&ran.code),
            "{empty}: {ran:?}"
        );
        assert!(!ran.err.contains("panicked"), "{empty}: {ran:?}");
    }
}

#[test]
fn a_reader_that_has_gone_and_a_full_disk_are_no_reason_to_panic() {
    let world = recorded();
    for line in ["help", "log", "timeline", "show v2", "log --json"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = world.command(line.split(' '));
        let child = command
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        assert_eq!(Ran::from(child.wait_with_output().unwrap()).err, "");
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = world.command(line.split(' '));
        Ran::of(command.stdout(full)).complains(&["cannot write the output"]);
    }
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let world = recorded();
    for line in [
        "log",
        "timeline",
        "show v2",
        "blame b.txt",
        "session one",
        "diff v1 v2",
    ] {
        let piped = world.run(line).ends(0).out;
        assert!(!piped.contains('\x1b'), "{line}");
        for (set, coloured) in [("", true), ("NO_COLOR=1", false), ("TERM=dumb", false)] {
            let typed = format!(
                "env -u NO_COLOR TERM=xterm AGENTFS_PAGER= PAGER=cat {set} {} {line}",
                env!("CARGO_BIN_EXE_agentfs")
            );
            let mut script = Command::new("script");
            script
                .args(["-qec", &typed, "/dev/null"])
                .current_dir(&world.dir);
            script
                .env("HOME", world.root.join("home"))
                .env("AGENTFS_HOME", world.root.join("histories"))
                .stdin(Stdio::null());
            let shown = Ran::of(&mut script).ends(0).out;
            assert_eq!(shown.contains("\x1b["), coloured, "{line} {set}: {shown:?}");
        }
    }
}

/// What bash offers for a command line; a word of its own for each argument.
fn offered(world: &World, words: &[&str]) -> Vec<String> {
    let script = "source \"$1\" && COMP_WORDS=(\"${@:2}\") && COMP_CWORD=$(($# - 2)) && \
                  _agentfs && printf '%s\\n' \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", script, "bash"])
        .arg(world.root.join("completions"))
        .arg("agentfs")
        .args(words);
    let ran = Ran::of(&mut bash).ends(0);
    assert_eq!(ran.err, "");
    let lines = ran.out.lines().filter(|line| !line.is_empty());
    lines.map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_options_and_fixed_words() {
    let world = World::empty();
    let script = world.run("completions bash").ends(0).out;
    fs::write(world.root.join("completions"), script).unwrap();
    for (words, wanted) in [
        (&["bla"][..], &["blame"][..]),
        (&["sess"], &["sessions", "session"]),
        (&["log", "--se"], &["--session"]),
        (&["install-hooks", "--re"], &["--remove"]),
        (&["sync", ""], &["push", "pull", "status"]),
        (&["completions", "z"], &["zsh"]),
        (&["help", "und"], &["undo"]),
        (&["nothing-like-it", ""], &[]),
    ] {
        assert_eq!(offered(&world, words), wanted, "{words:?}");
    }
    let all = offered(&world, &[""]);
    for usage in PROGRAM.commands() {
        assert!(all.contains(&usage.name.to_owned()), "{}", usage.name);
    }
}

/// A program's verdict on a text; None if it is not installed.
fn verdict(world: &World, text: &str, program: &str, args: &[&str]) -> Option<Ran> {
    let path = world.root.join("text");
    fs::write(&path, text).unwrap();
    let mut command = Command::new(program);
    command.args(args).arg(&path).env("HOME", &world.root);
    match command.stdin(Stdio::null()).output() {
        Ok(output) => Some(Ran::from(output)),
        Err(error) => {
            eprintln!("{program}: {error}; not tried");
            None
        }
    }
}

#[test]
fn other_shells_and_man_read_theirs() {
    let world = World::empty();
    for shell in ["zsh", "fish"] {
        let script = world.run(&format!("completions {shell}")).ends(0).out;
        for word in ["agentfs", "install-hooks", "timeline", "dry-run"] {
            assert!(script.contains(word), "no {word} for {shell}");
        }
        if let Some(ran) = verdict(&world, &script, shell, &["-n"]) {
            assert_eq!(ran.ends(0).err, "");
        }
    }
    let page = world.run("help --man").ends(0).out;
    for word in ["AGENTFS_HOME", "EXIT STATUS", "agentfs install\\-hooks"] {
        assert!(page.contains(word), "no {word}");
    }
    if let Some(ran) = verdict(&world, &page, "groff", &["-man", "-ww", "-Tutf8"]) {
        assert_eq!(ran.code, Some(0));
        assert_eq!(ran.err, "");
    }
}
