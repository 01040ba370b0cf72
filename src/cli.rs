//! The command line, as a value.
//!
//! Parsing touches nothing: no file, no variable. Paths stay bytes, so any name works. Whatever
//! is misspelt gets the nearest thing that exists as its answer.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use lexopt::prelude::*;

use crate::exit::Failure;
use crate::help::{COMMANDS, OVERVIEW, Usage};

#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Mount {
        foreground: bool,
        allow_other: bool,
        store_dir: Option<PathBuf>,
        mount_dir: Option<PathBuf>,
    },
    Umount {
        mount_dir: Option<PathBuf>,
        lazy: bool,
    },
    Status {
        json: bool,
    },
    List {
        dir: PathBuf,
    },
    Compress {
        file: PathBuf,
        keep: bool,
    },
    Decompress {
        file: PathBuf,
        out: Option<PathBuf>,
    },
    Verify {
        paths: Vec<PathBuf>,
        json: bool,
    },
    Log {
        tail: usize,
    },
    Help(&'static str),
    Version,
}

const DEFAULT_TAIL: usize = 40;

/// Reads the arguments that follow the program's name.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, Failure> {
    let mut parser = lexopt::Parser::from_args(args);
    let name = match parser.next().map_err(misused)? {
        Some(Value(name)) => name,
        Some(Short('h') | Long("help")) => return Ok(Command::Help(OVERVIEW)),
        Some(Short('V') | Long("version")) => return Ok(Command::Version),
        Some(Long(name)) => return Err(unknown_option(name, &["help", "version"], "help")),
        Some(arg) => return Err(misused(arg.unexpected()).advise("see `claude-cellar help`")),
        None => return Err(Failure::usage("no command given; see `claude-cellar help`")),
    };
    let usage = find(&name)?;
    let mut args = Args { parser, usage };
    match usage.name {
        "mount" => args.mount(),
        "umount" => args.umount(),
        "status" => args.status(),
        "list" => args.list(),
        "compress" => args.compress(),
        "decompress" => args.decompress(),
        "verify" => args.verify(),
        "log" => args.log(),
        _ => args.help(),
    }
}

fn find(name: &OsStr) -> Result<&'static Usage, Failure> {
    COMMANDS
        .iter()
        .find(|usage| name == usage.name)
        .ok_or_else(|| unknown_command(name))
}

/// The arguments of one command.
struct Args {
    parser: lexopt::Parser,
    usage: &'static Usage,
}

impl Args {
    fn mount(&mut self) -> Result<Command, Failure> {
        let (mut foreground, mut allow_other) = (false, false);
        let (mut store_dir, mut mount_dir) = (None, None);
        while let Some(arg) = self.parser.next().map_err(misused)? {
            match arg {
                Long("foreground") => foreground = true,
                Long("allow-other") => allow_other = true,
                Long("store-dir") => store_dir = Some(self.path()?),
                Long("mount-dir") => mount_dir = Some(self.path()?),
                arg => return common(self.usage, arg),
            }
        }
        Ok(Command::Mount {
            foreground,
            allow_other,
            store_dir,
            mount_dir,
        })
    }

    fn umount(&mut self) -> Result<Command, Failure> {
        let (mut mount_dir, mut lazy) = (None, false);
        while let Some(arg) = self.parser.next().map_err(misused)? {
            match arg {
                Long("mount-dir") => mount_dir = Some(self.path()?),
                Long("lazy") => lazy = true,
                arg => return common(self.usage, arg),
            }
        }
        Ok(Command::Umount { mount_dir, lazy })
    }

    fn status(&mut self) -> Result<Command, Failure> {
        let mut json = false;
        while let Some(arg) = self.parser.next().map_err(misused)? {
            match arg {
                Long("json") => json = true,
                arg => return common(self.usage, arg),
            }
        }
        Ok(Command::Status { json })
    }

