//! What was asked and said around a tool call, from the session's transcript.
//!
//! A transcript is looked for where the hook named it, and if it is not there (the cellar may not be
//! mounted) in the cellar's store, compressed or not. The transcript may lag behind, lack the call, or be
//! gone: then nothing is said, and that is no failure.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::note::Call;
use crate::config::{self, Config, Overrides};
use crate::fields::{elements, member, objects, text};
use crate::sys;
use crate::transcript::{asked, read_lines};

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

/// What stands in a transcript before some point in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// What the user asked last.
    pub prompt: Option<String>,
    /// What the agent said last.
    pub words: Option<String>,
}

/// What was asked and said before a tool call; nothing if the call is not in the transcript.
pub fn before(call: &Call) -> Said {
    let Some(id) = &call.id else {
        return Said::default();
    };
    let mut latest = Latest::default();
    let mut found = false;
    scan(call, &mut |line| {
        // Its result names the call too, but comes later.
        found = sys::contains(line, id.as_bytes());
        latest.note(line);
        !found
    });
    match found {
        true => latest.read(),
        false => Said::default(),
    }
}

/// The same for many calls of the session of one, in a single reading, by the calls' ids.
pub fn before_each(of: &Call, ids: &HashSet<String>) -> HashMap<String, Said> {
    let mut latest = Latest::default();
    let mut found = HashMap::new();
    scan(of, &mut |line| {
        latest.note(line);
        if sys::contains(line, b"\"tool_use\"") {
            let known = tool_uses(line).into_iter().filter(|id| ids.contains(id));
            found.extend(known.map(|id| (id, latest.read())));
        }
        found.len() < ids.len()
    });
    found
}

/// The ids of the calls that a line makes.
fn tool_uses(line: &[u8]) -> Vec<String> {
    let contents = objects(line).filter_map(|object| member(member(object, "message")?, "content"));
    let blocks = contents.flat_map(elements);
    let calls = blocks.filter(|block| member(block, "type") == Some(b"\"tool_use\""));
    calls
        .filter_map(|block| text(member(block, "id")?))
        .collect()
}

/// What was asked and said last in a whole session.
pub fn at_end(call: &Call) -> Said {
    let mut latest = Latest::default();
    scan(call, &mut |line| {
        latest.note(line);
        true
    });
    latest.read()
}

/// The newest lines that may hold a prompt or words; read only when they are wanted.
#[derive(Default)]
struct Latest {
    prompts: Vec<Vec<u8>>,
    words: Vec<u8>,
}

impl Latest {
    fn note(&mut self, line: &[u8]) {
        if sys::contains(line, b"\"type\":\"text\"")
            && sys::contains(line, b"\"role\":\"assistant\"")
        {
            self.words = line.to_vec();
        }
        if sys::contains(line, b"\"role\":\"user\"") && !sys::contains(line, b"\"tool_result\"") {
            // Not all of them turn out to be prompts: some lines before are kept.
            if self.prompts.len() == 16 {
                self.prompts.remove(0);
            }
            self.prompts.push(line.to_vec());
        }
    }

    fn read(&self) -> Said {
        let is_meta = |object: &&[u8]| member(object, "isMeta") == Some(b"true");
        let prompts = self.prompts.iter().rev().flat_map(|line| objects(line));
        let spoken = objects(&self.words).find_map(|object| {
            let content = member(member(object, "message")?, "content")?;
            let texts = elements(content).filter_map(|block| text(member(block, "text")?));
            texts.filter(|text| !text.trim().is_empty()).last()
        });
        Said {
            prompt: prompts.filter(|object| !is_meta(object)).find_map(asked),
            words: spoken.map(|words| words.trim().to_owned()),
        }
    }
}

/// Gives the lines of a call's transcript to `each` until that has enough.
fn scan(call: &Call, each: &mut dyn FnMut(&[u8]) -> bool) {
    let Some((file, packed)) = open(call) else {
        return;
    };
    // What can be read of a damaged transcript is as good as it gets.
    let _ = read_lines(&file, packed, CHUNK, each);
}

fn open(call: &Call) -> Option<(File, bool)> {
    let store = Config::load(Overrides::default())
        .ok()
        .map(|config| config.store_dir);
    if let Some(path) = call.transcript.as_deref().map(Path::new) {
        if let Ok(file) = File::open(path) {
            return Some((file, false));
        }
        let (slug, name) = (path.parent()?.file_name()?, path.file_name()?);
        return in_store(&store?.join(slug), name);
    }
    let session = call.session.as_deref().filter(|id| !id.contains('/'))?;
    let name = format!("{session}.jsonl");
    let tops = [config::claude_projects(), store];
    tops.into_iter().flatten().find_map(|top| {
        let dirs = fs::read_dir(top)
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()));
        let mut dirs: Vec<PathBuf> = dirs.collect();
        dirs.sort();
        dirs.iter().find_map(|dir| in_store(dir, OsStr::new(&name)))
    })
}

fn in_store(dir: &Path, name: &OsStr) -> Option<(File, bool)> {
    let mut packed = name.to_owned();
    packed.push(".zst");
    let raw = File::open(dir.join(name)).ok().map(|file| (file, false));
    raw.or_else(|| Some((File::open(dir.join(packed)).ok()?, true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: &str = r#"{"type":"user","message":{"role":"user","content":"make it robust"}}
{"type":"user","isMeta":true,"message":{"role":"user","content":"a caveat"}}
{"type":"assistant","message":{"role":"assistant","content":[{"type":"text","text":"I add error handling."}]}}
{"type":"assistant","message":{"role":"assistant","content":[{"type":"tool_use","id":"toolu_1","name":"Edit","input":{}}]}}
{"type":"user","message":{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_1","content":"ok"}]}}
{"type":"user","message":{"role":"user","content":"now the tests"}}
{"type":"assistant","message":{"role":"assistant","content":[{"type":"text","text":"Here they are."}]}}
"#;

    fn call(dir: &Path, id: &str) -> Call {
        Call {
            id: Some(id.into()),
            transcript: Some(dir.join("s.jsonl").to_string_lossy().into_owned()),
            ..Call::default()
        }
    }

    #[test]
    fn a_call_is_explained_by_what_stands_before_it() {
        let dir = std::env::temp_dir().join(format!("agentfs-words-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("s.jsonl"), SESSION).unwrap();
        let said = before(&call(&dir, "toolu_1"));
        assert_eq!(said.prompt.as_deref(), Some("make it robust"));
        assert_eq!(said.words.as_deref(), Some("I add error handling."));
        let ids = ["toolu_1", "toolu_2"].map(str::to_owned);
        let each = before_each(&call(&dir, ""), &ids.into_iter().collect());
        assert_eq!(each, HashMap::from([("toolu_1".to_owned(), said)]));
        assert_eq!(before(&call(&dir, "toolu_2")), Said::default());
        let said = at_end(&call(&dir, ""));
        assert_eq!(said.prompt.as_deref(), Some("now the tests"));
        assert_eq!(said.words.as_deref(), Some("Here they are."));
        fs::remove_dir_all(&dir).unwrap();
    }
}
