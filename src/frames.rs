//! The store format: a session is a sequence of ordinary zstd frames (RFC 8878).
//!
//! `zstd -dc` reads every file this module writes, at every moment of its life. Three things are
//! added to the frames, all in *skippable* frames that any zstd reader passes over:
//!
//! **Commit trailer**, 32 bytes after each appended frame, all numbers little-endian:
//! ```text
//! 0  u32  0x184D2A5C      skippable frame magic
//! 4  u32  24              payload length
//! 8  u64  logical size    decoded bytes of the file up to here
//! 16 u64  sealed end      where the sealed part ends in the store file, 0 without one
//! 24 u32  frame length    stored bytes of the frame directly before, 0 for none
//! 28 u32  check           CRC-32 (IEEE) of bytes 0..28 and this trailer's offset as u64
//! ```
//! The last 32 bytes answer a stat; each trailer leads to the one before it. The offset is part of
//! the check, so a trailer that `cat` or `dd` moved elsewhere is not believed. A trailer whose sealed
//! end is its own end closes a session sealed in one frame.
//!
//! **Seek table**, at the end of a sealed session of several frames, in the zstd seekable format
//! 0.1.0 without checksums (0x184D2A5E; u32 stored and u32 decoded size a frame; u32 count, u8 0,
//! u32 0x8F92EAB1). It covers the file from offset 0, and is followed by appended frames later.
//!
//! **Sizes.** Frames sealed or folded hold at most [`FRAME_MAX`] = 8 MiB decoded bytes: 1.006 × the
//! size of one whole frame on real sessions, and a tail read decodes at most that (about 7 ms).
//! Appends use level 1: on one line the ratio of level 3 (2.64×) at 13 µs instead of 19.
//!
//! Foreign files (one frame as 0.3.0 wrote it, `zstd`, `cat a.zst b.zst`, no content size, no
//! checksum) are read as they are, by walking block headers once.
//!
//! **Damage.** The index leaves a gap where frames cannot be found again; reading a gap gives EIO.
//! Bytes after the last whole frame with nothing valid behind them are a *torn tail*: an append that
//! was never acknowledged.

mod codec;
mod walk;

pub use codec::{Checker, Decoder, Encoder, Stream, WholeDecoder};

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use walk::{Walk, header};

/// Decoded bytes a folded or sealed frame holds at most.
pub const FRAME_MAX: u64 = 8 << 20;
/// A foreign file of one frame that holds at most this is as good as sealed (0.3.0 used level 19).
pub const FOREIGN_MAX: u64 = 2 * FRAME_MAX;
/// Stored bytes of a commit trailer.
pub const TRAILER: u64 = 32;
/// Level of an appended frame.
pub const LEVEL_APPEND: i32 = 1;
/// Level of a fold: 90–98 % of level 19's ratio for a thirtieth of its time.
pub const LEVEL_FOLD: i32 = 9;
/// Level of a seal.
pub const LEVEL_SEAL: i32 = 19;

const MAGIC_FRAME: u32 = 0xFD2F_B528;
pub const MAGIC_SKIPPABLE: u32 = 0x184D_2A50;
pub const MAGIC_TRAILER: u32 = 0x184D_2A5C;
pub const MAGIC_TABLE: u32 = 0x184D_2A5E;
const MAGIC_TABLE_FOOTER: u32 = 0x8F92_EAB1;
const TABLE_FOOTER: u64 = 9;
const IO_CHUNK: usize = 128 << 10;

/// CRC-32 as in zlib and PNG.
fn crc32(parts: &[&[u8]]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0u32; 256];
        let mut i = 0;
        while i < 256 {
            let (mut value, mut bit) = (i as u32, 0);
            while bit < 8 {
                value = if value & 1 == 1 {
                    0xEDB8_8320 ^ (value >> 1)
                } else {
                    value >> 1
                };
                bit += 1;
            }
            table[i] = value;
            i += 1;
        }
        table
    };
    let crc = parts
        .iter()
        .flat_map(|part| part.iter())
        .fold(!0, |crc: u32, &byte| {
            TABLE[((crc ^ u32::from(byte)) & 0xff) as usize] ^ (crc >> 8)
        });
    !crc
}

