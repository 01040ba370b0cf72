//! `install`: takes in the sessions there are and sees to it that the cellar is mounted from now on.
//!
//! First everything is looked at and told; what stands in the way is found before anything is
//! changed. Then, in this order: an older version ends, the store is written down, the sessions are
//! taken in, the service is written and started. Each step can be repeated and says itself whether it
//! is done, so an interrupted `install` is finished by the next.
//!
//! The user manager that starts the service has not the shell's variables. So the service gets what
//! the two would compute differently, and keeps what an earlier `install` gave it. A package's service
//! cannot be given anything: where it would differ, one of the user's own goes before it.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::claude;
use crate::clients;
use crate::config::{Config, StoreFrom};
use crate::exit::Failure;
use crate::layout::Layout;
use crate::legacy;
use crate::migrate::{How, Inventory, Migration, inventory};
use crate::migrate_store::complete;
use crate::mount;
use crate::mounts::{self, Health};
use crate::service::Service;
use crate::shared::Shared;
use crate::store::Store;
use crate::{outdated, paths, pidfile, size, sys, umount, unit};

/// How long a program may go on using what is to be taken in.
const PATIENCE: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(50);
/// How long a daemon may take to start or to end.
const CHANGING: Duration = Duration::from_secs(15);
const BLOCK: u64 = 4096;

/// What the command line asks for.
pub struct Options {
    pub no_systemd: bool,
    pub claude_bin: Option<PathBuf>,
    pub dry_run: bool,
}

/// Installs, telling what is done.
pub fn run(options: &Options, out: &mut dyn Write) -> Result<(), Failure> {
    let service = Service::find(options.no_systemd)?;
    let config = service.config()?;
    let plan = Plan::make(options, config, service)?;
    tell(out, &plan.text()?)?;
    if options.dry_run {
        return Ok(());
    }
    plan.check()?;
    plan.carry_out(out)
}

fn tell(out: &mut dyn Write, text: &str) -> Result<(), Failure> {
    let told = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    told.map_err(|e| Failure::new(format!("cannot write the output: {e}")))
}

/// What is mounted at the projects directory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Present {
    Nothing,
    /// A daemon of this program.
    Ours(Option<u32>),
    /// A daemon of version 0.3.
    Older,
    /// What a killed daemon left.
    Stale,
}

struct Plan {
    config: Config,
    service: Service,
    program: PathBuf,
    claude_bin: Option<PathBuf>,
    mount_dir: PathBuf,
    present: Present,
    layout: Layout,
    found: Inventory,
    /// Projects and store are on one file system.
    renames: bool,
}

impl Plan {
    fn make(options: &Options, config: Config, service: Service) -> Result<Plan, Failure> {
        let mount_dir = paths::resolve(&config.mount_dir);
        let present = present(&config, &mount_dir)?;
        let layout = match present {
            Present::Nothing => Layout::decide(&config)?,
            _ => Layout::given(&shown(&config, &mount_dir, present)?),
        };
        if paths::overlap(&mount_dir, &layout.store) {
            let reason = format!("the store {} overlaps it", layout.store.display());
            return Err(Failure::at("cannot install at", &mount_dir, reason)
                .advise("name another with CLAUDE_CELLAR_STORE_DIR"));
        }
        let found = match present {
            Present::Nothing => {
                inventory(&mount_dir).map_err(|e| Failure::at("cannot read", &mount_dir, e))?
            }
            _ => Inventory::default(),
        };
        let mut plan = Plan {
            program: program()?,
            claude_bin: claude::find(&config, options.claude_bin.as_deref())?,
            renames: same_file_system(&mount_dir, &layout.store),
            config,
            service,
            mount_dir,
            present,
            layout,
            found,
        };
        if plan.service.is_packaged() && !plan.variables()?.is_empty() {
            plan.service = plan.service.into_own()?;
        }
        Ok(plan)
    }

    // ---- telling ------------------------------------------------------------------------------

