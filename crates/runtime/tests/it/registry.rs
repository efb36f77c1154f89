//! Images from a registry: a few lines of HTTP on the loopback that serve one image and count what they are asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use runtime::images::{Store, pull};
use runtime::{Error, RegistryAuth};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::kit::{Kit, shell};

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

#[derive(Default)]
struct Registry {
    /// By path: content type and body.
    files: BTreeMap<String, (&'static str, Vec<u8>)>,
    /// What the Authorization header must be, if anything.
    password: Option<String>,
    asked: Mutex<Vec<String>>,
}

impl Registry {
    fn put_blob(&mut self, name: &str, bytes: Vec<u8>) -> serde_json::Value {
        let (digest, size) = (digest(&bytes), bytes.len());
        self.files.insert(format!("/v2/{name}/blobs/{digest}"), ("application/octet-stream", bytes));
        serde_json::json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": size})
    }

    fn put_manifest(
        &mut self,
        name: &str,
        tag: &str,
        kind: &'static str,
        manifest: &serde_json::Value,
    ) -> serde_json::Value {
        let bytes = manifest.to_string().into_bytes();
        let (digest, size) = (digest(&bytes), bytes.len());
        for reference in [tag, &digest] {
            self.files.insert(format!("/v2/{name}/manifests/{reference}"), (kind, bytes.clone()));
        }
        serde_json::json!({"mediaType": kind, "digest": digest, "size": size})
    }

    /// Adds an image of two layers, the second of which hides a file of the first, behind an index.
    fn put_image(&mut self, name: &str) {
        const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
        let layers: Vec<Vec<u8>> = [
            &[("one", "first"), ("both", "old")][..],
            &[("two", "second"), ("both", "new"), (".wh.one", "")][..],
        ]
        .into_iter()
        .map(|files| {
            let mut layer = tar::Builder::new(Vec::new());
            for (path, text) in files {
                let mut header = tar::Header::new_gnu();
                header.set_mode(0o644);
                header.set_size(text.len() as u64);
                layer.append_data(&mut header, path, text.as_bytes()).unwrap();
            }
            layer.into_inner().unwrap()
        })
        .collect();
        let diff_ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        let descriptors: Vec<serde_json::Value> = layers
            .into_iter()
            .map(|layer| {
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                std::io::Write::write_all(&mut gzip, &layer).unwrap();
                self.put_blob(name, gzip.finish().unwrap())
            })
            .collect();
        let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        let config = serde_json::json!({"architecture": architecture, "os": "linux",
            "config": {"User": "7"}, "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = self.put_blob(name, config.to_string().into_bytes());
        let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": descriptors});
        let mut here = self.put_manifest(name, "only-by-digest", MANIFEST, &manifest);
        here["platform"] = serde_json::json!({"architecture": architecture, "os": "linux"});
        let mut elsewhere = here.clone();
        elsewhere["platform"]["architecture"] = "s390x".into();
        let kind = "application/vnd.oci.image.index.v1+json";
        let index =
            serde_json::json!({"schemaVersion": 2, "mediaType": kind, "manifests": [elsewhere, here]});
        self.put_manifest(name, "v1", kind, &index);
    }

    async fn serve(self) -> (String, Arc<Self>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(self);
        let registry = shared.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(registry.clone(), stream));
            }
        });
        (address, shared)
    }
}

