//! The Vagrantfile of a plan.

use serde_json::{Value, json};

use super::FIRST_LIMIT;
use crate::artifacts::render;
use crate::error::{Context, Result};
use crate::plan::Plan;

/// Returns the Vagrantfile of a plan.
pub(crate) fn vagrantfile(plan: &Plan) -> Result<String> {
    let image = plan.image.as_ref().context("the plan has no box")?;
    let login = plan.login.as_ref().context("the plan does not say how machines are reached")?;
    let machines: Vec<Value> = plan
        .machines
        .iter()
        .map(|machine| {
            json!({
                "name": machine.name,
                "address": machine.address.to_string(),
                "mac": machine.mac,
                "nat_mac": machine.nat_mac,
                "cpus": machine.milli_cpus.unwrap_or_default().div_ceil(1000),
                "memory": machine.memory.unwrap_or_default() >> 20,
                // Vagrant counts disks in whole GiB.
                "disk": machine.disk.unwrap_or_default().div_ceil(1 << 30),
            })
        })
        .collect();
    let network = &plan.spec.network;
    let mut values = tera::Context::new();
    values.insert("summary", &plan.summary());
    values.insert("cluster", &plan.spec.name);
    values.insert("machines", &machines);
    values.insert("box", &image.vagrant_box);
    values.insert("box_url", &image.source);
    values.insert("checksum", &image.checksum);
    values.insert("user", &login.user);
    values.insert("key", &login.key);
    values.insert("netmask", &network.nodes.netmask().to_string());
    values.insert("host", &network.host.to_string());
    values.insert("fw_cfg", image.firmware);
    values.insert("limit", &FIRST_LIMIT);
    render::render("Vagrantfile", &values)
}
