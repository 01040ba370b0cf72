//! Reading checkpoints back: lists of them, what changed between two, what a file was.
//!
//! All of it is asked of `git`, along first parents; what many questions need is asked in one process.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use super::commit;
use super::git;
use super::note::{Change, Checkpoint};
use super::oid::Oid;
use super::project::Project;
use crate::exit::Failure;

/// The checkpoints that `rev` (a commit or branch) leads back to, the newest first, without their long
/// fields; only those that changed `path`, if one is given.
pub fn log(
    project: &Project,
    rev: &str,
    most: Option<usize>,
    path: Option<&[u8]>,
) -> Result<Vec<Checkpoint>, Failure> {
    let format = "--format=%H%x00%T%x00%P%x00%B%x00";
    let mut command = project.git().command(["log", "--first-parent", format]);
    if let Some(most) = most {
        // The side commit of the very first checkpoint comes last, and does not count.
        command.arg(format!("--max-count={}", most.saturating_add(1)));
    }
    command.arg(rev).arg("--");
    if let Some(path) = path {
        command.arg(literal(path));
    }
    let printed = git::run(&mut command)?.stdout;
    let mut fields = printed.split(|byte| *byte == 0);
    let mut found = Vec::new();
    while let (Some(id), Some(tree), Some(parents), Some(message)) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    {
        let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
        let parents = text(parents);
        let parents: Vec<Oid> = parents
            .split(' ')
            .filter_map(|oid| oid.parse().ok())
            .collect();
        if let (Ok(commit), Ok(tree), Some(note)) = (
            text(id).parse(),
            text(tree).parse(),
            commit::parse_message(&text(message)),
        ) {
            found.push(Checkpoint {
                commit,
                tree,
                parent: (parents.len() > 1).then(|| parents[0]),
                side: parents.last().copied(),
                note,
            });
        }
    }
    found.truncate(most.unwrap_or(usize::MAX));
    Ok(found)
}

/// Reads prompts, inputs and whatever else is long.
pub fn fill(project: &Project, checkpoints: &mut [Checkpoint]) -> Result<(), Failure> {
    let mut batch = project.git().batch()?;
    checkpoints
        .iter_mut()
        .try_for_each(|checkpoint| commit::fill(&mut batch, checkpoint))
}

/// A path as git takes it, whatever characters are in it.
pub fn literal(path: &[u8]) -> std::ffi::OsString {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec([b":(top,literal)", path].concat())
}

/// Pairs of trees, older and newer.
pub type Pair = (Oid, Oid);

/// The trees that tell what a checkpoint changed.
pub fn pairs(project: &Project, checkpoints: &[Checkpoint]) -> Result<Vec<Pair>, Failure> {
    let known: std::collections::HashMap<Oid, Oid> =
        checkpoints.iter().map(|c| (c.commit, c.tree)).collect();
    let objects = super::objects::Objects::new(&project.store);
    checkpoints
        .iter()
        .map(|checkpoint| {
            let before = match checkpoint.parent {
                None => Oid::EMPTY_TREE,
                Some(parent) => match known.get(&parent) {
                    Some(tree) => *tree,
                    None => commit::read(project, &objects, parent)?.tree,
                },
            };
            Ok((before, checkpoint.tree))
        })
        .collect()
}

/// What changed between the trees of each pair.
pub fn changes(
    project: &Project,
    pairs: &[Pair],
    path: Option<&[u8]>,
) -> Result<Vec<Vec<Change>>, Failure> {
    Differ::start(project, path, Lines::Counted)?.changes(pairs)
}

/// A git that compares trees; started early, it is ready when they are.
pub struct Differ {
    child: Child,
    lines: Lines,
}

/// Whether the lines that changed are counted, for which git has to read the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    Counted,
    Left,
}

impl Differ {
    /// Only of `path`, if one is given.
    pub fn start(project: &Project, path: Option<&[u8]>, lines: Lines) -> Result<Differ, Failure> {
        let options = ["-r", "-z", "--raw", "--no-renames", "--no-ext-diff"];
        let mut command = project.git().command(["diff-tree", "--stdin"]);
        command.args(options).arg("--no-textconv");
        if lines == Lines::Counted {
            command.arg("--numstat");
        }
        command.arg("--");
        if let Some(path) = path {
            command.arg(literal(path));
        }
        let child = spawn(&mut command)?;
        Ok(Differ { child, lines })
    }

    /// Lets it begin with one pair, which is all that [`Differ::changes`] is to tell then.
    pub fn begin(&mut self, (from, to): Pair) {
        if let Some(mut stdin) = self.child.stdin.take() {
            // If it is gone, that is told by its end.
            let _ = stdin.write_all(format!("{from} {to}\n").as_bytes());
        }
    }

