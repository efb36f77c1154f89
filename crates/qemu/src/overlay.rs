//! Disk images: what a file is, and a copy-on-write layer over one.
//!
//! The layer is written here, by the published qcow2 format (version 3, docs/interop/qcow2 of QEMU), so that
//! nothing but QEMU itself is needed. An empty layer is a header, one reference block and an empty table.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::machine::Disk;

/// The format of a disk image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Format {
    /// QEMU's own.
    Qcow2,
    /// The bytes of the disk, one after the other.
    Raw,
}

/// What is known of an image by its first bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Its format.
    pub format: Format,
    /// The size that a guest sees, in bytes.
    pub size: u64,
    /// The image below, for a layer.
    pub base: Option<PathBuf>,
}

const MAGIC: &[u8; 4] = b"QFI\xfb";
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// What one entry of the first table spans: a table of eight-byte entries, each of them a cluster.
const SPAN: u64 = CLUSTER / 8 * CLUSTER;
const HEADER_LENGTH: u32 = 104;
/// The header extension that names the format of the image below. Without it QEMU would have to guess, and a
/// guest could write a header to a raw disk that makes it guess wrong.
const BASE_FORMAT: u32 = 0xe279_2aca;
/// The format's own limit for the name of the image below.
const LONGEST_BASE: usize = 1023;

/// Formats that QEMU could read, by their first bytes, but that a cloud image has no reason to be in.
const FOREIGN: &[(&[u8], &str)] = &[
    (b"KDMV", "VMDK"),
    (b"# Disk DescriptorFile", "VMDK"),
    (b"vhdxfile", "VHDX"),
    (b"conectix", "VHD"),
    (b"<<< ", "VDI"),
];

/// Looks at an image.
///
/// # Errors
/// [`Error::Disk`] when it cannot be read, is empty, is in a format that is not supported, or is damaged.
pub fn inspect(path: &Path) -> Result<Facts> {
    let fail = |error: io::Error| {
        let hint =
            if error.kind() == io::ErrorKind::NotFound { "it is not there" } else { "it cannot be read" };
        Error::disk(path, format!("{hint}: {error}"))
    };
    let mut file = std::fs::File::open(path).map_err(fail)?;
    let length = file.metadata().map_err(fail)?.len();
    let mut head = Vec::new();
    Read::by_ref(&mut file).take(CLUSTER).read_to_end(&mut head).map_err(fail)?;
    if head.starts_with(MAGIC) {
        return read_header(&head)
            .ok_or_else(|| Error::disk(path, "it is a damaged qcow2 image: fetch or build it again"));
    }
    if let Some((_, name)) = FOREIGN.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(Error::disk(
            path,
            format!("it is a {name} image: convert it (qemu-img convert -O qcow2)"),
        ));
    }
    if length == 0 || length % 512 != 0 {
        let reason = format!("its {length} bytes are neither qcow2 nor whole sectors of a raw disk");
        return Err(Error::disk(path, reason));
    }
    Ok(Facts { format: Format::Raw, size: length, base: None })
}

fn read_header(head: &[u8]) -> Option<Facts> {
    let word = |at: usize| head.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
    let long = |at: usize| head.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
    if !(2..=3).contains(&word(4)?) {
        return None;
    }
    let (base_at, base_length, size) = (usize::try_from(long(8)?).ok()?, word(16)? as usize, long(24)?);
    let base = if base_at == 0 {
        None
    } else {
        let name = head.get(base_at..base_at.checked_add(base_length)?)?;
        Some(PathBuf::from(std::ffi::OsStr::from_bytes(name)))
    };
    Some(Facts { format: Format::Qcow2, size, base })
}

