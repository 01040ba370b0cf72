//! Another place that has the history: its address, what is known of it, and talking to it.
//!
//! Any address that git understands will do. The last one that worked is remembered as git's remote
//! `origin`; what is known about each is in the store's `sync.json`: which of its branches a branch of
//! ours goes with, and which checkpoint each of its branches ended in. That file can be lost: then names
//! decide, and everything is asked again.
//!
//! What the remote has would keep alive here what `gc` removes. So gc lets go of it and notes only the
//! commits that its branches end in: enough to go on from them, in a [`Peer`], without getting it all
//! back.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value, json};

use super::git::{self, Git};
use super::note::Checkpoint;
use super::objects::{Kind, Objects};
use super::oid::Oid;
use super::project::{Project, replace};
use super::{commit, history, refs};
use crate::exit::Failure;

/// Where the branches of the remote are kept here.
const TRACKED: &str = "refs/remotes/origin/";
const NOTES: &str = "sync.json";

/// A branch with its checkpoints, the newest first.
pub type Line = (String, Vec<Checkpoint>);

pub struct Remote<'a> {
    project: &'a Project,
    pub address: String,
    pub notes: Notes,
}

/// What is known of a remote.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Notes {
    /// The user has been told that it gets everything.
    pub warned: bool,
    /// Which of its branches a branch of ours goes with, where the name is another.
    pub goes_with: BTreeMap<String, String>,
    /// What each of its branches ended in.
    pub ends: BTreeMap<String, End>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct End {
    pub commit: Oid,
    /// Of the checkpoint.
    pub id: String,
    /// The commit object, where it is not in the store.
    body: Option<String>,
}

