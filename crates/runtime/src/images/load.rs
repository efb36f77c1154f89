//! Loading images from files: OCI layouts and the archives of `docker save`, as directories or tar files.

use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::model::{ConfigFile, Descriptor, DockerArchiveEntry, Manifest, architecture};
use super::reference::{Reference, is_digest};
use super::store::{Record, Store, system};
use super::unpack;
use crate::{Error, Image, Result};

/// The largest description that is read; real ones have a few kilobytes.
const MOST_JSON: u64 = 8 << 20;
/// How deep indices may point to indices.
const MOST_DEPTH: usize = 4;

/// Adds every image in `path`, an OCI layout or an archive of `docker save`, as a directory or a tar file that may be
/// compressed. Returns the images with their names.
///
/// # Errors
/// [`Error::Invalid`] when it is neither, or damaged; nothing of a damaged image is kept.
pub fn load(store: &Store, path: &Path) -> Result<Vec<Image>> {
    let metadata = fs_err::metadata(path).map_err(system("reading", path))?;
    if metadata.is_dir() {
        return load_directory(store, path);
    }
    let file = fs_err::File::open(path).map_err(system("opening", path))?;
    load_reader(store, file).map_err(|error| match error {
        Error::Invalid(why) => Error::Invalid(format!("{}: {why}", path.display())),
        other => other,
    })
}

/// Like [`load`], from a tar file that is read once from start to end.
///
/// # Errors
/// As [`load`].
pub fn load_reader(store: &Store, reader: impl Read) -> Result<Vec<Image>> {
    let temporary = store.temporary()?;
    unpack_archive(reader, &temporary.path)?;
    load_directory(store, &temporary.path)
}

/// Unpacks an archive that has images in it; it may be compressed.
pub(crate) fn unpack_archive(reader: impl Read, directory: &Path) -> Result<()> {
    unpack::decompress(std::io::BufReader::new(reader))
        .and_then(|plain| unpack::unpack(plain, directory).map(drop))
        .map_err(|error| Error::Invalid(format!("it is not a tar file: {error}")))
}

/// Like [`load`], from a directory.
///
/// # Errors
/// As [`load`].
pub fn load_directory(store: &Store, directory: &Path) -> Result<Vec<Image>> {
    read_directory(directory)?.iter().map(|found| add(store, found)).collect()
}

/// An image in a directory.
pub(crate) struct Found {
    /// Its configuration, as it is.
    pub(crate) config: Vec<u8>,
    /// Its layers' files, lowest first; they may be compressed.
    pub(crate) layers: Vec<PathBuf>,
    /// Its names, whole.
    pub(crate) names: Vec<String>,
}

impl Found {
    /// Returns its id.
    pub(crate) fn id(&self) -> String {
        format!("sha256:{}", unpack::hex(&Sha256::digest(&self.config)))
    }

    /// Reads its configuration, and checks that it is for this machine and has as many layers as it says.
    pub(crate) fn check(&self) -> Result<ConfigFile> {
        let file: ConfigFile = serde_json::from_slice(&self.config)
            .map_err(|error| Error::Invalid(format!("the image's configuration does not parse: {error}")))?;
        if !file.architecture.is_empty() && file.architecture != architecture() {
            return Err(Error::Invalid(format!(
                "the image is for {}/{}, this machine runs linux/{}",
                file.os,
                file.architecture,
                architecture()
            )));
        }
        if file.rootfs.diff_ids.len() != self.layers.len() {
            return Err(Error::Invalid(format!(
                "the image's configuration names {} layers, its manifest {}",
                file.rootfs.diff_ids.len(),
                self.layers.len()
            )));
        }
        Ok(file)
    }
}

/// Finds the images in a directory, an OCI layout or what was in an archive of `docker save`.
pub(crate) fn read_directory(directory: &Path) -> Result<Vec<Found>> {
    // An archive of a newer `docker save` is both; only its manifest.json has the whole names.
    if directory.join("manifest.json").is_file() {
        docker_archive(directory)
    } else if directory.join("index.json").is_file() {
        oci_layout(directory)
    } else {
        Err(Error::Invalid(
            "it holds no image: there is neither a manifest.json (docker save) nor an index.json (OCI layout)"
                .to_owned(),
        ))
    }
}

