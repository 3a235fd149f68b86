//! The programs that a far shell starts, on the files of a made-up store.

use std::fmt::Write;
use std::io::Write as _;

use bytes::{Bytes, BytesMut};
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use ssh_substituter::wire::put_u64;
use ssh_substituter::wire::serve::{
    Incoming, Request, RequestDecoder, SERVER_MAGIC, take_client_hello,
};

use super::nars::Kind;
use super::serve::VERSION;
use super::store::{Found, Store, mode};

/// Bytes, piece by piece, and whether they are contents of files.
#[derive(Debug, Default, Clone)]
pub struct Data(pub Vec<(Bytes, bool)>);

impl Data {
    pub fn text(text: impl Into<Vec<u8>>) -> Self {
        Self(vec![(Bytes::from(text.into()), false)])
    }

    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// All of it.
    fn bytes(&self) -> Vec<u8> {
        self.0
            .iter()
            .flat_map(|(bytes, _)| bytes.to_vec())
            .collect()
    }

    /// These bytes of it.
    fn part(self, mut skip: usize, mut most: usize) -> Self {
        let mut out = Vec::new();
        for (mut bytes, is_file) in self.0 {
            let skipped = skip.min(bytes.len());
            let _ = bytes.split_to(skipped);
            skip -= skipped;
            bytes.truncate(most);
            most -= bytes.len();
            out.push((bytes, is_file));
        }
        Self(out)
    }
}

/// What has been printed.
#[derive(Debug, Default)]
pub struct Io {
    pub out: Data,
    pub err: String,
}

impl Io {
    pub fn complain(&mut self, line: String) {
        self.err += &line;
        self.err.push('\n');
    }
}

/// A name as seen from a folder.
pub fn absolute(folder: &str, name: &str) -> String {
    let name = name.strip_prefix("./").unwrap_or(name);
    if name.starts_with('/') {
        return match name.trim_end_matches('/') {
            "" => "/".to_owned(),
            name => name.to_owned(),
        };
    }
    format!("{}/{name}", folder.trim_end_matches('/'))
}

pub fn is_directory(store: &Store, name: &str) -> bool {
    match store.find(name) {
        Some(Found::Outside) => true,
        Some(Found::Inside(_, node)) => node.kind == Kind::Directory,
        None => false,
    }
}

/// Runs one program: what it prints and its exit status. `None` when its arguments are not understood.
pub fn run(
    words: &[&str],
    input: Data,
    store: &Store,
    folder: &str,
    io: &mut Io,
) -> Option<(Data, u8)> {
    let file = |name: &str| read(store, &absolute(folder, name));
    match words {
        ["printf", format, arguments @ ..] => Some((Data::text(printf(format, arguments)?), 0)),
        ["head", "-c", most] => Some((input.part(0, most.parse().ok()?), 0)),
        ["cat"] => Some((input, 0)),
        ["zstd", "-q", level] if store.has_zstd => {
            let level = level.strip_prefix('-')?.parse().ok()?;
            let all = input.bytes();
            // As the program does it: the frame ends with a checksum.
            let mut encoder = zstd::Encoder::new(Vec::new(), level).ok()?;
            encoder.include_checksum(true).ok()?;
            encoder.write_all(&all).ok()?;
            Some((Data(vec![(encoder.finish().ok()?.into(), true)]), 0))
        }
        ["nix-store", "--serve", ..] => Some((dumps(&input.bytes(), store, io)?, 0)),
        ["sha256sum"] => {
            let mut hasher = Sha256::new();
            input.0.iter().for_each(|(bytes, _)| hasher.update(bytes));
            let hex = HEXLOWER.encode(&hasher.finalize());
            Some((Data::text(format!("{hex}  -\n")), 0))
        }
        ["cat", names @ ..] => {
            let (mut out, mut status) = (Data::default(), 0);
            for name in names {
                match file(name) {
                    Some(bytes) => out.0.push((bytes, true)),
                    None => {
                        io.complain(format!("cat: {name}: No such file or directory"));
                        status = 1;
                    }
                }
            }
            Some((out, status))
        }
        [
            "dd",
            "status=none",
            "bs=64k",
            "iflag=skip_bytes,count_bytes,fullblock",
            skip,
            count,
            from @ ..,
        ] => {
            let skip = skip.strip_prefix("skip=")?.parse().ok()?;
            let count = count.strip_prefix("count=")?.parse().ok()?;
            let whole = match from {
                [] => input,
                [from] => {
                    let name = from.strip_prefix("if=")?;
                    match file(name) {
                        Some(bytes) => Data(vec![(bytes, true)]),
                        None => {
                            io.complain(format!(
                                "dd: failed to open '{name}': No such file or directory"
                            ));
                            return Some((Data::default(), 1));
                        }
                    }
                }
                _ => return None,
            };
            Some((whole.part(skip, count), 0))
        }
        ["find", place, rest @ ..] => {
            let (deep, format) = match rest {
                ["-printf", format] => (true, format),
                ["-maxdepth", "0", "-printf", format] => (false, format),
                _ => return None,
            };
            match listing(store, place, deep, format) {
                Some(listing) => Some((Data::text(listing), 0)),
                None => {
                    io.complain(format!("find: '{place}': No such file or directory"));
                    Some((Data::default(), 1))
                }
            }
        }
        _ => None,
    }
}

