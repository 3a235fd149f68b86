//! The codecs against what a real `nix-store --serve` (Nix 2.8.0) said: every byte is decoded, byte
//! by byte, and encoded to the same bytes again. `golden/README.md` tells where the files come from.

use std::fs;
use std::path::PathBuf;

use bytes::BytesMut;
use sha2::{Digest, Sha256};
use ssh_substituter::model::{NarHash, PathInfo, StorePath, verify};
use ssh_substituter::wire::nar::{Decoder, Event, failing_nar};
use ssh_substituter::wire::serve::{
    CLIENT_MAGIC, Incoming, InfosDecoder, InfosStep, Request, RequestDecoder, SERVER_MAGIC,
    ServerHello, SetDecoder, Version, put_add_to_store_nar, put_import_end, put_import_start,
    put_info, put_infos_end, put_set, take_acknowledgement, take_client_hello,
};
use ssh_substituter::wire::{WireError, put_string, put_u64};

fn golden(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Bytes that come one at a time.
struct Trickle {
    rest: std::vec::IntoIter<u8>,
    buf: BytesMut,
}

impl Trickle {
    fn new(bytes: Vec<u8>) -> Self {
        Self {
            rest: bytes.into_iter(),
            buf: BytesMut::new(),
        }
    }

    /// Runs a decoder until it has a value; `None` when the bytes end first.
    fn decode<T>(
        &mut self,
        mut step: impl FnMut(&mut BytesMut) -> Result<Option<T>, WireError>,
    ) -> Option<T> {
        loop {
            if let Some(value) = step(&mut self.buf).expect("golden bytes follow the protocol") {
                return Some(value);
            }
            self.buf.extend_from_slice(&[self.rest.next()?]);
        }
    }

    fn is_at_end(&self) -> bool {
        self.buf.is_empty() && self.rest.len() == 0
    }
}

fn requests(bytes: &mut Trickle) -> Vec<Request> {
    let mut decoder = RequestDecoder::default();
    let mut requests = Vec::new();
    while let Some(incoming) = bytes.decode(|buf| decoder.step(buf)) {
        match incoming {
            Incoming::Request(request) => requests.push(request),
            other => panic!("{other:?}"),
        }
    }
    assert!(decoder.is_between_requests(&bytes.buf));
    requests
}

fn set(bytes: &mut Trickle) -> Vec<StorePath> {
    let mut decoder = SetDecoder::default();
    let keep = |bytes: &[u8]| Ok(Some(StorePath::from_bytes(bytes).unwrap()));
    bytes.decode(|buf| decoder.step(buf, keep)).expect("a set")
}

fn infos(bytes: &mut Trickle, version: Version) -> Vec<PathInfo> {
    let mut decoder = InfosDecoder::new(version);
    let mut infos = Vec::new();
    loop {
        match bytes.decode(|buf| decoder.step(buf)).expect("infos") {
            InfosStep::Info(info) => infos.push(info),
            InfosStep::Unreadable(entry) => panic!("{entry:?}"),
            InfosStep::End => return infos,
        }
    }
}

fn nar(bytes: &mut Trickle) -> Vec<u8> {
    let mut decoder = Decoder::new(1 << 20);
    let mut out = Vec::new();
    loop {
        let (read, event) = decoder.step(&bytes.buf).expect("a NAR");
        let (ended, hungry) = (event == Some(Event::End), event.is_none());
        out.extend_from_slice(&bytes.buf.split_to(read));
        if ended {
            return out;
        }
        if hungry {
            let next = bytes.rest.next().expect("the NAR goes on");
            bytes.buf.extend_from_slice(&[next]);
        }
    }
}

/// Decodes the reply to `request` and encodes it again.
fn reply(request: &Request, bytes: &mut Trickle, version: Version, out: &mut Vec<u8>) {
    match request {
        Request::QueryValidPaths { .. } | Request::QueryClosure { .. } => {
            put_set(out, &set(bytes));
        }
        Request::QueryPathInfos { .. } => {
            for info in infos(bytes, version) {
                put_info(out, version, &info);
            }
            put_infos_end(out);
        }
        Request::DumpStorePath { .. } => out.extend(nar(bytes)),
    }
}

#[test]
fn exchanges_are_read_and_written_back_to_the_same_bytes() {
    for (name, version) in [
        ("valid-paths", Version::new(2, 7)),
        ("valid-paths-none", Version::new(2, 7)),
        ("path-infos-2.7", Version::new(2, 7)),
        ("path-infos-2.4", Version::new(2, 4)),
        ("path-infos-2.3", Version::new(2, 3)),
        ("path-infos-2.0", Version::new(2, 0)),
        ("path-info-one", Version::new(2, 7)),
        ("path-info-one-2.3", Version::new(2, 3)),
        ("path-info-absent", Version::new(2, 7)),
        ("closure", Version::new(2, 7)),
        ("closure-drv", Version::new(2, 7)),
        ("closure-drv-outputs", Version::new(2, 7)),
        ("dump-flat", Version::new(2, 7)),
        ("dump-tree", Version::new(2, 7)),
        ("two-dumps", Version::new(2, 7)),
    ] {
        let asked = golden(&format!("{name}.request.bin"));
        let answered = golden(&format!("{name}.reply.bin"));
        let requests = requests(&mut Trickle::new(asked.clone()));
        assert!(!requests.is_empty(), "{name}");
        let (mut ask, mut answer) = (Vec::new(), Vec::new());
        let mut bytes = Trickle::new(answered.clone());
        for request in &requests {
            request.put(&mut ask);
            reply(request, &mut bytes, version, &mut answer);
        }
        assert!(bytes.is_at_end(), "{name}: more than the replies");
        assert_eq!(ask, asked, "{name}");
        assert_eq!(answer, answered, "{name}");
    }
}

/// Keys of the golden README; their secret halves have been public for years.
const KEYS: [&str; 2] = [
    "golden-1:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
    "golden-2:PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=",
];

#[test]
fn what_nix_signed_and_addressed_is_proven() {
    let version = Version::new(2, 7);
    let infos = infos(
        &mut Trickle::new(golden("path-infos-2.7.reply.bin")),
        version,
    );
    let name = |info: &PathInfo| info.path.name().to_owned();
    let addressed = infos.iter().filter(|info| info.content().is_ok());
    let mut addressed: Vec<_> = addressed.map(name).collect();
    let mut claimed: Vec<_> = infos.iter().filter(|i| i.ca.is_some()).map(name).collect();
    addressed.sort();
    claimed.sort();
    assert_eq!((addressed.len(), &addressed), (4, &claimed));
    for key in KEYS {
        let keys = [key.parse().expect("a key")];
        let is_signed = |info: &&PathInfo| {
            let fingerprint = info.fingerprint().expect("hash and size are told");
            verify(&keys, &info.sigs, &fingerprint).is_ok()
        };
        let signed: Vec<_> = infos.iter().filter(is_signed).map(name).collect();
        assert_eq!(signed, ["golden-pkg"], "{key}");
    }
}

#[test]
fn handshakes_agree_on_the_older_version() {
    for (name, minor) in [
        ("handshake-2.0", 0),
        ("handshake-2.2", 2),
        ("handshake-2.3", 3),
        ("handshake-2.4", 4),
        ("handshake-2.5", 5),
        ("handshake-2.7", 7),
    ] {
        let asked = golden(&format!("{name}.request.bin"));
        let client = Trickle::new(asked.clone())
            .decode(take_client_hello)
            .unwrap();
        let mut hello = ServerHello::default();
        let mut bytes = Trickle::new(golden(&format!("{name}.reply.bin")));
        let server = bytes.decode(|buf| hello.step(buf)).unwrap();
        assert!(bytes.is_at_end() && hello.banner().is_empty());
        assert_eq!(server, Version::new(2, 7).number());
        let agreed = Version::new(2, minor);
        assert_eq!(agreed.negotiate(server), Some(agreed));
        assert_eq!(Version::NEWEST.negotiate(client), Some(agreed));
        let mut out = Vec::new();
        put_u64(&mut out, CLIENT_MAGIC);
        put_u64(&mut out, agreed.number());
        assert_eq!(out, asked);
    }
}

#[test]
fn a_whole_conversation_of_a_real_client_is_understood() {
    let mut client = Trickle::new(golden("nix-copy.request.bin"));
    let theirs = client.decode(take_client_hello).unwrap();
    let version = Version::NEWEST.negotiate(theirs).unwrap();
    let requests = requests(&mut client);
    assert_eq!(requests.len(), 9);
    let mut server = Trickle::new(golden("nix-copy.reply.bin"));
    let mut hello = ServerHello::default();
    server.decode(|buf| hello.step(buf)).unwrap();
    let mut out = Vec::new();
    put_u64(&mut out, SERVER_MAGIC);
    put_u64(&mut out, Version::new(2, 7).number());
    for request in &requests {
        reply(request, &mut server, version, &mut out);
    }
    assert!(server.is_at_end());
    assert_eq!(out, golden("nix-copy.reply.bin"));
}

#[test]
fn paths_are_sent_as_a_real_client_sends_them() {
    let mut client = Trickle::new(golden("nix-copy-to.request.bin"));
    client.decode(take_client_hello).unwrap();
    let mut decoder = RequestDecoder::default();
    let first = client.decode(|buf| decoder.step(buf)).unwrap();
    let Incoming::Request(Request::QueryValidPaths { paths, .. }) = first else {
        panic!("{first:?}");
    };
    assert_eq!(paths.len(), 4);
    let mut known = Trickle::new(golden("path-infos-2.7.reply.bin"));
    let known = infos(&mut known, Version::new(2, 7));
    let mut rest = [&client.buf[..], client.rest.as_slice()].concat();
    for name in [
        "golden-motd",
        "golden-script",
        "golden-pkg",
        "golden-pkg-dev",
    ] {
        let info = known.iter().find(|info| info.path.name() == name).unwrap();
        let mut ours = Vec::new();
        put_add_to_store_nar(&mut ours, info, &info.nar_hash.unwrap());
        let theirs = &rest[..ours.len()];
        // Nix sends when it registered the path itself, and whether it built it.
        let own = |bytes: &[u8]| {
            let mut head = Vec::new();
            put_u64(&mut head, 9);
            put_string(&mut head, info.path.as_str().as_bytes());
            put_string(
                &mut head,
                info.deriver
                    .as_ref()
                    .map_or("", StorePath::as_str)
                    .as_bytes(),
            );
            put_string(&mut head, &[0; 64]);
            put_set(&mut head, &info.references);
            let mut bytes = bytes.to_vec();
            bytes[head.len()..head.len() + 8].fill(0);
            bytes[head.len() + 16..head.len() + 24].fill(0);
            bytes
        };
        assert_eq!(own(&ours), own(theirs), "{name}");
        let mut nar_of = Trickle::new(rest.split_off(ours.len()));
        assert_eq!(nar(&mut nar_of).len() as u64, info.nar_size, "{name}");
        rest = [&nar_of.buf[..], nar_of.rest.as_slice()].concat();
    }
    assert!(rest.is_empty());
    let mut server = Trickle::new(golden("nix-copy-to.reply.bin"));
    let mut hello = ServerHello::default();
    server.decode(|buf| hello.step(buf)).unwrap();
    assert!(set(&mut server).is_empty());
    for _ in 0..4 {
        server.decode(take_acknowledgement).unwrap();
    }
    assert!(server.is_at_end());
}

#[test]
fn paths_are_imported_as_nix_exports_them() {
    let theirs = golden("export-script.bin");
    let mut known = Trickle::new(golden("path-infos-2.7.reply.bin"));
    let known = infos(&mut known, Version::new(2, 7));
    let is_it = |info: &&PathInfo| info.path.name() == "golden-script";
    let info = known.iter().find(is_it).unwrap();
    let mut ours = Vec::new();
    put_import_start(&mut ours);
    // The operation; what follows is what `nix-store --export` prints.
    let mut ours = ours.split_off(8);
    let mut archive = Trickle::new(theirs[8..].to_vec());
    ours.extend(nar(&mut archive));
    // Nix's own signature of an export is of the past.
    put_import_end(&mut ours, info);
    assert_eq!(ours, theirs);
}

#[test]
fn infos_say_what_the_store_holds() {
    let mut bytes = Trickle::new(golden("path-infos-2.7.reply.bin"));
    let infos = infos(&mut bytes, Version::new(2, 7));
    let out = infos
        .iter()
        .find(|info| info.path.name() == "golden-pkg")
        .unwrap();
    let names: Vec<_> = out.references.iter().map(|r| r.name().to_owned()).collect();
    assert_eq!(names, ["golden-script", "golden-pkg"]);
    assert_eq!(out.deriver.as_ref().unwrap().name(), "golden-pkg.drv");
    assert_eq!(out.nar_size, 400);
    let hash = "sha256:1y88sp460v8vpi389rjvag496kw3ax8nb15ibh7y8bwpjrpf7lgv";
    assert_eq!(out.nar_hash.unwrap().to_string(), hash);
    assert_eq!(out.sigs.len(), 2);
    assert!(out.sigs[0].starts_with("golden-1:"));
    let tree = infos
        .iter()
        .find(|info| info.path.name() == "golden-tree")
        .unwrap();
    assert!(tree.ca.as_ref().unwrap().starts_with("fixed:r:sha256:"));
}

#[test]
fn archives_are_read_byte_by_byte_to_their_very_end() {
    for name in [
        "regular",
        "empty",
        "executable",
        "symlink",
        "empty-directory",
        "directory",
        "nested",
        "failing",
        "undelivered",
    ] {
        let golden = golden(&format!("nar-{name}.nar"));
        let mut with_more = golden.clone();
        with_more.extend_from_slice(b"the next reply");
        assert_eq!(nar(&mut Trickle::new(with_more)), golden, "{name}");
    }
    let reason = "no host could deliver this path";
    assert_eq!(failing_nar(reason), golden("nar-undelivered.nar"));
    let hash = NarHash::new(Sha256::digest(golden("nar-nested.nar")).into());
    assert_eq!(
        hash.to_string(),
        "sha256:1dadxgnp5xxphjpd5lfvjiyrhfq1xbshlvlwh1xfp8jknd1jiqc8"
    );
}
