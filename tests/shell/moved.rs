//! Stores whose files are not where their paths say.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use ssh_substituter::config::host::Host as Spec;
use ssh_substituter::remote::open_shell;

use super::site::{OPTIONS, Site, parse, read};
use super::support::{
    Host, NixEnv, RuntimeDir, SHORT, Sshd, SshdBuilder, Store, TempUser, percent_encode,
    run_with_timeout,
};

const MIB: u64 = 1 << 20;

/// A server whose account's store is moved by its environment: the store's root goes in for ROOT, and for TEXT a file of
/// this text.
fn moved(store: &Store, variables: &[(&str, &str)], text: &str) -> SshdBuilder {
    let root = store.root().display().to_string();
    let text = text.replace("ROOT", &root);
    let file = store.env().folder().join("moved/nix.conf");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, format!("build-users-group =\n{text}\n")).unwrap();
    let file = file.display().to_string();
    let folder = file.strip_suffix("/nix.conf").unwrap();
    let variables = variables.iter().map(|(name, value)| {
        let value = value.replace("ROOT", &root).replace("FILE", &file);
        (*name, value.replace("FOLDER", folder))
    });
    variables.fold(Sshd::builder(), |sshd, (name, value)| {
        sshd.env(name, &value)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_a_store_that_its_environment_moves_are_found() {
    let user = TempUser::new("bash");
    let at_home = format!("{}/share", user.home().display());
    for (variables, text) in [
        (&[("NIX_REMOTE", "ROOT")][..], ""),
        (&[("NIX_REMOTE", "local?root=ROOT")], ""),
        (&[("NIX_REMOTE", "local?real=ROOT/nix/store")], ""),
        (&[("NIX_CONFIG", "store = ROOT")], ""),
        (
            &[("NIX_CONF_DIR", "FOLDER")],
            "store = local?root=ROOT # moved",
        ),
        (&[("NIX_USER_CONF_FILES", "/none:FILE")], "store\t=  ROOT"),
        (&[("XDG_DATA_HOME", &at_home)], ""),
        // What comes first counts, what does not exist does not.
        (
            &[
                ("NIX_REMOTE", "ROOT"),
                ("NIX_CONFIG", "store = /no/such/root"),
            ],
            "",
        ),
    ] {
        let store = Store::new();
        let path = store.many_files(60);
        let file = store.add_text("file", "text", &[]);
        if variables[0].0 == "XDG_DATA_HOME" {
            fs::create_dir_all(format!("{at_home}/nix")).unwrap();
            std::os::unix::fs::symlink(store.root(), format!("{at_home}/nix/root")).unwrap();
        }
        let sshd = moved(&store, variables, text).start();
        let site = Site {
            sshd,
            store,
            runtime: RuntimeDir::new(),
        };
        let spec = Spec::parse(&site.sshd.store_url("")).unwrap();
        let mut shell = open_shell(&site.ssh(), &spec, &OPTIONS).await.unwrap();
        for path in [&path, &file] {
            let layout = shell.list(&parse(path)).await.unwrap();
            let layout = layout.unwrap_or_else(|| panic!("{variables:?} {text}"));
            let got = read(&mut shell, &layout, 5000, 4).await;
            assert!(got == site.store.nar(path), "{variables:?}");
        }
        let sample = shell.sample("/nix/store").await.unwrap();
        assert!(
            sample
                .iter()
                .any(|(_, paths)| paths.contains(&parse(&path)))
        );
        assert!(shell.is_clean());
    }
}

#[test]
fn a_host_whose_files_are_not_found_is_named_and_serves_the_path_whole() {
    let hosts = [(); 2].map(|()| Host::new());
    let [one, two] = &hosts;
    let path = one.store.big("large", 20 * MIB);
    assert_eq!(two.store.big("large", 20 * MIB), path);
    let urls = hosts.each_ref().map(|host| {
        // Nobody but the program knows where its store is.
        let script = host.store.env().folder().join("program");
        let text = format!(
            "#!/bin/sh\nNIX_REMOTE='{}' exec nix-store \"$@\"\n",
            host.store.uri()
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let program = percent_encode(script.to_str().unwrap());
        host.sshd
            .store_url(&format!("trusted=true&remote-program={program}"))
    });
    let env = NixEnv::new();
    env.configure(&urls, "");
    let _masters = env.masters();
    let dest = env.folder().join("dest");
    let mut command = env.program();
    command.args(["-vv", "--substitute", &path]).arg(&dest);
    let output = run_with_timeout(command, SHORT);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let named = |host: &Host| {
        let words = format!(
            "127.0.0.1:{}: {path} is not read in chunks there",
            host.sshd.port()
        );
        stderr.contains(&words)
    };
    assert!(hosts.iter().any(named), "{stderr}");
    assert!(!stderr.contains("HostId"), "{stderr}");
    assert_eq!(fs::metadata(dest.join("data")).unwrap().len(), 20 * MIB);
}
