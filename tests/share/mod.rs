//! Machines with projects, each with a home of its own.

mod gc;
mod packing;
mod sync;
mod watch;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_agentfs");

/// A directory for everything of one test.
pub struct World {
    pub dir: PathBuf,
}

impl World {
    pub fn new() -> World {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("agentfs-share-{}-{count}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir(&dir).unwrap();
        World {
            dir: dir.canonicalize().unwrap(),
        }
    }

    /// A machine with a home and an empty project directory.
    pub fn machine(&self, name: &str) -> Machine {
        let home = self.dir.join(name);
        let project = home.join("work");
        fs::create_dir_all(&project).unwrap();
        Machine { home, project }
    }

    /// An empty bare repository that all machines reach.
    pub fn remote(&self) -> PathBuf {
        let remote = self.dir.join("remote.git");
        git(
            &self.dir,
            ["init", "-q", "--bare", "-b", "main", "remote.git"],
        );
        remote
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Something may still be packing in it.
        for _ in 0..50 {
            if fs::remove_dir_all(&self.dir).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

pub struct Machine {
    pub home: PathBuf,
    pub project: PathBuf,
}

impl Machine {
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(BINARY);
        command
            .args(args)
            .current_dir(&self.project)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", &self.home)
            .env("AGENTFS_HOME", self.home.join("histories"))
            .stdin(Stdio::null());
        command
    }

    pub fn try_run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        self.command(args).output().unwrap()
    }

    /// What a command that must succeed prints.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let output = self.try_run(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Value {
        serde_json::from_str(&self.run(args)).unwrap()
    }

    pub fn write(&self, name: &str, content: &str) {
        let path = self.project.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.project.join(name)).unwrap()
    }

    /// Changes a file, makes a checkpoint and gives its id.
    pub fn checkpoint(&self, name: &str, content: &str) -> String {
        self.write(name, content);
        let made = self.json(["checkpoint", &format!("{name}: {content}"), "--json"]);
        made["id"].as_str().unwrap().to_owned()
    }

    pub fn store(&self) -> PathBuf {
        let stores = fs::read_dir(self.home.join("histories")).unwrap();
        let mut stores = stores.map(|entry| entry.unwrap().path());
        let is_ours = |path: &PathBuf| path.join("agentfs/project.json").exists();
        stores.find(is_ours).unwrap()
    }

    /// Ids of the checkpoints of a branch, the newest first.
    pub fn ids(&self, branch: &str) -> Vec<String> {
        ids(&self.store(), &format!("refs/heads/{branch}"))
    }

    /// Nothing is wrong with the store, by the strictest of git's measures.
    pub fn check(&self) {
        let store = self.store();
        git(&store, ["fsck", "--full", "--strict", "--no-dangling"]);
        self.run(["verify"]);
    }
}

/// Ids of the checkpoints that a commit leads back to, the newest first.
pub fn ids(store: &Path, rev: &str) -> Vec<String> {
    let format = "--format=%(trailers:key=Checkpoint,valueonly)";
    let printed = git(store, ["log", "--first-parent", format, rev, "--"]);
    let lines = printed.lines().filter(|line| line.starts_with("cp_"));
    lines.map(str::to_owned).collect()
}

pub fn git<'a>(dir: &Path, args: impl IntoIterator<Item = &'a str>) -> String {
    let args: Vec<&str> = args.into_iter().collect();
    let output = Command::new("git")
        .args(&args)
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "git {args:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until something holds; it has to within half a minute.
pub fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
