//! Images of operating systems: fetched once, verified, unpacked and kept by their content.
//!
//! In the cache's directory, `content/` holds unpacked images named by their SHA-256, which are never written
//! to again, since disks are layers over them; `sources/` says what was made of which source; `partial/` holds
//! downloads that go on where they were cut off. Whatever is interrupted, the next call goes on from there.

mod checksum;
mod download;
mod signature;
mod unpack;

use std::fmt;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use machinery::clock::SystemClock;
use machinery::files::{PUBLIC, write_atomic};
use machinery::names::Random;
use machinery::retry::{Attempt, Backoff, until};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::error::{Error, Result};
use crate::overlay::{Format, inspect};
pub use checksum::Checksum;
use download::Client;

/// How long another run that fetches the same image is waited for.
const OTHER_RUN: Duration = Duration::from_secs(3600);

/// An image, and how to know that it is the right one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Where it is.
    pub source: Source,
    /// The checksum of the file as it is there, before it is unpacked: what Flatcar and Fedora publish.
    pub checksum: Option<Checksum>,
    /// Who must have signed that same file.
    pub signature: Option<Signature>,
}

/// Where a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// On this machine.
    File(PathBuf),
    /// On a web server, by HTTP or HTTPS.
    Url(Url),
}

/// A detached OpenPGP signature. It is verified by the program `gpgv`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Where the signature is; beside the image with `.sig` appended, as a rule.
    pub source: Source,
    /// The file with the keys that are trusted, in binary or armoured.
    pub keys: PathBuf,
}

/// How to reach web servers.
#[derive(Debug, Clone, Default)]
pub struct Transport {
    /// Authorities that are trusted beside the system's.
    pub authorities: Vec<CertificateDer<'static>>,
    /// A proxy for everything; without it, what HTTP_PROXY, HTTPS_PROXY and NO_PROXY say.
    pub proxy: Option<Url>,
}

/// How far the fetching of an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Another run fetches the same image and is waited for.
    Waiting,
    /// So many bytes are there, of so many, where the server told.
    Downloading {
        /// Bytes on the disk.
        done: u64,
        /// Bytes altogether.
        total: Option<u64>,
    },
    /// Checksum and signature are checked.
    Verifying,
    /// So many bytes of the packed file are unpacked.
    Unpacking {
        /// Bytes read.
        done: u64,
        /// Bytes altogether.
        total: u64,
    },
}

/// An image that is ready to have disks over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The unpacked image. Never write to it.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// The size of the disk that it holds, in bytes.
    pub size: u64,
    /// Whether it was there already.
    pub cached: bool,
}

/// What is known of a source that was fetched.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Record {
    source: String,
    content: String,
    length: u64,
    /// For a file of this machine: whether it is still the same.
    stamp: Option<Stamp>,
}

/// What changes when somebody writes to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

