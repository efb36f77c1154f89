//! `cluster ssh`.

use std::io::IsTerminal;
use std::time::Instant;

use super::{PATIENCE, Session, find_machine};
use crate::error::Result;
use crate::provider;

/// Runs `cluster ssh`; returns the command's exit code.
pub(super) async fn run(session: &Session<'_>, machine: &str, command: &[String]) -> Result<u8> {
    let (plan, state) = session.existing()?;
    let provider = provider::of(&plan, &state)?;
    let machine = find_machine(&plan, machine)?;
    // As with ssh and `vagrant ssh -c`, one word with blanks in it is for the shell.
    let command: Vec<String> = match command {
        [line] if line.contains(char::is_whitespace) => vec!["/bin/sh".into(), "-c".into(), line.clone()],
        words => words.to_vec(),
    };
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let host = provider.reach(machine, Instant::now() + PATIENCE, session.ui).await?;
    host.enter(&command, terminal).await
}
