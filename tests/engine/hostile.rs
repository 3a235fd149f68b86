//! Clients that do anything but what is expected: the engine lives on, serves others, and holds little for them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ssh_substituter::wire::serve::engine::{EXTENSION, hello_number, put_attach, put_status};
use ssh_substituter::wire::serve::{CLIENT_MAGIC, Version};
use ssh_substituter::wire::{put_string, put_u64};

use super::site::Site;

/// A site with an engine.
fn begun() -> (Site, u32) {
    let site = Site::new("");
    site.visit(0);
    let engine = site.process();
    (site, engine)
}

fn connect(site: &Site) -> UnixStream {
    let stream = UnixStream::connect(&site.sockets()[0]).expect("connect to the engine");
    let limit = Some(Duration::from_secs(30));
    stream.set_read_timeout(limit).expect("limit the silence");
    stream.set_write_timeout(limit).expect("limit the silence");
    stream
}

fn hello(number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_u64(&mut bytes, CLIENT_MAGIC);
    put_u64(&mut bytes, number);
    bytes
}

fn extended() -> Vec<u8> {
    hello(hello_number(Version::NEWEST, EXTENSION))
}

/// The engine closes the connection by itself, whatever it says before.
#[track_caller]
fn is_closed(stream: &mut UnixStream, what: &str) {
    let began = Instant::now();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(1..) if began.elapsed() < Duration::from_secs(30) => {}
            Ok(0) => return,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return,
            other => panic!("{what}: {other:?}"),
        }
    }
}

/// The same engine serves as before, and has not grown much.
#[track_caller]
fn is_healthy(site: &Site, engine: u32) {
    site.visit(1);
    assert_eq!(site.process(), engine);
    let status = site.engines.status();
    let resident = status[0]["residentBytes"].as_u64().expect("a number");
    assert!(resident < 200 << 20, "{resident}");
}

#[test]
fn what_cannot_be_understood_ends_the_connection() {
    let (site, engine) = begun();
    let number = |values: &[u64]| {
        let mut bytes = extended();
        values.iter().for_each(|value| put_u64(&mut bytes, *value));
        bytes
    };
    let attached = |then: &[u64]| {
        let mut bytes = extended();
        let status = site.engines.status();
        let fingerprint = status[0]["fingerprint"].as_str().expect("a text");
        put_attach(&mut bytes, fingerprint, 1);
        then.iter().for_each(|value| put_u64(&mut bytes, *value));
        bytes
    };
    let mut wrong_text = extended();
    put_u64(&mut wrong_text, 0x5301);
    put_string(&mut wrong_text, &[0xff; 64]);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("no magic", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("zeros", vec![0; 4096]),
        ("a version of another age", hello(0x0100)),
        ("a version far too high, plainly", hello(0xffff)),
        ("an unknown operation", number(&[0x53ff])),
        ("an operation that writes", number(&[9])),
        (
            "an attachment with a huge fingerprint",
            number(&[0x5301, u64::MAX]),
        ),
        (
            "an attachment with a long fingerprint",
            number(&[0x5301, 65]),
        ),
        ("an attachment that is no text", wrong_text),
        ("a question without attachment", number(&[1, 0, 0, 0])),
        ("a set of everything", attached(&[1, 0, 0, u64::MAX])),
        ("a set with a huge path", attached(&[2, 1, u64::MAX])),
        ("a dump of a huge path", attached(&[3, 1 << 40])),
        (
            "an operation that writes, attached",
            attached(&[9, 1, 2, 3]),
        ),
    ];
    for (what, bytes) in cases {
        let mut stream = connect(&site);
        stream.write_all(&bytes).expect(what);
        is_closed(&mut stream, what);
    }
    is_healthy(&site, engine);
}

