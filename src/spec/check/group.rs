//! The machines of one role: how many, where, how large, with which labels.

use std::collections::{BTreeMap, BTreeSet};

use super::{Checker, label_fault, offset, usable};
use crate::spec::document::{At, Group, Place};
use crate::spec::{Machines, Network, ProviderKind};

/// The most machines of one role. Masters are etcd members, of which more than seven only slow writes down.
pub(crate) const MOST_MASTERS: i64 = 7;
const MOST_WORKERS: i64 = 250;
/// The least memory that a machine of namespaces comes up with, and that a CoreOS boots with.
const LEAST_MEMORY: u64 = 128 << 20;
const LEAST_VM_MEMORY: u64 = 512 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Master,
    Worker,
}

/// Checks and completes the machines of one role.
pub(super) fn check_group(
    checker: &mut Checker,
    role: Role,
    group: Option<&Group>,
    (network, nodes_place): (&Network, Place),
    provider: ProviderKind,
) -> Machines {
    let (section, first_offset, most) = match role {
        Role::Master => ("masters", 101, MOST_MASTERS),
        Role::Worker => ("workers", 201, MOST_WORKERS),
    };
    let empty = Group::default();
    let Group { count, first_address, cpus, memory, disk, labels } = group.unwrap_or(&empty);
    let field = |name: &str| format!("{section}.{name}");
    let count = match count {
        None => 1,
        Some(At { value: 0, place }) if role == Role::Master => {
            checker.wrong(
                *place,
                "masters.count",
                "there is no master",
                "1: a master runs the control plane",
            );
            1
        }
        Some(At { value, place }) => match u32::try_from(*value) {
            Ok(count) if *value <= most => count,
            _ => {
                let least = u8::from(role == Role::Master);
                checker.wrong(
                    *place,
                    &field("count"),
                    format!("{value} is out of range"),
                    format!("{least} to {most}"),
                );
                1
            }
        },
    };
    let first = checker.address(
        &field("firstAddress"),
        first_address.as_ref(),
        offset(network.nodes.network(), first_offset),
    );
    if count > 0 {
        let last = offset(first.0, count - 1);
        if !usable(network.nodes, first.0) && first.1 == Place::Default {
            checker.wrong(
                nodes_place,
                "network.nodes",
                format!(
                    "{} has no room for the {section}, who begin at {} unless told otherwise",
                    network.nodes, first.0
                ),
                format!("a /24 or larger, or {section}.firstAddress"),
            );
        } else if !usable(network.nodes, first.0) {
            checker.inside(&field("firstAddress"), first, "network.nodes", network.nodes);
        } else if !usable(network.nodes, last) {
            let place = group.and_then(|group| group.count.as_ref()).map_or(first.1, |count| count.place);
            checker.wrong(
                place,
                &field("count"),
                format!(
                    "{count} machines from {} need addresses up to {last}, outside {}",
                    first.0, network.nodes
                ),
                "fewer machines, an earlier firstAddress or a larger network.nodes",
            );
        }
    }
    let local = provider == ProviderKind::Local;
    let milli_cpus = cpus.as_ref().and_then(|At { value, place }| {
        let parsed = parse_cpus(value);
        match parsed {
            None => checker.wrong(
                *place,
                &field("cpus"),
                format!("{value:?} is not a number of CPUs"),
                if local { "0.1 to 1024, such as 2 or 500m" } else { "1 to 1024, such as 2" },
            ),
            Some(milli) if !local && milli % 1000 != 0 => checker.wrong(
                *place,
                &field("cpus"),
                format!("a virtual machine has whole CPUs, and not {value:?}"),
                milli.div_ceil(1000).to_string(),
            ),
            Some(_) => {}
        }
        parsed
    });
    let least = if local { LEAST_MEMORY } else { LEAST_VM_MEMORY };
    let memory = size(checker, &field("memory"), memory.as_ref(), least, "1Gi");
    let disk_place = disk.as_ref().map(|at| at.place);
    let disk = size(checker, &field("disk"), disk.as_ref(), 4 << 30, "20Gi");
    if let (Some(place), ProviderKind::Local) = (disk_place, provider) {
        checker.wrong(
            place,
            &field("disk"),
            "the local provider has no disks: nodes use the file system of the state directory",
            "leave it out, or use provider vagrant or qemu",
        );
    }
    let mut kept = BTreeMap::new();
    for (key, At { value, place }) in labels {
        if let Some(fault) = label_key_fault(key).or_else(|| label_value_fault(value)) {
            checker.wrong(
                *place,
                &field("labels"),
                format!("{key}: {value:?} {fault}"),
                "PREFIX/NAME: VALUE, both of letters, digits, -, _ and . with a letter or digit at each end, at most 63",
            );
        }
        kept.insert(key.clone(), value.clone());
    }
    Machines {
        count,
        absent: BTreeSet::new(),
        first_address: first.0,
        milli_cpus,
        memory,
        disk,
        labels: kept,
    }
}

