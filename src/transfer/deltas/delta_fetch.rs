//! Some paths from one host, put together from what is here and what the host sends.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::chosen_base::{ChosenBase, Wanted};
use super::delta_options::DeltaOptions;
use super::fault::{DeltaFault, unsuitable};
use super::plan::{Plan, Request, Step};
use super::planning::{self, paths};
use super::replies::difference;
use crate::remote::{BasePart, Difference, SegmentReader};
use crate::transfer::blocking;

/// How many requests may be outstanding, and how many bytes of files they bring if there are more than two: the host makes
/// the next while the one before is passed on here.
const MAX_OUTSTANDING: usize = 32;
const ALWAYS_OUTSTANDING: usize = 2;
const MAX_OUTSTANDING_BYTES: u64 = 8 << 20;

/// How many bytes are passed on at once.
const PIECE_SIZE: usize = 1 << 20;

/// What a [`DeltaFetch`] brought.
pub(in crate::transfer) enum Brought {
    /// The next bytes of the NAR of that number.
    Bytes(usize),
    /// The NAR of that number does not come so.
    Refused(usize, DeltaFault),
    /// There are no more.
    End,
}

/// Brings some NARs, one behind the other, each in order.
pub(in crate::transfer) struct DeltaFetch {
    wanted: Arc<[Wanted]>,
    options: DeltaOptions,
    is_planned: bool,
    plan: Plan,
    /// Those that do not come so, and nobody was told of.
    refused: VecDeque<(usize, DeltaFault)>,
    /// The requests that are outstanding, in order.
    outstanding: VecDeque<Request>,
    /// What has come of the requests up to `received`, and was not passed on.
    received: usize,
    ready: HashMap<usize, Bytes>,
    /// What is left of the present step, and of which NAR.
    step: (usize, Bytes),
    /// Bytes that came over the link.
    wire_len: u64,
}

impl DeltaFetch {
    /// Asks for what the plan is made from. The paths are in the same store directory, and come from the same host.
    pub(in crate::transfer) fn start(
        reader: &mut SegmentReader,
        wanted: Vec<Wanted>,
        options: DeltaOptions,
    ) -> Self {
        planning::request(reader, &wanted);
        Self {
            wanted: wanted.into(),
            options,
            is_planned: false,
            plan: Plan::default(),
            refused: VecDeque::new(),
            outstanding: VecDeque::new(),
            received: 0,
            ready: HashMap::new(),
            step: (0, Bytes::new()),
            wire_len: 0,
        }
    }

    /// Whether nothing is to be requested any more: the host may be asked for something else.
    pub(in crate::transfer) fn has_requested_all(&self) -> bool {
        self.is_planned && self.plan.requests.is_empty()
    }

    /// How many bytes came over the link so far.
    pub(in crate::transfer) fn wire_len(&self) -> u64 {
        self.wire_len
    }

    /// Appends the next bytes of a NAR.
    ///
    /// # Errors
    /// When the host fails, or what it sends and what is here do not make the NAR that is next. Replies may
    /// then be outstanding.
    pub(in crate::transfer) async fn more(
        &mut self,
        reader: &mut SegmentReader,
        out: &mut BytesMut,
    ) -> Result<Brought, DeltaFault> {
        if !self.is_planned {
            self.make_plan(reader).await?;
        }
        self.request_more(reader);
        if let Some((nar, fault)) = self.refused.pop_front() {
            return Ok(Brought::Refused(nar, fault));
        }
        if self.step.1.is_empty() {
            match self.plan.steps.pop_front() {
                None => return Ok(Brought::End),
                Some((nar, step)) => self.step = (nar, self.bytes_of(nar, step, reader).await?),
            }
        }
        // Whoever takes it hashes it at once.
        let (nar, step) = &mut self.step;
        let len = step.len().min(PIECE_SIZE);
        append(out, step.split_to(len));
        Ok(Brought::Bytes(*nar))
    }

    async fn bytes_of(
        &mut self,
        nar: usize,
        step: Step,
        reader: &mut SegmentReader,
    ) -> Result<Bytes, DeltaFault> {
        let (request, len) = match step {
            Step::Framing(bytes) => return Ok(bytes.into()),
            Step::Local { path, digest } => {
                let name = String::from_utf8_lossy(&path).into_owned();
                let read = move |base: &ChosenBase| base.contents(&path, digest);
                return Ok(self.local(nar, name, read).await?.into());
            }
            Step::Block(block) => {
                let name = String::from_utf8_lossy(&block.file).into_owned();
                let read = move |base: &ChosenBase| block.contents(base);
                return Ok(self.local(nar, name, read).await?.into());
            }
            Step::Remote { request, len } => (request, len),
        };
        while self.received <= request {
            self.receive(reader).await?;
        }
        let wrong = || unsuitable("the plan needs more than was asked for");
        let bytes = self.ready.get_mut(&request).ok_or_else(wrong)?;
        let len = usize::try_from(len).map_err(|_| wrong())?;
        if bytes.len() < len {
            return Err(wrong());
        }
        let part = bytes.split_to(len);
        if bytes.is_empty() {
            self.ready.remove(&request);
        }
        Ok(part)
    }