/// Fetches an image into the cache, unless it is there, and returns where it is.
///
/// # Errors
/// [`Error::Image`] says what is wrong with the source and what to do; [`Error::Io`] is this machine's own
/// trouble. In both cases the next call goes on from what is there.
pub async fn fetch(
    image: &Image,
    cache: &Path,
    transport: &Transport,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Fetched> {
    let fail = |reason: String| Error::image(&image.source, reason);
    if matches!(image.source, Source::Url(_)) && image.checksum.is_none() && image.signature.is_none() {
        return Err(fail(
            "it comes from the network, with neither a checksum nor a signature to know it by: give one (its \
             publisher shows it beside the file)"
                .into(),
        ));
    }
    let places = Places::of(image, cache)?;
    let stamp = match &image.source {
        Source::File(path) => Some(stamp(path).map_err(|error| fail(error.to_string()))?),
        Source::Url(_) => None,
    };
    // Without the lock first: a second `up` must not wait for a stranger's download.
    if let Some(found) = places.lookup(stamp.as_ref())? {
        return Ok(found);
    }
    let _lock = places.lock(progress).await?;
    if let Some(found) = places.lookup(stamp.as_ref())? {
        return Ok(found);
    }
    let client = Client::new(transport);
    let packed = match &image.source {
        Source::File(path) => path.clone(),
        Source::Url(url) => {
            download::download(&client, url, &places.partial, progress).await?;
            places.partial.clone()
        }
    };
    progress(Progress::Verifying);
    let verified = verify(image, &packed, &client).await;
    if let (Err(error), Source::Url(_)) = (&verified, &image.source)
        && matches!(error, Error::Image { .. })
    {
        // What is wrong stays wrong: the next run begins anew.
        download::forget(&places.partial)?;
    }
    verified?;
    let record = places.unpack(image, &packed, stamp, progress).await?;
    let text = serde_json::to_vec_pretty(&record).map_err(|error| fail(error.to_string()))?;
    write_atomic(&places.record, &text, PUBLIC).map_err(Error::io("noting what was fetched"))?;
    if matches!(image.source, Source::Url(_)) {
        download::forget(&places.partial)?;
    }
    let found = places.lookup(record.stamp.as_ref())?;
    found
        .map(|found| Fetched { cached: false, ..found })
        .ok_or_else(|| fail("it was removed from the cache".into()))
}

async fn verify(image: &Image, packed: &Path, client: &Client) -> Result<()> {
    if let Some(expected) = &image.checksum {
        let (expected, path) = (expected.clone(), packed.to_owned());
        let cancel = Cancel::default();
        let flag = cancel.flag();
        let found = blocking(move || checksum::of_file(&path, expected.kind(), &flag)).await?;
        let expected = image.checksum.as_ref().map(ToString::to_string).unwrap_or_default();
        if found.to_string() != expected {
            return Err(Error::image(
                &image.source,
                format!(
                    "its checksum is {found} and should be {expected}: it is another file, or was damaged on \
                     the way; compare with what its publisher shows, and try again"
                ),
            ));
        }
    }
    match &image.signature {
        Some(signature) => signature::verify(&image.source, signature, packed, client).await,
        None => Ok(()),
    }
}

/// Where everything of one source is.
struct Places {
    name: String,
    cache: PathBuf,
    record: PathBuf,
    partial: PathBuf,
    lock: PathBuf,
}

impl Places {
    fn of(image: &Image, cache: &Path) -> Result<Self> {
        let doing = || format!("making the image cache {}", cache.display());
        for directory in ["content", "sources", "partial"] {
            // Downloads are nobody else's business until they are verified.
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(cache.join(directory));
            made.map_err(Error::io(doing()))?;
        }
        // The same file on two mirrors is the same image; one that must be signed is not the same as one that
        // need not be.
        let mut identity = match (&image.source, &image.checksum) {
            (Source::Url(_), Some(checksum)) => checksum.to_string(),
            (source, checksum) => {
                format!("{source} {}", checksum.as_ref().map(ToString::to_string).unwrap_or_default())
            }
        };
        if let Some(Signature { source, keys }) = &image.signature {
            let bytes =
                std::fs::read(keys).map_err(Error::io(format!("reading the keys {}", keys.display())))?;
            identity.push_str(&format!(" signed {source} {}", checksum::of_bytes(&bytes)));
        }
        let key = checksum::of_bytes(identity.as_bytes());
        Ok(Self {
            name: image.source.to_string(),
            cache: cache.to_owned(),
            record: cache.join("sources").join(format!("{key}.json")),
            partial: cache.join("partial").join(&key),
            lock: cache.join("partial").join(format!("{key}.lock")),
        })
    }

    fn content(&self, digest: &str) -> PathBuf {
        self.cache.join("content").join(digest)
    }

    /// Returns the image if it is there, whole, and made of what the source still is.
    fn lookup(&self, stamp: Option<&Stamp>) -> Result<Option<Fetched>> {
        let text = match std::fs::read(&self.record) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(format!("reading {}", self.record.display()))(error)),
        };
        // A record of another version is as good as none.
        let Ok(record) = serde_json::from_slice::<Record>(&text) else { return Ok(None) };
        let path = self.content(&record.content);
        let whole = std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() == record.length);
        if record.stamp.as_ref() != stamp || !whole {
            return Ok(None);
        }
        let facts = inspect(&path)?;
        Ok(Some(Fetched { path, format: facts.format, size: facts.size, cached: true }))
    }

    /// Waits until no other run fetches the same image.
    async fn lock(&self, progress: &(dyn Fn(Progress) + Send + Sync)) -> Result<File> {
        let doing = || format!("locking {}", self.lock.display());
        let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(&self.lock);
        let file = file.map_err(Error::io(doing()))?;
        let random = Random::from_os();
        // The kernel has no event for a lock that becomes free, only a call that blocks its thread for good.
        let free = until::<_, io::Error, _>(
            "another run that fetches the same image",
            OTHER_RUN,
            Backoff::QUICK,
            &SystemClock,
            &random,
            async || match file.try_lock() {
                Ok(()) => Attempt::Done(()),
                Err(TryLockError::WouldBlock) => {
                    progress(Progress::Waiting);
                    Attempt::Again("it is still at it".into())
                }
                Err(TryLockError::Error(error)) => Attempt::Fatal(error),
            },
        );
        free.await.map_err(|error| Error::io(doing())(io::Error::other(error.to_string())))?;
        Ok(file)
    }

    /// Unpacks a verified file into the content of the cache.
    async fn unpack(
        &self,
        image: &Image,
        packed: &Path,
        stamp: Option<Stamp>,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Record> {
        let directory = self.cache.join("content");
        let (packed, source) = (packed.to_owned(), image.source.clone());
        let cancel = Cancel::default();
        let (told, mut heard) = tokio::sync::watch::channel((0, 0));
        let flag = cancel.flag();
        let work = blocking(move || unpack::unpack(&source, &packed, &directory, &flag, &told));
        tokio::pin!(work);
        let unpacked = loop {
            tokio::select! {
                done = &mut work => break done?,
                Ok(()) = heard.changed() => {
                    let (done, total) = *heard.borrow_and_update();
                    progress(Progress::Unpacking { done, total });
                }
            }
        };
        // Before it has its name, so that what is under a name can be used.
        inspect(unpacked.file.path()).map_err(|error| match error {
            Error::Disk { reason, .. } => {
                Error::image(&image.source, format!("what is in it is no disk image: {reason}"))
            }
            other => other,
        })?;
        let path = self.content(&unpacked.digest);
        let kept = || -> io::Result<()> {
            unpacked.file.as_file().set_permissions(std::fs::Permissions::from_mode(0o400))?;
            unpacked.file.as_file().sync_all()?;
            unpacked.file.persist(&path).map_err(|error| error.error)?;
            File::open(self.cache.join("content"))?.sync_all()
        };
        kept().map_err(Error::io(format!("keeping {}", path.display())))?;
        Ok(Record { source: self.name.clone(), content: unpacked.digest, length: unpacked.length, stamp })
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    Ok(Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        length: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
    })
}

