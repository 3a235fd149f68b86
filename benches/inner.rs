//! The inner parts without any network: `cargo bench --bench inner [-- FILTER]`.
//!
//! What a byte, a file or a path costs here bounds what the whole program can do on a link without latency.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::BytesMut;
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use sha2::{Digest, Sha256};
use ssh_substituter::cache::disk::{CacheWrite, CachedAnswer, Environment, Lookup, unix_seconds};
use ssh_substituter::cache::{Disk, Lifetimes, MemoryCache};
use ssh_substituter::model::{NarHash, PathInfo, StorePath};
use ssh_substituter::transfer::unpack::Unpacker;
use ssh_substituter::wire::nar::{self, Decoder, Event};
use ssh_substituter::wire::serve::{InfosDecoder, InfosStep, Version, put_info, put_infos_end};

/// One file of that many bytes.
const LARGE: usize = 64 << 20;
/// That many small files, in folders of 100.
const FILES: usize = 5000;
/// Bytes in each small file.
const SMALL: usize = 300;
/// Paths of a closure.
const PATHS: usize = 500;
/// How NARs arrive: the size of one read from ssh.
const PIECE: usize = 256 << 10;

fn main() {
    divan::main();
}

/// A NAR of one large file.
fn large() -> Vec<u8> {
    let mut nar = Vec::with_capacity(LARGE + 1024);
    nar::magic(&mut nar);
    put_file(&mut nar, &noise(LARGE));
    nar
}

/// A NAR of many small files.
fn many() -> Vec<u8> {
    let mut nar = Vec::new();
    nar::magic(&mut nar);
    nar::directory_start(&mut nar);
    for folder in 0..FILES / 100 {
        nar::entry_start(&mut nar, format!("folder-{folder:04}").as_bytes());
        nar::directory_start(&mut nar);
        for file in 0..100 {
            nar::entry_start(&mut nar, format!("file-{file:04}").as_bytes());
            put_file(&mut nar, &noise(SMALL));
            nar::entry_end(&mut nar);
        }
        nar::directory_end(&mut nar);
        nar::entry_end(&mut nar);
    }
    nar::directory_end(&mut nar);
    nar
}

fn put_file(nar: &mut Vec<u8>, content: &[u8]) {
    let size = content.len() as u64;
    nar::file_start(nar, false, size);
    nar.extend_from_slice(content);
    nar::file_end(nar, size);
}

/// Bytes that are no long runs of the same.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Reads a NAR to its end in pieces as they come from a connection; the bytes of content.
fn decode(nar: &[u8]) -> usize {
    let mut decoder = Decoder::new(u64::MAX);
    let (mut kept, mut content) = (Vec::new(), 0);
    for piece in nar.chunks(PIECE) {
        kept.extend_from_slice(piece);
        let mut from = 0;
        loop {
            let (read, event) = decoder.step(&kept[from..]).expect("a good NAR");
            from += read;
            match event {
                Some(Event::Contents(bytes)) => content += bytes.len(),
                Some(Event::End) | None => break,
                Some(_) => {}
            }
        }
        kept.drain(..from);
    }
    assert!(decoder.is_complete(), "read to its end");
    content
}

#[divan::bench(sample_count = 10)]
fn nar_decode_one_large_file(bencher: Bencher) {
    let nar = large();
    bencher
        .counter(BytesCount::new(nar.len()))
        .bench_local(|| decode(black_box(&nar)));
}

#[divan::bench]
fn nar_decode_5000_small_files(bencher: Bencher) {
    let nar = many();
    bencher
        .counter(ItemsCount::new(FILES))
        .bench_local(|| decode(black_box(&nar)));
}

/// Restores into a folder that goes away outside of the time measured.
fn restore(nar: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("make a folder");
    let dest: PathBuf = folder.path().join("restored");
    let mut unpacker = Unpacker::new(&dest, u64::MAX).expect("a free name");
    for piece in nar.chunks(PIECE) {
        unpacker.write(piece).expect("a good NAR");
    }
    unpacker.commit().expect("a complete NAR");
    writable(&dest);
    folder
}

/// Restored folders are read-only; only root could remove them.
fn writable(folder: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    if folder.is_dir() {
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder, mode).expect("open up a folder");
        for entry in std::fs::read_dir(folder).expect("read a folder").flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                writable(&entry.path());
            }
        }
    }
}