fn le32(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .take(4)
        .rev()
        .fold(0, |value, &byte| value << 8 | u32::from(byte))
}

fn le64(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .take(8)
        .rev()
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// What is wrong with a store file, and where in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub at: u64,
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "damaged at offset {}: {}", self.at, self.what)
    }
}

impl std::error::Error for Damage {}

/// EIO that says where; it reaches the log, the errno reaches the caller.
pub fn damaged(at: u64, what: &str) -> io::Error {
    let what = what.to_owned();
    io::Error::new(io::ErrorKind::InvalidData, Damage { at, what })
}

/// The record that commits an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    pub logical: u64,
    pub sealed_end: u64,
    pub frame_len: u32,
}

impl Trailer {
    /// The bytes of a trailer that will stand at offset `at`.
    pub fn encode(&self, at: u64) -> [u8; TRAILER as usize] {
        let mut bytes = [0; TRAILER as usize];
        bytes[0..4].copy_from_slice(&MAGIC_TRAILER.to_le_bytes());
        bytes[4..8].copy_from_slice(&(TRAILER as u32 - 8).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.logical.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sealed_end.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.frame_len.to_le_bytes());
        let check = crc32(&[&bytes[..28], &at.to_le_bytes()]);
        bytes[28..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// The trailer these bytes are, if they stood at offset `at` when they were written.
    pub fn decode(bytes: &[u8], at: u64) -> Option<Trailer> {
        let header = bytes.len() == TRAILER as usize
            && le32(bytes) == MAGIC_TRAILER
            && le32(&bytes[4..]) == TRAILER as u32 - 8;
        if !header || le32(&bytes[28..]) != crc32(&[&bytes[..28], &at.to_le_bytes()]) {
            return None;
        }
        let trailer = Trailer {
            logical: le64(&bytes[8..]),
            sealed_end: le64(&bytes[16..]),
            frame_len: le32(&bytes[24..]),
        };
        let possible = u64::from(trailer.frame_len) <= at && trailer.sealed_end <= at + TRAILER;
        possible.then_some(trailer)
    }

    /// The trailer that ends at offset `end`.
    fn ending_at(file: &File, end: u64) -> io::Result<Option<Trailer>> {
        let Some(at) = end.checked_sub(TRAILER) else {
            return Ok(None);
        };
        let mut bytes = [0; TRAILER as usize];
        file.read_exact_at(&mut bytes, at)?;
        Ok(Trailer::decode(&bytes, at))
    }
}

/// A zstd frame: where it is stored and which decoded bytes it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Offset in the store file.
    pub at: u64,
    /// Stored length.
    pub len: u64,
    /// First decoded byte's offset in the session.
    pub start: u64,
    /// Decoded length.
    pub size: u64,
}

impl Frame {
    pub fn end(&self) -> u64 {
        self.start + self.size
    }
}

/// What a stat and an append need to know: the ends, without the frames between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Ends {
    /// The session's size.
    pub logical: u64,
    /// Where valid data ends in the store file, and where the next frame goes.
    pub stored: u64,
    /// Where the sealed part ends, 0 without one.
    pub sealed: u64,
}

impl Ends {
    /// Nothing has been appended since the last seal.
    pub fn is_sealed(&self) -> bool {
        self.stored == self.sealed
    }
}

/// What frame headers tell of a whole file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FrameSizes {
    /// Decoded length of all frames.
    pub logical: u64,
    /// How many frames hold content.
    pub frames: u64,
}

/// Where everything is in a store file.
#[derive(Clone, Debug, Default)]
pub struct Index {
    /// In order; a gap in the decoded offsets is damage.
    pub frames: Vec<Frame>,
    pub ends: Ends,
    /// Bytes after `ends.stored`: a torn append.
    pub torn: u64,
    /// Not written by us alone: found by walking, not by trailers and seek table.
    pub foreign: bool,
    /// Some frame does not say what it holds and had to be decoded to know.
    pub unsized_frames: bool,
    /// Offset in the store file where frames were lost.
    pub lost_at: Option<u64>,
}

