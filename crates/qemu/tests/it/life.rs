//! A machine from its first start to its removal.

use std::time::Duration;

use qemu::{
    Card, Disk, Forward, Instance, Link, Mac, PowerOff, Protocol, StartOptions, State, destroy, overlay,
};

use crate::kit::{Guard, Lab, PATIENCE, console, console_until, emulation, read_from, start};

/// Counts, and greets whoever connects to port 7000.
const SCRIPT: &str = "
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
(while :; do echo greetings-from-inside | nc -l -p 7000; done) 2>/dev/null &
dd if=/dev/vda bs=512 count=1 2>/dev/null | head -c 5
echo boot-number $RANDOM$RANDOM
i=0
while :; do i=$((i + 1)); echo tick $i; sleep 0.2; done
";

fn ticks(text: &str) -> usize {
    text.lines().rev().find_map(|line| line.trim().strip_prefix("tick ")?.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_boots_stands_goes_on_comes_back_and_powers_off() {
    let lab = Lab::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let card = Card {
        mac: Mac([0x52, 0x54, 0, 0, 0, 1]),
        link: Link::User {
            network: "10.0.2.0/24".parse().unwrap(),
            forwards: vec![Forward {
                protocol: Protocol::Tcp,
                host: format!("127.0.0.1:{port}").parse().unwrap(),
                guest: 7000,
            }],
        },
    };
    let machine = lab.machine("m1", SCRIPT, vec![card]);
    let _guard = Guard(machine.clone());
    let found = Instance::at(&machine.directory);
    assert_eq!(found.state().await.unwrap(), State::Absent);
    let instance = start(&machine).await;
    assert_eq!(found.state().await.unwrap(), State::Running);
    let pid = instance.pid().unwrap().unwrap();
    let process = nix::unistd::Pid::from_raw(pid);
    assert_eq!(nix::unistd::getsid(Some(process)).unwrap(), process, "a terminal's Ctrl-C must not reach it");
    let twice = qemu::start(&machine, &emulation(), &StartOptions::default()).await.unwrap_err().to_string();
    assert!(twice.starts_with("machine m1 is already running"), "{twice}");
    console_until(&machine, "the guest's first tick", |text| ticks(text) > 0).await;

    // The forwarded port leads inside.
    let greeting = read_from(port, "the greeting of the guest").await;
    assert_eq!(greeting.trim(), "greetings-from-inside");

    // Paused, and then on from where it stood.
    instance.pause().await.unwrap();
    assert_eq!(instance.state().await.unwrap(), State::Paused);
    let stood = ticks(&console(&machine));
    instance.resume().await.unwrap();
    assert_eq!(instance.state().await.unwrap(), State::Running);
    console_until(&machine, "a tick after the pause", |text| ticks(text) > stood).await;

    // Saved, killed, and back in the same boot.
    instance.save("ready").await.unwrap();
    instance.save("ready").await.unwrap();
    let saved = ticks(&console(&machine));
    console_until(&machine, "a tick after saving", |text| ticks(text) > saved + 2).await;
    instance.load("ready").await.unwrap();
    assert!(
        instance.load("never").await.unwrap_err().to_string().contains("never"),
        "a wrong tag is refused"
    );
    let pid = instance.pid().unwrap().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    assert!(instance.ended_within(PATIENCE).await.unwrap());
    assert_eq!(instance.state().await.unwrap(), State::Gone);
    let error = instance.pause().await.unwrap_err().to_string();
    assert!(error.ends_with("does not run: it was killed or crashed"), "{error}");
    std::fs::write(&machine.console, "").unwrap();
    let options = StartOptions { load: Some("ready".into()) };
    let instance = qemu::start(&machine, &emulation(), &options).await.unwrap();
    console_until(&machine, "a tick after loading", |text| ticks(text) >= saved).await;
    assert!(
        !console(&machine).contains("boot-number"),
        "it must not have booted again: {}",
        console(&machine)
    );

    // The power button, also while it stands.
    instance.pause().await.unwrap();
    assert_eq!(instance.power_off(PATIENCE).await.unwrap(), PowerOff::Guest);
    assert!(console(&machine).contains("button-pressed"));
    assert_eq!(instance.state().await.unwrap(), State::ShutDown);
    assert_eq!(instance.power_off(PATIENCE).await.unwrap(), PowerOff::Already);

    // Boots again, and is forced when the guest takes no notice: here it has no time to.
    let instance = start(&machine).await;
    assert_eq!(instance.power_off(Duration::ZERO).await.unwrap(), PowerOff::Forced);
    assert_eq!(instance.state().await.unwrap(), State::ShutDown);

    // What it is told later to have: a disk grows.
    let mut larger = machine.clone();
    larger.disk.as_mut().unwrap().size *= 2;
    let instance = start(&larger).await;
    let mut monitor = instance.monitor().await.unwrap();
    let blocks =
        monitor.execute("query-named-block-nodes", serde_json::json!({ "flat": true })).await.unwrap();
    let sizes: Vec<_> =
        blocks.as_array().unwrap().iter().map(|node| node["image"]["virtual-size"].clone()).collect();
    assert!(sizes.contains(&(512u64 << 20).into()), "{sizes:?}");
    drop(monitor);
    destroy(&machine).await.unwrap();
    assert_eq!(found.state().await.unwrap(), State::Absent);
    assert!(!machine.disk.as_ref().unwrap().path.exists() && machine.console.exists());
    destroy(&machine).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_starts_at_once_one_wins_and_the_machine_is_whole() {
    let lab = Lab::new();
    let machine = lab.machine("m1", "", vec![]);
    let _guard = Guard(machine.clone());
    let (emulation, options) = (emulation(), StartOptions::default());
    let starts = [(); 4].map(|()| qemu::start(&machine, &emulation, &options));
    let mut started = 0;
    for outcome in futures::future::join_all(starts).await {
        match outcome {
            Ok(_) => started += 1,
            Err(error) => assert!(error.to_string().contains("already running"), "{error}"),
        }
    }
    assert_eq!(started, 1);
    let instance = Instance::at(&machine.directory);
    assert_eq!(instance.state().await.unwrap(), State::Running);
    // Several who ask at once take turns.
    let states = futures::future::join_all([(); 8].map(|()| instance.state())).await;
    assert!(states.iter().all(|state| matches!(state, Ok(State::Running))), "{states:?}");
    let ends = futures::future::join_all([(); 2].map(|()| destroy(&machine))).await;
    assert!(ends.iter().any(Result::is_ok), "{ends:?}");
    assert_eq!(instance.state().await.unwrap(), State::Absent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_broken_off_at_any_moment_leaves_what_can_be_taken_away() {
    let lab = Lab::new();
    let machine = lab.machine("m1", "", vec![]);
    let _guard = Guard(machine.clone());
    for after in [0, 2, 10, 40, 100, 200] {
        let (emulation, options) = (emulation(), StartOptions::default());
        let start = qemu::start(&machine, &emulation, &options);
        // As Ctrl-C does: the future is dropped where it stands.
        let _ = tokio::time::timeout(Duration::from_millis(after), start).await;
        let instance = Instance::at(&machine.directory);
        let pid = instance.pid().unwrap();
        destroy(&machine).await.unwrap();
        assert_eq!(instance.state().await.unwrap(), State::Absent);
        assert!(!machine.directory.exists() && !machine.disk.as_ref().unwrap().path.exists());
        if let Some(pid) = pid {
            // Ended, even if nobody has asked for its status yet.
            let status =
                std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_else(|_| "gone) Z".into());
            assert!(status.contains(") Z"), "{status}");
        }
    }
}

/// The first sector of a disk: writes a text to the serial port, and stands still.
fn boot_sector() -> Vec<u8> {
    let mut sector = vec![
        0x31, 0xc0, 0x8e, 0xd8, // xor ax, ax; mov ds, ax
        0xbe, 0x15, 0x7c, // mov si, text
        0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xac, 0x84, 0xc0, // next: lodsb; test al, al
        0x74, 0x03, // jz end
        0xee, 0xeb, 0xf8, // out dx, al; jmp next
        0xf4, 0xeb, 0xfd, // end: hlt; jmp end
    ];
    sector.extend(b"booted-from-disk\r\n");
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_boots_from_a_layer_over_a_raw_image_and_over_a_qcow2_image() {
    let lab = Lab::new();
    let raw = lab.path().join("boot.img");
    std::fs::write(&raw, boot_sector()).unwrap();
    let qcow2 = lab.path().join("boot.qcow2");
    overlay::ensure(&Disk { path: qcow2.clone(), base: raw.clone(), size: 1 << 20 }).unwrap();
    for base in [raw, qcow2] {
        let mut machine = lab.machine("m1", "", vec![]);
        machine.boot = None;
        machine.disk.as_mut().unwrap().base = base;
        let _guard = Guard(machine.clone());
        start(&machine).await;
        console_until(&machine, "the disk's boot sector", |text| text.contains("booted-from-disk")).await;
        destroy(&machine).await.unwrap();
        std::fs::remove_file(&machine.console).unwrap();
    }
}
