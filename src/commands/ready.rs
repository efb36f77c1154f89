//! Waits until a cluster is ready: its units, then its nodes by a watch, then its DNS from inside a node.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};

use super::{client, logs};
use crate::error::{Context, Error, Result};
use crate::plan::{Machine, Plan, Role};
use crate::provider::local::{Local, Status, UnitState};
use crate::ui::Ui;

/// A unit that ended this often while it was waited for does not come up by itself.
const HOPELESS: u32 = 6;
/// How many lines of a log go into an error.
const LOG_LINES: usize = 10;

/// Waits until everything is ready.
///
/// # Errors
/// After `deadline`, with the last state seen and the last lines of the log of what is not ready.
pub(super) async fn wait(
    local: &Local<'_>,
    plan: &Plan,
    kubeconfig: &str,
    deadline: Instant,
    ui: &Ui,
) -> Result<()> {
    for machine in &plan.machines {
        units(local, machine, deadline)?;
    }
    ui.progress("waiting for nodes");
    let left = deadline.saturating_duration_since(Instant::now());
    let mut seen = BTreeMap::new();
    match tokio::time::timeout(left, nodes(plan, kubeconfig, &mut seen)).await {
        Ok(outcome) => outcome?,
        Err(_) => return Err(not_ready(local, plan, &seen)),
    }
    ui.progress("asking DNS");
    dns(local, plan, deadline).await
}

/// Waits until every unit of a machine is ready.
fn units(local: &Local<'_>, machine: &Machine, deadline: Instant) -> Result<()> {
    let mut last = Status::default();
    let mut hopeless = None;
    // What was restarted before, in an earlier life of the cluster, says nothing of now.
    let mut before: Option<BTreeMap<String, u32>> = None;
    local.watch(machine, deadline, |status| {
        last = status.clone();
        let before = before.get_or_insert_with(|| {
            status.units.iter().map(|(name, unit)| (name.clone(), unit.restarts)).collect()
        });
        let since = |name: &String, restarts: u32| {
            restarts.saturating_sub(before.get(name).copied().unwrap_or_default())
        };
        hopeless = status
            .units
            .iter()
            .find(|(name, unit)| since(name, unit.restarts) >= HOPELESS && unit.state != UnitState::Ready)
            .map(|(name, _)| name.clone());
        hopeless.is_none() && !all_ready(status, machine)
    })?;
    if all_ready(&last, machine) {
        return Ok(());
    }
    let culprit = hopeless.or_else(|| {
        last.units.iter().find(|(_, unit)| unit.state != UnitState::Ready).map(|(name, _)| name.clone())
    });
    let mut error = Error::user(format!("{} ({}) is not ready", machine.name, machine.address));
    for (name, unit) in &last.units {
        let state = format!("{:?}", unit.state).to_lowercase();
        let text = if unit.text.is_empty() { String::new() } else { format!(", {}", unit.text) };
        error = error.because(format!("{name}: {state}, {} restarts{text}", unit.restarts));
    }
    if let Some(unit) = culprit {
        error = error.because(log_tail(local, machine, &unit));
        error = error.hint(format!(
            "`cluster logs {} --unit {unit}` shows all of it; `cluster up` tries again",
            machine.name
        ));
    }
    Err(error)
}

fn all_ready(status: &Status, machine: &Machine) -> bool {
    machine
        .units
        .iter()
        .all(|unit| status.units.get(&unit.name).is_some_and(|status| status.state == UnitState::Ready))
}

fn log_tail(local: &Local<'_>, machine: &Machine, unit: &str) -> String {
    match logs::tail(local, machine, unit, LOG_LINES) {
        Ok(text) if text.is_empty() => format!("the log of {unit} on {} is empty", machine.name),
        Ok(text) => format!("the log of {unit} on {} ends with:\n{text}", machine.name),
        Err(error) => format!("the log of {unit} on {} cannot be read: {}", machine.name, error.line()),
    }
}

/// Watches nodes until all of the plan are Ready. `seen` keeps what was last seen of each.
async fn nodes(plan: &Plan, kubeconfig: &str, seen: &mut BTreeMap<String, String>) -> Result<()> {
    let nodes: Api<Node> = Api::all(client(kubeconfig, None).await?);
    let stream = watcher(nodes, watcher::Config::default());
    futures::pin_mut!(stream);
    loop {
        // Errors of a watch pass: the watcher lists again, with its own back-off.
        match stream.try_next().await {
            Ok(Some(watcher::Event::Apply(node) | watcher::Event::InitApply(node))) => {
                seen.insert(node.name_any(), readiness(&node));
            }
            Ok(Some(watcher::Event::Delete(node))) => {
                seen.remove(&node.name_any());
            }
            Ok(Some(_)) => {}
            Ok(None) => return Err(Error::internal("the watch of nodes ended")),
            Err(error) => {
                seen.insert("the API".into(), error.to_string());
                continue;
            }
        }
        let ready =
            |machine: &Machine| seen.get(&machine.address.to_string()).is_some_and(|state| state == "Ready");
        if plan.machines.iter().all(ready) {
            return Ok(());
        }
    }
}

/// Returns `Ready`, or why a node is not.
pub(crate) fn readiness(node: &Node) -> String {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    match conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready") {
        Some(ready) if ready.status == "True" => "Ready".into(),
        Some(ready) => format!(
            "NotReady: {}: {}",
            ready.reason.as_deref().unwrap_or("no reason"),
            ready.message.as_deref().unwrap_or("no message")
        ),
        None => "NotReady: the node has not reported yet".into(),
    }
}

fn not_ready(local: &Local<'_>, plan: &Plan, seen: &BTreeMap<String, String>) -> Error {
    let mut error = Error::user("the nodes are not ready in time");
    for machine in &plan.machines {
        let address = machine.address.to_string();
        let state = seen.get(&address).map_or("not registered", String::as_str);
        if state == "Ready" {
            continue;
        }
        error = error.because(format!("{} ({address}): {state}", machine.name)).because(log_tail(
            local,
            machine,
            "node-agent",
        ));
    }
    if let Some(api) = seen.get("the API") {
        error = error.because(format!("the API: {api}"));
    }
    error.hint("`cluster status` shows the state now; `cluster up` goes on where it stopped")
}

/// Asks the cluster's DNS from inside a node for the API's own name.
async fn dns(local: &Local<'_>, plan: &Plan, deadline: Instant) -> Result<()> {
    let asker = plan.machines.iter().find(|machine| machine.role == Role::Worker).or(plan.machines.first());
    let asker = asker.context("the plan has no machine")?;
    let network = &plan.spec.network;
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
    let command: Vec<String> = [
        "/opt/bin/cluster".to_owned(),
        "dns-query".into(),
        network.dns.to_string(),
        format!("kubernetes.default.svc.{}", network.domain),
        left.as_millis().to_string(),
    ]
    .into();
    let output = tokio::process::Command::from(local.command(asker, &command, false)?)
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .context(format!("asking DNS from {}", asker.name))?;
    let expected = crate::plan::api_address(&plan.spec).to_string();
    let answer = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && answer == expected {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::user(format!("the cluster's DNS at {} does not answer {} in time", network.dns, asker.name))
        .because(if answer.is_empty() { said } else { format!("it answered {answer}, not {expected}") })
        .because(log_tail(local, asker, "node-agent"))
        .hint(format!("`cluster logs {} --unit node-agent` shows all of it", asker.name)))
}
