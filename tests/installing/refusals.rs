//! What stands in the way is told in one line, and nothing has been changed.

use super::trees::{self, assert_same, tree};
use super::{file_system, put, run_with};
use crate::cellar::{Home, Ran, mounted};
use crate::common::rng::Rng;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

const INSTALL: &str = "install --no-systemd";

/// A home with a link layout, in which a refused install changes nothing.
struct Refused {
    home: Home,
    before: trees::Tree,
}

impl Refused {
    fn new() -> Refused {
        let home = Home::new();
        trees::flat(&home.dir.join("nfs"));
        put(&home.mount_dir().join("-p/s.jsonl"), "{}\n");
        symlink("../../nfs", home.mount_dir().join("-linked")).unwrap();
        let before = tree(&home.dir);
        Refused { home, before }
    }

    #[track_caller]
    fn by(&self, ran: Ran, texts: &[&str]) {
        assert_eq!(ran.code, Some(1), "{ran:?}");
        ran.complains(texts);
        assert_same(&tree(&self.home.dir), &self.before, "after the refusal");
        assert_eq!(mounted(&self.home.mount_dir()), None);
    }
}

#[test]
fn a_program_with_an_open_session_is_named_and_nothing_changed() {
    let refused = Refused::new();
    let home = &refused.home;
    for dir in [home.mount_dir().join("-p"), home.dir.join("nfs")] {
        let file = fs::read_dir(&dir).unwrap().flatten().map(|e| e.path());
        let file = file.filter(|p| p.is_file()).min().unwrap();
        let mut cat = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(File::options().append(true).open(&file).unwrap())
            .spawn()
            .unwrap();
        let pid = format!("cat (pid {})", cat.id());
        let texts = [
            pid.as_str(),
            file.to_str().unwrap(),
            "nothing has been changed",
        ];
        refused.by(home.run(INSTALL), &texts);
        drop(cat.stdin.take());
        cat.wait().unwrap();
    }
    home.run(INSTALL).ends(0);
}

#[test]
fn a_program_that_works_in_the_projects_directory_or_below_is_named() {
    let refused = Refused::new();
    let home = &refused.home;
    // A shell in the directory itself would go on to see what lies beneath the mount: nothing.
    for dir in [
        home.mount_dir().join("-p"),
        home.mount_dir(),
        home.dir.join("nfs/memory"),
    ] {
        let mut cat = Command::new("cat")
            .current_dir(&dir)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        refused.by(home.run(INSTALL), &["cat (pid", dir.to_str().unwrap()]);
        drop(cat.stdin.take());
        cat.wait().unwrap();
    }
}

/// Runs it in a mount namespace of its own, after these commands.
fn after(home: &Home, commands: &str) -> Ran {
    let script = format!("{commands} && exec \"$0\" install --no-systemd");
    let shell = home.shell(&script);
    let mut unshared = Command::new("unshare");
    unshared.args(["--mount", "--propagation", "private", "--"]);
    unshared.arg(shell.get_program()).args(shell.get_args());
    unshared.current_dir(&home.dir).env_clear();
    let variables = shell
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)));
    Ran::from(
        unshared
            .envs(variables)
            .stdin(Stdio::null())
            .output()
            .unwrap(),
    )
}

#[test]
fn an_unusable_fuse_device_is_told() {
    let refused = Refused::new();
    let ran = after(
        &refused.home,
        "mount --bind /etc/hostname /dev/fuse && mount -o remount,bind,ro /dev/fuse",
    );
    refused.by(ran, &["/dev/fuse"]);
    let ran = after(&refused.home, "mount -t tmpfs tmpfs /dev");
    refused.by(ran, &["/dev/fuse", "modprobe fuse"]);
}

#[test]
fn a_read_only_store_is_refused() {
    let refused = Refused::new();
    let dir = refused.home.dir.join("nfs");
    let ran = after(
        &refused.home,
        &format!(
            "mount --bind {0} {0} && mount -o remount,bind,ro {0}",
            dir.display()
        ),
    );
    refused.by(
        ran,
        &["cannot keep a store in", dir.to_str().unwrap(), "Read-only"],
    );
}

#[test]
fn a_store_that_cannot_rename_is_refused() {
    // vfat and the like can; /proc and /sys can make no file at all.
    let refused = Refused::new();
    let ran = run_with(
        &refused.home,
        INSTALL,
        &[("CLAUDE_CELLAR_STORE_DIR", Path::new("/proc/x"))],
    );
    refused.by(ran, &["cannot keep a store in", "CLAUDE_CELLAR_STORE_DIR"]);
}

#[test]
fn a_store_around_or_in_the_projects_is_refused() {
    let refused = Refused::new();
    let home = &refused.home;
    for dir in [
        home.mount_dir(),
        home.mount_dir().join("store"),
        home.dir.clone(),
    ] {
        let ran = run_with(home, INSTALL, &[("CLAUDE_CELLAR_STORE_DIR", &dir)]);
        refused.by(ran, &["overlaps", "CLAUDE_CELLAR_STORE_DIR"]);
    }
}

