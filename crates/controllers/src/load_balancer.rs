//! Gives services of type LoadBalancer an address of the configured range.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use client::{Delta, EventType, Informer, Key, Recorder};
use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, PortStatus, Service};

use crate::frame::{self, Context, Next, Result, is_deleting};

struct Controller {
    context: Context,
    services: Informer<Service>,
    recorder: Recorder,
    /// What was written, until the cache shows it.
    written: frame::Written<Key>,
}

pub(crate) fn start(context: &Context) {
    let controller = Arc::new(Controller {
        context: context.clone(),
        services: context.informers.of(),
        recorder: context.recorder("service-controller"),
        written: frame::Written::default(),
    });
    let queue = context.queue();
    let (services, service_queue) = (controller.services.clone(), queue.clone());
    controller.services.observe(move |delta: &Delta<Service>| {
        let service = delta.object();
        if is_ours(service) || !addresses(service).is_empty() {
            service_queue.add(Key::of(&**service));
        }
        // An address that became free may be what another one waits for.
        let freed = delta.old().is_some_and(|old| addresses(old) != addresses(service));
        if freed || (matches!(delta, Delta::Deleted(_)) && !addresses(service).is_empty()) {
            for other in services.all() {
                if is_ours(&other) && addresses(&other).is_empty() {
                    service_queue.add(Key::of(&*other));
                }
            }
        }
    });
    let ready = {
        let services = controller.services.clone();
        async move { services.wait_synced().await }
    };
    // One worker: two could choose the same address.
    context.work("load balancers", 1, &queue, ready, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

fn is_ours(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| {
        spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none()
    })
}

fn addresses(service: &Service) -> Vec<Ipv4Addr> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    balancer
        .and_then(|balancer| balancer.ingress.as_ref())
        .into_iter()
        .flatten()
        .filter_map(|ingress| ingress.ip.as_ref()?.parse().ok())
        .collect()
}

/// Returns the address that a service gets, or why it gets none.
fn choose(
    range: (Ipv4Addr, Ipv4Addr),
    wanted: Option<&str>,
    current: Option<Ipv4Addr>,
    taken: &HashSet<Ipv4Addr>,
) -> Result<Ipv4Addr, String> {
    let (first, last) = range;
    if let Some(wanted) = wanted {
        let address: Ipv4Addr =
            wanted.parse().map_err(|_| format!("spec.loadBalancerIP {wanted:?} is not an IPv4 address"))?;
        if address < first || address > last {
            return Err(format!(
                "requested address {address} is not in the load balancer range {first}-{last}"
            ));
        }
        if taken.contains(&address) {
            return Err(format!("requested address {address} is in use by another service"));
        }
        return Ok(address);
    }
    if let Some(current) = current
        && (first..=last).contains(&current)
        && !taken.contains(&current)
    {
        return Ok(current);
    }
    (u32::from(first)..=u32::from(last))
        .map(Ipv4Addr::from)
        .find(|address| !taken.contains(address))
        .ok_or_else(|| format!("no address is left in the load balancer range {first}-{last}"))
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Next> {
        // Addresses are unique over all services, so the cache has to show all that was given.
        let everything = Key::cluster("");
        if !self.written.is_shown(&everything, self.services.version()) {
            self.context.clock.after(std::time::Duration::from_millis(5)).await;
            return Err(frame::Error::Other("the cache does not show the last address given yet".into()));
        }
        let Some(service) = self.services.get(key) else { return Ok(Next::Done) };
        if is_deleting(&*service) {
            return Ok(Next::Done);
        }
        let old = service.status.clone().unwrap_or_default();
        let mut new = old.clone();
        let current = addresses(&service).first().copied();
        let mut ensured = None;
        if is_ours(&service) {
            let taken: HashSet<Ipv4Addr> = self
                .services
                .all()
                .iter()
                .filter(|other| Key::of(&***other) != *key)
                .flat_map(|other| addresses(other))
                .collect();
            let spec = service.spec.clone().unwrap_or_default();
            let wanted = spec.load_balancer_ip.as_deref().filter(|ip| !ip.is_empty());
            let address = match choose(self.context.config.load_balancer_range, wanted, current, &taken) {
                Ok(address) => address,
                Err(why) => {
                    let message =
                        format!("Error syncing load balancer: failed to ensure load balancer: {why}");
                    self.recorder.event(&*service, EventType::Warning, "SyncLoadBalancerFailed", message);
                    return Ok(Next::Done);
                }
            };
            if current == Some(address) {
                return Ok(Next::Done);
            }
            let ports = spec.ports.iter().flatten().map(|port| PortStatus {
                port: port.port,
                protocol: port.protocol.clone().unwrap_or("TCP".into()),
                error: None,
            });
            new.load_balancer = Some(LoadBalancerStatus {
                ingress: Some(vec![LoadBalancerIngress {
                    ip: Some(address.to_string()),
                    ip_mode: Some("VIP".into()),
                    ports: Some(ports.collect()),
                    hostname: None,
                }]),
            });
            ensured = Some(address);
            self.recorder.event(
                &*service,
                EventType::Normal,
                "EnsuringLoadBalancer",
                "Ensuring load balancer",
            );
        } else {
            if service.spec.as_ref().is_some_and(|spec| spec.load_balancer_class.is_some()) {
                return Ok(Next::Done);
            }
            new.load_balancer = Some(LoadBalancerStatus::default());
            self.recorder.event(
                &*service,
                EventType::Normal,
                "DeletingLoadBalancer",
                "Deleting load balancer",
            );
        }
        let api = self.context.api::<Service>(&key.namespace);
        let patch = serde_json::json!({
            "metadata": { "uid": service.metadata.uid },
            "status": { "loadBalancer": new.load_balancer },
        });
        let made = api
            .patch_status(&key.name, &kube::api::PatchParams::default(), &kube::api::Patch::Merge(patch))
            .await?;
        self.written.note(&everything, &made);
        if ensured.is_some() {
            self.recorder.event(&*service, EventType::Normal, "EnsuredLoadBalancer", "Ensured load balancer");
        } else {
            self.recorder.event(&*service, EventType::Normal, "DeletedLoadBalancer", "Deleted load balancer");
        }
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_the_wanted_one_the_old_one_or_the_first_free_one() {
        let address = |last: u8| Ipv4Addr::new(172, 17, 4, last);
        let range = (address(241), address(243));
        let taken = HashSet::from([address(241)]);
        for (wanted, current, expect) in [
            (None, None, Ok(address(242))),
            (None, Some(address(243)), Ok(address(243))),
            (None, Some(address(241)), Ok(address(242))),
            (Some("172.17.4.243"), None, Ok(address(243))),
            (Some("172.17.4.241"), None, Err("requested address 172.17.4.241 is in use by another service")),
            (
                Some("10.0.0.1"),
                None,
                Err("requested address 10.0.0.1 is not in the load balancer range 172.17.4.241-172.17.4.243"),
            ),
        ] {
            assert_eq!(choose(range, wanted, current, &taken), expect.map_err(str::to_owned));
        }
        let all = HashSet::from([address(241), address(242), address(243)]);
        assert!(choose(range, None, None, &all).unwrap_err().starts_with("no address is left"));
    }
}
