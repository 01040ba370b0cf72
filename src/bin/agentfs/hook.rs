//! stub
use super::cli::Reply;
use crate::exit::Failure;
use crate::usage::Given;
pub fn install(_: &mut Given) -> Result<Reply, Failure> {
    Err(Failure::new("stub"))
}
pub fn run(_: &mut Given) {}
pub fn troubles(_: &super::project::Project, _: usize) -> Vec<String> {
    Vec::new()
}
