//! Every path and variable, and nothing else reads the environment for them.
//!
//! All paths that leave here are absolute. An empty variable counts as unset, a relative XDG path
//! is ignored as its specification asks, and a value that makes no sense is an error naming the
//! variable: a typing error must not silently become a default.
//!
//! Where no variable names the store it is the one `install` wrote down, so that a `mount` without
//! the service's environment finds the same sessions; else the default.
//!
//! The pid file's directory is never a guessable name in a directory others can write to. It does
//! not lie in the store either: `umount` and `status` must find it without knowing which store was
//! mounted. Where there is no runtime directory it lies in the state directory, by host name,
//! because a home directory may be shared by several hosts and a lock must not be.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;

use crate::exit::Failure;
use crate::paths;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub mount_dir: PathBuf,
    pub store_dir: PathBuf,
    pub store_from: StoreFrom,
    /// Where a plain copy goes that must exist outside the mount.
    pub scratch_dir: PathBuf,
    pub pid_file: PathBuf,
    pub log_file: PathBuf,
    pub log_level: LevelFilter,
    /// Cap on sessions open at once; none unless asked for.
    pub max_fds: Option<usize>,
    pub seal_after: Duration,
    pub compress_bundles: bool,
    /// How long deleted sessions are kept; not at all if zero.
    pub trash_days: u32,
    /// What the environment names as the Claude binary.
    pub claude_bin: Option<PathBuf>,
    /// What `install` writes down for later commands.
    pub notes: Notes,
}

/// Who says where the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFrom {
    /// The command line or a variable.
    Named,
    /// An earlier `install`.
    Noted,
    Default,
}

/// Files of one line each in `~/.config/claude-cellar`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// Names the store directory.
    pub store: PathBuf,
    /// Names the Claude binary.
    pub claude_bin: PathBuf,
}

impl Notes {
    fn in_dir(dir: &Path) -> Notes {
        Notes {
            store: dir.join("store-dir.path"),
            claude_bin: dir.join("claude-bin.path"),
        }
    }
}

/// The path that one of the [`Notes`] names, if it is there and names an absolute one.
pub fn noted(note: &Path) -> Option<PathBuf> {
    let mut bytes = fs::read(note).ok()?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    let path = PathBuf::from(OsString::from_vec(bytes));
    path.is_absolute().then_some(path)
}

/// Where Claude Code itself keeps its sessions, whatever the cellar is told.
pub fn claude_projects() -> Option<PathBuf> {
    let env = Environment(|name: &str| std::env::var_os(name));
    Some(env.claude_dir().ok()?.join("projects"))
}

/// What the command line says instead of the environment.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    pub mount_dir: Option<PathBuf>,
    pub store_dir: Option<PathBuf>,
}

/// What the defaults need to know about the machine.
#[derive(Clone, Debug, Default)]
pub struct Host {
    pub name: OsString,
    /// `/run/user/UID`, where it exists and belongs to this user.
    pub runtime_dir: Option<PathBuf>,
}

const DEFAULT_SEAL_AFTER: Duration = Duration::from_secs(600);

impl Config {
    pub fn load(overrides: Overrides) -> Result<Config, Failure> {
        Config::from_environment(|name| std::env::var_os(name), &Host::this(), overrides)
    }

    /// With variables from elsewhere for what the environment does not name.
    pub fn load_with(fallback: impl Fn(&str) -> Option<OsString>) -> Result<Config, Failure> {
        let lookup = |name: &str| {
            let named = std::env::var_os(name).filter(|value| !value.is_empty());
            named.or_else(|| fallback(name))
        };
        Config::from_environment(lookup, &Host::this(), Overrides::default())
    }

