//! One host that does what it should.

use std::os::unix::fs::symlink;

use super::support::{DagOptions, Entry, Host, Random, Sshd, Store, run, run_with_input};
use super::{Got, LIMIT, Site, parts, verified};

/// What Nix knows of paths.
fn infos(store: &Store, paths: &[String]) -> serde_json::Value {
    let mut command = store.command("nix");
    command.args(["path-info", "--json"]).args(paths);
    let text = run(command, LIMIT);
    let mut all: serde_json::Value = serde_json::from_str(&text).unwrap();
    for info in all.as_array_mut().unwrap() {
        let fields = info.as_object_mut().unwrap();
        fields.remove("registrationTime");
        fields.remove("ultimate");
    }
    all
}

#[test]
fn a_closure_arrives_with_all_that_is_known_of_it_and_nothing_is_sent_twice() {
    let site = Site::new(1);
    let dag = site.store.dag(60, DagOptions::default());
    let [big, many] = [site.store.big("big", 9 << 20), site.store.many_files(300)];
    let text = site.store.add_text("text", "some text", &[]);
    site.store.sign("cache.example.org-1", &[&big]);
    let roots = [&*dag.root, &big, &many, &text];
    let got = site.push(&roots).status(0);
    assert_eq!(got.stdout(), roots.map(|root| format!("{root}\n")).concat());
    let all = verified(site.there());
    assert_eq!(all, site.store.all_paths());
    got.says(&[&format!("sent {} paths, ", all.len()), "; 0 were there"]);
    for path in &dag.paths {
        assert_eq!(site.there().references(path), site.store.references(path));
    }
    assert_eq!(infos(site.there(), &all), infos(&site.store, &all));

    let got = site.push(&[&roots[..], &["--json"]].concat()).status(0);
    let host = &got.json()["hosts"][0];
    assert_eq!((&host["sent"], &host["wireBytes"]), (&0.into(), &0.into()));
    assert_eq!(host["there"], all.len());
}

#[test]
fn only_what_is_missing_is_sent() {
    let site = Site::new(1);
    let dag = site.store.dag(40, DagOptions::default());
    site.there().copy_from(&site.store, &[&dag.paths[20]]);
    let there = site.there().all_paths().len();
    assert!(there > 1);
    let preview = site.push(&["--dry-run", &dag.root]).status(0);
    let lines: Vec<_> = preview.stdout().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 40 - there + 1);
    assert!(
        lines
            .last()
            .unwrap()
            .contains(&format!("total: {} paths to send to ", 40 - there))
    );
    assert_eq!(site.there().all_paths().len(), there);
    let got = site.push(&[&dag.root]).status(0);
    got.says(&[
        &format!("sent {} paths", 40 - there),
        &format!("; {there} were there"),
    ]);
    assert_eq!(verified(site.there()), site.store.all_paths());
}

#[test]
fn a_link_leads_to_a_path_and_lists_come_on_standard_input() {
    let site = Site::new(1);
    let dag = site.store.dag(5, DagOptions::default());
    let [one, two] = [site.store.big("one", 100), site.store.big("two", 100)];
    symlink(&one, site.file("result")).unwrap();
    let got = site.push(&["./result"]).status(0);
    assert_eq!(got.stdout(), format!("{one}\n"));
    let input = format!("{two} {}\n{two}\n", dag.root);
    let command = site.command(&["--stdin"]);
    let got = Got(run_with_input(command, input.as_bytes(), LIMIT)).status(0);
    assert_eq!(got.stdout(), format!("{two}\n{}\n", dag.root));
    assert_eq!(verified(site.there()), site.store.all_paths());
}

#[test]
fn without_its_closure_a_path_needs_its_references_there() {
    let site = Site::new(1);
    let low = site.store.add_text("low", "low", &[]);
    let top = site.store.add_text("top", "top", &[&low]);
    let got = site.push(&["--no-closure", &top]).status(4);
    let got = got.says(&["does not take", &top, "is not valid", "1 of them"].map(
        |word| match word {
            "1 of them" => low.as_str(),
            word => word,
        },
    ));
    assert_eq!(got.stdout(), "");
    site.push(&["--no-closure", &low]).status(0);
    site.push(&["--no-closure", &top]).status(0);
    assert_eq!(verified(site.there()), site.store.all_paths());
}

#[test]
fn what_is_asked_wrongly_is_told() {
    let site = Site::new(1);
    let path = site.store.big("path", 100);
    let gone = "/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-gone";
    site.push(&["/etc/passwd"])
        .status(2)
        .says(&["is not in the store"]);
    site.push(&[]).status(2);
    site.push(&[gone])
        .status(3)
        .says(&[gone, "is not valid", "(hint: "]);
    site.push(&["--no-closure", gone])
        .status(3)
        .says(&[gone, "is not valid"]);
    site.env.configure(&[], "");
    site.push(&[&path]).status(1).says(&["no hosts to send to"]);
    let url = site.hosts[0].url("");
    site.push(&["--to", &url, &path]).status(0);
    assert!(site.there().verify_path(&path));
}

#[test]
fn large_ones_go_beside_small_ones() {
    let site = Site::new(1);
    let small = site.store.dag(100, DagOptions::default());
    let large = parts(&site.store, 12, 3_000_000);
    let got = site.push(&["--json", &small.root, &large.root]).status(0);
    let json = got.json();
    assert_eq!(json["hosts"][0]["sent"], 113);
    let narrow = json["hosts"][0]["narBytes"].as_u64().unwrap();
    let wide = json["hosts"][0]["wireBytes"].as_u64().unwrap();
    assert!(wide > narrow && wide < narrow + 113 * 5000, "{json}");
    assert_eq!(verified(site.there()), site.store.all_paths());
    assert!(site.hosts[0].sshd.sessions() > 2, "lanes of their own");
    // One channel is enough for all of it.
    let one = Site::of(vec![Host {
        store: Store::new(),
        sshd: Sshd::builder().line("MaxSessions 1").start(),
    }]);
    let small = one.store.dag(20, DagOptions::default());
    let large = parts(&one.store, 4, 3_000_000);
    one.push(&[&small.root, &large.root]).status(0);
    assert_eq!(verified(one.there()), one.store.all_paths());
}

#[test]
fn derivers_go_where_they_are_asked_for() {
    let site = Site::new(1);
    let mut command = site.store.command("nix-instantiate");
    command.args(["--expr", r#"derivation { name = "x"; system = "x"; builder = "/x"; src = builtins.toFile "src" "x"; }"#]);
    let deriver = run(command, LIMIT).trim().to_owned();
    let input = site.store.references(&deriver);
    assert_eq!(input.len(), 1);
    let built = Random::new(1, "built").store_path("built");
    std::fs::write(site.store.physical(&built), "built").unwrap();
    site.store.register(&[Entry {
        path: built.clone(),
        references: Vec::new(),
        deriver: Some(deriver.clone()),
    }]);
    site.push(&[&built]).status(0);
    assert!(!site.there().is_valid(&deriver));
    site.push(&["--derivers", &built]).status(0);
    for path in [&deriver, &input[0]] {
        assert!(site.there().verify_path(path), "{path}");
    }
}
