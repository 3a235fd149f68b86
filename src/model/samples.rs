//! Infos for tests; most as the real Nix 2.8.0 made them: `nix-store --load-db`, `nix store
//! sign`, `nix store make-content-addressed`, `builtins.toFile`, `nix-store --add` and `--add-fixed`.

use super::{PathInfo, StorePath};

/// Made by `nix-store --generate-binary-cache-key`.
pub(crate) const KEY: &str = "test-1:TmSVqZEzdiGzR/VUmPvGtwgUPN3SICN5e1Yp9BYG+Wo=";

/// Made by `nix key generate-secret`.
pub(crate) const OTHER_KEY: &str = "k2:AxP+iqIvQvABxJzZelSBt0ab5OokbG0k9mu5p21zA8o=";

pub(crate) fn path(base_name: &str) -> StorePath {
    StorePath::parse(&format!("/nix/store/{base_name}")).unwrap()
}

/// Nothing is known of the path.
pub(crate) fn bare(path: StorePath) -> PathInfo {
    PathInfo {
        path,
        deriver: None,
        references: Vec::new(),
        download_size: 0,
        nar_size: 0,
        nar_hash: None,
        ca: None,
        sigs: Vec::new(),
    }
}

/// An info of these base names; `hash` as `nix path-info --json` prints it.
pub(crate) fn info(name: &str, hash: &str, size: u64, references: &[&str], ca: &str) -> PathInfo {
    PathInfo {
        references: references.iter().map(|name| path(name)).collect(),
        download_size: size,
        nar_size: size,
        nar_hash: Some(hash.parse().unwrap()),
        ca: (!ca.is_empty()).then(|| ca.to_owned()),
        ..bare(path(name))
    }
}

/// What was signed with both keys.
pub(crate) fn signed() -> PathInfo {
    info(
        "7rjj86a15146cq1d3qy068lml7n7ykzm-self",
        "sha256-8S1nRRAoX0zwS2nF5Yoa5EG2GwVtd49uoe3lg9AMkis=",
        1008,
        &[
            "7rjj86a15146cq1d3qy068lml7n7ykzm-self",
            "q3laishhmk84vl44j1973qpzkyhmr90c-text",
        ],
        "",
    )
}

/// Content-addressed, with a reference to itself and one to another path.
pub(crate) fn refers_to_itself() -> PathInfo {
    info(
        "50jhzyrdsdhdjysq20a3lwgm8gkahy0d-self",
        "sha256-RGK6keC2aLI8SXs7sipFZbuTgH79KAihyj1WsoWjBrM=",
        1008,
        &[
            "50jhzyrdsdhdjysq20a3lwgm8gkahy0d-self",
            "72f1hzld5g7dj6wknixkal0bd6zzy2mc-text",
        ],
        "fixed:r:sha256:1mpn1d49d6w2xr6grcckln75zdajwa1idwbxk4mld9iwwdy6xbc0",
    )
}
