//! What our program answers beyond the serve protocol.

use std::process::Command;

use bytes::BytesMut;
use ssh_substituter::model::StorePath;
use ssh_substituter::transport::Program;
use ssh_substituter::wire::serve::Request as ServeRequest;
use ssh_substituter::wire::serve::extension::{
    NarPart, ReplyDecoder, ReplyStep, Request, Status, SurveyedPath, feature_path,
};
use tokio::time::Instant;

use super::super::host::Host;
use super::super::plan;
use super::super::store::Store;
use super::super::support;
use super::{Both, far, hello, nowhere};

#[tokio::test(start_paused = true)]
async fn our_program_sends_parts_as_the_real_one() {
    let mut both = Both::new();
    let plan = plan::Host {
        is_ours: true,
        ..far()
    };
    let root = both.real.root().to_str().expect("UTF-8").to_owned();
    let copies = both.items.iter();
    let copies = copies.filter_map(|item| both.host.store.get(&item.path).cloned());
    let store = Store::new(&root, copies.collect::<Vec<_>>());
    both.host = Host::new(plan, store, Instant::now(), both.host.trace.clone());
    let mut sent = hello();
    ServeRequest::QueryValidPaths {
        lock: false,
        substitute: false,
        paths: vec![feature_path("/nix/store").expect("a path"), nowhere()],
    }
    .put(&mut sent);
    let mut requests = vec![Request::List {
        path: nowhere(),
        level: 0,
    }];
    for item in &both.items {
        let path = item.path.clone();
        let (start, len) = (item.size() / 3, item.size() / 2);
        requests.push(Request::List {
            path: path.clone(),
            level: 0,
        });
        for contents_only in [false, true] {
            requests.push(Request::Digest {
                path: path.clone(),
                start,
                len,
                contents_only,
            });
        }
        for (start, len) in [(0, item.size()), (start, len), (item.size(), 0)] {
            requests.push(Request::Chunk {
                path: path.clone(),
                start,
                len,
                level: 0,
            });
        }
        requests.push(Request::Chunk {
            path,
            start: 1,
            len: item.size(),
            level: 0,
        });
    }
    let surveyed = |path: &StorePath| {
        let found = both.items.iter().find(|item| item.path == *path);
        let nodes = found.map_or(&[][..], |item| &item.nodes[..]);
        let mut names: Vec<u8> = nodes
            .iter()
            .flat_map(|node| [node.path.as_bytes(), b"\0"].concat())
            .collect();
        names.extend_from_slice(b"no/such\0");
        SurveyedPath {
            path: path.clone(),
            names,
        }
    };
    let mut paths: Vec<_> = both.items.iter().map(|item| item.path.clone()).collect();
    let part = |index: usize, start| NarPart {
        index,
        start,
        len: 50,
    };
    let mut parts: Vec<_> = (0..paths.len()).map(|index| part(index, 7)).collect();
    parts.push(part(0, 40));
    requests.push(Request::Parts {
        paths: paths.clone(),
        parts: parts.clone(),
        level: 0,
    });
    paths.push(nowhere());
    requests.push(Request::Survey {
        paths: paths.iter().map(surveyed).collect(),
        level: 0,
    });
    requests.push(Request::Parts {
        parts: vec![part(paths.len() - 1, 0)],
        paths,
        level: 0,
    });
    requests.iter().for_each(|request| request.put(&mut sent));
    let mut command = Command::new(support::program());
    command.args(["serve-local", "--store", &root]);
    let (made_up, real) = both
        .answers_beside(command, Program::AsConfigured, &sent)
        .await;
    let [ours, theirs] = [&made_up, &real].map(|output| {
        // The hello, and a set of one path.
        let (head, replies) = output.stdout.split_at(16 + 8 + 8 + 80);
        (head.to_vec(), decode(replies))
    });
    assert_eq!(ours.0, theirs.0);
    assert_eq!(ours.1.len(), requests.len());
    for (at, (ours, theirs)) in ours.1.iter().zip(&theirs.1).enumerate() {
        assert!(
            ours == theirs,
            "{:?}: {:?}, {:?}",
            requests[at],
            ours.1,
            theirs.1
        );
    }
    assert_eq!(made_up.status.code(), real.status.code());
}

/// The body of each reply, and how it ended. What is wrong, each says in words of its own.
fn decode(bytes: &[u8]) -> Vec<(Vec<u8>, Status)> {
    let mut buf = BytesMut::from(bytes);
    let mut all = Vec::new();
    while !buf.is_empty() {
        let (mut decoder, mut body) = (ReplyDecoder::new(false), Vec::new());
        let status = loop {
            match decoder.step(&mut buf).expect("a reply") {
                Some(ReplyStep::Body(more)) => body.extend_from_slice(&more),
                Some(ReplyStep::End(status, _)) => break status,
                other => panic!("{other:?}"),
            }
        };
        all.push((body, status));
    }
    all
}
