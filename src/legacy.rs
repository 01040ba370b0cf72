//! Taking over from version 0.3, which is mounted in the same place.
//!
//! It keeps a plain copy of each open session in its scratch directory and compresses it into the
//! store after the last close, which can take minutes. Stopped earlier it leaves the copy behind as
//! the only place that has the newest lines. So its work is waited for; copies that an earlier end
//! left behind are merged into their sessions, which the ids in their lines name.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::exit::Failure;
use crate::migrate::{How, Migration, Taken};
use crate::mounts::{self, Unmount};
use crate::names::{OWN, Place};
use crate::paths;
use crate::progress::Progress;
use crate::shared::Shared;
use crate::store::Store;

/// It compresses less than a megabyte in a second, one session after the other.
const PATIENCE: Duration = Duration::from_secs(1_800);
const ENDING: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(100);
/// The extension of directories that copies are adopted from.
const STAGE: &str = "adopting";
/// Lines that are looked at for the session's id.
const LINES: usize = 20;

/// Waits until the daemon of 0.3 that is mounted here has stored everything.
pub fn wait_idle(config: &Config) -> Result<(), Failure> {
    let (progress, started) = (Progress::new("waiting for version 0.3"), Instant::now());
    loop {
        let copies = copies(config);
        let copies = copies.iter().filter(|copy| runs(copy.pid)).count();
        if copies == 0 {
            return Ok(());
        }
        progress.show(|| format!("{copies} sessions to compress"));
        if started.elapsed() > PATIENCE {
            let reason = format!("version 0.3 still works on {copies} sessions");
            return Err(Failure::at("cannot take over", &config.mount_dir, reason)
                .advise("close all programs that use them and run it again"));
        }
        thread::sleep(STEP);
    }
}

/// The store it serves, where its command line or environment names one.
pub fn store(config: &Config) -> Option<PathBuf> {
    let proc = PathBuf::from(format!("/proc/{}", pid(config)?));
    let words = |name: &str| -> Option<Vec<OsString>> {
        let bytes = fs::read(proc.join(name)).ok()?;
        let words = bytes.split(|byte| *byte == 0);
        Some(
            words
                .map(|word| OsStr::from_bytes(word).to_owned())
                .collect(),
        )
    };
    let (args, variables) = (words("cmdline")?, words("environ")?);
    let after = |word: &OsStr, start: &str| {
        let value = word.as_bytes().strip_prefix(start.as_bytes())?;
        Some(OsStr::from_bytes(value).to_owned())
    };
    let apart = args.windows(2).find(|pair| pair[0] == "--store-dir");
    let joined = || args.iter().find_map(|arg| after(arg, "--store-dir="));
    let variable = || {
        variables
            .iter()
            .find_map(|v| after(v, "CLAUDE_CELLAR_STORE_DIR="))
    };
    let named = apart
        .map(|pair| pair[1].clone())
        .or_else(joined)
        .or_else(variable)?;
    let dir = PathBuf::from(named);
    (!dir.as_os_str().is_empty()).then(|| {
        fs::read_link(proc.join("cwd"))
            .unwrap_or_default()
            .join(dir)
    })
}

/// Unmounts it and waits until its process has ended.
pub fn stop(config: &Config, mount_dir: &Path) -> Result<(), Failure> {
    let pid = pid(config);
    if mounts::at(mount_dir).is_ok_and(|mount| mount.is_some()) {
        mounts::unmount(mount_dir, Unmount::Plain).map_err(|error| {
            Failure::at("cannot unmount", mount_dir, error).advise("close what uses it")
        })?;
    }
    let started = Instant::now();
    while pid.is_some_and(runs) {
        if started.elapsed() > ENDING {
            let pid = pid.unwrap_or_default();
            return Err(Failure::new(format!(
                "version 0.3 does not end (pid {pid}); end it and run this again"
            )));
        }
        thread::sleep(STEP);
    }
    Ok(())
}

/// Its process. Without a runtime directory it keeps the pid file beside its log.
fn pid(config: &Config) -> Option<u32> {
    let beside = config.log_file.with_file_name("daemon.pid");
    let pids = [&config.pid_file, &beside].map(|file| {
        let text = fs::read_to_string(file).ok()?;
        text.trim().parse().ok()
    });
    pids.into_iter().flatten().find(|pid| runs(*pid))
}

/// One that has ended may stay listed: in a container nobody may collect it.
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let ours = stat
        .split_once(" (")
        .map(|(_, rest)| rest.rsplit_once(") "));
    matches!(ours, Some(Some((name, rest))) if name == mounts::NAME && !rest.starts_with('Z'))
}

/// A plain copy of a session that 0.3 has made: `fd-PID-INODE-TIME.jsonl`.
struct Copy {
    path: PathBuf,
    pid: u32,
}

