//! zstd itself: encoding a frame, decoding one whole or piece by piece, and a session front to back.
//!
//! Contexts keep their memory between frames. Nothing trusts the sizes an index or a frame states:
//! what is decoded is counted, and memory is bounded by what is asked for.

use super::{Frame, IO_CHUNK, Index, damaged};
use crate::sys::errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use zstd::zstd_safe::{CCtx, CParameter, DCtx, InBuffer, OutBuffer, ResetDirective};

/// `zstd` itself refuses larger windows without being told; so do we (bounded memory).
const WINDOW_LOG_MAX: u32 = 27;

/// Compresses into frames; keeps its memory between calls.
pub struct Encoder {
    context: CCtx<'static>,
    out: Vec<u8>,
}

impl Encoder {
    pub fn new(level: i32) -> io::Result<Encoder> {
        let mut context = CCtx::try_create().ok_or_else(|| errno(libc::ENOMEM))?;
        for parameter in [
            CParameter::CompressionLevel(level),
            CParameter::ChecksumFlag(true),
        ] {
            context.set_parameter(parameter).map_err(zstd_error)?;
        }
        Ok(Encoder {
            context,
            out: Vec::new(),
        })
    }

    /// One frame with content size and checksum.
    pub fn encode(&mut self, data: &[u8]) -> io::Result<&[u8]> {
        self.out.clear();
        self.out
            .reserve(zstd::zstd_safe::compress_bound(data.len()));
        self.context
            .compress2(&mut self.out, data)
            .map_err(zstd_error)?;
        Ok(&self.out)
    }
}

fn zstd_error(code: usize) -> io::Error {
    io::Error::other(zstd::zstd_safe::get_error_name(code))
}

/// Decodes one frame, a piece at a time.
pub struct Decoder {
    context: DCtx<'static>,
    chunk: Vec<u8>,
    used: usize,
    at: u64,
    end: u64,
    finished: bool,
}

impl Decoder {
    pub fn new(frame: &Frame) -> io::Result<Decoder> {
        let mut context = DCtx::try_create().ok_or_else(|| errno(libc::ENOMEM))?;
        context
            .set_parameter(zstd::zstd_safe::DParameter::WindowLogMax(WINDOW_LOG_MAX))
            .map_err(zstd_error)?;
        Ok(Decoder {
            context,
            chunk: Vec::new(),
            used: 0,
            at: frame.at,
            end: frame.at + frame.len,
            finished: false,
        })
    }

    /// Starts over on another frame with the same memory.
    pub fn restart(&mut self, frame: &Frame) -> io::Result<()> {
        self.context
            .reset(ResetDirective::SessionOnly)
            .map_err(zstd_error)?;
        self.chunk.clear();
        (self.used, self.at, self.end, self.finished) = (0, frame.at, frame.at + frame.len, false);
        Ok(())
    }

    /// Appends up to `room` decoded bytes to `out`; 0 at the end of the frame.
    pub fn read(&mut self, file: &File, out: &mut Vec<u8>, room: usize) -> io::Result<usize> {
        let before = out.len();
        // Filled once, so that the target is a slice of exactly the room: no more than asked is decoded.
        out.resize(before + room, 0);
        let mut filled = before;
        let result = self.fill(file, out, &mut filled);
        out.truncate(filled);
        result?;
        Ok(filled - before)
    }

    fn fill(&mut self, file: &File, out: &mut [u8], filled: &mut usize) -> io::Result<()> {
        while !self.finished && *filled < out.len() {
            if self.used == self.chunk.len() && self.at < self.end {
                self.chunk
                    .resize(IO_CHUNK.min((self.end - self.at) as usize), 0);
                // Nothing to use yet, should the read fail.
                self.used = self.chunk.len();
                file.read_exact_at(&mut self.chunk, self.at)?;
                self.at += self.chunk.len() as u64;
                self.used = 0;
            }
            let mut input = InBuffer::around(&self.chunk[self.used..]);
            let mut output = OutBuffer::around(&mut out[*filled..]);
            let result = self.context.decompress_stream(&mut output, &mut input);
            let (produced, consumed) = (output.pos(), input.pos());
            *filled += produced;
            self.used += consumed;
            let hint =
                result.map_err(|code| damaged(self.at, zstd::zstd_safe::get_error_name(code)))?;
            self.finished = hint == 0;
            if !self.finished && produced == 0 && consumed == 0 && self.at == self.end {
                return Err(damaged(self.end, "frame ends early"));
            }
        }
        Ok(())
    }
}

/// Decodes a whole frame of known size in one go; for small ones.
pub struct WholeDecoder {
    context: DCtx<'static>,
    out: Vec<u8>,
}

