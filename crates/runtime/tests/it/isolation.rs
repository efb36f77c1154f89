//! What containers may and may not do.

use runtime::{
    ContainerConfig, HostNamespaces, Mount, Propagation, Resources, SandboxConfig, Seccomp, Security,
};

use crate::kit::{Kit, on_both_engines, shell};

on_both_engines! {
    users_and_groups_are_the_images_or_the_pods
    capabilities_and_privileges_are_what_was_asked_for
    a_read_only_root_is_not_written_but_mounts_are
    too_much_memory_is_told_apart_from_other_ends
    use_of_resources_is_counted_and_limits_can_be_changed
    a_pod_may_share_one_process_table_or_the_nodes_namespaces
    mounts_travel_both_ways_only_where_asked_for
    kernel_parameters_and_the_resolver_are_the_pods_own
    a_seccomp_profile_holds_for_the_container_and_for_commands_in_it
}

fn with(script: &str, security: Security) -> ContainerConfig {
    ContainerConfig { security, ..shell(script) }
}

async fn users_and_groups_are_the_images_or_the_pods(kit: Kit) {
    let sandbox = kit.sandbox("web").await;
    let cases = [
        (Security::default(), "uid=0(root) gid=0(root) groups=0(root)"),
        (
            Security { run_as_user: Some(33), supplemental_groups: vec![777], ..Security::default() },
            "uid=33(web) gid=34(web) groups=34(web),44(logs),777",
        ),
        (
            Security { run_as_user: Some(1000), run_as_group: Some(2000), ..Security::default() },
            "uid=1000 gid=2000 groups=2000",
        ),
    ];
    for (security, expect) in cases {
        let (_, log) = kit.run(&sandbox, with("id; umask; echo x >/dev/stdout", security)).await;
        assert_eq!(log, format!("o: {expect}\no: 0022\no: x\n"));
    }
    kit.finish().await;
}

async fn capabilities_and_privileges_are_what_was_asked_for(kit: Kit) {
    let sandbox = kit.sandbox("web").await;
    let script = "grep -E 'Cap(Eff|Bnd|Amb|Inh)|NoNewPrivs' /proc/self/status | tr -d '\\t\\n'; echo";
    let drop_all = Security {
        drop_capabilities: vec!["ALL".into()],
        add_capabilities: vec!["NET_ADMIN".into()],
        no_new_privileges: true,
        ..Security::default()
    };
    let cases = [(Security::default(), "00000000a80425fb", "0"), (drop_all, "0000000000001000", "1")];
    for (security, mask, no_new) in cases {
        let (_, log) = kit.run(&sandbox, with(script, security)).await;
        let expect = format!(
            "o: CapInh:0000000000000000CapEff:{mask}CapBnd:{mask}CapAmb:0000000000000000NoNewPrivs:{no_new}\n"
        );
        assert_eq!(log, expect);
    }
    // The root of a container cannot do what only the node's may.
    let script = "mount -t tmpfs x /tmp && echo mounted; echo 1 >/proc/sys/kernel/panic && echo written; \
                  mknod /dev/disk b $(cat /sys/class/block/*/dev | head -n 1 | tr : ' '); \
                  head -c 1 /dev/disk >/dev/null && echo read; head -c 1 /dev/zero && echo zero; \
                  mknod /tmp/vda b 254 0; head -c 1 /tmp/vda >/dev/null && echo read; ls /proc/acpi /sys/firmware; true";
    let (_, log) = kit.run(&sandbox, shell(script)).await;
    assert!(!log.contains("o: mounted") && !log.contains("o: written") && !log.contains("o: read"), "{log}");
    assert!(log.contains("zero"), "the harmless devices are there: {log}");
    let privileged = Security { privileged: true, ..Security::default() };
    let sandbox = SandboxConfig { privileged: true, ..kit.sandbox_config("trusted") };
    let sandbox = kit.engine.run_sandbox(sandbox).await.unwrap().id;
    let (_, log) =
        kit.run(&sandbox, with("mount -t tmpfs x /tmp && echo mounted; ls /sys/firmware", privileged)).await;
    assert!(log.contains("o: mounted"), "{log}");
    kit.finish().await;
}

async fn a_read_only_root_is_not_written_but_mounts_are(kit: Kit) {
    let sandbox = kit.sandbox("web").await;
    let volume = kit.directory.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("given"), "given\n").unwrap();
    let config = ContainerConfig {
        security: Security { read_only_root: true, ..Security::default() },
        mounts: vec![
            Mount { host_path: volume.clone(), container_path: "/data".into(), ..Mount::default() },
            Mount {
                host_path: volume.clone(),
                container_path: "/fixed".into(),
                read_only: true,
                ..Mount::default()
            },
            Mount { host_path: volume.join("given"), container_path: "/etc/one".into(), ..Mount::default() },
        ],
        ..shell(
            "touch /x 2>/dev/null && echo root; touch /fixed/x 2>/dev/null && echo fixed; cat /etc/one; touch /data/made",
        )
    };
    let (status, log) = kit.run(&sandbox, config).await;
    assert_eq!((status.exit_code, log.as_str()), (0, "o: given\n"));
    assert!(volume.join("made").exists());
    // What one container writes, the next one of the same image does not see.
    let (_, log) = kit.run(&sandbox, shell("echo 1 > /written; ls /written")).await;
    assert_eq!(log, "o: /written\n");
    let (_, log) = kit.run(&sandbox, shell("ls /written 2>/dev/null; true")).await;
    assert_eq!(log, "");
    kit.finish().await;
}

