//! Amounts as the API writes them (`250m`, `1Gi`), read as whole numbers.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Returns `text` in thousandths, rounded up, or `None` when it is not a quantity.
pub(crate) fn milli(text: &str) -> Option<i128> {
    let text = text.trim();
    let split = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (negative, digits) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 18 || whole.len() > 20 {
        return None;
    }
    let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    let (numerator, denominator): (i128, i128) = match suffix {
        "n" => (1, 1_000_000),
        "u" => (1, 1_000),
        "m" => (1, 1),
        "" => (1_000, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000_000, 1),
        "Ki" => (1_000 << 10, 1),
        "Mi" => (1_000 << 20, 1),
        "Gi" => (1_000 << 30, 1),
        "Ti" => (1_000 << 40, 1),
        "Pi" => (1_000 << 50, 1),
        "Ei" => (1_000 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let scale = 10i128.checked_pow(power.unsigned_abs())?;
            if power < 0 { (1_000, scale) } else { (scale.checked_mul(1_000)?, 1) }
        }
    };
    let denominator = denominator.checked_mul(10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?)?;
    let product = mantissa.checked_mul(numerator)?;
    let value = product / denominator + i128::from(product % denominator != 0);
    Some(if negative { -value } else { value })
}

/// Returns `text` as a whole number, rounded up.
pub(crate) fn whole(text: &str) -> Option<i64> {
    let milli = milli(text)?;
    i64::try_from(milli / 1000 + i128::from(milli % 1000 > 0)).ok()
}

/// A list of resources: requests, limits, capacity.
pub(crate) type List = BTreeMap<String, Quantity>;

/// Returns `name`'s amount in thousandths, if it is given.
pub(crate) fn milli_of(list: Option<&List>, name: &str) -> Option<i64> {
    i64::try_from(milli(&list?.get(name)?.0)?).ok()
}

/// Returns `name`'s amount as a whole number, if it is given.
pub(crate) fn whole_of(list: Option<&List>, name: &str) -> Option<i64> {
    whole(&list?.get(name)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_in_thousandths_rounded_up() {
        for (text, expected) in [
            ("1", Some(1000)),
            ("250m", Some(250)),
            ("0.1", Some(100)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("1k", Some(1_000_000)),
            ("1e3", Some(1_000_000)),
            ("5e-1", Some(500)),
            ("1n", Some(1)),
            ("-2", Some(-2000)),
            ("", None),
            ("x", None),
            ("1Zi", None),
        ] {
            assert_eq!(milli(text), expected, "{text}");
        }
        assert_eq!(whole("1500m"), Some(2));
    }
}