fn docker_archive(directory: &Path) -> Result<Vec<Found>> {
    let entries: Vec<DockerArchiveEntry> = read_json(&directory.join("manifest.json"))?;
    let mut images = Vec::new();
    for entry in entries {
        let config = read(&within(directory, &entry.config)?)?;
        let layers =
            entry.layers.iter().map(|layer| within(directory, layer)).collect::<Result<Vec<PathBuf>>>()?;
        let names = entry
            .repo_tags
            .iter()
            .map(|name| Ok(Reference::parse(name)?.to_string()))
            .collect::<Result<Vec<String>>>()?;
        images.push(Found { config, layers, names });
    }
    Ok(images)
}

fn oci_layout(directory: &Path) -> Result<Vec<Found>> {
    let index: Manifest = read_json(&directory.join("index.json"))?;
    let mut images = Vec::new();
    for descriptor in index.manifests.unwrap_or_default() {
        let name = ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
            .iter()
            .find_map(|key| descriptor.annotations.get(*key));
        let names = match name {
            Some(name) => vec![Reference::parse(name)?.to_string()],
            None => Vec::new(),
        };
        let Some(manifest) = resolve(directory, &descriptor, MOST_DEPTH)? else { continue };
        let config = manifest.config.ok_or_else(|| Error::Invalid("a manifest has no config".to_owned()))?;
        let config = read(&blob(directory, &config.digest)?)?;
        let layers = manifest
            .layers
            .iter()
            .map(|layer| blob(directory, &layer.digest))
            .collect::<Result<Vec<PathBuf>>>()?;
        images.push(Found { config, layers, names });
    }
    if images.is_empty() {
        return Err(Error::Invalid(format!(
            "the index has no image for linux/{}, which is what this machine runs",
            architecture()
        )));
    }
    Ok(images)
}

/// Follows indices down to the manifest for this machine.
fn resolve(directory: &Path, descriptor: &Descriptor, depth: usize) -> Result<Option<Manifest>> {
    let manifest: Manifest = read_json(&blob(directory, &descriptor.digest)?)?;
    match &manifest.manifests {
        None => Ok(Some(manifest)),
        Some(_) if depth == 0 => Err(Error::Invalid("its indices point to indices without end".to_owned())),
        Some(manifests) => match Manifest::for_this_machine(manifests) {
            Some(found) => resolve(directory, found, depth - 1),
            None => Ok(None),
        },
    }
}

fn add(store: &Store, found: &Found) -> Result<Image> {
    let file = found.check()?;
    let mut size = 0;
    for (diff_id, path) in file.rootfs.diff_ids.iter().zip(&found.layers) {
        size += store.put_layer(diff_id, || std::fs::File::open(path))?;
    }
    let record = Record { layers: file.rootfs.diff_ids, size, config: file.config, pinned: false };
    store.add(&found.id(), record, &found.names)
}

fn blob(directory: &Path, digest: &str) -> Result<PathBuf> {
    if !is_digest(digest) {
        return Err(Error::Invalid(format!("{digest:?} is not a sha256 digest")));
    }
    within(directory, &format!("blobs/sha256/{}", &digest["sha256:".len()..]))
}

