//! The bridge of a cluster and the cables of its nodes, over rtnetlink.

use std::net::{IpAddr, Ipv4Addr};

use futures::TryStreamExt;
use ipnet::Ipv4Net;
use nix::errno::Errno;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::error::{Context, Error, Result};

/// The name of the node's end of its cable.
const NODE_INTERFACE: &str = "eth0";

/// A connection to the kernel's routing tables, in the network namespace in which it was made.
pub(crate) struct Network {
    handle: Handle,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Network {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A route of the host, or an address of one of its interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Occupied {
    /// What addresses it takes.
    pub(crate) network: Ipv4Net,
    /// The interface's name.
    pub(crate) interface: String,
}

impl Network {
    /// Connects. Needs a tokio runtime.
    pub(crate) fn open() -> Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection().context("opening a netlink socket")?;
        Ok(Self { handle, driver: tokio::spawn(connection) })
    }

    /// Returns an interface's index; `None` when there is none of that name.
    pub(crate) fn index(name: &str) -> Result<Option<u32>> {
        match nix::net::if_::if_nametoindex(name) {
            Ok(index) => Ok(Some(index)),
            Err(Errno::ENODEV) => Ok(None),
            Err(error) => Err(Error::from(error).within(format!("looking for the interface {name}"))),
        }
    }

    /// Makes the bridge `name` with `address`, unless it is there; returns its index and whether it was made.
    pub(crate) async fn ensure_bridge(
        &self,
        name: &str,
        address: Ipv4Addr,
        network: Ipv4Net,
        mac: &str,
    ) -> Result<(u32, bool)> {
        let doing = format!("making the bridge {name}");
        let (index, made) = match Self::index(name)? {
            Some(index) => (index, false),
            None => {
                let message = LinkBridge::new(name).address(mac_bytes(mac)?).build();
                self.handle.link().add(message).execute().await.context(&doing)?;
                (Self::index(name)?.context(&doing)?, true)
            }
        };
        self.ensure_address(index, address, network.prefix_len()).await.context(&doing)?;
        let up = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(up).execute().await.context(&doing)?;
        Ok((index, made))
    }

    async fn ensure_address(&self, index: u32, address: Ipv4Addr, prefix: u8) -> Result<()> {
        match self.handle.address().add(index, IpAddr::V4(address), prefix).execute().await {
            Ok(()) => Ok(()),
            Err(error) if errno(&error) == Some(Errno::EEXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a cable whose one end `name` is in the bridge, and the other one is the interface of the network
    /// namespace of `pid`, with `mac`. A cable of that name is taken away first.
    pub(crate) async fn cable(&self, name: &str, bridge: u32, pid: i32, mac: &str) -> Result<()> {
        let doing = format!("making the cable {name}");
        self.remove(name).await?;
        let pid = u32::try_from(pid).context(&doing)?;
        // The far end must not be brought up here: the kernel refuses that (ENOTCONN) before the pair exists.
        let far = LinkMessageBuilder::<LinkUnspec>::default()
            .name(NODE_INTERFACE)
            .address(mac_bytes(mac)?)
            .setns_by_pid(pid)
            .build();
        let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(name)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
            .controller(bridge)
            .up()
            .build();
        self.handle.link().add(message).execute().await.context(&doing)
    }

    /// Removes an interface; succeeds when there is none.
    pub(crate) async fn remove(&self, name: &str) -> Result<()> {
        let Some(index) = Self::index(name)? else { return Ok(()) };
        match self.handle.link().del(index).execute().await {
            Ok(()) => Ok(()),
            Err(error) if errno(&error) == Some(Errno::ENODEV) => Ok(()),
            Err(error) => Err(Error::from(error).within(format!("removing the interface {name}"))),
        }
    }

    /// Returns the interfaces that lead to the rest of the world.
    pub(crate) async fn uplinks(&self) -> Result<Vec<String>> {
        let doing = "reading the host's routes";
        let routes = self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
        let routes: Vec<_> = routes.try_collect().await.context(doing)?;
        let mut names = Vec::new();
        for route in routes.iter().filter(|route| route.header.destination_prefix_length == 0) {
            let index = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            });
            let Some(index) = index else { continue };
            let name = nix::net::if_::if_indextoname(index).context(doing)?;
            let name = name.to_string_lossy().into_owned();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Brings up the loopback and the cable of the node that this process is in.
    pub(crate) async fn configure_node(
        &self,
        address: Ipv4Addr,
        network: Ipv4Net,
        gateway: Ipv4Addr,
    ) -> Result<()> {
        let doing = "bringing up the node's network";
        let loopback = Self::index("lo")?.context("the namespace has no loopback")?;
        let up = LinkUnspec::new_with_index(loopback).up().build();
        self.handle.link().set(up).execute().await.context(doing)?;
        let index = Self::index(NODE_INTERFACE)?.context("the node has no cable")?;
        self.ensure_address(index, address, network.prefix_len()).await.context(doing)?;
        let up = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(up).execute().await.context(doing)?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
        self.handle.route().add(route).execute().await.context(doing)
    }

    /// Returns what addresses the host's routes and interfaces take, without the default route.
    pub(crate) async fn occupied(&self) -> Result<Vec<Occupied>> {
        let doing = "reading the host's routes";
        let mut names = std::collections::BTreeMap::new();
        for interface in nix::net::if_::if_nameindex().context(doing)?.iter() {
            names.insert(interface.index(), interface.name().to_string_lossy().into_owned());
        }
        let name = |index: u32| names.get(&index).cloned().unwrap_or_else(|| format!("interface {index}"));
        let mut found: Vec<Occupied> = Vec::new();
        let mut routes = self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
        while let Some(route) = routes.try_next().await.context(doing)? {
            let prefix = route.header.destination_prefix_length;
            let mut destination = None;
            let mut interface = String::from("the host");
            for attribute in &route.attributes {
                match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = Some(*address),
                    RouteAttribute::Oif(index) => interface = name(*index),
                    _ => {}
                }
            }
            // The table of local addresses repeats what the main one says, and lists the loopback.
            if let Some(address) = destination
                && route.header.table == 254
                && let Ok(network) = Ipv4Net::new(address, prefix)
            {
                found.push(Occupied { network: network.trunc(), interface });
            }
        }
        let mut addresses = self.handle.address().get().execute();
        while let Some(message) = addresses.try_next().await.context(doing)? {
            for attribute in &message.attributes {
                if let AddressAttribute::Address(IpAddr::V4(address)) = attribute
                    && !address.is_loopback()
                    && let Ok(network) = Ipv4Net::new(*address, message.header.prefix_len)
                {
                    let occupied =
                        Occupied { network: network.trunc(), interface: name(message.header.index) };
                    if !found.contains(&occupied) {
                        found.push(occupied);
                    }
                }
            }
        }
        Ok(found)
    }
}

fn errno(error: &rtnetlink::Error) -> Option<Errno> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(Errno::from_raw(message.raw_code().abs())),
        _ => None,
    }
}

fn mac_bytes(mac: &str) -> Result<Vec<u8>> {
    mac.split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<Vec<u8>, _>>()
        .map_err(|error| Error::internal(format!("{mac} is not a hardware address: {error}")))
}
