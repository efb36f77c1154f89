//! Fills cluster roles that collect the rules of others.

use std::sync::Arc;

use client::{Delta, Informer, Key};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::api::{Patch, PatchParams};
use kube::core::{Selector, SelectorExt};
use serde_json::json;

use crate::claim::{self, labels};
use crate::frame::{Context, Next, Result, absent_is_fine, is_deleting, name};

struct Controller {
    context: Context,
    roles: Informer<ClusterRole>,
}

pub(crate) fn start(context: &Context) {
    let controller = Arc::new(Controller { context: context.clone(), roles: context.informers.of() });
    let queue = context.queue();
    let (roles, role_queue) = (controller.roles.clone(), queue.clone());
    controller.roles.observe(move |delta: &Delta<ClusterRole>| {
        let role = delta.object();
        if role.aggregation_rule.is_some() {
            role_queue.add(Key::of(&**role));
        }
        for collector in roles.all() {
            let selectors = selectors(&collector);
            let concerns = |role: &ClusterRole| selectors.iter().any(|one| one.matches(labels(role)));
            if concerns(role) || delta.old().is_some_and(|old| concerns(old)) {
                role_queue.add(Key::of(&*collector));
            }
        }
    });
    let roles = controller.roles.clone();
    context.work("role aggregation", 1, &queue, async move { roles.wait_synced().await }, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

fn selectors(role: &ClusterRole) -> Vec<Selector> {
    let rule = role.aggregation_rule.as_ref().and_then(|rule| rule.cluster_role_selectors.as_ref());
    rule.into_iter().flatten().filter_map(|one| claim::selector(Some(one))).collect()
}

/// Returns the rules of all roles that `collector` selects, each once, in the order of the roles' names.
fn collect(collector: &ClusterRole, roles: &[Arc<ClusterRole>]) -> Vec<PolicyRule> {
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors(collector) {
        for role in roles
            .iter()
            .filter(|role| name(&***role) != name(collector) && selector.matches(labels(&***role)))
        {
            for rule in role.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    rules
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Next> {
        let Some(role) = self.roles.get(key) else { return Ok(Next::Done) };
        if role.aggregation_rule.is_none() || is_deleting(&*role) {
            return Ok(Next::Done);
        }
        let wanted = collect(&role, &self.roles.all());
        let current = role.rules.clone().unwrap_or_default();
        // Another order says the same.
        if wanted.len() == current.len() && wanted.iter().all(|rule| current.contains(rule)) {
            return Ok(Next::Done);
        }
        let patch = json!({ "metadata": { "uid": role.metadata.uid }, "rules": wanted });
        let api = self.context.cluster_api::<ClusterRole>();
        absent_is_fine(api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await)?;
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_collects_each_rule_of_the_selected_roles_once() {
        let role = |name: &str, label: &str, verbs: &[&str]| -> Arc<ClusterRole> {
            let rules: Vec<_> = verbs.iter().map(|verb| json!({"verbs": [verb]})).collect();
            Arc::new(
                serde_json::from_value(
                    json!({"metadata": {"name": name, "labels": {label: "true"}}, "rules": rules}),
                )
                .unwrap(),
            )
        };
        let collector: ClusterRole = serde_json::from_value(json!({"metadata": {"name": "all"},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to-all": "true"}}]}}))
        .unwrap();
        let roles = [
            role("a", "to-all", &["get", "list"]),
            role("b", "to-all", &["get"]),
            role("c", "other", &["delete"]),
        ];
        let verbs: Vec<_> = collect(&collector, &roles).into_iter().flat_map(|rule| rule.verbs).collect();
        assert_eq!(verbs, ["get", "list"]);
    }
}
