//! Decoded frames, shared by all readers and bounded in memory.
//!
//! A frame is decoded as far as somebody has asked and no further, and decoded on from there: a head
//! read is cheap, a sequential reader decodes every byte once, and two threads on one frame share
//! the work behind the frame's own lock. A frame too large to keep (foreign files: ours are bounded)
//! keeps only a window behind its furthest point, so that slightly reordered read-ahead still hits.
//!
//! Keys name a state of a store file, not a path: whoever replaces or cuts a store file takes a new
//! number for it, and old entries fall out by age.

use crate::frames::{Decoder, Frame, damaged};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Decoded bytes kept at most: four of our largest frames.
const LIMIT: usize = 32 << 20;
/// A frame larger than this keeps only a window.
pub const KEEP_WHOLE: u64 = 16 << 20;
const WINDOW: usize = 4 << 20;
/// Decoding goes ahead of the reader by at least this much: fewer, larger steps.
const STEP: usize = 256 << 10;

/// A locked value; a panic elsewhere must not take the mount with it.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A frame decoded up to some point.
pub struct Partial {
    frame: Frame,
    /// Decoded bytes from `first` on, as offsets in the frame.
    out: Vec<u8>,
    first: u64,
    /// Gone when the frame has been decoded to its end.
    decoder: Option<Decoder>,
    /// Its bytes or its checksum are wrong: nothing of it is given out any more.
    damaged: bool,
}

impl Partial {
    fn new(frame: &Frame) -> io::Result<Partial> {
        // Room for one byte more, to see the frame end (and its checksum hold) where it says.
        let room = if frame.size > KEEP_WHOLE {
            2 * WINDOW
        } else {
            frame.size as usize + 1
        };
        let decoder = Some(Decoder::new(frame)?);
        Ok(Partial {
            frame: *frame,
            out: Vec::with_capacity(room),
            first: 0,
            decoder,
            damaged: false,
        })
    }

    /// Appends the frame's decoded bytes `from..to` to `sink`.
    fn read(&mut self, file: &File, from: u64, to: u64, sink: &mut Vec<u8>) -> io::Result<()> {
        if from < self.first {
            *self = Partial::new(&self.frame)?;
        }
        if self.damaged {
            return Err(damaged(self.frame.at, "frame"));
        }
        self.damaged = true;
        self.decode_to(file, from, to)?;
        self.damaged = false;
        let at = |offset: u64| (offset - self.first) as usize;
        sink.extend_from_slice(&self.out[at(from)..at(to)]);
        Ok(())
    }

    fn decoded(&self) -> u64 {
        self.first + self.out.len() as u64
    }

    fn decode_to(&mut self, file: &File, from: u64, to: u64) -> io::Result<()> {
        while self.decoded() < to {
            let left = self.frame.size - self.decoded();
            let room = (to - self.decoded())
                .clamp(STEP as u64, WINDOW as u64)
                .min(left) as usize;
            let Some(decoder) = &mut self.decoder else {
                break;
            };
            if decoder.read(file, &mut self.out, room)? == 0 {
                return Err(damaged(
                    self.frame.at,
                    "frame holds less than the index says",
                ));
            }
            if self.frame.size > KEEP_WHOLE && self.out.len() > 2 * WINDOW {
                let drop = (self.out.len() - WINDOW).min(from.saturating_sub(self.first) as usize);
                self.out.drain(..drop);
                self.first += drop as u64;
            }
        }
        if self.decoded() == self.frame.size
            && let Some(mut decoder) = self.decoder.take()
            && decoder.read(file, &mut self.out, 1)? != 0
        {
            return Err(damaged(
                self.frame.at,
                "frame holds more than the index says",
            ));
        }
        Ok(())
    }
}

struct Entry {
    partial: Arc<Mutex<Partial>>,
    bytes: usize,
    used: u64,
}

#[derive(Default)]
struct Entries {
    map: HashMap<(u64, u64), Entry>,
    bytes: usize,
    clock: u64,
}

/// The cache of one mount.
#[derive(Default)]
pub struct Cache {
    entries: Mutex<Entries>,
}

impl Cache {
    /// Appends decoded bytes `from..to` of the session, which lie inside `frame`, to `sink`.
    /// `body` names the state of the store file.
    pub fn read(
        &self,
        body: u64,
        file: &File,
        frame: &Frame,
        from: u64,
        to: u64,
        sink: &mut Vec<u8>,
    ) -> io::Result<()> {
        let key = (body, frame.at);
        let partial = self.entry(key, frame)?;
        let mut partial = lock(&partial);
        let result = partial.read(file, from - frame.start, to - frame.start, sink);
        let bytes = partial.out.capacity();
        drop(partial);
        self.account(key, bytes);
        result
    }

    fn entry(&self, key: (u64, u64), frame: &Frame) -> io::Result<Arc<Mutex<Partial>>> {
        let mut entries = lock(&self.entries);
        entries.clock += 1;
        let clock = entries.clock;
        if let Some(entry) = entries.map.get_mut(&key) {
            entry.used = clock;
            return Ok(entry.partial.clone());
        }
        let partial = Arc::new(Mutex::new(Partial::new(frame)?));
        entries.map.insert(
            key,
            Entry {
                partial: partial.clone(),
                bytes: 0,
                used: clock,
            },
        );
        Ok(partial)
    }

    fn account(&self, key: (u64, u64), bytes: usize) {
        let mut entries = lock(&self.entries);
        let Some(entry) = entries.map.get_mut(&key) else {
            return;
        };
        let before = std::mem::replace(&mut entry.bytes, bytes);
        entries.bytes = entries.bytes + bytes - before;
        while entries.bytes > LIMIT {
            let oldest = entries
                .map
                .iter()
                .filter(|(k, _)| **k != key)
                .min_by_key(|(_, e)| e.used)
                .map(|(k, _)| *k);
            let Some(entry) = oldest.and_then(|k| entries.map.remove(&k)) else {
                break;
            };
            entries.bytes -= entry.bytes;
        }
    }

    /// Forgets everything; true if there was something.
    pub fn clear(&self) -> bool {
        let mut entries = lock(&self.entries);
        let had = !entries.map.is_empty();
        *entries = Entries::default();
        had
    }

    /// A number that grows with every use, to see whether the cache is idle.
    pub fn uses(&self) -> u64 {
        lock(&self.entries).clock
    }
}
