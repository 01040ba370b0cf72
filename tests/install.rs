//! `install` and `uninstall`: what lay in the projects directory is seen again through the mount, whatever
//! the layout and wherever it was interrupted; what cannot be done is refused with nothing changed; the
//! service says what the shell knows; and a store or a daemon of 0.3.0 is taken over.

mod cellar;
mod common;
mod installing;
