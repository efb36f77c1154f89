//! Telling the network which hardware address an IP address now has, and hearing what others tell of one.
#![expect(unsafe_code, reason = "a packet socket's address has no safe constructor")]

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, bind, recv, sendto, socket,
};
use tokio::io::unix::AsyncFd;

use crate::links::Mac;
use crate::{Error, Result};

const BROADCAST: Mac = [0xff; 6];
/// ARP's number among the protocols of Ethernet.
const PROTOCOL: u16 = 0x0806;

/// Announces `addresses` as living at `mac` behind the interface `index`.
pub(crate) fn announce(index: u32, mac: Mac, addresses: &[Ipv4Addr]) -> Result<()> {
    if addresses.is_empty() {
        return Ok(());
    }
    let context = format!("announcing addresses by ARP on link {index}");
    // Protocol 0: this socket receives nothing.
    let file = packets(&context)?;
    let to = link(index, 0, &context)?;
    for address in addresses {
        sendto(file.as_raw_fd(), &Packet::announcement(mac, *address).frame(), &to, MsgFlags::empty())
            .map_err(|errno| Error::Io { context: context.clone(), source: errno.into() })?;
    }
    Ok(())
}

fn packets(context: &str) -> Result<OwnedFd> {
    socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
        .map_err(|errno| match errno {
            nix::errno::Errno::EAFNOSUPPORT => {
                Error::Missing { context: context.to_owned(), config: "CONFIG_PACKET".into() }
            }
            _ => Error::Io { context: context.to_owned(), source: errno.into() },
        })
}

fn link(index: u32, protocol: u16, context: &str) -> Result<LinkAddr> {
    link_address(index, protocol)
        .ok_or_else(|| Error::Invalid(format!("{context}: there can be no link of this number")))
}

/// What ARP says on a link, sent and heard.
#[derive(Debug)]
pub(crate) struct Arp {
    socket: AsyncFd<OwnedFd>,
    to: LinkAddr,
    context: String,
}

impl Arp {
    /// Listens on the link `index`.
    ///
    /// # Errors
    /// When the kernel has no packet sockets, or this process may not have one.
    pub(crate) fn open(index: u32) -> Result<Self> {
        let context = format!("speaking ARP on link {index}");
        let failed = |source: std::io::Error| Error::Io { context: context.clone(), source };
        let socket = packets(&context)?;
        // The protocol comes with the link: nothing of another link is heard in between.
        bind(socket.as_raw_fd(), &link(index, PROTOCOL, &context)?).map_err(|errno| failed(errno.into()))?;
        // SAFETY: the socket is owned by the registration, and closed after it.
        let socket = unsafe { AsyncFd::register(socket) }.map_err(|error| failed(error.into()))?;
        let to = link(index, PROTOCOL, &context)?;
        Ok(Self { socket, to, context })
    }

    /// Sends a packet. A link whose queue is full loses it, as it may lose any.
    ///
    /// # Errors
    /// When the kernel refuses: the link is down or gone.
    pub(crate) fn send(&self, packet: &Packet) -> Result<()> {
        match sendto(self.socket.as_raw_fd(), &packet.frame(), &self.to, MsgFlags::empty()) {
            Ok(_) | Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::ENOBUFS) => Ok(()),
            Err(errno) => Err(Error::Io { context: self.context.clone(), source: errno.into() }),
        }
    }

    /// Returns the next packet of IPv4 over Ethernet that arrives.
    ///
    /// # Errors
    /// When the link is down or gone.
    pub(crate) async fn next(&self) -> Result<Packet> {
        let failed = |source: std::io::Error| Error::Io { context: self.context.clone(), source };
        let mut bytes = [0; 128];
        loop {
            let mut ready = self.socket.readable().await.map_err(failed)?;
            let read = ready.try_io(|socket| {
                recv(socket.as_raw_fd(), &mut bytes, MsgFlags::empty()).map_err(std::io::Error::from)
            });
            match read {
                Ok(Ok(length)) => {
                    if let Some(packet) = bytes.get(..length).and_then(Packet::read) {
                        return Ok(packet);
                    }
                }
                Ok(Err(error)) => return Err(failed(error)),
                // Nothing was there after all.
                Err(_) => {}
            }
        }
    }
}

/// A packet of ARP (RFC 826) for IPv4 over Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packet {
    /// Whom the frame goes to.
    pub(crate) to: Mac,
    /// Whether it asks or answers.
    pub(crate) asks: bool,
    pub(crate) sender: (Mac, Ipv4Addr),
    pub(crate) target: (Mac, Ipv4Addr),
}

impl Packet {
    /// Ethernet, IPv4, and the lengths of their addresses.
    const KINDS: [u8; 6] = [0, 1, 0x08, 0, 6, 4];

