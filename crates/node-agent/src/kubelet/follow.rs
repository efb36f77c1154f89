//! Reading a log file to its end, and on while it grows: woken by inotify, ended by the container's end.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use runtime::ContainerEventKind;
use rustix::fs::inotify;
use tokio::net::unix::pipe;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::Body;
use super::logs::{Filter, Options, Source};
use crate::agent::Agent;

/// How much is read, and sent, at a time.
const BLOCK: usize = 32 * 1024;

/// Returns a body that carries the log.
pub(super) fn body(agent: &Arc<Agent>, source: Source, options: Options) -> Body {
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(4);
    let reader = agent.clone();
    agent.tasks.spawn("log", async move {
        let outcome = run(&reader, &source, options, &sender).await;
        if let Err(error) = outcome
            && sender
                .send(Err(io::Error::other(format!("reading {}: {error}", source.path.display()))))
                .await
                .is_err()
        {
            tracing::debug!(%error, "the reader of a log has gone");
        }
    });
    let stream =
        futures::stream::unfold(
            receiver,
            |mut receiver| async move { Some((receiver.recv().await?, receiver)) },
        );
    StreamBody::new(stream.map(|block| block.map(Frame::data))).boxed_unsync()
}

async fn run(
    agent: &Agent,
    source: &Source,
    options: Options,
    sender: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    // Subscribed before the first read, so that no end is missed.
    let mut events = agent.runtime.events();
    let follow = options.follow;
    let mut ended = source.ended || !follow;
    let watch = if ended { None } else { Some(Watch::new(&source.path)?) };
    let mut file = match File::open(&source.path) {
        Ok(mut file) => {
            if let Some(lines) = options.tail {
                seek_to_tail(&mut file, lines)?;
            }
            Some(BufReader::with_capacity(BLOCK, file))
        }
        // A container that has not said anything may have no file yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if !ended {
        // It may have ended between the snapshot and the subscription.
        let state = agent.runtime.container_status(&source.id).await;
        ended = state.is_ok_and(|status| status.state == runtime::ContainerState::Exited);
    }
    let mut filter = Filter::new(options);
    let mut line = Vec::new();
    loop {
        if file.is_none() {
            file = File::open(&source.path).ok().map(|file| BufReader::with_capacity(BLOCK, file));
        }
        if let Some(reader) = &mut file {
            loop {
                let (block, more) = read_block(reader, &mut filter, &mut line)?;
                if !block.is_empty() && sender.send(Ok(Bytes::from(block))).await.is_err() {
                    return Ok(());
                }
                match more {
                    More::Yes => {}
                    More::NotNow => break,
                    More::Never => return Ok(()),
                }
            }
            if rotated(reader, &source.path) {
                // What was written before the change of files has just been read.
                file = None;
                continue;
            }
        }
        if ended {
            return Ok(());
        }
        let Some(watch) = &watch else { return Ok(()) };
        tokio::select! {
            changed = watch.changed() => changed?,
            () = sender.closed() => return Ok(()),
            event = events.recv() => match event {
                Ok(event) => ended = event.id == source.id && event.kind == ContainerEventKind::Stopped,
                Err(RecvError::Lagged(_)) => {
                    let state = agent.runtime.container_status(&source.id).await;
                    ended = state.is_ok_and(|status| status.state == runtime::ContainerState::Exited);
                }
                Err(RecvError::Closed) => ended = true,
            },
        }
    }
}

enum More {
    Yes,
    NotNow,
    Never,
}

/// Reads lines until a block is full or the file has no more. `line` keeps the beginning of a line that is
/// still being written.
fn read_block(
    reader: &mut BufReader<File>,
    filter: &mut Filter,
    line: &mut Vec<u8>,
) -> io::Result<(Vec<u8>, More)> {
    let mut block = Vec::new();
    while block.len() < BLOCK {
        reader.read_until(b'\n', line)?;
        if line.last() != Some(&b'\n') {
            return Ok((block, More::NotNow));
        }
        line.pop();
        let more = filter.line(line, &mut block);
        line.clear();
        if !more {
            return Ok((block, More::Never));
        }
    }
    Ok((block, More::Yes))
}

/// Returns whether another file stands at `path` now.
fn rotated(reader: &BufReader<File>, path: &Path) -> bool {
    match (reader.get_ref().metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(there)) => open.ino() != there.ino(),
        _ => false,
    }
}

/// Moves to the beginning of the last `lines` lines.
fn seek_to_tail(file: &mut File, lines: u64) -> io::Result<()> {
    let end = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(());
    }
    let mut at = end;
    let mut wanted = lines;
    let mut block = vec![0u8; BLOCK];
    while at > 0 {
        let size = at.min(BLOCK as u64);
        at -= size;
        file.seek(SeekFrom::Start(at))?;
        let part = &mut block[..usize::try_from(size).unwrap_or(BLOCK)];
        file.read_exact(part)?;
        for (offset, byte) in part.iter().enumerate().rev() {
            let position = at + offset as u64;
            // The newline at the very end closes the last line; it begins none.
            if *byte == b'\n' && position + 1 < end {
                wanted = wanted.saturating_sub(1);
                if wanted == 0 {
                    file.seek(SeekFrom::Start(position + 1))?;
                    return Ok(());
                }
            }
        }
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(())
}

/// Tells of changes in the directory of a log. An inotify descriptor is read like a pipe.
struct Watch(pipe::Receiver);

impl Watch {
    fn new(log: &Path) -> io::Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        let directory = log.parent().unwrap_or(Path::new("/"));
        let changes =
            inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&fd, directory, changes)?;
        Ok(Self(pipe::Receiver::from_owned_fd_unchecked(fd)?))
    }

    /// Waits for a change, and takes all that have come.
    async fn changed(&self) -> io::Result<()> {
        let mut space = [0u8; 4096];
        loop {
            self.0.readable().await?;
            match self.0.try_read(&mut space) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_tail_begins_at_the_right_line() {
        let long = "x".repeat(BLOCK);
        let text = format!("a\nb\n{long}\nc\n");
        for (lines, expected) in
            [(0, String::new()), (1, "c\n".into()), (2, format!("{long}\nc\n")), (9, text.clone())]
        {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            seek_to_tail(&mut file, lines).unwrap();
            let mut found = String::new();
            file.read_to_string(&mut found).unwrap();
            assert_eq!(found, expected, "{lines}");
        }
    }

    #[tokio::test]
    async fn a_write_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("0.log");
        let watch = Watch::new(&log).unwrap();
        std::fs::write(&log, "x").unwrap();
        watch.changed().await.unwrap();
    }
}
