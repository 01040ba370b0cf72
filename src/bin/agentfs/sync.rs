//! stub
use super::cli::Reply;
use crate::exit::Failure;
use crate::usage::Given;
pub fn sync(_: &mut Given) -> Result<Reply, Failure> {
    Err(Failure::new("stub"))
}
pub fn clone(_: &mut Given) -> Result<Reply, Failure> {
    Err(Failure::new("stub"))
}
