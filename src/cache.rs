//! Decoded frames, shared by all readers and bounded in memory.
//!
//! A frame is decoded whole before any byte of it is given out, because its checksum stands at its
//! end: a flipped bit costs an error, never a wrong byte. Our frames are bounded, so a head read costs
//! at most one frame's decode (7 ms), as a tail read does. Two threads on one frame share the work
//! behind the frame's own lock.
//!
//! A frame too large to keep (foreign files only) is decoded as far as somebody has asked, and on from
//! there; it keeps a window behind its furthest point, so that slightly reordered read-ahead still
//! hits, and its checksum is seen when its end is reached.
//!
//! Keys name a version of a session's content, not a path: whoever changes anything but the end takes
//! a new version, and old entries fall out by age.

use crate::frames::{Decoder, Frame, WholeDecoder, damaged};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

/// Decoded bytes kept at most: four of our largest frames.
const LIMIT: usize = 32 << 20;
/// A frame larger than this keeps only a window.
const KEEP_WHOLE: u64 = 16 << 20;
const WINDOW: usize = 4 << 20;
/// In a large frame, decoding goes ahead of the reader by at least this much: fewer, larger steps.
const STEP: usize = 256 << 10;

/// Whether a frame is too large to be kept, and reading in it may mean decoding a lot before.
pub fn is_large(frame: &Frame) -> bool {
    // A frame may be stored larger than it decodes to, in many empty blocks.
    frame.size > KEEP_WHOLE || frame.len > 2 * KEEP_WHOLE
}

/// A locked value; a panic elsewhere must not take the mount with it.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A frame, decoded whole or, if it is large, up to some point.
pub struct Partial {
    frame: Frame,
    /// Decoded bytes from `first` on, as offsets in the frame.
    out: Vec<u8>,
    first: u64,
    /// Of a large frame that has not been decoded to its end.
    decoder: Option<Decoder>,
    /// Its bytes or its checksum are wrong: nothing of it is given out any more.
    damaged: bool,
}

impl Partial {
    fn new(frame: &Frame) -> io::Result<Partial> {
        let large = is_large(frame);
        let decoder = large.then(|| Decoder::new(frame)).transpose()?;
        Ok(Partial {
            frame: *frame,
            out: Vec::with_capacity(if large { 3 * WINDOW } else { 0 }),
            first: 0,
            decoder,
            damaged: false,
        })
    }

    /// Appends the frame's decoded bytes `from..to` to `sink`.
    fn read(&mut self, file: &File, from: u64, to: u64, sink: &mut Vec<u8>) -> io::Result<()> {
        if self.damaged {
            return Err(damaged(self.frame.at, "frame"));
        }
        if from < self.first {
            *self = Partial::new(&self.frame)?;
        }
        let decoded = if is_large(&self.frame) {
            self.decode_to(file, from, to)
        } else {
            self.decode_whole(file)
        };
        // An error of the disk may pass; damage does not.
        self.damaged = decoded.as_ref().is_err_and(|e| e.raw_os_error().is_none());
        decoded?;
        let at = |offset: u64| (offset - self.first) as usize;
        sink.extend_from_slice(&self.out[at(from)..at(to)]);
        Ok(())
    }

    fn decode_whole(&mut self, file: &File) -> io::Result<()> {
        if self.decoded() == self.frame.size {
            return Ok(());
        }
        let mut stored = vec![0; self.frame.len as usize];
        file.read_exact_at(&mut stored, self.frame.at)?;
        self.out = WholeDecoder::new()?.into_decoded(&self.frame, &stored)?;
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
                .min(left);
            let Some(decoder) = &mut self.decoder else {
                break;
            };
            if decoder.read(file, &mut self.out, room as usize)? == 0 {
                return Err(damaged(
                    self.frame.at,
                    "frame holds less than the index says",
                ));
            }
            if self.out.len() > 2 * WINDOW {
                let drop = (self.out.len() - WINDOW).min(from.saturating_sub(self.first) as usize);
                self.out.drain(..drop);
                self.first += drop as u64;
            }
        }
        // One byte more shows the frame end where it says, and its checksum hold.
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

/// A session's number and the version of its content.
pub type Content = (u64, u64);

/// A frame's place in that content.
type Key = (Content, u64);

struct Entry {
    partial: Arc<Mutex<Partial>>,
    bytes: usize,
    used: u64,
}

#[derive(Default)]
struct Entries {
    map: HashMap<Key, Entry>,
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
    /// `of` names the state of the store file.
    pub fn read(
        &self,
        of: Content,
        file: &File,
        frame: &Frame,
        from: u64,
        to: u64,
        sink: &mut Vec<u8>,
    ) -> io::Result<()> {
        let key = (of, frame.at);
        let partial = self.entry(key, frame)?;
        let mut partial = lock(&partial);
        let result = partial.read(file, from - frame.start, to - frame.start, sink);
        let bytes = partial.out.capacity();
        drop(partial);
        self.account(key, bytes);
        result
    }

    fn entry(&self, key: Key, frame: &Frame) -> io::Result<Arc<Mutex<Partial>>> {
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

    fn account(&self, key: Key, bytes: usize) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::{Encoder, Index, index};
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A file of frames with these contents, and its index.
    fn stored(contents: &[Vec<u8>]) -> (File, Index) {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cellar-cache-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).open(&path);
        let file = file.unwrap();
        std::fs::remove_file(&path).unwrap();
        let (mut encoder, mut at) = (Encoder::new(1).unwrap(), 0);
        for content in contents {
            let frame = encoder.encode(content).unwrap();
            file.write_all_at(frame, at).unwrap();
            at += frame.len() as u64;
        }
        let index = index(&file, at).unwrap();
        (file, index)
    }

