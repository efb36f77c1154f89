//! What virtual machines boot from: Ignition configurations and the Vagrantfile.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ignition_config::v3_3;
use serde_json::{Value, json};

use super::{File, machine_files, pki::Pki, render};
use crate::error::{Context, Error, Result};
use crate::plan::{Machine, Plan, Unit};
use crate::spec::{Flavor, Os, Ssh};

/// Where a person finds out more.
const DOCUMENTATION: &str = env!("CARGO_PKG_REPOSITORY");

/// Returns the files that boot every machine of a plan, with paths relative to the directory of artifacts.
///
/// # Errors
/// When a template cannot be rendered, or what comes out is not Ignition.
pub(crate) fn files(plan: &Plan, pki: &Pki) -> Result<Vec<File>> {
    let mut files = vec![File::public("Vagrantfile", vagrantfile(plan)?)];
    for machine in &plan.machines {
        let own = machine_files(plan, machine, pki)?;
        files.push(File::private(format!("machines/{}.ign", machine.name), ignition(plan, machine, &own)?));
        files.push(File::private(
            format!("machines/{}-first.ign", machine.name),
            ignition(plan, machine, &[])?,
        ));
    }
    Ok(files)
}

fn os(plan: &Plan) -> Result<&Os> {
    plan.spec.os.as_ref().context("the plan has no operating system")
}

fn ssh(plan: &Plan) -> Result<&Ssh> {
    plan.spec.ssh.as_ref().context("the plan does not say how machines are reached")
}

/// Returns the Ignition configuration of a machine as JSON. Without files it is the small one for providers
/// that hand over little: it leaves the units out, too.
pub(crate) fn ignition(plan: &Plan, machine: &Machine, files: &[File]) -> Result<String> {
    let flavor = os(plan)?.flavor;
    let network = &plan.spec.network;
    let prefix = network.nodes.prefix_len();
    let networkd = format!(
        "[Match]\nMACAddress={}\n\n[Network]\nAddress={}/{prefix}\nLinkLocalAddressing=no\n",
        machine.mac, machine.address
    );
    let keyfile = format!(
        "[connection]\nid=node\ntype=ethernet\n\n[ethernet]\nmac-address={}\n\n[ipv4]\nmethod=manual\naddress1={}/{prefix}\n\n[ipv6]\nmethod=disabled\n",
        machine.mac.to_uppercase(),
        machine.address
    );
    let update = match flavor {
        Flavor::Flatcar => "SERVER=disabled\nREBOOT_STRATEGY=off\n",
        Flavor::FedoraCoreos => "[updates]\nenabled = false\n",
    };
    let sysctls = "net.ipv4.ip_forward = 1\nfs.inotify.max_user_instances = 1024\nfs.inotify.max_user_watches = 524288\n";
    let modules = "overlay\nnf_tables\nnft_chain_nat\nnf_conntrack\n";
    let sources: Vec<Value> = files
        .iter()
        .map(|file| json!({ "path": file.path, "mode": file.mode, "source": data_url(&file.contents) }))
        .collect();
    let unit =
        |unit: &Unit| Ok(json!({ "name": format!("{}.service", unit.name), "contents": service(unit)? }));
    let units: Vec<Value> = machine.units.iter().map(unit).collect::<Result<_>>()?;
    let ssh = ssh(plan)?;
    let mut values = tera::Context::new();
    values.insert("user", &ssh.user);
    values.insert("keys", &ssh.public_key.iter().collect::<Vec<_>>());
    values.insert("flavor", flavor_name(flavor));
    values.insert("hostname", &data_url(format!("{}\n", machine.name).as_bytes()));
    for (name, text) in [
        ("networkd", networkd.as_str()),
        ("keyfile", &keyfile),
        ("update", update),
        ("sysctls", sysctls),
        ("modules", modules),
    ] {
        values.insert(name, &data_url(text.as_bytes()));
    }
    values.insert("first", &files.is_empty());
    values.insert("files", &sources);
    values.insert("units", &units);
    let yaml = render::render("machine.yaml", &values)?;
    typed(&yaml).context(format!("the Ignition configuration of {}", machine.name))
}

/// Takes YAML through Ignition's own types: a word that they do not know is an error here and not at boot.
fn typed(yaml: &str) -> Result<String> {
    let value: Value =
        serde_yaml::from_str(yaml).map_err(|error| Error::internal(error.without_snippet().to_string()))?;
    let text = value.to_string();
    let (config, warnings) = ignition_config::Config::parse_str(&text).context("reading it back")?;
    if let Some(warning) = warnings.first() {
        return Err(Error::internal(warning.to_string()));
    }
    let ignition_config::Config::V3_3(config) = config else {
        return Err(Error::internal("it is not of specification 3.3.0"));
    };
    let config: v3_3::Config = config;
    let mut value = serde_json::to_value(&config).context("writing it")?;
    without_nulls(&mut value);
    serde_json::to_string(&value).context("writing it")
}

/// Takes out what is not set: every byte counts where 1,024 have to do.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

fn data_url(bytes: &[u8]) -> String {
    format!("data:;base64,{}", STANDARD.encode(bytes))
}

fn flavor_name(flavor: Flavor) -> &'static str {
    match flavor {
        Flavor::Flatcar => "flatcar",
        Flavor::FedoraCoreos => "fedora-coreos",
    }
}

