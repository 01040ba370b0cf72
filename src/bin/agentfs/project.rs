//! Projects: which directories have a history, and where it is.
//!
//! A store is a bare git directory `<name>-<id>` in the home of all stores, never inside the project, so
//! that nothing that cleans the project takes the history with it. Which directory it belongs to is
//! said in the store itself: there is no registry that could disagree. What is ours and not git's lies
//! in the store's directory `agentfs`.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha1::{Digest, Sha1};

use super::git::{self, Git};
use crate::exit::Failure;
use crate::paths;
use crate::sys;

/// The branch that a project begins on.
pub const MAIN: &str = "main";

/// What a store's configuration has beyond what git writes into a new one.
const CONFIG: &str = "\
[core]
\tlogAllRefUpdates = false
\tcommitGraph = true
[gc]
\tauto = 0
[receive]
\tdenyCurrentBranch = ignore
[commitGraph]
\treadChangedPaths = true
[fsck]
";

/// What `git fsck` thinks no commit should hold and a working directory may: names that some other
/// system takes for `.git`, and files of git's own that are links, directories or nonsense.
const TOLERATED: [&str; 10] = [
    "hasDotgit",
    "gitmodulesBlob",
    "gitmodulesLarge",
    "gitmodulesMissing",
    "gitmodulesName",
    "gitmodulesParse",
    "gitmodulesPath",
    "gitmodulesSymlink",
    "gitmodulesUpdate",
    "gitmodulesUrl",
];

/// The same since git 2.39; an older one refuses to run when it reads of them.
const TOLERATED_LATER: [&str; 6] = [
    "gitattributesBlob",
    "gitattributesLarge",
    "gitattributesLineLength",
    "gitattributesSymlink",
    "gitignoreSymlink",
    "mailmapSymlink",
];

/// A directory with a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    pub name: String,
    /// The working directory, resolved.
    pub dir: PathBuf,
    /// The bare git directory.
    pub store: PathBuf,
}

/// Where all stores are: `$AGENTFS_HOME`, else `$XDG_DATA_HOME/agentfs`, else in `~/.local/share`.
pub fn home() -> Result<PathBuf, Failure> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let home = set("AGENTFS_HOME").map(PathBuf::from).or_else(|| {
        let data = set("XDG_DATA_HOME").map(PathBuf::from);
        let data = data.or_else(|| Some(PathBuf::from(set("HOME")?).join(".local/share")));
        Some(data?.join("agentfs"))
    });
    let home = home.ok_or_else(|| Failure::new("HOME is not set").advise("set AGENTFS_HOME"))?;
    match home.is_absolute() {
        true => Ok(paths::resolve(&home)),
        false => Err(
            Failure::at("cannot keep histories in", &home, "not an absolute path")
                .advise("set AGENTFS_HOME to one"),
        ),
    }
}

/// Every project there is, by name. What cannot be read is not one.
pub fn all() -> Result<Vec<Project>, Failure> {
    let home = home()?;
    let entries = match fs::read_dir(&home) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Failure::at("cannot read the directory", &home, error)),
    };
    let stores = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut projects: Vec<Project> = stores.filter_map(Project::read).collect();
    projects.sort_by(|a, b| (&a.name, &a.dir).cmp(&(&b.name, &b.dir)));
    Ok(projects)
}

impl Project {
    /// The project that a directory lies in, the innermost; `None` if there is none.
    pub fn around(dir: &Path) -> Result<Option<Project>, Failure> {
        let dir = paths::resolve(dir);
        let around = all()?.into_iter().filter(|p| dir.starts_with(&p.dir));
        Ok(around.max_by_key(|project| project.dir.as_os_str().len()))
    }

    /// The project meant by `-C`: a directory in it, or its name.
    pub fn named(word: Option<&OsStr>) -> Result<Project, Failure> {
        let current = || {
            env::current_dir()
                .map_err(|error| Failure::new(format!("no current directory: {error}")))
        };
        let dir = match word {
            Some(word) if Path::new(word).is_dir() => PathBuf::from(word),
            Some(word) => {
                let mut named: Vec<Project> = all()?;
                named.retain(|project| project.name.as_bytes() == word.as_bytes());
                return match named.len() {
                    1 => Ok(named.remove(0)),
                    0 => Err(Failure::at(
                        "no project",
                        Path::new(word),
                        "neither name nor directory",
                    )
                    .advise("see `agentfs list`")),
                    _ => Err(
                        Failure::at("several projects", Path::new(word), "have this name")
                            .advise("give the directory"),
                    ),
                };
            }
            None => current()?,
        };
        Project::around(&dir)?.ok_or_else(|| {
            let gone = all().is_ok_and(|all| all.iter().any(|project| !project.dir.is_dir()));
            let next = match gone {
                true => "run `agentfs init` there, or `agentfs relocate .` if it was moved",
                false => "run `agentfs init` there",
            };
            let dir = paths::resolve(&dir);
            Failure::at("no project", &dir, "its changes are not recorded").advise(next)
        })
    }

