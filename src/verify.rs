//! `verify`: decodes every stored byte and tells what is wrong, and what a repair did about it.
//!
//! Changes nothing itself. Two threads examine one session each; what they find is told in the order of the paths, as soon
//! as everything before it is known.

use crate::config::Config;
use crate::examine::{Finding, Looked, Named, collect, named};
use crate::exit::{Exit, Failure};
use crate::frames::Checker;
use crate::names::OWN;
use crate::progress::Progress;
use crate::{json, size};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

const WORKERS: usize = 2;
/// Progress is looked at this often when nothing else happens.
const TICK: Duration = Duration::from_millis(200);

/// How a session is looked at; [`Named::verify`] or a repair.
pub type Look<'a> = &'a (dyn Fn(&Named, &mut Checker, &dyn Fn(u64)) -> Option<Looked> + Sync);

/// What is told.
#[derive(Clone, Copy)]
pub struct Told {
    pub json: bool,
    /// What was repaired, too.
    pub repair: bool,
}

/// Verifies the paths, or the configured store, and writes what it finds to `out`.
pub fn run(
    config: &Config,
    paths: &[PathBuf],
    json: bool,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let store = [config.store_dir.clone()];
    let paths = if paths.is_empty() { &store } else { paths };
    let told = Told {
        json,
        repair: false,
    };
    check(paths, &Named::verify, told, out)
}

/// Looks at all sessions in the paths and tells what was found.
pub fn check(
    paths: &[PathBuf],
    look: Look,
    told: Told,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let mut sessions = Vec::new();
    for path in paths {
        let cannot = |e: io::Error| Failure::at("cannot verify", path, e);
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => collect(path, &mut sessions).map_err(cannot)?,
            found => {
                // A session goes by its visible name too, under which it may not be stored.
                let session = named(path).ok().filter(Named::exists);
                let session = match (session, found) {
                    (Some(session), _) => session,
                    (None, Err(error)) => return Err(cannot(error)),
                    (None, Ok(_)) => named(path).map_err(cannot)?,
                };
                sessions.push(session);
            }
        }
    }
    let mut report = Report::new(told, out);
    report
        .gather(&sessions, look)
        .and_then(|()| report.finish(paths.iter().map(|path| entries(path)).sum()))
        .map_err(|e| Failure::new(format!("cannot write the output: {e}")))?;
    Ok(match report.findings + report.hopeless.len() as u64 {
        0 => Exit::Done,
        _ => Exit::Failed,
    })
}

/// How much is kept in a store, if the path is one.
fn entries(path: &Path) -> u64 {
    fs::read_dir(path.join(OWN).join("recovered")).map_or(0, |entries| entries.count() as u64)
}

struct Report<'a> {
    told: Told,
    out: &'a mut dyn Write,
    files: u64,
    original: u64,
    stored: u64,
    findings: u64,
    /// All three as JSON objects.
    objects: Vec<String>,
    repaired: Vec<String>,
    hopeless: Vec<String>,
}