    fn list(&mut self) -> Result<Command, Failure> {
        let mut dir = None;
        while let Some(arg) = self.parser.next().map_err(misused)? {
            match arg {
                Value(value) if dir.is_none() => dir = Some(value.into()),
                arg => return common(self.usage, arg),
            }
        }
        let dir = dir.ok_or_else(|| self.missing("DIR"))?;
        Ok(Command::List { dir })
    }

    fn compress(&mut self) -> Result<Command, Failure> {
        let (mut file, mut keep) = (None, false);
        while let Some(arg) = self.parser.next().map_err(misused)? {
            match arg {
                Long("keep") => keep = true,
                Value(value) if file.is_none() => file = Some(value.into()),
                arg => return common(self.usage, arg),
            }
        }
        let file = file.ok_or_else(|| self.missing("FILE"))?;
        Ok(Command::Compress { file, keep })
    }

    fn decompress(&mut self) -> Result<Command, Failure> {
        let (mut file, mut out) = (None, None);
        while let Some(arg) = self.parser.next().map_err(misused)? {
            match arg {
                Value(value) if file.is_none() => file = Some(value.into()),
                Value(value) if out.is_none() => out = Some(value.into()),
                arg => return common(self.usage, arg),
            }
        }
        let file = file.ok_or_else(|| self.missing("FILE"))?;
        Ok(Command::Decompress { file, out })
    }

    fn verify(&mut self) -> Result<Command, Failure> {
        let (mut paths, mut json) = (Vec::new(), false);
        while let Some(arg) = self.parser.next().map_err(misused)? {
            match arg {
                Long("json") => json = true,
                Value(value) => paths.push(value.into()),
                arg => return common(self.usage, arg),
            }
        }
        Ok(Command::Verify { paths, json })
    }

    fn log(&mut self) -> Result<Command, Failure> {
        let mut tail = DEFAULT_TAIL;
        while let Some(arg) = self.parser.next().map_err(misused)? {
            match arg {
                Long("tail") => tail = self.number()?,
                arg => return common(self.usage, arg),
            }
        }
        Ok(Command::Log { tail })
    }

    fn help(&mut self) -> Result<Command, Failure> {
        let mut topic = None;
        while let Some(arg) = self.parser.next().map_err(misused)? {
            match arg {
                Value(name) if topic.is_none() => topic = Some(find(&name)?),
                arg => return common(self.usage, arg),
            }
        }
        Ok(Command::Help(topic.unwrap_or(self.usage).text))
    }

    fn path(&mut self) -> Result<PathBuf, Failure> {
        let value = self.parser.value().map_err(misused)?;
        if value.is_empty() {
            return Err(Failure::usage("an empty path names no directory"));
        }
        Ok(value.into())
    }

    fn number(&mut self) -> Result<usize, Failure> {
        let value = self.parser.value().map_err(misused)?;
        value
            .to_str()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Failure::usage(format!("{} is not a whole number", value.display())))
    }

    fn missing(&self, what: &str) -> Failure {
        let name = self.usage.name;
        Failure::usage(format!(
            "{name} needs {what}; see `claude-cellar help {name}`"
        ))
    }
}

/// An argument that is not the command's own: help, or a mistake.
fn common(usage: &'static Usage, arg: lexopt::Arg<'_>) -> Result<Command, Failure> {
    match arg {
        Short('h') | Long("help") => Ok(Command::Help(usage.text)),
        Long(name) => {
            let topic = format!("help {}", usage.name);
            let options: Vec<&str> = usage.options.iter().copied().chain(["help"]).collect();
            Err(unknown_option(name, &options, &topic))
        }
        arg => {
            let advice = format!("see `claude-cellar help {}`", usage.name);
            Err(misused(arg.unexpected()).advise(advice))
        }
    }
}

fn misused(error: lexopt::Error) -> Failure {
    Failure::usage(error.to_string())
}

