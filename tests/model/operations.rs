//! The operations and how they are drawn: few names and few descriptors, so that they meet often.

use super::world::World;
use crate::common::rng::Rng;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Descriptors a world keeps open.
pub const SLOTS: usize = 6;

#[rustfmt::skip] // one operation a line
#[derive(Clone, Debug)]
pub enum Operation {
    Open { slot: usize, path: PathBuf, flags: i32, mode: u32 },
    Close { slot: usize },
    Write { slot: usize, data: Data },
    Pwrite { slot: usize, data: Data, at: i64 },
    Read { slot: usize, length: usize },
    Pread { slot: usize, length: usize, at: i64, cold: bool },
    Seek { slot: usize, to: i64, whence: i32 },
    Ftruncate { slot: usize, size: i64 },
    Fallocate { slot: usize, mode: i32, at: i64, length: i64 },
    Fsync { slot: usize },
    Fstat { slot: usize },
    Fchmod { slot: usize, mode: u32 },
    SetAppend { slot: usize, on: bool },
    MapRead { slot: usize },
    MapWrite { slot: usize, at: usize, data: Data },
    CopyRange { from: usize, to: usize, length: usize },
    Truncate { path: PathBuf, size: i64 },
    Rename { from: PathBuf, to: PathBuf, flags: u32 },
    Link { from: PathBuf, to: PathBuf },
    Symlink { target: PathBuf, path: PathBuf },
    ReadLink { path: PathBuf },
    Unlink { path: PathBuf },
    Mkdir { path: PathBuf, mode: u32 },
    Rmdir { path: PathBuf },
    Mkfifo { path: PathBuf },
    Chmod { path: PathBuf, mode: u32 },
    Chown { path: PathBuf, user: u32 },
    SetTime { path: PathBuf, seconds: i64, nanoseconds: i64 },
    List { path: PathBuf },
    Stat { path: PathBuf, follow: bool },
    SetAttribute { path: PathBuf, name: &'static str, value: Data, flags: i32 },
    GetAttribute { path: PathBuf, name: &'static str },
    RemoveAttribute { path: PathBuf, name: &'static str },
    ListAttributes { path: PathBuf },
    Seal { wait: bool },
}

/// Bytes given by their seed, so that a trace stays readable.
#[derive(Clone, Debug)]
pub struct Data {
    pub seed: u64,
    pub length: usize,
}

impl Data {
    pub fn bytes(&self) -> Vec<u8> {
        let mut rng = Rng::new(self.seed);
        if self.seed.is_multiple_of(4) {
            return rng.bytes(self.length);
        }
        let mut text = Vec::new();
        rng.words(&mut text, self.length);
        text
    }
}

fn data(rng: &mut Rng) -> Data {
    let length = match rng.below(100) {
        0..3 => 0,
        3..60 => rng.below(300),
        60..85 => rng.below(9_000),
        85..97 => rng.below(140_000),
        _ => rng.below(2_500_000),
    };
    Data {
        seed: rng.next(),
        length: length as usize,
    }
}

/// The names: sessions, other files, directories, a directory named like a session, odd bytes, the longest.
fn path(rng: &mut Rng) -> PathBuf {
    const DIRECTORIES: [&str; 6] = ["", "p", "p", "p", "q", "p/d"];
    let name: Vec<u8> = match rng.below(20) {
        0..5 => b"a.jsonl".to_vec(),
        5..8 => b"b.jsonl".to_vec(),
        8..10 => b"c.txt".to_vec(),
        10 => b"d".to_vec(),
        11 => b"e.jsonl".to_vec(),
        12 => b"\xff\xfe \n\\.jsonl".to_vec(),
        13 => b".jsonl".to_vec(),
        14 => [vec![b'l'; 249], b".jsonl".to_vec()].concat(),
        15 => [vec![b'm'; 245], b".jsonl".to_vec()].concat(),
        16 => return PathBuf::from(*rng.pick(&["p", "q", "p/d", "r"])),
        17 => {
            return PathBuf::from(*rng.pick(&[
                "p/a.jsonl/x",
                "p/../q/a.jsonl",
                "p/./b.jsonl",
                "q/.",
                "missing/a.jsonl",
                "p/d/",
            ]));
        }
        18 if rng.chance(40) => {
            [vec![b'n'; 250 + rng.below(2) as usize], b".jsonl".to_vec()].concat()
        }
        _ => b"f".to_vec(),
    };
    Path::new(*rng.pick(&DIRECTORIES)).join(std::ffi::OsStr::from_bytes(&name))
}

fn offset(rng: &mut Rng, size: i64) -> i64 {
    match rng.below(10) {
        0 => 0,
        1 => size,
        2 => size + rng.below(9_000) as i64,
        3 if rng.chance(30) => 1_500_000,
        _ => rng.below(size as u64 + 1) as i64,
    }
}

fn flags(rng: &mut Rng) -> i32 {
    let mut flags = *rng.pick(&[libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR, libc::O_RDWR]);
    for (flag, percent) in [
        (libc::O_CREAT, 70),
        (libc::O_EXCL, 8),
        (libc::O_TRUNC, 15),
        (libc::O_APPEND, 40),
        (libc::O_NOFOLLOW, 8),
        (libc::O_SYNC, 3),
    ] {
        if rng.chance(percent) {
            flags |= flag;
        }
    }
    // Never wait for the other end of a FIFO. O_EXCL without O_CREAT is undefined, O_DIRECTORY goes alone.
    if flags & libc::O_CREAT == 0 {
        flags &= !libc::O_EXCL;
        if rng.chance(10) {
            return libc::O_RDONLY | libc::O_DIRECTORY;
        }
    }
    flags | libc::O_NONBLOCK
}

pub fn choose(rng: &mut Rng, world: &World) -> Operation {
    loop {
        let operation = draw(rng, world);
        // The documented difference: a session does not change places with what is none.
        let across = match &operation {
            Operation::Rename { from, to, flags } if *flags == libc::RENAME_EXCHANGE => {
                let both = world.is_session(from).zip(world.is_session(to));
                both.is_some_and(|(from, to)| from != to)
            }
            _ => false,
        };
        if !across {
            return operation;
        }
    }
}

/// Mostly a name that is there.
fn known(rng: &mut Rng, world: &World) -> PathBuf {
    let names = world.names();
    if names.is_empty() || rng.chance(25) {
        path(rng)
    } else {
        rng.pick(&names).clone()
    }
}

/// Mostly a descriptor that can do it.
fn descriptor(rng: &mut Rng, world: &World, access: &[i32]) -> usize {
    let able: Vec<usize> = (0..SLOTS)
        .filter(|slot| {
            world
                .access(*slot)
                .is_some_and(|mode| access.contains(&mode))
        })
        .collect();
    if able.is_empty() || rng.chance(4) {
        rng.below(SLOTS as u64) as usize
    } else {
        *rng.pick(&able)
    }
}

/// Random operations lose the directories and descriptors that make others meaningful: bring them back.
fn repair(rng: &mut Rng, world: &World, slot: usize) -> Option<Operation> {
    for directory in ["p", "q", "p/d"] {
        if !world.is_directory(Path::new(directory)) && rng.chance(25) {
            let path = PathBuf::from(directory);
            let there = world.names().contains(&path);
            return Some(if there {
                Operation::Unlink { path }
            } else {
                Operation::Mkdir { path, mode: 0o755 }
            });
        }
    }
    if world.access(slot).is_none() && rng.chance(20) {
        let flags = *rng.pick(&[0, libc::O_APPEND]) | libc::O_RDWR | libc::O_CREAT;
        let path = PathBuf::from(*rng.pick(&[
            "p/a.jsonl",
            "p/b.jsonl",
            "q/a.jsonl",
            "p/c.txt",
            "p/d/a.jsonl",
        ]));
        return Some(Operation::Open {
            slot,
            path,
            flags,
            mode: 0o644,
        });
    }
    None
}

#[rustfmt::skip] // one operation a line
fn draw(rng: &mut Rng, world: &World) -> Operation {
    use Operation::*;
    let slot = rng.below(SLOTS as u64) as usize;
    if let Some(operation) = repair(rng, world, slot) {
        return operation;
    }
    let any = descriptor(rng, world, &[libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR]);
    let from = descriptor(rng, world, &[libc::O_RDONLY, libc::O_RDWR]);
    let to = descriptor(rng, world, &[libc::O_WRONLY, libc::O_RDWR]);
    let both = descriptor(rng, world, &[libc::O_RDWR]);
    let file = known(rng, world);
    let mode = *rng.pick(&[0o600, 0o644, 0o755, 0o400, 0o777, 0o000]);
    let length = *rng.pick(&[1, 10, 1_000, 65_536, 3_000_000]);
    let name = *rng.pick(&["user.a", "user.b", "user.cellar.note"]);
    let at = |rng: &mut Rng, slot| offset(rng, world.size(slot));
    match rng.below(1_000) {
        0..120 => Open { slot, path: path(rng), flags: flags(rng), mode },
        120..140 => Open { slot, path: file, flags: flags(rng), mode },
        140..150 => Close { slot },
        150..290 => Write { slot: to, data: data(rng) },
        290..360 => Pwrite { slot: to, data: data(rng), at: at(rng, to) },
        360..390 => Read { slot: from, length },
        390..450 => Pread { slot: from, length, at: at(rng, from), cold: rng.chance(40) },
        450..465 => Seek { slot: any, to: at(rng, any), whence: *rng.pick(&[libc::SEEK_SET, libc::SEEK_END, libc::SEEK_CUR]) },
        465..500 => Ftruncate { slot: to, size: at(rng, to) },
        500..515 => Fallocate {
            slot: to,
            mode: *rng.pick(&[0, 0, libc::FALLOC_FL_KEEP_SIZE, libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE]),
            at: at(rng, to),
            length: rng.below(20_000) as i64,
        },
        515..530 => Fsync { slot: any },
        530..550 => Fstat { slot: any },
        550..560 => Fchmod { slot: any, mode },
        560..570 => SetAppend { slot: to, on: rng.chance(50) },
        570..590 => MapRead { slot: from },
        590..610 => MapWrite {
            slot: both,
            at: at(rng, both) as usize,
            data: Data { seed: rng.next(), length: 1 + rng.below(5_000) as usize },
        },
        610..625 => CopyRange { from, to, length: rng.below(100_000) as usize },
        625..645 => Truncate { path: file, size: *rng.pick(&[0, 1, 100, 4_096, 30_000, 500_000]) },
        645..700 => Rename {
            from: file,
            to: if rng.chance(50) { path(rng) } else { known(rng, world) },
            flags: *rng.pick(&[0, 0, 0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE]),
        },
        700..725 => Link { from: file, to: path(rng) },
        725..740 => Symlink { target: path(rng), path: path(rng) },
        740..745 => ReadLink { path: file },
        745..780 => Unlink { path: file },
        780..805 => Mkdir { path: path(rng), mode: 0o755 },
        805..815 => Rmdir { path: file },
        815..818 => Mkfifo { path: path(rng) },
        818..833 => Chmod { path: file, mode: *rng.pick(&[0o600, 0o644, 0o4755, 0o2750, 0o1777, 0o000]) },
        833..840 => Chown { path: file, user: rng.below(3) as u32 },
        840..870 => SetTime {
            path: file,
            seconds: 1_000_000_000 + rng.below(400_000_000) as i64,
            nanoseconds: rng.below(1_000_000_000) as i64,
        },
        870..890 => List { path: file },
        890..925 => Stat { path: path(rng), follow: rng.chance(50) },
        925..945 => SetAttribute {
            path: file,
            name,
            value: Data { seed: rng.next(), length: rng.below(200) as usize },
            flags: *rng.pick(&[0, 0, libc::XATTR_CREATE, libc::XATTR_REPLACE]),
        },
        945..955 => GetAttribute { path: file, name },
        955..963 => RemoveAttribute { path: file, name },
        963..972 => ListAttributes { path: file },
        972..975 => Seal { wait: true },
        _ => Seal { wait: false },
    }
}
