//! The Ignition configuration of a machine, rendered from `ignition/machine.yaml.tera` and taken through
//! Ignition's own types: a word that they do not know is an error here and not at boot.

use ignition_config::v3_3;
use serde_json::{Value, json};

use super::given::Given;
use super::system::{self, System};
use super::{FIRST_LIMIT, data_url};
use crate::artifacts::{File, render};
use crate::error::{Context, Error, Result};
use crate::plan::{Machine, Plan};
use crate::spec::Flavor;

/// Returns the configuration that makes a machine ready for the cluster's programs.
pub(super) fn whole(plan: &Plan, machine: &Machine, given: &Given, system: &System) -> Result<String> {
    render(plan, machine, given, Some(system), &given.authorized)
}

/// Returns the small configuration, with which the tool can log in.
///
/// # Errors
/// When it is larger than VirtualBox hands over.
pub(super) fn first(plan: &Plan, machine: &Machine, given: &Given) -> Result<String> {
    // The first key is what the tool logs in by; others are left out where there is no room for them.
    let all = render(plan, machine, given, None, &given.authorized)?;
    if all.len() <= FIRST_LIMIT {
        return Ok(all);
    }
    let text = render(plan, machine, given, None, &given.authorized[..1])?;
    if text.len() <= FIRST_LIMIT {
        return Ok(text);
    }
    Err(Error::user(format!(
        "the first Ignition configuration of {} has {} bytes, and VirtualBox hands over {FIRST_LIMIT}",
        machine.name,
        text.len()
    ))
    .hint("log in by an Ed25519 key, which is short: leave ssh.privateKey out, or give one of this kind"))
}

fn render(
    plan: &Plan,
    machine: &Machine,
    given: &Given,
    system: Option<&System>,
    keys: &[String],
) -> Result<String> {
    let flavor = plan.spec.os.as_ref().context("the plan has no operating system")?.flavor;
    let login = plan.login.as_ref().context("the plan does not say how machines are reached")?;
    let mut files = needed(plan, machine, flavor, given)?;
    files.extend(system.into_iter().flat_map(|system| system.plain.clone()));
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let files: Vec<Value> = files
        .iter()
        .map(|file| json!({ "path": file.path, "mode": file.mode, "source": data_url(&file.contents) }))
        .collect();
    let directories: Vec<Value> = system
        .into_iter()
        .flat_map(|system| &system.directories)
        .map(|(path, mode)| json!({ "path": path, "mode": mode }))
        .collect();
    let mut values = tera::Context::new();
    values.insert("user", &login.user);
    values.insert("keys", keys);
    values.insert("first", &system.is_none());
    values.insert("files", &files);
    values.insert("directories", &directories);
    values.insert("units", &system.map(|system| system::values(&system.units)));
    // The small one has no room for it; its machines get the rest of the large one over SSH, but not this.
    let own = given.ignition.as_ref().filter(|_| system.is_some());
    values.insert("own", &own.map(|own| data_url(own.as_bytes())));
    let yaml = render::render("machine.yaml", &values)?;
    typed(&yaml).context(format!("the Ignition configuration of {}", machine.name))
}

/// Returns the files without which a machine cannot be reached: its address and SSH host key.
fn needed(plan: &Plan, machine: &Machine, flavor: Flavor, given: &Given) -> Result<Vec<File>> {
    let mut values = tera::Context::new();
    values.insert("mac", &machine.mac);
    values.insert("address", &machine.address.to_string());
    values.insert("prefix", &plan.spec.network.nodes.prefix_len());
    let network = match flavor {
        Flavor::Flatcar => {
            let text = render::render("node.network", &values)?;
            File::public("/etc/systemd/network/10-node.network", text)
        }
        Flavor::FedoraCoreos => {
            let text = render::render("node.nmconnection", &values)?;
            // NetworkManager ignores a connection that others may read.
            File::private("/etc/NetworkManager/system-connections/node.nmconnection", text)
        }
    };
    // Both systems make host keys of the kinds that are missing and leave those that are there: Flatcar's
    // sshd-keygen.service by ssh-keygen -A, Fedora's sshd-keygen@.service by its condition on the file.
    let key = given.host_key(machine)?;
    Ok(vec![network, File::private("/etc/ssh/ssh_host_ed25519_key", key.private_text())])
}

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
