//! The service that keeps the cellar mounted: whose it is, and what it is told.
//!
//! What an earlier `install` wrote into a unit of ours stands for variables that the shell lacks, so
//! that no command looks for the sessions where they are not. A unit that something else takes care
//! of cannot be told anything: what it mounts is what it and its manager say, whatever the shell says.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::exit::Failure;
use crate::systemd::Manager;
use crate::unit;

type Variables = Vec<(String, OsString)>;

/// Who starts the daemon.
pub enum Service {
    /// Nobody, but there may be a unit that cannot be reached now.
    None { file: PathBuf, variables: Variables },
    /// A unit of ours, or one to be.
    Own {
        manager: Manager,
        file: PathBuf,
        variables: Variables,
    },
    /// A unit that something else takes care of: a package, Nix.
    Elsewhere {
        manager: Manager,
        file: PathBuf,
        variables: Variables,
    },
}

impl Service {
    pub fn find(no_systemd: bool) -> Result<Service, Failure> {
        let manager = Manager::find().filter(|_| !no_systemd);
        let file = unit_file(manager.as_ref())?;
        let Some(manager) = manager else {
            let variables = variables(&file);
            return Ok(Service::None { file, variables });
        };
        if let Some(other) = manager.fragment(unit::NAME).filter(|other| *other != file) {
            let variables = variables(&other);
            return Ok(Service::Elsewhere {
                manager,
                file: other,
                variables,
            });
        }
        let linked = file
            .ancestors()
            .take(4)
            .any(|path| path.symlink_metadata().is_ok_and(|meta| meta.is_symlink()));
        let read_only = fs::File::options().append(true).open(&file);
        let read_only = read_only.is_err_and(|e| e.kind() != io::ErrorKind::NotFound);
        let variables = variables(&file);
        if file.exists() && (linked || read_only) {
            return Ok(Service::Elsewhere {
                manager,
                file,
                variables,
            });
        }
        Ok(Service::Own {
            manager,
            file,
            variables,
        })
    }

    /// Whether it came with a package: there for whoever enables it.
    pub fn is_packaged(&self) -> bool {
        let dirs = ["/usr/lib", "/lib", "/usr/share", "/usr/local"];
        match self {
            Service::Elsewhere { file, .. } => dirs.iter().any(|dir| file.starts_with(dir)),
            _ => false,
        }
    }

    /// One of the user's own instead.
    pub fn into_own(self) -> Result<Service, Failure> {
        match self {
            Service::Elsewhere { manager, .. } => Ok(Service::Own {
                file: unit_file(Some(&manager))?,
                manager,
                variables: Vec::new(),
            }),
            other => Ok(other),
        }
    }

    pub fn manager(&self) -> Option<&Manager> {
        match self {
            Service::None { .. } => None,
            Service::Own { manager, .. } | Service::Elsewhere { manager, .. } => Some(manager),
        }
    }

    /// What the cellar is, was or will be mounted with.
    pub fn config(&self) -> Result<Config, Failure> {
        let (manager, variables) = match self {
            Service::Elsewhere {
                manager, variables, ..
            } if !self.is_packaged() => (manager, variables),
            _ => return Config::load_with(|name| self.variable(name)),
        };
        Config::with_only(|name| match name {
            // Only commands use it.
            "CLAUDE_CELLAR_CLAUDE_BIN" => env::var_os(name),
            _ => {
                let told = value(variables, name).or_else(|| manager.variable(name));
                told.or_else(|| env::var_os(name).filter(|_| name == "HOME"))
            }
        })
    }

    /// What an earlier install has given the service.
    pub fn variable(&self, name: &str) -> Option<OsString> {
        let (Service::None { variables, .. }
        | Service::Own { variables, .. }
        | Service::Elsewhere { variables, .. }) = self;
        // Whoever sets this now means another directory than then.
        let moved = env::var_os("CLAUDE_CONFIG_DIR").is_some_and(|dir| !dir.is_empty());
        let known = name.starts_with("CLAUDE_CELLAR_");
        match name {
            "CLAUDE_CELLAR_MOUNT_DIR" if moved => None,
            _ => value(variables, name).filter(|_| known),
        }
    }
}

fn variables(file: &Path) -> Variables {
    unit::variables(&fs::read_to_string(file).unwrap_or_default())
}

fn value(variables: &Variables, name: &str) -> Option<OsString> {
    let found = variables.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.clone())
}

/// Where the manager looks for the user's own units; where there is none, where it would look.
fn unit_file(manager: Option<&Manager>) -> Result<PathBuf, Failure> {
    let variable = |name: &str| match manager {
        Some(manager) => manager.variable(name),
        None => env::var_os(name),
    };
    let config = variable("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = match config.filter(|dir| dir.is_absolute()) {
        Some(dir) => dir,
        None => {
            let home = variable("HOME").or_else(|| env::var_os("HOME"));
            let home = home.ok_or_else(|| Failure::usage("HOME is not set"))?;
            Path::new(&home).join(".config")
        }
    };
    Ok(config.join("systemd/user").join(unit::NAME))
}
