//! The plugin and the network's configuration, put where containerd looks for them.

use std::path::Path;

use super::result::VERSION;
use super::{LOOPBACK, PLUGIN};
use crate::{Error, Result};

/// The configuration's file name. containerd takes the first one in the order of names.
const FILE: &str = "10-cluster.conflist";

/// Links the plugins to `executable`. A loopback plugin that is there already stays.
pub(super) fn plugins(directory: &Path, executable: &Path) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::system(
            format!(
                "putting the CNI plugin into {} (set bin_dir in containerd's configuration to a directory that can \
                 be written, such as /opt/cni/bin)",
                directory.display()
            ),
            error,
        )
    };
    std::fs::create_dir_all(directory).map_err(failed)?;
    for name in [PLUGIN, LOOPBACK] {
        let path = directory.join(name);
        let there = std::fs::read_link(&path);
        match (&there, path.exists()) {
            (Ok(target), true) if target == executable => continue,
            // Somebody else's, and it works.
            (Err(_), true) if name == LOOPBACK => continue,
            (Ok(target), true) if name == LOOPBACK && target.file_name() != executable.file_name() => {
                continue;
            }
            _ => {}
        }
        // At once: containerd may be about to run it.
        let new = directory.join(format!(".{name}.new"));
        if let Err(error) = std::fs::remove_file(&new)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(failed(error));
        }
        std::os::unix::fs::symlink(executable, &new)
            .and_then(|()| std::fs::rename(&new, &path))
            .map_err(failed)?;
    }
    Ok(())
}

/// Writes the network's configuration.
pub(super) fn configuration(directory: &Path, socket: &Path) -> Result<()> {
    let path = directory.join(FILE);
    let failed = |error: std::io::Error| Error::system(format!("writing {}", path.display()), error);
    std::fs::create_dir_all(directory).map_err(failed)?;
    let mut others: Vec<String> = std::fs::read_dir(directory)
        .map_err(failed)?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end)))
        .filter(|name| name.as_str() < FILE)
        .collect();
    others.sort();
    if let Some(first) = others.first() {
        return Err(Error::Invalid(format!(
            "containerd would use the network of {} instead of the cluster's: remove that file and start the node \
             agent again",
            directory.join(first).display()
        )));
    }
    let text = text(socket);
    if std::fs::read_to_string(&path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    machinery::files::write_atomic(&path, text.as_bytes(), 0o644).map_err(failed)
}

fn text(socket: &Path) -> String {
    let configuration = serde_json::json!({
        "cniVersion": VERSION,
        "name": PLUGIN,
        "plugins": [{
            "type": PLUGIN,
            "socket": socket,
            // containerd then hands over the annotations of the sandbox.
            "capabilities": {"io.kubernetes.cri.pod-annotations": true},
        }],
    });
    format!("{configuration:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_linked_and_anothers_loopback_stays() {
        let directory = tempfile::tempdir().unwrap();
        let target = |name: &str| std::fs::read_link(directory.path().join(name)).ok();
        for executable in ["/opt/bin/node-agent", "/usr/local/bin/node-agent"] {
            plugins(directory.path(), Path::new(executable)).unwrap();
            assert_eq!(target(PLUGIN).as_deref(), Some(Path::new(executable)));
            assert_eq!(target(LOOPBACK).as_deref(), Some(Path::new(executable)));
        }
        std::fs::remove_file(directory.path().join(LOOPBACK)).unwrap();
        std::fs::write(directory.path().join(LOOPBACK), "theirs").unwrap();
        plugins(directory.path(), Path::new("/opt/bin/node-agent")).unwrap();
        assert_eq!(target(LOOPBACK), None);
    }

    #[test]
    fn a_configuration_that_would_come_first_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        configuration(directory.path(), Path::new("/run/x/cni.sock")).unwrap();
        let text = std::fs::read_to_string(directory.path().join(FILE)).unwrap();
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["plugins"][0]["socket"], "/run/x/cni.sock");
        std::fs::write(directory.path().join("99-other.conf"), "").unwrap();
        configuration(directory.path(), Path::new("/run/x/cni.sock")).unwrap();
        std::fs::write(directory.path().join("05-cilium.conflist"), "").unwrap();
        let error = configuration(directory.path(), Path::new("/run/x/cni.sock")).unwrap_err().to_string();
        assert!(error.contains("05-cilium.conflist"), "{error}");
    }
}
