//! Admission policies: expressions in CEL that complete or refuse objects, without a webhook.

pub(crate) mod config;

use std::sync::Arc;

use api::apply::{self, Node};
use api::cel::{Budget, Value as Cel, to_json};
use api::patch;
use api::registry::Registry;
use api::selector::Selector;
use api::status::{Reason, Resource, Status};
use arc_swap::ArcSwap;
use serde_json::{Value, json};

use self::config::{Binding, Bound, Mutation, Policies, Policy, Validation};
use super::expression::{Seen, all_hold, is_changeable, resulted};
use super::webhook::review::Shown;
use super::webhook::rules::{As, Converted, back, converted, is_exempt};
use super::{Request, World};
use crate::access::{Access, text};
use crate::convert::Converter;

/// Evaluates the policies.
pub(crate) struct Evaluator {
    pub(crate) policies: Arc<Policies>,
    pub(crate) registry: Arc<ArcSwap<Registry>>,
    pub(crate) access: Arc<Access>,
    pub(crate) converter: Arc<Converter>,
}

/// Notes for the audit log, by key.
type Annotations = Vec<(String, String)>;

/// A policy that a request does not satisfy, or that could not be evaluated.
struct Refusal {
    message: String,
    reason: String,
}

impl Refusal {
    fn failed(message: impl Into<String>) -> Self {
        Self { message: message.into(), reason: String::new() }
    }
}

impl Evaluator {
    /// Lets the mutating policies change the object of `request`. In the second round only those that want to
    /// see what others have made of it are asked.
    pub(crate) async fn mutate(
        &self,
        request: &mut Request<'_>,
        world: &dyn World,
        again: bool,
    ) -> Result<(), Status> {
        let all = self.policies.mutating();
        if all.is_empty() || is_exempt(request) || !is_changeable(request) {
            return Ok(());
        }
        for Bound { policy, bindings } in all.iter().filter(|bound| !again || bound.policy.reinvoke) {
            let registry = self.registry.load_full();
            let Some(found) = policy.matching.find(request, world, &registry)? else { continue };
            for binding in bindings {
                if !applies(binding, request, world, &registry)? {
                    continue;
                }
                if let Err(refusal) = self.mutate_by(policy, binding, request, world, &found).await
                    && !policy.ignore_failure
                {
                    return Err(denied("MutatingAdmissionPolicy", policy, binding, request, &refusal));
                }
            }
        }
        Ok(())
    }

    async fn mutate_by(
        &self,
        policy: &Policy,
        binding: &Binding,
        request: &mut Request<'_>,
        world: &dyn World,
        found: &As<'_>,
    ) -> Result<(), Refusal> {
        for params in self.params(policy, binding, request, world)? {
            let mut budget = Budget::default();
            for mutation in &policy.mutations {
                let converted = converted(request, found, &self.converter)
                    .await
                    .map_err(|status| Refusal::failed(status.message))?;
                let object = {
                    let shown = shown(request, converted.as_ref());
                    let mut seen = Seen::new(request, &shown, self.access.clone());
                    seen.params.clone_from(&params);
                    let seen = seen.for_policy(world, &policy.variables);
                    if !all_hold(&policy.conditions, &seen, &mut budget).map_err(Refusal::failed)? {
                        break;
                    }
                    let (Mutation::Apply(program) | Mutation::Patch(program)) = mutation;
                    let result = program
                        .evaluate(&seen, &mut budget)
                        .map_err(|error| Refusal::failed(resulted(program, &error)))?;
                    let result = to_json(&result).ok_or_else(|| {
                        Refusal::failed(format!("expression '{}' makes no JSON", program.source()))
                    })?;
                    changed(mutation, shown.object, &result, request, converted.as_ref())?
                };
                let own = request.descriptor;
                let object = match (converted, own) {
                    (converted, Some(own)) => {
                        let kind = converted.as_ref().map_or(own, |converted| &converted.kind);
                        let mut object = object;
                        kind.decode(&mut object).map_err(|status| Refusal::failed(status.message))?;
                        kind.default(&mut object);
                        if converted.is_some() {
                            object = back(kind, own, object, &self.converter)
                                .await
                                .map_err(|status| Refusal::failed(status.message))?;
                        }
                        object
                    }
                    (_, None) => object,
                };
                *request.object = object;
            }
        }
        Ok(())
    }

