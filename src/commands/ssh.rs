//! `cluster ssh`.

use std::io::IsTerminal;
use std::os::unix::process::CommandExt;

use super::{Session, find_machine};
use crate::error::{Error, Result};
use crate::provider::local::Local;

/// Runs `cluster ssh`. Returns only when it fails: this process becomes the command.
pub(super) fn run(session: &Session<'_>, machine: &str, command: &[String]) -> Result<u8> {
    let (plan, state) = session.existing()?;
    let local = Local::new(&plan, &state);
    let machine = find_machine(&plan, machine)?;
    // As with ssh and `vagrant ssh -c`, one word with blanks in it is for the shell.
    let command: Vec<String> = match command {
        [] => login_shell(),
        [line] if line.contains(char::is_whitespace) => vec!["/bin/sh".into(), "-c".into(), line.clone()],
        words => words.to_vec(),
    };
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let error = local.command(machine, &command, terminal)?.exec();
    Err(Error::from(error).within(format!("entering {}", machine.name)))
}

fn login_shell() -> Vec<String> {
    let shell = ["/bin/bash", "/usr/bin/bash"].into_iter().find(|shell| std::path::Path::new(shell).exists());
    vec![shell.unwrap_or("/bin/sh").to_owned(), "-l".into()]
}