#[divan::bench(sample_count = 10, sample_size = 1)]
fn restore_one_large_file(bencher: Bencher) {
    let nar = large();
    bencher
        .counter(BytesCount::new(nar.len()))
        .bench_local(|| restore(&nar));
}

#[divan::bench(sample_count = 10, sample_size = 1)]
fn restore_5000_small_files(bencher: Bencher) {
    let nar = many();
    bencher
        .counter(ItemsCount::new(FILES))
        .bench_local(|| restore(&nar));
}

fn store_path(number: usize) -> StorePath {
    let path = format!("/nix/store/{number:032}-package-{number}");
    StorePath::parse(&path).expect("a store path")
}

fn info(number: usize) -> PathInfo {
    let mut references: Vec<StorePath> = (number..number + 5).map(store_path).collect();
    references.sort();
    PathInfo {
        path: store_path(number),
        deriver: Some(store_path(number + PATHS)),
        references,
        download_size: 4096,
        nar_size: 4096,
        nar_hash: Some(NarHash::new([7; 32])),
        ca: None,
        sigs: vec![format!("cache.example.org-1:{}", "A".repeat(88))],
    }
}

#[divan::bench]
fn infos_decode_500_paths(bencher: Bencher) {
    let version = Version::NEWEST;
    let mut reply = Vec::new();
    for number in 0..PATHS {
        put_info(&mut reply, version, &info(number));
    }
    put_infos_end(&mut reply);
    bencher
        .counter(ItemsCount::new(PATHS))
        .with_inputs(|| BytesMut::from(&reply[..]))
        .bench_local_values(|mut buffer| {
            let mut decoder = InfosDecoder::new(version);
            let mut infos = Vec::with_capacity(PATHS);
            while let Some(InfosStep::Info(info)) = decoder.step(&mut buffer).expect("a reply") {
                infos.push(info);
            }
            assert_eq!(infos.len(), PATHS);
            infos
        });
}

#[divan::bench]
fn memory_cache_get_500_paths(bencher: Bencher) {
    let cache = MemoryCache::weighed(100_000, |_| 1);
    let paths: Vec<StorePath> = (0..PATHS).map(store_path).collect();
    for (number, path) in paths.iter().enumerate() {
        cache.update(path, |_| std::sync::Arc::new(info(number)));
    }
    bencher.counter(ItemsCount::new(PATHS)).bench_local(|| {
        paths
            .iter()
            .filter(|path| cache.get(path).is_some())
            .count()
    });
}

#[divan::bench]
fn disk_cache_look_up_500_paths(bencher: Bencher) {
    let temp = tempfile::tempdir().expect("a folder");
    let disk = Disk::new(Environment {
        explicit: Some(temp.path().join("cache")),
        uid: rustix::process::geteuid().as_raw(),
        ..Environment::default()
    });
    let (host, now): (Arc<str>, _) = ("host".into(), unix_seconds());
    let paths: Vec<StorePath> = (0..PATHS).map(store_path).collect();
    let news = paths.iter().enumerate().map(|(number, path)| {
        let said = CachedAnswer {
            path: path.clone(),
            info: Some(Arc::new(info(number))),
            checked_at: now,
        };
        CacheWrite::Answer(host.clone(), said)
    });
    let lifetimes = Lifetimes::default();
    disk.remember(&news.collect::<Vec<_>>(), lifetimes, now);
    let lookup = Lookup {
        hosts: &[host],
        paths: &paths,
        lifetimes,
        now,
        most: PATHS,
    };
    bencher.counter(ItemsCount::new(PATHS)).bench_local(|| {
        let found = disk.path_infos(&lookup, |_| false);
        assert_eq!(found.len(), PATHS);
        found
    });
}

#[divan::bench(sample_count = 20)]
fn sha256_of_16_mb(bencher: Bencher) {
    let bytes = noise(16 << 20);
    bencher
        .counter(BytesCount::new(bytes.len()))
        .bench_local(|| Sha256::digest(black_box(&bytes)));
}

#[divan::bench]
fn base32_there_and_back(bencher: Bencher) {
    let hash = NarHash::new(std::array::from_fn(|index| index as u8));
    bencher.bench_local(|| {
        let text = black_box(hash).to_string();
        text.parse::<NarHash>().expect("a hash")
    });
}
