//! Quantities of resources: `100m`, `1.5Gi`, `2e3`; exact, with upstream's canonical form.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde_json::Value;

/// What upstream says about a text that is no quantity.
const MUST_MATCH: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
const BAD_SUFFIX: &str = "unable to parse quantity's suffix";
const NANO: i128 = 1_000_000_000;
/// The largest value, in nano units: larger ones are cut to it, as upstream does.
const MAX: i128 = (i64::MAX as i128) * NANO;

/// How a quantity is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `1k`, `100m`.
    Decimal,
    /// `1Ki`.
    Binary,
    /// `1e3`.
    Exponent,
}

/// A number with up to nine decimal places, and how it is written.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// A text is no quantity; the message is upstream's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(&'static str);

impl ParseError {
    /// Returns the error for what is no text and no number.
    #[must_use]
    pub fn malformed() -> Self {
        Self(MUST_MATCH)
    }
}

impl Quantity {
    /// Zero.
    pub const ZERO: Self = Self { nanos: 0, format: Format::Decimal };

    /// Returns a whole number, such as bytes or a count.
    #[must_use]
    pub fn whole(value: i64, format: Format) -> Self {
        Self { nanos: i128::from(value) * NANO, format }
    }

    /// Returns thousandths, such as milli-CPUs.
    #[must_use]
    pub fn millis(value: i64) -> Self {
        Self { nanos: i128::from(value) * (NANO / 1000), format: Format::Decimal }
    }

    /// Reads a quantity out of an object: a text or a number. `None` when there is none or it is malformed.
    #[must_use]
    pub fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => text.parse().ok(),
            Value::Number(number) => number.to_string().parse().ok(),
            _ => None,
        }
    }

    /// Returns the value rounded up to a whole number.
    #[must_use]
    pub fn value(self) -> i64 {
        self.rounded_up(NANO)
    }

    /// Returns the value in thousandths, rounded up.
    #[must_use]
    pub fn milli_value(self) -> i64 {
        self.rounded_up(NANO / 1000)
    }

    /// Returns the value as a floating point number; may lose precision.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "callers want an approximation")]
    pub fn as_f64(self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// Says whether the value is a whole number.
    #[must_use]
    pub fn is_whole(self) -> bool {
        self.nanos % NANO == 0
    }

    /// Says whether the value is a whole number of thousandths.
    #[must_use]
    pub fn is_whole_millis(self) -> bool {
        self.nanos % (NANO / 1000) == 0
    }

    /// Returns the quantity rounded up to whole thousandths.
    #[must_use]
    pub fn up_to_millis(self) -> Self {
        const MILLI: i128 = NANO / 1000;
        let up = self.nanos.div_euclid(MILLI) + i128::from(self.nanos.rem_euclid(MILLI) != 0);
        Self { nanos: up * MILLI, format: self.format }
    }

    /// Returns -1, 0 or 1.
    #[must_use]
    pub fn signum(self) -> i32 {
        match self.nanos.cmp(&0) {
            Ordering::Less => -1,
            Ordering::Equal => 0,
            Ordering::Greater => 1,
        }
    }

    /// Returns how the quantity is written.
    #[must_use]
    pub fn format(self) -> Format {
        self.format
    }

    fn rounded_up(self, unit: i128) -> i64 {
        let up = self.nanos.div_euclid(unit) + i128::from(self.nanos.rem_euclid(unit) != 0);
        i64::try_from(up).unwrap_or(if up < 0 { i64::MIN } else { i64::MAX })
    }

    /// The format of a result: a zero takes the other side's.
    fn joined_format(self, other: Self) -> Format {
        if self.nanos == 0 { other.format } else { self.format }
    }
}

impl std::ops::Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { nanos: self.nanos.saturating_add(other.nanos), format: self.joined_format(other) }
    }
}

impl std::ops::AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::ops::Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { nanos: self.nanos.saturating_sub(other.nanos), format: self.joined_format(other) }
    }
}

