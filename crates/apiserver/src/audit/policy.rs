//! The audit policy: how much of which request is written down.

use serde::Deserialize;

use crate::access::UserInfo;
use crate::path::RequestInfo;

/// How much of a request is written down; each level is all of the one before and more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    /// Nothing.
    None,
    /// Who, what, when and how it ended.
    Metadata,
    /// Also what was sent.
    Request,
    /// Also what was answered.
    RequestResponse,
}

/// A moment in the life of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Stage {
    /// It has come in.
    RequestReceived,
    /// The head of the answer is sent, its body goes on: watches and the like.
    ResponseStarted,
    /// It is answered.
    ResponseComplete,
    /// It ended in a defect of the server.
    Panic,
}

/// A policy of `audit.k8s.io/v1`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: serde_json::Value,
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<GroupResources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    paths: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GroupResources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// What is decided for one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decided {
    pub(crate) level: Level,
    omitted: Vec<Stage>,
    pub(crate) omit_managed_fields: bool,
}

impl Decided {
    pub(crate) fn wants(&self, stage: Stage) -> bool {
        self.level > Level::None && !self.omitted.contains(&stage)
    }
}

impl Policy {
    /// Reads a policy from YAML.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(yaml: &str) -> Result<Self, String> {
        let policy: Self =
            serde_yaml::from_str(yaml).map_err(|error| format!("reading the audit policy: {error}"))?;
        if policy.api_version != "audit.k8s.io/v1" || policy.kind != "Policy" {
            return Err(format!(
                "the audit policy is a {} of {}, not a Policy of audit.k8s.io/v1",
                policy.kind, policy.api_version
            ));
        }
        if policy.rules.is_empty() {
            return Err("the audit policy has no rules".into());
        }
        for (index, rule) in policy.rules.iter().enumerate() {
            if !rule.paths.is_empty() && (!rule.resources.is_empty() || !rule.namespaces.is_empty()) {
                return Err(format!(
                    "rules[{index}] of the audit policy names both nonResourceURLs and resources or namespaces"
                ));
            }
        }
        Ok(policy)
    }

    /// Decides by the first rule that fits; what fits none is not written down.
    pub(crate) fn decide(&self, user: &UserInfo, info: &RequestInfo) -> Decided {
        match self.rules.iter().find(|rule| rule.fits(user, info)) {
            None => Decided { level: Level::None, omitted: Vec::new(), omit_managed_fields: false },
            Some(rule) => Decided {
                level: rule.level,
                omitted: self.omit_stages.iter().chain(&rule.omit_stages).copied().collect(),
                omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
            },
        }
    }
}

impl Default for Policy {
    /// What is written down where nobody says otherwise: changes and reads of people with what they are about,
    /// but never the content of anything that may be secret.
    fn default() -> Self {
        Self::parse(include_str!("default.yaml"))
            .expect("the policy is a part of this program, and a test reads it")
    }
}

