//! From changes to the kernel's messages. The numbers are those of `linux/netfilter/nf_tables.h`.
//!
//! Registers: a key is loaded so that it ends right before the target, which has a fixed place; key and
//! target together are then one longer key.

use super::diff::Change;
use super::model::{Chain, Data, DataType, Field, Hook, Reject, Rule, Set, Statement, Type, Value, Verdict};
use crate::netlink::{Attributes, Messages};

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const FAMILY: u8 = 2;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// The first 32-bit register of the target: its address; the port is in the next one.
const TARGET: u32 = 16;
/// The register of a rule's verdict.
const VERDICT: u32 = 0;
/// Scratch for matches, out of the way of keys.
const SCRATCH: u32 = 20;
/// Elements in one message: each takes less than 160 bytes, and a list must stay below 64 KiB.
const ELEMENTS: usize = 350;

/// Encodes a transaction. Returns the messages and, for each, the index of the change that it came from.
pub(super) fn transaction(table: &str, changes: &[Change<'_>]) -> (Messages, Vec<usize>) {
    let mut messages = Messages::default();
    let mut origins = vec![0];
    messages.push(BATCH_BEGIN, REQUEST, 0, SUBSYSTEM >> 8, |_| {});
    // Set ids are needed at creation only; nothing refers to them since all our sets have names.
    let mut set_id = 0;
    for (index, change) in changes.iter().enumerate() {
        let last = if index + 1 == changes.len() { ACK } else { 0 };
        let mut push = |message: u16, flags: u16, body: &dyn Fn(&mut Attributes<'_>)| {
            messages.push(SUBSYSTEM | message, REQUEST | flags, FAMILY, 0, |attributes| {
                attributes.text(1, table);
                body(attributes);
            });
            origins.push(index);
        };
        match change {
            Change::AddTable => push(0, CREATE | last, &|_| {}),
            Change::DeleteTable => push(2, last, &|_| {}),
            Change::AddSet(name, set) => {
                set_id += 1;
                push(9, CREATE | last, &|body| set_definition(body, name, set, set_id));
            }
            Change::DeleteSet(name) => push(11, last, &|body| body.text(2, name)),
            Change::AddChain(name, chain) => {
                push(3, CREATE | last, &|body| chain_definition(body, name, chain));
            }
            Change::DeleteChain(name) => push(5, last, &|body| body.text(3, name)),
            Change::AddRule(chain, rule) => push(6, CREATE | APPEND | last, &|body| {
                body.text(2, chain);
                body.nest(4, |list| rule_expressions(list, rule));
            }),
            Change::FlushChain(chain) => push(8, last, &|body| body.text(2, chain)),
            Change::AddElements(name, elements) => {
                let chunks = elements.chunks(ELEMENTS);
                let count = chunks.len();
                for (number, chunk) in chunks.enumerate() {
                    let last = if number + 1 == count { last } else { 0 };
                    push(12, CREATE | last, &|body| {
                        body.text(2, name);
                        body.nest(3, |list| {
                            for (key, data) in chunk {
                                list.nest(1, |element| element_parts(element, key, Some(data)));
                            }
                        });
                    });
                }
            }
            Change::DeleteElements(name, keys) => {
                let chunks = keys.chunks(ELEMENTS);
                let count = chunks.len();
                for (number, chunk) in chunks.enumerate() {
                    let last = if number + 1 == count { last } else { 0 };
                    push(14, last, &|body| {
                        body.text(2, name);
                        body.nest(3, |list| {
                            for key in chunk {
                                list.nest(1, |element| element_parts(element, key, None));
                            }
                        });
                    });
                }
            }
        }
    }
    messages.push(BATCH_END, REQUEST, 0, SUBSYSTEM >> 8, |_| {});
    origins.push(changes.len().saturating_sub(1));
    (messages, origins)
}

fn set_definition(body: &mut Attributes<'_>, name: &str, set: &Set, id: u32) {
    const MAP: u32 = 8;
    const TIMEOUT: u32 = 0x10;
    const EVAL: u32 = 0x20;
    let concatenated = |types: &[u32]| types.iter().fold(0, |all, one| (all << 6) | one);
    let numbers: Vec<u32> = set.key.iter().map(|part| part.number()).collect();
    let flags = if set.data.is_some() { MAP } else { 0 } | if set.dynamic { TIMEOUT | EVAL } else { 0 };
    body.text(2, name);
    body.number(3, flags);
    body.number(4, concatenated(&numbers));
    body.number(5, words(set.key.len()) * 4);
    match set.data {
        None => {}
        Some(DataType::Verdict) => {
            body.number(6, 0xffff_ff00);
            body.number(7, 16);
        }
        Some(DataType::Target) => {
            body.number(6, concatenated(&[Type::Address.number(), Type::Port.number()]));
            body.number(7, 8);
        }
    }
    if set.dynamic {
        // Clients come from outside: the number of elements must have a bound.
        body.nest(9, |description| description.number(1, 1 << 20));
    }
    body.number(10, id);
}

fn chain_definition(body: &mut Attributes<'_>, name: &str, chain: &Chain) {
    body.text(3, name);
    if let Some(Hook { kind, number, priority }) = chain.hook {
        body.nest(4, |hook| {
            hook.number(1, number);
            hook.raw(2, &priority.to_be_bytes());
        });
        body.number(5, 1);
        body.text(7, kind);
    }
}

fn element_parts(element: &mut Attributes<'_>, key: &[Value], data: Option<&Data>) {
    let mut bytes = Vec::with_capacity(key.len() * 4);
    for value in key {
        match value {
            Value::Address(address) => bytes.extend_from_slice(&address.octets()),
            Value::Protocol(number) => bytes.extend_from_slice(&[*number, 0, 0, 0]),
            Value::Port(port) => {
                bytes.extend_from_slice(&port.to_be_bytes());
                bytes.extend_from_slice(&[0, 0]);
            }
            // Compared with what a register holds, so in the machine's order.
            Value::Number(number) => bytes.extend_from_slice(&number.to_ne_bytes()),
        }
    }
    element.nest(1, |part| part.raw(1, &bytes));
    match data {
        None | Some(Data::None) => {}
        Some(Data::Verdict(verdict)) => element.nest(2, |part| verdict_data(part, verdict)),
        Some(Data::Target(address, port)) => {
            let [a, b, c, d] = address.octets();
            let [high, low] = port.to_be_bytes();
            element.nest(2, |part| part.raw(1, &[a, b, c, d, high, low, 0, 0]));
        }
    }
}

fn verdict_data(data: &mut Attributes<'_>, verdict: &Verdict) {
    let (code, chain): (i32, Option<&str>) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
        Verdict::Return => (-5, None),
    };
    data.nest(2, |part| {
        part.raw(1, &code.to_be_bytes());
        if let Some(chain) = chain {
            part.text(2, chain);
        }
    });
}

