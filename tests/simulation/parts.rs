//! What our program answers beyond the serve protocol: parts of NARs.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use ssh_substituter::model::StorePath;
use ssh_substituter::wire::nar::layout::{Entry, EntryKind, Layout, Piece};
use ssh_substituter::wire::serve::extension::{
    Request, Status, put_end, put_entry, put_piece_head,
};

use super::differences;
use super::host::Far;
use super::link::Gone;
use super::nars::{Item, Kind, Node};
use super::store::Copy;

/// How long a piece is at most, in bytes.
const PIECE: usize = 64 << 10;

pub async fn answer(far: &mut Far, request: Request) -> Result<(), Gone> {
    let host = far.host.clone();
    host.note(format_args!("{request:?}"));
    let path = match &request {
        Request::Nars { paths, level } => return nars(far, paths, *level).await,
        Request::Survey { paths, level } => return differences::survey(far, paths, *level).await,
        Request::Parts {
            paths,
            parts,
            level,
        } => return differences::parts(far, paths, parts, *level).await,
        Request::Delta { part, base, level } => {
            return differences::delta(far, part, base, *level).await;
        }
        Request::List { path, .. } | Request::Chunk { path, .. } | Request::Digest { path, .. } => {
            path
        }
    };
    let Some(copy) = host.store.get(path) else {
        return end(far, Status::Absent, "it is not valid").await;
    };
    let size = copy.item.size();
    match &request {
        Request::List { level, .. } => {
            let mut listing = Vec::new();
            for entry in entries(&copy.item) {
                put_entry(&mut listing, &entry);
            }
            body(far, listing.into(), *level, false).await?;
        }
        Request::Chunk { start, len, .. } | Request::Digest { start, len, .. }
            if start.checked_add(*len).is_none_or(|end| end > size) =>
        {
            return end(far, Status::Unfit, "it is shorter").await;
        }
        Request::Chunk {
            path,
            start,
            len,
            level: 0,
        } => return raw(far, path, *start, *len).await,
        Request::Chunk {
            start, len, level, ..
        } => body(far, copy.bytes(*start, *len), *level, true).await?,
        Request::Digest {
            start,
            len,
            contents_only,
            ..
        } => {
            let digest = digest(copy, *start, *len, *contents_only);
            body(far, digest.into(), 0, false).await?;
        }
        _ => {}
    }
    end(far, Status::Done, "").await
}

/// Whole NARs as one body, up to one that is not there.
async fn nars(far: &mut Far, paths: &[StorePath], level: u8) -> Result<(), Gone> {
    let host = far.host.clone();
    let mut all = Vec::new();
    let mut is_whole = true;
    for path in paths {
        let Some(copy) = host.store.get(path) else {
            is_whole = false;
            break;
        };
        all.extend_from_slice(&copy.bytes(0, copy.item.size()));
    }
    body(far, all.into(), level, true).await?;
    match is_whole {
        true => end(far, Status::Done, "").await,
        false => end(far, Status::Absent, "it is not valid").await,
    }
}

pub fn entries(item: &Item) -> Vec<Entry<'_>> {
    item.nodes.iter().map(entry_of).collect()
}

fn entry_of(node: &Node) -> Entry<'_> {
    let kind = match &node.kind {
        Kind::Directory => EntryKind::Directory,
        Kind::Symlink(target) => EntryKind::Symlink(target.as_bytes()),
        Kind::File {
            executable, size, ..
        } => EntryKind::File {
            executable: *executable,
            size: *size,
        },
    };
    let path = node.path.as_bytes();
    Entry { path, kind }
}

fn digest(copy: &Copy, start: u64, len: u64, contents_only: bool) -> Vec<u8> {
    let bytes = copy.bytes(start, len);
    if !contents_only {
        return Sha256::digest(&bytes).to_vec();
    }
    let layout = Layout::new(copy.item.path.clone(), entries(&copy.item)).expect("a tree");
    let (mut hasher, mut at) = (Sha256::new(), 0);
    for piece in layout.segment(start, len).pieces() {
        match piece {
            Piece::Framing(framing) => at += framing.len(),
            Piece::Contents(range) => {
                let end = at + range.len as usize;
                hasher.update(&bytes[at..end]);
                at = end;
            }
        }
    }
    hasher.finalize().to_vec()
}

/// As it is read, piece by piece: the path may go meanwhile.
async fn raw(far: &mut Far, path: &StorePath, start: u64, len: u64) -> Result<(), Gone> {
    let host = far.host.clone();
    let mut at = start;
    while at < start + len {
        let Some(copy) = host.store.get(path) else {
            return end(far, Status::Absent, "it is gone").await;
        };
        let part = (start + len - at).min(PIECE as u64);
        piece(far, copy.bytes(at, part), true).await?;
        at += part;
    }
    end(far, Status::Done, "").await
}

pub async fn body(far: &mut Far, bytes: Bytes, level: u8, is_contents: bool) -> Result<(), Gone> {
    let mut bytes = match level {
        0 => bytes,
        level => zstd::encode_all(&bytes[..], level.into())
            .expect("it compresses")
            .into(),
    };
    while !bytes.is_empty() {
        let part = bytes.split_to(PIECE.min(bytes.len()));
        piece(far, part, is_contents).await?;
    }
    Ok(())
}

async fn piece(far: &mut Far, bytes: Bytes, is_contents: bool) -> Result<(), Gone> {
    let mut head = Vec::new();
    put_piece_head(&mut head, bytes.len());
    far.print(head.into(), false).await?;
    far.print(bytes, is_contents).await
}

pub async fn end(far: &mut Far, status: Status, reason: &str) -> Result<(), Gone> {
    let mut out = Vec::new();
    put_end(&mut out, status, reason);
    far.print(out.into(), false).await?;
    far.finish();
    Ok(())
}
