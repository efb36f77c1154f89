//! Checks that many kinds share.

use std::net::{IpAddr, Ipv6Addr};

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::meta;
use crate::value::{same, text};

pub(super) const IMMUTABLE: &str = "field is immutable";
const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";

/// Checks that a number, where there is one, is not negative.
pub(super) fn not_negative(object: &Value, key: &str, path: &Path, errors: &mut Errors) {
    if let Some(number) = object[key].as_i64()
        && number < 0
    {
        errors.invalid(&path.child(key), number, NOT_NEGATIVE);
    }
}

/// Checks that a number, where there is one, is positive.
pub(super) fn positive(object: &Value, key: &str, path: &Path, errors: &mut Errors) {
    if let Some(number) = object[key].as_i64()
        && number <= 0
    {
        errors.invalid(&path.child(key), number, "must be greater than 0");
    }
}

/// Checks that a text is there. Returns it when it is.
pub(super) fn required<'a>(
    object: &'a Value,
    key: &str,
    path: &Path,
    errors: &mut Errors,
) -> Option<&'a str> {
    match text(object, key) {
        "" => {
            errors.required(&path.child(key), "");
            None
        }
        found => Some(found),
    }
}

/// Checks that a text is there and is one of the known ones.
pub(super) fn one_of(object: &Value, key: &str, known: &[&str], path: &Path, errors: &mut Errors) {
    if let Some(found) = required(object, key, path, errors)
        && !known.contains(&found)
    {
        errors.not_supported(&path.child(key), found, known);
    }
}

/// Checks that a text, where there is one, is one of the known ones.
pub(super) fn one_of_or_unset(object: &Value, key: &str, known: &[&str], path: &Path, errors: &mut Errors) {
    let found = text(object, key);
    if !found.is_empty() && !known.contains(&found) {
        errors.not_supported(&path.child(key), found, known);
    }
}

/// Checks a text by a rule for names.
pub(super) fn named(found: &str, rule: fn(&str) -> Vec<String>, path: &Path, errors: &mut Errors) {
    for why in rule(found) {
        errors.invalid(path, found, why);
    }
}

/// Checks the number of a port.
pub(super) fn port_number(number: i64, path: &Path, errors: &mut Errors) {
    if !(1..=65535).contains(&number) {
        errors.invalid(path, number, PORT_RANGE);
    }
}

/// Checks a port that is a number or a name.
pub(super) fn port(port: &Value, path: &Path, errors: &mut Errors) {
    match port {
        Value::Number(number) => port_number(number.as_i64().unwrap_or(0), path, errors),
        Value::String(name) => named(name, meta::port_name_errors, path, errors),
        _ => errors.invalid(path, 0, PORT_RANGE),
    }
}

/// Checks the text of an IP address.
pub(super) fn ip(text: &str, path: &Path, errors: &mut Errors) {
    if text.parse::<IpAddr>().is_err() {
        errors.invalid(path, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    }
}

/// Checks an address that traffic may be sent to.
pub(super) fn endpoint_ip(text: &str, path: &Path, errors: &mut Errors) {
    let Ok(address) = text.parse::<IpAddr>() else { return ip(text, path, errors) };
    if address.is_unspecified() {
        errors.invalid(path, text, format!("may not be unspecified ({text})"));
    }
    if address.is_loopback() {
        errors.invalid(path, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => (address.segments()[0] & 0xffc0) == 0xfe80,
    };
    if link_local {
        errors.invalid(path, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    let local_multicast = match address {
        IpAddr::V4(address) => address.octets()[..3] == [224, 0, 0],
        IpAddr::V6(address) => (address.segments()[0] & 0xff0f) == 0xff02,
    };
    if local_multicast {
        errors.invalid(path, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

/// Reads a CIDR; `None` when it is none.
pub(super) fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let bits: u8 = bits.parse().ok()?;
    (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, bits))
}

/// Says whether a CIDR lies strictly within another.
pub(super) fn cidr_within(inner: (IpAddr, u8), outer: (IpAddr, u8)) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)) << 96, 32),
        IpAddr::V6(address) => (Ipv6Addr::to_bits(address), 128),
    };
    let ((a, family_a), (b, family_b)) = (bits(inner.0), bits(outer.0));
    let mask = if outer.1 == 0 { 0 } else { u128::MAX << (128 - u32::from(outer.1)) };
    family_a == family_b && inner.1 > outer.1 && a & mask == b & mask
}

/// Checks the text of a CIDR.
pub(super) fn cidr(text: &str, path: &Path, errors: &mut Errors) {
    if parse_cidr(text).is_none() {
        errors.invalid(path, text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
    }
}

/// Checks that a field did not change.
pub(super) fn immutable(new: &Value, old: &Value, key: &str, path: &Path, errors: &mut Errors) {
    if !same(&new[key], &old[key]) {
        errors.invalid(&path.child(key), new[key].clone(), IMMUTABLE);
    }
}

/// Checks a count or a percentage, such as `maxUnavailable`.
pub(super) fn count_or_percent(value: &Value, path: &Path, errors: &mut Errors) {
    match value {
        Value::Number(number) => {
            let number = number.as_i64().unwrap_or(0);
            if number < 0 {
                errors.invalid(path, number, NOT_NEGATIVE);
            }
        }
        Value::String(text) if !is_percent(text) => {
            errors.invalid(
                path,
                text.as_str(),
                "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', \
                 regex used for validation is '[0-9]+%')",
            );
        }
        _ => {}
    }
}

/// Checks that a percentage is at most 100.
pub(super) fn at_most_all(value: &Value, path: &Path, errors: &mut Errors) {
    if let Value::String(text) = value
        && is_percent(text)
        && text.trim_end_matches('%').parse::<u32>().is_ok_and(|percent| percent > 100)
    {
        errors.invalid(path, text.as_str(), "must not be greater than 100%");
    }
}

fn is_percent(text: &str) -> bool {
    text.strip_suffix('%')
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

/// Says whether a count or percentage is zero.
pub(super) fn is_zero(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.trim_end_matches('%').parse::<u32>() == Ok(0),
        _ => false,
    }
}
