//! Waits until a cluster is ready: its units, then its nodes by a watch, then its DNS from inside a node.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};

use super::client;
use crate::error::{Context, Error, Result};
use crate::plan::{Machine, Plan, Role};
use crate::provider::{EXECUTABLE, Host, Status, UnitState};
use crate::ui::Ui;

/// A unit that ended this often while it was waited for does not come up by itself.
const HOPELESS: u32 = 6;
/// How many lines of a log go into an error.
const LOG_LINES: usize = 10;

/// A machine and the way to work on it.
type Reached<'a> = (&'a Machine, Box<dyn Host + 'a>);

/// Waits until everything is ready.
///
/// # Errors
/// After `deadline`, with the last state seen and the last lines of the log of what is not ready.
pub(super) async fn wait(
    hosts: &[Reached<'_>],
    plan: &Plan,
    kubeconfig: &str,
    deadline: Instant,
    ui: &Ui,
) -> Result<()> {
    for (machine, host) in hosts {
        units(&**host, machine, deadline).await?;
    }
    ui.progress("waiting for nodes");
    let left = deadline.saturating_duration_since(Instant::now());
    let mut seen = BTreeMap::new();
    match tokio::time::timeout(left, nodes(plan, kubeconfig, &mut seen)).await {
        Ok(outcome) => outcome?,
        Err(_) => return Err(not_ready(hosts, &seen).await),
    }
    ui.progress("asking DNS");
    dns(hosts, plan, deadline).await
}

/// Waits until every unit of a machine is ready.
pub(super) async fn units(host: &dyn Host, machine: &Machine, deadline: Instant) -> Result<()> {
    let mut last = Status::default();
    let mut hopeless = None;
    // What was restarted before, in an earlier life of the cluster, says nothing of now.
    let mut before: Option<BTreeMap<String, u32>> = None;
    host.watch(&machine.units, deadline, &mut |status| {
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
    })
    .await?;
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
        error = error.because(log_tail(host, machine, &unit).await);
        error = error.hint(format!(
            "`cluster logs {} --unit {unit}` shows all of it; `cluster up` tries again",
            machine.name
        ));
    }
    Err(error)
}

/// Returns whether every unit of a machine is ready.
pub(super) fn all_ready(status: &Status, machine: &Machine) -> bool {
    machine
        .units
        .iter()
        .all(|unit| status.units.get(&unit.name).is_some_and(|status| status.state == UnitState::Ready))
}

async fn log_tail(host: &dyn Host, machine: &Machine, unit: &str) -> String {
    match host.log(unit, Some(LOG_LINES)).await.map(|text| text.trim_end().to_owned()) {
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

async fn not_ready(hosts: &[Reached<'_>], seen: &BTreeMap<String, String>) -> Error {
    let mut error = Error::user("the nodes are not ready in time");
    for (machine, host) in hosts {
        let address = machine.address.to_string();
        let state = seen.get(&address).map_or("not registered", String::as_str);
        if state == "Ready" {
            continue;
        }
        error = error
            .because(format!("{} ({address}): {state}", machine.name))
            .because(log_tail(&**host, machine, "node-agent").await);
    }
    if let Some(api) = seen.get("the API") {
        error = error.because(format!("the API: {api}"));
    }
    error.hint("`cluster status` shows the state now; `cluster up` goes on where it stopped")
}

/// Asks the cluster's DNS from inside a node for the API's own name.
async fn dns(hosts: &[Reached<'_>], plan: &Plan, deadline: Instant) -> Result<()> {
    let asker = hosts.iter().find(|(machine, _)| machine.role == Role::Worker).or(hosts.first());
    let (asker, host) = asker.context("the plan has no machine")?;
    let network = &plan.spec.network;
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
    let command: Vec<String> = [
        EXECUTABLE.to_owned(),
        "dns-query".into(),
        network.dns.to_string(),
        format!("kubernetes.default.svc.{}", network.domain),
        left.as_millis().to_string(),
    ]
    .into();
    let output = host.run(&command).await.context(format!("asking DNS from {}", asker.name))?;
    let expected = crate::plan::api_address(&plan.spec).to_string();
    let answer = output.stdout.trim();
    if output.code == 0 && answer == expected {
        return Ok(());
    }
    let said = output.stderr.trim().to_owned();
    Err(Error::user(format!("the cluster's DNS at {} does not answer {} in time", network.dns, asker.name))
        .because(if answer.is_empty() { said } else { format!("it answered {answer}, not {expected}") })
        .because(log_tail(&**host, asker, "node-agent").await)
        .hint(format!("`cluster logs {} --unit node-agent` shows all of it", asker.name)))
}
