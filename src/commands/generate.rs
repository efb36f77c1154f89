//! `cluster plan` and `cluster generate`: the first stages alone.

use std::path::Path;

use super::Session;
use crate::artifacts::vm::{self, Given};
use crate::artifacts::{File, admin_kubeconfig, all_files, pki, write_files};
use crate::error::{Context, Result};
use crate::plan::{Image, Plan, Role, count, plan};
use crate::spec::{Overrides, ProviderKind};
use crate::ui::table;

/// Runs `cluster plan`.
pub(super) fn show_plan(session: &Session<'_>, overrides: &Overrides) -> Result<()> {
    let plan = plan(&session.asked(overrides)?);
    let value = serde_json::to_value(&plan).context("writing the plan")?;
    session.ui.answer(&describe(&plan), &value);
    Ok(())
}

fn describe(plan: &Plan) -> String {
    let network = &plan.spec.network;
    let virtual_machines = plan.spec.provider != ProviderKind::Local;
    let rows: Vec<Vec<String>> = plan
        .machines
        .iter()
        .map(|machine| {
            let role = if machine.role == Role::Master { "master" } else { "worker" };
            let units: Vec<&str> = machine.units.iter().map(|unit| unit.name.as_str()).collect();
            let size = |bytes: Option<u64>| bytes.map_or("all".into(), size);
            let cpus = machine.milli_cpus.map_or("all".into(), |milli| (f64::from(milli) / 1e3).to_string());
            let mut row = vec![machine.name.clone(), machine.address.to_string(), machine.mac.clone()];
            row.extend(machine.nat_mac.clone());
            row.extend([role.into(), cpus, size(machine.memory)]);
            row.extend(machine.disk.map(self::size));
            row.push(units.join(", "));
            row
        })
        .collect();
    let mut header = vec!["MACHINE", "ADDRESS", "MAC"];
    header.extend(virtual_machines.then_some("NAT-MAC"));
    header.extend(["ROLE", "CPUS", "MEMORY"]);
    header.extend(virtual_machines.then_some("DISK"));
    header.push("UNITS");
    let mut text = format!("{}\n\n{}\n", plan.summary(), table(&header, &rows));
    let bridge = plan.bridge.as_ref().map_or(String::new(), |bridge| format!(", bridge {bridge}"));
    let mut line = |name: &str, what: String| text.push_str(&format!("\n{name:<10}{what}"));
    line("nodes", format!("{} (host {}{bridge})", network.nodes, network.host));
    line("pods", network.pods.to_string());
    line("services", format!("{} (DNS {}, domain {})", network.services, network.dns, network.domain));
    line("ports", format!("{} to {} on every node", network.node_ports.0, network.node_ports.1));
    line("balancers", format!("{} to {}", network.load_balancers.0, network.load_balancers.1));
    line("engine", plan.spec.runtime.name().into());
    if let Some(etcd) = &plan.spec.etcd {
        line("api", format!("{}, which moves between the masters", plan.server()));
        let members = if plan.own_etcd() {
            let executable = etcd.executable.as_ref().map(|path| path.display().to_string());
            format!("a member on each master, from {}", executable.unwrap_or_else(|| "etcd in PATH".into()))
        } else {
            etcd.endpoints.join(", ")
        };
        line("etcd", members);
    }
    if let (Some(image), Some(os)) = (&plan.image, &plan.spec.os) {
        let Image { vagrant_box, source, checksum, signature, signing_keys, firmware: _ } = image;
        let names = [vagrant_box, source].into_iter().flatten().cloned().collect::<Vec<_>>().join(" from ");
        line("image", format!("{} {names}", os.flavor.name()));
        let keys = signing_keys.as_ref().map(|keys| keys.display().to_string());
        let proofs = [("SHA-256", checksum), ("signature", signature), ("by keys of", &keys)];
        for (name, proof) in proofs.into_iter().filter_map(|(name, proof)| Some((name, proof.as_ref()?))) {
            line("", format!("{name} {proof}"));
        }
    }
    if let Some(login) = &plan.login {
        line("login", format!("{} by {}", login.user, login.key.display()));
    }
    if let Some(ignition) = &plan.spec.ignition {
        line("ignition", ignition.display().to_string());
    }
    for certificate in &plan.spec.certificates {
        line("trust", certificate.display().to_string());
    }
    line("API", format!("{}\n\n", plan.server()));
    let rows: Vec<Vec<String>> = plan
        .certificates
        .iter()
        .map(|certificate| {
            let names: Vec<String> = certificate
                .dns_names
                .iter()
                .cloned()
                .chain(certificate.addresses.iter().map(ToString::to_string))
                .collect();
            let names = if names.is_empty() { "-".into() } else { names.join(" ") };
            let groups = certificate.organizations.join(" ");
            let groups = if groups.is_empty() { "-".into() } else { groups };
            vec![certificate.name.clone(), certificate.common_name.clone(), groups, names]
        })
        .collect();
    text.push_str(&table(&["CERTIFICATE", "USER", "GROUPS", "NAMES"], &rows));
    text
}

/// Writes bytes in the largest unit that leaves no rest.
fn size(bytes: u64) -> String {
    let (unit, shift) = if bytes.trailing_zeros() >= 30 { ("Gi", 30) } else { ("Mi", 20) };
    format!("{}{unit}", bytes >> shift)
}

/// Runs `cluster generate`.
pub(super) fn run(session: &Session<'_>, directory: &Path, overrides: &Overrides) -> Result<()> {
    let plan = plan(&session.asked(overrides)?);
    let number = write(&plan, directory, machinery::clock::system().now())?;
    session.ui.note(&format!("{} in {}", count(number, "file"), directory.display()));
    Ok(())
}

/// Writes every file that `up` would make; returns their number.
fn write(plan: &Plan, directory: &Path, now: jiff::Timestamp) -> Result<u32> {
    fs_err::create_dir_all(directory.join("pki"))?;
    let (pki, _) = pki::of_plan(&directory.join("pki"), plan, now)?;
    let given = match plan.spec.provider {
        ProviderKind::Local => None,
        ProviderKind::Vagrant | ProviderKind::Qemu => Some(Given::ensure(plan, directory)?),
    };
    let mut files =
        vec![File { path: "kubeconfig".into(), contents: admin_kubeconfig(plan, &pki)?.into(), mode: 0o600 }];
    for machine in &plan.machines {
        for file in all_files(plan, machine, &pki, given.as_ref())? {
            files.push(File { path: format!("machines/{}{}", machine.name, file.path), ..file });
        }
    }
    if let Some(given) = &given {
        files.extend(vm::files(plan, given)?);
    }
    write_files(directory, &files)?;
    Ok(u32::try_from(files.len()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{check, parse};

    #[test]
    fn the_plan_is_shown_as_recorded() {
        for (name, text) in [
            ("local", ""),
            (
                "qemu",
                "provider: qemu\nworkers: { count: 2, memory: 1536Mi }\nos: { signingKeys: /flatcar.asc }",
            ),
            (
                "vagrant",
                "provider: vagrant\nos: { box: own, boxUrl: /own.box }\nignition: /own.yaml\ncertificates: [/ca.pem]",
            ),
        ] {
            let plan = plan(&check(&parse(text).unwrap()).unwrap());
            insta::assert_snapshot!(format!("plan of {name}"), describe(&plan));
        }
    }
}
