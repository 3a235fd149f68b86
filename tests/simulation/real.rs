//! The made-up far ends answer as the real ones do: what the client sends them is sent to a real `nix-store --serve` and a
//! real `sh` over the same store.

mod shells;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use ssh_substituter::config;
use ssh_substituter::model::StorePath;
use ssh_substituter::transport::Program;
use ssh_substituter::wire::put_u64;
use ssh_substituter::wire::serve::{CLIENT_MAGIC, Request, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::host::Host;
use super::nars::{Item, Kind, catalogue};
use super::plan::{self, Login};
use super::store::{Copy, Store};
use super::support;
use super::support::canonicalise;
use super::trace::Trace;

const LIMIT: Duration = Duration::from_secs(60);

/// The same paths in a real store and in a made-up one, each with a reference to the one before.
struct Both {
    items: Vec<Arc<Item>>,
    real: support::Store,
    host: Arc<Host>,
}

impl Both {
    /// To be called where time is paused.
    fn new() -> Self {
        let all = catalogue();
        let mut items = all.small[5..11].to_vec();
        items.push(all.large[1].clone());
        let real = support::Store::new();
        let mut before: Option<Arc<Item>> = None;
        let mut copies = Vec::new();
        for item in &items {
            let references: Vec<_> = before.iter().map(|item| item.path.clone()).collect();
            write(&real, item);
            real.register(&[support::Entry {
                path: item.path.as_str().to_owned(),
                references: references
                    .iter()
                    .map(|path| path.as_str().to_owned())
                    .collect(),
                deriver: None,
            }]);
            copies.push(Copy {
                info: item.info(references),
                item: item.clone(),
                from: None,
                until: None,
                again: None,
                wrong: None,
            });
            before = Some(item.clone());
        }
        let start = Instant::now();
        let root = real.root().to_str().expect("UTF-8");
        let trace = Arc::new(Trace::new(start, false));
        let host = Host::new(far(), Store::new(root, copies), start, trace);
        Self { items, real, host }
    }

    fn spec(&self) -> config::host::Host {
        let spec = format!("ssh://far?remote-store={}", self.real.remote_store_param());
        config::host::Host::parse(&spec).expect("a host")
    }

    /// What comes back for these bytes: from the made-up program, from the real one.
    async fn answers(&self, program: Program, sent: &[u8]) -> (Output, Output) {
        let mut channel = self.host.open(program).await.expect("it opens");
        channel.stdin.write_all(sent).await.expect("write");
        channel.stdin.shutdown().await.expect("end");
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        channel.stdout.read_to_end(&mut stdout).await.expect("read");
        channel.stderr.read_to_end(&mut stderr).await.expect("read");
        let status = channel.child.wait().await.expect("it ends by itself");
        let command = match program {
            Program::Shell => Command::new("sh"),
            _ => self.real.serve(false),
        };
        let real = support::run_with_input(command, sent, LIMIT);
        let made_up = Output {
            status: std::os::unix::process::ExitStatusExt::from_raw(status << 8),
            stdout,
            stderr,
        };
        (made_up, real)
    }
}

/// A host that nothing is done to.
fn far() -> plan::Host {
    plan::Host {
        name: "far",
        rate: 100_000_000,
        latency: Duration::from_millis(1),
        max_connections: 16,
        sessions: usize::MAX,
        login: Login::Shell,
        copies: Vec::new(),
        cuts: Vec::new(),
        outages: Vec::new(),
        stalls: Vec::new(),
    }
}

fn write(store: &support::Store, item: &Item) {
    let root = store.physical(item.path.as_str());
    for node in &item.nodes {
        let place = match node.path.as_str() {
            "" => root.clone(),
            path => root.join(path),
        };
        write_node(item, &node.kind, &place);
    }
    canonicalise(&root);
}

fn write_node(item: &Item, kind: &Kind, place: &Path) {
    match kind {
        Kind::Directory => fs::create_dir(place).expect("make a folder"),
        Kind::Symlink(target) => symlink(target, place).expect("make a symlink"),
        Kind::File {
            executable,
            at,
            size,
        } => {
            let contents = &item.nar[*at as usize..(at + size) as usize];
            fs::write(place, contents).expect("write a file");
            let mode = if *executable { 0o755 } else { 0o644 };
            fs::set_permissions(place, fs::Permissions::from_mode(mode)).expect("set a mode");
        }
    }
}

fn hello() -> Vec<u8> {
    let mut out = Vec::new();
    put_u64(&mut out, CLIENT_MAGIC);
    put_u64(&mut out, Version::NEWEST.number());
    out
}

fn nowhere() -> StorePath {
    StorePath::parse("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-nowhere").expect("a path")
}

#[tokio::test(start_paused = true)]
async fn the_serve_program_answers_as_the_real_one() {
    let both = Both::new();
    let paths: Vec<_> = both.items.iter().map(|item| item.path.clone()).collect();
    let mut some = vec![nowhere()];
    some.extend(paths.iter().rev().cloned());
    let mut sent = hello();
    let mut requests = vec![
        Request::QueryValidPaths {
            lock: false,
            substitute: false,
            paths: some.clone(),
        },
        Request::QueryPathInfos { paths: some },
        Request::QueryClosure {
            include_outputs: false,
            paths: paths[3..5].to_vec(),
        },
    ];
    let dump = |path: &StorePath| Request::DumpStorePath { path: path.clone() };
    requests.extend(paths.iter().map(dump));
    requests.iter().for_each(|request| request.put(&mut sent));
    let (made_up, real) = both.answers(Program::AsConfigured, &sent).await;
    assert!(
        made_up.stdout == real.stdout,
        "{} bytes, {}",
        made_up.stdout.len(),
        real.stdout.len()
    );
    assert_eq!(made_up.status.code(), real.status.code());
    for request in [
        dump(&nowhere()),
        Request::QueryClosure {
            include_outputs: false,
            paths: vec![nowhere()],
        },
    ] {
        let mut sent = hello();
        request.put(&mut sent);
        dump(&paths[0]).put(&mut sent);
        let (made_up, real) = both.answers(Program::AsConfigured, &sent).await;
        assert!(made_up.stdout == real.stdout);
        let said = String::from_utf8_lossy(&real.stderr).into_owned();
        assert!(said.contains("is not valid"), "{said}");
        assert!(String::from_utf8_lossy(&made_up.stderr).contains("is not valid"));
        assert_eq!(made_up.status.code(), real.status.code());
    }
}

/// What a program of its own says, question by question, while paths come and go between them.
#[tokio::test(start_paused = true)]
async fn the_serve_program_keeps_in_mind_what_the_real_one_keeps() {
    let all = catalogue();
    let [comes, stays, goes] = [0, 1, 2].map(|at| all.small[5 + at].clone());
    let (real, start) = (support::Store::new(), Instant::now());
    let entry = |item: &Item| support::Entry {
        path: item.path.as_str().to_owned(),
        references: Vec::new(),
        deriver: None,
    };
    for item in [&stays, &goes] {
        write(&real, item);
        real.register(&[entry(item)]);
    }
    let change = start + Duration::from_secs(100);
    let copy = |item: &Arc<Item>, from, until| Copy {
        info: item.info(Vec::new()),
        item: item.clone(),
        from,
        until,
        again: None,
        wrong: None,
    };
    let copies = [
        copy(&comes, Some(change), None),
        copy(&stays, None, None),
        copy(&goes, None, Some(change)),
    ];
    let root = real.root().to_str().expect("UTF-8");
    let trace = Arc::new(Trace::new(start, false));
    let host = Host::new(far(), Store::new(root, copies), start, trace);
    let paths: Vec<_> = [&comes, &stays, &goes].map(|item| item.path.clone()).into();
    let valid = Request::QueryValidPaths {
        lock: false,
        substitute: false,
        paths: paths.clone(),
    };
    let infos = Request::QueryPathInfos { paths };
    // One that has answered nothing, one that was asked who is valid, one that was asked for infos.
    let begun = [
        vec![],
        vec![valid.clone()],
        vec![infos.clone()],
        vec![valid.clone(), infos.clone()],
    ];
    let then = [valid, infos];
    let mut programs = Vec::new();
    for requests in begun {
        let mut made_up = host.open(Program::AsConfigured).await.expect("it opens");
        let mut child = real
            .serve(false)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut sent = hello();
        requests.iter().for_each(|request| request.put(&mut sent));
        made_up.stdin.write_all(&sent).await.expect("write");
        let pipe = child.stdin.as_mut().expect("a pipe");
        std::io::Write::write_all(pipe, &sent).expect("write");
        // It has answered all that before the store changes: the replies are as long as those of the other one.
        let mut ours = Vec::new();
        while let Ok(Ok(1..)) =
            tokio::time::timeout(Duration::from_secs(1), made_up.stdout.read_buf(&mut ours)).await
        {
        }
        let mut theirs = vec![0; ours.len()];
        let pipe = child.stdout.as_mut().expect("a pipe");
        std::io::Read::read_exact(pipe, &mut theirs).expect("read");
        assert!(ours == theirs, "before the change");
        programs.push((made_up, child));
    }
    tokio::time::sleep_until(change + Duration::from_secs(1)).await;
    real.delete(&[goes.path.as_str()]);
    write(&real, &comes);
    real.register(&[entry(&comes)]);
    for (at, (mut made_up, mut child)) in programs.into_iter().enumerate() {
        let mut sent = Vec::new();
        then.iter().for_each(|request| request.put(&mut sent));
        made_up.stdin.write_all(&sent).await.expect("write");
        made_up.stdin.shutdown().await.expect("end");
        let mut ours = Vec::new();
        made_up.stdout.read_to_end(&mut ours).await.expect("read");
        let mut pipe = child.stdin.take().expect("a pipe");
        std::io::Write::write_all(&mut pipe, &sent).expect("write");
        drop(pipe);
        let theirs = child.wait_with_output().expect("it ends").stdout;
        assert!(ours == theirs, "program {at} after the change");
    }
}
