//! The rules for names. Each function returns what is wrong with a text, nothing when it is right.

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
     start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
     '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
     alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
     validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const NAME_PART: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
     with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
     '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const QUALIFIED: &str = "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start \
     and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for \
     validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. \
     'example.com/MyName')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
     '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex \
     used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// Checks a DNS label (RFC 1123): at most 63 bytes of lower case letters, digits and `-`.
#[must_use]
pub fn dns_label_errors(text: &str) -> Vec<String> {
    let mut errors = too_long(text, 63);
    if !is_dns_label(text) {
        errors.push(if is_subdomain(text) { "must not contain dots".into() } else { LABEL.to_owned() });
    }
    errors
}

/// Checks a DNS label (RFC 1035): as RFC 1123, but begins with a letter.
#[must_use]
pub fn dns_1035_label_errors(text: &str) -> Vec<String> {
    let mut errors = too_long(text, 63);
    if !(is_dns_label(text) && text.starts_with(|c: char| c.is_ascii_lowercase())) {
        errors.push(LABEL_1035.to_owned());
    }
    errors
}

/// Checks a DNS subdomain: at most 253 bytes of labels with dots between.
#[must_use]
pub fn dns_subdomain_errors(text: &str) -> Vec<String> {
    let mut errors = too_long(text, 253);
    if !is_subdomain(text) {
        errors.push(SUBDOMAIN.to_owned());
    }
    errors
}

/// Checks a name that is a part of a path, such as a role's: anything but `.`, `..`, `/` and `%`.
#[must_use]
pub fn path_segment_errors(text: &str) -> Vec<String> {
    if matches!(text, "." | "..") {
        return vec![format!("may not be '{text}'")];
    }
    ["/", "%"]
        .iter()
        .filter(|part| text.contains(**part))
        .map(|part| format!("may not contain '{part}'"))
        .collect()
}

/// Checks the key of a label: a name, with an optional DNS subdomain and `/` before it.
#[must_use]
pub fn qualified_name_errors(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".into());
            } else {
                errors
                    .extend(dns_subdomain_errors(prefix).into_iter().map(|why| format!("prefix part {why}")));
            }
            name
        }
        _ => {
            errors.push(QUALIFIED.to_owned());
            return errors;
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".into());
    } else if name.len() > 63 {
        errors.push("name part must be no more than 63 bytes".into());
    }
    if !is_name(name) {
        errors.push(NAME_PART.to_owned());
    }
    errors
}

/// Checks the value of a label: empty, or at most 63 bytes that begin and end with a letter or digit.
#[must_use]
pub fn label_value_errors(text: &str) -> Vec<String> {
    let mut errors = too_long(text, 63);
    if !text.is_empty() && !is_name(text) {
        errors.push(LABEL_VALUE.to_owned());
    }
    errors
}

/// Checks the name of a port (an IANA service name): at most 15 bytes with at least one letter.
#[must_use]
pub fn port_name_errors(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 15 {
        errors.push("must be no more than 15 characters".into());
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".into());
    }
    if text.contains("--") {
        errors.push("must not contain consecutive hyphens".into());
    }
    if text.starts_with('-') || text.ends_with('-') {
        errors.push("must not begin or end with a hyphen".into());
    }
    errors
}

/// Returns the name for `generateName`: the base, cut where needed, and five random characters.
#[must_use]
pub fn generated_name(base: &str, random: &machinery::names::Random) -> String {
    let mut end = base.len().min(58);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{}", &base[..end], random.suffix(5))
}

fn too_long(text: &str, limit: usize) -> Vec<String> {
    if text.len() > limit { vec![format!("must be no more than {limit} bytes")] } else { Vec::new() }
}

fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_dns_label)
}

fn is_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let bytes = text.as_bytes();
    bytes.iter().copied().all(inner)
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_right_from_wrong() {
        let long = "a".repeat(64);
        for (check, right, wrong) in [
            (
                dns_label_errors as fn(&str) -> Vec<String>,
                vec!["a", "a-1", "1a"],
                vec!["", "A", "-a", "a-", "a.b", "a_b", &long],
            ),
            (dns_1035_label_errors, vec!["a", "a-1"], vec!["1a", "", "a-"]),
            (dns_subdomain_errors, vec!["a.b", "10.0.0.1", &long], vec!["a..b", ".a", "a_b", ""]),
            (
                qualified_name_errors,
                vec!["a", "A_b.c", "example.com/x"],
                vec!["", "/x", "a/b/c", "-a", "Example.com/x", "x/"],
            ),
            (label_value_errors, vec!["", "a", "A.b_c-1"], vec!["-a", "a b", &long]),
            (path_segment_errors, vec!["system:x", "a b"], vec![".", "a/b", "50%"]),
            (
                port_name_errors,
                vec!["http", "a-1"],
                vec!["80", "HTTP", "a--b", "-a", "a-very-long-name-x", ""],
            ),
        ] {
            for text in right {
                assert_eq!(check(text), Vec::<String>::new(), "{text}");
            }
            for text in wrong {
                assert_ne!(check(text), Vec::<String>::new(), "{text}");
            }
        }
    }

    #[test]
    fn a_generated_name_stays_within_a_label() {
        let random = machinery::names::Random::seeded(1);
        assert_eq!(generated_name("web-", &random).len(), 9);
        assert_eq!(generated_name(&"x".repeat(200), &random).len(), 63);
    }
}
