//! `cluster status` and `cluster list`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::{Session, client, etcd, kubeconfig, readiness};
use crate::error::Result;
use crate::plan::{Plan, Role, count, plan};
use crate::provider::{self, Power};
use crate::state::State;
use crate::ui::table;

/// How long the API may take to answer: status is asked for when something hangs.
const PATIENCE: Duration = Duration::from_secs(3);

/// Runs `cluster status`.
pub(super) async fn run(session: &Session<'_>) -> Result<()> {
    let (plan, state) = session.existing()?;
    let provider = provider::of(&plan, &state)?;
    let nodes = match std::fs::read_to_string(state.path(kubeconfig::OWN)) {
        Ok(kubeconfig) => match tokio::time::timeout(PATIENCE, nodes(&kubeconfig)).await {
            Ok(Ok(nodes)) => Ok(nodes),
            Ok(Err(error)) => Err(error.line()),
            Err(_) => Err(format!("no answer within {PATIENCE:?}")),
        },
        Err(_) => Err("never was up".into()),
    };
    let mut rows = Vec::new();
    let mut machines = Vec::new();
    for machine in &plan.machines {
        let power = provider.power(machine).await?;
        let mut units = BTreeMap::new();
        if power == Power::Running {
            let host = provider.reach(machine, Instant::now() + PATIENCE, session.ui).await;
            let status = match host {
                Ok(host) => host.status(&machine.units).await,
                Err(error) => Err(error),
            };
            match status {
                Ok(status) => {
                    for (name, unit) in status.units {
                        units.insert(name, format!("{:?}", unit.state).to_lowercase());
                    }
                }
                Err(error) => {
                    units.insert("machine".into(), error.line());
                }
            }
        }
        let address = machine.address.to_string();
        let node = match &nodes {
            Ok(nodes) => nodes.get(&address).cloned().unwrap_or_else(|| "not registered".into()),
            Err(_) => "unknown".into(),
        };
        let role = if machine.role == Role::Master { "master" } else { "worker" };
        let state = power.word();
        let unit_text =
            units.iter().map(|(name, state)| format!("{name} {state}")).collect::<Vec<_>>().join(", ");
        rows.push(vec![
            machine.name.clone(),
            address.clone(),
            role.to_owned(),
            state.to_owned(),
            node.clone(),
            if unit_text.is_empty() { "-".into() } else { unit_text },
        ]);
        machines.push(json!({ "name": machine.name, "address": address, "role": role, "state": state,
            "node": node, "units": units }));
    }
    let mut text = table(&["MACHINE", "ADDRESS", "ROLE", "STATE", "NODE", "UNITS"], &rows);
    if let Err(error) = &nodes {
        text.push_str(&format!("\nthe API at {} cannot be asked: {error}", plan.server()));
    }
    let (etcd, leaders) = (store(&plan, &state, &mut text).await, leaders(&plan, &state, &mut text).await);
    let mut value = json!({ "name": plan.spec.name, "server": plan.server(), "machines": machines,
        "error": nodes.err() });
    if plan.spec.etcd.is_some() {
        value["etcd"] = etcd;
        value["leaders"] = leaders;
    }
    session.ui.answer(&text, &value);
    Ok(())
}

/// Tells of the members of etcd and who of them leads, where there is one.
async fn store(plan: &Plan, state: &State, text: &mut String) -> Value {
    let members = match etcd::members(plan, state) {
        Ok(None) => return Value::Null,
        Ok(Some(members)) => members,
        Err(error) => {
            text.push_str(&format!("\n\netcd cannot be asked: {}", error.line()));
            return json!({ "error": error.line() });
        }
    };
    let Ok(members) = tokio::time::timeout(2 * PATIENCE, members.health()).await else {
        text.push_str("\n\nno member of etcd has answered");
        return json!({ "error": "no answer" });
    };
    let rows: Vec<Vec<String>> = members
        .iter()
        .map(|member| {
            let role = if member.leader { "leader" } else { "follower" };
            let state = member.trouble.clone().unwrap_or_else(|| role.into());
            vec![member.name.clone(), member.endpoint.clone(), state]
        })
        .collect();
    text.push_str(&format!("\n\n{}", table(&["ETCD", "ENDPOINT", "STATE"], &rows)));
    members
        .iter()
        .map(|member| {
            json!({ "name": member.name, "endpoint": member.endpoint, "leader": member.leader,
                "trouble": member.trouble })
        })
        .collect()
}

/// Tells which master runs what runs once in a cluster.
async fn leaders(plan: &Plan, state: &State, text: &mut String) -> Value {
    if plan.spec.etcd.is_none() {
        return Value::Null;
    }
    let mut leaders = BTreeMap::new();
    let asking = async {
        let leases: Api<Lease> = Api::namespaced(super::node::admin(state).await?, "kube-system");
        for name in ["kube-controller-manager", "kube-scheduler"] {
            let lease = leases.get_opt(name).await?;
            let holder = lease.and_then(|lease| lease.spec?.holder_identity).unwrap_or_default();
            // An identity is the master's address and what tells its lives apart.
            let address = holder.split('_').next().unwrap_or_default();
            let machine = plan.machine(address).map_or("nobody", |machine| machine.name.as_str());
            leaders.insert(name, machine.to_owned());
        }
        Ok::<_, crate::error::Error>(())
    };
    // Whether the API answers is told with the nodes.
    if let Ok(Ok(())) = tokio::time::timeout(PATIENCE, asking).await {
        let told: Vec<String> =
            leaders.iter().map(|(name, machine)| format!("{name} on {machine}")).collect();
        text.push_str(&format!("\n\nleading: {}", told.join(", ")));
    }
    json!(leaders)
}

async fn nodes(kubeconfig: &str) -> Result<BTreeMap<String, String>> {
    let nodes: Api<Node> = Api::all(client(kubeconfig, None).await?);
    let list = nodes.list(&ListParams::default()).await?;
    Ok(list.items.iter().map(|node| (node.name_any(), readiness(node))).collect())
}

/// Runs `cluster list`.
pub(super) async fn list(session: &Session<'_>) -> Result<()> {
    let mut rows = Vec::new();
    let mut values: Vec<Value> = Vec::new();
    for name in session.home.list()? {
        let state = session.home.cluster(&name);
        let Some(spec) = state.spec()? else {
            rows.push(vec![name.clone(), "-".into(), "half made".into(), "-".into()]);
            values.push(json!({ "name": name, "state": "half made" }));
            continue;
        };
        let plan = plan(&spec);
        let provider = provider::of(&plan, &state)?;
        let mut running = 0;
        for machine in &plan.machines {
            running += u32::from(provider.power(machine).await? == Power::Running);
        }
        let machines = u32::try_from(plan.machines.len()).unwrap_or(u32::MAX);
        rows.push(vec![
            name.clone(),
            spec.provider.name().into(),
            format!("{running} of {} running", count(machines, "machine")),
            plan.server(),
        ]);
        values.push(json!({ "name": name, "provider": spec.provider.name(), "machines": machines,
            "running": running, "server": plan.server() }));
    }
    let text = if rows.is_empty() {
        "no clusters".to_owned()
    } else {
        table(&["NAME", "PROVIDER", "STATE", "SERVER"], &rows)
    };
    session.ui.answer(&text, &json!(values));
    Ok(())
}
