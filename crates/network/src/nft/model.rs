//! A table as a plain value. Its `Display` is close to nft's own syntax: what snapshots show.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;

/// A table of the family `ip`. Its owner alone writes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) sets: BTreeMap<String, Set>,
    pub(crate) chains: BTreeMap<String, Chain>,
}

/// A set, or a map when it has a data type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) key: Vec<Type>,
    pub(crate) data: Option<DataType>,
    /// Filled by packets, with timeouts; its elements are not ours to compare.
    pub(crate) dynamic: bool,
    pub(crate) elements: BTreeMap<Vec<Value>, Data>,
}

/// The type of a part of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Address,
    Protocol,
    Port,
    Number,
}

/// The type of a map's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DataType {
    Verdict,
    /// An address and a port.
    Target,
}

/// A part of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Value {
    Address(Ipv4Addr),
    Protocol(u8),
    Port(u16),
    Number(u32),
}

/// What a key leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data {
    None,
    Verdict(Verdict),
    Target(Ipv4Addr, u16),
}

/// A chain; a base chain when it has a hook.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) hook: Option<Hook>,
    pub(crate) rules: Vec<Rule>,
}

/// Where packets enter a base chain; its policy is to accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hook {
    /// `nat` or `filter`.
    pub(crate) kind: &'static str,
    /// The kernel's number: 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting.
    pub(crate) number: u32,
    pub(crate) priority: i32,
}

impl Hook {
    pub(crate) const PREROUTING: u32 = 0;
    pub(crate) const INPUT: u32 = 1;
    pub(crate) const FORWARD: u32 = 2;
    pub(crate) const OUTPUT: u32 = 3;
    pub(crate) const POSTROUTING: u32 = 4;
    /// The priority of destination NAT.
    pub(crate) const DSTNAT: i32 = -100;
    /// The priority of source NAT.
    pub(crate) const SRCNAT: i32 = 100;
    /// The priority of filters.
    pub(crate) const FILTER: i32 = 0;

    pub(crate) fn nat(number: u32, priority: i32) -> Self {
        Self { kind: "nat", number, priority }
    }

    pub(crate) fn filter(number: u32, priority: i32) -> Self {
        Self { kind: "filter", number, priority }
    }
}

/// A rule: its statements run from the left and end at the first that does not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule(pub(crate) Vec<Statement>);

/// A part of a packet, or of the moment, that goes into a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Saddr,
    Daddr,
    L4Proto,
    Dport,
    /// A random number below the bound.
    Random(u32),
}

/// A step of a rule. `Find` leaves an address and a port in the *target*, which later steps use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Statement {
    /// Source in (or not in) a network.
    SaddrIn(Ipv4Net, bool),
    /// Destination in (or not in) a network.
    DaddrIn(Ipv4Net, bool),
    /// The transport protocol is (or is not) this.
    L4Proto(u8, bool),
    /// The destination port is between these two, both included.
    DportIn(u16, u16),
    /// Arrived by the interface of this name (or by another).
    InputInterface(String, bool),
    /// The source is an address of this node.
    SaddrLocal,
    /// The destination is an address of this node.
    DaddrLocal,
    /// The connection is new.
    CtNew,
    /// The connection belongs to one that was accepted before.
    CtKnown,
    /// The connection's destination was translated.
    CtDnat,
    /// Any bit of the mark is set.
    MarkHas(u32),
    /// Sets bits of the mark.
    MarkSet(u32),
    /// Clears bits of the mark.
    MarkClear(u32),
    /// The key is (or is not) in a set.
    In(Vec<Field>, String, bool),
    /// Takes the verdict that a map holds for the key.
    Vmap(Vec<Field>, String),
    /// Puts what a map holds for the key into the target.
    Find(Vec<Field>, String),
    /// The key, followed by the target, is in a set.
    TargetIn(Vec<Field>, String),
    /// Adds key and target to a dynamic map, or renews the time that is left.
    Remember(Vec<Field>, String, Duration),
    /// Takes the key out of a dynamic map.
    Forget(Vec<Field>, String),
    /// Translates the destination to the target.
    DnatTarget,
    /// Translates the source to an address of this node.
    Snat(Ipv4Addr),
    /// Translates the source to the address of the interface that the packet leaves by.
    Masquerade,
    Reject(Reject),
    Verdict(Verdict),
}

/// How a packet is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reject {
    TcpReset,
    PortUnreachable,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

impl Table {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Adds an empty set or map.
    pub(crate) fn set(&mut self, name: &str, key: &[Type], data: Option<DataType>) -> &mut Set {
        self.sets.entry(name.into()).or_insert_with(|| Set {
            key: key.to_vec(),
            data,
            dynamic: false,
            elements: BTreeMap::new(),
        })
    }

    /// Adds a base chain.
    pub(crate) fn base(&mut self, name: &str, hook: Hook, rules: Vec<Rule>) {
        self.chains.insert(name.into(), Chain { hook: Some(hook), rules });
    }

    /// Adds a chain that others jump to.
    pub(crate) fn chain(&mut self, name: &str, rules: Vec<Rule>) {
        self.chains.insert(name.into(), Chain { hook: None, rules });
    }
}

impl Set {
    /// Adds an element of a set.
    pub(crate) fn add(&mut self, key: Vec<Value>) {
        self.elements.insert(key, Data::None);
    }