fn unknown_option(name: &str, known: &[&str], topic: &str) -> Failure {
    let failure = Failure::usage(format!("unknown option --{name}"));
    match nearest(name, known) {
        Some(near) => failure.advise(format!("did you mean --{near}?")),
        None => failure.advise(format!("see `claude-cellar {topic}`")),
    }
}

fn unknown_command(name: &OsStr) -> Failure {
    let failure = Failure::usage(format!("unknown command {}", name.display()));
    let names: Vec<&str> = COMMANDS.iter().map(|usage| usage.name).collect();
    match nearest(&name.to_string_lossy(), &names) {
        Some(near) => failure.advise(format!("did you mean {near}?")),
        None => failure.advise("see `claude-cellar help`"),
    }
}

/// The known word that was most likely meant, if any is close: an abbreviation of it, or at most
/// every third character wrong.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let (distance, near) = known
        .iter()
        .map(|candidate| {
            let abbreviated = word.len() > 1 && candidate.starts_with(word);
            let distance = if abbreviated {
                1
            } else {
                edits(word, candidate)
            };
            (distance, *candidate)
        })
        .min_by_key(|(distance, _)| *distance)?;
    (distance <= 1 + near.len() / 3).then_some(near)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;
    use std::os::unix::ffi::OsStringExt;

    fn parse_words(line: &str) -> Result<Command, Failure> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn complaint(line: &str) -> String {
        let failure = parse_words(line).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        failure.message
    }

    #[test]
    fn options_and_operands() {
        assert_eq!(
            parse_words("mount --foreground --store-dir=/s --mount-dir /m"),
            Ok(Command::Mount {
                foreground: true,
                allow_other: false,
                store_dir: Some("/s".into()),
                mount_dir: Some("/m".into()),
            })
        );
        assert_eq!(
            parse_words("decompress a b"),
            Ok(Command::Decompress {
                file: "a".into(),
                out: Some("b".into()),
            })
        );
        assert_eq!(
            parse_words("compress -- --keep"),
            Ok(Command::Compress {
                file: "--keep".into(),
                keep: false,
            })
        );
        assert_eq!(parse_words("log"), Ok(Command::Log { tail: 40 }));
    }

    #[test]
    fn a_path_may_be_any_bytes() {
        let name = OsString::from_vec(vec![b'a', 0xff]);
        assert_eq!(
            parse(["list".into(), name.clone()]),
            Ok(Command::List { dir: name.into() })
        );
    }

    #[test]
    fn mistakes_name_the_nearest_thing() {
        assert!(complaint("moutn").ends_with("did you mean mount?"));
        assert!(complaint("unmount").ends_with("did you mean umount?"));
        assert!(complaint("decomp").ends_with("did you mean decompress?"));
        assert!(complaint("mount --foregruond").ends_with("did you mean --foreground?"));
        assert!(complaint("mount --store").ends_with("did you mean --store-dir?"));
        assert!(complaint("xyzzy").ends_with("see `claude-cellar help`"));
        assert!(complaint("help xyzzy").ends_with("see `claude-cellar help`"));
    }

    #[test]
    fn what_is_missing_or_too_much_is_said() {
        assert!(complaint("").contains("no command"));
        assert!(complaint("list").contains("DIR"));
        assert!(complaint("status now").contains("now"));
        assert!(complaint("mount --store-dir").contains("--store-dir"));
        assert!(complaint("umount --lazy=yes").contains("--lazy"));
        assert!(complaint("log --tail many").contains("many"));
        assert!(complaint("status -x").contains("-x"));
    }

    #[test]
    fn every_command_has_help_that_names_all_its_options() {
        for usage in COMMANDS {
            let by_option = parse_words(&format!("{} --help", usage.name));
            let by_topic = parse_words(&format!("help {}", usage.name));
            assert_eq!(by_option, Ok(Command::Help(usage.text)));
            assert_eq!(by_topic, by_option);
            assert!(OVERVIEW.contains(usage.name));
            for option in usage.options {
                assert!(usage.text.contains(&format!("--{option}")), "{option}");
            }
        }
    }
}
