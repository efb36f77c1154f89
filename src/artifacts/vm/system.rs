//! What the operating system of a virtual machine needs: kernel settings, units, the network's manager told to leave
//! pods alone, no updates, proxy and certificates. All of it is readable by everybody but the proxy's password.

use serde::Serialize;
use serde_json::json;

use super::given::Given;
use crate::artifacts::{File, render};
use crate::error::{Context, Result};
use crate::plan::{Machine, Plan, Unit, api_address};
use crate::spec::{Flavor, Runtime};

/// Where a person finds out more.
const DOCUMENTATION: &str = env!("CARGO_PKG_REPOSITORY");
/// Where systemd reads units of the machine's owner.
const UNITS: &str = "/etc/systemd/system";
/// The unit that makes the system trust the spec's certificates.
const TRUST: &str = "cluster-trust";
/// The unit that serves the API.
const CONTROL_PLANE: &str = "control-plane";

/// The unit that ends pods when the machine shuts down.
const PODS: &str = "node-pods";

/// What the operating system of a machine needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct System {
    /// Directories that must be there, with their modes.
    pub(crate) directories: Vec<(String, u32)>,
    /// Files, without those of the units.
    pub(crate) plain: Vec<File>,
    /// Units that are written, extended or enabled.
    pub(crate) units: Vec<SystemUnit>,
}

/// A systemd unit that is written, extended or enabled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct SystemUnit {
    /// Its name, with its kind.
    pub(crate) name: String,
    /// Whether it is started at every boot.
    pub(crate) enabled: bool,
    /// All of it; `None` is a unit of the system's own.
    pub(crate) contents: Option<String>,
    /// What is added to it.
    pub(crate) dropins: Vec<DropIn>,
}

/// Something that is added to a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct DropIn {
    /// Its file's name.
    pub(crate) name: String,
    /// Its text.
    pub(crate) contents: String,
}

