//! A client is killed: the engine forgets it, and serves the others.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{MIB, configure, signal, works};
use crate::support::ServeClient;
use crate::support::{Engines, Host, NixEnv, children, program, wait_until};

/// How long a client may be remembered that is gone, and some ticks of the engine.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(45);

/// A client of another caller: its front end has another parent.
fn of_another_caller(env: &NixEnv) -> ServeClient {
    let mut command = env.command("sh");
    // Two commands, so that the shell stays.
    command.args(["-c", r#""$@"; true"#, "sh"]);
    command.arg(program());
    ServeClient::of(command)
}

fn only(engines: &Engines) -> serde_json::Value {
    let mut all = engines.status();
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

#[test]
fn what_a_killed_client_had_is_given_back_and_others_are_served_meanwhile() {
    let host = Host::new();
    let name = |number| format!("part-{number}");
    let parts: Vec<_> = (0..6)
        .map(|number| host.store.big(&name(number), 6 * MIB))
        .collect();
    let small = host.store.big("small", 5000);
    let env = NixEnv::new();
    let hosts = [host];
    let engines = configure(&env, &hosts);
    let mut victim = of_another_caller(&env);
    let wanted: Vec<_> = parts.iter().map(String::as_str).collect();
    assert_eq!(victim.infos(&wanted).len(), 6);
    let front_end = children(victim.child.id());
    assert_eq!(front_end.len(), 1, "{front_end:?}");
    let mut other = ServeClient::start(&env);
    assert_eq!(only(&engines)["clients"], 2);
    let mut killed = None;
    let dumped = catch_unwind(AssertUnwindSafe(|| {
        victim.dump_while(&parts[0], |came| {
            if killed.is_none() && came >= MIB {
                wait_until("more is read ahead", || {
                    only(&engines)["readaheadBytes"].as_u64() > Some(12 * MIB)
                });
                signal(front_end[0], Signal::KILL);
                killed = Some(Instant::now());
            }
        })
    }));
    assert!(dumped.is_err(), "the front end was killed");
    let killed = killed.expect("it was killed");
    let _ = victim.child.wait();
    wait_until("the engine knows", || {
        let status = only(&engines);
        status["clients"] == 1 && status["transfers"] == serde_json::json!([])
    });
    works(&mut other, &hosts[0], &small);
    works(&mut other, &hosts[0], &parts[1]);
    other.end();
    wait_until("nobody is there", || only(&engines)["clients"] == 0);
    wait_until("nothing is held for it", || {
        only(&engines)["readaheadBytes"] == 0
    });
    assert!(
        killed.elapsed() < FORGOTTEN_WITHIN,
        "{:?}",
        killed.elapsed()
    );
}
