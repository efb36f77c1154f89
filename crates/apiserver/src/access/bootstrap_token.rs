//! Tokens that are no service account's: bootstrap tokens, which are secrets in `kube-system`, and those of a
//! static list.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use super::{Lookup, UserInfo, text};

/// The group of everybody who came with a bootstrap token.
const BOOTSTRAPPERS: &str = "system:bootstrappers";

/// Tokens that the server was started with.
#[derive(Clone, Default)]
pub struct StaticTokens(HashMap<String, Arc<UserInfo>>);

impl std::fmt::Debug for StaticTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StaticTokens({})", self.0.len())
    }
}

impl StaticTokens {
    /// Reads a token file as upstream has it: lines of `token,user,uid` and, in quotes, groups with commas between.
    ///
    /// # Errors
    /// The number of a line that is no such line; never what is in it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let fields = fields(line);
            let [token, name, uid, rest @ ..] = fields.as_slice() else {
                return Err(format!(
                    "line {} of the token file must have at least 3 columns (token, user name, user uid)",
                    index + 1
                ));
            };
            if token.is_empty() || name.is_empty() {
                return Err(format!("line {} of the token file has an empty token or user name", index + 1));
            }
            let groups: Vec<&str> = rest
                .first()
                .map(|groups| groups.split(',').map(str::trim).filter(|group| !group.is_empty()).collect())
                .unwrap_or_default();
            let mut user = UserInfo::new(name.clone(), &groups);
            user.uid.clone_from(uid);
            tokens.insert(token.clone(), Arc::new(user));
        }
        Ok(Self(tokens))
    }

    pub(super) fn find(&self, token: &str) -> Option<Arc<UserInfo>> {
        // Every token is compared in constant time: how long it takes must not say how much is right.
        let mut found = None;
        for (known, user) in &self.0 {
            if same(known.as_bytes(), token.as_bytes()) {
                found = Some(user.clone());
            }
        }
        found
    }
}

/// Takes a line of comma-separated values apart; a value may stand in quotes.
fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut current, mut quoted) = (Vec::new(), String::new(), false);
    for letter in line.chars() {
        match letter {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut current).trim().to_owned()),
            letter => current.push(letter),
        }
    }
    fields.push(current.trim().to_owned());
    fields
}

/// Compares without saying by its time where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// Returns the user of a bootstrap token, if it is a good one.
pub(super) fn bootstrap(token: &str, lookup: &dyn Lookup, now: Timestamp) -> Option<UserInfo> {
    let (id, secret) = token.split_once('.')?;
    let is = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    if !is(id, 6) || !is(secret, 16) {
        return None;
    }
    let object = lookup.lookup("secrets", "kube-system", &format!("bootstrap-token-{id}"))?;
    if text(&object, "/type") != "bootstrap.kubernetes.io/token" || api::meta::is_deleting(&object) {
        return None;
    }
    let data = |key: &str| -> String {
        let encoded = object["data"].get(key).and_then(Value::as_str).unwrap_or_default();
        STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
    };
    if data("token-id") != id || !same(data("token-secret").as_bytes(), secret.as_bytes()) {
        return None;
    }
    let expiration = data("expiration");
    let expired = match expiration.as_str() {
        "" => false,
        time => time.parse::<Timestamp>().map_or(true, |end| end <= now),
    };
    if expired || data("usage-bootstrap-authentication") != "true" {
        return None;
    }
    let mut groups = vec![BOOTSTRAPPERS.to_owned()];
    for group in data("auth-extra-groups").split(',').map(str::trim).filter(|group| !group.is_empty()) {
        let rest = group.strip_prefix(BOOTSTRAPPERS).and_then(|rest| rest.strip_prefix(':'));
        let good = rest.is_some_and(|rest| {
            (1..=256).contains(&rest.len())
                && rest.bytes().all(|byte| {
                    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b':' || byte == b'-'
                })
                && rest.ends_with(|last: char| last.is_ascii_alphanumeric())
        });
        if !good {
            return None;
        }
        groups.push(group.to_owned());
    }
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    Some(UserInfo::new(format!("system:bootstrap:{id}"), &groups))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct One(Value);

    impl Lookup for One {
        fn lookup(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
            let wanted = (resource, namespace, name) == ("secrets", "kube-system", "bootstrap-token-abcdef");
            wanted.then(|| Arc::new(self.0.clone()))
        }

        fn list(&self, _: &str, _: &str) -> Vec<Arc<Value>> {
            Vec::new()
        }
    }

    #[test]
    fn bootstrap_tokens_are_good_while_their_secret_says_so() {
        let secret = |changes: &[(&str, &str)]| {
            let mut data = json!({});
            for (key, value) in [
                ("token-id", "abcdef"),
                ("token-secret", "0123456789abcdef"),
                ("usage-bootstrap-authentication", "true"),
                ("auth-extra-groups", "system:bootstrappers:workers"),
            ]
            .iter()
            .chain(changes)
            {
                data[*key] = STANDARD.encode(value).into();
            }
            One(json!({"type": "bootstrap.kubernetes.io/token", "data": data}))
        };
        let ask = |token: &str, secret: &One| {
            bootstrap(token, secret, "2026-01-01T00:00:00Z".parse().unwrap()).map(|user| user.name)
        };
        let (good, name) = ("abcdef.0123456789abcdef", Some("system:bootstrap:abcdef".to_owned()));
        for (token, secret, expect) in [
            (good, secret(&[]), name.clone()),
            (good, secret(&[("expiration", "2027-01-01T00:00:00Z")]), name),
            (good, secret(&[("expiration", "2025-01-01T00:00:00Z")]), None),
            (good, secret(&[("usage-bootstrap-authentication", "false")]), None),
            (good, secret(&[("auth-extra-groups", "system:masters")]), None),
            ("abcdef.0123456789abcdee", secret(&[]), None),
            ("abcdeg.0123456789abcdef", secret(&[]), None),
            ("abcdef", secret(&[]), None),
        ] {
            assert_eq!(ask(token, &secret), expect, "{token}");
        }
        let user = bootstrap(good, &secret(&[]), Timestamp::UNIX_EPOCH).unwrap();
        assert!(user.in_group("system:bootstrappers") && user.in_group("system:bootstrappers:workers"));
    }

    #[test]
    fn a_token_file_is_read_as_upstreams() {
        let tokens = StaticTokens::parse("# people\nt1,alice,1,\"g1,g2\"\nt2,bob,2\n").unwrap();
        let alice = tokens.find("t1").unwrap();
        assert_eq!((alice.name.as_str(), alice.uid.as_str()), ("alice", "1"));
        assert!(alice.in_group("g1") && alice.in_group("g2") && alice.in_group("system:authenticated"));
        assert!(tokens.find("t2").is_some() && tokens.find("t3").is_none());
        let error = StaticTokens::parse("t1,alice,1\nsecret-token,bob").unwrap_err();
        assert!(error.contains("line 2") && !error.contains("secret-token"), "{error}");
    }
}
