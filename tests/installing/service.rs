//! The unit: its text, what it is told, and that it is kept, changed and left alone where it should be.

use super::manager::Managed;
use super::trees::{self, assert_same, tree};
use super::{put, store};
use crate::cellar::{Home, mounted, pid};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

const BINARY: &str = env!("CARGO_BIN_EXE_claude-cellar");

/// What systemd itself says to a unit; the names of its templates and sockets are not this test's.
fn verify(unit: &Path) {
    let output = Command::new("systemd-analyze")
        .args(["verify", "--user", "--man=no", "--recursive-errors=no"])
        .arg(unit)
        .env("XDG_RUNTIME_DIR", unit.parent().unwrap())
        .output();
    let output = output.expect("systemd-analyze: install the package systemd");
    let said = String::from_utf8_lossy(&output.stderr);
    let name = unit.file_name().unwrap().to_str().unwrap();
    let about: Vec<&str> = said.lines().filter(|line| line.contains(name)).collect();
    assert!(
        output.status.success() && about.is_empty(),
        "{said}\n{}",
        fs::read_to_string(unit).unwrap()
    );
}

#[test]
fn the_unit_is_written_enabled_started_and_passes_systemd_s_own_test() {
    let managed = Managed::new();
    trees::odd(&managed.home.mount_dir());
    let before = tree(&managed.home.mount_dir());
    let told = managed.run("install").ends(0).out;
    assert!(
        told.contains(&format!("service    {}\n", managed.unit().display())),
        "{told}"
    );
    let calls = managed.calls();
    let tail = [
        "daemon-reload",
        "enable claude-cellar.service",
        "start claude-cellar.service",
    ];
    assert_eq!(&calls[calls.len() - 3..], tail);
    assert_same(&tree(&managed.home.mount_dir()), &before, "after install");
    let text = managed.text();
    for line in [
        "Type=notify",
        &format!("ExecStart={BINARY} mount --foreground --adopt"),
        "Restart=on-failure",
        "WantedBy=default.target",
    ] {
        assert!(text.lines().any(|l| l == line), "no {line} in {text}");
    }
    assert!(text.lines().any(|l| l.starts_with("ExecStop=")), "{text}");
    assert!(
        text.contains("PATH=/run/wrappers/bin:/run/current-system/sw/bin:"),
        "{text}"
    );
    assert_eq!(
        managed.variables(),
        [""; 0],
        "nothing differs from the defaults"
    );
    verify(&managed.unit());

    // Twice is once, and the daemon goes on.
    let daemon = pid(&managed.home);
    managed.run("install").ends(0);
    assert_eq!((pid(&managed.home), managed.text()), (daemon, text));
    assert!(!managed.calls().iter().any(|call| call.starts_with("stop")));
    // A login: what was written while it was down is taken in.
    assert!(managed.systemctl("stop claude-cellar.service"));
    assert_eq!(mounted(&managed.home.mount_dir()), None);
    put(&managed.home.mount_dir().join("-late/s.jsonl"), "{}\n");
    let late = tree(&managed.home.mount_dir());
    assert!(managed.systemctl("start claude-cellar.service"));
    assert_same(
        &tree(&managed.home.mount_dir()),
        &trees::united(&[&before, &late]),
        "after a login",
    );
}

