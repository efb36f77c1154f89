//! What the pod's task does about probes: it starts and stops them with their containers and acts on verdicts.

use std::time::Duration;

use runtime::ContainerStatus;

use super::Worker;
use crate::pods::model::find_container;
use crate::pods::plan::Kill;
use crate::pods::probes::{self, ProbeKind, Probed, Report};
use crate::pods::start::grace_period;

impl Worker {
    pub(super) fn begin_probes(&mut self, status: &ContainerStatus, started: bool, ready: bool) {
        let Some(container) = find_container(&self.pod, &status.name) else { return };
        let known = self.memory.container(&status.name);
        known.probed = status.id.clone();
        known.started = started || container.startup_probe.is_none();
        known.ready = container.readiness_probe.is_none() || ready;
        if container.startup_probe.is_none()
            && container.liveness_probe.is_none()
            && container.readiness_probe.is_none()
        {
            return;
        }
        let stop = self.agent.tasks.token().child_token();
        if let Some(old) = self.probes.insert(status.id.clone(), stop) {
            old.cancel();
        }
        if known.started {
            self.spawn_probes(status, &[ProbeKind::Liveness, ProbeKind::Readiness]);
        } else {
            self.spawn_probes(status, &[ProbeKind::Startup]);
        }
    }

    pub(super) fn spawn_probes(&mut self, status: &ContainerStatus, kinds: &[ProbeKind]) {
        let Some(container) = find_container(&self.pod, &status.name) else { return };
        let Some(stop) = self.probes.get(&status.id) else { return };
        let probed = Probed {
            pod: self.pod.clone(),
            id: status.id.clone(),
            ip: self.memory.ips.first().cloned().unwrap_or_default(),
            started_at: status.started_at.unwrap_or_else(|| self.agent.clock.now()),
            container: container.clone(),
        };
        for kind in kinds {
            let probe = match kind {
                ProbeKind::Startup => container.startup_probe.clone(),
                ProbeKind::Liveness => container.liveness_probe.clone(),
                ProbeKind::Readiness => container.readiness_probe.clone(),
            };
            if let Some(probe) = probe {
                let watching = probes::watch(
                    self.agent.clone(),
                    probed.clone(),
                    *kind,
                    probe,
                    self.own.clone(),
                    stop.clone(),
                );
                self.agent.tasks.spawn("probe", watching);
            }
        }
    }

    pub(super) fn probed(&mut self, report: &Report) {
        let known = self.memory.container(&report.name);
        if known.probed != report.container_id {
            return;
        }
        let Some(status) = self.view.containers.iter().find(|one| one.id == report.container_id).cloned()
        else {
            return;
        };
        match (report.kind, report.healthy) {
            (ProbeKind::Readiness, healthy) => known.ready = healthy,
            (ProbeKind::Startup, true) => {
                known.started = true;
                self.spawn_probes(&status, &[ProbeKind::Liveness, ProbeKind::Readiness]);
            }
            (ProbeKind::Liveness, true) => {}
            (kind @ (ProbeKind::Startup | ProbeKind::Liveness), false) => {
                known.ready = false;
                let container = find_container(&self.pod, &report.name).unwrap_or_default();
                let (word, probe) = match kind {
                    ProbeKind::Startup => ("startup", container.startup_probe),
                    _ => ("liveness", container.liveness_probe),
                };
                let grace = probe.and_then(|probe| probe.termination_grace_period_seconds).map_or_else(
                    || grace_period(&self.pod),
                    |seconds| Duration::from_secs(seconds.unsigned_abs()),
                );
                let kill = Kill {
                    id: report.container_id.clone(),
                    name: report.name.clone(),
                    message: format!("Container {} failed {word} probe, will be restarted", report.name),
                };
                self.kill_with(&kill, grace);
            }
        }
    }
}
