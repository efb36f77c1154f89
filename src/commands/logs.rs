//! `cluster logs`.

use super::{Session, find_machine};
use crate::error::{Context, Error, Result};
use crate::plan::Machine;
use crate::provider::local::Local;

/// Runs `cluster logs`.
pub(super) fn run(
    session: &Session<'_>,
    machine: &str,
    unit: Option<&str>,
    console: bool,
    lines: Option<usize>,
) -> Result<()> {
    let (plan, state) = session.existing()?;
    let local = Local::new(&plan, &state);
    let machine = find_machine(&plan, machine)?;
    if console {
        let text = fs_err::read_to_string(local.host_path(machine, "/console.log"))?;
        return print(session, &text, lines);
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
    for unit in &units {
        if units.len() > 1 {
            session.ui.raw(format!("==> {unit} <==\n").as_bytes())?;
        }
        print(session, &read(&local, machine, unit)?, lines)?;
    }
    Ok(())
}

fn print(session: &Session<'_>, text: &str, lines: Option<usize>) -> Result<()> {
    let text = lines.map_or(text, |lines| last_lines(text, lines));
    session.ui.raw(text.as_bytes()).context("writing the log")
}

fn read(local: &Local<'_>, machine: &Machine, unit: &str) -> Result<String> {
    let mut text = String::new();
    for suffix in ["log.1", "log"] {
        let path = local.host_path(machine, &format!("/var/log/{unit}.{suffix}"));
        match fs_err::read(&path) {
            Ok(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(text)
}

/// Returns the last lines of a unit's log.
pub(super) fn tail(local: &Local<'_>, machine: &Machine, unit: &str, lines: usize) -> Result<String> {
    Ok(last_lines(read(local, machine, unit)?.trim_end(), lines).to_owned())
}

fn last_lines(text: &str, lines: usize) -> &str {
    if lines == 0 {
        return "";
    }
    let body = text.strip_suffix('\n').unwrap_or(text);
    match body.rmatch_indices('\n').nth(lines - 1) {
        Some((index, _)) => &text[index + 1..],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_the_last_ones() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(last_lines("a\nb", 1), "b");
        assert_eq!(last_lines("a\n", 9), "a\n");
        assert_eq!(last_lines("a\n", 0), "");
    }
}
