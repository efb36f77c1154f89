//! What engine and shim say to each other over the shim's socket: frames of a kind, a length and bytes.

use serde::{Deserialize, Serialize};

/// One byte of kind, four of length (little-endian).
pub(crate) const HEADER: usize = 5;
/// The longest frame that either side accepts.
pub(crate) const MOST: usize = 1 << 20;
/// The name of the socket in a container's run directory.
pub(crate) const SOCKET: &str = "shim.sock";

/// The kinds of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// To the shim: tell the state now and the exit when it comes.
    Watch = 1,
    /// To the shim: send output from now on, and take input.
    Attach = 2,
    /// To the shim: send the signal (i32) to the container's first process.
    Signal = 3,
    /// To the shim: open the log file anew.
    ReopenLog = 4,
    /// To the shim: bytes for standard input.
    Stdin = 5,
    /// To the shim: no more input from this client.
    StdinEnd = 6,
    /// To the shim: the terminal's size, columns and rows (u16 each).
    Resize = 7,
    /// From the shim: the container runs; its process id (i32).
    Started = 64,
    /// From the shim: it could not be started; why.
    Failed = 65,
    /// From the shim: it ended; an [`Exit`] as JSON.
    Exited = 66,
    /// From the shim: bytes of standard output.
    Stdout = 67,
    /// From the shim: bytes of standard error.
    Stderr = 68,
    /// From the shim: done.
    Done = 69,
    /// From the shim: not done; why.
    Refused = 70,
}

impl Kind {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Watch,
            2 => Self::Attach,
            3 => Self::Signal,
            4 => Self::ReopenLog,
            5 => Self::Stdin,
            6 => Self::StdinEnd,
            7 => Self::Resize,
            64 => Self::Started,
            65 => Self::Failed,
            66 => Self::Exited,
            67 => Self::Stdout,
            68 => Self::Stderr,
            69 => Self::Done,
            70 => Self::Refused,
            _ => return None,
        })
    }
}

/// How a container ended. Also the contents of its exit file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exit {
    /// The exit code; 128 + n for signal n.
    pub(crate) code: i32,
    /// The kernel killed something in it for want of memory.
    pub(crate) out_of_memory: bool,
    /// When it ended.
    pub(crate) finished_at: jiff::Timestamp,
}

/// Appends a frame to `buffer`.
pub(crate) fn put(buffer: &mut Vec<u8>, kind: Kind, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("frames are cut into pieces far below 4 GiB");
    buffer.push(kind as u8);
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(payload);
}

/// A frame at the start of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed<'a> {
    /// It is not all there yet.
    Partial,
    /// It is, and takes this many bytes.
    Frame(Kind, &'a [u8], usize),
    /// The other side does not speak this protocol.
    Garbage,
}

/// Reads the frame that `buffer` starts with.
pub(crate) fn parse(buffer: &[u8]) -> Parsed<'_> {
    let Some((header, rest)) = buffer.split_at_checked(HEADER) else { return Parsed::Partial };
    let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
    match Kind::from_byte(header[0]) {
        Some(kind) if length <= MOST => match rest.get(..length) {
            Some(payload) => Parsed::Frame(kind, payload, HEADER + length),
            None => Parsed::Partial,
        },
        _ => Parsed::Garbage,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let mut buffer = Vec::new();
        put(&mut buffer, Kind::Stdout, b"hello");
        put(&mut buffer, Kind::Resize, &[80, 0, 24, 0]);
        for cut in 0..HEADER + 5 {
            assert_eq!(parse(&buffer[..cut]), Parsed::Partial, "{cut}");
        }
        assert_eq!(parse(&buffer), Parsed::Frame(Kind::Stdout, b"hello", 10));
        assert_eq!(parse(&buffer[10..]), Parsed::Frame(Kind::Resize, &[80, 0, 24, 0], 9));
        assert_eq!(parse(b"GET / HTTP/1.1"), Parsed::Garbage);
        assert_eq!(parse(&[5, 255, 255, 255, 255]), Parsed::Garbage);
    }
}
