//! Whatever git is told by its user, whatever lies in the directory: the user's own stays untouched, and
//! checkpoints hold what the files hold.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::tree::{self, assert_same};
use super::world::{Ran, World};

/// Permissions, inode number, both times, content.
type Sealed = (u32, u64, (i64, i64), (i64, i64), Vec<u8>);

/// Everything below a directory.
fn sealed(dir: &Path) -> BTreeMap<PathBuf, Sealed> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        let meta = path.symlink_metadata().unwrap();
        let bytes = match meta.is_file() {
            true => fs::read(&path).unwrap(),
            false => Vec::new(),
        };
        if meta.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        let mtime = (meta.mtime(), meta.mtime_nsec());
        let ctime = (meta.ctime(), meta.ctime_nsec());
        found.insert(path, (meta.mode(), meta.ino(), mtime, ctime, bytes));
    }
    found
}

fn shell(dir: &Path, script: &str) {
    let mut command = Command::new("sh");
    command
        .args(["-ec", script])
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .current_dir(dir);
    let ran = Ran::of(&mut command);
    assert_eq!(ran.code, Some(0), "{script}: {ran:?}");
}

const REPOSITORY: &str = "git init -q; git config user.name a; git config user.email a@b; \
    git config gc.auto 0; git add -A; git commit -qm one; echo more >> plain; git add plain; \
    echo still more >> plain";

/// Commands of every kind, each of which must succeed.
const COMMANDS: [&str; 18] = [
    "status",
    "checkpoint first",
    "log --json",
    "diff v1",
    "show plain@v1",
    "changes --since v1",
    "restore v1 --dry-run",
    "restore v1",
    "undo",
    "branch v1 --name other",
    "switch other",
    "switch main",
    "branches",
    "blame plain:1",
    "history plain",
    "timeline",
    "verify",
    "gc",
];

#[test]
fn the_user_s_repository_is_the_same_after_every_command() {
    let world = World::empty();
    world.write("plain", "one\n");
    world.write("sub/text", "a\r\n");
    shell(&world.dir, REPOSITORY);
    let before = sealed(&world.dir.join(".git"));
    let same = |what: &str| assert!(sealed(&world.dir.join(".git")) == before, "{what}");
    world.init();
    same("init");
    for line in COMMANDS {
        world.write("plain", format!("{line}\n"));
        let ran = world.run(line);
        assert_eq!(ran.code, Some(0), "{line}: {ran:?}");
        same(line);
    }
    world.assert_sound();
}