    /// Adds an element of a map; what was there first stays, so that a conflict has one winner.
    pub(crate) fn map(&mut self, key: Vec<Value>, data: Data) {
        self.elements.entry(key).or_insert(data);
    }

    /// Whether another set can take this one's place by exchanging elements.
    pub(crate) fn same_shape(&self, other: &Self) -> bool {
        self.key == other.key && self.data == other.data && self.dynamic == other.dynamic
    }
}

impl Type {
    /// Number of the type in nft's own listing.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Address => 7,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Number => 19,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "ipv4_addr",
            Self::Protocol => "inet_proto",
            Self::Port => "inet_service",
            Self::Number => "mark",
        })
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Protocol(6) => f.write_str("tcp"),
            Self::Protocol(17) => f.write_str("udp"),
            Self::Protocol(132) => f.write_str("sctp"),
            Self::Protocol(number) => number.fmt(f),
            Self::Port(port) => port.fmt(f),
            Self::Number(number) => number.fmt(f),
        }
    }
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Verdict(verdict) => write!(f, " : {verdict}"),
            Self::Target(address, port) => write!(f, " : {address} . {port}"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Saddr => f.write_str("ip saddr"),
            Self::Daddr => f.write_str("ip daddr"),
            Self::L4Proto => f.write_str("meta l4proto"),
            Self::Dport => f.write_str("th dport"),
            Self::Random(bound) => write!(f, "numgen random mod {bound}"),
        }
    }
}

/// Writes the parts with ` . ` between them.
struct Joined<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for Joined<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(" . ")?;
            }
            part.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = |positive: &bool| if *positive { "" } else { "!= " };
        match self {
            Self::SaddrIn(network, positive) => write!(f, "ip saddr {}{network}", not(positive)),
            Self::DaddrIn(network, positive) => write!(f, "ip daddr {}{network}", not(positive)),
            Self::L4Proto(number, positive) => {
                write!(f, "meta l4proto {}{}", not(positive), Value::Protocol(*number))
            }
            Self::DportIn(first, last) if first == last => write!(f, "th dport {first}"),
            Self::DportIn(first, last) => write!(f, "th dport {first}-{last}"),
            Self::InputInterface(name, positive) => write!(f, "iifname {}{name:?}", not(positive)),
            Self::SaddrLocal => f.write_str("fib saddr type local"),
            Self::DaddrLocal => f.write_str("fib daddr type local"),
            Self::CtNew => f.write_str("ct state new"),
            Self::CtKnown => f.write_str("ct state established,related"),
            Self::CtDnat => f.write_str("ct status dnat"),
            Self::MarkHas(bits) => write!(f, "meta mark & {bits:#x} != 0"),
            Self::MarkSet(bits) => write!(f, "meta mark set mark | {bits:#x}"),
            Self::MarkClear(bits) => write!(f, "meta mark set mark & ~{bits:#x}"),
            Self::In(key, set, positive) => write!(f, "{} {}@{set}", Joined(key), not(positive)),
            Self::Vmap(key, map) => write!(f, "{} vmap @{map}", Joined(key)),
            Self::Find(key, map) => write!(f, "target = {} map @{map}", Joined(key)),
            Self::TargetIn(key, set) => write!(f, "{} . target @{set}", Joined(key)),
            Self::Remember(key, map, time) => {
                write!(f, "update @{map} {{ {} timeout {}s : target }}", Joined(key), time.as_secs())
            }
            Self::Forget(key, map) => write!(f, "delete @{map} {{ {} }}", Joined(key)),
            Self::DnatTarget => f.write_str("dnat to target"),
            Self::Snat(address) => write!(f, "snat to {address} fully-random"),
            Self::Masquerade => f.write_str("masquerade fully-random"),
            Self::Reject(Reject::TcpReset) => f.write_str("reject with tcp reset"),
            Self::Reject(Reject::PortUnreachable) => f.write_str("reject with icmp port-unreachable"),
            Self::Verdict(verdict) => verdict.fmt(f),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, statement) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("  ")?;
            }
            statement.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table ip {} {{", self.name)?;
        for (name, set) in &self.sets {
            let data = match set.data {
                None => "",
                Some(DataType::Verdict) => " : verdict",
                Some(DataType::Target) => " : ipv4_addr . inet_service",
            };
            let word = if set.data.is_some() { "map" } else { "set" };
            let flags = if set.dynamic { " dynamic,timeout" } else { "" };
            write!(f, "  {word} {name} {{ {}{data}{flags}", Joined(&set.key))?;
            for (key, data) in &set.elements {
                write!(f, "\n    {}{data}", Joined(key))?;
            }
            f.write_str(if set.elements.is_empty() { " }\n" } else { "\n  }\n" })?;
        }
        for (name, chain) in &self.chains {
            write!(f, "  chain {name} {{")?;
            if let Some(Hook { kind, number, priority }) = chain.hook {
                let hook = ["prerouting", "input", "forward", "output", "postrouting"]
                    .get(number as usize)
                    .unwrap_or(&"unknown");
                write!(f, " type {kind} hook {hook} priority {priority}")?;
            }
            for rule in &chain.rules {
                write!(f, "\n    {rule}")?;
            }
            f.write_str("\n  }\n")?;
        }
        f.write_str("}\n")
    }
}
