//! Whether KVM works is found out in time, whatever this machine is like.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use qemu::{Acceleration, probe, try_guest};

use crate::kit::{PATIENCE, emulation};

#[tokio::test(flavor = "multi_thread")]
async fn the_guest_of_the_probe_runs_under_emulation_and_a_deadline_ends_it() {
    assert_eq!(try_guest(&emulation(), PATIENCE).await.unwrap(), Ok(()));
    let hasty = try_guest(&emulation(), Duration::from_millis(1)).await.unwrap().unwrap_err();
    assert_eq!(hasty, "a small guest that takes a tenth of a second was not done in 1ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn kvm_is_judged_by_a_guest_and_not_by_its_device() {
    let judged = tokio::time::timeout(Duration::from_secs(20), probe()).await.unwrap().unwrap();
    match judged {
        Acceleration::Kvm => assert_eq!(try_guest(&Acceleration::Kvm, PATIENCE).await.unwrap(), Ok(())),
        Acceleration::Emulation { reason } => assert!(reason.starts_with("/dev/kvm "), "{reason}"),
    }
}

#[test]
fn the_firmware_is_what_its_source_says() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/probe");
    let directory = tempfile::tempdir().unwrap();
    let run = |command: &mut Command| {
        let output = command.current_dir(directory.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(Command::new("as").args(["--64", "-o", "firmware.o"]).arg(source.join("firmware.S")));
    run(Command::new("ld").args("-Ttext=0 --oformat binary -e 0 -o firmware.bin firmware.o".split(' ')));
    let built = std::fs::read(directory.path().join("firmware.bin")).unwrap();
    assert_eq!(built, std::fs::read(source.join("firmware.bin")).unwrap());
}
