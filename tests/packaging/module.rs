//! The NixOS module: what it writes, what it refuses, and a real Nix that fetches through what it wrote.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::nix_files::evaluate;
use super::support::{Host, Nix, SHORT, Scratch, program, run_with_input};

const KEY: &str = "builder-1:vDv4AJ/iK/2Kh2dC78YkgtzDXBFrowopQTmIXVY+rls=";
const CONF: &str = "nix/ssh-substituter.conf";

/// What a machine with these settings of `services.ssh-substituter` has; `package` is the folder of the program's package.
fn machine_with(settings: &Value, package: &Path) -> Result<Value, String> {
    let scratch = Scratch::new();
    let mut settings = settings.clone();
    settings["enable"] = json!(true);
    let file = scratch.write("settings.json", settings.to_string());
    evaluate(&format!("machine {}", file.display()), package)
}

fn machine(settings: &Value) -> Value {
    machine_with(settings, Path::new("/pkg")).unwrap_or_else(|error| panic!("{settings}: {error}"))
}

fn strings(list: &Value) -> Vec<&str> {
    let list = list.as_array().expect("a list");
    list.iter().map(|one| one.as_str().unwrap()).collect()
}

/// The line for Nix.
fn substituter(machine: &Value) -> &str {
    let all = strings(&machine["settings"]["substituters"]);
    assert!(all.contains(&"https://cache.nixos.org/"), "{all:?}");
    let mut ours = all.into_iter().filter(|url| url.starts_with("ssh://"));
    ours.next().expect("a substituter")
}

#[test]
fn hosts_go_into_our_file_and_the_program_into_nix_s() {
    let machine = machine(&json!({
        "hosts": ["ssh://a.example.org?ssh-key=/k", "u@b"],
        "trustedHosts": ["c"],
        "trustedPublicKeys": [KEY],
        "settings": { "connect-timeout": 5, "readahead-memory": "1G", "use-ssh-substituter": true },
    }));
    assert_eq!(
        machine["conf"][CONF],
        "connect-timeout = 5\n\
         readahead-memory = 1G\n\
         ssh-substituter-hosts = ssh://a.example.org?ssh-key=/k u@b\n\
         trusted-ssh-substituter-hosts = c\n\
         use-ssh-substituter = true\n"
    );
    assert_eq!(
        substituter(&machine),
        "ssh://localhost?remote-program=/pkg/bin/ssh-substituter"
    );
    assert!(strings(&machine["settings"]["trusted-public-keys"]).contains(&KEY));
    assert_eq!(machine["failed"], json!([]));
    assert_eq!(machine["warnings"], json!([]));
    assert_eq!(machine["systemd"]["packages"], json!([]));
}

#[test]
fn trust_in_nix_keeps_the_keys_to_ourselves() {
    let machine = machine(&json!({
        "hosts": ["ssh://a?trusted=true"],
        "trustedPublicKeys": [KEY],
        "trustInNix": true,
        "maxConnections": 8,
        "priority": 10,
        "engine": "off",
    }));
    assert_eq!(
        substituter(&machine),
        "ssh://localhost?max-connections=8&priority=10&remote-program=/pkg/bin/ssh-substituter&trusted=true"
    );
    assert_eq!(
        machine["conf"][CONF],
        format!(
            "engine = off\nextra-trusted-public-keys = {KEY}\n\
             ssh-substituter-hosts = ssh://a?trusted=true\ntrusted-ssh-substituter-hosts = \n"
        )
    );
    assert!(!strings(&machine["settings"]["trusted-public-keys"]).contains(&KEY));
    assert_eq!(machine["warnings"], json!([]));
}

