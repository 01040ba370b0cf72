//! The Claude binary: which program `claude` is.
//!
//! The command line wins over the environment, that over what `install` wrote down, and that over
//! `PATH`. What a user names himself must be a program; a note that has gone stale is passed over. It
//! is never this program, which would start itself for ever.

use crate::config::{Config, noted};
use crate::exit::Failure;
use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const NAME: &str = "claude";

pub fn binary(config: &Config, given: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(named) = given.or(config.claude_bin.as_deref()) {
        let path = std::path::absolute(named).unwrap_or_else(|_| named.to_owned());
        return check(&path).map(|()| path).map_err(|reason| {
            Failure::at("cannot start Claude Code", named, reason)
                .advise("name its binary with --claude-bin or CLAUDE_CELLAR_CLAUDE_BIN")
        });
    }
    noted(&config.notes.claude_bin)
        .into_iter()
        .chain(in_path())
        .find(|path| check(path).is_ok())
        .ok_or_else(|| {
            Failure::new("cannot find Claude Code: no claude in PATH")
                .advise("install it, or name its binary with --claude-bin")
        })
}

/// Every place where a shell would look for it, in order.
fn in_path() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(NAME))
        .collect()
}

/// Why this cannot be started.
fn check(path: &Path) -> Result<(), String> {
    let meta = fs::metadata(path).map_err(|error| error.to_string())?;
    if !meta.is_file() || meta.mode() & 0o111 == 0 {
        return Err("it is no program".to_owned());
    }
    let ours = fs::metadata("/proc/self/exe");
    if ours.is_ok_and(|ours| (ours.dev(), ours.ino()) == (meta.dev(), meta.ino())) {
        return Err("it is claude-cellar itself".to_owned());
    }
    Ok(())
}
