//! The layers that are written here, judged by QEMU's own tool.

use std::process::Command;

use qemu::{Disk, overlay};

fn qemu_img(arguments: &[&str]) -> String {
    let output = Command::new("qemu-img").args(arguments).output();
    let output = output.expect("qemu-img (apt-get install qemu-utils) judges the disks of this test");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn layers_of_every_size_are_whole_and_read_like_what_is_below() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let contents: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).take(1 << 20).collect();
    std::fs::write(at("base.raw"), contents).unwrap();
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", "-c", &at("base.raw"), &at("base.qcow2")]);
    for base in ["base.raw", "base.qcow2"] {
        // One table entry, one more than that, and a table of more than one cluster.
        for size in [0, 512 << 20, (512 << 20) + 512, 5 << 40] {
            let disk = Disk { path: at("disk").into(), base: at(base).into(), size };
            assert_eq!(overlay::ensure(&disk).unwrap(), size.max(1 << 20));
            let checked = qemu_img(&["check", "-f", "qcow2", &at("disk")]);
            assert!(checked.contains("No errors were found"), "{checked}");
            let info: serde_json::Value =
                serde_json::from_str(&qemu_img(&["info", "--output=json", &at("disk")])).unwrap();
            assert_eq!(info["virtual-size"], size.max(1 << 20));
            assert_eq!(info["backing-filename"], at(base));
            assert_eq!(info["backing-filename-format"], base.split('.').next_back().unwrap());
            if size < 1 << 40 {
                let same = qemu_img(&["compare", "-f", "qcow2", "-F", "raw", &at("disk"), &at("base.raw")]);
                assert!(same.contains("Images are identical"), "{same}");
            }
            std::fs::remove_file(at("disk")).unwrap();
        }
    }
}