    /// Returns an announcement (RFC 5227): a request of the sender for its own address.
    pub(crate) fn announcement(mac: Mac, address: Ipv4Addr) -> Self {
        Self { to: BROADCAST, asks: true, sender: (mac, address), target: ([0; 6], address) }
    }

    /// Returns a probe (RFC 5227): a request of somebody who has no address yet, or not this one.
    pub(crate) fn probe(mac: Mac, address: Ipv4Addr) -> Self {
        Self { to: BROADCAST, asks: true, sender: (mac, Ipv4Addr::UNSPECIFIED), target: ([0; 6], address) }
    }

    /// Returns the answer of `mac` to a packet that asks for `address`.
    pub(crate) fn answer(mac: Mac, address: Ipv4Addr, question: &Self) -> Self {
        Self { to: question.sender.0, asks: false, sender: (mac, address), target: question.sender }
    }

    fn frame(&self) -> Vec<u8> {
        let Self { to, asks, sender, target } = self;
        let operation = [0, if *asks { 1 } else { 2 }];
        let (from, to_ip) = (sender.1.octets(), target.1.octets());
        let protocol = PROTOCOL.to_be_bytes();
        [to, &sender.0, &protocol[..], &Self::KINDS, &operation, &sender.0, &from, &target.0, &to_ip].concat()
    }

    /// Reads a frame; `None` when it is something else. What is behind the packet fills the frame up.
    fn read(frame: &[u8]) -> Option<Self> {
        let (to, rest) = frame.split_first_chunk::<6>()?;
        let (_, rest) = rest.split_first_chunk::<6>()?;
        let (protocol, rest) = rest.split_first_chunk::<2>()?;
        let (kinds, rest) = rest.split_first_chunk::<6>()?;
        let (operation, rest) = rest.split_first_chunk::<2>()?;
        let (sender, rest) = rest.split_first_chunk::<6>()?;
        let (sender_ip, rest) = rest.split_first_chunk::<4>()?;
        let (target, rest) = rest.split_first_chunk::<6>()?;
        let (target_ip, _) = rest.split_first_chunk::<4>()?;
        if *protocol != PROTOCOL.to_be_bytes() || *kinds != Self::KINDS || !matches!(operation, [0, 1 | 2]) {
            return None;
        }
        Some(Self {
            to: *to,
            asks: operation[1] == 1,
            sender: (*sender, Ipv4Addr::from(*sender_ip)),
            target: (*target, Ipv4Addr::from(*target_ip)),
        })
    }
}

fn link_address(index: u32, protocol: u16) -> Option<LinkAddr> {
    let raw = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).ok()?,
        sll_protocol: protocol.to_be(),
        sll_ifindex: i32::try_from(index).ok()?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
    };
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).ok()?;
    // SAFETY: `raw` is a whole `sockaddr_ll` of the family that `LinkAddr` expects, `length` is its size,
    // and the value is copied before `raw` goes away.
    unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(length)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_is_a_broadcast_request_for_the_senders_own_address() {
        let mac = [0x02, 0x42, 172, 17, 4, 201];
        let frame = Packet::announcement(mac, Ipv4Addr::new(172, 17, 4, 240)).frame();
        assert_eq!(frame.len(), 42);
        assert_eq!((&frame[0..6], &frame[6..12], &frame[12..14]), (&[0xff; 6][..], &mac[..], &[8, 6][..]));
        assert_eq!((&frame[22..28], &frame[28..32]), (&mac[..], &[172, 17, 4, 240][..]));
        assert_eq!((&frame[32..38], &frame[38..42]), (&[0; 6][..], &[172, 17, 4, 240][..]));
    }

    #[test]
    fn what_is_sent_is_read_back_and_everything_else_is_nothing() {
        let (own, other) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let address = Ipv4Addr::new(172, 17, 4, 100);
        let question = Packet {
            to: BROADCAST,
            asks: true,
            sender: (other, Ipv4Addr::new(172, 17, 4, 1)),
            target: ([0; 6], address),
        };
        for packet in [
            Packet::announcement(own, address),
            Packet::probe(own, address),
            Packet::answer(own, address, &question),
            question,
        ] {
            let mut frame = packet.frame();
            assert_eq!(Packet::read(&frame), Some(packet));
            assert_eq!(Packet::read(&frame[..41]), None, "cut short");
            frame.extend([0; 18]);
            assert_eq!(Packet::read(&frame), Some(packet), "filled up to the least length of a frame");
            frame[13] = 0;
            assert_eq!(Packet::read(&frame), None, "IPv4 itself");
        }
        let mut reverse = question.frame();
        reverse[21] = 3;
        assert_eq!(Packet::read(&reverse), None, "another operation");
    }
}
