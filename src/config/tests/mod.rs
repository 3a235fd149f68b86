//! Whole loads, over real files in a folder of their own.

mod choices;
mod keys;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use super::{Config, ConfigError, Host, Key, ProgressMode, Sources};

/// A public key.
const KEY: &str = "test-1:TmSVqZEzdiGzR/VUmPvGtwgUPN3SICN5e1Yp9BYG+Wo=";

/// A machine: `system/`, `home/` and an environment.
struct Machine {
    dir: TempDir,
    env: HashMap<String, OsString>,
    uid: u32,
    hosts: Vec<String>,
    store: Option<String>,
    options: Vec<(String, String)>,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let system = dir.path().join("system").into_os_string();
        Self {
            dir,
            env: HashMap::from([("NIX_CONF_DIR".to_owned(), system)]),
            uid: 1000,
            hosts: Vec::new(),
            store: None,
            options: Vec::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(self, name: &str, text: impl AsRef<[u8]>) -> Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    fn uid(mut self, uid: u32) -> Self {
        self.uid = uid;
        self
    }

    fn host(mut self, spec: &str) -> Self {
        self.hosts.push(spec.to_owned());
        self
    }

    fn store(mut self, store: &str) -> Self {
        self.store = Some(store.to_owned());
        self
    }

    fn option(mut self, name: &str, value: &str) -> Self {
        self.options.push((name.to_owned(), value.to_owned()));
        self
    }

    fn load(&self) -> Result<(Config, Vec<String>), ConfigError> {
        let env = self.env.clone();
        Config::load(Sources {
            env: Box::new(move |name| env.get(name).cloned()),
            uid: self.uid,
            home: Some(self.path("home")),
            hosts: self.hosts.clone(),
            push_hosts: Vec::new(),
            store: self.store.clone(),
            options: self.options.clone(),
        })
    }

    fn config(&self) -> Config {
        let (config, warnings) = self.load().unwrap();
        assert_eq!(warnings, [""; 0]);
        config
    }

    fn warnings(&self) -> Vec<String> {
        self.load().unwrap().1
    }

    fn error(&self) -> String {
        match self.load() {
            Ok((config, _)) => panic!("loaded {config:?}"),
            Err(error) => error.to_string(),
        }
    }
}

fn names(hosts: &[Host]) -> Vec<String> {
    hosts.iter().map(Host::to_string).collect()
}

fn hosts(machine: &Machine) -> Vec<String> {
    names(&machine.config().hosts)
}

#[test]
fn an_empty_machine_has_the_built_in_values() {
    let config = Machine::new().config();
    assert!(config.hosts.is_empty() && config.trusted_hosts.is_empty());
    assert!(config.enabled && config.require_sigs);
    assert_eq!(config.ssh_auth_sock, None);
    assert_eq!(config.connect_timeout, Duration::from_secs(15));
    assert_eq!(config.stall_timeout, Duration::from_secs(300));
    assert_eq!(config.dead_link_timeout, Duration::from_secs(45));
    assert_eq!(config.positive_ttl, Duration::from_secs(30 * 86_400));
    assert_eq!(config.negative_ttl, Duration::from_secs(3600));
    assert_eq!(config.trusted_public_keys.len(), 1);
    assert_eq!(config.trusted_public_keys[0].name(), "cache.nixos.org-1");
    assert_eq!(config.store_dir, "/nix/store");
    assert!(config.ssh_options.is_empty());
}

#[test]
fn each_source_overrides_the_ones_below_it() {
    let mut machine = Machine::new();
    for (step, name) in [
        "system/nix.conf",
        "system/ssh-substituter.conf",
        "home/.config/nix/nix.conf",
        "home/.config/nix/ssh-substituter.conf",
    ]
    .into_iter()
    .enumerate()
    {
        machine = machine.file(name, format!("ssh-substituter-hosts = h{step}\n"));
        assert_eq!(hosts(&machine), [format!("h{step}")], "{name}");
    }
    machine = machine.env("NIX_CONFIG", "x = 1\nssh-substituter-hosts = h4");
    assert_eq!(hosts(&machine), ["h4"]);
    machine = machine.env("_NIX_OPTIONS", "x=1\nssh-substituter-hosts=h5\n");
    assert_eq!(hosts(&machine), ["h5"]);
    machine = machine.option("ssh-substituter-hosts", "h6");
    assert_eq!(hosts(&machine), ["h6"]);
    machine = machine.host("h7").host("h8");
    assert_eq!(hosts(&machine), ["h7", "h8"]);
}

#[test]
fn extra_adds_across_sources() {
    let machine = Machine::new()
        .file(
            "system/nix.conf",
            format!("ssh-substituter-hosts = a\nextra-trusted-public-keys = {KEY}"),
        )
        .file(
            "home/.config/nix/nix.conf",
            "extra-ssh-substituter-hosts = b",
        )
        .env(
            "NIX_CONFIG",
            "extra-ssh-substituter-hosts = c\nextra-trusted-ssh-substituter-hosts = t",
        );
    let config = machine.config();
    assert_eq!(names(&config.hosts), ["a", "b", "c"]);
    assert_eq!(names(&config.trusted_hosts), ["t"]);
    assert_eq!(config.trusted_public_keys[1].to_string(), KEY);
    let origins: Vec<String> = config
        .settings
        .get(Key::Hosts)
        .words()
        .map(|(_, o)| o.to_string())
        .collect();
    assert!(origins[0].ends_with("/system/nix.conf:1"), "{origins:?}");
    assert_eq!(origins[2], "$NIX_CONFIG:1");
}

#[test]
fn root_has_no_files_of_its_own() {
    let machine = Machine::new().file("home/.config/nix/nix.conf", "ssh-substituter-hosts = a");
    assert_eq!(hosts(&machine), ["a"]);
    assert!(hosts(&machine.uid(0)).is_empty());
}

#[test]
fn the_environment_moves_the_users_files() {
    let machine = Machine::new()
        .file("home/.config/nix/nix.conf", "ssh-substituter-hosts = a")
        .file("xdg/nix/nix.conf", "ssh-substituter-hosts = b")
        .file("one", "ssh-substituter-hosts = c")
        .file("two", "ssh-substituter-hosts = d");
    let xdg = machine.path("xdg");
    let list = std::env::join_paths([machine.path("one"), machine.path("two")]).unwrap();
    let machine = machine.env("XDG_CONFIG_HOME", "relative");
    assert_eq!(hosts(&machine), ["a"]);
    let machine = machine.env("XDG_CONFIG_HOME", xdg);
    assert_eq!(hosts(&machine), ["b"]);
    let machine = machine.env("NIX_USER_CONF_FILES", list);
    assert_eq!(hosts(&machine), ["c"]);
    assert!(hosts(&machine.uid(0)).is_empty());
}

#[test]
fn includes_are_followed() {
    let machine = Machine::new()
        .file("system/nix.conf", "include more.conf\n!include gone.conf")
        .file("system/more.conf", "ssh-substituter-hosts = a");
    assert_eq!(hosts(&machine), ["a"]);
    let machine = machine.file("system/more.conf", "include gone.conf");
    assert!(
        machine
            .error()
            .contains("system/more.conf:1: cannot include")
    );
}

#[test]
fn a_file_that_cannot_be_read_is_a_warning() {
    let machine = Machine::new().file("system/nix.conf/in-the-way", "");
    let warnings = machine.warnings();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("system/nix.conf"), "{warnings:?}");

