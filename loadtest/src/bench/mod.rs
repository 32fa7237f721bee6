//! bench
use crate::world::Fault;
/// o
#[derive(Debug, clap::Args)]
pub struct Options {}
/// r
pub fn run(_o: &Options) -> Result<std::process::ExitCode, Fault> {
    Err("".into())
}