    pub fn changes(mut self, pairs: &[Pair]) -> Result<Vec<Vec<Change>>, Failure> {
        let asked: String = pairs.iter().map(|(a, b)| format!("{a} {b}\n")).collect();
        let printed = converse(&mut self.child, asked.as_bytes())?;
        let mut rest = printed.as_slice();
        let mut found = Vec::new();
        for pair in pairs {
            // Equal trees are not answered at all.
            let head = format!("{} {}", pair.0, pair.1);
            let mut changes = Vec::new();
            if let Some(after) = rest.strip_prefix(head.as_bytes()) {
                rest = after.get(1..).unwrap_or_default();
                changes = take_changes(&mut rest);
                if self.lines == Lines::Counted {
                    take_counts(&mut rest, &mut changes);
                }
            }
            found.push(changes);
        }
        Ok(found)
    }
}

impl Drop for Differ {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a git command on what it reads from its standard input.
pub fn feed(command: &mut Command, input: &[u8]) -> Result<Vec<u8>, Failure> {
    converse(&mut spawn(command)?, input)
}

fn spawn(command: &mut Command) -> Result<Child, Failure> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| Failure::new(format!("git: {error}")))
}

/// Gives a child its input and takes all its output, at once: any of the pipes may fill.
fn converse(child: &mut Child, input: &[u8]) -> Result<Vec<u8>, Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("git: {error}"));
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (mut printed, mut said) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        // What fits into a pipe needs no thread.
        match input.len() <= 4096 {
            true => drop(stdin.map(|mut stdin| stdin.write_all(input))),
            false => drop(scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input)))),
        }
        let errors = scope.spawn(|| stderr.map(|mut pipe| pipe.read_to_end(&mut said)));
        let read = stdout.map_or(Ok(0), |mut pipe| pipe.read_to_end(&mut printed));
        let _ = errors.join();
        read
    })
    .map_err(failed)?;
    match child.wait().map_err(failed)?.success() {
        true => Ok(printed),
        false => Err(Failure::new(format!(
            "git: {}",
            String::from_utf8_lossy(&said).trim()
        ))),
    }
}

/// Reads the raw records of one pair.
fn take_changes(rest: &mut &[u8]) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    // `:old-mode new-mode old new status NUL path NUL`
    while rest.first() == Some(&b':') {
        let head = take_field(rest);
        let status = head.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
        changes.push(Change {
            status: status.first().map_or('M', |byte| char::from(*byte)),
            path: take_field(rest).to_vec(),
            added: None,
            removed: None,
        });
    }
    changes
}

/// Reads the counts that follow the raw records of a pair, up to the next pair.
fn take_counts(rest: &mut &[u8], changes: &mut [Change]) {
    // `added TAB removed TAB path NUL`; `-` for binary files.
    let mut at = 0;
    while at < changes.len() {
        let field = take_field(rest);
        let mut parts = field.splitn(3, |byte| *byte == b'\t');
        let mut number = || std::str::from_utf8(parts.next()?).ok()?.trim().parse().ok();
        let (added, removed) = (number(), number());
        let path = parts.next().unwrap_or_default();
        // A change of type is counted as its two halves.
        match changes[at..].iter().position(|change| change.path == path) {
            Some(skipped) => {
                at += skipped;
                let change = &mut changes[at];
                change.added = added;
                change.removed = removed;
                at += 1;
            }
            None if field.is_empty() => break,
            None => {}
        }
    }
}

fn take_field<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let end = rest.iter().position(|byte| *byte == 0);
    let end = end.unwrap_or(rest.len());
    let field = &rest[..end];
    *rest = rest.get(end + 1..).unwrap_or_default();
    field
}

/// Every branch with its checkpoints, the newest first.
pub fn lines(project: &Project) -> Result<Vec<(String, Vec<Checkpoint>)>, Failure> {
    let branches = super::refs::all(project)?;
    let read = branches.into_iter().map(|(branch, oid)| {
        let line = log(project, &oid.to_string(), None, None)?;
        Ok((branch, line))
    });
    read.collect()
}

/// The checkpoints of all branches, each once, the newest first.
pub fn everything(project: &Project) -> Result<Vec<Checkpoint>, Failure> {
    let mut found = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for (branch, _) in super::refs::all(project)? {
        let rev = format!("refs/heads/{branch}");
        found.extend(log(project, &rev, None, None)?);
    }
    found.retain(|checkpoint| seen.insert(checkpoint.commit));
    found.sort_by_key(|checkpoint| std::cmp::Reverse(checkpoint.note.time));
    Ok(found)
}

/// The checkpoints of the current branch, the newest first.
pub fn head(project: &Project) -> Result<Vec<Checkpoint>, Failure> {
    of_head(project, None, None)
}

