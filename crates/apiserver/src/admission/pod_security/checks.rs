//! The checks of the Pod Security Standards. Each returns what is wrong, in upstream's words.

use serde_json::Value;

use super::Level;
use crate::access::{list, text};

/// Capabilities that containers have by default, and may ask for under `baseline`.
const DEFAULT_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Sysctls that stay inside the pod.
const SAFE_SYSCTLS: [&str; 10] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_syncookies",
];
/// Volumes that `restricted` allows.
const SAFE_VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// A container of a pod with its name quoted.
struct Container<'a> {
    name: &'a str,
    value: &'a Value,
}

/// Returns what a pod does that `level` forbids.
pub(super) fn violations(level: Level, metadata: &Value, spec: &Value) -> Vec<String> {
    if level == Level::Privileged {
        return Vec::new();
    }
    let containers: Vec<Container<'_>> = ["/initContainers", "/containers", "/ephemeralContainers"]
        .into_iter()
        .flat_map(|pointer| list(spec, pointer))
        .map(|value| Container { name: text(value, "/name"), value })
        .collect();
    let restricted = level == Level::Restricted;
    let checks = [
        host_namespaces(spec),
        privileged(&containers),
        if restricted { None } else { capabilities(&containers) },
        if restricted { None } else { host_path(spec) },
        host_ports(&containers),
        app_armor(metadata, spec, &containers),
        se_linux(spec, &containers),
        proc_mount(&containers),
        if restricted { None } else { seccomp_baseline(spec, &containers) },
        sysctls(spec),
        host_process(spec, &containers),
        host_probes(&containers),
        if restricted { restricted_volumes(spec) } else { None },
        if restricted { escalation(&containers) } else { None },
        if restricted { restricted_capabilities(&containers) } else { None },
        if restricted { run_as_non_root(spec, &containers) } else { None },
        if restricted { run_as_user(spec, &containers) } else { None },
        if restricted { seccomp_restricted(spec, &containers) } else { None },
    ];
    checks.into_iter().flatten().collect()
}

/// Returns `word` or `words`, by a number.
fn plural<'a>(count: usize, one: &'a str, many: &'a str) -> &'a str {
    if count == 1 { one } else { many }
}

fn quoted<S: AsRef<str>>(names: &[S]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("{:?}", name.as_ref())).collect();
    quoted.join(", ")
}

