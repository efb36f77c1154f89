//! What CEL expressions of admission see of a request: `object`, `oldObject`, `request`, `authorizer`, and for
//! policies `params`, `namespaceObject` and the policy's own `variables`.

use std::collections::HashMap;
use std::sync::Arc;

use api::cel::{self, Authorizer, Budget, Error, Program, Question, Variables};
use parking_lot::Mutex;
use serde_json::Value;

use super::webhook::review::{Shown, request_value};
use super::{Operation, Request, World};
use crate::access::{Access, Attributes, UserInfo, list, text};

/// The variables of a match condition.
pub(crate) const VARIABLES: [&str; 5] =
    ["object", "oldObject", "request", "authorizer", "authorizer.requestResource"];

/// An expression with its name.
#[derive(Debug)]
pub(crate) struct Condition {
    pub(crate) name: String,
    pub(crate) program: Program,
}

/// Reads match conditions, which validation has compiled before.
///
/// # Errors
/// What is wrong with one, as the compiler says it.
pub(crate) fn conditions(owner: &Value, variables: &[&str]) -> Result<Vec<Condition>, String> {
    list(owner, "/matchConditions")
        .iter()
        .map(|condition| {
            let program = Program::compile(text(condition, "/expression"), variables)?;
            Ok(Condition { name: text(condition, "/name").to_owned(), program })
        })
        .collect()
}

/// Says whether all conditions hold. One that does not hold decides before one that fails.
///
/// # Errors
/// The failures.
pub(crate) fn all_hold(
    conditions: &[Condition],
    seen: &dyn Variables,
    budget: &mut Budget,
) -> Result<bool, String> {
    let mut failures = Vec::new();
    for Condition { name: _, program } in conditions {
        match program.evaluate(seen, budget) {
            Ok(cel::Value::Bool(true)) => {}
            Ok(cel::Value::Bool(false)) => return Ok(false),
            Ok(_) => failures.push(format!("expression '{}' is no bool", program.source())),
            Err(error) => failures.push(resulted(program, &error)),
        }
    }
    if failures.is_empty() { Ok(true) } else { Err(failures.join(", ")) }
}

/// Words a failed evaluation.
pub(crate) fn resulted(program: &Program, error: &Error) -> String {
    format!("expression '{}' resulted in error: {error}", program.source())
}

/// The variables of one request.
pub(crate) struct Seen<'a> {
    request: &'a Request<'a>,
    shown: &'a Shown<'a>,
    access: Arc<Access>,
    /// `None` where there is no such variable; `Null` where it has no value.
    pub(crate) params: Option<Arc<Value>>,
    /// The namespace of the object; `Null` for what has none.
    pub(crate) namespace: Option<Arc<Value>>,
    /// The policy's own variables, in their order: each may use those before it.
    pub(crate) own: &'a [Condition],
    made: Mutex<HashMap<String, Result<cel::Value, Error>>>,
    budget: Mutex<Budget>,
}

impl<'a> Seen<'a> {
    pub(crate) fn new(request: &'a Request<'a>, shown: &'a Shown<'a>, access: Arc<Access>) -> Self {
        Self {
            request,
            shown,
            access,
            params: None,
            namespace: None,
            own: &[],
            made: Mutex::default(),
            budget: Mutex::default(),
        }
    }

    /// Adds what policies see.
    pub(crate) fn for_policy(mut self, world: &dyn World, own: &'a [Condition]) -> Self {
        let name = self.request.namespace;
        let found = if name.is_empty() { None } else { world.lookup("namespaces", "", name) };
        self.namespace = Some(found.unwrap_or_default());
        self.own = own;
        self
    }

    fn make(&self, name: &str) -> Option<Result<cel::Value, Error>> {
        let json = |value: &Value| Some(Ok(cel::from_json(value)));
        match name {
            "object" => json(self.shown.object),
            "oldObject" => json(self.shown.old.unwrap_or(&Value::Null)),
            "request" => json(&request_value(self.request, self.shown, "")),
            "params" => json(self.params.as_deref()?),
            "namespaceObject" => json(self.namespace.as_deref()?),
            "authorizer" => Some(Ok(self.authorizer(Question::default()))),
            "authorizer.requestResource" => {
                let request = self.request;
                Some(Ok(self.authorizer(Question {
                    group: request.group.into(),
                    resource: request.resource.into(),
                    subresource: request.subresource.into(),
                    namespace: request.namespace.into(),
                    name: request.name.into(),
                    ..Question::default()
                })))
            }
            _ => {
                let own = name.strip_prefix("variables.")?;
                let variable = self.own.iter().find(|variable| variable.name == own)?;
                let mut budget = std::mem::take(&mut *self.budget.lock());
                let result = variable.program.evaluate(self, &mut budget);
                *self.budget.lock() = budget;
                Some(result.map_err(|error| {
                    Error::Failed(format!("composited variable {own:?} fails to evaluate: {error}"))
                }))
            }
        }
    }

    fn authorizer(&self, question: Question) -> cel::Value {
        let asker = Asker { access: self.access.clone(), user: self.request.user.clone() };
        cel::authorizer(Arc::new(asker), question)
    }
}

impl Variables for Seen<'_> {
    fn get(&self, name: &str) -> Option<Result<cel::Value, Error>> {
        if let Some(made) = self.made.lock().get(name) {
            return Some(made.clone());
        }
        let made = self.make(name)?;
        self.made.lock().insert(name.to_owned(), made.clone());
        Some(made)
    }
}

/// Answers the questions of expressions by the server's own authorizers.
struct Asker {
    access: Arc<Access>,
    user: UserInfo,
}

impl Authorizer for Asker {
    fn decide(&self, question: &Question, verb: &str) -> (bool, String) {
        let account =
            question.account.as_ref().map(|(namespace, name)| UserInfo::service_account(namespace, name, ""));
        let attributes = Attributes {
            verb,
            group: &question.group,
            version: "*",
            resource: &question.resource,
            subresource: &question.subresource,
            namespace: &question.namespace,
            name: &question.name,
            path: &question.path,
            fields: &[],
        };
        let decision = self.access.authorize(account.as_ref().unwrap_or(&self.user), &attributes);
        (decision.allowed, decision.reason)
    }
}

impl<'a> Shown<'a> {
    /// The request as it came.
    pub(crate) fn as_is(request: &'a Request<'a>) -> Self {
        Self {
            kind: request.kind,
            group: request.group,
            version: request.version,
            resource: request.resource,
            object: request.object,
            old: request.old,
        }
    }
}

/// Says whether an object can be changed by this request at all.
pub(crate) fn is_changeable(request: &Request<'_>) -> bool {
    matches!(request.operation, Operation::Create | Operation::Update) && request.object.is_object()
}
