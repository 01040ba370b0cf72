//! `mount`: from an empty directory to a served mount, and back to an empty directory.
//!
//! Order matters. The lock comes before the mount (see `pidfile`), the fork before the store and
//! the session (see `detach`), blocked signals before any thread, and our own files before the
//! umask goes: requests bring the caller's modes, already masked.
//!
//! What the client wrote while nothing was mounted lies beneath the mountpoint. With `--adopt` it is
//! taken into the store before the mount, and what came in the moment between is taken after it,
//! through a descriptor of the directory that was opened before it was covered. Requests wait for
//! that, so that lines stay in the order in which they were written.
//!
//! Ending never waits for clients. A mount that is in use is detached, requests under way get
//! `GRACE` to finish, and the process ends. Two handles of the FUSE library are not used for
//! this: its unmounter fails on a mount in use and is then spent, and its session, when dropped,
//! unmounts *by path* even when the kernel has already ended the session, which would hit whatever
//! was mounted there since. So the process ends without dropping it, and unmounts only what still
//! has the device number of its own mount.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fuser::{MountOption, Session, SessionACL};

use crate::coherence;
use crate::config::Config;
use crate::detach::{self, Readiness};
use crate::dirty::Dirty;
use crate::exit::{Exit, Failure};
use crate::filesystem::CellarFs;
use crate::migrate::{self, Migration};
use crate::mounts::{self, Health};
use crate::pidfile::{self, Holder, PidFile};
use crate::seal::Sealer;
use crate::shared::Shared;
use crate::signals::{self, Signal};
use crate::store::Store;
use crate::sys::is;
use crate::trash::Trash;
use crate::tree::Tree;
use crate::{logfile, notify, paths, tuning};

/// How long requests may still take after a mount in use was detached.
const GRACE: Duration = Duration::from_millis(400);

/// Within this a signal has arrived.
const SIGNAL: Duration = Duration::from_millis(50);

/// How long a daemon that does not serve its mount may take to end.
const ENDING: Duration = Duration::from_secs(2);

/// How long one may that compresses a large session.
const SEALING: Duration = Duration::from_secs(15);

/// Two threads: one goes on when the other waits for the disk; more cost more than they give.
const THREADS: usize = 2;

/// What the command line asks for.
#[derive(Clone, Copy, Default)]
pub struct How {
    pub foreground: bool,
    /// Take in what lies beneath the mountpoint.
    pub adopt: bool,
    pub allow_other: bool,
}

/// Mounts and serves. In the background this returns when the mount can be used, in the foreground
/// the process ends with the mount.
pub fn run(config: &Config, how: How) -> Result<(), Failure> {
    if !how.foreground {
        detach::close_inherited();
    }
    let mount_dir = paths::resolve(&config.mount_dir);
    let store_dir = paths::resolve(&config.store_dir);
    if paths::overlap(&mount_dir, &store_dir) {
        let reason = format!("the store {} is the same or overlaps", store_dir.display());
        return Err(Failure::at("cannot mount", &mount_dir, reason)
            .advise("give the store a directory of its own, outside the mount"));
    }
    let lock = match lock(config, &mount_dir)? {
        Ok(lock) => lock,
        Err(holder) => return Err(already_mounted(&mount_dir, holder)),
    };
    let daemon = Daemon {
        config,
        mount_dir,
        store_dir,
        how,
        lock,
    };
    let outcome = daemon.prepare().and_then(|()| {
        if how.foreground {
            match daemon.serve(&mut Readiness::Foreground)? {}
        } else {
            detach::in_background(|readiness| daemon.serve(readiness))
        }
    });
    if outcome.is_err() {
        daemon.lock.remove();
    }
    outcome
}

/// Takes the mountpoint's lock. A daemon that was killed a moment ago still has it, but answers no
/// more: its end is waited for.
fn lock(config: &Config, mount_dir: &Path) -> Result<Result<PidFile, Holder>, Failure> {
    let take = || PidFile::lock(&config.pid_file, mount_dir);
    let taken = take()?;
    let serves = || {
        let mount = mounts::at(mount_dir).ok().flatten();
        mount.is_some_and(|m| m.is_cellar()) && mounts::health(mount_dir) == Health::Answers
    };
    // Asked twice: a signal that kills may not have arrived yet.
    let alive = || {
        thread::sleep(SIGNAL);
        serves()
    };
    if taken.is_ok() || (serves() && alive()) {
        return Ok(taken);
    }
    pidfile::wait_gone(&config.pid_file, mount_dir, ENDING)
        .map_err(|error| Failure::at("cannot mount", mount_dir, error))?;
    take()
}

