//! The QEMU provider: a machine is a virtual machine of this host, on a bridge.
//!
//! What it makes: the bridge, a tap for each machine that lives as long as the machine, and processes; all of it in
//! the journal before it is there. Everything else is in the state directory: disks, Ignition configurations,
//! consoles. A machine's first card is QEMU's own network, which leads outside; its second one has its address.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ::qemu::image::{Image, Progress, Signature, Transport};
use ::qemu::{Acceleration, Card, Disk, FirmwareFile, Instance, Link, PowerOff, StartOptions};
use async_trait::async_trait;

use super::local::Network;
use super::{Boot, Host, Power, Provider, ssh};
use crate::artifacts::{vm, write_files};
use crate::error::{Context, Error, Result};
use crate::plan::{Machine, Plan, Role, bridge_name, cable_name};
use crate::state::{Home, Made, State, home_directory};
use crate::ui::Ui;

/// How long a machine may take to shut itself down: systemd's own limit for a unit, and a little.
const SHUTDOWN: Duration = Duration::from_secs(100);
/// What the image is called where machines say how far they are.
const IMAGE: &str = "image";
/// The network behind the first card: QEMU's customary one. Each machine has its own behind its own QEMU.
const OUTSIDE: &str = "10.0.2.0/24";

/// The machines of one cluster.
pub(super) struct Qemu<'a> {
    plan: &'a Plan,
    state: &'a State,
}

impl<'a> Qemu<'a> {
    /// Returns the machines of `plan`, kept in `state`.
    pub(super) fn new(plan: &'a Plan, state: &'a State) -> Self {
        Self { plan, state }
    }

    fn directory(&self, machine: &Machine) -> PathBuf {
        self.state.path(&format!("machines/{}", machine.name))
    }

    fn instance(&self, machine: &Machine) -> Instance {
        Instance::at(self.directory(machine).join("run"))
    }

    /// Describes a machine to QEMU; `base` is the image below its disk.
    fn describe(&self, machine: &Machine, base: PathBuf) -> Result<::qemu::Machine> {
        let image = self.plan.image.as_ref().context("the plan has no image")?;
        let directory = self.directory(machine);
        let mac = |text: &str| text.parse().map_err(Error::internal);
        let outside = machine.nat_mac.as_deref().context("the plan has no first card for the machine")?;
        let memory = machine.memory.context("the plan has no memory for the machine")? >> 20;
        Ok(::qemu::Machine {
            name: format!("{}-{}", self.plan.spec.name, machine.name),
            cpus: machine.milli_cpus.context("the plan has no processors for the machine")?.div_ceil(1000),
            memory: u32::try_from(memory).context("counting memory")?,
            disk: Some(Disk {
                path: directory.join("disk.qcow2"),
                base,
                size: machine.disk.context("the plan has no disk for the machine")?,
            }),
            boot: None,
            firmware_files: vec![FirmwareFile {
                name: image.firmware.into(),
                file: self.state.path(&vm::ignition_file(machine)),
            }],
            cards: vec![
                Card {
                    mac: mac(outside)?,
                    link: Link::User {
                        network: OUTSIDE.parse().context("reading a constant")?,
                        forwards: Vec::new(),
                    },
                },
                Card {
                    mac: mac(&machine.mac)?,
                    link: Link::Tap {
                        name: cable_name(&self.plan.spec.name, &machine.name),
                        bridge: bridge_name(&self.plan.spec.name),
                    },
                },
            ],
            console: self.console(machine),
            directory: directory.join("run"),
        })
    }

