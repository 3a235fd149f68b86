//! Where the files of store paths really are on a host.
//!
//! A store path says where its files are, unless the store is moved: by `--store`, by `store` in
//! nix.conf or `NIX_CONFIG`, by `NIX_REMOTE`, or because a user without rights has one at home (Nix
//! manual, "Store Types" and "Local Store"). All locations that are named anywhere are tried, and the one that
//! has a path is used for it. A wrong one does no harm: what comes is verified like everything else.

use percent_encoding::percent_decode_str;

use crate::config::host::Host;

/// How many locations are tried at most.
const LOCATIONS_MAX: usize = 16;

/// The longest path of a location, in bytes: Linux allows no longer ones (`PATH_MAX`).
const LOCATION_LEN_MAX: usize = 4096;

/// Where the files of a store may be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum StoreLocation {
    /// `/nix/store/X` is the file `ROOT/nix/store/X`.
    Root(Vec<u8>),
    /// `/nix/store/X` is the file `DIR/X`.
    Real(Vec<u8>),
}

/// All locations that may have the files, the likeliest first.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StoreLocations(Vec<StoreLocation>);

/// What an account says about its store.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct StoreSettings {
    /// The values of `store` and `NIX_REMOTE`, in order of precedence.
    pub(super) stores: Vec<String>,
    /// Where an unprivileged user has a store.
    pub(super) at_home: String,
}

impl StoreSettings {
    /// Reads strings that end with a zero byte each; the last one is the store at home.
    pub(super) fn read(output: &[u8]) -> Self {
        let text = String::from_utf8_lossy(output);
        let mut all: Vec<String> = text.split_terminator('\0').map(str::to_owned).collect();
        let at_home = all.pop().unwrap_or_default();
        Self {
            stores: all,
            at_home,
        }
    }
}

impl StoreLocations {
    /// From the host's `remote-store`. `None` for a store whose files may be anywhere.
    pub(super) fn of(host: &Host) -> Option<Self> {
        let store = host.remote_store.as_deref().unwrap_or_default();
        if is_usual(store) {
            return Some(Self(Vec::new()));
        }
        Some(Self(vec![StoreLocation::of(store)?]))
    }

    /// Adds what the host's URL leaves open: by the arguments of its program, by the settings of the account,
    /// and by the store paths themselves.
    pub(super) fn with_settings(self, host: &Host, settings: &StoreSettings) -> Self {
        if !self.0.is_empty() {
            return self;
        }
        let mut locations: Vec<StoreLocation> = of_program(&host.remote_program)
            .chain(settings.stores.iter().map(String::as_str))
            .filter_map(|store| match is_usual(store) {
                true => None,
                false => StoreLocation::of(store),
            })
            .take(LOCATIONS_MAX)
            .collect();
        locations.push(StoreLocation::Root(Vec::new()));
        locations.extend(absolute(settings.at_home.clone().into()).map(StoreLocation::Root));
        let mut all = Self(Vec::new());
        for place in locations {
            if !all.0.contains(&place) {
                all.0.push(place);
            }
        }
        all
    }

    /// The folders that may be that store directory.
    pub(super) fn dirs(&self, store_dir: &str) -> Vec<Vec<u8>> {
        let dir = |place: &StoreLocation| match place {
            StoreLocation::Root(root) => [root, store_dir.as_bytes()].concat(),
            StoreLocation::Real(dir) => dir.clone(),
        };
        self.0.iter().map(dir).collect()
    }
}

impl StoreLocation {
    /// Of the URL of a store, as Nix reads it; `None` where it does not tell.
    fn of(store: &str) -> Option<Self> {
        let (base, query) = store.split_once('?').unwrap_or((store, ""));
        let parameter = |name: &str| {
            let mut all = query.split('&').filter_map(|pair| pair.split_once('='));
            let value = all
                .find(|(known, value)| *known == name && !value.is_empty())?
                .1;
            Some(percent_decode_str(value).collect::<Vec<u8>>())
        };
        let is_of_this_machine = matches!(base, "auto" | "daemon" | "local" | "local://")
            || base.starts_with("unix://")
            || base.starts_with('/');
        if !is_of_this_machine {
            return None;
        }
        if let Some(dir) = parameter("real") {
            return absolute(dir).map(Self::Real);
        }
        if let Some(root) = parameter("root") {
            return absolute(root).map(Self::Root);
        }
        // A path, in which nothing is encoded.
        absolute(base.into()).map(Self::Root)
    }
}