/// The directory that is to be mounted over, and the lock that keeps every daemon from mounting there:
/// taken in through a mount, the sessions would be moved onto themselves.
pub fn beneath(config: &Config, mount_dir: &Path) -> Result<(File, PidFile), Failure> {
    let cannot = |error: io::Error| Failure::at("cannot open", mount_dir, error);
    // Unmounted a moment ago, one may still be ending.
    pidfile::wait_gone(&config.pid_file, mount_dir, SEALING).map_err(cannot)?;
    let lock = match PidFile::lock(&config.pid_file, mount_dir)? {
        Ok(lock) => lock,
        Err(holder) => return Err(already_mounted(mount_dir, holder)),
    };
    let top = File::open(mount_dir).map_err(cannot)?;
    match mounts::in_cellar(&top).map_err(cannot)? {
        true => Err(already_mounted(mount_dir, Holder { pid: None })),
        false => Ok((top, lock)),
    }
}

struct Daemon<'a> {
    config: &'a Config,
    mount_dir: PathBuf,
    store_dir: PathBuf,
    how: How,
    lock: PidFile,
}

/// What ends the daemon.
enum Event {
    Finish,
    /// The kernel ended the session: somebody has unmounted it.
    Ended(io::Result<()>),
}

impl Daemon<'_> {
    /// Everything that can be checked before there is a daemon.
    fn prepare(&self) -> Result<(), Failure> {
        clear_stale(&self.mount_dir)?;
        for dir in [&self.mount_dir, &self.store_dir] {
            paths::create_private(dir)
                .map_err(|error| Failure::at("cannot create the directory", dir, error))?;
        }
        if !self.how.adopt {
            refuse_contents(&self.mount_dir)?;
        }
        check_device()
    }

    /// Mounts, serves and ends the process; returns only when it could not start.
    fn serve(&self, readiness: &mut Readiness) -> Result<Infallible, Failure> {
        let cannot = |what: &str, error: io::Error| Failure::at(what, &self.mount_dir, error);
        signals::block().map_err(|error| cannot("cannot block signals for", error))?;
        self.lock
            .write_pid()
            .map_err(|error| Failure::at("cannot write", &self.config.pid_file, error))?;
        self.start_log(matches!(readiness, Readiness::Foreground));
        tuning::apply();
        let beneath = File::open(&self.mount_dir).map_err(|error| cannot("cannot open", error))?;
        let shared = self.open_store()?;
        // What cannot be taken in is tried again below, and told there.
        let _ = self.adopt(&shared, &beneath)?;
        let (session, sealer) = self.mount(shared.clone())?;
        let device = mounts::at(&self.mount_dir)
            .map_err(|error| cannot("cannot find the mount", error))?
            .map(|mount| mount.device);

        // What came between the first look and the mount, before anything is appended behind it.
        for (path, error) in self.adopt(&shared, &beneath)? {
            let path = self.mount_dir.join(path);
            log::error!("{}: cannot be taken in: {error}", path.display());
        }
        drop((shared, beneath));
        sealer.start();
        let background = session
            .spawn()
            .map_err(|error| cannot("cannot serve", error))?;
        let events = watch(background.guard, sealer.clone())
            .map_err(|error| cannot("cannot serve", error))?;
        let (mount, store) = (self.mount_dir.display(), self.store_dir.display());
        log::info!("mounted {mount}, store {store}, pid {}", process::id());
        readiness.announce(&format!("Serving {mount}"));

        let exit = self.end(&events, device.as_ref());
        sealer.stop();
        log::info!("ended {mount}");
        self.lock.remove();
        process::exit(exit as i32)
    }

    fn open_store(&self) -> Result<Arc<Shared>, Failure> {
        // It may not be there yet: what it is made in tells as much.
        let existing = self.store_dir.ancestors().find(|dir| dir.is_dir());
        let alone = existing.is_some_and(coherence::has_stale_reads);
        let opened = Store::open(&self.store_dir, alone, self.config.compress_bundles);
        opened.map(|store| Arc::new(Shared::new(store))).map_err(|error| {
            let in_use = is(&error, libc::EAGAIN) || is(&error, libc::EACCES);
            match (in_use, alone) {
                (true, true) => {
                    let reason = "another daemon uses it, and the client caches of GlusterFS would \
                                  show the one what the other has long changed";
                    Failure::at("cannot use the store", &self.store_dir, reason)
                        .advise("turn the volume's performance.* options off on every host")
                }
                (true, false) => {
                    Failure::at("cannot use the store", &self.store_dir, "it is locked").advise(
                        "a migration or a repair is at work on it, or a host whose GlusterFS has \
                         client caches; wait for its end",
                    )
                }
                (false, _) => Failure::at("cannot open the store", &self.store_dir, error),
            }
        })
    }

    /// Takes in what lies beneath the mountpoint. What cannot be taken in must not keep the sessions
    /// away that can be served: it stays where it is and is returned.
    fn adopt(
        &self,
        shared: &Arc<Shared>,
        beneath: &File,
    ) -> Result<Vec<(PathBuf, io::Error)>, Failure> {
        if !self.how.adopt {
            return Ok(Vec::new());
        }
        let cannot = |error| Failure::at("cannot adopt what lies in", &self.mount_dir, error);
        let top = beneath.try_clone().map_err(cannot)?;
        let taken = Migration::new(
            shared.clone(),
            top.into(),
            Path::new(""),
            migrate::How::Adopt,
        )
        .and_then(Migration::run);
        let taken = match taken {
            Err(error) if migrate::is_full(&error) => return Ok(vec![(PathBuf::new(), error)]),
            taken => taken.map_err(cannot)?,
        };
        if taken.entries + taken.merged + taken.recovered > 0 {
            log::info!("took in what lay beneath the mountpoint: {taken}");
        }
        Ok(taken.failures)
    }

    fn mount(&self, shared: Arc<Shared>) -> Result<(Session<CellarFs>, Sealer), Failure> {
        let cannot = |error| Failure::at("cannot open the store", &self.store_dir, error);
        let trash = Trash::for_days(self.config.trash_days);
        let tree = Tree::new(shared, Dirty::default(), trash, self.config.max_fds);
        let tree = tree.map_err(cannot)?;
        let tree = Arc::new(tree);
        let sealer = Sealer::new(tree.clone(), self.config.seal_after);
        let filesystem = CellarFs::new(tree);
        tuning::drop_umask();
        let session = Session::new(filesystem, &self.mount_dir, &self.fuse_config())
            .map_err(|error| explain(&self.mount_dir, &error))?;
        Ok((session, sealer))
    }

    fn fuse_config(&self) -> fuser::Config {
        let mut config = fuser::Config::default();
        config.mount_options = vec![
            MountOption::FSName(mounts::NAME.into()),
            // The library keeps its own `Subtype` from the kernel when it mounts as root.
            MountOption::CUSTOM(format!("subtype={}", mounts::NAME)),
            MountOption::DefaultPermissions,
            MountOption::NoDev,
            MountOption::NoSuid,
        ];
        config.acl = if self.how.allow_other {
            SessionACL::All
        } else {
            SessionACL::Owner
        };
        config.n_threads = Some(THREADS);
        config
    }

    /// A daemon without a log is better than none.
    fn start_log(&self, watched: bool) {
        let path = &self.config.log_file;
        if let Err(error) = logfile::init(path, self.config.log_level, watched) {
            let failure = Failure::at("cannot write the log", path, error);
            let _ = writeln!(io::stderr(), "{}: {failure}", mounts::NAME);
        }
    }

    /// Sleeps until the mount is to end or has ended, and leaves nothing mounted.
    fn end(&self, events: &Receiver<Event>, device: Option<&OsString>) -> Exit {
        let ended = match events.recv() {
            Ok(Event::Ended(result)) => Some(result),
            Ok(Event::Finish) | Err(_) => None,
        };
        if let Err(error) = notify::stopping() {
            log::warn!("cannot tell systemd: {error}");
        }
        self.unmount(device);
        let ended = ended.or_else(|| match events.recv_timeout(GRACE) {
            Ok(Event::Ended(result)) => Some(result),
            _ => None,
        });
        match ended {
            Some(Err(error)) => {
                log::error!("serving {} failed: {error}", self.mount_dir.display());
                Exit::Failed
            }
            _ => Exit::Done,
        }
    }

    /// Ends our own mount, if it is still there.
    fn unmount(&self, device: Option<&OsString>) {
        let dir = self.mount_dir.display();
        match mounts::at(&self.mount_dir) {
            Ok(Some(mount)) if device == Some(&mount.device) => {
                match mounts::unmount_anyway(&self.mount_dir) {
                    Ok(false) => {}
                    Ok(true) => log::warn!("{dir} was in use and has been detached"),
                    Err(error) => log::error!("cannot unmount {dir}: {error}"),
                }
            }
            Ok(_) => {}
            Err(error) => log::error!("cannot read the mount table: {error}"),
        }
    }
}