#[test]
fn the_user_s_configuration_and_environment_of_git_change_nothing() {
    let world = World::empty();
    let home = world.root.join("home");
    let ran = home.join("hook-ran");
    let trap = format!("#!/bin/sh\ntouch {}\ncat >/dev/null\n", ran.display());
    for name in [
        "hooks/post-commit",
        "hooks/reference-transaction",
        "template/hooks/update",
    ] {
        let hook = home.join(name);
        fs::create_dir_all(hook.parent().unwrap()).unwrap();
        fs::write(&hook, &trap).unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let (hooks, trap) = (home.join("hooks"), home.join("hooks/post-commit"));
    let config = format!(
        "[core]\n hooksPath = {hooks}\n autocrlf = true\n eol = crlf\n safecrlf = true\n \
         pager = {trap}\n fsmonitor = {trap}\n bare = false\n quotePath = true\n \
         attributesFile = {home}/attributes\n excludesFile = {home}/ignore\n\
         [commit]\n gpgsign = true\n[gpg]\n program = {trap}\n[init]\n templateDir = {home}/template\n \
         defaultBranch = trunk\n defaultObjectFormat = sha256\n[filter \"f\"]\n clean = {trap}\n \
         smudge = {trap}\n required = true\n[diff]\n external = {trap}\n noprefix = true\n \
         algorithm = patience\n renames = copies\n[log]\n showSignature = true\n date = raw\n\
         [alias]\n log = !{trap}\n cat-file = !{trap}\n[color]\n ui = always\n[blame]\n \
         ignoreRevsFile = /nonexistent\n[gc]\n auto = 1\n[user]\n useConfigOnly = true\n",
        hooks = hooks.display(),
        trap = trap.display(),
        home = home.display(),
    );
    fs::write(home.join(".gitconfig"), &config).unwrap();
    fs::create_dir_all(home.join(".config/git")).unwrap();
    fs::write(home.join(".config/git/config"), config).unwrap();
    fs::write(home.join("attributes"), "* filter=f diff=f text eol=crlf\n").unwrap();
    fs::write(home.join("ignore"), "*\n").unwrap();
    world.write(
        ".gitattributes",
        "* filter=f diff=f text=auto eol=crlf ident\n",
    );
    world.write(".gitignore", "*\n");
    world.write("plain", "$Id$\none\r\ntwo\n");
    // Another repository altogether.
    let other = world.root.join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("plain"), "theirs\n").unwrap();
    shell(&other, REPOSITORY);
    let theirs = sealed(&other);
    let misled = |line: &str| {
        let mut command = world.command(line.split_whitespace());
        let git = other.join(".git");
        command
            .env("GIT_DIR", &git)
            .env("GIT_WORK_TREE", &other)
            .env("GIT_INDEX_FILE", git.join("index"))
            .env("GIT_OBJECT_DIRECTORY", git.join("objects"))
            .env("GIT_ALTERNATE_OBJECT_DIRECTORIES", git.join("objects"))
            .env("GIT_COMMON_DIR", &git)
            .env("GIT_NAMESPACE", "elsewhere")
            .env("GIT_CONFIG_GLOBAL", home.join(".gitconfig"))
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "core.bare")
            .env("GIT_CONFIG_VALUE_0", "false")
            .env("GIT_CONFIG_PARAMETERS", "'core.bare=false'")
            .env("GIT_DEFAULT_HASH", "sha256")
            .env("GIT_EXTERNAL_DIFF", &trap)
            .env("GIT_DIFF_OPTS", "-u0")
            .env("GIT_LITERAL_PATHSPECS", "1")
            .env("GIT_TRACE", "1")
            .env("GIT_EDITOR", &trap)
            .env("GIT_PAGER", &trap)
            .env("GIT_CEILING_DIRECTORIES", "/")
            .env("GREP_OPTIONS", "-v");
        let done = Ran::of(&mut command);
        assert_eq!(done.code, Some(0), "{line}: {done:?}");
        assert!(!ran.exists(), "{line}: something of the user's ran");
        done
    };
    misled("init");
    let first = world.tree();
    for line in COMMANDS {
        world.write("plain", format!("{line}\r\n$Id$\n"));
        misled(line);
    }
    assert_eq!(misled("show plain@v1").out, "$Id$\none\r\ntwo\n");
    misled("restore v1");
    assert_same(&world.tree(), &first, "restored");
    assert!(sealed(&other) == theirs, "the other repository");
    world.assert_sound();
}

#[test]
fn no_umask_changes_what_is_recorded_or_restored() {
    let Some(world) = World::of_ordinary_user() else {
        return;
    };
    for mask in ["077", "000", "027"] {
        let with_mask = |line: &str| {
            let program = world.command(line.split_whitespace());
            let mut command = world.command(["x"]);
            let mut shell = Command::new("sh");
            let words: Vec<_> = program.get_args().map(|a| a.to_string_lossy()).collect();
            let script = format!("umask {mask}; exec \"$0\" {}", words.join(" "));
            shell.args(["-c", &script]).arg(program.get_program());
            std::mem::swap(&mut command, &mut shell);
            for (name, value) in shell.get_envs() {
                command.env(name, value.unwrap_or_default());
            }
            use std::os::unix::process::CommandExt;
            command.current_dir(&world.dir).uid(54_321).gid(54_321);
            let ran = Ran::of(&mut command);
            assert_eq!(ran.code, Some(0), "umask {mask}: {line}: {ran:?}");
        };
        world.write("a", "1");
        world.write("dir/b", "1");
        fs::set_permissions(world.dir.join("a"), fs::Permissions::from_mode(0o664)).unwrap();
        world.hand_over();
        with_mask(if mask == "077" {
            "init"
        } else {
            "checkpoint one"
        });
        let before = world.tree();
        let version = world.json(["log", "-n1"])[0]["version"].clone();
        fs::remove_dir_all(world.dir.join("dir")).unwrap();
        fs::remove_file(world.dir.join("a")).unwrap();
        with_mask("checkpoint two");
        with_mask(&format!("restore v{version}"));
        assert_same(&world.tree(), &before, mask);
        world.write("a", mask);
        world.hand_over();
        with_mask("checkpoint three");
    }
    world.assert_sound();
}

