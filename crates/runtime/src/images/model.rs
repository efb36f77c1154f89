//! What image files say: the parts of the OCI and Docker formats that are used here.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Deserializer, Serialize};

/// `null` in these files means the same as nothing.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The configuration of an image, as far as it says how to run it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ImageConfig {
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub(crate) user: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub(crate) env: Vec<String>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub(crate) entrypoint: Vec<String>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub(crate) cmd: Vec<String>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub(crate) working_dir: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub(crate) stop_signal: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) exposed_ports: BTreeMap<String, serde_json::Value>,
}

/// The configuration file of an image.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ConfigFile {
    pub(crate) architecture: String,
    pub(crate) os: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) config: ImageConfig,
    pub(crate) rootfs: RootFs,
}

/// The layers of an image by the digests of their uncompressed archives, lowest first.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RootFs {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) diff_ids: Vec<String>,
}

/// A pointer to a blob.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(deserialize_with = "or_default")]
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) platform: Option<Platform>,
}

/// What a manifest in an index is for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
    pub(crate) variant: Option<String>,
}

/// An index or a manifest; which one shows by what is in it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Manifest {
    pub(crate) manifests: Option<Vec<Descriptor>>,
    pub(crate) config: Option<Descriptor>,
    pub(crate) layers: Vec<Descriptor>,
}

impl Manifest {
    /// Returns the entry of an index that fits this machine.
    pub(crate) fn for_this_machine(manifests: &[Descriptor]) -> Option<&Descriptor> {
        let fits = |descriptor: &&Descriptor| {
            descriptor
                .platform
                .as_ref()
                .is_some_and(|platform| platform.os == "linux" && platform.architecture == architecture())
        };
        manifests
            .iter()
            .find(fits)
            .or_else(|| manifests.iter().find(|descriptor| descriptor.platform.is_none()))
    }
}

/// An entry of `manifest.json` in an archive that `docker save` wrote.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DockerArchiveEntry {
    pub(crate) config: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) repo_tags: Vec<String>,
    pub(crate) layers: Vec<String>,
}

/// Returns this machine's architecture under the name that images use.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "riscv64" => "riscv64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// Keeps an image from being removed, in any process on this machine, until it is dropped.
#[derive(Debug)]
pub(crate) struct InUse {
    pub(crate) lock: OwnedFd,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_may_have_nulls_where_lists_belong() {
        let file: ConfigFile = serde_json::from_str(
            r#"{"architecture":"amd64","os":"linux","config":{"Cmd":null,"Env":["A=b"],"Entrypoint":null,
                "Volumes":null,"User":"nobody"},"rootfs":{"type":"layers","diff_ids":null}}"#,
        )
        .unwrap();
        assert_eq!(file.config.user, "nobody");
        assert_eq!(file.config.env, ["A=b"]);
        assert!(file.config.cmd.is_empty() && file.rootfs.diff_ids.is_empty());
    }

    #[test]
    fn an_index_gives_the_manifest_of_this_machine() {
        let entry = |architecture: &str, digest: &str| Descriptor {
            digest: digest.into(),
            platform: Some(Platform { architecture: architecture.into(), os: "linux".into(), variant: None }),
            ..Descriptor::default()
        };
        let manifests = [entry("s390x", "a"), entry(architecture(), "b"), entry("mips", "c")];
        assert_eq!(Manifest::for_this_machine(&manifests).unwrap().digest, "b");
        assert!(Manifest::for_this_machine(&manifests[..1]).is_none());
    }
}
