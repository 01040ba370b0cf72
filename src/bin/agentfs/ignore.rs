//! What a checkpoint leaves out: directories that can be made again, and what `.agentfsignore` says.
//!
//! The file is in the syntax of gitignore(5) and read as git reads it, on bytes. The built-in names are
//! patterns like any other that stand before the file's, and the last pattern that matches decides: a
//! line `!dist/` takes a name back. Since the scanner asks on its way down and enters nothing that is
//! out, no pattern has to look at a path's parents. It asks for every entry of every scan, so names
//! without a wildcard are found by their hash and only the rest is tried one after the other.

use std::collections::HashMap;

/// What the scanner does with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Keep,
    /// Not stored, and not entered.
    Out,
    /// Taken back by a `!` pattern: stored however large it is.
    Wanted,
}

/// Names of directories that tools make again. Nothing is here that people also write by hand.
pub const BUILT_IN: [&str; 46] = [
    ".angular",
    ".aws-sam",
    ".cache",
    ".ccls-cache",
    ".dart_tool",
    ".direnv",
    ".docusaurus",
    ".eggs",
    ".expo",
    ".gradle",
    ".hypothesis",
    ".ipynb_checkpoints",
    ".lake",
    ".mypy_cache",
    ".next",
    ".nox",
    ".nuxt",
    ".nyc_output",
    ".parcel-cache",
    ".pnpm-store",
    ".pyre",
    ".pytest_cache",
    ".pytype",
    ".ruff_cache",
    ".sass-cache",
    ".serverless",
    ".stack-work",
    ".svelte-kit",
    ".swc",
    ".terraform",
    ".terragrunt-cache",
    ".tox",
    ".turbo",
    ".venv",
    ".vite",
    ".zig-cache",
    "DerivedData",
    "__pycache__",
    "bower_components",
    "dist",
    "dist-newstyle",
    "elm-stuff",
    "node_modules",
    "target",
    "venv",
    "zig-cache",
];

/// The patterns of a project.
#[derive(Clone, Debug, Default)]
pub struct Ignore {
    /// Patterns that are one plain name each.
    names: HashMap<Vec<u8>, Named>,
    /// All others, in their order.
    globs: Vec<Glob>,
    matches_files: bool,
}

/// The last pattern for a name, for either kind of entry.
#[derive(Clone, Copy, Debug, Default)]
struct Named {
    directory: Option<Ranked>,
    file: Option<Ranked>,
}

/// A pattern's place among all of them: of those that match, the highest decides.
#[derive(Clone, Copy, Debug)]
struct Ranked {
    rank: usize,
    verdict: Verdict,
}

#[derive(Clone, Debug)]
struct Glob {
    ranked: Ranked,
    directory_only: bool,
    /// It has no slash: the last component is compared, not the path.
    name_only: bool,
    shape: Shape,
}

#[derive(Clone, Debug)]
enum Shape {
    Exactly(Vec<u8>),
    /// As in `*.log`; for names only.
    EndsWith(Vec<u8>),
    Tokens(Vec<Token>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Byte(u8),
    Class(Class),
    /// `*`: any bytes of one component.
    Star,
    /// `**` as the last component.
    Anything,
    /// `**/`: no directory, or any number of them.
    Directories,
}

impl Ignore {
    /// The built-in list followed by the patterns of an `.agentfsignore`.
    pub fn new(text: &[u8]) -> Ignore {
        let mut ignore = Ignore::default();
        for (rank, name) in BUILT_IN.iter().enumerate() {
            ignore.add(rank, format!("{name}/").as_bytes());
        }
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        for (number, line) in text.split(|&b| b == b'\n').enumerate() {
            if let Some(pattern) = pattern_of(line) {
                ignore.add(BUILT_IN.len() + number, pattern);
            }
        }
        ignore
    }

    /// What to do with an entry whose parents are not out. The path is relative to the project.
    pub fn verdict(&self, path: &[u8], is_dir: bool) -> Verdict {
        if !is_dir && !self.matches_files {
            return Verdict::Keep;
        }
        let start = path.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1);
        let name = &path[start..];
        let named = self.names.get(name).and_then(|named| match is_dir {
            true => named.directory,
            false => named.file,
        });
        let beats = |glob: &&Glob| named.is_none_or(|named| glob.ranked.rank > named.rank);
        let mut later = self.globs.iter().rev().take_while(beats);
        let glob = later.find(|glob| glob.matches(path, name, is_dir));
        let decides = glob.map(|glob| glob.ranked).or(named);
        decides.map_or(Verdict::Keep, |ranked| ranked.verdict)
    }

