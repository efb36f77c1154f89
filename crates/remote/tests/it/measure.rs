//! Figures, printed on demand: `cargo test -p remote --test it measure -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use remote::{Command, File, Remote};

use crate::sshd::{Sshd, noise};

#[tokio::test]
#[ignore = "measures, and asserts nothing"]
async fn measure_uploads_and_round_trips() {
    let sshd = Sshd::start();
    let ssh = sshd.root();
    let begin = Instant::now();
    ssh.connect(Duration::from_secs(20)).await.unwrap();
    println!("connect, log in: {:?}", begin.elapsed());
    for round in 0..3 {
        let begin = Instant::now();
        ssh.run(Command::new(&["true"])).await.unwrap();
        println!("run true, {round}: {:?}", begin.elapsed());
    }
    let megabytes = |bytes: u64, begin: Instant| {
        let elapsed = begin.elapsed();
        format!("{elapsed:?}, {:.0} MB/s", bytes as f64 / elapsed.as_secs_f64() / 1e6)
    };
    let incompressible = noise(64 << 20);
    let begin = Instant::now();
    let done = ssh.upload(File::new(sshd.at("noise"), incompressible.clone())).await.unwrap();
    println!("64 MiB of noise: {} {done:?}", megabytes(64 << 20, begin));
    let begin = Instant::now();
    ssh.upload(File::new(sshd.at("noise"), incompressible)).await.unwrap();
    println!("64 MiB of noise again: {:?}", begin.elapsed());
    let executable = std::env::current_exe().unwrap();
    let size = std::fs::metadata(&executable).unwrap().len();
    let begin = Instant::now();
    let done = ssh.upload(File::new(sshd.at("exe"), executable.as_path()).mode(0o755)).await.unwrap();
    println!("an executable of {size} bytes: {} {done:?}", megabytes(size, begin));
    let begin = Instant::now();
    ssh.upload(File::new(sshd.at("exe"), executable.as_path()).mode(0o755)).await.unwrap();
    println!("the executable again: {:?}", begin.elapsed());
    let files = || {
        (0..15).map(|n| File::new(sshd.at(&format!("etc/{n}")), "line\n".repeat(400 + n))).collect::<Vec<_>>()
    };
    for round in 0..4 {
        let begin = Instant::now();
        let done = ssh.upload_many(files()).await.unwrap();
        let changed = done.iter().filter(|one| one.changed).count();
        println!("15 files, {changed} changed, {round}: {:?}", begin.elapsed());
    }
}
