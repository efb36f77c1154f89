//! The paths that a registry serves, with the operations at each.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::registry::{Kind, Registry};

/// What an operation does, in upstream's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    List,
    Post,
    DeleteCollection,
    Get,
    Put,
    Patch,
    Delete,
    Connect(&'static str),
}

/// One operation at a path.
pub(super) struct Operation {
    pub(super) action: Action,
    /// Group, version and kind of what it speaks.
    pub(super) group: Cow<'static, str>,
    pub(super) version: Cow<'static, str>,
    pub(super) kind: Cow<'static, str>,
    /// The name of the definition of its body and its answer, without `io.k8s.`; `None` for custom kinds and
    /// connections.
    pub(super) definition: Option<&'static str>,
    /// A name that no other operation has.
    pub(super) id: String,
    /// Whether a strategic merge patch is understood.
    pub(super) builtin: bool,
    /// Whether a deletion answers with the object.
    pub(super) returns_deleted: bool,
}

/// A path and its operations.
#[derive(Default)]
pub(super) struct Item {
    pub(super) operations: Vec<Operation>,
    /// The names of the parameters in the path.
    pub(super) parameters: Vec<&'static str>,
}

/// Returns the paths of a group and version; of all when neither is given.
pub(super) fn of(registry: &Registry, only: Option<(&str, &str)>) -> BTreeMap<String, Item> {
    let mut items = BTreeMap::new();
    for kind in registry.iter() {
        if only.is_none_or(|(group, version)| kind.group == group && kind.version == version) {
            add(&mut items, kind);
        }
    }
    items
}

