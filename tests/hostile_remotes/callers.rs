//! What a host adds to an answer that is rightly signed: signatures do not cover it, and callers stumble over it.

use ssh_substituter::model::{PathInfo, StorePath};

use super::host::World;
use super::scene::Scene;
use super::sizes::Tells;
use super::support::{Nix, program};

type Change = Box<dyn Fn(&mut PathInfo) + Send + Sync>;

/// Nix itself checks again what comes through the program.
fn nix(scene: &Scene, key: &str) -> Nix {
    let url = format!("ssh://localhost?remote-program={}", program().display());
    let nix = Nix::new()
        .substituters(&url)
        .trust(key)
        .conf(&format!("trusted-public-keys = {key}"));
    nix.store().env().configure(&scene.untrusted(), "");
    nix
}

#[test]
fn what_is_not_signed_does_not_keep_nix_from_the_path() {
    let scene = Scene::new();
    let key = scene.good.store.sign_all("test-1");
    scene.bad.set_world(World::of(&scene.good.store));
    let elsewhere = "/etc/store/7rjj86a15146cq1d3qy068lml7n7ykzm-x.drv";
    let elsewhere = StorePath::parse(elsewhere).expect("a store path");
    let changes: [(&str, Change); 6] = [
        (
            "deriver",
            Box::new(move |info| info.deriver = Some(elsewhere.clone())),
        ),
        (
            "address",
            Box::new(|info| info.ca = Some("no address".to_owned())),
        ),
        (
            "hash",
            Box::new(|info| info.ca = Some("fixed:r:sha256:xyz".to_owned())),
        ),
        (
            "signature",
            Box::new(|info| info.sigs.insert(0, "test-1:!!!".to_owned())),
        ),
        (
            "short",
            Box::new(|info| info.sigs.insert(0, "test-1:AAAA".to_owned())),
        ),
        (
            "name",
            Box::new(|info| info.sigs.insert(0, "\x1b[2J\n\0".to_owned())),
        ),
    ];
    for (what, change) in changes {
        scene.bad.attack(Tells(change));
        let nix = nix(&scene, &key);
        let _masters = nix.store().env().masters();
        let ran = nix.realise(&[&scene.small]);
        assert!(ran.success(), "{what}: {}", ran.stderr());
        assert!(nix.store().verify_path(&scene.small), "{what}");
    }
}