/// What `nix-store --serve` replies to a hello and requests for dumps, up to the first path that it lacks.
fn dumps(requests: &[u8], store: &Store, io: &mut Io) -> Option<Data> {
    let mut requests = BytesMut::from(requests);
    take_client_hello(&mut requests).ok()??;
    let mut hello = Vec::new();
    put_u64(&mut hello, SERVER_MAGIC);
    put_u64(&mut hello, VERSION.number());
    let (mut out, mut decoder) = (Data::text(hello), RequestDecoder::default());
    while let Some(Incoming::Request(request)) = decoder.step(&mut requests).ok()? {
        let Request::DumpStorePath { path } = request else {
            return None;
        };
        let Some(copy) = store.get(&path) else {
            io.complain(format!("error: path '{}' is not valid", path.as_str()));
            break;
        };
        out.0.push((copy.bytes(0, copy.item.size()), true));
    }
    Some(out)
}

fn read(store: &Store, name: &str) -> Option<Bytes> {
    match store.find(name)? {
        Found::Inside(copy, node) => match node.kind {
            Kind::File { at, size, .. } => Some(copy.bytes(at, size)),
            _ => None,
        },
        Found::Outside => None,
    }
}

fn printf(format: &str, arguments: &[&str]) -> Option<Vec<u8>> {
    let mut arguments = arguments.iter();
    let mut out = Vec::new();
    let mut rest = format.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'%' => {
                let (what, after) = rest.split_first()?;
                rest = after;
                match what {
                    b's' => out.extend(arguments.next().unwrap_or(&"").bytes()),
                    b'%' => out.push(b'%'),
                    _ => return None,
                }
            }
            b'\\' => {
                let is_digit = |byte: &&u8| (b'0'..=b'7').contains(*byte);
                let len = rest.iter().take(3).take_while(is_digit).count();
                let digits = std::str::from_utf8(&rest[..len]).ok()?;
                out.push(u8::from_str_radix(digits, 8).ok()?);
                rest = &rest[len..];
            }
            byte => out.push(*byte),
        }
    }
    Some(out)
}

/// What `find PLACE -printf FORMAT` prints; `None` when nothing is there.
fn listing(store: &Store, place: &str, deep: bool, format: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match store.find(place)? {
        Found::Outside => {
            if deep {
                return None;
            }
            entry(&mut out, format, "", &Kind::Directory)?;
        }
        Found::Inside(copy, root) => {
            for node in &copy.item.nodes {
                let below = match root.path.as_str() {
                    "" => Some(node.path.as_str()),
                    root if node.path == root => Some(""),
                    root => node
                        .path
                        .strip_prefix(root)
                        .and_then(|p| p.strip_prefix('/')),
                };
                if let Some(below) = below.filter(|below| deep || below.is_empty()) {
                    entry(&mut out, format, below, &node.kind)?;
                }
            }
        }
    }
    Some(out)
}

fn entry(out: &mut Vec<u8>, format: &str, path: &str, kind: &Kind) -> Option<()> {
    let mut chars = format.chars();
    while let Some(char) = chars.next() {
        match char {
            '%' => match chars.next()? {
                'y' => out.push(match kind {
                    Kind::Directory => b'd',
                    Kind::File { .. } => b'f',
                    Kind::Symlink(_) => b'l',
                }),
                'm' => out.extend(mode(kind).bytes()),
                's' => {
                    let size = match kind {
                        Kind::Directory => 4096,
                        Kind::File { size, .. } => *size,
                        Kind::Symlink(target) => target.len() as u64,
                    };
                    write!(Text(out), "{size}").ok()?;
                }
                'P' => out.extend(path.bytes()),
                'l' => {
                    if let Kind::Symlink(target) = kind {
                        out.extend(target.bytes());
                    }
                }
                _ => return None,
            },
            '\\' => {
                (chars.next()? == '0').then_some(())?;
                out.push(0);
            }
            char => write!(Text(out), "{char}").ok()?,
        }
    }
    Some(())
}

struct Text<'a>(&'a mut Vec<u8>);

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend(text.bytes());
        Ok(())
    }
}
