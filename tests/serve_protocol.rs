//! The serve protocol with a real Nix as caller, and a real sshd and `nix-store --serve` at the other end.

mod support;

use std::fs;
use std::time::Duration;

use ssh_substituter::wire::serve::Version;
use support::{
    DagOptions, Host, Nix, NixEnv, Ran, ServeClient, run_with_input, run_with_timeout, substituter,
};

/// How long one command may take.
const LIMIT: Duration = Duration::from_secs(60);

fn verify(nix: &Nix, paths: &[String]) {
    for path in paths {
        assert!(nix.store().verify_path(path), "{path}");
    }
}

fn quiet(ran: &Ran) {
    let stderr = ran.stderr();
    assert!(!stderr.contains("ssh-substituter:"), "{stderr}");
}

#[test]
fn realise_fetches_a_closure_over_one_login() {
    let host = Host::new();
    let dag = host.store.dag(300, DagOptions::default());
    let nix = Nix::through(&[host.trusted()]);
    let _masters = nix.store().env().masters();
    quiet(&nix.realise(&[&dag.root]).ok());
    verify(&nix, &dag.paths);
    assert_eq!(host.sshd.logins(), 1);
    // A second command finds the connection open.
    let other = host.store.add_text("other", "text", &[]);
    nix.realise(&[&other]).ok();
    verify(&nix, &[other]);
    assert_eq!(host.sshd.logins(), 1);
}

#[test]
fn eight_processes_at_once_share_the_login_too() {
    let host = Host::new();
    let dag = host.store.dag(200, DagOptions::default());
    let nix = Nix::through(&[host.trusted()])
        .substituters(&substituter("&max-connections=8"))
        .option("max-jobs", "8");
    let _masters = nix.store().env().masters();
    nix.realise(&[&dag.root]).ok();
    verify(&nix, &dag.paths);
    assert!(host.sshd.logins() <= 2, "{}", host.sshd.logins());
}

#[test]
fn nix_copy_and_nix_build_work() {
    let host = Host::new();
    let dag = host.store.dag(40, DagOptions::default());
    let nix = Nix::through(&[host.trusted()]);
    let _masters = nix.store().env().masters();
    nix.build(&[&dag.root]).ok();
    verify(&nix, &dag.paths);

    let nix = Nix::through(&[host.trusted()]);
    let _more = nix.store().env().masters();
    let url = substituter("");
    nix.copy_from(&url, &[&dag.root], &["--no-check-sigs"]).ok();
    verify(&nix, &dag.paths);
    nix.store().verify();
}

#[test]
fn what_only_the_second_host_has_comes_from_there() {
    let (first, second) = (Host::new(), Host::new());
    let dag = second.store.dag(30, DagOptions::default());
    first.store.copy_from(&second.store, &[&dag.paths[10]]);
    let nix = Nix::through(&[first.trusted(), second.trusted()]);
    let _masters = nix.store().env().masters();
    nix.realise(&[&dag.root]).ok();
    verify(&nix, &dag.paths);
}

#[test]
fn signatures_reach_nix_which_checks_them() {
    let host = Host::new();
    let dag = host.store.dag(5, DagOptions::default());
    let (signed, unsigned) = (&dag.paths[0], &dag.paths[1]);
    let key = host.store.sign("test-1", &[signed]);
    let strict = substituter("").replace("&trusted=true", "");
    let nix = Nix::through(&[host.trusted()])
        .substituters(&strict)
        .trust(&key);
    let _masters = nix.store().env().masters();
    nix.realise(&[signed]).ok();
    verify(&nix, std::slice::from_ref(signed));
    let refused = nix.realise(&[unsigned]).failed();
    assert!(
        refused.stderr().contains("not signed by any"),
        "{}",
        refused.stderr()
    );
}

#[test]
fn a_host_without_trust_is_not_used() {
    let host = Host::new();
    let dag = host.store.dag(3, DagOptions::default());
    let nix = Nix::through(&[host.url("max-connections=1")]);
    let _masters = nix.store().env().masters();
    let stderr = nix.realise(&[&dag.root]).failed().stderr();
    assert!(stderr.contains("it is not signed"), "{stderr}");
    assert!(stderr.contains("trusted=true"), "{stderr}");
    // The other way to trust, which the program finds in the same configuration.
    nix.store()
        .env()
        .configure(&[host.url("max-connections=1")], "require-sigs = false");
    nix.realise(&[&dag.root]).ok();
    verify(&nix, &dag.paths);
}

#[test]
fn pushing_is_refused_with_a_clear_message() {
    let host = Host::new();
    let nix = Nix::through(&[host.trusted()]);
    let _masters = nix.store().env().masters();
    let path = nix.store().add_text("mine", "text", &[]);
    let mut command = nix.command("nix");
    command.args(["copy", "--no-check-sigs", "--to", &substituter("")]);
    command.args(["--from", &nix.store().uri(), &path]);
    let stderr = nix.run(command).failed().stderr();
    assert!(
        stderr.contains("ssh-substituter: error: AddToStoreNar (operation 9) is refused"),
        "{stderr}"
    );
}

