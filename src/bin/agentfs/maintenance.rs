//! Keeping a store small and quick, in the background.
//!
//! Every few hundred checkpoints a process of its own packs what is loose. It is in no terminal and no
//! process group of the caller's, runs only when nobody else wants the processor, and leaves the
//! store's lock alone: an object is dropped loose only once a pack has it, so a checkpoint made
//! meanwhile loses nothing, and a kill leaves files that the next run removes.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::note::Checkpoint;
use super::objects::{Kind, Objects};
use super::project::Project;
use super::{git, hook, refs};
use crate::exit::Failure;
use crate::size;
use crate::{paths, sys};

/// The hidden command that packs the store it is given.
pub const COMMAND: &str = "maintain";

/// Checkpoints from one packing to the next.
const EVERY: u64 = 200;
/// Objects in one of the 256 directories of loose ones that make the rest look like too many.
const CROWD: usize = 24;
/// How long an attempt counts, whether it could pack or not.
const PAUSE: Duration = Duration::from_secs(600);
/// What nobody can be writing any more.
const OLD: Duration = Duration::from_secs(3_600);
/// Locks of names are held for moments.
const OLD_LOCK: Duration = Duration::from_secs(10);
/// Quarantines of a push to this store, which may take long.
const OLD_PUSH: Duration = Duration::from_secs(86_400);
/// Packs from which on all are looked at for merging.
const PACKS: usize = 8;
/// Free bytes that packing leaves on the disk.
const RESERVE: u64 = 64 << 20;

/// Whether this process is the program itself, and not one that uses the library.
static IS_PROGRAM: AtomicBool = AtomicBool::new(false);

/// Tells that this process is the program `agentfs`, which can start itself again.
pub fn this_is_the_program() {
    IS_PROGRAM.store(true, Ordering::Relaxed);
}

/// After a checkpoint: starts packing when it is due. Never fails, never waits.
pub fn after(project: &Project, made: &Checkpoint) {
    if made.note.version.is_multiple_of(EVERY) || (is_crowded(project) && !is_recent(project)) {
        start(project);
    }
}

/// Starts packing: much has been added at once.
pub fn pack_soon(project: &Project) {
    start(project);
}

/// Names are spread evenly, so that one directory tells how many are in all.
fn is_crowded(project: &Project) -> bool {
    let sample = fs::read_dir(project.store.join("objects/17"));
    sample.is_ok_and(|entries| entries.take(CROWD).count() == CROWD)
}

/// What was tried a moment ago, and left so many, will not do better now.
fn is_recent(project: &Project) -> bool {
    let meta = fs::metadata(project.own(LOCK));
    meta.is_ok_and(|meta| age(&meta) < PAUSE)
}

fn start(project: &Project) {
    let Some(program) = program() else {
        return;
    };
    let mut command = Command::new(program);
    command
        .arg(COMMAND)
        .arg(&project.store)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            Ok(())
        });
    }
    if let Ok(mut child) = command.spawn() {
        // Whoever lives longer than the child must not keep its remains.
        thread::spawn(move || child.wait());
    }
}

/// The program that packs: this one, even where its file was replaced meanwhile.
fn program() -> Option<PathBuf> {
    match IS_PROGRAM.load(Ordering::Relaxed) {
        true => Some("/proc/self/exe".into()),
        false => paths::in_path("agentfs").find(|path| paths::is_program(path)),
    }
}

/// The hidden command. What goes wrong is noted in the store's log: nobody is looking.
pub fn run(args: &[OsString]) -> Result<(), Failure> {
    let [store] = args else {
        return Err(Failure::usage(format!("{COMMAND} needs a store")));
    };
    sys::lowest_priority();
    only_when_idle();
    let project = Project {
        name: String::new(),
        dir: PathBuf::new(),
        store: PathBuf::from(store),
    };
    let Some(lock) = lock(&project, Duration::ZERO)? else {
        return Ok(());
    };
    lock.share();
    let done = pack(&project);
    if let Err(failure) = &done {
        hook::note_trouble(&project, &format!("packing: {failure}"));
    }
    done
}

fn only_when_idle() {
    // SAFETY: plain data; 0 is this process. A refusal changes nothing.
    unsafe {
        let parameter: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameter);
    }
}

