//! What is uploaded, on this side: measured first, then pumped in pieces by a thread that may block.

use std::io::{self, Read, Seek, SeekFrom, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use ring::digest::{Context, SHA256, digest};
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::file::Source;
use crate::ssh::run::PIECE;

/// How many pieces wait for the link.
const AHEAD: usize = 4;
/// Less than this is sent as it is.
const WORTH_COMPRESSING: u64 = 64 * 1024;

/// What the far side must have in the end.
#[derive(Debug, Clone)]
pub(super) struct Measure {
    pub(super) sum: String,
    pub(super) size: u64,
}

/// Measures a source.
pub(super) async fn measure(source: &Source) -> Result<Measure> {
    let source = source.clone();
    blocking(move || match &source {
        Source::Bytes(bytes) => {
            Ok(Measure { sum: hex(digest(&SHA256, bytes).as_ref()), size: bytes.len() as u64 })
        }
        Source::Path(path) => {
            let mut file = fs_err::File::open(path)?;
            let mut context = Context::new(&SHA256);
            let mut buffer = vec![0; PIECE];
            let mut size = 0;
            loop {
                let count = file.read(&mut buffer)?;
                if count == 0 {
                    return Ok(Measure { sum: hex(context.finish().as_ref()), size });
                }
                context.update(&buffer[..count]);
                size += count as u64;
            }
        }
    })
    .await
}

/// Reads a small source whole: `size` bytes of it.
pub(super) async fn whole(source: &Source, size: u64) -> Result<Bytes> {
    let source = source.clone();
    blocking(move || match source {
        Source::Bytes(bytes) => Ok(bytes),
        Source::Path(path) => {
            let mut bytes = Vec::new();
            fs_err::File::open(path)?.take(size).read_to_end(&mut bytes)?;
            Ok(bytes.into())
        }
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T> {
    let joined = tokio::task::spawn_blocking(work).await.map_err(io::Error::other).and_then(|done| done);
    joined.map_err(Error::local("reading what is to be uploaded"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Counts what is written.
struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A piece for the link, and how much of the source has gone when it has.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    pub(super) done: u64,
}

/// What a source gives from an offset on. Dropping it ends its thread.
#[derive(Debug)]
pub(super) struct Pump {
    pub(super) pieces: mpsc::Receiver<io::Result<Piece>>,
    pub(super) compressed: bool,
}

/// Starts to read `source`, which has `size` bytes, from `offset` on; compressed when that may be and helps.
pub(super) async fn pump(source: &Source, size: u64, offset: u64, may_compress: bool) -> Result<Pump> {
    let opened = source.clone();
    let worth = may_compress && size - offset >= WORTH_COMPRESSING;
    let (reader, compressed) = blocking(move || {
        let mut reader: Box<dyn Read + Send> = match opened {
            Source::Bytes(bytes) => Box::new(io::Cursor::new(
                bytes.slice(usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len())..),
            )),
            Source::Path(path) => {
                let mut file = fs_err::File::open(path)?;
                file.seek(SeekFrom::Start(offset))?;
                Box::new(file)
            }
        };
        if !worth {
            return Ok((reader, false));
        }
        let mut sample = Vec::new();
        (&mut reader).take(PIECE as u64).read_to_end(&mut sample)?;
        let mut trial = GzEncoder::new(Counter(0), Compression::fast());
        trial.write_all(&sample)?;
        let small = trial.finish()?.0;
        let helps = small * 10 < sample.len() as u64 * 9;
        Ok((Box::new(io::Cursor::new(sample).chain(reader)) as Box<dyn Read + Send>, helps))
    })
    .await?;
    let (sender, pieces) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = feed(reader, offset, compressed, &sender) {
            // Nobody listens any more when the upload was given up.
            let _ = sender.blocking_send(Err(error));
        }
    });
    Ok(Pump { pieces, compressed })
}

fn feed(
    mut reader: Box<dyn Read + Send>,
    offset: u64,
    compress: bool,
    sender: &mpsc::Sender<io::Result<Piece>>,
) -> io::Result<()> {
    let mut done = offset;
    let mut buffer = vec![0; PIECE];
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    loop {
        let count = reader.read(&mut buffer)?;
        done += count as u64;
        let bytes = if !compress {
            Bytes::copy_from_slice(&buffer[..count])
        } else if count == 0 {
            encoder.try_finish()?;
            std::mem::take(encoder.get_mut()).into()
        } else {
            encoder.write_all(&buffer[..count])?;
            std::mem::take(encoder.get_mut()).into()
        };
        if !bytes.is_empty() && sender.blocking_send(Ok(Piece { bytes, done })).is_err() || count == 0 {
            return Ok(());
        }
    }
}
