//! The members of a cluster's etcd, asked by the tool itself: who they are, how they are, who leads.

use machinery::clock;
use machinery::names::Random;
use store::{EtcdMembers, EtcdTls};

use crate::error::{Context, Result};
use crate::plan::Plan;
use crate::state::State;

/// Returns the members; `None` where the store is in the only master.
///
/// # Errors
/// When certificates are missing or endpoints cannot be used. Nothing is sent yet.
pub(super) fn members(plan: &Plan, state: &State) -> Result<Option<EtcdMembers>> {
    let Some(etcd) = &plan.spec.etcd else { return Ok(None) };
    let own = |name: &str| state.path("pki").join(name);
    let tls = match &etcd.certificates {
        Some(given) => {
            EtcdTls { ca: given.authority.clone(), cert: given.certificate.clone(), key: given.key.clone() }
        }
        None => EtcdTls {
            ca: own("etcd-ca.crt"),
            cert: own("apiserver-etcd-client.crt"),
            key: own("apiserver-etcd-client.key"),
        },
    };
    let first = plan.masters().next().context("the plan has no master")?;
    let members = EtcdMembers::new(&plan.etcd_endpoints(first), &tls, clock::system(), Random::from_os())
        .context("reaching etcd")?;
    Ok(Some(members))
}