    /// Lets the validating policies refuse the object of `request`, warn of it, or note it.
    pub(crate) async fn validate(&self, request: &mut Request<'_>, world: &dyn World) -> Result<(), Status> {
        let all = self.policies.validating();
        if all.is_empty() || is_exempt(request) {
            return Ok(());
        }
        let mut first = None;
        let mut noted = Vec::new();
        for Bound { policy, bindings } in all.iter() {
            let registry = self.registry.load_full();
            let Some(found) = policy.matching.find(request, world, &registry)? else { continue };
            let converted = converted(request, &found, &self.converter).await?;
            for binding in bindings {
                if !applies(binding, request, world, &registry)? {
                    continue;
                }
                let (refusals, annotations) =
                    self.refusals(policy, binding, request, world, converted.as_ref());
                request.annotations.extend(annotations);
                for (index, refusal) in refusals {
                    for action in &binding.actions {
                        match action.as_str() {
                            "Deny" => {
                                let kind = "ValidatingAdmissionPolicy";
                                first.get_or_insert_with(|| denied(kind, policy, binding, request, &refusal));
                            }
                            "Warn" => request.warnings.push(format!(
                                "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                                policy.name, binding.name, refusal.message
                            )),
                            _ => noted.push(json!({
                                "message": refusal.message, "policy": policy.name, "binding": binding.name,
                                "expressionIndex": index, "validationActions": binding.actions,
                            })),
                        }
                    }
                }
            }
        }
        if !noted.is_empty() {
            let key = "validation.policy.admission.k8s.io/validation_failure";
            request.annotations.push((key.into(), Value::from(noted).to_string()));
        }
        first.map_or(Ok(()), Err)
    }

    /// Returns what a bound policy has against a request, with the place of each expression, and what it wants
    /// noted.
    fn refusals(
        &self,
        policy: &Policy,
        binding: &Binding,
        request: &Request<'_>,
        world: &dyn World,
        converted: Option<&Converted>,
    ) -> (Vec<(usize, Refusal)>, Annotations) {
        let (mut refusals, mut notes) = (Vec::new(), Vec::new());
        let failed = |refusal: Refusal| if policy.ignore_failure { None } else { Some((0, refusal)) };
        let all = match self.params(policy, binding, request, world) {
            Ok(all) => all,
            Err(refusal) => return (failed(refusal).into_iter().collect(), notes),
        };
        for params in all {
            let shown = shown(request, converted);
            let mut seen = Seen::new(request, &shown, self.access.clone());
            seen.params = params;
            let seen = seen.for_policy(world, &policy.variables);
            let mut budget = Budget::default();
            match all_hold(&policy.conditions, &seen, &mut budget) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    refusals.extend(failed(Refusal::failed(error)));
                    continue;
                }
            }
            for (index, validation) in policy.validations.iter().enumerate() {
                let refusal = match validation.program.evaluate(&seen, &mut budget) {
                    Ok(Cel::Bool(true)) => continue,
                    Ok(_) => Refusal {
                        message: message(validation, &seen, &mut budget),
                        reason: validation.reason.clone(),
                    },
                    Err(_) if policy.ignore_failure => continue,
                    Err(error) => Refusal::failed(resulted(&validation.program, &error)),
                };
                refusals.push((index, refusal));
            }
            for note in &policy.notes {
                match note.program.evaluate(&seen, &mut budget).map(|value| to_json(&value)) {
                    Ok(Some(Value::String(text))) => {
                        notes.push((format!("{}/{}", policy.name, note.name), text));
                    }
                    Ok(_) => {}
                    Err(error) => refusals.extend(failed(Refusal::failed(resulted(&note.program, &error)))),
                }
            }
        }
        (refusals, notes)
    }

    /// Returns what a policy is evaluated with: once for each of its parameters.
    fn params(
        &self,
        policy: &Policy,
        binding: &Binding,
        request: &Request<'_>,
        world: &dyn World,
    ) -> Result<Vec<Option<Arc<Value>>>, Refusal> {
        let Some((api_version, kind)) = &policy.params else { return Ok(vec![None]) };
        let reference = &binding.params;
        if !reference.is_object() {
            return Ok(vec![Some(Arc::default())]);
        }
        let registry = self.registry.load();
        let described = registry
            .of(api_version, kind)
            .and_then(|kind| kind.storage.as_ref().map(|storage| (kind, crate::rest::id(storage))));
        let Some((described, id)) = described else {
            return Err(Refusal::failed(format!(
                "failed to find resource referenced by paramKind: '{api_version}, Kind={kind}'"
            )));
        };
        let named = text(reference, "/namespace");
        let namespace = if !described.is_namespaced() {
            if !named.is_empty() {
                let why = "paramRef.namespace must not be provided for a cluster-scoped `paramKind`";
                return Err(Refusal::failed(why));
            }
            ""
        } else if !named.is_empty() {
            named
        } else if request.namespace.is_empty() {
            let why =
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources";
            return Err(Refusal::failed(why));
        } else {
            request.namespace
        };
        let found: Vec<Arc<Value>> = match text(reference, "/name") {
            "" => {
                let selector = Selector::from_object(&reference["selector"]).map_err(Refusal::failed)?;
                let all = world.list(&id, namespace);
                let labels = |object: &Value| api::meta::labels(object).cloned().unwrap_or_default();
                all.into_iter().filter(|object| selector.matches(labels(object))).collect()
            }
            name => world.lookup(&id, namespace, name).into_iter().collect(),
        };
        if found.is_empty() && text(reference, "/parameterNotFoundAction") == "Deny" {
            let why = "no params found for policy binding with `Deny` parameterNotFoundAction";
            return Err(Refusal::failed(why));
        }
        Ok(found.into_iter().map(Some).collect())
    }
}

