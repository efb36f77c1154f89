//! How a virtual machine is reached, whoever made it: at its own address, with the tool's key, and only if it shows
//! the host key that the tool gave it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use machinery::clock;
use machinery::names::Random;
use remote::{HostKey, PrivateKey, PublicKey, Ssh, Target, Timing};

use super::last_lines;
use super::systemd::Systemd;
use crate::error::{Context, Error, Result};
use crate::plan::{Machine, Plan};
use crate::state::State;
use crate::ui::Ui;

/// The port of every machine's SSH daemon.
pub(super) const PORT: u16 = 22;
/// A wait for a machine that is this long is shown.
const WORTH_A_WORD: Duration = Duration::from_secs(2);
/// How many lines of a console go into an error.
const CONSOLE_LINES: usize = 12;

/// Returns the machine once it lets the tool in; `console` is the file with what it said while it booted.
pub(super) async fn reach(
    plan: &Plan,
    state: &State,
    machine: &Machine,
    console: &Path,
    deadline: Instant,
    ui: &Ui,
) -> Result<Systemd> {
    let ssh = Ssh::new(target(plan, state, machine)?, clock::system(), Random::from_os());
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
    // Most machines answer at once; only a wait is worth a word.
    let connecting = ssh.connect(left);
    tokio::pin!(connecting);
    let connected = match tokio::time::timeout(WORTH_A_WORD, &mut connecting).await {
        Ok(connected) => connected,
        Err(_) => {
            ui.phase(&machine.name, "waiting for SSH");
            connecting.await
        }
    };
    match connected {
        Ok(()) => Ok(Systemd::new(&machine.name, ssh.clone())),
        Err(error) => {
            let doing = format!("reaching {} ({})", machine.name, machine.address);
            Err(with_console(Error::from(error).within(doing), machine, console))
        }
    }
}

fn target(plan: &Plan, state: &State, machine: &Machine) -> Result<Target> {
    let login = plan.login.as_ref().context("the plan does not say how machines are reached")?;
    let host_key = machine.host_key.as_ref().context("the plan has no host key for the machine")?;
    let public = public_file(&state.path(&host_key.to_string_lossy()));
    let text = fs_err::read_to_string(&public)?;
    let public: PublicKey = text.trim().parse().context(format!("reading {}", public.display()))?;
    // A path that the spec names is absolute; the tool's own is one within the state directory.
    let key = PrivateKey::from_path(&state.path(&login.key.to_string_lossy()))
        .context("reading the key that logs in")?;
    Ok(Target {
        name: machine.name.clone(),
        address: SocketAddr::new(IpAddr::V4(machine.address), PORT),
        user: login.user.clone(),
        key,
        host_keys: vec![HostKey::Key(public)],
        timing: Timing::default(),
    })
}

/// Returns the file beside a private key that has the public one.
fn public_file(private: &Path) -> PathBuf {
    let mut name = private.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

/// Adds what a machine said while it booted, and what can be done.
pub(super) fn with_console(mut error: Error, machine: &Machine, console: &Path) -> Error {
    if let Ok(bytes) = std::fs::read(console) {
        let text = String::from_utf8_lossy(&bytes);
        let tail = last_lines(text.trim_end(), CONSOLE_LINES);
        error = error.because(format!("its console ends with:\n{tail}"));
    }
    error
        .hint(format!("`cluster logs {} --console` shows all that it said while it booted", machine.name))
        .hint("`cluster up` goes on where it stopped; `cluster down` takes everything away")
}
