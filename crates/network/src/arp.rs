//! Telling the network which hardware address an IP address now has.
#![expect(unsafe_code, reason = "a packet socket's address has no safe constructor")]

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, sendto, socket};

use crate::links::Mac;
use crate::{Error, Result};

const BROADCAST: Mac = [0xff; 6];

/// Announces `addresses` as living at `mac` behind the interface `index`.
pub(crate) fn announce(index: u32, mac: Mac, addresses: &[Ipv4Addr]) -> Result<()> {
    if addresses.is_empty() {
        return Ok(());
    }
    let context = format!("announcing addresses by ARP on link {index}");
    // Protocol 0: this socket receives nothing.
    let file =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).map_err(|errno| {
            match errno {
                nix::errno::Errno::EAFNOSUPPORT => {
                    Error::Missing { context: context.clone(), config: "CONFIG_PACKET".into() }
                }
                _ => Error::Io { context: context.clone(), source: errno.into() },
            }
        })?;
    let to = link_address(index)
        .ok_or_else(|| Error::Invalid(format!("{context}: there can be no link of this number")))?;
    for address in addresses {
        sendto(file.as_raw_fd(), &frame(mac, *address), &to, MsgFlags::empty())
            .map_err(|errno| Error::Io { context: context.clone(), source: errno.into() })?;
    }
    Ok(())
}

/// An Ethernet frame with an ARP announcement (RFC 5227): a request for the sender's own address.
fn frame(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    const ARP: [u8; 2] = [0x08, 0x06];
    // Ethernet, IPv4, their address lengths, request.
    const HEADER: [u8; 8] = [0, 1, 0x08, 0, 6, 4, 0, 1];
    let ip = address.octets();
    [&BROADCAST[..], &mac, &ARP, &HEADER, &mac, &ip, &[0; 6], &ip].concat()
}

fn link_address(index: u32) -> Option<LinkAddr> {
    let raw = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).ok()?,
        sll_protocol: 0,
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
        let frame = frame(mac, Ipv4Addr::new(172, 17, 4, 240));
        assert_eq!(frame.len(), 42);
        assert_eq!((&frame[0..6], &frame[6..12], &frame[12..14]), (&[0xff; 6][..], &mac[..], &[8, 6][..]));
        assert_eq!((&frame[22..28], &frame[28..32]), (&mac[..], &[172, 17, 4, 240][..]));
        assert_eq!((&frame[32..38], &frame[38..42]), (&[0; 6][..], &[172, 17, 4, 240][..]));
    }
}