    /// Whether every file is kept, so that only directories need be asked about.
    pub fn only_directories(&self) -> bool {
        !self.matches_files
    }

    fn add(&mut self, rank: usize, pattern: &[u8]) {
        let (verdict, pattern) = match pattern.strip_prefix(b"!") {
            Some(rest) => (Verdict::Wanted, rest),
            None => (Verdict::Out, pattern),
        };
        let (directory_only, pattern) = match pattern.strip_suffix(b"/") {
            Some(rest) => (true, rest),
            None => (false, pattern),
        };
        let name_only = !pattern.contains(&b'/');
        let pattern = pattern.strip_prefix(b"/").unwrap_or(pattern);
        let Some(tokens) = tokens(pattern, name_only) else {
            return;
        };
        self.matches_files |= !directory_only;
        let ranked = Ranked { rank, verdict };
        match shape(tokens, name_only) {
            Shape::Exactly(name) if name_only => {
                let named = self.names.entry(name).or_default();
                named.directory = Some(ranked);
                if !directory_only {
                    named.file = Some(ranked);
                }
            }
            shape => self.globs.push(Glob {
                ranked,
                directory_only,
                name_only,
                shape,
            }),
        }
    }
}

impl Glob {
    fn matches(&self, path: &[u8], name: &[u8], is_dir: bool) -> bool {
        let text = if self.name_only { name } else { path };
        (is_dir || !self.directory_only)
            && match &self.shape {
                Shape::Exactly(wanted) => text == wanted,
                Shape::EndsWith(suffix) => text.ends_with(suffix),
                Shape::Tokens(tokens) => matches(tokens, text),
            }
    }
}

/// The pattern on a line, if there is one; git takes a line to end at a zero byte.
fn pattern_of(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let line = line.split(|&b| b == 0).next().unwrap_or_default();
    let pattern = without_trailing_spaces(line);
    (!pattern.is_empty() && pattern[0] != b'#').then_some(pattern)
}

/// A space that a backslash precedes stays.
fn without_trailing_spaces(line: &[u8]) -> &[u8] {
    let (mut end, mut at) = (0, 0);
    while at < line.len() {
        let (width, kept) = match line[at] {
            b'\\' => (2, true),
            byte => (1, byte != b' '),
        };
        at = line.len().min(at + width);
        if kept {
            end = at;
        }
    }
    &line[..end]
}

fn shape(tokens: Vec<Token>, name_only: bool) -> Shape {
    let bytes = |tokens: &[Token]| -> Option<Vec<u8>> {
        let byte = |token: &Token| match token {
            Token::Byte(byte) => Some(*byte),
            _ => None,
        };
        tokens.iter().map(byte).collect()
    };
    if let Some(text) = bytes(&tokens) {
        return Shape::Exactly(text);
    }
    match tokens.split_first() {
        Some((Token::Star, rest)) if name_only => match bytes(rest) {
            Some(suffix) => Shape::EndsWith(suffix),
            None => Shape::Tokens(tokens),
        },
        _ => Shape::Tokens(tokens),
    }
}

/// Reads a pattern; `None` when it can match nothing.
fn tokens(pattern: &[u8], name_only: bool) -> Option<Vec<Token>> {
    let (mut tokens, mut at) = (Vec::new(), 0);
    while let Some(&byte) = pattern.get(at) {
        at += 1;
        tokens.push(match byte {
            b'\\' => {
                at += 1;
                Token::Byte(*pattern.get(at - 1)?)
            }
            b'?' => Token::Class(Class::component()),
            b'[' => {
                let (class, end) = Class::read(pattern, at)?;
                at = end;
                Token::Class(class)
            }
            b'*' => {
                let first = at - 1;
                let more = pattern[at..].iter().take_while(|&&b| b == b'*').count();
                at += more;
                let begins = first == 0 || pattern[first - 1] == b'/';
                let rest = &pattern[at..];
                match more > 0 && begins && !name_only {
                    true if rest.is_empty() || rest.starts_with(b"\\/") => Token::Anything,
                    true if rest.starts_with(b"/") => {
                        at += 1;
                        Token::Directories
                    }
                    _ => Token::Star,
                }
            }
            byte => Token::Byte(byte),
        });
    }
    (!tokens.is_empty()).then_some(tokens)
}

