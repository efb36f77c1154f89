//! The wire format of protobuf: numbered fields of a few shapes.

use super::{Error, Result, fail};

/// A field's content as it stands on the wire.
pub(super) enum Found<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// Walks over the fields of a message.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Returns the next field's number and content; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Found<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| Error("a field number is too large".into()))?;
        let found = match tag & 7 {
            0 => Found::Varint(self.varint()?),
            1 => Found::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = self.varint()?;
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                Found::Bytes(self.take(length)?)
            }
            5 => Found::Fixed32(u32::from_le_bytes(self.array()?)),
            other => return fail(format!("wire type {other} of field {number} is not in use")),
        };
        Ok(Some((number, found)))
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        fail("a number is too long")
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let Some((head, rest)) = self.0.split_at_checked(length) else {
            return fail("unexpected EOF");
        };
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.take(N)?;
        bytes.try_into().map_err(|_| Error("unexpected EOF".into()))
    }
}

impl<'a> Found<'a> {
    pub(super) fn bytes(&self) -> Result<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => fail("a number stands where bytes are expected"),
        }
    }

    pub(super) fn text(&self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).or_else(|error| fail(format!("a text is not UTF-8: {error}")))
    }

    /// Integers are encoded as two's complement of 64 bits, also the shorter ones.
    #[expect(clippy::cast_possible_wrap, reason = "that is how negative numbers are encoded")]
    pub(super) fn integer(&self) -> Result<i64> {
        match self {
            Self::Varint(value) | Self::Fixed64(value) => Ok(*value as i64),
            Self::Fixed32(value) => Ok(i64::from(*value)),
            Self::Bytes(_) => fail("bytes stand where a number is expected"),
        }
    }

    pub(super) fn double(&self) -> Result<f64> {
        match self {
            Self::Fixed64(bits) => Ok(f64::from_bits(*bits)),
            Self::Fixed32(bits) => Ok(f64::from(f32::from_bits(*bits))),
            _ => fail("no floating point number stands where one is expected"),
        }
    }
}

/// Puts a message together.
#[derive(Debug)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Adds bytes that are encoded already.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.varint(u64::from(number) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// Negative numbers take ten bytes, also the shorter types: so upstream writes them.
    #[expect(clippy::cast_sign_loss, reason = "that is how negative numbers are encoded")]
    pub(super) fn integer(&mut self, number: u32, value: i64) {
        self.varint(u64::from(number) << 3);
        self.varint(value as u64);
    }

    pub(super) fn double(&mut self, number: u32, value: f64) {
        self.varint(u64::from(number) << 3 | 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Writes a field that is a message.
    pub(super) fn message(&mut self, number: u32, fill: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let at = self.begin(number);
        fill(self)?;
        self.end(at);
        Ok(())
    }

    /// Writes a field that is a message which cannot fail.
    pub(super) fn open(&mut self, number: u32, fill: impl FnOnce(&mut Self)) {
        let at = self.begin(number);
        fill(self);
        self.end(at);
    }

    /// Begins a field whose length is not known yet. Returns its place, for [`Writer::end`].
    pub(super) fn begin(&mut self, number: u32) -> usize {
        self.varint(u64::from(number) << 3 | 2);
        self.0.push(0);
        self.0.len()
    }

    /// Ends a field: one byte is kept for its length, longer ones move their content.
    pub(super) fn end(&mut self, at: usize) {
        let mut length = self.0.len() - at;
        let mut bytes = [0_u8; 10];
        let mut count = 0;
        loop {
            let low = (length & 0x7f) as u8;
            length >>= 7;
            bytes[count] = if length == 0 { low } else { low | 0x80 };
            count += 1;
            if length == 0 {
                break;
            }
        }
        self.0[at - 1] = bytes[0];
        if count > 1 {
            self.0.splice(at..at, bytes[1..count].iter().copied());
        }
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}
