//! What machines boot from and run.

use std::path::Path;
use std::process::Command;

use crate::lab::fixtures;

/// Returns the path of a file of the test image, which is built where it is not there yet.
pub(super) fn image(file: &str) -> String {
    let directory = fixtures().join("vm");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm/build");
    let status = Command::new(&script).arg(&directory).status().unwrap();
    assert!(status.success(), "{} {} failed", script.display(), directory.display());
    directory.join(file).to_str().unwrap().to_owned()
}

/// Makes the executable for the machines in `directory`: the one under test without what only a debugger reads,
/// which is more than half of what would go over SSH.
pub(super) fn executable(directory: &Path) -> String {
    let stripped = directory.join("node-executable");
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(&stripped).arg(env!("CARGO_BIN_EXE_cluster"));
    assert!(strip.status().unwrap().success(), "{strip:?} failed");
    stripped.to_str().unwrap().to_owned()
}
