//! The program `agentfs`; everything it does is [`claude_cellar::agentfs`].

use std::process::ExitCode;

fn main() -> ExitCode {
    claude_cellar::agentfs::cli::main(std::env::args_os().skip(1))
}
