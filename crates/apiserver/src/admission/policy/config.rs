//! The admission policies and their bindings as they are now, compiled once for each change.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::cel::Program;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::Value;

use crate::access::{list, strings, text};
use crate::admission::expression::{self, Condition};
use crate::admission::webhook::rules::Matching;

/// The resources that [`Policies::observe`] wants to see: policies and bindings, validating and mutating.
pub(crate) const OBSERVED: [&str; 4] = [
    "validatingadmissionpolicies.admissionregistration.k8s.io",
    "validatingadmissionpolicybindings.admissionregistration.k8s.io",
    "mutatingadmissionpolicies.admissionregistration.k8s.io",
    "mutatingadmissionpolicybindings.admissionregistration.k8s.io",
];

/// An expression that must hold.
#[derive(Debug)]
pub(crate) struct Validation {
    pub(crate) program: Program,
    pub(crate) message: String,
    pub(crate) message_program: Option<Program>,
    pub(crate) reason: String,
}

/// A change of the object.
#[derive(Debug)]
pub(crate) enum Mutation {
    /// The expression makes a configuration that is applied.
    Apply(Program),
    /// The expression makes a JSON patch.
    Patch(Program),
}

/// A policy.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) name: String,
    /// `apiVersion` and `kind` of its parameters.
    pub(crate) params: Option<(String, String)>,
    pub(crate) matching: Matching,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) variables: Vec<Condition>,
    pub(crate) validations: Vec<Validation>,
    /// What goes to the audit log, by key.
    pub(crate) notes: Vec<Condition>,
    pub(crate) mutations: Vec<Mutation>,
    pub(crate) ignore_failure: bool,
    pub(crate) reinvoke: bool,
}

/// A binding.
#[derive(Debug)]
pub(crate) struct Binding {
    pub(crate) name: String,
    policy: String,
    pub(crate) matching: Option<Matching>,
    /// `paramRef`, or `Null`.
    pub(crate) params: Value,
    pub(crate) actions: Vec<String>,
}

/// A policy and where it is bound.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) policy: Arc<Policy>,
    pub(crate) bindings: Vec<Arc<Binding>>,
}

impl Policy {
    fn read(object: &Value) -> Result<Self, String> {
        let spec = &object["spec"];
        let kind = &spec["paramKind"];
        let params =
            kind.is_object().then(|| (text(kind, "/apiVersion").to_owned(), text(kind, "/kind").to_owned()));
        let mut names: Vec<String> = expression::VARIABLES.iter().map(|&name| name.to_owned()).collect();
        names.push("namespaceObject".into());
        if params.is_some() {
            names.push("params".into());
        }
        let known = |names: &[String], source: &str| {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            Program::compile(source, &names)
        };
        let conditions = {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            expression::conditions(spec, &names)?
        };
        let mut variables = Vec::new();
        for variable in list(spec, "/variables") {
            let name = text(variable, "/name").to_owned();
            let program = known(&names, text(variable, "/expression"))?;
            names.push(format!("variables.{name}"));
            variables.push(Condition { name, program });
        }
        let validations = list(spec, "/validations").iter().map(|one| {
            let message_program = match text(one, "/messageExpression") {
                "" => None,
                source => Some(known(&names, source)?),
            };
            Ok(Validation {
                program: known(&names, text(one, "/expression"))?,
                message: text(one, "/message").trim().to_owned(),
                message_program,
                reason: text(one, "/reason").to_owned(),
            })
        });
        let notes = list(spec, "/auditAnnotations").iter().map(|note| {
            let program = known(&names, text(note, "/valueExpression"))?;
            Ok(Condition { name: text(note, "/key").to_owned(), program })
        });
        let mutations = list(spec, "/mutations").iter().map(|mutation| {
            if text(mutation, "/patchType") == "JSONPatch" {
                known(&names, text(mutation, "/jsonPatch/expression")).map(Mutation::Patch)
            } else {
                known(&names, text(mutation, "/applyConfiguration/expression")).map(Mutation::Apply)
            }
        });
        Ok(Self {
            name: api::meta::name(object).to_owned(),
            params,
            matching: Matching::of_policy(&spec["matchConstraints"])?,
            conditions,
            validations: validations.collect::<Result<_, String>>()?,
            notes: notes.collect::<Result<_, String>>()?,
            mutations: mutations.collect::<Result<_, String>>()?,
            variables,
            ignore_failure: text(spec, "/failurePolicy") == "Ignore",
            reinvoke: text(spec, "/reinvocationPolicy") == "IfNeeded",
        })
    }
}

impl Binding {
    fn read(object: &Value) -> Result<Self, String> {
        let spec = &object["spec"];
        let resources = &spec["matchResources"];
        Ok(Self {
            name: api::meta::name(object).to_owned(),
            policy: text(spec, "/policyName").to_owned(),
            matching: resources.is_object().then(|| Matching::of_policy(resources)).transpose()?,
            params: spec["paramRef"].clone(),
            actions: strings(spec, "/validationActions"),
        })
    }
}

#[derive(Debug, Default)]
struct Found {
    policies: BTreeMap<String, Arc<Policy>>,
    bindings: BTreeMap<String, Arc<Binding>>,
}

/// Policies of one type, by name.
#[derive(Debug, Default)]
struct Source {
    found: Mutex<Found>,
    bound: ArcSwap<Vec<Bound>>,
}

impl Source {
    fn observe(&self, is_binding: bool, name: &str, object: Option<&Value>) {
        let mut found = self.found.lock();
        let problem = |error: &str| tracing::error!(name, error, "an admission policy cannot be used");
        if is_binding {
            match object.map(Binding::read) {
                None => drop(found.bindings.remove(name)),
                Some(Ok(binding)) => drop(found.bindings.insert(name.to_owned(), Arc::new(binding))),
                Some(Err(error)) => problem(&error),
            }
        } else {
            match object.map(Policy::read) {
                None => drop(found.policies.remove(name)),
                Some(Ok(policy)) => drop(found.policies.insert(name.to_owned(), Arc::new(policy))),
                Some(Err(error)) => problem(&error),
            }
        }
        let bound = found.policies.values().filter_map(|policy| {
            let bindings: Vec<Arc<Binding>> =
                found.bindings.values().filter(|binding| binding.policy == policy.name).cloned().collect();
            (!bindings.is_empty()).then(|| Bound { policy: policy.clone(), bindings })
        });
        self.bound.store(Arc::new(bound.collect()));
    }
}

/// All policies. The task that follows the store writes, requests read.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    validating: Source,
    mutating: Source,
}

impl Policies {
    /// Takes note of a policy or a binding: as it is now, or `None` when it is gone.
    pub(crate) fn observe(&self, resource: &str, name: &str, object: Option<&Value>) {
        let source = if resource.starts_with("mutating") { &self.mutating } else { &self.validating };
        source.observe(resource == OBSERVED[1] || resource == OBSERVED[3], name, object);
    }

    pub(super) fn validating(&self) -> Arc<Vec<Bound>> {
        self.validating.bound.load_full()
    }

    pub(super) fn mutating(&self) -> Arc<Vec<Bound>> {
        self.mutating.bound.load_full()
    }

    /// Says whether any policy is bound.
    pub(crate) fn any(&self) -> bool {
        !self.validating.bound.load().is_empty() || !self.mutating.bound.load().is_empty()
    }
}
