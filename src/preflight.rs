//! What has to hold before anything is made, each with what to do when it does not.

use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::state::{Home, State};
use crate::ui::Ui;

/// Checks this machine for a cluster.
///
/// # Errors
/// The first thing that would keep the cluster from coming up.
pub(crate) async fn check(_plan: &Plan, _state: &State, _home: &Home, _ui: &Ui) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::user("the local provider needs root")
            .because("it makes network interfaces, namespaces and control groups")
            .hint("run it with sudo"));
    }
    Ok(())
}