impl WholeDecoder {
    pub fn new() -> io::Result<WholeDecoder> {
        Ok(WholeDecoder {
            context: DCtx::try_create().ok_or_else(|| errno(libc::ENOMEM))?,
            out: Vec::new(),
        })
    }

    /// The decoded bytes of `stored`, which is `frame`'s stored form.
    pub fn decode(&mut self, frame: &Frame, stored: &[u8]) -> io::Result<&[u8]> {
        self.out.clear();
        self.out.reserve(frame.size as usize);
        let result = self.context.decompress(&mut self.out, stored);
        result.map_err(|code| damaged(frame.at, zstd::zstd_safe::get_error_name(code)))?;
        if self.out.len() as u64 != frame.size {
            return Err(damaged(
                frame.at,
                "frame holds another size than the index says",
            ));
        }
        Ok(&self.out)
    }

    /// The same, for a single frame.
    pub fn into_decoded(mut self, frame: &Frame, stored: &[u8]) -> io::Result<Vec<u8>> {
        self.decode(frame, stored)?;
        Ok(self.out)
    }
}

/// Decodes frames through, throwing the bytes away; keeps its memory between frames.
#[derive(Default)]
pub struct Checker {
    decoder: Option<Decoder>,
    out: Vec<u8>,
}

impl Checker {
    /// How many bytes the frame really holds.
    pub(super) fn count(&mut self, file: &File, frame: &Frame) -> io::Result<u64> {
        let decoder = match &mut self.decoder {
            Some(decoder) => {
                decoder.restart(frame)?;
                decoder
            }
            none => none.insert(Decoder::new(frame)?),
        };
        let mut total = 0;
        loop {
            self.out.clear();
            match decoder.read(file, &mut self.out, IO_CHUNK)? {
                0 => break,
                n => total += n as u64,
            }
        }
        if decoder.used < decoder.chunk.len() || decoder.at < decoder.end {
            return Err(damaged(frame.at, "frame is shorter than the index says"));
        }
        Ok(total)
    }

    /// Decodes a frame through and compares its size with the index's.
    pub fn verify(&mut self, file: &File, frame: &Frame) -> io::Result<()> {
        if self.count(file, frame)? != frame.size {
            return Err(damaged(
                frame.at,
                "frame holds another size than the index says",
            ));
        }
        Ok(())
    }
}

/// Reads a session's decoded bytes from front to back; a gap is an error.
pub struct Stream<'a> {
    file: &'a File,
    index: &'a Index,
    next: usize,
    pos: u64,
    decoder: Option<Decoder>,
}

impl<'a> Stream<'a> {
    /// From decoded offset `from`, which must be a frame's start or the end.
    pub fn new(file: &'a File, index: &'a Index, from: u64) -> Stream<'a> {
        let next = index.frames.partition_point(|f| f.start < from);
        Stream {
            file,
            index,
            next,
            pos: from,
            decoder: None,
        }
    }

    /// Appends up to `room` decoded bytes to `out`; fewer only at the end of the session.
    pub fn read(&mut self, out: &mut Vec<u8>, room: usize) -> io::Result<usize> {
        let before = out.len();
        while out.len() - before < room {
            let Some(frame) = self.index.frames.get(self.next) else {
                if self.pos != self.index.ends.logical {
                    return Err(damaged(self.index.ends.stored, "frames are missing"));
                }
                break;
            };
            let done = self.pos.wrapping_sub(frame.start);
            if done == 0 {
                match &mut self.decoder {
                    Some(decoder) => decoder.restart(frame)?,
                    none => *none = Some(Decoder::new(frame)?),
                }
            } else if done > frame.size {
                return Err(damaged(frame.at, "frames are missing before"));
            }
            let Some(decoder) = &mut self.decoder else {
                return Err(damaged(frame.at, "not at a frame's start"));
            };
            // No more room than the frame can fill; at its end one byte, to see it end there.
            let left = (frame.size - done)
                .max(1)
                .min((room - (out.len() - before)) as u64);
            let n = decoder.read(self.file, out, left as usize)? as u64;
            self.pos += n;
            if n == 0 {
                if self.pos != frame.end() {
                    return Err(damaged(
                        frame.at,
                        "frame holds another size than the index says",
                    ));
                }
                self.next += 1;
            } else if self.pos > frame.end() {
                return Err(damaged(frame.at, "frame holds more than the index says"));
            } else if self.pos == frame.end() && decoder.finished {
                self.next += 1;
            }
        }
        Ok(out.len() - before)
    }
}