fn rule_expressions(list: &mut Attributes<'_>, rule: &Rule) {
    for statement in &rule.0 {
        expressions(list, statement);
    }
}

fn expressions(list: &mut Attributes<'_>, statement: &Statement) {
    const EQUAL: bool = true;
    const AT_MOST: u32 = 3;
    const AT_LEAST: u32 = 5;
    match statement {
        Statement::SaddrIn(network, positive) | Statement::DaddrIn(network, positive) => {
            let offset = if matches!(statement, Statement::SaddrIn(..)) { 12 } else { 16 };
            payload(list, SCRATCH, 1, offset, 4);
            if network.prefix_len() < 32 {
                bitwise(list, SCRATCH, network.netmask().octets(), [0; 4]);
            }
            compare(list, SCRATCH, *positive, &network.network().octets());
        }
        Statement::L4Proto(number, positive) => {
            meta(list, SCRATCH, 16);
            compare(list, SCRATCH, *positive, &[*number]);
        }
        Statement::DportIn(first, last) => {
            payload(list, SCRATCH, 2, 2, 2);
            // Ports are in network order, so that comparing bytes compares numbers.
            for (operation, port) in [(AT_LEAST, first), (AT_MOST, last)] {
                expression(list, "cmp", |data| {
                    data.number(1, SCRATCH);
                    data.number(2, operation);
                    data.nest(3, |part| part.raw(1, &port.to_be_bytes()));
                });
            }
        }
        Statement::InputInterface(name, positive) => {
            // IFNAMSIZ bytes need four registers; none of a key is live while a rule still matches.
            meta(list, SCRATCH, 6);
            let mut padded = name.as_bytes().to_vec();
            padded.resize(16, 0);
            compare(list, SCRATCH, *positive, &padded);
        }
        Statement::SaddrLocal => fib(list, 1),
        Statement::DaddrLocal => fib(list, 2),
        Statement::CtNew => conntrack(list, 0, 8),
        Statement::CtKnown => conntrack(list, 0, 2 | 4),
        Statement::CtDnat => conntrack(list, 2, 1 << 5),
        Statement::MarkHas(bits) => {
            meta(list, SCRATCH, 3);
            bitwise(list, SCRATCH, bits.to_ne_bytes(), [0; 4]);
            compare(list, SCRATCH, !EQUAL, &[0; 4]);
        }
        Statement::MarkSet(bits) => {
            meta(list, SCRATCH, 3);
            bitwise(list, SCRATCH, (!bits).to_ne_bytes(), bits.to_ne_bytes());
            expression(list, "meta", |data| {
                data.number(2, 3);
                data.number(3, SCRATCH);
            });
        }
        Statement::MarkClear(bits) => {
            meta(list, SCRATCH, 3);
            bitwise(list, SCRATCH, (!bits).to_ne_bytes(), [0; 4]);
            expression(list, "meta", |data| {
                data.number(2, 3);
                data.number(3, SCRATCH);
            });
        }
        Statement::In(key, set, positive) => {
            let register = load(list, key);
            lookup(list, set, register, None, *positive);
        }
        Statement::Vmap(key, map) => {
            let register = load(list, key);
            lookup(list, map, register, Some(VERDICT), true);
        }
        Statement::Find(key, map) => {
            let register = load(list, key);
            lookup(list, map, register, Some(TARGET), true);
        }
        Statement::TargetIn(key, set) => {
            let register = load(list, key);
            lookup(list, set, register, None, true);
        }
        Statement::Remember(key, map, timeout) => {
            let register = load(list, key);
            let milliseconds = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            dynamic(list, map, 1, register, Some(milliseconds));
        }
        Statement::Forget(key, map) => {
            let register = load(list, key);
            dynamic(list, map, 2, register, None);
        }
        Statement::DnatTarget => expression(list, "nat", |data| {
            data.number(1, 1);
            data.number(2, u32::from(FAMILY));
            data.number(3, TARGET);
            data.number(5, TARGET + 1);
        }),
        Statement::Snat(address) => {
            expression(list, "immediate", |data| {
                data.number(1, TARGET);
                data.nest(2, |value| value.raw(1, &address.octets()));
            });
            expression(list, "nat", |data| {
                data.number(1, 0);
                data.number(2, u32::from(FAMILY));
                data.number(3, TARGET);
                data.number(7, RANDOM_PORTS);
            });
        }
        Statement::Masquerade => expression(list, "masq", |data| data.number(1, RANDOM_PORTS)),
        Statement::Reject(how) => expression(list, "reject", |data| match how {
            Reject::TcpReset => {
                data.number(1, 1);
                data.byte(2, 0);
            }
            Reject::PortUnreachable => {
                data.number(1, 0);
                data.byte(2, 3);
            }
        }),
        Statement::Verdict(verdict) => expression(list, "immediate", |data| {
            data.number(1, VERDICT);
            data.nest(2, |value| verdict_data(value, verdict));
        }),
    }
}

