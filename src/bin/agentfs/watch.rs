//! Checkpoints after each quiet moment, for work without hooks.
//!
//! The kernel tells which directories change; what changed is found by the same scan as ever, so that a
//! lost or misread event costs time and no file. Where directories cannot all be watched the scan comes
//! by the clock. Nothing runs between events.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::cli::{self, Reply};
use super::hook;
use super::ignore::{Ignore, Verdict};
use super::localtime;
use super::note::{Checkpoint, Trigger};
use super::project::Project;
use super::record;
use super::render;
use super::scan::{Budget, TEMPORARY};
use super::writer::{self, IGNORE_FILE, Writer};
use crate::exit::Failure;
use crate::signals;
use crate::size;
use crate::sys;
use crate::usage::Given;

/// How long nothing must change.
const QUIET: Duration = Duration::from_secs(2);
/// How long changes may go on without a checkpoint.
const LONGEST: Duration = Duration::from_secs(60);
/// From one scan to the next where not everything can be watched.
const CLOCK: Duration = Duration::from_secs(10);
/// From a checkpoint that failed to the next attempt.
const AFTER_FAILURE: Duration = Duration::from_secs(10);

pub fn run(given: &mut Given) -> Result<Reply, Failure> {
    let project = cli::project(given)?;
    let quiet = match given.number::<f64>("quiet")? {
        None => QUIET,
        Some(seconds) => Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|quiet| !quiet.is_zero() && *quiet <= Duration::from_secs(3_600))
            .ok_or_else(|| Failure::usage("--quiet takes seconds, up to an hour"))?,
    };
    let failed = |error| Failure::new(format!("cannot watch: {error}"));
    let end = signals::descriptor().map_err(failed)?;
    let mut watcher = Watcher::new(&project.dir).map_err(failed)?;
    watcher.add(b"");
    if watcher.is_limited {
        eprintln!(
            "agentfs: not every directory can be watched: looking every {}; see fs.inotify.max_user_watches",
            size::duration(CLOCK)
        );
    }
    say(&format!("watching {}\n", project.dir.display()));
    let mut pending = Pending::new(quiet);
    // What has changed before is the first checkpoint.
    pending.changed(Instant::now());
    loop {
        let idle = watcher.is_limited.then_some(CLOCK);
        let timeout = pending.timeout(Instant::now()).or(idle);
        let (has_events, is_over) = wait(&watcher.fd, &end, timeout).map_err(failed)?;
        if has_events && watcher.take().map_err(failed)? {
            pending.changed(Instant::now());
        }
        let by_clock = watcher.is_limited && !has_events;
        if is_over || by_clock || pending.is_due(Instant::now()) {
            match look(&project) {
                Ok(made) => {
                    pending.done();
                    if let Some(made) = made {
                        tell(&project, &made);
                    }
                }
                Err(failure) if is_over => return Err(failure),
                Err(failure) => {
                    still_there(&project)?;
                    eprintln!("agentfs: {failure}");
                    pending.failed(Instant::now());
                }
            }
        }
        if is_over {
            return Ok(Reply::Text(String::new()));
        }
    }
}

fn look(project: &Project) -> Result<Option<Checkpoint>, Failure> {
    still_there(project)?;
    let mut writer = Writer::insist(project)?;
    hook::look(&mut writer, None, Trigger::Auto, Budget::NONE)
}

fn still_there(project: &Project) -> Result<(), Failure> {
    let is_ours = project.own("project.json").exists();
    match is_ours && project.dir.is_dir() {
        true => Ok(()),
        false => Err(Failure::at(
            "cannot watch",
            &project.dir,
            "it is no project any more",
        )),
    }
}

fn tell(project: &Project, made: &Checkpoint) {
    let changes = record::changes(project, made).unwrap_or_default();
    say(&format!(
        "{}  v{} {}: {}, {}\n",
        localtime::local(made.note.time).clock(),
        made.note.version,
        made.note.id,
        size::count(changes.len() as u64, "file"),
        render::total(&changes),
    ));
}

/// Whoever does not listen any more does not end the checkpoints.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

// ---- when -------------------------------------------------------------------------------------

/// Changes that are in no checkpoint yet.
struct Pending {
    quiet: Duration,
    /// When the first and the last of them came.
    span: Option<(Instant, Instant)>,
    /// Not before this.
    not_before: Option<Instant>,
}

impl Pending {
    fn new(quiet: Duration) -> Pending {
        Pending {
            quiet,
            span: None,
            not_before: None,
        }
    }

    fn changed(&mut self, now: Instant) {
        let first = self.span.map_or(now, |(first, _)| first);
        self.span = Some((first, now));
    }

