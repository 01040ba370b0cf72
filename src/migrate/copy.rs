//! One entry, copied to another file system and compared.

use crate::frames::{Encoder, Ends};
use crate::names::Place;
use crate::rewrite::{self, Builder, Content, compare};
use crate::sys::{self, SetTime, Stat, errno, is};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

/// Whether a file is as it was.
pub fn same(now: &Stat, then: &Stat) -> bool {
    (now.dev, now.ino, now.size, now.mtime) == (then.dev, then.ino, then.size, then.mtime)
}

/// Where the copies of files with several links are, and what was copied.
#[derive(Default)]
pub struct Links(HashMap<(u64, u64), (Stat, Place)>);

impl Links {
    /// The store file that is this one's copy. A file that has changed, or another that got the
    /// number of one that is gone, has none.
    pub fn get(&self, stat: &Stat) -> Option<&Place> {
        let (was, place) = self.0.get(&(stat.dev, stat.ino))?;
        same(stat, was).then_some(place)
    }

    pub fn put(&mut self, stat: &Stat, stored: Place) {
        self.0.insert((stat.dev, stat.ino), (*stat, stored));
    }
}

pub fn equal(a: &File, b: &File) -> io::Result<bool> {
    let (a_size, b_size) = (sys::fstat(a)?.size, sys::fstat(b)?.size);
    let content = |file, size| Content::Raw { file, size };
    compare(content(a, a_size), content(b, b_size))
}

/// Copies the bytes of a file and compares the copy.
pub fn plain(from: &File, size: u64, to: &File) -> io::Result<()> {
    rewrite::copy(from, 0, to, 0, size).map_err(cut_short)?;
    match equal(from, to).map_err(cut_short)? {
        true => Ok(()),
        false => Err(io::Error::other("the copy is not the same")),
    }
}

/// Writes a session's compressed form, which waits to be sealed, and compares it.
pub fn compress(from: &File, size: u64, to: &File, encoder: &mut Encoder) -> io::Result<Ends> {
    let content = Content::Raw { file: from, size };
    let mut builder = Builder::new(to);
    if size == 0 {
        builder.seal()?;
    } else {
        builder
            .encode_rest(content, 0, encoder, Builder::append, &|| false)
            .map_err(cut_short)?;
    }
    match builder.holds(content).map_err(cut_short)? {
        true => Ok(builder.ends()),
        false => Err(io::Error::other(
            "the compressed copy does not decode to the same bytes",
        )),
    }
}

/// A file that ends before the size it had is being changed.
fn cut_short(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => errno(libc::EAGAIN),
        _ => error,
    }
}

/// Makes a link, pipe, socket or device that is like another.
pub fn special(
    from: BorrowedFd,
    name: &OsStr,
    stat: &Stat,
    to: BorrowedFd,
    new: &OsStr,
) -> io::Result<()> {
    if stat.is(libc::S_IFLNK) {
        sys::symlink_at(&sys::readlink_at(from, name)?, to, new)?;
    } else {
        sys::mknod_at(to, new, stat.mode, stat.rdev)?;
    }
    let made = sys::open_at(to, new, libc::O_PATH, 0)?;
    match sys::chown(&made, Some(stat.uid), Some(stat.gid)) {
        // Only root may give files away.
        Err(e) if is(&e, libc::EPERM) => {}
        done => done?,
    }
    sys::utimens(&made, SetTime::At(stat.atime), SetTime::At(stat.mtime))
}
