//! What a session's lines say about it: the directory it belongs to, and how it began.
//!
//! Reads the session in whatever form it is stored, front to back, and takes lines as they come: what
//! is malformed says nothing. Works on plain directories, stores and mounts alike.

use crate::fields::{elements, member, objects, text};
use crate::frames;
use crate::paths;
use crate::rewrite::Content;
use crate::survey::Surveyed;
use crate::sys;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;
/// Claude Code looks this far for how a session began.
const HEAD: usize = 64 << 10;
/// Characters of a beginning that are shown.
const SHOWN: usize = 60;

/// The directory a session belongs to. Its lines tell where the shell was, which may be deeper; Claude
/// Code finds the session only from the directory that its project is named after, so the last of
/// those counts, and the last of all only where none is.
pub fn directory(top: &Path, session: &Surveyed) -> io::Result<Option<PathBuf>> {
    let (project, _) = project_and_id(session);
    let (mut last, mut of_project): (Option<String>, Option<String>) = (None, None);
    lines(top, session, CHUNK, &mut |line| {
        if !sys::contains(line, b"\"cwd\"") {
            return true;
        }
        let cwds = objects(line).filter_map(|object| text(member(object, "cwd")?));
        for cwd in cwds.filter(|cwd| cwd.starts_with('/')) {
            if last.as_ref() != Some(&cwd) {
                if slug(&paths::resolve(Path::new(&cwd))).as_bytes() == project.as_bytes() {
                    of_project = Some(cwd.clone());
                }
                last = Some(cwd);
            }
        }
        true
    })?;
    Ok(of_project.or(last).map(PathBuf::from))
}

/// The name of the project directory for a working directory: what is no ASCII letter or digit
/// becomes `-`, once for each of its UTF-16 units.
fn slug(dir: &Path) -> String {
    dir.to_string_lossy()
        .chars()
        .map(|c| match c.is_ascii_alphanumeric() {
            true => c.to_string(),
            false => "-".repeat(c.len_utf16()),
        })
        .collect()
}

/// How a session began: its summary, else the first thing that was asked, on one line.
pub fn beginning(top: &Path, session: &Surveyed) -> io::Result<String> {
    let (mut summary, mut prompt, mut seen) = (None, None, 0);
    lines(top, session, HEAD, &mut |line| {
        seen += line.len();
        for object in objects(line) {
            let kind = member(object, "type").and_then(text).unwrap_or_default();
            match kind.as_str() {
                "summary" if summary.is_none() => {
                    summary = member(object, "summary").and_then(text);
                }
                "user" if prompt.is_none() && member(object, "isMeta") != Some(b"true") => {
                    prompt = asked(object);
                }
                _ => {}
            }
        }
        summary.is_none() && seen < HEAD
    })?;
    let begun: String = summary.or(prompt).unwrap_or_default();
    // A session must not be able to write to the terminal anything but text.
    let words = begun.split(|c: char| c.is_whitespace() || c.is_control());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    Ok(words.join(" ").chars().take(SHOWN).collect())
}

/// What a user's message asks; commands and their output are in tags.
pub fn asked(object: &[u8]) -> Option<String> {
    let content = member(member(object, "message")?, "content")?;
    let first = || elements(content).find_map(|block| text(member(block, "text")?));
    text(content)
        .or_else(first)
        .filter(|asked| !asked.starts_with('<'))
}

/// Gives each line to `each` until that has enough, reading `chunk` bytes at a time.
fn lines(
    top: &Path,
    session: &Surveyed,
    chunk: usize,
    each: &mut dyn FnMut(&[u8]) -> bool,
) -> io::Result<()> {
    let stored = match &session.packed {
        Some(stored) => session.path.with_file_name(stored),
        None => session.path.clone(),
    };
    let file = File::open(top.join(stored))?;
    read_lines(&file, session.packed.is_some(), chunk, each)
}

/// The same for a session's file, plain or as the store has it compressed.
pub fn read_lines(
    file: &File,
    packed: bool,
    chunk: usize,
    each: &mut dyn FnMut(&[u8]) -> bool,
) -> io::Result<()> {
    let size = sys::fstat(file)?.size;
    let index = match packed {
        true => frames::index(file, size)?,
        false => frames::Index::default(),
    };
    let content = match packed {
        true => Content::Packed {
            file,
            index: &index,
        },
        false => Content::Raw { file, size },
    };
    let (mut reader, mut buffer) = (content.reader(0), Vec::new());
    loop {
        let searched = buffer.len();
        if reader.read(&mut buffer, chunk)? == 0 {
            each(&buffer);
            return Ok(());
        }
        let Some(end) = buffer[searched..].iter().rposition(|&b| b == b'\n') else {
            continue;
        };
        let whole = searched + end + 1;
        for line in buffer[..whole].split(|&b| b == b'\n') {
            if !line.is_empty() && !each(line) {
                return Ok(());
            }
        }
        buffer.drain(..whole);
    }
}

/// The project directory a session is in, and its name without `.jsonl`.
pub fn project_and_id(session: &Surveyed) -> (&OsStr, &OsStr) {
    let project = session.path.parent().unwrap_or(Path::new(""));
    let id = session.path.file_stem().unwrap_or_default();
    (project.as_os_str(), id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_named_after_its_directory() {
        for (dir, name) in [
            ("/home/user/my.app_2", "-home-user-my-app-2"),
            ("/", "-"),
            ("/caf\u{e9}/\u{1f600}", "-caf----"),
        ] {
            assert_eq!(slug(Path::new(dir)), name);
        }
    }
}
