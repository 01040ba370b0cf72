//! The user's service manager, asked through `systemctl --user`.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::exit::Failure;
use crate::paths;

/// A running user manager.
pub struct Manager {
    /// What its services start with.
    environment: Vec<(OsString, OsString)>,
}

impl Manager {
    /// The manager of this user; `None` where there is none (containers, other init systems).
    pub fn find() -> Option<Manager> {
        let output = systemctl(&["show-environment"]).ok()?;
        let lines = output.stdout.split(|byte| *byte == b'\n');
        output.status.success().then(|| Manager {
            environment: lines.filter_map(assignment).collect(),
        })
    }

    pub fn variable(&self, name: &str) -> Option<OsString> {
        let found = self.environment.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone())
    }

    /// The file that the manager has read a unit from.
    pub fn fragment(&self, unit: &str) -> Option<PathBuf> {
        let output = systemctl(&["show", "--property=FragmentPath", "--value", unit]).ok()?;
        let path = PathBuf::from(OsStr::from_bytes(output.stdout.trim_ascii()));
        path.is_absolute().then_some(path)
    }

    pub fn is_active(&self, unit: &str) -> bool {
        systemctl(&["is-active", "--quiet", unit]).is_ok_and(|output| output.status.success())
    }

    pub fn is_enabled(&self, unit: &str) -> bool {
        systemctl(&["is-enabled", "--quiet", unit]).is_ok_and(|output| output.status.success())
    }

    /// Runs one command of `systemctl --user`.
    pub fn run(&self, args: &[&str]) -> Result<(), Failure> {
        let what = format!("systemctl --user {}", args.join(" "));
        let output = systemctl(args).map_err(|e| Failure::new(format!("{what}: {e}")))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(output.stderr.trim_ascii()).replace('\n', ", ");
        Err(Failure::new(format!("{what}: {said}")))
    }
}

fn systemctl(args: &[&str]) -> io::Result<Output> {
    let mut command = Command::new("systemctl");
    command.arg("--user").args(args).stdin(Stdio::null());
    // A shell of `su` lacks what says where the manager is.
    let runtime_dir = format!("/run/user/{}", paths::effective_uid());
    if env::var_os("XDG_RUNTIME_DIR").is_none() && Path::new(&runtime_dir).is_dir() {
        command.env("XDG_RUNTIME_DIR", runtime_dir);
    }
    command.output()
}

/// `NAME=value` or `NAME=$'value'` with the escapes of C.
fn assignment(line: &[u8]) -> Option<(OsString, OsString)> {
    let at = line.iter().position(|byte| *byte == b'=')?;
    let (name, value) = (&line[..at], &line[at + 1..]);
    let quoted = value.strip_prefix(b"$'").and_then(|v| v.strip_suffix(b"'"));
    let value = quoted.map_or_else(|| value.to_vec(), unescape);
    Some((OsString::from_vec(name.to_vec()), OsString::from_vec(value)))
}

fn unescape(quoted: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::with_capacity(quoted.len()), quoted);
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let (b'\\', Some((&escaped, after))) = (byte, after.split_first()) else {
            out.push(byte);
            continue;
        };
        rest = after;
        let hex = after
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match (
            escaped,
            hex.and_then(|digits| u8::from_str_radix(digits, 16).ok()),
        ) {
            (b'x', Some(byte)) => {
                out.push(byte);
                rest = &after[2..];
            }
            (b'n', _) => out.push(b'\n'),
            (b't', _) => out.push(b'\t'),
            (other, _) => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_read_with_and_without_quotes() {
        let read = |line: &str| assignment(line.as_bytes());
        let pair = |name: &str, value: &str| Some((name.into(), value.into()));
        assert_eq!(read("HOME=/home/a"), pair("HOME", "/home/a"));
        assert_eq!(read("X="), pair("X", ""));
        assert_eq!(read(r"Y=$'a b\'c\\\x21\n'"), pair("Y", "a b'c\\!\n"));
        assert_eq!(read("no assignment"), None);
    }
}