#[test]
fn the_unit_is_told_what_the_shell_knows_and_the_manager_does_not() {
    let managed = Managed::new();
    let dir = managed.home.dir.clone();
    let paths = ["claude", "data", "state", "config", "runtime"].map(|name| dir.join(name));
    fs::create_dir(&paths[4]).unwrap();
    put(&paths[0].join("projects/-p/s.jsonl"), "{\"n\":1}\n");
    let before = tree(&paths[0].join("projects"));
    let variables = [
        ("CLAUDE_CONFIG_DIR", paths[0].as_path()),
        ("XDG_DATA_HOME", &paths[1]),
        ("XDG_STATE_HOME", &paths[2]),
        ("XDG_CONFIG_HOME", &paths[3]),
        ("XDG_RUNTIME_DIR", &paths[4]),
        ("CLAUDE_CELLAR_SEAL_AFTER", Path::new("7")),
        ("CLAUDE_CELLAR_BUNDLES", Path::new("compress")),
        ("CLAUDE_CELLAR_TRASH_DAYS", Path::new("9")),
        ("CLAUDE_CELLAR_MAX_FDS", Path::new("64")),
        ("CLAUDE_CELLAR_LOG", Path::new("debug")),
    ];
    managed.run_with("install", &variables).ends(0);
    let told = managed.variables();
    for line in [
        format!("CLAUDE_CELLAR_MOUNT_DIR={}/projects", paths[0].display()),
        format!(
            "CLAUDE_CELLAR_STORE_DIR={}/claude-cellar/store",
            paths[1].display()
        ),
        format!("XDG_STATE_HOME={}", paths[2].display()),
        format!("XDG_RUNTIME_DIR={}", paths[4].display()),
        "CLAUDE_CELLAR_SEAL_AFTER=7".into(),
        "CLAUDE_CELLAR_BUNDLES=compress".into(),
        "CLAUDE_CELLAR_TRASH_DAYS=9".into(),
        "CLAUDE_CELLAR_MAX_FDS=64".into(),
        "CLAUDE_CELLAR_LOG=debug".into(),
    ] {
        assert!(told.contains(&line), "no {line} in {told:?}");
    }
    verify(&managed.unit());
    assert_same(&tree(&paths[0].join("projects")), &before, "after install");
    assert!(!managed.home.mount_dir().exists());
    // Commands of the shell find the daemon that the service started.
    let status = managed.run_with("status", &variables).ends(0).out;
    assert!(status.contains(paths[1].to_str().unwrap()), "{status}");

    // A shell that has none of the cellar's own changes nothing of it.
    let text = managed.text();
    managed.run_with("install", &variables[2..5]).ends(0);
    assert_eq!(managed.text(), text);
    assert_same(
        &tree(&paths[0].join("projects")),
        &before,
        "installed again",
    );
    // One that is set now wins.
    let mut changed = variables[2..5].to_vec();
    changed.push(("CLAUDE_CELLAR_SEAL_AFTER", Path::new("8")));
    managed.run_with("install", &changed).ends(0);
    assert_eq!(managed.text(), text.replace("SEAL_AFTER=7", "SEAL_AFTER=8"));
    assert_same(
        &tree(&paths[0].join("projects")),
        &before,
        "with another setting",
    );
}

#[test]
fn the_unit_is_not_told_what_the_manager_knows_itself_unless_it_may_forget() {
    let managed = Managed::new();
    let claude = managed.home.dir.join("claude");
    managed.has(&[("CLAUDE_CONFIG_DIR", claude.to_str().unwrap())]);
    managed
        .run_with("install", &[("CLAUDE_CONFIG_DIR", &claude)])
        .ends(0);
    // `systemctl --user set-environment` lasts until the log-out.
    let line = format!("CLAUDE_CELLAR_MOUNT_DIR={}/projects", claude.display());
    assert_eq!(managed.variables(), [line]);
    managed.has(&[]);
    assert!(managed.systemctl("stop claude-cellar.service"));
    assert!(managed.systemctl("start claude-cellar.service"));
    assert!(mounted(&claude.join("projects")).is_some());
}

#[test]
fn a_manager_with_variables_that_the_shell_lacks_is_told_better() {
    let managed = Managed::new();
    managed.has(&[
        ("CLAUDE_CONFIG_DIR", "/nowhere"),
        ("XDG_DATA_HOME", "/nowhere/data"),
    ]);
    put(&managed.home.mount_dir().join("-p/s.jsonl"), "{\"n\":1}\n");
    let before = tree(&managed.home.mount_dir());
    managed.run("install").ends(0);
    assert_same(&tree(&managed.home.mount_dir()), &before, "after install");
    assert!(store(&managed.home).join("-p").exists());
}