// ---- one at a time ----------------------------------------------------------------------------

const LOCK: &str = "maintenance";

/// Lets no other process write packs, for as long as the file is open.
pub struct Lock(File);

impl Lock {
    /// Lets children that outlive a killed parent keep the lock.
    pub fn share(&self) {
        // SAFETY: takes a descriptor that is open.
        unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_SETFD, 0) };
    }
}

/// Waits for the right to write packs at most this long; `None` when somebody else kept it.
pub fn lock(project: &Project, patience: Duration) -> Result<Option<Lock>, Failure> {
    let path = project.own(LOCK);
    let failed = |error| Failure::at("cannot lock the store", &path, error);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(failed)?;
    let until = Instant::now() + patience;
    loop {
        // SAFETY: takes a descriptor that is open.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::WouldBlock {
            return Err(failed(error));
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(20));
    }
    file.set_modified(SystemTime::now()).map_err(failed)?;
    Ok(Some(Lock(file)))
}

/// [`lock`] for who cannot do without.
pub fn insist(project: &Project) -> Result<Lock, Failure> {
    let patience = Duration::from_secs(120);
    lock(project, patience)?.ok_or_else(|| {
        Failure::at("the store is busy", &project.store, "it is being packed").advise("try again")
    })
}

// ---- packing ----------------------------------------------------------------------------------

/// Packs what is loose, merges small packs, and indexes the history. Needs [`Lock`].
pub fn pack(project: &Project) -> Result<(), Failure> {
    remove_leftovers(project);
    let stored = Stored::of(project)?;
    let free = free(&project.store)?;
    if stored.loose > 0 {
        need(project, free, stored.loose)?;
        pack_loose(project)?;
    }
    if stored.packs >= PACKS && free > stored.loose + stored.packed + RESERVE {
        let merged = git::run(&mut packing(
            project,
            ["repack", "-q", "-d", "--geometric=2"],
        ));
        if merged.is_err() {
            // Git before 2.33 cannot do that.
            pack_whole(project)?;
        }
    }
    keep_at_hand(project)?;
    index(project, "--split")
}

/// One pack of everything, of what no branch leads to as well.
pub fn pack_whole(project: &Project) -> Result<(), Failure> {
    let args = ["repack", "-q", "-a", "-d", "-l", "--keep-unreachable"];
    git::run(&mut packing(project, args)).map(|_| ())
}

/// Stores the newest checkpoint's commit loose again: every checkpoint begins with reading it, and only
/// what is loose is read without starting git.
pub fn keep_at_hand(project: &Project) -> Result<(), Failure> {
    let branch = refs::current(project)?;
    if let Some(tip) = refs::read(project, &branch)? {
        let body = project.git().object(&tip.to_string())?;
        let written = Objects::new(&project.store).write(Kind::Commit, &body);
        written.map_err(|error| Failure::at("cannot write to the store", &project.store, error))?;
    }
    Ok(())
}

/// Names of files steer the search for what is similar, so the history is walked for them; what it does
/// not lead to stays as it is.
fn pack_loose(project: &Project) -> Result<(), Failure> {
    git::run(&mut packing(project, ["repack", "-q", "-d", "-l"]))?;
    Ok(())
}

/// Lets git find the checkpoints that changed a path without reading the others' trees.
pub fn index(project: &Project, split: &str) -> Result<(), Failure> {
    let args = [
        "commit-graph",
        "write",
        "--reachable",
        "--changed-paths",
        "--no-progress",
        split,
    ];
    git::run(&mut packing(project, args)).map(|_| ())
}

/// A git command that takes one processor and little memory.
pub fn packing<'a>(project: &Project, args: impl IntoIterator<Item = &'a str>) -> Command {
    let limits = [
        "pack.threads=1",
        "pack.windowMemory=128m",
        "pack.deltaCacheSize=32m",
        "core.bigFileThreshold=16m",
        "repack.writeBitmaps=false",
        "pack.writeReverseIndex=true",
    ];
    let options = limits.into_iter().flat_map(|limit| ["-c", limit]);
    project.git().command(options.chain(args))
}

