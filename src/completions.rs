//! Completions for shells, written from the table of commands.
//!
//! A shell completes commands, options and fixed words from here and everything else as files.

use std::fmt::Write;

use crate::usage::{Program, Usage};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Shell {
    pub const NAMES: &[(&str, Shell)] = &[
        ("bash", Shell::Bash),
        ("zsh", Shell::Zsh),
        ("fish", Shell::Fish),
    ];

    pub fn script(self, program: &Program) -> String {
        match self {
            Shell::Bash => bash(program),
            Shell::Zsh => zsh(program),
            Shell::Fish => fish(program),
        }
    }
}

/// What may stand where a command's first operand does, if it is none but certain words.
fn choices(program: &Program, usage: &Usage) -> String {
    match usage.name {
        "help" => names(program),
        _ => usage.choices.join(" "),
    }
}

/// The program's name as part of a function's.
fn function(program: &Program) -> String {
    format!("_{}", program.name.replace('-', "_"))
}

fn names(program: &Program) -> String {
    let names: Vec<&str> = program.commands().map(|usage| usage.name).collect();
    names.join(" ")
}

fn bash(program: &Program) -> String {
    let (name, function, names) = (program.name, function(program), names(program));
    let mut out = format!(
        "{function}() {{\n  local cur=${{COMP_WORDS[COMP_CWORD]}} words=\n  COMPREPLY=()\n  \
         if ((COMP_CWORD == 1)); then\n    words='{names} --help --version'\n  \
         else\n    case ${{COMP_WORDS[1]}} in\n"
    );
    for usage in program.commands() {
        let options: Vec<String> = usage
            .all_options()
            .map(|option| format!("--{}", option.name))
            .collect();
        let first = match choices(program, usage) {
            fixed if fixed.is_empty() => String::new(),
            fixed => format!("; elif ((COMP_CWORD == 2)); then words='{fixed}'"),
        };
        let _ = writeln!(
            out,
            "      {}) if [[ $cur == -* ]]; then words='{}'{first}; fi ;;",
            usage.name,
            options.join(" ")
        );
    }
    let _ = write!(
        out,
        "    esac\n  fi\n  mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n}}\n\
         complete -o default -F {function} {name}\n"
    );
    out
}

/// Text within single quotes, as zsh and fish read it.
fn quoted(text: &str) -> String {
    text.replace('\'', "'\\''")
}

fn zsh(program: &Program) -> String {
    let (name, function) = (program.name, function(program));
    // A colon and brackets mean something to _describe and _arguments.
    let about = |text: &str| {
        quoted(text)
            .replace(':', "\\:")
            .replace('[', "\\[")
            .replace(']', "\\]")
    };
    let mut out =
        format!("#compdef {name}\n\n{function}() {{\n  local -a commands\n  commands=(\n");
    for usage in program.commands() {
        let _ = writeln!(out, "    '{}:{}'", usage.name, about(usage.about));
    }
    out.push_str("  )\n  if ((CURRENT == 2)); then\n    _describe command commands\n    return\n  fi\n  case $words[2] in\n");
    for usage in program.commands() {
        let _ = write!(
            out,
            "    {})\n      shift words; ((CURRENT--))\n      _arguments",
            usage.name
        );
        for option in usage.all_options() {
            let _ = write!(
                out,
                " \\\n        '--{}[{}]",
                option.name,
                about(option.about)
            );
            if let Some(value) = option.value {
                let files = if matches!(value, "DIR" | "PATH") {
                    "_files"
                } else {
                    " "
                };
                let _ = write!(out, ":{value}:{files}");
            }
            out.push('\'');
        }
        let fixed = choices(program, usage);
        for (n, operand) in usage.operands.split_whitespace().enumerate() {
            let position = match (operand.contains("..."), n) {
                (true, _) => "*".to_owned(),
                (false, n) => (n + 1).to_string(),
            };
            let values = match () {
                () if n == 0 && !fixed.is_empty() => format!("({fixed})"),
                () if operand.contains("ID") => " ".to_owned(),
                () => "_files".to_owned(),
            };
            let called = operand.trim_matches(['[', ']', '.']);
            let _ = write!(
                out,
                " \
        '{position}:{called}:{values}'"
            );
        }
        out.push_str("\n      ;;\n");
    }
    // Found in $fpath the file is the function's body; sourced, it only defines it.
    let _ = write!(
        out,
        "  esac\n}}\n\nif [[ $funcstack[1] == _{name} ]]; then\n  {function} \"$@\"\nelse\n  \
         compdef {function} {name}\nfi\n"
    );
    out
}

fn fish(program: &Program) -> String {
    let name = program.name;
    let mut out = format!("complete -c {name} -f -n __fish_use_subcommand -l help -s h\n");
    for usage in program.commands() {
        let _ = writeln!(
            out,
            "complete -c {name} -f -n __fish_use_subcommand -a {} -d '{}'",
            usage.name,
            quoted(usage.about)
        );
        let within = format!("'__fish_seen_subcommand_from {}'", usage.name);
        for option in usage.all_options() {
            let value = if option.value.is_some() { " -r" } else { "" };
            let short = option.short.map(|c| format!(" -s {c}")).unwrap_or_default();
            let _ = writeln!(
                out,
                "complete -c {name} -n {within} -l {}{short}{value} -d '{}'",
                option.name,
                quoted(option.about)
            );
        }
        let fixed = choices(program, usage);
        if !fixed.is_empty() {
            let _ = writeln!(out, "complete -c {name} -f -n {within} -a '{fixed}'");
        }
    }
    out
}
