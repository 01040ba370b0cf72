//! claude-cellar: Claude Code sessions, stored compressed, seen as plain files.
//!
//! The data's way, top to bottom: [`filesystem`] turns kernel requests into calls, [`inodes`] knows
//! which object a number means, [`session`] holds the one shared state of a file, [`frames`] is the
//! byte format and [`store`] the directory it lives in. [`seal`] compresses in the background.
//! Nothing below `filesystem` knows FUSE.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "claude-cellar is a Linux FUSE file system: it needs /dev/fuse and fusermount3, and runs on Linux x86_64 and aarch64 only."
);

#[cfg(feature = "agentfs")]
#[path = "bin/agentfs/mod.rs"]
pub mod agentfs;
pub mod archive;
pub mod cache;
pub mod claude;
pub mod cli;
pub mod clients;
pub mod coherence;
pub mod completions;
pub mod config;
pub mod detach;
pub mod dirty;
pub mod examine;
pub mod exit;
pub mod export;
pub mod fields;
pub mod filesystem;
pub mod frames;
pub mod help;
pub mod inodes;
pub mod inspect;
pub mod install;
pub mod json;
pub mod layout;
pub mod legacy;
pub mod list;
pub mod logfile;
pub mod man;
pub mod migrate;
pub mod migrate_store;
pub mod mount;
pub mod mounts;
pub mod names;
pub mod notify;
pub mod outdated;
pub mod paths;
pub mod pick;
pub mod pidfile;
pub mod pool;
pub mod progress;
pub mod repair;
pub mod resume;
pub mod rewrite;
pub mod seal;
pub mod service;
pub mod session;
pub mod shared;
pub mod signals;
pub mod size;
pub mod stats;
pub mod status;
pub mod store;
pub mod survey;
pub mod sys;
pub mod systemd;
pub mod transcript;
pub mod trash;
pub mod tree;
pub mod tuning;
pub mod umount;
pub mod uninstall;
pub mod unit;
pub mod usage;
pub mod verify;
