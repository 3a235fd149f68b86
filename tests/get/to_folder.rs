//! Into a folder that is laid out as a chroot store.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use rustix::fs::{FlockOperation, flock};

use super::support::{DagOptions, run, run_with_input, run_with_timeout, wait_until};
use super::{LIMIT, Site, base_names, names, text};

/// A Nix command on the chroot store in a folder.
fn nix(site: &Site, folder: &Path, program: &str, args: &[&str]) -> std::process::Command {
    let mut command = site.env.command(program);
    let store = format!("local?root={}", folder.display());
    command.args(["--store", &store]).args(args);
    command
}

/// Nix finds each path as it is registered.
fn verify(site: &Site, folder: &Path) {
    let words = ["--verify", "--check-contents"];
    run(nix(site, folder, "nix-store", &words), LIMIT);
}

/// Has the real Nix load the registration.
fn load(site: &Site, folder: &Path) {
    let registration = fs::read(folder.join("nix-path-registration")).unwrap();
    let command = nix(site, folder, "nix-store", &["--load-db"]);
    let output = run_with_input(command, &registration, LIMIT);
    assert!(output.status.success(), "{output:?}");
}

/// What Nix knows of all paths, path by path, in no order.
fn dump_db(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut lines = text.lines();
    while let Some(path) = lines.next() {
        let mut entry = vec![path.to_owned()];
        entry.extend(lines.by_ref().take(3).map(str::to_owned));
        let count: usize = lines.next().unwrap().parse().unwrap();
        let mut references: Vec<_> = lines.by_ref().take(count).map(str::to_owned).collect();
        references.sort();
        entry.extend(references);
        all.push(entry.join("\n"));
    }
    all.sort();
    all
}

#[test]
fn nix_loads_and_verifies_what_comes() {
    let site = Site::new(1);
    let dag = site.store().dag(60, DagOptions::default());
    let [big, many] = [
        site.store().big("big", 9 << 20),
        site.store().many_files(500),
    ];
    let folder = site.folder("out");
    let got = site.get_to(&folder, &[&dag.root, &big, &many]).status(0);
    assert_eq!(got.stdout(), format!("{}\n{big}\n{many}\n", dag.root));
    let got = got.says(&["fetched 62 paths, ", " from ", "; 0 were there"]);
    assert!(!got.stderr().contains("warning"), "{}", got.stderr());

    load(&site, &folder);
    let list = nix(
        &site,
        &folder,
        "nix-store",
        &["--query", "--requisites", &dag.root],
    );
    let mut closure: Vec<_> = run(list, LIMIT).lines().map(str::to_owned).collect();
    closure.sort();
    let mut expected = dag.paths.clone();
    expected.sort();
    assert_eq!(closure, expected);
    verify(&site, &folder);
    run(nix(&site, &folder, "nix", &["path-info", &dag.root]), LIMIT);
    let there = run(nix(&site, &folder, "nix-store", &["--dump-db"]), LIMIT);
    let mut theirs = site.store().command("nix-store");
    theirs.arg("--dump-db");
    let theirs = run(theirs, LIMIT);
    assert_eq!(dump_db(&there), dump_db(&theirs));
}

#[test]
fn what_is_right_stays_and_what_is_wrong_is_replaced() {
    let site = Site::new(1);
    let dag = site.store().dag(30, DagOptions::default());
    let folder = site.folder("out");
    let store = folder.join("nix/store");
    site.get_to(&folder, &[&dag.root]).status(0);
    let registration = folder.join("nix-path-registration");
    let registered = fs::read(&registration).unwrap();

    // Nothing has to be asked when all is there.
    site.hosts[0].sshd.freeze();
    let got = site.get_to(&folder, &[&dag.root]).status(0);
    assert_eq!(got.stdout(), format!("{}\n", dag.root));
    got.says(&["fetched 0 paths", "; 30 were there"]);
    site.hosts[0].sshd.thaw();

    // One path gone, one that a file was added to, one that is something else, one with a bit less.
    let place = |index: usize| store.join(dag.paths[index].rsplit('/').next().unwrap());
    let open_up = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    open_up(&place(2));
    fs::write(place(2).join("more"), "more").unwrap();
    fs::remove_file(place(1)).unwrap();
    fs::remove_file(place(6)).unwrap();
    std::os::unix::fs::symlink("/nowhere", place(6)).unwrap();
    fs::remove_file(place(11)).unwrap();
    fs::create_dir(place(11)).unwrap();
    // The size stays the same.
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::remove_file(path).unwrap();
        fs::write(path, bytes).unwrap();
    };
    flip(&place(16));
    // What a run that was killed may leave.
    for left in [".left.tmp-8388607-2", "left.chroot/ssh-substituter-8388607"] {
        fs::create_dir_all(store.join(left)).unwrap();
        fs::write(store.join(left).join("file"), "x").unwrap();
    }
    fs::write(store.join(".hidden"), "not ours").unwrap();
    let got = site.get_to(&folder, &[&dag.root]).status(0);
    got.says(&["fetched 5 paths", "; 25 were there"]);
    let mut expected = base_names(&dag.paths);
    expected.insert(0, ".hidden".to_owned());
    assert_eq!(names(&store), expected);
    fs::remove_file(store.join(".hidden")).unwrap();
    assert_eq!(fs::read(&registration).unwrap(), registered);

    // A path without its registration is known by its hash; a wrong one is not taken for right.
    fs::remove_file(&registration).unwrap();
    flip(&place(1));
    let got = site.get_to(&folder, &[&dag.root]).status(0);
    got.says(&["fetched 1 path,", "; 29 were there"]);
    assert_eq!(fs::read(&registration).unwrap(), registered);
    load(&site, &folder);
    verify(&site, &folder);
}