impl Index {
    /// The frames that hold decoded bytes `from..to`.
    pub fn covering(&self, from: u64, to: u64) -> &[Frame] {
        let first = self.frames.partition_point(|f| f.end() <= from);
        let count = self.frames[first..].partition_point(|f| f.start < to);
        &self.frames[first..first + count]
    }

    /// Notes a frame appended with its trailer.
    pub fn push(&mut self, len: u64, size: u64) {
        self.frames.push(Frame {
            at: self.ends.stored,
            len,
            start: self.ends.logical,
            size,
        });
        self.ends.logical += size;
        self.ends.stored += len + TRAILER;
    }
}

/// The ends of a store file of this size from its last bytes alone; `None` when they do not tell
/// (a foreign file or a torn tail), and [`index`] must look.
pub fn ends(file: &File, size: u64) -> io::Result<Option<Ends>> {
    if size == 0 {
        return Ok(Some(Ends::default()));
    }
    if let Some(t) = Trailer::ending_at(file, size)? {
        return Ok(Some(Ends {
            logical: t.logical,
            stored: size,
            sealed: t.sealed_end,
        }));
    }
    let table = seek_table(file, size)?.filter(|frames| agree(file, frames));
    Ok(table.map(|frames| Ends {
        logical: frames.last().map_or(0, Frame::end),
        stored: size,
        sealed: size,
    }))
}

/// The frames of the seek table that ends at offset `end`, if there is one and it fits the file.
pub fn seek_table(file: &File, end: u64) -> io::Result<Option<Vec<Frame>>> {
    if end < TABLE_FOOTER + 8 {
        return Ok(None);
    }
    let mut footer = [0; TABLE_FOOTER as usize];
    file.read_exact_at(&mut footer, end - TABLE_FOOTER)?;
    // A descriptor other than 0 means checksums or reserved bits: such a table is not ours.
    if le32(&footer[5..]) != MAGIC_TABLE_FOOTER || footer[4] != 0 {
        return Ok(None);
    }
    let payload = u64::from(le32(&footer)) * 8 + TABLE_FOOTER;
    let Some(at) = end.checked_sub(payload + 8) else {
        return Ok(None);
    };
    let mut bytes = vec![0; payload as usize + 8];
    file.read_exact_at(&mut bytes, at)?;
    if le32(&bytes) != MAGIC_TABLE || u64::from(le32(&bytes[4..])) != payload {
        return Ok(None);
    }
    let (mut stored, mut start) = (0, 0);
    let frames: Vec<Frame> = bytes[8..bytes.len() - TABLE_FOOTER as usize]
        .chunks_exact(8)
        .map(|entry| {
            let frame = Frame {
                at: stored,
                len: le32(entry).into(),
                start,
                size: le32(&entry[4..]).into(),
            };
            (stored, start) = (frame.at + frame.len, frame.end());
            frame
        })
        .collect();
    Ok((stored == at).then_some(frames))
}

/// The bytes of a seek table for these frames, which must cover the file from offset 0 without gap.
pub fn encode_seek_table(frames: &[Frame]) -> io::Result<Vec<u8>> {
    let too_big = || io::Error::new(io::ErrorKind::InvalidInput, "too large for a seek table");
    let count = u32::try_from(frames.len()).map_err(|_| too_big())?;
    let payload = u32::try_from(frames.len() as u64 * 8 + TABLE_FOOTER).map_err(|_| too_big())?;
    let mut bytes = Vec::with_capacity(payload as usize + 8);
    bytes.extend(MAGIC_TABLE.to_le_bytes());
    bytes.extend(payload.to_le_bytes());
    for frame in frames {
        bytes.extend(
            u32::try_from(frame.len)
                .map_err(|_| too_big())?
                .to_le_bytes(),
        );
        bytes.extend(
            u32::try_from(frame.size)
                .map_err(|_| too_big())?
                .to_le_bytes(),
        );
    }
    bytes.extend(count.to_le_bytes());
    bytes.push(0);
    bytes.extend(MAGIC_TABLE_FOOTER.to_le_bytes());
    Ok(bytes)
}

