//! Which requests a webhook or a policy is for: rules, scopes, selectors, as tables that know nothing of HTTP.

use std::sync::Arc;

use api::registry::{Kind, Registry};
use api::selector::Selector;
use api::status::{Resource, Status};
use serde_json::{Map, Value};

use super::review::Shown;
use crate::access::{list, strings, text};
use crate::admission::{GroupVersionKind, Operation, Request, World};
use crate::convert::Converter;

/// The kinds that decide on admission. Nothing that is asked about them may be asked by them.
const EXEMPT: [&str; 6] = [
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
    "mutatingwebhookconfigurations",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "validatingwebhookconfigurations",
];

/// Says whether webhooks and policies must keep out of a request: it is about one of them.
pub(crate) fn is_exempt(request: &Request<'_>) -> bool {
    request.group == "admissionregistration.k8s.io" && EXEMPT.contains(&request.resource)
}

/// A group, a version and a resource, as rules are matched against them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Named<'a> {
    /// The API group.
    pub(crate) group: &'a str,
    /// The version.
    pub(crate) version: &'a str,
    /// The plural.
    pub(crate) resource: &'a str,
}

/// One rule of a webhook or a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    operations: Vec<String>,
    /// Empty for any object; policies may name some.
    names: Vec<String>,
    scope: String,
}

impl Rule {
    /// Reads the rules of a list.
    pub(crate) fn read_all(rules: &[Value]) -> Vec<Self> {
        rules.iter().map(Self::read).collect()
    }

    fn read(rule: &Value) -> Self {
        Self {
            groups: strings(rule, "/apiGroups"),
            versions: strings(rule, "/apiVersions"),
            resources: strings(rule, "/resources"),
            operations: strings(rule, "/operations"),
            names: strings(rule, "/resourceNames"),
            scope: text(rule, "/scope").to_owned(),
        }
    }

    /// Says whether the rule is for `request`, taken as one of the resource `named`.
    pub(crate) fn matches(&self, request: &Request<'_>, named: Named<'_>) -> bool {
        let any = |list: &[String], wanted: &str| list.iter().any(|one| one == "*" || one == wanted);
        let namespaced = !request.namespace.is_empty() && !is_namespace(request);
        let scope = match self.scope.as_str() {
            "Namespaced" => namespaced,
            "Cluster" => !namespaced,
            _ => true,
        };
        scope
            && any(&self.operations, request.operation.as_str())
            && any(&self.groups, named.group)
            && any(&self.versions, named.version)
            && self.resources.iter().any(|resource| {
                let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                (resource == "*" || resource == named.resource)
                    && (subresource == "*" || subresource == request.subresource)
            })
            && (self.names.is_empty() || self.names.iter().any(|name| name == request.name))
    }
}

/// Which requests are meant.
#[derive(Debug, Clone)]
pub(crate) struct Matching {
    pub(crate) rules: Vec<Rule>,
    pub(crate) excluded: Vec<Rule>,
    /// There are no rules because there need be none: a binding takes what its policy takes.
    any_rule: bool,
    /// Also match a request for the same objects under another group or version.
    pub(crate) equivalent: bool,
    pub(crate) namespaces: Selector,
    pub(crate) objects: Selector,
}

impl Matching {
    /// Reads what stands in a webhook.
    ///
    /// # Errors
    /// When a selector cannot be read, which validation has seen to.
    pub(crate) fn of_webhook(webhook: &Value) -> Result<Self, String> {
        Self::read(webhook, "/rules", "/none")
    }

    /// Reads the `matchResources` or `matchConstraints` of a policy or a binding. Without rules everything is
    /// meant.
    ///
    /// # Errors
    /// As for webhooks.
    pub(crate) fn of_policy(resources: &Value) -> Result<Self, String> {
        let read = Self::read(resources, "/resourceRules", "/excludeResourceRules")?;
        Ok(Self { any_rule: read.rules.is_empty(), ..read })
    }

    fn read(value: &Value, rules: &str, excluded: &str) -> Result<Self, String> {
        let selector = |key: &str| match value.get(key) {
            None | Some(Value::Null) => Ok(Selector::everything()),
            Some(selector) => Selector::from_object(selector),
        };
        Ok(Self {
            rules: Rule::read_all(list(value, rules)),
            excluded: Rule::read_all(list(value, excluded)),
            any_rule: false,
            equivalent: text(value, "/matchPolicy") != "Exact",
            namespaces: selector("namespaceSelector")?,
            objects: selector("objectSelector")?,
        })
    }

