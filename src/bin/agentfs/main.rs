//! The program `agentfs`; everything it does is [`claude_cellar::agentfs`].

fn main() {}
