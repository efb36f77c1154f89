//! Addresses and ports of services, given out inside the write that needs them.
//!
//! What is taken is read from the cache of services, so there is no allocation state that could leak or
//! disagree: deleting a service is what frees its address. The caller holds the lock of service writes from
//! before the first call here until the cache has the written service.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use api::field::{Errors, Path};
use ipnet::Ipv4Net;
use machinery::names::Random;
use serde_json::{Value, json};

/// The headless "address".
const NONE: &str = "None";

/// What services hold at present, the one being written aside.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    addresses: HashSet<Ipv4Addr>,
    /// Port and protocol.
    ports: HashSet<(u16, String)>,
}

/// Where addresses and ports come from.
#[derive(Debug, Clone)]
pub(crate) struct Pools {
    pub(crate) network: Ipv4Net,
    pub(crate) ports: RangeInclusive<u16>,
    /// Given only to who asks for them by name.
    pub(crate) reserved: Vec<Ipv4Addr>,
}

impl Taken {
    /// Adds what `service` holds.
    pub(crate) fn add(&mut self, service: &Value) {
        let spec = &service["spec"];
        for address in spec["clusterIPs"].as_array().into_iter().flatten().chain([&spec["clusterIP"]]) {
            if let Some(address) = address.as_str().and_then(|text| text.parse().ok()) {
                self.addresses.insert(address);
            }
        }
        for port in spec["ports"].as_array().into_iter().flatten() {
            if let Some(number) = number(&port["nodePort"]) {
                self.ports.insert((number, protocol(port)));
            }
        }
        if let Some(number) = number(&spec["healthCheckNodePort"]) {
            self.ports.insert((number, "TCP".into()));
        }
    }

    fn has_port(&self, port: u16, protocol: &str) -> bool {
        self.ports.iter().any(|(taken, of)| *taken == port && of == protocol)
    }

    fn has_any(&self, port: u16) -> bool {
        self.ports.iter().any(|(taken, _)| *taken == port)
    }
}

/// Completes `service` with what it needs and lacks, or says what it asks for in vain. `old` is the service
/// before an update.
pub(crate) fn allocate(
    service: &mut Value,
    old: Option<&Value>,
    mut taken: Taken,
    pools: &Pools,
    random: &Random,
) -> Errors {
    let mut errors = Errors::new();
    if let Some(old) = old {
        keep(service, old);
    }
    let kind = service["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned();
    let Some(spec) = service.get_mut("spec").filter(|spec| spec.is_object()) else { return errors };
    if kind == "ExternalName" {
        return errors;
    }
    address(spec, &taken, pools, random, &mut errors);
    let wants_ports = match kind.as_str() {
        "NodePort" => true,
        "LoadBalancer" => spec["allocateLoadBalancerNodePorts"] != json!(false),
        _ => false,
    };
    node_ports(spec, wants_ports, &mut taken, pools, random, &mut errors);
    if kind == "LoadBalancer" && spec["externalTrafficPolicy"] == json!("Local") {
        let path = Path::new("spec").child("healthCheckNodePort");
        match number(&spec["healthCheckNodePort"]) {
            Some(port)
                if old.is_some_and(|old| number(&old["spec"]["healthCheckNodePort"]) == Some(port)) => {}
            Some(port) => check_port(port, "TCP", &taken, pools, &path, &mut errors),
            None => match free_port("TCP", &taken, pools, random) {
                Some(port) => spec["healthCheckNodePort"] = json!(port),
                None => errors.invalid(&path, 0, "failed to allocate a nodePort: range is full"),
            },
        }
    }
    errors
}

/// Carries over what the client left out but the service already has, and drops what the new type has not.
fn keep(service: &mut Value, old: &Value) {
    let type_of = |service: &Value| service["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned();
    let (new_type, old_type) = (type_of(service), type_of(old));
    let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let old = &old["spec"];
    let missing = |spec: &serde_json::Map<String, Value>, key: &str| {
        spec.get(key).is_none_or(|value| value.is_null() || *value == json!(""))
    };
    if new_type == "ExternalName" {
        // What was given out goes back, unless the client says otherwise, which validation refuses.
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            if old_type != "ExternalName" && spec.get(key) == old.get(key) {
                spec.remove(key);
            }
        }
    } else if old_type != "ExternalName" && missing(spec, "clusterIP") && old["clusterIP"].is_string() {
        spec.insert("clusterIP".into(), old["clusterIP"].clone());
        if spec.get("clusterIPs").is_none_or(Value::is_null) {
            spec.insert("clusterIPs".into(), old["clusterIPs"].clone());
        }
    }
    let has_ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    let old_ports: Vec<Value> = old["ports"].as_array().cloned().unwrap_or_default();
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let same = old_ports
            .iter()
            .find(|old| old["port"] == port["port"] && protocol(old) == protocol(port))
            .and_then(|old| number(&old["nodePort"]));
        match (has_ports(&new_type), number(&port["nodePort"])) {
            (true, None) => {
                if let Some(kept) = same {
                    port["nodePort"] = json!(kept);
                }
            }
            (false, Some(now)) if has_ports(&old_type) && same == Some(now) => {
                port.as_object_mut().map(|port| port.remove("nodePort"));
            }
            _ => {}
        }
    }
    let checks = |spec: &serde_json::Map<String, Value>| {
        new_type == "LoadBalancer" && spec.get("externalTrafficPolicy") == Some(&json!("Local"))
    };
    if checks(spec) {
        if number(spec.get("healthCheckNodePort").unwrap_or(&Value::Null)).is_none()
            && number(&old["healthCheckNodePort"]).is_some()
        {
            spec.insert("healthCheckNodePort".into(), old["healthCheckNodePort"].clone());
        }
    } else if spec.get("healthCheckNodePort") == old.get("healthCheckNodePort") {
        spec.remove("healthCheckNodePort");
    }
    if !has_ports(&new_type)
        && has_ports(&old_type)
        && spec.get("externalTrafficPolicy") == old.get("externalTrafficPolicy")
    {
        spec.remove("externalTrafficPolicy");
    }
    if new_type != "LoadBalancer"
        && spec.get("allocateLoadBalancerNodePorts") == old.get("allocateLoadBalancerNodePorts")
    {
        spec.remove("allocateLoadBalancerNodePorts");
    }
}