/// Source ports are drawn fully at random: two clients behind one node must not race for the same one.
const RANDOM_PORTS: u32 = 16;

fn expression(list: &mut Attributes<'_>, name: &str, data: impl FnOnce(&mut Attributes<'_>)) {
    list.nest(1, |element| {
        element.text(1, name);
        element.nest(2, data);
    });
}

/// Loads a key so that it ends before the target; returns its first register.
fn load(list: &mut Attributes<'_>, key: &[Field]) -> u32 {
    let first = TARGET - words(key.len());
    for (register, field) in (first..).zip(key) {
        match field {
            Field::Saddr => payload(list, register, 1, 12, 4),
            Field::Daddr => payload(list, register, 1, 16, 4),
            Field::L4Proto => meta(list, register, 16),
            Field::Dport => payload(list, register, 2, 2, 2),
            Field::Random(bound) => expression(list, "numgen", |data| {
                data.number(1, register);
                data.number(2, *bound);
                data.number(3, 1);
                data.number(4, 0);
            }),
        }
    }
    first
}

fn words(count: usize) -> u32 {
    u32::try_from(count).expect("a key has a handful of parts")
}

fn payload(list: &mut Attributes<'_>, register: u32, base: u32, offset: u32, length: u32) {
    expression(list, "payload", |data| {
        data.number(1, register);
        data.number(2, base);
        data.number(3, offset);
        data.number(4, length);
    });
}