/// Whether the tokens match all of the text.
///
/// Only the last `*` and the last `**` are ever tried again: what lies between two of them may as well
/// stand where it first fits, for the later one takes up the rest. So no pattern takes exponential time.
fn matches(tokens: &[Token], text: &[u8]) -> bool {
    let (mut token, mut at) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    let mut deep: Option<(usize, usize)> = None;
    loop {
        let fits = match (tokens.get(token), text.get(at)) {
            (Some(Token::Star), _) => {
                token += 1;
                star = Some((token, at));
                continue;
            }
            (Some(Token::Anything | Token::Directories), _) => {
                token += 1;
                (star, deep) = (None, Some((token, at)));
                continue;
            }
            (Some(Token::Byte(wanted)), Some(byte)) => wanted == byte,
            (Some(Token::Class(class)), Some(byte)) => class.contains(*byte),
            (None, None) => return true,
            _ => false,
        };
        if fits {
            (token, at) = (token + 1, at + 1);
            continue;
        }
        if let Some((after, from)) = star
            && text.get(from).is_some_and(|&b| b != b'/')
        {
            (token, at) = (after, from + 1);
            star = Some((token, at));
            continue;
        }
        star = None;
        let Some((after, from)) = deep else {
            return false;
        };
        let Some(rest) = text.get(from..).filter(|rest| !rest.is_empty()) else {
            return false;
        };
        let step = match tokens[after - 1] {
            Token::Directories => rest.iter().position(|&b| b == b'/').map(|slash| slash + 1),
            _ => Some(1),
        };
        let Some(step) = step else {
            return false;
        };
        (token, at) = (after, from + step);
        deep = Some((token, at));
    }
}

/// A set of bytes; a slash is in none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Class([u64; 4]);

impl Class {
    fn component() -> Class {
        Class::default().complement()
    }

    fn contains(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] >> (byte & 63) & 1 == 1
    }

    fn add(&mut self, bytes: impl IntoIterator<Item = u8>) {
        for byte in bytes.into_iter().filter(|&byte| byte != b'/') {
            self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
        }
    }

    fn complement(&self) -> Class {
        let mut other = Class::default();
        other.add((0..=u8::MAX).filter(|&byte| !self.contains(byte)));
        other
    }

    /// Reads what follows a `[`; also gives where the `]` has been passed.
    fn read(pattern: &[u8], start: usize) -> Option<(Class, usize)> {
        let mut class = Class::default();
        let negated = matches!(pattern.get(start)?, b'!' | b'^');
        let first = start + usize::from(negated);
        let (mut at, mut previous) = (first, None);
        loop {
            match *pattern.get(at)? {
                b']' if at > first => break,
                b'[' if pattern.get(at + 1) == Some(&b':') => {
                    let from = at + 2;
                    let end = from + pattern[from..].iter().position(|&b| b == b']')?;
                    match pattern[from..end].strip_suffix(b":") {
                        Some(name) => {
                            class.add((0..=u8::MAX).filter(posix(name)?));
                            (at, previous) = (end + 1, None);
                        }
                        None => {
                            class.add([b'[']);
                            (at, previous) = (at + 1, Some(b'['));
                        }
                    }
                }
                b'-' if previous.is_some() && *pattern.get(at + 1)? != b']' => {
                    let (last, end) = literal(pattern, at + 1)?;
                    class.add(previous.take().unwrap_or(last)..=last);
                    at = end;
                }
                _ => {
                    let (byte, end) = literal(pattern, at)?;
                    class.add([byte]);
                    (at, previous) = (end, Some(byte));
                }
            }
        }
        let class = if negated { class.complement() } else { class };
        Some((class, at + 1))
    }
}

/// The byte that stands here, perhaps behind a backslash, and where the next one is.
fn literal(pattern: &[u8], at: usize) -> Option<(u8, usize)> {
    match *pattern.get(at)? {
        b'\\' => Some((*pattern.get(at + 1)?, at + 2)),
        byte => Some((byte, at + 1)),
    }
}

