//! Reading: which frames hold the bytes, and where their decoded form comes from.
//!
//! Small frames are decoded where they are needed, a run of them with one `pread`; larger ones
//! through the shared cache. Memory is bounded by the request and the cache, whatever the session's
//! size. A read that touches damage fails whole, because the kernel takes a short answer for the end
//! of the file; it then asks again page by page, so that only the damaged pages are lost.

use super::{Body, Session, Where};
use crate::cache::is_large;
use crate::frames::{self, Frame, Index};
use crate::names::Form;
use crate::pool;
use crate::sys::is;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Frames up to this size are decoded where they are read and not kept.
const SMALL: u64 = 128 << 10;

impl Session {
    /// Up to `size` bytes from `offset`; fewer only at the end of the file.
    pub fn read(&self, at: Where, offset: u64, size: usize) -> io::Result<Vec<u8>> {
        loop {
            let mut st = self.state()?;
            let place = at();
            let (body, stat) = self.current(&mut st, place.as_ref())?;
            if body.form == Form::Raw {
                drop(st);
                return read_raw(&body.file, offset, size);
            }
            let index = self.index(&mut st, &body, &stat)?;
            let end = index.ends.logical.min(offset.saturating_add(size as u64));
            let frames: Vec<Frame> = if offset < end {
                index.covering(offset, end).to_vec()
            } else {
                Vec::new()
            };
            let next = ahead(index, &frames, offset, end);
            let version = st.version;
            drop(st);
            if let Some(next) = next {
                self.decode_ahead(&body, version, next);
            }
            match self.read_packed(&body, version, &frames, offset, end) {
                // The file was cut and written on while this read had no lock: look again.
                Err(_) if self.state()?.version != version => {}
                done => return done,
            }
        }
    }

    /// Decodes a frame in the background that a reader will want soon.
    fn decode_ahead(&self, body: &Arc<Body>, version: u64, frame: Frame) {
        let (shared, body, id) = (self.shared.clone(), body.clone(), self.id);
        self.shared.pool.run(move || {
            let (file, start, mut none) = (&body.file, frame.start, Vec::new());
            // Damage is for the reader to find.
            let _ = shared
                .cache
                .read((id, version), file, &frame, start, start, &mut none);
        });
    }

    fn read_packed(
        &self,
        body: &Body,
        version: u64,
        frames: &[Frame],
        offset: u64,
        end: u64,
    ) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(end.saturating_sub(offset) as usize);
        let mut rest = frames;
        while let Some(frame) = rest.first() {
            let pos = offset + out.len() as u64;
            if frame.start > pos {
                break;
            }
            let run = rest.iter().take_while(|f| f.size <= SMALL).count();
            if run > 0 {
                self.read_small(body, &rest[..run], offset, end, &mut out)?;
            } else {
                if is_large(frame) {
                    pool::slow()?;
                }
                let to = frame.end().min(end);
                let cache = &self.shared.cache;
                cache.read((self.id, version), &body.file, frame, pos, to, &mut out)?;
            }
            rest = &rest[run.max(1)..];
        }
        if (out.len() as u64) < end.saturating_sub(offset) {
            let at = rest.first().or(frames.last()).map_or(0, |f| f.at);
            return Err(frames::damaged(at, "frames are missing"));
        }
        Ok(out)
    }

    /// A run of small frames: one read for all of them, trailers and all.
    fn read_small(
        &self,
        body: &Body,
        run: &[Frame],
        offset: u64,
        end: u64,
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return Ok(());
        };
        let mut stored = vec![0; (last.at + last.len - first.at) as usize];
        body.file.read_exact_at(&mut stored, first.at)?;
        self.shared.with_decoder(|decoder| {
            for frame in run {
                let pos = offset + out.len() as u64;
                if frame.start > pos {
                    break;
                }
                let from = (frame.at - first.at) as usize;
                let data = decoder.decode(frame, &stored[from..from + frame.len as usize])?;
                out.extend_from_slice(
                    &data[(pos - frame.start) as usize
                        ..(frame.end().min(end) - frame.start) as usize],
                );
            }
            Ok(())
        })
    }
}

/// The frame after those of a read that passes the middle of the last of them: once for each frame of
/// a sequential reader, who then finds the next one decoded.
fn ahead(index: &Index, frames: &[Frame], offset: u64, end: u64) -> Option<Frame> {
    let last = frames.last()?;
    let middle = last.start + last.size / 2;
    let number = index.frames.partition_point(|f| f.start <= last.start);
    let next = index
        .frames
        .get(number)
        .filter(|_| offset <= middle && middle < end)?;
    (next.size > SMALL && !is_large(next)).then_some(*next)
}

fn read_raw(file: &File, offset: u64, size: usize) -> io::Result<Vec<u8>> {
    let mut out = vec![0; size];
    let mut done = 0;
    while done < size {
        match file.read_at(&mut out[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if is(&e, libc::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
    out.truncate(done);
    Ok(out)
}
