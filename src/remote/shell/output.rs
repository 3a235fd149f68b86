//! The output of one command, taken whole: everything up to its trailer.

use super::command::{TRAILER, trailer_of};

/// A command whose output is outstanding.
pub(super) struct Output {
    /// How its trailer begins.
    trailer: String,
    /// The longest output, in bytes.
    max: usize,
    /// So many bytes of the input hold no trailer.
    scanned: usize,
}

/// The outcome of a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    NeedMore,
    /// Its length in bytes, and the status that its trailer has.
    Done(usize, u8),
    TooLong,
}

impl Output {
    pub(super) fn new(nonce: &str, number: u32, max: usize) -> Self {
        Self {
            trailer: trailer_of(nonce, number),
            max,
            scanned: 0,
        }
    }

    /// Looks for the trailer in `input`, which has grown since the last step.
    pub(super) fn step(&mut self, input: &[u8]) -> Step {
        let whole = input.len().saturating_sub(TRAILER - 1);
        while self.scanned < whole {
            let rest = &input[self.scanned..whole];
            match rest.iter().position(|byte| *byte == b'=') {
                Some(at) => self.scanned += at,
                None => {
                    self.scanned = whole;
                    break;
                }
            }
            let found = &input[self.scanned..self.scanned + TRAILER];
            if found.starts_with(self.trailer.as_bytes()) {
                let status = found[TRAILER - 1].wrapping_sub(b'0');
                return Step::Done(self.scanned, status);
            }
            self.scanned += 1;
        }
        match self.scanned > self.max {
            true => Step::TooLong,
            false => Step::NeedMore,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::command::trailer;
    use super::*;

    const NONCE: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn output_ends_at_its_own_trailer() {
        let end = trailer(NONCE, 7, 3);
        for text in ["", "a", "====", &trailer(NONCE, 6, 0), &end[..TRAILER - 2]] {
            let input = [text, &end, "more"].concat();
            for step in [1, 7, 1000] {
                let mut output = Output::new(NONCE, 7, 100);
                let mut len = 0;
                let got = loop {
                    let got = output.step(&input.as_bytes()[..len]);
                    if got != Step::NeedMore {
                        break got;
                    }
                    len = (len + step).min(input.len());
                };
                assert_eq!(got, Step::Done(text.len(), 3), "{text:?}");
            }
        }
    }

    #[test]
    fn it_may_not_be_longer_than_that() {
        let input = vec![b'='; 100 + TRAILER];
        assert_eq!(Output::new(NONCE, 7, 100).step(&input), Step::TooLong);
        assert_eq!(Output::new(NONCE, 7, 101).step(&input), Step::NeedMore);
    }
}