fn label_value_fault(value: &str) -> Option<&'static str> {
    let end = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = value.as_bytes();
    if value.len() > 63 {
        Some("has a value of more than 63 characters")
    } else if !bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte)) {
        Some("has a value with characters that labels cannot have")
    } else if !end(bytes.first()) || !end(bytes.last()) {
        Some("has a value that begins or ends with a sign")
    } else {
        None
    }
}

fn label_key_fault(key: &str) -> Option<&'static str> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if name.is_empty() || label_value_fault(name).is_some() {
        return Some("has a name that is no label's");
    }
    if prefix.is_some_and(|prefix| prefix.split('.').any(|label| label_fault(label, 63).is_some())) {
        return Some("has a prefix that is no DNS domain");
    }
    // The node authorizer lets nodes set only these of Kubernetes' own labels.
    let own = prefix.is_some_and(|prefix| prefix.ends_with("kubernetes.io") || prefix.ends_with("k8s.io"));
    let allowed = prefix.is_some_and(|prefix| {
        ["node.kubernetes.io", "kubelet.kubernetes.io"].iter().any(|known| prefix.ends_with(known))
    });
    if own && !allowed { Some("is one of Kubernetes' own, which nodes may not set") } else { None }
}

fn parse_cpus(text: &str) -> Option<u32> {
    let milli = match text.strip_suffix('m') {
        Some(milli) => f64::from(milli.parse::<u32>().ok()?),
        None => text.parse::<f64>().ok()? * 1000.0,
    };
    if !(100.0..=1_024_000.0).contains(&milli) {
        return None;
    }
    Some(milli.round() as u32)
}

/// Parses bytes with a binary or decimal unit.
fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "Ki" | "KiB" => 1 << 10,
        "Mi" | "MiB" => 1 << 20,
        "Gi" | "GiB" => 1 << 30,
        "Ti" | "TiB" => 1 << 40,
        "M" | "MB" => 1_000_000,
        "G" | "GB" => 1_000_000_000,
        "T" | "TB" => 1_000_000_000_000,
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    let bytes = number * factor as f64;
    (bytes.is_finite() && (1.0..1e15).contains(&bytes)).then_some(bytes as u64)
}

fn size(
    checker: &mut Checker,
    field: &str,
    given: Option<&At<String>>,
    least: u64,
    example: &str,
) -> Option<u64> {
    let At { value, place } = given?;
    match parse_bytes(value) {
        Some(bytes) if bytes >= least => Some(bytes),
        Some(_) => {
            checker.wrong(
                *place,
                field,
                format!("{value:?} is too small"),
                format!("at least {}Mi", least >> 20),
            );
            None
        }
        None => {
            checker.wrong(
                *place,
                field,
                format!("{value:?} is not a size"),
                format!("a number with Mi or Gi, such as {example}"),
            );
            None
        }
    }
}
