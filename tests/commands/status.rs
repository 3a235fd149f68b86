//! `status`.

use serde_json::Value;

use super::machine::{ABSENT_PATH, Machine, name, scripted};
use super::support::{
    DagOptions, Host, Nix, SHORT, closed_port, resume_tree, run, stop_tree, substituter,
};

fn of<'a>(status: &'a Value, host: &str) -> &'a Value {
    let hosts = status["hosts"].as_array().expect("hosts");
    let found = hosts.iter().find(|one| one["host"] == host);
    found.unwrap_or_else(|| panic!("no {host}: {status}"))
}

#[test]
fn hosts_that_answer_and_hosts_that_do_not() {
    let (host, restricted) = (Host::new(), Host::new());
    host.store.add_text("text", "text", &[]);
    let down = format!("u@127.0.0.1:{}", closed_port());
    let url = scripted(
        &restricted,
        "exec nix-store \"$@\"; # a shell is not needed",
    );
    let machine = Machine::new(&[down.clone(), host.trusted(), url]);
    let status = machine.run(&["status", "--json"]).ends(0).json();
    let well = of(&status, &name(&host.sshd));
    assert_eq!(well["reachable"], true);
    assert_eq!(well["answers"], true);
    assert_eq!(well["protocol"], "2.7");
    assert_eq!(well["nix"], "Nix 2.4 to 2.34");
    assert_eq!(well["shell"], true);
    assert_eq!(well["openMasters"], 0, "before it looked");
    let latency = well["latencySeconds"].as_f64().expect("a latency");
    assert!(latency > 0.0 && latency < 10.0, "{latency}");
    let ill = of(&status, &down);
    assert_eq!(ill["reachable"], false);
    assert_eq!(ill["error"], format!("{down}: connection refused"));
    assert!(
        ill["hint"]
            .as_str()
            .expect("a fix")
            .contains("check that sshd runs there")
    );
    assert_eq!(status["engines"], serde_json::json!([]));

    let again = machine.run(&["status", "--json"]).ends(0).json();
    assert_eq!(of(&again, &name(&host.sshd))["openMasters"], 1);
    assert_eq!(
        of(&again, &down)["failuresBefore"],
        1,
        "a look counts like any connection"
    );
    assert!(of(&again, &down)["leftAloneUntil"].as_u64().is_some());

    let text = machine.run(&["status"]).ends(0).stdout();
    let row = |host: &str| {
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{host} ")));
        let line = line.unwrap_or_else(|| panic!("no {host}\n{text}"));
        line.split("  ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(row(&down)[1..], ["down", "-", "-", "-", "-", "-"]);
    let well = row(&name(&host.sshd));
    assert_eq!(
        (&*well[1], &*well[3], &*well[6]),
        ("ok", "2.7 (Nix 2.4 to 2.34)", "yes")
    );
    assert_eq!(well[4], "1 ssh, 0 channels");
    assert!(
        text.contains(&format!("\n{down}: connection refused (hint: ")),
        "{text}"
    );
    assert!(text.contains("in a row before this"), "{text}");
    assert!(text.contains("\nno engine runs\ncache "), "{text}");
}

#[test]
fn a_host_that_commands_leave_alone_is_asked_and_found_back() {
    let host = Host::new();
    let machine = Machine::new(&[host.url("trusted=true&ssh-key=/none")]);
    // Another key makes another host: only this one has failed.
    machine.ask_for(&[ABSENT_PATH]);
    let key = host.sshd.client_key();
    let failing = host.sshd.store_url("trusted=true");
    machine.write_conf(&format!(
        "engine = off\nssh-substituter-hosts = {failing}\n"
    ));
    host.sshd.freeze();
    machine.run_with(
        &["--option", "connect-timeout", "1", "--query"],
        &format!("\nhave {ABSENT_PATH}\n"),
    );
    host.sshd.thaw();
    assert!(key.exists());
    let failures =
        |machine: &Machine| machine.run(&["cache", "stats", "--json"]).json()["failures"].clone();
    let mine = |all: &Value| {
        let all = all.as_array().expect("failures");
        all.iter()
            .filter(|one| one["host"] == name(&host.sshd))
            .count()
    };
    let before = mine(&failures(&machine));
    assert!(before >= 1);
    let status = machine.run(&["status", "--json"]).ends(0).json();
    let found = of(&status, &name(&host.sshd));
    assert_eq!(
        (&found["reachable"], &found["failuresBefore"]),
        (&true.into(), &1.into()),
        "{status}"
    );
    assert_eq!(
        mine(&failures(&machine)),
        before - 1,
        "later commands know that it is back"
    );
}

#[test]
fn a_silent_host_does_not_hold_up_the_others_for_longer_than_the_limit() {
    let (host, silent) = (Host::new(), Host::new());
    silent.sshd.freeze();
    let machine = Machine::new(&[silent.trusted(), host.trusted()]);
    let run = machine
        .run(&["status", "--json", "--option", "connect-timeout", "6"])
        .ends(0);
    let status = run.json();
    assert_eq!(of(&status, &name(&host.sshd))["answers"], true);
    let error = of(&status, &name(&silent.sshd))["error"]
        .as_str()
        .expect("an error")
        .to_owned();
    assert!(error.contains("no answer within "), "{error}");
    silent.sshd.thaw();
}

#[test]
fn the_engine_reports_connections_rates_and_where_answers_came_from() {
    let host = Host::new();
    let dag = host.store.dag(30, DagOptions::default());
    let nix = Nix::new().substituters(&substituter(""));
    let env = nix.store().env();
    let engines = env.configure_with_engine(&[host.trusted()], "");
    nix.realise(&[&dag.root]).ok();
    let mut command = env.program();
    command.args(["status", "--json"]);
    let status: Value = serde_json::from_str(&run(command, SHORT)).expect("JSON");
    let engine = &status["engines"][0];
    assert_eq!(engine["pid"], engines.pid());
    let answers = &engine["answers"];
    let count = |name: &str| {
        answers[name]
            .as_u64()
            .unwrap_or_else(|| panic!("{answers}"))
    };
    let all = count("fromMemory") + count("fromDisk") + count("askedAhead") + count("fromHosts");
    assert!(all >= 30, "each path was asked for: {answers}");
    assert!(
        count("fromHosts") >= 1 && count("fromHosts") < 30,
        "{answers}"
    );
    assert!(count("fromMemory") + count("askedAhead") > 0, "{answers}");
    let host = of(&status, &name(&host.sshd));
    assert!(
        host["connections"].as_u64().is_some_and(|all| all >= 1),
        "{status}"
    );
    assert!(
        host["openMasters"].as_u64().is_some_and(|all| all >= 1),
        "{status}"
    );
    let mut command = env.program();
    command.arg("status");
    let text = run(command, SHORT);
    assert!(
        text.contains(&format!("engine {}: up ", engines.pid())),
        "{text}"
    );
    assert!(
        text.contains(" % from memory, ") && text.contains(", 30 paths delivered ("),
        "{text}"
    );
}

#[test]
fn an_engine_that_hangs_is_reported() {
    let host = Host::new();
    let machine = Machine::new(&[]);
    let engines = machine.env.configure_with_engine(&[host.trusted()], "");
    machine.ask_for(&[ABSENT_PATH]);
    let pid = engines.pid();
    stop_tree(pid);
    let (text, json) = (machine.run(&["status"]), machine.run(&["status", "--json"]));
    resume_tree(pid);
    let line = ": no answer within 2 s\n";
    assert!(text.stdout().contains(line), "{}", text.stdout());
    let engine = &json.json()["engines"][0];
    assert_eq!(engine["error"], "no answer within 2 s");
    assert_eq!(of(&json.json(), &name(&host.sshd))["answers"], true);
}

#[test]
fn what_hosts_say_is_harmless() {
    let host = Host::new();
    let url = scripted(&host, "printf '\\033]0;x\\007\\r\\nBad\\n' >&2; exit 3");
    let machine = Machine::new(&[url]);
    for words in [&["status"][..], &["doctor"]] {
        let text = machine.run(words).stdout();
        assert!(text.contains("with exit status 3"), "{text}");
        let harmful = |c: char| c.is_control() && c != '\n';
        assert!(!text.contains(harmful), "{text:?}");
    }
}
