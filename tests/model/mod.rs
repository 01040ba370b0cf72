//! The model of `posix_model`: operations drawn at random, and a world they are applied to.

pub mod operations;
pub mod world;
