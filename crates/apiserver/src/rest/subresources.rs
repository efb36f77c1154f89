//! Subresources, and kinds that are computed and not stored.

use std::sync::Arc;

use api::registry::{Part, ScalePaths};
use api::status::Status;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::{DeleteOptions, Resource, WriteOptions, Written};
use crate::access;
use crate::admission::Operation;
use crate::body::Body;
use crate::cache::Object;
use crate::server::RequestBody;

/// Serves a request for a subresource.
pub(super) async fn dispatch(resource: Resource, body: RequestBody) -> Result<Response<Body>, Status> {
    let verb = resource.call.info.verb.clone();
    let name = resource.target.subresource.clone();
    let Some(subresource) = resource.kind.subresource(&name) else {
        return Err(Status::no_such_resource());
    };
    if resource.target.name.is_empty() {
        return Err(Status::no_such_resource());
    }
    if verb != "proxy" && !subresource.verbs.contains(&verb.as_str()) {
        return Err(Status::method_not_allowed());
    }
    if crate::proxy::serves(&resource.kind, &name) {
        if name != "log" {
            let mut options = connect_options(&resource);
            resource.admit_subresource(Operation::Connect, &mut options, false).await?;
        }
        return crate::proxy::dispatch(&resource, body).await;
    }
    let body = crate::server::read(body).await?;
    match (name.as_str(), verb.as_str()) {
        ("scale", "get") => resource.get_scale().await,
        ("scale", "update") => resource.update_scale(&body).await,
        ("scale", "patch") => resource.patch_scale(&body).await,
        ("binding", _) => resource.bind(&body).await,
        ("eviction", _) => resource.evict(&body).await,
        ("token", _) => resource.token(&body).await,
        (_, "get") => resource.get().await,
        (part, "update") => resource.update_part(&body, part_of(part)).await,
        (part, "patch") => resource.patch_part(&body, part_of(part)).await,
        _ => Err(Status::method_not_allowed()),
    }
}

/// Returns what a connection is asked with, such as `PodExecOptions`, as admission sees it.
fn connect_options(resource: &Resource) -> Value {
    let Some(subresource) = resource.kind.subresource(&resource.target.subresource) else {
        return Value::Null;
    };
    let query = &resource.call.query;
    let mut options = json!({"kind": subresource.kind, "apiVersion": "v1"});
    match subresource.name.as_ref() {
        "exec" | "attach" => {
            for key in ["stdin", "stdout", "stderr", "tty"] {
                if query.is_set(key) {
                    options[key] = true.into();
                }
            }
            if let Some(container) = query.get("container") {
                options["container"] = container.into();
            }
            let command: Vec<&str> = query.all("command").collect();
            if !command.is_empty() {
                options["command"] = command.into();
            }
        }
        "portforward" => {
            let ports: Vec<i64> = query.all("ports").filter_map(|port| port.parse().ok()).collect();
            if !ports.is_empty() {
                options["ports"] = ports.into();
            }
        }
        _ => options["path"] = resource.target.rest.as_str().into(),
    }
    options
}

fn part_of(subresource: &str) -> Part<'_> {
    match subresource {
        "status" => Part::Status,
        other => Part::Other(other),
    }
}

/// Answers what is asked of a kind that is not stored, such as a review.
pub(super) async fn compute(resource: &Resource, body: &Bytes) -> Result<Response<Body>, Status> {
    let options = WriteOptions::parse(&resource.call.query, "CreateOptions")?;
    let object = resource.decode(body, &resource.kind, &options)?;
    match (resource.kind.group.as_ref(), resource.kind.kind.as_ref()) {
        ("", "Binding") => {
            let name = api::meta::name(&object).to_owned();
            resource.bind_to(&name, &object, &options).await?;
            let view = resource.view()?;
            let answer = api::status::success(resource.kind.resource(), "", "");
            Ok(view.encode(StatusCode::CREATED, &answer))
        }
        (group @ ("authentication.k8s.io" | "authorization.k8s.io"), kind) => {
            let (server, user) = (&resource.call.server, &resource.call.user);
            let answer = match (group, kind) {
                (_, "TokenReview") => access::token_review(&server.tokens, &*server.cache, &object)?,
                (_, "SelfSubjectReview") => access::self_subject_review(user, &object),
                (_, "SubjectAccessReview") => access::subject_access_review(&server.access, &object)?,
                (_, "SelfSubjectAccessReview") => {
                    access::self_subject_access_review(&server.access, user, &object)?
                }
                (_, "LocalSubjectAccessReview") => {
                    access::local_subject_access_review(&server.access, resource.namespace(), &object)?
                }
                (_, "SelfSubjectRulesReview") => {
                    access::self_subject_rules_review(&server.access, user, &object)?
                }
                _ => return Err(Status::not_implemented(kind)),
            };
            Ok(resource.view()?.encode(StatusCode::CREATED, &answer))
        }
        (_, kind) => Err(Status::not_implemented(kind)),
    }
}

