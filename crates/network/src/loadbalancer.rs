//! Load-balancer addresses that this node answers for: addresses on its own interface. The node agent says
//! which; the service proxy leads what arrives there to endpoints.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use rtnetlink::packet_route::address::AddressScope;

use crate::links::{Interface, Links, Made};
use crate::{Result, arp};

/// The load-balancer addresses on the node's interface.
#[derive(Debug)]
pub struct LoadBalancerAddresses {
    links: Links,
    interface: Interface,
    node_ip: Ipv4Addr,
    /// Marks our addresses, so that they are told from others' after a restart.
    label: String,
    /// One caller at a time.
    turn: tokio::sync::Mutex<()>,
}

impl LoadBalancerAddresses {
    /// Finds the interface that has `node_ip`. Addresses that an earlier process claimed stay until
    /// [`Self::set`].
    ///
    /// # Errors
    /// When no interface has the address.
    pub async fn open(node_ip: Ipv4Addr) -> Result<Self> {
        let links = Links::open()?;
        let interface = links.interface_with(node_ip).await?;
        let label = label(&interface.name);
        Ok(Self { links, interface, node_ip, label, turn: tokio::sync::Mutex::new(()) })
    }

    /// Makes the claimed addresses exactly these, and announces new ones to the network by ARP, so that
    /// bridges and neighbours learn at once where they moved.
    ///
    /// # Errors
    /// When the kernel refuses; the other addresses are still claimed and given up.
    pub async fn set(&self, addresses: &BTreeSet<Ipv4Addr>) -> Result<()> {
        let _turn = self.turn.lock().await;
        let index = self.interface.index;
        let held: BTreeSet<Ipv4Addr> = self
            .links
            .addresses(Some(index))
            .await?
            .into_iter()
            .filter(|one| one.index == index && one.prefix == 32 && one.label.as_ref() == Some(&self.label))
            .map(|one| one.address)
            .collect();
        let mut outcome = Ok(());
        for address in held.difference(addresses) {
            outcome = outcome.and(self.links.remove_address(index, *address).await);
        }
        let mut fresh = Vec::new();
        for address in addresses.difference(&held).filter(|one| **one != self.node_ip) {
            match self.links.add_address(index, *address, AddressScope::Universe, Some(&self.label)).await {
                Ok(Made::New) => fresh.push(*address),
                Ok(Made::Before) => {}
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        match self.interface.mac {
            Some(mac) => outcome.and(arp::announce(index, mac, &fresh)),
            // An interface without hardware addresses has no neighbours to tell.
            None => outcome,
        }
    }
}

/// The kernel keeps 15 characters.
fn label(interface: &str) -> String {
    let stem: String = interface.chars().take(12).collect();
    format!("{stem}:lb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_fits_into_the_kernels_15_characters() {
        assert_eq!(label("eth0"), "eth0:lb");
        assert_eq!(label("enp129s0f1np1x"), "enp129s0f1np:lb");
        assert_eq!(label("enp129s0f1np1x").len(), 15);
    }
}
