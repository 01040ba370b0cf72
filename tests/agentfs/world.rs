//! A project, a place for histories and a home that belong to one test and go away with it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use super::tree::{self, Tree};

const BINARY: &str = env!("CARGO_BIN_EXE_agentfs");
/// Nobody's own user and group.
const ORDINARY: u32 = 54_321;

pub struct World {
    /// Of everything below, resolved.
    pub root: PathBuf,
    /// The working directory.
    pub dir: PathBuf,
    ordinary: bool,
}

impl World {
    /// An empty project that is not recorded yet.
    pub fn empty() -> World {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("agentfs-test-{}-{count}", std::process::id());
        let root = std::env::temp_dir().join(name);
        fs::create_dir(&root).unwrap();
        let root = root.canonicalize().unwrap();
        for name in ["home", "histories", "project"] {
            fs::create_dir(root.join(name)).unwrap();
        }
        World {
            dir: root.join("project"),
            root,
            ordinary: false,
        }
    }

    /// The same for a user whom permissions bind; `None` if this is not run by root.
    pub fn of_ordinary_user() -> Option<World> {
        // SAFETY: takes nothing and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("not root: not tested");
            return None;
        }
        let mut world = World::empty();
        world.ordinary = true;
        // The build directory may be closed to him.
        fs::copy(BINARY, world.root.join("agentfs")).unwrap();
        fs::set_permissions(&world.root, fs::Permissions::from_mode(0o755)).unwrap();
        world.hand_over();
        Some(world)
    }

    /// Gives everything to the ordinary user, if he is who runs the program.
    pub fn hand_over(&self) {
        fn give(path: &Path) {
            lchown(path, Some(ORDINARY), Some(ORDINARY)).unwrap();
            if path.symlink_metadata().unwrap().is_dir() {
                for entry in fs::read_dir(path).unwrap() {
                    give(&entry.unwrap().path());
                }
            }
        }
        if self.ordinary {
            for name in ["home", "histories"] {
                lchown(self.root.join(name), Some(ORDINARY), Some(ORDINARY)).unwrap();
            }
            give(&self.dir);
        }
    }

    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = match self.ordinary {
            true => {
                let mut command = Command::new(self.root.join("agentfs"));
                command.uid(ORDINARY).gid(ORDINARY);
                command
            }
            false => Command::new(BINARY),
        };
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", self.root.join("home"))
            .env("XDG_CONFIG_HOME", self.root.join("home/.config"))
            .env("AGENTFS_HOME", self.root.join("histories"))
            .current_dir(&self.dir)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command line whose words hold no spaces.
    #[track_caller]
    pub fn run(&self, line: &str) -> Ran {
        Ran::of(&mut self.command(line.split_whitespace()))
    }

    /// What a command that must succeed answers to `--json`.
    #[track_caller]
    pub fn json<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Value {
        let mut command = self.command(args);
        command.arg("--json");
        Ran::of(&mut command).json()
    }

    #[track_caller]
    pub fn init(&self) -> Value {
        let made = self.json(["init"]);
        self.settle();
        made
    }

    /// Waits for what goes on in the background.
    pub fn settle(&self) {
        let histories = self.root.join("histories");
        let histories = histories.as_os_str().as_encoded_bytes();
        let is_busy = || {
            let mut processes = fs::read_dir("/proc").unwrap().flatten();
            processes.any(|process| {
                let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
                line.windows(histories.len()).any(|part| part == histories)
            })
        };
        while is_busy() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Makes a checkpoint; null when nothing has changed.
    #[track_caller]
    pub fn checkpoint(&self, message: &str) -> Value {
        self.json(["checkpoint", message])
    }

    /// The only history there is.
    pub fn store(&self) -> PathBuf {
        let mut stores = fs::read_dir(self.root.join("histories")).unwrap();
        stores.next().expect("a store").unwrap().path()
    }

    pub fn index(&self) -> PathBuf {
        self.store().join("agentfs/index")
    }

    /// git on the store, with no configuration but the store's own.
    pub fn git<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new("git");
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_DIR", self.store())
            .current_dir(&self.root)
            .stdin(Stdio::null());
        command
    }

    /// What git prints about the store; it must succeed.
    #[track_caller]
    pub fn asked_git(&self, line: &str) -> String {
        let ran = Ran::of(&mut self.git(line.split_whitespace())).ends(0);
        ran.out.trim_end().to_owned()
    }

    /// git finds nothing wrong with the store.
    #[track_caller]
    pub fn assert_sound(&self) {
        let ran = Ran::of(&mut self.git(["fsck", "--full", "--strict", "--no-dangling"]));
        assert!(
            ran.code == Some(0) && ran.err.is_empty() && ran.out.is_empty(),
            "git fsck: {ran:?}"
        );
    }

    pub fn tree(&self) -> Tree {
        tree::read(&self.dir)
    }

    #[track_caller]
    pub fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    #[track_caller]
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.dir.join(path)).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        let below: Vec<&str> = points
            .filter(|at| Path::new(at).starts_with(&self.root))
            .collect();
        for point in below.into_iter().rev() {
            let _ = Command::new("umount").arg("-l").arg(point).status();
        }
        self.settle();
        let _ = fs::remove_dir_all(&self.root);
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
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    pub fn of(command: &mut Command) -> Ran {
        Ran::from(command.output().unwrap())
    }

    #[track_caller]
    pub fn ends(self, code: i32) -> Ran {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    #[track_caller]
    pub fn json(self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Failed with one line that holds every one of these texts.
    #[track_caller]
    pub fn complains(&self, texts: &[&str]) {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert!(self.err.starts_with("agentfs: "), "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        for text in texts {
            assert!(self.err.contains(text), "no {text:?} in {self:?}");
        }
    }
}
