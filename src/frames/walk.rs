//! The forward walk over frame and block headers, for what trailers and seek table do not describe:
//! foreign files, torn tails, damage.
//!
//! It decodes nothing but frames that do not say how much they hold, and our own frames that have no
//! trailer. After damage it goes on at the next place where valid data stands.

use super::{
    Checker, Ends, Frame, FrameSizes, IO_CHUNK, Index, MAGIC_FRAME, MAGIC_SKIPPABLE, MAGIC_TRAILER,
    TRAILER, Trailer, le32, le64, seek_table,
};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A frame header (RFC 8878, 3.1.1.1).
pub(super) struct Header {
    len: u64,
    pub(super) content: Option<u64>,
    pub(super) checksum: bool,
}

pub(super) fn header(file: &File, at: u64) -> io::Result<Option<Header>> {
    let mut bytes = [0; 18];
    let n = read_up_to(file, &mut bytes, at)?;
    Ok(parse_header(&bytes[..n]))
}

fn parse_header(bytes: &[u8]) -> Option<Header> {
    if bytes.len() < 5 || le32(bytes) != MAGIC_FRAME {
        return None;
    }
    let descriptor = bytes[4];
    let single_segment = descriptor & 0x20 != 0;
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content = match descriptor >> 6 {
        0 => usize::from(single_segment),
        1 => 2,
        2 => 4,
        _ => 8,
    };
    let at = 5 + usize::from(!single_segment) + dictionary;
    let value = bytes.get(at..at + content)?;
    let reserved = descriptor & 0x08 != 0;
    (!reserved).then(|| Header {
        len: (at + content) as u64,
        // Two-byte sizes are stored less 256.
        content: (content > 0).then(|| le64(value) + if content == 2 { 256 } else { 0 }),
        checksum: descriptor & 0x04 != 0,
    })
}

