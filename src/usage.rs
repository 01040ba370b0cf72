//! What a command line may be, and reading one: the one table behind parsing, `--help`, the man page
//! and the completions.
//!
//! Parsing touches nothing: no file, no variable. Paths stay bytes, so any name works. Whatever is
//! misspelt gets the nearest thing that exists as its answer.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::path::PathBuf;

use lexopt::prelude::*;

use crate::exit::Failure;

/// A program of several commands.
pub struct Program {
    pub name: &'static str,
    /// One sentence.
    pub about: &'static str,
    pub groups: &'static [Group],
    pub variables: &'static [Variable],
    pub exit_codes: &'static str,
}

/// Commands that the overview shows together.
pub struct Group {
    pub title: &'static str,
    pub commands: &'static [Usage],
}

/// A variable of the environment.
pub struct Variable {
    pub name: &'static str,
    pub about: &'static str,
}

pub struct Usage {
    pub name: &'static str,
    /// A line of the overview.
    pub about: &'static str,
    /// As in `FILE [OUT]`; what may be repeated ends in `...`.
    pub operands: &'static str,
    /// The words that the first operand may be, if it is one of certain words.
    pub choices: &'static [&'static str],
    /// A sentence.
    pub summary: &'static str,
    /// Paragraphs; an indented line is shown as it is.
    pub details: &'static str,
    pub options: &'static [Opt],
}

pub struct Opt {
    pub name: &'static str,
    /// One letter that means the same.
    pub short: Option<char>,
    /// What its value is called, if it takes one.
    pub value: Option<&'static str>,
    pub about: &'static str,
}

const HELP: Opt = Opt {
    name: "help",
    short: Some('h'),
    value: None,
    about: "Show this text",
};

impl Program {
    pub fn commands(&self) -> impl Iterator<Item = &'static Usage> {
        self.groups.iter().flat_map(|group| group.commands)
    }

    pub fn find(&self, name: &OsStr) -> Result<&'static Usage, Failure> {
        let found = self.commands().find(|usage| name == usage.name);
        found.ok_or_else(|| {
            let failure = Failure::usage(format!("unknown command {}", name.display()));
            let names: Vec<&str> = self.commands().map(|usage| usage.name).collect();
            match nearest(&name.to_string_lossy(), &names) {
                Some(near) => failure.advise(format!("did you mean {near}?")),
                None => failure.advise(format!("see `{} help`", self.name)),
            }
        })
    }

    /// The text of `help`.
    pub fn overview(&self) -> String {
        let width = |names: &mut dyn Iterator<Item = &str>| names.map(str::len).max().unwrap_or(0);
        let mut out = format!("{}\n\nUsage: {} COMMAND [OPTIONS]\n", self.about, self.name);
        let longest = width(&mut self.commands().map(|usage| usage.name));
        for group in self.groups {
            let _ = write!(out, "\n{}\n", group.title);
            for usage in group.commands {
                let _ = writeln!(out, "  {:<longest$}  {}", usage.name, usage.about);
            }
        }
        out.push_str("\nOptions:\n  -h, --help     Show help, for every command\n");
        out.push_str("  -V, --version  Show the version\n");
        let _ = write!(out, "\nExit codes: {}\n\nEnvironment:\n", self.exit_codes);
        let longest = width(&mut self.variables.iter().map(|v| v.name));
        for variable in self.variables {
            let _ = writeln!(out, "  {:<longest$}  {}", variable.name, variable.about);
        }
        out
    }

    /// The text of a command's `--help`.
    pub fn help(&self, usage: &Usage) -> String {
        let mut out = format!("{}\n\nUsage: {}\n", usage.summary, self.synopsis(usage));
        if !usage.details.is_empty() {
            let _ = write!(out, "\n{}\n", usage.details);
        }
        out.push_str("\nOptions:\n");
        let longest = usage
            .all_options()
            .map(|o| o.shown().len())
            .max()
            .unwrap_or(0);
        for option in usage.all_options() {
            let short = option.short.map_or("   ".into(), |c| format!("-{c},"));
            let _ = writeln!(
                out,
                "  {short} {:<longest$}  {}",
                option.shown(),
                option.about
            );
        }
        out
    }

    pub fn synopsis(&self, usage: &Usage) -> String {
        let options = if usage.options.is_empty() {
            ""
        } else {
            "[OPTIONS]"
        };
        [self.name, usage.name, options, usage.operands]
            .into_iter()
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    }
}

impl Usage {
    pub fn all_options(&self) -> impl Iterator<Item = &Opt> {
        self.options.iter().chain([&HELP])
    }

    fn required(&self) -> impl Iterator<Item = &'static str> {
        self.operands
            .split_whitespace()
            .filter(|word| !word.starts_with('['))
    }

    fn most(&self) -> usize {
        match self.operands.contains("...") {
            true => usize::MAX,
            false => self.operands.split_whitespace().count(),
        }
    }
}

impl Opt {
    pub const fn flag(name: &'static str, about: &'static str) -> Opt {
        Opt {
            name,
            short: None,
            value: None,
            about,
        }
    }

    pub const fn valued(name: &'static str, value: &'static str, about: &'static str) -> Opt {
        Opt {
            value: Some(value),
            ..Opt::flag(name, about)
        }
    }