/// Two threads that sleep until something happens.
fn watch(session: JoinHandle<io::Result<()>>, sealer: Sealer) -> io::Result<Receiver<Event>> {
    let (sender, events) = mpsc::channel();
    let on_signal = sender.clone();
    thread::Builder::new()
        .name("session-end".into())
        .spawn(move || {
            let panicked = |_| Err(io::Error::other("a thread panicked"));
            let _ = sender.send(Event::Ended(session.join().unwrap_or_else(panicked)));
        })?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            while let Ok(Signal::SealNow) = signals::wait() {
                sealer.seal_now();
            }
            let _ = on_signal.send(Event::Finish);
        })?;
    Ok(events)
}

/// Removes what a killed daemon left mounted; refuses everything else that is in the way.
fn clear_stale(mount_dir: &Path) -> Result<(), Failure> {
    let cannot = |error| Failure::at("cannot clear a dead mount", mount_dir, error);
    while let Some(mount) = mounts::at(mount_dir).map_err(cannot)? {
        match (mount.is_cellar(), mounts::health(mount_dir)) {
            (true, Health::Stale) => {
                mounts::unmount_anyway(mount_dir).map_err(cannot)?;
            }
            (true, _) => return Err(already_mounted(mount_dir, Holder { pid: None })),
            (false, Health::Answers) => return Ok(()),
            (false, _) => {
                let reason = format!("a {} mount there does not answer", mount.kind.display());
                return Err(
                    Failure::at("cannot mount", mount_dir, reason).advise("unmount it first")
                );
            }
        }
    }
    Ok(())
}

