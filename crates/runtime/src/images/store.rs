//! The directory of images: which images there are under which names, and their unpacked layers.
//!
//!     index.json              every image and every name; replaced at once, under `lock`
//!     layers/<digest>/        one unpacked layer, a lower directory of overlayfs
//!     layers/<digest>.json    its full digest and size; written last, so a layer without it is not whole
//!     layers/<digest>.lock    held while it is unpacked
//!     uses/<image>            held shared by every container that uses the image
//!     tmp/                    what is being unpacked
//!
//! Locks are the kernel's (`flock`): they end with the process that held them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::model::{ImageConfig, InUse};
use super::reference::{Reference, is_digest};
use super::unpack;
use crate::{Error, Image, Result};

/// How much of a layer's digest names its directory. 96 bits cannot be hit by accident, the whole digest is
/// compared on use, and short names let more than a hundred layers into one mount call.
const NAME_LENGTH: usize = 24;

/// The images of a machine. Cloning shares it; several processes may use one directory.
#[derive(Debug, Clone)]
pub struct Store {
    directory: Arc<PathBuf>,
}

/// Everything that is known of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The digests of the layers' plain archives, lowest first.
    pub(crate) layers: Vec<String>,
    /// Bytes of all layers, unpacked.
    pub(crate) size: u64,
    /// How to run it.
    pub(crate) config: ImageConfig,
    /// Never removed by a collector.
    #[serde(default)]
    pub(crate) pinned: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Index {
    /// By id: the digest of the image's configuration.
    images: BTreeMap<String, Record>,
    /// Ids by name: `docker.io/library/nginx:latest` or `docker.io/library/nginx@sha256:…`.
    names: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct LayerFile {
    diff_id: String,
    size: u64,
}

impl Store {
    /// Opens the store in `directory`, making it if it is not there.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(directory: &Path) -> Result<Self> {
        for part in ["layers", "uses", "tmp"] {
            let path = directory.join(part);
            std::fs::create_dir_all(&path).map_err(system("making", &path))?;
        }
        let directory = fs_err::canonicalize(directory).map_err(system("finding", directory))?;
        Ok(Self { directory: Arc::new(directory) })
    }

    /// Returns every image, by id.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn list(&self) -> Result<Vec<Image>> {
        let index = self.read()?;
        Ok(index.images.iter().map(|(id, record)| index.describe(id, record)).collect())
    }

    /// Returns the image with this id or name.
    ///
    /// # Errors
    /// The index cannot be read. A name that makes no sense is simply not there.
    pub fn find(&self, image: &str) -> Result<Option<Image>> {
        let index = self.read()?;
        Ok(index.id_of(image).and_then(|id| Some(index.describe(&id, index.images.get(&id)?))))
    }

    /// Gives the image `id` the name `name`, taking it from the image that had it.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such image; [`Error::Invalid`] for a bad name.
    pub fn tag(&self, id: &str, name: &str) -> Result<()> {
        let name = Reference::parse(name)?.to_string();
        self.change(|index| {
            if !index.images.contains_key(id) {
                return Err(Error::NotFound { what: "image", id: id.to_owned() });
            }
            index.names.insert(name, id.to_owned());
            Ok(())
        })
    }

    /// Removes an image with all its names and the layers that no other image has.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a container uses it. Succeeds when there is no such image.
    pub fn remove(&self, image: &str) -> Result<()> {
        let removed = self.change(|index| {
            let Some(id) = index.id_of(image) else { return Ok(false) };
            // Held until the index is written: whoever wants to use the image looks into the index afterwards.
            let Some(_lock) = self.try_exclusive(&id)? else {
                return Err(Error::Invalid(format!(
                    "image {image:?} is in use by a container; remove the container first"
                )));
            };
            index.images.remove(&id);
            index.names.retain(|_, other| *other != id);
            let path = self.use_path(&id);
            std::fs::remove_file(&path).map_err(system("removing", &path))?;
            Ok(true)
        })?;
        if removed { self.collect_garbage() } else { Ok(()) }
    }

    /// Returns the bytes of all layers.
    ///
    /// # Errors
    /// A layer's description cannot be read.
    pub fn bytes(&self) -> Result<u64> {
        Ok(self.layer_files()?.iter().map(|(_, layer)| layer.as_ref().map_or(0, |layer| layer.size)).sum())
    }

    /// Removes layers that no image has, and what an unpacking that was killed left behind.
    ///
    /// # Errors
    /// The file system's. What was removed by then stays removed.
    pub fn collect_garbage(&self) -> Result<()> {
        // Under the lock, so that no image comes to need a layer while it goes.
        let _lock = self.lock()?;
        let index = self.read()?;
        let needed: BTreeSet<String> =
            index.images.values().flat_map(|record| &record.layers).map(|layer| short(layer)).collect();
        for (name, _) in self.layer_files()? {
            if needed.contains(&name) {
                continue;
            }
            // A layer whose lock is held is being unpacked for an image that is not in the index yet.
            let Some(_lock) = try_lock(&self.directory.join("layers").join(format!("{name}.lock")))? else {
                continue;
            };
            for path in
                [format!("layers/{name}.json"), format!("layers/{name}"), format!("layers/{name}.lock")]
            {
                remove_all(&self.directory.join(path))?;
            }
        }
        let tmp = self.directory.join("tmp");
        for entry in fs_err::read_dir(&tmp).map_err(system("reading", &tmp))? {
            let path = entry.map_err(system("reading", &tmp))?.path();
            if path.extension().is_some_and(|extension| extension == "lock") {
                continue;
            }
            let lock_path = path.with_extension("lock");
            if let Some(_lock) = try_lock(&lock_path)? {
                remove_all(&path)?;
                remove_all(&lock_path)?;
            }
        }
        Ok(())
    }

    /// Adds an image whose layers are all there, under `names` as well.
    pub(crate) fn add(&self, id: &str, record: Record, names: &[String]) -> Result<Image> {
        self.change(|index| {
            for layer in &record.layers {
                self.layer(layer)?;
            }
            index.images.insert(id.to_owned(), record.clone());
            for name in names {
                index.names.insert(name.clone(), id.to_owned());
            }
            Ok(index.describe(id, &record))
        })
    }

    /// Returns an image's record and a guard that keeps it from being removed.
    pub(crate) fn hold(&self, image: &str) -> Result<(String, Record, InUse)> {
        let not_found = || Error::NotFound { what: "image", id: image.to_owned() };
        let id = self.read()?.id_of(image).ok_or_else(not_found)?;
        let lock = open_lock(&self.use_path(&id))?;
        rustix::fs::flock(&lock, FlockOperation::LockShared)
            .map_err(system("locking", &self.use_path(&id)))?;
        // Whoever removed it in between did so before the lock was had.
        let record = self.read()?.images.remove(&id).ok_or_else(not_found)?;
        Ok((id, record, InUse { lock }))
    }

    /// Returns the name of a layer's directory within [`Self::layers`], after checking that it is whole.
    pub(crate) fn layer(&self, diff_id: &str) -> Result<String> {
        let name = short(diff_id);
        match self.layer_file(&name)? {
            Some(layer) if layer.diff_id == diff_id => Ok(name),
            _ => Err(Error::NotFound { what: "layer", id: diff_id.to_owned() }),
        }
    }

    /// Returns the directory that all layers are in.
    pub(crate) fn layers(&self) -> PathBuf {
        self.directory.join("layers")
    }

    /// Returns the name of a layer with nothing in it, for images that have none.
    pub(crate) fn empty_layer(&self) -> Result<String> {
        const NAME: &str = "empty";
        let path = self.layers().join(NAME);
        std::fs::create_dir_all(&path).map_err(system("making", &path))?;
        Ok(NAME.to_owned())
    }

    /// Returns the size of the layer if it is there and whole.
    pub(crate) fn layer_size(&self, diff_id: &str) -> Result<Option<u64>> {
        Ok(self.layer_file(&short(diff_id))?.filter(|layer| layer.diff_id == diff_id).map(|layer| layer.size))
    }

    /// Unpacks a layer unless it is there; `open` gives its archive, compressed or not. Returns its size.
    /// Two processes that want the same layer unpack it once.
    pub(crate) fn put_layer<R: Read>(
        &self,
        diff_id: &str,
        open: impl FnOnce() -> std::io::Result<R>,
    ) -> Result<u64> {
        if !is_digest(diff_id) {
            return Err(Error::Invalid(format!("the layer {diff_id:?} is not named by a sha256 digest")));
        }
        let name = short(diff_id);
        let lock_path = self.layers().join(format!("{name}.lock"));
        let lock = open_lock(&lock_path)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(system("locking", &lock_path))?;
        if let Some(size) = self.layer_size(diff_id)? {
            return Ok(size);
        }
        let final_path = self.layers().join(&name);
        remove_all(&final_path)?;
        let temporary = self.temporary()?;
        let root = temporary.path.join("layer");
        std::fs::create_dir(&root).map_err(system("making", &root))?;
        let failed = system("unpacking a layer into", &root);
        let unpacked = open()
            .and_then(unpack::decompress)
            .and_then(|archive| unpack::unpack(archive, &root))
            .map_err(failed)?;
        if unpacked.diff_id != diff_id {
            return Err(Error::Invalid(format!(
                "a layer has the digest {}, its image says {diff_id}: the image is damaged",
                unpacked.diff_id
            )));
        }
        // The description makes the layer valid for ever, so the files must not be lost after it.
        let directory = rustix::fs::open(&root, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(system("opening", &root))?;
        rustix::fs::syncfs(&directory).map_err(system("writing out", &root))?;
        std::fs::rename(&root, &final_path).map_err(system("moving a layer to", &final_path))?;
        let layer = LayerFile { diff_id: diff_id.to_owned(), size: unpacked.size };
        let path = self.layers().join(format!("{name}.json"));
        write_json(&path, &layer)?;
        Ok(layer.size)
    }

    /// Makes a directory under `tmp` that goes when it is dropped.
    pub(crate) fn temporary(&self) -> Result<Temporary> {
        let tmp = self.directory.join("tmp");
        let directory = tempfile::Builder::new()
            .prefix("new-")
            .tempdir_in(&tmp)
            .map_err(system("making a directory in", &tmp))?
            .keep();
        let lock_path = directory.with_extension("lock");
        let lock = open_lock(&lock_path)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(system("locking", &lock_path))?;
        Ok(Temporary { path: directory, _lock: lock })
    }

    fn change<T>(&self, edit: impl FnOnce(&mut Index) -> Result<T>) -> Result<T> {
        let _lock = self.lock()?;
        let mut index = self.read()?;
        let result = edit(&mut index)?;
        write_json(&self.directory.join("index.json"), &index)?;
        Ok(result)
    }

    fn lock(&self) -> Result<OwnedFd> {
        let path = self.directory.join("lock");
        let lock = open_lock(&path)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(system("locking", &path))?;
        Ok(lock)
    }

    fn read(&self) -> Result<Index> {
        let path = self.directory.join("index.json");
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(system("reading", &path)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Index::default()),
            Err(error) => Err(system("reading", &path)(error)),
        }
    }

    fn use_path(&self, id: &str) -> PathBuf {
        self.directory.join("uses").join(id.trim_start_matches("sha256:"))
    }

    fn try_exclusive(&self, id: &str) -> Result<Option<OwnedFd>> {
        try_lock(&self.use_path(id))
    }

    fn layer_file(&self, name: &str) -> Result<Option<LayerFile>> {
        let path = self.layers().join(format!("{name}.json"));
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(system("reading", &path)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(system("reading", &path)(error)),
        }
    }

    /// Returns every layer by name, whole ones with their description.
    fn layer_files(&self) -> Result<Vec<(String, Option<LayerFile>)>> {
        let layers = self.layers();
        let mut names = BTreeSet::new();
        for entry in fs_err::read_dir(&layers).map_err(system("reading", &layers))? {
            let name = entry.map_err(system("reading", &layers))?.file_name();
            if let Some(name) = name.to_str()
                && !name.starts_with('.')
                && name != "empty"
            {
                names.insert(name.split('.').next().unwrap_or(name).to_owned());
            }
        }
        names
            .into_iter()
            .map(|name| {
                let file = self.layer_file(&name)?;
                Ok((name, file))
            })
            .collect()
    }
}

