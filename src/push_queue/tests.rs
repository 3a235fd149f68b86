use std::fs;

use super::*;

const HOSTS: [&str; 2] = ["ssh://one", "ssh://two"];

struct State {
    temp: tempfile::TempDir,
}

impl State {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        Self { temp }
    }

    fn environment(&self) -> Environment {
        Environment {
            explicit: Some(self.temp.path().join("state")),
            uid: rustix::process::geteuid().as_raw(),
            ..Environment::default()
        }
    }

    fn queue(&self) -> PushQueue {
        PushQueue::open(&self.environment()).unwrap()
    }

    /// A store that has a folder for roots.
    fn store(&self) -> PathBuf {
        let store = self.temp.path().join("store");
        fs::create_dir_all(store.join("nix/var/nix/gcroots/auto")).unwrap();
        store
    }
}

fn path(number: usize) -> StorePath {
    StorePath::parse(&format!("/nix/store/{number:0>32}-x")).unwrap()
}

fn hosts() -> Vec<String> {
    HOSTS.map(str::to_owned).to_vec()
}

fn names(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

#[test]
fn what_is_added_is_there_until_it_was_sent_to_every_host() {
    let state = State::new();
    assert!(
        PushQueue::open_existing(&state.environment())
            .unwrap()
            .is_none()
    );
    state
        .queue()
        .add(Path::new("/"), &[path(1), path(2)], &hosts())
        .unwrap();
    // As another process finds it.
    let queue = PushQueue::open_existing(&state.environment())
        .unwrap()
        .unwrap();
    let entries = queue.entries().unwrap();
    let of = |entry: &Entry| (entry.path.clone(), entry.host.clone());
    let expected: Vec<_> = [1, 2]
        .iter()
        .flat_map(|number| hosts().into_iter().map(|host| (path(*number), host)))
        .collect();
    assert_eq!(entries.iter().map(of).collect::<Vec<_>>(), expected);
    queue.remove_sent(&entries[..3]).unwrap();
    let left = state.queue().entries().unwrap();
    assert_eq!(left, entries[3..]);
    queue.remove_sent(&left).unwrap();
    assert_eq!(queue.outlook().unwrap(), (0, None));
    assert!(queue.given_up().unwrap().is_empty());
}

#[test]
fn what_failed_waits_and_is_due_when_it_is_asked_for_again() {
    let state = State::new();
    let queue = state.queue();
    let add = || queue.add(Path::new("/"), &[path(1)], &hosts()[..1]);
    add().unwrap();
    let before = queue.entries().unwrap();
    assert!(before[0].due_at <= now());
    queue
        .put_off(&before, "it is down", Duration::from_secs(500))
        .unwrap();
    let after = queue.entries().unwrap();
    assert_eq!(
        (after[0].tries, after[0].reason.as_deref()),
        (1, Some("it is down"))
    );
    let (count, due) = queue.outlook().unwrap();
    assert!(count == 1 && due.unwrap() > now() + Duration::from_secs(400));
    add().unwrap();
    assert_eq!(queue.entries().unwrap().len(), 1, "once");
    assert!(queue.outlook().unwrap().1.unwrap() <= now());
    queue
        .put_off(&before, "x", Duration::from_secs(500))
        .unwrap();
    queue.make_due().unwrap();
    assert!(queue.outlook().unwrap().1.unwrap() <= now());
}

#[test]
fn what_was_given_up_is_remembered_with_its_reason() {
    let state = State::new();
    let queue = state.queue();
    queue
        .add(Path::new("/"), &[path(1), path(2)], &hosts())
        .unwrap();
    let entries = queue.entries().unwrap();
    queue.give_up(&entries[..2], &"long ".repeat(1000)).unwrap();
    let given_up = queue.given_up().unwrap();
    assert_eq!(given_up.len(), 2);
    assert_eq!(given_up[0].path, path(1).as_str());
    assert_eq!(given_up[0].reason.len(), REASON_MAX);
    assert_eq!(queue.take_given_up().unwrap(), given_up);
    assert!(queue.given_up().unwrap().is_empty(), "told once");
    queue.give_up(&entries[2..3], "gone").unwrap();
    assert_eq!(queue.given_up().unwrap().len(), 1);
}

#[test]
fn paths_are_roots_while_they_wait() {
    let state = State::new();
    let (queue, store) = (state.queue(), state.store());
    let auto = store.join("nix/var/nix/gcroots/auto");
    queue.add(&store, &[path(1), path(2)], &hosts()).unwrap();
    assert_eq!(names(&auto), 2);
    // As Nix follows it: to a link of ours, and from there to the path.
    let targets: Vec<PathBuf> = fs::read_dir(&auto)
        .unwrap()
        .map(|link| fs::read_link(fs::read_link(link.unwrap().path()).unwrap()).unwrap())
        .collect();
    assert!(
        targets.contains(&PathBuf::from(path(1).as_str())),
        "{targets:?}"
    );
    let entries = queue.entries().unwrap();
    queue.remove_sent(&entries[..1]).unwrap();
    assert_eq!(names(&auto), 2, "another host waits for it");
    queue.remove_sent(&entries[1..2]).unwrap();
    assert_eq!(names(&auto), 1);
    // Left by a process that was killed at the wrong moment.
    queue.roots.make(&store, &path(3));
    queue.sweep().unwrap();
    assert_eq!(names(&auto), 1);
    queue.give_up(&entries[2..], "gone").unwrap();
    queue.sweep().unwrap();
    assert_eq!(
        (
            names(&auto),
            names(&state.temp.path().join("state/push-roots"))
        ),
        (0, 0)
    );
}

#[test]
fn without_leave_to_make_roots_paths_are_queued_all_the_same() {
    let state = State::new();
    let queue = state.queue();
    let store = state.temp.path().join("elsewhere");
    queue.add(&store, &[path(1)], &hosts()).unwrap();
    assert_eq!(queue.entries().unwrap().len(), 2);
    assert_eq!(names(&state.temp.path().join("state/push-roots")), 0);
}

#[test]
fn one_process_sends_at_a_time() {
    let state = State::new();
    let (one, other) = (state.queue(), state.queue());
    let lock = one.try_send().unwrap().unwrap();
    assert!(other.try_send().unwrap().is_none());
    drop(lock);
    assert!(other.try_send().unwrap().is_some());
}

#[test]
fn a_damaged_queue_is_moved_aside_and_a_foreign_one_is_left_alone() {
    let state = State::new();
    let file = state.temp.path().join("state").join(DATABASE_FILE);
    drop(state.queue());
    fs::write(&file, vec![7; 8192]).unwrap();
    let queue = state.queue();
    queue.add(Path::new("/"), &[path(1)], &hosts()).unwrap();
    assert!(file.with_extension("sqlite.damaged").exists());
    drop(queue);

    fs::remove_file(&file).unwrap();
    let foreign = Connection::open(&file).unwrap();
    foreign.execute_batch("CREATE TABLE other (x)").unwrap();
    drop(foreign);
    let error = PushQueue::open(&state.environment()).unwrap_err();
    assert!(matches!(error, QueueError::Unusable { .. }), "{error}");
    assert!(
        error.to_string().contains("not one of this program"),
        "{error}"
    );
}

#[test]
fn many_processes_add_at_the_same_time() {
    let state = State::new();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let state = &state;
            scope.spawn(move || {
                for number in 0..10 {
                    state
                        .queue()
                        .add(Path::new("/"), &[path(thread * 10 + number)], &hosts())
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(state.queue().entries().unwrap().len(), 160);
}
