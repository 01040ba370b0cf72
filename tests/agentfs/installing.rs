//! Hooks come into the settings and out of them again; what else is there stays as it was.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::agent::{Agent, author, real, start};
use super::world::{Ran, World};

const FOREIGN: &str = "{\n    \"model\": \"opus\",   \"permissions\": {\"allow\": [ \"Bash(make:*)\" ]},\n    \"hooks\": {\n        \"PreToolUse\": [ {\"matcher\": \"Bash\", \"hooks\": [{\"type\": \"command\", \"command\": \"./check.sh\"}]} ],\n        \"Notification\": [{\"hooks\": [{\"type\":\"command\",\"command\":\"notify-send hi\"}]}]\n    }\n}";

fn user(world: &World) -> PathBuf {
    world.root.join("home/.claude/settings.json")
}

fn install(world: &World, line: &str) -> Ran {
    world.run(&format!("install-hooks {line}"))
}

/// The commands that a settings file runs at an event.
fn commands(file: &PathBuf, event: &str) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    let groups = value["hooks"][event]
        .as_array()
        .cloned()
        .unwrap_or_default();
    groups
        .iter()
        .flat_map(|group| group["hooks"].as_array().unwrap())
        .map(|hook| hook["command"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn the_installed_command_is_what_records() {
    let world = World::empty();
    world.write("a.txt", "a\n");
    world.init();
    let said = install(&world, "").ends(0);
    assert!(
        said.out.contains("settings.json") && said.err.is_empty(),
        "{said:?}"
    );
    let [command] = &commands(&user(&world), "PostToolUse")[..] else {
        panic!("one hook");
    };
    for event in [
        "PreToolUse",
        "PostToolUseFailure",
        "UserPromptSubmit",
        "SessionStart",
    ] {
        assert_eq!(commands(&user(&world), event), [command.as_str()]);
    }
    for event in ["Stop", "SubagentStop", "SessionEnd"] {
        assert_eq!(commands(&user(&world), event), [command.as_str()]);
    }
    world.write("b.txt", "b\n");
    let mut shell = Command::new("sh");
    shell
        .args(["-c", command])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", world.root.join("home"))
        .env("AGENTFS_HOME", world.root.join("histories"));
    let mut hook = start(&mut shell);
    hook.feed(real(&world, "PostToolUse.Bash.json").as_bytes());
    hook.ends_quietly();
    assert_eq!(author(&world, "b.txt"), ["toolu_de7af81b46474089a79739b9"]);
}

#[test]
fn foreign_settings_survive_byte_for_byte() {
    let world = World::empty();
    world.init();
    let project = world.dir.join(".claude/settings.json");
    for (line, file) in [("--user", user(&world)), ("--project", project)] {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, FOREIGN).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        install(&world, line).ends(0);
        let installed = fs::read_to_string(&file).unwrap();
        assert_eq!(commands(&file, "PreToolUse").len(), 2);
        assert_eq!(commands(&file, "PreToolUse")[0], "./check.sh");
        assert_eq!(commands(&file, "Notification"), ["notify-send hi"]);
        let twice = install(&world, line).ends(0).out;
        assert!(twice.contains("already"), "{twice}");
        assert_eq!(fs::read_to_string(&file).unwrap(), installed);
        install(&world, &format!("{line} --remove")).ends(0);
        assert_eq!(fs::read_to_string(&file).unwrap(), FOREIGN);
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o640);
        let none = install(&world, &format!("{line} --remove")).ends(0).out;
        assert!(none.contains("no hooks"), "{none}");
        let others = fs::read_dir(file.parent().unwrap()).unwrap().count();
        assert_eq!(others, 1, "nothing is left beside it");
    }
}

#[test]
fn the_settings_are_where_the_client_looks_for_them() {
    let world = World::empty();
    let config = world.root.join("config");
    let mut command = world.command(["install-hooks"]);
    Ran::of(command.env("CLAUDE_CONFIG_DIR", &config)).ends(0);
    assert!(config.join("settings.json").exists());
    assert!(!user(&world).exists());
    // From a subdirectory the project's own.
    world.write("deep/x", "x\n");
    world.init();
    let mut command = world.command(["install-hooks", "--project"]);
    Ran::of(command.current_dir(world.dir.join("deep"))).ends(0);
    assert!(world.dir.join(".claude/settings.json").exists());
    install(&world, "--project --remove").ends(0);
    assert!(!world.dir.join(".claude/settings.json").exists());
}

#[test]
fn what_may_not_or_cannot_be_edited_is_left_alone() {
    let world = World::empty();
    let file = user(&world);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    for (broken, place) in [
        ("{\n  // mine\n  \"a\": 1\n}", "line 2, column 3"),
        ("{\"a\": 1", "line 1"),
        ("[]", "line 1, column 1"),
    ] {
        fs::write(&file, broken).unwrap();
        install(&world, "").complains(&["cannot edit", "settings.json", place]);
        assert_eq!(fs::read_to_string(&file).unwrap(), broken);
    }
    fs::write(&file, FOREIGN).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o444)).unwrap();
    install(&world, "").complains(&["cannot write", "read-only", "home-manager"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), FOREIGN);
    fs::remove_file(&file).unwrap();
    symlink("nowhere.json", &file).unwrap();
    install(&world, "").complains(&["cannot follow the link"]);
    let real = world.root.join("home/dotfiles.json");
    fs::write(&real, FOREIGN).unwrap();
    fs::remove_file(&file).unwrap();
    symlink("../dotfiles.json", &file).unwrap();
    install(&world, "").ends(0);
    assert!(file.symlink_metadata().unwrap().is_symlink());
    assert_eq!(commands(&real, "Stop").len(), 1);
    install(&world, "--remove").ends(0);
    assert_eq!(fs::read_to_string(&real).unwrap(), FOREIGN);
    let both = install(&world, "--project --user");
    assert_eq!(both.code, Some(2));
    // A project's settings need a project.
    install(&world, "--project").complains(&["no project", "agentfs init"]);
}

#[test]
fn a_program_in_a_place_with_spaces_is_found_by_the_client_s_shell() {
    let world = World::empty();
    world.write("a.txt", "a\n");
    world.init();
    let place = world.root.join("my tools (it's)");
    fs::create_dir(&place).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_agentfs"), place.join("agentfs")).unwrap();
    let mut command = Command::new(place.join("agentfs"));
    command
        .arg("install-hooks")
        .env_clear()
        .env("HOME", world.root.join("home"));
    Ran::of(&mut command).ends(0);
    let command = commands(&user(&world), "Stop").remove(0);
    world.write("b.txt", "b\n");
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &command])
        .env("AGENTFS_HOME", world.root.join("histories"));
    let mut hook = start(&mut shell);
    let input = Agent::new(&world, "one").input("Stop", &serde_json::json!({}));
    hook.feed(input.to_string().as_bytes());
    hook.ends_quietly();
    assert!(author(&world, "b.txt").is_empty());
}
