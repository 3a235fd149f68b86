//! How much memory a decoder takes: in proportion to what it was given, never to what was announced.

use bytes::BytesMut;
use peak_alloc::PeakAlloc;
use ssh_substituter::wire::WireError;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bytes for each byte of the input. A word of one letter in a list becomes a string of its own, and lists
/// double when they are full.
const EACH: usize = 16;
/// Bytes for any input.
const ANY: usize = 32 << 10;

/// Does something with so many bytes of input. No other thread may work meanwhile.
pub fn within<T>(input: usize, work: impl FnOnce() -> T) -> T {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let done = work();
    let taken = MEMORY.peak_usage().saturating_sub(before);
    assert!(
        taken <= EACH * input + ANY,
        "{taken} bytes of memory for {input} bytes"
    );
    done
}

/// Decodes value by value, keeping none.
pub fn decode<T>(
    input: &[u8],
    mut step: impl FnMut(&mut BytesMut) -> Result<Option<T>, WireError>,
) {
    let mut buf = BytesMut::from(input);
    within(input.len(), || while let Ok(Some(_)) = step(&mut buf) {});
}
