//! Fetching images from registries and their mirrors.

use std::time::Duration;

use futures::{FutureExt, StreamExt, TryStreamExt};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth as ClientAuth;
use oci_client::{Client, Reference as ClientReference};
use sha2::{Digest, Sha256};
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::model::{ConfigFile, Descriptor, Manifest, architecture};
use super::reference::{Reference, is_digest};
use super::store::{Record, Store};
use super::unpack::hex;
use crate::{Error, RegistryAuth, Result};

/// What a registry is asked for.
const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
/// The largest manifest or configuration that is taken.
const MOST_JSON: u64 = 8 << 20;
/// How many layers are fetched at once, as with other runtimes.
const AT_ONCE: usize = 3;
/// How long a registry may take to accept a connection, and then to send anything.
const CONNECT: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(60);

/// Fetches the image that `image` names unless the store has all of it, trying `mirrors` (URLs) in turn and then the
/// registry itself. Returns the image's id.
///
/// # Errors
/// [`Error::Invalid`] for a bad name, [`Error::Pull`] with what the registry (and each mirror) said.
pub async fn pull(
    store: &Store,
    image: &str,
    mirrors: &[String],
    auth: Option<&RegistryAuth>,
) -> Result<String> {
    let reference = Reference::parse(image)?;
    let mut reasons = Vec::new();
    let own = Source::of_registry(&reference, auth);
    for source in mirrors.iter().map(|mirror| Source::of_mirror(mirror)).chain([Ok(own)]) {
        let outcome = match source {
            Ok(source) => match source.pull(store, &reference).await {
                Ok(id) => return Ok(id),
                Err(why) => format!("{}: {why}", source.name),
            },
            Err(why) => why,
        };
        tracing::debug!(image = %reference, reason = %outcome, "a source of an image failed");
        reasons.push(outcome);
    }
    let reason = format!("failed to resolve reference {:?}: {}", reference.to_string(), reasons.join("; "));
    Err(Error::Pull { image: reference.to_string(), reason })
}

/// A place that may have an image.
struct Source {
    /// For messages.
    name: String,
    client: Client,
    /// The host and port to ask instead of the registry's own.
    mirror: Option<String>,
    auth: ClientAuth,
}

impl Source {
    fn of_registry(reference: &Reference, auth: Option<&RegistryAuth>) -> Self {
        let auth = match auth {
            Some(auth) if !auth.username.is_empty() => {
                ClientAuth::Basic(auth.username.clone(), auth.password.clone())
            }
            Some(auth) if !auth.password.is_empty() => ClientAuth::Bearer(auth.password.clone()),
            _ => ClientAuth::Anonymous,
        };
        // Only what cannot leave the machine is asked without encryption unless a mirror's URL says so.
        let plain = is_loopback(&reference.registry);
        Self { name: reference.registry.clone(), client: client(plain), mirror: None, auth }
    }