impl Index {
    fn id_of(&self, image: &str) -> Option<String> {
        let with_prefix = format!("sha256:{image}");
        if self.images.contains_key(image) {
            return Some(image.to_owned());
        }
        if self.images.contains_key(&with_prefix) {
            return Some(with_prefix);
        }
        self.names.get(&Reference::parse(image).ok()?.to_string()).cloned()
    }

    fn describe(&self, id: &str, record: &Record) -> Image {
        let names = self.names.iter().filter(|(_, other)| *other == id).map(|(name, _)| name.clone());
        let (digests, tags) = names.partition(|name| name.contains('@'));
        Image {
            id: id.to_owned(),
            tags,
            digests,
            size: record.size,
            user: record.config.user.clone(),
            pinned: record.pinned,
        }
    }
}

/// A directory that goes when it is dropped, and that a collector leaves alone until then.
#[derive(Debug)]
pub(crate) struct Temporary {
    pub(crate) path: PathBuf,
    _lock: OwnedFd,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        for path in [self.path.clone(), self.path.with_extension("lock")] {
            if let Err(error) = remove_all(&path) {
                tracing::warn!(%error, "a temporary directory stays behind");
            }
        }
    }
}

fn short(diff_id: &str) -> String {
    diff_id.trim_start_matches("sha256:").chars().take(NAME_LENGTH).collect()
}

