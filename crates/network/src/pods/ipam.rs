//! Which pod has which address: a plain value, written to the checkpoint after each change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::HostPort;
use crate::{Error, Result};

/// The addresses of a node's pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ipam {
    cidr: Ipv4Net,
    /// The address given out last: the search goes on behind it, so that one that was just freed is the
    /// last to be used again and nobody's old connections reach a new pod.
    last: Option<Ipv4Addr>,
    pods: BTreeMap<String, Attachment>,
    /// Addresses found in the kernel whose pods are not known.
    #[serde(skip)]
    strays: BTreeSet<Ipv4Addr>,
}

/// What a pod holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attachment {
    pub(super) address: Ipv4Addr,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) ports: Vec<HostPort>,
}

impl Ipam {
    pub(super) fn new(cidr: Ipv4Net) -> Self {
        Self { cidr, last: None, pods: BTreeMap::new(), strays: BTreeSet::new() }
    }

    /// Takes up what a checkpoint says. Pods of another network were made before the node got this one:
    /// they are forgotten, since their addresses lead nowhere.
    pub(super) fn restore(cidr: Ipv4Net, checkpoint: &[u8]) -> Result<Self, serde_json::Error> {
        let found: Self = serde_json::from_slice(checkpoint)?;
        if found.cidr.trunc() != cidr.trunc() {
            return Ok(Self::new(cidr));
        }
        let pods = found.pods.into_iter().filter(|(_, pod)| cidr.contains(&pod.address)).collect();
        Ok(Self { cidr, pods, ..found })
    }