impl Resource {
    fn scale_paths(&self) -> Result<&ScalePaths, Status> {
        self.kind.scale.as_ref().ok_or_else(Status::no_such_resource)
    }

    async fn get_scale(&self) -> Result<Response<Body>, Status> {
        let paths = self.scale_paths()?;
        let object = self.read_one().await?;
        self.answer_scale(paths, &object)
    }

    fn answer_scale(&self, paths: &ScalePaths, object: &Object) -> Result<Response<Body>, Status> {
        let view = self.view()?;
        let scale = paths.of(&self.shown(object.value()));
        Ok(view.value_in(StatusCode::OK, scale, &ScalePaths::table()))
    }

    async fn update_scale(&self, body: &Bytes) -> Result<Response<Body>, Status> {
        let scale = self.read(body)?.value;
        self.write_scale("UpdateOptions", &|_| Ok(scale.clone())).await
    }

    async fn patch_scale(&self, body: &Bytes) -> Result<Response<Body>, Status> {
        let patch = self.read_patch_of(body, ("autoscaling", "v1", "Scale"))?;
        self.write_scale("PatchOptions", &|scale| self.apply_patch(&patch, scale)).await
    }

    /// Writes the scale that `change` makes of the present one.
    async fn write_scale(
        &self,
        options: &str,
        change: &(dyn Fn(&Value) -> Result<Value, Status> + Send + Sync),
    ) -> Result<Response<Body>, Status> {
        let options = WriteOptions::parse(&self.call.query, options)?;
        let paths = self.scale_paths()?;
        let through = |old: &Value| {
            let scale = change(&paths.of(old))?;
            ScalePaths::validate(&scale)?;
            let mut new = old.clone();
            paths.apply(&mut new, &scale);
            // The client's preconditions are those of the scale it sent.
            for key in ["resourceVersion", "uid"] {
                new["metadata"][key] = scale["metadata"][key].clone();
            }
            Ok(new)
        };
        let Written { object } = self.modify(Part::Main, &options, &through).await?;
        self.answer_scale(paths, &object)
    }

    /// Issues a token for a service account.
    async fn token(&self, body: &Bytes) -> Result<Response<Body>, Status> {
        let mut request = self.read(body)?.value;
        self.admit_subresource(Operation::Create, &mut request, false).await?;
        let account = self.read_one().await?.value();
        let server = &self.call.server;
        let answer = server.tokens.request(&account, &request, &*server.cache)?;
        Ok(self.view()?.encode(StatusCode::CREATED, &answer))
    }

    async fn bind(&self, body: &Bytes) -> Result<Response<Body>, Status> {
        let options = WriteOptions::parse(&self.call.query, "CreateOptions")?;
        let mut binding = self.read(body)?.value;
        self.admit_subresource(Operation::Create, &mut binding, options.dry_run).await?;
        self.bind_to(&self.target.name, &binding, &options).await?;
        let view = self.view()?;
        let answer = api::status::success(self.kind.resource(), "", "");
        Ok(view.encode(StatusCode::CREATED, &answer))
    }

    /// Places a pod on the node that a binding names.
    async fn bind_to(&self, pod: &str, binding: &Value, options: &WriteOptions) -> Result<(), Status> {
        let node = binding["target"]["name"].as_str().unwrap_or_default().to_owned();
        let kind = binding["target"]["kind"].as_str().unwrap_or_default();
        if node.is_empty() || !matches!(kind, "" | "Node") {
            let mut errors = api::field::Errors::new();
            let path = api::field::Path::new("target");
            if node.is_empty() {
                errors.required(&path.child("name"), "");
            } else {
                errors.not_supported(&path.child("kind"), kind, &["Node", "<empty>"]);
            }
            return Err(Status::invalid("", "Binding", pod, &errors));
        }
        let pods = self.sibling("", "v1", "pods", pod)?;
        let meta = &binding["metadata"];
        let (uid, version) = (meta["uid"].clone(), meta["resourceVersion"].clone());
        let resource = pods.kind.resource();
        let place = |old: &Value| {
            if api::meta::is_deleting(old) {
                let why = format!("pod {pod} is being deleted, cannot be assigned to a host");
                return Err(Status::conflict_because(resource, pod, &why));
            }
            let present = old["spec"]["nodeName"].as_str().unwrap_or_default();
            if !present.is_empty() {
                let why = format!("pod {pod} is already assigned to node {present:?}");
                return Err(Status::conflict_because(resource, pod, &why));
            }
            if old["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
                let why = format!("pod {pod} has non-empty .spec.schedulingGates");
                return Err(Status::conflict_because(resource, pod, &why));
            }
            let mut new = old.clone();
            new["spec"]["nodeName"] = json!(node);
            new["metadata"]["uid"] = uid.clone();
            new["metadata"]["resourceVersion"] = version.clone();
            if let Some(annotations) = meta["annotations"].as_object() {
                for (key, value) in annotations {
                    new["metadata"]["annotations"][key] = value.clone();
                }
            }
            set_condition(&mut new, "PodScheduled", &super::now(self.call.server.clock.now()));
            Ok(new)
        };
        pods.rewrite(options, &place).await
    }