#[test]
fn odd_paths_reach_the_daemon_as_they_are() {
    for name in [
        "with space",
        "100%h",
        "quote\"s'and\\back",
        "$HOME;x",
        "ünï",
        "tab\there",
    ] {
        let managed = Managed::new();
        let dir = managed.home.dir.join(name);
        // systemd takes no program with one of these in its path.
        let plain = !name.contains(['"', '\'', '\\', '\t']);
        let program = if plain { &dir } else { &managed.home.dir }.join("claude-cellar");
        fs::create_dir(&dir).unwrap();
        fs::hard_link(BINARY, &program)
            .or_else(|_| fs::copy(BINARY, &program).map(drop))
            .unwrap();
        put(&dir.join("claude/projects/-p/s.jsonl"), "{\"n\":1}\n");
        let before = tree(&dir.join("claude/projects"));
        let ran = Command::new(&program)
            .arg("install")
            .env_clear()
            .env("PATH", managed.path())
            .env("HOME", &managed.home.dir)
            .env("XDG_RUNTIME_DIR", managed.home.dir.join("run"))
            .env("CLAUDE_CONFIG_DIR", dir.join("claude"))
            .env("CLAUDE_CELLAR_STORE_DIR", dir.join("store"))
            .output()
            .unwrap();
        assert!(ran.status.success(), "{name}: {ran:?}\n{}", managed.text());
        verify(&managed.unit());
        assert_same(&tree(&dir.join("claude/projects")), &before, name);
        assert!(dir.join("store/-p").exists(), "{name}");
        // What it was told is read back.
        let text = managed.text();
        managed.run("uninstall").ends(0);
        put(&managed.unit(), &text);
        let told = managed.run("install --dry-run").ends(0).out;
        assert!(
            told.contains(&format!(
                "CLAUDE_CELLAR_STORE_DIR={}",
                dir.join("store").display()
            )),
            "{told}"
        );
    }
}

#[test]
fn a_path_that_systemd_cannot_hold_is_told() {
    use std::os::unix::ffi::OsStrExt;
    let managed = Managed::new();
    let odd = managed.home.dir.join(std::ffi::OsStr::from_bytes(b"\xff"));
    let before = tree(&managed.home.dir);
    let ran = managed
        .run_with("install", &[("CLAUDE_CELLAR_STORE_DIR", &odd)])
        .ends(1);
    ran.complains(&["UTF-8", "--no-systemd"]);
    assert_same(
        &trees::without(&tree(&managed.home.dir), &["calls"]),
        &before,
        "after the refusal",
    );
}

#[test]
fn the_one_link_s_store_is_told_to_the_service() {
    let managed = Managed::new();
    let target = managed.home.dir.join("nfs");
    trees::flat(&target);
    fs::create_dir_all(managed.home.mount_dir()).unwrap();
    symlink(&target, managed.home.mount_dir().join("-linked")).unwrap();
    managed.run("install").ends(0);
    assert_eq!(
        managed.variables(),
        [format!("CLAUDE_CELLAR_STORE_DIR={}", target.display())]
    );
    let before = tree(&managed.home.mount_dir());
    assert!(before.contains_key(Path::new("-linked/memory/MEMORY.md")));
    managed.run("install").ends(0);
    assert_same(&tree(&managed.home.mount_dir()), &before, "installed again");
    // Neither does the shell need the service to find it.
    fs::remove_file(managed.unit()).unwrap();
    assert!(managed.home.run("umount").code == Some(0));
    managed.home.run("mount").ends(0);
    assert_same(&tree(&managed.home.mount_dir()), &before, "mounted by hand");
}

