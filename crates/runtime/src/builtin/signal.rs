//! Signals as images name them.

/// What ends a container when its image names no signal.
pub(super) const TERMINATE: i32 = libc::SIGTERM;

/// Reads `SIGTERM`, `TERM`, `15` or `SIGRTMIN+3`. What makes no sense is the default, as other runtimes have it.
pub(super) fn parse(text: &str) -> i32 {
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) { number } else { TERMINATE };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    for (start, base, sign) in [("RTMIN", 34, 1), ("RTMAX", 64, -1)] {
        if let Some(rest) = name.strip_prefix(start) {
            let offset = rest.trim_start_matches(['+', '-']).parse::<i32>().unwrap_or(0);
            let number = base + sign * offset;
            return if (34..=64).contains(&number) { number } else { TERMINATE };
        }
    }
    format!("SIG{name}").parse::<nix::sys::signal::Signal>().map_or(TERMINATE, |signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_in_every_spelling() {
        for (text, number) in [
            ("", 15),
            ("SIGTERM", 15),
            ("quit", 3),
            ("SIGQUIT", 3),
            ("9", 9),
            ("99", 15),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("SIGNONSENSE", 15),
        ] {
            assert_eq!(parse(text), number, "{text}");
        }
    }
}
