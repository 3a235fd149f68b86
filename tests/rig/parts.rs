//! What a host was asked for by the extension.

use super::Setup;

impl Setup {
    /// Parts of NARs that this host was asked for by the extension: how many, and how many of them compressed.
    pub fn parts(&self, host: &str) -> (usize, usize) {
        let asked = self.asked.lock().unwrap();
        let all = asked.get(host).map_or(&[][..], Vec::as_slice);
        let number = |at: usize| Some(u64::from_le_bytes(*all.get(at..)?.first_chunk()?));
        let (mut parts, mut compressed) = (0, 0);
        for at in 0..all.len() {
            if number(at) != Some(0x5382) {
                continue;
            }
            // Behind the path: where it begins, how long it is, the level.
            let Some(path) = number(at + 8) else { continue };
            let path = usize::try_from(path.next_multiple_of(8)).unwrap();
            parts += 1;
            compressed += usize::from(number(at + 32 + path).is_some_and(|level| level > 0));
        }
        (parts, compressed)
    }
}
