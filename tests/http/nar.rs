//! The bytes of paths.

use super::server::{Server, narinfo};
use super::support::{Host, NixEnv, wait_until};

struct Site {
    host: Host,
    server: Server,
    path: String,
    url: String,
    nar: Vec<u8>,
    _env: NixEnv,
}

/// A path of so many bytes.
fn site(bytes: u64) -> Site {
    let host = Host::new();
    let path = host.store.big("data", bytes);
    let env = NixEnv::new();
    env.configure(&[host.trusted()], "");
    let server = Server::start(&env);
    let told = server.get(&narinfo(&path)).status(200);
    Site {
        nar: host.store.nar(&path),
        url: format!("/{}", told.field("URL")),
        host,
        server,
        path,
        _env: env,
    }
}

#[test]
fn a_nar_comes_whole_or_in_ranges() {
    let site = site(5 << 20);
    let (nar, size) = (&site.nar, site.nar.len());
    let mut client = site.server.connect();
    let head = client.request("HEAD", &site.url, &[]).status(200);
    let whole = client.get(&site.url).status(200);
    assert_eq!(head.headers.len(), whole.headers.len());
    for reply in [&head, &whole] {
        assert_eq!(reply.length(), size);
        assert_eq!(reply.header("accept-ranges"), Some("bytes"));
        assert_eq!(reply.header("content-encoding"), None);
        assert_eq!(reply.header("content-type"), Some("application/x-nix-nar"));
        let cached = reply.header("cache-control").unwrap();
        assert!(cached.contains("immutable"), "{cached}");
    }
    assert!(whole.body == *nar);
    let tag = whole.header("etag").expect("a tag").to_owned();
    let last = size - 1;
    for (asked, start, end) in [
        ("bytes=0-".to_owned(), 0, size),
        ("bytes=1000000-".to_owned(), 1_000_000, size),
        (format!("bytes={last}-"), last, size),
        ("bytes=17-17".to_owned(), 17, 18),
        ("bytes=600000-1700000".to_owned(), 600_000, 1_700_001),
        ("bytes=-5".to_owned(), size - 5, size),
    ] {
        for method in ["HEAD", "GET"] {
            let reply = client.request(method, &site.url, &[("Range", &asked), ("If-Range", &tag)]);
            let reply = reply.status(206);
            let range = format!("bytes {start}-{}/{size}", end - 1);
            assert_eq!(reply.header("content-range"), Some(&*range), "{asked}");
            assert_eq!(reply.length(), end - start, "{asked}");
            if method == "GET" {
                assert!(reply.body == nar[start..end], "{asked}");
            }
        }
    }
    let beyond = format!("bytes={size}-");
    let reply = client
        .request("GET", &site.url, &[("Range", &beyond)])
        .status(416);
    assert_eq!(
        reply.header("content-range"),
        Some(&*format!("bytes */{size}"))
    );
    // Of another body, or not understood.
    let reply = client.request(
        "GET",
        &site.url,
        &[("Range", "bytes=9-"), ("If-Range", "\"x\"")],
    );
    assert!(reply.status(200).body == *nar);
    let reply = client.request("GET", &site.url, &[("Range", "bytes=0-1,5-6")]);
    assert!(reply.status(200).body == *nar);
}

#[test]
fn another_nar_of_the_same_path_is_not_served() {
    let site = site(1 << 20);
    let hash = site
        .url
        .strip_prefix("/nar/")
        .and_then(|url| url.get(..52))
        .unwrap();
    let other = if hash.starts_with('0') { "1" } else { "0" };
    let url = site.url.replace(hash, &format!("{other}{}", &hash[1..]));
    site.server.get(&url).status(404);
    site.server.get(&site.url).status(200);
}

#[test]
fn a_nar_that_is_wrong_never_looks_complete() {
    for bytes in [100 << 10, 20 << 20] {
        let site = site(bytes);
        site.host.store.corrupt(&site.path);
        let mut client = site.server.connect();
        let head = client.begin("GET", &site.url, &[]);
        if head.status == 200 {
            // The connection ends before the last bytes.
            let (body, _) = client.rest();
            assert_eq!(head.length(), site.nar.len());
            assert!(body.len() < site.nar.len(), "{} bytes came", body.len());
        } else {
            assert_eq!(head.status, 404);
        }
        // Small ones are verified before their first byte.
        assert_eq!(head.status == 404, bytes < (1 << 20), "{}", head.status);
        wait_until("the server says why", || {
            site.server.log().contains("wrong content")
        });
    }
}

#[test]
fn a_client_that_goes_away_leaves_nothing_behind() {
    let site = site(200 << 20);
    for _ in 0..5 {
        let mut client = site.server.connect();
        client.begin("GET", &site.url, &[]).status(200);
        client.take(100_000);
    }
    let mut client = site.server.connect();
    let reply = client.get(&site.url).status(200);
    assert!(reply.body == site.nar);
    wait_until("only one connection is open", || {
        let tcp = std::fs::read_to_string(format!("/proc/{}/net/tcp", site.server.pid()));
        let port = format!("0100007F:{:04X} ", site.server.address().port());
        let tcp = tcp.expect("read the connections");
        let open = tcp.lines().filter(|line| {
            line.split_once(": ")
                .is_some_and(|(_, line)| line.starts_with(&port) && line.contains(" 01 "))
        });
        open.count() == 1
    });
}
