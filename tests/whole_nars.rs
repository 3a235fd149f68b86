//! Large paths from accounts without a shell: they come whole, over several channels and from all hosts that have them.

mod rig;
mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rig::{Account, Fault, Link, Setup, setup_over, setup_restricted, setup_with, until};
use ssh_substituter::cache::disk::Environment;
use ssh_substituter::engine::SpillFolder;
use ssh_substituter::transfer::{SpillDisk, SpillFile};
use support::Store;

const MIB: usize = 1 << 20;

/// Two stores with the same large paths.
fn twins(count: usize, size: usize) -> ([Store; 2], Vec<String>) {
    let stores = [Store::new(), Store::new()];
    let [paths, others] = stores.each_ref().map(|store| {
        (0..count)
            .map(|number| store.big(&format!("part-{number:02}"), size as u64))
            .collect::<Vec<_>>()
    });
    assert_eq!(paths, others);
    (stores, paths)
}

/// A link of so many bytes a second, and so many milliseconds there and back.
fn link(rate: u64, latency: u64) -> Arc<Link> {
    let mut link = Link::far(Duration::from_millis(latency));
    link.rate = rate;
    Arc::new(link)
}

async fn fetch_all(setup: &Setup, store: &Store, paths: &[String]) -> Duration {
    setup.expect(paths).await;
    let began = Instant::now();
    for path in paths {
        setup.fetch_right(store, path).await;
    }
    began.elapsed()
}

fn came(link: &Link) -> u64 {
    link.came.load(Ordering::SeqCst)
}

#[tokio::test]
async fn two_hosts_bring_nearly_twice_as_much() {
    let (stores, paths) = twins(6, 9 * MIB);
    let links = [(); 2].map(|()| link(5_000_000, 20));
    let hosts = [(&stores[0], &links[0]), (&stores[1], &links[1])];
    let both = setup_over(&hosts, 256 << 20, false);
    let together = fetch_all(&both, &stores[0], &paths).await;
    let shares = links.each_ref().map(|link| came(link));
    // Alone it would take 11 s.
    assert!(
        together < Duration::from_secs(9),
        "{together:?}, {shares:?}"
    );
    let all = (6 * 9 * MIB) as u64;
    assert!(shares.iter().all(|share| *share > all / 3), "{shares:?}");
    assert!(shares.iter().sum::<u64>() < all * 11 / 10, "{shares:?}");
}

/// The second host is slower, so the answers of the first one are given to the caller; and it lost sight of the paths.
#[tokio::test]
async fn a_host_that_was_not_asked_is_asked_and_takes_part() {
    let (stores, paths) = twins(6, 9 * MIB);
    let links = [(); 2].map(|()| link(5_000_000, 20));
    let hosts = [(&stores[0], &links[0]), (&stores[1], &links[1])];
    let both = setup_over(&hosts, 256 << 20, false);
    for path in &paths {
        both.find(path).await.unwrap();
    }
    let second = both.find(&paths[0]).await.unwrap().holders[1];
    for path in &paths {
        let path = ssh_substituter::model::StorePath::parse(path).unwrap();
        both.resolver.forget_at(second, &path);
    }
    for path in &paths {
        let found = both.find(path).await.unwrap();
        assert_eq!(found.holders.len(), 1, "{path}");
        both.caller.expect(&found.info, &found.holders);
    }
    for path in &paths {
        both.fetch_right(&stores[0], path).await;
    }
    assert!(both.dumps("two", &paths).len() >= 2);
}

#[tokio::test]
async fn a_far_host_sends_all_ahead_of_the_caller_and_each_once() {
    let (stores, paths) = twins(4, 9 * MIB);
    // A channel of real ssh moves 2 MiB a round trip. Here there is no such window, so one channel brings all there is.
    let far = link(0, 30);
    let one = setup_over(&[(&stores[0], &far)], 256 << 20, false);
    one.expect(&paths).await;
    one.fetch_right(&stores[0], &paths[0]).await;
    until("all of it", || {
        one.dumps("one", &paths).len() == paths.len()
    })
    .await;
    for path in &paths[1..] {
        one.fetch_right(&stores[0], path).await;
    }
    assert_eq!(one.dumps("one", &paths).len(), paths.len(), "each once");
}

