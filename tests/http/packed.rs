//! NARs that are compressed while they are sent.

use std::io::Write;
use std::process::{Command, Stdio};

use super::server::{Reply, Server, narinfo};
use super::support::{DagOptions, Host, Nix, NixEnv, wait_until};

const PACKED: &[&str] = &["--option", "http-compression", "zstd"];

/// What `zstd -d` makes of a file; `None` where it is not whole.
fn unpacked(file: &[u8]) -> Option<Vec<u8>> {
    let mut zstd = Command::new("zstd")
        .args(["-q", "-d", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("start zstd");
    let mut stdin = zstd.stdin.take().expect("a pipe");
    let output = std::thread::scope(|scope| {
        // It may end before it has read all.
        scope.spawn(move || stdin.write_all(file));
        zstd.wait_with_output().expect("wait for zstd")
    });
    output.status.success().then_some(output.stdout)
}

/// The body of a response in chunks; and whether its end came.
fn unchunked(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") {
        let len = std::str::from_utf8(&bytes[..end]).expect("a length");
        let len = usize::from_str_radix(len, 16).expect("a length");
        bytes = &bytes[end + 2..];
        if len == 0 {
            return (body, true);
        }
        body.extend_from_slice(&bytes[..len.min(bytes.len())]);
        bytes = bytes.get(len + 2..).unwrap_or_default();
    }
    (body, false)
}

fn fetch(server: &Server, url: &str) -> (Reply, Vec<u8>, bool) {
    let mut client = server.connect();
    let headers = [("Connection", "close"), ("Range", "bytes=5-")];
    let head = client.begin("GET", url, &headers);
    let (bytes, _) = client.rest();
    let (body, is_whole) = match head.status {
        200 => unchunked(&bytes),
        _ => (bytes, false),
    };
    (head, body, is_whole)
}

#[test]
fn nix_fetches_a_closure_compressed() {
    let host = Host::new();
    let dag = host.store.dag(30, DagOptions::default());
    let env = NixEnv::new();
    env.configure(&[host.trusted()], "");
    let server = Server::start_with(&env, PACKED);
    let nix = Nix::new().substituters(&server.trusted());
    nix.realise(&[&dag.root]).ok();
    for path in &dag.paths {
        assert!(nix.store().verify_path(path), "{path}");
    }
}

#[test]
fn the_narinfo_names_a_file_that_is_whole_and_any_client_may_ask_for_it() {
    let host = Host::new();
    let path = host.store.big("data", 5 << 20);
    let env = NixEnv::new();
    env.configure(&[host.trusted()], "");
    let server = Server::start_with(&env, PACKED);
    let told = server.get(&narinfo(&path)).status(200);
    assert_eq!(told.field("Compression"), "zstd");
    assert!(told.fields("FileHash").is_empty() && told.fields("FileSize").is_empty());
    let url = format!("/{}", told.field("URL"));
    assert!(url.ends_with(".nar.zst"), "{url}");

    let plain = Server::start(&env);
    let told = plain.get(&narinfo(&path)).status(200);
    assert_eq!(told.field("Compression"), "none");
    assert_eq!(format!("/{}.zst", told.field("URL")), url);
    for server in [&server, &plain] {
        let (head, body, is_whole) = fetch(server, &url);
        let head = head.status(200);
        assert_eq!(head.header("content-length"), None);
        assert_eq!(head.header("accept-ranges"), Some("none"));
        assert_eq!(head.header("content-encoding"), None);
        assert!(is_whole);
        assert!(unpacked(&body).is_some_and(|nar| nar == host.store.nar(&path)));
        // No length is promised either to who asks for the head alone, and the connection goes on.
        let mut client = server.connect();
        for _ in 0..2 {
            let head = client.request("HEAD", &url, &[]).status(200);
            assert_eq!(head.header("content-type"), Some("application/zstd"));
            assert_eq!(head.header("content-length"), None);
        }
    }
}

#[test]
fn a_compressed_nar_that_is_wrong_never_looks_complete() {
    for bytes in [100 << 10, 20 << 20] {
        let host = Host::new();
        let path = host.store.big("data", bytes);
        let env = NixEnv::new();
        env.configure(&[host.trusted()], "");
        let server = Server::start_with(&env, PACKED);
        let url = server.get(&narinfo(&path)).status(200).field("URL");
        host.store.corrupt(&path);
        let (head, body, is_whole) = fetch(&server, &format!("/{url}"));
        assert_eq!(head.status == 404, bytes < (1 << 20), "{}", head.status);
        assert!(!is_whole);
        assert_eq!(unpacked(&body), None);
        wait_until("the server says why", || {
            server.log().contains("wrong content")
        });
        let nix = Nix::new().substituters(&server.trusted());
        nix.realise(&[&path]).failed();
    }
}
