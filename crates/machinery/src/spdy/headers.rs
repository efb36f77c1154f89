//! Header blocks: name and value pairs, compressed by zlib with SPDY's dictionary, one stream a direction.

use std::io;
use std::sync::LazyLock;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// The most bytes that one block may unpack to.
const LARGEST: usize = 64 * 1024;
/// What zlib puts before a stream that uses a preset dictionary: method and window, flags.
const ZLIB_HEADER: [u8; 2] = [0x78, 0xbb];

/// The words that are in the dictionary with their lengths before them, in its order.
const WORDS: &[&str] = &[
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];
/// The rest of the dictionary.
const REST: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,\
text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut out = Vec::with_capacity(1423);
    for word in WORDS {
        out.extend_from_slice(&u32::try_from(word.len()).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(word.as_bytes());
    }
    out.extend_from_slice(REST.as_bytes());
    out
});

/// The checksum by which zlib names a dictionary.
fn adler32(bytes: &[u8]) -> u32 {
    let (mut a, mut b) = (1u32, 0u32);
    for byte in bytes {
        a = (a + u32::from(*byte)) % 65521;
        b = (b + a) % 65521;
    }
    (b << 16) | a
}

/// Name and value pairs.
pub(super) type Pairs = Vec<(String, String)>;

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("SPDY header block: {what}"))
}

/// Unpacks the blocks of one connection, in order.
pub(super) struct Unpacker {
    inflate: Decompress,
    /// Bytes of the zlib header that are still to come: method, flags, and four of the dictionary's name.
    header: Vec<u8>,
    begun: bool,
}

impl Unpacker {
    pub(super) fn new() -> Self {
        Self { inflate: Decompress::new(false), header: Vec::new(), begun: false }
    }

    pub(super) fn unpack(&mut self, mut block: &[u8]) -> io::Result<Pairs> {
        while !self.begun && !block.is_empty() {
            self.header.push(block[0]);
            block = &block[1..];
            let with_dictionary = self.header.get(1).is_some_and(|flags| flags & 0x20 != 0);
            if self.header.len() == 2 && !with_dictionary {
                self.begun = true;
            } else if self.header.len() == 6 {
                if self.header[2..6] != adler32(&DICTIONARY).to_be_bytes() {
                    return Err(bad("an unknown dictionary"));
                }
                self.prime()?;
                self.begun = true;
            }
        }
        parse(&inflate(&mut self.inflate, block)?)
    }

    /// Puts the dictionary into the window: as a stored block whose output is thrown away. The pure Rust
    /// inflater has no call for it.
    fn prime(&mut self) -> io::Result<()> {
        let length = u16::try_from(DICTIONARY.len()).map_err(|_| bad("the dictionary is too long"))?;
        let mut stored = vec![0u8];
        stored.extend_from_slice(&length.to_le_bytes());
        stored.extend_from_slice(&(!length).to_le_bytes());
        stored.extend_from_slice(&DICTIONARY);
        inflate(&mut self.inflate, &stored).map(drop)
    }
}

fn inflate(state: &mut Decompress, mut input: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut buffer = vec![0u8; 4096];
    loop {
        let (before_in, before_out) = (state.total_in(), state.total_out());
        let status = state
            .decompress(input, &mut buffer, FlushDecompress::Sync)
            .map_err(|error| bad(&error.to_string()))?;
        let used = usize::try_from(state.total_in() - before_in).unwrap_or(usize::MAX);
        let made = usize::try_from(state.total_out() - before_out).unwrap_or(usize::MAX);
        out.extend_from_slice(&buffer[..made]);
        input = &input[used..];
        if out.len() > LARGEST {
            return Err(bad("too large"));
        }
        match status {
            Status::StreamEnd => return Ok(out),
            // Nothing came and nothing went: all of the input is used up.
            _ if made < buffer.len() && (input.is_empty() || used == 0) => return Ok(out),
            _ => {}
        }
    }
}