#[tokio::test]
async fn what_breaks_amid_a_large_path_is_brought_by_another_host_ahead_of_the_caller() {
    let (stores, paths) = twins(4, 9 * MIB);
    for fault in [Fault::Cut(4 * MIB as u64), Fault::Flip(4 * MIB as u64)] {
        let hosts = [(&stores[0], 0.0, None), (&stores[1], 0.0, Some(fault))];
        let both = setup_with(&hosts, 256 << 20);
        both.expect(&paths).await;
        both.fetch_right(&stores[0], &paths[0]).await;
        let dumps = || ["one", "two"].map(|host| both.dumps(host, &paths).len());
        // The broken host may be the one that is asked for little.
        let has_begun = || dumps().iter().sum::<usize>() >= paths.len();
        until("all of it", has_begun).await;
        if dumps()[1] >= 1 {
            until("one once more", || {
                dumps().iter().sum::<usize>() > paths.len()
            })
            .await;
        }
        for path in &paths[1..] {
            both.fetch_right(&stores[0], path).await;
        }
    }
}

#[tokio::test]
async fn a_host_that_turns_out_to_be_slow_is_relieved() {
    let (stores, paths) = twins(4, 9 * MIB);
    // The second one would need 31 s for one of the paths.
    let links = [link(5_000_000, 20), link(300_000, 20)];
    let hosts = [(&stores[0], &links[0]), (&stores[1], &links[1])];
    let both = setup_over(&hosts, 256 << 20, false);
    let took = fetch_all(&both, &stores[0], &paths).await;
    assert!(both.dumps("two", &paths).len() == 1, "it was tried");
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[tokio::test]
async fn nobody_waits_for_the_only_channel_until_a_large_path_is_read_ahead() {
    let (stores, paths) = twins(1, 9 * MIB);
    let small = ["a", "b"].map(|name| stores[0].add_text(name, "a text", &[]));
    let slow = link(600_000, 20);
    let account = Account {
        params: "&max-connections=1",
        ..Account::default()
    };
    let one = setup_restricted(&[(&stores[0], &slow)], 256 << 20, &account);
    one.expect(&paths).await;
    one.fetch_right(&stores[0], &small[0]).await;
    until("some of it", || came(&slow) > MIB as u64 / 2).await;
    let began = Instant::now();
    one.fetch_right(&stores[0], &small[1]).await;
    // The large one takes 15 s.
    assert!(began.elapsed() < Duration::from_secs(7), "{began:?}");
}

#[tokio::test]
async fn what_is_on_disk_goes_with_its_caller() {
    let (stores, paths) = twins(3, 9 * MIB);
    let (_folder, spill) = folder_on_disk();
    let fast = link(0, 20);
    let account = on_disk(spill, 100 << 20);
    let one = setup_restricted(&[(&stores[0], &fast)], 1 << 20, &account);
    one.expect(&paths).await;
    one.fetch_right(&stores[0], &paths[0]).await;
    until("the others", || one.transfers.on_disk().0 > 18 << 20).await;
    let Setup {
        caller, transfers, ..
    } = one;
    drop(caller);
    until("nothing", || transfers.on_disk().0 == 0).await;
}

fn on_disk(disk: impl SpillDisk + 'static, bytes: u64) -> Account {
    Account {
        disk: Some((Arc::new(disk), bytes)),
        ..Account::default()
    }
}

/// A folder on a real disk, which the temporary folder may not be.
fn folder_on_disk() -> (tempfile::TempDir, SpillFolder) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let environment = Environment {
        explicit: Some(folder.path().to_owned()),
        uid: rustix::process::geteuid().as_raw(),
        ..Environment::default()
    };
    (folder, SpillFolder::new(environment))
}

