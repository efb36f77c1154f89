//! What virtual machines boot from, and what their operating system needs beside the cluster's own files.
//!
//! Ignition reads a configuration once, at the first boot. Everything in it that is not needed to reach the machine
//! is also written over SSH by every `up` ([`System::files`]): so a change comes to a machine that is there, and a
//! machine of VirtualBox, which hands over 1,024 bytes, becomes like the others.
//!
//! Certificates and kubeconfigs come over SSH alone. A configuration can be read by whoever runs on the machine
//! where a hypervisor hands it over (VMware's guestinfo, VirtualBox's guest properties: GHSA-hj57-j5cw-2mwp), and
//! Ignition's own advice is to keep secrets out of it. The one that remains is the SSH host key, without which the
//! first connection could not be verified.

mod butane;
mod given;
mod ignition;
mod system;
#[cfg(test)]
mod tests;
mod vagrant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::File;
use crate::error::Result;
use crate::plan::{Machine, Plan};
pub(crate) use given::Given;
pub(crate) use system::system;
pub(crate) use vagrant::vagrantfile;

/// The Vagrantfile's name in the directory of artifacts.
pub(crate) const VAGRANTFILE: &str = "Vagrantfile";
/// The most that VirtualBox hands over in a guest property.
pub(crate) const FIRST_LIMIT: usize = 1024;

/// Returns the files that boot every machine of a plan, with paths relative to the cluster's directory:
/// `machines/NAME.ign` for every machine, with Vagrant also `machines/NAME-first.ign` for VirtualBox and the
/// `Vagrantfile`.
///
/// # Errors
/// When a template cannot be rendered, or what comes out is not Ignition.
pub(crate) fn files(plan: &Plan, given: &Given) -> Result<Vec<File>> {
    let mut files = Vec::new();
    let vagrant = plan.spec.provider == crate::spec::ProviderKind::Vagrant;
    if vagrant {
        files.push(File::public(VAGRANTFILE, vagrantfile(plan)?));
    }
    for machine in &plan.machines {
        let system = system(plan, machine, given)?;
        let whole = ignition::whole(plan, machine, given, &system)?;
        files.push(File::private(ignition_file(machine), whole));
        if vagrant {
            let first = ignition::first(plan, machine, given)?;
            files.push(File::private(format!("machines/{}-first.ign", machine.name), first));
        }
    }
    Ok(files)
}

/// Returns the file of the directory of artifacts that has a machine's Ignition configuration.
pub(crate) fn ignition_file(machine: &Machine) -> String {
    format!("machines/{}.ign", machine.name)
}

/// Returns bytes as a URL that holds them, in the shorter of the two ways that there are.
fn data_url(bytes: &[u8]) -> String {
    // RFC 2397 allows these of RFC 2396's characters as they are; Ignition's reader refuses all others.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.!~*'();/?:@&=+$,".contains(&byte);
    let mut percent = String::from("data:,");
    for &byte in bytes {
        if plain(byte) {
            percent.push(char::from(byte));
        } else {
            percent.push_str(&format!("%{byte:02X}"));
        }
    }
    let base64 = format!("data:;base64,{}", STANDARD.encode(bytes));
    if percent.len() <= base64.len() { percent } else { base64 }
}
