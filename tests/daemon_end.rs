//! Every way a daemon can end: on a signal, by somebody's `umount`, with files open, replaced.

mod cellar;

use std::fs::{self, File};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Child, Command, Stdio};

use cellar::{Home, SECOND, ended, mounted, pid, pid_file, signal, within};

/// A daemon that is our child, so that its exit code can be seen.
struct Foreground {
    child: Child,
    socket: UnixDatagram,
}

impl Foreground {
    /// Starts it and waits for the notification a systemd unit would get.
    fn start(home: &Home) -> Foreground {
        let path = home.dir.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Foreground::start_with(home, socket, path.to_str().unwrap())
    }

    fn start_with(home: &Home, socket: UnixDatagram, name: &str) -> Foreground {
        socket.set_read_timeout(Some(10 * SECOND)).unwrap();
        let child = home
            .command(["mount", "--foreground"])
            .env("NOTIFY_SOCKET", name)
            .stderr(File::create(home.dir.join("stderr")).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let foreground = Foreground { child, socket };
        assert!(foreground.message().starts_with("READY=1\nSTATUS="));
        assert_eq!(
            mounted(&home.mount_dir()).as_deref(),
            Some("fuse.claude-cellar")
        );
        foreground
    }

    fn message(&self) -> String {
        let mut buffer = [0; 1000];
        let length = self.socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    fn signal(&self, name: &str) {
        signal(&self.child.id().to_string(), name);
    }

    /// Its exit code, which must come within a second.
    fn exit(&mut self) -> Option<i32> {
        let mut status = None;
        within(SECOND, "the daemon ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn sigterm_ends_it_in_a_second_while_a_descriptor_is_open() {
    let home = Home::new();
    let mut daemon = Foreground::start(&home);
    let open = File::open(home.mount_dir()).unwrap();
    daemon.signal("TERM");
    assert_eq!(daemon.message(), "STOPPING=1\n");
    assert_eq!(daemon.exit(), Some(0));
    assert_eq!(mounted(&home.mount_dir()), None);
    assert_eq!(
        fs::read_dir(home.dir.join("run/claude-cellar"))
            .unwrap()
            .count(),
        0
    );
    drop(open);
    let log = fs::read_to_string(home.dir.join("stderr")).unwrap();
    assert!(
        log.contains("[INFO] mounted") && log.contains("was in use"),
        "{log}"
    );
}

#[test]
fn interrupt_and_hangup_end_it_and_sigusr1_does_not() {
    for name in ["INT", "HUP"] {
        let home = Home::new();
        let mut daemon = Foreground::start(&home);
        daemon.signal("USR1");
        home.run("status").ends(0);
        daemon.signal(name);
        assert_eq!(daemon.exit(), Some(0));
        assert_eq!(mounted(&home.mount_dir()), None);
    }
}

#[test]
fn the_background_daemon_ends_on_sigterm_too() {
    let home = Home::new();
    home.run("mount").ends(0);
    let daemon = pid(&home);
    signal(&daemon, "TERM");
    within(SECOND, "the process ends", || ended(&daemon));
    assert_eq!(mounted(&home.mount_dir()), None);
}

#[test]
fn it_ends_well_when_somebody_else_unmounts() {
    let home = Home::new();
    let mut daemon = Foreground::start(&home);
    let done = Command::new("fusermount3")
        .arg("-u")
        .arg(home.mount_dir())
        .status()
        .unwrap();
    assert!(done.success());
    assert_eq!(daemon.exit(), Some(0));
    assert!(!pid_file(&home).exists());
}

#[test]
fn an_ending_daemon_leaves_a_newer_mount_alone() {
    let home = Home::new();
    let mut old = Foreground::start(&home);
    let open = File::open(home.mount_dir()).unwrap();
    let newer = Home::new();
    let detach = Command::new("fusermount3")
        .args(["-u", "-z"])
        .arg(home.mount_dir())
        .status();
    assert!(detach.unwrap().success());
    newer
        .run(&format!("mount --mount-dir {}", home.mount_dir().display()))
        .ends(0);

    old.signal("TERM");
    assert_eq!(old.exit(), Some(0));
    drop(open);
    assert!(mounted(&home.mount_dir()).is_some());
    fs::metadata(home.mount_dir()).unwrap();
    newer
        .run(&format!(
            "umount --mount-dir {}",
            home.mount_dir().display()
        ))
        .ends(0);
}

#[test]
fn a_mount_that_ends_by_itself_leaves_a_newer_one_alone() {
    let home = Home::new();
    let mut old = Foreground::start(&home);
    let open = File::open(home.mount_dir()).unwrap();
    let newer = Home::new();
    let detach = Command::new("fusermount3")
        .args(["-u", "-z"])
        .arg(home.mount_dir())
        .status();
    assert!(detach.unwrap().success());
    newer
        .run(&format!("mount --mount-dir {}", home.mount_dir().display()))
        .ends(0);

    drop(open);
    assert_eq!(old.exit(), Some(0));
    assert!(mounted(&home.mount_dir()).is_some());
    newer
        .run(&format!(
            "umount --mount-dir {}",
            home.mount_dir().display()
        ))
        .ends(0);
}

#[test]
fn systemd_may_listen_on_an_abstract_socket() {
    let home = Home::new();
    let name = format!("cellar-notify-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    let mut daemon = Foreground::start_with(&home, socket, &format!("@{name}"));
    daemon.signal("TERM");
    assert_eq!(daemon.exit(), Some(0));
}
