//! Sets, element by element, so that a long one is never decoded twice.

use bytes::BytesMut;

use super::{MAX_SET, MAX_SET_BYTES};
use crate::model::MAX_PATH_LEN;
use crate::wire::{WireError, take};

/// Decodes a set of store path strings.
#[derive(Debug)]
pub struct SetDecoder<T> {
    left: Option<usize>,
    bytes: usize,
    items: Vec<T>,
}

impl<T> Default for SetDecoder<T> {
    fn default() -> Self {
        Self {
            left: None,
            bytes: 0,
            items: Vec::new(),
        }
    }
}

impl<T> SetDecoder<T> {
    /// Takes what is complete in `buf`; the elements once all have come, `None` before that.
    /// `keep` turns the bytes of an element into a value, leaves it out, or refuses it.
    ///
    /// # Errors
    /// When a limit is exceeded, padding is not zero, or `keep` refuses.
    pub fn step(
        &mut self,
        buf: &mut BytesMut,
        mut keep: impl FnMut(&[u8]) -> Result<Option<T>, WireError>,
    ) -> Result<Option<Vec<T>>, WireError> {
        let mut left = match self.left {
            Some(left) => left,
            None => match take(buf, |c| c.length("elements of a set", MAX_SET))? {
                Some(count) => count,
                None => return Ok(None),
            },
        };
        while left > 0 {
            self.left = Some(left);
            let item = take(buf, |c| {
                let bytes = c.string("store path", MAX_PATH_LEN)?;
                Ok((bytes.len(), keep(bytes)?))
            })?;
            let Some((len, item)) = item else {
                return Ok(None);
            };
            self.bytes += len;
            if self.bytes > MAX_SET_BYTES {
                let want = format!("at most {MAX_SET_BYTES} bytes");
                return Err(WireError::new("elements of a set", want, self.bytes));
            }
            self.items.extend(item);
            left -= 1;
        }
        self.left = None;
        self.bytes = 0;
        Ok(Some(std::mem::take(&mut self.items)))
    }
}