    fn text(&self) -> Result<String, Failure> {
        let mut lines = vec![
            format!(
                "projects   {}: {}",
                self.mount_dir.display(),
                self.found_text()
            ),
            format!("store      {}", self.store_text()),
        ];
        if !self.found.is_empty() {
            let how = match self.renames {
                true => "moved by rename, compressed in the background",
                false => "copied from another file system, compared, then removed there",
            };
            lines.push(format!("sessions   {how}"));
        }
        if let Some(link) = &self.layout.link {
            let (name, store) = (link.name.display(), self.layout.store.display());
            lines.push(format!(
                "link       {name} leads to the store and is removed"
            ));
            if let Some(project) = &link.project {
                let to = self.layout.store.join(project);
                lines.push(format!(
                    "           what is in {store} goes to {}",
                    to.display()
                ));
            }
        }
        for name in &self.layout.others {
            lines.push(format!("link       {} stays a link", name.display()));
        }
        lines.push(format!("service    {}", self.service_text()?));
        if let Some(bin) = &self.claude_bin {
            lines.push(format!("claude     {}", bin.display()));
        }
        Ok(lines.join("\n") + "\n")
    }

    fn found_text(&self) -> String {
        match self.present {
            Present::Nothing => self.found.to_string(),
            Present::Ours(_) => "mounted already".to_owned(),
            Present::Older => "mounted by version 0.3, which is stopped when it is idle".to_owned(),
            Present::Stale => "the mount of a killed daemon, which is cleared".to_owned(),
        }
    }

    fn store_text(&self) -> String {
        let store = &self.layout.store;
        let state = match fs::read_dir(store).map(|mut entries| entries.next().is_some()) {
            Ok(true) if self.layout.link.is_none() => "used as it is",
            Ok(true) => "kept where it is",
            _ => "new",
        };
        format!("{} ({state})", store.display())
    }

    fn service_text(&self) -> Result<String, Failure> {
        let file = match &self.service {
            Service::None { .. } => {
                return Ok("none: the daemon is started without one".to_owned());
            }
            Service::Elsewhere { file, .. } => {
                let whose = match self.service.is_packaged() {
                    true => "the package's, which is enabled",
                    false => "which is managed elsewhere and left as it is",
                };
                return Ok(format!("{}, {whose}", file.display()));
            }
            Service::Own { file, .. } => file,
        };
        let mut text = file.display().to_string();
        for (name, value) in self.variables()? {
            text += &format!("\n           {name}={}", value.display());
        }
        Ok(text)
    }

    // ---- what could stand in the way ----------------------------------------------------------

    fn check(&self) -> Result<(), Failure> {
        self.unit()?;
        mount::check_device()?;
        check_fusermount()?;
        check_rename(&self.layout.store)?;
        self.check_movable()?;
        self.check_clients()?;
        self.check_space()
    }

    /// What cannot be moved would be left behind, hidden by the mount. A rename moves what lies at the
    /// top; what a copy meets deeper down it tells.
    fn check_movable(&self) -> Result<(), Failure> {
        if self.present != Present::Nothing {
            return Ok(());
        }
        let link = self.layout.link.as_ref();
        let flat = link.is_some_and(|link| link.project.is_some());
        let dirs = [Some(&self.mount_dir), flat.then_some(&self.layout.store)];
        for dir in dirs.into_iter().flatten() {
            let found = mounts::below(dir).and_then(|mount| match mount {
                Some(mount) => Ok(Some((mount, "a file system is mounted there".to_owned()))),
                None => immovable(dir),
            });
            if let Some((path, reason)) = found.map_err(|e| Failure::at("cannot read", dir, e))? {
                return Err(Failure::at("cannot move", &path, reason)
                    .advise("mend that first; nothing has been changed"));
            }
        }
        Ok(())
    }

    /// Files that are open must not move, and a mount that is in use must not end.
    fn check_clients(&self) -> Result<(), Failure> {
        // In a store that is joined as it is nothing moves, and another daemon may serve it.
        let link = self.layout.link.as_ref();
        let moves = link.is_some_and(|link| link.project.is_some());
        let dirs = [Some(&self.mount_dir), moves.then_some(&self.layout.store)];
        if self.is_current() {
            return Ok(());
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Some(client) = dirs.iter().flatten().find_map(|dir| clients::of(dir)) else {
                return Ok(());
            };
            // A client that is not about to write has its file open for a moment only.
            if Instant::now() > deadline {
                return Err(Failure::at("cannot install at", &self.mount_dir, client)
                    .advise("close it first; nothing has been changed"));
            }
            thread::sleep(STEP);
        }
    }

    fn check_space(&self) -> Result<(), Failure> {
        let store = &self.layout.store;
        let free = existing(store).and_then(|dir| mounts::statvfs(dir).ok());
        let Some(free) = free.map(|stat| stat.f_bavail * stat.f_frsize) else {
            return Ok(());
        };
        // Each ends with a block that is not full.
        let entries = self.found.projects + self.found.sessions + self.found.others;
        let need = self.found.bytes() + entries * BLOCK;
        if self.renames || free > need {
            return Ok(());
        }
        let (free, need) = (size::bytes(free), size::bytes(need));
        Err(Failure::at(
            "cannot take the sessions to",
            store,
            format!("{free} are free"),
        )
        .advise(format!("{need} are needed; nothing has been changed")))
    }

