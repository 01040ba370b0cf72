//! Which tool call a changed file is due to.
//!
//! Known are the calls that ran while the changes were made. With several of them a file belongs to the
//! one whose input names it. A file that none names may be the work of any call but those of tools that
//! write nothing except what they name; it is shared when several are left.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::events::Event;
use super::note::{Call, Note};
use crate::paths;

/// Members of an input that hold a path.
const NAMES: [&str; 14] = [
    "file_path",
    "notebook_path",
    "path",
    "file",
    "filePath",
    "filepath",
    "filename",
    "relative_path",
    "target_file",
    "source",
    "destination",
    "old_path",
    "new_path",
    "target",
];

/// Members that hold several, as texts or in objects.
const LISTS: [&str; 3] = ["edits", "files", "paths"];

/// Tools that write the file they name and no other.
const PRECISE: [&str; 4] = ["Edit", "MultiEdit", "NotebookEdit", "Write"];

/// Who made a change.
#[derive(Clone, Debug, PartialEq)]
pub enum Author<'a> {
    /// No tool call: an editor, a build.
    Nobody,
    Call(&'a Call),
    /// One of these; which, cannot be told.
    Shared(Vec<&'a Call>),
}

/// Who made a checkpoint's change of this path.
pub fn author<'a>(note: &'a Note, path: &[u8], project: &Path) -> Author<'a> {
    let own = Some(&note.call).filter(|call| **call != Call::default());
    let calls: Vec<&Call> = own.into_iter().chain(&note.others).collect();
    if calls.len() < 2 {
        return of(calls);
    }
    let names = |call: &&&Call| paths_in(call, project).iter().any(|named| named == path);
    let naming: Vec<&Call> = calls.iter().filter(names).copied().collect();
    if !naming.is_empty() {
        return of(naming);
    }
    let precise = |call: &Call| {
        call.tool
            .as_deref()
            .is_some_and(|tool| PRECISE.contains(&tool))
    };
    let able: Vec<&Call> = calls
        .iter()
        .filter(|call| !precise(call))
        .copied()
        .collect();
    of(if able.is_empty() { calls } else { able })
}

fn of(mut calls: Vec<&Call>) -> Author<'_> {
    match calls.len() {
        0 => Author::Nobody,
        1 => Author::Call(calls.remove(0)),
        _ => Author::Shared(calls),
    }
}

/// What a note says of the calls that are responsible for a checkpoint: the one it is mostly due to
/// (that of the event for which it is made, else the oldest), and the others.
pub fn split(mut responsible: Vec<Call>, event: Option<&Event>) -> (Call, Vec<Call>) {
    let own = |call: &Call| {
        event.is_some_and(|event| {
            call.id == event.tool_use_id && call.session == event.session && call.tool == event.tool
        })
    };
    if responsible.is_empty() {
        return (Call::default(), responsible);
    }
    let own = responsible.iter().position(own).unwrap_or(0);
    (responsible.remove(own), responsible)
}

/// The files of the project that a call's input names, relative to the project.
pub fn paths_in(call: &Call, project: &Path) -> Vec<Vec<u8>> {
    let mut named = Vec::new();
    if let Some(input) = &call.input {
        collect(input, &mut named);
    }
    let mut found: Vec<Vec<u8>> = Vec::new();
    for path in named.into_iter().flat_map(|text| within(project, text)) {
        if !found.contains(&path) {
            found.push(path);
        }
    }
    found
}

fn collect<'v>(input: &'v Value, named: &mut Vec<&'v str>) {
    let text = |name: &&str| input.get(*name)?.as_str();
    named.extend(NAMES.iter().filter_map(text));
    let list = |name: &&str| input.get(*name)?.as_array();
    for item in LISTS.iter().filter_map(list).flatten() {
        match item {
            Value::String(text) => named.push(text),
            item => named.extend(NAMES.iter().filter_map(|name| item.get(*name)?.as_str())),
        }
    }
}

/// A path as it is written, and where it leads over symbolic links, if that is in the project.
fn within(project: &Path, text: &str) -> Vec<Vec<u8>> {
    // Texts that are no paths would be looked up in vain.
    if text.is_empty() || text.contains(['\n', '\0']) {
        return Vec::new();
    }
    let written = plain(&project.join(text));
    let resolved = paths::resolve(&written);
    let relative = |path: &Path| {
        let inside = path.strip_prefix(project).ok()?;
        Some(inside.as_os_str())
            .filter(|inside| !inside.is_empty())
            .map(OsStr::as_bytes)
            .map(<[u8]>::to_vec)
    };
    let mut both: Vec<Vec<u8>> = [&written, &resolved]
        .into_iter()
        .filter_map(|path| relative(path))
        .collect();
    both.dedup();
    both
}

