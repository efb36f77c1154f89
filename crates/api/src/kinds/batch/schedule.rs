//! Checks of schedules in cron's form: five fields, or a name such as `@daily`.

const FIELDS: [(&str, u32, u32, &[&str]); 5] = [
    ("minute", 0, 59, &[]),
    ("hour", 0, 23, &[]),
    ("dom", 1, 31, &[]),
    ("month", 1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    ("dow", 0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];
const NAMES: &[&str] = &["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// Checks a schedule.
///
/// # Errors
/// What is wrong, in the words of the library that upstream reads schedules with.
pub(super) fn check(schedule: &str) -> Result<(), String> {
    if let Some(every) = schedule.strip_prefix("@every ") {
        let digits = every.bytes().any(|b| b.is_ascii_digit());
        let units = every.bytes().all(|b| b.is_ascii_digit() || b"nusmh.".contains(&b));
        return if digits && units {
            Ok(())
        } else {
            Err(format!("failed to parse duration {schedule}: time: invalid duration \"{every}\""))
        };
    }
    if schedule.starts_with('@') {
        return if NAMES.contains(&schedule) {
            Ok(())
        } else {
            Err(format!("unrecognized descriptor: {schedule}"))
        };
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    for (field, rule) in fields.into_iter().zip(FIELDS) {
        for part in field.split(',') {
            range(part, rule)?;
        }
    }
    Ok(())
}

fn range(part: &str, (_, low, high, names): (&str, u32, u32, &[&str])) -> Result<(), String> {
    let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
    let number = |text: &str| {
        let name = names.iter().position(|name| text.eq_ignore_ascii_case(name));
        match name.and_then(|index| u32::try_from(index).ok()) {
            Some(index) => Ok(index + low),
            None => text.parse::<u32>().map_err(|_| {
                format!("failed to parse int from {text}: strconv.Atoi: parsing \"{text}\": invalid syntax")
            }),
        }
    };
    let (from, to) = match range.split_once('-') {
        _ if range == "*" || range == "?" => (low, high),
        Some((from, to)) => (number(from)?, number(to)?),
        None => {
            let from = number(range)?;
            (from, if step.is_some() { high } else { from })
        }
    };
    if from < low {
        return Err(format!("beginning of range ({from}) below minimum ({low}): {part}"));
    }
    if to > high {
        return Err(format!("end of range ({to}) above maximum ({high}): {part}"));
    }
    if from > to {
        return Err(format!("beginning of range ({from}) beyond end of range ({to}): {part}"));
    }
    if let Some(step) = step
        && number(step)? == 0
    {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn schedules_are_told_right_from_wrong() {
        for schedule in
            ["* * * * *", "*/5 0-6 1,15 jan-mar MON", "@daily", "@every 1h30m", "0 0 ? * 5", "5/15 * * * *"]
        {
            assert_eq!(super::check(schedule), Ok(()), "{schedule}");
        }
        for schedule in [
            "",
            "* * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "*/0 * * * *",
            "5-1 * * * *",
            "@never",
            "a * * * *",
            "* * * * 7",
            "@every x",
        ] {
            assert!(super::check(schedule).is_err(), "{schedule}");
        }
    }
}
