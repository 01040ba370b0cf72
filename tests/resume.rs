//! `resume`: a session's ID is enough to be in its directory with Claude Code running there. Claude Code is a
//! script here that tells what it was started with.

mod cellar;

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use cellar::{Home, Ran, mounted, pid, signal};

const ID: &str = "7a1e0000-0000-4000-8000-000000000001";
const OTHER: &str = "7a1e0000-0000-4000-8000-000000000002";

fn script(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A home with a `claude` in its PATH.
fn with_claude() -> Home {
    let home = Home::new();
    script(
        &home.dir.join("bin/claude"),
        r#"echo "$0 $* in $(pwd -P) of ${CLAUDE_CONFIG_DIR-}"; cat"#,
    );
    home
}

fn command(home: &Home, words: &[&str]) -> Command {
    let mut command = home.command(words);
    command.env("PATH", format!("{}/bin:/usr/bin:/bin", home.dir.display()));
    command
}

#[track_caller]
fn run(home: &Home, words: &[&str], code: i32) -> Ran {
    Ran::from(command(home, words).output().unwrap()).ends(code)
}

fn slug(dir: &Path) -> String {
    let text = dir.to_str().unwrap();
    text.replace(|c: char| !c.is_ascii_alphanumeric(), "-")
}

/// A directory to work in, and the directory of projects' one for it.
fn project(home: &Home, projects: &Path, name: &str) -> (PathBuf, PathBuf) {
    let work = home.dir.join(name);
    fs::create_dir_all(&work).unwrap();
    let project = projects.join(slug(&work));
    fs::create_dir_all(&project).unwrap();
    (work, project)
}

fn line(cwd: &Path) -> String {
    format!(
        "{{\"type\":\"user\",\"message\":{{\"role\":\"user\",\"content\":\"Fix the tests\"}},\"cwd\":\"{}\"}}\n",
        cwd.display()
    )
}

/// What the script says.
fn started(home: &Home, id: &str, cwd: &Path) -> String {
    let claude = home.dir.join("bin/claude");
    let (claude, cwd) = (claude.display(), cwd.display());
    format!("{claude} --resume {id} in {cwd} of \n")
}

#[test]
fn claude_runs_in_the_session_s_directory_with_the_terminal_of_the_caller() {
    let home = with_claude();
    home.run("mount").ends(0);
    let (work, project) = project(&home, &home.mount_dir(), "work/a.b");
    fs::write(project.join(format!("{ID}.jsonl")), line(&work)).unwrap();
    fs::write(project.join(format!("agent-{ID}.jsonl")), line(&work)).unwrap();
    for id in ["7", "7a1e0000-0000", ID] {
        assert_eq!(
            run(&home, &["resume", id], 0).out,
            started(&home, ID, &work)
        );
    }
    fs::write(home.dir.join("typed"), "typed by the user").unwrap();
    let mut command = command(&home, &["resume", "7a"]);
    command.stdin(Stdio::from(File::open(home.dir.join("typed")).unwrap()));
    let ran = Ran::from(command.output().unwrap()).ends(0);
    assert!(ran.out.ends_with("of \ntyped by the user"), "{}", ran.out);
    script(&home.dir.join("bin/claude"), "exit 42");
    run(&home, &["resume", "7a"], 42);
}

#[test]
fn the_cellar_is_mounted_first() {
    let home = with_claude();
    let store = home.dir.join(".local/share/claude-cellar/store");
    let (work, project) = project(&home, &store, "work");
    fs::write(project.join(format!("{ID}.jsonl")), line(&work)).unwrap();
    home.run("compress .local/share/claude-cellar/store/none.jsonl")
        .ends(1);
    let path = project.join(format!("{ID}.jsonl"));
    home.run(&format!("compress {}", path.display())).ends(0);
    for round in ["not mounted", "mounted", "killed"] {
        let ran = run(&home, &["resume", "7a"], 0);
        assert_eq!(ran.out, started(&home, ID, &work), "{round}");
        assert!(mounted(&home.mount_dir()).is_some());
        if round == "mounted" {
            signal(&pid(&home), "KILL");
        }
    }
    home.run("umount").ends(0);
    // The store is the mount's other side.
    let store = store.to_str().unwrap();
    let ran = run(&home, &["resume", "7a", "--projects-dir", store], 0);
    assert_eq!(ran.out, started(&home, ID, &work));
    assert!(mounted(&home.mount_dir()).is_some());
}

#[test]
fn the_last_directory_that_its_project_is_named_after_counts() {
    let home = with_claude();
    home.run("mount").ends(0);
    let (work, project) = project(&home, &home.mount_dir(), "wörk \"q\"");
    let inner = work.join("inner");
    fs::create_dir(&inner).unwrap();
    let escaped = |path: &Path| {
        let text = path.to_str().unwrap().replace('"', "\\\"");
        text.replace('ö', "\\u00f6").replace('/', "\\/")
    };
    let path = project.join(format!("{ID}.jsonl"));
    let big = "x".repeat(3 << 20);
    let lines = [
        "{\"type\":\"summary\",\"summary\":\"old\"}".to_owned(),
        "{\"cwd\":\"/elsewhere\"}".to_owned(),
        format!("{{\"cwd\":\"{}\",\"text\":\"{big}\"}}", escaped(&work)),
        format!("{{\"cwd\":\"{}\"}}", escaped(&inner)),
        "{\"tool\":{\"cwd\":\"/nested\"},\"text\":\"\\\"cwd\\\":\\\"/quoted\\\"\"}".to_owned(),
        "{\"cwd\":\"relative\"}{\"cwd\":7}".to_owned(),
        "{\"cwd\":\"/cut sho".to_owned(),
    ];
    fs::write(&path, lines.join("\n")).unwrap();
    let ran = run(&home, &["resume", "7a"], 0);
    assert_eq!(ran.out, started(&home, ID, &work));

    // A project that is named after none of them: the last.
    let moved = home.mount_dir().join("-moved");
    fs::rename(&project, &moved).unwrap();
    let ran = run(&home, &["resume", "7a"], 0);
    assert_eq!(ran.out, started(&home, ID, &inner));
}

#[test]
fn what_may_be_several_sessions_is_shown_as_a_table() {
    let home = with_claude();
    home.run("mount").ends(0);
    let (work, first) = project(&home, &home.mount_dir(), "first");
    let (_, second) = project(&home, &home.mount_dir(), "second");
    let times = [
        (first.join(format!("{ID}.jsonl")), 1_700_000_000),
        (first.join(format!("{OTHER}.jsonl")), 1_700_000_600),
        (second.join(format!("{ID}.jsonl")), 1_700_001_200),
    ];
    let texts = [
        line(&work),
        "{\"type\":\"user\",\"isMeta\":true,\"message\":{\"content\":\"meta\"}}\n\
         {\"type\":\"user\",\"message\":{\"content\":\"<command-name>/clear\"}}\n\
         {\"type\":\"user\",\"message\":{\"content\":[{\"type\":\"image\"},{\"type\":\"text\",\"text\":\"two\\n\\u001b[31mlines\"}]}}\n"
            .to_owned(),
        format!("{{\"type\":\"summary\",\"summary\":\"{}\"}}\n{}", "s".repeat(99), line(&work)),
    ];
    for ((path, seconds), text) in times.iter().zip(texts) {
        fs::write(path, text).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(*seconds);
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(time).unwrap();
    }
    let ran = run(&home, &["resume", "7a1e"], 2);
    let rows: Vec<&str> = ran.out.lines().collect();
    assert_eq!(rows.len(), 4, "{}", ran.out);
    let row = |number: usize, project: &Path, id: &str, when: &str, begins: &str| {
        let name = format!("{}/{id}", project.file_name().unwrap().to_str().unwrap());
        let row = rows[number];
        assert!(row.starts_with(&name) && row.contains(when), "{row}");
        assert!(row.ends_with(&format!("  {begins}")), "{row}");
    };
    row(1, &second, ID, " 2023-11-14 22:33 ", &"s".repeat(60));
    row(2, &first, OTHER, " 2023-11-14 22:23 ", "two [31mlines");
    row(3, &first, ID, " 2023-11-14 22:13 ", "Fix the tests");
    ran.complains(&["7a1e", "3 sessions", "PROJECT/ID"]);
    run(&home, &["resume", ID], 2).complains(&["2 sessions"]);
    let project = first.file_name().unwrap().to_str().unwrap();
    let ran = run(&home, &["resume", "--", &format!("{project}/{ID}")], 0);
    assert_eq!(ran.out, started(&home, ID, &work));
}

#[test]
fn a_session_that_is_not_there_is_told_and_whether_it_was_deleted() {
    let home = with_claude();
    let mut mount = home.command(["mount"]);
    Ran::from(mount.env("CLAUDE_CELLAR_TRASH_DAYS", "3").output().unwrap()).ends(0);
    let (work, project) = project(&home, &home.mount_dir(), "work");
    let path = project.join(format!("{ID}.jsonl"));
    fs::write(&path, line(&work)).unwrap();
    run(&home, &["resume", "8"], 1).complains(&["begins with 8", "list DIR"]);
    fs::remove_file(&path).unwrap();
    run(&home, &["resume", "7a"], 1).complains(&["begins with 7a", "trash list"]);
    run(&home, &["resume", ""], 2).complains(&["empty ID"]);
    home.run("trash restore 7a").ends(0);
    std::thread::sleep(Duration::from_millis(1_100));
    assert_eq!(
        run(&home, &["resume", "7a"], 0).out,
        started(&home, ID, &work)
    );
}

#[test]
fn a_directory_that_is_gone_is_named() {
    let home = with_claude();
    home.run("mount").ends(0);
    let (work, project) = project(&home, &home.mount_dir(), "work");
    let path = project.join(format!("{ID}.jsonl"));
    fs::write(&path, line(&work)).unwrap();
    fs::remove_dir(&work).unwrap();
    run(&home, &["resume", "7a"], 1).complains(&[work.to_str().unwrap(), "is gone"]);
    fs::write(&work, "a file").unwrap();
    run(&home, &["resume", "7a"], 1).complains(&[work.to_str().unwrap(), "no directory"]);
    fs::write(&path, "{\"type\":\"summary\"}\nnot json\n").unwrap();
    run(&home, &["resume", "7a"], 1).complains(&[path.to_str().unwrap(), "name no directory"]);
}

#[test]
fn the_claude_binary_is_the_one_that_was_named_last_and_never_ourselves() {
    let home = with_claude();
    home.run("mount").ends(0);
    let (work, project) = project(&home, &home.mount_dir(), "work");
    fs::write(project.join(format!("{ID}.jsonl")), line(&work)).unwrap();
    let which = |command: &mut Command| {
        let ran = Ran::from(command.output().unwrap()).ends(0);
        ran.out.split(' ').next().unwrap().to_owned()
    };
    for name in ["noted", "variable", "given"] {
        script(&home.dir.join(name), "echo \"$0 \"");
    }
    let resume = || command(&home, &["resume", "7a"]);
    let at = |name: &str| home.dir.join(name).to_str().unwrap().to_owned();
    assert_eq!(which(&mut resume()), at("bin/claude"));
    let note = home.dir.join(".config/claude-cellar/claude-bin.path");
    fs::create_dir_all(note.parent().unwrap()).unwrap();
    fs::write(&note, at("noted")).unwrap();
    assert_eq!(which(&mut resume()), at("noted"));
    fs::write(&note, at("gone since")).unwrap();
    assert_eq!(which(&mut resume()), at("bin/claude"));
    let variable = ("CLAUDE_CELLAR_CLAUDE_BIN", at("variable"));
    assert_eq!(which(resume().env(variable.0, &variable.1)), at("variable"));
    let given = |name: &str| {
        let mut command = command(&home, &["resume", "7a", "--claude-bin", name]);
        command.env(variable.0, &variable.1);
        command
    };
    assert_eq!(which(&mut given("given")), at("given"));

    let ourselves = env!("CARGO_BIN_EXE_claude-cellar");
    fs::write(home.dir.join("text"), "no program").unwrap();
    for (name, reason) in [
        ("none", "No such file"),
        ("text", "no program"),
        (".", "no program"),
        (ourselves, "claude-cellar itself"),
    ] {
        let ran = Ran::from(given(name).output().unwrap()).ends(1);
        ran.complains(&[name, reason, "--claude-bin"]);
    }
    fs::remove_file(home.dir.join("bin/claude")).unwrap();
    std::os::unix::fs::symlink(ourselves, home.dir.join("bin/claude")).unwrap();
    let ran = Ran::from(resume().env("PATH", at("bin")).output().unwrap());
    ran.ends(1)
        .complains(&["no claude in PATH", "--claude-bin"]);
}

#[test]
fn another_directory_of_projects_is_used_as_it_is() {
    let home = with_claude();
    let projects = home.dir.join("backup/projects");
    let (work, project) = project(&home, &projects, "work");
    let path = project.join(format!("{ID}.jsonl"));
    fs::write(&path, line(&work)).unwrap();
    let resume = ["resume", "7a", "--projects-dir", "backup/projects"];
    let config = home.dir.join("backup");
    let said = started(&home, ID, &work).replace("of ", &format!("of {}", config.display()));
    assert_eq!(run(&home, &resume, 0).out, said);
    assert_eq!(mounted(&home.mount_dir()), None);
    home.run(&format!("compress {}", path.display())).ends(0);
    run(&home, &resume, 1).complains(&[path.to_str().unwrap(), "stored compressed", "mount"]);
    let none = ["resume", "7a", "--projects-dir", "none"];
    run(&home, &none, 1).complains(&["none", "no session"]);
}
