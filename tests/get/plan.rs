//! What is to be fetched, what is missing, what arguments mean.

use std::fs;
use std::os::unix::fs::symlink;

use super::support::{DagOptions, Random};
use super::{Site, base_names, names, text};

#[test]
fn a_dry_run_shows_the_plan_and_leaves_nothing() {
    let site = Site::new(2);
    let dag = site.store().dag(12, DagOptions::default());
    let other = site.hosts[1].store.big("other", 3 << 20);
    let folder = site.folder("out");
    let args = ["--dry-run", "--to", text(&folder), &dag.root, &other];
    let got = site.get(&args).status(0);
    assert!(!folder.exists());
    let out = got.stdout();
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines.len(), 14, "{out}");
    let line = lines.iter().find(|line| line.starts_with(&other)).unwrap();
    let port = |index: usize| format!("127.0.0.1:{}", site.hosts[index].sshd.port());
    assert!(
        line.contains("\t3.0 MiB\t") && line.contains(&port(1)),
        "{line}"
    );
    let line = lines
        .iter()
        .find(|line| line.starts_with(&dag.root))
        .unwrap();
    assert!(line.contains(&port(0)), "{line}");
    assert!(
        lines[13].starts_with("total: 13 paths to fetch, 3."),
        "{out}"
    );
    // References come first.
    let place = |path: &str| {
        lines
            .iter()
            .position(|line| line.starts_with(path))
            .unwrap()
    };
    for path in &dag.paths {
        for reference in site
            .store()
            .references(path)
            .iter()
            .filter(|other| *other != path)
        {
            assert!(place(reference) < place(path));
        }
    }

    site.get(&["--to", text(&folder), &dag.paths[11 - 4]])
        .status(0);
    let there = names(&folder.join("nix/store")).len();
    let before = names(&folder);
    let out = site.get(&args).status(0).stdout();
    assert_eq!(out.matches("\tthere already\n").count(), there, "{out}");
    assert!(
        out.ends_with(&format!("; {there} there already\n")),
        "{out}"
    );
    assert_eq!(names(&folder), before);
    // Without a destination everything is to be fetched.
    let out = site.get(&["--dry-run", &dag.root]).status(0).stdout();
    assert!(out.contains("total: 12 paths to fetch"), "{out}");
}

#[test]
fn hosts_that_have_a_part_each_make_up_a_closure() {
    let site = Site::new(2);
    let dag = site.store().dag(30, DagOptions::default());
    let [first, second] = [&site.hosts[0].store, &site.hosts[1].store];
    let upper = second.add_text("upper", "text", &[]);
    // The first one has the whole closure, but only the upper half is signed there; the second one has the lower half.
    let key = first.sign("one.example.org-1", &dag.paths[15..]);
    second.copy_from(first, &dag.paths[..15]);
    let urls = [site.hosts[0].url(""), site.hosts[1].url("trusted=true")];
    site.env
        .configure(&urls, &format!("trusted-public-keys = {key}"));
    let folder = site.folder("out");
    let got = site.get_to(&folder, &[&dag.root, &upper]).status(0);
    let port = |index: usize| format!("127.0.0.1:{}", site.hosts[index].sshd.port());
    got.says(&["fetched 31 paths", &port(0), &port(1)]);
    let mut all = dag.paths.clone();
    all.push(upper);
    assert_eq!(names(&folder.join("nix/store")), base_names(&all));
}

#[test]
fn a_closure_with_a_gap_is_not_begun_and_all_others_come() {
    let site = Site::new(1);
    let store = site.store();
    let good = store.dag(10, DagOptions::default());
    let bad = store.dag(
        12,
        DagOptions {
            seed: 2,
            ..DagOptions::default()
        },
    );
    // One path right above the lowest ones is not signed.
    let lacking = &bad.paths[3];
    let signed: Vec<_> = good
        .paths
        .iter()
        .chain(&bad.paths)
        .filter(|path| *path != lacking)
        .collect();
    let key = store.sign("one.example.org-1", &signed);
    site.configure("", &format!("trusted-public-keys = {key}"));
    let folder = site.folder("out");
    let absent = Random::new(9, "absent").store_path("absent");
    let got = site
        .get_to(&folder, &[&bad.root, &good.root, &absent])
        .status(3);
    assert_eq!(got.stdout(), format!("{}\n", good.root));
    let got = got.says(&[
        &format!("no host has {lacking}; /nix/store/"),
        &format!("no host has {absent}\n"),
        "it is not signed",
        "fetched 10 paths",
    ]);
    assert!(!got.stderr().contains(&format!("no host has {}", bad.root)));
    assert_eq!(names(&folder.join("nix/store")), base_names(&good.paths));

    // With what is missing there already, nothing is missing.
    site.configure("trusted=true", "");
    site.get_to(&folder, &[lacking]).status(0);
    site.configure("", &format!("trusted-public-keys = {key}"));
    let got = site.get_to(&folder, &[&bad.root]).status(0);
    assert_eq!(got.stdout(), format!("{}\n", bad.root));
}

