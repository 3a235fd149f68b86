//! Lists the files of a path, and names of paths, while nothing is outstanding.

use bytes::BytesMut;

use super::{ENTRIES_MAX, LISTING, LISTING_MAX, Shell, command, listing};
use crate::model::{HashPart, StorePath};
use crate::remote::link::ReadKind;
use crate::remote::{RemoteError, RemoteErrorKind};
use crate::wire::WireError;
use crate::wire::nar::layout::Layout;

/// How many bytes of names are read of one folder of [`Shell::sample`].
const SAMPLE_MAX: usize = 16 << 10;

/// How many bytes of names are read in answer to [`Shell::names`].
const NAMES_MAX: usize = 32 << 10;

impl Shell {
    /// Lists the files of `path`. `None` when it is not there, cannot be listed whole, has more than
    /// 200,000 files or 32 MiB of names, or holds what no NAR can. Also while segments are outstanding.
    ///
    /// # Errors
    /// When the link breaks, falls silent, or what comes is no end of a listing.
    pub async fn list(&mut self, path: &StorePath) -> Result<Option<Layout>, RemoteError> {
        if self.broken || !self.pending.is_empty() {
            return Ok(None);
        }
        self.set_up(path.store_dir());
        let number = self.number();
        let line = command::list(path.base_name().as_bytes(), number, LISTING_MAX);
        let (listing, end) = self.read_output(line, number, LISTING_MAX).await?;
        let whole = command::trailer(&self.nonce, number, 0) + "\0\0" + &end;
        let Some(listing) = listing.strip_suffix(whole.as_bytes()) else {
            log::debug!("{}: {path} cannot be listed", self.link.host);
            return Ok(None);
        };
        let layout = listing::parse(listing, ENTRIES_MAX)
            .and_then(|entries| Layout::new(path.clone(), entries));
        if let Err(error) = &layout {
            log::debug!("{}: {path} is not read in chunks: {error}", self.link.host);
        }
        Ok(layout.ok())
    }

    /// Names that look like store paths, in each folder that may be the
    /// host's store directory; at most some hundreds of each.
    ///
    /// # Errors
    /// As [`Shell::list`].
    pub async fn sample(
        &mut self,
        store_dir: &str,
    ) -> Result<Vec<(String, Vec<StorePath>)>, RemoteError> {
        let mut all = Vec::new();
        if self.broken || !self.pending.is_empty() {
            return Ok(all);
        }
        for dir in self.locations.dirs(store_dir) {
            let number = self.number();
            let line = command::names(&dir, number, SAMPLE_MAX);
            let (names, end) = self.read_output(line, number, SAMPLE_MAX).await?;
            let paths = store_paths(&names, &end, store_dir);
            all.push((String::from_utf8_lossy(&dir).into_owned(), paths));
        }
        Ok(all)
    }

    /// The paths that lie in the host's store directory and have one of these hash parts, at most some 60: valid ones and
    /// what else is there. Of very many names (32 KiB) the last are left out.
    ///
    /// # Errors
    /// As [`Shell::list`].
    pub async fn names(
        &mut self,
        store_dir: &str,
        hashes: &[HashPart],
    ) -> Result<Vec<StorePath>, RemoteError> {
        if self.broken || !self.pending.is_empty() || hashes.is_empty() {
            return Ok(Vec::new());
        }
        let number = self.number();
        let dirs = self.locations.dirs(store_dir);
        let line = command::names_like(&dirs, hashes, number, NAMES_MAX);
        let (names, end) = self.read_output(line, number, NAMES_MAX).await?;
        let mut paths = store_paths(&names, &end, store_dir);
        paths.retain(|path| hashes.contains(&path.into()));
        Ok(paths)
    }

    /// The log of how this derivation was built, as `nix-store --read-log` prints it at the host; `None` where it has none. What is
    /// longer than `max` bytes is cut there. `store` is the host's `remote-store`.
    ///
    /// # Errors
    /// As [`Shell::list`].
    pub async fn build_log(
        &mut self,
        store: Option<&str>,
        derivation: &StorePath,
        max: usize,
    ) -> Result<Option<Vec<u8>>, RemoteError> {
        if self.broken || !self.pending.is_empty() {
            return Ok(None);
        }
        let number = self.number();
        let line = command::build_log(store, derivation.as_str(), number, max);
        let (log, end) = self.read_output(line, number, max).await?;
        let log = log.strip_suffix(end.as_bytes()).unwrap_or_default();
        Ok((!log.is_empty()).then(|| log.to_vec()))
    }

    /// Runs a command and reads its output, at most `max` bytes and then the end marker, which is returned too.
    /// The shell is poisoned until the end has come, also if the caller stops waiting.
    async fn read_output(
        &mut self,
        line: Vec<u8>,
        number: u32,
        max: usize,
    ) -> Result<(BytesMut, String), RemoteError> {
        self.broken = true;
        self.link.output.send_bytes(line);
        let end = command::trailer(&self.nonce, number, 9);
        while !self.link.input.peek().ends_with(end.as_bytes()) {
            if self.link.input.peek().len() > max + end.len() {
                return Err(self.link.error(RemoteErrorKind::Protocol {
                    doing: LISTING,
                    source: WireError::new("end of the listing", end, "something else"),
                }));
            }
            self.link.fill(LISTING, ReadKind::Reply).await?;
        }
        self.link.finish_reply();
        self.broken = false;
        Ok((self.link.input.buffer().split(), end))
    }
}

/// The store paths among names that were read, each with a zero byte behind it, up to their end marker.
fn store_paths(names: &[u8], end: &str, store_dir: &str) -> Vec<StorePath> {
    let names = names.strip_suffix(end.as_bytes()).unwrap_or_default();
    // The last one may have been cut.
    let names = names.split_inclusive(|byte| *byte == 0);
    let paths = names.filter_map(|name| {
        let name = std::str::from_utf8(name.strip_suffix(b"\0")?).ok()?;
        StorePath::parse(&format!("{store_dir}/{name}")).ok()
    });
    paths.collect()
}
