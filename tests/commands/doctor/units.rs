//! systemd units that end the engine along with whoever started it. (`SYSTEMD_UNIT_PATH` is systemd's own variable.)

use std::fs;

use crate::machine::Machine;
use crate::support::Host;

/// As Lix has it: one for each connection, without a word of `KillMode`.
const UNIT: &str = "[Unit]\nDescription=Nix Daemon\n[Service]\nExecStart=@/usr/bin/nix-daemon nix-daemon --daemon\n";

#[test]
fn a_unit_for_each_connection_that_ends_all_that_was_started_in_it() {
    let host = Host::new();
    let machine = Machine::new(&[host.trusted()]);
    let units = machine.env.folder().join("units");
    fs::create_dir(&units).expect("make a folder");
    let machine = machine.var("SYSTEMD_UNIT_PATH", units.to_str().expect("UTF-8"));
    machine.doctor(&[]).healthy();
    fs::write(units.join("nix-daemon@.service"), UNIT).expect("write a unit");
    let ill = machine.doctor(&[]).ill(0, 1);
    let words = [
        "systemctl enable --now ssh-substituter-engine.socket",
        "KillMode=process",
        "systemctl edit nix-daemon@.service",
    ];
    ill.fixed_by(
        "warning",
        "nix-daemon@.service has KillMode=control-group",
        &words,
    );
    // As 'systemctl edit' does it.
    let folder = units.join("nix-daemon@.service.d");
    fs::create_dir(&folder).expect("make a folder");
    fs::write(
        folder.join("override.conf"),
        "[Service]\nKillMode=process\n",
    )
    .expect("write a file");
    machine.doctor(&[]).healthy();
}
