//! An image made of nothing but one static executable, for work that must not need a registry.

use std::io::{Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::model::{ConfigFile, ImageConfig, RootFs, architecture};
use super::reference::Reference;
use super::store::{Record, Store, system};
use super::unpack;
use crate::{Image, Result};

/// The users of the image: root and one without rights.
const PASSWD: &str = "root:x:0:0:root:/:/bin/cluster\nnobody:x:65534:65534:nobody:/:/bin/cluster\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

/// Adds an image named `name` with one layer: the static `executable` as `/bin/cluster`, which is also the
/// entrypoint, `/etc/passwd`, `/etc/group`, `/tmp` and the `files` (absolute path, mode, contents).
/// The same input gives the same image id on every machine.
///
/// # Errors
/// The executable cannot be read, the name is bad, or the store cannot be written.
pub fn from_executable(
    store: &Store,
    name: &str,
    executable: &Path,
    files: &[(String, u32, Vec<u8>)],
) -> Result<Image> {
    let name = Reference::parse(name)?.to_string();
    let archive = write_layer(Vec::new(), executable, files)?;
    let diff_id = format!("sha256:{}", unpack::hex(&Sha256::digest(&archive)));
    let size = store.put_layer(&diff_id, || Ok(archive.as_slice()))?;
    let file = configuration(&diff_id, &["/bin/cluster"]);
    let bytes = serde_json::to_vec(&file).map_err(system("describing", executable))?;
    let id = format!("sha256:{}", unpack::hex(&Sha256::digest(&bytes)));
    store.add(&id, Record { layers: vec![diff_id], size, config: file.config, pinned: false }, &[name])
}

/// Returns the configuration of an image with this one layer.
pub(crate) fn configuration(diff_id: &str, entrypoint: &[&str]) -> ConfigFile {
    ConfigFile {
        architecture: architecture().to_owned(),
        os: "linux".to_owned(),
        config: ImageConfig {
            entrypoint: entrypoint.iter().map(|word| (*word).to_owned()).collect(),
            env: vec!["PATH=/bin".to_owned()],
            ..ImageConfig::default()
        },
        rootfs: RootFs { kind: "layers".to_owned(), diff_ids: vec![diff_id.to_owned()] },
    }
}

/// Writes the layer as a plain tar file. The same input gives the same bytes.
pub(crate) fn write_layer<W: Write>(
    writer: W,
    executable: &Path,
    files: &[(String, u32, Vec<u8>)],
) -> Result<W> {
    let failed = |error: std::io::Error| system("packing", executable)(error);
    let program = std::fs::File::open(executable).map_err(system("reading", executable))?;
    let size = program.metadata().map_err(system("reading", executable))?.len();
    let mut builder = tar::Builder::new(writer);
    for (path, mode) in [("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777)] {
        let mut header = header(tar::EntryType::Directory, mode, 0);
        builder.append_data(&mut header, path, std::io::empty()).map_err(failed)?;
    }
    let mut header_of_program = header(tar::EntryType::Regular, 0o755, size);
    builder.append_data(&mut header_of_program, "bin/cluster", program.take(size)).map_err(failed)?;
    let mut file = |path: &str, mode: u32, contents: &[u8]| {
        let mut header = header(tar::EntryType::Regular, mode, contents.len() as u64);
        builder.append_data(&mut header, path.trim_start_matches('/'), contents)
    };
    file("etc/passwd", 0o644, PASSWD.as_bytes()).map_err(failed)?;
    file("etc/group", 0o644, GROUP.as_bytes()).map_err(failed)?;
    for (path, mode, contents) in files {
        file(path, *mode, contents).map_err(failed)?;
    }
    builder.into_inner().map_err(failed)
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_executable_gives_the_same_image() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        std::fs::write(&program, b"\x7fELF").unwrap();
        let image = |store: &str| {
            let store = Store::open(&directory.path().join(store)).unwrap();
            let files = [("/etc/motd".to_owned(), 0o644, b"hello".to_vec())];
            from_executable(&store, "cluster.local/verify:v1", &program, &files).unwrap()
        };
        let (one, two) = (image("one"), image("two"));
        assert_eq!(one, two);
        assert_eq!(one.tags, ["cluster.local/verify:v1"]);
    }
}