async fn too_much_memory_is_told_apart_from_other_ends(kit: Kit) {
    let sandbox = kit.sandbox("web").await;
    let config = ContainerConfig {
        resources: Resources { memory_limit: 32 << 20, pids_limit: 50, ..Resources::default() },
        // The shell keeps what it read in memory.
        ..shell("x=$(head -c 100000000 /dev/zero | tr '\\0' x); echo survived")
    };
    let (status, log) = kit.run(&sandbox, config).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"), "{log}");
    kit.finish().await;
}

async fn use_of_resources_is_counted_and_limits_can_be_changed(kit: Kit) {
    let sandbox = kit.sandbox("web").await;
    let config = ContainerConfig {
        resources: Resources { cpu_shares: 512, memory_limit: 64 << 20, ..Resources::default() },
        ..shell(
            "head -c 100000000 /dev/zero | tr '\\0' x | wc -c; head -c 1000000 /dev/zero > /big; echo ready; sleep 1000",
        )
    };
    let id = kit.start(&sandbox, config).await;
    let path = kit.engine.container_status(&id).await.unwrap().log_path;
    while !std::fs::read_to_string(&path).unwrap().contains("ready") {
        tokio::task::yield_now().await;
    }
    // containerd measures files from time to time only.
    let stats = loop {
        let stats = kit.engine.container_stats(&id).await.unwrap();
        if stats.writable_layer_bytes >= 1_000_000 {
            break stats;
        }
        tokio::task::yield_now().await;
    };
    assert!(stats.cpu_nanoseconds > 1_000_000, "{stats:?}");
    assert!(stats.memory_usage > 100_000 && stats.memory_usage < 64 << 20, "{stats:?}");
    assert_eq!(stats.processes, 1, "{stats:?}");
    assert!(kit.engine.sandbox_stats(&sandbox).await.unwrap().cpu_nanoseconds >= stats.cpu_nanoseconds);
    let limit = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; true";
    let limit = vec!["/bin/sh".to_owned(), "-c".into(), limit.into()];
    let before = kit.engine.exec_sync(&id, &limit, None).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&before.stdout), "67108864\n");
    let more = Resources { memory_limit: 128 << 20, ..Resources::default() };
    kit.engine.update_resources(&id, more).await.unwrap();
    let after = kit.engine.exec_sync(&id, &limit, None).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&after.stdout), "134217728\n");
    kit.finish().await;
}

async fn a_pod_may_share_one_process_table_or_the_nodes_namespaces(kit: Kit) {
    let shared = SandboxConfig { share_processes: true, ..kit.sandbox_config("shared") };
    let shared = kit.engine.run_sandbox(shared).await.unwrap().id;
    let first = kit.start(&shared, shell("sleep 1234")).await;
    let (_, log) = kit.run(&shared, shell("ps | grep -c ' [s]leep 1234'; (sleep 4321 &) ; true")).await;
    assert_eq!(log, "o: 1\n");
    let output = kit.engine.exec_sync(&first, &["ps".into()], None).await.unwrap();
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!table.contains("4321"), "what a container leaves in a shared table ends with it: {table}");

    let host = HostNamespaces { network: true, pid: true, ipc: true };
    let nodes = SandboxConfig { host, ..kit.sandbox_config("nodes") };
    let nodes = kit.engine.run_sandbox(nodes).await.unwrap();
    assert!(nodes.ips.is_empty());
    let (_, log) = kit.run(&nodes.id, shell("ps | grep -c ' [s]leep 1234'; hostname")).await;
    let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(log.lines().last(), Some(format!("o: {}", host_name.trim()).as_str()));
    assert!(!log.starts_with("o: 0"), "{log}");
    kit.finish().await;
}