fn applies(
    binding: &Binding,
    request: &Request<'_>,
    world: &dyn World,
    registry: &Registry,
) -> Result<bool, Status> {
    match &binding.matching {
        None => Ok(true),
        Some(matching) => matching.find(request, world, registry).map(|found| found.is_some()),
    }
}

fn shown<'a>(request: &'a Request<'a>, converted: Option<&'a Converted>) -> Shown<'a> {
    converted.map_or_else(|| Shown::as_is(request), Converted::shown)
}

/// Returns the text of an expression that does not hold.
fn message(validation: &Validation, seen: &Seen<'_>, budget: &mut Budget) -> String {
    if let Some(program) = &validation.message_program
        && let Ok(value) = program.evaluate(seen, budget)
        && let Some(Value::String(text)) = to_json(&value)
        && !text.trim().is_empty()
        && !text.trim().contains('\n')
    {
        return text.trim().to_owned();
    }
    match validation.message.as_str() {
        "" => format!("failed expression: {}", validation.program.source().trim()),
        message => message.to_owned(),
    }
}

/// Returns the object that a mutation makes of `object`.
fn changed(
    mutation: &Mutation,
    object: &Value,
    result: &Value,
    request: &Request<'_>,
    converted: Option<&Converted>,
) -> Result<Value, Refusal> {
    match mutation {
        Mutation::Patch(_) => {
            let mut object = object.clone();
            patch::json_patch(&mut object, result)
                .map_err(|error| Refusal::failed(format!("JSON Patch: {error}")))?;
            Ok(object)
        }
        Mutation::Apply(_) => {
            let identity = ["apiVersion", "kind"].iter().any(|key| result.get(key).is_some())
                || ["name", "namespace", "uid"].iter().any(|key| result["metadata"].get(key).is_some());
            if !result.is_object() || identity {
                let why =
                    "invalid ApplyConfiguration: apiVersion, kind, and the object's name must not be set";
                return Err(Refusal::failed(why));
            }
            let kind = converted.map(|converted| &converted.kind).or(request.descriptor);
            let node = match kind {
                Some(kind) => match api::custom::schema_of(kind) {
                    Some(schema) => Node::Custom(schema),
                    None => Node::of_kind(&kind.group, &kind.version, &kind.kind),
                },
                None => Node::Deduced,
            };
            Ok(apply::merged(object, result, &node))
        }
    }
}

/// Returns the refusal as the client is told it.
fn denied(
    what: &str,
    policy: &Policy,
    binding: &Binding,
    request: &Request<'_>,
    refusal: &Refusal,
) -> Status {
    let message = format!(
        "{what} '{}' with binding '{}' denied request: {}",
        policy.name, binding.name, refusal.message
    );
    let resource = Resource { group: request.group, name: request.resource };
    let mut status = Status::forbidden(resource, request.shown_name(), &message);
    (status.reason, status.code) = match refusal.reason.as_str() {
        "Forbidden" => (Reason::Forbidden, 403),
        "Unauthorized" => (Reason::Unauthorized, 401),
        "RequestEntityTooLarge" => (Reason::RequestEntityTooLarge, 413),
        _ => (Reason::Invalid, 422),
    };
    status.cause("", message, "")
}