#[test]
fn systemd_may_hold_the_engine_s_socket() {
    let machine = machine(&json!({ "hosts": ["a"], "engine": "systemd" }));
    let systemd = &machine["systemd"];
    assert_eq!(systemd["packages"], json!(["/pkg"]));
    let unit = "ssh-substituter-engine";
    assert_eq!(
        systemd["sockets"][unit]["wantedBy"],
        json!(["sockets.target"])
    );
    // The same ssh and options as the daemon's processes have, or it would not be their engine.
    assert_eq!(
        systemd["services"][unit],
        json!({ "path": ["/openssh"], "environment": { "NIX_SSHOPTS": "-4" } })
    );
}

#[test]
fn nix_may_ask_over_http() {
    let machine = machine(&json!({
        "hosts": ["a"],
        "http": { "enable": true, "publicKey": KEY },
    }));
    assert_eq!(machine["failed"], json!([]));
    let settings = &machine["settings"];
    let all = strings(&settings["substituters"]);
    assert!(all.contains(&"http://127.0.0.1:5001"), "{all:?}");
    assert!(!all.iter().any(|url| url.starts_with("ssh://")), "{all:?}");
    assert!(strings(&settings["trusted-public-keys"]).contains(&KEY));
    let systemd = &machine["systemd"];
    assert_eq!(systemd["packages"], json!(["/pkg"]));
    let unit = "ssh-substituter-http";
    assert_eq!(
        systemd["sockets"][unit],
        json!({ "wantedBy": ["sockets.target"], "listenStreams": ["", "127.0.0.1:5001"] })
    );
    assert_eq!(systemd["services"][unit], json!({ "path": ["/openssh"] }));
    for (settings, url) in [
        (json!({ "trustInNix": true }), "http://[::1]:1?trusted=true"),
        (json!({ "priority": 50 }), "http://[::1]:1?priority=50"),
        (
            json!({ "trustInNix": true, "priority": 50 }),
            "http://[::1]:1?trusted=true&priority=50",
        ),
    ] {
        let mut settings = settings;
        settings["hosts"] = json!(["a"]);
        settings["http"] = json!({ "enable": true, "listen": "[::1]:1" });
        let machine = self::machine(&settings);
        let all = strings(&machine["settings"]["substituters"]);
        assert!(all.contains(&url), "{url}: {all:?}");
    }
}

#[test]
fn what_is_built_may_be_pushed() {
    let machine = machine(&json!({
        "pushHosts": ["ssh://nix@a?ssh-key=/k", "b"],
        "pushSigningKey": "/etc/nix/push.secret",
        "pushBuilds": true,
    }));
    assert_eq!(machine["failed"], json!([]));
    let conf = machine["conf"][CONF].as_str().unwrap();
    for line in [
        "push-signing-key = /etc/nix/push.secret\n",
        "ssh-substituter-push-hosts = ssh://nix@a?ssh-key=/k b\n",
    ] {
        assert!(conf.contains(line), "{conf}");
    }
    // Nobody is asked for paths.
    assert_eq!(
        machine["settings"]["substituters"],
        json!(["https://cache.nixos.org/"])
    );
    assert_eq!(
        machine["settings"]["post-build-hook"],
        "/pkg/libexec/ssh-substituter/post-build-hook"
    );
    let systemd = &machine["systemd"];
    let unit = "ssh-substituter-push";
    assert_eq!(systemd["packages"], json!(["/pkg"]));
    assert_eq!(
        systemd["timers"][unit]["wantedBy"],
        json!(["timers.target"])
    );
    assert_eq!(
        systemd["services"][unit],
        json!({ "path": ["/openssh"], "environment": { "NIX_SSHOPTS": "-4" } })
    );
}

