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
            if !usage.details.is_empty() {
                out.push_str(".PP\n");
                text(&mut out, usage.details);
            }
            for option in usage.options {
                let short = option.short.map(|c| format!("-{c}, ")).unwrap_or_default();
                let _ = writeln!(
                    out,
                    ".TP\n\\fB{}\\fR\n{}",
                    escape(&format!("{short}{}", option.shown())),
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

/// Paragraphs, and indented lines as they are: neither filled nor broken.
fn text(out: &mut String, text: &str) {
    let mut literal = false;
    for line in text.lines() {
        let indented = line.starts_with("  ");
        if indented != literal {
            out.push_str(if indented { ".nf\n" } else { ".fi\n" });
            literal = indented;
        }
        match line {
            "" => out.push_str(".PP\n"),
            line => {
                let _ = writeln!(out, "{}", escape(line));
            }
        }
    }
    if literal {
        out.push_str(".fi\n");
    }
}

/// What roff would take for something else, or show as another character.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\e"),
            '-' => escaped.push_str("\\-"),
            '`' => escaped.push_str("\\(ga"),
            '~' => escaped.push_str("\\(ti"),
            c => escaped.push(c),
        }
    }
    match escaped.chars().next() {
        Some('.' | '\'') => format!("\\&{escaped}"),
        _ => escaped,
    }
}
