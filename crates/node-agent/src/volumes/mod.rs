//! The volumes of a pod: made before its containers start, kept current while it runs, taken away after.
//!
//! One directory a volume, below `<data>/pods/<uid>/volumes`. What is mounted there is unmounted in
//! [`teardown`], which needs nothing but the directory.

mod atomic;
mod ownership;
mod payload;
mod subpath;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource, Pod, Volume};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

pub(crate) use subpath::prepare as prepare_subpath;

use crate::agent::Agent;
use crate::quantity;

/// A volume that containers can mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mounted {
    /// Where it is on the node.
    pub(crate) path: PathBuf,
    /// No container may write to it.
    pub(crate) read_only: bool,
}

/// What [`set_up`] made.
#[derive(Debug, Clone, Default)]
pub(crate) struct SetUp {
    /// The volumes by name.
    pub(crate) volumes: BTreeMap<String, Mounted>,
    /// When a token in one of them must be fetched anew.
    pub(crate) refresh_at: Option<Timestamp>,
}

/// Makes every volume of `pod`, or brings its contents up to date. Repeatable.
///
/// # Errors
/// The text of a `FailedMount` event.
pub(crate) async fn set_up(agent: &Agent, pod: &Pod, ips: &[String]) -> Result<SetUp, String> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let root = agent.pod_directory(uid).join("volumes");
    let mut out = SetUp::default();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let made = set_up_one(agent, pod, volume, &root, ips, &mut out.refresh_at).await;
        let mounted = made
            .map_err(|reason| format!("MountVolume.SetUp failed for volume {:?} : {reason}", volume.name))?;
        out.volumes.insert(volume.name.clone(), mounted);
    }
    Ok(out)
}

async fn set_up_one(
    agent: &Agent,
    pod: &Pod,
    volume: &Volume,
    root: &Path,
    ips: &[String],
    refresh_at: &mut Option<Timestamp>,
) -> Result<Mounted, String> {
    let group =
        pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()).and_then(|one| one.fs_group);
    let directory = |plugin: &str| root.join(format!("kubernetes.io~{plugin}")).join(&volume.name);
    if let Some(source) = &volume.empty_dir {
        let path = directory("empty-dir");
        return blocking({
            let (source, path) = (source.clone(), path.clone());
            move || empty_dir(&source, &path, group)
        })
        .await
        .map(|()| Mounted { path, read_only: false });
    }
    if let Some(source) = &volume.host_path {
        let source = source.clone();
        let path = PathBuf::from(&source.path);
        return blocking(move || host_path(&source)).await.map(|()| Mounted { path, read_only: false });
    }
    let (plugin, payload) = if let Some(source) = &volume.config_map {
        ("configmap", payload::config_map(agent, pod, source).await?)
    } else if let Some(source) = &volume.secret {
        ("secret", payload::secret(agent, pod, source).await?)
    } else if let Some(source) = &volume.downward_api {
        ("downward-api", payload::downward(agent, pod, source, ips)?)
    } else if let Some(source) = &volume.projected {
        let (payload, until) = payload::projected(agent, pod, source, &volume.name, ips).await?;
        if let Some(until) = until {
            *refresh_at = Some(refresh_at.map_or(until, |known| known.min(until)));
        }
        ("projected", payload)
    } else {
        return Err(format!(
            "this kind of volume ({}) is not supported by this cluster; use emptyDir, hostPath, configMap, secret, downwardAPI or projected",
            kind_of(volume)
        ));
    };
    let path = directory(plugin);
    let in_memory = plugin != "configmap" && plugin != "downward-api";
    blocking({
        let path = path.clone();
        move || {
            make_directory(&path)?;
            if in_memory {
                // Secrets and tokens never reach the disk.
                mount_tmpfs(&path, None)?;
            }
            atomic::write(&path, &payload).map_err(|error| error.to_string())?;
            match group {
                Some(group) => {
                    ownership::give_to_group(&path, group, true).map_err(|error| error.to_string())
                }
                None => Ok(()),
            }
        }
    })
    .await?;
    Ok(Mounted { path, read_only: true })
}

/// Names the one field of a volume that says what it is.
fn kind_of(volume: &Volume) -> String {
    let value = serde_json::to_value(volume).unwrap_or_default();
    let names: Vec<&String> =
        value.as_object().into_iter().flat_map(|fields| fields.keys()).filter(|key| *key != "name").collect();
    names.first().map_or_else(|| "none given".to_owned(), |name| (*name).clone())
}

/// Runs file system work where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(format!("a volume task ended: {error}")))
}

fn make_directory(path: &Path) -> Result<(), String> {
    fs_err::create_dir_all(path).map_err(|error| error.to_string())
}

/// Returns whether something is mounted at `path` itself.
fn is_mounted(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Some(parent) = path.parent() else { return true };
    match (std::fs::metadata(path), std::fs::metadata(parent)) {
        (Ok(own), Ok(above)) => own.dev() != above.dev(),
        _ => false,
    }
}

fn mount_tmpfs(path: &Path, size: Option<i64>) -> Result<(), String> {
    if is_mounted(path) {
        return Ok(());
    }
    let options = size.map(|bytes| format!("size={bytes}"));
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), options.as_deref())
        .map_err(|error| format!("mounting tmpfs at {}: {error}", path.display()))
}

