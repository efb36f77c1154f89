//! The rendered files of a cluster, from a plan, its certificates and what it is given. Only certificates and keys
//! are read from the disk and made there, since that is what makes the rest reproducible.

pub(crate) mod etcd;
pub(crate) mod kubeconfig;
pub(crate) mod pki;
pub(crate) mod render;
pub(crate) mod vm;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};
use crate::plan::{Authority, KUBELET_PORT, Machine, PKI_DIRECTORY, Plan, Role};
use crate::spec::{ProviderKind, Runtime};
use pki::Pki;

/// A file with its mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    /// Where it goes: absolute on a machine, relative in a directory of artifacts.
    pub(crate) path: String,
    /// Its bytes.
    pub(crate) contents: Vec<u8>,
    /// Its permissions.
    pub(crate) mode: u32,
}

impl File {
    fn public(path: impl Into<String>, contents: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), contents: contents.into(), mode: 0o644 }
    }

    fn private(path: impl Into<String>, contents: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), contents: contents.into(), mode: 0o600 }
    }
}

/// Returns every file that `machine` needs beside the executable, by path: what is written to it by each `up`. Of a
/// virtual machine (which has `given`) these are also the files of its operating system.
///
/// # Errors
/// When a certificate of the plan is missing from `pki`, or a template cannot be rendered.
pub(crate) fn all_files(
    plan: &Plan,
    machine: &Machine,
    pki: &Pki,
    given: Option<&vm::Given>,
) -> Result<Vec<File>> {
    let mut files = machine_files(plan, machine, pki)?;
    if let Some(given) = given {
        files.extend(vm::system(plan, machine, given)?.files());
        files.sort_by(|a, b| a.path.cmp(&b.path));
    }
    Ok(files)
}

