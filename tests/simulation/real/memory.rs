//! What programs keep in mind of what they have answered.

use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use ssh_substituter::transport::Program;
use ssh_substituter::wire::serve::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

use super::super::host::Host;
use super::super::nars::{Item, catalogue};
use super::super::store::{Copy, Store};
use super::super::support;
use super::super::trace::Trace;
use super::{far, hello, write};

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
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut sent = hello();
        requests.iter().for_each(|request| request.put(&mut sent));
        made_up.stdin.write_all(&sent).await.expect("write");
        let pipe = child.stdin.as_mut().expect("a pipe");
        pipe.write_all(&sent).expect("write");
        // It has answered all that before the store changes: the replies are as long as those of the other one.
        let mut ours = Vec::new();
        while let Ok(Ok(1..)) =
            timeout(Duration::from_secs(1), made_up.stdout.read_buf(&mut ours)).await
        {}
        let mut theirs = vec![0; ours.len()];
        let pipe = child.stdout.as_mut().expect("a pipe");
        pipe.read_exact(&mut theirs).expect("read");
        assert!(ours == theirs, "before the change");
        programs.push((made_up, child));
    }
    sleep_until(change + Duration::from_secs(1)).await;
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
        pipe.write_all(&sent).expect("write");
        drop(pipe);
        let theirs = child.wait_with_output().expect("it ends").stdout;
        assert!(ours == theirs, "program {at} after the change");
    }
}
