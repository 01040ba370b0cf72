//! The fuser trait (skeleton).
use crate::store::Store;
use std::sync::Arc;
use std::time::Duration;
/// What the mount is told from the configuration.
#[derive(Clone, Debug)]
pub struct Options {
    pub max_fds: Option<usize>,
    pub seal_after: Duration,
    pub compress_bundles: bool,
}
pub struct CellarFs;
/// Handle to the background pass, for the mount's main thread.
#[derive(Clone)]
pub struct Sealer;
impl CellarFs {
    pub fn new(_store: Arc<Store>, _options: Options) -> CellarFs {
        CellarFs
    }
    pub fn sealer(&self) -> Sealer {
        Sealer
    }
}
impl Sealer {
    /// Starts the background thread. To be called after the daemon has forked.
    pub fn start(&self) {}
    /// Seal everything now (SIGUSR1).
    pub fn seal_now(&self) {}
    /// Ask the pass to stop at its next step and wait for it (well under a second).
    pub fn stop(&self) {}
}
impl fuser::Filesystem for CellarFs {}
