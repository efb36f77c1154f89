//! Importing images into containerd through its own services: the CRI can only fetch.
//!
//! Blobs go into the content store under a lease, so that the collector does not take them, then the image gets
//! its names; the CRI hears of it by containerd's own events, and layers are unpacked when they are first used.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use machinery::retry::{Attempt, Backoff, until_sent};
use sha2::{Digest, Sha256};

use super::grpc::Code;
use super::images::Images;
use super::proto::containerd::{
    CreateLeaseRequest, Descriptor, Image as Record, ImageMessage, WriteContentRequest, WriteContentResponse,
    action,
};
use super::proto::cri::ById;
use super::{PATIENCE, blocking, failure};
use crate::images::{self, Found, Reference, hex};
use crate::{Error, Image, Result};

/// How much is sent at a time.
const BLOCK: usize = 256 * 1024;
/// How long the CRI may take to hear of an image.
const HEAR: Duration = Duration::from_secs(30);
/// How long the lease of an import holds that was cut short.
const LEASE: Duration = Duration::from_secs(60 * 60);
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// What makes an image the CRI's.
const MANAGED: (&str, &str) = ("io.cri-containerd.image", "managed");
/// What keeps an image from being collected.
const PINNED: (&str, &str) = ("io.cri-containerd.pinned", "pinned");
/// The first process of a sandbox, in the image that is made from this executable.
const PAUSE: [&str; 3] = ["/bin/cluster", crate::helper::MARK, "pause-init"];

impl Images {
    /// Adds every image in `path`, an OCI layout or an archive of `docker save`, as a directory or a tar file that
    /// may be compressed. Returns the images with their names.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is neither, or damaged.
    pub async fn load(&self, path: &Path) -> Result<Vec<Image>> {
        let failed = |error: std::io::Error| Error::system(format!("reading {}", path.display()), error);
        if std::fs::metadata(path).map_err(failed)?.is_dir() {
            return self.load_directory(path).await;
        }
        let file = std::fs::File::open(path).map_err(failed)?;
        self.load_reader(file).await
    }

    /// Like [`Images::load`], from a tar file that is read once from start to end.
    ///
    /// # Errors
    /// As [`Images::load`].
    pub async fn load_reader(&self, reader: impl Read + Send + 'static) -> Result<Vec<Image>> {
        let directory = self.scratch()?;
        let path = directory.path().to_owned();
        blocking(move || images::unpack_archive(reader, &path)).await?;
        self.load_directory(directory.path()).await
    }

    /// Adds an image named `name` with the static `executable` as `/bin/cluster`, which is also the entrypoint, as
    /// [`images::from_executable`](crate::images::from_executable) does.
    ///
    /// # Errors
    /// The executable cannot be read, or the name is bad.
    pub async fn from_executable(&self, name: &str, executable: &Path) -> Result<Image> {
        self.pack(name, executable, &PAUSE[..1], false).await
    }

    /// Gives the image `id` the name `name`, taking it from the image that had it.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such image; [`Error::Invalid`] for a bad name.
    pub async fn tag(&self, id: &str, name: &str) -> Result<Image> {
        let name = Reference::parse(name)?.to_string();
        // The CRI gives every image its id as a name, too.
        let request = ById { id: id.to_owned() };
        let answer: ImageMessage = self
            .channel
            .call("/containerd.services.images.v1.Images/Get", &request, PATIENCE)
            .await
            .map_err(failure::about("image", id, "asking for an image", PATIENCE))?;
        let target =
            answer.image.and_then(|image| image.target).ok_or_else(|| Error::not_found("image", id))?;
        self.name(&name, target, false).await?;
        self.heard_of(&[name], id).await
    }
}

/// A blob on its way into containerd.
struct Blob {
    media_type: &'static str,
    digest: String,
    size: u64,
    labels: BTreeMap<String, String>,
}

impl Blob {
    fn target(&self) -> Descriptor {
        Descriptor {
            media_type: self.media_type.to_owned(),
            digest: self.digest.clone(),
            size: i64::try_from(self.size).unwrap_or(0),
        }
    }

    fn descriptor(&self) -> serde_json::Value {
        serde_json::json!({"mediaType": self.media_type, "digest": self.digest, "size": self.size})
    }
}

