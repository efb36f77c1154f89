//! Commands joined to local streams, with a terminal and without.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use remote::{Command, Remote, Status, Streams};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::sshd::{Sshd, eventually, noise};

/// A terminal: the end that a person holds, and the one that programs have.
fn terminal() -> (std::fs::File, OwnedFd) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = rustix::fs::open(
        name.as_c_str(),
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    (master.into(), slave)
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shell_has_a_terminal_of_the_local_size_and_ends_with_its_code() {
    let sshd = Sshd::start();
    let machine = sshd.root();
    let (mut person, slave) = terminal();
    tcsetwinsize(&person, size(101, 31)).unwrap();
    let before = tcgetattr(&slave).unwrap();
    let streams =
        Streams::new(slave.try_clone().unwrap(), slave.try_clone().unwrap(), slave.try_clone().unwrap());
    let attached = tokio::spawn(async move { machine.attach(None, streams).await });

    let seen = std::sync::Arc::new(parking_lot::Mutex::new(String::new()));
    let mut reading = person.try_clone().unwrap();
    std::thread::spawn({
        let seen = seen.clone();
        move || {
            let mut buffer = [0; 4096];
            while let Ok(count) = reading.read(&mut buffer) {
                seen.lock().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        }
    });
    let shown = |what: &'static str| {
        let seen = seen.clone();
        async move {
            eventually(what, || {
                let seen = seen.lock();
                if seen.contains(what) { Ok(()) } else { Err(seen.clone()) }
            })
            .await;
        }
    };
    // What is typed before the shell reads belongs to nobody.
    shown("# ").await;
    // The answer has other words than the question, which the far terminal echoes.
    person.write_all(b"echo size $(stty size) on $TERM\r").unwrap();
    shown("size 31 101 on ").await;
    assert!(!tcgetattr(&slave).unwrap().local_modes.contains(LocalModes::ICANON), "it is raw meanwhile");
    tcsetwinsize(&person, size(66, 22)).unwrap();
    // A terminal tells the processes in front of it; this one is in front of none.
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::WINCH).unwrap();
    person
        .write_all(b"until [ \"$(stty size)\" = '22 66' ]; do sleep 0.1; done; echo size is $(stty size)\r")
        .unwrap();
    shown("size is 22 66").await;
    // Ctrl-C goes there, not here.
    person.write_all(b"sleep 600\r").unwrap();
    shown("sleep 600").await;
    person.write_all(b"\x03").unwrap();
    person.write_all(b"exit 7\r").unwrap();
    assert_eq!(attached.await.unwrap().unwrap(), Status::Exited(7));
    assert_eq!(tcgetattr(&slave).unwrap().local_modes, before.local_modes);
}

#[tokio::test]
async fn without_a_terminal_the_streams_pass_through() {
    let sshd = Sshd::start();
    let machine = sshd.root();
    let bytes = noise(2_000_000);
    let (stdin_reader, mut stdin) = std::io::pipe().unwrap();
    let (mut stdout, stdout_writer) = std::io::pipe().unwrap();
    let (mut stderr, stderr_writer) = std::io::pipe().unwrap();
    let streams = Streams::new(stdin_reader.into(), stdout_writer.into(), stderr_writer.into());
    let given = bytes.clone();
    let writing = std::thread::spawn(move || stdin.write_all(&given).unwrap());
    let reading = std::thread::spawn(move || {
        let mut all = Vec::new();
        stdout.read_to_end(&mut all).unwrap();
        all
    });
    let command = Command::shell("cat; test -t 0 || echo no terminal >&2; exit 9");
    let status = machine.attach(Some(command), streams).await.unwrap();
    assert_eq!(status.code(), 9);
    writing.join().unwrap();
    assert!(reading.join().unwrap() == bytes);
    let mut said = String::new();
    stderr.read_to_string(&mut said).unwrap();
    assert_eq!(said, "no terminal\n");
}

#[tokio::test]
async fn a_command_ends_though_standard_input_stays_open() {
    let sshd = Sshd::start();
    let (stdin, _open) = std::io::pipe().unwrap();
    let (_out, stdout) = std::io::pipe().unwrap();
    let stderr = stdout.try_clone().unwrap();
    let streams = Streams::new(stdin.into(), stdout.into(), stderr.into());
    let status = sshd.root().attach(Some(Command::new(&["true"])), streams).await.unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn when_nobody_reads_any_more_it_ends() {
    let sshd = Sshd::start();
    let (stdin, _open) = std::io::pipe().unwrap();
    let (out, stdout) = std::io::pipe().unwrap();
    let stderr = stdout.try_clone().unwrap();
    drop(out);
    let streams = Streams::new(stdin.into(), stdout.into(), stderr.into());
    let status = sshd.root().attach(Some(Command::new(&["yes"])), streams).await.unwrap();
    assert!(status.success());
}