#[test]
fn another_claude_config_dir_moves_the_mount() {
    let managed = Managed::new();
    let (one, two) = (managed.home.dir.join("one"), managed.home.dir.join("two"));
    put(&one.join("projects/-p/s.jsonl"), "{\"n\":1}\n");
    put(&two.join("projects/-q/s.jsonl"), "{\"n\":2}\n");
    let all = trees::united(&[&tree(&one.join("projects")), &tree(&two.join("projects"))]);
    managed
        .run_with("install", &[("CLAUDE_CONFIG_DIR", &one)])
        .ends(0);
    managed
        .run_with("install", &[("CLAUDE_CONFIG_DIR", &two)])
        .ends(0);
    assert_eq!(mounted(&one.join("projects")), None);
    assert_same(
        &tree(&two.join("projects")),
        &all,
        "one store, mounted in the new place",
    );
}

#[test]
fn a_unit_of_an_older_version_is_replaced_and_its_store_kept() {
    let managed = Managed::new();
    let named = managed.home.dir.join("nfs store");
    put(&named.join("-p/s.jsonl"), "{\"n\":1}\n");
    let text = format!(
        "[Service]\nType=simple\nExecStart=/gone/claude-cellar mount --foreground\nEnvironment=\"CLAUDE_CELLAR_STORE_DIR={}\"\n",
        named.display()
    );
    put(&managed.unit(), text);
    managed.run("install").ends(0);
    assert!(managed.text().contains("Type=notify"));
    let seen = fs::read_to_string(managed.home.mount_dir().join("-p/s.jsonl"));
    assert_eq!(seen.unwrap(), "{\"n\":1}\n");
}

/// Without a manager that answers the unit still says where the sessions are.
#[test]
fn a_store_that_only_the_unit_names_is_found_without_a_manager() {
    let home = Home::new();
    let named = home.dir.join("nfs");
    put(&named.join("-p/s.jsonl"), "{\"n\":1}\n");
    let unit = home.dir.join(".config/systemd/user/claude-cellar.service");
    put(
        &unit,
        format!(
            "[Service]\nEnvironment=CLAUDE_CELLAR_STORE_DIR={}\n",
            named.display()
        ),
    );
    home.run("install --no-systemd").ends(0);
    let seen = fs::read_to_string(home.mount_dir().join("-p/s.jsonl"));
    assert_eq!(seen.unwrap(), "{\"n\":1}\n");
}

#[test]
fn a_service_that_does_not_start_is_told_and_the_next_install_goes_on() {
    let managed = Managed::new();
    put(&managed.home.mount_dir().join("-p/s.jsonl"), "{\"n\":1}\n");
    let before = tree(&managed.home.mount_dir());
    let systemctl = managed.home.dir.join("bin/systemctl");
    let text = fs::read_to_string(&systemctl).unwrap();
    put(
        &systemctl,
        text.replace("sys.exit(start())", "sys.exit('refused')"),
    );
    managed.run("install").ends(1).complains(&[
        "start claude-cellar.service",
        "refused",
        "journalctl",
    ]);
    put(&systemctl, text);
    managed.run("install").ends(0);
    assert_same(
        &tree(&managed.home.mount_dir()),
        &before,
        "after the second",
    );
}

#[test]
fn a_program_that_systemd_cannot_run_is_told_and_nothing_changed() {
    let managed = Managed::new();
    let program = managed.home.dir.join("it's/claude-cellar");
    fs::create_dir(program.parent().unwrap()).unwrap();
    fs::copy(BINARY, &program).unwrap();
    put(&managed.home.mount_dir().join("-p/s.jsonl"), "{}\n");
    let before = tree(&managed.home.dir);
    let ran = Command::new(&program)
        .arg("install")
        .env_clear()
        .env("PATH", managed.path())
        .env("HOME", &managed.home.dir)
        .output();
    let ran = crate::cellar::Ran::from(ran.unwrap()).ends(1);
    ran.complains(&["it's/claude-cellar", "--no-systemd"]);
    assert_same(
        &trees::without(&tree(&managed.home.dir), &["calls"]),
        &before,
        "after the refusal",
    );
}
