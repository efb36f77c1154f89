//! Times as the API writes them, and ages as people read them.

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;

/// Writes a `Time`: whole seconds, in UTC (`2026-01-02T03:04:05Z`).
#[must_use]
pub fn seconds(time: Timestamp) -> String {
    printed(time, 0)
}

/// Writes a `MicroTime`: six decimal places, in UTC (`2026-01-02T03:04:05.000006Z`).
#[must_use]
pub fn micros(time: Timestamp) -> String {
    printed(time, 6)
}

fn printed(time: Timestamp, precision: u8) -> String {
    DateTimePrinter::new().precision(Some(precision)).timestamp_to_string(&time)
}

/// Reads either form; `None` for what is no time of RFC 3339.
#[must_use]
pub fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// Returns how long ago `then` was, as kubectl writes it; `<unknown>` when it is no time.
#[must_use]
pub fn age(then: &str, now: Timestamp) -> String {
    parse(then).map_or_else(|| "<unknown>".to_owned(), |then| human(now.as_second() - then.as_second()))
}

/// Writes a duration in seconds as kubectl does: two units at most, and fewer the longer it is.
#[must_use]
pub fn human(seconds: i64) -> String {
    // A clock that is a little behind must not show as an error.
    if seconds < -1 {
        return "<invalid>".into();
    }
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let pair = |big: i64, big_unit: char, small: i64, small_unit: char| {
        if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
    };
    if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        pair(minutes, 'm', seconds % 60, 's')
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        pair(hours, 'h', minutes % 60, 'm')
    } else if hours < 48 {
        format!("{hours}h")
    } else if hours < 192 {
        pair(days, 'd', hours % 24, 'h')
    } else if days < 730 {
        format!("{days}d")
    } else if days < 2920 {
        pair(days / 365, 'y', days % 365, 'd')
    } else {
        format!("{}y", days / 365)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        for (seconds, text) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (5, "5s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (600, "10m"),
            (10799, "179m"),
            (10800, "3h"),
            (11520, "3h12m"),
            (8 * 3600, "8h"),
            (47 * 3600, "47h"),
            (48 * 3600, "2d"),
            (50 * 3600, "2d2h"),
            (192 * 3600, "8d"),
            (729 * 86400, "729d"),
            (730 * 86400, "2y"),
            (731 * 86400, "2y1d"),
            (2920 * 86400, "8y"),
        ] {
            assert_eq!(human(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn times_have_the_precision_of_their_type() {
        let time: Timestamp = "2026-01-02T03:04:05.000006789Z".parse().unwrap();
        assert_eq!(seconds(time), "2026-01-02T03:04:05Z");
        assert_eq!(micros(time), "2026-01-02T03:04:05.000006Z");
        assert_eq!(age("2026-01-02T03:04:00Z", time), "5s");
        assert_eq!(age("", time), "<unknown>");
        assert_eq!(parse("2026-01-02T03:04:05+01:00"), Some("2026-01-02T02:04:05Z".parse().unwrap()));
    }
}
