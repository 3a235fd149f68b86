//! What a host prints of the digest of a segment: `0` when all files could be read, the digest in
//! hexadecimal and `  -` and a line feed (sha256sum(1)), then the trailer.

use super::command::trailer;

/// The longest output before the trailer, in bytes.
const OUTPUT_MAX: usize = 256;

/// A digest that was asked for.
pub(super) struct Digest {
    number: u32,
}

/// The outcome of a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    NeedMore,
    /// The digest, or `None` when the host cannot make it; and how many bytes that were.
    Done(Option<[u8; 32]>, usize),
    /// What came is no such output.
    Wrong(&'static str),
}

impl Digest {
    pub(super) fn new(number: u32) -> Self {
        Self { number }
    }

    pub(super) fn step(&self, input: &[u8], nonce: &str) -> Step {
        let end = trailer(nonce, self.number, 0);
        let most = input.len().min(OUTPUT_MAX + end.len());
        let found = input[..most]
            .windows(end.len())
            .position(|window| window == end.as_bytes());
        match found {
            Some(at) => Step::Done(parse(&input[..at]), at + end.len()),
            None if input.len() >= OUTPUT_MAX + end.len() => Step::Wrong("no digest came"),
            None => Step::NeedMore,
        }
    }
}

fn parse(output: &[u8]) -> Option<[u8; 32]> {
    let hex = output.strip_prefix(b"0")?.strip_suffix(b"  -\n")?;
    data_encoding::HEXLOWER.decode(hex).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn digests_are_read_and_nothing_else() {
        let (digest, end) = (Digest::new(3), trailer(NONCE, 3, 0));
        let hex = "ab".repeat(32);
        let step = |output: &str| digest.step(output.as_bytes(), NONCE);
        let whole = format!("0{hex}  -\n{end}");
        assert_eq!(
            step(&format!("{whole}next")),
            Step::Done(Some([0xab; 32]), whole.len())
        );
        for len in 0..whole.len() {
            assert_eq!(step(&whole[..len]), Step::NeedMore);
        }
        for output in [
            "",
            "0",
            &format!("1{hex}  -\n"),
            &format!("0{hex}ab  -\n"),
            &hex,
        ] {
            let len = output.len() + end.len();
            assert_eq!(
                step(&format!("{output}{end}")),
                Step::Done(None, len),
                "{output}"
            );
        }
        assert!(matches!(step(&"x".repeat(400)), Step::Wrong(_)));
    }
}
