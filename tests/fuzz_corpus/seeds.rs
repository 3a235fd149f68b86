//! What the corpora in `fuzz/corpus` are made of: for each target inputs that get far into it, and those that
//! once showed a mistake.

use ssh_substituter::model::{PathInfo, StorePath};
use ssh_substituter::wire::nar::{Checkpoint, Completion};
use ssh_substituter::wire::serve::engine::{
    Frame, put_attach, put_forget, put_push, put_status, put_stop,
};
use ssh_substituter::wire::serve::{
    CLIENT_MAGIC, Request, SERVER_MAGIC, Version, put_info, put_infos_end, put_set,
};
use ssh_substituter::wire::text::{put_have, put_infos, put_query};
use ssh_substituter::wire::{put_string, put_u64};

use super::{Group, nars, parts, texts};

/// An input of a target: name of the target, of the input, and its bytes.
pub type Seed = (&'static str, String, Vec<u8>);

/// All of them.
pub fn all() -> Vec<Seed> {
    let mut seeds = Vec::new();
    let groups = [
        ("nar", nars::all()),
        ("serve_client", replies()),
        ("serve_server", requests()),
        ("engine", engine()),
        ("extension", parts::extension()),
        ("differences", parts::differences()),
        ("text", text()),
        ("nix_conf", texts::nix_conf()),
        ("hosts", texts::hosts()),
        ("infos", texts::infos()),
    ];
    for (target, group) in groups {
        for (name, bytes) in group {
            seeds.push((target, name.to_owned(), bytes));
        }
    }
    seeds
}

fn path(name: &str) -> StorePath {
    StorePath::parse(&format!("/nix/store/{name}")).unwrap()
}

pub fn hello() -> StorePath {
    path("7rjj86a15146cq1d3qy068lml7n7ykzm-hello-2.12")
}

pub fn libc() -> StorePath {
    path("q3laishhmk84vl44j1973qpzkyhmr90c-libc")
}

fn info() -> PathInfo {
    let hash = "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";
    PathInfo {
        path: hello(),
        deriver: Some(path("72f1hzld5g7dj6wknixkal0bd6zzy2mc-hello.drv")),
        references: vec![hello(), libc()],
        download_size: 500,
        nar_size: 1008,
        nar_hash: Some(hash.parse().unwrap()),
        ca: Some(format!("fixed:r:{hash}")),
        sigs: vec!["test-1:AAAA".to_owned(), String::new()],
    }
}

fn replies() -> Group {
    let tagged = |tag: &[u8], build: &dyn Fn(&mut Vec<u8>)| {
        let mut out = tag.to_vec();
        build(&mut out);
        out
    };
    let infos = |minor: u8| {
        tagged(&[b'i', minor], &|out| {
            let version = Version::new(2, minor);
            put_info(out, version, &info());
            let bare = PathInfo {
                path: libc(),
                deriver: None,
                references: vec![],
                ca: None,
                sigs: vec![],
                ..info()
            };
            put_info(out, version, &bare);
            put_infos_end(out);
        })
    };
    let hello_words = |out: &mut Vec<u8>, version: u64| {
        put_u64(out, SERVER_MAGIC);
        put_u64(out, version);
    };
    vec![
        ("hello", tagged(b"h", &|out| hello_words(out, 0x207))),
        (
            "banner",
            tagged(b"h", &|out| {
                out.extend_from_slice(b"Welcome!\r\n\xcb\xee");
                hello_words(out, 0x1_0208);
            }),
        ),
        (
            "longest-banner",
            tagged(b"H\x00\x80", &|out| hello_words(out, 0x208)),
        ),
        (
            "endless-banner",
            tagged(b"H\x08\x80", &|out| hello_words(out, 0x208)),
        ),
        ("infos-2.3", infos(3)),
        ("infos-2.8", infos(8)),
        (
            "hash-spelled-otherwise",
            tagged(b"i\x08", &|out| {
                put_string(out, hello().as_str().as_bytes());
                put_string(out, b"");
                // Neither sorted nor each once.
                put_set(out, &[libc(), hello(), libc()]);
                put_u64(out, 0);
                put_u64(out, u64::MAX);
                put_string(
                    out,
                    b"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                );
                put_string(out, b"");
                put_u64(out, 0);
            }),
        ),
        (
            "other-store",
            tagged(b"i\x02", &|out| {
                put_string(out, hello().as_str().as_bytes());
                put_string(out, b"");
                put_u64(out, 1);
                put_string(out, b"/x\xe2\x80\xae/7rjj86a15146cq1d3qy068lml7n7ykzm-a");
            }),
        ),
        ("unreadable-entries", unreadable_entries()),
        (
            "many-references",
            tagged(b"i\x02", &|out| {
                put_string(out, hello().as_str().as_bytes());
                put_string(out, b"");
                put_u64(out, 1_000_000);
            }),
        ),
        (
            "set",
            tagged(b"s", &|out| {
                put_set(out, &[hello(), libc()]);
                put_set(out, &[]);
            }),
        ),
        (
            "set-too-large",
            tagged(b"s", &|out| put_u64(out, 1_000_001)),
        ),
        (
            "set-of-no-path",
            tagged(b"s", &|out| {
                put_u64(out, 2);
                put_string(out, b"/etc/\x1b[31m");
            }),
        ),
    ]
}

/// Between entries that can be read, those with a bad path, deriver, reference, size, hash, address and
/// signature.
fn unreadable_entries() -> Vec<u8> {
    let good = hello();
    let hash = b"sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";
    let good = good.as_str().as_bytes();
    let entry = |strings: [&[u8]; 6], size: u64| {
        let [path, deriver, reference, hash, ca, sig] = strings;
        let mut out = Vec::new();
        put_string(&mut out, path);
        put_string(&mut out, deriver);
        put_u64(&mut out, 1);
        put_string(&mut out, reference);
        put_u64(&mut out, 0);
        put_u64(&mut out, size);
        put_string(&mut out, hash);
        put_string(&mut out, ca);
        put_u64(&mut out, 1);
        put_string(&mut out, sig);
        out
    };
    let mut out = b"i\x08".to_vec();
    for bad in 0..6 {
        let mut strings: [&[u8]; 6] = [good, b"", good, hash, b"", b"a:AAAA"];
        out.extend(entry(strings, 1008));
        strings[bad] = b"/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-..-\xff\x1b";
        out.extend(entry(strings, 1008));
    }
    out.extend(entry([good, b"", good, hash, b"", b""], u64::MAX));
    put_infos_end(&mut out);
    out
}

fn requests() -> Group {
    let paths = || vec![hello(), libc()];
    let all = |out: &mut Vec<u8>| {
        let requests = [
            Request::QueryValidPaths {
                lock: true,
                substitute: false,
                paths: paths(),
            },
            Request::QueryPathInfos { paths: paths() },
            Request::QueryPathInfos { paths: vec![] },
            Request::DumpStorePath { path: hello() },
            Request::QueryClosure {
                include_outputs: true,
                paths: paths(),
            },
        ];
        requests.iter().for_each(|request| request.put(out));
    };
    let mut with_hello = b"h".to_vec();
    put_u64(&mut with_hello, CLIENT_MAGIC);
    put_u64(&mut with_hello, 0x208);
    all(&mut with_hello);
    let mut bare = b"r".to_vec();
    all(&mut bare);
    let words = |words: &[u64], strings: &[&[u8]]| {
        let mut out = b"r".to_vec();
        words.iter().for_each(|word| put_u64(&mut out, *word));
        strings
            .iter()
            .for_each(|string| put_string(&mut out, string));
        out
    };
    vec![
        ("all", bare),
        ("with-hello", with_hello),
        (
            "odd-booleans",
            words(&[1, 2, u64::MAX, 1], &[hello().as_str().as_bytes()]),
        ),
        (
            "no-paths",
            words(&[7, 0, 3], &[b"", b"/etc/passwd", b"\xff\x1b[2J"]),
        ),
        (
            "dump-of-no-path",
            words(&[3], &[b"/nix/store/../../etc\x1b"]),
        ),
        ("long-path", words(&[3, 4097], &[])),
        ("import", words(&[4, 0], &[])),
        ("unknown", words(&[99], &[])),
        ("set-too-large", words(&[2, 1 << 60], &[])),
    ]
}

fn engine() -> Group {
    let rest = Completion {
        head: b"head".to_vec(),
        fill: 9,
        tail: b"tail of it".to_vec(),
    };
    let checkpoint = || Checkpoint {
        hash: info().nar_hash.unwrap(),
        rest: rest.clone(),
    };
    let frames = [
        Frame::Attached,
        Frame::Refused("another program".to_owned()),
        Frame::Text("{}".to_owned()),
        Frame::Reply,
        Frame::Log(2, "host a is gone".to_owned()),
        Frame::Heartbeat,
        Frame::Source("u@a:22".to_owned()),
        Frame::Inline((&b"some bytes"[..]).into(), Some(checkpoint())),
        Frame::Inline((&b"more"[..]).into(), None),
        Frame::Piped(70_000, checkpoint()),
        Frame::Last(8),
        Frame::Done,
        Frame::Broken("no host".to_owned(), rest.clone()),
        Frame::Closed("u@a:22".to_owned(), String::new()),
    ];
    let mut all = b"f".to_vec();
    frames.iter().for_each(|frame| frame.put(&mut all));
    let mut calls = b"c".to_vec();
    put_attach(&mut calls, &"0f".repeat(32), 4711);
    put_status(&mut calls);
    Request::DumpStorePath { path: hello() }.put(&mut calls);
    Request::QueryPathInfos {
        paths: vec![libc()],
    }
    .put(&mut calls);
    put_stop(&mut calls);
    let mut forget = b"c".to_vec();
    put_forget(&mut forget, None);
    put_forget(&mut forget, Some("u@a:22"));
    put_push(&mut forget, false);
    put_push(&mut forget, true);
    let words = |tag: u8, words: &[u64]| {
        let mut out = vec![tag];
        words.iter().for_each(|word| put_u64(&mut out, *word));
        out
    };
    vec![
        ("frames", all),
        ("calls", calls),
        ("forget", forget),
        // Its number of elements is the number of another call.
        ("count-like-a-call", words(b'c', &[2, 0x5302])),
        ("number", words(b'n', &[0x1_0208])),
        ("piece-too-long", words(b'f', &[8, (1 << 20) + 1])),
        ("no-such-frame", words(b'f', &[13])),
        ("short-hash", words(b'f', &[9, 1, 31, 0, 0, 0, 0])),
        ("long-text", words(b'f', &[2, (64 << 10) + 1])),
    ]
}

fn text() -> Group {
    let mut queries = b"q".to_vec();
    put_query(&mut queries, "have", &[hello(), libc()]);
    put_query(&mut queries, "info", &[hello()]);
    queries.extend_from_slice(
        b"have  /etc /nix/store/\x1b \ninfo\nsubstitute x\n\x1b[31m\n\nhave cut",
    );
    let mut have = b"h".to_vec();
    put_have(&mut have, &[hello(), libc()]);
    put_have(&mut have, &[]);
    let mut infos = b"i".to_vec();
    let bare = PathInfo {
        deriver: None,
        references: vec![],
        ..info()
    };
    put_infos(&mut infos, [&info(), &bare]);
    let number = |number: &str| format!("i{}\n\n0\n{number}\n8\n\n", hello()).into_bytes();
    vec![
        ("queries", queries),
        (
            "many-bad-words",
            [b"qhave ", &b"x ".repeat(30)[..], b"\n"].concat(),
        ),
        ("have", have),
        ("infos", infos),
        ("number-with-zeros", number("007")),
        ("number-with-plus", number("+5")),
        ("number-above-2-64", number("18446744073709551616")),
        (
            "many-references",
            format!("i{}\n\n18446744073709551615\n", hello()).into_bytes(),
        ),
    ]
}