    // ---- doing it -----------------------------------------------------------------------------

    fn carry_out(&self, out: &mut dyn Write) -> Result<(), Failure> {
        if !self.is_current() {
            self.stop_present()?;
        }
        self.write_notes()?;
        if !self.is_current() {
            self.take_in(out)?;
        }
        self.start(out)?;
        tell(out, &format!("mounted    {}\n", self.mount_dir.display()))
    }

    /// This very program is mounted, with these settings.
    fn is_current(&self) -> bool {
        let Present::Ours(Some(pid)) = self.present else {
            return false;
        };
        let written = match &self.service {
            Service::Own { file, .. } => self
                .unit()
                .is_ok_and(|unit| fs::read(file).is_ok_and(|there| there == unit.as_bytes())),
            _ => true,
        };
        written && !outdated::runs_another(pid)
    }

    fn stop_present(&self) -> Result<(), Failure> {
        if self.present == Present::Older {
            legacy::wait_idle(&self.config)?;
        }
        if let Some(manager) = self.service.manager()
            && manager.is_active(unit::NAME)
        {
            manager.run(&["stop", unit::NAME])?;
        }
        match present(&self.config, &self.mount_dir)? {
            Present::Nothing => Ok(()),
            Present::Older => legacy::stop(&self.config, &self.mount_dir),
            Present::Ours(_) => umount::run(&self.config, false).map(drop),
            Present::Stale => mounts::unmount_anyway(&self.mount_dir)
                .map(drop)
                .map_err(|e| Failure::at("cannot clear a dead mount", &self.mount_dir, e)),
        }
    }

    /// Written before anything moves: whatever happens then, the sessions are looked for here.
    fn write_notes(&self) -> Result<(), Failure> {
        let notes = &self.config.notes;
        let standard = Config::with_only(|name| match name {
            "CLAUDE_CELLAR_STORE_DIR" => None,
            _ => env::var_os(name),
        })?;
        let noted = standard.store_from == StoreFrom::Noted;
        if noted || self.layout.store != paths::resolve(&standard.store_dir) {
            write_note(&notes.store, &self.layout.store)?;
        }
        match &self.claude_bin {
            Some(bin) => write_note(&notes.claude_bin, bin),
            None => Ok(()),
        }
    }

    fn take_in(&self, out: &mut dyn Write) -> Result<(), Failure> {
        let store = &self.layout.store;
        paths::create_private(&self.mount_dir)
            .map_err(|e| Failure::at("cannot create the directory", &self.mount_dir, e))?;
        let cannot = |e: io::Error| {
            Failure::at("cannot take in", &self.mount_dir, e).advise("run install again to go on")
        };
        let (top, unmounted) = mount::beneath(&self.config, &self.mount_dir)?;
        let opened = Store::open(store, false, self.config.compress_bundles)
            .map_err(|e| Failure::at("cannot open the store", store, e))?;
        let shared = Arc::new(Shared::new(opened));
        let taken = self.layout.unflatten(&shared).map_err(cannot)?;
        complete(store, taken)?;
        self.layout.remove_link(&self.mount_dir).map_err(cannot)?;
        let mut taken = Migration::new(shared.clone(), top.into(), Path::new(""), How::Adopt)
            .and_then(|mut migration| {
                migration.expect(self.found.bytes());
                migration.run()
            })
            .map_err(cannot)?;
        taken.add(legacy::recover(&self.config, &shared).map_err(cannot)?);
        unmounted.remove();
        let told = taken.to_string();
        complete(&self.mount_dir, taken)?;
        tell(out, &format!("taken in   {told}\n"))
    }

    fn start(&self, out: &mut dyn Write) -> Result<(), Failure> {
        let Some(manager) = self.service.manager() else {
            return self.start_alone(out);
        };
        if let Service::Own { file, .. } = &self.service {
            write_unit(file, &self.unit()?)?;
            manager.run(&["daemon-reload"])?;
        }
        if matches!(self.service, Service::Own { .. }) || self.service.is_packaged() {
            manager.run(&["enable", unit::NAME])?;
        }
        manager.run(&["start", unit::NAME]).map_err(|failure| {
            failure.advise("see `journalctl --user -u claude-cellar` and `claude-cellar log`")
        })?;
        match mounts::health(&self.mount_dir) {
            Health::Answers if self.is_mounted() => Ok(()),
            _ => Err(Failure::at(
                "the service runs, but nothing is mounted at",
                &self.mount_dir,
                "",
            )
            .advise("see `systemctl --user status claude-cellar`")),
        }
    }