/// Returns the file `name` of the layout; links that lead out of it are an error.
fn within(directory: &Path, name: &str) -> Result<PathBuf> {
    let escapes = || Error::Invalid(format!("the file name {name:?} leads out of the archive"));
    if Path::new(name).components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(escapes());
    }
    let root = fs_err::canonicalize(directory).map_err(system("finding", directory))?;
    let path = root.join(name);
    // Older archives have a layer that is a link to another one's.
    let path = std::fs::canonicalize(&path)
        .map_err(|error| Error::Invalid(format!("the file {name} is missing: {error}")))?;
    if path.starts_with(&root) { Ok(path) } else { Err(escapes()) }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let size = fs_err::metadata(path).map_err(system("reading", path))?.len();
    if size > MOST_JSON {
        return Err(Error::Invalid(format!(
            "{} has {size} bytes, too many for a description",
            path.display()
        )));
    }
    std::fs::read(path).map_err(system("reading", path))
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_slice(&read(path)?).map_err(|error| {
        let name = path.file_name().unwrap_or_default().display();
        Error::Invalid(format!("{name} does not parse: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes an image both ways, as newer versions of `docker save` do.
    fn write_layout(directory: &Path, docker: bool, diff_id: Option<&str>) -> String {
        let layer = {
            let mut builder = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_size(2);
            header.set_mode(0o644);
            header.set_cksum();
            builder.append_data(&mut header, "hello", &b"hi"[..]).unwrap();
            builder.into_inner().unwrap()
        };
        let hash = |bytes: &[u8]| unpack::hex(&Sha256::digest(bytes));
        let blobs = directory.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let put = |bytes: &[u8]| {
            std::fs::write(blobs.join(hash(bytes)), bytes).unwrap();
            serde_json::json!({"digest": format!("sha256:{}", hash(bytes)), "size": bytes.len()})
        };
        let diff = diff_id.map_or_else(|| format!("sha256:{}", hash(&layer)), str::to_owned);
        let config = serde_json::json!({
            "architecture": architecture(), "os": "linux",
            "config": {"Cmd": ["/hello"], "User": "7:8"},
            "rootfs": {"type": "layers", "diff_ids": [diff]},
        })
        .to_string();
        let compressed = zstd::stream::encode_all(layer.as_slice(), 1).unwrap();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "config": put(config.as_bytes()), "layers": [put(&compressed)],
        })
        .to_string();
        let mut descriptor = put(manifest.as_bytes());
        descriptor["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "hello:v1"});
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [descriptor]});
        std::fs::write(directory.join("index.json"), index.to_string()).unwrap();
        if docker {
            let manifest = serde_json::json!([{
                "Config": format!("blobs/sha256/{}", hash(config.as_bytes())),
                "RepoTags": ["hello:docker"],
                "Layers": [format!("blobs/sha256/{}", hash(&compressed))],
            }]);
            std::fs::write(directory.join("manifest.json"), manifest.to_string()).unwrap();
        }
        format!("sha256:{}", hash(config.as_bytes()))
    }

    #[test]
    fn a_layout_and_a_docker_archive_load_from_directory_and_tar() {
        for (docker, name) in
            [(false, "docker.io/library/hello:v1"), (true, "docker.io/library/hello:docker")]
        {
            for packed in [false, true] {
                let (images, layout) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
                let store = Store::open(images.path()).unwrap();
                let id = write_layout(layout.path(), docker, None);
                let loaded = if packed {
                    let mut builder = tar::Builder::new(Vec::new());
                    builder.append_dir_all("", layout.path()).unwrap();
                    load_reader(&store, builder.into_inner().unwrap().as_slice()).unwrap()
                } else {
                    load(&store, layout.path()).unwrap()
                };
                assert_eq!(loaded.len(), 1);
                assert_eq!((loaded[0].id.as_str(), loaded[0].tags[0].as_str()), (id.as_str(), name));
                assert_eq!((loaded[0].size, loaded[0].user.as_str()), (2, "7:8"));
                let (_, record, _held) = store.hold(&id).unwrap();
                let layer = store.layers().join(store.layer(&record.layers[0]).unwrap());
                assert_eq!(std::fs::read(layer.join("hello")).unwrap(), b"hi");
            }
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let images = tempfile::tempdir().unwrap();
        let store = Store::open(images.path()).unwrap();
        let layout = tempfile::tempdir().unwrap();
        let error = load(&store, layout.path()).unwrap_err().to_string();
        assert!(error.contains("holds no image"), "{error}");
        let error = load_reader(&store, &b"not a tar file, but long enough"[..]).unwrap_err().to_string();
        assert!(error.contains("it is not a tar file") || error.contains("holds no image"), "{error}");
        write_layout(layout.path(), false, Some(&format!("sha256:{}", "0".repeat(64))));
        let error = load(&store, layout.path()).unwrap_err().to_string();
        assert!(error.contains("the image is damaged"), "{error}");
        assert!(store.list().unwrap().is_empty());
        std::fs::write(layout.path().join("manifest.json"), r#"[{"Config":"../../etc/passwd","Layers":[]}]"#)
            .unwrap();
        let error = load(&store, layout.path()).unwrap_err().to_string();
        assert!(error.contains("leads out of the archive"), "{error}");
    }
}
