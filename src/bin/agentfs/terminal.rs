//! What a terminal needs: colours where they are wanted, text that fits, and a pager.
//!
//! Prompts, file names and messages come from strangers: whatever controls a terminal is shown in caret
//! notation and never sent. Colours, UTF-8 and widths are decided once, in [`Painter`], so that
//! everything that draws is a pure function of its arguments.

use std::env;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::{Command, ExitStatus, Stdio};

/// How text is dressed on its way out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Painter {
    pub colour: bool,
    /// Whether the reader's locale has more than ASCII.
    pub unicode: bool,
}

impl Painter {
    /// For standard output as it is.
    pub fn stdout() -> Painter {
        Painter {
            colour: colour_wanted(io::stdout().is_terminal(), |name| env::var_os(name)),
            unicode: unicode_wanted(|name| env::var_os(name)),
        }
    }

    pub fn bold(&self, text: &str) -> String {
        self.dress("1", text)
    }

    pub fn dim(&self, text: &str) -> String {
        self.dress("2", text)
    }

    pub fn red(&self, text: &str) -> String {
        self.dress("31", text)
    }

    pub fn green(&self, text: &str) -> String {
        self.dress("32", text)
    }

    pub fn yellow(&self, text: &str) -> String {
        self.dress("33", text)
    }

    pub fn cyan(&self, text: &str) -> String {
        self.dress("36", text)
    }

