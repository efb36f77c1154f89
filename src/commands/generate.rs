//! `cluster plan` and `cluster generate`: the first stages alone.

use std::path::Path;

use super::Session;
use crate::artifacts::{File, admin_kubeconfig, machine_files, pki, vm};
use crate::error::{Context, Result};
use crate::plan::{Plan, Role, count, plan};
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
    let rows: Vec<Vec<String>> = plan
        .machines
        .iter()
        .map(|machine| {
            let role = if machine.role == Role::Master { "master" } else { "worker" };
            let units: Vec<&str> = machine.units.iter().map(|unit| unit.name.as_str()).collect();
            vec![
                machine.name.clone(),
                machine.address.to_string(),
                machine.mac.clone(),
                role.into(),
                units.join(", "),
            ]
        })
        .collect();
    let mut text =
        format!("{}\n\n{}\n", plan.summary(), table(&["MACHINE", "ADDRESS", "MAC", "ROLE", "UNITS"], &rows));
    let bridge = plan.bridge.as_ref().map_or(String::new(), |bridge| format!(", bridge {bridge}"));
    text.push_str(&format!("\nnodes     {} (host {}{bridge})", network.nodes, network.host));
    text.push_str(&format!("\npods      {}", network.pods));
    text.push_str(&format!(
        "\nservices  {} (DNS {}, domain {})",
        network.services, network.dns, network.domain
    ));
    text.push_str(&format!("\nports     {} to {} on every node", network.node_ports.0, network.node_ports.1));
    text.push_str(&format!("\nbalancers {} to {}", network.load_balancers.0, network.load_balancers.1));
    text.push_str(&format!("\nAPI       {}\n\n", plan.server()));
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

/// Runs `cluster generate`.
pub(super) fn run(session: &Session<'_>, directory: &Path, overrides: &Overrides) -> Result<()> {
    let plan = plan(&session.asked(overrides)?);
    fs_err::create_dir_all(directory.join("pki"))?;
    let (pki, _) = pki::ensure(&directory.join("pki"), &plan.certificates, machinery::clock::system().now())?;
    let mut files = vec![File {
        path: "kubeconfig".into(),
        contents: admin_kubeconfig(&plan, &pki)?.into(),
        mode: 0o600,
    }];
    for machine in &plan.machines {
        for file in machine_files(&plan, machine, &pki)? {
            files.push(File { path: format!("machines/{}{}", machine.name, file.path), ..file });
        }
    }
    if plan.spec.provider != ProviderKind::Local {
        if plan.spec.ssh.as_ref().is_some_and(|ssh| ssh.public_key.is_none()) {
            session.ui.warn("the spec has no ssh.publicKey: nobody can log in to these machines");
        }
        files.extend(vm::files(&plan, &pki)?);
    }
    for file in &files {
        let path = directory.join(&file.path);
        machinery::files::replace(&path, &file.contents, file.mode)
            .context(format!("writing {}", path.display()))?;
    }
    let number = count(u32::try_from(files.len()).unwrap_or(u32::MAX), "file");
    session.ui.note(&format!("{number} in {}", directory.display()));
    Ok(())
}