async fn answer(registry: Arc<Registry>, stream: TcpStream) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(first)) = lines.next_line().await {
        let path = first.split(' ').nth(1).unwrap().to_owned();
        let bare = path.split('?').next().unwrap().to_owned();
        let mut authorization = None;
        while let Ok(Some(line)) = lines.next_line().await {
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(": ")
                && name.eq_ignore_ascii_case("authorization")
            {
                authorization = Some(value.to_owned());
            }
        }
        registry.asked.lock().unwrap().push(path);
        let refused = registry.password.is_some() && authorization != registry.password;
        let (status, kind, body) = match registry.files.get(&bare) {
            _ if refused => {
                ("401 Unauthorized\r\nwww-authenticate: Basic realm=\"x\"", "text/plain", &b"no"[..])
            }
            _ if bare == "/v2/" => ("200 OK", "text/plain", &b""[..]),
            Some((kind, body)) => ("200 OK", *kind, body.as_slice()),
            None => (
                "404 Not Found",
                "application/json",
                &br#"{"errors":[{"code":"NAME_UNKNOWN","message":"unknown"}]}"#[..],
            ),
        };
        let head =
            format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n", body.len());
        if write.write_all(head.as_bytes()).await.is_err() || write.write_all(body).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_and_its_layers_lie_over_each_other() {
    let mut registry = Registry::default();
    registry.put_image("team/app");
    let (address, registry) = registry.serve().await;
    let kit = Kit::new().await;
    let name = format!("{address}/team/app:v1");
    let (first, second) =
        tokio::join!(kit.engine.pull_image(&name, None), kit.engine.pull_image(&name, None));
    let id = first.unwrap();
    assert_eq!(second.unwrap(), id);
    let asked = registry.asked.lock().unwrap().iter().filter(|path| path.contains("/blobs/")).count();
    assert_eq!(asked, 3, "the configuration and two layers, each once");
    let image = kit.engine.image_status(&name).await.unwrap().unwrap();
    assert_eq!(
        (image.id.as_str(), image.user.as_str(), image.tags.len(), image.digests.len()),
        (id.as_str(), "7", 1, 1)
    );
    assert_eq!(kit.engine.pull_image(&image.digests[0], None).await.unwrap(), id);

    let sandbox = kit.sandbox("web").await;
    let busybox = std::path::Path::new("/bin/busybox");
    let mut config = shell("cat /two /both; ls /one 2>/dev/null; id -u");
    config.image = id.clone();
    config.command = vec![
        "/busybox".into(),
        "sh".into(),
        "-c".into(),
        "/busybox cat /two /both; /busybox ls /one 2>/dev/null; /busybox id -u".into(),
    ];
    config.mounts = vec![runtime::Mount {
        host_path: busybox.into(),
        container_path: "/busybox".into(),
        ..runtime::Mount::default()
    }];
    let id_of_container = kit.start(&sandbox, config).await;
    let in_use = kit.engine.remove_image(&name).await;
    let status = kit.ended(&id_of_container).await;
    assert_eq!(crate::kit::log_text(&status.log_path), "o: secondnew7\n");
    if let Err(error) = in_use {
        assert!(error.to_string().contains("in use by a container"), "{error}");
    }
    kit.engine.remove_container(&id_of_container).await.unwrap();
    kit.engine.remove_image(&name).await.unwrap();
    assert!(kit.engine.image_status(&name).await.unwrap().is_none());
    kit.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_first_and_the_last_words_of_all_are_told() {
    let mut registry = Registry::default();
    registry.put_image("library/app");
    let (address, registry) = registry.serve().await;
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let mirrors = ["http://127.0.0.1:1".to_owned(), format!("http://{address}")];
    let id = pull(&store, "app:v1", &mirrors, None).await.unwrap();
    let image = store.find("docker.io/library/app:v1").unwrap().unwrap();
    assert_eq!(image.id, id);
    assert!(image.digests[0].starts_with("docker.io/library/app@sha256:"));
    assert!(
        registry.asked.lock().unwrap().iter().all(|path| path.contains("ns=docker.io") || path == "/v2/")
    );

    let missing = format!("{address}/library/none:v1");
    let error = pull(&store, &missing, &["ftp://x".to_owned()], None).await.unwrap_err();
    let Error::Pull { image, reason } = error else { panic!("{error}") };
    assert_eq!(image, missing);
    assert!(reason.contains("\"ftp://x\" is not a URL") && reason.contains("not found"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_given_to_the_registry_that_wants_it() {
    // "me:secret"
    let mut registry = Registry { password: Some("Basic bWU6c2VjcmV0".into()), ..Registry::default() };
    registry.put_image("team/app");
    let (address, _registry) = registry.serve().await;
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let name = format!("{address}/team/app:v1");
    let error = pull(&store, &name, &[], None).await.unwrap_err().to_string();
    assert!(error.contains("authorization"), "{error}");
    let auth = RegistryAuth { username: "me".into(), password: "secret".into() };
    pull(&store, &name, &[], Some(&auth)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_arrives_damaged_is_not_kept() {
    let mut registry = Registry::default();
    registry.put_image("team/app");
    for (path, (_, body)) in &mut registry.files {
        if path.contains("/blobs/") && body.starts_with(&[0x1f, 0x8b]) {
            let middle = body.len() / 2;
            body[middle] ^= 1;
        }
    }
    let (address, _registry) = registry.serve().await;
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    pull(&store, &format!("{address}/team/app:v1"), &[], None).await.unwrap_err();
    assert!(store.list().unwrap().is_empty());
    // The other layer may still be on its way; a collector leaves it alone until it has failed, too.
    while std::fs::read_dir(directory.path().join("layers")).unwrap().count() > 0 {
        store.collect_garbage().unwrap();
        tokio::task::yield_now().await;
    }
}
