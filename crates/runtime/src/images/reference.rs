//! Names of images, as people write them and as they are meant.

use std::fmt;

use crate::{Error, Result};

/// The registry that a name without one means.
const DEFAULT_REGISTRY: &str = "docker.io";

/// An image name with nothing left out: `docker.io/library/nginx:latest`, or the same with `@sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// The registry, such as `docker.io` or `172.17.4.1:5000`.
    pub registry: String,
    /// The repository within it, such as `library/nginx`.
    pub repository: String,
    /// The tag, if the name has one; `latest` when it has neither tag nor digest.
    pub tag: Option<String>,
    /// The digest of the manifest, `sha256:…`, if the name has one.
    pub digest: Option<String>,
}

impl Reference {
    /// Reads a name the way every container tool does: `nginx` is `docker.io/library/nginx:latest`.
    ///
    /// # Errors
    /// [`Error::Invalid`] says what is wrong with the name.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |why: &str| {
            Err(Error::Invalid(format!(
                "couldn't parse image name {text:?}: {why}: invalid reference format"
            )))
        };
        if text.is_empty() {
            return invalid("it is empty");
        }
        let (name, digest) = match text.split_once('@') {
            None => (text, None),
            Some((name, digest)) if is_digest(digest) => (name, Some(digest.to_owned())),
            Some(_) => return invalid("the digest after @ must be sha256: and 64 hexadecimal digits"),
        };
        // A colon after the last slash starts the tag; one before it belongs to the registry's port.
        let slash = name.rfind('/').map_or(0, |at| at + 1);
        let (path, tag) = match name[slash..].split_once(':') {
            None => (name, None),
            Some((last, tag)) => (&name[..slash + last.len()], Some(tag)),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return invalid("the tag must be 1 to 128 letters, digits, '_', '.' or '-'");
        }
        let (registry, repository) = match path.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
                (first.to_owned(), rest.to_owned())
            }
            _ => (DEFAULT_REGISTRY.to_owned(), path.to_owned()),
        };
        let registry = match registry.as_str() {
            "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY.to_owned(),
            _ => registry,
        };
        if !is_registry(&registry) {
            return invalid("the registry is not a host name with an optional port");
        }
        let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository
        };
        if repository.chars().any(|letter| letter.is_ascii_uppercase()) {
            return invalid("repository name must be lowercase");
        }
        if repository.len() > 255 || !repository.split('/').all(is_path_component) {
            return invalid("the repository has a part that is empty or has a character that is not allowed");
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, None) => Some("latest".to_owned()),
            (None, Some(_)) => None,
        };
        Ok(Self { registry, repository, tag, digest })
    }

    /// Returns registry and repository: `docker.io/library/nginx`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Returns the name by tag, if it has one.
    #[must_use]
    pub fn tagged(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}:{tag}", self.name()))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match (&self.tag, &self.digest) {
            // With a digest the tag says nothing more.
            (_, Some(digest)) => write!(f, "@{digest}"),
            (Some(tag), None) => write!(f, ":{tag}"),
            (None, None) => Ok(()),
        }
    }
}

/// Tells whether `text` is `sha256:` and 64 lower-case hexadecimal digits.
pub(crate) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    })
}

fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || "_.-".contains(letter))
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        // An IPv6 address stands in brackets, so its colons are no port's.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let host_ok = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.split('.').all(|label| {
                    !label.is_empty()
                        && !label.starts_with('-')
                        && !label.ends_with('-')
                        && label.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-')
                })
        }
    };
    host_ok && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// Lower-case letters and digits, joined by `.`, `_`, `__` or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let alphanumeric = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    text.starts_with(alphanumeric)
        && text.ends_with(alphanumeric)
        && text.chars().all(|letter| alphanumeric(letter) || "._-".contains(letter))
        && text
            .split(alphanumeric)
            .all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.chars().all(|letter| letter == '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_the_way_every_container_tool_does() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let cases = [
            ("nginx", "docker.io/library/nginx:latest".to_owned()),
            ("nginx:1.27", "docker.io/library/nginx:1.27".to_owned()),
            ("bitnami/redis", "docker.io/bitnami/redis:latest".to_owned()),
            ("docker.io/nginx", "docker.io/library/nginx:latest".to_owned()),
            ("index.docker.io/library/nginx", "docker.io/library/nginx:latest".to_owned()),
            ("localhost/app", "localhost/app:latest".to_owned()),
            ("localhost:5000/app:v1", "localhost:5000/app:v1".to_owned()),
            ("registry.k8s.io/e2e/agnhost:2.47", "registry.k8s.io/e2e/agnhost:2.47".to_owned()),
            ("172.17.4.1:5000/a/b/c", "172.17.4.1:5000/a/b/c:latest".to_owned()),
            ("[::1]:5000/a", "[::1]:5000/a:latest".to_owned()),
            ("my-host.example/a--b__c.d", "my-host.example/a--b__c.d:latest".to_owned()),
            (&format!("nginx@{digest}"), format!("docker.io/library/nginx@{digest}")),
            (&format!("nginx:1@{digest}"), format!("docker.io/library/nginx@{digest}")),
        ];
        for (text, expect) in cases {
            assert_eq!(Reference::parse(text).unwrap().to_string(), expect, "{text}");
        }
    }

    #[test]
    fn a_bad_name_is_refused() {
        for text in [
            "",
            "Nginx",
            "nginx:",
            "nginx:-1",
            "a//b",
            "nginx@sha256:12",
            "/nginx",
            "nginx/",
            "a..b",
            "a/-b",
            "host:port/x",
            "nginx:la test",
            "ex_ample.com/x",
            "nginx@",
            "a___b",
        ] {
            let error = Reference::parse(text).unwrap_err().to_string();
            assert!(error.contains("invalid reference format"), "{text}: {error}");
        }
    }
}
