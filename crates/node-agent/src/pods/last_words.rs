//! What an ended container left to say: its termination message.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use runtime::ContainerStatus;

use super::labels;

/// The most of a termination message file that is read, bytes.
const LONGEST_FILE: u64 = 4096;
/// The most of a log that stands in for it: bytes and lines.
const LONGEST_LOG: usize = 2048;
const MOST_LINES: usize = 80;

/// Returns the termination message of an ended container, if it left one.
pub(super) fn read(status: &ContainerStatus) -> Option<String> {
    let file = status.annotations.get(labels::TERMINATION_FILE).map(Path::new);
    let text = file.and_then(|path| {
        let mut text = Vec::new();
        fs_err::File::open(path).ok()?.take(LONGEST_FILE).read_to_end(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    });
    if let Some(text) = text.filter(|text| !text.is_empty()) {
        return Some(text);
    }
    let policy = status.annotations.get(labels::TERMINATION_POLICY).map(String::as_str);
    if policy != Some("FallbackToLogsOnError") || status.exit_code == 0 {
        return None;
    }
    let mut log = fs_err::File::open(&status.log_path).ok()?;
    let length = log.metadata().ok()?.len();
    // Each line of a log carries a time and a stream's name: room for those, too.
    log.seek(SeekFrom::Start(length.saturating_sub(16 * 1024))).ok()?;
    let mut tail = Vec::new();
    log.read_to_end(&mut tail).ok()?;
    Some(last_lines(&String::from_utf8_lossy(&tail))).filter(|text| !text.is_empty())
}

/// Returns the end of a log in CRI's format, as the process wrote it.
fn last_lines(log: &str) -> String {
    let mut lines: Vec<&str> = log.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    if lines.len() > MOST_LINES {
        lines.drain(..lines.len() - MOST_LINES);
    }
    let mut text = lines.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    let mut from = text.len().saturating_sub(LONGEST_LOG);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text.split_off(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_loses_times_and_streams() {
        let log = "cut off\n2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stderr F two words\n";
        assert_eq!(last_lines(log), "one\ntwo words\n");
        let long = format!("t stdout F {}\n", "x".repeat(5000));
        assert_eq!(last_lines(&long).len(), LONGEST_LOG);
    }
}
