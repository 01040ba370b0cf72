//! Sessions in directories that are not mounted (skeleton).
use std::io;
use std::path::Path;
pub fn list(_dir: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
pub fn compress(_file: &Path, _keep: bool) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
pub fn decompress(_file: &Path, _out: Option<&Path>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
