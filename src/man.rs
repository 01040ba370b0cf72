//! The manual page (man(7)), written from the table of commands: what `--help` says, in one page.

use std::fmt::Write;

use crate::usage::Program;

/// The page, in section 1.
pub fn page(program: &Program) -> String {
    let name = program.name;
    let mut out = format!(
        ".TH {} 1 \"\" \"{name} {}\" \"User Commands\"\n.SH NAME\n{} \\- {}\n.SH SYNOPSIS\n.B {}\n\\fICOMMAND\\fR [\\fIOPTIONS\\fR]\n.SH DESCRIPTION\n{}\n",
        escape(&name.to_uppercase()),
        env!("CARGO_PKG_VERSION"),
        escape(name),
        escape(program.about.trim_end_matches('.')),
        escape(name),
        escape(program.about),
    );
    for group in program.groups {
        let title = group.title.trim_end_matches(':');
        let _ = writeln!(out, ".SH {}", escape(&title.to_uppercase()));
        for usage in group.commands {
            let _ = writeln!(out, ".SS {}", escape(&program.synopsis(usage)));
            text(&mut out, usage.summary);
            text(&mut out, usage.details);
            for option in usage.options {
                let _ = writeln!(
                    out,
                    ".TP\n\\fB{}\\fR\n{}",
                    escape(&option.shown()),
                    escape(option.about)
                );
            }
        }
    }
    out.push_str(".SH ENVIRONMENT\n");
    for variable in program.variables {
        let _ = writeln!(
            out,
            ".TP\n.B {}\n{}",
            escape(variable.name),
            escape(variable.about)
        );
    }
    let _ = writeln!(out, ".SH EXIT STATUS\n{}", escape(program.exit_codes));
    out
}

/// Paragraphs, and indented lines as they are.
fn text(out: &mut String, text: &str) {
    for paragraph in text.split("\n\n").filter(|p| !p.is_empty()) {
        out.push_str(".PP\n");
        for line in paragraph.lines() {
            match line.strip_prefix("  ") {
                Some(line) => {
                    let _ = writeln!(out, ".br\n\\ \\ {}", escape(line));
                }
                None => {
                    let _ = writeln!(out, "{}", escape(line));
                }
            }
        }
    }
}

/// What roff would take for something else.
fn escape(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    match escaped.chars().next() {
        Some('.' | '\'') => format!("\\&{escaped}"),
        _ => escaped,
    }
}