#[test]
fn what_cannot_be_read_is_told_and_neither_lost_nor_overwritten() {
    let Some(world) = World::of_ordinary_user() else {
        return;
    };
    world.write("secret", "one");
    world.write("dir/inside", "one");
    world.write("open", "one");
    world.hand_over();
    world.init();
    world.write("secret", "two");
    world.write("open", "two");
    world.hand_over();
    let close = |name: &str, mode| {
        fs::set_permissions(world.dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    close("secret", 0);
    close("dir", 0);
    let made = world.checkpoint("closed");
    assert_eq!(made["files_changed"].as_array().unwrap().len(), 1, "{made}");
    let status = world.json(["status"])["left_out"].to_string();
    assert!(status.contains("secret: cannot be read"), "{status}");
    assert!(status.contains("dir: cannot be read"), "{status}");
    world.json(["restore", "v1"]);
    assert_eq!(world.read("open"), "one");
    close("secret", 0o600);
    close("dir", 0o755);
    assert_eq!(world.read("secret"), "two");
    assert_eq!(world.read("dir/inside"), "one");
    world.assert_sound();
}

#[test]
fn what_is_no_file_is_told_and_stays() {
    let world = World::empty();
    world.write("a", "one");
    world.write("pipe", "was a file");
    world.init();
    fs::remove_file(world.dir.join("pipe")).unwrap();
    shell(
        &world.dir,
        "mkfifo pipe; mkdir node_modules; echo x > node_modules/x",
    );
    let socket = std::os::unix::net::UnixListener::bind(world.dir.join("socket")).unwrap();
    world.write("a", "two");
    let made = world.checkpoint("two");
    assert_eq!(made["files_changed"].as_array().unwrap().len(), 2, "{made}");
    let told = world.json(["status"])["left_out"].to_string();
    for name in ["pipe", "socket", "node_modules"] {
        assert!(told.contains(name), "{told}");
    }
    let kept = world.json(["restore", "v1"])["kept"].to_string();
    assert!(kept.contains("pipe"), "{kept}");
    assert_eq!(world.read("a"), "one");
    assert_eq!(world.read("node_modules/x"), "x\n");
    assert!(world.dir.join("socket").exists());
    drop(socket);
}

#[test]
fn a_file_above_the_limit_is_told_and_never_touched() {
    let world = World::empty();
    world.write("data", "small");
    world.write("other", "one");
    world.init();
    let large = fs::File::create(world.dir.join("data")).unwrap();
    large.set_len(1 << 30).unwrap();
    world.write("other", "two");
    let started = Instant::now();
    world.checkpoint("large");
    assert!(started.elapsed() < Duration::from_secs(5));
    let told = world.json(["status"])["left_out"].to_string();
    assert!(told.contains("data: too large"), "{told}");
    let kept = world.json(["restore", "v1"])["kept"].to_string();
    assert!(kept.contains("data"), "{kept}");
    assert_eq!(large.metadata().unwrap().nlink(), 1, "it is still there");
    assert_eq!(world.dir.join("data").metadata().unwrap().len(), 1 << 30);
    assert_eq!(world.read("other"), "one");
    // With a file where its directory was, too.
    fs::remove_file(world.dir.join("data")).unwrap();
    world.write("data/below", "deep");
    let version = world.checkpoint("a directory")["version"].clone();
    fs::remove_dir_all(world.dir.join("data")).unwrap();
    let large = fs::File::create(world.dir.join("data")).unwrap();
    large.set_len(60 << 20).unwrap();
    world.checkpoint("large again");
    let kept = world.json(["restore", &format!("v{version}")])["kept"].to_string();
    assert!(kept.contains("data/below"), "{kept}");
    assert_eq!(world.dir.join("data").metadata().unwrap().len(), 60 << 20);
}

#[test]
fn what_is_excluded_now_or_was_then_is_never_touched() {
    let world = World::empty();
    world.write("build/out", "one");
    world.write("a", "one");
    world.write("x.log", "one");
    fs::create_dir(world.dir.join("build/empty")).unwrap();
    world.init();
    world.write(".agentfsignore", "build/\n*.log\n");
    world.write("a", "two");
    world.checkpoint("excluded");
    world.write("build/out", "two");
    fs::remove_dir(world.dir.join("build/empty")).unwrap();
    fs::set_permissions(world.dir.join("build"), fs::Permissions::from_mode(0o700)).unwrap();
    world.write("x.log", "two");
    let before = sealed(&world.dir.join("build"));
    world.json(["restore", "v1", "build", "a", "x.log"]);
    assert!(sealed(&world.dir.join("build")) == before);
    assert_eq!(
        (world.read("a"), world.read("x.log")),
        ("one".into(), "two".into())
    );
    // A checkpoint that left a file out does not say that there was none.
    fs::remove_file(world.dir.join(".agentfsignore")).unwrap();
    world.checkpoint("all of it");
    let kept = world.json(["restore", "v2"])["kept"].to_string();
    assert!(
        kept.contains("build/out") && kept.contains("x.log"),
        "{kept}"
    );
    assert_eq!(
        (world.read("build/out"), world.read("x.log")),
        ("two".into(), "two".into())
    );
}

#[test]
fn a_file_that_never_rests_is_recorded_whole_once_it_does() {
    let world = World::empty();
    world.write("quiet", "x");
    world.write("torn", "");
    world.init();
    let (path, stop) = (world.dir.join("torn"), AtomicBool::new(false));
    let content = |round: u64| format!("{round:08}").repeat(40_000).into_bytes();
    let last = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                round += 1;
                fs::write(&path, content(round)).unwrap();
            }
            round
        });
        for number in 0..15 {
            world.write("quiet", number.to_string());
            world.checkpoint("while it is written");
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    world.checkpoint("at rest");
    let shown = world.command(["show", "torn@"]).output().unwrap().stdout;
    assert!(
        shown == content(last),
        "the newest checkpoint has the last content"
    );
    world.assert_sound();
}