/// Returns the quoted names of the containers that `bad` says it of: `container "a"`, `containers "a", "b"`.
fn which(containers: &[Container<'_>], bad: impl Fn(&Value) -> bool) -> Option<String> {
    let names: Vec<&str> =
        containers.iter().filter(|container| bad(container.value)).map(|container| container.name).collect();
    (!names.is_empty())
        .then(|| format!("{} {}", plural(names.len(), "container", "containers"), quoted(&names)))
}

fn host_namespaces(spec: &Value) -> Option<String> {
    let used: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|field| spec[*field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    (!used.is_empty()).then(|| format!("host namespaces ({})", used.join(", ")))
}

fn privileged(containers: &[Container<'_>]) -> Option<String> {
    which(containers, |container| {
        container.pointer("/securityContext/privileged") == Some(&Value::Bool(true))
    })
    .map(|which| format!("privileged ({which} must not set securityContext.privileged=true)"))
}

fn capabilities(containers: &[Container<'_>]) -> Option<String> {
    let foreign = |container: &Value| {
        list(container, "/securityContext/capabilities/add")
            .iter()
            .filter_map(Value::as_str)
            .filter(|capability| !DEFAULT_CAPABILITIES.contains(capability))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let which = which(containers, |container| !foreign(container).is_empty())?;
    let mut all: Vec<String> = containers.iter().flat_map(|container| foreign(container.value)).collect();
    all.sort_unstable();
    all.dedup();
    Some(format!(
        "non-default capabilities ({which} must not include {} in securityContext.capabilities.add)",
        quoted(&all)
    ))
}

fn host_path(spec: &Value) -> Option<String> {
    let names: Vec<&str> = list(spec, "/volumes")
        .iter()
        .filter(|volume| volume.get("hostPath").is_some())
        .map(|volume| text(volume, "/name"))
        .collect();
    (!names.is_empty()).then(|| {
        format!("hostPath volumes ({} {})", plural(names.len(), "volume", "volumes"), quoted(&names))
    })
}

fn host_ports(containers: &[Container<'_>]) -> Option<String> {
    let ports = |container: &Value| {
        list(container, "/ports")
            .iter()
            .filter_map(|port| port["hostPort"].as_i64())
            .filter(|port| *port != 0)
            .collect::<Vec<_>>()
    };
    let which = which(containers, |container| !ports(container).is_empty())?;
    let mut all: Vec<String> =
        containers.iter().flat_map(|container| ports(container.value)).map(|port| port.to_string()).collect();
    all.sort_unstable();
    all.dedup();
    Some(format!(
        "hostPort ({which} {} {} {})",
        plural(which.matches('"').count() / 2, "uses", "use"),
        plural(all.len(), "hostPort", "hostPorts"),
        all.join(", ")
    ))
}

fn app_armor(metadata: &Value, spec: &Value, containers: &[Container<'_>]) -> Option<String> {
    let mut bad = Vec::new();
    for (key, value) in metadata.get("annotations").and_then(Value::as_object).into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        let fine = value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
        if key.starts_with(APPARMOR) && !fine {
            bad.push(format!("annotation {key:?}={value:?}"));
        }
    }
    let unconfined = |value: &Value| text(value, "/securityContext/appArmorProfile/type") == "Unconfined";
    if unconfined(spec) {
        bad.push("pod must not set AppArmor profile type to \"Unconfined\"".into());
    }
    if let Some(which) = which(containers, unconfined) {
        bad.push(format!("{which} must not set AppArmor profile type to \"Unconfined\""));
    }
    (!bad.is_empty()).then(|| {
        format!(
            "{} ({})",
            plural(bad.len(), "forbidden AppArmor profile", "forbidden AppArmor profiles"),
            bad.join(", ")
        )
    })
}

fn se_linux(spec: &Value, containers: &[Container<'_>]) -> Option<String> {
    let bad = |value: &Value| {
        let options = value.pointer("/securityContext/seLinuxOptions").unwrap_or(&Value::Null);
        !matches!(
            text(options, "/type"),
            "" | "container_t" | "container_init_t" | "container_kvm_t" | "container_engine_t"
        ) || !text(options, "/user").is_empty()
            || !text(options, "/role").is_empty()
    };
    let mut setters = Vec::new();
    if bad(spec) {
        setters.push("pod".to_owned());
    }
    setters.extend(which(containers, bad));
    (!setters.is_empty()).then(|| {
        format!("seLinuxOptions ({} set forbidden securityContext.seLinuxOptions)", setters.join(" and "))
    })
}

fn proc_mount(containers: &[Container<'_>]) -> Option<String> {
    which(containers, |container| !matches!(text(container, "/securityContext/procMount"), "" | "Default"))
        .map(|which| format!("procMount ({which} must not set securityContext.procMount to \"Unmasked\")"))
}

fn seccomp_baseline(spec: &Value, containers: &[Container<'_>]) -> Option<String> {
    let bad = |value: &Value| text(value, "/securityContext/seccompProfile/type") == "Unconfined";
    let mut setters = Vec::new();
    if bad(spec) {
        setters.push("pod".to_owned());
    }
    setters.extend(which(containers, bad));
    (!setters.is_empty()).then(|| {
        format!(
            "seccompProfile ({} must not set securityContext.seccompProfile.type to \"Unconfined\")",
            setters.join(" and ")
        )
    })
}

fn sysctls(spec: &Value) -> Option<String> {
    let bad: Vec<&str> = list(spec, "/securityContext/sysctls")
        .iter()
        .map(|sysctl| text(sysctl, "/name"))
        .filter(|name| !SAFE_SYSCTLS.contains(name))
        .collect();
    (!bad.is_empty()).then(|| format!("forbidden sysctls ({})", bad.join(", ")))
}

fn host_process(spec: &Value, containers: &[Container<'_>]) -> Option<String> {
    let bad = |value: &Value| {
        value.pointer("/securityContext/windowsOptions/hostProcess") == Some(&Value::Bool(true))
    };
    let mut setters = Vec::new();
    if bad(spec) {
        setters.push("pod".to_owned());
    }
    setters.extend(which(containers, bad));
    (!setters.is_empty()).then(|| {
        format!(
            "hostProcess ({} must not set securityContext.windowsOptions.hostProcess=true)",
            setters.join(" and ")
        )
    })
}

fn host_probes(containers: &[Container<'_>]) -> Option<String> {
    let mut hosts = Vec::new();
    let which = which(containers, |container| !probe_hosts(container).is_empty())?;
    for container in containers {
        hosts.extend(probe_hosts(container.value));
    }
    Some(format!(
        "probe or lifecycle host ({which} {} forbidden hosts {})",
        plural(which.matches('"').count() / 2, "uses", "use"),
        quoted(&hosts)
    ))
}

fn probe_hosts(container: &Value) -> Vec<String> {
    ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle/postStart", "lifecycle/preStop"]
        .into_iter()
        .flat_map(|handler| ["httpGet", "tcpSocket"].map(|action| format!("/{handler}/{action}/host")))
        .map(|pointer| text(container, &pointer).to_owned())
        .filter(|host| !matches!(host.as_str(), "" | "127.0.0.1" | "::1"))
        .collect()
}

fn restricted_volumes(spec: &Value) -> Option<String> {
    let mut bad: Vec<(&str, &str)> = Vec::new();
    for volume in list(spec, "/volumes") {
        let source =
            volume.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).find(|key| *key != "name");
        if let Some(source) = source
            && !SAFE_VOLUMES.contains(&source)
        {
            bad.push((text(volume, "/name"), source));
        }
    }
    if bad.is_empty() {
        return None;
    }
    let names: Vec<&str> = bad.iter().map(|(name, _)| *name).collect();
    let mut kinds: Vec<&str> = bad.iter().map(|(_, kind)| *kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    Some(format!(
        "restricted volume types ({} {} {} restricted volume {} {})",
        plural(names.len(), "volume", "volumes"),
        quoted(&names),
        plural(names.len(), "uses", "use"),
        plural(kinds.len(), "type", "types"),
        quoted(&kinds)
    ))
}

fn escalation(containers: &[Container<'_>]) -> Option<String> {
    which(containers, |container| {
        container.pointer("/securityContext/allowPrivilegeEscalation") != Some(&Value::Bool(false))
    })
    .map(|which| {
        format!("allowPrivilegeEscalation != false ({which} must set securityContext.allowPrivilegeEscalation=false)")
    })
}

fn restricted_capabilities(containers: &[Container<'_>]) -> Option<String> {
    let mut parts = Vec::new();
    if let Some(which) = which(containers, |container| {
        !list(container, "/securityContext/capabilities/drop").iter().any(|dropped| dropped == "ALL")
    }) {
        parts.push(format!("{which} must set securityContext.capabilities.drop=[\"ALL\"]"));
    }
    let foreign = |container: &Value| {
        list(container, "/securityContext/capabilities/add")
            .iter()
            .filter_map(Value::as_str)
            .filter(|capability| *capability != "NET_BIND_SERVICE")
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    if let Some(which) = which(containers, |container| !foreign(container).is_empty()) {
        let mut all: Vec<String> = containers.iter().flat_map(|container| foreign(container.value)).collect();
        all.sort_unstable();
        all.dedup();
        parts.push(format!("{which} must not include {} in securityContext.capabilities.add", quoted(&all)));
    }
    (!parts.is_empty()).then(|| format!("unrestricted capabilities ({})", parts.join("; ")))
}

fn run_as_non_root(spec: &Value, containers: &[Container<'_>]) -> Option<String> {
    let set = |value: &Value| value.pointer("/securityContext/runAsNonRoot").and_then(Value::as_bool);
    let mut parts = Vec::new();
    if let Some(which) = which(containers, |container| set(container) == Some(false)) {
        parts.push(format!("{which} must not set securityContext.runAsNonRoot=false"));
    }
    if set(spec) == Some(false) {
        parts.insert(0, "pod must not set securityContext.runAsNonRoot=false".into());
    } else if set(spec).is_none()
        && parts.is_empty()
        && let Some(which) = which(containers, |container| set(container).is_none())
    {
        parts.push(format!("pod or {which} must set securityContext.runAsNonRoot=true"));
    }
    (!parts.is_empty()).then(|| format!("runAsNonRoot != true ({})", parts.join(", ")))
}

fn run_as_user(spec: &Value, containers: &[Container<'_>]) -> Option<String> {
    let bad = |value: &Value| value.pointer("/securityContext/runAsUser").and_then(Value::as_i64) == Some(0);
    let mut setters = Vec::new();
    if bad(spec) {
        setters.push("pod".to_owned());
    }
    setters.extend(which(containers, bad));
    (!setters.is_empty()).then(|| format!("runAsUser=0 ({} must not set runAsUser=0)", setters.join(" and ")))
}

fn seccomp_restricted(spec: &Value, containers: &[Container<'_>]) -> Option<String> {
    let kind = |value: &Value| text(value, "/securityContext/seccompProfile/type").to_owned();
    let good = |kind: &str| matches!(kind, "RuntimeDefault" | "Localhost");
    let mut parts = Vec::new();
    let of_pod = kind(spec);
    if !of_pod.is_empty() && !good(&of_pod) {
        parts.push(format!("pod must not set securityContext.seccompProfile.type to {of_pod:?}"));
    }
    if let Some(which) = which(containers, |container| {
        let kind = kind(container);
        !kind.is_empty() && !good(&kind)
    }) {
        parts.push(format!("{which} must not set securityContext.seccompProfile.type to \"Unconfined\""));
    }
    if of_pod.is_empty()
        && parts.is_empty()
        && let Some(which) = which(containers, |container| kind(container).is_empty())
    {
        parts.push(format!(
            "pod or {which} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\""
        ));
    }
    (!parts.is_empty()).then(|| format!("seccompProfile ({})", parts.join(", ")))
}