    fn done(&mut self) {
        self.span = None;
        self.not_before = None;
    }

    fn failed(&mut self, now: Instant) {
        self.not_before = Some(now + AFTER_FAILURE);
    }

    fn due(&self) -> Option<Instant> {
        let (first, last) = self.span?;
        let due = (last + self.quiet).min(first + LONGEST);
        Some(self.not_before.map_or(due, |limit| due.max(limit)))
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due().is_some_and(|due| now >= due)
    }

    /// How long until something is due; `None` while nothing is pending.
    fn timeout(&self, now: Instant) -> Option<Duration> {
        self.due().map(|due| due.saturating_duration_since(now))
    }
}

/// Sleeps until there are events, a signal, or the time is over.
fn wait(events: &OwnedFd, end: &OwnedFd, timeout: Option<Duration>) -> io::Result<(bool, bool)> {
    let entry = |fd: &OwnedFd| libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let mut entries = [entry(events), entry(end)];
    // Rounded up, so that it is over when poll says so.
    let timeout = timeout.map_or(-1, |timeout| {
        libc::c_int::try_from(timeout.as_millis() + 1).unwrap_or(libc::c_int::MAX)
    });
    // SAFETY: the entries are as many as is said.
    match unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, timeout) } {
        -1 => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok((false, false)),
            error => Err(error),
        },
        _ => Ok((entries[0].revents != 0, entries[1].revents != 0)),
    }
}

// ---- where ------------------------------------------------------------------------------------

const MASK: u32 = libc::IN_CREATE
    | libc::IN_DELETE
    | libc::IN_MODIFY
    | libc::IN_ATTRIB
    | libc::IN_CLOSE_WRITE
    | libc::IN_MOVED_FROM
    | libc::IN_MOVED_TO
    | libc::IN_DELETE_SELF
    | libc::IN_ONLYDIR
    | libc::IN_DONT_FOLLOW
    | libc::IN_EXCL_UNLINK;

/// The directories of a project, watched.
struct Watcher {
    fd: OwnedFd,
    root: PathBuf,
    device: u64,
    ignore: Ignore,
    /// Paths in the project by watch, the project's own is empty.
    dirs: HashMap<i32, Vec<u8>>,
    /// Some directory could not be watched.
    is_limited: bool,
}

impl Watcher {
    fn new(root: &Path) -> io::Result<Watcher> {
        // SAFETY: takes plain numbers.
        let fd = match unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) } {
            -1 => return Err(io::Error::last_os_error()),
            // SAFETY: a new descriptor that nobody else owns.
            fd => unsafe { OwnedFd::from_raw_fd(fd) },
        };
        Ok(Watcher {
            fd,
            root: root.to_owned(),
            device: fs::metadata(root)?.dev(),
            ignore: writer::ignore(root),
            dirs: HashMap::new(),
            is_limited: false,
        })
    }

    fn place(&self, path: &[u8]) -> PathBuf {
        self.root.join(std::ffi::OsStr::from_bytes(path))
    }

    /// Watches a directory and all below it that are part of the project.
    fn add(&mut self, path: &[u8]) {
        let mut todo = vec![path.to_vec()];
        while let Some(path) = todo.pop() {
            let place = self.place(&path);
            let Ok(name) = CString::new(place.as_os_str().as_bytes()) else {
                continue;
            };
            // SAFETY: a descriptor that is open and a path that ends in a zero byte.
            let watch =
                unsafe { libc::inotify_add_watch(self.fd.as_raw_fd(), name.as_ptr(), MASK) };
            if watch == -1 {
                let error = io::Error::last_os_error();
                // What has gone or cannot be read is not scanned either.
                self.is_limited |= sys::is(&error, libc::ENOSPC) || sys::is(&error, libc::ENOMEM);
                if self.is_limited {
                    return;
                }
                continue;
            }
            self.dirs.insert(watch, path.clone());
            // After it is watched: what is made from now on is told.
            for entry in fs::read_dir(&place).into_iter().flatten().flatten() {
                let below = joined(&path, entry.file_name().as_bytes());
                let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
                let is_here = || entry.metadata().is_ok_and(|meta| meta.dev() == self.device);
                if is_dir && self.is_part(&below, true) && is_here() {
                    todo.push(below);
                }
            }
        }
    }

    fn is_part(&self, path: &[u8], is_dir: bool) -> bool {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        name != b".git"
            && !name.starts_with(TEMPORARY)
            && self.ignore.verdict(path, is_dir) != Verdict::Out
    }

    /// Takes all events there are; tells whether the project may have changed.
    fn take(&mut self) -> io::Result<bool> {
        let mut changed = false;
        let mut buffer = vec![0u8; 64 << 10];
        loop {
            // SAFETY: the buffer is as long as is said.
            let read = unsafe {
                libc::read(
                    self.fd.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                )
            };
            if read < 0 {
                return match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::WouldBlock => Ok(changed),
                    error if error.kind() == io::ErrorKind::Interrupted => continue,
                    error => Err(error),
                };
            }
            let mut rest = &buffer[..read as usize];
            while let Some(event) = Event::next(&mut rest) {
                changed |= self.event(&event);
            }
        }
    }

    fn event(&mut self, event: &Event) -> bool {
        if event.mask & libc::IN_Q_OVERFLOW != 0 {
            self.add(b"");
            return true;
        }
        if event.mask & libc::IN_IGNORED != 0 {
            self.dirs.remove(&event.watch);
            return false;
        }
        let Some(dir) = self.dirs.get(&event.watch) else {
            return false;
        };
        if event.name.is_empty() {
            return true;
        }
        let path = joined(dir, &event.name);
        let is_dir = event.mask & libc::IN_ISDIR != 0;
        if path == IGNORE_FILE.as_bytes() {
            self.ignore = writer::ignore(&self.root);
            self.add(b"");
        }
        if !self.is_part(&path, is_dir) {
            return false;
        }
        if is_dir && event.mask & libc::IN_MOVED_FROM != 0 {
            self.forget(&path);
        }
        if is_dir && event.mask & (libc::IN_CREATE | libc::IN_MOVED_TO) != 0 {
            self.add(&path);
        }
        true
    }

    /// Watches no longer what was moved away; if it is still in the project it is added again.
    fn forget(&mut self, path: &[u8]) {
        let is_below = |dir: &[u8]| {
            let rest = dir.strip_prefix(path);
            rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        };
        let gone: Vec<i32> = self
            .dirs
            .iter()
            .filter(|(_, dir)| is_below(dir))
            .map(|(watch, _)| *watch)
            .collect();
        for watch in gone {
            // SAFETY: takes plain numbers.
            unsafe { libc::inotify_rm_watch(self.fd.as_raw_fd(), watch) };
            self.dirs.remove(&watch);
        }
    }
}

