//! A user manager of one unit: `systemctl --user` in a home's own PATH, which starts what the unit says.

use super::put;
use crate::cellar::{Home, Ran};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const SYSTEMCTL: &str = r#"#!/usr/bin/env python3
import os, re, signal, socket, subprocess, sys, time
home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
manager = dict(line.rstrip('\n').split('=', 1) for line in open(home + '/manager'))
config = manager.get('XDG_CONFIG_HOME', manager['HOME'] + '/.config')
units = [config + '/systemd/user/claude-cellar.service', home + '/packaged/claude-cellar.service']
unit = next((path for path in units if os.path.exists(path)), None)
wants = config + '/systemd/user/default.target.wants/claude-cellar.service'
pid_file = home + '/main-pid'
args = sys.argv[1:]
assert args[0] == '--user', args
args = args[1:]
with open(home + '/calls', 'a') as calls:
    calls.write(' '.join(args) + '\n')

def words(text):
    # Double quotes, backslashes, %% as systemd.syntax and systemd.unit have them.
    found, at = [], 0
    for quoted, plain in re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', text):
        word = re.sub(r'\\x([0-9a-f]{2})|\\(.)', lambda m: chr(int(m[1], 16)) if m[1] else m[2], quoted or plain)
        found.append(word.replace('%%', '%'))
    return found

def setting(name):
    return [line.split('=', 1)[1].lstrip('-') for line in open(unit) if line.startswith(name + '=')]

def alive():
    try:
        pid = int(open(pid_file).read())
        return pid if open(f'/proc/{pid}/stat').read().rsplit(') ', 1)[1][0] != 'Z' else None
    except (OSError, ValueError):
        return None

def environment():
    told = dict(manager)
    for line in setting('Environment'):
        told.update(word.split('=', 1) for word in words(line))
    return told

def start():
    if alive():
        return 0
    listen = home + '/notify'
    if os.path.exists(listen):
        os.unlink(listen)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(listen)
    sock.settimeout(0.05)
    log = open(home + '/service.log', 'a')
    daemon = subprocess.Popen(words(setting('ExecStart')[0]), env=dict(environment(), NOTIFY_SOCKET=listen),
                              cwd=manager['HOME'], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    with open(pid_file, 'w') as file:
        file.write(str(daemon.pid))
    while daemon.poll() is None:
        try:
            if b'READY=1' in sock.recv(4096):
                return 0
        except TimeoutError:
            pass
    print('Job for claude-cellar.service failed.', file=sys.stderr)
    return 1

def stop():
    pid = alive()
    if pid:
        subprocess.run(words(setting('ExecStop')[0]), env=dict(environment(), MAINPID=str(pid)), stdout=subprocess.DEVNULL)
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
        while alive():
            time.sleep(0.01)
    return 0

match args[0]:
    case 'show-environment':
        for name, value in manager.items():
            plain = re.fullmatch(r'[\w@%+=:,./-]*', value, re.A)
            value = value if plain else "$'" + value.replace('\\', '\\\\').replace("'", "\\'") + "'"
            print(f'{name}={value}')
    case 'show':
        print(unit or '')
    case 'is-active':
        sys.exit(0 if alive() else 3)
    case 'enable':
        os.makedirs(os.path.dirname(wants), exist_ok=True)
        if not os.path.lexists(wants):
            os.symlink(unit, wants)
    case 'disable':
        if os.path.lexists(wants):
            os.unlink(wants)
    case 'start':
        sys.exit(start())
    case 'stop':
        sys.exit(stop())
    case 'daemon-reload':
        pass
    case other:
        sys.exit(f'unknown: {other}')
"#;

/// A home with a manager, which has these variables besides HOME and the runtime directory.
pub struct Managed {
    pub home: Home,
}

impl Managed {
    pub fn new() -> Managed {
        Managed::in_home(Home::new())
    }

    pub fn in_home(home: Home) -> Managed {
        let program = home.dir.join("bin/systemctl");
        put(&program, SYSTEMCTL);
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let managed = Managed { home };
        managed.has(&[]);
        managed
    }

    /// Sets what the manager's services start with.
    pub fn has(&self, variables: &[(&str, &str)]) {
        let dir = self.home.dir.display();
        let mut text = format!("HOME={dir}\nXDG_RUNTIME_DIR={dir}/run\nPATH=/usr/bin:/bin\n");
        for (name, value) in variables {
            text += &format!("{name}={value}\n");
        }
        put(&self.home.dir.join("manager"), text);
    }

    pub fn run(&self, line: &str) -> Ran {
        self.run_with(line, &[])
    }

    /// Runs a command line whose words hold no spaces, with more variables in the shell.
    pub fn run_with(&self, line: &str, variables: &[(&str, &Path)]) -> Ran {
        let mut command = self.home.command(line.split(' '));
        command
            .env("PATH", self.path())
            .envs(variables.iter().copied());
        Ran::from(command.output().unwrap())
    }

    pub fn path(&self) -> String {
        format!(
            "{}/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            self.home.dir.display()
        )
    }

    pub fn unit(&self) -> PathBuf {
        self.home
            .dir
            .join(".config/systemd/user/claude-cellar.service")
    }

    pub fn wanted(&self) -> PathBuf {
        self.unit()
            .with_file_name("default.target.wants/claude-cellar.service")
    }

    pub fn text(&self) -> String {
        fs::read_to_string(self.unit()).unwrap()
    }

    /// What the unit sets, but for PATH.
    pub fn variables(&self) -> Vec<String> {
        let text = self.text();
        let lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("Environment="));
        lines
            .filter(|line| !line.contains("PATH=/run"))
            .map(str::to_owned)
            .collect()
    }

    /// What it was asked since the last time.
    pub fn calls(&self) -> Vec<String> {
        let file = self.home.dir.join("calls");
        let text = fs::read_to_string(&file).unwrap_or_default();
        let _ = fs::remove_file(file);
        text.lines().map(str::to_owned).collect()
    }

    /// The manager's own: what a user does by hand, or a login.
    pub fn systemctl(&self, args: &str) -> bool {
        let program = self.home.dir.join("bin/systemctl");
        let mut command = std::process::Command::new(program);
        command.arg("--user").args(args.split(' '));
        command.status().unwrap().success()
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        if let Ok(pid) = fs::read_to_string(self.home.dir.join("main-pid")) {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if name.starts_with("claude-cellar") {
                let _ = std::process::Command::new("kill")
                    .args(["-9", &pid])
                    .status();
            }
        }
    }
}