/// [`log()`] of the current branch, which may have no checkpoint yet.
pub fn of_head(
    project: &Project,
    most: Option<usize>,
    path: Option<&[u8]>,
) -> Result<Vec<Checkpoint>, Failure> {
    let branch = super::refs::current(project)?;
    match super::refs::read(project, &branch)? {
        Some(oid) => log(project, &oid.to_string(), most, path),
        None => Ok(Vec::new()),
    }
}

/// How many checkpoints the current branch has.
pub fn count(project: &Project) -> Result<u64, Failure> {
    let printed = project
        .git()
        .output(["rev-list", "--count", "--first-parent", "HEAD"])?;
    let count: u64 = String::from_utf8_lossy(&printed)
        .trim()
        .parse()
        .unwrap_or(0);
    // The side commit of the first one is counted too.
    Ok(count.saturating_sub(1))
}

/// A file's difference between two trees, as text.
pub struct Diff {
    pub path: Vec<u8>,
    /// The hunks, without the head that names the files.
    pub text: String,
    /// Only the beginning of it.
    pub cut: bool,
}

/// The differences between the trees of each pair, at most this many bytes of each file.
pub fn diffs(project: &Project, pairs: &[Pair], most: usize) -> Result<Vec<Vec<Diff>>, Failure> {
    let options = [
        "-r",
        "-p",
        "--no-renames",
        "--no-ext-diff",
        "--no-textconv",
        "--full-index",
    ];
    let mut command = project
        .git()
        .command(["diff-tree", "--stdin", "--no-color"]);
    command.args(options);
    let asked: String = pairs.iter().map(|(a, b)| format!("{a} {b}\n")).collect();
    let printed = feed(&mut command, asked.as_bytes())?;
    let mut lines = printed.split_inclusive(|byte| *byte == b'\n').peekable();
    let mut found = Vec::new();
    for (from, to) in pairs {
        // Equal trees are not answered at all.
        let head = format!("{from} {to}\n");
        let mut diffs: Vec<Diff> = Vec::new();
        if lines.next_if(|line| *line == head.as_bytes()).is_some() {
            while let Some(line) = lines.next_if(|line| !is_pair(line)) {
                take_diff_line(&mut diffs, line, most);
            }
        }
        found.push(diffs);
    }
    Ok(found)
}

/// Whether a line is two object names and nothing else.
fn is_pair(line: &[u8]) -> bool {
    let names = line.strip_suffix(b"\n").unwrap_or(line);
    names.len() == 81
        && names[40] == b' '
        && names.iter().filter(|byte| byte.is_ascii_hexdigit()).count() == 80
}

fn take_diff_line(diffs: &mut Vec<Diff>, line: &[u8], most: usize) {
    if line.starts_with(b"diff --git ") {
        diffs.push(Diff {
            path: Vec::new(),
            text: String::new(),
            cut: false,
        });
    }
    let Some(diff) = diffs.last_mut() else {
        return;
    };
    if diff.text.is_empty() && !line.starts_with(b"@@") {
        let name = [&b"--- a/"[..], b"+++ b/", b"--- \"a/", b"+++ \"b/"]
            .iter()
            .find_map(|prefix| line.strip_prefix(*prefix));
        if let Some(name) = name {
            let quoted = line[4] == b'"';
            diff.path = file_name(name, quoted);
        }
        return;
    }
    match diff.text.len() + line.len() <= most && !diff.cut {
        true => diff.text.push_str(&String::from_utf8_lossy(line)),
        false => diff.cut = true,
    }
}

/// A name at the end of a diff's head line: to the tab that follows a name with blanks, or unquoted.
fn file_name(name: &[u8], quoted: bool) -> Vec<u8> {
    let name = name.strip_suffix(b"\n").unwrap_or(name);
    if !quoted {
        return name.strip_suffix(b"\t").unwrap_or(name).to_vec();
    }
    let name = name.strip_suffix(b"\t").unwrap_or(name);
    let mut rest = name.strip_suffix(b"\"").unwrap_or(name);
    let mut out = Vec::new();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let Some((&escape, after)) = rest.split_first() else {
            break;
        };
        rest = after;
        out.push(match escape {
            b'a' => 7,
            b'b' => 8,
            b't' => b'\t',
            b'n' => b'\n',
            b'v' => 11,
            b'f' => 12,
            b'r' => b'\r',
            b'0'..=b'3' if rest.len() >= 2 => {
                let digit = |byte: u8| byte.wrapping_sub(b'0') & 7;
                let octal = (escape - b'0') << 6 | digit(rest[0]) << 3 | digit(rest[1]);
                rest = &rest[2..];
                octal
            }
            other => other,
        });
    }
    out
}