fn joined(dir: &[u8], name: &[u8]) -> Vec<u8> {
    match dir.is_empty() {
        true => name.to_vec(),
        false => [dir, b"/", name].concat(),
    }
}

/// What the kernel tells about a directory.
#[derive(Debug, PartialEq, Eq)]
struct Event {
    watch: i32,
    mask: u32,
    /// Of what is in the directory; empty when it is the directory itself.
    name: Vec<u8>,
}

impl Event {
    /// Takes one event from the front: `wd mask cookie len` in four bytes each, and the name, padded with
    /// zero bytes.
    fn next(rest: &mut &[u8]) -> Option<Event> {
        let mut number = || {
            let (number, after) = rest.split_first_chunk::<4>()?;
            *rest = after;
            Some(u32::from_ne_bytes(*number))
        };
        let (watch, mask, _, length) = (number()?, number()?, number()?, number()?);
        let (name, after) = rest.split_at_checked(length as usize)?;
        *rest = after;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        Some(Event {
            watch: watch as i32,
            mask,
            name: name.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_due_after_a_quiet_moment_and_at_the_latest_after_a_minute() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pending = Pending::new(Duration::from_secs(2));
        assert_eq!(pending.timeout(at(0)), None);
        pending.changed(at(0));
        pending.changed(at(1));
        assert!(!pending.is_due(at(2)) && pending.is_due(at(3)));
        for second in 2..60 {
            pending.changed(at(second));
            assert!(!pending.is_due(at(second)));
        }
        assert!(pending.is_due(at(60)));
        pending.failed(at(60));
        assert!(!pending.is_due(at(69)) && pending.is_due(at(70)));
        pending.done();
        assert!(!pending.is_due(at(999)));
    }

    #[test]
    fn events_are_read_as_the_kernel_writes_them() {
        let bytes = |number: u32| number.to_ne_bytes();
        let head = |mask, length| [bytes(3), bytes(mask), bytes(0), bytes(length)].concat();
        let all = [head(2, 8), b"name\0\0\0\0".to_vec(), head(1024, 0)].concat();
        let mut rest = all.as_slice();
        let first = Event::next(&mut rest).unwrap();
        assert_eq!(
            (first.watch, first.mask, first.name),
            (3, 2, b"name".to_vec())
        );
        assert_eq!(Event::next(&mut rest).unwrap().mask, 1024);
        assert_eq!(Event::next(&mut rest), None);
    }
}
