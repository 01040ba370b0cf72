//! agentfs keeps every byte, destroys nothing and survives whatever it meets.

#[path = "common/rng.rs"]
mod rng;
#[path = "common/strace.rs"]
mod strace;

mod agentfs {
    mod edits;
    mod tree;
    mod world;

    mod faults;
    mod round_trip;
    mod surroundings;
}