#[test]
fn what_a_host_has_but_cannot_send_costs_that_path_and_those_above() {
    let site = Site::new(1);
    let store = site.store();
    let lower = store.big("lower", 100_000);
    let upper = store.add_made(Random::new(3, "upper").store_path("upper"), |path| {
        fs::write(path, &lower).unwrap();
    });
    store.register(&[super::support::Entry {
        path: upper.clone(),
        references: vec![lower.clone()],
        deriver: None,
    }]);
    let fine = store.big("fine", 50_000);
    store.corrupt(&lower);
    for to in ["folder", "cache", "store"] {
        let folder = site.folder(to);
        let url = format!("file://{}", folder.display());
        let own = super::support::Store::new();
        let args = match to {
            "folder" => vec!["--to", text(&folder)],
            "cache" => vec!["--to", &url],
            _ => vec!["--into-store"],
        };
        let mut command = site.command(&args);
        command.args([&upper, &fine]).env("NIX_REMOTE", own.uri());
        let got = super::Got(super::run_with_timeout(command, super::LIMIT)).status(4);
        assert_eq!(got.stdout(), format!("{fine}\n"), "{to}");
        let got = got.says(&[&format!("no host could deliver {lower}"), "wrong content"]);
        match to {
            "folder" => {
                let registration = fs::read_to_string(folder.join("nix-path-registration"));
                assert!(!registration.unwrap().contains(&lower));
                assert!(!folder.join(&lower[1..]).exists());
            }
            "cache" => assert_eq!(names(&folder).len(), 3, "{:?}", names(&folder)),
            _ => assert!(own.is_valid(&fine) && !own.is_valid(&lower) && !own.is_valid(&upper)),
        }
        assert!(got.stderr().contains(" of 3 paths"), "{}", got.stderr());
    }
    // Mended there, the rest comes.
    store.corrupt(&lower);
    let folder = site.folder("folder");
    let got = site.get_to(&folder, &[&upper, &fine]).status(0);
    assert_eq!(got.stdout(), format!("{upper}\n{fine}\n"));
    assert!(
        fs::read_to_string(folder.join("nix-path-registration"))
            .unwrap()
            .contains(&lower)
    );
}

#[test]
fn no_host_and_no_answer_are_distinguished_from_no_such_path() {
    let site = Site::new(1);
    let path = site.store().add_text("text", "text", &[]);
    let folder = site.folder("out");
    site.hosts[0].sshd.kill();
    let got = site.get_to(&folder, &[&path]).status(3);
    got.says(&[
        "cannot tell whether a host has",
        "1 of 1 hosts gave no answer",
    ]);
    site.env.configure(&[], "");
    site.get_to(&folder, &[&path])
        .status(1)
        .says(&["no hosts to ask"]);
    site.configure("trusted=true", "use-ssh-substituter = false");
    site.get_to(&folder, &[&path])
        .status(1)
        .says(&["switched off"]);
}

#[test]
fn arguments_may_lead_into_the_store_and_nowhere_else() {
    let site = Site::new(1);
    let path = site.store().add_text("text", "text", &[]);
    let link = site.folder("result");
    symlink(format!("{path}/bin"), &link).unwrap();
    let folder = site.folder("out");
    let got = site
        .get_to(&folder, &[text(&link), &format!("{path}/bin/x"), &path])
        .status(0);
    assert_eq!(got.stdout(), format!("{path}\n"));
    for (args, words) in [
        (
            &["--to", text(&folder), "/etc/passwd"][..],
            "is not in the store: expected a path in /nix/store",
        ),
        (
            &["--to", text(&folder), "/nix/store/hello"],
            "is not a store path",
        ),
        (&["--to", text(&folder)], "PATH"),
        (&[&path], "--into-store"),
        (
            &["--into-store", "--to", text(&folder), &path],
            "cannot be used with",
        ),
    ] {
        let got = site.get(args).status(2).says(&[words]);
        assert_eq!(got.stdout(), "");
    }
}
