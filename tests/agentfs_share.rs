//! Stores that are packed, shortened, checked, shared and watched: nothing of a history is lost.
#![cfg(feature = "agentfs")]

#[path = "share/mod.rs"]
mod share;