/// Makes the layer of a disk unless it is there, and returns its size; one that is there has the disk's base
/// below it, or this fails.
///
/// # Errors
/// [`Error::Disk`] when the base is not usable, or the layer that is there is over another one;
/// [`Error::Io`] when it cannot be written.
pub fn ensure(disk: &Disk) -> Result<u64> {
    let Disk { path, base, size } = disk;
    let facts = inspect(base)?;
    if path.exists() {
        let found = inspect(path)?;
        return match found.base {
            Some(below) if below == *base => Ok(found.size),
            Some(below) => Err(Error::disk(
                path,
                format!(
                    "it was made over {}, not over {}: delete it to begin anew",
                    below.display(),
                    base.display()
                ),
            )),
            None => Err(Error::disk(
                path,
                format!("it is no layer over {}: delete it to begin anew", base.display()),
            )),
        };
    }
    let doing = || format!("making the disk {}", path.display());
    let size = facts.size.max(*size).next_multiple_of(512);
    let bytes = layer(base, facts.format, size).map_err(|reason| Error::disk(path, reason))?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs_err::create_dir_all(directory).map_err(Error::io(doing()))?;
    // Mode 0600 is what a temporary file has: a disk holds keys.
    let mut file =
        tempfile::Builder::new().prefix(".new-").tempfile_in(directory).map_err(Error::io(doing()))?;
    let written = (|| {
        file.write_all(&bytes)?;
        file.as_file().sync_all()
    })();
    written.map_err(Error::io(doing()))?;
    file.persist_noclobber(path).map_err(|error| Error::io(doing())(error.error))?;
    Ok(size)
}

