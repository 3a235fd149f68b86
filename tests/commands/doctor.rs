//! `doctor`: a healthy set-up, and broken ones, each with its finding and its fix.

mod here;
mod hosts;
mod paths;
mod units;

use super::machine::{Machine, name};
use super::support::{Host, program};

#[test]
fn a_healthy_set_up() {
    let host = Host::new();
    let path = host.store.add_text("text", "text", &[]);
    let machine = Machine::new(&[host.trusted()]);
    let well = machine.doctor(&[&path]).healthy();
    let conf = machine.env.conf_dir();
    for text in [
        format!(
            "{}/ssh-substituter.conf: sets ssh-substituter-hosts, connect-timeout, engine",
            conf.display()
        ),
        format!("hosts: {}", name(&host.sshd)),
        "signatures by cache.nixos.org-1 count".to_owned(),
        "runtime folder ".to_owned(),
        "cache.sqlite: can be read and written".to_owned(),
        ": OpenSSH_".to_owned(),
        "logs in; its host key is the one in the URL".to_owned(),
        "nix-store is nix-store (Nix) 2.8.0, serve protocol 2.7 (Nix 2.4 to 2.34)".to_owned(),
        "answers about paths in /nix/store, within ".to_owned(),
        "has a shell: large paths come in chunks".to_owned(),
        "has zstd: large paths come compressed where that is faster, and as differences from versions \
         that are here over a slow line"
            .to_owned(),
        "trusted=true: all its paths are accepted".to_owned(),
        format!("{}: is there, and this program", program().display()),
        "trusted=true: Nix takes what this program accepts".to_owned(),
        format!(
            "{} has it, accepted: trusted=true in the host's URL (",
            name(&host.sshd)
        ),
    ] {
        well.has("ok", &text);
    }
    assert_eq!(well.found["errors"], 0);
    assert_eq!(well.found["warnings"], 0);
    // Nothing but letters: no terminal is needed.
    assert!(!well.text.contains('\x1b'));
}
