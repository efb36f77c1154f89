//! Field selectors: `spec.nodeName=10.0.0.1,status.phase!=Failed`.

use std::borrow::Cow;
use std::fmt;

/// One term of a field selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRequirement {
    /// The field's label, such as `metadata.name`.
    pub field: String,
    /// The value it is compared with.
    pub value: String,
    /// Whether it must be different instead of equal.
    pub negated: bool,
}

/// A field selector; without terms it matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// Reads the text of the query parameter `fieldSelector`.
    ///
    /// # Errors
    /// The text that upstream gives when a term has no operator or an escape is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = Vec::new();
        for term in split(text) {
            if term.is_empty() {
                continue;
            }
            let Some((field, value, negated)) = operator(term) else {
                return Err(format!("invalid selector: '{text}'; can't understand '{term}'"));
            };
            let value = unescape(value).map_err(|why| format!("invalid field selector: {why}: {term}"))?;
            requirements.push(FieldRequirement { field: field.to_owned(), value, negated });
        }
        Ok(Self { requirements })
    }

    /// Returns the terms.
    #[must_use]
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    /// Says whether everything matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Returns the value that `field` must have, when one term says so: what makes an index useful.
    #[must_use]
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.requirements
            .iter()
            .find(|requirement| requirement.field == field && !requirement.negated)
            .map(|requirement| requirement.value.as_str())
    }

    /// Says whether an object matches whose fields `read` returns; an unset field is empty.
    pub fn matches<'a>(&self, mut read: impl FnMut(&str) -> Option<Cow<'a, str>>) -> bool {
        self.requirements.iter().all(|requirement| {
            let found = read(&requirement.field).unwrap_or_default();
            (found == requirement.value.as_str()) != requirement.negated
        })
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            let operator = if requirement.negated { "!=" } else { "=" };
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{}{operator}{}", requirement.field, escape(&requirement.value))?;
        }
        Ok(())
    }
}

/// Splits at commas that no backslash stands before.
fn split(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (index, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn operator(term: &str) -> Option<(&str, &str, bool)> {
    let at = term.find('=')?;
    if let Some(field) = term[..at].strip_suffix('!') {
        return Some((field, &term[at + 1..], true));
    }
    let value = &term[at + 1..];
    Some((&term[..at], value.strip_prefix('=').unwrap_or(value), false))
}

fn unescape(value: &str) -> Result<String, String> {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => plain.push(c),
                Some(c) => return Err(format!("invalid escape sequence \\{c}")),
                None => return Err("unterminated escape sequence".into()),
            },
            '=' => return Err("unescaped =".into()),
            c => plain.push(c),
        }
    }
    Ok(plain)
}

fn escape(value: &str) -> Cow<'_, str> {
    if !value.contains(['\\', ',', '=']) {
        return Cow::Borrowed(value);
    }
    Cow::Owned(value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_read_and_written_alike() {
        for (text, written) in [
            ("", ""),
            ("a=b", "a=b"),
            ("a==b", "a=b"),
            ("a!=b,c=", "a!=b,c="),
            ("metadata.name=x\\,y", "metadata.name=x\\,y"),
        ] {
            assert_eq!(FieldSelector::parse(text).unwrap().to_string(), written, "{text}");
        }
        for text in ["a", "a<b", "a=b=c", "a=\\x"] {
            assert!(FieldSelector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_unset_field_is_empty() {
        let read = |field: &str| (field == "a").then_some(Cow::Borrowed("1"));
        for (text, expect) in
            [("a=1", true), ("a!=1", false), ("b=", true), ("b!=", false), ("a=1,b=2", false), ("", true)]
        {
            assert_eq!(FieldSelector::parse(text).unwrap().matches(read), expect, "{text}");
        }
    }
}