/// Returns the bytes of an empty layer of `size` bytes over `base`.
fn layer(base: &Path, format: Format, size: u64) -> Result<Vec<u8>, String> {
    let name = base.as_os_str().as_bytes();
    if name.len() > LONGEST_BASE {
        return Err(format!("the path of the image below it has more than {LONGEST_BASE} bytes"));
    }
    let entries = size.div_ceil(SPAN);
    let table_clusters = (entries * 8).div_ceil(CLUSTER);
    // A reference block counts CLUSTER / 2 clusters; one is enough as long as the table is that small.
    let clusters = 3 + table_clusters;
    if clusters > CLUSTER / 2 {
        return Err(format!("{size} bytes are more than a disk can have"));
    }
    let mut out =
        io::Cursor::new(vec![0; usize::try_from(clusters * CLUSTER).map_err(|error| error.to_string())?]);
    let format = match format {
        Format::Qcow2 => "qcow2",
        Format::Raw => "raw",
    };
    let mut extension = Vec::new();
    extension.extend(BASE_FORMAT.to_be_bytes());
    extension.extend((format.len() as u32).to_be_bytes());
    extension.extend(format.as_bytes());
    extension.resize(extension.len().next_multiple_of(8), 0);
    // The end of the extensions: type 0, length 0.
    extension.extend([0; 8]);
    let name_at = u64::from(HEADER_LENGTH) + extension.len() as u64;

    let mut header = Vec::with_capacity(HEADER_LENGTH as usize);
    header.extend(MAGIC);
    header.extend(3u32.to_be_bytes());
    header.extend(name_at.to_be_bytes());
    header.extend((name.len() as u32).to_be_bytes());
    header.extend(CLUSTER_BITS.to_be_bytes());
    header.extend(size.to_be_bytes());
    header.extend(0u32.to_be_bytes()); // not encrypted
    header.extend(u32::try_from(entries).map_err(|error| error.to_string())?.to_be_bytes());
    header.extend((3 * CLUSTER).to_be_bytes()); // the first table
    header.extend(CLUSTER.to_be_bytes()); // the table of reference blocks
    header.extend(1u32.to_be_bytes()); // its clusters
    header.extend([0; 12]); // no snapshots
    header.extend([0; 24]); // no features
    header.extend(4u32.to_be_bytes()); // reference counts of 16 bits
    header.extend(HEADER_LENGTH.to_be_bytes());

    let mut put = |at: u64, bytes: &[u8]| -> Result<(), String> {
        out.seek(SeekFrom::Start(at)).and_then(|_| out.write_all(bytes)).map_err(|error| error.to_string())
    };
    put(0, &header)?;
    put(u64::from(HEADER_LENGTH), &extension)?;
    put(name_at, name)?;
    put(CLUSTER, &(2 * CLUSTER).to_be_bytes())?;
    for cluster in 0..clusters {
        put(2 * CLUSTER + cluster * 2, &1u16.to_be_bytes())?;
    }
    Ok(out.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(directory: &Path, size: u64) -> Disk {
        Disk { path: directory.join("disk.qcow2"), base: directory.join("base.img"), size }
    }

    #[test]
    fn a_layer_has_the_larger_size_and_is_not_made_twice() {
        let directory = tempfile::tempdir().unwrap();
        let disk = disk(directory.path(), 1 << 30);
        std::fs::write(&disk.base, vec![0; 1024]).unwrap();
        assert_eq!(ensure(&disk).unwrap(), 1 << 30);
        let facts = inspect(&disk.path).unwrap();
        assert_eq!(facts, Facts { format: Format::Qcow2, size: 1 << 30, base: Some(disk.base.clone()) });
        let before = std::fs::read(&disk.path).unwrap();
        assert_eq!(ensure(&Disk { size: 0, ..disk.clone() }).unwrap(), 1 << 30);
        assert_eq!(std::fs::read(&disk.path).unwrap(), before);

        let other = Disk { path: directory.path().join("small.qcow2"), size: 0, ..disk };
        ensure(&other).unwrap();
        assert_eq!(inspect(&other.path).unwrap().size, 1024);
    }

    #[test]
    fn a_layer_over_another_image_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let disk = disk(directory.path(), 0);
        std::fs::write(&disk.base, [0; 512]).unwrap();
        ensure(&disk).unwrap();
        let moved = Disk { base: directory.path().join("new.img"), ..disk.clone() };
        std::fs::write(&moved.base, [0; 512]).unwrap();
        let error = ensure(&moved).unwrap_err().to_string();
        assert!(error.contains("base.img, not over") && error.contains("delete it to begin anew"), "{error}");
        std::fs::write(&disk.path, [0; 512]).unwrap();
        assert!(ensure(&disk).unwrap_err().to_string().contains("it is no layer over"));
    }

    #[test]
    fn what_is_no_disk_is_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        let absent = inspect(&path).unwrap_err().to_string();
        assert!(absent.contains("it is not there"), "{absent}");
        let cases: &[(&[u8], &str)] = &[
            (b"", "0 bytes are neither"),
            (b"<html>404</html>", "16 bytes are neither"),
            (b"KDMV and more", "it is a VMDK image"),
            (b"vhdxfile and more", "it is a VHDX image"),
            (b"QFI\xfb\0\0\0\x03", "damaged qcow2"),
            (b"QFI\xfb\0\0\0\x09aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "damaged qcow2"),
        ];
        for (contents, expected) in cases {
            std::fs::write(&path, contents).unwrap();
            let error = inspect(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error} lacks {expected}");
        }
        // The name of the image below reaches beyond the file.
        let mut cut = layer(Path::new("/base"), Format::Raw, 1 << 20).unwrap();
        cut.truncate(120);
        std::fs::write(&path, cut).unwrap();
        assert!(inspect(&path).unwrap_err().to_string().contains("damaged qcow2"));
    }

    #[test]
    fn sizes_at_the_edges_have_a_table_that_fits() {
        for (size, clusters) in [(1, 4), (SPAN, 4), (SPAN + 1, 4), (8192 * SPAN, 4), (8193 * SPAN, 5)] {
            assert_eq!(
                layer(Path::new("/base"), Format::Raw, size).unwrap().len() as u64,
                clusters * CLUSTER
            );
        }
        assert!(layer(Path::new("/base"), Format::Raw, 1 << 62).is_err());
        assert!(layer(&PathBuf::from("/".repeat(2000)), Format::Raw, 512).is_err());
    }
}
