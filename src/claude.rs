//! The Claude binary: which program `claude` is.
//!
//! The command line wins over the environment, that over what `install` wrote down, and that over
//! `PATH`. What a user names himself must be a program; a note that has gone stale is passed over. It
//! is never this program, which would start itself for ever.

use crate::config::{Config, noted};
use crate::exit::Failure;
use crate::paths;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const NAME: &str = "claude";

/// The Claude binary; a failure if there is none.
pub fn binary(config: &Config, given: Option<&Path>) -> Result<PathBuf, Failure> {
    find(config, given)?.ok_or_else(|| {
        Failure::new("cannot find Claude Code: no claude in PATH")
            .advise("install it, or name its binary with --claude-bin")
    })
}

/// The same where it is no failure that nothing is named and there is none.
pub fn find(config: &Config, given: Option<&Path>) -> Result<Option<PathBuf>, Failure> {
    if let Some(named) = given.or(config.claude_bin.as_deref()) {
        let path = std::path::absolute(named).unwrap_or_else(|_| named.to_owned());
        return check(&path).map(|()| Some(path)).map_err(|reason| {
            Failure::at("cannot start Claude Code", named, reason)
                .advise("name its binary with --claude-bin or CLAUDE_CELLAR_CLAUDE_BIN")
        });
    }
    let known = noted(&config.notes.claude_bin).into_iter();
    let mut known = known.chain(paths::in_path(NAME));
    Ok(known.find(|path| check(path).is_ok()))
}

/// Why this cannot be started.
fn check(path: &Path) -> Result<(), String> {
    let meta = fs::metadata(path).map_err(|error| error.to_string())?;
    if !paths::is_program(path) {
        return Err("it is no program".to_owned());
    }
    let ours = fs::metadata("/proc/self/exe");
    if ours.is_ok_and(|ours| (ours.dev(), ours.ino()) == (meta.dev(), meta.ino())) {
        return Err("it is claude-cellar itself".to_owned());
    }
    Ok(())
}