    fn read(store: PathBuf) -> Option<Project> {
        let text = fs::read(store.join("agentfs/project.json")).ok()?;
        let value: Value = serde_json::from_slice(&text).ok()?;
        let dir = value.get("dir")?.as_array()?;
        let bytes: Option<Vec<u8>> = dir
            .iter()
            .map(|byte| u8::try_from(byte.as_u64()?).ok())
            .collect();
        Some(Project {
            name: value.get("name")?.as_str()?.to_owned(),
            dir: PathBuf::from(std::ffi::OsString::from_vec(bytes?)),
            store,
        })
    }

    /// Makes an empty store for a directory, which belongs to it from then on.
    pub fn create(name: Option<&str>, dir: &Path) -> Result<Project, Failure> {
        let (project, begun) = Project::prepare(name, dir)?;
        project.settle(begun).inspect_err(|_| {
            let _ = fs::remove_dir_all(&project.store);
        })?;
        Ok(project)
    }

    /// Makes an empty store for a directory, which is nobody's until [`Project::settle`]. What was killed
    /// between is removed by the next one.
    pub fn prepare(name: Option<&str>, dir: &Path) -> Result<(Project, Begun), Failure> {
        let dir = dir
            .canonicalize()
            .map_err(|error| Failure::at("cannot use the directory", dir, error))?;
        let home = home()?;
        refuse_unfit(&dir, &home)?;
        remove_killed(&home);
        let last = dir.file_name().unwrap_or_default().to_string_lossy();
        let name = name.unwrap_or(&last);
        if name.is_empty() || name.starts_with(['-', '.']) || name.contains(['/', '\n', '\0']) {
            return Err(Failure::usage(format!("{name:?} is no name for a project"))
                .advise("give another: `agentfs init NAME`"));
        }
        let id = Sha1::digest(dir.as_os_str().as_bytes());
        let id: String = id[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        let mut store = home.join(format!("{name}-{id}"));
        // A store that was forgotten or whose project moved away keeps its name.
        for number in 2.. {
            if !store.exists() {
                break;
            }
            store = home.join(format!("{name}-{id}-{number}"));
        }
        paths::create_private(&store)
            .map_err(|error| Failure::at("cannot create the store", &store, error))?;
        let project = Project {
            name: name.to_owned(),
            dir,
            store,
        };
        let made = Begun::new(&project).and_then(|begun| project.make_store().map(|()| begun));
        match made {
            Ok(begun) => Ok((project, begun)),
            Err(failure) => {
                let _ = fs::remove_dir_all(&project.store);
                Err(failure)
            }
        }
    }

    /// Gives a prepared store to its directory.
    pub fn settle(&self, begun: Begun) -> Result<(), Failure> {
        self.register()?;
        let path = self.own(BEGUN);
        let removed = fs::remove_file(&path);
        drop(begun);
        removed.map_err(|error| Failure::at("cannot write", &path, error))
    }

    fn make_store(&self) -> Result<(), Failure> {
        let failed = |error| Failure::at("cannot create the store", &self.store, error);
        let branch = format!("--initial-branch={MAIN}");
        git::run(
            &mut self
                .git()
                .command(["init", "--bare", "--quiet", "--template=", &branch]),
        )?;
        let config = self.store.join("config");
        let mut text = fs::read_to_string(&config).map_err(failed)?;
        text.push_str(CONFIG);
        let later = format!("fsck.{}=ignore", TOLERATED_LATER[0]);
        let knows_later = self.git().output(["-c", &later, "fsck"]).is_ok();
        let later = TOLERATED_LATER.iter().filter(|_| knows_later);
        for message in TOLERATED.iter().chain(later) {
            text.push_str(&format!("\t{message} = ignore\n"));
        }
        fs::write(&config, text).map_err(failed)
    }

    /// Notes name and directory; from then on the store belongs to the directory.
    fn register(&self) -> Result<(), Failure> {
        let value = json!({
            "name": self.name,
            "dir": self.dir.as_os_str().as_bytes(),
            "shown": self.dir.to_string_lossy(),
        });
        replace(&self.own("project.json"), format!("{value}\n").as_bytes())
            .map_err(|error| Failure::at("cannot write", &self.own("project.json"), error))
    }

    /// Takes note that the project is now elsewhere.
    pub fn relocate(&mut self, dir: &Path) -> Result<(), Failure> {
        let dir = dir
            .canonicalize()
            .map_err(|error| Failure::at("cannot use the directory", dir, error))?;
        refuse_unfit(&dir, &home()?)?;
        self.dir = dir;
        self.register()
    }

    /// Parts directory and store. The history stays where it is, for who wants it.
    pub fn forget(&self) -> Result<(), Failure> {
        let (from, to) = (self.own("project.json"), self.own("forgotten.json"));
        fs::rename(&from, to).map_err(|error| Failure::at("cannot forget", &from, error))
    }

    pub fn git(&self) -> Git<'_> {
        Git::new(&self.store)
    }

