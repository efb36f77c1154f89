//! Machines in a directory of their own.

use std::path::Path;
use std::time::Duration;

use machinery::clock::SystemClock;
use machinery::names::Random;
use machinery::retry::{Attempt, Backoff, until};
use qemu::{Acceleration, Card, DirectBoot, Disk, FirmwareFile, Instance, Machine, StartOptions};
use tokio::io::AsyncReadExt;

use crate::guest;

/// Emulation on a machine that runs other things as well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) struct Lab {
    directory: tempfile::TempDir,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("initrd"), guest::initrd()).unwrap();
        // What is below a disk is never written to: holes are enough.
        let base = std::fs::File::create(directory.path().join("base.img")).unwrap();
        base.set_len(1 << 20).unwrap();
        Self { directory }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Describes a machine whose guest runs `script`.
    pub(crate) fn machine(&self, name: &str, script: &str, cards: Vec<Card>) -> Machine {
        let directory = self.path().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let file = directory.join("script, the first");
        std::fs::write(&file, script).unwrap();
        Machine {
            name: name.into(),
            cpus: 1,
            memory: 128,
            disk: Some(Disk {
                path: directory.join("disk, the only.qcow2"),
                base: self.path().join("base.img"),
                size: 256 << 20,
            }),
            boot: Some(DirectBoot {
                kernel: guest::kernel(),
                initrd: Some(self.path().join("initrd")),
                append: "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check".into(),
            }),
            firmware_files: vec![FirmwareFile { name: "opt/test/script".into(), file }],
            cards,
            console: directory.join("console.log"),
            directory: directory.join("run"),
        }
    }
}

/// Starts a machine under emulation.
pub(crate) async fn start(machine: &Machine) -> Instance {
    qemu::start(machine, &emulation(), &StartOptions::default()).await.unwrap()
}

pub(crate) fn emulation() -> Acceleration {
    Acceleration::Emulation { reason: "tests run the same everywhere".into() }
}

/// A process that is killed when a test ends before it has taken its machine away.
pub(crate) struct Guard(pub(crate) Machine);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Ok(Some(pid)) = Instance::at(&self.0.directory).pid() {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

pub(crate) fn console(machine: &Machine) -> String {
    String::from_utf8_lossy(&std::fs::read(&machine.console).unwrap()).into_owned()
}

/// Waits until `found` says yes to what the console shows.
pub(crate) async fn console_until(machine: &Machine, what: &str, mut found: impl FnMut(&str) -> bool) {
    let outcome =
        until::<_, String, _>(what, PATIENCE, Backoff::QUICK, &SystemClock, &Random::seeded(1), async || {
            let text = console(machine);
            if found(&text) { Attempt::Done(()) } else { Attempt::Again(text) }
        })
        .await;
    outcome.unwrap();
}

/// Reads what a guest says to whoever connects to `port` of this host.
pub(crate) async fn read_from(port: u16, what: &str) -> String {
    // QEMU accepts by itself; the connection ends at once as long as nobody listens inside.
    let attempt = async || {
        let mut text = String::new();
        let read = async {
            let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
            stream.read_to_string(&mut text).await
        };
        match read.await {
            Ok(length) if length > 0 => Attempt::Done(text),
            other => Attempt::Again(format!("{other:?}")),
        }
    };
    until::<_, String, _>(what, PATIENCE, Backoff::QUICK, &SystemClock, &Random::seeded(1), attempt)
        .await
        .unwrap()
}
