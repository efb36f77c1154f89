//! Resource quantities as the scheduler counts them: CPU in thousandths, everything else in whole units.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Returns a quantity in thousandths, rounded up and saturated. What cannot be parsed counts as nothing: the
/// API server lets no such quantity in.
pub(crate) fn milli(quantity: &Quantity) -> i64 {
    parse_milli(&quantity.0).unwrap_or(0)
}

/// Returns a quantity in whole units, rounded up and saturated.
pub(crate) fn units(quantity: &Quantity) -> i64 {
    let milli = parse_milli_wide(&quantity.0).unwrap_or(0);
    saturate(milli.div_euclid(1000) + i128::from(milli.rem_euclid(1000) > 0))
}

fn parse_milli(text: &str) -> Option<i64> {
    parse_milli_wide(text).map(saturate)
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

fn parse_milli_wide(text: &str) -> Option<i128> {
    let text = text.trim();
    let end = text
        .char_indices()
        .find(|(at, c)| !(c.is_ascii_digit() || *c == '.' || (*at == 0 && matches!(c, '+' | '-'))))
        .map_or(text.len(), |(at, _)| at);
    let (number, suffix) = text.split_at(end);
    // Numerator and denominator of what one unit of the suffix is, in thousandths.
    let (up, down): (i128, i128) = match suffix {
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
            let scale = 10i128.checked_pow(power.unsigned_abs().min(20))?;
            if power >= 0 { (1_000 * scale, 1) } else { (1_000, scale) }
        }
    };
    let (negative, number) = match number.as_bytes().first()? {
        b'-' => (true, &number[1..]),
        b'+' => (false, &number[1..]),
        _ => (false, number),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    // Nine digits are as fine as a quantity can be written.
    let fraction = &fraction[..fraction.len().min(9)];
    let mut digits: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut down = down;
    for digit in fraction.bytes() {
        digits = digits.checked_mul(10)?.checked_add(i128::from(digit - b'0'))?;
        down *= 10;
    }
    let scaled = digits.checked_mul(up)?;
    let rounded = scaled / down + i128::from(scaled % down > 0);
    Some(if negative { -rounded } else { rounded })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_in_every_notation_and_rounded_up() {
        for (text, in_milli, in_units) in [
            ("1", 1000, 1),
            ("100m", 100, 1),
            ("0.5", 500, 1),
            ("1.5Gi", 1_610_612_736_000, 1_610_612_736),
            ("128Mi", 134_217_728_000, 134_217_728),
            ("1e3", 1_000_000, 1000),
            ("5E-1", 500, 1),
            ("1n", 1, 1),
            ("2M", 2_000_000_000, 2_000_000),
            ("-1", -1000, -1),
            ("", 0, 0),
            ("abc", 0, 0),
        ] {
            let quantity = Quantity(text.into());
            assert_eq!(milli(&quantity), in_milli, "{text}");
            assert_eq!(units(&quantity), in_units, "{text}");
        }
        assert_eq!(milli(&Quantity("9E".into())), i64::MAX);
    }
}
