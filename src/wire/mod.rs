//! Codecs without IO: integers, strings and lists of the Nix protocols, and on top of them the
//! serve protocol, the classic text protocol and NARs.
//!
//! ```text
//! integer = 8 bytes, unsigned, little endian
//! bool    = integer, 0 or 1 (any other number counts as true, as in Nix)
//! string  = length:integer  length bytes  zero bytes up to a multiple of 8
//! list    = count:integer   count elements
//! ```
//!
//! Decoders take the bytes that are there and give a value, "need more", or an error. Every
//! length has a maximum that is checked before anything is allocated or waited for.

pub mod nar;
pub mod narinfo;
pub mod serve;
pub mod text;

use bytes::{Buf, BytesMut};

/// Bytes that do not follow the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: expected {expected}, got {got}")]
pub struct WireError {
    /// What was being read.
    pub field: &'static str,
    /// What the protocol wants there.
    pub expected: String,
    /// What was there.
    pub got: String,
}

impl WireError {
    /// An error about `field`.
    pub fn new(
        field: &'static str,
        expected: impl Into<String>,
        got: impl std::fmt::Display,
    ) -> Self {
        Self {
            field,
            expected: expected.into(),
            got: got.to_string(),
        }
    }
}

/// Why a decoder stopped before it had a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The bytes so far are a proper beginning.
    NeedMore,
    /// They are not.
    Error(WireError),
}

impl From<WireError> for Stop {
    fn from(error: WireError) -> Self {
        Self::Error(error)
    }
}

/// Reads the primitives off the beginning of a slice, without copying.
#[derive(Debug)]
pub struct Cursor<'a> {
    input: &'a [u8],
    pos: usize,
}

impl<'a> Cursor<'a> {
    /// A cursor at the beginning of `input`.
    #[must_use]
    pub fn new(input: &'a [u8]) -> Self {
        Self { input, pos: 0 }
    }

    /// Bytes read so far.
    #[must_use]
    pub fn position(&self) -> usize {
        self.pos
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// [`Stop::NeedMore`] when they are not all there.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Stop> {
        let end = self.pos.checked_add(len).ok_or(Stop::NeedMore)?;
        let bytes = self.input.get(self.pos..end).ok_or(Stop::NeedMore)?;
        self.pos = end;
        Ok(bytes)
    }

    /// An integer.
    ///
    /// # Errors
    /// [`Stop::NeedMore`] when its 8 bytes are not all there.
    pub fn u64(&mut self) -> Result<u64, Stop> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.bytes(8)?);
        Ok(u64::from_le_bytes(bytes))
    }

    /// A string of at most `max` bytes.
    ///
    /// # Errors
    /// [`Stop::Error`] when it is longer (as soon as its length is known) or its padding is not
    /// zero; [`Stop::NeedMore`] when it is not all there.
    pub fn string(&mut self, field: &'static str, max: usize) -> Result<&'a [u8], Stop> {
        let len = self.length(field, max)?;
        let bytes = self.bytes(len)?;
        self.padding(field, len as u64)?;
        Ok(bytes)
    }

    /// A string of at most `max` bytes that must be UTF-8.
    ///
    /// # Errors
    /// As [`Cursor::string`], and when it is not UTF-8.
    pub fn text(&mut self, field: &'static str, max: usize) -> Result<&'a str, Stop> {
        let bytes = self.string(field, max)?;
        std::str::from_utf8(bytes)
            .map_err(|_| WireError::new(field, "UTF-8 text", printable(bytes)).into())
    }

    /// A length or count of at most `max`.
    ///
    /// # Errors
    /// [`Stop::Error`] when it is larger; [`Stop::NeedMore`] when it is not all there.
    pub fn length(&mut self, field: &'static str, max: usize) -> Result<usize, Stop> {
        let value = self.u64()?;
        usize::try_from(value)
            .ok()
            .filter(|len| *len <= max)
            .ok_or_else(|| WireError::new(field, format!("at most {max}"), value).into())
    }

    /// The padding after `len` bytes.
    ///
    /// # Errors
    /// [`Stop::Error`] when it is not zero.
    pub fn padding(&mut self, field: &'static str, len: u64) -> Result<(), Stop> {
        let bytes = self.bytes(padding_len(len))?;
        if bytes.iter().any(|b| *b != 0) {
            return Err(WireError::new(field, "zero padding", printable(bytes)).into());
        }
        Ok(())
    }
}

/// How many zero bytes follow a string of `len` bytes: 0 to 7.
#[must_use]
pub fn padding_len(len: u64) -> usize {
    ((8 - len % 8) % 8) as usize
}

/// Appends an integer.
pub fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a string: length, bytes, padding.
pub fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
    out.resize(out.len() + padding_len(bytes.len() as u64), 0);
}

/// Runs `decode` on the buffer and removes what it read; `None` when it needs more.
///
/// # Errors
/// Those of `decode`; nothing is removed then.
pub fn take<T>(
    buf: &mut BytesMut,
    decode: impl FnOnce(&mut Cursor<'_>) -> Result<T, Stop>,
) -> Result<Option<T>, WireError> {
    let mut cursor = Cursor::new(buf);
    match decode(&mut cursor) {
        Ok(value) => {
            let read = cursor.position();
            buf.advance(read);
            Ok(Some(value))
        }
        Err(Stop::NeedMore) => Ok(None),
        Err(Stop::Error(error)) => Err(error),
    }
}

/// At most 200 bytes for a message, with everything but printable ASCII escaped.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(200)];
    let dots = if shown.len() < bytes.len() { "…" } else { "" };
    format!("\"{}\"{dots}", shown.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn strings_survive_and_are_padded(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut out = Vec::new();
            put_string(&mut out, &bytes);
            prop_assert_eq!(out.len() % 8, 0);
            let mut cursor = Cursor::new(&out);
            prop_assert_eq!(cursor.string("s", 100).unwrap(), &bytes[..]);
            prop_assert_eq!(cursor.position(), out.len());
            for end in 0..out.len() {
                prop_assert_eq!(Cursor::new(&out[..end]).string("s", 100), Err(Stop::NeedMore));
            }
        }
    }

    #[test]
    fn a_length_above_its_maximum_is_refused_before_the_bytes_come() {
        let mut out = Vec::new();
        put_u64(&mut out, u64::MAX);
        let error = Cursor::new(&out).string("name", 255).unwrap_err();
        assert_eq!(
            error,
            WireError::new("name", "at most 255", u64::MAX).into()
        );
    }

    #[test]
    fn padding_must_be_zero() {
        let mut out = Vec::new();
        put_string(&mut out, b"abc");
        out[11] = 1;
        assert!(matches!(
            Cursor::new(&out).string("s", 10),
            Err(Stop::Error(_))
        ));
    }

    #[test]
    fn take_removes_only_what_was_read() {
        let mut bytes = Vec::new();
        put_u64(&mut bytes, 7);
        let mut buf = BytesMut::from(&bytes[..5]);
        assert_eq!(take(&mut buf, |c| c.u64()), Ok(None));
        assert_eq!(buf.len(), 5);
        buf.extend_from_slice(&bytes[5..]);
        buf.extend_from_slice(b"rest");
        assert_eq!(take(&mut buf, |c| c.u64()), Ok(Some(7)));
        assert_eq!(&buf[..], b"rest");
    }
}