#[test]
fn without_usable_configuration_nothing_is_served_and_nix_goes_on() {
    let host = Host::new();
    let path = host.store.add_text("text", "text", &[]);
    for (hosts, lines, message) in [
        (vec![], "", "no hosts to ask"),
        (
            vec![host.trusted()],
            "use-ssh-substituter = false",
            "no hosts to ask",
        ),
        (
            vec!["ssh://-oProxyCommand=true".to_owned()],
            "",
            "names no host",
        ),
        (
            vec![host.trusted()],
            "connect-timeout = soon",
            "connect-timeout",
        ),
    ] {
        // The ordinary substituter behind it is Nix's own.
        let own = host.sshd.nix_store_url(&format!(
            "trusted=true&remote-store={}",
            host.store.remote_store_param()
        ));
        let nix = Nix::new()
            .ssh(&host.sshd)
            .substituters(&format!("{} {own}", substituter("")));
        nix.store().env().configure(&hosts, lines);
        let stderr = nix.realise(&[&path]).ok().stderr();
        assert!(stderr.contains(message), "{stderr}");
        verify(&nix, std::slice::from_ref(&path));
    }
}

#[test]
fn callers_of_every_version_are_served() {
    let host = Host::new();
    let dag = host.store.dag(4, DagOptions::default());
    let env = NixEnv::new();
    let _masters = env.masters();
    env.configure(&[host.trusted()], "");
    let absent = "/nix/store/00000000000000000000000000000000-absent";
    for minor in 0..=8 {
        let mut caller = ServeClient::start_with_version(&env, Version::new(2, minor));
        for path in &dag.paths {
            let infos = caller.infos(&[absent, path]);
            assert_eq!(infos.len(), 1);
            let hash = host.store.nar_hash(path);
            let told = infos[0].nar_hash.map(|hash| hash.to_string());
            assert_eq!(told, (minor >= 4).then(|| hash.clone()));
            assert_eq!(caller.dump(path), hash);
        }
        caller.end();
    }
}

#[test]
fn a_path_that_cannot_be_delivered_fails_alone() {
    let host = Host::new();
    let (first, second) = (
        host.store.add_text("first", "first", &[]),
        host.store.add_text("second", "second", &[]),
    );
    let big = host.store.big("big", 10 << 20);
    let env = NixEnv::new();
    let _masters = env.masters();
    env.configure(&[host.trusted()], "");
    let mut caller = ServeClient::start(&env);
    assert_eq!(caller.infos(&[&first, &second, &big]).len(), 3);
    let (gone, wrong) = (host.store.nar_hash(&first), host.store.nar_hash(&big));
    host.store.delete(&[&first]);
    host.store.corrupt(&big);
    assert_ne!(caller.dump(&first), gone);
    assert_eq!(caller.dump(&second), host.store.nar_hash(&second));
    assert_ne!(caller.dump(&big), wrong);
    assert_ne!(
        caller.dump("/nix/store/00000000000000000000000000000000-absent"),
        gone
    );
    assert_eq!(caller.infos(&[&first]), []);
    assert_eq!(caller.dump(&second), host.store.nar_hash(&second));
    caller.end();
}

#[test]
fn what_nix_dumps_of_a_missing_path_says_what_it_is() {
    const ABSENT: &str = "/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-absent";
    let host = Host::new();
    for engine in [false, true] {
        let nix = Nix::new();
        let env = nix.store().env();
        let (hosts, _masters) = ([host.trusted()], env.masters());
        let _engines = match engine {
            true => Some(env.configure_with_engine(&hosts, "")),
            false => {
                env.configure(&hosts, "");
                None
            }
        };
        let mut dump = env.command("nix");
        dump.args(["--extra-experimental-features", "nix-command"]);
        dump.args(["store", "dump-path", "--store", &substituter(""), ABSENT]);
        // No hash is checked here: Nix takes what it gets.
        let output = run_with_timeout(dump, LIMIT);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        assert!(
            stderr.contains(&format!("no host has {ABSENT}")),
            "{stderr}"
        );
        // What a person finds who unpacks it.
        let out = env.folder().join("out");
        let mut restore = env.command("nix-store");
        restore.arg("--restore").arg(&out);
        assert!(
            run_with_input(restore, &output.stdout, LIMIT)
                .status
                .success()
        );
        let text = fs::read_to_string(out.join("NOT-DELIVERED-by-ssh-substituter.txt")).unwrap();
        let reason = format!("\nReason: no host has {ABSENT}\n");
        assert!(text.contains(&reason), "{text}");
        assert!(text.contains("'nix store dump-path' checks none"), "{text}");
    }
}

/// What a store knows of a path, without what is its own business.
fn known(store: &support::Store, path: &str) -> serde_json::Value {
    let mut command = store.command("nix");
    command.args(["path-info", "--json", path]);
    let text = support::run(command, support::SHORT);
    let infos: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    // A list up to Nix 2.18, an object by path from 2.19 on.
    let info = infos.get(0).or_else(|| infos.get(path)).expect("an info");
    let mut info = info.as_object().expect("an info").clone();
    for own in ["registrationTime", "ultimate"] {
        info.remove(own);
    }
    info.into()
}

#[test]
fn what_arrives_is_known_as_it_is_on_the_host() {
    let host = Host::new();
    let dag = host.store.dag(20, DagOptions::default());
    let text = host.store.add_text("text", "text", &[&dag.root]);
    host.store.sign_all("test-1");
    let nix = Nix::through(&[host.trusted()]);
    let _masters = nix.store().env().masters();
    nix.realise(&[&text]).ok();
    for path in dag.paths.iter().chain([&text]) {
        assert_eq!(known(nix.store(), path), known(&host.store, path));
    }
}
