//! What stands in the way of a start, and how it is said.

use qemu::{Card, Error, Forward, Instance, Link, Mac, Machine, Protocol, StartOptions, State};

use crate::kit::{Guard, Lab, emulation, start};

async fn refused(machine: &Machine) -> String {
    let error = qemu::start(machine, &emulation(), &StartOptions::default()).await.unwrap_err();
    assert_eq!(Instance::at(&machine.directory).state().await.unwrap(), State::Absent, "{error}");
    error.to_string()
}

fn card(forward: Option<Forward>) -> Card {
    Card {
        mac: Mac([0x52, 0x54, 0, 0, 0, 1]),
        link: Link::User { network: "10.0.2.0/24".parse().unwrap(), forwards: forward.into_iter().collect() },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_named() {
    let lab = Lab::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let std::net::SocketAddr::V4(host) = taken.local_addr().unwrap() else { unreachable!() };
    let machine =
        lab.machine("m1", "", vec![card(Some(Forward { protocol: Protocol::Tcp, host, guest: 22 }))]);
    let error = refused(&machine).await;
    assert!(
        error.contains("a port of this host is taken") && error.contains(&host.port().to_string()),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_of_another_machine_is_not_opened() {
    let lab = Lab::new();
    let first = lab.machine("m1", "", vec![]);
    let _guard = Guard(first.clone());
    start(&first).await;
    let mut second = lab.machine("m2", "", vec![]);
    second.disk = first.disk.clone();
    let error = refused(&second).await;
    assert!(error.contains("another QEMU has this disk image open"), "{error}");
    qemu::destroy(&first).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named_before_anything_is_made() {
    let lab = Lab::new();
    let mut machine = lab.machine("m1", "", vec![]);
    machine.memory = 4 * 1024 * 1024;
    let error = refused(&machine).await;
    assert!(error.contains("memory"), "{error}");

    let mut machine = lab.machine("m1", "", vec![]);
    machine.firmware_files[0].file = "/nowhere/config.ign".into();
    let error = refused(&machine).await;
    assert!(error.contains("its firmware file /nowhere/config.ign cannot be read: No such file"), "{error}");

    let mut machine = lab.machine("m2", "", vec![]);
    machine.disk.as_mut().unwrap().base = "/nowhere/base.qcow2".into();
    let result = qemu::start(&machine, &emulation(), &StartOptions::default()).await;
    assert!(matches!(&result, Err(Error::Disk { path, .. }) if path.ends_with("base.qcow2")), "{result:?}");

    let machine = lab.machine("m3", "", vec![]);
    let options = StartOptions { load: Some("never-saved".into()) };
    let error = qemu::start(&machine, &emulation(), &options).await.unwrap_err().to_string();
    assert!(error.contains("the saved state is not in its disk"), "{error}");
}
