//! Hooks never stand in the agent's way and lose nothing; what they note answers why a line is there.
#![cfg(feature = "agentfs")]

mod common;

mod agentfs {
    mod agent;
    #[allow(dead_code, reason = "each test file uses what it needs")]
    mod tree;
    #[allow(dead_code, reason = "each test file uses what it needs")]
    mod world;

    mod commands;
    mod hooks;
    mod installing;
    mod transcripts;
    mod trouble;
}