impl<'a> Remote<'a> {
    /// The remote that is meant: the one given, else the one remembered.
    pub fn new(project: &'a Project, word: Option<&OsStr>) -> Result<Remote<'a>, Failure> {
        let address = match word {
            Some(word) => address(word)?,
            None => remembered(project).ok_or_else(|| {
                Failure::new("no remote is known").advise("give its address or path")
            })?,
        };
        let notes = Notes::load(project, &address);
        Ok(Remote {
            project,
            address,
            notes,
        })
    }

    /// Remembers the remote and what is known of it.
    pub fn remember(&self) -> Result<(), Failure> {
        if remembered(self.project).as_ref() != Some(&self.address) {
            let args = ["config", "remote.origin.url", &self.address];
            self.project.git().output(args)?;
        }
        self.notes.save(self.project, &self.address)
    }

    /// The branch of the remote that one of ours goes with.
    pub fn counterpart<'b>(&'b self, branch: &'b str) -> &'b str {
        self.notes
            .goes_with
            .get(branch)
            .map_or(branch, String::as_str)
    }

    /// Notes which branch of the remote one of ours goes with.
    pub fn goes_with(&mut self, ours: &str, theirs: &str) {
        match ours == theirs {
            true => self.notes.goes_with.remove(ours),
            false => self
                .notes
                .goes_with
                .insert(ours.to_owned(), theirs.to_owned()),
        };
    }

    /// The place's name, for names of branches.
    pub fn host(&self) -> String {
        host(&self.address).unwrap_or_else(|| "remote".into())
    }

    /// The store's path, if the remote is a store of agentfs on this machine.
    fn store(&self) -> Option<Project> {
        let store = PathBuf::from(&self.address);
        store.join("agentfs").is_dir().then(|| Project {
            name: String::new(),
            dir: PathBuf::new(),
            store,
        })
    }

    /// The branch that must not be moved from here, because somebody works on it there.
    pub fn current_elsewhere(&self) -> Option<String> {
        refs::current(&self.store()?).ok()
    }

    fn command(&self, args: &[&str]) -> Command {
        transport(&self.project.store, args)
    }

    /// The branches of the remote and where each ends, without getting anything.
    pub fn list(&self) -> Result<Vec<(String, Oid)>, Failure> {
        let mut command = self.command(&["ls-remote", "--quiet", "--heads", "--", &self.address]);
        let printed = git::run(&mut command)?.stdout;
        let printed = String::from_utf8_lossy(&printed);
        let rows = printed.lines().filter_map(|line| {
            let (oid, name) = line.split_once('\t')?;
            Some((
                name.strip_prefix("refs/heads/")?.to_owned(),
                oid.parse().ok()?,
            ))
        });
        Ok(rows.collect())
    }

    /// The branch that the remote's HEAD names.
    pub fn head(&self) -> Result<Option<String>, Failure> {
        let args = [
            "ls-remote",
            "--quiet",
            "--symref",
            "--",
            &self.address,
            "HEAD",
        ];
        let printed = git::run(&mut self.command(&args))?.stdout;
        let printed = String::from_utf8_lossy(&printed);
        let named = printed.lines().find_map(|line| {
            let name = line.strip_prefix("ref: refs/heads/")?;
            Some(name.split('\t').next()?.to_owned())
        });
        Ok(named)
    }

    /// Gets everything that the remote has and gives its lines; branches that hold no checkpoints are
    /// named apart.
    pub fn fetch(&mut self) -> Result<(Vec<Line>, Vec<String>), Failure> {
        let spec = format!("+refs/heads/*:{TRACKED}*");
        let args = [
            "fetch",
            "--quiet",
            "--prune",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-auto-maintenance",
            "--",
            &self.address,
            &spec,
        ];
        git::run(&mut self.command(&args))?;
        let (mut lines, mut foreign) = (Vec::new(), Vec::new());
        self.notes.ends.clear();
        for (branch, oid) in tracked(self.project)? {
            let line = history::log(self.project, &oid.to_string(), None, None)?;
            match line.first() {
                Some(newest) if newest.commit == oid => {
                    self.note_end(&branch, newest, None);
                    lines.push((branch, line));
                }
                _ => foreign.push(branch),
            }
        }
        Ok((lines, foreign))
    }

    /// The lines of the remote as far as they are known without getting anything: their ends. `None` when
    /// gc has not let go of them, or the remote has moved since.
    pub fn known(&self) -> Result<Option<Vec<Line>>, Failure> {
        if self.notes.ends.is_empty() || !tracked(self.project)?.is_empty() {
            return Ok(None);
        }
        let known = |(branch, oid): (String, Oid)| {
            let end = self.notes.ends.get(&branch)?;
            let body = end.body.as_ref().filter(|_| end.commit == oid)?;
            Some((branch, vec![commit::parse(oid, body)?]))
        };
        Ok(self.list()?.into_iter().map(known).collect())
    }

    /// Lets go of everything that only the remote has, but for what [`Remote::known`] needs.
    pub fn let_go(&mut self) -> Result<(), Failure> {
        let mut batch = self.project.git().batch()?;
        for (branch, oid) in tracked(self.project)? {
            let body = batch.blob(oid)?.unwrap_or_default();
            if let Ok(body) = String::from_utf8(body)
                && let Some(newest) = commit::parse(oid, &body)
            {
                self.note_end(&branch, &newest, Some(body));
            }
        }
        self.notes.save(self.project, &self.address)
    }

    fn note_end(&mut self, branch: &str, newest: &Checkpoint, body: Option<String>) {
        let end = End {
            commit: newest.commit,
            id: newest.note.id.clone(),
            body,
        };
        self.notes.ends.insert(branch.to_owned(), end);
    }

    /// Lets branches of the remote end in these checkpoints, each a descendant of what it ended in.
    /// Tells what the remote said if that is not so any more.
    pub fn push(
        &mut self,
        moves: &[(String, Checkpoint)],
        peer: Option<&Peer>,
    ) -> Result<Option<String>, Failure> {
        let specs: Vec<String> = moves
            .iter()
            .map(|(branch, to)| format!("{}:refs/heads/{branch}", to.commit))
            .collect();
        let options = ["push", "--quiet", "--porcelain", "--no-verify", "--"];
        let mut args = options.to_vec();
        args.push(&self.address);
        args.extend(specs.iter().map(String::as_str));
        let git_dir = peer.map_or(self.project.store.as_path(), |peer| &peer.dir);
        let output = transport(git_dir, &args)
            .output()
            .map_err(|error| Failure::new(format!("cannot run git: {error}")))?;
        if output.status.success() {
            self.note_pushed(moves, peer)?;
            return Ok(None);
        }
        let printed = String::from_utf8_lossy(&output.stdout);
        let refused: Vec<&str> = printed
            .lines()
            .filter_map(|line| line.strip_prefix('!'))
            .collect();
        let is_late = |line: &&str| {
            line.contains("[rejected]") || line.contains("failed to") || line.contains("exists")
        };
        let is_late = !refused.is_empty() && refused.iter().all(is_late);
        let said = String::from_utf8_lossy(&output.stderr);
        let lines = refused.iter().copied().chain(said.lines());
        let words: Vec<String> = lines
            .map(|line| line.trim_start_matches("fatal: ").replace('\t', " "))
            .map(|line| line.trim().to_owned())
            .filter(|line| !line.is_empty())
            .collect();
        let said = format!("git push: {}", words.join("; "));
        match is_late {
            true => Ok(Some(said)),
            false => Err(Failure::new(said)),
        }
    }

    fn note_pushed(
        &mut self,
        moves: &[(String, Checkpoint)],
        peer: Option<&Peer>,
    ) -> Result<(), Failure> {
        for (branch, to) in moves {
            let body = match peer {
                Some(peer) => Some(peer.git().object(&to.commit.to_string())?),
                None => None,
            };
            if body.is_none() {
                let (name, oid) = (format!("{TRACKED}{branch}"), to.commit.to_string());
                self.project.git().output(["update-ref", &name, &oid])?;
            }
            let body = body.and_then(|body| String::from_utf8(body).ok());
            self.note_end(branch, to, body);
        }
        Ok(())
    }
}

/// Deletes what is tracked of any remote.
pub fn forget_tracked(project: &Project) -> Result<(), Failure> {
    let format = "--format=delete %(refname)";
    let listed = project
        .git()
        .output(["for-each-ref", format, "refs/remotes"])?;
    if listed.is_empty() {
        return Ok(());
    }
    let mut update = project.git().command(["update-ref", "--stdin"]);
    history::feed(&mut update, &listed).map(|_| ())
}

fn transport(git_dir: &Path, args: &[&str]) -> Command {
    let options = [
        "-c",
        "fetch.writeCommitGraph=false",
        "-c",
        "fetch.fsckObjects=true",
    ];
    Git::new(git_dir).with_transport(options.iter().chain(args))
}

// ---- going on from a line that is not here ----------------------------------------------------

/// A passing git directory that has the store's objects, and the commits that the remote's branches end
/// in without those before: what is put on top of them can be pushed from here.
pub struct Peer {
    dir: PathBuf,
}

impl Peer {
    /// Needs the lock of [`super::maintenance`], so that there is only one.
    pub fn new(remote: &Remote) -> Result<Peer, Failure> {
        let dir = remote.project.own("peer.git");
        let failed = |error| Failure::at("cannot write to the store", &dir, error);
        // A kill has left it.
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).map_err(failed)?;
        let peer = Peer { dir: dir.clone() };
        let init = ["init", "--bare", "--quiet", "--template="];
        git::run(&mut peer.git().command(init))?;
        let alternates = dir.join("objects/info/alternates");
        fs::create_dir_all(dir.join("objects/info"))
            .and_then(|()| fs::write(&alternates, "../../../objects\n"))
            .map_err(failed)?;
        let objects = peer.objects();
        let mut shallow = String::new();
        for body in remote
            .notes
            .ends
            .values()
            .filter_map(|end| end.body.as_ref())
        {
            let oid = objects
                .write(Kind::Commit, body.as_bytes())
                .map_err(failed)?;
            shallow.push_str(&format!("{oid}\n"));
        }
        fs::write(dir.join("shallow"), shallow).map_err(failed)?;
        Ok(peer)
    }

