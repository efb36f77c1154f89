//! The variable `authorizer` of admission expressions: a question about access, built up call by call.

use std::sync::Arc;

use kube_cel::cel::extractors::This;
use kube_cel::cel::objects::Opaque;
use kube_cel::cel::{Context, ExecutionError, ResolveResult, Value};

/// A question about access. Either a path or a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Question {
    /// The service account that is asked about, by namespace and name; `None` for the user of the request.
    pub account: Option<(String, String)>,
    /// The path; empty for a resource.
    pub path: String,
    /// The API group.
    pub group: String,
    /// The plural resource.
    pub resource: String,
    /// The subresource.
    pub subresource: String,
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// Answers questions about access.
pub trait Authorizer: Send + Sync {
    /// Says whether it is allowed to do `verb`, and why or why not.
    fn decide(&self, question: &Question, verb: &str) -> (bool, String);
}

/// A question, and who answers it.
#[derive(Clone)]
struct Asking {
    authorizer: Arc<dyn Authorizer>,
    question: Question,
}

impl std::fmt::Debug for Asking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Authorizer").field(&self.question).finish()
    }
}

impl PartialEq for Asking {
    fn eq(&self, other: &Self) -> bool {
        self.question == other.question
    }
}

impl Eq for Asking {}

impl Opaque for Asking {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.authorization.Authorizer"
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    allowed: bool,
    reason: String,
}

impl Opaque for Answer {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.authorization.Decision"
    }
}

/// Returns the variable; `question` is what is known already, as of `authorizer.requestResource`.
#[must_use]
pub fn authorizer(authorizer: Arc<dyn Authorizer>, question: Question) -> Value {
    Value::Opaque(Arc::new(Asking { authorizer, question }))
}

fn asking(value: &Value) -> Result<&Asking, ExecutionError> {
    match value {
        Value::Opaque(opaque) => opaque.downcast_ref().ok_or(ExecutionError::NoSuchOverload),
        _ => Err(ExecutionError::NoSuchOverload),
    }
}

fn answer(value: &Value) -> Result<&Answer, ExecutionError> {
    match value {
        Value::Opaque(opaque) => opaque.downcast_ref().ok_or(ExecutionError::NoSuchOverload),
        _ => Err(ExecutionError::NoSuchOverload),
    }
}

/// Registers the functions.
pub(super) fn register(context: &mut Context<'static>) {
    type Set = fn(&mut Question, String);
    let steps: [(&str, Set); 6] = [
        ("path", |question, text| question.path = text),
        ("group", |question, text| question.group = text),
        ("resource", |question, text| question.resource = text),
        ("subresource", |question, text| question.subresource = text),
        ("namespace", |question, text| question.namespace = text),
        ("name", |question, text| question.name = text),
    ];
    for (name, set) in steps {
        context.add_function(name, move |This(this): This<Value>, text: Arc<String>| -> ResolveResult {
            let mut next = asking(&this)?.clone();
            set(&mut next.question, text.to_string());
            Ok(Value::Opaque(Arc::new(next)))
        });
    }
    context.add_function(
        "serviceAccount",
        |This(this): This<Value>, namespace: Arc<String>, name: Arc<String>| -> ResolveResult {
            let mut next = asking(&this)?.clone();
            next.question.account = Some((namespace.to_string(), name.to_string()));
            Ok(Value::Opaque(Arc::new(next)))
        },
    );
    context.add_function("check", |This(this): This<Value>, verb: Arc<String>| -> ResolveResult {
        let Asking { authorizer, question } = asking(&this)?;
        let (allowed, reason) = authorizer.decide(question, &verb);
        Ok(Value::Opaque(Arc::new(Answer { allowed, reason })))
    });
    context.add_function("allowed", |This(this): This<Value>| -> ResolveResult {
        Ok(Value::Bool(answer(&this)?.allowed))
    });
    context.add_function("reason", |This(this): This<Value>| -> ResolveResult {
        Ok(super::text(&answer(&this)?.reason))
    });
    // The authorizers here never fail.
    context.add_function("errored", |This(this): This<Value>| -> ResolveResult {
        answer(&this).map(|_| Value::Bool(false))
    });
    context.add_function("error", |This(this): This<Value>| -> ResolveResult {
        answer(&this).map(|_| super::text(""))
    });
}
