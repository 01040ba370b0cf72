//! A GlusterFS of three replicas on this machine, as two clients see it: the store that hosts share.
//!
//! Plain volume files and one process each, no management daemon. The clients cache nothing, as a
//! shared store needs it; the servers can be killed and started again.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const SERVERS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Cluster {
    root: PathBuf,
    ports: Vec<u16>,
    servers: Vec<Option<Child>>,
    clients: Vec<Child>,
}

impl Cluster {
    /// Servers and two clients, ready for use.
    pub fn start(name: &str) -> Cluster {
        Cluster::with_caches(name, &[])
    }

    /// The same with these layers of client caches.
    pub fn with_caches(name: &str, caches: &[&str]) -> Cluster {
        for program in ["glusterfsd", "glusterfs"] {
            assert!(
                Command::new(program).arg("--version").output().is_ok(),
                "{program} is missing: install glusterfs-server and glusterfs-client to test a shared store"
            );
        }
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let base = fs::canonicalize(std::env::temp_dir()).unwrap();
        let root = base.join(format!("cluster-{name}-{}-{serial}", std::process::id()));
        for directory in ["a", "b"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        // Held together, so that they are different.
        let free: Vec<_> = (0..SERVERS)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let ports = free
            .iter()
            .map(|l| l.local_addr().unwrap().port())
            .collect();
        drop(free);
        let mut cluster = Cluster {
            root,
            ports,
            servers: (0..SERVERS).map(|_| None).collect(),
            clients: Vec::new(),
        };
        for number in 0..SERVERS {
            cluster.write_server(number);
            cluster.start_server(number);
        }
        cluster.write_client(caches);
        for client in ["a", "b"] {
            cluster.start_client(client);
        }
        cluster
    }

    /// The file system's top as one of its clients sees it.
    pub fn path(&self, client: &str) -> PathBuf {
        self.root.join(client)
    }

    pub fn kill_server(&mut self, number: usize) {
        let mut server = self.servers[number].take().expect("a running server");
        server.kill().unwrap();
        server.wait().unwrap();
    }

    pub fn start_server(&mut self, number: usize) {
        let child = self.spawn("glusterfsd", &format!("server{number}"), None);
        self.servers[number] = Some(child);
        let address = ("127.0.0.1", self.ports[number]);
        self.wait("a server listens", || TcpStream::connect(address).is_ok());
    }

    fn start_client(&mut self, name: &str) {
        let at = self.path(name);
        let client = self.spawn("glusterfs", "client", Some(&at));
        self.clients.push(client);
        let outside = fs::metadata(&self.root).unwrap();
        self.wait("a client is mounted", || {
            use std::os::unix::fs::MetadataExt;
            fs::metadata(&at).is_ok_and(|inside| inside.dev() != outside.dev())
        });
        // All servers must be connected: what is written before is on a part of them.
        let probe = at.join(format!("probe-{name}"));
        self.wait("every server has a new file", || {
            let _ = fs::remove_file(&probe);
            let _ = fs::write(&probe, "probe");
            let brick = |number| self.brick(number).join(format!("probe-{name}"));
            (0..SERVERS).all(|number| brick(number).exists())
        });
        fs::remove_file(&probe).unwrap();
    }

    fn brick(&self, number: usize) -> PathBuf {
        self.root.join(format!("brick{number}"))
    }

    fn spawn(&self, program: &str, volume: &str, mountpoint: Option<&Path>) -> Child {
        let file = |kind: &str| self.root.join(format!("{volume}.{kind}"));
        let mut command = Command::new(program);
        command.arg("--no-daemon");
        command.arg("--volfile").arg(file("vol"));
        command.arg("--log-file").arg(file("log"));
        if let Some(mountpoint) = mountpoint {
            command.args([
                "--attribute-timeout=0",
                "--entry-timeout=0",
                "--negative-timeout=0",
            ]);
            command.arg("--direct-io-mode=enable").arg(mountpoint);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: one async-signal-safe call: should the test die, the process goes with it.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            })
        };
        command.spawn().unwrap_or_else(|e| panic!("{program}: {e}"))
    }

    #[track_caller]
    fn wait(&self, what: &str, ready: impl Fn() -> bool) {
        let started = Instant::now();
        while !ready() {
            if started.elapsed() > PATIENCE {
                for log in ["server0.log", "client.log"] {
                    eprintln!(
                        "{log}: {}",
                        fs::read_to_string(self.root.join(log)).unwrap_or_default()
                    );
                }
                panic!("not within {PATIENCE:?}: {what}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn write_server(&self, number: usize) {
        let brick = self.brick(number);
        let index = brick.join(".glusterfs/indices");
        fs::create_dir_all(&index).unwrap();
        let (brick, index) = (brick.display(), index.display());
        let mut volume = Volume::default();
        volume.layer("posix", "storage/posix", &[&format!("directory {brick}")]);
        volume.layer("access", "features/access-control", &[]);
        volume.layer("locks", "features/locks", &[]);
        volume.layer("threads", "performance/io-threads", &[]);
        let index = [
            format!("index-base {index}"),
            "xattrop-dirty-watchlist trusted.afr.dirty".into(),
            "xattrop-pending-watchlist trusted.afr.client".into(),
        ];
        volume.layer(
            "brick",
            "features/index",
            &index.each_ref().map(String::as_str),
        );
        let port = format!("transport.socket.listen-port {}", self.ports[number]);
        let options = [
            "transport-type tcp",
            "transport.address-family inet",
            "transport.socket.bind-address 127.0.0.1",
            "auth.addr.brick.allow 127.0.0.1",
            &port,
        ];
        volume.layer("server", "protocol/server", &options);
        fs::write(self.root.join(format!("server{number}.vol")), volume.text).unwrap();
    }

    fn write_client(&self, caches: &[&str]) {
        let mut volume = Volume::default();
        for (number, port) in self.ports.iter().enumerate() {
            volume.top.clear();
            let port = format!("remote-port {port}");
            let options = [
                "transport-type tcp",
                "transport.address-family inet",
                "remote-host 127.0.0.1",
                "remote-subvolume brick",
                "ping-timeout 5",
                &port,
            ];
            volume.layer(&format!("client{number}"), "protocol/client", &options);
        }
        volume.top = (0..SERVERS)
            .map(|number| format!("client{number} "))
            .collect();
        let replicate = [
            // A write counts when most servers have it; a server that was away is healed in passing.
            "quorum-type auto",
            "data-self-heal on",
            "metadata-self-heal on",
            "entry-self-heal on",
            // No change of one client waits in it for the next.
            "eager-lock off",
            "post-op-delay-secs 0",
        ];
        volume.layer("replicate", "cluster/replicate", &replicate);
        volume.layer("distribute", "cluster/distribute", &[]);
        // The same times from every server.
        volume.layer("utime", "features/utime", &["noatime on"]);
        for cache in caches {
            volume.layer(cache, &format!("performance/{cache}"), &[]);
        }
        fs::write(self.root.join("client.vol"), volume.text).unwrap();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for client in ["a", "b"] {
            crate::common::sys::detach(&self.path(client));
        }
        let servers = self.servers.drain(..).flatten();
        for mut process in self.clients.drain(..).chain(servers) {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// A volume file: each layer stands on what came before it.
#[derive(Default)]
struct Volume {
    text: String,
    top: String,
}

impl Volume {
    fn layer(&mut self, name: &str, kind: &str, options: &[&str]) {
        self.text += &format!("volume {name}\n type {kind}\n");
        for option in options {
            self.text += &format!(" option {option}\n");
        }
        if !self.top.is_empty() {
            self.text += &format!(" subvolumes {}\n", self.top);
        }
        self.text += "end-volume\n";
        self.top = name.into();
    }
}
