//! What a request asks for, read from its method, path and query alone.

use percent_encoding::percent_decode_str;

/// A request as authorization, admission and the handlers see it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestInfo {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, `proxy`;
    /// for paths that are no resource the method in lower case.
    pub verb: String,
    /// The path, percent-decoded.
    pub path: String,
    /// What resource is asked for; `None` for paths such as `/version`.
    pub resource: Option<Target>,
}

/// The resource that a request is about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
    /// The API group; empty for the core group.
    pub group: String,
    /// The API version.
    pub version: String,
    /// The namespace; empty when none is named. For `namespaces/NAME` it is NAME, as upstream has it.
    pub namespace: String,
    /// The plural resource.
    pub resource: String,
    /// The object's name; empty for collections.
    pub name: String,
    /// The subresource; empty for the object itself.
    pub subresource: String,
    /// For proxies: the path after the subresource, with its leading slash if it had one.
    pub rest: String,
}

/// Resources whose remaining path belongs to the server behind.
const PROXIES: [&str; 3] = ["pods", "services", "nodes"];
/// What may follow `/namespaces/NAME` without being a resource in that namespace.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl RequestInfo {
    /// Reads a request. Never fails: a path that is no resource has no [`Target`].
    #[must_use]
    pub fn parse(method: &http::Method, path: &str, query: &Query) -> Self {
        let decoded = decode(path);
        let resource = target(path);
        let Some((mut target, prefix)) = resource else {
            return Self { verb: method.as_str().to_ascii_lowercase(), path: decoded, resource: None };
        };
        let verb = match (method.as_str(), prefix) {
            (_, Prefix::Watch) => "watch",
            (_, Prefix::Proxy) => "proxy",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", _) if target.name.is_empty() => "deletecollection",
            ("DELETE", _) => "delete",
            ("GET" | "HEAD", _) if !target.name.is_empty() && !query.is_set("watch") => "get",
            ("GET" | "HEAD", _) if query.is_set("watch") && target.subresource.is_empty() => "watch",
            ("GET" | "HEAD", _) if !target.name.is_empty() => "get",
            ("GET" | "HEAD", _) => "list",
            _ => "",
        };
        if matches!(prefix, Prefix::Proxy) {
            target.subresource = "proxy".into();
        }
        Self { verb: verb.into(), path: decoded, resource: Some(target) }
    }

    /// Whether the request changes nothing.
    #[must_use]
    pub fn is_read(&self) -> bool {
        matches!(self.verb.as_str(), "get" | "list" | "watch" | "head" | "options")
    }
}

#[derive(Debug, Clone, Copy)]
enum Prefix {
    None,
    Watch,
    Proxy,
}

/// Takes `/api/v1/…` and `/apis/GROUP/VERSION/…` apart.
fn target(path: &str) -> Option<(Target, Prefix)> {
    let trimmed = path.strip_prefix('/')?;
    let mut parts = trimmed.split('/').filter(|part| !part.is_empty());
    let group = match parts.next()? {
        "api" => String::new(),
        "apis" => decode(parts.next()?),
        _ => return None,
    };
    let version = decode(parts.next()?);
    let mut parts = parts.peekable();
    let prefix = match *parts.peek()? {
        "watch" => Prefix::Watch,
        "proxy" => Prefix::Proxy,
        _ => Prefix::None,
    };
    if !matches!(prefix, Prefix::None) {
        parts.next();
    }
    let mut target = Target { group, version, ..Target::default() };
    let mut segments: Vec<&str> = parts.collect();
    if segments.first() == Some(&"namespaces") && segments.len() > 1 {
        target.namespace = decode(segments[1]);
        if segments.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&segments[2]) {
            segments.drain(..2);
        }
    }
    let mut segments = segments.into_iter();
    target.resource = decode(segments.next()?);
    target.name = segments.next().map(decode).unwrap_or_default();
    if matches!(prefix, Prefix::None) {
        target.subresource = segments.next().map(decode).unwrap_or_default();
    }
    if PROXIES.contains(&target.resource.as_str())
        && (target.subresource == "proxy" || matches!(prefix, Prefix::Proxy))
    {
        target.rest = rest_of(path, &target.name, matches!(prefix, Prefix::Proxy));
    } else if segments.next().is_some() {
        return None;
    }
    Some((target, prefix))
}

