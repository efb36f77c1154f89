//! Admission webhooks: other programs that complete or refuse objects.
//!
//! Mutating webhooks are called one after another in the order of their configurations' names, each seeing
//! what the one before made of the object; validating ones at the same time. Nothing here holds a lock while
//! a webhook is called.

pub(crate) mod call;
pub(crate) mod config;
pub(crate) mod review;
pub(crate) mod rules;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use api::cel::Budget;
use api::patch;
use api::registry::Registry;
use api::status::{Resource, Status};
use arc_swap::ArcSwap;
use machinery::clock::SharedClock;
use machinery::names::Random;
use serde_json::Value;

use self::call::{Client, Network};
use self::config::{Configurations, Hook};
use self::review::{Answer, Shown};
use self::rules::{Converted, back, converted};
use super::expression::{Seen, all_hold};
use super::{Operation, Request, World};
use crate::access::Access;
use crate::cache::Cache;
use crate::convert::Converter;

/// The name under which webhooks are called.
const AGENT: &str = "kube-apiserver-admission";
/// The versions of `AdmissionReview` that are spoken here.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// Calls the webhooks.
pub(crate) struct Webhooks {
    pub(crate) configurations: Arc<Configurations>,
    pub(crate) registry: Arc<ArcSwap<Registry>>,
    pub(crate) access: Arc<Access>,
    pub(crate) converter: Arc<Converter>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) random: Random,
    pub(crate) clock: SharedClock,
}

/// Which webhooks have been called for a request and must be called again.
#[derive(Debug, Default)]
pub(crate) struct Reinvocation {
    again: bool,
    /// Those that were called and want to be called again.
    called: HashSet<usize>,
    /// Those of `called` after which the object was changed.
    due: HashSet<usize>,
    /// What the last webhook left behind.
    output: Option<Value>,
}

impl Reinvocation {
    /// Says whether a second round is needed, and begins it.
    pub(crate) fn begin_again(&mut self) -> bool {
        self.again = !self.due.is_empty();
        self.again
    }

    fn changed(&mut self) {
        self.due.extend(self.called.drain());
    }
}

/// A call that failed, as opposed to one that was answered with a refusal.
struct Failed(String);

impl Webhooks {
    /// Lets the mutating webhooks change the object of `request`, or refuse it.
    pub(crate) async fn mutate(
        &self,
        request: &mut Request<'_>,
        world: &dyn World,
        state: &mut Reinvocation,
    ) -> Result<(), Status> {
        let hooks = self.configurations.mutating();
        if hooks.is_empty() || rules::is_exempt(request) {
            return Ok(());
        }
        if state.again && state.output.as_ref().is_some_and(|output| *output != *request.object) {
            // The server's own plugins have changed the object since.
            state.changed();
        }
        for (index, hook) in hooks.iter().enumerate() {
            if state.again && !state.due.contains(&index) {
                continue;
            }
            let registry = self.registry.load_full();
            let Some(found) = hook.matching.find(request, world, &registry)? else { continue };
            let converted = converted(request, &found, &self.converter).await?;
            if !self.holds(hook, request, converted.as_ref())? {
                continue;
            }
            let round = usize::from(state.again);
            let result = self.ask(hook, request, converted.as_ref(), true).await;
            let changed = match self.settle(hook, request, result, "mutating")? {
                Some(answer) => match answer.patch {
                    Some(patch) => self.apply(hook, request, converted.as_ref(), &patch).await?,
                    None => false,
                },
                None => continue,
            };
            request.annotations.push((
                format!("mutation.webhook.admission.k8s.io/round_{round}_index_{index}"),
                format!(
                    "{{\"configuration\":{:?},\"webhook\":{:?},\"mutated\":{changed}}}",
                    hook.configuration, hook.name
                ),
            ));
            if changed {
                state.changed();
            }
            if hook.reinvoke {
                state.called.insert(index);
            }
            state.output = Some(request.object.clone());
        }
        Ok(())
    }

