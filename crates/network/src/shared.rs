//! An address that several machines of a network could have, one at a time: what is said and heard of it by ARP, and
//! the packets to it led to the machine's own address. Who has it is decided by the caller.
//!
//! The kernel is not told that the address is this machine's: it would answer for it as long as it runs. So the
//! address goes with the process, however that ends.

use std::net::Ipv4Addr;

use crate::arp::{Arp, Packet};
use crate::links::Links;
use crate::nft::{Committer, Data, DataType, Field, Hook, Rule, Statement, Table, Type, Value};
use crate::{Error, Result};

pub use crate::links::Mac;

/// The table that leads the address's packets to this machine's own.
const TABLE: &str = "cluster-shared-address";
const MAP: &str = "shared";

/// The address as this machine takes part in it.
#[derive(Debug)]
pub struct SharedAddress {
    arp: Arp,
    mac: Mac,
    address: Ipv4Addr,
}

/// What another machine said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It has the address.
    Claim(Mac),
    /// It wants to know whether anybody has the address.
    Probe,
    /// It wants to send something to the address, and is to be told where that is.
    Question(Question),
}

/// Who wants to know where the address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question(Packet);

impl SharedAddress {
    /// Takes part on the network of this machine's own address: hears and may speak, but has claimed nothing yet.
    /// TCP connections to `port` of the shared address that arrive here are `own`'s from now on; they arrive only
    /// where somebody was told so.
    ///
    /// # Errors
    /// When no interface has `own`, it has no hardware address, or the kernel refuses.
    pub async fn open(own: Ipv4Addr, address: Ipv4Addr, port: u16) -> Result<Self> {
        let interface = Links::open()?.interface_with(own).await?;
        let mac = interface.mac.ok_or_else(|| {
            Error::Invalid(format!(
                "the interface {} has no hardware address, so no address can move to it; use a network of Ethernet",
                interface.name
            ))
        })?;
        Committer::open()?.commit(table(own, address, port))?;
        Ok(Self { arp: Arp::open(interface.index)?, mac, address })
    }

    /// The hardware address of this machine.
    #[must_use]
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// Tells everybody that the address is here.
    ///
    /// # Errors
    /// When the link is down or gone.
    pub fn claim(&self) -> Result<()> {
        self.arp.send(&Packet::announcement(self.mac, self.address))
    }

    /// Asks whether anybody has the address. Said by who had it, it means that it is free.
    ///
    /// # Errors
    /// When the link is down or gone.
    pub fn probe(&self) -> Result<()> {
        self.arp.send(&Packet::probe(self.mac, self.address))
    }

    /// Tells one that asked that the address is here.
    ///
    /// # Errors
    /// When the link is down or gone.
    pub fn answer(&self, question: &Question) -> Result<()> {
        self.arp.send(&Packet::answer(self.mac, self.address, &question.0))
    }

    /// Returns the next thing that another machine says of the address.
    ///
    /// # Errors
    /// When the link is down or gone.
    pub async fn next(&self) -> Result<Heard> {
        loop {
            if let Some(heard) = heard(self.mac, self.address, self.arp.next().await?) {
                return Ok(heard);
            }
        }
    }
}

fn heard(own: Mac, address: Ipv4Addr, packet: Packet) -> Option<Heard> {
    let Packet { asks, sender: (mac, from), target: (_, of), .. } = packet;
    // Its own packets come back to a socket like this.
    if mac == own {
        None
    } else if from == address {
        Some(Heard::Claim(mac))
    } else if of != address || !asks {
        None
    } else if from == Ipv4Addr::UNSPECIFIED {
        Some(Heard::Probe)
    } else {
        Some(Heard::Question(Question(packet)))
    }
}

/// Leads what goes to the shared address to the machine's own, from outside and from this machine itself.
fn table(own: Ipv4Addr, address: Ipv4Addr, port: u16) -> Table {
    let mut table = Table::new(TABLE);
    table
        .set(MAP, &[Type::Address, Type::Protocol, Type::Port], Some(DataType::Target))
        .map(vec![Value::Address(address), Value::Protocol(TCP), Value::Port(port)], Data::Target(own, port));
    let rule = || {
        let key = vec![Field::Daddr, Field::L4Proto, Field::Dport];
        vec![Rule(vec![Statement::Find(key, MAP.into()), Statement::DnatTarget])]
    };
    table.base("prerouting", Hook::nat(Hook::PREROUTING, Hook::DSTNAT), rule());
    table.base("output", Hook::nat(Hook::OUTPUT, Hook::DSTNAT), rule());
    table
}

/// TCP's number among the protocols of IP.
const TCP: u8 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = [2, 0, 0, 0, 0, 1];
    const OTHER: Mac = [2, 0, 0, 0, 0, 2];
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 17, 4, 100);

    #[test]
    fn what_others_say_of_the_address_is_told_apart() {
        let host = Ipv4Addr::new(172, 17, 4, 1);
        let question = Packet { sender: (OTHER, host), ..Packet::probe(OTHER, ADDRESS) };
        let hear = |packet| heard(OWN, ADDRESS, packet);
        assert_eq!(hear(Packet::announcement(OTHER, ADDRESS)), Some(Heard::Claim(OTHER)));
        assert_eq!(hear(Packet::answer(OTHER, ADDRESS, &question)), Some(Heard::Claim(OTHER)));
        assert_eq!(hear(Packet::probe(OTHER, ADDRESS)), Some(Heard::Probe));
        assert_eq!(hear(question), Some(Heard::Question(Question(question))));
        for nothing in [
            Packet::announcement(OWN, ADDRESS),
            Packet::probe(OWN, ADDRESS),
            Packet::announcement(OTHER, host),
            Packet::probe(OTHER, host),
            Packet::answer(OTHER, host, &Packet { sender: (OWN, ADDRESS), ..question }),
        ] {
            assert_eq!(hear(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn packets_to_the_shared_address_are_led_to_the_machines_own() {
        insta::assert_snapshot!(table(Ipv4Addr::new(172, 17, 4, 102), ADDRESS, 443));
    }
}
