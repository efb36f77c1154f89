//! Unpacks images by their first bytes, whatever they are called: gzip, bzip2, xz, zstd, or not packed at all.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ring::digest::{Context, SHA256};
use tempfile::NamedTempFile;
use tokio::sync::watch;

use super::{Source, checksum};
use crate::error::{Error, Result};

/// How much is written, or left out as a hole, at once.
const BLOCK: usize = 64 * 1024;
/// The most memory that unpacking xz may take, in KiB: what its strongest preset asks for is below.
const XZ_MEMORY: u32 = 256 * 1024;

/// An unpacked image without a name yet.
#[derive(Debug)]
pub(super) struct Unpacked {
    pub(super) file: NamedTempFile,
    pub(super) digest: String,
    pub(super) length: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    None,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

impl Packing {
    fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, 8, ..] => Self::Gzip,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// Unpacks `packed` into a new file in `directory`; tells how many bytes it has read, of how many.
pub(super) fn unpack(
    source: &Source,
    packed: &Path,
    directory: &Path,
    cancelled: &AtomicBool,
    told: &watch::Sender<(u64, u64)>,
) -> Result<Unpacked> {
    let reading = |error: io::Error| Error::image(source, format!("it cannot be read: {error}"));
    let mut file = File::open(packed).map_err(reading)?;
    let total = file.metadata().map_err(reading)?.len();
    let mut head = Vec::new();
    Read::by_ref(&mut file).take(6).read_to_end(&mut head).map_err(reading)?;
    file.seek(SeekFrom::Start(0)).map_err(reading)?;
    let packing = Packing::of(&head);
    let done = Arc::new(AtomicU64::new(0));
    let input = BufReader::with_capacity(BLOCK, Counted { file, done: done.clone() });
    let mut reader: Box<dyn Read> = match packing {
        Packing::None => Box::new(input),
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Packing::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
        Packing::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(input, true, XZ_MEMORY)),
        Packing::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(input).map_err(reading)?),
    };
    let writing = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ": make room, and run it again",
            _ => "",
        };
        Error::io(format!("unpacking into {}{hint}", directory.display()))(error)
    };
    let mut out = tempfile::Builder::new().prefix(".new-").tempfile_in(directory).map_err(writing)?;
    let mut context = Context::new(&SHA256);
    let mut length = 0u64;
    let mut block = vec![0; BLOCK];
    loop {
        if cancelled.load(Ordering::Relaxed) {
            return Err(writing(io::ErrorKind::Interrupted.into()));
        }
        let filled = fill(&mut reader, &mut block).map_err(|error| {
            Error::image(source, format!("it is damaged or cut off, {packing:?} says: {error}"))
        })?;
        if filled == 0 {
            break;
        }
        let block = &block[..filled];
        context.update(block);
        length += filled as u64;
        // Raw images are mostly zeros.
        if block.iter().all(|&byte| byte == 0) {
            out.as_file_mut().seek(SeekFrom::Current(filled as i64)).map_err(writing)?;
        } else {
            out.write_all(block).map_err(writing)?;
        }
        told.send_replace((done.load(Ordering::Relaxed), total));
    }
    out.as_file().set_len(length).map_err(writing)?;
    Ok(Unpacked { file: out, digest: checksum::hex(context), length })
}

fn fill(reader: &mut dyn Read, block: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match reader.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

struct Counted {
    file: File,
    done: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.done.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    /// A megabyte with a hole in it.
    fn disk() -> Vec<u8> {
        let mut bytes = vec![0u8; 1 << 20];
        for (at, byte) in bytes.iter_mut().take(100_000).enumerate() {
            *byte = (at % 251) as u8;
        }
        bytes.extend(b"the end");
        bytes
    }

    fn run(packed: &[u8]) -> Result<(Vec<u8>, Unpacked)> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("packed");
        std::fs::write(&path, packed).unwrap();
        let (told, heard) = watch::channel((0, 0));
        let unpacked = unpack(
            &Source::File(path),
            &directory.path().join("packed"),
            directory.path(),
            &AtomicBool::new(false),
            &told,
        )?;
        let total = packed.len() as u64;
        assert_eq!(*heard.borrow(), (total, total));
        Ok((std::fs::read(unpacked.file.path()).unwrap(), unpacked))
    }

    fn packings() -> Vec<Vec<u8>> {
        let disk = disk();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&disk).unwrap();
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(&disk).unwrap();
        vec![gzip.finish().unwrap(), bzip2.finish().unwrap(), zstd::encode_all(&disk[..], 1).unwrap()]
    }

    #[test]
    fn every_packing_gives_the_same_bytes_with_holes() {
        let disk = disk();
        for packed in packings().into_iter().chain([disk.clone()]) {
            let (bytes, unpacked) = run(&packed).unwrap();
            assert!(bytes == disk && unpacked.length == disk.len() as u64);
            assert_eq!(unpacked.digest, checksum::of_bytes(&disk));
            assert!(unpacked.file.as_file().metadata().unwrap().blocks() * 512 < 300_000, "no hole");
        }
    }

    /// Made by the program xz (`printf 'packed by xz' | xz --check=crc64`): the crate is built without its packer.
    const XZ: [u8; 68] = [
        0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x04, 0xe6, 0xd6, 0xb4, 0x46, 0x02, 0x00, 0x21, 0x01, 0x16,
        0x00, 0x00, 0x00, 0x74, 0x2f, 0xe5, 0xa3, 0x01, 0x00, 0x0b, 0x70, 0x61, 0x63, 0x6b, 0x65, 0x64, 0x20,
        0x62, 0x79, 0x20, 0x78, 0x7a, 0x00, 0xf9, 0x8a, 0xd3, 0xaa, 0x4a, 0x82, 0xf4, 0x10, 0x00, 0x01, 0x24,
        0x0c, 0xa6, 0x18, 0xd8, 0xd8, 0x1f, 0xb6, 0xf3, 0x7d, 0x01, 0x00, 0x00, 0x00, 0x00, 0x04, 0x59, 0x5a,
    ];

    #[test]
    fn xz_is_unpacked() {
        assert_eq!(run(&XZ).unwrap().0, b"packed by xz");
        assert_eq!(run(&[XZ, XZ].concat()).unwrap().0, b"packed by xzpacked by xz");
    }

    #[test]
    fn what_is_cut_off_or_damaged_is_an_error() {
        for mut packed in packings().into_iter().chain([XZ.to_vec()]) {
            let whole = packed.len();
            packed.truncate(whole - 5);
            let error = run(&packed).unwrap_err().to_string();
            assert!(error.contains("damaged or cut off"), "{error}");
            packed.truncate(whole / 2);
            packed[whole / 3] ^= 0xff;
            assert!(run(&packed).is_err());
        }
    }
}
