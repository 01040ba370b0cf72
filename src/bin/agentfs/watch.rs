//! stub
use super::cli::Reply;
use crate::exit::Failure;
use crate::usage::Given;
pub fn run(_: &mut Given) -> Result<Reply, Failure> {
    Err(Failure::new("stub"))
}
