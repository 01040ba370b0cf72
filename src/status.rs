//! `status`: is all well? Asks the mount table, the lock and the store, and decodes nothing.
//!
//! Space is low when less is free than the background compression may need at once, twice the largest
//! file that waits: a copy of it, and what is appended meanwhile. It is low as well below 5 % of the
//! file system, but not for that reason alone while 5 GiB are free: a share of a large disk is no
//! sign of need.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::mounts::{self, Health};
use crate::survey::{Survey, Surveyed, survey};
use crate::{json, outdated, paths, pidfile, size};

const NEARLY_FULL: &str = "the store's file system is nearly full; make room, or sessions can be neither written nor compressed";
const ANOTHER_BUILD: &str = "the daemon runs another build than this command; restart it: `systemctl --user restart claude-cellar`, or `claude-cellar umount` and `claude-cellar mount`";

pub struct Status {
    mount: Option<Health>,
    pid: Option<u32>,
    mount_dir: PathBuf,
    store_dir: PathBuf,
    sessions: Sessions,
    waiting: Waiting,
    space: Option<Space>,
    recovered: u64,
    trash: u64,
    /// The daemon runs another build than this one.
    outdated: bool,
}

/// What lies in the store.
#[derive(Default)]
struct Sessions {
    count: u64,
    stored_bytes: u64,
    original_bytes: u64,
}

/// What the background compression has still to do, in bundles too where it compresses those.
#[derive(Default)]
struct Waiting {
    raw: Amount,
    /// Compressed lightly, as it was written.
    unsealed: Amount,
    /// Bytes of the largest file.
    largest: u64,
}

#[derive(Default)]
struct Amount {
    count: u64,
    bytes: u64,
}

/// The file system where the store is, or will be.
#[derive(Clone, Copy)]
struct Space {
    /// For this user.
    free: u64,
    total: u64,
}

impl Sessions {
    fn of(surveyed: &[Surveyed]) -> Sessions {
        surveyed
            .iter()
            .fold(Sessions::default(), |sum, session| Sessions {
                count: sum.count + 1,
                stored_bytes: sum.stored_bytes + session.stored,
                // A damaged header may claim anything.
                original_bytes: sum
                    .original_bytes
                    .saturating_add(session.original.unwrap_or(session.stored)),
            })
    }
}

impl Waiting {
    fn of(found: &Survey) -> Waiting {
        let mut waiting = Waiting::default();
        let bundled = found.bundles.iter().flat_map(|bundle| &bundle.sessions);
        for session in found.sessions.iter().chain(bundled) {
            let Some(bytes) = session.waiting else {
                continue;
            };
            let amount = match session.packed {
                None => &mut waiting.raw,
                Some(_) => &mut waiting.unsealed,
            };
            amount.count += 1;
            amount.bytes += bytes;
            waiting.largest = waiting.largest.max(session.stat.size);
        }
        waiting
    }

    fn count(&self) -> u64 {
        self.raw.count + self.unsealed.count
    }
}

impl Space {
    fn of(store_dir: &Path) -> Option<Space> {
        let existing = store_dir.ancestors().find(|dir| dir.exists())?;
        let stat = mounts::statvfs(existing).ok()?;
        Some(Space {
            free: stat.f_bavail * stat.f_frsize,
            total: stat.f_blocks * stat.f_frsize,
        })
    }

    fn is_low(self, largest_waiting: u64) -> bool {
        let share = (self.total / 20).min(5 << 30);
        self.free < share.max(largest_waiting.saturating_mul(2))
    }
}

impl Status {
    pub fn read(config: &Config) -> Result<Status, Failure> {
        let mount_dir = paths::resolve(&config.mount_dir);
        let store_dir = paths::resolve(&config.store_dir);
        let cannot = |error| Failure::at("cannot tell the state of", &mount_dir, error);
        let mount = mounts::at(&mount_dir).map_err(cannot)?;
        let holder = pidfile::holder(&config.pid_file, &mount_dir).map_err(cannot)?;
        let pid = holder.and_then(|holder| holder.pid);
        let found = survey(&store_dir, config.compress_bundles)
            .map_err(|error| Failure::at("cannot read the store", &store_dir, error))?;
        Ok(Status {
            mount: mount
                .filter(|mount| mount.is_cellar())
                .map(|_| mounts::health(&mount_dir)),
            pid,
            sessions: Sessions::of(&found.sessions),
            waiting: Waiting::of(&found),
            space: Space::of(&store_dir),
            recovered: entries(&store_dir.join(".cellar/recovered")),
            trash: in_trash(&store_dir.join(".cellar/trash")),
            outdated: pid.is_some_and(outdated::runs_another),
            mount_dir,
            store_dir,
        })
    }