fn parse(mut bytes: &[u8]) -> io::Result<Pairs> {
    let mut word = |length: usize| -> io::Result<Vec<u8>> {
        let (head, rest) = bytes.split_at_checked(length).ok_or_else(|| bad("cut off"))?;
        bytes = rest;
        Ok(head.to_vec())
    };
    let number = |word: Vec<u8>| -> io::Result<usize> {
        let four: [u8; 4] = word.try_into().map_err(|_| bad("cut off"))?;
        usize::try_from(u32::from_be_bytes(four)).map_err(|_| bad("too large"))
    };
    let count = number(word(4)?)?;
    let mut pairs = Vec::new();
    for _ in 0..count {
        let length = number(word(4)?)?;
        let name = word(length)?;
        let length = number(word(4)?)?;
        let value = word(length)?;
        pairs.push((
            String::from_utf8_lossy(&name).to_lowercase(),
            String::from_utf8_lossy(&value).into_owned(),
        ));
    }
    Ok(pairs)
}

/// Packs the blocks of one connection, in order.
pub(super) struct Packer {
    deflate: Compress,
    begun: bool,
}

impl Packer {
    pub(super) fn new() -> Self {
        Self { deflate: Compress::new(Compression::fast(), false), begun: false }
    }

    pub(super) fn pack(&mut self, pairs: &[(&str, &str)]) -> io::Result<Vec<u8>> {
        let length = |text: &str| u32::try_from(text.len()).map_err(|_| bad("too large"));
        let mut plain = u32::try_from(pairs.len()).map_err(|_| bad("too large"))?.to_be_bytes().to_vec();
        for (name, value) in pairs {
            plain.extend_from_slice(&length(name)?.to_be_bytes());
            plain.extend_from_slice(name.as_bytes());
            plain.extend_from_slice(&length(value)?.to_be_bytes());
            plain.extend_from_slice(value.as_bytes());
        }
        let mut out = Vec::with_capacity(plain.len() + 64);
        if !self.begun {
            // The dictionary is announced, as the protocol wants, and never referred to.
            out.extend_from_slice(&ZLIB_HEADER);
            out.extend_from_slice(&adler32(&DICTIONARY).to_be_bytes());
            self.begun = true;
        }
        let mut packed = Vec::with_capacity(plain.len() + 64);
        self.deflate
            .compress_vec(&plain, &mut packed, FlushCompress::Sync)
            .map_err(|error| bad(&error.to_string()))?;
        out.extend_from_slice(&packed);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_one_that_the_protocol_names() {
        assert_eq!(DICTIONARY.len(), 1423);
        assert_eq!(adler32(&DICTIONARY), 0xe3c6_a7c2);
        assert_eq!(u16::from_be_bytes(ZLIB_HEADER) % 31, 0);
    }

    #[test]
    fn blocks_survive_the_way_there_and_back() {
        let (mut packer, mut unpacker) = (Packer::new(), Unpacker::new());
        for value in ["stdin", "stdout", "error"] {
            let block = packer.pack(&[("streamType", value), ("port", "80")]).unwrap();
            let found = unpacker.unpack(&block).unwrap();
            assert_eq!(
                found,
                [("streamtype".to_owned(), value.to_owned()), ("port".to_owned(), "80".to_owned())]
            );
        }
    }

    /// Made by zlib with the preset dictionary: `{"streamtype": "error"}`, then `{"content-type": "stdin"}`.
    #[test]
    fn blocks_that_refer_to_the_dictionary_are_understood() {
        let first = hex(FIRST);
        let second = hex(SECOND);
        let mut unpacker = Unpacker::new();
        assert_eq!(unpacker.unpack(&first).unwrap(), [("streamtype".to_owned(), "error".to_owned())]);
        assert_eq!(unpacker.unpack(&second).unwrap(), [("content-type".to_owned(), "stdin".to_owned())]);
    }

    const FIRST: &str = "78f9e3c6a7c202a62346703a2b294a4dcc851625aca9a08006000000ffff";
    const SECOND: &str = "824aa19733acc525c00c03000000ffff";

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn broken_blocks_are_errors() {
        assert!(Unpacker::new().unpack(b"\x78\xbb\0\0\0\0").is_err());
        assert!(Unpacker::new().unpack(b"\x78\x9cgarbage").is_err());
    }
}
