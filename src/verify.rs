//! `verify`: decodes every stored byte and tells what is wrong, without changing anything.
//!
//! Two threads examine one session each; what they find is told in the order of the paths, as soon
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

/// Verifies the paths, or the configured store, and writes what it finds to `out`.
pub fn run(
    config: &Config,
    paths: &[PathBuf],
    json: bool,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let store = [config.store_dir.clone()];
    let paths = if paths.is_empty() { &store } else { paths };
    let (mut sessions, mut recovered) = (Vec::new(), 0);
    for path in paths {
        let cannot = |e: io::Error| Failure::at("cannot verify", path, e);
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => {
                collect(path, &mut sessions).map_err(cannot)?;
                recovered += entries(&path.join(OWN).join("recovered"));
            }
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
    let mut report = Report::new(json, out);
    report
        .gather(&sessions)
        .and_then(|()| report.finish(recovered))
        .map_err(|e| Failure::new(format!("cannot write the output: {e}")))?;
    Ok(match report.findings {
        0 => Exit::Done,
        _ => Exit::Failed,
    })
}

fn entries(dir: &Path) -> u64 {
    fs::read_dir(dir).map_or(0, |entries| entries.count() as u64)
}

struct Report<'a> {
    json: bool,
    out: &'a mut dyn Write,
    files: u64,
    original: u64,
    stored: u64,
    findings: u64,
    /// The findings as JSON objects.
    objects: Vec<String>,
}

impl<'a> Report<'a> {
    fn new(json: bool, out: &'a mut dyn Write) -> Report<'a> {
        Report {
            json,
            out,
            files: 0,
            original: 0,
            stored: 0,
            findings: 0,
            objects: Vec::new(),
        }
    }

    /// Verifies the sessions and tells of each in their order, as soon as those before are done.
    fn gather(&mut self, sessions: &[Named]) -> io::Result<()> {
        let work = Work {
            sessions,
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
                        if !looked.findings.is_empty() {
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
        for Finding { path, fault } in looked.findings {
            if self.json {
                self.objects.push(format!(
                    "{{\"path\":{},\"offset\":{},\"what\":{}}}",
                    json::string(&path.to_string_lossy()),
                    fault.at(),
                    json::string(&fault.what())
                ));
            } else {
                writeln!(self.out, "{}: {fault}", path.display())?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, recovered: u64) -> io::Result<()> {
        if self.json {
            writeln!(
                self.out,
                "{{\"files\":{},\"original_bytes\":{},\"stored_bytes\":{},\"recovered\":{recovered},\
                 \"findings\":[{}]}}",
                self.files,
                self.original,
                self.stored,
                self.objects.join(",")
            )?;
        } else {
            let result = match self.findings {
                0 => "sound".to_owned(),
                findings => size::count(findings, "finding"),
            };
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
                .send((n, session.verify(&mut checker, &done)))
                .is_err()
            {
                return;
            }
        }
    }
}