impl<'a> Report<'a> {
    fn new(told: Told, out: &'a mut dyn Write) -> Report<'a> {
        Report {
            told,
            out,
            files: 0,
            original: 0,
            stored: 0,
            findings: 0,
            objects: Vec::new(),
            repaired: Vec::new(),
            hopeless: Vec::new(),
        }
    }

    /// Looks at the sessions and tells of each in their order, as soon as those before are done.
    fn gather(&mut self, sessions: &[Named], look: Look) -> io::Result<()> {
        let work = Work {
            sessions,
            look,
            next: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
        };
        let progress = Progress::new("verifying");
        thread::scope(|scope| {
            let (send, receive) = mpsc::channel();
            for _ in 0..WORKERS.min(sessions.len()) {
                let (send, work) = (send.clone(), &work);
                scope.spawn(move || work.run(&send));
            }
            drop(send);
            let (mut next, mut early) = (0, BTreeMap::new());
            loop {
                match receive.recv_timeout(TICK) {
                    Ok((n, looked)) => early.insert(n, looked),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => break,
                };
                while let Some(looked) = early.remove(&next) {
                    next += 1;
                    if let Some(looked) = looked {
                        if looked.is_news() {
                            progress.wipe();
                        }
                        self.add(looked)?;
                    }
                }
                progress.show(|| {
                    let bytes = size::bytes(work.bytes.load(Ordering::Relaxed));
                    format!("{next} of {} sessions, {bytes} stored", sessions.len())
                });
            }
            Ok(())
        })
    }

    fn add(&mut self, looked: Looked) -> io::Result<()> {
        self.files += 1;
        self.original += looked.original;
        self.stored += looked.stored;
        self.findings += looked.findings.len() as u64;
        let path = |path: &Path| json::string(&path.to_string_lossy());
        for Finding { path: at, fault } in &looked.findings {
            if self.told.json {
                self.objects.push(format!(
                    "{{\"path\":{},\"offset\":{},\"what\":{}}}",
                    path(at),
                    fault.at(),
                    json::string(&fault.what())
                ));
            } else {
                writeln!(self.out, "{}: {fault}", at.display())?;
            }
        }
        if let Some(repaired) = &looked.repaired {
            self.repaired.push(format!(
                "{{\"path\":{},\"what\":{},\"kept\":{}}}",
                path(&repaired.path),
                json::string(&repaired.what),
                repaired.kept.as_deref().map_or("null".into(), path)
            ));
            if !self.told.json {
                write!(self.out, "{}: {}", repaired.path.display(), repaired.what)?;
                match &repaired.kept {
                    Some(kept) => writeln!(self.out, "; kept as {}", kept.display())?,
                    None => writeln!(self.out)?,
                }
            }
        }
        if let Some(hopeless) = &looked.hopeless {
            self.hopeless.push(format!(
                "{{\"path\":{},\"why\":{}}}",
                path(&hopeless.path),
                json::string(&hopeless.why)
            ));
            if !self.told.json {
                let at = hopeless.path.display();
                writeln!(self.out, "{at}: not repaired: {}", hopeless.why)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, recovered: u64) -> io::Result<()> {
        if self.told.json {
            let more = match self.told.repair {
                true => format!(
                    ",\"repaired\":[{}],\"not_repaired\":[{}]",
                    self.repaired.join(","),
                    self.hopeless.join(",")
                ),
                false => String::new(),
            };
            writeln!(
                self.out,
                "{{\"files\":{},\"original_bytes\":{},\"stored_bytes\":{},\"recovered\":{recovered},\
                 \"findings\":[{}]{more}}}",
                self.files,
                self.original,
                self.stored,
                self.objects.join(",")
            )?;
        } else {
            let mut result = match self.findings {
                0 => "sound".to_owned(),
                findings => size::count(findings, "finding"),
            };
            if !self.repaired.is_empty() {
                result += &format!(", {} repaired", self.repaired.len());
            }
            writeln!(
                self.out,
                "{}, {} stored as {}: {result}",
                size::count(self.files, "session"),
                size::bytes(self.original),
                size::bytes(self.stored)
            )?;
            if recovered > 0 {
                let files = size::count(recovered, "file");
                writeln!(self.out, "{files} to look at in {OWN}/recovered")?;
            }
        }
        self.out.flush()
    }
}

/// What the workers share.
struct Work<'a> {
    sessions: &'a [Named],
    look: Look<'a>,
    next: AtomicUsize,
    /// Stored bytes read.
    bytes: AtomicU64,
}

impl Work<'_> {
    fn run(&self, report: &mpsc::Sender<(usize, Option<Looked>)>) {
        let mut checker = Checker::default();
        let done = |bytes| {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        };
        loop {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(session) = self.sessions.get(n) else {
                return;
            };
            // Nobody listens any more once the output has failed.
            if report
                .send((n, (self.look)(session, &mut checker, &done)))
                .is_err()
            {
                return;
            }
        }
    }
}