    /// Returns as what `request` is meant: its own kind, or an equivalent one; `None` when it is not.
    ///
    /// # Errors
    /// 404 when the namespace whose labels decide does not exist.
    pub(crate) fn find<'a>(
        &self,
        request: &Request<'_>,
        world: &dyn World,
        registry: &'a Registry,
    ) -> Result<Option<As<'a>>, Status> {
        let own = request.named();
        let named = |kind: &'a Arc<Kind>| Named {
            group: &kind.group,
            version: &kind.version,
            resource: &kind.plural,
        };
        let equivalents: Vec<&Arc<Kind>> =
            if self.equivalent { equivalents(registry, own).collect() } else { Vec::new() };
        let hit = |rules: &[Rule]| {
            rules.iter().find_map(|rule| {
                if rule.matches(request, own) {
                    return Some(As::Itself);
                }
                equivalents.iter().find(|kind| rule.matches(request, named(kind))).map(|kind| As::Other(kind))
            })
        };
        if !self.objects.is_everything() && !selects(&self.objects, request) {
            return Ok(None);
        }
        // A rule that names the resource itself comes before one that names an equivalent.
        let exact = self.any_rule || self.rules.iter().any(|rule| rule.matches(request, own));
        let exact = exact.then_some(As::Itself);
        let Some(found) = exact.or_else(|| hit(&self.rules)) else { return Ok(None) };
        if hit(&self.excluded).is_some() {
            return Ok(None);
        }
        if self.namespaces.is_everything() || self.in_namespace(request, world)? {
            return Ok(Some(found));
        }
        Ok(None)
    }

    fn in_namespace(&self, request: &Request<'_>, world: &dyn World) -> Result<bool, Status> {
        let written = matches!(request.operation, Operation::Create | Operation::Update);
        if is_namespace(request) && written && request.subresource.is_empty() {
            return Ok(self.namespaces.matches(labels(request.object)));
        }
        let name = if is_namespace(request) { request.name } else { request.namespace };
        if name.is_empty() {
            return Ok(true);
        }
        let namespace = world
            .lookup("namespaces", "", name)
            .ok_or_else(|| Status::not_found(Resource { group: "", name: "namespaces" }, name))?;
        Ok(self.namespaces.matches(labels(&namespace)))
    }
}

/// As what a request matched.
#[derive(Debug, Clone)]
pub(crate) enum As<'a> {
    /// The resource of the request.
    Itself,
    /// The same objects under another group or version.
    Other(&'a Arc<Kind>),
}

/// A kind and the request's objects in it.
pub(crate) struct Converted {
    pub(crate) kind: Arc<Kind>,
    pub(crate) object: Value,
    pub(crate) old: Option<Value>,
}

impl Converted {
    /// Returns the request as one of this kind.
    pub(crate) fn shown(&self) -> Shown<'_> {
        let kind = &self.kind;
        Shown {
            kind: GroupVersionKind { group: &kind.group, version: &kind.version, kind: &kind.kind },
            group: &kind.group,
            version: &kind.version,
            resource: &kind.plural,
            object: &self.object,
            old: self.old.as_ref(),
        }
    }
}

/// Returns the request's objects as `found` says, unless that is as they are.
///
/// # Errors
/// When the webhook that converts them fails.
pub(crate) async fn converted(
    request: &Request<'_>,
    found: &As<'_>,
    converter: &Converter,
) -> Result<Option<Converted>, Status> {
    let (As::Other(kind), Some(own)) = (found, request.descriptor) else { return Ok(None) };
    let mut both = vec![request.object.clone()];
    both.extend(request.old.cloned());
    let mut both = across(own, kind, both, converter).await?.into_iter();
    let object = both.next().unwrap_or_default();
    Ok(Some(Converted { kind: Arc::clone(kind), object, old: both.next() }))
}

/// Returns an object of `from` as one of `to`, which is another name for the same.
///
/// # Errors
/// As [`converted`].
pub(crate) async fn back(
    from: &Kind,
    to: &Kind,
    object: Value,
    converter: &Converter,
) -> Result<Value, Status> {
    across(from, to, vec![object], converter).await.map(|mut all| all.pop().unwrap_or_default())
}

async fn across(
    from: &Kind,
    to: &Kind,
    mut objects: Vec<Value>,
    converter: &Converter,
) -> Result<Vec<Value>, Status> {
    if api::custom::conversion_of(from).is_some() {
        return converter.convert(from, &to.api_version(), objects).await;
    }
    for object in objects.iter_mut().filter(|object| object.is_object()) {
        from.to_storage(object);
        to.from_storage(object);
    }
    Ok(objects)
}

/// Returns the other names under which the objects of a resource are served.
fn equivalents<'a>(registry: &'a Registry, own: Named<'_>) -> impl Iterator<Item = &'a Arc<Kind>> {
    let storage =
        registry.resource(own.group, own.version, own.resource).and_then(|kind| kind.storage.as_ref());
    registry.iter().filter(move |kind| {
        let same = match (storage, kind.storage.as_ref()) {
            (Some(own), Some(other)) => (&own.group, &own.plural) == (&other.group, &other.plural),
            _ => false,
        };
        same && (kind.group != own.group || kind.version != own.version)
    })
}

fn is_namespace(request: &Request<'_>) -> bool {
    request.group.is_empty() && request.resource == "namespaces"
}

/// Says whether the object, or the one before, has the labels.
fn selects(selector: &Selector, request: &Request<'_>) -> bool {
    let has = |object: &Value| object["metadata"].is_object() && selector.matches(labels(object));
    has(request.object) || request.old.is_some_and(has)
}

fn labels(object: &Value) -> Map<String, Value> {
    object["metadata"]["labels"].as_object().cloned().unwrap_or_default()
}