/// What takes room in a store, in bytes.
pub struct Stored {
    pub loose: u64,
    pub packed: u64,
    pub packs: usize,
}

impl Stored {
    pub fn of(project: &Project) -> Result<Stored, Failure> {
        let printed = project.git().output(["count-objects", "-v"])?;
        let printed = String::from_utf8_lossy(&printed);
        let number = |name: &str| {
            let line = printed.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|number| number.trim().parse::<u64>().ok())
                .unwrap_or(0)
        };
        Ok(Stored {
            loose: number("size:") * 1024,
            packed: number("size-pack:") * 1024,
            packs: number("packs:") as usize,
        })
    }
}

/// Bytes that the store's file system has left.
pub fn free(store: &Path) -> Result<u64, Failure> {
    let stat = File::open(store)
        .and_then(|dir| sys::statvfs(dir.as_fd()))
        .map_err(|error| Failure::at("cannot read the store", store, error))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Refuses what would fill the disk.
pub fn need(project: &Project, free: u64, bytes: u64) -> Result<(), Failure> {
    if free >= bytes.saturating_add(RESERVE) {
        return Ok(());
    }
    let (free, bytes) = (size::bytes(free), size::bytes(bytes + RESERVE));
    let reason = format!("{free} are free, {bytes} are needed");
    Err(Failure::at("cannot pack the history", &project.store, reason).advise("make room"))
}

// ---- what kills left --------------------------------------------------------------------------

/// Removes what killed processes left in the store. Needs [`Lock`].
pub fn remove_leftovers(project: &Project) {
    let objects = project.store.join("objects");
    each(&objects, &mut |path, name, meta| {
        if name.starts_with("tmp_objdir-") && age(meta) > OLD_PUSH {
            let _ = fs::remove_dir_all(path);
        } else if name.starts_with("tmp_obj_") && meta.is_file() && age(meta) > OLD {
            let _ = fs::remove_file(path);
        } else if name.len() == 2 && meta.is_dir() {
            each(path, &mut |path, name, meta| {
                if name.starts_with("tmp_obj_") && age(meta) > OLD {
                    let _ = fs::remove_file(path);
                }
            });
        }
    });
    each(&objects.join("pack"), &mut |path, name, meta| {
        let is_temporary = name.starts_with("tmp_") || name.starts_with(".tmp-");
        // An index without its pack is what a kill leaves of removing both.
        let is_half = [".idx", ".rev", ".bitmap", ".mtimes"]
            .iter()
            .any(|end| name.ends_with(end))
            && name.starts_with("pack-")
            && !path.with_extension("pack").exists();
        if (is_temporary || is_half || name.ends_with(".lock")) && age(meta) > OLD {
            let _ = fs::remove_file(path);
        }
    });
    // Who indexes the history, fetches, or notes where from, has the lock.
    let _ = fs::remove_file(project.store.join("config.lock"));
    remove_locks(&objects.join("info/commit-graphs"), Duration::ZERO);
    remove_locks(&project.store.join("refs/remotes"), Duration::ZERO);
    remove_locks(&objects.join("info"), OLD_LOCK);
    remove_locks(&project.store.join("refs"), OLD_LOCK);
    each(&project.store, &mut |path, name, meta| {
        if meta.is_file() && name.ends_with(".lock") && age(meta) >= OLD_LOCK {
            let _ = fs::remove_file(path);
        }
    });
}

/// Removes lock files of git that are at least so old.
fn remove_locks(dir: &Path, old: Duration) {
    each(dir, &mut |path, name, meta| {
        if meta.is_dir() {
            remove_locks(path, old);
        } else if name.ends_with(".lock") && age(meta) >= old {
            let _ = fs::remove_file(path);
        }
    });
}

fn each(dir: &Path, seen: &mut dyn FnMut(&Path, &str, &fs::Metadata)) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        if let (Some(name), Ok(meta)) = (entry.file_name().to_str(), entry.metadata()) {
            seen(&entry.path(), name, &meta);
        }
    }
}

/// Since the last change; nothing for what is of the future.
fn age(meta: &fs::Metadata) -> Duration {
    let changed = Duration::from_secs(meta.mtime().max(0) as u64);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or_default().saturating_sub(changed)
}