/// Returns what stands after the subresource, byte for byte: the server behind decodes it itself.
fn rest_of(path: &str, name: &str, legacy: bool) -> String {
    let mut rest = path;
    let mut seen_name = false;
    while let Some((segment, after)) = rest.trim_start_matches('/').split_once('/') {
        rest = after;
        if seen_name || (legacy && decode(segment) == name) {
            if legacy || segment == "proxy" {
                return format!("/{rest}");
            }
        } else if decode(segment) == name {
            seen_name = true;
        }
    }
    String::new()
}

fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// A query string's parameters in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses a query string, leniently, as browsers and Go do.
    #[must_use]
    pub fn parse(query: Option<&str>) -> Self {
        Self(
            url::form_urlencoded::parse(query.unwrap_or_default().as_bytes())
                .map(|(key, value)| (key.into_owned(), value.into_owned()))
                .collect(),
        )
    }

    /// Returns the first value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Returns every value of `key`.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Whether `key` is given as a true boolean; an empty value counts as true.
    #[must_use]
    pub fn is_set(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| !matches!(value, "0" | "false" | "False" | "FALSE" | "f" | "F"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(method: &str, uri: &str) -> RequestInfo {
        let (path, query) = uri.split_once('?').map_or((uri, None), |(path, query)| (path, Some(query)));
        RequestInfo::parse(&method.parse().unwrap(), path, &Query::parse(query))
    }

    #[test]
    fn paths_are_taken_apart_as_upstream_does() {
        // Verb, group, version, namespace, resource, name, subresource, rest.
        let cases = [
            ("GET /api/v1/pods", "list||v1||pods|||"),
            ("GET /api/v1/namespaces", "list||v1||namespaces|||"),
            ("GET /api/v1/namespaces/a", "get||v1|a|namespaces|a||"),
            ("PUT /api/v1/namespaces/a/finalize", "update||v1|a|namespaces|a|finalize|"),
            ("GET /api/v1/namespaces/a/pods", "list||v1|a|pods|||"),
            ("GET /api/v1/namespaces/a/pods?watch=true", "watch||v1|a|pods|||"),
            ("GET /api/v1/watch/namespaces/a/pods/b", "watch||v1|a|pods|b||"),
            ("DELETE /api/v1/namespaces/a/pods", "deletecollection||v1|a|pods|||"),
            ("POST /api/v1/namespaces/a/pods/b/exec", "create||v1|a|pods|b|exec|"),
            ("PATCH /apis/apps/v1/namespaces/a/deployments/b", "patch|apps|v1|a|deployments|b||"),
            ("GET /api/v1/nodes/n/proxy/stats/a%2Fb", "get||v1||nodes|n|proxy|/stats/a%2Fb"),
            ("GET /api/v1/namespaces/a/services/https:x:p/proxy/", "get||v1|a|services|https:x:p|proxy|/"),
            ("GET /api/v1/namespaces/a/services/x/proxy", "get||v1|a|services|x|proxy|"),
            ("GET /api/v1/proxy/namespaces/a/services/x/y", "proxy||v1|a|services|x|proxy|/y"),
        ];
        for (request, expect) in cases {
            let (method, uri) = request.split_once(' ').unwrap();
            let info = info(method, uri);
            let t = info.resource.unwrap();
            let got = [info.verb, t.group, t.version, t.namespace, t.resource, t.name, t.subresource, t.rest];
            assert_eq!(got.join("|"), expect, "{request}");
        }
    }

    #[test]
    fn other_paths_have_their_method_as_verb() {
        for path in ["/version", "/api", "/apis/apps", "/apis/apps/v1", "/openapi/v2", "/"] {
            let info = info("GET", path);
            assert_eq!((info.verb.as_str(), info.resource), ("get", None), "{path}");
        }
    }
}
