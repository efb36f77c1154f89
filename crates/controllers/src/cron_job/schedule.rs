//! Schedules in cron's notation.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan, Zoned};

/// A parsed schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Schedule {
    Fields(Fields),
    /// Again after this time.
    Every(Duration),
}

/// Which values of each field match, a bit for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// With both day fields limited, either may match.
    either_day: bool,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// How far ahead a match is looked for: 29 February comes every four or eight years.
const YEARS: i16 = 9;

/// Parses a schedule.
///
/// # Errors
/// Names the part that cannot be read.
pub(crate) fn parse(text: &str) -> Result<Schedule, String> {
    let text = text.trim();
    let text = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        other => other,
    };
    if let Some(every) = text.strip_prefix("@every ") {
        let span: SignedDuration =
            every.trim().parse().map_err(|error| format!("schedule {text:?}: {error}"))?;
        let span = Duration::try_from(span).map_err(|_| format!("schedule {text:?} is negative"))?;
        return Ok(Schedule::Every(span.max(Duration::from_secs(1))));
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    let [minutes, hours, days, months, weekdays] = fields.as_slice() else {
        return Err(format!("schedule {text:?} has {} fields, not 5", fields.len()));
    };
    let is_any = |field: &str| field.starts_with('*') || field == "?";
    let mut weekday_set = field(weekdays, 0, 7, &WEEKDAYS, 0)?;
    // Sunday is 0 and 7.
    if weekday_set & (1 << 7) != 0 {
        weekday_set |= 1;
    }
    Ok(Schedule::Fields(Fields {
        minutes: field(minutes, 0, 59, &[], 0)?,
        hours: field(hours, 0, 23, &[], 0)?,
        days: field(days, 1, 31, &[], 0)?,
        months: field(months, 1, 12, &MONTHS, 1)?,
        weekdays: weekday_set,
        either_day: !is_any(days) && !is_any(weekdays),
    }))
}

fn field(text: &str, first: u32, last: u32, names: &[&str], name_base: u32) -> Result<u64, String> {
    let number = |part: &str| -> Result<u32, String> {
        let lower = part.to_ascii_lowercase();
        if let Some(at) = names.iter().position(|name| *name == lower) {
            return Ok(name_base + u32::try_from(at).unwrap_or(0));
        }
        let value = part.parse::<u32>().map_err(|_| format!("{part:?} in {text:?} is not a number"))?;
        if (first..=last).contains(&value) {
            Ok(value)
        } else {
            Err(format!("{value} in {text:?} is not within {first}-{last}"))
        }
    };
    let mut set = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => {
                let step = step.parse::<usize>().ok().filter(|step| *step > 0);
                (range, Some(step.ok_or_else(|| format!("the step in {part:?} is not a positive number"))?))
            }
            None => (part, None),
        };
        let (from, to) = match range {
            "*" | "?" => (first, last),
            _ => match range.split_once('-') {
                Some((from, to)) => (number(from)?, number(to)?),
                // "5/15" is from 5 on; "5" is 5 alone.
                None if step.is_some() => (number(range)?, last),
                None => (number(range)?, number(range)?),
            },
        };
        if from > to {
            return Err(format!("the range {range:?} is backwards"));
        }
        for value in (from..=to).step_by(step.unwrap_or(1)) {
            set |= 1 << value;
        }
    }
    Ok(set)
}

impl Schedule {
    /// Returns the first moment after `from` that the schedule names.
    pub(crate) fn next(&self, from: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(span) => {
                let second = Timestamp::from_second(from.as_second()).ok()?;
                second.checked_add(SignedDuration::try_from(*span).ok()?).ok()
            }
            Self::Fields(fields) => fields.next(from, zone),
        }
    }
}

impl Fields {
    fn day_matches(&self, at: &Zoned) -> bool {
        let by_day = has(self.days, at.day());
        let by_weekday = has(self.weekdays, at.weekday().to_sunday_zero_offset());
        if self.either_day { by_day || by_weekday } else { by_day && by_weekday }
    }

    fn next(&self, from: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start = from.to_zoned(zone.clone());
        let last_year = start.year().saturating_add(YEARS);
        let mut at =
            start.checked_add(1.minute()).ok()?.with().second(0).subsec_nanosecond(0).build().ok()?;
        while at.year() <= last_year {
            if !has(self.months, at.month()) {
                at = at.first_of_month().ok()?.start_of_day().ok()?.checked_add(1.month()).ok()?;
            } else if !self.day_matches(&at) {
                at = at.start_of_day().ok()?.checked_add(1.day()).ok()?.start_of_day().ok()?;
            } else if !has(self.hours, at.hour()) {
                // Counted in real time, so that an hour that the clock jumps over is no trap.
                let into = SignedDuration::from_mins(i64::from(at.minute()));
                at = at.checked_sub(into).ok()?.checked_add(SignedDuration::from_hours(1)).ok()?;
            } else if !has(self.minutes, at.minute()) {
                at = at.checked_add(SignedDuration::from_mins(1)).ok()?;
            } else {
                return Some(at.timestamp());
            }
        }
        None
    }
}

fn has(set: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|value| value < 64 && set & (1 << value) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_moment_is_the_one_that_the_schedule_names() {
        for (schedule, from, expect) in [
            ("* * * * *", "2026-01-01T00:00:30Z", "2026-01-01T00:01:00Z"),
            ("*/15 * * * *", "2026-01-01T00:15:00Z", "2026-01-01T00:30:00Z"),
            ("5/20 * * * *", "2026-01-01T00:26:00Z", "2026-01-01T00:45:00Z"),
            ("0 9-17 * * mon-fri", "2026-01-02T17:00:00Z", "2026-01-05T09:00:00Z"),
            ("30 2 29 feb *", "2026-01-01T00:00:00Z", "2028-02-29T02:30:00Z"),
            ("0 0 13 * 5", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("0 0 * * 7", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            ("@hourly", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"),
            ("@every 90s", "2026-01-01T00:00:00Z", "2026-01-01T00:01:30Z"),
        ] {
            let next = parse(schedule).unwrap().next(from.parse().unwrap(), &TimeZone::UTC).unwrap();
            assert_eq!(next.to_string(), expect, "{schedule}");
        }
        let never = parse("0 0 31 2 *").unwrap();
        assert_eq!(never.next("2026-01-01T00:00:00Z".parse().unwrap(), &TimeZone::UTC), None);
    }

    #[test]
    fn a_schedule_that_cannot_be_read_says_which_part() {
        for (schedule, expect) in [
            ("* * * *", "has 4 fields, not 5"),
            ("60 * * * *", "60 in \"60\" is not within 0-59"),
            ("*/0 * * * *", "the step in \"*/0\" is not a positive number"),
            ("5-1 * * * *", "the range \"5-1\" is backwards"),
            ("x * * * *", "\"x\" in \"x\" is not a number"),
        ] {
            assert!(parse(schedule).unwrap_err().contains(expect), "{schedule}");
        }
    }
}