    async fn make_plan(&mut self, reader: &mut SegmentReader) -> Result<(), DeltaFault> {
        let planned = planning::make(reader, self.wanted.clone(), &self.options).await?;
        self.wire_len += planned.wire_len;
        (self.plan, self.refused) = (planned.plan, planned.refused);
        self.is_planned = true;
        Ok(())
    }

    fn request_more(&mut self, reader: &mut SegmentReader) {
        let (wanted, level) = (self.wanted.clone(), self.options.level);
        let paths = paths(&wanted);
        let mut bytes: u64 = self.outstanding.iter().map(Request::len).sum();
        while let Some(next) = self.plan.requests.front() {
            bytes += next.len();
            let has_room =
                self.outstanding.len() < MAX_OUTSTANDING && bytes <= MAX_OUTSTANDING_BYTES;
            if self.outstanding.len() >= ALWAYS_OUTSTANDING && !has_room {
                return;
            }
            match next {
                Request::Ranges(files) => reader.request_files(&paths, files, level),
                Request::Patch {
                    file,
                    base_file,
                    base_part: (start, len),
                } => {
                    if let Some((_, base)) = wanted.get(file.index) {
                        let base = BasePart {
                            path: &base.path,
                            file: base_file,
                            start: *start,
                            len: *len,
                        };
                        reader.request_patch(&paths, file, base, level);
                    }
                }
            }
            self.outstanding.extend(self.plan.requests.pop_front());
        }
    }

    /// Takes the reply to the oldest request.
    async fn receive(&mut self, reader: &mut SegmentReader) -> Result<(), DeltaFault> {
        let reply = difference(reader).await?;
        self.wire_len += reply.wire_len();
        let request = self.outstanding.pop_front();
        let request = request.ok_or_else(|| unsuitable("nothing is outstanding"))?;
        let wanted = self.wanted.clone();
        let memory = match &request {
            Request::Patch {
                file, base_part, ..
            } => {
                let bytes = base_part.1.saturating_add(file.range.len);
                self.options.memory.reserve(bytes).await
            }
            Request::Ranges(_) => None,
        };
        let decoded = blocking::run(self.options.may_block, move || {
            let decoded = decode(&request, &reply, &wanted);
            drop(memory);
            decoded
        });
        let decoded = decoded
            .await
            .map_err(|error| unsuitable(error.to_string()))??;
        self.ready.insert(self.received, decoded.into());
        self.received += 1;
        // Requested while this is passed on.
        self.request_more(reader);
        Ok(())
    }

    /// Bytes of the file of that name from here, which must be what they were when they were compared.
    async fn local(
        &self,
        nar: usize,
        name: String,
        read: impl FnOnce(&ChosenBase) -> io::Result<Vec<u8>> + Send + 'static,
    ) -> Result<Vec<u8>, DeltaFault> {
        let wanted = self.wanted.get(nar);
        let base = wanted.map(|(_, base)| base.clone());
        let base = base.ok_or_else(|| unsuitable("nobody wants it"))?;
        let read = blocking::run(self.options.may_block, move || {
            read(&base).map_err(|error| format!("{name} of {} cannot be used: {error}", base.path))
        });
        let read = read.await.map_err(|error| unsuitable(error.to_string()))?;
        read.map_err(unsuitable)
    }
}

/// What a reply brings. Blocks.
fn decode(request: &Request, reply: &Difference, wanted: &[Wanted]) -> Result<Vec<u8>, DeltaFault> {
    let (file, base_file, base_part) = match request {
        Request::Ranges(_) => return reply.contents(request.len()).map_err(unsuitable),
        Request::Patch {
            file,
            base_file,
            base_part,
        } => (file, base_file, *base_part),
    };
    let (_, base) = wanted
        .get(file.index)
        .ok_or_else(|| unsuitable("nobody wants it"))?;
    let name = || {
        let file = String::from_utf8_lossy(base_file);
        format!("{file} of {}", base.path)
    };
    let old = base.files.part(base_file, base_part);
    let old = old.map_err(|error| unsuitable(format!("{} cannot be used: {error}", name())))?;
    let patched = reply.patched(&old, request.len());
    patched.map_err(|error| unsuitable(format!("{} is not what the host has: {error}", name())))
}

fn append(out: &mut BytesMut, bytes: Bytes) {
    match bytes.try_into_mut() {
        Ok(bytes) if out.is_empty() => *out = bytes,
        Ok(bytes) => out.extend_from_slice(&bytes),
        Err(bytes) => out.extend_from_slice(&bytes),
    }
}