fn address(spec: &mut Value, taken: &Taken, pools: &Pools, random: &Random, errors: &mut Errors) {
    let path = Path::new("spec").child("clusterIPs");
    let asked = spec["clusterIP"].as_str().or_else(|| spec["clusterIPs"][0].as_str()).unwrap_or_default();
    let given = match asked {
        "" => match free_address(taken, pools, random) {
            Some(address) => address.to_string(),
            None => {
                let why = format!("failed to allocate a serviceIP: range {} is full", pools.network);
                return errors.invalid(&path, json!([]), why);
            }
        },
        NONE => NONE.to_owned(),
        asked => {
            let refuse = |errors: &mut Errors, why: &str| {
                errors.invalid(&path, json!([asked]), format!("failed to allocate IP {asked}: {why}"));
            };
            match asked.parse::<Ipv4Addr>() {
                // Validation has its own words for what is no address.
                Err(_) => return,
                Ok(address) if !usable(address, &pools.network) => {
                    let why = format!(
                        "the provided IP ({asked}) is not in the valid range. The range of valid IPs is {}",
                        pools.network
                    );
                    return refuse(errors, &why);
                }
                Ok(address) if taken.addresses.contains(&address) => {
                    return refuse(errors, "provided IP is already allocated");
                }
                Ok(_) => asked.to_owned(),
            }
        }
    };
    let families_missing = spec["ipFamilies"].as_array().is_none_or(Vec::is_empty);
    if families_missing {
        spec["ipFamilies"] = json!(["IPv4"]);
    }
    if !spec["ipFamilyPolicy"].is_string() {
        spec["ipFamilyPolicy"] = json!("SingleStack");
    }
    spec["clusterIPs"] = json!([given]);
    spec["clusterIP"] = json!(given);
}

fn usable(address: Ipv4Addr, network: &Ipv4Net) -> bool {
    network.contains(&address) && address != network.network() && address != network.broadcast()
}

/// Finds a free address at random: outside the lower band, which is kept for who asks by name, while it lasts.
fn free_address(taken: &Taken, pools: &Pools, random: &Random) -> Option<Ipv4Addr> {
    let (first, last) = (u32::from(pools.network.network()) + 1, u32::from(pools.network.broadcast()));
    let size = last.checked_sub(first).filter(|size| *size > 0)?;
    let band = (size / 16).clamp(16.min(size), 256);
    let free = |address: &Ipv4Addr| !taken.addresses.contains(address) && !pools.reserved.contains(address);
    let scan = |from: u32, count: u32| {
        let offset = u32::try_from(random.below(u64::from(count))).unwrap_or(0);
        (0..count).map(|step| Ipv4Addr::from(from + (offset + step) % count)).find(free)
    };
    scan(first + band, size - band).or_else(|| scan(first, band))
}

fn node_ports(
    spec: &mut Value,
    wanted: bool,
    taken: &mut Taken,
    pools: &Pools,
    random: &Random,
    errors: &mut Errors,
) {
    let count = spec["ports"].as_array().map_or(0, Vec::len);
    // First the ports that are asked for by number, so that a free choice does not take one of them.
    for index in 0..count {
        let port = &spec["ports"][index];
        let (asked, protocol) = (number(&port["nodePort"]), protocol(port));
        if let Some(asked) = asked {
            let path = Path::new("spec").child("ports").index(index).child("nodePort");
            check_port(asked, &protocol, taken, pools, &path, errors);
            taken.ports.insert((asked, protocol));
        }
    }
    for index in 0..count {
        let port = &spec["ports"][index];
        if !wanted || number(&port["nodePort"]).is_some() {
            continue;
        }
        let protocol = protocol(port);
        // The same service port under another protocol shares its node port.
        let shared = (0..count)
            .filter(|other| *other != index && spec["ports"][*other]["port"] == port["port"])
            .find_map(|other| number(&spec["ports"][other]["nodePort"]))
            .filter(|shared| !taken.has_port(*shared, &protocol));
        match shared.or_else(|| free_port(&protocol, taken, pools, random)) {
            Some(given) => {
                taken.ports.insert((given, protocol));
                spec["ports"][index]["nodePort"] = json!(given);
            }
            None => {
                let path = Path::new("spec").child("ports").index(index).child("nodePort");
                errors.invalid(&path, 0, "failed to allocate a nodePort: range is full");
            }
        }
    }
}

