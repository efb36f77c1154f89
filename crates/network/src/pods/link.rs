//! The veth pair of one pod. The node's end is named after the pod's address, so it can be found again.
//!
//! The pod sends everything to a gateway that exists only as a permanent neighbour entry; the node has one
//! route for each pod. Neither side ever asks by ARP.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;

use ipnet::Ipv4Net;
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::address::AddressScope;

use super::PodNetworkConfig;
use crate::links::{Interface, Links, Route, Via, mac_of};
use crate::{Error, Result, namespace};

/// The gateway that every pod sees.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The name of the pod's end.
const POD_END: &str = "eth0";
const PREFIX: &str = "pod";
/// The loopback interface is the first of every network namespace.
const LOOPBACK: u32 = 1;

/// Returns the name of the node's end of a pod's pair.
fn name_of(address: Ipv4Addr) -> String {
    format!("{PREFIX}{:08x}", u32::from(address))
}

/// Returns the pod's address, if this is the name of a node's end.
pub(super) fn address_of(name: &str) -> Option<Ipv4Addr> {
    let digits = name.strip_prefix(PREFIX).filter(|digits| digits.len() == 8)?;
    u32::from_str_radix(digits, 16).ok().map(Ipv4Addr::from)
}

/// Connects a pod, or repairs its connection.
pub(super) async fn connect(
    links: &Links,
    config: &PodNetworkConfig,
    interface: &Interface,
    address: Ipv4Addr,
    netns: &Path,
) -> Result<()> {
    let name = name_of(address);
    let mut pod = None;
    if let Ok(index) = if_nametoindex(name.as_str()) {
        pod = enter(netns).await?;
        if pod.is_none() {
            // The pair belongs to a namespace that this pod no longer has.
            links.remove(index).await?;
        }
    }
    let (inner, inner_index) = match pod {
        Some(pod) => pod,
        None => {
            let context = format!("opening the network namespace {}", netns.display());
            let file = fs_err::File::open(netns).map_err(Error::io(context))?;
            let (mac, pod_mac) = (mac_of(GATEWAY), mac_of(address));
            links.add_veth(&name, mac, POD_END, pod_mac, interface.mtu, file.as_fd()).await?;
            enter(netns).await?.ok_or_else(|| Error::Kernel {
                context: format!("connecting the pod at {}", netns.display()),
                reason: format!("{POD_END} vanished while it was set up"),
            })?
        }
    };
    let outer_index = if_nametoindex(name.as_str()).map_err(|errno| Error::Io {
        context: format!("looking up the link {name}"),
        source: errno.into(),
    })?;

    let pod_side = async {
        // Routes and neighbours need their interface up, and a default route an address.
        tokio::try_join!(
            inner.set_up(LOOPBACK),
            inner.set_up(inner_index),
            inner.add_address(inner_index, address, AddressScope::Universe, None)
        )?;
        let everything = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);
        let default = Route { destination: everything, via: Via::OnLink(GATEWAY, inner_index) };
        tokio::try_join!(
            inner.set_neighbour(inner_index, GATEWAY, mac_of(GATEWAY)),
            inner.set_route(&default)
        )
    };
    let node_side = async {
        links.set_up(outer_index).await?;
        let route = Route { destination: address.into(), via: Via::Link(outer_index, config.node_ip) };
        tokio::try_join!(links.set_neighbour(outer_index, address, mac_of(address)), links.set_route(&route))
    };
    tokio::try_join!(pod_side, node_side)?;
    tokio::try_join!(inner.wait_for_carrier(inner_index), links.wait_for_carrier(outer_index)).map(|_| ())
}

/// Takes a pod's pair away; routes and neighbours go with it.
pub(super) async fn disconnect(links: &Links, address: Ipv4Addr) -> Result<()> {
    match if_nametoindex(name_of(address).as_str()) {
        Ok(index) => links.remove(index).await,
        Err(_) => Ok(()),
    }
}

/// Returns the address that the pod at `netns` already has.
pub(super) async fn address_in(netns: &Path) -> Result<Option<Ipv4Addr>> {
    let Some((inner, index)) = enter(netns).await? else { return Ok(None) };
    Ok(inner.addresses(Some(index)).await?.first().map(|found| found.address))
}

/// Opens a connection inside a pod's namespace; `None` when the pod has no link yet.
async fn enter(netns: &Path) -> Result<Option<(Links, u32)>> {
    namespace::run(netns, || match if_nametoindex(POD_END) {
        Ok(index) => Ok(Some((Links::open()?, index))),
        Err(_) => Ok(None),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_named_after_its_pod_within_the_kernels_15_characters() {
        let address = Ipv4Addr::new(10, 200, 100, 255);
        assert_eq!(name_of(address), "pod0ac864ff");
        assert!(name_of(address).len() <= 15);
        assert_eq!(address_of("pod0ac864ff"), Some(address));
        for other in ["eth0", "pod", "pod1", "podzzzzzzzz", "pod0ac864ff0"] {
            assert_eq!(address_of(other), None, "{other}");
        }
    }
}