    /// As a process that has these variables alone would compute it on this machine.
    pub fn with_only(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Config, Failure> {
        Config::from_environment(lookup, &Host::this(), Overrides::default())
    }

    pub fn from_environment(
        lookup: impl Fn(&str) -> Option<OsString>,
        host: &Host,
        overrides: Overrides,
    ) -> Result<Config, Failure> {
        let env = Environment(lookup);
        let notes = Notes::in_dir(&env.config_dir()?.join("claude-cellar"));
        let mount_dir = match overrides.mount_dir.or(env.path("CLAUDE_CELLAR_MOUNT_DIR")) {
            Some(dir) => absolute("the mount directory", &dir)?,
            None => env.claude_dir()?.join("projects"),
        };
        let named = overrides.store_dir.or(env.path("CLAUDE_CELLAR_STORE_DIR"));
        let (store_dir, store_from) = match (named, noted(&notes.store)) {
            (Some(dir), _) => (absolute("the store directory", &dir)?, StoreFrom::Named),
            (None, Some(dir)) => (dir, StoreFrom::Noted),
            (None, None) => (env.default_store()?, StoreFrom::Default),
        };
        let runtime_dir = env.xdg("XDG_RUNTIME_DIR").or(host.runtime_dir.clone());
        let scratch_dir = match (env.path("CLAUDE_CELLAR_SCRATCH_DIR"), &runtime_dir) {
            (Some(dir), _) => absolute("CLAUDE_CELLAR_SCRATCH_DIR", &dir)?,
            (None, Some(dir)) => dir.join("claude-cellar/scratch"),
            (None, None) => store_dir.join(".cellar/tmp"),
        };
        let run_dir = match &runtime_dir {
            Some(dir) => dir.join("claude-cellar"),
            None => env.state_dir()?.join("claude-cellar/run").join(&host.name),
        };
        Ok(Config {
            mount_dir,
            store_dir,
            store_from,
            scratch_dir,
            pid_file: run_dir.join("daemon.pid"),
            log_file: env.state_dir()?.join("claude-cellar/cellar.log"),
            log_level: env
                .parse("CLAUDE_CELLAR_LOG", LOG_LEVELS, log_level)?
                .unwrap_or(LevelFilter::Info),
            max_fds: env.parse("CLAUDE_CELLAR_MAX_FDS", "a whole number above 0", count)?,
            seal_after: env
                .parse(
                    "CLAUDE_CELLAR_SEAL_AFTER",
                    "whole seconds, such as 600",
                    seconds,
                )?
                .unwrap_or(DEFAULT_SEAL_AFTER),
            compress_bundles: env
                .parse("CLAUDE_CELLAR_BUNDLES", "raw or compress", bundles)?
                .unwrap_or(false),
            trash_days: env
                .parse("CLAUDE_CELLAR_TRASH_DAYS", "whole days, such as 30", days)?
                .unwrap_or(0),
            claude_bin: env
                .path("CLAUDE_CELLAR_CLAUDE_BIN")
                .map(|bin| absolute("CLAUDE_CELLAR_CLAUDE_BIN", &bin))
                .transpose()?,
            notes,
        })
    }
}

impl Host {
    fn this() -> Host {
        let uid = paths::effective_uid();
        let runtime_dir = PathBuf::from(format!("/run/user/{uid}"));
        let ours = runtime_dir
            .metadata()
            .is_ok_and(|m| m.is_dir() && m.uid() == uid);
        Host {
            name: host_name(),
            runtime_dir: ours.then_some(runtime_dir),
        }
    }
}

fn host_name() -> OsString {
    let name = fs::read("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim_ascii();
    if name.is_empty() || name.contains(&b'/') || name.starts_with(b".") {
        return "localhost".into();
    }
    OsString::from_vec(name.to_vec())
}

struct Environment<F>(F);

impl<F: Fn(&str) -> Option<OsString>> Environment<F> {
    fn get(&self, name: &str) -> Option<OsString> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    fn xdg(&self, name: &str) -> Option<PathBuf> {
        self.path(name).filter(|path| path.is_absolute())
    }

    fn home(&self) -> Result<PathBuf, Failure> {
        let home = self.path("HOME").ok_or_else(|| {
            Failure::usage("HOME is not set; set it, or name every directory by its own variable")
        })?;
        absolute("HOME", &home)
    }

    fn claude_dir(&self) -> Result<PathBuf, Failure> {
        match self.path("CLAUDE_CONFIG_DIR") {
            Some(dir) => absolute("CLAUDE_CONFIG_DIR", &dir),
            None => Ok(self.home()?.join(".claude")),
        }
    }

    fn data_dir(&self) -> Result<PathBuf, Failure> {
        match self.xdg("XDG_DATA_HOME") {
            Some(dir) => Ok(dir),
            None => Ok(self.home()?.join(".local/share")),
        }
    }

    fn default_store(&self) -> Result<PathBuf, Failure> {
        Ok(self.data_dir()?.join("claude-cellar/store"))
    }

    fn config_dir(&self) -> Result<PathBuf, Failure> {
        match self.xdg("XDG_CONFIG_HOME") {
            Some(dir) => Ok(dir),
            None => Ok(self.home()?.join(".config")),
        }
    }

    fn state_dir(&self) -> Result<PathBuf, Failure> {
        match self.xdg("XDG_STATE_HOME") {
            Some(dir) => Ok(dir),
            None => Ok(self.home()?.join(".local/state")),
        }
    }

    fn parse<T>(
        &self,
        name: &str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Failure> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match value.to_str().and_then(parse) {
            Some(parsed) => Ok(Some(parsed)),
            None => Err(Failure::usage(format!(
                "cannot use {name}={}; it takes {expected}",
                value.display()
            ))),
        }
    }
}

const LOG_LEVELS: &str = "off, error, warn, info, debug or trace";

fn log_level(value: &str) -> Option<LevelFilter> {
    value.parse().ok()
}

fn count(value: &str) -> Option<usize> {
    value.parse().ok().filter(|n| *n > 0)
}

fn seconds(value: &str) -> Option<Duration> {
    value.parse().ok().map(Duration::from_secs)
}

fn days(value: &str) -> Option<u32> {
    value.parse().ok()
}

fn bundles(value: &str) -> Option<bool> {
    match value {
        "raw" => Some(false),
        "compress" => Some(true),
        _ => None,
    }
}

fn absolute(what: &str, path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::usage(format!("cannot use {what}: {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(vars: &[(&str, &str)]) -> Result<Config, Failure> {
        config_on(&Host::default(), vars, Overrides::default())
    }

    fn config_on(
        host: &Host,
        vars: &[(&str, &str)],
        overrides: Overrides,
    ) -> Result<Config, Failure> {
        let lookup = |name: &str| {
            let found = vars.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Config::from_environment(lookup, host, overrides)
    }

    #[test]
    fn defaults_hang_off_home() {
        let host = Host {
            name: "box".into(),
            runtime_dir: None,
        };
        let config = config_on(&host, &[("HOME", "/h")], Overrides::default()).unwrap();
        assert_eq!(
            config,
            Config {
                mount_dir: "/h/.claude/projects".into(),
                store_dir: "/h/.local/share/claude-cellar/store".into(),
                store_from: StoreFrom::Default,
                scratch_dir: "/h/.local/share/claude-cellar/store/.cellar/tmp".into(),
                pid_file: "/h/.local/state/claude-cellar/run/box/daemon.pid".into(),
                log_file: "/h/.local/state/claude-cellar/cellar.log".into(),
                log_level: LevelFilter::Info,
                max_fds: None,
                seal_after: Duration::from_secs(600),
                compress_bundles: false,
                trash_days: 0,
                claude_bin: None,
                notes: Notes::in_dir(Path::new("/h/.config/claude-cellar")),
            }
        );
    }

    #[test]
    fn xdg_and_claude_variables_move_the_defaults() {
        let config = config(&[
            ("HOME", "/h"),
            ("CLAUDE_CONFIG_DIR", "/c"),
            ("XDG_DATA_HOME", "/d"),
            ("XDG_STATE_HOME", "/s"),
            ("XDG_RUNTIME_DIR", "/r"),
        ])
        .unwrap();
        assert_eq!(config.mount_dir, Path::new("/c/projects"));
        assert_eq!(config.store_dir, Path::new("/d/claude-cellar/store"));
        assert_eq!(config.log_file, Path::new("/s/claude-cellar/cellar.log"));
        assert_eq!(config.scratch_dir, Path::new("/r/claude-cellar/scratch"));
        assert_eq!(config.pid_file, Path::new("/r/claude-cellar/daemon.pid"));
    }

    #[test]
    fn a_private_runtime_directory_is_used_without_its_variable() {
        let host = Host {
            name: "box".into(),
            runtime_dir: Some("/run/user/7".into()),
        };
        let config = config_on(&host, &[("HOME", "/h")], Overrides::default()).unwrap();
        assert_eq!(
            config.pid_file,
            Path::new("/run/user/7/claude-cellar/daemon.pid")
        );
        assert_eq!(
            config.scratch_dir,
            Path::new("/run/user/7/claude-cellar/scratch")
        );
    }

    #[test]
    fn a_store_that_was_written_down_is_found_where_no_variable_names_one() {
        let dir = std::env::temp_dir().join(format!("cellar-config-{}", std::process::id()));
        let note = dir.join("claude-cellar/store-dir.path");
        fs::create_dir_all(note.parent().unwrap()).unwrap();
        let home = ("XDG_CONFIG_HOME", dir.to_str().unwrap());
        let store = |vars: &[(&str, &str)]| {
            let vars = [&[("HOME", "/h"), home], vars].concat();
            config(&vars).unwrap().store_dir
        };
        let default = Path::new("/h/.local/share/claude-cellar/store");
        assert_eq!(store(&[]), default);
        fs::write(&note, "/nfs/some where\n").unwrap();
        assert_eq!(store(&[]), Path::new("/nfs/some where"));
        assert_eq!(store(&[("CLAUDE_CELLAR_STORE_DIR", "/s")]), Path::new("/s"));
        fs::write(&note, "relative\n").unwrap();
        assert_eq!(store(&[]), default);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_command_line_wins_over_variables_and_they_over_defaults() {
        let vars = [
            ("HOME", "/h"),
            ("CLAUDE_CELLAR_MOUNT_DIR", "/m"),
            ("CLAUDE_CELLAR_STORE_DIR", "/s"),
            ("CLAUDE_CELLAR_SCRATCH_DIR", "/t"),
        ];
        let overrides = Overrides {
            mount_dir: Some("/mm".into()),
            store_dir: None,
        };
        let config = config_on(&Host::default(), &vars, overrides).unwrap();
        assert_eq!(config.mount_dir, Path::new("/mm"));
        assert_eq!(config.store_dir, Path::new("/s"));
        assert_eq!(config.scratch_dir, Path::new("/t"));
    }

    #[test]
    fn relative_paths_become_absolute_and_relative_xdg_paths_are_ignored() {
        let config = config(&[
            ("HOME", "/h"),
            ("CLAUDE_CELLAR_STORE_DIR", "s"),
            ("XDG_STATE_HOME", "state"),
        ])
        .unwrap();
        assert_eq!(config.store_dir, std::env::current_dir().unwrap().join("s"));
        assert_eq!(
            config.log_file,
            Path::new("/h/.local/state/claude-cellar/cellar.log")
        );
    }

    #[test]
    fn values_are_read() {
        let config = config(&[
            ("HOME", "/h"),
            ("CLAUDE_CELLAR_SEAL_AFTER", "1"),
            ("CLAUDE_CELLAR_MAX_FDS", "16"),
            ("CLAUDE_CELLAR_BUNDLES", "compress"),
            ("CLAUDE_CELLAR_TRASH_DAYS", "30"),
            ("CLAUDE_CELLAR_CLAUDE_BIN", "/opt/claude"),
            ("CLAUDE_CELLAR_LOG", "DEBUG"),
        ])
        .unwrap();
        assert_eq!(config.seal_after, Duration::from_secs(1));
        assert_eq!(config.max_fds, Some(16));
        assert!(config.compress_bundles);
        assert_eq!(config.trash_days, 30);
        assert_eq!(config.claude_bin, Some("/opt/claude".into()));
        assert_eq!(config.log_level, LevelFilter::Debug);
    }

    #[test]
    fn a_bad_value_names_its_variable() {
        for (name, value) in [
            ("CLAUDE_CELLAR_SEAL_AFTER", "abc"),
            ("CLAUDE_CELLAR_SEAL_AFTER", "1.5"),
            ("CLAUDE_CELLAR_SEAL_AFTER", "-1"),
            ("CLAUDE_CELLAR_MAX_FDS", "0"),
            ("CLAUDE_CELLAR_BUNDLES", "yes"),
            ("CLAUDE_CELLAR_TRASH_DAYS", "a week"),
            ("CLAUDE_CELLAR_LOG", "loud"),
        ] {
            let failure = config(&[("HOME", "/h"), (name, value)]).unwrap_err();
            assert_eq!(failure.exit, crate::exit::Exit::Usage);
            assert!(failure.message.contains(name), "{failure}");
            assert!(failure.message.contains(value), "{failure}");
        }
    }

    #[test]
    fn home_is_needed_only_where_a_default_needs_it() {
        assert!(config(&[]).unwrap_err().message.contains("HOME"));
        let all = [
            ("CLAUDE_CELLAR_MOUNT_DIR", "/m"),
            ("CLAUDE_CELLAR_STORE_DIR", "/s"),
            ("XDG_STATE_HOME", "/state"),
            ("XDG_CONFIG_HOME", "/config"),
        ];
        assert!(config(&all).is_ok());
    }
}
