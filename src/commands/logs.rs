//! `cluster logs`.

use std::time::Instant;

use super::{PATIENCE, Session, find_machine};
use crate::error::{Context, Error, Result};
use crate::provider::{self, last_lines};

/// Runs `cluster logs`.
pub(super) async fn run(
    session: &Session<'_>,
    machine: &str,
    unit: Option<&str>,
    console: bool,
    lines: Option<usize>,
) -> Result<()> {
    let (plan, state) = session.existing()?;
    let provider = provider::of(&plan, &state)?;
    let machine = find_machine(&plan, machine)?;
    if console {
        let bytes = fs_err::read(provider.console(machine))?;
        let text = String::from_utf8_lossy(&bytes);
        return print(session, lines.map_or(&*text, |lines| last_lines(&text, lines)));
    }
    let units: Vec<&str> = match unit {
        Some(unit) if machine.units.iter().any(|known| known.name == unit) => vec![unit],
        Some(unit) => {
            let known: Vec<&str> = machine.units.iter().map(|unit| unit.name.as_str()).collect();
            return Err(Error::user(format!("{} has no unit {unit:?}", machine.name))
                .hint(format!("its units: {}", known.join(", "))));
        }
        None => machine.units.iter().map(|unit| unit.name.as_str()).collect(),
    };
    let host = provider.reach(machine, Instant::now() + PATIENCE, session.ui).await?;
    for unit in &units {
        if units.len() > 1 {
            session.ui.raw(format!("==> {unit} <==\n").as_bytes())?;
        }
        print(session, &host.log(unit, lines).await?)?;
    }
    Ok(())
}

fn print(session: &Session<'_>, text: &str) -> Result<()> {
    session.ui.raw(text.as_bytes()).context("writing the log")
}
