//! `umount`: ends the mount and waits for its daemon, so that what follows finds it gone.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::config::Config;
use crate::exit::Failure;
use crate::mounts::{self, Unmount};
use crate::{paths, pidfile};

/// A daemon that is not busy ends at once; this is for one in the middle of a large write.
const PATIENCE: Duration = Duration::from_secs(10);

/// After a lazy unmount the daemon may rightly live as long as its clients.
const LAZY_PATIENCE: Duration = Duration::from_secs(1);

/// Unmounts, and returns what to tell the user.
pub fn run(config: &Config, lazy: bool) -> Result<String, Failure> {
    let dir = paths::resolve(&config.mount_dir);
    let place = dir.display();
    let cannot = |error: io::Error| Failure::at("cannot unmount", &dir, error);
    let Some(mount) = mounts::at(&dir).map_err(cannot)? else {
        return Err(Failure::not_mounted(format!("not mounted: {place}")));
    };
    if !mount.is_cellar() {
        let reason = format!("it is a {} mount, not a cellar", mount.kind.display());
        return Err(Failure::at("cannot unmount", &dir, reason).advise("name another --mount-dir"));
    }
    let (how, patience) = match lazy {
        true => (Unmount::Lazy, LAZY_PATIENCE),
        false => (Unmount::Plain, PATIENCE),
    };
    mounts::unmount(&dir, how).map_err(|error| busy(&dir, error))?;
    let Some(holder) = pidfile::wait_gone(&config.pid_file, &dir, patience).map_err(cannot)? else {
        return Ok(format!("unmounted {place}"));
    };
    let daemon = match holder.pid {
        Some(pid) => format!("its daemon, pid {pid},"),
        None => "its daemon".to_string(),
    };
    if lazy {
        return Ok(format!(
            "detached {place}; {daemon} serves files still open until they close"
        ));
    }
    Err(
        Failure::at("unmounted", &dir, format!("{daemon} has not ended yet"))
            .advise("see `claude-cellar log`"),
    )
}

fn busy(dir: &Path, error: io::Error) -> Failure {
    let busy = error.kind() == io::ErrorKind::ResourceBusy;
    let failure = Failure::at("cannot unmount", dir, error);
    if busy {
        return failure.advise("close what uses it (`fuser -vm` shows it), or use --lazy");
    }
    failure
}
