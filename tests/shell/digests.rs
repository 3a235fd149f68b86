//! Digests of what a host has in place of a part of a NAR.

use std::fs;

use sha2::{Digest, Sha256};
use ssh_substituter::remote::open_shell;
use ssh_substituter::transport::ProcessTransport;
use ssh_substituter::wire::nar::layout::Piece;

use super::site::{OPTIONS, Site, list};
use super::support::{Sshd, tool};

#[tokio::test(flavor = "multi_thread")]
async fn digests_are_those_of_the_same_bytes() {
    let site = Site::new(Sshd::builder());
    for path in [site.odd(), site.store.many_files(60)] {
        let want = site.store.nar(&path);
        let mut shell = site.shell().await;
        let layout = list(&mut shell, &path).await;
        let len = want.len() as u64 / 50 + 1;
        let segments: Vec<_> = (0..layout.nar_size().div_ceil(len))
            .map(|part| layout.segment(part * len, len))
            .chain([layout.segment(0, u64::MAX)])
            .collect();
        // Digests and parts are asked for together, and come in that order.
        for segment in &segments {
            shell.request_digest(segment);
            shell.request(segment, None);
            shell.request_contents_digest(segment);
        }
        for segment in &segments {
            let start = usize::try_from(segment.start()).unwrap();
            let bytes = &want[start..start + usize::try_from(segment.len()).unwrap()];
            let digest = shell.digest().await.unwrap().expect("a digest");
            assert_eq!(digest[..], Sha256::digest(bytes)[..], "{path} from {start}");
            assert!(shell.segment().await.unwrap().bytes == bytes);
            let digest = shell.digest().await.unwrap().expect("a digest");
            let (mut contents, mut at) = (Sha256::new(), 0);
            for piece in segment.pieces() {
                match piece {
                    Piece::Framing(framing) => at += framing.len(),
                    Piece::Contents(range) => {
                        let end = at + usize::try_from(range.len).unwrap();
                        contents.update(&bytes[at..end]);
                        at = end;
                    }
                }
            }
            assert_eq!(digest[..], contents.finalize()[..], "{path} from {start}");
        }
        assert!(shell.is_clean());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_digest_all_else_goes_on() {
    let site = Site::new(Sshd::builder());
    let path = site.store.many_files(60);
    let bin = site.sshd.home().join("bin");
    fs::create_dir(&bin).unwrap();
    for name in ["sh", "find", "dd", "head", "cat"] {
        std::os::unix::fs::symlink(tool(name), bin.join(name)).unwrap();
    }
    let transport = ProcessTransport::new(|_| unreachable!()).with_shell(move |_| {
        let mut shell = std::process::Command::new(bin.join("sh"));
        shell.env("PATH", &bin);
        shell
    });
    let mut shell = open_shell(&transport, &site.spec(), &OPTIONS)
        .await
        .unwrap();
    let layout = list(&mut shell, &path).await;
    let all = layout.segment(0, u64::MAX);
    shell.request_digest(&all);
    shell.request(&all, None);
    assert_eq!(shell.digest().await.unwrap(), None);
    assert!(shell.segment().await.unwrap().bytes == site.store.nar(&path));
    // Files that are gone have none either.
    let (gone, site) = (site.store.physical(&path), site);
    let mut shell = site.shell().await;
    let layout = list(&mut shell, &path).await;
    let gone = fs::read_dir(gone).unwrap().next().unwrap().unwrap().path();
    let aside = gone.with_extension("aside");
    fs::rename(&gone, &aside).unwrap();
    shell.request_digest(&layout.segment(0, u64::MAX));
    assert_eq!(shell.digest().await.unwrap(), None);
    fs::rename(&aside, &gone).unwrap();
    shell.request_digest(&layout.segment(0, u64::MAX));
    assert!(shell.digest().await.unwrap().is_some());
}
