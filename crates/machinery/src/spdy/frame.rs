//! Frames as bytes. Pure.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The protocol version in control frames.
const VERSION: u16 = 3;
/// The last frame of its sender on this stream.
pub(super) const FIN: u8 = 1;
/// The largest frame that is taken from a client.
const LARGEST: usize = 1 << 20;

/// A frame. Header blocks are still packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// The client opens a stream.
    SynStream { id: u32, fin: bool, block: Bytes },
    /// The stream is taken.
    SynReply { id: u32, block: Bytes },
    /// The stream is broken off.
    Reset { id: u32, status: u32 },
    /// More headers.
    Headers { id: u32, fin: bool, block: Bytes },
    /// To be sent back.
    Ping { id: u32 },
    /// The other end opens no more streams.
    GoAway,
    /// Data of a stream.
    Data { id: u32, fin: bool, bytes: Bytes },
    /// A frame that needs no answer: settings, window updates, unknown ones.
    Other,
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("SPDY frame: {what}"))
}

/// Takes one frame from `buffer`, if it holds a whole one.
///
/// # Errors
/// When it cannot be SPDY/3.
pub(super) fn decode(buffer: &mut BytesMut) -> io::Result<Option<Frame>> {
    let Some(header) = buffer.get(..8) else { return Ok(None) };
    let first = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
    let flags = header[4];
    let length = usize::from(header[5]) << 16 | usize::from(header[6]) << 8 | usize::from(header[7]);
    if length > LARGEST {
        return Err(bad("too large"));
    }
    if buffer.len() < 8 + length {
        buffer.reserve(8 + length - buffer.len());
        return Ok(None);
    }
    let mut body = buffer.split_to(8 + length).freeze();
    body.advance(8);
    let fin = flags & FIN != 0;
    if first >> 31 == 0 {
        return Ok(Some(Frame::Data { id: first, fin, bytes: body }));
    }
    let version = u16::try_from(first >> 16 & 0x7fff).unwrap_or(0);
    if version != VERSION {
        return Err(bad(&format!("version {version} is not {VERSION}")));
    }
    let number = |body: &mut Bytes| -> io::Result<u32> {
        if body.remaining() < 4 { Err(bad("cut off")) } else { Ok(body.get_u32() & 0x7fff_ffff) }
    };
    Ok(Some(match first & 0xffff {
        1 => {
            let id = number(&mut body)?;
            number(&mut body)?;
            if body.remaining() < 2 {
                return Err(bad("cut off"));
            }
            body.advance(2);
            Frame::SynStream { id, fin, block: body }
        }
        2 => Frame::SynReply { id: number(&mut body)?, block: body },
        3 => Frame::Reset { id: number(&mut body)?, status: number(&mut body)? },
        6 => {
            if body.remaining() < 4 {
                return Err(bad("cut off"));
            }
            Frame::Ping { id: body.get_u32() }
        }
        7 => Frame::GoAway,
        8 => Frame::Headers { id: number(&mut body)?, fin, block: body },
        _ => Frame::Other,
    }))
}

/// Appends a frame.
pub(super) fn encode(frame: &Frame, into: &mut BytesMut) {
    let control = |into: &mut BytesMut, kind: u32, flags: u8, length: usize| {
        into.put_u32(1 << 31 | u32::from(VERSION) << 16 | kind);
        into.put_u32(u32::from(flags) << 24 | u32::try_from(length).unwrap_or(0) & 0x00ff_ffff);
    };
    let flags = |fin: bool| if fin { FIN } else { 0 };
    match frame {
        Frame::SynStream { id, fin, block } => {
            control(into, 1, flags(*fin), 10 + block.len());
            into.put_u32(*id);
            into.put_u32(0);
            into.put_u16(0);
            into.put_slice(block);
        }
        Frame::SynReply { id, block } => {
            control(into, 2, 0, 4 + block.len());
            into.put_u32(*id);
            into.put_slice(block);
        }
        Frame::Reset { id, status } => {
            control(into, 3, 0, 8);
            into.put_u32(*id);
            into.put_u32(*status);
        }
        Frame::Headers { id, fin, block } => {
            control(into, 8, flags(*fin), 4 + block.len());
            into.put_u32(*id);
            into.put_slice(block);
        }
        Frame::Ping { id } => {
            control(into, 6, 0, 4);
            into.put_u32(*id);
        }
        Frame::GoAway => {
            control(into, 7, 0, 8);
            into.put_u64(0);
        }
        Frame::Data { id, fin, bytes } => {
            into.put_u32(*id & 0x7fff_ffff);
            into.put_u32(
                u32::from(flags(*fin)) << 24 | u32::try_from(bytes.len()).unwrap_or(0) & 0x00ff_ffff,
            );
            into.put_slice(bytes);
        }
        Frame::Other => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_survive_the_way_there_and_back() {
        let block = Bytes::from_static(b"block");
        for frame in [
            Frame::SynStream { id: 1, fin: true, block: block.clone() },
            Frame::SynReply { id: 1, block: block.clone() },
            Frame::Reset { id: 3, status: 5 },
            Frame::Headers { id: 3, fin: false, block },
            Frame::Ping { id: 9 },
            Frame::GoAway,
            Frame::Data { id: 7, fin: true, bytes: Bytes::from_static(b"data") },
        ] {
            let mut buffer = BytesMut::new();
            encode(&frame, &mut buffer);
            let mut part = BytesMut::from(&buffer[..buffer.len() - 1]);
            assert_eq!(decode(&mut part).unwrap(), None, "half a frame is no frame");
            assert_eq!(decode(&mut buffer).unwrap(), Some(frame));
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn another_version_is_refused() {
        let mut buffer = BytesMut::from(&[0x80u8, 2, 0, 1, 0, 0, 0, 0][..]);
        assert!(decode(&mut buffer).is_err());
    }

    proptest! {
        #[test]
        fn no_input_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode(&mut buffer) {}
        }
    }
}