#[test]
fn a_change_within_one_tick_of_the_clock_is_never_missed() {
    let world = World::empty();
    world.write("file", "00000");
    world.init();
    for round in 1..60_u32 {
        let path = world.dir.join("file");
        world.write("file", format!("{:05}", round * 2));
        let time = path.metadata().unwrap().modified().unwrap();
        world.checkpoint("first");
        world.write("file", format!("{:05}", round * 2 + 1));
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(time).unwrap();
        let made = world.checkpoint("second");
        assert!(!made.is_null(), "round {round}");
    }
}

#[test]
fn a_clock_that_goes_back_hides_nothing() {
    let world = World::empty();
    world.write("file", "one");
    let path = world.dir.join("file");
    let at = |offset: i64| {
        let day = Duration::from_secs(offset.unsigned_abs());
        match offset < 0 {
            true => SystemTime::now() - day,
            false => SystemTime::now() + day,
        }
    };
    let set = |time| {
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(time).unwrap();
    };
    set(at(86_400));
    world.init();
    for (round, offset) in [86_400, 3_600, 0, -3_600, -86_400, 86_400]
        .into_iter()
        .enumerate()
    {
        let time = path.metadata().unwrap().modified().unwrap();
        world.write("file", format!("{round:03}"));
        set(if round % 2 == 0 { time } else { at(offset) });
        assert!(!world.checkpoint("changed").is_null(), "round {round}");
        assert!(world.checkpoint("unchanged").is_null(), "round {round}");
    }
}

#[test]
fn a_project_is_found_through_a_link_and_from_below() {
    let world = World::empty();
    world.write("dir/file", "one");
    let link = world.root.join("link");
    symlink(&world.dir, &link).unwrap();
    let from = |dir: PathBuf, line: &str| {
        let mut command = world.command(line.split_whitespace());
        Ran::of(command.current_dir(dir)).ends(0)
    };
    from(link.clone(), "init");
    world.write("dir/file", "two");
    from(link.join("dir"), "checkpoint two");
    assert_eq!(from(link.join("dir"), "show file@v1").out, "one");
    from(link.join("dir"), "restore v1 file");
    assert_eq!(world.read("dir/file"), "one");
    let absolute = format!("restore v2 {}", link.join("dir/file").display());
    from(
        world.root.clone(),
        &format!("-C {} {absolute}", link.display()),
    );
    assert_eq!(world.read("dir/file"), "two");
}

#[test]
fn another_file_system_inside_is_told_and_never_touched() {
    let world = World::empty();
    world.write("inside/file", "one");
    world.write("inside/gone", "one");
    world.write("a", "one");
    world.init();
    let inside = world.dir.join("inside");
    let mut mount = Command::new("mount");
    mount
        .args(["-t", "tmpfs", "-o", "mode=0711", "none"])
        .arg(&inside);
    if !mount.status().is_ok_and(|status| status.success()) {
        eprintln!("no mount: not tested");
        return;
    }
    world.write("inside/file", "other");
    world.write("a", "two");
    world.checkpoint("mounted");
    let told = world.json(["status"])["left_out"].to_string();
    assert!(told.contains("inside: another file system"), "{told}");
    let before = sealed(&inside);
    let kept = world.json(["restore", "v1"])["kept"].to_string();
    assert!(kept.contains("inside/gone"), "{kept}");
    assert_eq!(world.read("a"), "one");
    assert!(sealed(&inside) == before);
}