impl Rule {
    fn fits(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        let listed = |list: &[String], found: &str| list.is_empty() || list.iter().any(|one| one == found);
        if !listed(&self.users, &user.name) || !listed(&self.verbs, &info.verb) {
            return false;
        }
        if !self.user_groups.is_empty() && !self.user_groups.iter().any(|group| user.in_group(group)) {
            return false;
        }
        if self.resources.is_empty() && self.namespaces.is_empty() && self.paths.is_empty() {
            return true;
        }
        let Some(target) = &info.resource else {
            return self.paths.iter().any(|path| match path.strip_suffix('*') {
                Some(start) => info.path.starts_with(start),
                None => *path == info.path,
            });
        };
        if !self.paths.is_empty() || !listed(&self.namespaces, &target.namespace) {
            return false;
        }
        self.resources.is_empty()
            || self.resources.iter().any(|one| {
                one.group == target.group
                    && listed(&one.resource_names, &target.name)
                    && (one.resources.is_empty()
                        || one.resources.iter().any(|name| {
                            let (resource, subresource) = name.split_once('/').unwrap_or((name, ""));
                            let subresources = match subresource {
                                // `pods` is the resource alone, `*` everything.
                                "" => name == "*" || target.subresource.is_empty(),
                                "*" => !target.subresource.is_empty(),
                                subresource => subresource == target.subresource,
                            };
                            (resource == "*" || resource == target.resource) && subresources
                        }))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::Query;

    const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: ['system:kube-proxy']
  verbs: [watch]
  resources: [{group: '', resources: [endpoints, services]}]
- level: None
  nonResourceURLs: ['/healthz*', /version]
- level: Metadata
  resources: [{group: '', resources: [secrets, configmaps]}]
  omitManagedFields: true
- level: Request
  resources: [{group: '', resources: ['pods/log', 'nodes/*']}]
- level: RequestResponse
  userGroups: [people]
  namespaces: [prod]
- level: Metadata
  omitStages: [ResponseStarted]
";

    fn decide(policy: &Policy, request: &str, user: &UserInfo) -> Decided {
        let (method, uri) = request.split_once(' ').unwrap();
        let (path, query) = uri.split_once('?').map_or((uri, None), |(path, query)| (path, Some(query)));
        policy.decide(user, &RequestInfo::parse(&method.parse().unwrap(), path, &Query::parse(query)))
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy = Policy::parse(POLICY).unwrap();
        let proxy = UserInfo::new("system:kube-proxy", &[]);
        let person = UserInfo::new("a", &["people"]);
        for (request, user, expect) in [
            ("GET /api/v1/endpoints?watch=1", &proxy, Level::None),
            ("GET /api/v1/endpoints", &proxy, Level::Metadata),
            ("GET /healthz/x", &person, Level::None),
            ("GET /version", &person, Level::None),
            ("GET /versions", &person, Level::Metadata),
            ("POST /api/v1/namespaces/prod/secrets", &person, Level::Metadata),
            ("GET /api/v1/namespaces/x/pods/p/log", &proxy, Level::Request),
            ("GET /api/v1/namespaces/x/pods/p", &proxy, Level::Metadata),
            ("GET /api/v1/nodes/n/proxy/", &proxy, Level::Request),
            ("GET /api/v1/nodes/n", &proxy, Level::Metadata),
            ("POST /api/v1/namespaces/prod/pods", &person, Level::RequestResponse),
            ("POST /api/v1/namespaces/prod/pods", &proxy, Level::Metadata),
        ] {
            assert_eq!(decide(&policy, request, user).level, expect, "{request}");
        }
        let secrets = decide(&policy, "GET /api/v1/secrets", &person);
        assert!(secrets.omit_managed_fields && !secrets.wants(Stage::RequestReceived));
        assert!(secrets.wants(Stage::ResponseComplete));
        let other = decide(&policy, "GET /apis/apps/v1/deployments?watch=1", &proxy);
        assert!(!other.wants(Stage::ResponseStarted) && !other.wants(Stage::RequestReceived));
    }

    #[test]
    fn the_default_policy_never_writes_secrets_down() {
        let (policy, person) = (Policy::default(), UserInfo::new("a", &["system:masters"]));
        for request in [
            "POST /api/v1/namespaces/x/secrets",
            "PUT /api/v1/namespaces/x/configmaps/a",
            "POST /apis/authentication.k8s.io/v1/tokenreviews",
            "POST /api/v1/namespaces/x/serviceaccounts/a/token",
        ] {
            assert_eq!(decide(&policy, request, &person).level, Level::Metadata, "{request}");
        }
        assert_eq!(decide(&policy, "GET /readyz", &person).level, Level::None);
    }

    #[test]
    fn what_is_no_policy_is_refused() {
        for (text, expect) in [
            ("kind: Policy\napiVersion: v1\nrules: [{level: None}]", "not a Policy of audit.k8s.io/v1"),
            ("kind: Policy\napiVersion: audit.k8s.io/v1\nrules: []", "has no rules"),
            ("kind: Policy\napiVersion: audit.k8s.io/v1\nrules: [{level: All}]", "reading the audit policy"),
            (
                "kind: Policy\napiVersion: audit.k8s.io/v1\nrules: [{level: None, nonResourceURLs: [/x], namespaces: [a]}]",
                "rules[0]",
            ),
        ] {
            let error = Policy::parse(text).unwrap_err();
            assert!(error.contains(expect), "{error}");
        }
    }
}