    let full = "#".repeat(1 << 20);
    assert!(
        Machine::new()
            .file("system/nix.conf", &full)
            .warnings()
            .is_empty()
    );
    let warnings = Machine::new()
        .file("system/nix.conf", full + "#")
        .warnings();
    assert!(
        warnings[0].contains("larger than 1048576 bytes"),
        "{warnings:?}"
    );
}

#[test]
fn unknown_settings_are_a_warning_only_where_they_must_be_slips() {
    let text = "ssh-substituter-host = a\nsandbox = true";
    let quiet = Machine::new()
        .file("system/nix.conf", text)
        .env("NIX_CONFIG", text)
        .env(
            "_NIX_OPTIONS",
            "sandbox=true\nnonsense\nuntrusted-sandbox=false\n",
        );
    assert!(quiet.warnings().is_empty());
    let warnings = Machine::new()
        .file(
            "system/ssh-substituter.conf",
            "include nix.conf\nssh-substituter-host = a",
        )
        .file("system/nix.conf", "sandbox = true")
        .option("conect-timeout", "3")
        .warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[0].contains("ssh-substituter.conf:2: unknown setting \"ssh-substituter-host\"")
    );
    assert!(warnings[1].starts_with("--option: unknown setting \"conect-timeout\""));
}

#[test]
fn bytes_that_are_not_utf8_harm_only_where_they_count() {
    let machine = Machine::new().file(
        "system/nix.conf",
        b"# \xfc\nx = \xfc\nssh-substituter-hosts = a",
    );
    assert_eq!(hosts(&machine), ["a"]);
    for text in [
        &b"ssh-substituter-hosts = \xfc"[..],
        b"ssh-auth-sock = /\xfc",
        b"use-ssh-substituter = \xfc",
    ] {
        let error = Machine::new().file("system/nix.conf", text).error();
        assert!(error.contains("nix.conf:1: "), "{error}");
    }
}

