//! `mount`, `umount` and `status` on real mounts: what they do, refuse, and clear up.

mod cellar;

use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use cellar::{Home, SECOND, ended, mounted, pid, pid_file, signal, within};

#[test]
fn mount_returns_when_the_mount_can_be_used() {
    let home = Home::new();
    home.run("mount").ends(0);
    assert_eq!(
        mounted(&home.mount_dir()).as_deref(),
        Some("fuse.claude-cellar")
    );
    assert!(fs::metadata(home.mount_dir()).unwrap().is_dir());

    let json = home.run("status --json").ends(0).out;
    assert!(json.contains(r#""alive":true"#), "{json}");
    assert!(json.contains(&format!(r#""pid":{}"#, pid(&home))), "{json}");
    let log = home.run("log").ends(0).out;
    assert!(log.contains("[INFO] mounted"), "{log}");

    for private in [
        pid_file(&home),
        home.dir.join(".local/state/claude-cellar/cellar.log"),
    ] {
        assert_eq!(fs::metadata(private).unwrap().mode() & 0o777, 0o600);
    }
    let store = home.dir.join(".local/share/claude-cellar/store");
    assert_eq!(fs::metadata(store).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn umount_waits_for_the_daemon_and_leaves_nothing() {
    let home = Home::new();
    home.run("umount").ends(3).complains(&["not mounted"]);
    home.run("mount").ends(0);
    let daemon = pid(&home);
    home.run("umount").ends(0);
    assert_eq!(mounted(&home.mount_dir()), None);
    within(SECOND / 10, "the process ends", || ended(&daemon));
    assert_eq!(
        fs::read_dir(home.dir.join("run/claude-cellar"))
            .unwrap()
            .count(),
        0
    );
    home.run("umount").ends(3);
    home.run("mount").ends(0);
}

#[test]
fn umount_of_a_mount_in_use_needs_lazy() {
    let home = Home::new();
    home.run("mount").ends(0);
    let open = File::open(home.mount_dir()).unwrap();
    home.run("umount").ends(1).complains(&["--lazy"]);
    assert!(mounted(&home.mount_dir()).is_some());

    let detached = home.run("umount --lazy").ends(0);
    assert!(detached.out.contains(&pid(&home)), "{detached:?}");
    assert_eq!(mounted(&home.mount_dir()), None);
    home.run("mount").ends(1).complains(&["still", &pid(&home)]);
    drop(open);
    within(SECOND, "the daemon ends", || !pid_file(&home).exists());
    home.run("mount").ends(0);
}

#[test]
fn umount_touches_no_other_file_system() {
    let home = Home::new();
    home.run("umount --mount-dir /proc")
        .ends(1)
        .complains(&["/proc", "proc mount"]);
    assert!(Path::new("/proc/self").exists());
}

#[test]
fn a_second_daemon_on_the_same_place_is_refused() {
    let home = Home::new();
    home.run("mount").ends(0);
    let first = pid(&home);
    home.run("mount")
        .ends(1)
        .complains(&["already mounted", &format!("pid {first}")]);
    home.run("mount --foreground")
        .ends(1)
        .complains(&["already mounted"]);

    // Neither does a daemon pass that looks for the lock elsewhere.
    let other = Home::new();
    let place = home.mount_dir();
    let line = format!("mount --mount-dir {}", place.display());
    other.run(&line).ends(1).complains(&["already mounted"]);
    assert_eq!(pid(&home), first);
    home.run("status").ends(0);
}

#[test]
fn several_mounts_share_a_runtime_directory() {
    let home = Home::new();
    home.run("mount").ends(0);
    home.run("mount --mount-dir m2 --store-dir s2").ends(0);
    assert!(mounted(&home.dir.join("m2")).is_some());
    home.run("umount --mount-dir m2").ends(0);
    home.run("status").ends(0);
    home.run("umount").ends(0);
}

#[test]
fn what_a_killed_daemon_left_is_seen_and_cleared() {
    let home = Home::new();
    home.run("mount").ends(0);
    let open = File::open(home.mount_dir()).unwrap();
    let killed = pid(&home);
    signal(&killed, "KILL");
    within(SECOND, "the process ends", || ended(&killed));

    let status = home.run("status").ends(3);
    assert!(status.out.contains("stale"), "{status:?}");
    assert!(
        home.run("status --json")
            .ends(3)
            .out
            .contains(r#""stale":true"#)
    );
    home.run("mount").ends(0);
    assert_ne!(pid(&home), killed);
    home.run("status").ends(0);
    drop(open);

    signal(&pid(&home), "KILL");
    within(SECOND, "the lock goes", || {
        home.run("status --json").out.contains(r#""stale":true"#)
    });
    home.run("umount").ends(0);
    assert_eq!(mounted(&home.mount_dir()), None);
}

#[test]
fn mount_right_after_a_kill_needs_no_second_try() {
    let home = Home::new();
    home.run("mount").ends(0);
    fs::create_dir(home.mount_dir().join("-p")).unwrap();
    for number in 0..12 {
        let session = home.mount_dir().join(format!("-p/{number}.jsonl"));
        fs::write(session, vec![b'x'; 1 << 20]).unwrap();
        signal(&pid(&home), "KILL");
        home.run("mount").ends(0);
    }
    assert_eq!(
        fs::read_dir(home.mount_dir().join("-p")).unwrap().count(),
        12
    );
    home.run("umount").ends(0);
}

#[test]
fn a_place_that_holds_files_is_refused() {
    let home = Home::new();
    fs::create_dir_all(home.mount_dir().join("-p")).unwrap();
    home.run("mount")
        .ends(1)
        .complains(&[".claude/projects", "holds files", "--adopt"]);
    assert_eq!(mounted(&home.mount_dir()), None);
    assert_eq!(
        fs::read_dir(home.dir.join("run/claude-cellar"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_store_and_a_mount_inside_each_other_are_refused() {
    let home = Home::new();
    fs::create_dir(home.dir.join("d")).unwrap();
    std::os::unix::fs::symlink("d", home.dir.join("link")).unwrap();
    for (store, mount) in [
        ("d", "d"),
        ("d/s", "d"),
        ("d", "d/m"),
        ("link/s", "d"),
        ("d", "link"),
    ] {
        let line = format!("mount --store-dir {store} --mount-dir {mount}");
        home.run(&line).ends(1).complains(&["overlaps"]);
    }
    assert_eq!(fs::read_dir(home.dir.join("d")).unwrap().count(), 0);
}

#[test]
fn the_daemon_keeps_no_pipe_of_its_caller() {
    let home = Home::new();
    let mut shell = home.shell("exec 3>&1; \"$0\" mount");
    let mut child = shell.stdout(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdout.take().unwrap();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut text = String::new();
        let _ = sender.send(pipe.read_to_string(&mut text).map(|_| text));
    });
    assert!(child.wait().unwrap().success());
    let text = receiver
        .recv_timeout(5 * SECOND)
        .expect("the pipe ends")
        .unwrap();
    assert!(text.starts_with("mounted "), "{text}");
    home.run("status").ends(0);
}

/// A user without rights, for whom /dev/fuse is as udev makes it. Undone at the end.
struct OrdinaryUser {
    name: String,
    device_mode: u32,
}

impl OrdinaryUser {
    fn new() -> OrdinaryUser {
        let name = format!("cellar-{}", std::process::id());
        let added = Command::new("useradd")
            .args(["--system", "--no-create-home", &name])
            .status();
        assert!(added.unwrap().success());
        let device_mode = fs::metadata("/dev/fuse").unwrap().mode();
        fs::set_permissions("/dev/fuse", Permissions::from_mode(0o666)).unwrap();
        OrdinaryUser { name, device_mode }
    }
}

impl Drop for OrdinaryUser {
    fn drop(&mut self) {
        let _ = fs::set_permissions("/dev/fuse", Permissions::from_mode(self.device_mode));
        let _ = Command::new("userdel").arg(&self.name).status();
    }
}

#[test]
fn an_ordinary_user_mounts_clears_and_unmounts() {
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let user = is_root.then(OrdinaryUser::new);
    let home = match &user {
        Some(user) => Home::of_user(&user.name),
        None => Home::new(),
    };
    home.run("mount").ends(0);
    assert_eq!(
        mounted(&home.mount_dir()).as_deref(),
        Some("fuse.claude-cellar")
    );
    home.run("mount").ends(1).complains(&["already mounted"]);
    home.run("status").ends(0);

    let killed = pid(&home);
    signal(&killed, "KILL");
    within(SECOND, "the process ends", || ended(&killed));
    assert!(home.run("status").ends(3).out.contains("stale"));
    home.run("mount").ends(0);
    home.run("umount").ends(0);
    assert_eq!(mounted(&home.mount_dir()), None);

    home.run("mount").ends(0);
    let daemon = pid(&home);
    signal(&daemon, "TERM");
    within(SECOND, "the process ends", || ended(&daemon));
    assert_eq!(mounted(&home.mount_dir()), None);
}