fn already_mounted(mount_dir: &Path, holder: Holder) -> Failure {
    let pid = |pid: u32| format!(", pid {pid}");
    let pid = holder.pid.map(pid).unwrap_or_default();
    if mounts::at(mount_dir).is_ok_and(|mount| mount.is_some_and(|mount| mount.is_cellar())) {
        return Failure::new(format!("already mounted at {}{pid}", mount_dir.display()));
    }
    let reason = format!("its daemon is starting or still serves files left open there{pid}");
    Failure::at("cannot mount", mount_dir, reason).advise("close them, or end it")
}

fn refuse_contents(mount_dir: &Path) -> Result<(), Failure> {
    let cannot = |error| Failure::at("cannot mount", mount_dir, error);
    match fs::read_dir(mount_dir).map_err(cannot)?.next() {
        None => Ok(()),
        Some(_) => Err(Failure::at(
            "cannot mount",
            mount_dir,
            "it holds files, which the mount would hide",
        )
        .advise("use --adopt to take them into the store")),
    }
}

const CONTAINER: &str = "in a container, add --device /dev/fuse --cap-add SYS_ADMIN";

/// Whether this user may use FUSE here.
pub fn check_device() -> Result<(), Failure> {
    let device = Path::new("/dev/fuse");
    let Err(error) = File::options().read(true).write(true).open(device) else {
        return Ok(());
    };
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => "let users open it (chmod 666 /dev/fuse)",
        _ => "load it (modprobe fuse)",
    };
    Err(Failure::at("cannot use FUSE", device, error).advise(format!("{advice}; {CONTAINER}")))
}

/// The library passes on what fusermount3 printed.
fn explain(mount_dir: &Path, error: &io::Error) -> Failure {
    let reason = error.to_string().trim().replace('\n', ", ");
    let failure = Failure::at("cannot mount", mount_dir, &reason);
    if error.kind() == io::ErrorKind::NotFound {
        return Failure::at("cannot mount", mount_dir, "there is no fusermount3")
            .advise("install it (apt install fuse3)");
    }
    if reason.contains("user_allow_other") {
        return failure.advise("have it added there, or leave out --allow-other");
    }
    if reason.contains("Operation not permitted") {
        return failure.advise(CONTAINER);
    }
    failure
}