    /// Bytes that tell roughly where they are.
    fn pattern(size: usize) -> Vec<u8> {
        let mut bytes = vec![b'.'; size];
        for (n, block) in bytes.chunks_exact_mut(1000).enumerate() {
            block[..8].copy_from_slice(&n.to_le_bytes());
        }
        bytes
    }

    fn bytes_kept(cache: &Cache) -> usize {
        let entries = lock(&cache.entries);
        let real: usize = entries.map.values().map(|e| e.bytes).sum();
        assert_eq!(real, entries.bytes);
        real
    }

    #[test]
    fn any_range_of_any_frame_is_right() {
        let contents = [pattern(700_000), b"x".to_vec(), pattern(300_000)];
        let (file, index) = stored(&contents);
        let cache = Cache::default();
        for (frame, content) in index.frames.iter().zip(&contents) {
            let len = content.len();
            for (from, to) in [(len / 2, len), (0, len), (len / 3, len / 3 + 1), (len, len)] {
                let mut out = b"kept".to_vec();
                let range = (frame.start + from as u64, frame.start + to as u64);
                cache
                    .read((1, 0), &file, frame, range.0, range.1, &mut out)
                    .unwrap();
                assert_eq!(out[4..], content[from..to]);
            }
        }
        assert_eq!(cache.uses(), 12);
    }

    #[test]
    fn memory_is_bounded_and_given_back() {
        let contents: Vec<Vec<u8>> = (0..6).map(|_| pattern(8 << 20)).collect();
        let (file, index) = stored(&contents);
        let cache = Cache::default();
        for frame in &index.frames {
            let mut out = Vec::new();
            cache
                .read((1, 0), &file, frame, frame.start, frame.start + 1, &mut out)
                .unwrap();
            assert!(bytes_kept(&cache) <= LIMIT);
        }
        assert!(bytes_kept(&cache) > 0);
        assert!(cache.clear());
        assert!(!cache.clear());
        assert_eq!(bytes_kept(&cache), 0);
    }

    #[test]
    fn another_state_of_the_file_is_another_entry() {
        let (old, old_index) = stored(&[b"old".to_vec()]);
        let (new, new_index) = stored(&[b"new".to_vec()]);
        let (cache, mut out) = (Cache::default(), Vec::new());
        cache
            .read((1, 0), &old, &old_index.frames[0], 0, 3, &mut out)
            .unwrap();
        cache
            .read((1, 1), &new, &new_index.frames[0], 0, 3, &mut out)
            .unwrap();
        cache
            .read((1, 0), &new, &old_index.frames[0], 0, 3, &mut out)
            .unwrap();
        assert_eq!(out, b"oldnewold");
    }

    #[test]
    fn of_a_large_frame_only_a_window_is_kept() {
        let content = pattern(24 << 20);
        let (file, index) = stored(std::slice::from_ref(&content));
        let (cache, frame) = (Cache::default(), &index.frames[0]);
        let step = 1 << 20;
        let read = |from: usize| {
            let mut out = Vec::new();
            let to = (from + step).min(content.len());
            cache
                .read((1, 0), &file, frame, from as u64, to as u64, &mut out)
                .unwrap();
            assert_eq!(out, content[from..to]);
            assert!(bytes_kept(&cache) <= 5 * WINDOW);
        };
        for from in (0..content.len()).step_by(step) {
            read(from);
            // Read-ahead that comes a little out of order.
            read(from.saturating_sub(step));
        }
        // Back to the start, far ahead, and back a little.
        read(0);
        read(20 << 20);
        read(19 << 20);
    }

    #[test]
    fn a_damaged_frame_is_never_served_again() {
        for size in [1 << 20, 20 << 20] {
            let (file, index) = stored(&[pattern(size)]);
            let frame = &index.frames[0];
            let last = frame.len - 1;
            let mut byte = [0];
            file.read_exact_at(&mut byte, last).unwrap();
            file.write_all_at(&[!byte[0]], last).unwrap();
            let (cache, mut out) = (Cache::default(), Vec::new());
            let size = size as u64;
            if is_large(frame) {
                // Nobody knows yet: the checksum is at the end.
                cache.read((1, 0), &file, frame, 0, 10, &mut out).unwrap();
                let end = cache.read((1, 0), &file, frame, size - 1, size, &mut out);
                assert!(end.is_err());
            }
            for from in [0, size / 2, size - 1] {
                assert!(
                    cache
                        .read((1, 0), &file, frame, from, from + 1, &mut out)
                        .is_err()
                );
            }
        }
    }

    #[test]
    fn a_frame_of_another_size_than_the_index_says_is_refused() {
        let (file, index) = stored(&[pattern(1000)]);
        for size in [999, 1001] {
            let wrong = Frame {
                size,
                ..index.frames[0]
            };
            let (cache, mut out) = (Cache::default(), Vec::new());
            assert!(
                cache
                    .read((1, 0), &file, &wrong, 0, size, &mut out)
                    .is_err()
            );
        }
    }
}