#[test]
fn what_was_registered_before_stays_registered() {
    let site = Site::new(1);
    let one = site.store().add_text("one", "one", &[]);
    let two = site.store().add_text("two", "two", &[&one]);
    let folder = site.folder("out");
    site.get_to(&folder, &[&one]).status(0);
    site.get_to(&folder, &[&two])
        .status(0)
        .says(&["fetched 1 path,"]);
    load(&site, &folder);
    let all = run(nix(&site, &folder, "nix", &["path-info", "--all"]), LIMIT);
    let mut all: Vec<_> = all.lines().collect();
    all.sort_unstable();
    let mut expected = [one.as_str(), two.as_str()];
    expected.sort_unstable();
    assert_eq!(all, expected);
}

#[test]
fn two_runs_take_turns() {
    let site = Site::new(1);
    let path = site.store().add_text("text", "text", &[]);
    let folder = site.folder("out");
    fs::create_dir(&folder).unwrap();
    let lock = fs::File::open(&folder).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let mut command = site.command(&["--to", text(&folder), &path]);
    let log = site.folder("log");
    command
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap());
    let mut child = command.spawn().unwrap();
    wait_until("a word", || {
        let said = fs::read_to_string(&log).unwrap();
        said.contains("waiting: another process is putting paths into")
    });
    assert!(child.try_wait().unwrap().is_none());
    assert!(names(&folder.join("nix/store")).is_empty());
    drop(lock);
    wait_until("its end", || child.try_wait().unwrap().is_some());
    assert!(child.wait().unwrap().success());
    assert_eq!(names(&folder.join("nix/store")), base_names(&[path]));
}

#[test]
fn a_registration_that_makes_no_sense_is_reported_and_left_alone() {
    let site = Site::new(1);
    let path = site.store().add_text("text", "text", &[]);
    let folder = site.folder("out");
    fs::create_dir(&folder).unwrap();
    let registration = folder.join("nix-path-registration");
    fs::write(&registration, format!("{path}\nnonsense\n")).unwrap();
    let got = site.get_to(&folder, &[&path]).status(1);
    let got = got.says(&[
        "nix-path-registration, line 2: expected 64 digits",
        "(hint: ",
    ]);
    assert_eq!(got.stdout(), "");
    assert!(
        fs::read_to_string(&registration)
            .unwrap()
            .contains("nonsense")
    );
}

#[test]
fn without_the_closure_only_the_paths_come() {
    let site = Site::new(1);
    let dag = site.store().dag(10, DagOptions::default());
    let folder = site.folder("out");
    let got = site
        .get(&["--no-closure", "--to", text(&folder), &dag.root])
        .status(0);
    got.says(&["fetched 1 path,"]);
    assert_eq!(
        names(&folder.join("nix/store")),
        base_names(std::slice::from_ref(&dag.root))
    );
    // The rest follows when it is wanted.
    site.get_to(&folder, &[&dag.root])
        .status(0)
        .says(&["fetched 9 paths", "; 1 were there"]);
    load(&site, &folder);
    verify(&site, &folder);
}

#[test]
fn a_folder_that_cannot_be_written_is_reported() {
    let site = Site::new(1);
    let path = site.store().add_text("text", "text", &[]);
    let file = site.folder("file");
    fs::write(&file, "").unwrap();
    let got = site.get_to(&file, &[&path]).status(1);
    got.says(&["cannot make ", "/file/nix/store"]);
    // A full disk, in the middle of a path.
    let big = site.store().big("big", 9 << 20);
    let mut command = site.env.command("sh");
    let script = "ulimit -f 4096; trap '' XFSZ; exec \"$@\"";
    let folder = site.folder("full");
    let program = site.env.program();
    command
        .args(["-c", script, "sh"])
        .arg(program.get_program());
    command.args(["get", "--to", text(&folder), &big]);
    let got = super::Got(run_with_timeout(command, LIMIT)).status(1);
    let got = got.says(&["cannot write file"]);
    assert_eq!(got.stdout(), "");
    assert!(names(&folder.join("nix/store")).is_empty());
}

#[test]
fn what_cannot_be_repaired_is_not_registered_and_nothing_above_it() {
    let site = Site::new(1);
    let lower = site.store().add_text("lower", "text", &[]);
    let upper = site.store().add_text("upper", "text", &[&lower]);
    let other = site.store().add_text("other", "text", &[]);
    let folder = site.folder("out");
    site.get_to(&folder, &[&upper, &other]).status(0);
    fs::remove_file(folder.join(&lower[1..])).unwrap();
    site.store().delete(&[&upper]);
    site.store().delete(&[&lower]);
    let lifetimes = "narinfo-cache-positive-ttl = 0";
    site.configure("trusted=true", lifetimes);
    let got = site.get_to(&folder, &[&upper]).status(3);
    let words = format!("no host has {lower}; {upper} refers to it");
    got.says(&[&words, "is registered, but it is missing or has changed"]);
    load(&site, &folder);
    let all = run(nix(&site, &folder, "nix", &["path-info", "--all"]), LIMIT);
    assert_eq!(all, other);
}
