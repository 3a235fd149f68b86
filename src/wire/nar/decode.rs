//! Reading NARs as they come in.
//!
//! The decoder steps over whole units of the grammar (a node's head, an entry's head, a piece of
//! contents, an end), never over half a token. What it has stepped over can therefore be passed
//! on at any moment and still be completed to a well-formed archive (see [`super::Completion`]).

use super::{MAGIC, MAX_DEPTH, MAX_NAME, MAX_TAG, MAX_TARGET};
use crate::wire::{Cursor, Stop, WireError, padding_len, printable};

/// What a step of the decoder found. Slices point into the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// A directory begins.
    Directory,
    /// The next node is the entry of this name in the directory that is open.
    Entry(&'a [u8]),
    /// A regular file begins.
    File {
        /// Whether it is executable.
        executable: bool,
        /// Length of its contents in bytes.
        size: u64,
    },
    /// The next bytes of the file's contents; never empty.
    Contents(&'a [u8]),
    /// The file is complete.
    FileEnd,
    /// A symlink, complete.
    Symlink(&'a [u8]),
    /// The directory is complete.
    DirectoryEnd,
    /// The archive is complete. Said again at each further step; nothing more is read.
    End,
}

/// Why bytes are no acceptable NAR.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed NAR at byte {at}: {source}")]
pub struct NarError {
    /// Offset from the beginning of the archive of the unit that is wrong.
    pub at: u64,
    /// What is wrong there.
    pub source: WireError,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DecoderState {
    Start,
    Node,
    Contents { size: u64, left: u64 },
    EntryEnd,
    Directory,
    Done,
}

/// An incremental decoder that knows after each byte whether the archive is complete.
#[derive(Debug, Clone)]
pub struct Decoder {
    pub(super) state: DecoderState,
    /// For each open directory the name of the entry that came last; empty before the first.
    pub(super) open: Vec<Vec<u8>>,
    read: u64,
    limit: u64,
    /// What was wrong, once something was.
    failed: Option<NarError>,
}

impl Decoder {
    /// A decoder for an archive of at most `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self {
            state: DecoderState::Start,
            open: Vec::new(),
            read: 0,
            limit,
            failed: None,
        }
    }

    /// Bytes stepped over so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.read
    }

    /// Whether the archive has ended.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.state == DecoderState::Done
    }

    /// Steps over what is complete at the beginning of `input`, at most up to the next event, and
    /// tells how many bytes that were. Without an event all of the rest is the beginning of a unit
    /// that needs more bytes: call again with the same rest and more behind it.
    ///
    /// # Errors
    /// When the bytes break the grammar, a limit of the module, or the size limit of this decoder.
    /// The decoder stays before the unit that is wrong: [`Decoder::bytes_read`] tells where that is,
    /// and each further step gives the same error, whatever comes.
    pub fn step<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Option<Event<'a>>), NarError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let stepped = self.advance(input);
        if let Err(error) = &stepped {
            self.failed = Some(error.clone());
        }
        stepped
    }

    fn advance<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Option<Event<'a>>), NarError> {
        let mut consumed = 0;
        loop {
            let rest = &input[consumed..];
            if let DecoderState::Contents { size, left } = self.state
                && left > 0
            {
                let len = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                if len == 0 {
                    return Ok((consumed, None));
                }
                self.state = DecoderState::Contents {
                    size,
                    left: left - len as u64,
                };
                self.read += len as u64;
                return Ok((consumed + len, Some(Event::Contents(&rest[..len]))));
            }
            if self.state == DecoderState::Done {
                return Ok((consumed, Some(Event::End)));
            }
            let mut cursor = Cursor::new(rest);
            match self.unit(&mut cursor) {
                Ok((state, event)) => {
                    let len = cursor.position();
                    self.check_size(len as u64, state)?;
                    self.enter(state, event.as_ref());
                    self.read += len as u64;
                    consumed += len;
                    if event.is_some() {
                        return Ok((consumed, event));
                    }
                }
                Err(Stop::NeedMore) => {
                    // A unit is small: one that would not fit is refused now, not waited for. At
                    // least one more byte would have to come.
                    self.check_size(rest.len() as u64 + 1, self.state)?;
                    return Ok((consumed, None));
                }
                Err(Stop::Error(source)) => return Err(self.error(source)),
            }
        }
    }

    fn error(&self, source: WireError) -> NarError {
        NarError {
            at: self.read,
            source,
        }
    }

    /// Refuses a unit that does not fit into the limit, announced contents included.
    fn check_size(&self, unit: u64, state: DecoderState) -> Result<(), NarError> {
        let ahead = match state {
            DecoderState::Contents { size, .. }
                if !matches!(self.state, DecoderState::Contents { .. }) =>
            {
                size
            }
            _ => 0,
        };
        let total = self
            .read
            .checked_add(unit)
            .and_then(|t| t.checked_add(ahead));
        match total {
            Some(total) if total <= self.limit => Ok(()),
            _ => Err(self.error(WireError::new(
                "size of the archive",
                format!("at most {} bytes", self.limit),
                total.map_or("more than 2^64".to_owned(), |t| format!("{t} or more")),
            ))),
        }
    }

    /// One unit of the grammar: the state after it and what to tell.
    fn unit<'a>(&self, cursor: &mut Cursor<'a>) -> Result<(DecoderState, Option<Event<'a>>), Stop> {
        match self.state {
            DecoderState::Start => {
                tag(cursor, "magic of the archive", MAGIC)?;
                Ok((DecoderState::Node, None))
            }
            DecoderState::Node => self.node(cursor),
            DecoderState::Contents { size, .. } => {
                cursor.padding("contents", size)?;
                tag(cursor, "end of a regular file", b")")?;
                Ok((self.after_node(self.open.len()), Some(Event::FileEnd)))
            }
            DecoderState::EntryEnd => {
                tag(cursor, "end of an entry", b")")?;
                Ok((DecoderState::Directory, None))
            }
            DecoderState::Directory => self.entry(cursor),
            DecoderState::Done => Ok((DecoderState::Done, Some(Event::End))),
        }
    }

    fn node<'a>(&self, cursor: &mut Cursor<'a>) -> Result<(DecoderState, Option<Event<'a>>), Stop> {
        tag(cursor, "beginning of a node", b"(")?;
        tag(cursor, "beginning of a node", b"type")?;
        match cursor.string("type of a node", MAX_TAG)? {
            b"regular" => {
                let mut word = cursor.string("field of a regular file", MAX_TAG)?;
                let executable = word == b"executable";
                if executable {
                    tag(cursor, "executable", b"")?;
                    word = cursor.string("field of a regular file", MAX_TAG)?;
                }
                expect("field of a regular file", b"contents", word)?;
                let size = cursor.u64()?;
                if size.checked_add(padding_len(size) as u64).is_none() {
                    return Err(WireError::new("contents", "a size below 2^64", size).into());
                }
                let event = Event::File { executable, size };
                Ok((DecoderState::Contents { size, left: size }, Some(event)))
            }
            b"symlink" => {
                tag(cursor, "field of a symlink", b"target")?;
                let target = cursor.string("target of a symlink", MAX_TARGET)?;
                if target.is_empty() || target.contains(&0) {
                    let want = "1 to 4095 bytes without NUL";
                    let got = printable(target);
                    return Err(WireError::new("target of a symlink", want, got).into());
                }
                tag(cursor, "end of a symlink", b")")?;
                let event = Event::Symlink(target);
                Ok((self.after_node(self.open.len()), Some(event)))
            }
            b"directory" => Ok((DecoderState::Directory, Some(Event::Directory))),
            other => {
                let want = "regular, symlink or directory";
                Err(WireError::new("type of a node", want, printable(other)).into())
            }
        }
    }

    fn entry<'a>(
        &self,
        cursor: &mut Cursor<'a>,
    ) -> Result<(DecoderState, Option<Event<'a>>), Stop> {
        match cursor.string("field of a directory", MAX_TAG)? {
            b")" => {
                let state = self.after_node(self.open.len().saturating_sub(1));
                Ok((state, Some(Event::DirectoryEnd)))
            }
            // Before it is stepped over: what completes the archive there has to be allowed too.
            b"entry" if self.open.len() >= MAX_DEPTH => {
                let want = format!("at most {MAX_DEPTH} within each other");
                Err(WireError::new("nodes", want, "one more").into())
            }
            b"entry" => {
                tag(cursor, "beginning of an entry", b"(")?;
                tag(cursor, "field of an entry", b"name")?;
                let name = cursor.string("name of an entry", MAX_NAME)?;
                self.check_name(name)?;
                tag(cursor, "field of an entry", b"node")?;
                Ok((DecoderState::Node, Some(Event::Entry(name))))
            }
            other => {
                let want = "entry or )";
                Err(WireError::new("field of a directory", want, printable(other)).into())
            }
        }
    }

    fn check_name(&self, name: &[u8]) -> Result<(), WireError> {
        let field = "name of an entry";
        if name.is_empty() || name == b"." || name == b".." {
            return Err(WireError::new(field, "a file name", printable(name)));
        }
        if name.contains(&b'/') || name.contains(&0) {
            return Err(WireError::new(
                field,
                "no slash and no NUL",
                printable(name),
            ));
        }
        match self.open.last() {
            Some(last) if name <= &last[..] => Err(WireError::new(
                field,
                format!("one that sorts behind {}", printable(last)),
                printable(name),
            )),
            _ => Ok(()),
        }
    }

    /// Where the grammar goes on after a node, with so many directories open around it.
    fn after_node(&self, open: usize) -> DecoderState {
        if open == 0 {
            DecoderState::Done
        } else {
            DecoderState::EntryEnd
        }
    }

    fn enter(&mut self, state: DecoderState, event: Option<&Event<'_>>) {
        match event {
            Some(Event::Directory) => self.open.push(Vec::new()),
            Some(Event::DirectoryEnd) => {
                self.open.pop();
            }
            Some(Event::Entry(name)) => {
                if let Some(last) = self.open.last_mut() {
                    last.clear();
                    last.extend_from_slice(name);
                }
            }
            _ => {}
        }
        self.state = state;
    }
}

fn tag(cursor: &mut Cursor<'_>, field: &'static str, want: &[u8]) -> Result<(), Stop> {
    let got = cursor.string(field, MAX_TAG)?;
    expect(field, want, got)
}

fn expect(field: &'static str, want: &[u8], got: &[u8]) -> Result<(), Stop> {
    if got == want {
        return Ok(());
    }
    Err(WireError::new(field, printable(want), printable(got)).into())
}
