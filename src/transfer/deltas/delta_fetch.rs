//! Some paths from one host, put together from what is here and what the host sends.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use super::chosen_base::ChosenBase;
use super::delta_options::DeltaOptions;
use super::fault::{DeltaFault, unsuitable};
use super::patching::Patching;
use super::plan::{Plan, Request, Spared, Step};
use crate::model::{PathInfo, StorePath};
use crate::remote::{BasePart, Difference, SegmentReader, Surveyed};
use crate::transfer::blocking;
use crate::wire::nar::layout::{Layout, Piece};

/// How many requests may be outstanding, and how many bytes of files they bring if there are more than two: the host makes
/// the next while the one before is passed on here.
const MAX_OUTSTANDING: usize = 32;
const ALWAYS_OUTSTANDING: usize = 2;
const MAX_OUTSTANDING_BYTES: u64 = 8 << 20;

/// Files up to this size, in bytes, are compared by their digests before anything else, since most of a new version are
/// the same. A larger one comes as a patch at once, which costs the host about as much.
const DIGEST_MAX: u64 = 4 << 20;

/// The largest file that is copied from here, in bytes: it is held in memory.
const LOCAL_MAX: u64 = 128 << 20;

/// How many bytes are passed on at once.
const PIECE_SIZE: usize = 1 << 20;

/// How long the host may send nothing: it works that long on the largest patch.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// A path, and the version here that it comes from.
pub(in crate::transfer) type Wanted = (Arc<PathInfo>, Arc<ChosenBase>);

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
        let compared = wanted.iter().enumerate().flat_map(|(index, (_, base))| {
            let most = if base.at_host { DIGEST_MAX } else { LOCAL_MAX };
            let files = base.files.iter();
            let files =
                files.filter(move |(path, size)| (1..=most).contains(size) && !path.is_empty());
            files.map(move |(path, _)| (index, path))
        });
        reader.request_survey(&paths(&wanted), compared);
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
            Step::Local { path, digest } => return Ok(self.local(nar, path, digest).await?.into()),
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
        let survey = difference(reader).await?;
        self.wire_len += survey.wire_len();
        let wanted = self.wanted.clone();
        let patching = Patching {
            min: self.options.patch_min,
            in_parts: reader.patches_parts(),
        };
        let planned = blocking::run(self.options.may_block, move || {
            let (mut plan, mut refused) = (Plan::default(), VecDeque::new());
            let surveyed = survey.surveyed(&paths(&wanted));
            let surveyed = surveyed.ok_or_else(|| unsuitable("the host cannot list the paths"))?;
            for (nar, (wanted, surveyed)) in wanted.iter().zip(surveyed).enumerate() {
                if let Err(fault) = add_to_plan(&mut plan, nar, wanted, surveyed, patching) {
                    refused.push_back((nar, fault));
                }
            }
            Ok::<_, DeltaFault>((plan, refused))
        });
        let planned = planned.await;
        (self.plan, self.refused) = planned.map_err(|error| unsuitable(error.to_string()))??;
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

    /// A file from here, which must be what it was when it was compared.
    async fn local(
        &self,
        nar: usize,
        path: Vec<u8>,
        digest: [u8; 32],
    ) -> Result<Vec<u8>, DeltaFault> {
        let wanted = self.wanted.get(nar);
        let base = wanted.map(|(_, base)| base.clone());
        let base = base.ok_or_else(|| unsuitable("nobody wants it"))?;
        let read = blocking::run(self.options.may_block, move || {
            let name = String::from_utf8_lossy(&path).into_owned();
            match base.contents(&path, digest) {
                Ok(Some(contents)) => Ok(contents),
                Ok(None) => Err(format!("{name} of {} has changed", base.path)),
                Err(error) => Err(format!("{name} of {} cannot be read: {error}", base.path)),
            }
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

fn paths(wanted: &[Wanted]) -> Vec<&StorePath> {
    wanted.iter().map(|(info, _)| &info.path).collect()
}

/// Plans a NAR.
fn add_to_plan(
    plan: &mut Plan,
    nar: usize,
    (info, base): &Wanted,
    surveyed: Surveyed,
    patching: Patching,
) -> Result<(), DeltaFault> {
    let layout = surveyed.layout;
    let layout = layout.filter(|layout| layout.nar_size() == info.nar_size);
    let layout = layout.ok_or_else(|| unsuitable("the host cannot list it"))?;
    let (sizes, mut same) = (sizes(&layout), surveyed.digests);
    // The host may name anything.
    same.retain(|path, theirs| {
        let size = base.files.size(path);
        size.is_some() && sizes.get(path) == size.as_ref() && base.has(path, *theirs)
    });
    let patching = base.at_host.then_some(patching);
    let planned = plan.add(nar, &layout, &base.files, &same, patching);
    let Spared { spared, contents } = planned;
    if !planned.is_worth_it() {
        let reason = format!("{spared} of {contents} bytes are spared");
        return Err(unsuitable(reason));
    }
    let (path, base) = (&info.path, &base.path);
    log::debug!("{path}: {spared} of {contents} bytes are here or similar to {base}");
    Ok(())
}

/// How long the files of a path are.
fn sizes(layout: &Layout) -> HashMap<Vec<u8>, u64> {
    let pieces = layout.segment(0, u64::MAX).pieces();
    let sizes = pieces.filter_map(|piece| match piece {
        Piece::Contents(file) => Some((file.path, file.size)),
        Piece::Framing(_) => None,
    });
    sizes.collect()
}

fn append(out: &mut BytesMut, bytes: Bytes) {
    match bytes.try_into_mut() {
        Ok(bytes) if out.is_empty() => *out = bytes,
        Ok(bytes) => out.extend_from_slice(&bytes),
        Err(bytes) => out.extend_from_slice(&bytes),
    }
}

/// What the host sends next.
async fn difference(reader: &mut SegmentReader) -> Result<Difference, DeltaFault> {
    let meter = reader.meter();
    let reply = reader.difference();
    tokio::pin!(reply);
    let mut before = None;
    loop {
        match timeout(SILENCE_MAX, &mut reply).await {
            Ok(Ok(Some(reply))) => return Ok(reply),
            Ok(Ok(None)) => return Err(unsuitable("nothing is outstanding")),
            Ok(Err(error)) => return Err(DeltaFault::Remote(error.into())),
            Err(_) => {
                let now = meter.load(std::sync::atomic::Ordering::Relaxed);
                if before.replace(now) == Some(now) || now == 0 {
                    let secs = SILENCE_MAX.as_secs();
                    return Err(unsuitable(format!("the host sent nothing for {secs} s")));
                }
            }
        }
    }
}