/// A POSIX class, for ASCII as git has it: its `space` has neither vertical tab nor form feed.
fn posix(name: &[u8]) -> Option<fn(&u8) -> bool> {
    Some(match name {
        b"alnum" => u8::is_ascii_alphanumeric,
        b"alpha" => u8::is_ascii_alphabetic,
        b"blank" => |b| matches!(b, b' ' | b'\t'),
        b"cntrl" => u8::is_ascii_control,
        b"digit" => u8::is_ascii_digit,
        b"graph" => u8::is_ascii_graphic,
        b"lower" => u8::is_ascii_lowercase,
        b"print" => |b| matches!(b, b' '..=b'~'),
        b"punct" => u8::is_ascii_punctuation,
        b"space" => |b| matches!(b, b' ' | b'\t' | b'\n' | b'\r'),
        b"upper" => u8::is_ascii_uppercase,
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ffi::OsStr;
    use std::io::Write;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::{env, fs, process};

    use super::*;

    fn out(text: &str, path: &str, is_dir: bool) -> bool {
        Ignore::new(text.as_bytes()).verdict(path.as_bytes(), is_dir) == Verdict::Out
    }

    #[test]
    fn what_can_be_made_again_is_out_without_a_file() {
        let ignore = Ignore::new(b"");
        assert!(ignore.only_directories());
        for name in BUILT_IN {
            assert_eq!(ignore.verdict(name.as_bytes(), true), Verdict::Out);
            let deep = format!("deep/er/{name}");
            assert_eq!(ignore.verdict(deep.as_bytes(), true), Verdict::Out);
            assert_eq!(ignore.verdict(name.as_bytes(), false), Verdict::Keep);
        }
        for name in [
            "src", "build", "vendor", "out", "lib", "env", ".env", ".github", "bin",
        ] {
            assert_eq!(ignore.verdict(name.as_bytes(), true), Verdict::Keep);
        }
    }

    #[test]
    fn a_later_pattern_wins_and_an_exception_is_wanted() {
        let ignore = Ignore::new(b"!dist/\n*.bin\n!big.bin\n/top/*.log\nbig.bin/\n");
        assert_eq!(ignore.verdict(b"dist", true), Verdict::Wanted);
        assert_eq!(ignore.verdict(b"dist", false), Verdict::Keep);
        assert_eq!(ignore.verdict(b"a/small.bin", false), Verdict::Out);
        assert_eq!(ignore.verdict(b"a/big.bin", false), Verdict::Wanted);
        assert_eq!(ignore.verdict(b"a/big.bin", true), Verdict::Out);
        assert_eq!(ignore.verdict(b"top/x.log", false), Verdict::Out);
        assert_eq!(ignore.verdict(b"a/top/x.log", false), Verdict::Keep);
        assert!(!ignore.only_directories());
        assert!(Ignore::new(b"# nothing\n\nlogs/\n!dist/\n").only_directories());
    }

    #[test]
    fn a_line_is_read_as_git_reads_it() {
        for (text, path) in [
            ("\u{feff}first", "first"),
            ("crlf\r\n", "crlf"),
            ("spaces   \n", "spaces"),
            ("kept\\ \n", "kept "),
            ("\\#hash", "#hash"),
            ("\\!bang", "!bang"),
            ("tab\t", "tab\t"),
            ("a\\*b", "a*b"),
            ("[[:digit:]][!a-c]", "7d"),
            ("a/**/z", "a/z"),
            ("**/deep/*", "x/y/deep/f"),
        ] {
            assert!(out(text, path, false), "{text:?} {path:?}");
        }
        for (text, path) in [
            ("#hash", "#hash"),
            ("broken[", "broken["),
            ("end\\", "end\\"),
            ("a*c", "a/c"),
            ("a/?", "a/bc"),
            ("[^a]", "/"),
        ] {
            assert!(!out(text, path, false), "{text:?} {path:?}");
        }
    }

    #[test]
    fn a_hostile_pattern_takes_no_time() {
        let text = "**/*a".repeat(40) + "/" + &"*a".repeat(200) + "b";
        let path = "a".repeat(4_000);
        assert!(!out(&text, &path, false));
        assert!(!out(&text.replace('/', ""), &path, false));
    }

    /// Pseudo-random numbers (xorshift).
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 16) as usize % bound
        }

        fn pick<'a>(&mut self, from: &[&'a [u8]]) -> &'a [u8] {
            from[self.below(from.len())]
        }
    }

    const NAMES: [&[u8]; 16] = [
        b"a",
        b"b",
        b"ab",
        b"ba",
        b"abc",
        b"a.b",
        b"A",
        b"7",
        b"a b",
        b"b ",
        b"#a",
        b"!a",
        b"a*",
        b"[a]",
        b"\\",
        b"\xff\xfe",
    ];

    fn random_pattern(random: &mut Random) -> Vec<u8> {
        const PIECES: [&[u8]; 42] = [
            b"a",
            b"b",
            b"ab",
            b"a",
            b"b",
            b"c",
            b".",
            b"A",
            b"7",
            b"*",
            b"*",
            b"*",
            b"?",
            b"?",
            b"/",
            b"/",
            b"/**/",
            b"**/",
            b"/**",
            b"/***/",
            b"[ab]",
            b"[!a]",
            b"[^b]",
            b"[a-c]",
            b"[]a]",
            b"[!]a]",
            b"[a-]",
            b"[\\a-c]",
            b"[[:alpha:]]",
            b"[[:upper:][:digit:]]",
            b"[[:nope:]]",
            b"[[:a]",
            b"[a",
            b"[[-b]",
            b"\\a",
            b"\\*",
            b"\\",
            b" ",
            b"\\ ",
            b"#",
            b"\xff",
            b"[\x80-\xff]",
        ];
        let mut pattern = Vec::new();
        if random.below(4) == 0 {
            pattern.push(b'!');
        }
        for _ in 0..1 + random.below(5) {
            let piece = match random.below(3) {
                0 => random.pick(&NAMES),
                _ => random.pick(&PIECES),
            };
            // Older versions of git take `ab**/` for what their manual says it is not.
            let joined = pattern.ends_with(b"*") || !matches!(pattern.last(), None | Some(b'/'));
            if piece.starts_with(b"*") && joined {
                continue;
            }
            pattern.extend_from_slice(piece);
        }
        if random.below(4) == 0 {
            pattern.push(b'/');
        }
        pattern
    }

    fn git(dir: &Path, args: &[&str]) -> Command {
        let mut git = Command::new("git");
        for (name, _) in env::vars_os().filter(|(n, _)| n.as_bytes().starts_with(b"GIT_")) {
            git.env_remove(name);
        }
        git.env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1");
        git.arg("-C").arg(dir).args(args);
        git
    }

    /// What `git check-ignore` says is out, of all the paths.
    fn out_for_git(dir: &Path, paths: &BTreeSet<Vec<u8>>) -> BTreeSet<Vec<u8>> {
        let args = ["check-ignore", "--no-index", "-v", "-z", "--stdin"];
        let mut child = git(dir, &args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let asked = paths.iter().flat_map(|path| [path.as_slice(), b"\0"]);
        let asked: Vec<u8> = asked.flatten().copied().collect();
        let writer = std::thread::spawn(move || input.write_all(&asked));
        let said = child.wait_with_output().unwrap().stdout;
        writer.join().unwrap().unwrap();
        let fields: Vec<&[u8]> = said.split(|&b| b == 0).collect();
        let matched = fields
            .chunks_exact(4)
            .filter(|field| !field[2].starts_with(b"!"));
        matched.map(|field| field[3].to_vec()).collect()
    }

    fn out_for_us(dir: &Path, text: &[u8], paths: &BTreeSet<Vec<u8>>) -> BTreeSet<Vec<u8>> {
        let ignore = Ignore::new(text);
        let is_out = |path: &[u8]| {
            let ends = (0..path.len()).filter(|&at| path[at] == b'/');
            ends.chain([path.len()]).any(|end| {
                let is_dir = dir.join(OsStr::from_bytes(&path[..end])).is_dir();
                ignore.verdict(&path[..end], is_dir) == Verdict::Out
            })
        };
        paths.iter().filter(|path| is_out(path)).cloned().collect()
    }

    #[test]
    fn git_agrees_on_random_patterns_and_paths() {
        let dir = env::temp_dir().join(format!("agentfs-ignore-{}", process::id()));
        fs::create_dir_all(&dir).unwrap();
        assert!(git(&dir, &["init", "-q"]).status().unwrap().success());
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut paths = BTreeSet::new();
        for _ in 0..300 {
            let mut path = random.pick(&NAMES).to_vec();
            for _ in 0..random.below(4) {
                path = [&path, &b"/"[..], random.pick(&NAMES)].concat();
            }
            let at = dir.join(OsStr::from_bytes(&path));
            let parent = at.parent().unwrap();
            let made = fs::create_dir_all(parent).is_ok();
            if made && (random.below(3) == 0 || fs::write(&at, b"").is_ok()) {
                let _ = fs::create_dir(&at);
                paths.insert(path);
            }
        }
        let mut excluded = 0;
        for _ in 0..200 {
            let count = 1 + random.below(8);
            let lines: Vec<Vec<u8>> = (0..count).map(|_| random_pattern(&mut random)).collect();
            let text = lines.join(match random.below(5) {
                0 => &b"\r\n"[..],
                _ => b"\n",
            });
            fs::write(dir.join(".git/info/exclude"), &text).unwrap();
            let (ours, git) = (out_for_us(&dir, &text, &paths), out_for_git(&dir, &paths));
            let shown = |paths: &BTreeSet<Vec<u8>>, others: &BTreeSet<Vec<u8>>| {
                let only = paths.difference(others);
                only.map(|path| path.escape_ascii().to_string())
                    .collect::<Vec<_>>()
            };
            assert_eq!(
                (shown(&ours, &git), shown(&git, &ours)),
                (vec![], vec![]),
                "only we, only git leave out, by \"{}\"",
                text.escape_ascii()
            );
            excluded += git.len();
        }
        assert!(excluded > 1_000, "the patterns match something");
        fs::remove_dir_all(&dir).unwrap();
    }
}
