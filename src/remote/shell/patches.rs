//! What a shell with `zstd` sends beside segments: what there is of several paths, groups of files, and files as patches
//! against files of another path. Each is one command whose output is taken whole by [`Shell::output`], in its turn among
//! what was asked for. Files of several paths are named from the folder on that the paths are in.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use bytes::{Buf, Bytes};

use super::output::{Output, Step};
use super::{ENTRIES_MAX, LISTING, LISTING_MAX, PendingReply, SEGMENT, Shell, command, listing};
use crate::model::StorePath;
use crate::remote::inflater::inflate;
use crate::remote::{RemoteError, RemoteErrorKind};
use crate::wire::WireError;
use crate::wire::nar::layout::{Entry, FileRange, Layout};

/// A line of `sha256sum`: 64 digits, two characters, the name.
const DIGEST_LINE: usize = 66;

/// A line of `sha256sum` of what it reads: 64 digits, two characters, `-`, a line feed.
const BLOCK_LINE: usize = 68;

/// What a command printed.
#[derive(Debug)]
pub struct CommandOutput {
    /// All of it.
    pub bytes: Bytes,
    /// The status that it ended with, as its last digit.
    pub status: u8,
}

/// What a survey says of a path.
#[derive(Debug)]
pub struct Surveyed {
    /// Its files; `None` where it is not there, or holds what no NAR can.
    pub layout: Option<Layout>,
    /// The SHA-256 of those that were asked about, by their paths below the root of the store path.
    pub digests: HashMap<Vec<u8>, [u8; 32]>,
}

/// The most that `zstd` makes of so many bytes, and some more (`ZSTD_compressBound`).
fn frame_max(len: u64) -> usize {
    usize::try_from(len + len / 128).map_or(usize::MAX, |len| len.saturating_add(64 << 10))
}

impl Shell {
    /// Asks for the files of these paths, which are in the same store directory, and for the digests of those of these files
    /// that they have; [`Shell::output`], then [`CommandOutput::surveyed`]. Costs the host reading the files.
    pub fn request_survey<'a>(
        &mut self,
        paths: &[&StorePath],
        files: impl Iterator<Item = (&'a StorePath, &'a [u8])>,
    ) {
        let Some(first) = paths.first() else {
            return;
        };
        self.set_up(first.store_dir());
        let number = self.number();
        let names: Vec<&[u8]> = paths
            .iter()
            .map(|path| path.base_name().as_bytes())
            .collect();
        let files = files.map(|(path, file)| (path.base_name().as_bytes(), file));
        let line = command::survey(&names, files, number, LISTING_MAX);
        self.request_output(first, number, frame_max(LISTING_MAX as u64), line);
    }

    /// Asks for the contents of these ranges of files, one behind the other, as one frame of level `level`;
    /// [`Shell::output`], then [`CommandOutput::contents`]. Their paths begin in the folder that `near` is in.
    pub fn request_ranges(&mut self, near: &StorePath, ranges: &[FileRange], level: u8) {
        let mut lines = self.enter_folder_of(near);
        let number = self.number();
        let len = ranges.iter().map(|range| range.len).sum();
        command::read_ranges(&mut lines, b"", ranges.iter(), level, number);
        self.request_output(near, number, frame_max(len), lines);
    }

    /// Asks for a whole file as a frame that was made against the file `base_file` of the path `base`;
    /// [`Shell::output`]: the frame, and 0 as its status. Takes the host memory for both files. The path of the first
    /// begins in the folder that `near` is in.
    pub fn request_patch(
        &mut self,
        near: &StorePath,
        file: &FileRange,
        (base, base_file): (&StorePath, &[u8]),
        level: u8,
    ) {
        let mut lines = self.enter_folder_of(near);
        let number = self.number();
        let base = (base.base_name().as_bytes(), base_file);
        command::patch(&mut lines, &file.path, base, level, number);
        self.request_output(near, number, frame_max(file.size), lines);
    }

    /// Asks for the SHA-256 of each block of `block` bytes of a whole file; [`Shell::output`], then
    /// [`CommandOutput::block_digests`]. Its path begins in the folder that `near` is in. Costs the host reading the file, and two
    /// processes for each block.
    pub fn request_block_digests(&mut self, near: &StorePath, file: &FileRange, block: u64) {
        let mut lines = self.enter_folder_of(near);
        let number = self.number();
        let block = block.max(1);
        command::block_digests(&mut lines, &file.path, (file.size, block), number);
        let count = usize::try_from(file.size.div_ceil(block)).unwrap_or(usize::MAX);
        let max = count.saturating_mul(BLOCK_LINE).saturating_add(1024);
        self.request_output(near, number, max, lines);
    }

    /// The commands that go to the folder that a path is in.
    fn enter_folder_of(&mut self, path: &StorePath) -> Vec<u8> {
        let mut lines = Vec::new();
        self.set_up(path.store_dir());
        command::enter(&mut lines, path.base_name().as_bytes(), false);
        self.current_path = None;
        lines
    }

    fn request_output(&mut self, path: &StorePath, number: u32, max: usize, lines: Vec<u8>) {
        let output = Output::new(&self.nonce, number, max);
        self.pending
            .push_back(PendingReply::Output(output, path.clone()));
        self.link.output.send_bytes(lines);
    }

    /// The next outstanding output. `None` when there is none. May be dropped and called again.
    ///
    /// # Errors
    /// When the link breaks or falls silent, or what comes has no end. The shell is unusable then.
    pub async fn output(&mut self) -> Result<Option<CommandOutput>, RemoteError> {
        if let Some(error) = self.earlier_failure() {
            return Err(error);
        }
        loop {
            let Some(PendingReply::Output(oldest, _)) = self.pending.front_mut() else {
                return Ok(None);
            };
            let input = self.link.input.peek();
            let step = oldest.step(input);
            self.received.store(input.len() as u64, Ordering::Relaxed);
            match step {
                Step::NeedMore => self.fill(SEGMENT).await?,
                Step::Done(len, status) => {
                    self.received.store(0, Ordering::Relaxed);
                    let bytes = self.link.input.buffer().split_to(len).freeze();
                    self.link.input.buffer().advance(command::TRAILER);
                    self.link.finish_reply();
                    self.pending.pop_front();
                    return Ok(Some(CommandOutput { bytes, status }));
                }
                Step::TooLong => {
                    self.broken = true;
                    let source = WireError::new("output of a command", "its end", "more");
                    let doing = LISTING;
                    return Err(self.link.error(RemoteErrorKind::Protocol { doing, source }));
                }
            }
        }
    }
}