/// What the frames of a foreign file hold, without decoding any; `None` where one does not say it, or
/// where not all of the file is whole frames.
pub fn sizes(file: &File, size: u64) -> io::Result<Option<FrameSizes>> {
    Walk::new(file, size).sizes()
}

/// The whole index of a store file: by trailers and seek table where they are, else by walking.
pub fn index(file: &File, size: u64) -> io::Result<Index> {
    match ends(file, size)? {
        Some(ends) => chained(file, ends),
        None => Walk::new(file, size).run(0),
    }
}

/// Follows the trailers back from the end to what lies before the first of them.
fn chained(file: &File, ends: Ends) -> io::Result<Index> {
    let mut appended: Vec<(Frame, u64)> = Vec::new();
    let mut tail = Backward::new(file);
    let mut pos = ends.stored;
    while let Some(trailer) = tail.trailer_ending_at(pos)? {
        let len = u64::from(trailer.frame_len);
        pos -= TRAILER + len;
        if len > 0 {
            appended.push((
                Frame {
                    at: pos,
                    len,
                    start: 0,
                    size: 0,
                },
                trailer.logical,
            ));
        }
        if pos == 0 {
            break;
        }
    }
    let mut index = if pos == 0 {
        Index::default()
    } else if let Some(frames) = seek_table(file, pos)?.filter(|frames| agree(file, frames)) {
        Index {
            ends: Ends {
                logical: frames.last().map_or(0, Frame::end),
                ..Ends::default()
            },
            frames,
            ..Index::default()
        }
    } else {
        Walk::new(file, pos).run(0)?
    };
    if appended.is_empty() && index.foreign {
        return Ok(index);
    }
    for (mut frame, logical_end) in appended.into_iter().rev() {
        let known = index.ends.logical;
        if index.lost_at.is_some() || index.torn > 0 {
            // What is before is damaged, so only the frame itself can say how much it holds.
            index.lost_at.get_or_insert(index.ends.stored);
            index.torn = 0;
            let size = header(file, frame.at)?.and_then(|h| h.content).unwrap_or(0);
            frame.start = logical_end.saturating_sub(size).max(known);
            frame.size = logical_end.saturating_sub(frame.start);
        } else {
            frame.start = known;
            frame.size = logical_end.saturating_sub(known);
            if logical_end < known {
                index.lost_at = Some(frame.at);
            }
        }
        index.ends.logical = logical_end.max(known);
        index.frames.push(frame);
    }
    index.ends = ends;
    Ok(index)
}

/// Whether the frames of a seek table, which has no checksum of its own, hold what it says. Believing
/// a wrong size would give every later byte at a wrong offset; but where the frame is what is broken,
/// the table is all that knows the place of the others. So only a frame whose checksum holds counts
/// against the table.
fn agree(file: &File, frames: &[Frame]) -> bool {
    let mut checker = Checker::default();
    frames.iter().all(|frame| match header(file, frame.at) {
        Ok(Some(h)) if h.checksum && h.content != Some(frame.size) => checker
            .count(file, frame)
            .map_or(true, |real| real == frame.size),
        _ => true,
    })
}

/// Reads trailers back to front, many to one `pread`.
struct Backward<'a> {
    file: &'a File,
    at: u64,
    bytes: Vec<u8>,
}

impl<'a> Backward<'a> {
    fn new(file: &'a File) -> Self {
        Backward {
            file,
            at: 0,
            bytes: Vec::new(),
        }
    }

    fn trailer_ending_at(&mut self, end: u64) -> io::Result<Option<Trailer>> {
        let Some(at) = end.checked_sub(TRAILER) else {
            return Ok(None);
        };
        if at < self.at || end > self.at + self.bytes.len() as u64 {
            self.at = end.saturating_sub(IO_CHUNK as u64 / 2);
            self.bytes.resize((end - self.at) as usize, 0);
            self.file.read_exact_at(&mut self.bytes, self.at)?;
        }
        let from = (at - self.at) as usize;
        Ok(Trailer::decode(
            &self.bytes[from..from + TRAILER as usize],
            at,
        ))
    }
}

#[cfg(test)]
mod tests;
