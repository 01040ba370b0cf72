//! The life of a mount's daemon: started, told to seal, stopped, killed, and gone with the test whatever happens.

use super::{Mount, entries, json_number, sys};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A daemon that has not answered for this long is killed, so that a test fails instead of hanging.
const HANG_LIMIT: Duration = Duration::from_secs(240);

impl Mount {
    /// Start the daemon and wait until the mount is there.
    pub fn mount(&mut self) {
        if self.plain {
            return;
        }
        if self.user.is_some() {
            let output = self.run(&self.mount_line(&[]));
            assert!(output.status.success(), "mount: {output:?}\n{}", self.log());
            self.pid.store(self.pid_file(), Ordering::SeqCst);
            assert!(
                self.mounted(),
                "mount returned before the mount was there\n{}",
                self.log()
            );
        } else {
            let log = fs::File::options()
                .create(true)
                .append(true)
                .open(self.root.join("stderr.log"))
                .unwrap();
            let mut command = self.command(&self.mount_line(&["--foreground"]));
            command
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log);
            // SAFETY: one async-signal-safe call: should the test die, its daemon is told to stop.
            unsafe {
                command.pre_exec(|| {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                    Ok(())
                })
            };
            let mut daemon = command.spawn().expect("daemon starts");
            self.pid.store(daemon.id() as i32, Ordering::SeqCst);
            let started = Instant::now();
            // A killed daemon's mount is still listed, and its attributes still cached: statfs asks.
            while !(self.mounted() && sys::is_fuse(&self.path(""))) {
                if let Some(status) = daemon.try_wait().unwrap() {
                    panic!(
                        "the daemon ended instead of mounting ({status})\n{}",
                        self.log()
                    );
                }
                if started.elapsed() > Duration::from_secs(20) {
                    let _ = daemon.kill();
                    panic!("no mount after 20 s\n{}", self.log());
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            self.daemon = Some(daemon);
        }
        self.watch();
    }

    /// The words that mount here.
    pub fn mount_line(&self, more: &[&'static str]) -> Vec<&'static str> {
        let adopt = self.adopt.then_some("--adopt");
        ["mount"]
            .into_iter()
            .chain(adopt)
            .chain(more.iter().copied())
            .collect()
    }

    /// kill -9. What was acknowledged must be there after the next [`Mount::mount`].
    pub fn kill9(&mut self) {
        self.signal(libc::SIGKILL);
        self.reap(Duration::from_secs(10));
    }

    /// SIGTERM: how the daemon ended and after how long.
    pub fn sigterm(&mut self) -> (ExitStatus, Duration) {
        let started = Instant::now();
        self.signal(libc::SIGTERM);
        let status = self.reap(Duration::from_secs(60)).unwrap_or_default();
        (status, started.elapsed())
    }

    /// Stop in good order and start again: nothing is read from anything but the store.
    pub fn remount(&mut self) {
        if self.plain {
            return;
        }
        let (status, _) = self.sigterm();
        assert!(
            status.success(),
            "the daemon ended with {status} on SIGTERM\n{}",
            self.log()
        );
        assert!(!self.mounted(), "SIGTERM left the mount behind");
        self.mount();
    }

    /// Tell the daemon to seal everything now, without waiting.
    pub fn seal(&self) {
        self.signal(libc::SIGUSR1);
    }

    /// Seal everything and wait until it is.
    pub fn seal_and_wait(&self) {
        if self.plain {
            return;
        }
        self.seal();
        let started = Instant::now();
        let mut pause = Duration::from_millis(10);
        loop {
            let waiting = self.unsealed();
            if waiting.is_empty() {
                return;
            }
            assert!(
                started.elapsed() < Duration::from_secs(200),
                "never sealed: {waiting:?}\n{}",
                self.log()
            );
            // Sealing runs at the lowest priority: asking often would starve it.
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    /// Sessions the daemon still has to seal: raw files it could compress, and what it counts itself.
    fn unsealed(&self) -> Vec<String> {
        let mut waiting = Vec::new();
        for project in entries(&self.store)
            .into_iter()
            .filter(|p| !p.ends_with(".cellar"))
        {
            for file in entries(&project) {
                let name = file.file_name().unwrap().as_encoded_bytes();
                match fs::symlink_metadata(&file) {
                    Ok(meta) if !meta.is_file() || !name.ends_with(b".jsonl") => {}
                    // Several links, or no room for `.zst`: stays raw.
                    Ok(meta) if meta.nlink() > 1 || name.len() > 251 => {}
                    Ok(_) => waiting.push(file.display().to_string()),
                    Err(_) => {}
                }
            }
        }
        let status = String::from_utf8_lossy(&self.run(&["status", "--json"]).stdout).into_owned();
        match json_number(&status, "unsealed") {
            Some(0) => {}
            Some(n) => waiting.push(format!("{n} by status")),
            None => panic!("status --json tells no \"unsealed\": {status}"),
        }
        waiting
    }

    pub fn signal(&self, signal: i32) {
        let pid = self.pid.load(Ordering::SeqCst);
        if pid > 0 {
            // SAFETY: sends a signal to the daemon this mount started and has not yet reaped.
            unsafe { libc::kill(pid, signal) };
        }
    }

    pub fn pid(&self) -> i32 {
        self.pid.load(Ordering::SeqCst)
    }

    fn pid_file(&self) -> i32 {
        let file = self.root.join("run/claude-cellar/daemon.pid");
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        text.trim().parse().expect("the pid file holds a number")
    }

    /// Wait for the daemon's end.
    fn reap(&mut self, limit: Duration) -> Option<ExitStatus> {
        let started = Instant::now();
        let pid = self.pid();
        let status = loop {
            let status = match &mut self.daemon {
                Some(daemon) => daemon.try_wait().unwrap(),
                None if running(pid) => None,
                None => Some(ExitStatus::default()),
            };
            if status.is_some() {
                break status;
            }
            if started.elapsed() > limit {
                eprintln!("the daemon did not end within {limit:?}\n{}", self.log());
                self.signal(libc::SIGKILL);
                break None;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.wait();
        }
        self.pid.store(0, Ordering::SeqCst);
        status
    }

    fn watch(&self) {
        let (watchdog, pid) = (self.watchdog.clone(), self.pid.clone());
        let mine = pid.load(Ordering::SeqCst);
        std::thread::spawn(move || {
            let wait = |done: &mut bool| !*done && pid.load(Ordering::SeqCst) == mine;
            let done = watchdog.0.lock().unwrap();
            let waited = watchdog
                .1
                .wait_timeout_while(done, HANG_LIMIT, wait)
                .unwrap();
            let timeout = waited.1;
            if timeout.timed_out() && pid.load(Ordering::SeqCst) == mine {
                eprintln!(
                    "watchdog: the test took longer than {HANG_LIMIT:?}: its daemon is killed"
                );
                // SAFETY: ends the daemon this mount started; every blocked call on it then fails.
                unsafe { libc::kill(mine, libc::SIGKILL) };
            }
        });
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        *self.watchdog.0.lock().unwrap_or_else(|e| e.into_inner()) = true;
        self.watchdog.1.notify_all();
        let mountpoint = self.root.join("mnt");
        for target in [&mountpoint, &self.store, &self.root.join("outside")] {
            for _ in 0..4 {
                if !sys::detach(target) {
                    break;
                }
            }
        }
        if self.mounted() {
            let _ = Command::new("fusermount3")
                .args(["-u", "-z"])
                .arg(&mountpoint)
                .status();
        }
        if self.pid() > 0 {
            self.signal(libc::SIGTERM);
            self.reap(Duration::from_secs(5));
        }
        if !self.mounted() {
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}

/// Is there such a process, not counting one that ended and waits to be collected?
fn running(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}
