//! The sandbox of a pod: host name, resolver, `/etc/hosts`, control group, host ports. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{HostAlias, Pod, PodSpec};
use runtime::{DnsConfig, HostNamespaces, SandboxConfig};

use super::model::spec;
use super::{labels, resources};
use crate::config::Config;

/// The annotation that carries a pod's host ports to the network: a JSON list.
pub(crate) const HOST_PORTS: &str = "cluster/host-ports";
/// The longest host name that Linux takes.
const LONGEST_HOSTNAME: usize = 63;

/// Returns what the sandbox of `pod` is to be. `node_dns` is the node's own resolver configuration.
pub(crate) fn config(config: &Config, pod: &Pod, attempt: u32, node_dns: &DnsConfig) -> SandboxConfig {
    let spec = spec(pod);
    let meta = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (name, namespace, uid) = (text(&meta.name), text(&meta.namespace), text(&meta.uid));
    let host_network = spec.host_network == Some(true);
    let mut annotations = BTreeMap::new();
    let ports = host_ports(pod);
    if !host_network && !ports.is_empty() {
        annotations.insert(HOST_PORTS.to_owned(), serde_json::to_string(&ports).unwrap_or_default());
    }
    SandboxConfig {
        hostname: if host_network { String::new() } else { hostname(pod, &config.cluster_domain) },
        dns: Some(dns(pod, config, node_dns)),
        log_directory: log_directory(pod),
        labels: BTreeMap::from([
            (labels::POD_NAME.to_owned(), name.clone()),
            (labels::POD_NAMESPACE.to_owned(), namespace.clone()),
            (labels::POD_UID.to_owned(), uid.clone()),
        ]),
        annotations,
        host: HostNamespaces {
            network: host_network,
            pid: spec.host_pid == Some(true),
            ipc: spec.host_ipc == Some(true),
        },
        share_processes: spec.share_process_namespace == Some(true),
        cgroup_parent: resources::cgroup_parent(resources::class(&spec), &uid),
        sysctls: spec
            .security_context
            .iter()
            .flat_map(|context| context.sysctls.iter().flatten())
            .map(|one| (one.name.clone(), one.value.clone()))
            .collect(),
        resources: resources::pod(&spec),
        privileged: privileged(&spec),
        name,
        namespace,
        uid,
        attempt,
    }
}

/// Returns whether any container that the pod was made with is privileged.
fn privileged(spec: &PodSpec) -> bool {
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    all.filter_map(|one| one.security_context.as_ref()).any(|context| context.privileged == Some(true))
}

/// Returns the directory of a pod's container logs.
pub(crate) fn log_directory(pod: &Pod) -> PathBuf {
    let meta = &pod.metadata;
    PathBuf::from(format!(
        "/var/log/pods/{}_{}_{}",
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
        meta.uid.as_deref().unwrap_or_default()
    ))
}

/// Returns the node ports that a pod's containers ask for.
pub(crate) fn host_ports(pod: &Pod) -> Vec<network::pods::HostPort> {
    let spec = spec(pod);
    spec.containers
        .iter()
        .chain(spec.init_containers.iter().flatten().filter(|one| super::model::is_sidecar(one)))
        .flat_map(|one| one.ports.iter().flatten())
        .filter_map(|port| {
            let host_port = u16::try_from(port.host_port.filter(|port| *port > 0)?).ok()?;
            Some(network::pods::HostPort {
                protocol: port.protocol.as_deref().unwrap_or("TCP").parse().ok()?,
                host_ip: port
                    .host_ip
                    .as_deref()
                    .and_then(|ip| ip.parse().ok())
                    .filter(|ip: &std::net::Ipv4Addr| !ip.is_unspecified()),
                host_port,
                container_port: u16::try_from(port.container_port).ok()?,
            })
        })
        .collect()
}

/// Returns a pod's host name.
pub(crate) fn hostname(pod: &Pod, cluster_domain: &str) -> String {
    let spec = spec(pod);
    if let Some(name) = spec.hostname_override.clone().filter(|name| !name.is_empty()) {
        return name;
    }
    let mut name = spec
        .hostname
        .clone()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| pod.metadata.name.clone().unwrap_or_default());
    name.truncate(LONGEST_HOSTNAME);
    let name = name.trim_end_matches(['-', '.']).to_owned();
    match fqdn(pod, &name, cluster_domain) {
        Some(full) if spec.set_hostname_as_fqdn == Some(true) => full,
        _ => name,
    }
}

fn fqdn(pod: &Pod, hostname: &str, cluster_domain: &str) -> Option<String> {
    let subdomain = pod.spec.as_ref()?.subdomain.as_deref().filter(|name| !name.is_empty())?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    Some(format!("{hostname}.{subdomain}.{namespace}.svc.{cluster_domain}"))
}