fn meta(list: &mut Attributes<'_>, register: u32, key: u32) {
    expression(list, "meta", |data| {
        data.number(1, register);
        data.number(2, key);
    });
}

fn compare(list: &mut Attributes<'_>, register: u32, equal: bool, value: &[u8]) {
    expression(list, "cmp", |data| {
        data.number(1, register);
        data.number(2, u32::from(!equal));
        data.nest(3, |part| part.raw(1, value));
    });
}

fn bitwise(list: &mut Attributes<'_>, register: u32, mask: [u8; 4], xor: [u8; 4]) {
    expression(list, "bitwise", |data| {
        data.number(1, register);
        data.number(2, register);
        data.number(3, 4);
        data.nest(4, |part| part.raw(1, &mask));
        data.nest(5, |part| part.raw(1, &xor));
    });
}

/// Matches when the address (1 source, 2 destination) is one of this node's.
fn fib(list: &mut Attributes<'_>, which: u32) {
    const ADDRESS_TYPE: u32 = 3;
    const LOCAL: u32 = 2;
    expression(list, "fib", |data| {
        data.number(1, SCRATCH);
        data.number(2, ADDRESS_TYPE);
        data.number(3, which);
    });
    compare(list, SCRATCH, true, &LOCAL.to_ne_bytes());
}

/// Matches when any of `bits` is set in the connection's state (key 0) or status (key 2).
fn conntrack(list: &mut Attributes<'_>, key: u32, bits: u32) {
    expression(list, "ct", |data| {
        data.number(1, SCRATCH);
        data.number(2, key);
    });
    bitwise(list, SCRATCH, bits.to_ne_bytes(), [0; 4]);
    compare(list, SCRATCH, false, &[0; 4]);
}

fn lookup(list: &mut Attributes<'_>, set: &str, key: u32, data_register: Option<u32>, positive: bool) {
    expression(list, "lookup", |data| {
        data.text(1, set);
        data.number(2, key);
        if let Some(register) = data_register {
            data.number(3, register);
        }
        if !positive {
            data.number(5, 1);
        }
    });
}

fn dynamic(list: &mut Attributes<'_>, map: &str, operation: u32, key: u32, timeout: Option<u64>) {
    expression(list, "dynset", |data| {
        data.text(1, map);
        data.number(3, operation);
        data.number(4, key);
        data.number(5, TARGET);
        if let Some(milliseconds) = timeout {
            data.long(6, milliseconds);
        }
    });
}
