//! Several hosts.

use super::support::{DagOptions, Host, Sshd, Store};
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
