//! How long pods take and what their shims hold, as a table: `runtime-test-helper bench DIRECTORY PODS`, as root.
#![expect(clippy::print_stdout, reason = "a table for people")]

use std::path::Path;
use std::time::{Duration, Instant};

use runtime::builtin::Engine;
use runtime::{ContainerConfig, Runtime, SandboxConfig};

pub(super) async fn run(directory: &Path, pods: usize) {
    let engine = crate::open(directory, &format!("/runtime-bench-{}", std::process::id())).await;
    for left in engine.list_sandboxes().await.expect("a list") {
        engine.remove_sandbox(&left.id).await.expect("it can be removed");
    }
    let program = std::fs::read("/bin/busybox").expect("apt-get install busybox-static");
    let files = [("/bin/busybox".to_owned(), 0o755, program)];
    runtime::images::from_executable(engine.images(), "busybox", Path::new("/bin/busybox"), &files)
        .expect("the image can be made");
    let mut rows: Vec<[Duration; 6]> = Vec::new();
    for number in 0..20 {
        let (row, sandbox) = one(&engine, directory, number).await;
        rows.push(row);
        let begun = Instant::now();
        engine.remove_sandbox(&sandbox).await.expect("it can be removed");
        rows.last_mut().expect("pushed above")[5] = begun.elapsed();
    }
    let names = ["sandbox", "create", "start", "start: CPU of children", "exec", "remove"];
    for (index, name) in names.iter().enumerate() {
        let mut column: Vec<Duration> = rows.iter().map(|row| row[index]).collect();
        column.sort();
        println!(
            "{name:24} median {:>9.2?}  worst {:>9.2?}",
            column[column.len() / 2],
            column[column.len() - 1]
        );
    }
    let begun = Instant::now();
    let all: Vec<_> = (100..100 + pods).map(|number| one(&engine, directory, number)).collect();
    let all = futures::future::join_all(all).await;
    println!("{pods} pods at once         {:?}", begun.elapsed());
    shims(directory);
    let begun = Instant::now();
    for (_, sandbox) in all {
        engine.remove_sandbox(&sandbox).await.expect("it can be removed");
    }
    println!("removing them           {:?}", begun.elapsed());
}

async fn one(engine: &Engine, directory: &Path, number: usize) -> ([Duration; 6], String) {
    let name = format!("pod{number}");
    let begun = Instant::now();
    let config = SandboxConfig {
        name: name.clone(),
        hostname: name.clone(),
        log_directory: directory.join("logs").join(&name),
        cgroup_parent: format!("/kubepods/{name}"),
        ..SandboxConfig::default()
    };
    let sandbox = engine.run_sandbox(config).await.expect("a sandbox").id;
    let after_sandbox = begun.elapsed();
    let config = ContainerConfig {
        name: "c".into(),
        image: "busybox".into(),
        command: vec!["/bin/busybox".into(), "sleep".into(), "1000".into()],
        log_path: "c.log".into(),
        ..ContainerConfig::default()
    };
    let id = engine.create_container(&sandbox, config).await.expect("a container");
    let after_create = begun.elapsed();
    let cpu = children();
    engine.start_container(&id).await.expect("it starts");
    let (after_start, cpu) = (begun.elapsed(), children().saturating_sub(cpu));
    let exec = if number < 100 {
        let command = ["/bin/busybox".to_owned(), "true".to_owned()];
        let output = engine.exec_sync(&id, &command, None).await.expect("a command runs");
        assert_eq!(output.exit_code, 0);
        begun.elapsed() - after_start
    } else {
        Duration::ZERO
    };
    let row =
        [after_sandbox, after_create - after_sandbox, after_start - after_create, cpu, exec, Duration::ZERO];
    (row, sandbox)
}

/// Returns the processor time of the shims and their children, as far as the kernel tells it by now.
fn children() -> Duration {
    let mut sum = 0;
    for entry in std::fs::read_dir("/proc").expect("there is a /proc").flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains("runtime-helper\0shim") {
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
            sum += fields
                .get(11..15)
                .unwrap_or_default()
                .iter()
                .filter_map(|t| t.parse::<u64>().ok())
                .sum::<u64>();
        }
    }
    // The kernel counts in hundredths of a second.
    Duration::from_millis(sum * 10)
}

fn shims(directory: &Path) {
    let ours = format!("runtime-helper\0shim\0{}", directory.display());
    let (mut count, mut proportional, mut private) = (0, 0, 0);
    for entry in std::fs::read_dir("/proc").expect("there is a /proc").flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(&ours) {
            let rollup = std::fs::read_to_string(entry.path().join("smaps_rollup")).unwrap_or_default();
            let field = |name: &str| {
                let line = rollup.lines().find_map(|line| line.strip_prefix(name));
                line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
            };
            count += 1;
            proportional += field("Pss:");
            private += field("Private_Dirty:") + field("Private_Clean:");
        }
    }
    if let (Some(proportional), Some(private)) =
        (u64::checked_div(proportional, count), private.checked_div(count))
    {
        println!("{count} shims                proportional {proportional} KiB, private {private} KiB each");
    }
}