impl Images {
    /// Returns a directory that goes when it is dropped.
    fn scratch(&self) -> Result<tempfile::TempDir> {
        let parent = &self.scratch;
        std::fs::create_dir_all(parent)
            .and_then(|()| tempfile::Builder::new().prefix("import-").tempdir_in(parent))
            .map_err(|error| Error::system(format!("making a directory in {}", parent.display()), error))
    }

    async fn load_directory(&self, directory: &Path) -> Result<Vec<Image>> {
        let path = directory.to_owned();
        let found = blocking(move || images::read_directory(&path)).await?;
        let mut loaded = Vec::new();
        for image in found {
            loaded.push(self.import(&image, false).await?);
        }
        Ok(loaded)
    }

    /// Makes the image of sandboxes from an executable.
    pub(super) async fn make_sandbox_image(&self, name: &str, executable: &Path) -> Result<()> {
        self.pack(name, executable, &PAUSE, true).await.map(drop)
    }

    async fn pack(
        &self,
        name: &str,
        executable: &Path,
        entrypoint: &'static [&'static str],
        pinned: bool,
    ) -> Result<Image> {
        let name = Reference::parse(name)?.to_string();
        let scratch = self.scratch()?;
        let (executable, layer) = (executable.to_owned(), scratch.path().join("layer.tar"));
        let found = blocking(move || {
            let failed = |error: std::io::Error| Error::system(format!("writing {}", layer.display()), error);
            let file = std::fs::File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&layer)
                .map_err(failed)?;
            let mut file = images::write_layer(file, &executable, &[])?;
            file.seek(SeekFrom::Start(0)).map_err(failed)?;
            let (diff_id, _) = digest(&mut file).map_err(failed)?;
            let config = serde_json::to_vec(&images::configuration(&diff_id, entrypoint))
                .map_err(|error| Error::system("describing an image", error))?;
            Ok(Found { config, layers: vec![layer], names: vec![name] })
        })
        .await?;
        self.import(&found, pinned).await
    }

    /// Gives containerd an image. `pinned` is never collected.
    async fn import(&self, image: &Found, pinned: bool) -> Result<Image> {
        image.check()?;
        let lease = format!("cluster-import-{}", self.random.suffix(16));
        let expire = self.clock.now() + LEASE;
        let request = CreateLeaseRequest {
            id: lease.clone(),
            labels: [("containerd.io/gc.expire".to_owned(), expire.to_string())].into(),
        };
        self.channel
            .call::<_, ()>("/containerd.services.leases.v1.Leases/Create", &request, PATIENCE)
            .await
            .map_err(failure::of("leasing space for an image", PATIENCE))?;
        let outcome = self.import_under(image, pinned, &lease).await;
        let request = ById { id: lease };
        let released = self
            .channel
            .call::<_, ()>("/containerd.services.leases.v1.Leases/Delete", &request, PATIENCE)
            .await;
        if let Err(status) = released {
            tracing::warn!(error = %status, "a lease stays behind until it ends by itself");
        }
        outcome
    }

    async fn import_under(&self, image: &Found, pinned: bool, lease: &str) -> Result<Image> {
        let mut layers = Vec::new();
        for path in &image.layers {
            let path = path.clone();
            let (blob, file) = blocking(move || layer(&path)).await?;
            self.write(&blob, lease, file).await?;
            layers.push(blob);
        }
        let config = blob_of(CONFIG, &image.config, BTreeMap::new());
        self.write(&config, lease, std::io::Cursor::new(image.config.clone())).await?;
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        let manifest = manifest.to_string().into_bytes();
        // By these the collector knows that the blobs belong to the manifest.
        let references = layers
            .iter()
            .enumerate()
            .map(|(at, layer)| (format!("containerd.io/gc.ref.content.l.{at}"), layer.digest.clone()))
            .chain([("containerd.io/gc.ref.content.config".to_owned(), config.digest.clone())])
            .collect();
        let blob = blob_of(MANIFEST, &manifest, references);
        self.write(&blob, lease, std::io::Cursor::new(manifest)).await?;
        // An image without a name is known by its id, as the CRI names it itself.
        let id = image.id();
        let names = if image.names.is_empty() { vec![id.clone()] } else { image.names.clone() };
        for name in &names {
            self.name(name, blob.target(), pinned).await?;
        }
        self.heard_of(&names, &id).await
    }

    /// Gives a manifest a name, taking it from the image that had it.
    async fn name(&self, name: &str, manifest: Descriptor, pinned: bool) -> Result<()> {
        let labels = [Some(MANAGED), pinned.then_some(PINNED)];
        let labels = labels.into_iter().flatten().map(|(key, value)| (key.to_owned(), value.to_owned()));
        let message = ImageMessage {
            image: Some(Record { name: name.to_owned(), labels: labels.collect(), target: Some(manifest) }),
        };
        let images = "/containerd.services.images.v1.Images";
        let mut outcome: std::result::Result<ImageMessage, _> =
            self.channel.call(&format!("{images}/Create"), &message, PATIENCE).await;
        if outcome.as_ref().is_err_and(|status| status.code == Code::AlreadyExists) {
            outcome = self.channel.call(&format!("{images}/Update"), &message, PATIENCE).await;
        }
        outcome.map(drop).map_err(failure::of(&format!("naming image {name:?}"), PATIENCE))
    }

    /// Waits until the CRI knows the image by all of its names.
    async fn heard_of(&self, names: &[String], id: &str) -> Result<Image> {
        let (clock, random) = (self.clock.as_ref(), &self.random);
        until_sent(
            "the runtime to know an imported image",
            HEAR,
            Backoff::QUICK,
            clock,
            random,
            || async move {
                let mut last = None;
                for name in names {
                    match self.find(name).await {
                        Ok(Some(image)) if image.id == id => last = Some(image),
                        Ok(Some(image)) => return Attempt::Again(format!("{name} is still {}", image.id)),
                        Ok(None) => return Attempt::Again(format!("{name} is not known")),
                        Err(error) => return Attempt::Fatal(error),
                    }
                }
                match last {
                    Some(image) => Attempt::Done(image),
                    None => Attempt::Again("it has no name".to_owned()),
                }
            },
        )
        .await
        .map_err(|error| Error::system("importing an image", error))
    }

    /// Writes a blob into the content store. Succeeds when it is there already.
    async fn write(&self, blob: &Blob, lease: &str, reader: impl Read + Send + 'static) -> Result<()> {
        let context = format!("writing {} into the runtime's content store", blob.digest);
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(lease) {
            headers.insert("containerd-lease", value);
        }
        let requests = requests(blob, lease, reader);
        let failed = |status: super::grpc::Status| -> Result<()> {
            if status.code == Code::AlreadyExists {
                return Ok(());
            }
            Err(failure::of(&context, PATIENCE)(status))
        };
        let method = "/containerd.services.content.v1.Content/Write";
        let mut answers =
            match self.channel.exchange::<_, WriteContentResponse>(method, headers, requests).await {
                Ok(answers) => answers,
                Err(status) => return failed(status),
            };
        let mut committed = false;
        loop {
            match answers.next().await {
                Ok(Some(answer)) => committed |= answer.action == action::COMMIT,
                Ok(None) if committed => return Ok(()),
                Ok(None) => return Err(Error::system(context, "the file could not be read to its end")),
                Err(status) => return failed(status),
            }
        }
    }
}

