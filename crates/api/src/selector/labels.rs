//! Label selectors.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

use crate::field::quote;
use crate::meta::{label_value_errors, qualified_name_errors};

/// Something that has labels.
pub trait Labels {
    /// Returns the value of a label.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl Labels for Map<String, Value> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

impl Labels for Value {
    /// Reads a map of labels (not an object that has labels in its metadata); anything else has none.
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Self::as_str)
    }
}

impl<K: AsRef<str>, V: AsRef<str>> Labels for [(K, V)] {
    fn label(&self, key: &str) -> Option<&str> {
        self.iter().find(|(known, _)| known.as_ref() == key).map(|(_, value)| value.as_ref())
    }
}

impl<T: Labels + ?Sized> Labels for &T {
    fn label(&self, key: &str) -> Option<&str> {
        (**self).label(key)
    }
}

impl<T: Labels> Labels for Option<T> {
    fn label(&self, key: &str) -> Option<&str> {
        self.as_ref().and_then(|labels| labels.label(key))
    }
}

/// How a label is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// It is one of the values.
    In,
    /// It is none of the values, or not there.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
    /// It is a number greater than the value.
    GreaterThan,
    /// It is a number less than the value.
    LessThan,
}

/// One term of a label selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// How it is compared.
    pub operator: Operator,
    /// What it is compared with; sorted. Empty for the operators that need none.
    pub values: Vec<String>,
}

impl Requirement {
    fn matches(&self, labels: &dyn Labels) -> bool {
        let found = labels.label(&self.key);
        match self.operator {
            Operator::In => found.is_some_and(|found| self.values.iter().any(|value| value == found)),
            Operator::NotIn => found.is_none_or(|found| self.values.iter().all(|value| value != found)),
            Operator::Exists => found.is_some(),
            Operator::DoesNotExist => found.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let wanted = self.values.first().and_then(|value| value.parse::<i64>().ok());
                match (found.and_then(|found| found.parse::<i64>().ok()), wanted) {
                    (Some(found), Some(wanted)) if self.operator == Operator::GreaterThan => found > wanted,
                    (Some(found), Some(wanted)) => found < wanted,
                    _ => false,
                }
            }
        }
    }
}

/// A label selector: all of its terms must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// `None` matches nothing.
    requirements: Option<Vec<Requirement>>,
}

impl Default for Selector {
    fn default() -> Self {
        Self::everything()
    }
}

impl Selector {
    /// Returns the selector that matches every object.
    #[must_use]
    pub fn everything() -> Self {
        Self { requirements: Some(Vec::new()) }
    }

    /// Returns the selector that matches no object.
    #[must_use]
    pub fn nothing() -> Self {
        Self { requirements: None }
    }

    /// Reads the text of the query parameter `labelSelector`.
    ///
    /// # Errors
    /// The text that upstream gives for what cannot be understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = Parser::new(text).parse()?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements: Some(requirements) })
    }

    /// Reads a map of labels that must all be equal, as in a service's or replication controller's
    /// `spec.selector`. An empty or absent map matches nothing.
    #[must_use]
    pub fn from_map(map: &Value) -> Self {
        let Some(map) = map.as_object().filter(|map| !map.is_empty()) else { return Self::nothing() };
        let mut requirements: Vec<Requirement> = map.iter().map(|(key, value)| equal(key, value)).collect();
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements: Some(requirements) }
    }

    /// Reads a `LabelSelector` object (`matchLabels`, `matchExpressions`). Null matches nothing, an empty
    /// object everything.
    ///
    /// # Errors
    /// An unknown operator, named.
    pub fn from_object(selector: &Value) -> Result<Self, String> {
        let Some(map) = selector.as_object() else { return Ok(Self::nothing()) };
        let mut requirements: Vec<Requirement> = map
            .get("matchLabels")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(key, value)| equal(key, value))
            .collect();
        for expression in map.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let operator = expression["operator"].as_str().unwrap_or_default();
            let operator = match operator {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("{} is not a valid label selector operator", quote(other))),
            };
            let values = expression["values"].as_array().into_iter().flatten();
            let mut values: Vec<String> = values.filter_map(Value::as_str).map(str::to_owned).collect();
            values.sort_unstable();
            let key = expression["key"].as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement { key, operator, values });
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements: Some(requirements) })
    }

    /// Returns the terms; none for [`Selector::nothing`] as well as for [`Selector::everything`].
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        self.requirements.as_deref().unwrap_or_default()
    }

    /// Says whether every object matches.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.requirements.as_ref().is_some_and(Vec::is_empty)
    }

    /// Says whether labels match.
    pub fn matches(&self, labels: impl Labels) -> bool {
        self.requirements.as_ref().is_some_and(|all| all.iter().all(|one| one.matches(&labels)))
    }
}

