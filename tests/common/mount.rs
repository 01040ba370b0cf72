//! A private directory with a mountpoint, a store and a home, and the commands that run in it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};

pub struct Mount {
    pub(super) root: PathBuf,
    pub(super) store: PathBuf,
    pub(super) binary: PathBuf,
    pub(super) user: Option<String>,
    pub(super) environment: Vec<(OsString, OsString)>,
    pub(super) daemon: Option<Child>,
    pub(super) pid: Arc<AtomicI32>,
    pub(super) watchdog: Arc<(Mutex<bool>, Condvar)>,
    pub(super) plain: bool,
    pub(super) adopt: bool,
}

impl Mount {
    /// A running mount over an empty store that seals a second after the last write.
    pub fn start(name: &str) -> Mount {
        let mut mount = Mount::prepare(name);
        mount.mount();
        mount
    }

    /// A running mount that seals only when told to.
    pub fn start_unsealing(name: &str) -> Mount {
        let mut mount = Mount::prepare(name).seal_after(86_400);
        mount.mount();
        mount
    }

    /// Everything but the daemon.
    pub fn prepare(name: &str) -> Mount {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let base = fs::canonicalize(std::env::temp_dir()).expect("temporary directory");
        let root = base.join(format!("cellar-{name}-{}-{serial}", std::process::id()));
        let mut private = fs::DirBuilder::new();
        private.mode(0o700);
        private.create(&root).expect("private directory");
        for directory in [
            "mnt", "store", "scratch", "home", "run", "state", "data", "config", "outside",
        ] {
            private
                .create(root.join(directory))
                .expect("private directory");
        }
        let mut mount = Mount {
            store: root.join("store"),
            binary: PathBuf::from(env!("CARGO_BIN_EXE_claude-cellar")),
            user: None,
            environment: Vec::new(),
            daemon: None,
            pid: Arc::new(AtomicI32::new(0)),
            watchdog: Arc::new((Mutex::new(false), Condvar::new())),
            plain: std::env::var_os("CELLAR_TEST_BACKEND").is_some_and(|b| b == "plain"),
            adopt: false,
            root,
        };
        for (variable, directory) in [
            ("CLAUDE_CELLAR_MOUNT_DIR", "mnt"),
            ("CLAUDE_CELLAR_STORE_DIR", "store"),
            ("CLAUDE_CELLAR_SCRATCH_DIR", "scratch"),
            ("HOME", "home"),
            ("XDG_RUNTIME_DIR", "run"),
            ("XDG_STATE_HOME", "state"),
            ("XDG_DATA_HOME", "data"),
            ("XDG_CONFIG_HOME", "config"),
        ] {
            let directory = mount.root.join(directory);
            mount = mount.env(variable, directory);
        }
        mount.env("CLAUDE_CELLAR_LOG", "debug").seal_after(1)
    }

    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Mount {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.into(), value.into()));
        self
    }

    pub fn seal_after(self, seconds: u32) -> Mount {
        self.env("CLAUDE_CELLAR_SEAL_AFTER", seconds.to_string())
    }

    /// Run daemon and commands as `user`, who then owns the directories.
    pub fn owned_by(mut self, user: &str) -> Mount {
        let binary = self.root.join("claude-cellar");
        fs::copy(&self.binary, &binary).expect("copy of the binary for the user");
        self.binary = binary;
        self.user = Some(user.into());
        let owner = Command::new("chown")
            .arg("-R")
            .arg(format!("{user}:"))
            .arg(&self.root)
            .status();
        assert!(owner.expect("chown").success());
        self
    }

    /// Over a store that is somewhere else; it stays when the mount goes.
    pub fn over_store(mut self, store: &Path) -> Mount {
        self.store = store.to_owned();
        self.env("CLAUDE_CELLAR_STORE_DIR", store)
    }

    /// Mounting takes in what lies beneath the mountpoint.
    pub fn adopting(mut self) -> Mount {
        self.adopt = true;
        self
    }

    /// What the mountpoint shows while nothing is mounted there lies on a file system of its own.
    pub fn beneath_on_tmpfs(self) -> Mount {
        mount_tmpfs(&self.root.join("mnt"), 64 << 20);
        self
    }

    /// The directory outside the mount is on a file system of its own.
    pub fn outside_on_tmpfs(self) -> Mount {
        mount_tmpfs(&self.outside(""), 64 << 20);
        self
    }

    /// Over the store of another mount, as a second host has it.
    pub fn over(self, other: &Mount) -> Mount {
        self.over_store(&other.store).beside(other)
    }

    /// A second host; its own path to the store may be another one.
    pub fn beside(self, other: &Mount) -> Mount {
        if self.plain {
            fs::remove_dir(self.root.join("mnt")).unwrap();
            std::os::unix::fs::symlink(other.path(""), self.root.join("mnt")).unwrap();
        }
        self
    }

    /// Mount the empty tmpfs of `size` bytes that disk-full tests need, where the bytes end up.
    pub fn on_tmpfs(self, size: usize) -> Mount {
        let target = if self.plain {
            self.root.join("mnt")
        } else {
            self.store.clone()
        };
        mount_tmpfs(&target, size);
        self
    }

    /// Are there a daemon and a store to look into?
    pub fn has_store(&self) -> bool {
        !self.plain
    }

    /// A path as programs see it.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join("mnt").join(name)
    }

    /// A path in the store.
    pub fn store(&self, name: impl AsRef<Path>) -> PathBuf {
        self.store.join(name)
    }

    /// A path on a plain file system, removed with the mount.
    pub fn outside(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join("outside").join(name)
    }

    /// `claude-cellar <args>` in this mount's environment, not yet run.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.command_of(&self.binary);
        command.args(args);
        command
    }

    /// `program` in this mount's environment and as its user.
    pub fn command_of(&self, program: &Path) -> Command {
        let mut command = match &self.user {
            None => Command::new(program),
            Some(user) => {
                let mut command = Command::new("runuser");
                command.args(["-u", user, "--", "env"]);
                for (name, value) in &self.environment {
                    let mut pair = name.clone();
                    pair.push("=");
                    pair.push(value);
                    command.arg(pair);
                }
                command.arg(program);
                command
            }
        };
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
            .env_remove("NOTIFY_SOCKET")
            .env_remove("CLAUDE_CONFIG_DIR")
            .current_dir(&self.root);
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("claude-cellar runs")
    }

    /// Is a claude-cellar listed at the mountpoint, alive or stale?
    pub fn mounted(&self) -> bool {
        let mountpoint = self.root.join("mnt");
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.lines().any(|line| {
            let point = line.split(' ').nth(4).unwrap_or("");
            point == mountpoint.to_str().unwrap() && line.contains(" - fuse.claude-cellar ")
        })
    }

    /// What the daemon said.
    pub fn log(&self) -> String {
        let mut all = String::new();
        for file in ["stderr.log", "state/claude-cellar/cellar.log"] {
            let text = fs::read(self.root.join(file)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            all += &format!(
                "--- {file}\n{}\n",
                lines[lines.len().saturating_sub(60)..].join("\n")
            );
        }
        all
    }
}

fn mount_tmpfs(at: &Path, size: usize) {
    let options = format!("size={size},mode=0700");
    let done = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
        .arg(at)
        .status();
    assert!(
        done.is_ok_and(|s| s.success()),
        "a tmpfs must be mounted: run this test as root"
    );
}
