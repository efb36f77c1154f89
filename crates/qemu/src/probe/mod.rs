//! Finds out whether KVM really works here, by running a guest of 300 bytes.
//!
//! That /dev/kvm is there and can be opened says little: in some virtual machines QEMU then aborts on a register
//! that it may not set, or the guest crawls, instruction by instruction. A real machine would hang in its boot.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::acceleration::Acceleration;
use crate::arguments::acceleration_arguments;
use crate::error::{Error, Result};
use crate::life::program;

/// firmware.S, assembled; a test assembles it again and compares.
const FIRMWARE: &[u8] = include_bytes!("firmware.bin");
/// The size of the ROM, which ends where the address space does.
const ROM: usize = 64 * 1024;
/// A jump from 0xfff0, where the processor starts, to the beginning of the ROM.
const RESET: (usize, [u8; 3]) = (0xfff0, [0xe9, 0x0d, 0x00]);
/// What the guest writes to its serial port when all that it tried went well.
const SUCCESS: u8 = b'Y';
/// The guest takes 30 ms where KVM works, and QEMU's own start a tenth of a second.
const DEADLINE: Duration = Duration::from_secs(3);
/// How long a killed QEMU is waited for; the kernel may hold it in a broken KVM for ever.
const REAP: Duration = Duration::from_secs(1);
/// How much of what QEMU says is read.
const MOST_OUTPUT: u64 = 16 * 1024;

/// Finds out how machines are run best on this host: by KVM, or by emulation and why. Takes 3 seconds at most,
/// and a tenth of one where KVM works.
///
/// # Errors
/// [`Error::NoProgram`], or when a temporary file cannot be made.
pub async fn probe() -> Result<Acceleration> {
    let program = program()?;
    let reason = match open_device(Path::new("/dev/kvm")) {
        Err(reason) => reason,
        Ok(()) => match run(&program, &Acceleration::Kvm, DEADLINE).await? {
            Ok(()) => return Ok(Acceleration::Kvm),
            Err(reason) => format!("/dev/kvm is there and does not work: {reason}"),
        },
    };
    Ok(Acceleration::Emulation { reason })
}

/// Tries whether QEMU can run a guest at all in this way; the inner error says why not.
///
/// # Errors
/// [`Error::NoProgram`], or when a temporary file cannot be made.
pub async fn try_guest(acceleration: &Acceleration, deadline: Duration) -> Result<Result<(), String>> {
    run(&program()?, acceleration, deadline).await
}

fn open_device(device: &Path) -> Result<(), String> {
    let opened = std::fs::File::options().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(device);
    let Err(error) = opened else { return Ok(()) };
    let hint = match error.kind() {
        io::ErrorKind::NotFound => {
            "switch virtualization on in the firmware's setup, and load kvm_intel or kvm_amd"
        }
        io::ErrorKind::PermissionDenied => {
            "add yourself to the group kvm (usermod -aG kvm $USER), and log in again"
        }
        _ => "load kvm_intel or kvm_amd",
    };
    Err(format!("{} cannot be opened ({error}): {hint}", device.display()))
}

async fn run(program: &Path, acceleration: &Acceleration, deadline: Duration) -> Result<Result<(), String>> {
    let doing = "trying a guest";
    // Also its working directory: an abort may leave a core file there.
    let directory = tempfile::tempdir().map_err(Error::io(doing))?;
    let mut rom = vec![0; ROM];
    rom[..FIRMWARE.len()].copy_from_slice(FIRMWARE);
    rom[RESET.0..RESET.0 + RESET.1.len()].copy_from_slice(&RESET.1);
    std::fs::write(directory.path().join("rom"), rom).map_err(Error::io(doing))?;
    let mut child = Command::new(program)
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-m", "64"])
        .args(acceleration_arguments(acceleration))
        .args(["-bios", "rom", "-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial"])
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(Error::io(format!("starting {}", program.display())))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let spoken = async {
        let mut word = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(1).read_to_end(&mut word).await?;
        }
        if !word.is_empty() {
            return Ok(judge_word(word[0]));
        }
        // Not a byte: QEMU has ended, or is about to.
        let mut said = Vec::new();
        if let Some(stderr) = stderr {
            stderr.take(MOST_OUTPUT).read_to_end(&mut said).await?;
        }
        Ok::<_, io::Error>(Err(judge_end(child.wait().await?, &String::from_utf8_lossy(&said))))
    };
    let outcome = match tokio::time::timeout(deadline, spoken).await {
        Ok(spoken) => spoken.map_err(Error::io(doing))?,
        Err(_) => Err(format!("a small guest that takes a tenth of a second was not done in {deadline:?}")),
    };
    child.start_kill().map_err(Error::io(doing))?;
    if tokio::time::timeout(REAP, child.wait()).await.is_err() {
        tracing::warn!(pid = child.id(), "a QEMU that was killed does not end: the kernel holds it");
    }
    Ok(outcome)
}

fn judge_word(word: u8) -> Result<(), String> {
    if word == SUCCESS { Ok(()) } else { Err("a small guest computed a wrong result".into()) }
}

fn judge_end(status: ExitStatus, said: &str) -> String {
    // The first line names the cause; an abort's own words come after it.
    let words = said.lines().find(|line| !line.trim().is_empty() && !line.contains("warning:"));
    match words {
        Some(line) => format!("QEMU ended with {status}: {}", line.trim()),
        None => format!("QEMU ended with {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn only_the_guests_own_word_counts() {
        assert_eq!(judge_word(b'Y'), Ok(()));
        assert!(judge_word(b'N').is_err() && judge_word(b'S').is_err());
        assert_eq!(judge_end(ExitStatus::from_raw(0), ""), "QEMU ended with exit status: 0");
        let said =
            "qemu: warning: no feature\nqemu: error: failed to set MSR 0x10a to 0x69\nkvm.c:1: Assertion\n";
        let aborted = judge_end(ExitStatus::from_raw(6), said);
        assert!(aborted.starts_with("QEMU ended with signal: 6"), "{aborted}");
        assert!(aborted.ends_with(": qemu: error: failed to set MSR 0x10a to 0x69"), "{aborted}");
    }

    #[test]
    fn a_device_that_cannot_be_opened_says_what_to_do() {
        let reason = open_device(Path::new("/nowhere/kvm")).unwrap_err();
        assert!(reason.contains("/nowhere/kvm cannot be opened") && reason.contains("kvm_intel"), "{reason}");
    }
}
