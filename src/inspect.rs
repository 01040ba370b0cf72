//! Everything that can be wrong with one store file: each frame is decoded, and each commit trailer
//! and seek table between the frames is held against them.
//!
//! What is found is named by its offset in the store file. Reads only.

use crate::frames::{
    self, Checker, Damage, Frame, Index, MAGIC_SKIPPABLE, MAGIC_TABLE, MAGIC_TRAILER, TRAILER,
    Trailer,
};
use crate::store::{HINT, Hint};
use crate::sys;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    Damage(Damage),
    /// An append that was cut short: this many bytes are no whole frame.
    Torn {
        at: u64,
        bytes: u64,
    },
    /// The note of the size on the file is wrong; its bytes are not.
    Hint {
        at: u64,
        noted: u64,
        real: u64,
    },
}

impl Fault {
    pub fn new(at: u64, what: impl Into<String>) -> Fault {
        let what = what.into();
        Fault::Damage(Damage { at, what })
    }

    /// From an error: where it says that it is, or at the start.
    pub fn of(error: &io::Error) -> Fault {
        match error.get_ref().and_then(|e| e.downcast_ref::<Damage>()) {
            Some(damage) => Fault::Damage(damage.clone()),
            None => Fault::new(0, format!("cannot be read: {error}")),
        }
    }

    pub fn at(&self) -> u64 {
        match self {
            Fault::Damage(damage) => damage.at,
            Fault::Torn { at, .. } | Fault::Hint { at, .. } => *at,
        }
    }

    /// What it is, without the offset.
    pub fn what(&self) -> String {
        match self {
            Fault::Damage(damage) => damage.what.clone(),
            Fault::Torn { bytes, .. } => {
                format!("torn append, {bytes} bytes: readers see the file up to there")
            }
            Fault::Hint { noted, real, .. } => {
                format!("the attribute {HINT} notes a size of {noted}, the frames say {real}")
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Damage(damage) => damage.fmt(f),
            Fault::Torn { at, bytes } => write!(
                f,
                "torn append at offset {at}, {bytes} bytes: readers see the file up to there"
            ),
            Fault::Hint { at, .. } => write!(f, "damaged at offset {at}: {}", self.what()),
        }
    }
}

/// Decodes a whole packed store file. Returns what it holds, and adds what is wrong to `faults`;
/// `done` is told of stored bytes as they are done with.
pub fn packed(
    file: &File,
    size: u64,
    checker: &mut Checker,
    faults: &mut Vec<Fault>,
    done: &dyn Fn(u64),
) -> io::Result<Index> {
    let index = frames::index(file, size)?;
    let from = faults.len();
    let mut between = Between {
        file,
        index: &index,
        faults,
    };
    let mut end = 0;
    for (n, frame) in index.frames.iter().enumerate() {
        between.look(n, end, frame.at)?;
        if let Err(e) = checker.verify(file, frame) {
            between
                .faults
                .push(Fault::new(frame.at, Fault::of(&e).what()));
        }
        end = frame.at + frame.len;
        done(frame.len);
    }
    between.look(index.frames.len(), end, index.ends.stored)?;
    if index.torn > 0 {
        let (at, bytes) = (index.ends.stored, index.torn);
        faults.push(Fault::Torn { at, bytes });
    }
    // The index knows of losses that leave no hole behind, such as a header gone with its size.
    if let Some(at) = index.lost_at
        && faults.len() == from
    {
        faults.push(Fault::new(at, "frames are missing"));
    }
    hint(file, size, &index, faults);
    Ok(index)
}

/// A wrong note of the size is believed by every stat.
fn hint(file: &File, size: u64, index: &Index, faults: &mut Vec<Fault>) {
    let mut bytes = [0; Hint::LEN];
    let n = sys::getxattr(file.as_fd(), OsStr::new(HINT), &mut bytes).unwrap_or(0);
    let noted = Hint::decode(&bytes[..n], size).map(|hint| hint.logical);
    if let Some(noted) = noted.filter(|noted| *noted != index.ends.logical) {
        let (at, real) = (index.ends.stored, index.ends.logical);
        faults.push(Fault::Hint { at, noted, real });
    }
}

/// What stands between two frames.
struct Between<'a> {
    file: &'a File,
    index: &'a Index,
    faults: &'a mut Vec<Fault>,
}

impl Between<'_> {
    /// Looks at the stored bytes `at..to` before frame `next`.
    fn look(&mut self, next: usize, at: u64, to: u64) -> io::Result<()> {
        let previous = self.index.frames[..next].last().copied();
        let known = previous.map_or(0, |f| f.end());
        let then = match self.index.frames.get(next) {
            Some(frame) => frame.start,
            None => self.index.ends.logical,
        };
        let lost = then.saturating_sub(known);
        let mut pos = at;
        while pos < to {
            let Some(end) = self.skippable(pos, to)? else {
                let (no_frame, until) = (to - pos, known + lost);
                self.faults.push(Fault::new(
                    pos,
                    match lost {
                        0 => format!("{no_frame} bytes are no frame"),
                        _ => format!(
                            "{no_frame} bytes are no frame; bytes {known} to {until} of the \
                             session are lost"
                        ),
                    },
                ));
                return Ok(());
            };
            self.record(next, previous, pos, end)?;
            pos = end;
        }
        if lost > 0 {
            let what = format!("bytes {known} to {then} of the session are lost");
            self.faults.push(Fault::new(at, what));
        }
        Ok(())
    }

    fn number(&self, at: u64) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn skippable(&self, at: u64, to: u64) -> io::Result<Option<u64>> {
        if to - at < 8 || self.number(at)? & !0xf != MAGIC_SKIPPABLE {
            return Ok(None);
        }
        let end = at + 8 + u64::from(self.number(at + 4)?);
        Ok((end <= to).then_some(end))
    }

    /// Holds a skippable frame, if it is one of ours, against the frames before it.
    fn record(
        &mut self,
        next: usize,
        previous: Option<Frame>,
        at: u64,
        end: u64,
    ) -> io::Result<()> {
        let magic = self.number(at)?;
        if magic == MAGIC_TRAILER && end - at == TRAILER {
            let mut bytes = [0; TRAILER as usize];
            self.file.read_exact_at(&mut bytes, at)?;
            let Some(trailer) = Trailer::decode(&bytes, at) else {
                self.faults
                    .push(Fault::new(at, "commit trailer is damaged"));
                return Ok(());
            };
            let (logical, len) = previous.map_or((0, 0), |f| (f.end(), f.len));
            let follows = previous.is_some_and(|f| f.at + f.len == at);
            let said = u64::from(trailer.frame_len);
            if trailer.logical != logical || (said != 0 && !(follows && said == len)) {
                let what = "commit trailer disagrees with the frames";
                self.faults.push(Fault::new(at, what));
            }
        } else if magic == MAGIC_TABLE && self.is_ours(end)? {
            let frames = &self.index.frames[..next];
            match frames::seek_table(self.file, end)? {
                Some(table) if table == frames => {}
                Some(_) => {
                    let what = "seek table disagrees with the frames";
                    self.faults.push(Fault::new(at, what));
                }
                None => self.faults.push(Fault::new(at, "seek table is damaged")),
            }
        }
        Ok(())
    }

    /// A seek table with checksums is legal, but made and read by others.
    fn is_ours(&self, end: u64) -> io::Result<bool> {
        let mut descriptor = [0; 1];
        self.file.read_exact_at(&mut descriptor, end - 5)?;
        Ok(descriptor[0] & 0x80 == 0)
    }
}
