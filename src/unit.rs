//! The text of the systemd user service. `claude-cellar.service` beside this file is the one truth
//! behind `install` and the Nix modules: both fill in the program and its variables.
//!
//! The service must be able to run fusermount3, which is setuid, and to mount where the user's
//! programs look: so there is no sandboxing here, which would forbid the one or give the daemon a
//! mount namespace of its own. The first directories of PATH are where NixOS has its fusermount3.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::exit::Failure;

pub const NAME: &str = "claude-cellar.service";

const TEMPLATE: &str = include_str!("claude-cellar.service");

/// Where the daemon finds fusermount3.
pub fn path() -> &'static str {
    let mut lines = TEMPLATE.lines();
    let path = lines.find_map(|line| line.strip_prefix("Environment=PATH="));
    path.unwrap_or_default()
}

/// The unit that runs `program` with these variables. Fails for what systemd cannot hold: names that
/// are not UTF-8, and programs with quotes or the like in their path.
pub fn text(program: &Path, variables: &[(&str, OsString)]) -> Result<String, Failure> {
    let name = utf8(program.as_os_str().to_owned())?;
    if name.contains(|c: char| c.is_ascii_control() || "\"'\\".contains(c)) {
        let reason = "it has a character that systemd runs no program with";
        return Err(Failure::at("cannot start", program, reason)
            .advise("put it elsewhere, or use --no-systemd"));
    }
    let program = quoted(&name);
    let mut environment = String::new();
    for (name, value) in variables {
        let value = utf8(value.clone())?;
        let _ = writeln!(
            environment,
            "Environment={}",
            quoted(&format!("{name}={value}"))
        );
    }
    Ok(TEMPLATE
        .replace("@program@", &program)
        .replace("@environment@\n", &environment))
}

/// The link that enables a unit's file.
pub fn wanted_by(file: &Path) -> PathBuf {
    file.with_file_name("default.target.wants").join(NAME)
}

/// The variables that a unit's text sets.
pub fn variables(text: &str) -> Vec<(String, OsString)> {
    let assignments = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Environment="));
    let pairs = assignments.filter_map(|assignment| {
        let text = unquoted(assignment);
        let (name, value) = text.split_once('=')?;
        Some((name.to_owned(), OsString::from(value)))
    });
    pairs.collect()
}

fn utf8(text: OsString) -> Result<String, Failure> {
    text.into_string().map_err(|text| {
        Failure::new(format!(
            "{} is not UTF-8, which systemd needs",
            text.display()
        ))
        .advise("use --no-systemd")
    })
}

/// As systemd reads it: quotes, backslashes and control characters escaped, specifiers doubled.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@,".contains(c);
    if text.chars().all(plain) {
        return text.to_owned();
    }
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '%' => out.push_str("%%"),
            c if c.is_ascii_control() => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The reverse of [`quoted`], as far as one assignment a line goes.
fn unquoted(text: &str) -> String {
    let inner = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    let (mut out, mut chars) = (String::new(), inner.unwrap_or(text).chars());
    while let Some(c) = chars.next() {
        let escape = match c {
            '%' => chars.next(),
            '\\' => chars.next(),
            c => Some(c),
        };
        let digits = chars
            .as_str()
            .get(..2)
            .filter(|_| c == '\\' && escape == Some('x'));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                chars = chars.as_str()[2..].chars();
            }
            None => out.extend(escape),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn a_unit_has_what_differs_from_the_defaults() {
        let unit = text(
            Path::new("/usr/bin/claude-cellar"),
            &[("CLAUDE_CELLAR_STORE_DIR", "/nfs/store".into())],
        )
        .unwrap();
        assert!(unit.contains("\nExecStart=/usr/bin/claude-cellar mount --foreground --adopt\n"));
        assert!(unit.contains("\nEnvironment=CLAUDE_CELLAR_STORE_DIR=/nfs/store\n"));
        assert!(path().starts_with("/run/wrappers/bin:/run/current-system/sw/bin:"));
        assert!(unit.contains(path()) && !unit.contains('@'), "{unit}");
    }

    #[test]
    fn what_a_unit_sets_is_read_back() {
        let odd = "/a b/100%/\"q\"\\\n=x";
        let set = [
            ("CLAUDE_CELLAR_STORE_DIR", odd.into()),
            ("A", "plain".into()),
        ];
        let read = variables(&text(Path::new("/p"), &set).unwrap());
        assert_eq!(read[0].0, "PATH");
        assert_eq!(read[1], ("CLAUDE_CELLAR_STORE_DIR".into(), odd.into()));
        assert_eq!(read[2], ("A".into(), "plain".into()));
        let older = "[Service]\n  Environment=CLAUDE_CELLAR_STORE_DIR=/nfs/x\n";
        assert_eq!(
            variables(older),
            [("CLAUDE_CELLAR_STORE_DIR".into(), "/nfs/x".into())]
        );
    }

    #[test]
    fn odd_names_are_quoted() {
        assert_eq!(quoted("/a b/%h\"\\\n"), "\"/a b/%%h\\\"\\\\\\x0a\"");
        assert_eq!(quoted("/plain/path"), "/plain/path");
        assert_eq!(quoted("/über"), "\"/über\"");
        let odd = OsString::from_vec(b"/\xff".to_vec());
        assert!(text(Path::new(&odd), &[]).is_err());
        assert!(text(Path::new("/a/it's"), &[]).is_err());
    }
}