    /// Returns the image below every disk, fetched and verified if it has to be.
    async fn image(&self, ui: &Ui) -> Result<PathBuf> {
        let planned = self.plan.image.as_ref().context("the plan has no image")?;
        let source = planned.source.as_deref().context("the plan has no image")?;
        let signature = match (&planned.signature, &planned.signing_keys) {
            (Some(signature), Some(keys)) => {
                Some(Signature { source: signature.parse().map_err(Error::user)?, keys: keys.clone() })
            }
            _ => None,
        };
        let image = Image {
            source: source.parse().map_err(Error::user)?,
            checksum: planned.checksum.as_deref().map(str::parse).transpose().map_err(Error::user)?,
            signature,
        };
        let moved = ui.transfer(IMAGE);
        let progress = |progress: Progress| match progress {
            Progress::Waiting => ui.phase(IMAGE, "waiting for another run that fetches it"),
            Progress::Downloading { done, total } => {
                ui.phase(IMAGE, "downloading");
                moved(done, total.unwrap_or_default());
            }
            Progress::Verifying => ui.phase(IMAGE, "verifying"),
            Progress::Unpacking { done, total } => {
                ui.phase(IMAGE, "unpacking");
                moved(done, total);
            }
        };
        let cache = cache_directory()?;
        fs_err::create_dir_all(&cache)?;
        let fetched = ::qemu::image::fetch(&image, &cache, &Transport::default(), &progress)
            .await
            .context(format!("fetching the image {source}"))?;
        Ok(fetched.path)
    }

    /// Lets a machine go on that stands where it was stopped, and ends one that cannot go on.
    async fn unblock(&self, machine: &Machine) -> Result<()> {
        use ::qemu::State;
        let instance = self.instance(machine);
        match instance.state().await.context(format!("asking for {}", machine.name))? {
            State::Paused => instance.resume().await.context(format!("going on with {}", machine.name)),
            // A host disk that was full stops its writers; there may be room now.
            State::Stuck(why) if why == "io-error" => {
                instance.resume().await.context(format!("going on with {}, which had {why}", machine.name))
            }
            State::Stuck(why) => {
                instance.kill().await.context(format!("ending {}, which is stuck: {why}", machine.name))
            }
            State::Absent | State::Starting | State::Running | State::ShutDown | State::Gone => Ok(()),
        }
    }

    /// Starts one machine that does not run.
    async fn start(
        &self,
        machine: &Machine,
        base: &Path,
        acceleration: &Acceleration,
        ui: &Ui,
    ) -> Result<()> {
        let description = self.describe(machine, base.to_owned())?;
        fs_err::create_dir_all(self.directory(machine))?;
        self.state.write_json(&description_file(machine), &description)?;
        ui.phase(&machine.name, "booting");
        ::qemu::start(&description, acceleration, &StartOptions::default())
            .await
            .context(format!("starting {} ({})", machine.name, machine.address))?;
        Ok(())
    }
}

/// Returns where images are kept for all clusters: `$XDG_CACHE_HOME/cluster/images` or `~/.cache/cluster/images`.
fn cache_directory() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from) {
        Some(base) if base.is_absolute() => base,
        _ => home_directory()?.join(".cache"),
    };
    Ok(base.join("cluster/images"))
}

/// Returns the file of the state directory that describes a machine to QEMU: how it is taken away, too.
fn description_file(machine: &Machine) -> String {
    format!("machines/{}/machine.json", machine.name)
}

