//! What all files of one mount share: the store, the cache, and the compressor's memory.
//!
//! Encoders and decoders for single appended frames are kept between requests, as many as were ever
//! in use at once, because making one costs more than using it.

use crate::cache::{Cache, lock};
use crate::frames::{Encoder, LEVEL_APPEND, WholeDecoder};
use crate::pool::Pool;
use crate::store::Store;
use crate::sys;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// What all files of a mount share.
pub struct Shared {
    pub store: Store,
    pub cache: Cache,
    pub pool: Pool,
    encoders: Mutex<Vec<Encoder>>,
    decoders: Mutex<Vec<WholeDecoder>>,
    sessions: AtomicU64,
}

impl Shared {
    pub fn new(store: Store) -> Shared {
        let (encoders, decoders) = (Mutex::default(), Mutex::default());
        Shared {
            store,
            cache: Cache::default(),
            pool: Pool::default(),
            encoders,
            decoders,
            sessions: AtomicU64::new(0),
        }
    }

    /// A number for a session that no other of this mount has had.
    pub fn next_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed)
    }

    /// Runs `work` with an encoder for appends, whose memory is kept for the next.
    pub fn with_encoder<T>(
        &self,
        work: impl FnOnce(&mut Encoder) -> io::Result<T>,
    ) -> io::Result<T> {
        let kept = lock(&self.encoders).pop();
        let mut encoder = kept.map_or_else(|| Encoder::new(LEVEL_APPEND), Ok)?;
        let result = work(&mut encoder);
        lock(&self.encoders).push(encoder);
        result
    }

    pub fn with_decoder<T>(
        &self,
        work: impl FnOnce(&mut WholeDecoder) -> io::Result<T>,
    ) -> io::Result<T> {
        let kept = lock(&self.decoders).pop();
        let mut decoder = kept.map_or_else(WholeDecoder::new, Ok)?;
        let result = work(&mut decoder);
        lock(&self.decoders).push(decoder);
        result
    }

    /// Gives back what idle encoders, decoders and cached frames hold.
    pub fn release_memory(&self) {
        lock(&self.encoders).clear();
        lock(&self.decoders).clear();
        self.cache.clear();
        sys::trim_memory();
    }
}