/// Returns the messages that write a blob. They end early when the reader fails.
fn requests(
    blob: &Blob,
    lease: &str,
    reader: impl Read + Send + 'static,
) -> impl futures::Stream<Item = WriteContentRequest> + Send + 'static {
    let total = i64::try_from(blob.size).unwrap_or(i64::MAX);
    let template = WriteContentRequest {
        action: action::WRITE,
        reference: format!("{lease}-{}", blob.digest),
        total,
        expected: blob.digest.clone(),
        offset: 0,
        data: Bytes::new(),
        labels: BTreeMap::new(),
    };
    let labels = blob.labels.clone();
    futures::stream::unfold(Some((reader, 0i64)), move |state| {
        let (template, labels) = (template.clone(), labels.clone());
        async move {
            let (mut reader, offset) = state?;
            if offset == total {
                let commit = WriteContentRequest { action: action::COMMIT, offset, labels, ..template };
                return Some((commit, None));
            }
            let read = tokio::task::spawn_blocking(move || {
                let mut block = Vec::with_capacity(BLOCK);
                let outcome = reader.by_ref().take(BLOCK as u64).read_to_end(&mut block);
                (reader, outcome.map(|_| block))
            });
            let (reader, block) = read.await.ok()?;
            let block = block.ok().filter(|block| !block.is_empty())?;
            let next = offset + i64::try_from(block.len()).ok()?;
            let write = WriteContentRequest { offset, data: block.into(), ..template };
            Some((write, Some((reader, next))))
        }
    })
}