impl std::ops::SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl std::ops::Neg for Quantity {
    type Output = Self;

    fn neg(self) -> Self {
        Self { nanos: -self.nanos, format: self.format }
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(quantities: I) -> Self {
        quantities.fold(Self::ZERO, |sum, quantity| sum + quantity)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (negative, rest) = match text.as_bytes().first() {
            None => return Err(ParseError("quantity must be non-empty")),
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(ParseError(MUST_MATCH));
        }
        let (format, unit) = suffix_unit(suffix)?;
        let nanos = scaled(whole, fraction, unit);
        Ok(Self { nanos: if negative { -nanos } else { nanos }, format })
    }
}

/// What one stands for, as a power.
#[derive(Clone, Copy)]
enum Unit {
    Ten(i32),
    Two(u32),
}

fn suffix_unit(suffix: &str) -> Result<(Format, Unit), ParseError> {
    Ok(match suffix {
        "" => (Format::Decimal, Unit::Ten(0)),
        "n" => (Format::Decimal, Unit::Ten(-9)),
        "u" => (Format::Decimal, Unit::Ten(-6)),
        "m" => (Format::Decimal, Unit::Ten(-3)),
        "k" => (Format::Decimal, Unit::Ten(3)),
        "M" => (Format::Decimal, Unit::Ten(6)),
        "G" => (Format::Decimal, Unit::Ten(9)),
        "T" => (Format::Decimal, Unit::Ten(12)),
        "P" => (Format::Decimal, Unit::Ten(15)),
        "E" => (Format::Decimal, Unit::Ten(18)),
        "Ki" => (Format::Binary, Unit::Two(10)),
        "Mi" => (Format::Binary, Unit::Two(20)),
        "Gi" => (Format::Binary, Unit::Two(30)),
        "Ti" => (Format::Binary, Unit::Two(40)),
        "Pi" => (Format::Binary, Unit::Two(50)),
        "Ei" => (Format::Binary, Unit::Two(60)),
        other => {
            let Some(exponent) = other.strip_prefix(['e', 'E']) else {
                let known = |c: char| "eEinumkKMGTP+-".contains(c) || c.is_ascii_digit();
                return Err(ParseError(if other.chars().all(known) { BAD_SUFFIX } else { MUST_MATCH }));
            };
            let exponent: i32 = exponent.parse().map_err(|_| ParseError(BAD_SUFFIX))?;
            (Format::Exponent, Unit::Ten(exponent))
        }
    })
}

/// Returns `whole.fraction` of a unit in nano units: rounded up to the next nano, cut to the largest value.
fn scaled(whole: &str, fraction: &str, unit: Unit) -> i128 {
    let fraction = fraction.trim_end_matches('0');
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return 0;
    }
    // Too many digits to hold are either beyond the largest value or below a nano.
    let places = i32::try_from(fraction.len()).unwrap_or(i32::MAX);
    let ten = match unit {
        Unit::Ten(power) => power,
        Unit::Two(_) => 0,
    };
    let power = ten.saturating_add(9).saturating_sub(places);
    let length = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    if length.saturating_add(power) > 32 {
        return MAX;
    }
    if length.saturating_add(power) < 0 && matches!(unit, Unit::Ten(_)) {
        return 1;
    }
    let kept = digits.len().min(30);
    let dropped = i32::try_from(digits.len() - kept).unwrap_or(i32::MAX);
    let mut value: i128 = digits[..kept].parse().unwrap_or(MAX);
    let inexact = digits[kept..].bytes().any(|b| b != b'0');
    let power = power + dropped;
    if let Unit::Two(bits) = unit {
        match value.checked_mul(1 << bits) {
            Some(scaled) => value = scaled,
            // Divide first: the fraction has more digits than matter.
            None if power < 0 => {
                return divide_up(value, power).checked_mul(1 << bits).map_or(MAX, |value| value.min(MAX));
            }
            None => return MAX,
        }
    }
    let value = if power >= 0 {
        10_i128.checked_pow(power.unsigned_abs()).and_then(|factor| value.checked_mul(factor)).unwrap_or(MAX)
    } else {
        divide_up(value, power)
    };
    value.saturating_add(i128::from(inexact)).min(MAX)
}

