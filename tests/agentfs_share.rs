//! Stores that are packed, shortened, checked, shared and watched: nothing of a history is lost.
#![cfg(feature = "agentfs")]

#[path = "common/rng.rs"]
#[expect(dead_code, reason = "each test uses what it needs")]
mod rng;
#[path = "share/mod.rs"]
mod share;