    /// Credentials are the registry's and are not shown to its mirrors.
    fn of_mirror(url: &str) -> std::result::Result<Self, String> {
        let (plain, rest) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(format!("the mirror {url:?} is not a URL with http:// or https://")),
        };
        let host = rest.trim_end_matches('/').trim_end_matches("/v2");
        if host.is_empty() || host.contains('/') {
            return Err(format!("the mirror {url:?} has a path; only a host and a port can be used"));
        }
        Ok(Self {
            name: url.to_owned(),
            client: client(plain),
            mirror: Some(host.to_owned()),
            auth: ClientAuth::Anonymous,
        })
    }

    async fn pull(&self, store: &Store, reference: &Reference) -> std::result::Result<String, String> {
        let (registry, repository) = (reference.registry.clone(), reference.repository.clone());
        let mut target = match (&reference.digest, &reference.tag) {
            (Some(digest), _) => ClientReference::with_digest(registry, repository, digest.clone()),
            (None, tag) => ClientReference::with_tag(
                registry,
                repository,
                tag.clone().unwrap_or_else(|| "latest".into()),
            ),
        };
        if let Some(mirror) = &self.mirror {
            target.set_mirror_registry(mirror.clone());
        }
        let (mut manifest, digest) = self.manifest(&target).await?;
        if reference.digest.as_ref().is_some_and(|wanted| *wanted != digest) {
            return Err(format!("the manifest has the digest {digest}"));
        }
        for _ in 0..2 {
            let Some(manifests) = &manifest.manifests else { break };
            let found = Manifest::for_this_machine(manifests)
                .ok_or_else(|| format!("no match for platform linux/{} in manifest", architecture()))?;
            let wanted = checked(&found.digest)?;
            manifest = self.manifest(&target.clone_with_digest(wanted)).await?.0;
        }
        let descriptor = manifest.config.as_ref().ok_or("the manifest has no config")?;
        let config = self.small_blob(&target, descriptor).await?;
        let file: ConfigFile = serde_json::from_slice(&config)
            .map_err(|error| format!("the image's configuration does not parse: {error}"))?;
        if file.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err("the image's configuration and its manifest name different layers".to_owned());
        }
        let mut layers = Vec::new();
        for (diff_id, layer) in file.rootfs.diff_ids.iter().zip(&manifest.layers) {
            layers.push(self.layer(store, &target, diff_id, layer).boxed());
        }
        let sizes: Vec<u64> = futures::stream::iter(layers).buffer_unordered(AT_ONCE).try_collect().await?;
        let record = Record {
            layers: file.rootfs.diff_ids,
            size: sizes.iter().sum(),
            config: file.config,
            pinned: false,
        };
        let id = descriptor.digest.clone();
        let names: Vec<String> = [
            if reference.digest.is_none() { reference.tagged() } else { None },
            Some(format!("{}@{digest}", reference.name())),
        ]
        .into_iter()
        .flatten()
        .collect();
        let store = store.clone();
        let added = tokio::task::spawn_blocking(move || store.add(&id, record, &names)).await;
        added.map_err(|error| error.to_string())?.map(|image| image.id).map_err(|error| error.to_string())
    }

    /// Returns the manifest or index with its digest.
    async fn manifest(&self, target: &ClientReference) -> std::result::Result<(Manifest, String), String> {
        let (bytes, _) = self
            .client
            .pull_manifest_raw(target, &self.auth, &ACCEPTED)
            .await
            .map_err(|error| say(&error))?;
        let digest = format!("sha256:{}", hex(&Sha256::digest(&bytes)));
        if target.digest().is_some_and(|wanted| wanted != digest) {
            return Err(format!("the manifest does not have the digest that was asked for but {digest}"));
        }
        let manifest = serde_json::from_slice(&bytes)
            .map_err(|error| format!("the manifest does not parse: {error}"))?;
        Ok((manifest, digest))
    }

    async fn small_blob(
        &self,
        target: &ClientReference,
        descriptor: &Descriptor,
    ) -> std::result::Result<Vec<u8>, String> {
        let digest = checked(&descriptor.digest)?;
        let mut stream =
            self.client.pull_blob_stream(target, digest.as_str()).await.map_err(|error| say(&error))?.stream;
        let mut bytes = Vec::new();
        while let Some(part) = stream.next().await {
            bytes.extend_from_slice(&part.map_err(|error| error.to_string())?);
            if bytes.len() as u64 > MOST_JSON {
                return Err(format!("the blob {digest} is too large for a description"));
            }
        }
        if format!("sha256:{}", hex(&Sha256::digest(&bytes))) != digest {
            return Err(format!("the blob {digest} arrived damaged"));
        }
        Ok(bytes)
    }

    /// Fetches and unpacks a layer in one go, unless it is there. Its digest is that of what it unpacks to, so what
    /// is checked is what containers see.
    async fn layer(
        &self,
        store: &Store,
        target: &ClientReference,
        diff_id: &str,
        descriptor: &Descriptor,
    ) -> std::result::Result<u64, String> {
        if let Some(size) = store.layer_size(diff_id).map_err(|error| error.to_string())? {
            return Ok(size);
        }
        let digest = checked(&descriptor.digest)?;
        let stream =
            self.client.pull_blob_stream(target, digest.as_str()).await.map_err(|error| say(&error))?;
        let (store, diff_id) = (store.clone(), diff_id.to_owned());
        let reader = StreamReader::new(stream.stream);
        let unpacking =
            tokio::task::spawn_blocking(move || store.put_layer(&diff_id, || Ok(SyncIoBridge::new(reader))));
        unpacking.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }
}

fn client(plain: bool) -> Client {
    // Whoever installed another one before is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    Client::new(ClientConfig {
        protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
        connect_timeout: Some(CONNECT),
        read_timeout: Some(SILENCE),
        user_agent: concat!("cluster/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    })
}

fn checked(digest: &str) -> std::result::Result<String, String> {
    if is_digest(digest) { Ok(digest.to_owned()) } else { Err(format!("{digest:?} is not a sha256 digest")) }
}

fn is_loopback(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => registry,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Says what a registry said, in the words that people look for.
fn say(error: &OciDistributionError) -> String {
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) => "not found".to_owned(),
        OciDistributionError::AuthenticationFailure(why) => format!("authorization failed: {why}"),
        OciDistributionError::RegistryError { envelope, .. } => {
            use oci_client::errors::OciErrorCode::{ManifestUnknown, NameUnknown};
            if envelope.errors.iter().any(|one| matches!(one.code, ManifestUnknown | NameUnknown)) {
                return "not found".to_owned();
            }
            let all: Vec<String> = envelope.errors.iter().map(ToString::to_string).collect();
            all.join(", ")
        }
        OciDistributionError::ServerError { code: 404, .. } => "not found".to_owned(),
        OciDistributionError::UnauthorizedError { .. } => {
            "pull access denied, repository does not exist or may require authorization".to_owned()
        }
        OciDistributionError::RequestError(error) => {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(error);
            while let Some(next) = cause {
                text = format!("{text}: {next}");
                cause = next.source();
            }
            text
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_machine_itself_is_asked_without_encryption() {
        for (registry, plain) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("[::1]:5000", true),
            ("172.17.4.1:5000", false),
            ("docker.io", false),
            ("localhost.example", false),
        ] {
            assert_eq!(is_loopback(registry), plain, "{registry}");
        }
    }

    #[tokio::test]
    async fn a_mirror_is_a_scheme_a_host_and_a_port() {
        for (url, host) in [
            ("http://172.17.4.1:5000", Some("172.17.4.1:5000")),
            ("https://mirror.example/", Some("mirror.example")),
            ("https://mirror.example/v2/", Some("mirror.example")),
            ("mirror.example", None),
            ("http://", None),
            ("http://mirror.example/some/path", None),
        ] {
            let mirror = Source::of_mirror(url).ok().and_then(|source| source.mirror);
            assert_eq!(mirror.as_deref(), host, "{url}");
        }
    }
}