/// Returns the systemd unit that runs a unit.
pub(crate) fn service(unit: &Unit) -> Result<String> {
    let is_agent = unit.name == "node-agent";
    let mut values = tera::Context::new();
    values.insert("name", &unit.name);
    values.insert("documentation", DOCUMENTATION);
    values.insert("after", &unit.after);
    values.insert("program", unit.command.first().context("the unit has no command")?);
    values.insert("command", &unit.command.join(" "));
    values.insert("container_runtime", &is_agent);
    values.insert("sandboxed", &!is_agent);
    render::render("unit.service", &values)
}

/// Returns the Vagrantfile of a plan.
pub(crate) fn vagrantfile(plan: &Plan) -> Result<String> {
    let image = plan.image.as_ref().context("the plan has no box")?;
    let machines: Vec<Value> = plan
        .machines
        .iter()
        .map(|machine| {
            json!({
                "name": machine.name,
                "address": machine.address.to_string(),
                "mac": machine.mac,
                "cpus": machine.milli_cpus.unwrap_or_default().div_ceil(1000),
                "memory": machine.memory.unwrap_or_default() >> 20,
            })
        })
        .collect();
    let network = &plan.spec.network;
    let mut values = tera::Context::new();
    values.insert("summary", &plan.summary());
    values.insert("machines", &machines);
    values.insert("box", &image.vagrant_box);
    values.insert("box_url", &image.source);
    values.insert("checksum", &image.checksum);
    values.insert("user", &ssh(plan)?.user);
    values.insert("netmask", &network.nodes.netmask().to_string());
    values.insert("host", &network.host.to_string());
    values.insert("network_name", &format!("cluster-{}", plan.spec.name));
    values.insert("fw_cfg", image.firmware);
    render::render("Vagrantfile", &values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::KEY;
    use crate::spec::{check, parse};

    fn plan_of(text: &str) -> Plan {
        crate::plan::plan(&check(&parse(text).unwrap()).unwrap())
    }

    /// A file whose contents are the same on every run, unlike keys.
    fn some_file() -> File {
        File::private("/etc/kubernetes/pki/ca.key", "secret")
    }

    #[test]
    fn ignition_of_every_flavor_and_role_is_as_recorded() {
        for flavor in ["flatcar", "fedora-coreos"] {
            let plan = plan_of(&format!(
                "provider: qemu\nos: {{ flavor: {flavor}, image: os.qcow2 }}\nssh: {{ publicKey: {KEY} me }}"
            ));
            for machine in &plan.machines {
                let text = ignition(&plan, machine, &[some_file()]).unwrap();
                let value: Value = serde_json::from_str(&text).unwrap();
                insta::assert_json_snapshot!(format!("{flavor} {}", machine.name), value);
            }
        }
    }

    #[test]
    fn the_first_configuration_fits_into_what_virtualbox_hands_over() {
        for flavor in ["flatcar", "fedora-coreos"] {
            let plan = plan_of(&format!(
                "provider: vagrant\nos: {{ flavor: {flavor}, box: own }}\nssh: {{ publicKey: {KEY} somebody@example.org }}"
            ));
            let text = ignition(&plan, &plan.machines[0], &[]).unwrap();
            assert!(text.len() <= 1024, "{} bytes: {text}", text.len());
        }
    }

    #[test]
    fn units_are_as_recorded() {
        let plan = plan_of("provider: qemu");
        for unit in &plan.machines[0].units {
            insta::assert_snapshot!(format!("{}.service", unit.name), service(unit).unwrap());
        }
    }

    #[test]
    fn vagrantfiles_are_as_recorded() {
        for (name, text) in [
            ("default", "provider: vagrant"),
            (
                "three masters",
                "provider: vagrant\nmasters: { count: 3, cpus: 2, memory: 2Gi }\nworkers: { count: 2 }",
            ),
            (
                "fcos",
                "provider: vagrant\nworkers: { count: 0 }\nos: { flavor: fedora-coreos, box: fcos, boxUrl: \"file:///x.box\" }",
            ),
        ] {
            insta::assert_snapshot!(format!("Vagrantfile {name}"), vagrantfile(&plan_of(text)).unwrap());
        }
    }

    #[test]
    fn the_top_level_vagrantfile_is_that_of_the_default_lab() {
        let rendered = vagrantfile(&plan_of("provider: vagrant")).unwrap();
        assert_eq!(rendered, include_str!("../../Vagrantfile"));
    }

    #[test]
    fn every_machine_of_a_matrix_of_specs_gets_ignition() {
        for (provider, from) in [("qemu", "image"), ("vagrant", "box")] {
            for flavor in ["flatcar", "fedora-coreos"] {
                for (masters, workers) in [(1, 0), (1, 3), (3, 0), (3, 3)] {
                    let plan = plan_of(&format!(
                        "provider: {provider}\nos: {{ flavor: {flavor}, {from}: own }}\nmasters: {{ count: {masters} }}\nworkers: {{ count: {workers} }}"
                    ));
                    let directory = tempfile::tempdir().unwrap();
                    let (pki, _) = super::super::pki::ensure(
                        directory.path(),
                        &plan.certificates,
                        super::super::pki::TEST_NOW,
                    )
                    .unwrap();
                    let files = files(&plan, &pki).unwrap();
                    assert_eq!(files.len(), 1 + 2 * (masters + workers));
                    assert!(files.iter().all(|file| file.path == "Vagrantfile" || file.mode == 0o600));
                }
            }
        }
    }
}
