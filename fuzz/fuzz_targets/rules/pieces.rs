//! The same bytes, cut in several ways; and decoders that are fed with them.

use bytes::BytesMut;
use ssh_substituter::wire::WireError;

use super::memory;

/// In how many pieces of one size inputs are fed, at most. Decoders may begin anew with each piece: byte by byte
/// a long input would take far longer than all other rules together, and find nothing that a short one does not.
const PIECES: usize = 150;

/// Numbers that depend on their seed alone (xorshift64*).
pub struct Random(u64);

impl Random {
    /// Numbers that follow from these bytes (FNV-1a).
    pub fn of(bytes: &[u8]) -> Self {
        let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        Self(bytes.iter().fold(0xcbf2_9ce4_8422_2325, hash) | 1)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// The input whole, in small pieces of one size (short ones byte by byte), and cut anywhere. There is always a piece.
pub fn cuts(input: &[u8]) -> [Vec<&[u8]>; 3] {
    if input.is_empty() {
        return [vec![input], vec![input], vec![input]];
    }
    let smallest = input.len().div_ceil(PIECES);
    let mut random = Random::of(input);
    let (mut anywhere, mut rest) = (Vec::new(), input);
    while !rest.is_empty() {
        let most = [1, 9, 40, 300, 5000][random.below(5)];
        let (piece, after) = rest.split_at(random.below(most.min(rest.len())) + 1);
        anywhere.push(piece);
        rest = after;
    }
    [vec![input], input.chunks(smallest).collect(), anywhere]
}

/// What a decoder made of an input.
#[derive(Debug, PartialEq)]
pub struct Outcome<T> {
    /// Each value, with the offset in the input behind its last byte.
    pub items: Vec<(T, usize)>,
    /// How much of the input was taken, in bytes.
    pub taken: usize,
    /// What ended it.
    pub error: Option<WireError>,
}

impl<T> Outcome<T> {
    /// Each value, with the bytes of `input` that it was made of.
    pub fn spans<'a>(&'a self, input: &'a [u8]) -> impl Iterator<Item = (&'a T, &'a [u8])> {
        let mut start = 0;
        self.items.iter().map(move |(item, end)| {
            let span = &input[start..*end];
            start = *end;
            (item, span)
        })
    }
}

/// Feeds a decoder piece by piece, up to an error, to the first value that is the `last` one, or to the
/// end. After an error it has to refuse whatever follows.
pub fn feed<T>(
    pieces: &[&[u8]],
    last: impl Fn(&T) -> bool,
    mut step: impl FnMut(&mut BytesMut) -> Result<Option<T>, WireError>,
) -> Outcome<T> {
    let (mut buf, mut fed) = (BytesMut::new(), 0);
    let mut out = Outcome {
        items: Vec::new(),
        taken: 0,
        error: None,
    };
    'fed: for piece in pieces {
        buf.extend_from_slice(piece);
        fed += piece.len();
        loop {
            let before = buf.len();
            match step(&mut buf) {
                Ok(Some(item)) => {
                    assert!(buf.len() < before, "a value out of nothing");
                    let is_last = last(&item);
                    out.items.push((item, fed - buf.len()));
                    if is_last {
                        break 'fed;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    super::assert_plain(&error.to_string());
                    out.error = Some(error);
                    out.taken = fed - buf.len();
                    for more in [&b""[..], b"\0\0\0\0\0\0\0\0", b"\n\n\n\n"] {
                        buf.extend_from_slice(more);
                        assert!(step(&mut buf).is_err(), "goes on after an error");
                    }
                    return out;
                }
            }
        }
    }
    out.taken = fed - buf.len();
    out
}

/// Feeds new decoders with each of the [`cuts`], which must make no difference; and one for its memory.
pub fn decode<T: PartialEq + std::fmt::Debug, S>(
    input: &[u8],
    last: impl Fn(&T) -> bool,
    mut decoder: impl FnMut() -> S,
) -> Outcome<T>
where
    S: FnMut(&mut BytesMut) -> Result<Option<T>, WireError>,
{
    memory::decode(input, decoder());
    let [whole, others @ ..] = cuts(input).map(|pieces| feed(&pieces, &last, decoder()));
    for other in others {
        assert_eq!(other, whole, "it matters how the bytes are cut");
    }
    whole
}