#[async_trait(?Send)]
impl Provider for Qemu<'_> {
    async fn check(&self, home: &Home, ui: &Ui) -> Result<()> {
        crate::preflight::virtual_machines(self.plan, self.state, home, ui).await
    }

    async fn boot(&self, with: &Boot<'_>) -> Result<Vec<String>> {
        let Boot { given, executable: _, ui } = *with;
        let name = bridge_name(&self.plan.spec.name);
        let cables = self.plan.machines.iter().map(|machine| cable_name(&self.plan.spec.name, &machine.name));
        let descriptions = self
            .plan
            .machines
            .iter()
            .map(|machine| Made::Virtual(self.state.path(&description_file(machine))));
        let made: Vec<Made> =
            cables.map(Made::Link).chain([Made::Link(name.clone())]).chain(descriptions).collect();
        self.state.record(&made)?;
        let network = &self.plan.spec.network;
        let mac = crate::plan::mac(self.plan.spec.provider, network.host);
        Network::open()?.ensure_bridge(&name, network.host, network.nodes, &mac).await?;
        for machine in &self.plan.machines {
            self.unblock(machine).await?;
        }
        let mut missing = Vec::new();
        for machine in &self.plan.machines {
            if self.power(machine).await? == Power::Stopped {
                missing.push(machine);
            }
        }
        if missing.is_empty() {
            return Ok(Vec::new());
        }
        let given = given.context("the machines are given no keys")?;
        write_files(self.state.directory(), &vm::files(self.plan, given)?)?;
        let acceleration = ::qemu::probe().await.context("looking for a way to run machines")?;
        if let Acceleration::Emulation { reason } = &acceleration {
            ui.warn(&format!("machines run by software emulation, many times slower: {reason}"));
        }
        let base = self.image(ui).await?;
        let starts = missing.iter().map(|machine| self.start(machine, &base, &acceleration, ui));
        futures::future::join_all(starts).await.into_iter().collect::<Result<Vec<()>>>()?;
        Ok(missing.into_iter().map(|machine| machine.name.clone()).collect())
    }

    async fn power(&self, machine: &Machine) -> Result<Power> {
        use ::qemu::State;
        let state = self.instance(machine).state().await.context(format!("asking for {}", machine.name))?;
        Ok(match state {
            State::Running | State::Starting => Power::Running,
            State::Paused => Power::Paused,
            State::Stuck(_) | State::Absent | State::ShutDown | State::Gone => Power::Stopped,
        })
    }

    async fn reach<'s>(
        &'s self,
        machine: &'s Machine,
        deadline: Instant,
        ui: &Ui,
    ) -> Result<Box<dyn Host + 's>> {
        if self.power(machine).await? != Power::Running {
            return Err(Error::user(format!("{} ({}) does not run", machine.name, machine.address))
                .hint("run `cluster up`"));
        }
        let console = self.console(machine);
        let gone = async {
            let instance = self.instance(machine);
            match instance.ended_within(deadline.saturating_duration_since(Instant::now())).await {
                Ok(true) => {}
                // The deadline is the other branch's, with what was seen last.
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            reached = ssh::reach(self.plan, self.state, machine, &console, deadline, ui) => {
                Ok(Box::new(reached?))
            }
            () = gone => Err(ssh::with_console(
                Error::user(format!("{} ({}) has ended while it booted", machine.name, machine.address)),
                machine,
                &console,
            )),
        }
    }

    async fn remove(&self, machine: &Machine) -> Result<()> {
        let description = self.state.path(&description_file(machine));
        destroy(&description).await?;
        let cable = Made::Link(cable_name(&self.plan.spec.name, &machine.name));
        self.state.strike(&[Made::Virtual(description), cable])?;
        match fs_err::remove_dir_all(self.directory(machine)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn halt(&self, ui: &Ui) -> Result<()> {
        // Workers first: their agents say goodbye to an API that is there.
        let (masters, workers): (Vec<&Machine>, Vec<&Machine>) =
            self.plan.machines.iter().partition(|machine| machine.role == Role::Master);
        for group in [workers, masters] {
            let ends = group.into_iter().map(async |machine| {
                ui.phase(&machine.name, "shutting down");
                match self
                    .instance(machine)
                    .power_off(SHUTDOWN)
                    .await
                    .context(format!("stopping {}", machine.name))?
                {
                    PowerOff::Already | PowerOff::Guest => {}
                    PowerOff::Forced | PowerOff::Killed => ui.warn(&format!(
                        "{} did not shut down within {SHUTDOWN:?} and was switched off",
                        machine.name
                    )),
                }
                Ok(())
            });
            futures::future::join_all(ends).await.into_iter().collect::<Result<Vec<()>>>()?;
        }
        Ok(())
    }

    fn console(&self, machine: &Machine) -> PathBuf {
        self.directory(machine).join("console.log")
    }

    fn shared_images(&self) -> Option<PathBuf> {
        None
    }
}

/// Takes a machine away by its description. What is not there is no error.
pub(super) async fn destroy(description: &Path) -> Result<()> {
    let text = match fs_err::read(description) {
        Ok(text) => text,
        // The journal is written first: nothing was made yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let machine: ::qemu::Machine =
        serde_json::from_slice(&text).context(format!("reading {}", description.display()))?;
    ::qemu::destroy(&machine).await.context(format!("removing {}", machine.name))
}
