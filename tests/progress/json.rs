//! `internal-json`: what is printed has the form of what Nix prints.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Host, Nix, NixEnv, run_with_timeout};
use crate::terminal::scene;

const PREFIX: &str = "@nix ";

fn events(stderr: &str) -> Vec<Value> {
    let event = |line: &str| {
        let json = line.strip_prefix(PREFIX);
        let json = json.unwrap_or_else(|| panic!("no event: {line:?} in {stderr}"));
        serde_json::from_str(json).unwrap()
    };
    stderr.lines().map(event).collect()
}

fn number(event: &Value, key: &str) -> u64 {
    event[key]
        .as_u64()
        .unwrap_or_else(|| panic!("{key}: {event}"))
}

fn kind(event: &Value) -> (String, u64) {
    let action = event["action"].as_str().unwrap();
    (action.to_owned(), event["type"].as_u64().unwrap_or(0))
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "string",
        Value::Number(number) if number.is_u64() => "number",
        Value::Array(_) => "array",
        _ => "another",
    }
}

/// Names and types of what stands in an event, and of its fields.
fn form(event: &Value) -> BTreeMap<String, &'static str> {
    let object = event.as_object().unwrap().iter();
    let fields = event["fields"].as_array().into_iter().flatten().enumerate();
    let fields = fields.map(|(at, field)| (format!("fields {at}"), type_of(field)));
    let outer = object.map(|(key, value)| (key.clone(), type_of(value)));
    outer.chain(fields).collect()
}

/// Each activity begins once, has its results in between, and ends once, after its children.
fn assert_orderly(events: &[Value]) {
    let (mut open, mut ever) = (BTreeMap::new(), BTreeSet::new());
    for event in events {
        match event["action"].as_str().unwrap() {
            "start" => {
                let (id, parent) = (number(event, "id"), number(event, "parent"));
                assert!(ever.insert(id), "twice: {event}");
                assert!(parent == 0 || open.contains_key(&parent), "{event}");
                open.insert(id, parent);
            }
            "result" => assert!(open.contains_key(&number(event, "id")), "{event}"),
            "stop" => {
                let id = number(event, "id");
                assert!(open.remove(&id).is_some(), "{event}");
                assert!(!open.values().any(|parent| *parent == id), "{event}");
            }
            "msg" => {}
            other => panic!("{other}"),
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

/// What the command prints on stderr.
fn said(command: Command) -> String {
    let output = run_with_timeout(command, Duration::from_secs(120));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    stderr
}

fn of_kind<'a>(events: &'a [Value], action: &str, number: u64) -> Vec<&'a Value> {
    let same = |event: &&Value| kind(event) == (action.to_owned(), number);
    events.iter().filter(same).collect()
}

#[test]
fn many_transfers_are_one_activity_with_parts() {
    let events = events(&said(scene("json")));
    assert_orderly(&events);
    let wholes = of_kind(&events, "start", 103);
    let whole = wholes[0];
    assert_eq!(wholes.len(), 1);
    assert_eq!(whole["text"], "copying 14 paths");
    let expected = of_kind(&events, "result", 106);
    assert_eq!(expected[0]["fields"], serde_json::json!([100, 150 << 20]));
    for (substitute, copy) in of_kind(&events, "start", 108)
        .iter()
        .zip(of_kind(&events, "start", 100))
    {
        assert_eq!(number(substitute, "parent"), number(whole, "id"));
        assert_eq!(number(copy, "parent"), number(substitute, "id"));
        assert_eq!(substitute["fields"][0], copy["fields"][0]);
        assert_eq!(substitute["fields"][1], copy["fields"][1]);
        assert_eq!(copy["fields"][2], "local");
    }
    assert_eq!(of_kind(&events, "start", 100).len(), 13);
    let of_whole = |event: &&&Value| event["id"] == whole["id"];
    let progress = of_kind(&events, "result", 105);
    let last = progress.iter().rfind(of_whole).unwrap();
    assert_eq!(last["fields"], serde_json::json!([10, 14, 0, 3]));
    let bytes = progress.iter().filter(|event| !of_whole(event));
    let bytes: Vec<u64> = bytes
        .map(|event| event["fields"][0].as_u64().unwrap())
        .collect();
    assert!(
        bytes.contains(&(8 << 20)) && bytes.contains(&(1 << 20)),
        "{bytes:?}"
    );
    let messages = of_kind(&events, "msg", 0);
    let has = |level: u64, text: &str| {
        let same = |event: &&&Value| number(event, "level") == level && event["msg"] == text;
        assert_eq!(messages.iter().filter(same).count(), 1, "{messages:#?}");
    };
    // Programs look for these beginnings.
    has(1, "warning: message 3 \x1b[31mof one line");
    has(0, "error: the second one");
    assert!(messages.iter().any(|event| number(event, "level") == 3));
}

#[test]
fn events_have_the_form_of_those_of_nix() {
    let host = Host::new();
    let paths = [
        host.store.big("large", 3 << 20),
        host.store.big("other", 1 << 20),
    ];
    // What Nix itself prints, when it copies and when it substitutes.
    let nix = Nix::new().ssh(&host.sshd);
    let url = host
        .sshd
        .nix_store_url(&format!("remote-store={}", host.store.remote_store_param()));
    let mut realise = nix.command("nix-store");
    realise.args(["--option", "substituters", &format!("{url}&trusted=true")]);
    realise
        .args(["--log-format", "internal-json", "--realise"])
        .args(&paths[..1]);
    let mut known = events(&nix.run(realise).ok().stderr());
    let copied = nix.copy_from(
        &url,
        &paths,
        &["--no-check-sigs", "--log-format", "internal-json"],
    );
    known.extend(events(&copied.ok().stderr()));
    let mut forms: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for event in &known {
        let mut form = form(event);
        // Nix 2.8 does not tell it; later ones do.
        form.remove("parent");
        forms.entry(kind(event)).or_default().insert(form);
    }
    // What this program prints.
    let env = NixEnv::new();
    let _engines = env.configure_with_engine(&[host.trusted()], "");
    let mut command = env.program();
    command.args([
        "--log-format",
        "internal-json",
        "--substitute",
        &paths[0],
        "out",
    ]);
    let mut ours = events(&said(command));
    assert_orderly(&ours);
    // The engine has told from where it comes.
    let from = of_kind(&ours, "start", 100)[0]["fields"][1].as_str();
    let host = format!("ssh://{}@127.0.0.1:{}", host.sshd.user(), host.sshd.port());
    assert_eq!(from, Some(host.as_str()));
    ours.extend(events(&said(scene("json"))));
    for event in &ours {
        let mut form = form(event);
        if event["action"] == "start" {
            assert_eq!(form.remove("parent"), Some("number"), "{event}");
        }
        let known = forms.get(&kind(event));
        let known = known.unwrap_or_else(|| panic!("Nix has no such event: {event}"));
        assert!(known.contains(&form), "{event}: Nix has {known:?}");
    }
    for (action, number) in [
        ("start", 100),
        ("start", 103),
        ("start", 108),
        ("result", 105),
        ("result", 106),
        ("stop", 0),
        ("msg", 0),
    ] {
        assert!(
            !of_kind(&ours, action, number).is_empty(),
            "{action} {number}"
        );
    }
}
