//! `status`: is all well? Asks the mount table, the lock and the store, and decodes nothing.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::mounts::{self, Health};
use crate::survey::{Surveyed, survey};
use crate::{json, paths, pidfile, size};

pub struct Status {
    mount: Option<Health>,
    pid: Option<u32>,
    mount_dir: PathBuf,
    store_dir: PathBuf,
    sessions: Sessions,
    free_bytes: Option<u64>,
    recovered: u64,
}

/// What lies in the store.
#[derive(Default)]
struct Sessions {
    count: u64,
    stored_bytes: u64,
    original_bytes: u64,
    unsealed: u64,
}

impl Sessions {
    fn of(surveyed: &[Surveyed]) -> Sessions {
        surveyed
            .iter()
            .fold(Sessions::default(), |sum, session| Sessions {
                count: sum.count + 1,
                stored_bytes: sum.stored_bytes + session.stored,
                original_bytes: sum.original_bytes + session.original.unwrap_or(session.stored),
                unsealed: sum.unsealed + u64::from(session.waiting.is_some()),
            })
    }
}

impl Status {
    pub fn read(config: &Config) -> Result<Status, Failure> {
        let mount_dir = paths::resolve(&config.mount_dir);
        let store_dir = paths::resolve(&config.store_dir);
        let cannot = |error| Failure::at("cannot tell the state of", &mount_dir, error);
        let mount = mounts::at(&mount_dir).map_err(cannot)?;
        let holder = pidfile::holder(&config.pid_file, &mount_dir).map_err(cannot)?;
        Ok(Status {
            mount: mount
                .filter(|mount| mount.is_cellar())
                .map(|_| mounts::health(&mount_dir)),
            pid: holder.and_then(|holder| holder.pid),
            sessions: survey(&store_dir, false)
                .map(|found| Sessions::of(&found.sessions))
                .map_err(|error| Failure::at("cannot read the store", &store_dir, error))?,
            free_bytes: free_bytes(&store_dir),
            recovered: entries(&store_dir.join(".cellar/recovered")),
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
        if let Some(free) = self.free_bytes {
            line("free space", size::bytes(free));
        }
        if self.recovered > 0 {
            let place = self.store_dir.join(".cellar/recovered");
            line(
                "recovered",
                format!("{} to look at in {}", self.recovered, place.display()),
            );
        }
        out
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
        let number = |value: Option<u64>| value.map_or("null".to_string(), |n| n.to_string());
        let path = |path: &Path| json::string(&path.to_string_lossy());
        let fields = [
            ("mounted", self.mount.is_some().to_string()),
            ("alive", (self.mount == Some(Health::Answers)).to_string()),
            ("stale", (self.mount == Some(Health::Stale)).to_string()),
            ("pid", number(self.pid.map(u64::from))),
            ("mount_dir", path(&self.mount_dir)),
            ("store_dir", path(&self.store_dir)),
            ("sessions", self.sessions.count.to_string()),
            ("stored_bytes", self.sessions.stored_bytes.to_string()),
            ("original_bytes", self.sessions.original_bytes.to_string()),
            ("unsealed", self.sessions.unsealed.to_string()),
            ("free_bytes", number(self.free_bytes)),
            ("recovered", self.recovered.to_string()),
        ];
        let fields = fields.map(|(name, value)| format!("\"{name}\":{value}"));
        format!("{{{}}}\n", fields.join(","))
    }
}

impl Sessions {
    fn text(&self) -> String {
        let (stored, original) = (self.stored_bytes, self.original_bytes);
        if self.count == 0 {
            return "none".to_string();
        }
        let mut text = format!(
            "{}, {} stored as {} ({})",
            self.count,
            size::bytes(original),
            size::bytes(stored),
            size::ratio(original, stored)
        );
        if self.unsealed > 0 {
            let _ = write!(text, ", {} waiting to be sealed", self.unsealed);
        }
        text
    }
}

fn entries(dir: &Path) -> u64 {
    fs::read_dir(dir).map_or(0, |entries| entries.count() as u64)
}

/// Free space for this user on the file system where the store is, or will be.
fn free_bytes(store_dir: &Path) -> Option<u64> {
    let existing = store_dir.ancestors().find(|dir| dir.exists())?;
    let stat = mounts::statvfs(existing).ok()?;
    Some(stat.f_bavail * stat.f_frsize)
}