impl System {
    /// Returns every file with those of the units, by path: what is written over SSH. The directories are made
    /// with them, but for the modes.
    pub(crate) fn files(&self) -> Vec<File> {
        let mut files = self.plain.clone();
        for SystemUnit { name, contents, dropins, enabled: _ } in &self.units {
            files.extend(contents.iter().map(|text| File::public(format!("{UNITS}/{name}"), text.clone())));
            files.extend(
                dropins.iter().map(|part| {
                    File::public(format!("{UNITS}/{name}.d/{}", part.name), part.contents.clone())
                }),
            );
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files
    }
}

/// Works out what the operating system of `machine` needs.
///
/// # Errors
/// When the plan is one without virtual machines, or a template cannot be rendered.
pub(crate) fn system(plan: &Plan, machine: &Machine, given: &Given) -> Result<System> {
    let flavor = plan.spec.os.as_ref().context("the plan has no operating system")?.flavor;
    let cri = plan.spec.runtime == Runtime::Cri;
    let mut directories: Vec<(String, u32)> =
        vec![("/etc/kubernetes/pki".into(), 0o700), ("/opt/bin".into(), 0o755)];
    let mut plain = vec![File::public("/etc/hostname", format!("{}\n", machine.name))];
    let mut put = |path: &str, template: &str| -> Result<()> {
        plain.push(File::public(path, render::render(template, &tera::Context::new())?));
        Ok(())
    };
    put("/etc/sysctl.d/90-kubernetes.conf", "sysctl.conf")?;
    put("/etc/modules-load.d/kubernetes.conf", "modules.conf")?;
    match flavor {
        Flavor::Flatcar => {
            put("/etc/flatcar/update.conf", "flatcar-update.conf")?;
            put("/etc/systemd/network/05-pods.network", "pods.network")?;
            put("/etc/systemd/networkd.conf.d/10-kubernetes.conf", "networkd.conf")?;
        }
        Flavor::FedoraCoreos => {
            put("/etc/zincati/config.d/90-disable-auto-updates.toml", "zincati.toml")?;
            put("/etc/NetworkManager/conf.d/90-kubernetes.conf", "networkmanager.conf")?;
        }
    }
    let mut containerd =
        SystemUnit { name: "containerd.service".into(), enabled: cri, contents: None, dropins: Vec::new() };
    if cri {
        // The node agent puts its CNI plugin into the first; on Fedora CoreOS the directory's label is inherited.
        directories.extend(["/opt/cni/bin", "/etc/containerd/certs.d"].map(|path| (path.into(), 0o755)));
        put("/etc/containerd/config.toml", "containerd.toml")?;
        containerd.dropins.push(drop_in("10-config.conf", "containerd-config.conf")?);
    }
    let proxy = proxy(plan)?;
    if let Some(environment) = proxy {
        plain.push(File::private("/etc/kubernetes/proxy.env", environment));
        if cri {
            containerd.dropins.push(drop_in("20-proxy.conf", "proxy.conf")?);
        }
    }
    let mut units = vec![SystemUnit {
        name: match flavor {
            Flavor::Flatcar => "systemd-timesyncd.service".into(),
            Flavor::FedoraCoreos => "chronyd.service".into(),
        },
        enabled: true,
        contents: None,
        dropins: Vec::new(),
    }];
    if cri {
        units.push(containerd);
    }
    if !given.certificates.is_empty() {
        units.push(SystemUnit {
            name: format!("{TRUST}.service"),
            enabled: true,
            contents: Some(trust_service(flavor)?),
            dropins: Vec::new(),
        });
        let directory = match flavor {
            Flavor::Flatcar => "/etc/ssl/certs",
            Flavor::FedoraCoreos => "/etc/pki/ca-trust/source/anchors",
        };
        // One a file: Flatcar's update-ca-certificates passes over files with more than one.
        for (index, certificate) in given.certificates.iter().enumerate() {
            plain.push(File::public(format!("{directory}/cluster-{}.pem", index + 1), certificate.clone()));
        }
    }
    units.push(SystemUnit {
        name: format!("{PODS}.service"),
        enabled: false,
        contents: Some(pods_service(machine, cri)?),
        dropins: Vec::new(),
    });
    for unit in &machine.units {
        let mut dropins = Vec::new();
        if is_agent(unit) && plan.spec.proxy.is_some() {
            dropins.push(drop_in("20-proxy.conf", "proxy.conf")?);
        }
        units.push(SystemUnit {
            name: format!("{}.service", unit.name),
            enabled: true,
            contents: Some(service(plan, unit, given)?),
            dropins,
        });
    }
    directories.sort();
    plain.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(System { directories, plain, units })
}

fn drop_in(name: &str, template: &str) -> Result<DropIn> {
    Ok(DropIn { name: name.into(), contents: render::render(template, &tera::Context::new())? })
}

fn is_agent(unit: &Unit) -> bool {
    unit.name == "node-agent"
}

/// Returns the environment of programs that fetch images, if it is not the empty one.
fn proxy(plan: &Plan) -> Result<Option<String>> {
    let Some(proxy) = &plan.spec.proxy else { return Ok(None) };
    let network = &plan.spec.network;
    let mut direct: Vec<String> = vec!["localhost".into(), "127.0.0.0/8".into()];
    direct.extend([network.nodes, network.pods, network.services].map(|network| network.to_string()));
    // Some programs know no networks in this list: the addresses that they ask are named.
    direct.push(api_address(&plan.spec).to_string());
    direct.extend(plan.masters().map(|master| master.address.to_string()));
    direct.push(format!(".{}", network.domain));
    direct.extend(proxy.no_proxy.iter().cloned());
    let mut values = tera::Context::new();
    values.insert("proxy", proxy);
    values.insert("direct", &direct.join(","));
    render::render("proxy.env", &values).map(Some)
}

fn trust_service(flavor: Flavor) -> Result<String> {
    let mut values = tera::Context::new();
    values.insert("documentation", DOCUMENTATION);
    values.insert(
        "command",
        match flavor {
            Flavor::Flatcar => "/usr/sbin/update-ca-certificates",
            Flavor::FedoraCoreos => "/usr/bin/update-ca-trust extract",
        },
    );
    render::render("trust.service", &values)
}

fn pods_service(machine: &Machine, cri: bool) -> Result<String> {
    let agent = machine.units.iter().find(|unit| is_agent(unit)).context("the machine has no node agent")?;
    let mut values = tera::Context::new();
    values.insert("documentation", DOCUMENTATION);
    values.insert("cri", &cri);
    values.insert("command", &format!("{} --end-pods", agent.command.join(" ")));
    render::render("pods.service", &values)
}

/// Returns the systemd unit that runs a unit of the plan.
fn service(plan: &Plan, unit: &Unit, given: &Given) -> Result<String> {
    let agent = is_agent(unit);
    let mut wants = unit.after.clone();
    if agent && plan.spec.runtime == Runtime::Cri {
        wants.push("containerd".into());
    }
    if agent && !given.certificates.is_empty() {
        wants.push(TRUST.into());
    }
    if agent {
        wants.push(PODS.into());
    }
    let mut values = tera::Context::new();
    values.insert("name", &unit.name);
    values.insert("documentation", DOCUMENTATION);
    values.insert("wants", &wants);
    values.insert("program", unit.command.first().context("the unit has no command")?);
    values.insert("command", &unit.command.join(" "));
    values.insert("agent", &agent);
    values.insert("notifies", &unit.notifies);
    // The API's port is a low one; the address that masters share is announced and led to it by the one who has it.
    let shares = unit.name == CONTROL_PLANE && plan.spec.network.api.is_some();
    values.insert("shares", &shares);
    let capabilities = match (unit.name == CONTROL_PLANE, shares) {
        (false, _) => "",
        (true, false) => "CAP_NET_BIND_SERVICE",
        (true, true) => "CAP_NET_BIND_SERVICE CAP_NET_ADMIN CAP_NET_RAW",
    };
    values.insert("capabilities", capabilities);
    values.insert("selinux", &plan.spec.os.as_ref().is_some_and(|os| os.flavor == Flavor::FedoraCoreos));
    render::render("unit.service", &values)
}

/// Returns what a template of Ignition has to know of a unit.
pub(super) fn values(units: &[SystemUnit]) -> serde_json::Value {
    json!(units)
}
