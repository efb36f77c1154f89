//! Bringing the kernel's table to the wanted one, and remembering what it has.

use nix::errno::Errno;

use super::diff::{Change, difference, replacement};
use super::encode::transaction;
use super::model::Table;
use crate::netlink::{Reply, Socket};
use crate::{Error, Result};

/// The writer of one table. What the kernel holds is known from the last commit, not read back.
#[derive(Debug)]
pub(crate) struct Committer {
    socket: Socket,
    held: Option<Table>,
}

impl Committer {
    /// Opens a writer in the calling thread's network namespace. It writes nothing yet.
    pub(crate) fn open() -> Result<Self> {
        let socket = Socket::open().map_err(|source| match source.raw_os_error() {
            Some(libc::EPROTONOSUPPORT) => Error::Missing {
                context: "opening a netfilter socket".into(),
                config: "CONFIG_NETFILTER_NETLINK".into(),
            },
            _ => Error::io("opening a netfilter socket")(source),
        })?;
        Ok(Self { socket, held: None })
    }

    /// Makes the kernel's table `table` in one transaction. Returns how many things changed.
    /// The first commit replaces what an earlier process left; so does one that the kernel refused as a
    /// difference, since somebody else must then have changed the table.
    pub(crate) fn commit(&mut self, table: Table) -> Result<usize> {
        if let Some(held) = &self.held
            && let Some(changes) = difference(held, &table)
        {
            match self.send(&table.name, &changes) {
                Ok(count) => {
                    self.held = Some(table);
                    return Ok(count);
                }
                Err(error) => {
                    tracing::warn!(table = table.name, %error, "replacing the whole table after a refused change");
                }
            }
        }
        self.held = None;
        let count = self.send(&table.name, &replacement(&table))?;
        self.held = Some(table);
        Ok(count)
    }

    /// Takes the table `name` away, whoever made it; succeeds when there is none.
    pub(crate) fn remove(&mut self, name: &str) -> Result<()> {
        self.held = None;
        // Adding first makes the deletion succeed also where there is no such table.
        self.send(name, &[Change::AddTable, Change::DeleteTable]).map(|_| ())
    }

    fn send(&self, name: &str, changes: &[Change<'_>]) -> Result<usize> {
        if changes.is_empty() {
            return Ok(0);
        }
        let (messages, origins) = transaction(name, changes);
        let context = || format!("changing the nftables table {name}");
        let replies = self.socket.exchange(&messages).map_err(Error::io(context()))?;
        for reply in &replies {
            if let Reply::Refused(sequence, errno) = reply {
                let change = usize::try_from(*sequence)
                    .ok()
                    .and_then(|sequence| origins.get(sequence))
                    .and_then(|index| changes.get(*index));
                return Err(refusal(name, change, *errno));
            }
        }
        if replies.is_empty() {
            return Err(Error::Kernel { context: context(), reason: "no acknowledgement".into() });
        }
        Ok(changes.iter().map(Change::weight).sum())
    }
}

/// Says what was refused. A kernel without an expression answers ENOENT (or EOPNOTSUPP) to the rule that
/// has it, and a kernel without nftables to the table.
fn refusal(table: &str, change: Option<&Change<'_>>, errno: Errno) -> Error {
    let context = format!(
        "changing the nftables table {table}: {}",
        change.map_or_else(|| "transaction".into(), ToString::to_string)
    );
    let absent = matches!(errno, Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EINVAL);
    let config = match change {
        Some(Change::AddTable) if absent => "CONFIG_NF_TABLES and CONFIG_NF_TABLES_IPV4",
        Some(Change::AddChain(_, chain))
            if errno == Errno::ENOENT && chain.hook.is_some_and(|hook| hook.kind == "nat") =>
        {
            "CONFIG_NFT_NAT"
        }
        Some(Change::AddRule(..)) if errno == Errno::ENOENT => {
            "one of CONFIG_NFT_CT, CONFIG_NFT_FIB_IPV4, CONFIG_NFT_MASQ, CONFIG_NFT_NAT, CONFIG_NFT_NUMGEN, CONFIG_NFT_REJECT_IPV4"
        }
        _ => return Error::Kernel { context, reason: errno.desc().into() },
    };
    Error::Missing { context, config: config.into() }
}