#[test]
fn a_directory_that_is_gone_or_another_is_said_to_be() {
    let world = World::empty();
    world.write("file", "one");
    world.init();
    let moved = world.root.join("moved");
    fs::rename(&world.dir, &moved).unwrap();
    for line in ["checkpoint x", "status", "restore v1"] {
        let words = ["-C", "project"].into_iter().chain(line.split(' '));
        let mut command = world.command(words);
        Ran::of(command.current_dir(&world.root)).complains(&["project"]);
    }
    // From a current directory that is no more.
    let script = "mkdir gone; cd gone; rmdir ../gone; exec \"$@\"";
    let mut command = Command::new("sh");
    let program = world.command(["log"]);
    command
        .args(["-c", script, "sh"])
        .arg(program.get_program());
    command
        .args(["-C", "project", "log"])
        .current_dir(&world.root)
        .env_clear();
    for (name, value) in program.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    Ran::of(&mut command).ends(0);
    let mut command = world.command(["relocate", "moved"]);
    Ran::of(command.current_dir(&world.root)).ends(0);
    // A new directory of the old name is nobody's.
    fs::create_dir(&world.dir).unwrap();
    world.run("checkpoint").complains(&["no project"]);
    fs::write(moved.join("file"), "two").unwrap();
    let mut command = world.command(["restore", "v1"]);
    Ran::of(command.current_dir(&moved)).ends(0);
    assert_eq!(fs::read(moved.join("file")).unwrap(), b"one");
}

#[test]
fn names_that_git_refuses_come_back_and_git_finds_the_store_sound() {
    let world = World::empty();
    world.write(".GIT/config", "not a repository");
    world.write("sub/.Git", "a file");
    world.write("git~1", "short");
    world.write(
        ".gitmodules",
        "[submodule \"../../x\"]\n url = -u\n path = -p\nbroken",
    );
    world.write("d/.gitmodules", "\0\0");
    symlink("elsewhere", world.dir.join("sub/.gitmodules")).unwrap();
    symlink("elsewhere", world.dir.join(".gitattributes")).unwrap();
    symlink("elsewhere", world.dir.join(".gitignore")).unwrap();
    symlink("elsewhere", world.dir.join(".mailmap")).unwrap();
    world.write(
        "long/.gitattributes",
        format!("{} text\n", "x".repeat(5_000)),
    );
    fs::create_dir(world.dir.join("d/.gitattributes")).unwrap();
    world.write("d/.gitattributes/file", "x");
    world.init();
    world.assert_sound();
    let wanted = world.tree();
    for entry in fs::read_dir(&world.dir).unwrap() {
        shell(
            &world.dir,
            &format!("rm -rf '{}'", entry.unwrap().path().display()),
        );
    }
    world.checkpoint("empty");
    world.json(["restore", "v1"]);
    assert_same(&world.tree(), &wanted, "restored");
}

#[test]
fn directories_as_deep_as_descriptors_are_many_come_back() {
    let world = World::empty();
    // Deeper than the usual limit of open files.
    shell(
        &world.dir,
        "i=0; while [ $i -lt 1100 ]; do mkdir d; cd -P d; i=$((i+1)); done; echo deep > file",
    );
    let made = world.init();
    assert_eq!(made["files"], 1, "{made}");
    shell(&world.dir, "rm -rf d");
    world.checkpoint("gone");
    let restored = world.json(["restore", "v1"]);
    assert_eq!(restored["kept"].as_array().unwrap().len(), 0);
    shell(
        &world.dir,
        "i=0; while [ $i -lt 1100 ]; do cd -P d; i=$((i+1)); done; test \"$(cat file)\" = deep",
    );
}

#[test]
fn a_user_s_file_with_a_name_like_a_temporary_one_is_a_file() {
    let world = World::empty();
    world.write(".agentfs-restore-notes", "mine");
    world.write("a", "one");
    world.init();
    world.write(".agentfs-restore-99-1", "left by a restore that was killed");
    world.write("a", "two");
    world.json(["restore", "v1"]);
    assert_eq!(world.read(".agentfs-restore-notes"), "mine");
    assert!(!world.dir.join(".agentfs-restore-99-1").exists());
    let _ = tree::read(&world.dir);
}
