//! Several hosts.

use std::process::Stdio;
use std::time::Instant;

use super::support::{DagOptions, Host, Relay, Sshd, Store, wait_until};
use super::{Site, parts, verified};

#[test]
fn all_hosts_get_it() {
    let site = Site::new(3);
    let dag = site.store.dag(50, DagOptions::default());
    let large = parts(&site.store, 6, 5_000_000);
    site.hosts[1].store.copy_from(&site.store, &[&large.root]);
    let got = site.push(&[&dag.root, &large.root]).status(0);
    assert_eq!(got.stdout(), format!("{}\n{}\n", dag.root, large.root));
    for host in &site.hosts {
        assert_eq!(verified(&host.store), site.store.all_paths());
    }
}

#[test]
fn one_that_fails_costs_itself_and_decides_the_status() {
    let mut hosts = vec![Host::new(), Host::new()];
    hosts[0].sshd.kill();
    hosts.push(Host {
        store: Store::new(),
        sshd: Sshd::builder()
            .line("ForceCommand nix-store --serve")
            .start(),
    });
    let site = Site::of(hosts);
    let dag = site.store.dag(50, DagOptions::default());
    let got = site.push(&["--json", &dag.root]).status(4);
    let json = got.json();
    let complete: Vec<_> = json["hosts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|host| host["complete"].as_bool().unwrap())
        .collect();
    assert_eq!(complete, [false, true, false], "{json}");
    assert!(
        json["hosts"][2]["error"]
            .as_str()
            .unwrap()
            .contains("takes no paths"),
        "{json}"
    );
    assert_eq!(verified(&site.hosts[1].store), site.store.all_paths());
    let got = site
        .push(&["--any", &dag.root])
        .status(0)
        .says(&["connection refused"]);
    assert_eq!(got.stdout(), format!("{}\n", dag.root));
}

#[test]
fn a_slow_host_does_not_hold_up_a_fast_one() {
    let site = Site::new(2);
    let port = site.hosts[1].sshd.port();
    let relay = Relay::upwards(port, 500_000);
    let urls = [
        site.hosts[0].url(""),
        relay.url(port, &site.hosts[1].url("")),
    ];
    let hosts = format!("ssh-substituter-push-hosts = {}", urls.join(" "));
    site.env.configure(&[], &hosts);
    let dag = parts(&site.store, 8, 16_000_000);
    let mut command = site.command(&[&dag.root]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    wait_until("all of it at the fast one", || {
        site.hosts[0].store.root().join("nix/var/nix/db").exists()
            && site.hosts[0].store.is_valid(&dag.root)
    });
    assert!(relay.came() < 24_000_000, "{}", relay.came());
    assert!(
        child.try_wait().unwrap().is_none(),
        "the slow one is not done"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(verified(&site.hosts[0].store), site.store.all_paths());
}

#[test]
fn two_equally_fast_hosts_take_about_as_long_as_one_and_each_nar_is_read_once() {
    let site = Site::new(2);
    // What is on its way would begin anew when it turns out that compressing may pay.
    let relays = site.hosts.iter().map(|host| {
        let port = host.sshd.port();
        (
            Relay::upwards(port, 8_000_000),
            port,
            host.url("compression=none"),
        )
    });
    let relays: Vec<_> = relays.collect();
    let urls = relays
        .iter()
        .map(|(relay, port, url)| relay.url(*port, url));
    let urls: Vec<_> = urls.collect();
    let [one, both] = [5_000_000, 5_000_001].map(|size| parts(&site.store, 8, size));
    let timed = |urls: &[String], root: &str| {
        let hosts = format!("ssh-substituter-push-hosts = {}", urls.join(" "));
        site.env.configure(&[], &hosts);
        let began = Instant::now();
        let said = site.push(&["-vv", root]).status(0).stderr();
        (began.elapsed(), said)
    };
    let (alone, _) = timed(&urls[..1], &one.root);
    let (together, said) = timed(&urls, &both.root);
    // On a loaded machine one of them may log in later, and fall behind with the NARs that are first: it would be 16 otherwise.
    let reads = |path: &String| said.matches(&format!("{path} is read from 0")).count();
    let reads: usize = both.paths[..8].iter().map(reads).sum();
    assert!(
        reads + said.matches("is read once more").count() <= 12,
        "{said}"
    );
    let relation =
        |word: &str| said.contains(&format!(" {word} {}@127.0.0.1:", site.hosts[0].sshd.user()));
    assert!(relation("to") && !relation("from"), "{said}");
    // 1.15 is the goal; a loaded machine takes its part.
    assert!(together < alone.mul_f64(1.5), "{alone:?}, {together:?}");
}