fn empty_dir(source: &EmptyDirVolumeSource, path: &Path, group: Option<i64>) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let fresh = !path.exists();
    make_directory(path)?;
    match source.medium.as_deref().unwrap_or_default() {
        "" => {}
        "Memory" => {
            let limit =
                source.size_limit.as_ref().and_then(|size| quantity::whole(&size.0)).filter(|size| *size > 0);
            mount_tmpfs(path, limit)?;
        }
        other => return Err(format!("unknown storage medium {other:?}")),
    }
    if fresh {
        fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o777))
            .map_err(|error| error.to_string())?;
        if let Some(group) = group {
            ownership::give_to_group(path, group, false).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

fn host_path(source: &HostPathVolumeSource) -> Result<(), String> {
    use std::os::unix::fs::FileTypeExt;
    let path = Path::new(&source.path);
    let kind = std::fs::metadata(path).ok().map(|found| found.file_type());
    let wrong = |what: &str| Err(format!("hostPath type check failed: {} is not {what}", path.display()));
    match source.type_.as_deref().unwrap_or_default() {
        "DirectoryOrCreate" => match kind {
            Some(kind) if kind.is_dir() => Ok(()),
            Some(_) => wrong("a directory"),
            None => make_directory(path),
        },
        "Directory" if !kind.is_some_and(|kind| kind.is_dir()) => wrong("a directory"),
        "FileOrCreate" => match kind {
            Some(kind) if kind.is_file() => Ok(()),
            Some(_) => wrong("a file"),
            None => fs_err::File::create(path).map(drop).map_err(|error| error.to_string()),
        },
        "File" if !kind.is_some_and(|kind| kind.is_file()) => wrong("a file"),
        "Socket" if !kind.is_some_and(|kind| kind.is_socket()) => wrong("a socket file"),
        "CharDevice" if !kind.is_some_and(|kind| kind.is_char_device()) => wrong("a character device"),
        "BlockDevice" if !kind.is_some_and(|kind| kind.is_block_device()) => wrong("a block device"),
        // Without a type a missing directory is made, as container runtimes do for bind mounts.
        "" if kind.is_none() => make_directory(path),
        "" | "Directory" | "File" | "Socket" | "CharDevice" | "BlockDevice" => Ok(()),
        other => Err(format!("unknown hostPath type {other:?}")),
    }
}

/// Unmounts and removes everything below a pod's directory. Repeatable.
///
/// # Errors
/// When something stays mounted or cannot be removed.
pub(crate) async fn teardown(directory: PathBuf) -> Result<(), String> {
    blocking(move || {
        if !directory.exists() {
            return Ok(());
        }
        let mounts = fs_err::read_to_string("/proc/self/mountinfo").map_err(|error| error.to_string())?;
        let mut below: Vec<PathBuf> = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .map(|path| PathBuf::from(unescape(path)))
            .filter(|path| path.starts_with(&directory))
            .collect();
        // The deepest first.
        below.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
        for path in below {
            umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
                .map_err(|error| format!("unmounting {}: {error}", path.display()))?;
        }
        match fs_err::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
            _ => Ok(()),
        }
    })
    .await
}

/// Undoes the octal escapes of `mountinfo`.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        if byte == b'\\' {
            let digits: Vec<u8> = bytes.by_ref().take(3).collect();
            let value =
                digits.iter().fold(0u32, |value, digit| value * 8 + u32::from(digit.wrapping_sub(b'0')));
            out.push(u8::try_from(value).unwrap_or(b'?'));
        } else {
            out.push(byte);
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// How long before its end a token is fetched anew: at 80 % of its life.
pub(crate) fn renew_at(now: Timestamp, seconds: i64) -> Timestamp {
    now + Duration::from_secs(u64::try_from(seconds.max(10)).unwrap_or(10) * 8 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_the_mount_table_are_undone() {
        assert_eq!(unescape("/a\\040b/c"), "/a b/c");
        assert_eq!(unescape("/plain"), "/plain");
    }

    #[test]
    fn an_unsupported_volume_is_named() {
        let volume: Volume = serde_json::from_value(
            serde_json::json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}),
        )
        .unwrap();
        assert_eq!(kind_of(&volume), "persistentVolumeClaim");
    }

    #[test]
    fn host_path_types_are_checked() {
        let directory = tempfile::tempdir().unwrap();
        let source = |name: &str, type_: &str| HostPathVolumeSource {
            path: directory.path().join(name).display().to_string(),
            type_: Some(type_.into()),
        };
        assert!(host_path(&source("d", "DirectoryOrCreate")).is_ok());
        assert!(host_path(&source("d", "Directory")).is_ok());
        assert!(host_path(&source("d", "File")).unwrap_err().ends_with("/d is not a file"));
        assert!(host_path(&source("f", "FileOrCreate")).is_ok());
        assert!(host_path(&source("f", "Socket")).unwrap_err().ends_with("is not a socket file"));
        assert!(host_path(&source("gone", "Directory")).is_err());
        assert!(host_path(&source("new", "")).is_ok());
        assert!(host_path(&source("new", "Nonsense")).is_err());
    }
}