#[test]
fn bad_values_name_their_origin() {
    for (line, why) in [
        (
            "use-ssh-substituter = maybe",
            "use-ssh-substituter is \"maybe\": expected true",
        ),
        ("require-sigs =", "require-sigs is \"\""),
        (
            "connect-timeout = soon",
            "connect-timeout is \"soon\": expected a number of seconds",
        ),
        ("connect-timeout = -1", "a number of seconds"),
        ("connect-timeout = +1", "a number of seconds"),
        ("stalled-download-timeout = 1.5", "a number of seconds"),
        ("dead-link-timeout = x", "a number of seconds"),
        (
            "dead-link-timeout = 2",
            "dead-link-timeout is \"2\": expected at least 3 seconds",
        ),
        ("narinfo-cache-positive-ttl =", "a number of seconds"),
        ("narinfo-cache-negative-ttl = 1 2", "a number of seconds"),
        ("readahead-memory = 1 MB", "a number of bytes"),
        ("readahead-memory = M", "a number of bytes"),
        (
            "progress = bar",
            "progress is \"bar\": expected auto, never or plain",
        ),
        (
            "ssh-auth-sock = agent",
            "ssh-auth-sock is \"agent\": expected an absolute path",
        ),
        (
            "ssh-substituter-hosts = a -v",
            "ssh-substituter-hosts names no host",
        ),
        (
            "extra-trusted-ssh-substituter-hosts = ssh-ng://a",
            "trusted-ssh-substituter-hosts names no host",
        ),
    ] {
        let machine = Machine::new().file("system/nix.conf", format!("\n{line}\n"));
        let error = machine.error();
        assert!(error.contains("system/nix.conf:2: "), "{error}");
        assert!(error.contains(why), "{error}");
    }
    let machine = Machine::new().file("system/nix.conf", "connect-timeout = soon");
    let config = machine.option("connect-timeout", " 7 ").config();
    assert_eq!(config.connect_timeout, Duration::from_secs(7));
}

#[test]
fn progress_is_shown_as_set_and_no_matter_of_an_engine() {
    let with = |value: &str| Machine::new().option("progress", value).config();
    assert_eq!(Machine::new().config().progress, ProgressMode::Auto);
    for (value, shown) in [
        ("auto", ProgressMode::Auto),
        (" never ", ProgressMode::Never),
        ("plain", ProgressMode::Plain),
    ] {
        assert_eq!(with(value).progress, shown);
        assert_eq!(with(value).identity(), with("auto").identity());
    }
}

#[test]
fn times_are_seconds_within_bounds() {
    let with = |value: &str| {
        let text = format!(
            "connect-timeout = {value}\nstalled-download-timeout = {value}\n\
             dead-link-timeout = {value}\n\
             narinfo-cache-positive-ttl = {value}\nnarinfo-cache-negative-ttl = {value}"
        );
        let config = Machine::new().env("NIX_CONFIG", text).config();
        [
            config.connect_timeout,
            config.stall_timeout,
            config.dead_link_timeout,
            config.positive_ttl,
            config.negative_ttl,
        ]
        .map(|time| time.as_secs())
    };
    assert_eq!(with("20"), [20; 5]);
    assert_eq!(with("0"), [15, 300, 45, 0, 0]);
    for huge in ["18446744073709551615", "99999999999999999999999"] {
        assert_eq!(with(huge), [4_294_967_295; 5]);
    }
}

#[test]
fn memory_is_in_bytes_with_the_prefixes_of_nix() {
    let with = |value: &str| {
        let text = format!("readahead-memory = {value}");
        Machine::new()
            .env("NIX_CONFIG", text)
            .config()
            .readahead_memory
    };
    assert_eq!(Machine::new().config().readahead_memory, 256 << 20);
    assert_eq!([with("0"), with("77"), with("5K")], [0, 77, 5 << 10]);
    assert_eq!([with("3G"), with("1T")], [3 << 30, 1 << 40]);
    assert_eq!(with("99999999999999999999T"), u64::MAX);
}