    pub fn exit(&self) -> Exit {
        match self.mount {
            Some(Health::Answers) => Exit::Done,
            _ => Exit::NotMounted,
        }
    }

    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(out, "{name:<11} {value}");
        };
        line("mount", self.mount_text());
        line("mount dir", self.mount_dir.display().to_string());
        line("store", self.store_dir.display().to_string());
        line("sessions", self.sessions.text());
        line("waiting", self.waiting.text());
        if let Some(space) = self.space {
            line("free space", size::bytes(space.free));
        }
        if self.trash > 0 {
            let sessions = size::count(self.trash, "deleted session");
            line(
                "trash",
                format!("{sessions}; see `claude-cellar trash list`"),
            );
        }
        if self.recovered > 0 {
            let place = self.store_dir.join(".cellar/recovered");
            line(
                "recovered",
                format!("{} to look at in {}", self.recovered, place.display()),
            );
        }
        if self.low_space() {
            line("warning", NEARLY_FULL.to_owned());
        }
        if self.outdated {
            line("warning", ANOTHER_BUILD.to_owned());
        }
        if self.all_is_well() {
            out += "all is well\n";
        }
        out
    }

    fn all_is_well(&self) -> bool {
        let mounted = self.mount == Some(Health::Answers);
        mounted && self.recovered == 0 && !self.low_space() && !self.outdated
    }

    fn low_space(&self) -> bool {
        let largest = self.waiting.largest;
        self.space.is_some_and(|space| space.is_low(largest))
    }

    fn mount_text(&self) -> String {
        let pid = self
            .pid
            .map(|pid| format!(", pid {pid}"))
            .unwrap_or_default();
        match self.mount {
            Some(Health::Answers) => format!("mounted{pid}"),
            Some(Health::Stale) => {
                "stale: its daemon has died; `claude-cellar mount` clears it".to_string()
            }
            Some(Health::Silent) => format!("mounted{pid}, but gives no answer"),
            None if self.pid.is_some() => format!("not mounted; the daemon is still ending{pid}"),
            None => "not mounted; `claude-cellar mount` mounts it".to_string(),
        }
    }

    pub fn json(&self) -> String {
        let path = |path: &Path| json::string(&path.to_string_lossy());
        let Waiting { raw, unsealed, .. } = &self.waiting;
        let object = json::object([
            ("mounted", self.mount.is_some().to_string()),
            ("alive", (self.mount == Some(Health::Answers)).to_string()),
            ("stale", (self.mount == Some(Health::Stale)).to_string()),
            ("pid", json::number(self.pid.map(u64::from))),
            ("mount_dir", path(&self.mount_dir)),
            ("store_dir", path(&self.store_dir)),
            ("sessions", self.sessions.count.to_string()),
            ("stored_bytes", self.sessions.stored_bytes.to_string()),
            ("original_bytes", self.sessions.original_bytes.to_string()),
            ("unsealed", self.waiting.count().to_string()),
            (
                "free_bytes",
                json::number(self.space.map(|space| space.free)),
            ),
            ("recovered", self.recovered.to_string()),
            ("unsealed_bytes", (raw.bytes + unsealed.bytes).to_string()),
            ("raw", raw.count.to_string()),
            ("raw_bytes", raw.bytes.to_string()),
            ("trash", self.trash.to_string()),
            ("low_space", self.low_space().to_string()),
            ("outdated", self.outdated.to_string()),
        ]);
        object + "\n"
    }
}

impl Sessions {
    fn text(&self) -> String {
        let (stored, original) = (self.stored_bytes, self.original_bytes);
        if self.count == 0 {
            return "none".to_string();
        }
        format!(
            "{}, {} stored as {} ({})",
            self.count,
            size::bytes(original),
            size::bytes(stored),
            size::ratio(original, stored)
        )
    }
}

impl Waiting {
    fn text(&self) -> String {
        let part = |amount: &Amount, what: &str| {
            let bytes = size::bytes(amount.bytes);
            (amount.count > 0).then(|| format!("{} {what}, {bytes}", amount.count))
        };
        let raw = part(&self.raw, "to be compressed");
        let unsealed = part(&self.unsealed, "to be sealed");
        let parts: Vec<String> = raw.into_iter().chain(unsealed).collect();
        match parts.is_empty() {
            true => "none".to_owned(),
            false => parts.join("; "),
        }
    }
}

fn entries(dir: &Path) -> u64 {
    fs::read_dir(dir).map_or(0, |entries| entries.count() as u64)
}

/// Sessions in the trash, where there is a directory, laid out like a store, for each time of deletion.
fn in_trash(trash: &Path) -> u64 {
    let times = fs::read_dir(trash).into_iter().flatten().flatten();
    let found = times.filter_map(|time| survey(&time.path(), false).ok());
    found.map(|found| found.sessions.len() as u64).sum()
}