/// Writes artifacts below `directory`, each one whole or not at all. What is below `machines` has keys in it or
/// tells how to get in: that directory is for its owner alone.
///
/// # Errors
/// The first file that could not be written, by name.
pub(crate) fn write_files(directory: &Path, files: &[File]) -> Result<()> {
    let private = directory.join("machines");
    fs_err::create_dir_all(&private)?;
    fs_err::set_permissions(&private, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    for File { path, contents, mode } in files {
        let path = directory.join(path);
        machinery::files::replace(&path, contents, *mode).context(format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Returns the cluster's own files that `machine` needs beside the executable, by path.
///
/// # Errors
/// When a certificate of the plan is missing from `pki`.
pub(crate) fn machine_files(plan: &Plan, machine: &Machine, pki: &Pki) -> Result<Vec<File>> {
    let serving = pki.pair(&format!("{}-serving", machine.name))?;
    let client = pki.pair(&format!("{}-client", machine.name))?;
    let directory = PKI_DIRECTORY;
    let servers = plan.servers(machine);
    let server = servers.first().context("the plan has no master")?;
    let access = kubeconfig::Access {
        cluster: &plan.spec.name,
        user: &format!("system:node:{}", machine.address),
        context: &plan.spec.name,
        server,
        authority: &pki.authority.certificate,
        certificate: &client.certificate,
        key: &client.key,
    };
    let mut files = vec![
        File::public(format!("{directory}/ca.crt"), pki.authority.certificate.clone()),
        File::public(format!("{directory}/{}-serving.crt", machine.name), serving.certificate.clone()),
        File::private(format!("{directory}/{}-serving.key", machine.name), serving.key.clone()),
        File::private("/etc/kubernetes/node-agent.kubeconfig", kubeconfig::render(&access)?),
        File::public("/etc/kubernetes/node-agent.yaml", node_agent_config(plan, machine)?),
    ];
    if machine.role == Role::Master {
        let apiserver = pki.pair("apiserver")?;
        let kubelet_client = pki.pair("apiserver-kubelet-client")?;
        files.extend([
            File::private(format!("{directory}/ca.key"), pki.authority.key.clone()),
            File::public(format!("{directory}/apiserver.crt"), apiserver.certificate.clone()),
            File::private(format!("{directory}/apiserver.key"), apiserver.key.clone()),
            File::public(
                format!("{directory}/apiserver-kubelet-client.crt"),
                kubelet_client.certificate.clone(),
            ),
            File::private(format!("{directory}/apiserver-kubelet-client.key"), kubelet_client.key.clone()),
            File::private(format!("{directory}/service-account.key"), pki.service_account_key.clone()),
            File::public("/etc/kubernetes/control-plane.yaml", control_plane_config(plan, machine)?),
        ]);
        let front_proxy = pki.pair("front-proxy-client")?;
        files.extend([
            File::public(
                format!("{directory}/front-proxy-ca.crt"),
                pki.certificate_of(Authority::FrontProxy)?.to_owned(),
            ),
            File::public(format!("{directory}/front-proxy-client.crt"), front_proxy.certificate.clone()),
            File::private(format!("{directory}/front-proxy-client.key"), front_proxy.key.clone()),
        ]);
        files.extend(etcd::files(plan, machine, pki)?);
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// Returns the kubeconfig of the person in front of kubectl.
///
/// # Errors
/// When the admin's certificate is missing from `pki`.
pub(crate) fn admin_kubeconfig(plan: &Plan, pki: &Pki) -> Result<String> {
    let admin = pki.pair("admin")?;
    kubeconfig::render(&kubeconfig::Access {
        cluster: &plan.spec.name,
        user: &plan.spec.name,
        context: &plan.spec.name,
        server: &plan.server(),
        authority: &pki.authority.certificate,
        certificate: &admin.certificate,
        key: &admin.key,
    })
}

fn control_plane_config(plan: &Plan, machine: &Machine) -> Result<String> {
    let network = &plan.spec.network;
    let pki = |name: &str| PathBuf::from(format!("{PKI_DIRECTORY}/{name}"));
    let config = control_plane::Config {
        audit: None,
        token_file: None,
        cluster_name: plan.spec.name.clone(),
        advertise_address: IpAddr::V4(machine.address),
        port: network.api_port,
        shared_address: network.api,
        service_network: network.services,
        dns_address: network.dns,
        cluster_domain: network.domain.clone(),
        pod_network: network.pods,
        node_prefix: crate::spec::NODE_PREFIX,
        load_balancer_range: network.load_balancers,
        node_port_range: network.node_ports,
        data_directory: "/var/lib/control-plane".into(),
        store: etcd::store(plan, machine),
        pki: control_plane::Pki {
            ca_certificate: pki("ca.crt"),
            ca_key: pki("ca.key"),
            serving_certificate: pki("apiserver.crt"),
            serving_key: pki("apiserver.key"),
            kubelet_client_certificate: pki("apiserver-kubelet-client.crt"),
            kubelet_client_key: pki("apiserver-kubelet-client.key"),
            service_account_key: pki("service-account.key"),
            front_proxy: Some(control_plane::FrontProxy {
                ca_certificate: pki("front-proxy-ca.crt"),
                certificate: pki("front-proxy-client.crt"),
                key: pki("front-proxy-client.key"),
            }),
        },
    };
    serde_yaml::to_string(&config).context("writing control-plane.yaml")
}

fn node_agent_config(plan: &Plan, machine: &Machine) -> Result<String> {
    let network = &plan.spec.network;
    let config = node_agent::Config {
        node_name: machine.address.to_string(),
        node_ip: machine.address,
        node_network: network.nodes,
        kubeconfig: "/etc/kubernetes/node-agent.kubeconfig".into(),
        servers: match plan.servers(machine) {
            servers if servers.len() > 1 => servers,
            _ => Vec::new(),
        },
        // The master's role label is given by a controller: nodes may not give it to themselves.
        labels: machine.labels.clone(),
        unschedulable: machine.role == Role::Master,
        dns_address: network.dns,
        cluster_domain: network.domain.clone(),
        pod_network: network.pods,
        service_network: network.services,
        node_port_range: network.node_ports,
        port: KUBELET_PORT,
        pki: node_agent::Pki {
            ca_certificate: format!("{PKI_DIRECTORY}/ca.crt").into(),
            serving_certificate: format!("{PKI_DIRECTORY}/{}-serving.crt", machine.name).into(),
            serving_key: format!("{PKI_DIRECTORY}/{}-serving.key", machine.name).into(),
        },
        data_directory: "/var/lib/node-agent".into(),
        image_directory: "/var/lib/images".into(),
        run_directory: "/run/node-agent".into(),
        cgroup_root: "/kubepods".into(),
        registry_mirrors: plan.spec.mirrors.clone(),
        image_collection: match plan.spec.provider {
            ProviderKind::Local => node_agent::ImageCollection::NEVER,
            ProviderKind::Vagrant | ProviderKind::Qemu => node_agent::ImageCollection::default(),
        },
        runtime: match plan.spec.runtime {
            Runtime::Builtin => node_agent::RuntimeChoice::Builtin,
            Runtime::Cri => node_agent::RuntimeChoice::Cri,
        },
        runtime_endpoint: node_agent::Config::CONTAINERD.into(),
    };
    serde_yaml::to_string(&config).context("writing node-agent.yaml")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Document, check};

    #[test]
    fn machines_get_exactly_the_files_of_the_plan_and_keys_are_private() {
        for spec in ["", "masters: { count: 3 }", "etcd: {}"] {
            check_files(&crate::plan::plan(&check(&crate::spec::parse(spec).unwrap()).unwrap()));
        }
    }

    fn check_files(plan: &Plan) {
        let directory = tempfile::tempdir().unwrap();
        let (pki, _) = pki::of_plan(directory.path(), plan, pki::TEST_NOW).unwrap();
        for machine in &plan.machines {
            let files = machine_files(plan, machine, &pki).unwrap();
            let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
            assert_eq!(paths, machine.files.iter().map(String::as_str).collect::<Vec<_>>());
            for file in &files {
                let secret = String::from_utf8_lossy(&file.contents).contains("PRIVATE KEY")
                    || file.path.ends_with("kubeconfig");
                assert_eq!(file.mode, if secret { 0o600 } else { 0o644 }, "{}", file.path);
            }
            assert_eq!(files, machine_files(plan, machine, &pki).unwrap());
        }
    }

    #[test]
    fn the_configuration_of_the_default_lab_is_as_documented() {
        let plan = crate::plan::plan(&check(&Document::default()).unwrap());
        insta::assert_snapshot!(
            "control-plane.yaml",
            control_plane_config(&plan, &plan.machines[0]).unwrap()
        );
        insta::assert_snapshot!(
            "node-agent.yaml of m1",
            node_agent_config(&plan, &plan.machines[0]).unwrap()
        );
        insta::assert_snapshot!(
            "node-agent.yaml of w1",
            node_agent_config(&plan, &plan.machines[1]).unwrap()
        );
    }
}
