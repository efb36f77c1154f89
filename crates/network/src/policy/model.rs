//! Policies as plain values, with selectors already resolved.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::Protocol;

/// All policies that matter to this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyTable {
    /// Policies by a name that is theirs alone, such as `namespace/name`.
    pub policies: BTreeMap<String, Policy>,
    /// The pods of this node that at least one policy selects, by address.
    pub pods: BTreeMap<Ipv4Addr, IsolatedPod>,
}

/// Which policies select a pod. One that no policy selects in a direction is open in that direction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IsolatedPod {
    /// Policies of type Ingress; `None` where none selects the pod.
    pub ingress: Option<BTreeSet<String>>,
    /// Policies of type Egress; `None` where none selects the pod.
    pub egress: Option<BTreeSet<String>>,
}

/// What a policy allows. An empty list allows nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Who may reach the selected pods.
    pub ingress: Vec<PolicyRule>,
    /// Whom the selected pods may reach.
    pub egress: Vec<PolicyRule>,
}

/// Traffic is allowed when both its peer and its port are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyRule {
    /// `None` is everybody; an empty list is nobody.
    pub peers: Option<Vec<Peer>>,
    /// `None` is every port; an empty list is none.
    pub ports: Option<Vec<PortRange>>,
}

/// Somebody at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// These pods.
    Pods(BTreeSet<Ipv4Addr>),
    /// A network without parts of it.
    Block(IpBlock),
}

/// A network without parts of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpBlock {
    /// The network.
    pub cidr: Ipv4Net,
    /// The parts that are excepted.
    pub except: Vec<Ipv4Net>,
}

/// Ports of a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    /// The protocol.
    pub protocol: Protocol,
    /// First and last port; `None` is all of them.
    pub ports: Option<(u16, u16)>,
}