    /// A file of ours in the store.
    pub fn own(&self, name: &str) -> PathBuf {
        self.store.join("agentfs").join(name)
    }

    /// A path that the user gave, from the current directory, as it is in the project.
    pub fn relative(&self, path: &OsStr) -> Result<Vec<u8>, Failure> {
        let given = Path::new(path);
        let absolute = match env::current_dir() {
            Ok(current) => current.join(given),
            Err(_) => self.dir.join(given),
        };
        let inside = |whole: &Path| {
            // The last component may be a symbolic link, which is itself meant.
            let parent = paths::resolve(whole.parent().unwrap_or(whole));
            let whole = match whole.file_name() {
                Some(name) => parent.join(name),
                None => paths::resolve(whole),
            };
            let inside = whole.strip_prefix(&self.dir).ok()?;
            Some(inside.as_os_str().as_bytes().to_vec())
        };
        // From elsewhere, with -C, paths are the project's.
        let found = match given.is_absolute() || lies_in(&absolute, &self.dir) {
            true => inside(&absolute),
            false => inside(&self.dir.join(given)),
        };
        found.ok_or_else(|| {
            let reason = format!("not in the project {}", self.dir.display());
            Failure::at("no such file", given, reason)
        })
    }
}

/// The lock of who makes a store, held until it is a project's.
pub struct Begun(#[expect(dead_code, reason = "held open")] File);

/// The file that [`Begun`] locks.
const BEGUN: &str = "begun";

impl Begun {
    fn new(project: &Project) -> Result<Begun, Failure> {
        let failed = |error| Failure::at("cannot create the store", &project.store, error);
        fs::create_dir(project.own("")).map_err(failed)?;
        let file = File::create(project.own(BEGUN)).map_err(failed)?;
        match try_lock(&file) {
            true => Ok(Begun(file)),
            false => Err(failed(io::Error::last_os_error())),
        }
    }
}

fn try_lock(file: &File) -> bool {
    // SAFETY: takes a descriptor that is open.
    unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) == 0 }
}

/// Removes stores whose making was killed, told by a lock that went with the process.
fn remove_killed(home: &Path) {
    for entry in fs::read_dir(home).into_iter().flatten().flatten() {
        let own = entry.path().join("agentfs");
        let Ok(file) = File::open(own.join(BEGUN)) else {
            // Killed even before the lock: only what is empty goes.
            let _ = fs::remove_dir(&own);
            let _ = fs::remove_dir(entry.path());
            continue;
        };
        if !try_lock(&file) {
            continue;
        }
        let _ = match own.join("project.json").exists() {
            true => fs::remove_file(own.join(BEGUN)),
            false if own.join(BEGUN).exists() => fs::remove_dir_all(entry.path()),
            false => Ok(()),
        };
    }
}

fn lies_in(path: &Path, dir: &Path) -> bool {
    path.parent()
        .is_some_and(|parent| paths::resolve(parent).starts_with(dir))
}

/// Replaces a small file in one step.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let written = fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    written.inspect_err(|_| drop(fs::remove_file(&temporary)))
}

/// Refuses directories whose every file somebody else also writes.
fn refuse_unfit(dir: &Path, home: &Path) -> Result<(), Failure> {
    let refuse = |reason: &str| {
        Err(Failure::at("cannot record", dir, reason).advise("choose a project directory"))
    };
    let user_home = env::var_os("HOME").map(|home| paths::resolve(Path::new(&home)));
    if dir == Path::new("/") {
        return refuse("it is the whole machine");
    }
    if user_home.is_some_and(|home| home.starts_with(dir)) {
        return refuse("it is a home directory, or above one");
    }
    if home.starts_with(dir) {
        return refuse("the histories themselves are in it");
    }
    if dir.starts_with(home) {
        return refuse("it is inside the histories");
    }
    for system in ["/proc", "/sys", "/dev"] {
        if dir.starts_with(system) {
            return refuse("it belongs to the system");
        }
    }
    Ok(())
}

/// The kind of network file system that a directory is on, if it is on one: a checkpoint asks it for
/// every file.
pub fn network(dir: &Path) -> Option<&'static str> {
    const NETWORKS: [(u64, &str); 8] = [
        (0x6969, "NFS"),
        (0xff53_4d42, "CIFS"),
        (0xfe53_4d42, "SMB"),
        (0x517b, "SMB"),
        (0x0102_1997, "9P"),
        (0x00c3_6400, "Ceph"),
        (0x5346_414f, "AFS"),
        (0x6573_5546, "FUSE"),
    ];
    let file = fs::File::open(dir).ok()?;
    let magic = sys::fs_magic(std::os::fd::AsFd::as_fd(&file)).ok()?;
    let found = NETWORKS
        .iter()
        .find(|(known, _)| *known == magic & 0xffff_ffff);
    found.map(|(_, name)| *name)
}