    /// The same with a letter.
    pub const fn short(self, letter: char) -> Opt {
        Opt {
            short: Some(letter),
            ..self
        }
    }

    fn is(&self, arg: &lexopt::Arg) -> bool {
        match arg {
            Long(name) => *name == self.name,
            Short(letter) => Some(*letter) == self.short,
            Value(_) => false,
        }
    }

    /// As in `--mount-dir DIR`.
    pub fn shown(&self) -> String {
        match self.value {
            Some(value) => format!("--{} {value}", self.name),
            None => format!("--{}", self.name),
        }
    }
}

// ---- reading a command line -------------------------------------------------------------------

/// A command line, read.
pub enum Parsed {
    Run(Given),
    /// The text to show.
    Help(String),
    Version,
}

/// The command that was given, and what with.
pub struct Given {
    pub usage: &'static Usage,
    options: Vec<(&'static str, OsString)>,
    operands: std::vec::IntoIter<OsString>,
}

/// Reads the arguments that follow the program's name.
pub fn parse(
    program: &Program,
    args: impl IntoIterator<Item = OsString>,
) -> Result<Parsed, Failure> {
    let topic = format!("see `{} help`", program.name);
    let mut parser = lexopt::Parser::from_args(args);
    let name = match parser.next().map_err(misused)? {
        Some(Value(name)) => name,
        Some(Short('h') | Long("help")) => return Ok(Parsed::Help(program.overview())),
        Some(Short('V') | Long("version")) => return Ok(Parsed::Version),
        Some(Long(name)) => return Err(unknown_option(name, &["help", "version"], &topic)),
        Some(arg) => return Err(misused(arg.unexpected()).advise(topic)),
        None => return Err(Failure::usage("no command given").advise(topic)),
    };
    let usage = program.find(&name)?;
    let topic = format!("see `{} help {}`", program.name, usage.name);
    let (mut options, mut operands) = (Vec::new(), Vec::new());
    while let Some(arg) = parser.next().map_err(misused)? {
        match arg {
            Short('h') | Long("help") => return Ok(Parsed::Help(program.help(usage))),
            Short(_) | Long(_) => {
                let found = usage.options.iter().find(|o| o.is(&arg));
                let option = match (found, arg) {
                    (Some(option), _) => option,
                    (None, Long(name)) => {
                        let known: Vec<&str> = usage.all_options().map(|o| o.name).collect();
                        return Err(unknown_option(name, &known, &topic));
                    }
                    (None, arg) => return Err(misused(arg.unexpected()).advise(topic)),
                };
                let value = match option.value {
                    Some(_) => parser.value().map_err(misused)?,
                    None => OsString::new(),
                };
                options.push((option.name, value));
            }
            Value(value) if operands.len() < usage.most() => operands.push(value),
            arg @ Value(_) => return Err(misused(arg.unexpected()).advise(topic)),
        }
    }
    if let Some(missing) = usage.required().nth(operands.len()) {
        return Err(Failure::usage(format!("{} needs {missing}", usage.name)).advise(topic));
    }
    let operands = operands.into_iter();
    Ok(Parsed::Run(Given {
        usage,
        options,
        operands,
    }))
}

impl Given {
    pub fn flag(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// The option's value; the last one given counts.
    pub fn value(&self, name: &str) -> Option<&OsStr> {
        let given = self.options.iter().rev().find(|(given, _)| *given == name);
        given.map(|(_, value)| value.as_os_str())
    }

    pub fn path(&self, name: &str) -> Result<Option<PathBuf>, Failure> {
        match self.value(name) {
            Some(value) if value.is_empty() => Err(Failure::usage("an empty path names nothing")),
            value => Ok(value.map(PathBuf::from)),
        }
    }

    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Failure> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        let number = value.to_str().and_then(|text| text.parse().ok());
        let failure = || Failure::usage(format!("{} is not a whole number", value.display()));
        Ok(Some(number.ok_or_else(failure)?))
    }

    /// The next operand, of those that the command must have.
    pub fn operand(&mut self) -> OsString {
        self.operands.next().unwrap_or_default()
    }

    pub fn more_operands(&mut self) -> Vec<OsString> {
        self.operands.by_ref().collect()
    }
}

/// One word of a list, or a failure that names the nearest.
pub fn one_of<T: Copy>(what: &str, word: &OsStr, known: &[(&str, T)]) -> Result<T, Failure> {
    if let Some((_, meant)) = known.iter().find(|(name, _)| word == *name) {
        return Ok(*meant);
    }
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    let failure = Failure::usage(format!("unknown {what} {}", word.display()));
    Err(match nearest(&word.to_string_lossy(), &names) {
        Some(near) => failure.advise(format!("did you mean {near}?")),
        None => failure.advise(format!("it is one of {}", names.join(", "))),
    })
}

fn misused(error: lexopt::Error) -> Failure {
    Failure::usage(error.to_string())
}

fn unknown_option(name: &str, known: &[&str], topic: &str) -> Failure {
    let failure = Failure::usage(format!("unknown option --{name}"));
    match nearest(name, known) {
        Some(near) => failure.advise(format!("did you mean --{near}?")),
        None => failure.advise(topic),
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
