//! What a URL asks for.

use super::nar_name::NarName;
use crate::model::{HashPart, StorePath};

/// What a URL asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// `/nix-cache-info`: which store this is a cache of.
    CacheInfo,
    /// `/HASH.narinfo`: what a path is.
    Narinfo(HashPart),
    /// `/HASH.ls`: what is in it.
    Listing(HashPart),
    /// `/nar/…`: its NAR.
    Nar(NarName),
    /// `/log/…`: how a derivation was built.
    Log(StorePath),
    /// `/`: a page for people.
    Page,
    /// `/metrics`: numbers for Prometheus.
    Metrics,
    /// `/healthz`: whether the server runs.
    Health,
}

impl Route {
    /// The meaning of the path of a URL; `None` where it has none. `store_dir` is that of all store paths.
    pub(super) fn parse(path: &str, store_dir: &str) -> Option<Self> {
        let path = path.strip_prefix('/')?;
        match path {
            "nix-cache-info" => return Some(Self::CacheInfo),
            "" => return Some(Self::Page),
            "metrics" => return Some(Self::Metrics),
            "healthz" => return Some(Self::Health),
            _ => {}
        }
        if let Some(hash) = path.strip_suffix(".narinfo") {
            return Some(Self::Narinfo(hash.parse().ok()?));
        }
        if let Some(hash) = path.strip_suffix(".ls") {
            return Some(Self::Listing(hash.parse().ok()?));
        }
        if let Some(name) = path.strip_prefix("log/") {
            let path = StorePath::parse(&format!("{store_dir}/{name}")).ok()?;
            return path.is_derivation().then_some(Self::Log(path));
        }
        NarName::parse(path, store_dir).map(Self::Nar)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_cache_has_is_found() {
        let hash = "7rjj86a15146cq1d3qy068lml7n7ykzm";
        let route = |path: &str| Route::parse(path, "/nix/store");
        assert_eq!(route("/nix-cache-info"), Some(Route::CacheInfo));
        assert_eq!(route("/healthz"), Some(Route::Health));
        assert_eq!(route("/metrics"), Some(Route::Metrics));
        assert_eq!(route("/"), Some(Route::Page));
        let narinfo = Route::Narinfo(hash.parse().unwrap());
        assert_eq!(route(&format!("/{hash}.narinfo")), Some(narinfo));
        let listing = Route::Listing(hash.parse().unwrap());
        assert_eq!(route(&format!("/{hash}.ls")), Some(listing));
        let log = format!("/log/{hash}-a.drv");
        let derivation = StorePath::parse(&format!("/nix/store/{hash}-a.drv")).unwrap();
        assert_eq!(route(&log), Some(Route::Log(derivation)));
        for path in [
            "",
            "/log/",
            "/log/7rjj86a15146cq1d3qy068lml7n7ykzm-a",
            "/log/../7rjj86a15146cq1d3qy068lml7n7ykzm-a.drv",
            "/log/7rjj86a15146cq1d3qy068lml7n7ykzm-a'.drv",
            "*",
            "nix-cache-info",
            "/nix-cache-info/",
            "/.narinfo",
            "/x.narinfo",
            "/x.ls",
            "/nar/",
            "/nar/x.nar",
            "/etc/passwd",
            "/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-a",
        ] {
            assert_eq!(route(path), None, "{path}");
        }
        assert_eq!(route(&format!("//{hash}.narinfo")), None);
    }
}