async fn mounts_travel_both_ways_only_where_asked_for(kit: Kit) {
    let sandbox = SandboxConfig { privileged: true, ..kit.sandbox_config("web") };
    let sandbox = kit.engine.run_sandbox(sandbox).await.unwrap().id;
    let volume = kit.directory.path().join("volume");
    std::fs::create_dir_all(volume.join("inner")).unwrap();
    rustix::mount::mount_bind(&volume, &volume).unwrap();
    rustix::mount::mount_change(&volume, rustix::mount::MountPropagationFlags::SHARED).unwrap();
    let config = |propagation| ContainerConfig {
        security: Security { privileged: true, ..Security::default() },
        mounts: vec![Mount {
            host_path: volume.clone(),
            container_path: "/v".into(),
            propagation,
            ..Mount::default()
        }],
        ..shell("mount -t tmpfs made /v/inner && touch /v/inner/seen; true")
    };
    for (propagation, seen) in [(Propagation::HostToContainer, false), (Propagation::Bidirectional, true)] {
        let (_, log) = kit.run(&sandbox, config(propagation)).await;
        assert_eq!(log, "");
        assert_eq!(volume.join("inner/seen").exists(), seen, "{propagation:?}");
    }
    rustix::mount::unmount(volume.join("inner"), rustix::mount::UnmountFlags::DETACH).unwrap();
    rustix::mount::unmount(&volume, rustix::mount::UnmountFlags::DETACH).unwrap();
    kit.finish().await;
}

async fn kernel_parameters_and_the_resolver_are_the_pods_own(kit: Kit) {
    let config = SandboxConfig {
        sysctls: [("net.ipv4.ip_forward".to_owned(), "1".to_owned())].into(),
        dns: Some(runtime::DnsConfig {
            servers: vec!["10.3.0.10".into()],
            searches: vec!["a.svc".into(), "svc".into()],
            options: vec!["ndots:5".into()],
        }),
        ..kit.sandbox_config("web")
    };
    let sandbox = kit.engine.run_sandbox(config).await.unwrap().id;
    let (_, log) = kit.run(&sandbox, shell("cat /proc/sys/net/ipv4/ip_forward /etc/resolv.conf")).await;
    // The order of the lines means nothing to a resolver.
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["o: 1", "o: nameserver 10.3.0.10", "o: options ndots:5", "o: search a.svc svc"]);
    let bad = SandboxConfig {
        sysctls: [("kernel.panic".to_owned(), "1".to_owned())].into(),
        ..kit.sandbox_config("bad")
    };
    let error = kit.engine.run_sandbox(bad).await.unwrap_err().to_string();
    assert!(error.contains("sysctl \"kernel.panic\" is not the pod's own"), "{error}");
    assert_eq!(kit.engine.list_sandboxes().await.unwrap().len(), 1, "the failed one has gone");
    kit.finish().await;
}

async fn a_seccomp_profile_holds_for_the_container_and_for_commands_in_it(kit: Kit) {
    let sandbox = kit.sandbox("web").await;
    let profile = kit.directory.path().join("profile.json");
    let no_links = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls":
        [{"names": ["symlink", "symlinkat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}"#;
    std::fs::write(&profile, no_links).unwrap();
    let script = "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status; unshare -n true; ln -s a /tmp/b; echo end; sleep 1000";
    let admin = vec!["SYS_ADMIN".to_owned()];
    let cases = [
        (Seccomp::Unconfined, Vec::new(), "Seccomp:\t0", "", ""),
        (
            Seccomp::RuntimeDefault,
            Vec::new(),
            "Seccomp:\t2",
            "unshare(0x40000000): Operation not permitted",
            "",
        ),
        (Seccomp::RuntimeDefault, admin.clone(), "Seccomp:\t2", "", ""),
        (
            Seccomp::Localhost(profile.clone()),
            admin,
            "Seccomp:\t2",
            "",
            "ln: /tmp/b: Operation not supported",
        ),
    ];
    for (seccomp, add_capabilities, mode, no_unshare, no_link) in cases {
        let security = Security { seccomp: seccomp.clone(), add_capabilities, ..Security::default() };
        let id = kit.start(&sandbox, with(script, security)).await;
        let path = kit.engine.container_status(&id).await.unwrap().log_path;
        while !std::fs::read_to_string(&path).unwrap().contains("end") {
            tokio::task::yield_now().await;
        }
        let command =
            vec!["/bin/sh".to_owned(), "-c".into(), script.replace("sleep 1000", "true").replace("/b", "/c")];
        let output = kit.engine.exec_sync(&id, &command, None).await.unwrap();
        let exec = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        for text in [crate::kit::log_text(&path), exec.replace("/c", "/b")] {
            assert!(text.contains(mode) && text.contains("NoNewPrivs:\t0"), "{seccomp:?}: {text}");
            assert!(text.contains(no_unshare) && text.contains(no_link), "{seccomp:?}: {text}");
            assert_eq!(text.contains("ln:"), !no_link.is_empty(), "{seccomp:?}: {text}");
        }
        kit.engine.remove_container(&id).await.unwrap();
    }
    let missing = Security { seccomp: Seccomp::Localhost("/no/profile".into()), ..Security::default() };
    // One engine looks when it makes the container, the other when it starts it.
    let error = match kit.engine.create_container(&sandbox, with("true", missing)).await {
        Ok(id) => kit.engine.start_container(&id).await.unwrap_err().to_string(),
        Err(error) => error.to_string(),
    };
    assert!(error.contains("the seccomp profile /no/profile: No such file"), "{error}");
    kit.finish().await;
}
