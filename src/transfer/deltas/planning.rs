//! From what the host says of some paths, and the versions here, to the plan.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::blocks::{Compared, to_compare};
use super::chosen_base::Wanted;
use super::delta_options::DeltaOptions;
use super::fault::{DeltaFault, unsuitable};
use super::patching::Patching;
use super::plan::{Here, Plan, Spared};
use super::replies::{block_digests, difference};
use crate::model::StorePath;
use crate::remote::{Difference, SegmentReader, Surveyed};
use crate::transfer::blocking;
use crate::wire::nar::layout::{Layout, Piece};

/// Files up to this size, in bytes, are compared by their digests before anything else, since most of a new version are
/// the same. A larger one comes as a patch at once, which costs the host about as much.
const DIGEST_MAX: u64 = 4 << 20;

/// The largest file that is copied from here as a whole, in bytes: it is held in memory.
const LOCAL_MAX: u64 = 128 << 20;

/// About how many bytes come for the digest of a block.
const DIGEST_WIRE_LEN: u64 = 68;

/// The plan for some paths.
pub(super) struct Planned {
    pub(super) plan: Plan,
    /// Those that do not come so.
    pub(super) refused: VecDeque<(usize, DeltaFault)>,
    /// Bytes that came over the link.
    pub(super) wire_len: u64,
}

/// What is known of a path.
struct Seen {
    layout: Layout,
    here: Here,
}

/// Asks for what the plan is made from.
pub(super) fn request(reader: &mut SegmentReader, wanted: &[Wanted]) {
    let compared = wanted.iter().enumerate().flat_map(|(index, (_, base))| {
        let most = if base.at_host { DIGEST_MAX } else { LOCAL_MAX };
        let files = base.files.iter();
        let files = files.filter(move |(path, size)| (1..=most).contains(size) && !path.is_empty());
        files.map(move |(path, _)| (index, path))
    });
    reader.request_survey(&paths(wanted), compared);
}

/// Makes the plan from what comes.
///
/// # Errors
/// When the host fails, or cannot say what there is.
pub(super) async fn make(
    reader: &mut SegmentReader,
    wanted: Arc<[Wanted]>,
    options: &DeltaOptions,
) -> Result<Planned, DeltaFault> {
    let survey = difference(reader).await?;
    let mut wire_len = survey.wire_len();
    let patching = Patching {
        min: options.patch_min,
        in_parts: reader.patches_parts(),
    };
    let (of, rate) = (wanted.clone(), options.rate);
    let seen = blocking::run(options.may_block, move || {
        see(survey, &of, (patching, rate))
    });
    let seen = seen.await.map_err(|error| unsuitable(error.to_string()))?;
    let (seen, compared) = seen?;
    for compared in &compared {
        reader.request_block_digests(&paths(&wanted), &compared.file, compared.block);
    }
    let mut digests = Vec::new();
    for compared in compared {
        let of_file = block_digests(reader, compared.count()).await?;
        wire_len += of_file.len() as u64 * DIGEST_WIRE_LEN;
        digests.push((compared, of_file));
    }
    let planned = blocking::run(options.may_block, move || {
        plan(seen, &digests, &wanted, patching)
    });
    let planned = planned.await;
    let (plan, refused) = planned.map_err(|error| unsuitable(error.to_string()))?;
    Ok(Planned {
        plan,
        refused,
        wire_len,
    })
}

type SeenOrNot = Result<Seen, DeltaFault>;

/// What there is of each path, and which files are to be compared block by block. Blocks.
fn see(
    survey: Difference,
    wanted: &[Wanted],
    (patching, rate): (Patching, u64),
) -> Result<(Vec<SeenOrNot>, Vec<Compared>), DeltaFault> {
    let surveyed = survey.surveyed(&paths(wanted));
    let surveyed = surveyed.ok_or_else(|| unsuitable("the host cannot list the paths"))?;
    let mut compared = Vec::new();
    let surveyed = wanted.iter().zip(surveyed).enumerate();
    let seen = surveyed.map(|(index, ((info, base), surveyed))| {
        let Surveyed { layout, digests } = surveyed;
        let layout = layout.filter(|layout| layout.nar_size() == info.nar_size);
        let layout = layout.ok_or_else(|| unsuitable("the host cannot list it"))?;
        let (sizes, mut same) = (sizes(&layout), digests);
        // The host may name anything.
        same.retain(|path, theirs| {
            let size = base.files.size(path);
            size.is_some() && sizes.get(path) == size.as_ref() && base.has(path, *theirs)
        });
        let here = Here {
            same,
            blocks: HashMap::new(),
        };
        let patching = base.at_host.then_some(patching);
        compared.extend(to_compare(
            index,
            &layout,
            base,
            &here.same,
            (patching, rate),
        ));
        Ok(Seen { layout, here })
    });
    let seen = seen.collect();
    Ok((seen, compared))
}

/// Plans all that are worth it. Blocks.
fn plan(
    mut seen: Vec<SeenOrNot>,
    digests: &[(Compared, Vec<Option<[u8; 32]>>)],
    wanted: &[Wanted],
    patching: Patching,
) -> (Plan, VecDeque<(usize, DeltaFault)>) {
    for (compared, digests) in digests {
        let index = compared.file.index;
        if let (Some(Ok(seen)), Some((_, base))) = (seen.get_mut(index), wanted.get(index)) {
            let found = compared.find(base, digests);
            let path = compared.file.range.path.clone();
            if found.iter().any(|(_, block)| block.is_some()) {
                seen.here.blocks.insert(path, found);
            }
        }
    }
    let (mut plan, mut refused) = (Plan::default(), VecDeque::new());
    for (nar, (wanted, seen)) in wanted.iter().zip(seen).enumerate() {
        let added = seen.and_then(|seen| add(&mut plan, nar, wanted, &seen, patching));
        if let Err(fault) = added {
            refused.push_back((nar, fault));
        }
    }
    (plan, refused)
}

/// Plans a NAR.
fn add(
    plan: &mut Plan,
    nar: usize,
    (info, base): &Wanted,
    seen: &Seen,
    patching: Patching,
) -> Result<(), DeltaFault> {
    let patching = base.at_host.then_some(patching);
    let planned = plan.add(nar, &seen.layout, &base.files, &seen.here, patching);
    let Spared { spared, contents } = planned;
    if !planned.is_worth_it() {
        let reason = format!("{spared} of {contents} bytes are spared");
        return Err(unsuitable(reason));
    }
    let (path, base) = (&info.path, &base.path);
    log::debug!("{path}: {spared} of {contents} bytes are here or similar to {base}");
    Ok(())
}

pub(super) fn paths(wanted: &[Wanted]) -> Vec<&StorePath> {
    wanted.iter().map(|(info, _)| &info.path).collect()
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
