//! What a host was asked for.

use ssh_substituter::model::StorePath;
use ssh_substituter::wire::serve::Request;

use super::Setup;

impl Setup {
    /// Where among all that this host was asked the NARs of these paths were asked for, each as often
    /// as it was.
    pub fn dumps(&self, host: &str, paths: &[String]) -> Vec<(usize, String)> {
        let asked = self.asked.lock().unwrap();
        let all = asked.get(host).map_or(&[][..], Vec::as_slice);
        let mut found = Vec::new();
        for path in paths {
            let mut request = Vec::new();
            let parsed = StorePath::parse(path).unwrap();
            Request::DumpStorePath { path: parsed }.put(&mut request);
            let places = all.windows(request.len()).enumerate();
            let places = places.filter(|(_, bytes)| *bytes == request);
            found.extend(places.map(|(at, _)| (at, path.clone())));
        }
        found.sort();
        found
    }

    /// How many ranges of files this host was asked for through a shell. What a new shell proves itself with is none: it
    /// reads no file.
    pub fn chunks(&self, host: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        let all = asked.get(host).map_or(&[][..], Vec::as_slice);
        let has = |line: &[u8], word: &[u8]| line.windows(word.len()).any(|it| it == word);
        let is_part = |line: &&[u8]| has(line, b" skip=") && has(line, b" if=");
        all.split(|byte| *byte == b'\n').filter(is_part).count()
    }

    /// How many of them it was asked to compress.
    pub fn compressed_chunks(&self, host: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        let all = asked.get(host).map_or(&[][..], Vec::as_slice);
        let end = b"}|zstd -q -";
        all.windows(end.len()).filter(|part| part == end).count()
    }

    /// How often it was asked what there is of paths that come as differences.
    pub fn surveys(&self, host: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        let all = asked.get(host).map_or(&[][..], Vec::as_slice);
        let begin = b"&&{ find ";
        all.windows(begin.len())
            .filter(|part| part == begin)
            .count()
    }

    /// How many runs of small NARs it was asked to compress.
    pub fn compressed_runs(&self, host: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        let all = asked.get(host).map_or(&[][..], Vec::as_slice);
        let end = b"|nix-store --serve";
        all.windows(end.len()).filter(|part| part == end).count()
    }

    /// Whether this host was asked for whole NARs as one by the extension.
    pub fn was_asked_for_nars(&self, host: &str) -> bool {
        self.extension_requests(host, 0x5385) > 0
    }

    /// How often it was asked for this by the extension.
    pub fn extension_requests(&self, host: &str, op: u64) -> usize {
        let asked = self.asked.lock().unwrap();
        let all = asked.get(host).map_or(&[][..], Vec::as_slice);
        let op = op.to_le_bytes();
        all.windows(op.len()).filter(|part| *part == op).count()
    }

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
