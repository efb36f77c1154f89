//! What containerd says of itself: version, cgroup driver, directories of CNI, the sandboxes' image.

use std::path::PathBuf;
use std::time::Duration;

use futures::FutureExt;
use machinery::clock::Clock;
use machinery::names::Random;
use machinery::retry::{Attempt, Backoff, until_sent};
use serde::Deserialize;

use super::failure;
use super::grpc::{Channel, Code};
use super::proto::cri::{RuntimeConfigResponse, StatusRequest, StatusResponse, VersionResponse};
use crate::{Error, Result};

/// How long containerd may take to start.
const START: Duration = Duration::from_secs(60);
/// How long it may take to describe itself.
const ANSWER: Duration = Duration::from_secs(10);
/// Where containerd looks for plugins when it does not say so.
const CNI_BINARIES: &str = "/opt/cni/bin";
/// Where containerd looks for the network's configuration when it does not say so.
const CNI_CONFIGURATION: &str = "/etc/cni/net.d";
/// The CRI's number of the systemd driver.
const SYSTEMD: i32 = 0;

/// containerd, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    /// "containerd".
    pub(super) name: String,
    /// Such as "1.6.20".
    pub(super) version: String,
    /// Control groups are made by systemd.
    pub(super) systemd: bool,
    /// The image of every sandbox, when it is told: containerd 2 keeps it to itself.
    pub(super) sandbox_image: Option<String>,
    /// Where CNI plugins are.
    pub(super) cni_binaries: PathBuf,
    /// Where the network's configuration is.
    pub(super) cni_configuration: PathBuf,
    /// Where a registry's `hosts.toml` is read from, if anywhere.
    pub(super) registries: Option<PathBuf>,
}

/// The part of containerd's configuration that its status shows.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Shown {
    sandbox_image: String,
    systemd_cgroup: bool,
    containerd: ShownContainerd,
    cni: ShownCni,
    registry: ShownRegistry,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ShownContainerd {
    default_runtime_name: String,
    runtimes: std::collections::BTreeMap<String, ShownRuntime>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ShownRuntime {
    options: Option<ShownOptions>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ShownOptions {
    #[serde(rename = "SystemdCgroup")]
    systemd_cgroup: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ShownCni {
    bin_dir: String,
    bin_dirs: Option<Vec<String>>,
    conf_dir: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ShownRegistry {
    config_path: String,
}

impl Node {
    /// Asks containerd, waiting for it if it is about to start.
    pub(super) async fn read(channel: &Channel, clock: &dyn Clock, random: &Random) -> Result<Self> {
        let version: VersionResponse = until_sent(
            "the container runtime",
            START,
            Backoff::QUICK,
            clock,
            random,
            || {
                async move {
                    let asked = channel.call("/runtime.v1.RuntimeService/Version", &(), ANSWER);
                    match asked.await {
                        Ok(version) => Attempt::Done(version),
                        Err(status) if matches!(status.code, Code::Unavailable | Code::DeadlineExceeded) => {
                            Attempt::Again(status.message)
                        }
                        // containerd answers so until its CRI plugin is loaded, and for ever when it is switched off.
                        Err(status) if status.code == Code::Unimplemented => Attempt::Again(format!(
                            "{}; is the plugin \"cri\" among disabled_plugins in /etc/containerd/config.toml?",
                            status.message
                        )),
                        Err(status) => {
                            Attempt::Fatal(Error::system("asking for the runtime's version", status.message))
                        }
                    }
                }
                .boxed()
            },
        )
        .await
        .map_err(|error| Error::system("connecting", error))?;
        let request = StatusRequest { verbose: true };
        let status: StatusResponse = channel
            .call("/runtime.v1.RuntimeService/Status", &request, ANSWER)
            .await
            .map_err(failure::of("asking for the runtime's status", ANSWER))?;
        let driver = channel
            .call::<_, RuntimeConfigResponse>("/runtime.v1.RuntimeService/RuntimeConfig", &(), ANSWER)
            .await;
        let driver = match driver {
            Ok(answer) => answer.linux.map(|linux| linux.cgroup_driver == SYSTEMD),
            // containerd 1 does not have the call.
            Err(status) if status.code == Code::Unimplemented => None,
            Err(status) => return Err(failure::of("asking for the runtime's configuration", ANSWER)(status)),
        };
        let shown = status.info.get("config").map(String::as_str).unwrap_or_default();
        Ok(Self::make(version, shown, driver))
    }

    fn make(version: VersionResponse, shown: &str, driver: Option<bool>) -> Self {
        let shown: Shown = serde_json::from_str(shown).unwrap_or_else(|error| {
            tracing::warn!(%error, "the container runtime does not show its configuration; its defaults are assumed");
            Shown::default()
        });
        let containerd = &shown.containerd;
        let options = containerd.runtimes.get(&containerd.default_runtime_name);
        let options = options.and_then(|runtime| runtime.options.as_ref());
        let systemd = options.is_some_and(|options| options.systemd_cgroup) || shown.systemd_cgroup;
        let or = |text: &str, default: &str| PathBuf::from(if text.is_empty() { default } else { text });
        let first = |list: &Option<Vec<String>>| list.iter().flatten().next().cloned();
        Self {
            name: version.runtime_name,
            version: version.runtime_version,
            systemd: driver.unwrap_or(systemd),
            sandbox_image: Some(shown.sandbox_image).filter(|image| !image.is_empty()),
            cni_binaries: or(&first(&shown.cni.bin_dirs).unwrap_or(shown.cni.bin_dir), CNI_BINARIES),
            cni_configuration: or(&shown.cni.conf_dir, CNI_CONFIGURATION),
            // A list in the manner of PATH; the first has precedence.
            registries: shown
                .registry
                .config_path
                .split(':')
                .next()
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(shown: &str, driver: Option<bool>) -> Node {
        let version = VersionResponse { runtime_name: "containerd".into(), runtime_version: "1.6.20".into() };
        Node::make(version, shown, driver)
    }

    #[test]
    fn the_configuration_of_both_generations_is_understood() {
        let first = r#"{"sandboxImage":"registry.k8s.io/pause:3.6","systemdCgroup":false,
            "containerd":{"defaultRuntimeName":"runc","runtimes":{"runc":{"options":{"SystemdCgroup":true}}}},
            "cni":{"binDir":"/usr/lib/cni","confDir":"/etc/cni/net.d"},"registry":{"configPath":""}}"#;
        let found = node(first, None);
        assert_eq!(found.sandbox_image.as_deref(), Some("registry.k8s.io/pause:3.6"));
        assert!(found.systemd);
        assert_eq!(found.cni_binaries, PathBuf::from("/usr/lib/cni"));
        assert_eq!(found.registries, None);
        let second = r#"{"containerd":{"defaultRuntimeName":"runc","runtimes":{"runc":{"options":{}}}},
            "cni":{"binDir":"","binDirs":["/opt/cni/bin","/x"],"confDir":"/etc/cni/net.d"}}"#;
        let found = node(second, Some(true));
        assert_eq!((found.sandbox_image, found.systemd), (None, true));
        assert_eq!(found.cni_binaries, PathBuf::from("/opt/cni/bin"));
    }

    #[test]
    fn without_a_configuration_the_defaults_are_assumed() {
        let found = node("", None);
        assert_eq!(found.cni_binaries, PathBuf::from(CNI_BINARIES));
        assert!(!found.systemd);
    }
}
