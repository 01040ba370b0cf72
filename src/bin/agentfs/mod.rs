//! agentfs: checkpoints of a working directory that know which session, tool and prompt made them.
//!
//! A project is an ordinary directory; its history is a private bare git directory elsewhere. [`scan`]
//! compares the directory with an index, [`objects`] writes what is new in git's format, [`checkpoint`]
//! ties it together; everything that only reads asks the `git` program. The user's own repository is
//! never touched.

pub mod localtime;
pub mod note;
pub mod oid;
pub mod terminal;
pub mod timeline;
pub mod viz;
