//! Links, addresses, neighbours and routes through rtnetlink, as far as this crate needs them.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use futures::{Stream, TryStreamExt};
use ipnet::Ipv4Net;
use machinery::clock::{Clock, SystemClock};
use machinery::names::Random;
use machinery::retry::Backoff;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage, State};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use std::os::fd::{AsRawFd, BorrowedFd};
use tokio_util::task::AbortOnDropHandle;

use crate::{Error, Result};

/// Marks the routes of this crate, so that they are told from others' after a restart.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(98);

/// How long a link may take until it carries packets: the kernel does such work at least once a second.
const CARRIER: Duration = Duration::from_secs(5);

/// A hardware address.
pub type Mac = [u8; 6];

/// Returns the hardware address that belongs to an IP address here. An address that comes back on another
/// machine keeps its hardware address, so no neighbour table goes stale.
pub(crate) fn mac_of(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x02, 0x42, a, b, c, d]
}

/// A connection to the kernel's routing, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Links {
    handle: rtnetlink::Handle,
    _driver: AbortOnDropHandle<()>,
}

/// An interface of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mtu: u32,
    pub(crate) mac: Option<Mac>,
    /// The network of the address by which it was found.
    pub(crate) network: Ipv4Net,
}

/// A route of this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Route {
    pub(crate) destination: Ipv4Net,
    pub(crate) via: Via,
}

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Via {
    /// To the link itself, with this source for the node's own packets.
    Link(u32, Ipv4Addr),
    /// To a gateway on a link, with this source for the node's own packets.
    Gateway(Ipv4Addr, u32, Ipv4Addr),
    /// To a gateway that is taken to be on the link although no network says so.
    OnLink(Ipv4Addr, u32),
    /// Nowhere: senders are told that the host is unreachable.
    Unreachable,
}

/// An address on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
    pub(crate) index: u32,
    pub(crate) label: Option<String>,
}

/// Whether the kernel made something new or had it already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    New,
    Before,
}

fn failed(context: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Error {
    let context = context.into();
    move |error| match error {
        rtnetlink::Error::NetlinkError(message) => Error::Io { context, source: message.to_io() },
        other => Error::Kernel { context, reason: other.to_string() },
    }
}

fn errno(error: &rtnetlink::Error) -> i32 {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.raw_code().abs(),
        _ => 0,
    }
}