    /// Deletes a pod unless a disruption budget forbids it.
    async fn evict(&self, body: &Bytes) -> Result<Response<Body>, Status> {
        let mut eviction = self.read(body)?.value;
        let mut options = DeleteOptions::parse(Some(&eviction["deleteOptions"]), &self.call.query)?;
        options.dry_run |= WriteOptions::parse(&self.call.query, "CreateOptions")?.dry_run;
        self.admit_subresource(Operation::Create, &mut eviction, options.dry_run).await?;
        let pod = self.read_one().await?.value();
        let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Pending"));
        if !ended && !api::meta::is_deleting(&pod) {
            self.take_disruption(&pod, options.dry_run).await?;
        }
        self.delete_object(&self.key(), &options).await?;
        let view = self.view()?;
        Ok(view.encode(StatusCode::CREATED, &api::status::success(self.kind.resource(), "", "")))
    }

    /// Counts the eviction of `pod` against the budget that covers it.
    async fn take_disruption(&self, pod: &Value, dry_run: bool) -> Result<(), Status> {
        let budgets = self.sibling("policy", "v1", "poddisruptionbudgets", "")?;
        let empty = serde_json::Map::new();
        let labels = api::meta::labels(pod).unwrap_or(&empty);
        let mut covering = Vec::new();
        for budget in budgets.objects()?.all(self.namespace()).0 {
            let value = budget.value();
            let selector =
                api::selector::Selector::from_object(&value["spec"]["selector"]).map_err(Status::internal)?;
            if value["spec"]["selector"].is_object() && selector.matches(labels.clone()) {
                covering.push(value);
            }
        }
        let Some(budget) = covering.first() else { return Ok(()) };
        if covering.len() > 1 {
            return Err(Status::internal(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
        let name = api::meta::name(budget).to_owned();
        let pod_name = self.target.name.clone();
        let budgets = self.sibling("policy", "v1", "poddisruptionbudgets", &name)?;
        let time = super::now(self.call.server.clock.now());
        let take = |old: &Value| {
            let status = &old["status"];
            let number = |key: &str| status[key].as_i64().unwrap_or(0);
            if number("observedGeneration") < old["metadata"]["generation"].as_i64().unwrap_or(0) {
                return Err(Status::too_many_requests(
                    "Cannot evict pod as it would violate the pod's disruption budget.",
                    10,
                )
                .cause(
                    "DisruptionBudget",
                    format!("The disruption budget {name} is still being processed by the server."),
                    "",
                ));
            }
            if number("disruptionsAllowed") <= 0 {
                return Err(Status::disruption_budget(
                    &name,
                    number("desiredHealthy"),
                    number("currentHealthy"),
                ));
            }
            let mut new = old.clone();
            new["status"]["disruptionsAllowed"] = json!(number("disruptionsAllowed") - 1);
            new["status"]["disruptedPods"][&pod_name] = time.clone();
            Ok(new)
        };
        let options = WriteOptions { dry_run, ..WriteOptions::default() };
        budgets.modify(Part::Status, &options, &take).await.map(drop)
    }

    /// Returns another resource in the namespace of this call, for a step that this call takes on the way.
    pub(crate) fn sibling(
        &self,
        group: &str,
        version: &str,
        plural: &str,
        name: &str,
    ) -> Result<Self, Status> {
        let server = &self.call.server;
        let kind = server.registry.load().resource(group, version, plural).cloned();
        let kind = kind.ok_or_else(|| Status::internal(format!("there is no resource {plural}")))?;
        let cached = kind.storage.as_ref().map(|storage| server.cache.kind(&super::id(storage)));
        let target = crate::path::Target {
            group: group.into(),
            version: version.into(),
            resource: plural.into(),
            name: name.into(),
            namespace: self.target.namespace.clone(),
            ..Default::default()
        };
        Ok(Self { call: Arc::clone(&self.call), kind, target, cached })
    }
}

/// Sets a condition to True, with the time when it was not so before.
fn set_condition(object: &mut Value, kind: &str, time: &Value) {
    if !object["status"]["conditions"].is_array() {
        object["status"]["conditions"] = json!([]);
    }
    let fresh = json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": time});
    if let Some(conditions) = object["status"]["conditions"].as_array_mut() {
        match conditions.iter_mut().find(|condition| condition["type"] == kind) {
            Some(condition) if condition["status"] == "True" => {}
            Some(condition) => *condition = fresh,
            None => conditions.push(fresh),
        }
    }
}
