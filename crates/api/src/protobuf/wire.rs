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