fn read_up_to(file: &File, buf: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], at + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// The forward walk over frame and block headers, for what trailers and tables do not describe.
pub(super) struct Walk<'a> {
    file: &'a File,
    size: u64,
    window_at: u64,
    window: Vec<u8>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(file: &'a File, size: u64) -> Self {
        Walk {
            file,
            size,
            window_at: 0,
            window: Vec::new(),
        }
    }

    /// Up to `n` (≤ 64) bytes at `at`; fewer at the end of the file.
    fn peek(&mut self, at: u64, n: usize) -> io::Result<&[u8]> {
        let n = n.min(self.size.saturating_sub(at) as usize);
        if at < self.window_at || at + n as u64 > self.window_at + self.window.len() as u64 {
            self.window
                .resize(4096.min(self.size.saturating_sub(at) as usize), 0);
            let got = read_up_to(self.file, &mut self.window, at)?;
            self.window.truncate(got);
            self.window_at = at;
        }
        let from = (at - self.window_at) as usize;
        Ok(&self.window[from..(from + n).min(self.window.len())])
    }

    pub(super) fn run(mut self, from: u64) -> io::Result<Index> {
        let mut index = Index {
            foreign: true,
            ..Index::default()
        };
        let (mut pos, mut logical) = (from, 0);
        let mut checker = Checker::default();
        let mut uncommitted = 0;
        let mut committed = false;
        while pos < self.size {
            if let Some(end) = self.skippable_end(pos)? {
                if let Some(t) = self.trailer_at(pos)? {
                    (committed, uncommitted) = (true, index.frames.len());
                    logical = logical.max(t.logical);
                    index.ends.sealed = t.sealed_end;
                } else if seek_table(self.file, end)?.is_some() {
                    index.ends.sealed = end;
                }
                pos = end;
            } else if let Some((end, content)) = self.frame_end(pos)? {
                let mut frame = Frame {
                    at: pos,
                    len: end - pos,
                    start: logical,
                    size: content.unwrap_or(0),
                };
                if content.is_none() {
                    index.unsized_frames = true;
                    let Ok(size) = checker.count(self.file, &frame) else {
                        // Nobody knows how much is lost: a gap of one byte makes reading it an error.
                        index.lost_at.get_or_insert(pos);
                        (pos, logical) = (end, logical + 1);
                        continue;
                    };
                    frame.size = size;
                }
                if frame.start.checked_add(frame.size).is_none() {
                    index.lost_at.get_or_insert(pos);
                    frame.size = 0;
                }
                logical = frame.end();
                index.frames.push(frame);
                pos = end;
            } else if let Some((at, start)) = self.resume(pos, logical)? {
                index.lost_at.get_or_insert(pos);
                (pos, logical) = (at, start.max(logical));
            } else {
                break;
            }
        }
        index.torn = self.size - pos;
        if index.torn > 0 && index.frames.is_empty() && !committed && index.lost_at.is_none() {
            // Not a session whose last append was cut short, but nothing that can be read at all.
            index.lost_at = Some(pos);
            (index.torn, pos, logical) = (0, self.size, 1);
        }
        // Our own whole frames without a trailer came from an append that was cut short: they count
        // only if their bytes are really there.
        if committed {
            let sound = index.frames[uncommitted..]
                .iter()
                .take_while(|f| checker.verify(self.file, f).is_ok())
                .count();
            if let Some(bad) = index.frames.get(uncommitted + sound) {
                (index.torn, pos, logical) = (self.size - bad.at, bad.at, bad.start);
                index.frames.truncate(uncommitted + sound);
            }
        }
        index.ends = Ends {
            logical,
            stored: pos,
            sealed: index.ends.sealed,
        };
        Ok(index)
    }

    /// What whole frames, from the start to the end of the file, say they hold; decodes nothing.
    pub(super) fn sizes(mut self) -> io::Result<Option<FrameSizes>> {
        let mut sizes = FrameSizes::default();
        let mut pos = 0;
        while pos < self.size {
            if let Some(end) = self.skippable_end(pos)? {
                pos = end;
                continue;
            }
            let Some((end, Some(content))) = self.frame_end(pos)? else {
                return Ok(None);
            };
            let Some(logical) = sizes.logical.checked_add(content) else {
                return Ok(None);
            };
            sizes.logical = logical;
            sizes.frames += 1;
            pos = end;
        }
        Ok(Some(sizes))
    }

    fn skippable_end(&mut self, at: u64) -> io::Result<Option<u64>> {
        let bytes = self.peek(at, 8)?;
        if bytes.len() < 8 || le32(bytes) & 0xFFFF_FFF0 != MAGIC_SKIPPABLE {
            return Ok(None);
        }
        let end = at + 8 + u64::from(le32(&bytes[4..]));
        Ok((end <= self.size).then_some(end))
    }

    fn trailer_at(&mut self, at: u64) -> io::Result<Option<Trailer>> {
        Ok(Trailer::decode(self.peek(at, TRAILER as usize)?, at))
    }

    /// Where the frame at `at` ends and what it says it holds; `None` unless it is whole.
    fn frame_end(&mut self, at: u64) -> io::Result<Option<(u64, Option<u64>)>> {
        let Some(header) = parse_header(self.peek(at, 18)?) else {
            return Ok(None);
        };
        let mut pos = at + header.len;
        loop {
            let bytes = self.peek(pos, 3)?;
            if bytes.len() < 3 {
                return Ok(None);
            }
            let block = le32(&[bytes[0], bytes[1], bytes[2], 0]);
            let stored = match block >> 1 & 3 {
                1 => 1,
                3 => return Ok(None),
                _ => u64::from(block >> 3),
            };
            pos += 3 + stored;
            if block & 1 == 1 {
                break;
            }
        }
        pos += if header.checksum { 4 } else { 0 };
        Ok((pos <= self.size).then_some((pos, header.content)))
    }

    /// After damage at `pos`: the next place where valid data stands, and the decoded offset there.
    fn resume(&mut self, pos: u64, logical: u64) -> io::Result<Option<(u64, u64)>> {
        let gap = parse_header(self.peek(pos, 18)?)
            .and_then(|h| h.content)
            .unwrap_or(0);
        let mut chunk = vec![0; IO_CHUNK];
        let mut at = pos + 1;
        while at < self.size {
            let n = read_up_to(self.file, &mut chunk, at)?;
            for i in 0..n.saturating_sub(3) {
                let here = at + i as u64;
                match le32(&chunk[i..]) {
                    MAGIC_TRAILER => {
                        if let Some(t) = self.trailer_at(here)? {
                            return Ok(Some((here, t.logical)));
                        }
                    }
                    MAGIC_FRAME => {
                        if let Some((end, content)) = self.frame_end(here)? {
                            // The trailer behind it knows its place. Without one at least a byte is
                            // missing, so that no reader passes over the damage unaware.
                            let start = match (self.trailer_at(end)?, content) {
                                (Some(t), Some(size)) => t.logical.saturating_sub(size),
                                _ => logical.saturating_add(gap.max(1)),
                            };
                            return Ok(Some((here, start)));
                        }
                    }
                    _ => {}
                }
            }
            if n <= 3 {
                break;
            }
            at += n as u64 - 3;
        }
        Ok(None)
    }
}