#[test]
fn a_higher_extension_is_served_with_ours() {
    let (site, engine) = begun();
    let mut bytes = hello(hello_number(Version::NEWEST, EXTENSION + 1));
    put_status(&mut bytes);
    let mut stream = connect(&site);
    stream.write_all(&bytes).expect("ask");
    let mut reply = [0; 24];
    stream.read_exact(&mut reply).expect("an answer");
    let number = |at: usize| u64::from_le_bytes(reply[at..at + 8].try_into().expect("8 bytes"));
    assert_eq!(number(8), hello_number(Version::NEWEST, EXTENSION));
    assert_eq!(number(16), 3, "a text");
    drop(stream);
    is_healthy(&site, engine);
}

#[test]
fn half_a_hello_is_waited_for_in_vain_and_not_for_ever() {
    let (site, engine) = begun();
    let mut streams: Vec<UnixStream> = (0..3).map(|_| connect(&site)).collect();
    for (stream, len) in streams.iter_mut().zip([0, 7, 15]) {
        stream.write_all(&extended()[..len]).expect("say a little");
    }
    is_healthy(&site, engine);
    for stream in &mut streams {
        is_closed(stream, "silence");
    }
    is_healthy(&site, engine);
}

#[test]
fn endless_bytes_are_not_kept() {
    let (site, engine) = begun();
    let fingerprint = site.engines.status()[0]["fingerprint"].clone();
    let mut attached = extended();
    put_attach(&mut attached, fingerprint.as_str().expect("a text"), 1);
    // A question with a set that never ends, of paths that are none.
    put_u64(&mut attached, 2);
    put_u64(&mut attached, 1_000_000);
    let mut path = Vec::new();
    put_string(&mut path, &[b'x'; 4096]);
    let plain = hello(Version::NEWEST.number());
    for (begin, piece) in [
        (vec![], vec![0xab; 64 << 10]),
        (plain.clone(), vec![0xab; 64 << 10]),
        (extended(), vec![0xab; 64 << 10]),
        (attached, path.repeat(16)),
    ] {
        let mut stream = connect(&site);
        stream.write_all(&begin).expect("begin");
        let mut sent = 0;
        // It need not take all of it.
        while sent < 300 << 20 && stream.write_all(&piece).is_ok() {
            sent += piece.len();
        }
        drop(stream);
        is_healthy(&site, engine);
    }
}

#[test]
fn two_hundred_that_say_nothing_are_in_nobodys_way() {
    let (site, engine) = begun();
    let mut silent: Vec<UnixStream> = (0..200).map(|_| connect(&site)).collect();
    is_healthy(&site, engine);
    for stream in &mut silent {
        is_closed(stream, "silence");
    }
    is_healthy(&site, engine);
}

#[test]
fn those_who_ask_and_do_not_read_are_in_nobodys_way() {
    let (site, engine) = begun();
    let big = site.host.store.big("big", 24 << 20);
    let fingerprint = site.engines.status()[0]["fingerprint"].clone();
    let mut attach = Vec::new();
    put_attach(&mut attach, fingerprint.as_str().expect("a text"), 1);
    let mut dumps = Vec::new();
    for _ in 0..20 {
        put_u64(&mut dumps, 3);
        put_string(&mut dumps, big.as_bytes());
    }
    let knowing = [extended(), attach, dumps.clone()].concat();
    let plain = [hello(Version::NEWEST.number()), dumps].concat();

    // One of them is a front end whose caller was stopped.
    let mut stopped = site.front_end();
    assert_eq!(stopped.talk.infos(&[&big]).len(), 1);
    let mut pieces = 0;
    let hash = stopped.talk.dump_slowly(&big, || {
        pieces += 1;
        if pieces != 20 {
            return;
        }
        // More than the host has connections for.
        let greedy = [&knowing, &plain].map(|bytes| {
            [(); 8].map(|()| {
                let mut stream = connect(&site);
                stream.write_all(bytes).expect("ask");
                stream
            })
        });
        is_healthy(&site, engine);
        // They are left to themselves.
        site.wait_for_clients(&[(engine, 0)]);
        drop(greedy);
    });
    // It has gone on from the same byte.
    assert_eq!(hash, site.host.store.nar_hash(&big));
    site.fetch(&mut stopped, 2);
    stopped.end_quietly();
    is_healthy(&site, engine);
}