/// Returns the contents of a pod's `/etc/hosts`. `node_hosts` is the node's own file, for the host network.
pub(crate) fn hosts(pod: &Pod, ips: &[String], cluster_domain: &str, node_hosts: &str) -> String {
    let spec = spec(pod);
    let mut out;
    if spec.host_network == Some(true) {
        out = format!("# Kubernetes-managed hosts file (host network).\n{node_hosts}");
    } else {
        out = String::from(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        let hostname = hostname(pod, cluster_domain);
        let short = hostname.split('.').next().unwrap_or_default().to_owned();
        for ip in ips {
            match fqdn(pod, &short, cluster_domain) {
                Some(full) => out.push_str(&format!("{ip}\t{full}\t{short}\n")),
                None => out.push_str(&format!("{ip}\t{hostname}\n")),
            }
        }
    }
    let aliases: Vec<&HostAlias> = spec.host_aliases.iter().flatten().collect();
    if !aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            out.push_str(&format!(
                "{}\t{}\n",
                alias.ip,
                alias.hostnames.as_deref().unwrap_or_default().join("\t")
            ));
        }
    }
    out
}

/// Returns a pod's resolver configuration.
pub(crate) fn dns(pod: &Pod, config: &Config, node: &DnsConfig) -> DnsConfig {
    let spec = spec(pod);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let cluster_first = || {
        let domain = &config.cluster_domain;
        let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
        for search in &node.searches {
            if !searches.contains(search) {
                searches.push(search.clone());
            }
        }
        DnsConfig { servers: vec![config.dns_address.to_string()], searches, options: vec!["ndots:5".into()] }
    };
    let host_network = spec.host_network == Some(true);
    let mut found = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "None" => DnsConfig::default(),
        "Default" => node.clone(),
        "ClusterFirst" if host_network => node.clone(),
        _ => cluster_first(),
    };
    if let Some(own) = &spec.dns_config {
        for server in own.nameservers.iter().flatten() {
            if !found.servers.contains(server) {
                found.servers.push(server.clone());
            }
        }
        for search in own.searches.iter().flatten() {
            if !found.searches.contains(search) {
                found.searches.push(search.clone());
            }
        }
        for option in own.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            found.options.retain(|known| known.split(':').next() != Some(name));
            found.options.push(match &option.value {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.clone(),
            });
        }
    }
    found
}

/// Reads the text of a `resolv.conf`.
pub(crate) fn parse_resolv_conf(text: &str) -> DnsConfig {
    let mut found = DnsConfig::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => found.servers.extend(words.next().map(str::to_owned)),
            // The last line wins.
            Some("search" | "domain") => found.searches = words.map(str::to_owned).collect(),
            Some("options") => found.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::testing::pod;
    use super::*;

    fn settings() -> Config {
        serde_json::from_value(serde_json::json!({
            "nodeName": "n", "nodeIp": "172.17.4.201", "nodeNetwork": "172.17.4.0/24", "kubeconfig": "/k",
            "dnsAddress": "10.3.0.10", "clusterDomain": "cluster.local", "podNetwork": "10.2.0.0/16",
            "serviceNetwork": "10.3.0.0/24", "nodePortRange": [30000, 32767], "port": 10250,
            "pki": {"caCertificate": "/a", "servingCertificate": "/b", "servingKey": "/c"},
            "dataDirectory": "/d", "imageDirectory": "/i", "runDirectory": "/r", "cgroupRoot": ""
        }))
        .unwrap()
    }

    #[test]
    fn the_resolver_follows_the_policy() {
        let node = parse_resolv_conf("# x\nnameserver 1.1.1.1\nsearch home\noptions edns0\n");
        for (spec, servers, searches, options) in [
            (
                serde_json::json!({"containers": []}),
                "10.3.0.10",
                "ns.svc.cluster.local svc.cluster.local cluster.local home",
                "ndots:5",
            ),
            (serde_json::json!({"containers": [], "dnsPolicy": "Default"}), "1.1.1.1", "home", "edns0"),
            (serde_json::json!({"containers": [], "hostNetwork": true}), "1.1.1.1", "home", "edns0"),
            (
                serde_json::json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9"],
                    "searches": ["x"], "options": [{"name": "ndots", "value": "2"}, {"name": "debug"}]}}),
                "9.9.9.9",
                "x",
                "ndots:2 debug",
            ),
        ] {
            let found = dns(&pod(spec.clone()), &settings(), &node);
            assert_eq!(
                (found.servers.join(" "), found.searches.join(" "), found.options.join(" ")),
                (servers.into(), searches.into(), options.into()),
                "{spec}"
            );
        }
    }

    #[test]
    fn hosts_name_the_pod_and_its_aliases() {
        let pod = pod(serde_json::json!({"containers": [], "hostname": "h", "subdomain": "s",
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}));
        let text = hosts(&pod, &["10.2.0.5".into()], "cluster.local", "");
        assert!(text.contains("10.2.0.5\th.s.ns.svc.cluster.local\th\n"), "{text}");
        assert!(text.ends_with("1.2.3.4\ta\tb\n"), "{text}");
        assert_eq!(hostname(&pod, "cluster.local"), "h");
    }

    #[test]
    fn only_ports_with_a_host_port_are_opened_on_the_node() {
        let pod = pod(serde_json::json!({"containers": [{"name": "a", "ports": [
            {"containerPort": 80}, {"containerPort": 53, "hostPort": 5353, "protocol": "UDP"}]}]}));
        let found = host_ports(&pod);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].host_port, found[0].container_port), (5353, 53));
    }
}