impl Links {
    /// Opens a connection in the calling thread's network namespace, served by the current tokio runtime.
    pub(crate) fn open() -> Result<Self> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(Error::io("opening a routing socket"))?;
        Ok(Self { handle, _driver: AbortOnDropHandle::new(tokio::spawn(connection)) })
    }

    /// Finds the interface that has `address`.
    pub(crate) async fn interface_with(&self, address: Ipv4Addr) -> Result<Interface> {
        let found = self.addresses(None).await?.into_iter().find(|one| one.address == address);
        let Some(found) = found else {
            return Err(Error::Invalid(format!(
                "no interface of this node has the address {address}; give it to one, or correct the node's address"
            )));
        };
        let links = self.handle.link().get().match_index(found.index).execute();
        let message = first(links).await.map_err(failed(format!("reading link {}", found.index)))?;
        let message = message.ok_or_else(|| Error::Kernel {
            context: format!("reading link {}", found.index),
            reason: "it is gone".into(),
        })?;
        let mut interface = Interface {
            index: found.index,
            name: String::new(),
            mtu: 1500,
            mac: None,
            network: Ipv4Net::new(address, found.prefix).unwrap_or_else(|_| Ipv4Net::from(address)),
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => interface.name = name,
                LinkAttribute::Mtu(mtu) => interface.mtu = mtu,
                LinkAttribute::Address(bytes) => interface.mac = bytes.try_into().ok(),
                _ => {}
            }
        }
        Ok(interface)
    }

    /// Returns the names and indices of all links.
    pub(crate) async fn all(&self) -> Result<Vec<(String, u32)>> {
        let links: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(failed("listing links"))?;
        Ok(links
            .into_iter()
            .filter_map(|link| {
                let index = link.header.index;
                link.attributes.into_iter().find_map(|attribute| match attribute {
                    LinkAttribute::IfName(name) => Some((name, index)),
                    _ => None,
                })
            })
            .collect())
    }

    /// Makes a veth pair whose other end, `peer`, is born in another namespace.
    pub(crate) async fn add_veth(
        &self,
        name: &str,
        mac: Mac,
        peer: &str,
        peer_mac: Mac,
        mtu: u32,
        namespace: BorrowedFd<'_>,
    ) -> Result<()> {
        // The peer must not be set up in this message: the kernel answers ENOTCONN.
        let other = LinkMessageBuilder::<LinkUnspec>::new()
            .name(peer.to_string())
            .address(peer_mac.to_vec())
            .mtu(mtu)
            .setns_by_fd(namespace.as_raw_fd())
            .build();
        let pair = LinkMessageBuilder::<LinkVeth>::new(name, peer)
            .address(mac.to_vec())
            .mtu(mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(other)))
            .build();
        self.handle.link().add(pair).execute().await.map_err(|error| match errno(&error) {
            libc::EOPNOTSUPP => {
                Error::Missing { context: format!("making the link {name}"), config: "CONFIG_VETH".into() }
            }
            _ => failed(format!("making the links {name} and {peer}"))(error),
        })
    }

    /// Sets a link up.
    pub(crate) async fn set_up(&self, index: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(message).execute().await.map_err(failed(format!("setting link {index} up")))
    }

    /// Waits until a link carries packets. A veth end that was set up before its peer gets its queue from a
    /// kernel worker only some time after: until then the kernel silently drops what is sent into it.
    pub(crate) async fn wait_for_carrier(&self, index: u32) -> Result<()> {
        let context = || format!("waiting for link {index} to carry packets");
        let random = Random::seeded(u64::from(index));
        let backoff = Backoff { first: Duration::from_millis(1), ..Backoff::QUICK };
        // Recent kernels do the pending work when they are asked, so this is one round; older ones need a
        // few milliseconds.
        let work = async {
            for failures in 0.. {
                let link = first(self.handle.link().get().match_index(index).execute()).await;
                let link = link.map_err(failed(context()))?;
                if link.is_some_and(|link| link.attributes.contains(&LinkAttribute::OperState(State::Up))) {
                    break;
                }
                SystemClock.after(backoff.delay(failures, &random)).await;
            }
            Ok(())
        };
        tokio::time::timeout(CARRIER, work).await.unwrap_or_else(|_| {
            Err(Error::Kernel { context: context(), reason: format!("it is not up after {CARRIER:?}") })
        })
    }

    /// Removes a link; one that is gone already is fine.
    pub(crate) async fn remove(&self, index: u32) -> Result<()> {
        match self.handle.link().del(index).execute().await {
            Err(error) if errno(&error) != libc::ENODEV => {
                Err(failed(format!("removing link {index}"))(error))
            }
            _ => Ok(()),
        }
    }

    /// Returns the IPv4 addresses of one interface, or of all.
    pub(crate) async fn addresses(&self, index: Option<u32>) -> Result<Vec<Address>> {
        let mut request = self.handle.address().get();
        if let Some(index) = index {
            request = request.set_link_index_filter(index);
        }
        let found: Vec<AddressMessage> =
            request.execute().try_collect().await.map_err(failed("listing addresses"))?;
        Ok(found
            .into_iter()
            .filter_map(|message| {
                let (mut address, mut label) = (None, None);
                for attribute in message.attributes {
                    match attribute {
                        AddressAttribute::Local(IpAddr::V4(found)) => address = Some(found),
                        AddressAttribute::Label(text) => label = Some(text),
                        _ => {}
                    }
                }
                let (prefix, index) = (message.header.prefix_len, message.header.index);
                address.map(|address| Address { address, prefix, index, label })
            })
            .collect())
    }

    /// Adds an address to an interface.
    pub(crate) async fn add_address(
        &self,
        index: u32,
        address: Ipv4Addr,
        scope: AddressScope,
        label: Option<&str>,
    ) -> Result<Made> {
        let mut request = self.handle.address().add(index, address.into(), 32);
        request.message_mut().header.scope = scope;
        if let Some(label) = label {
            request.message_mut().attributes.push(AddressAttribute::Label(label.into()));
        }
        match request.execute().await {
            Ok(()) => Ok(Made::New),
            Err(error) if errno(&error) == libc::EEXIST => Ok(Made::Before),
            Err(error) => Err(failed(format!("adding {address} to link {index}"))(error)),
        }
    }

    /// Takes an address from an interface; one that is not there is fine.
    pub(crate) async fn remove_address(&self, index: u32, address: Ipv4Addr) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = 32;
        message.header.index = index;
        message.attributes.push(AddressAttribute::Local(address.into()));
        match self.handle.address().del(message).execute().await {
            Err(error) if !matches!(errno(&error), libc::EADDRNOTAVAIL | libc::ENODEV) => {
                Err(failed(format!("taking {address} from link {index}"))(error))
            }
            _ => Ok(()),
        }
    }

    /// Says for good which hardware address belongs to an IP address behind a link.
    pub(crate) async fn set_neighbour(&self, index: u32, address: Ipv4Addr, mac: Mac) -> Result<()> {
        self.handle
            .neighbours()
            .add(index, address.into())
            .link_layer_address(&mac)
            .replace()
            .execute()
            .await
            .map_err(failed(format!("setting the neighbour {address} of link {index}")))
    }

    /// Makes or replaces a route.
    pub(crate) async fn set_route(&self, route: &Route) -> Result<()> {
        self.handle
            .route()
            .add(message_of(route))
            .replace()
            .execute()
            .await
            .map_err(failed(format!("setting the route to {}", route.destination)))
    }

    /// Removes a route; one that is gone already is fine.
    pub(crate) async fn remove_route(&self, route: &Route) -> Result<()> {
        match self.handle.route().del(message_of(route)).execute().await {
            Err(error) if errno(&error) != libc::ESRCH => {
                Err(failed(format!("removing the route to {}", route.destination))(error))
            }
            _ => Ok(()),
        }
    }

    /// Returns this crate's routes in the main table.
    pub(crate) async fn routes(&self) -> Result<Vec<Route>> {
        let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let found: Vec<RouteMessage> =
            self.handle.route().get(query).execute().try_collect().await.map_err(failed("listing routes"))?;
        Ok(found
            .into_iter()
            .filter(|message| message.header.protocol == PROTOCOL)
            .filter_map(route_of)
            .collect())
    }
}