    pub(super) fn checkpoint(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self)
            .map_err(|error| Error::Invalid(format!("writing the checkpoint of pod addresses: {error}")))
    }

    pub(super) fn get(&self, id: &str) -> Option<&Attachment> {
        self.pods.get(id)
    }

    pub(super) fn pods(&self) -> &BTreeMap<String, Attachment> {
        &self.pods
    }

    /// Keeps an address that is in use by a pod that is not known (yet).
    pub(super) fn add_stray(&mut self, address: Ipv4Addr) {
        if self.cidr.contains(&address) && self.pods.values().all(|pod| pod.address != address) {
            self.strays.insert(address);
        }
    }

    pub(super) fn strays(&self) -> &BTreeSet<Ipv4Addr> {
        &self.strays
    }

    /// Gives `id` its address: the one it has, else the stray one that was found in it, else a new one.
    pub(super) fn allocate(
        &mut self,
        id: &str,
        found: Option<Ipv4Addr>,
        ports: &[HostPort],
    ) -> Result<Ipv4Addr> {
        if let Some(pod) = self.pods.get_mut(id) {
            pod.ports = ports.to_vec();
            return Ok(pod.address);
        }
        let adopted = found.filter(|address| self.strays.remove(address));
        let address = match adopted {
            Some(address) => address,
            None => {
                let address = self.next_free()?;
                self.last = Some(address);
                address
            }
        };
        self.pods.insert(id.into(), Attachment { address, ports: ports.to_vec() });
        Ok(address)
    }

    /// Frees the address of `id` and returns it.
    pub(super) fn release(&mut self, id: &str) -> Option<Attachment> {
        self.pods.remove(id)
    }

    pub(super) fn release_stray(&mut self, address: Ipv4Addr) {
        self.strays.remove(&address);
    }

    fn next_free(&self) -> Result<Ipv4Addr> {
        let used: BTreeSet<u32> = self
            .pods
            .values()
            .map(|pod| pod.address)
            .chain(self.strays.iter().copied())
            .map(u32::from)
            .collect();
        let (network, broadcast) = (u32::from(self.cidr.network()), u32::from(self.cidr.broadcast()));
        // The network's own address, the first (people take it for the gateway) and the broadcast stay free.
        let (first, end) = (network.saturating_add(2), broadcast);
        let start = self.last.map_or(first, |last| u32::from(last).saturating_add(1));
        (start.max(first)..end)
            .chain(first..start.min(end))
            .find(|candidate| !used.contains(candidate))
            .map(Ipv4Addr::from)
            .ok_or(Error::Exhausted { cidr: self.cidr, used: used.len() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ipam(cidr: &str) -> Ipam {
        Ipam::new(cidr.parse().unwrap())
    }

    fn take(ipam: &mut Ipam, id: &str) -> String {
        ipam.allocate(id, None, &[]).unwrap().to_string()
    }

    #[test]
    fn addresses_are_given_in_order_and_twice_the_same_to_the_same_pod() {
        let mut ipam = ipam("10.2.7.0/24");
        assert_eq!(take(&mut ipam, "a"), "10.2.7.2");
        assert_eq!(take(&mut ipam, "b"), "10.2.7.3");
        assert_eq!(take(&mut ipam, "a"), "10.2.7.2");
    }

    #[test]
    fn a_freed_address_comes_back_only_after_all_others() {
        let mut ipam = ipam("10.2.7.0/29");
        let first = take(&mut ipam, "a");
        ipam.release("a");
        let mut later: Vec<String> = Vec::new();
        for id in ["b", "c", "d", "e"] {
            later.push(take(&mut ipam, id));
            ipam.release(id);
        }
        assert!(!later.contains(&first), "{later:?}");
        assert_eq!(take(&mut ipam, "f"), first);
    }

    #[test]
    fn a_full_network_is_an_error_that_names_it() {
        let mut ipam = ipam("10.2.7.0/29");
        for id in ["a", "b", "c", "d", "e"] {
            take(&mut ipam, id);
        }
        let error = ipam.allocate("f", None, &[]).unwrap_err();
        assert!(error.to_string().starts_with("no free address in 10.2.7.0/29: all 5 are in use"), "{error}");
        ipam.release("c");
        assert_eq!(take(&mut ipam, "f"), "10.2.7.4");
    }

    #[test]
    fn a_checkpoint_reads_back_and_keeps_the_place_of_the_search() {
        let mut before = ipam("10.2.7.0/24");
        take(&mut before, "a");
        take(&mut before, "b");
        before.release("b");
        let mut after = Ipam::restore(before.cidr, &before.checkpoint().unwrap()).unwrap();
        assert_eq!(after, before);
        assert_eq!(take(&mut after, "c"), "10.2.7.4");
    }

    #[test]
    fn a_checkpoint_of_another_network_is_forgotten() {
        let mut before = ipam("10.2.7.0/24");
        take(&mut before, "a");
        let after = Ipam::restore("10.2.8.0/24".parse().unwrap(), &before.checkpoint().unwrap()).unwrap();
        assert!(after.pods().is_empty());
    }

    #[test]
    fn a_stray_address_is_not_given_out_but_adopted_by_its_pod() {
        let mut ipam = ipam("10.2.7.0/24");
        ipam.add_stray(Ipv4Addr::new(10, 2, 7, 2));
        assert_eq!(take(&mut ipam, "new"), "10.2.7.3");
        let adopted = ipam.allocate("old", Some(Ipv4Addr::new(10, 2, 7, 2)), &[]).unwrap();
        assert_eq!(adopted, Ipv4Addr::new(10, 2, 7, 2));
        assert!(ipam.strays().is_empty());
    }

    proptest! {
        #[test]
        fn no_two_pods_ever_share_an_address(steps in prop::collection::vec((any::<bool>(), 0u8..40), 1..200)) {
            let mut ipam = ipam("10.2.7.0/27");
            for (add, id) in steps {
                let id = id.to_string();
                if add {
                    if let Err(error) = ipam.allocate(&id, None, &[]) {
                        let full = matches!(error, Error::Exhausted { used: 29, .. });
                        prop_assert!(full, "{}", error);
                    }
                } else {
                    ipam.release(&id);
                }
                let addresses: BTreeSet<_> = ipam.pods().values().map(|pod| pod.address).collect();
                prop_assert_eq!(addresses.len(), ipam.pods().len());
                prop_assert!(addresses.iter().all(|address| ipam.cidr.contains(address)));
            }
        }
    }
}