fn blob_of(media_type: &'static str, bytes: &[u8], labels: BTreeMap<String, String>) -> Blob {
    let digest = format!("sha256:{}", hex(&Sha256::digest(bytes)));
    Blob { media_type, digest, size: bytes.len() as u64, labels }
}

/// Opens a layer's file and finds out what it is.
fn layer(path: &Path) -> Result<(Blob, std::fs::File)> {
    let failed = |error: std::io::Error| Error::system(format!("reading {}", path.display()), error);
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let mut start = [0u8; 4];
    let read = file.read(&mut start).map_err(failed)?;
    let media_type = match &start[..read] {
        [0x1f, 0x8b, ..] => "application/vnd.oci.image.layer.v1.tar+gzip",
        [0x28, 0xb5, 0x2f, 0xfd] => "application/vnd.oci.image.layer.v1.tar+zstd",
        _ => "application/vnd.oci.image.layer.v1.tar",
    };
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let (digest, size) = digest(&mut file).map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    Ok((Blob { media_type, digest, size, labels: BTreeMap::new() }, file))
}

fn digest(reader: &mut impl Read) -> std::io::Result<(String, u64)> {
    // Images are large; this one uses the processor's instructions, whatever the build.
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    let mut size = 0;
    let mut block = vec![0u8; BLOCK];
    loop {
        let read = reader.read(&mut block)?;
        if read == 0 {
            return Ok((format!("sha256:{}", hex(hash.finish().as_ref())), size));
        }
        hash.update(&block[..read]);
        size += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    #[tokio::test]
    async fn a_blob_is_written_in_blocks_and_committed_at_its_end() {
        let bytes = vec![7u8; BLOCK + 10];
        let blob = blob_of(CONFIG, &bytes, [("a".to_owned(), "b".to_owned())].into());
        let sent: Vec<_> = requests(&blob, "lease", std::io::Cursor::new(bytes)).collect().await;
        let seen: Vec<_> = sent.iter().map(|one| (one.action, one.offset, one.data.len())).collect();
        let end = i64::try_from(BLOCK + 10).unwrap();
        assert_eq!(
            seen,
            [
                (action::WRITE, 0, BLOCK),
                (action::WRITE, i64::try_from(BLOCK).unwrap(), 10),
                (action::COMMIT, end, 0)
            ]
        );
        assert!(sent.iter().all(|one| one.total == end && one.expected == blob.digest));
        assert_eq!((sent[0].labels.len(), sent[2].labels.len()), (0, 1));
    }

    #[tokio::test]
    async fn a_file_that_is_too_short_is_not_committed() {
        let mut blob = blob_of(CONFIG, b"hello", BTreeMap::new());
        blob.size = 6;
        let sent: Vec<_> = requests(&blob, "lease", &b"hello"[..]).collect().await;
        assert!(sent.iter().all(|one| one.action == action::WRITE));
    }

    #[test]
    fn the_kind_of_a_layer_is_seen_in_its_first_bytes() {
        let directory = tempfile::tempdir().unwrap();
        for (bytes, expect) in [
            (&b"\x1f\x8bxx"[..], "tar+gzip"),
            (&b"\x28\xb5\x2f\xfdx"[..], "tar+zstd"),
            (&b"bin/"[..], "v1.tar"),
            (&b""[..], "v1.tar"),
        ] {
            let path = directory.path().join("layer");
            std::fs::write(&path, bytes).unwrap();
            assert!(layer(&path).unwrap().0.media_type.ends_with(expect), "{bytes:?}");
        }
    }
}