    /// Lets the validating webhooks refuse the object of `request`.
    pub(crate) async fn validate(&self, request: &mut Request<'_>, world: &dyn World) -> Result<(), Status> {
        let hooks = self.configurations.validating();
        if hooks.is_empty() || rules::is_exempt(request) {
            return Ok(());
        }
        let mut asked = Vec::new();
        {
            let registry = self.registry.load_full();
            for hook in hooks.iter() {
                let Some(found) = hook.matching.find(request, world, &registry)? else { continue };
                let converted = converted(request, &found, &self.converter).await?;
                if self.holds(hook, request, converted.as_ref())? {
                    asked.push((hook, converted));
                }
            }
        }
        let results = {
            let request = &*request;
            let calls =
                asked.iter().map(|(hook, converted)| self.ask(hook, request, converted.as_ref(), false));
            futures::future::join_all(calls).await
        };
        let mut first = None;
        for ((hook, _), result) in asked.iter().zip(results) {
            if let Err(status) = self.settle(hook, request, result, "validating") {
                if first.is_some() {
                    tracing::info!(webhook = hook.name, error = %status, "another webhook refuses the request, too");
                }
                first.get_or_insert(status);
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Says whether the webhook's match conditions hold.
    fn holds(
        &self,
        hook: &Hook,
        request: &Request<'_>,
        converted: Option<&Converted>,
    ) -> Result<bool, Status> {
        if hook.conditions.is_empty() {
            return Ok(true);
        }
        let shown = converted.map_or_else(|| Shown::as_is(request), Converted::shown);
        let seen = Seen::new(request, &shown, self.access.clone());
        all_hold(&hook.conditions, &seen, &mut Budget::default()).or_else(|why| {
            tracing::warn!(webhook = hook.name, why, "match conditions cannot be evaluated");
            let resource = Resource { group: request.group, name: request.resource };
            if hook.ignore_failure {
                Ok(false)
            } else {
                Err(Status::forbidden(resource, request.shown_name(), &why))
            }
        })
    }

    /// Asks one webhook.
    async fn ask(
        &self,
        hook: &Hook,
        request: &Request<'_>,
        converted: Option<&Converted>,
        mutating: bool,
    ) -> Result<Answer, Failed> {
        let version = hook
            .versions
            .iter()
            .find_map(|version| VERSIONS.into_iter().find(|known| known == version))
            .ok_or_else(|| {
                Failed("webhook does not accept known AdmissionReview versions (v1, v1beta1)".into())
            })?;
        let network =
            Network { cache: self.cache.clone(), random: self.random.clone(), clock: self.clock.clone() };
        let client = hook.client.get_or_init(|| Client::new(&hook.place, network));
        let client =
            client.as_ref().map_err(|error| Failed(format!("could not get REST client: {error}")))?;
        let uid = self.random.uid();
        let shown = converted.map_or_else(|| Shown::as_is(request), Converted::shown);
        let question = review::question(request, &shown, &uid, version);
        let within = hook.timeout.max(Duration::from_secs(1));
        let review = client
            .post(AGENT, &question, within, within)
            .await
            .map_err(|error| Failed(format!("failed to call webhook: {error}")))?;
        review::answer(&review, &uid, version, mutating)
            .map_err(|error| Failed(format!("received invalid webhook response: {error}")))
    }

    /// Makes of a call what the request becomes: the answer of who allows it, nothing where a failure is to
    /// be ignored, or the refusal.
    fn settle(
        &self,
        hook: &Hook,
        request: &mut Request<'_>,
        result: Result<Answer, Failed>,
        what: &str,
    ) -> Result<Option<Answer>, Status> {
        match result {
            Ok(answer) => {
                for warning in &answer.warnings {
                    request.warnings.push(warning.clone());
                }
                for (key, value) in &answer.annotations {
                    request.annotations.push((format!("{}/{key}", hook.name), value.clone()));
                }
                if answer.allowed {
                    return Ok(Some(answer));
                }
                Err(review::denied(&hook.name, &answer.result))
            }
            Err(Failed(why)) if hook.ignore_failure => {
                tracing::warn!(
                    webhook = hook.name,
                    why,
                    "failed calling a {what} webhook; the request goes on"
                );
                request.annotations.push((
                    format!("failed-open.{what}.webhook.admission.k8s.io/{}", hook.configuration),
                    hook.name.clone(),
                ));
                Ok(None)
            }
            Err(Failed(why)) => {
                let text = format!("failed calling webhook {:?}: {why}", hook.name);
                tracing::warn!(
                    webhook = hook.name,
                    why,
                    "failed calling a {what} webhook; the request is refused"
                );
                Err(Status::internal(text))
            }
        }
    }

    /// Applies the patch of a webhook. Returns whether the object is another one now.
    async fn apply(
        &self,
        hook: &Hook,
        request: &mut Request<'_>,
        converted: Option<&Converted>,
        patch: &Value,
    ) -> Result<bool, Status> {
        let failed = |why: &dyn std::fmt::Display| {
            Status::internal(format!(
                "admission webhook {:?} answered with a patch that cannot be applied: {why}",
                hook.name
            ))
        };
        if request.operation == Operation::Delete || request.object.is_null() {
            return Err(Status::internal(format!(
                "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                hook.name
            )));
        }
        let mut object =
            converted.map_or_else(|| request.object.clone(), |converted| converted.object.clone());
        patch::json_patch(&mut object, patch).map_err(|error| failed(&error))?;
        if let Some(own) = request.descriptor {
            let kind = converted.map_or(own, |converted| &converted.kind);
            kind.decode(&mut object)?;
            kind.default(&mut object);
            if let Some(converted) = converted {
                object = back(&converted.kind, own, object, &self.converter).await?;
            }
        }
        let changed = object != *request.object;
        *request.object = object;
        Ok(changed)
    }
}

#[cfg(test)]
mod tests;