#[test]
fn too_little_space_on_another_file_system_is_refused() {
    let home = Home::new();
    let small = file_system(&home, "small", "size=1m,mode=0755");
    let noise = Rng::new(1).bytes(1 << 20);
    put(&home.mount_dir().join("-p/s.jsonl"), noise);
    let refused = Refused {
        before: tree(&home.dir),
        home,
    };
    let ran = run_with(
        &refused.home,
        INSTALL,
        &[("CLAUDE_CELLAR_STORE_DIR", &small)],
    );
    refused.by(ran, &["free", "needed", "nothing has been changed"]);
}

#[test]
fn small_files_count_as_the_blocks_they_take() {
    let home = Home::new();
    let small = file_system(&home, "small", "size=2m,mode=0755");
    for n in 0..600 {
        put(&home.mount_dir().join(format!("-p/{n}.jsonl")), "{}\n");
    }
    let refused = Refused {
        before: tree(&home.dir),
        home,
    };
    let ran = run_with(
        &refused.home,
        INSTALL,
        &[("CLAUDE_CELLAR_STORE_DIR", &small)],
    );
    refused.by(ran, &["free", "needed", "nothing has been changed"]);
}

#[test]
fn a_file_system_mounted_in_a_project_is_refused() {
    let home = Home::new();
    put(&home.mount_dir().join("-a/s.jsonl"), "{}\n");
    let inner = file_system(&home, ".claude/projects/-mounted", "size=1m,mode=0755");
    put(&inner.join("s.jsonl"), "{\"inner\":1}\n");
    let refused = Refused {
        before: tree(&home.dir),
        home,
    };
    let ran = refused.home.run(INSTALL);
    refused.by(ran, &["-mounted", "nothing has been changed"]);
}

#[test]
fn a_projects_directory_that_is_none_is_refused() {
    for dangling in [false, true] {
        let home = Home::new();
        fs::create_dir(home.dir.join(".claude")).unwrap();
        match dangling {
            true => symlink("nowhere", home.mount_dir()).unwrap(),
            false => put(&home.mount_dir(), "x"),
        }
        let refused = Refused {
            before: tree(&home.dir),
            home,
        };
        let ran = refused.home.run(INSTALL);
        refused.by(ran, &[".claude/projects"]);
    }
}

/// An ordinary user, as long as the test runs.
struct User(String);

impl User {
    fn new(purpose: &str) -> User {
        let name = format!("cellar-{purpose}-{}", std::process::id());
        let added = Command::new("useradd")
            .args(["--system", "--no-create-home", &name])
            .status();
        assert!(added.unwrap().success(), "run this test as root");
        User(name)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = Command::new("userdel").arg(&self.0).status();
    }
}

/// An ordinary user's home with one session; what is his in it.
fn of(user: &User) -> Refused {
    let home = Home::of_user(&user.0);
    put(&home.mount_dir().join("-p/s.jsonl"), "{}\n");
    let owned = Command::new("chown")
        .arg("-R")
        .arg(&user.0)
        .arg(&home.dir)
        .status();
    assert!(owned.unwrap().success());
    Refused {
        before: tree(&home.dir),
        home,
    }
}

#[test]
fn an_ordinary_user_without_fusermount3_is_told() {
    let user = User::new("nofuse");
    let refused = of(&user);
    // Nothing but the program and a shell's tools that it does not need.
    let hide = "for dir in $(echo $PATH | tr : ' ') /run/wrappers/bin; do \
                test -e $dir/fusermount3 && mount --bind /dev/null $dir/fusermount3; done; true";
    let line = format!(
        "{hide} && exec runuser -u {} -- env HOME={} {}/claude-cellar install --no-systemd",
        user.0,
        refused.home.dir.display(),
        refused.home.dir.display()
    );
    let ran = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "--",
            "sh",
            "-c",
            &line,
        ])
        .env("XDG_RUNTIME_DIR", refused.home.dir.join("run"))
        .current_dir(&refused.home.dir)
        .output();
    refused.by(
        Ran::from(ran.unwrap()),
        &[
            "fusermount3",
            "apt install fuse3",
            "nothing has been changed",
        ],
    );
}

#[test]
fn what_an_ordinary_user_may_not_move_is_named_before_anything_moves() {
    let user = User::new("nomove");
    let mut refused = of(&user);
    let home = &refused.home;
    // As a `sudo claude` leaves it.
    put(&home.mount_dir().join("-root/s.jsonl"), "{}\n");
    fs::set_permissions(
        home.mount_dir().join("-root"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    refused.before = tree(&home.dir);
    refused.by(home.run(INSTALL), &["-root", "nothing has been changed"]);
}