/// Where it keeps its copies: without a runtime directory in the temporary one, where only a
/// directory of our own is trusted.
fn scratch_dirs(config: &Config) -> Vec<PathBuf> {
    let shared = env::temp_dir().join("claude-cellar-scratch");
    let ours = |dir: &PathBuf| {
        let meta = dir.symlink_metadata();
        meta.is_ok_and(|meta| meta.is_dir() && meta.uid() == paths::effective_uid())
    };
    let shared = Some(shared).filter(ours);
    [config.scratch_dir.clone()]
        .into_iter()
        .chain(shared)
        .collect()
}

fn copies(config: &Config) -> Vec<Copy> {
    let dirs = scratch_dirs(config).into_iter();
    let found = dirs.flat_map(|dir| entries(&dir, "jsonl"));
    let copies = found.filter_map(|path| {
        let mut parts = path.file_name()?.to_str()?.split('-');
        let pid = (parts.next()? == "fd").then(|| parts.next()?.parse().ok())??;
        Some(Copy { path, pid })
    });
    copies.collect()
}

/// What of ours in a directory has this extension, in order.
fn entries(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| {
        let meta = entry.metadata();
        entry.path().extension().is_some_and(|e| e == extension)
            && meta.is_ok_and(|meta| meta.uid() == paths::effective_uid())
    });
    let mut found: Vec<PathBuf> = ours.map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// Merges the copies that a daemon left behind which runs no more. Each is laid out as what was
/// written beside the mount would be, in a directory of its own, and adopted.
pub fn recover(config: &Config, shared: &Arc<Shared>) -> io::Result<Taken> {
    for copy in copies(config).into_iter().filter(|copy| !runs(copy.pid)) {
        match session_name(&copy.path)? {
            Some(name) => match find(&shared.store, &name)? {
                Some(place) => stage(&copy.path, &place)?,
                None => set_aside(&shared.store, &copy.path)?,
            },
            None => set_aside(&shared.store, &copy.path)?,
        }
    }
    let mut taken = Taken::default();
    let dirs = scratch_dirs(config).into_iter();
    for stage in dirs.flat_map(|dir| entries(&dir, STAGE)) {
        let top = File::open(&stage)?.into();
        taken.add(Migration::new(shared.clone(), top, Path::new(""), How::Adopt)?.run()?);
        // Stays if something in it could not be taken.
        let _ = fs::remove_dir(&stage);
    }
    Ok(taken)
}

fn stage(copy: &Path, place: &Path) -> io::Result<()> {
    let stage = copy.with_extension(STAGE);
    fs::create_dir_all(stage.join(place.parent().unwrap_or(Path::new(""))))?;
    fs::rename(copy, stage.join(place))
}

/// Nobody can tell whose it is.
fn set_aside(store: &Store, copy: &Path) -> io::Result<()> {
    let place = Place {
        dir: PathBuf::new(),
        name: copy.file_name().unwrap_or_default().to_owned(),
    };
    store.recover_bytes(&place, &mut File::open(copy)?)?;
    fs::remove_file(copy)
}

/// The file name that the ids in the first lines of a session give it. A sub-agent's lines have their
/// session's id too.
fn session_name(path: &Path) -> io::Result<Option<OsString>> {
    for line in BufReader::new(File::open(path)?).split(b'\n').take(LINES) {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        if let Some(id) = id_in(&line, "sessionId") {
            let name = match id_in(&line, "agentId") {
                Some(agent) => format!("agent-{agent}.jsonl"),
                None => format!("{id}.jsonl"),
            };
            return Ok(Some(name.into()));
        }
    }
    Ok(None)
}

fn id_in<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let after = line.split_once(&format!("\"{key}\""))?.1.trim_start();
    let value = after.strip_prefix(':')?.trim_start().strip_prefix('"')?;
    let id = value.split('"').next()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    (!id.is_empty() && id.bytes().all(plain)).then_some(id)
}

/// Where the session of this name is in the store.
fn find(store: &Store, name: &OsStr) -> io::Result<Option<PathBuf>> {
    for project in fs::read_dir(store.path())? {
        let project = project?.file_name();
        if project == OWN {
            continue;
        }
        if let Ok(dir) = store.dir(Path::new(&project))
            && store.find(dir.as_fd(), name).is_ok()
        {
            return Ok(Some(Path::new(&project).join(name)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_line_tells_its_session_s_id() {
        let id_in = |line| super::id_in(line, "sessionId");
        assert_eq!(id_in(r#"{"type":"user","sessionId":"a-1"}"#), Some("a-1"));
        assert_eq!(id_in(r#"{"sessionId" : "b"}"#), Some("b"));
        for line in [
            "",
            "{}",
            r#"{"sessionId":""}"#,
            r#"{"sessionId":"../x"}"#,
            r#""sessionId""#,
        ] {
            assert_eq!(id_in(line), None, "{line}");
        }
    }
}
