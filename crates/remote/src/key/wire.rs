//! The data types of RFC 4251, section 5.

/// Appends a string: its length and its bytes.
pub(super) fn put(to: &mut Vec<u8>, bytes: &[u8]) {
    // Nothing here comes near 4 GiB: keys and comments.
    to.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    to.extend_from_slice(bytes);
}

/// Takes a number off the front.
pub(super) fn number(from: &mut &[u8]) -> Option<u32> {
    let (number, rest) = from.split_first_chunk::<4>()?;
    *from = rest;
    Some(u32::from_be_bytes(*number))
}

/// Takes a string off the front.
pub(super) fn string<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut rest = *from;
    let length = usize::try_from(number(&mut rest)?).ok()?;
    let (string, rest) = rest.split_at_checked(length)?;
    *from = rest;
    Some(string)
}