fn add(items: &mut BTreeMap<String, Item>, kind: &Kind) {
    let root = if kind.group.is_empty() {
        format!("/api/{}", kind.version)
    } else {
        format!("/apis/{}/{}", kind.group, kind.version)
    };
    let (place, scoped): (String, &[&'static str]) = if kind.is_namespaced() {
        (format!("{root}/namespaces/{{namespace}}/{}", kind.plural), &["namespace"])
    } else {
        (format!("{root}/{}", kind.plural), &[])
    };
    let has = |verb: &str| kind.verbs.contains(&verb);
    let named: Vec<&'static str> = ["name"].into_iter().chain(scoped.iter().copied()).collect();
    for (verb, action, item) in [
        ("list", Action::List, false),
        ("create", Action::Post, false),
        ("deletecollection", Action::DeleteCollection, false),
        ("get", Action::Get, true),
        ("update", Action::Put, true),
        ("patch", Action::Patch, true),
        ("delete", Action::Delete, true),
    ] {
        if has(verb) {
            let (path, parameters) =
                if item { (format!("{place}/{{name}}"), named.as_slice()) } else { (place.clone(), scoped) };
            push(items, path, parameters, operation(kind, action, kind.definition, ""));
        }
    }
    if kind.is_namespaced() && has("list") {
        let mut list = operation(kind, Action::List, kind.definition, "");
        list.id = format!("list{}{}ForAllNamespaces", camel(kind), kind.kind);
        push(items, format!("{root}/{}", kind.plural), &[], list);
    }
    for sub in &kind.subresources {
        let path = format!("{place}/{{name}}/{}", sub.name);
        let definition = crate::schema::of_kind(&sub.group, &sub.version, &sub.kind).map(|found| found.name);
        for verb in &sub.verbs {
            let connects = sub.kind.ends_with("Options");
            let action = match *verb {
                "get" if connects => Action::Connect("get"),
                "create" if connects => Action::Connect("post"),
                "update" if connects => Action::Connect("put"),
                "patch" if connects => Action::Connect("patch"),
                "delete" if connects => Action::Connect("delete"),
                "get" => Action::Get,
                "create" => Action::Post,
                "update" => Action::Put,
                "patch" => Action::Patch,
                "delete" => Action::Delete,
                _ => continue,
            };
            let mut operation = operation(kind, action, definition, &sub.name);
            operation.group = sub.group.clone();
            operation.version = sub.version.clone();
            operation.kind = sub.kind.clone();
            push(items, path.clone(), &named, operation);
        }
    }
}

fn push(items: &mut BTreeMap<String, Item>, path: String, parameters: &[&'static str], operation: Operation) {
    let item = items.entry(path).or_default();
    item.parameters = parameters.to_vec();
    item.operations.push(operation);
}

fn operation(kind: &Kind, action: Action, definition: Option<&'static str>, sub: &str) -> Operation {
    let verb = match action {
        Action::List => "list",
        Action::Post => "create",
        Action::DeleteCollection => "deleteCollection",
        Action::Get => "read",
        Action::Put => "replace",
        Action::Patch => "patch",
        Action::Delete => "delete",
        Action::Connect("get") => "connectGet",
        Action::Connect("put") => "connectPut",
        Action::Connect("patch") => "connectPatch",
        Action::Connect("delete") => "connectDelete",
        Action::Connect(_) => "connectPost",
    };
    let verb = if matches!(action, Action::DeleteCollection) { "deleteCollection" } else { verb };
    let namespaced = if kind.is_namespaced() { "Namespaced" } else { "" };
    let mut letters = sub.chars();
    let sub: String =
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect();
    Operation {
        action,
        group: kind.group.clone(),
        version: kind.version.clone(),
        kind: kind.kind.clone(),
        definition,
        id: format!("{verb}{}{namespaced}{}{sub}", camel(kind), kind.kind),
        builtin: kind.definition.is_some(),
        returns_deleted: kind.strategy.returns_deleted,
    }
}

/// Returns group and version as upstream writes them in operation ids: `CoreV1`, `RbacAuthorizationV1`.
fn camel(kind: &Kind) -> String {
    let group = if kind.group.is_empty() { "core" } else { kind.group.trim_end_matches(".k8s.io") };
    group.split(['.', '-']).chain([kind.version.as_ref()]).map(upper).collect()
}

fn upper(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

impl Action {
    /// Returns the HTTP method.
    pub(super) fn method(self) -> &'static str {
        match self {
            Self::List | Self::Get => "get",
            Self::Post => "post",
            Self::Put => "put",
            Self::Patch => "patch",
            Self::Delete | Self::DeleteCollection => "delete",
            Self::Connect(method) => method,
        }
    }

    /// Returns `x-kubernetes-action`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Post => "post",
            Self::DeleteCollection => "deletecollection",
            Self::Get => "get",
            Self::Put => "put",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::Connect(_) => "connect",
        }
    }

    /// Returns the parameters in the query: name, type, what it is for.
    pub(super) fn query(self) -> &'static [(&'static str, &'static str, &'static str)] {
        const DRY_RUN: (&str, &str, &str) = ("dryRun", "string", "With the value All, nothing is stored.");
        const MANAGER: (&str, &str, &str) = (
            "fieldManager",
            "string",
            "The name of who or what makes the change; owns the fields that it sets.",
        );
        const VALIDATION: (&str, &str, &str) = (
            "fieldValidation",
            "string",
            "What happens to unknown and duplicate fields: Ignore, Warn or Strict.",
        );
        const FORCE: (&str, &str, &str) =
            ("force", "boolean", "Takes over fields that others own. For apply patches only.");
        const GRACE: (&str, &str, &str) =
            ("gracePeriodSeconds", "integer", "How many seconds the object has to end; 0 ends it at once.");
        const PROPAGATION: (&str, &str, &str) =
            ("propagationPolicy", "string", "What becomes of dependents: Orphan, Background or Foreground.");
        const LIST: [(&str, &str, &str); 9] = [
            ("allowWatchBookmarks", "boolean", "Lets the server send bookmarks in a watch."),
            ("continue", "string", "Goes on with a list where its last page ended."),
            ("fieldSelector", "string", "Only objects whose fields fit."),
            ("labelSelector", "string", "Only objects whose labels fit."),
            ("limit", "integer", "At most so many objects a page."),
            ("resourceVersion", "string", "How recent the answer must be, or where a watch begins."),
            ("resourceVersionMatch", "string", "How resourceVersion is meant."),
            ("timeoutSeconds", "integer", "How long a list or a watch may last."),
            ("watch", "boolean", "Streams changes instead of listing."),
        ];
        const COLLECTION: [(&str, &str, &str); 7] =
            [DRY_RUN, GRACE, PROPAGATION, LIST[2], LIST[3], LIST[4], LIST[1]];
        match self {
            Self::List => &LIST,
            Self::Post | Self::Put => &[DRY_RUN, MANAGER, VALIDATION],
            Self::Patch => &[DRY_RUN, MANAGER, VALIDATION, FORCE],
            Self::Delete => &[DRY_RUN, GRACE, PROPAGATION],
            Self::DeleteCollection => &COLLECTION,
            Self::Get | Self::Connect(_) => &[],
        }
    }
}

/// The media types of patches.
pub(super) fn patch_types(operation: &Operation) -> &'static [&'static str] {
    const ALL: [&str; 4] = [
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
    ];
    const CUSTOM: [&str; 3] = [ALL[0], ALL[1], ALL[3]];
    if operation.builtin { &ALL } else { &CUSTOM }
}

impl Operation {
    /// Returns the definition of the answer.
    pub(super) fn answer(&self) -> Option<String> {
        match self.action {
            Action::List => self.definition.map(|name| format!("{name}List")),
            Action::DeleteCollection => Some("apimachinery.pkg.apis.meta.v1.Status".into()),
            Action::Delete if !self.returns_deleted => Some("apimachinery.pkg.apis.meta.v1.Status".into()),
            Action::Connect(_) => None,
            _ => self.definition.map(str::to_owned),
        }
    }

    /// Returns the definition of the body.
    pub(super) fn body(&self) -> Option<&'static str> {
        match self.action {
            Action::Post | Action::Put => self.definition,
            Action::Patch => Some("apimachinery.pkg.apis.meta.v1.Patch"),
            Action::Delete | Action::DeleteCollection => Some("apimachinery.pkg.apis.meta.v1.DeleteOptions"),
            _ => None,
        }
    }
}