#[tokio::test]
async fn what_does_not_fit_into_memory_is_read_ahead_on_disk() {
    let (stores, paths) = twins(6, 9 * MIB);
    let (folder, spill) = folder_on_disk();
    let fast = link(0, 20);
    // Two of the paths fit into memory, three on disk.
    let hosts = [(&stores[0], &fast)];
    let one = setup_restricted(&hosts, 20 << 20, &on_disk(spill, 30 << 20));
    one.expect(&paths).await;
    one.fetch_right(&stores[0], &paths[0]).await;
    until("five more", || one.dumps("one", &paths).len() == 6).await;
    until("all of it", || came(&fast) > 6 * 9 * MIB as u64).await;
    let (memory, disk) = (one.transfers.memory().0, one.transfers.on_disk().0);
    assert!(memory <= 20 << 20, "{memory}");
    assert!((27 << 20..=28 << 20).contains(&disk), "{disk}");
    assert_eq!(folder.path().read_dir().unwrap().count(), 0, "no names");
    for path in &paths[1..] {
        one.fetch_right(&stores[0], path).await;
    }
    assert_eq!(one.dumps("one", &paths).len(), 6, "each once");
    assert_eq!(
        (one.transfers.memory().0, one.transfers.on_disk().0),
        (0, 0)
    );
}

/// A path that is larger than the memory may hold.
#[tokio::test]
async fn a_path_that_is_being_written_to_disk_is_read_at_the_same_time() {
    let (stores, paths) = twins(2, 40 * MIB);
    let (_folder, spill) = folder_on_disk();
    let slow = link(5_000_000, 20);
    let hosts = [(&stores[0], &slow)];
    let one = setup_restricted(&hosts, 1 << 20, &on_disk(spill, 100 << 20));
    one.expect(&paths[1..]).await;
    let small = stores[0].add_text("small", "it begins", &[]);
    one.fetch_right(&stores[0], &small).await;
    until("some of it", || came(&slow) > 10 * MIB as u64).await;
    one.fetch_right(&stores[0], &paths[1]).await;
    assert_eq!(one.dumps("one", &paths).len(), 1);
}

/// A disk that fails.
struct Failing {
    disk: SpillFolder,
    fault: DiskFault,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum DiskFault {
    Create,
    Write,
    Read,
    Content,
}

struct FailingFile(Box<dyn SpillFile>, DiskFault);

impl SpillDisk for Failing {
    fn create(&self, size: u64) -> std::io::Result<Box<dyn SpillFile>> {
        if self.fault == DiskFault::Create {
            return Err(std::io::ErrorKind::PermissionDenied.into());
        }
        Ok(Box::new(FailingFile(self.disk.create(size)?, self.fault)))
    }
}

impl SpillFile for FailingFile {
    fn write_at(&self, bytes: &[u8], at: u64) -> std::io::Result<()> {
        if self.1 == DiskFault::Write && at > 3 << 20 {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.0.write_at(bytes, at)
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> std::io::Result<()> {
        self.0.read_at(bytes, at)?;
        match self.1 {
            DiskFault::Read if at > 3 << 20 => Err(std::io::Error::other("it is broken")),
            DiskFault::Content if at > 3 << 20 => {
                bytes[7] ^= 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[tokio::test]
async fn a_disk_that_fails_costs_time_alone() {
    let (stores, paths) = twins(4, 9 * MIB);
    for fault in [
        DiskFault::Create,
        DiskFault::Write,
        DiskFault::Read,
        DiskFault::Content,
    ] {
        let (_folder, disk) = folder_on_disk();
        let fast = link(0, 20);
        let account = on_disk(Failing { disk, fault }, 100 << 20);
        let one = setup_restricted(&[(&stores[0], &fast)], 1 << 20, &account);
        one.expect(&paths).await;
        one.fetch_right(&stores[0], &paths[0]).await;
        let begun = one.dumps("one", &paths).len();
        until("one is read ahead", || {
            one.dumps("one", &paths).len() >= begun
        })
        .await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        for path in &paths[1..] {
            one.fetch_right(&stores[0], path).await;
        }
        assert_eq!(*one.told.lock().unwrap(), Vec::<String>::new(), "{fault:?}");
        assert_eq!(one.transfers.on_disk().0, 0, "{fault:?}");
    }
}