fn divide_up(value: i128, power: i32) -> i128 {
    match 10_i128.checked_pow(power.unsigned_abs()) {
        Some(divisor) => value / divisor + i128::from(value % divisor != 0),
        None => 1,
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let small = self.nanos.abs() < 1024 * NANO;
        if self.format == Format::Binary && !small && self.is_whole() {
            let mut value = self.nanos / NANO;
            let mut unit = 0;
            while value % 1024 == 0 && unit < 6 {
                value /= 1024;
                unit += 1;
            }
            return write!(f, "{value}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][unit]);
        }
        let mut value = self.nanos;
        let mut exponent = -9;
        while value % 1000 == 0 && exponent < 18 {
            value /= 1000;
            exponent += 3;
        }
        if self.format == Format::Exponent {
            return if exponent == 0 { write!(f, "{value}") } else { write!(f, "{value}e{exponent}") };
        }
        let suffix = match exponent {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            0 => "",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            _ => "E",
        };
        write!(f, "{value}{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_written_in_canonical_form() {
        for (text, written) in [
            ("0", "0"),
            ("1", "1"),
            ("+1", "1"),
            ("-1", "-1"),
            ("1000m", "1"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1.", "1"),
            ("100m", "100m"),
            ("1500m", "1500m"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("1000000", "1M"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("0.5Gi", "512Mi"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
            ("1.5Gi", "1536Mi"),
            ("100Mi", "100Mi"),
            ("1e3", "1e3"),
            ("12e-3", "12e-3"),
            ("1E", "1E"),
            ("1.23456789012", "1234567891n"),
            ("0.0000000001", "1n"),
            ("100000000000000000000", "9223372036854775807"),
            ("1e100", "9223372036854775807"),
            ("0.1Ki", "102400m"),
            ("3n", "3n"),
            ("99999999999999999999.0000000001Ei", "9223372036854775807"),
        ] {
            let quantity: Quantity = text.parse().unwrap();
            assert_eq!(quantity.to_string(), written, "{text}");
            let again: Quantity = written.parse().unwrap();
            assert_eq!(again, quantity, "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "x", "1x", "1 Gi", "1.2.3", "Gi", "--1", "1KI", "1ki", "e3", "1e", "1mi", "0x10"] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
    }

    #[test]
    fn sums_and_comparisons_are_exact() {
        let sum: Quantity = ["0.1", "0.2", "700m"].iter().map(|text| text.parse::<Quantity>().unwrap()).sum();
        assert_eq!(sum.to_string(), "1");
        let gib: Quantity = "1Gi".parse().unwrap();
        assert!(gib > "1G".parse().unwrap());
        assert_eq!((gib - "512Mi".parse().unwrap()).to_string(), "512Mi");
        assert_eq!("1001m".parse::<Quantity>().unwrap().value(), 2);
        assert_eq!("-1500m".parse::<Quantity>().unwrap().value(), -1);
        assert_eq!("1.5".parse::<Quantity>().unwrap().milli_value(), 1500);
        assert_eq!("1n".parse::<Quantity>().unwrap().up_to_millis().to_string(), "1m");
    }

    proptest::proptest! {
        #[test]
        fn writing_and_reading_lose_nothing(nanos in -1_000_000_000_000_000_000_000_i128..1_000_000_000_000_000_000_000_i128, format in 0..3) {
            let format = [Format::Decimal, Format::Binary, Format::Exponent][format as usize];
            let quantity = Quantity { nanos, format };
            let again: Quantity = quantity.to_string().parse().unwrap();
            proptest::prop_assert_eq!(again, quantity);
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            drop(text.parse::<Quantity>());
        }
    }
}
