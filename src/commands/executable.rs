//! Whether an executable can run on the machines, told before anything boots.

use std::io::Read;
use std::path::Path;

use crate::error::{Context, Error, Result};

/// Where ELF's header says which processor the program is for, and the numbers of those that are known.
const MACHINE: usize = 18;
const PROCESSORS: [(u16, &str); 3] = [(62, "x86_64"), (183, "aarch64"), (243, "riscv64")];

/// Checks that the file is a program for Linux on this host's processor, which is that of the machines.
///
/// # Errors
/// A file that cannot be read, is no ELF program, or is for another processor.
pub(super) fn check(path: &Path) -> Result<()> {
    let mut header = [0; 20];
    let mut file = fs_err::File::open(path)?;
    file.read_exact(&mut header).context(format!("reading {}", path.display()))?;
    judge(&header, std::env::consts::ARCH)
        .map_err(|error| error.within(format!("{} cannot run on the machines", path.display())))
}

fn judge(header: &[u8; 20], wanted: &str) -> Result<()> {
    if !header.starts_with(b"\x7fELF") {
        return Err(Error::user("it is no executable for Linux (no ELF file)")
            .hint("give the executable of a build for Linux by --node-executable FILE"));
    }
    let number = u16::from_le_bytes([header[MACHINE], header[MACHINE + 1]]);
    let known = PROCESSORS.iter().find(|(known, _)| *known == number).map(|(_, name)| *name);
    if known == Some(wanted) {
        return Ok(());
    }
    let found = known.map_or_else(|| format!("processor {number} of ELF's list"), str::to_owned);
    Err(Error::user(format!("it is for {found}, and the machines are {wanted}"))
        .hint(format!("give one for {wanted} by --node-executable FILE")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_processor_or_system_is_told_before_anything_boots() {
        check(Path::new("/proc/self/exe")).unwrap();
        let mut header = [0; 20];
        header[..4].copy_from_slice(b"\x7fELF");
        header[MACHINE] = 183;
        judge(&header, "aarch64").unwrap();
        let error = judge(&header, "x86_64").unwrap_err().line();
        assert_eq!(error, "it is for aarch64, and the machines are x86_64");
        assert!(judge(b"#!/bin/sh and more..", "x86_64").is_err());
    }
}
