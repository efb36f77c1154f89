//! Probes: a task for each probe of a running container, which tells the pod's task when the verdict changes.

use std::sync::Arc;
use std::time::Duration;

use client::EventType;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::hooks::{headers, path, resolve_port};
use super::worker::Message;
use crate::agent::Agent;
use crate::http::{Target, dial, get, grpc_health};

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProbeKind {
    /// Whether the container has come up.
    Startup,
    /// Whether it must be restarted.
    Liveness,
    /// Whether it takes traffic.
    Readiness,
}

impl ProbeKind {
    fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// A verdict that has changed.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    /// The container.
    pub(crate) container_id: String,
    /// Its name.
    pub(crate) name: String,
    /// Which probe.
    pub(crate) kind: ProbeKind,
    /// The new verdict.
    pub(crate) healthy: bool,
}

/// Counts results until a threshold makes them a verdict. Pure.
#[derive(Debug, Clone)]
struct Judge {
    verdict: Option<bool>,
    last: bool,
    run: i32,
}

impl Judge {
    fn new(verdict: Option<bool>) -> Self {
        Self { verdict, last: false, run: 0 }
    }

    /// Takes one result; returns the verdict when it changes (or, failing again, is reached anew).
    fn take(&mut self, good: bool, success_threshold: i32, failure_threshold: i32) -> Option<bool> {
        if self.run == 0 || self.last != good {
            self.last = good;
            self.run = 0;
        }
        self.run = self.run.saturating_add(1);
        let needed = if good { success_threshold } else { failure_threshold };
        if self.run < needed || self.verdict == Some(good) {
            return None;
        }
        self.verdict = Some(good);
        Some(good)
    }
}

/// Who is probed.
#[derive(Clone)]
pub(crate) struct Probed {
    /// The pod.
    pub(crate) pod: Arc<Pod>,
    /// The container.
    pub(crate) container: Container,
    /// The container's id.
    pub(crate) id: String,
    /// The pod's address.
    pub(crate) ip: String,
    /// When it was started.
    pub(crate) started_at: jiff::Timestamp,
}

/// Runs one probe until `stop`.
pub(crate) async fn watch(
    agent: Arc<Agent>,
    probed: Probed,
    kind: ProbeKind,
    probe: Probe,
    reports: mpsc::UnboundedSender<Message>,
    stop: CancellationToken,
) {
    let seconds = |value: Option<i32>, least: u64| {
        Duration::from_secs(u64::try_from(value.unwrap_or(0)).unwrap_or(0).max(least))
    };
    let period = if probe.period_seconds.unwrap_or(0) > 0 {
        seconds(probe.period_seconds, 1)
    } else {
        Duration::from_secs(10)
    };
    let success = probe.success_threshold.unwrap_or(1).max(1);
    let failure = probe.failure_threshold.filter(|count| *count > 0).unwrap_or(3);
    let mut judge = Judge::new(match kind {
        ProbeKind::Liveness => Some(true),
        ProbeKind::Readiness => Some(false),
        ProbeKind::Startup => None,
    });
    let due = probed.started_at + seconds(probe.initial_delay_seconds, 0);
    let first = due.duration_since(agent.clock.now());
    if first.is_positive() {
        tokio::select! {
            () = stop.cancelled() => return,
            () = agent.clock.after(first.unsigned_abs()) => {}
        }
    }
    loop {
        let result = tokio::select! {
            () = stop.cancelled() => return,
            result = once(&agent, &probed, &probe) => result,
        };
        if let Err(message) = &result {
            agent.container_event(
                &probed.pod,
                &probed.container.name,
                EventType::Warning,
                "Unhealthy",
                format!("{} probe failed: {message}", kind.name()),
            );
        }
        if let Some(healthy) = judge.take(result.is_ok(), success, failure) {
            let report = Report {
                container_id: probed.id.clone(),
                name: probed.container.name.clone(),
                kind,
                healthy,
            };
            if reports.send(Message::Probe(report)).is_err() {
                return;
            }
            if kind == ProbeKind::Startup {
                // A startup probe has one verdict; after it the others take over or the container is killed.
                return;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = agent.clock.after(period) => {}
        }
    }
}

async fn once(agent: &Agent, probed: &Probed, probe: &Probe) -> Result<(), String> {
    let timeout = Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1)).unwrap_or(1).max(1));
    if let Some(exec) = &probe.exec {
        let command = exec.command.clone().unwrap_or_default();
        return match agent.runtime.exec_sync(&probed.id, &command, Some(timeout)).await {
            Ok(output) if output.exit_code == 0 => Ok(()),
            Ok(output) => {
                let mut said = output.stdout;
                said.extend_from_slice(&output.stderr);
                Err(String::from_utf8_lossy(&said).into_owned())
            }
            Err(runtime::Error::Timeout { .. }) => Err(format!(
                "command timed out: {:?} timed out after {}s",
                command.join(" "),
                timeout.as_secs()
            )),
            Err(error) => Err(error.to_string()),
        };
    }
    if let Some(action) = &probe.http_get {
        let target = Target {
            host: action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| probed.ip.clone()),
            port: resolve_port(&action.port, &probed.container)?,
            tls: action.scheme.as_deref() == Some("HTTPS"),
        };
        let headers = headers(action.http_headers.as_deref().unwrap_or_default(), "kube-probe/1.36");
        let (status, _) = get(&target, &path(action.path.as_deref()), &headers, timeout).await?;
        return if (200..400).contains(&status.as_u16()) {
            Ok(())
        } else {
            Err(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
        };
    }
    if let Some(action) = &probe.tcp_socket {
        let host = action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| probed.ip.clone());
        return dial(&host, resolve_port(&action.port, &probed.container)?, timeout).await.map(drop);
    }
    if let Some(action) = &probe.grpc {
        let port = u16::try_from(action.port).map_err(|_| format!("port {} is out of range", action.port))?;
        let service = action.service.clone().unwrap_or_default();
        return match grpc_health(&probed.ip, port, &service, timeout).await? {
            1 => Ok(()),
            status => Err(format!("service unhealthy (responded with status {status})")),
        };
    }
    Err("missing probe handler".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_turn_results_into_verdicts() {
        let mut readiness = Judge::new(Some(false));
        assert_eq!(readiness.take(true, 2, 3), None);
        assert_eq!(readiness.take(true, 2, 3), Some(true));
        assert_eq!(readiness.take(true, 2, 3), None);
        assert_eq!(readiness.take(false, 2, 3), None);
        assert_eq!(readiness.take(true, 2, 3), None, "one failure among successes counts for nothing");
        for expected in [None, None, Some(false), None] {
            assert_eq!(readiness.take(false, 2, 3), expected);
        }
        let mut liveness = Judge::new(Some(true));
        assert_eq!(liveness.take(true, 1, 1), None);
        assert_eq!(liveness.take(false, 1, 1), Some(false));
    }
}
