//! A real registry (Debian's docker-registry) on an address of the test's own, and pushing into it.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::lab::fixtures;

/// A running registry. Dropping it stops it.
pub(crate) struct Registry {
    process: Child,
    _directory: tempfile::TempDir,
    pub(crate) url: String,
}

impl Registry {
    /// Starts a registry that listens on `address`, such as `172.18.4.1:5000`.
    pub(crate) fn start(address: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config.yml");
        let storage = directory.path().join("storage");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
                storage.display()
            ),
        )
        .unwrap();
        let process = Command::new(fixtures().join("clients/registry/docker-registry"))
            .args(["serve".as_ref(), config.as_os_str()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, _directory: directory, url: format!("http://{address}") }
    }

    /// Pushes a docker-archive as `repository`:latest, by the registry's HTTP API.
    pub(crate) fn push(&self, archive: &Path, repository: &str) {
        let script = r#"
            set -eu
            work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
            tar -C "$work" -xf "$1"
            gzip -1 < "$work/layer.tar" > "$work/layer.gz"
            curl -sS --retry 50 --retry-connrefused --retry-delay 0 --retry-max-time 20 -o /dev/null "$2/v2/"
            blob() {
                digest=sha256:$(sha256sum "$1" | cut -d' ' -f1)
                location=$(curl -sSf -X POST -D - -o /dev/null "$2/v2/$3/blobs/uploads/" | tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
                case $location in *\?*) location="$location&digest=$digest" ;; *) location="$location?digest=$digest" ;; esac
                curl -sSf -X PUT -H 'Content-Type: application/octet-stream' --data-binary "@$1" -o /dev/null "$location"
                printf '{"mediaType":"%s","size":%s,"digest":"%s"}' "$4" "$(stat -c %s "$1")" "$digest"
            }
            config=$(blob "$work/config.json" "$2" "$3" application/vnd.docker.container.image.v1+json)
            layer=$(blob "$work/layer.gz" "$2" "$3" application/vnd.docker.image.rootfs.diff.tar.gzip)
            type=application/vnd.docker.distribution.manifest.v2+json
            printf '{"schemaVersion":2,"mediaType":"%s","config":%s,"layers":[%s]}' "$type" "$config" "$layer" > "$work/m"
            curl -sSf -X PUT -H "Content-Type: $type" --data-binary "@$work/m" -o /dev/null "$2/v2/$3/manifests/latest"
        "#;
        let status = Command::new("bash")
            .args(["-c", script, "push"])
            .arg(archive)
            .args([&self.url, repository])
            .status()
            .unwrap();
        assert!(status.success(), "pushing {} to {}", archive.display(), self.url);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}