impl CommandOutput {
    /// What a survey says of these paths, in their order; `None` where the output is of another kind, or too long.
    #[must_use]
    pub fn surveyed(&self, paths: &[&StorePath]) -> Option<Vec<Surveyed>> {
        let survey = inflate(&self.bytes, LISTING_MAX)?;
        let mut lines = survey.split_inclusive(|byte| *byte == 0);
        let mut listed = 0;
        // An empty string in place of another object.
        loop {
            match lines.next()? {
                b"\0" => break,
                line => listed += line.len() + lines.next()?.len(),
            }
        }
        let entries = listing::parse(&survey[..listed], ENTRIES_MAX).ok()?;
        let mut of_paths = HashMap::<&[u8], (Vec<Entry<'_>>, HashMap<_, _>)>::new();
        for entry in entries {
            let (name, path) = split_name(entry.path);
            let (entries, _) = of_paths.entry(name).or_default();
            entries.push(Entry { path, ..entry });
        }
        for line in lines {
            let (digest, name) = line.strip_suffix(b"\0")?.split_at_checked(DIGEST_LINE)?;
            let digest = data_encoding::HEXLOWER.decode(&digest[..64]).ok()?;
            let (name, path) = split_name(name);
            let (_, digests) = of_paths.entry(name).or_default();
            digests.insert(path.to_vec(), digest.try_into().ok()?);
        }
        let surveyed = paths.iter().map(|path| {
            let of_path = of_paths.remove(path.base_name().as_bytes());
            let (entries, digests) = of_path.unwrap_or_default();
            let layout = Layout::new((*path).clone(), entries).ok();
            Surveyed { layout, digests }
        });
        Some(surveyed.collect())
    }

    /// The SHA-256 of each of so many blocks; `None` where it is not known.
    #[must_use]
    pub fn block_digests(&self, count: usize) -> Vec<Option<[u8; 32]>> {
        let digest = |line: &[u8]| {
            let hex = line.strip_suffix(b"  -\n")?;
            data_encoding::HEXLOWER.decode(hex).ok()?.try_into().ok()
        };
        let lines = self.bytes.chunks(BLOCK_LINE).take(count);
        let mut digests: Vec<_> = lines.map(digest).collect();
        digests.resize(count, None);
        digests
    }

    /// `len` bytes of files; `None` where the files could not be read, have other lengths, or were not compressed rightly.
    #[must_use]
    pub fn contents(&self, len: u64) -> Option<Vec<u8>> {
        if self.status != 0 {
            return None;
        }
        let len = usize::try_from(len).ok()?.checked_add(1)?;
        let mut contents = super::frame::decompress(&self.bytes, b"", len).ok()?;
        // What the commands ended with.
        (contents.pop() == Some(b'0')).then_some(contents)
    }
}

/// The name of a store path, and the path below it.
fn split_name(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().position(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (path, b""),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::process::{Command, Stdio};

    use sha2::{Digest, Sha256};

    use super::*;

    /// What a shell prints, up to the trailer.
    fn run(script: &[u8], nonce: &str, number: u32) -> CommandOutput {
        let mut child = Command::new("sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(script).unwrap();
        let printed = child.wait_with_output().unwrap().stdout;
        match Output::new(nonce, number, LISTING_MAX).step(&printed) {
            Step::Done(len, status) => CommandOutput {
                bytes: Bytes::copy_from_slice(&printed[..len]),
                status,
            },
            _ => panic!("no trailer: {}", String::from_utf8_lossy(&printed)),
        }
    }

    #[test]
    fn a_survey_says_what_there_is_of_several_paths() {
        let folder = tempfile::tempdir().unwrap();
        let path = |digit: char| {
            let hash: String = std::iter::repeat_n(digit, 32).collect();
            StorePath::parse(&format!("/nix/store/{hash}-x")).unwrap()
        };
        let paths = [path('1'), path('2'), path('3'), path('4')];
        let real = |path: &StorePath| folder.path().join(path.base_name());
        let odd: &[u8] = b"a/- it's \n*";
        fs::create_dir_all(real(&paths[0]).join("a")).unwrap();
        fs::write(real(&paths[0]).join("a/- it's \n*"), "odd").unwrap();
        std::os::unix::fs::symlink("nowhere", real(&paths[0]).join("c")).unwrap();
        fs::write(real(&paths[2]), "a file").unwrap();
        fs::create_dir(real(&paths[3])).unwrap();

        let nonce = "0123456789abcdef0123456789abcdef";
        let names = paths.each_ref().map(|path| path.base_name().as_bytes());
        let files = [(names[0], odd), (names[0], b"gone"), (names[1], b"gone")];
        let script = [
            format!("n={nonce};LC_ALL=C\n").into_bytes(),
            command::set_up(&[b"/nowhere".to_vec(), folder.path().to_str().unwrap().into()]),
            command::survey(&names, files.into_iter(), 7, LISTING_MAX),
        ];
        let output = run(&script.concat(), nonce, 7);
        let paths = paths.each_ref();
        let surveyed = output.surveyed(&paths).unwrap();
        let layouts: Vec<_> = surveyed.iter().map(|one| one.layout.as_ref()).collect();
        let entries = layouts.iter().map(|layout| layout.map(Layout::entries));
        assert_eq!(
            entries.collect::<Vec<_>>(),
            [Some(4), None, Some(1), Some(1)]
        );
        assert!(!layouts[2].unwrap().is_directory());
        let digests: Vec<_> = surveyed.iter().flat_map(|one| &one.digests).collect();
        let digest: [u8; 32] = Sha256::digest("odd").into();
        assert_eq!(digests, [(&odd.to_vec(), &digest)]);
        for wrong in [&b"hello"[..], b""] {
            let bytes = Bytes::copy_from_slice(wrong);
            assert!(
                CommandOutput { bytes, status: 0 }
                    .surveyed(&paths)
                    .is_none()
            );
        }
        let cut = output.bytes.slice(..output.bytes.len() - 5);
        let cut = CommandOutput {
            bytes: cut,
            status: 0,
        };
        assert!(cut.surveyed(&paths).is_none());
    }

    #[test]
    fn blocks_of_a_file_are_hashed() {
        let folder = tempfile::tempdir().unwrap();
        let name = "7rjj86a15146cq1d3qy068lml7n7ykzm-x";
        let odd: &[u8] = b"7rjj86a15146cq1d3qy068lml7n7ykzm-x/- it's \n*";
        let contents: Vec<u8> = (0..200_001_u32).map(|n| (n / 7) as u8).collect();
        fs::create_dir(folder.path().join(name)).unwrap();
        fs::write(folder.path().join(name).join("- it's \n*"), &contents).unwrap();

        let nonce = "0123456789abcdef0123456789abcdef";
        let digests = |file: &[u8], size, count| {
            let mut script = format!("n={nonce};LC_ALL=C\n").into_bytes();
            script.extend(command::set_up(&[folder.path().to_str().unwrap().into()]));
            command::enter(&mut script, name.as_bytes(), false);
            command::block_digests(&mut script, file, (size, 50_000), 7);
            let output = run(&script, nonce, 7);
            assert_eq!(output.status, 0);
            output.block_digests(count)
        };
        let expected = contents.chunks(50_000);
        let expected = expected.map(|block| Some(Sha256::digest(block).into()));
        assert_eq!(digests(odd, 200_001, 5), expected.collect::<Vec<_>>());
        // Which is the digest of nothing.
        let gone = digests(b"7rjj86a15146cq1d3qy068lml7n7ykzm-x/gone", 60_000, 2);
        assert!(
            gone.iter()
                .all(|digest| *digest == Some(Sha256::digest("").into()))
        );
        assert_eq!(digests(odd, 60_000, 4)[2..], [None, None]);
    }
}