/// Without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(out.pop()),
            component => out.push(component),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::events::Kind;
    use super::*;

    const PROJECT: &str = "/no-such-place/app";

    fn call(id: &str, tool: &str, input: Value) -> Call {
        Call {
            id: Some(id.to_owned()),
            tool: Some(tool.to_owned()),
            input: Some(input),
            ..Call::default()
        }
    }

    fn paths(input: Value) -> Vec<String> {
        let found = paths_in(&call("a", "Edit", input), Path::new(PROJECT));
        found
            .into_iter()
            .map(|path| String::from_utf8(path).unwrap())
            .collect()
    }

    fn who(note: &Note, path: &str) -> Vec<String> {
        let ids = |calls: &[&Call]| calls.iter().filter_map(|call| call.id.clone()).collect();
        match author(note, path.as_bytes(), Path::new(PROJECT)) {
            Author::Nobody => Vec::new(),
            Author::Call(call) => ids(&[call]),
            Author::Shared(calls) => ids(&calls),
        }
    }

    fn note(calls: Vec<Call>) -> Note {
        let (call, others) = split(calls, None);
        Note {
            call,
            others,
            ..Note::default()
        }
    }

    #[test]
    fn an_input_names_files_of_the_project() {
        assert_eq!(
            paths(json!({"file_path": "/no-such-place/app/src/a.rs"})),
            ["src/a.rs"]
        );
        assert_eq!(
            paths(json!({"notebook_path": "./n/../b.ipynb"})),
            ["b.ipynb"]
        );
        assert_eq!(
            paths(json!({"source": "a", "destination": "b"})),
            ["a", "b"]
        );
        assert_eq!(
            paths(json!({"edits": [{"file_path": "x"}, {"path": "y"}, {"path": "x"}]})),
            ["x", "y"]
        );
        assert_eq!(paths(json!({"paths": ["x", "y", 1, null]})), ["x", "y"]);
        for elsewhere in [
            "/etc/passwd",
            "../other/a",
            "/no-such-place/app",
            "/no-such-place/app2/a",
            "",
            "a\nb",
        ] {
            assert!(
                paths(json!({"file_path": elsewhere})).is_empty(),
                "{elsewhere}"
            );
        }
        assert!(paths(json!({"command": "touch a.txt"})).is_empty());
        assert!(paths(json!("text")).is_empty());
    }

    #[test]
    fn a_link_s_target_is_named_too() {
        let dir = std::env::temp_dir().join(format!("agentfs-attribution-{}", std::process::id()));
        let project = dir.join("app");
        std::fs::create_dir_all(project.join("real")).unwrap();
        std::os::unix::fs::symlink("real", project.join("link")).unwrap();
        std::os::unix::fs::symlink("app", dir.join("other")).unwrap();
        let project = project.canonicalize().unwrap();
        let named =
            |path: &str| paths_in(&call("a", "Write", json!({"file_path": path})), &project);
        assert_eq!(named("link/f"), [b"link/f".to_vec(), b"real/f".to_vec()]);
        let outside = dir.join("other/real/f");
        assert_eq!(named(outside.to_str().unwrap()), [b"real/f".to_vec()]);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn one_call_made_everything_and_none_made_nothing() {
        assert!(who(&note(vec![]), "a").is_empty());
        let alone = note(vec![call("edit", "Edit", json!({"file_path": "a"}))]);
        assert_eq!(who(&alone, "a"), ["edit"]);
        assert_eq!(who(&alone, "formatted.by.its.hook"), ["edit"]);
        let other = Note {
            others: vec![call("x", "Bash", json!({}))],
            ..Note::default()
        };
        assert_eq!(who(&other, "a"), ["x"]);
    }

    #[test]
    fn of_several_the_one_that_names_it() {
        let edit = |id: &str, path: &str| call(id, "Edit", json!({"file_path": path}));
        let bash = |id: &str| call(id, "Bash", json!({"command": "make"}));
        let two = note(vec![edit("1", "a"), bash("2")]);
        assert_eq!(who(&two, "a"), ["1"]);
        assert_eq!(who(&two, "b"), ["2"], "an edit writes no other file");
        let three = note(vec![edit("1", "a"), bash("2"), bash("3")]);
        assert_eq!(who(&three, "b"), ["2", "3"]);
        let same = note(vec![edit("1", "a"), edit("2", "a"), bash("3")]);
        assert_eq!(who(&same, "a"), ["1", "2"]);
        assert_eq!(
            who(&note(vec![edit("1", "a"), edit("2", "b")]), "c"),
            ["1", "2"]
        );
        let ten: Vec<Call> = (0..10)
            .map(|n| edit(&n.to_string(), &format!("f{n}")))
            .collect();
        for n in 0..10 {
            assert_eq!(who(&note(ten.clone()), &format!("f{n}")), [n.to_string()]);
        }
    }

    #[test]
    fn a_checkpoint_is_that_of_its_event_s_call() {
        let event = Event {
            kind: Kind::PostTool,
            tool: Some("Bash".to_owned()),
            tool_use_id: Some("2".to_owned()),
            ..Event::default()
        };
        let calls = ["1", "2", "3"]
            .map(|id| call(id, "Bash", json!({})))
            .to_vec();
        let (own, others) = split(calls.clone(), Some(&event));
        assert_eq!(own, calls[1]);
        assert_eq!(others, [calls[0].clone(), calls[2].clone()]);
        assert_eq!(split(calls.clone(), None).0, calls[0]);
        assert_eq!(split(vec![], Some(&event)), (Call::default(), vec![]));
    }
}