    fn dress(&self, code: &str, text: &str) -> String {
        match self.colour && !text.is_empty() {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    /// A stranger's text as one line: whitespace is single blanks, controls are in caret notation.
    pub fn line(&self, text: &str) -> String {
        let words: Vec<&str> = text.split_whitespace().collect();
        self.exact(&words.join(" "))
    }

    /// A stranger's text as it is, on one line: a file name, a line of a file.
    pub fn exact(&self, text: &str) -> String {
        self.shown(text, "")
    }

    /// A stranger's text of several lines; line ends and tabs stay.
    pub fn lines(&self, text: &str) -> String {
        self.shown(text, "\n\t")
    }

    fn shown(&self, text: &str, kept: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            match c {
                c if kept.contains(c) => out.push(c),
                '\0'..'\x20' | '\x7f' => {
                    out.push('^');
                    out.push(char::from(c as u8 ^ 0x40));
                }
                c if c.is_control() || steers(c) => {
                    out.push(if self.unicode { '\u{fffd}' } else { '?' });
                }
                c if !self.unicode && !c.is_ascii() => out.push('?'),
                c => out.push(c),
            }
        }
        out
    }

    /// The beginning of a text that fits into `columns`, with an ellipsis where something is missing.
    pub fn cut(&self, text: &str, columns: usize) -> String {
        if width(text) <= columns {
            return text.to_owned();
        }
        let ellipsis = if self.unicode { "\u{2026}" } else { "..." };
        let Some(room) = columns.checked_sub(width(ellipsis)) else {
            return ".".repeat(columns);
        };
        let mut used = 0;
        let fits = |c: &char| {
            used += columns_of(*c);
            used <= room
        };
        let beginning: String = text.chars().take_while(fits).collect();
        format!("{}{ellipsis}", beginning.trim_end())
    }
}

/// A text followed by blanks up to `columns`.
pub fn padded(text: &str, columns: usize) -> String {
    let blanks = columns.saturating_sub(width(text));
    format!("{text}{}", " ".repeat(blanks))
}

/// Columns a text without colours takes on a terminal.
pub fn width(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

fn columns_of(c: char) -> usize {
    let among = |ranges: &[(u32, u32)]| {
        let code = u32::from(c);
        let at = ranges.partition_point(|(_, last)| *last < code);
        ranges.get(at).is_some_and(|(first, _)| *first <= code)
    };
    match c {
        '\0'..'\u{300}' => usize::from(!c.is_control()),
        _ if among(&NO_COLUMN) => 0,
        _ if among(&TWO_COLUMNS) => 2,
        _ => 1,
    }
}

/// Marks that combine with what is before them, joiners and variation selectors.
const NO_COLUMN: [(u32, u32); 42] = [
    (0x300, 0x36f),
    (0x483, 0x489),
    (0x591, 0x5bd),
    (0x5bf, 0x5bf),
    (0x5c1, 0x5c2),
    (0x5c4, 0x5c7),
    (0x610, 0x61a),
    (0x64b, 0x65f),
    (0x670, 0x670),
    (0x6d6, 0x6dc),
    (0x6df, 0x6e4),
    (0x6e7, 0x6e8),
    (0x6ea, 0x6ed),
    (0x730, 0x74a),
    (0x900, 0x902),
    (0x93a, 0x93a),
    (0x93c, 0x93c),
    (0x941, 0x948),
    (0x94d, 0x94d),
    (0x981, 0x981),
    (0x9bc, 0x9bc),
    (0x9c1, 0x9c4),
    (0x9cd, 0x9cd),
    (0xe31, 0xe31),
    (0xe34, 0xe3a),
    (0xe47, 0xe4e),
    (0xf71, 0xf7e),
    (0x102d, 0x1030),
    (0x1039, 0x103a),
    (0x1160, 0x11ff),
    (0x17b4, 0x17b5),
    (0x17b7, 0x17bd),
    (0x1ab0, 0x1ace),
    (0x1dc0, 0x1dff),
    (0x200b, 0x200f),
    (0x20d0, 0x20f0),
    (0x302a, 0x302d),
    (0x3099, 0x309a),
    (0xfe00, 0xfe0f),
    (0xfe20, 0xfe2f),
    (0xfeff, 0xfeff),
    (0xe0100, 0xe01ef),
];

/// East Asian wide and full-width characters, and emoji.
const TWO_COLUMNS: [(u32, u32); 37] = [
    (0x1100, 0x115f),
    (0x231a, 0x231b),
    (0x2329, 0x232a),
    (0x23e9, 0x23ec),
    (0x23f0, 0x23f0),
    (0x23f3, 0x23f3),
    (0x25fd, 0x25fe),
    (0x2614, 0x2615),
    (0x2648, 0x2653),
    (0x267f, 0x267f),
    (0x2693, 0x2693),
    (0x26a1, 0x26a1),
    (0x26aa, 0x26ab),
    (0x26bd, 0x26be),
    (0x26c4, 0x26c5),
    (0x26ce, 0x26ce),
    (0x26d4, 0x26d4),
    (0x26ea, 0x26ea),
    (0x2705, 0x2705),
    (0x270a, 0x270b),
    (0x2728, 0x2728),
    (0x274c, 0x274c),
    (0x2753, 0x2757),
    (0x2795, 0x2797),
    (0x2b1b, 0x2b1c),
    (0x2b50, 0x2b50),
    (0x2e80, 0x303e),
    (0x3041, 0x33ff),
    (0x3400, 0x4dbf),
    (0x4e00, 0xa4cf),
    (0xa960, 0xa97f),
    (0xac00, 0xd7a3),
    (0xf900, 0xfaff),
    (0xfe30, 0xfe6f),
    (0xff00, 0xff60),
    (0x1f300, 0x1faff),
    (0x20000, 0x3fffd),
];

/// Whether a character is invisible and changes the order or place of others.
fn steers(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}')
}

fn colour_wanted(terminal: bool, variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let refused = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = variable("TERM").is_none_or(|value| value == "dumb");
    terminal && !refused && !dumb
}

/// The locale of characters, as `setlocale` would choose it.
fn unicode_wanted(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let mut set = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter();
    let locale = set.find_map(|name| variable(name).filter(|value| !value.is_empty()));
    locale.is_some_and(|locale| {
        let locale = locale.to_string_lossy().to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

/// Columns of the terminal that standard output is, else `$COLUMNS`, else 80.
pub fn columns() -> usize {
    let named = || env::var("COLUMNS").ok()?.parse().ok();
    let (columns, _) = size().unzip();
    let known = columns.or_else(named).filter(|columns| *columns > 0);
    known.unwrap_or(80)
}

/// Columns and rows of the terminal that standard output is.
fn size() -> Option<(usize, usize)> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the request fills a winsize, and this is one.
    let result = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &mut size) };
    (result == 0 && size.ws_col > 0).then_some((size.ws_col.into(), size.ws_row.into()))
}

/// Writes a text to standard output, through the pager if that is a terminal too small for it.
pub fn show(text: &str) -> io::Result<()> {
    let paged = io::stdout().is_terminal() && size().is_none_or(|size| overflows(text, size));
    match paged.then(|| pager(|name| env::var(name).ok())).flatten() {
        Some(pager) if page(text, &pager) => Ok(()),
        _ => write_out(text),
    }
}

fn write_out(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Whether a text may need more than a screen: colours count as text, and the pager knows better.
fn overflows(text: &str, (columns, rows): (usize, usize)) -> bool {
    let lines = text.lines();
    let needed: usize = lines.map(|line| 1 + line.len() / columns.max(1)).sum();
    needed >= rows
}

/// The user's pager, unless they want none.
fn pager(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    // A pager on it asks for a key first.
    if variable("TERM").is_some_and(|term| term == "dumb") {
        return None;
    }
    let mut named = ["AGENTFS_PAGER", "PAGER"].into_iter();
    let pager = named.find_map(&variable);
    let pager = pager.unwrap_or_else(|| "less -FRX".to_owned());
    let pager = pager.trim();
    (!pager.is_empty() && pager != "cat").then(|| pager.to_owned())
}

/// Tells whether the pager could be run; one that ends early has shown enough.
fn page(text: &str, pager: &str) -> bool {
    let mut command = Command::new("sh");
    command.args(["-c", pager]).stdin(Stdio::piped());
    // What the pager cannot do by itself is better not asked of it.
    if env::var_os("LESS").is_none() {
        command.env("LESS", "FRX");
    }
    let Ok(mut child) = command.spawn() else {
        return false;
    };
    // The pager answers the keyboard, and it may close its input.
    let kept = [libc::SIGINT, libc::SIGQUIT, libc::SIGPIPE].map(|signal| {
        // SAFETY: a plain request to ignore one signal.
        (signal, unsafe { libc::signal(signal, libc::SIG_IGN) })
    });
    if let Some(mut input) = child.stdin.take() {
        let _ = input.write_all(text.as_bytes());
    }
    let ended = child.wait();
    for (signal, handler) in kept {
        // SAFETY: gives back the action that was found.
        unsafe { libc::signal(signal, handler) };
    }
    ended.is_ok_and(|status| !is_missing(status))
}

/// What a shell says of a command that it cannot find or run.
fn is_missing(status: ExitStatus) -> bool {
    matches!(status.code(), Some(126 | 127))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Painter = Painter {
        colour: true,
        unicode: true,
    };
    const PLAIN: Painter = Painter {
        colour: false,
        unicode: false,
    };

    fn variables<'a>(set: &'a [(&str, &str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
        |name| {
            let found = set.iter().find(|(set, _)| *set == name);
            found.map(|(_, value)| OsString::from(value))
        }
    }

    #[test]
    fn colours_are_for_terminals_whose_user_wants_them() {
        let xterm = ("TERM", "xterm");
        assert!(colour_wanted(true, variables(&[xterm])));
        assert!(colour_wanted(true, variables(&[xterm, ("NO_COLOR", "")])));
        assert!(!colour_wanted(true, variables(&[xterm, ("NO_COLOR", "1")])));
        assert!(!colour_wanted(true, variables(&[("TERM", "dumb")])));
        assert!(!colour_wanted(true, variables(&[])));
        assert!(!colour_wanted(false, variables(&[xterm])));
        assert_eq!(FULL.red("a"), "\x1b[31ma\x1b[0m");
        assert_eq!(FULL.red(""), "");
        assert_eq!(PLAIN.red("a"), "a");
    }

    #[test]
    fn the_first_locale_that_is_set_counts() {
        let utf = |set: &[(&str, &str)]| unicode_wanted(variables(set));
        assert!(utf(&[("LANG", "de_DE.UTF-8")]));
        assert!(utf(&[("LANG", "C"), ("LC_CTYPE", "C.utf8")]));
        assert!(utf(&[("LANG", "C.UTF-8"), ("LC_ALL", "")]));
        assert!(!utf(&[("LANG", "C.UTF-8"), ("LC_ALL", "POSIX")]));
        assert!(!utf(&[]));
    }

    #[test]
    fn a_stranger_s_text_controls_nothing() {
        let text = "a\x1b[2J\r\n\tb\u{9b}31m \u{202e}c\u{2028}\x7f\u{e9}";
        assert_eq!(FULL.line(text), "a^[[2J b\u{fffd}31m \u{fffd}c ^?\u{e9}");
        assert_eq!(
            FULL.exact(text),
            "a^[[2J^M^J^Ib\u{fffd}31m \u{fffd}c\u{fffd}^?\u{e9}"
        );
        assert_eq!(PLAIN.lines(text), "a^[[2J^M\n\tb?31m ?c?^??");
        for c in '\0'..=char::MAX {
            for painter in [FULL, PLAIN] {
                let shown = painter.exact(&c.to_string());
                assert!(!shown.chars().any(char::is_control), "{c:?}");
            }
        }
    }

    #[test]
    fn widths_are_those_of_the_screen() {
        for (text, columns) in [
            ("", 0),
            ("abc", 3),
            ("e\u{301}", 1),
            ("\u{65e5}\u{672c}", 4),
            ("\u{ff21}", 2),
            ("\u{1f600}", 2),
            ("\u{2764}\u{fe0f}", 1),
            ("\u{d55c}", 2),
            ("\u{25cf}\u{2500}\u{2026}", 3),
        ] {
            assert_eq!(width(text), columns, "{text:?}");
        }
        for ranges in [&NO_COLUMN[..], &TWO_COLUMNS[..]] {
            assert!(ranges.iter().all(|(first, last)| first <= last));
            assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
    }

    #[test]
    fn what_is_cut_fits_and_says_so() {
        assert_eq!(FULL.cut("robust auth", 11), "robust auth");
        assert_eq!(FULL.cut("robust auth", 8), "robust\u{2026}");
        assert_eq!(PLAIN.cut("robust auth", 8), "robus...");
        assert_eq!(FULL.cut("\u{65e5}\u{672c}\u{8a9e}", 4), "\u{65e5}\u{2026}");
        assert_eq!(PLAIN.cut("robust", 2), "..");
        assert_eq!(FULL.cut("robust", 0), "");
        assert_eq!(padded("\u{65e5}", 4), "\u{65e5}  ");
    }

    #[test]
    fn the_user_s_pager_is_taken_unless_it_is_none() {
        let pager = |set: &[(&str, &str)]| {
            let found = variables(set);
            pager(|name| found(name).and_then(|value| value.into_string().ok()))
        };
        assert_eq!(pager(&[]).as_deref(), Some("less -FRX"));
        assert_eq!(pager(&[("PAGER", "more")]).as_deref(), Some("more"));
        let both = [("PAGER", "more"), ("AGENTFS_PAGER", "most -s")];
        assert_eq!(pager(&both).as_deref(), Some("most -s"));
        assert_eq!(pager(&[("PAGER", "more"), ("AGENTFS_PAGER", "")]), None);
        assert_eq!(pager(&[("PAGER", "cat")]), None);
        assert_eq!(pager(&[("TERM", "dumb"), ("PAGER", "less")]), None);
    }

    #[test]
    fn a_pager_that_ends_early_has_shown_enough_and_a_missing_one_nothing() {
        let text = "line\n".repeat(100_000);
        assert!(page(&text, "true"));
        assert!(page(&text, "exit 1"));
        assert!(page("a", "cat >/dev/null"));
        assert!(!page(&text, "agentfs-no-such-pager 2>/dev/null"));
    }

    #[test]
    fn only_what_does_not_fit_is_paged() {
        assert!(!overflows("a\nb\n", (80, 3)));
        assert!(overflows("a\nb\nc\n", (80, 3)));
        assert!(overflows(&"a".repeat(200), (80, 3)));
    }
}
