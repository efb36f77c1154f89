//! What a CNI plugin prints: results, versions and errors (CNI specification 1.0.0, sections 2 and 4). Pure.

use std::net::IpAddr;

use serde_json::{Value, json};

/// The version that the network's configuration is in.
pub(super) const VERSION: &str = "1.0.0";
/// Versions whose results look alike.
pub(super) const VERSIONS: [&str; 4] = ["0.4.0", "1.0.0", "1.1.0", "0.3.1"];
/// The gateway that every pod sees.
const GATEWAY: &str = "169.254.1.1";

/// Numbers of errors.
pub(super) mod code {
    /// The version of the configuration is not known.
    pub(in crate::cri::cni) const VERSION: u32 = 1;
    /// A variable of the environment is missing or makes no sense.
    pub(in crate::cri::cni) const ENVIRONMENT: u32 = 4;
    /// What was read does not parse.
    pub(in crate::cri::cni) const PARSE: u32 = 6;
    /// Try again later.
    pub(in crate::cri::cni) const LATER: u32 = 11;
    /// The plugin cannot add sandboxes now (`STATUS`).
    pub(in crate::cri::cni) const NOT_AVAILABLE: u32 = 50;
    /// The network failed; the first number that is a plugin's own.
    pub(in crate::cri::cni) const NETWORK: u32 = 100;
}

/// Returns the result of connecting a sandbox.
pub(super) fn connected(version: &str, interface: &str, namespace: &str, addresses: &[IpAddr]) -> Value {
    let ips: Vec<Value> = addresses
        .iter()
        .map(|address| {
            let (length, family) = if address.is_ipv4() { (32, "4") } else { (128, "6") };
            let mut ip = json!({"address": format!("{address}/{length}"), "interface": 0});
            if address.is_ipv4() {
                ip["gateway"] = GATEWAY.into();
            }
            if version.starts_with("0.") {
                ip["version"] = family.into();
            }
            ip
        })
        .collect();
    json!({
        "cniVersion": version,
        "interfaces": [{"name": interface, "sandbox": namespace}],
        "ips": ips,
        "routes": [{"dst": "0.0.0.0/0", "gw": GATEWAY}],
        "dns": {},
    })
}

/// Returns the result of raising a sandbox's loopback.
pub(super) fn raised(version: &str, interface: &str, namespace: &str) -> Value {
    json!({
        "cniVersion": version,
        "interfaces": [{"name": interface, "mac": "00:00:00:00:00:00", "sandbox": namespace}],
        "ips": [],
        "dns": {},
    })
}

/// Returns the answer to `VERSION`.
pub(super) fn versions() -> Value {
    json!({"cniVersion": VERSION, "supportedVersions": VERSIONS})
}

/// Returns an error.
pub(super) fn failed(version: &str, code: u32, message: &str) -> Value {
    json!({"cniVersion": version, "code": code, "msg": message})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_as_each_version_has_them() {
        let address = ["10.2.1.5".parse().unwrap()];
        let result = connected("1.0.0", "eth0", "/run/netns/x", &address);
        assert_eq!(result["ips"][0]["address"], "10.2.1.5/32");
        assert_eq!(result["ips"][0]["version"], Value::Null);
        let result = connected("0.4.0", "eth0", "/run/netns/x", &address);
        assert_eq!(result["ips"][0]["version"], "4");
        assert_eq!(result["interfaces"][0]["sandbox"], "/run/netns/x");
    }
}