#[test]
fn what_cannot_work_is_refused_or_warned_of() {
    for (settings, why) in [
        (json!({ "hosts": ["a b"] }), "not of type `"),
        (json!({ "hosts": ["a#b"] }), "not of type `"),
        (
            json!({ "hosts": ["a"], "trustedPublicKeys": ["nameless"] }),
            "not of type `",
        ),
        (
            json!({ "hosts": ["a"], "maxConnections": 0 }),
            "not of type `",
        ),
        (json!({ "hosts": ["a"], "engine": "on" }), "not of type `"),
        (
            json!({ "hosts": ["a"], "settings": { "x": {} } }),
            "not of type `",
        ),
        (json!({ "hosts": ["a"], "host": "b" }), "does not exist"),
    ] {
        let error = machine_with(&settings, Path::new("/pkg")).unwrap_err();
        assert!(error.contains(why), "{settings}: {error}");
    }
    for (settings, why) in [
        (json!({}), "no host is named"),
        (
            json!({ "hosts": ["a"], "settings": { "ssh-substituter-hosts": "b" } }),
            "options of their own",
        ),
        (
            json!({ "hosts": ["a"], "settings": { "engine": "a\nrequire-sigs = false" } }),
            "a line break",
        ),
        (
            json!({ "hosts": ["a"], "settings": { "ssh-auth-sock": "/run/#1" } }),
            "a line break or a #",
        ),
    ] {
        let machine = machine(&settings);
        let failed = strings(&machine["failed"]);
        assert!(
            failed.len() == 1 && failed[0].contains(why),
            "{settings}: {failed:?}"
        );
    }
    let machine = machine(&json!({ "hosts": ["ssh://a?trusted=true"] }));
    assert!(strings(&machine["warnings"])[0].contains("trusted=true"));
}

/// Puts what the module wrote where Nix and the program look; what the program then says when it reads it.
fn install(machine: &Value, nix: &Nix) -> String {
    let env = nix.store().env();
    let conf = machine["conf"][CONF].as_str().unwrap();
    fs::write(env.conf_dir().join("ssh-substituter.conf"), conf).unwrap();
    for name in ["substituters", "trusted-public-keys"] {
        let words = strings(&machine["settings"][name]);
        // It cannot be reached from a test.
        let words: Vec<&str> = words
            .into_iter()
            .filter(|word| !word.starts_with("https:"))
            .collect();
        env.add_conf(&format!("{name} = {}", words.join(" ")));
    }
    let mut query = env.program();
    query.arg("--query");
    let output = run_with_input(query, b"", SHORT);
    assert!(output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_real_nix_fetches_through_what_the_module_wrote() {
    let host = Host::new();
    let path = host
        .store
        .add_text("hello", "from a machine behind ssh", &[]);
    // What a folder of the store may be called, and means something else in a URL.
    let scratch = Scratch::new();
    let package = scratch.folder("h4sh-ssh+substituter=1?2");
    fs::create_dir(package.join("bin")).unwrap();
    std::os::unix::fs::symlink(program(), package.join("bin/ssh-substituter")).unwrap();

    let settings = json!({
        "hosts": [host.trusted()],
        "trustInNix": true,
        "maxConnections": 2,
        "engine": "off",
        "settings": { "connect-timeout": 20, "use-ssh-substituter": true },
    });
    let machine = machine_with(&settings, &package).unwrap();
    let encoded = "/h4sh-ssh%2Bsubstituter%3D1%3F2/bin/ssh-substituter&";
    assert!(substituter(&machine).contains(encoded), "{machine}");
    let nix = Nix::new();
    assert_eq!(install(&machine, &nix), "");
    nix.realise(&[&path]).ok();
    assert!(nix.store().verify_path(&path));
}

#[test]
fn the_program_knows_all_settings_that_the_module_writes() {
    let mut settings = json!({
        "hosts": ["ssh://a?trusted=true", "b"],
        "trustedHosts": ["c"],
        "trustedPublicKeys": [KEY],
        "trustInNix": true,
        "engine": "off",
    });
    assert_eq!(install(&machine(&settings), &Nix::new()), "");
    settings["settings"] = json!({ "conect-timeout": 5 });
    let said = install(&machine(&settings), &Nix::new());
    assert!(
        said.contains("unknown setting \"conect-timeout\""),
        "{said}"
    );
}