fn check_port(port: u16, protocol: &str, taken: &Taken, pools: &Pools, path: &Path, errors: &mut Errors) {
    if !pools.ports.contains(&port) {
        let (first, last) = (pools.ports.start(), pools.ports.end());
        let why =
            format!("provided port is not in the valid range. The range of valid ports is {first}-{last}");
        errors.invalid(path, port, why);
    } else if taken.has_port(port, protocol) {
        errors.invalid(path, port, "provided port is already allocated");
    }
}

fn free_port(_protocol: &str, taken: &Taken, pools: &Pools, random: &Random) -> Option<u16> {
    let (first, last) = (*pools.ports.start(), *pools.ports.end());
    let count = u64::from(last.checked_sub(first)?) + 1;
    let offset = random.below(count);
    (0..count)
        .filter_map(|step| u16::try_from(u64::from(first) + (offset + step) % count).ok())
        .find(|port| !taken.has_any(*port))
}

fn number(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0)
}

fn protocol(port: &Value) -> String {
    port["protocol"].as_str().unwrap_or("TCP").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools() -> Pools {
        Pools {
            network: "10.3.0.0/24".parse().unwrap(),
            ports: 30000..=30003,
            reserved: vec![Ipv4Addr::new(10, 3, 0, 1), Ipv4Addr::new(10, 3, 0, 10)],
        }
    }

    fn run(service: &mut Value, old: Option<&Value>, others: &[Value]) -> String {
        let mut taken = Taken::default();
        others.iter().for_each(|other| taken.add(other));
        allocate(service, old, taken, &pools(), &Random::seeded(1)).joined()
    }

    #[test]
    fn every_service_gets_an_address_of_its_own_until_none_is_left() {
        let mut services = Vec::new();
        for _ in 0..252 {
            let mut service = json!({"spec": {"ports": [{"port": 80}]}});
            assert_eq!(run(&mut service, None, &services), "[]");
            services.push(service);
        }
        let distinct: HashSet<_> =
            services.iter().map(|service| service["spec"]["clusterIP"].as_str().unwrap()).collect();
        assert_eq!(distinct.len(), 252);
        assert!(!distinct.contains("10.3.0.1") && !distinct.contains("10.3.0.10"));
        let text = run(&mut json!({"spec": {"ports": [{"port": 80}]}}), None, &services);
        assert!(text.contains("range 10.3.0.0/24 is full"), "{text}");
    }

    #[test]
    fn an_address_that_is_asked_for_must_be_free_and_in_range() {
        let first = json!({"spec": {"clusterIP": "10.3.0.7", "clusterIPs": ["10.3.0.7"]}});
        let mut second = json!({"spec": {"clusterIP": "10.3.0.7"}});
        assert!(run(&mut second, None, &[first]).ends_with("provided IP is already allocated"));
        assert!(
            run(&mut json!({"spec": {"clusterIP": "10.4.0.7"}}), None, &[])
                .contains("not in the valid range")
        );
        let mut headless = json!({"spec": {"clusterIP": "None"}});
        assert_eq!(run(&mut headless, None, &[]), "[]");
        assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    }

    #[test]
    fn node_ports_are_given_kept_shared_and_taken_back() {
        let ports = json!([{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]);
        let mut service = json!({"spec": {"type": "NodePort", "ports": ports}});
        assert_eq!(run(&mut service, None, &[]), "[]");
        let given = service["spec"]["ports"][0]["nodePort"].clone();
        assert_eq!(service["spec"]["ports"][1]["nodePort"], given);

        let mut update = json!({"spec": {"type": "NodePort", "ports": ports}});
        assert_eq!(run(&mut update, Some(&service), &[]), "[]");
        assert_eq!(update["spec"], service["spec"]);

        let mut closed = service.clone();
        closed["spec"]["type"] = json!("ClusterIP");
        assert_eq!(run(&mut closed, Some(&service), &[]), "[]");
        assert_eq!(closed["spec"]["ports"], ports);

        let asked =
            |port: u16| json!({"spec": {"type": "NodePort", "ports": [{"port": 1, "nodePort": port}]}});
        let text = run(&mut asked(30001), None, &[asked(30001)]);
        assert_eq!(text, "spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated");
        assert!(run(&mut asked(80), None, &[]).contains("The range of valid ports is 30000-30003"));
    }
}