fn equal(key: &str, value: &Value) -> Requirement {
    Requirement {
        key: key.to_owned(),
        operator: Operator::In,
        values: vec![value.as_str().unwrap_or_default().to_owned()],
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements().iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            let (key, values) = (&requirement.key, &requirement.values);
            match (requirement.operator, values.len()) {
                (Operator::In, 1) => write!(f, "{key}={}", values[0])?,
                (Operator::NotIn, 1) => write!(f, "{key}!={}", values[0])?,
                (Operator::In, _) => write!(f, "{key} in ({})", values.join(","))?,
                (Operator::NotIn, _) => write!(f, "{key} notin ({})", values.join(","))?,
                (Operator::Exists, _) => write!(f, "{key}")?,
                (Operator::DoesNotExist, _) => write!(f, "!{key}")?,
                (Operator::GreaterThan, _) => write!(f, "{key}>{}", values.join(","))?,
                (Operator::LessThan, _) => write!(f, "{key}<{}", values.join(","))?,
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Open,
    Close,
    Comma,
    Not,
    Equals,
    NotEquals,
    Greater,
    Less,
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Word(word) => word,
            Self::Open => "(",
            Self::Close => ")",
            Self::Comma => ",",
            Self::Not => "!",
            Self::Equals => "=",
            Self::NotEquals => "!=",
            Self::Greater => ">",
            Self::Less => "<",
            Self::End => "",
        })
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn new(text: &str) -> Self {
        Self { tokens: tokens(text), at: 0 }
    }

    fn peek(&self) -> &Token {
        self.tokens.get(self.at).unwrap_or(&Token::End)
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn parse(&mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        if *self.peek() == Token::End {
            return Ok(requirements);
        }
        loop {
            requirements
                .push(self.requirement().map_err(|why| format!("unable to parse requirement: {why}"))?);
            match self.next() {
                Token::End => return Ok(requirements),
                Token::Comma => {
                    if !matches!(self.peek(), Token::Word(_) | Token::Not) {
                        let found = self.peek();
                        return Err(format!("found '{found}', expected: identifier after ','"));
                    }
                }
                other => return Err(format!("found '{other}', expected: ',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let negated = *self.peek() == Token::Not;
        if negated {
            self.at += 1;
        }
        let key = match self.next() {
            Token::Word(key) => key,
            other => return Err(format!("found '{other}', expected: identifier")),
        };
        check(&key, "key", &qualified_name_errors(&key))?;
        if negated {
            return Ok(Requirement { key, operator: Operator::DoesNotExist, values: Vec::new() });
        }
        let operator = match self.peek() {
            Token::End | Token::Comma => {
                return Ok(Requirement { key, operator: Operator::Exists, values: Vec::new() });
            }
            Token::Equals => Operator::In,
            Token::NotEquals => Operator::NotIn,
            Token::Greater => Operator::GreaterThan,
            Token::Less => Operator::LessThan,
            Token::Word(word) if word == "in" => Operator::In,
            Token::Word(word) if word == "notin" => Operator::NotIn,
            other => {
                return Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt"));
            }
        };
        let set = matches!(self.next(), Token::Word(_));
        let mut values = if set { self.set()? } else { vec![self.exact()] };
        for value in &values {
            check(value, "value", &label_value_errors(value))?;
            if matches!(operator, Operator::GreaterThan | Operator::LessThan) && value.parse::<i64>().is_err()
            {
                return Err(format!(
                    "values[0]: Invalid value: {}: for 'Gt', 'Lt' operators, the value must be an integer",
                    quote(value)
                ));
            }
        }
        values.sort_unstable();
        values.dedup();
        Ok(Requirement { key, operator, values })
    }

    /// Reads one value; nothing there is the empty one.
    fn exact(&mut self) -> String {
        match self.peek() {
            Token::Word(word) => {
                let word = word.clone();
                self.at += 1;
                word
            }
            _ => String::new(),
        }
    }

    fn set(&mut self) -> Result<Vec<String>, String> {
        match self.next() {
            Token::Open => {}
            other => return Err(format!("found '{other}' expected: '('")),
        }
        let mut values = Vec::new();
        loop {
            values.push(self.exact());
            match self.next() {
                Token::Comma => {}
                Token::Close => return Ok(values),
                other => return Err(format!("found '{other}', expected: ',' or ')'")),
            }
        }
    }
}

fn check(text: &str, field: &str, errors: &[String]) -> Result<(), String> {
    match errors {
        [] => Ok(()),
        errors => Err(format!("{field}: Invalid value: {}: {}", quote(text), errors.join("; "))),
    }
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        tokens.push(match c {
            c if c.is_whitespace() => continue,
            '(' => Token::Open,
            ')' => Token::Close,
            ',' => Token::Comma,
            '>' => Token::Greater,
            '<' => Token::Less,
            '=' => {
                chars.next_if_eq(&'=');
                Token::Equals
            }
            '!' if chars.next_if_eq(&'=').is_some() => Token::NotEquals,
            '!' => Token::Not,
            c => {
                let mut word = String::from(c);
                while let Some(c) = chars
                    .next_if(|c| !c.is_whitespace() && !matches!(c, '(' | ')' | ',' | '>' | '<' | '=' | '!'))
                {
                    word.push(c);
                }
                Token::Word(word)
            }
        });
    }
    tokens
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_are_read_and_written_in_canonical_form() {
        for (text, written) in [
            ("", ""),
            ("a=b", "a=b"),
            ("a == b", "a=b"),
            ("b!=c,a=b", "a=b,b!=c"),
            ("x in (b,a)", "x in (a,b)"),
            ("x in (a)", "x=a"),
            ("x notin (a, b)", "x notin (a,b)"),
            ("x", "x"),
            ("!x", "!x"),
            ("x,!y", "x,!y"),
            ("n>5", "n>5"),
            ("a=", "a="),
            ("app.kubernetes.io/name in (x,)", "app.kubernetes.io/name in (,x)"),
        ] {
            assert_eq!(Selector::parse(text).unwrap().to_string(), written, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        for (text, says) in [
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("x in a", "unable to parse requirement: found 'a' expected: '('"),
            ("a=b,", "found '', expected: identifier after ','"),
            (
                "n>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
            ("=a", "unable to parse requirement: found '=', expected: identifier"),
        ] {
            assert_eq!(Selector::parse(text).unwrap_err(), says, "{text}");
        }
        assert!(Selector::parse("-a=b").unwrap_err().contains("key: Invalid value: \"-a\""));
    }

    #[test]
    fn terms_select_by_labels() {
        let labels = json!({"app": "web", "n": "7"});
        for (text, expect) in [
            ("", true),
            ("app=web", true),
            ("app!=web", false),
            ("zone!=a", true),
            ("zone notin (a,b)", true),
            ("zone in (a,b)", false),
            ("app in (web,db)", true),
            ("app", true),
            ("!app", false),
            ("!zone", true),
            ("n>6", true),
            ("n<6", false),
            ("app>6", false),
        ] {
            assert_eq!(Selector::parse(text).unwrap().matches(&labels), expect, "{text}");
        }
    }

    #[test]
    fn an_absent_selector_matches_nothing_and_an_empty_one_everything() {
        assert!(!Selector::from_object(&Value::Null).unwrap().matches(json!({"a": "b"})));
        assert!(Selector::from_object(&json!({})).unwrap().matches(&Value::Null));
        assert!(!Selector::from_map(&json!({})).matches(json!({"a": "b"})));
        let selector =
            json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "Exists"}]});
        let selector = Selector::from_object(&selector).unwrap();
        assert_eq!(selector.to_string(), "a=b,c");
        assert!(
            Selector::from_object(&json!({"matchExpressions": [{"key": "c", "operator": "Is"}]})).is_err()
        );
    }
}