fn message_of(route: &Route) -> RouteMessage {
    let builder = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(route.destination.network(), route.destination.prefix_len())
        .protocol(PROTOCOL);
    match route.via {
        Via::Link(index, source) => {
            builder.output_interface(index).scope(RouteScope::Link).pref_source(source)
        }
        Via::Gateway(gateway, index, source) => {
            builder.gateway(gateway).output_interface(index).pref_source(source)
        }
        Via::OnLink(gateway, index) => builder.gateway(gateway).output_interface(index).onlink(),
        Via::Unreachable => builder.kind(RouteType::Unreachable),
    }
    .build()
}

fn route_of(message: RouteMessage) -> Option<Route> {
    let (mut network, mut gateway, mut index, mut source) = (Ipv4Addr::UNSPECIFIED, None, None, None);
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => network = address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(address),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(address),
            RouteAttribute::Oif(number) => index = Some(number),
            _ => {}
        }
    }
    let destination = Ipv4Net::new(network, message.header.destination_prefix_length).ok()?;
    let via = match (message.header.kind, gateway, index, source) {
        (RouteType::Unreachable, ..) => Via::Unreachable,
        (_, Some(gateway), Some(index), Some(source)) => Via::Gateway(gateway, index, source),
        (_, Some(gateway), Some(index), None) => Via::OnLink(gateway, index),
        (_, None, Some(index), source) => Via::Link(index, source.unwrap_or(Ipv4Addr::UNSPECIFIED)),
        _ => return None,
    };
    Some(Route { destination, via })
}

async fn first<T>(
    stream: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Option<T>, rtnetlink::Error> {
    let mut stream = std::pin::pin!(stream);
    stream.try_next().await
}
