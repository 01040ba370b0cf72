//! agentfs: checkpoints of a working directory that know which session, tool and prompt made them.
//!
//! A project is an ordinary directory; its history is a private bare git directory elsewhere. [`scan`]
//! compares the directory with an index, [`objects`] writes what is new in git's format, [`writer`]
//! ties it together; everything that only reads asks the `git` program. The user's own repository is
//! never touched.

pub mod attribution;
pub mod cli;
pub mod clone;
pub mod commit;
pub mod events;
pub mod gc;
pub mod git;
pub mod help;
pub mod history;
pub mod hook;
pub mod ignore;
pub mod localtime;
pub mod maintenance;
pub mod manage;
pub mod note;
pub mod objects;
pub mod oid;
pub mod plan;
pub mod project;
pub mod read;
pub mod record;
pub mod reference;
pub mod refs;
pub mod remote;
pub mod render;
pub mod restore;
pub mod scan;
pub mod sdk;
pub mod settings;
pub mod sync;
pub mod terminal;
pub mod timeline;
pub mod travel;
pub mod tree;
pub mod verify;
pub mod viz;
pub mod watch;
pub mod why;
pub mod witness;
pub mod words;
pub mod writer;

pub use sdk::{checkpoint, diff, restore};
