//! stub
use super::cli::Reply;
use crate::exit::Failure;
use crate::usage::Given;
pub fn blame(_: &mut Given) -> Result<Reply, Failure> {
    Err(Failure::new("stub"))
}
pub fn history(_: &mut Given) -> Result<Reply, Failure> {
    Err(Failure::new("stub"))
}
pub fn sessions(_: &mut Given) -> Result<Reply, Failure> {
    Err(Failure::new("stub"))
}
pub fn session(_: &mut Given) -> Result<Reply, Failure> {
    Err(Failure::new("stub"))
}
pub fn timeline(_: &mut Given) -> Result<Reply, Failure> {
    Err(Failure::new("stub"))
}
pub fn viz(_: &mut Given) -> Result<Reply, Failure> {
    Err(Failure::new("stub"))
}
