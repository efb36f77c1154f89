//! A container's log file, in the format of the CRI: time, stream, whether the line is whole, and the line.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// The longest line that is written in one piece; longer ones are cut, as other runtimes do.
const MOST_LINE: usize = 16 * 1024;

/// Writes what a container prints.
pub(super) struct Log {
    path: PathBuf,
    file: Option<File>,
    out: Vec<u8>,
}

/// What was read of one stream without the end of its line.
pub(super) struct Lines {
    name: &'static str,
    rest: Vec<u8>,
}

impl Lines {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, rest: Vec::new() }
    }
}

impl Log {
    /// Opens the file at `path`; an empty path keeps no log.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut log = Self { path: path.to_owned(), file: None, out: Vec::new() };
        log.reopen()?;
        Ok(log)
    }

    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if self.path.as_os_str().is_empty() {
            return Ok(());
        }
        self.file = Some(File::options().append(true).create(true).mode(0o640).open(&self.path)?);
        Ok(())
    }

    /// Writes the lines that `data` completes.
    pub(super) fn write(&mut self, lines: &mut Lines, mut data: &[u8], now: Timestamp) {
        while let Some(end) = data.iter().position(|byte| *byte == b'\n') {
            let (line, after) = data.split_at(end);
            self.append(lines, line, now);
            self.line(lines, true, now);
            data = &after[1..];
        }
        self.append(lines, data, now);
        self.flush();
    }

    /// Writes the last line of a stream that ended without a newline.
    pub(super) fn finish(&mut self, lines: &mut Lines, now: Timestamp) {
        if !lines.rest.is_empty() {
            self.line(lines, true, now);
        }
        self.flush();
    }

    fn append(&mut self, lines: &mut Lines, mut data: &[u8], now: Timestamp) {
        while lines.rest.len() + data.len() > MOST_LINE {
            let (now_part, later) = data.split_at(MOST_LINE - lines.rest.len());
            lines.rest.extend_from_slice(now_part);
            self.line(lines, false, now);
            data = later;
        }
        lines.rest.extend_from_slice(data);
    }

    fn line(&mut self, lines: &mut Lines, whole: bool, now: Timestamp) {
        let tag = if whole { 'F' } else { 'P' };
        write!(self.out, "{now:.9} {} {tag} ", lines.name).expect("writing to a Vec cannot fail");
        self.out.extend_from_slice(&lines.rest);
        self.out.push(b'\n');
        lines.rest.clear();
    }

    fn flush(&mut self) {
        // A full disk must not stop the container: what cannot be written is lost, as with other runtimes.
        if let Some(file) = &mut self.file
            && file.write_all(&self.out).is_err()
        {
            self.file = None;
        }
        self.out.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_in_the_format_of_the_cri() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let now: Timestamp = "2026-11-22T20:35:09.12Z".parse().unwrap();
        let mut log = Log::open(&path).unwrap();
        let (mut out, mut err) = (Lines::new("stdout"), Lines::new("stderr"));
        log.write(&mut out, b"one\ntw", now);
        log.write(&mut err, b"bad\n\n", now);
        log.write(&mut out, b"o\nrest", now);
        log.finish(&mut out, now);
        log.finish(&mut err, now);
        let at = "2026-11-22T20:35:09.120000000Z";
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            format!(
                "{at} stdout F one\n{at} stderr F bad\n{at} stderr F \n{at} stdout F two\n{at} stdout F rest\n"
            )
        );
    }

    #[test]
    fn a_long_line_is_cut_into_pieces_that_say_so() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let mut log = Log::open(&path).unwrap();
        let mut out = Lines::new("stdout");
        log.write(&mut out, &[b"x".repeat(40_000), b"\n".to_vec()].concat(), Timestamp::UNIX_EPOCH);
        let text = std::fs::read_to_string(&path).unwrap();
        let pieces: Vec<(&str, usize)> = text
            .lines()
            .map(|line| {
                let mut parts = line.splitn(4, ' ').skip(2);
                (parts.next().unwrap(), parts.next().unwrap().len())
            })
            .collect();
        assert_eq!(pieces, [("P", MOST_LINE), ("P", MOST_LINE), ("F", 40_000 - 2 * MOST_LINE)]);
    }

    #[test]
    fn after_the_file_was_moved_away_a_new_one_is_begun() {
        let directory = tempfile::tempdir().unwrap();
        let (path, old) = (directory.path().join("0.log"), directory.path().join("0.log.1"));
        let mut log = Log::open(&path).unwrap();
        let mut out = Lines::new("stdout");
        log.write(&mut out, b"one\n", Timestamp::UNIX_EPOCH);
        std::fs::rename(&path, &old).unwrap();
        log.reopen().unwrap();
        log.write(&mut out, b"two\n", Timestamp::UNIX_EPOCH);
        assert!(std::fs::read_to_string(&old).unwrap().ends_with("one\n"));
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("two\n"));
    }
}