    pub fn git(&self) -> Git<'_> {
        Git::new(&self.dir)
    }

    pub fn objects(&self) -> Objects {
        Objects::new(&self.dir)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The address of the last remote that worked.
fn remembered(project: &Project) -> Option<String> {
    let url = project.git().output(["config", "remote.origin.url"]).ok()?;
    Some(String::from_utf8_lossy(&url).trim_end().to_owned())
}

/// The remote's branches as they were last seen.
fn tracked(project: &Project) -> Result<Vec<(String, Oid)>, Failure> {
    let format = "--format=%(objectname) %(refname)";
    let listed = project.git().output(["for-each-ref", format, TRACKED])?;
    let listed = String::from_utf8_lossy(&listed);
    let rows = listed.lines().filter_map(|line| {
        let (oid, name) = line.split_once(' ')?;
        Some((name.strip_prefix(TRACKED)?.to_owned(), oid.parse().ok()?))
    });
    Ok(rows.collect())
}

// ---- addresses --------------------------------------------------------------------------------

/// What git takes from any directory: a path is made absolute.
pub fn address(word: &OsStr) -> Result<String, Failure> {
    let text = word
        .to_str()
        .filter(|text| !text.is_empty() && !text.starts_with('-') && !text.contains('\n'))
        .ok_or_else(|| Failure::usage(format!("{} is no address", word.display())))?;
    let path = Path::new(text);
    if is_address(text) && !path.exists() {
        return Ok(text.to_owned());
    }
    let absolute = std::path::absolute(path)
        .map_err(|error| Failure::at("cannot use the path", path, error))?;
    absolute
        .to_str()
        .map(str::to_owned)
        .ok_or_else(|| Failure::at("cannot use the path", path, "it is no text"))
}

/// Whether a word is an address and no path: `https://…`, `user@host:path`.
fn is_address(text: &str) -> bool {
    let colon = text.find(':');
    colon.is_some_and(|at| !text[..at].contains('/'))
}

/// The host of an address; `None` for a path.
fn host(address: &str) -> Option<String> {
    if !is_address(address) || address.starts_with("file:") {
        return None;
    }
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let rest = rest.split('/').next()?;
    let rest = rest.rsplit('@').next()?;
    let name = rest.split([':', '.']).next()?;
    plain(name)
}

/// The name of this machine, for names of branches.
pub fn this_host() -> String {
    let mut name = [0u8; 256];
    // SAFETY: the buffer is as long as is said, and its last byte stays zero.
    unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len() - 1) };
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let name = String::from_utf8_lossy(name);
    plain(name.split('.').next().unwrap_or_default()).unwrap_or_else(|| "here".into())
}

