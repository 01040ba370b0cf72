//! A home of its own for each test: directories, environment, user, and what is left mounted.
#![allow(dead_code, reason = "each test file uses what it needs")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_claude-cellar");

pub struct Home {
    pub dir: PathBuf,
    user: Option<String>,
}

impl Home {
    pub fn new() -> Home {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cellar-home-{}-{count}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir(&dir).unwrap();
        let dir = dir.canonicalize().unwrap();
        fs::create_dir(dir.join("run")).unwrap();
        Home { dir, user: None }
    }

    /// Everything in it is this user's, and commands run as him.
    pub fn of_user(user: &str) -> Home {
        let mut home = Home::new();
        // The build directory may be closed to him.
        fs::copy(BINARY, home.dir.join("claude-cellar")).unwrap();
        fs::set_permissions(&home.dir, fs::Permissions::from_mode(0o755)).unwrap();
        let owned = Command::new("chown")
            .arg("-R")
            .arg(user)
            .arg(&home.dir)
            .status();
        assert!(owned.unwrap().success());
        home.user = Some(user.to_string());
        home
    }

    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = match &self.user {
            None => Command::new(BINARY),
            Some(user) => {
                // runuser sets its own HOME.
                let mut command = Command::new("runuser");
                command.args(["-u", user, "--", "env"]);
                command.arg(format!("HOME={}", self.dir.display()));
                command.arg(self.dir.join("claude-cellar"));
                command
            }
        };
        self.isolate(command.args(args));
        command
    }

    /// A shell script that finds the program in `$0`.
    pub fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        self.isolate(command.args(["-c", script, BINARY]));
        command
    }

    fn isolate(&self, command: &mut Command) {
        command
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", &self.dir)
            .env("XDG_RUNTIME_DIR", self.dir.join("run"))
            .current_dir(&self.dir)
            .stdin(Stdio::null());
    }

    /// Runs a command line whose words hold no spaces.
    pub fn run(&self, line: &str) -> Ran {
        Ran::from(self.command(line.split_whitespace()).output().unwrap())
    }

    pub fn mount_dir(&self) -> PathBuf {
        self.dir.join(".claude/projects")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for pid in pids(&self.dir.join("run/claude-cellar")) {
            let _ = Command::new("kill").args(["-9", &pid]).status();
        }
        for mount in mounts_below(&self.dir) {
            let quiet = |command: &mut Command| {
                let command = command.stdout(Stdio::null()).stderr(Stdio::null());
                command.status().is_ok_and(|status| status.success())
            };
            let _ = quiet(Command::new("umount").arg("-l").arg(&mount))
                || quiet(Command::new("fusermount3").arg("-uz").arg(&mount));
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ran {
    #[track_caller]
    pub fn ends(self, code: i32) -> Ran {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// Failed with one line that holds every one of these texts.
    #[track_caller]
    pub fn complains(&self, texts: &[&str]) {
        assert!(self.err.starts_with("claude-cellar: "), "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        for text in texts {
            assert!(self.err.contains(text), "no {text:?} in {self:?}");
        }
    }
}

pub const SECOND: Duration = Duration::from_secs(1);

/// The type of the topmost mount at a place.
pub fn mounted(point: &Path) -> Option<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let here = |line: &&str| line.split(' ').nth(4) == point.to_str();
    let line = table.lines().rfind(here)?;
    line.split(" - ")
        .nth(1)?
        .split(' ')
        .next()
        .map(str::to_string)
}

pub fn pid_file(home: &Home) -> PathBuf {
    home.dir.join("run/claude-cellar/daemon.pid")
}

pub fn pid(home: &Home) -> String {
    fs::read_to_string(pid_file(home))
        .unwrap()
        .trim()
        .to_string()
}

pub fn signal(pid: &str, name: &str) {
    assert!(
        Command::new("kill")
            .args(["-s", name, pid])
            .status()
            .unwrap()
            .success()
    );
}

#[track_caller]
pub fn within(limit: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Gone, or a zombie that nobody reaps.
pub fn ended(pid: &str) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat
            .rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('Z')),
        Err(_) => true,
    }
}

/// Mountpoints in this directory, the last mounted first.
fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let mut below: Vec<PathBuf> = points
        .map(PathBuf::from)
        .filter(|p| p.starts_with(dir))
        .collect();
    below.reverse();
    below
}

/// The live daemons that have a pid file here.
fn pids(run_dir: &Path) -> Vec<String> {
    let files = fs::read_dir(run_dir).into_iter().flatten().flatten();
    let texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
    let mut pids: Vec<String> = texts.map(|text| text.trim().to_string()).collect();
    pids.retain(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm"));
        !pid.is_empty() && name.is_ok_and(|name| name.starts_with("claude-cellar"))
    });
    pids
}