/// Runs work that blocks on a thread for that.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::io("working on an image")(io::Error::other(error))),
    }
}

/// Tells work on another thread to stop once its caller is gone.
#[derive(Default)]
struct Cancel(Arc<AtomicBool>);

impl Cancel {
    fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }
}

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Url(url) => {
                // A password in a URL is for the server only.
                let mut shown = url.clone();
                if shown.password().is_some() && shown.set_password(Some("…")).is_err() {
                    return f.write_str("a URL with a password");
                }
                write!(f, "{shown}")
            }
        }
    }
}

impl FromStr for Source {
    type Err = String;

    /// Reads `http://…`, `https://…`, or a path.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            Some(("http" | "https", _)) => {
                let url: Url = text.parse().map_err(|error| format!("{text:?} is not a URL: {error}"))?;
                Ok(Self::Url(url))
            }
            Some(("file", path)) if path.starts_with('/') => Ok(Self::File(path.into())),
            Some((scheme, _)) => {
                Err(format!("{text:?}: images come by http, https or from a file, not by {scheme}"))
            }
            None if text.is_empty() => Err("an empty path".into()),
            None => Ok(Self::File(text.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart() {
        let url: Source = "https://a:secret@example.com/x.img".parse().unwrap();
        assert_eq!(url.to_string(), "https://a:%E2%80%A6@example.com/x.img");
        assert_eq!("/a/b.img".parse(), Ok(Source::File("/a/b.img".into())));
        assert_eq!("file:///a/b.img".parse(), Ok(Source::File("/a/b.img".into())));
        for bad in ["", "ftp://example.com/x", "https://", "file://host/x"] {
            assert!(bad.parse::<Source>().is_err(), "{bad}");
        }
    }
}