fn open_lock(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC, Mode::from_raw_mode(0o600))
        .map_err(system("opening", path))
}

fn try_lock(path: &Path) -> Result<Option<OwnedFd>> {
    let lock = open_lock(path)?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(lock)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(system("locking", path)(error)),
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(value).map_err(system("writing", path))?;
    machinery::files::write_atomic(path, &bytes, machinery::files::PUBLIC).map_err(system("writing", path))
}

/// Removes a file or a tree. Succeeds when there is none.
pub(crate) fn remove_all(path: &Path) -> Result<()> {
    let result = match std::fs::symlink_metadata(path) {
        Err(error) => Err(error),
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
    };
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(system("removing", path)(error)),
        _ => Ok(()),
    }
}

/// Returns a function that makes an [`Error::System`] of what the system said.
pub(crate) fn system<E: std::fmt::Display>(doing: &str, path: &Path) -> impl FnOnce(E) -> Error + use<E> {
    let context = format!("{doing} {}", path.display());
    move |error| Error::System { context, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    fn layer(text: &str) -> (String, Vec<u8>) {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, "file", text.as_bytes()).unwrap();
        let archive = builder.into_inner().unwrap();
        (format!("sha256:{}", unpack::hex(&Sha256::digest(&archive))), archive)
    }

    fn add(store: &Store, id: &str, texts: &[&str], name: &str) {
        let mut record = Record::default();
        for text in texts {
            let (diff_id, archive) = layer(text);
            record.size += store.put_layer(&diff_id, || Ok(archive.as_slice())).unwrap();
            record.layers.push(diff_id);
        }
        store.add(id, record, &[Reference::parse(name).unwrap().to_string()]).unwrap();
    }

    #[test]
    fn an_image_is_found_by_id_and_by_every_way_to_write_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let id = format!("sha256:{}", "1".repeat(64));
        add(&store, &id, &["a"], "nginx");
        for name in ["nginx", "nginx:latest", "docker.io/library/nginx", &id, &id[7..]] {
            assert_eq!(store.find(name).unwrap().unwrap().id, id, "{name}");
        }
        assert_eq!(store.find("nginx:2").unwrap(), None);
        assert_eq!(store.find("Not A Name").unwrap(), None);
        assert_eq!(store.list().unwrap()[0].tags, ["docker.io/library/nginx:latest"]);
    }

    #[test]
    fn removing_an_image_keeps_the_layers_that_another_one_has() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        add(&store, "sha256:1", &["base", "one"], "one");
        add(&store, "sha256:2", &["base", "two"], "two");
        let before = store.bytes().unwrap();
        store.remove("one").unwrap();
        store.remove("one").unwrap();
        assert_eq!(store.bytes().unwrap(), before - 3);
        store.layer(&layer("base").0).unwrap();
        store.layer(&layer("one").0).unwrap_err();
        store.remove("two").unwrap();
        assert_eq!(store.bytes().unwrap(), 0);
        assert_eq!(std::fs::read_dir(store.layers()).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(directory.path().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn an_image_that_is_in_use_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        add(&store, "sha256:1", &["x"], "one");
        let (_, _, held) = store.hold("one").unwrap();
        let error = Store::open(directory.path()).unwrap().remove("one").unwrap_err().to_string();
        assert!(error.contains("in use by a container"), "{error}");
        drop(held);
        store.remove("one").unwrap();
        assert!(store.hold("one").is_err());
    }

    #[test]
    fn a_layer_that_is_not_what_its_digest_says_is_not_kept() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let (diff_id, _) = layer("right");
        let (_, wrong) = layer("wrong");
        let error = store.put_layer(&diff_id, || Ok(wrong.as_slice())).unwrap_err().to_string();
        assert!(error.contains("the image is damaged"), "{error}");
        assert_eq!(store.layer_size(&diff_id).unwrap(), None);
        store.collect_garbage().unwrap();
        assert_eq!(std::fs::read_dir(store.layers()).unwrap().count(), 0);
    }
}
