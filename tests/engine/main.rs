//! One engine behind all front ends: real processes, real sshd, real `nix-store --serve`, real Nix.

#[path = "../support/mod.rs"]
mod support;

mod commands;
mod continued;
mod faults;
mod frozen;
mod hostile;
mod isolation;
mod life;
mod plain;
mod site;
mod surroundings;
mod takeover;
mod talk;
mod without;
mod words;

use support::{DagOptions, Host, Nix, substituter, wait_until};

#[test]
fn one_engine_serves_all_processes_and_keeps_what_is_warm() {
    let host = Host::new();
    let dag = host.store.dag(200, DagOptions::default());
    let nix = Nix::new()
        .substituters(&substituter("&max-connections=8"))
        .option("max-jobs", "8");
    let env = nix.store().env();
    let engines = env.configure_with_engine(&[host.trusted()], "");
    let ran = nix.realise(&[&dag.root]).ok();
    assert!(
        !ran.stderr().contains("ssh-substituter"),
        "{}",
        ran.stderr()
    );
    for path in &dag.paths {
        assert!(nix.store().verify_path(path), "{path}");
    }
    // It sees a moment later that the last one has ended.
    wait_until("nobody is there", || engines.status()[0]["clients"] == 0);
    let status = engines.status();
    assert_eq!(status.len(), 1);
    assert_eq!(status[0]["delivered"]["paths"], 200, "{status:?}");
    assert!(host.sshd.logins() <= 2, "{}", host.sshd.logins());
}
