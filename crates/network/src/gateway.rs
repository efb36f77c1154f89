//! What a host does for nodes that are behind it: their packets to the outside leave with the host's address.
//!
//! Everything is in one nftables table of the host, which [`open`] makes and [`close`] takes away; other tables
//! are not touched. A table of somebody else that drops forwarded packets still does.

use ipnet::Ipv4Net;

use crate::Result;
use crate::nft::{Committer, Hook, Rule, Statement, Table};

/// Makes the table `table`, or brings it to what is wanted: packets from `nodes` to elsewhere are masqueraded.
/// In the network namespace of the calling thread.
///
/// # Errors
/// When the kernel refuses; names what it was built without.
pub fn open(table: &str, nodes: Ipv4Net) -> Result<()> {
    let mut wanted = Table::new(table);
    wanted.base(
        "postrouting",
        Hook::nat(Hook::POSTROUTING, Hook::SRCNAT),
        vec![Rule(vec![
            Statement::SaddrIn(nodes, true),
            Statement::DaddrIn(nodes, false),
            Statement::Masquerade,
        ])],
    );
    Committer::open()?.commit(wanted).map(|_| ())
}

/// Takes the table away; succeeds when there is none.
///
/// # Errors
/// When the kernel refuses.
pub fn close(table: &str) -> Result<()> {
    Committer::open()?.remove(table)
}

/// Returns whether the kernel forwards what arrives by `interface`.
///
/// # Errors
/// When the parameter cannot be read.
pub fn forwards(interface: &str) -> Result<bool> {
    Ok(crate::sysctl::read(&parameter(interface))? == "1")
}

/// Lets the kernel forward what arrives by `interface`.
///
/// # Errors
/// When the parameter cannot be written.
pub fn forward(interface: &str) -> Result<()> {
    crate::sysctl::set(&parameter(interface), "1", "CONFIG_INET")
}

/// Takes [`forward`] back. Succeeds when there is no such interface any more.
///
/// # Errors
/// When the parameter cannot be written.
pub fn forward_no_more(interface: &str) -> Result<()> {
    match crate::sysctl::set(&parameter(interface), "0", "CONFIG_INET") {
        Err(crate::Error::Missing { .. }) => Ok(()),
        other => other,
    }
}

fn parameter(interface: &str) -> String {
    format!("net/ipv4/conf/{interface}/forwarding")
}
