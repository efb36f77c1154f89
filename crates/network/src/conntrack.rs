//! Connection tracking: finding and removing entries that lead to what is gone.

use std::net::Ipv4Addr;

use nix::errno::Errno;

use crate::netlink::{Attributes, Messages, Reply, Socket, attributes};
use crate::{Error, Result};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = 1;
const DELETE: u16 = 2;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const FAMILY: u8 = 2;

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tuple {
    pub(crate) source: (Ipv4Addr, u16),
    pub(crate) destination: (Ipv4Addr, u16),
    pub(crate) protocol: u8,
}

/// A tracked connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Connection {
    /// As the client sent it.
    pub(crate) original: Tuple,
    /// As the answer is expected: its source is where the packets really went.
    pub(crate) reply: Tuple,
}

/// Removes the tracked connections that `stale` picks. Returns how many.
pub(crate) fn remove(stale: impl Fn(&Connection) -> bool) -> Result<usize> {
    let context = "reading tracked connections";
    let socket = Socket::open().map_err(Error::io(context))?;
    let mut request = Messages::default();
    request.push(SUBSYSTEM | GET, REQUEST | DUMP, FAMILY, 0, |_| {});
    let mut found = Vec::new();
    for reply in socket.exchange(&request).map_err(Error::io(context))? {
        match reply {
            Reply::Part(body) => found.extend(connection(&body).filter(&stale)),
            Reply::Refused(_, errno) => {
                return Err(Error::Missing {
                    context: format!("{context} ({})", errno.desc()),
                    config: "CONFIG_NF_CT_NETLINK".into(),
                });
            }
            Reply::Done => {}
        }
    }
    let mut removed = 0;
    // One at a time: a batch of its kind would end at the first entry that went away by itself.
    for connection in found {
        let mut request = Messages::default();
        request.push(SUBSYSTEM | DELETE, REQUEST | ACK, FAMILY, 0, |body| {
            body.nest(1, |tuple| write_tuple(tuple, &connection.original));
        });
        for reply in socket.exchange(&request).map_err(Error::io("removing a tracked connection"))? {
            match reply {
                Reply::Refused(_, Errno::ENOENT) | Reply::Part(_) => {}
                Reply::Refused(_, errno) => {
                    return Err(Error::Kernel {
                        context: format!("removing the tracked connection {:?}", connection.original),
                        reason: errno.desc().into(),
                    });
                }
                Reply::Done => removed += 1,
            }
        }
    }
    Ok(removed)
}

fn write_tuple(body: &mut Attributes<'_>, tuple: &Tuple) {
    body.nest(1, |addresses| {
        addresses.raw(1, &tuple.source.0.octets());
        addresses.raw(2, &tuple.destination.0.octets());
    });
    body.nest(2, |protocol| {
        protocol.byte(1, tuple.protocol);
        protocol.raw(2, &tuple.source.1.to_be_bytes());
        protocol.raw(3, &tuple.destination.1.to_be_bytes());
    });
}

fn connection(body: &[u8]) -> Option<Connection> {
    let (mut original, mut reply) = (None, None);
    for (kind, value) in attributes(body) {
        match kind {
            1 => original = read_tuple(value),
            2 => reply = read_tuple(value),
            _ => {}
        }
    }
    Some(Connection { original: original?, reply: reply? })
}

fn read_tuple(body: &[u8]) -> Option<Tuple> {
    let address = |value: &[u8]| value.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets));
    let port = |value: &[u8]| value.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes));
    let (mut addresses, mut ports, mut protocol) = ((None, None), (None, None), None);
    for (kind, value) in attributes(body) {
        for (inner, value) in attributes(value) {
            match (kind, inner) {
                (1, 1) => addresses.0 = address(value),
                (1, 2) => addresses.1 = address(value),
                (2, 1) => protocol = value.first().copied(),
                (2, 2) => ports.0 = port(value),
                (2, 3) => ports.1 = port(value),
                _ => {}
            }
        }
    }
    Some(Tuple {
        source: (addresses.0?, ports.0?),
        destination: (addresses.1?, ports.1?),
        protocol: protocol?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_reads_back_and_a_cut_one_is_none() {
        let tuple = Tuple {
            source: (Ipv4Addr::new(10, 2, 1, 2), 4000),
            destination: (Ipv4Addr::new(10, 3, 0, 7), 53),
            protocol: 17,
        };
        let reply = Tuple { source: (Ipv4Addr::new(10, 2, 2, 9), 5353), destination: tuple.source, ..tuple };
        let mut messages = Messages::default();
        messages.push(SUBSYSTEM, 0, FAMILY, 0, |body| {
            body.nest(1, |part| write_tuple(part, &tuple));
            body.nest(2, |part| write_tuple(part, &reply));
        });
        let body = &messages.bytes()[20..];
        assert_eq!(connection(body), Some(Connection { original: tuple, reply }));
        for length in 0..body.len() - 4 {
            assert_eq!(connection(&body[..length]), None, "{length}");
        }
    }
}