/// Whether that store is the one of the machine, whatever its settings make of it.
fn is_usual(store: &str) -> bool {
    matches!(store, "" | "auto" | "daemon" | "local")
}

/// What a program is told of its store on its command line (`env NIX_REMOTE=/r nix-store`).
fn of_program(words: &[String]) -> impl Iterator<Item = &str> {
    words.iter().enumerate().filter_map(|(at, word)| {
        let named = ["NIX_REMOTE=", "--store="];
        match word.as_str() {
            "--store" => words.get(at + 1).map(String::as_str),
            word => named.iter().find_map(|name| word.strip_prefix(name)),
        }
    })
}

fn absolute(mut path: Vec<u8>) -> Option<Vec<u8>> {
    if !path.starts_with(b"/") || path.contains(&0) || path.len() > LOCATION_LEN_MAX {
        return None;
    }
    while path.ends_with(b"/") {
        path.pop();
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: &str = "/nix/store";

    fn dirs(spec: &str, told: &[&str], at_home: &str) -> Option<Vec<String>> {
        let host = Host::parse(spec).unwrap();
        let settings = StoreSettings {
            stores: told.iter().map(|&store| store.to_owned()).collect(),
            at_home: at_home.to_owned(),
        };
        let dirs = StoreLocations::of(&host)?
            .with_settings(&host, &settings)
            .dirs(DIR);
        let text = |dir| String::from_utf8(dir).unwrap();
        Some(dirs.into_iter().map(text).collect())
    }

    fn given(store: &str) -> Option<Vec<String>> {
        let store: String = store.bytes().map(|b| format!("%{b:02x}")).collect();
        dirs(
            &format!("ssh://h?remote-store={store}"),
            &["/other"],
            "/home",
        )
    }

    #[test]
    fn usual_stores_have_their_files_where_the_paths_say_or_where_settings_move_them() {
        for store in ["", "auto", "daemon", "local"] {
            let want = ["/other/nix/store", DIR, "/home/nix/store"];
            assert_eq!(given(store).unwrap(), want, "{store:?}");
        }
        assert_eq!(dirs("h", &[], "").unwrap(), [DIR]);
    }

    #[test]
    fn stores_that_are_named_have_them_in_one_place() {
        for (store, dir) in [
            ("/mnt/r", "/mnt/r/nix/store"),
            ("/mnt/r//", "/mnt/r/nix/store"),
            ("/", DIR),
            ("/a%20b", "/a%20b/nix/store"),
            ("local?root=/mnt/r", "/mnt/r/nix/store"),
            ("local?root=/a%20b%3d", "/a b=/nix/store"),
            ("local?root=/r&real=/x/", "/x"),
            ("local?real=/x", "/x"),
            ("/r?real=/x", "/x"),
            ("/r?state=/x", "/r/nix/store"),
            ("unix:///run/socket?root=/r", "/r/nix/store"),
        ] {
            assert_eq!(given(store).unwrap(), [dir], "{store}");
        }
    }

    #[test]
    fn of_others_nothing_is_known() {
        for store in [
            "local?",
            "local?root=",
            "local?root=r",
            "local?root=/a%00",
            "local?state=/x",
            "./r",
            "r",
            "ssh://other",
            "ssh://other?root=/r",
            "unix:///run/socket",
            "file:///cache",
            "dummy://",
        ] {
            assert_eq!(given(store), None, "{store}");
        }
    }

    #[test]
    fn what_an_account_tells_counts_in_its_order_and_once() {
        let told = [
            "auto",
            "local?root=/a",
            "https://cache",
            "",
            "/b/",
            "/a",
            "b",
        ];
        let want = ["/a/nix/store", "/b/nix/store", DIR];
        assert_eq!(dirs("h", &told, "").unwrap(), want);
        let program = "ssh://h?remote-program=env%20NIX_REMOTE=/c%20nix-store%20--store%20/d";
        let want = ["/c/nix/store", "/d/nix/store", "/a/nix/store", DIR];
        assert_eq!(dirs(program, &["/a"], "").unwrap(), want);
        let many: Vec<String> = (0..99).map(|n| format!("/{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(dirs("h", &many, "").unwrap().len(), LOCATIONS_MAX + 1);
    }

    #[test]
    fn what_an_account_tells_is_read() {
        let settings = StoreSettings::read(b"/a b\0\0/home\0");
        assert_eq!((settings.stores.len(), &*settings.stores[0]), (2, "/a b"));
        assert_eq!(settings.at_home, "/home");
        assert_eq!(StoreSettings::read(b""), StoreSettings::default());
    }
}