    fn is_mounted(&self) -> bool {
        mounts::at(&self.mount_dir).is_ok_and(|mount| mount.is_some_and(|m| m.is_cellar()))
    }

    fn start_alone(&self, out: &mut dyn Write) -> Result<(), Failure> {
        if !self.is_current() {
            let config = Config {
                store_dir: self.layout.store.clone(),
                ..self.config.clone()
            };
            let how = mount::How {
                adopt: true,
                ..mount::How::default()
            };
            mount::run(&config, how)?;
        }
        let program = self.program.display();
        tell(
            out,
            &format!(
                "at login   nothing starts it: have your login script run `{program} mount --adopt`\n"
            ),
        )
    }

    // ---- the service --------------------------------------------------------------------------

    fn unit(&self) -> Result<String, Failure> {
        unit::text(&self.program, &self.variables()?)
    }

    /// What the service must be told, because the manager would compute something else.
    fn variables(&self) -> Result<Vec<(&'static str, OsString)>, Failure> {
        let Some(manager) = self.service.manager() else {
            return Ok(Vec::new());
        };
        let home = manager.variable("HOME").or_else(|| env::var_os("HOME"));
        let runtime_dir = manager.variable("XDG_RUNTIME_DIR");
        // With what it has now, and with what it surely has.
        let bare = Config::with_only(|name| match name {
            "HOME" => home.clone(),
            "XDG_RUNTIME_DIR" => runtime_dir.clone(),
            _ => None,
        })?;
        let now = Config::with_only(|name| manager.variable(name))?;
        let differs = |path: &Path, of: fn(&Config) -> PathBuf| {
            [&bare, &now]
                .iter()
                .any(|config| paths::resolve(&of(config)) != path)
        };
        let mut variables = Vec::new();
        if differs(&self.mount_dir, |c| c.mount_dir.clone()) {
            let dir = self.config.mount_dir.clone();
            variables.push(("CLAUDE_CELLAR_MOUNT_DIR", dir.into_os_string()));
        }
        if self.layout.link.is_some()
            || bare.store_from == StoreFrom::Noted
            || differs(&self.layout.store, |c| c.store_dir.clone())
        {
            let dir = self.layout.store.clone().into_os_string();
            variables.push(("CLAUDE_CELLAR_STORE_DIR", dir));
        }
        for name in [
            "CLAUDE_CELLAR_SCRATCH_DIR",
            "CLAUDE_CELLAR_SEAL_AFTER",
            "CLAUDE_CELLAR_BUNDLES",
            "CLAUDE_CELLAR_TRASH_DAYS",
            "CLAUDE_CELLAR_MAX_FDS",
            "CLAUDE_CELLAR_LOG",
        ] {
            let value = env::var_os(name).filter(|value| !value.is_empty());
            if let Some(value) = value.or_else(|| self.service.variable(name)) {
                variables.push((name, value));
            }
        }
        let state = |config: &Config| config.log_file.parent().map(Path::to_path_buf);
        if [&bare, &now]
            .iter()
            .any(|config| state(config) != state(&self.config))
            && let Some(dir) = self.config.log_file.ancestors().nth(2)
        {
            variables.push(("XDG_STATE_HOME", dir.into()));
        }
        if [&bare, &now]
            .iter()
            .any(|config| config.pid_file != self.config.pid_file)
            && let Some(dir) = env::var_os("XDG_RUNTIME_DIR")
        {
            variables.push(("XDG_RUNTIME_DIR", dir));
        }
        Ok(variables)
    }
}

fn write_unit(file: &Path, text: &str) -> Result<(), Failure> {
    replace(file, text.as_bytes()).map_err(|e| Failure::at("cannot write the service", file, e))
}

fn write_note(note: &Path, path: &Path) -> Result<(), Failure> {
    let line = [path.as_os_str().as_encoded_bytes(), b"\n"].concat();
    replace(note, &line).map_err(|e| Failure::at("cannot write", note, e))
}