/// A name of letters, digits and hyphens alone.
fn plain(name: &str) -> Option<String> {
    let known = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let plain: String = name
        .chars()
        .map(|c| if known(c) { c } else { '-' })
        .collect();
    let plain = plain.trim_matches('-').to_owned();
    (!plain.is_empty()).then_some(plain)
}

/// The last part of an address without `.git`.
pub fn last_name(address: &str) -> Option<&str> {
    let last = address.trim_end_matches('/').rsplit(['/', ':']).next()?;
    let last = last.strip_suffix(".git").unwrap_or(last);
    (!last.is_empty()).then_some(last)
}

// ---- notes ------------------------------------------------------------------------------------

impl Notes {
    fn load(project: &Project, address: &str) -> Notes {
        let all = read_all(project);
        all.get(address).map(Notes::from_json).unwrap_or_default()
    }

    fn save(&self, project: &Project, address: &str) -> Result<(), Failure> {
        let mut all = read_all(project);
        all.insert(address.to_owned(), self.to_json());
        let path = project.own(NOTES);
        replace(&path, format!("{}\n", Value::Object(all)).as_bytes())
            .map_err(|error| Failure::at("cannot write", &path, error))
    }

    fn to_json(&self) -> Value {
        let ends = self.ends.iter();
        let row = |end: &End| json!([end.commit.to_string(), end.id, end.body]);
        let ends = ends.map(|(branch, end)| (branch.clone(), row(end)));
        json!({
            "warned": self.warned,
            "goes_with": self.goes_with,
            "ends": ends.collect::<Map<_, _>>(),
        })
    }

    fn from_json(value: &Value) -> Notes {
        let members = |name: &str| {
            value
                .get(name)
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Notes {
            warned: value.get("warned").and_then(Value::as_bool) == Some(true),
            goes_with: members("goes_with")
                .filter_map(|(ours, theirs)| Some((ours.clone(), text(theirs)?)))
                .collect(),
            ends: members("ends")
                .filter_map(|(branch, end)| {
                    let end = End {
                        commit: end.get(0)?.as_str()?.parse().ok()?,
                        id: text(end.get(1)?)?,
                        body: end.get(2).and_then(text),
                    };
                    Some((branch.clone(), end))
                })
                .collect(),
        }
    }
}

fn read_all(project: &Project) -> Map<String, Value> {
    let text = fs::read(project.own(NOTES)).unwrap_or_default();
    match serde_json::from_slice(&text) {
        Ok(Value::Object(all)) => all,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_found_in_addresses_and_paths_have_none() {
        for (address, expected) in [
            ("https://user@git.example.org:8443/x/y.git", Some("git")),
            ("ssh://git@build_box/x", Some("build-box")),
            ("me@laptop:histories/x", Some("laptop")),
            ("file:///srv/x.git", None),
            ("/srv/x.git", None),
            ("./a:b", None),
        ] {
            assert_eq!(host(address).as_deref(), expected, "{address}");
        }
        assert!(address(OsStr::new("-oProxyCommand=x")).is_err());
        assert_eq!(address(OsStr::new("/a/../b")).unwrap(), "/a/../b");
        assert!(address(OsStr::new("x")).unwrap().starts_with('/'));
    }

    #[test]
    fn a_clone_is_called_after_the_last_part_of_its_address() {
        assert_eq!(last_name("https://h/x/app.git"), Some("app"));
        assert_eq!(last_name("h:app/"), Some("app"));
        assert_eq!(last_name("/"), None);
    }

    #[test]
    fn notes_survive_their_file() {
        let mut notes = Notes {
            warned: true,
            ..Notes::default()
        };
        notes.goes_with.insert("main".into(), "main-x".into());
        let end = End {
            commit: Oid([7; 20]),
            id: "cp_1".into(),
            body: Some("tree".into()),
        };
        notes.ends.insert("side".into(), end);
        assert_eq!(Notes::from_json(&notes.to_json()), notes);
        assert_eq!(Notes::from_json(&json!([1])), Notes::default());
    }
}