/// Puts a whole file in place of another, durably.
fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = file.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir)?;
    let new = file.with_extension("new");
    let mut out = File::create(&new)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    fs::rename(&new, file)?;
    File::open(dir)?.sync_all()
}

fn present(config: &Config, mount_dir: &Path) -> Result<Present, Failure> {
    let cannot = |e: io::Error| Failure::at("cannot tell what is mounted at", mount_dir, e);
    let deadline = Instant::now() + CHANGING;
    loop {
        // Asked first: whoever has ended by then has unmounted.
        let holder = pidfile::holder(&config.pid_file, mount_dir).map_err(cannot)?;
        let mount = mounts::at(mount_dir).map_err(cannot)?;
        if mount.is_some_and(|mount| mount.is_cellar()) {
            break;
        }
        if holder.is_none() || Instant::now() > deadline {
            return Ok(Present::Nothing);
        }
        thread::sleep(STEP);
    }
    if mounts::health(mount_dir) == Health::Stale {
        return Ok(Present::Stale);
    }
    let holder = pidfile::holder(&config.pid_file, mount_dir).map_err(cannot)?;
    Ok(holder.map_or(Present::Older, |holder| Present::Ours(holder.pid)))
}

/// The store that is mounted. Another one in its place would hide what is in it.
fn shown(config: &Config, mount_dir: &Path, present: Present) -> Result<PathBuf, Failure> {
    let serves = match present {
        Present::Ours(Some(pid)) => clients::store_of(pid),
        Present::Older => legacy::store(config),
        _ => None,
    };
    let asked = paths::resolve(&config.store_dir);
    let shown = serves.map_or(asked.clone(), |dir| paths::resolve(&dir));
    if config.store_from != StoreFrom::Named || shown == asked {
        return Ok(shown);
    }
    let reason = format!("the sessions seen there are in {}", shown.display());
    Err(
        Failure::at("cannot install at", mount_dir, reason).advise(format!(
            "unmount them and move them first: claude-cellar migrate-store --from {}",
            shown.display()
        )),
    )
}

/// The path that will still lead to this program when it has been upgraded: where the shell found it,
/// before any link is followed.
fn program() -> Result<PathBuf, Failure> {
    let exe = env::current_exe().map_err(|e| Failure::new(format!("cannot find myself: {e}")))?;
    let mut named = paths::in_path(mounts::NAME);
    Ok(named
        .find(|path| path.canonicalize().is_ok_and(|p| p == exe))
        .unwrap_or(exe))
}

fn existing(path: &Path) -> Option<&Path> {
    path.ancestors().find(|path| path.exists())
}

fn same_file_system(a: &Path, b: &Path) -> bool {
    let device = |path| {
        existing(path)
            .and_then(|path| path.metadata().ok())
            .map(|m| m.dev())
    };
    device(a) == device(b)
}

/// The first directory in a directory that this user may not move: moving one changes its `..`.
fn immovable(dir: &Path) -> io::Result<Option<(PathBuf, String)>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir()
            && let Err(e) = sys::may_write(&entry.path())
        {
            return Ok(Some((entry.path(), e.to_string())));
        }
    }
    Ok(None)
}

/// An ordinary user mounts with the help of a setuid program.
fn check_fusermount() -> Result<(), Failure> {
    let there = paths::effective_uid() == 0
        || env::var_os("FUSERMOUNT_PATH").is_some()
        || paths::in_path("fusermount3").next().is_some()
        || unit::path()
            .split(':')
            .any(|dir| paths::is_program(&Path::new(dir).join("fusermount3")));
    match there {
        true => Ok(()),
        false => Err(
            Failure::new("there is no fusermount3; nothing has been changed")
                .advise("install it (apt install fuse3)"),
        ),
    }
}

/// Everything the store promises rests on `rename`. What a killed probe left goes with the next.
fn check_rename(store: &Path) -> Result<(), Failure> {
    let dir = existing(store).unwrap_or(Path::new("/"));
    let (old, new) = (dir.join(".cellar-probe"), dir.join(".cellar-probe-moved"));
    let clear = || [&old, &new].map(|file| fs::remove_file(file).is_ok());
    clear();
    let tried = File::create_new(&old)
        .and_then(|_| File::create_new(&new))
        .and_then(|_| fs::rename(&old, &new));
    clear();
    tried.map_err(|e| {
        Failure::at(
            "cannot keep a store in",
            dir,
            format!("renaming a file fails: {e}"),
        )
        .advise("name another place with CLAUDE_CELLAR_STORE_DIR; nothing has been changed")
    })
}
