//! A large path that goes over several channels of a long link.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use super::faults::{kill, start};
use super::support::{DagOptions, Host, Relay, Scratch, Sshd, Store, descendants, wait_until};
use super::{Site, verified};

/// Several channels pay from 21 MB on.
const ROUND_TRIP: Duration = Duration::from_millis(100);

/// A host that is far away, whose shell puts what is temporary into a folder of its own.
struct Far {
    site: Site,
    temporary: Scratch,
    relay: Relay,
}

impl Far {
    fn new(params: &str) -> Self {
        let temporary = Scratch::new();
        let tmpdir = temporary.path().display().to_string();
        let host = Host {
            store: Store::new(),
            sshd: Sshd::builder().env("TMPDIR", &tmpdir).start(),
        };
        let site = Site::of(vec![host]);
        let port = site.hosts[0].sshd.port();
        let relay = Relay::far(port, ROUND_TRIP);
        let url = relay.url(port, &site.hosts[0].url(params));
        let hosts = format!("ssh-substituter-push-hosts = {url}");
        site.env.configure(&[], &hosts);
        Self {
            site,
            temporary,
            relay,
        }
    }

    /// Programs of this name that run at the host.
    fn running(&self, name: &str) -> Vec<u32> {
        let is_it = |pid: &u32| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split('\0').next() == Some(name)
        };
        let all = descendants(self.site.hosts[0].sshd.pid());
        all.into_iter().filter(is_it).collect()
    }

    /// Nothing runs at the host that is not sshd's, and nothing temporary is left.
    fn is_left_clean(&self) {
        for name in ["sh", "cat", "head", "nix-store", "zstd"] {
            wait_until("the end of all programs", || self.running(name).is_empty());
        }
        let left: Vec<_> = fs::read_dir(self.temporary.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn a_large_path_goes_over_several_channels_and_small_ones_beside_it() {
    let far = Far::new("");
    let site = &far.site;
    let small = site.store.dag(30, DagOptions::default());
    let [wide, middle] = [
        site.store.big("wide", 60_000_000),
        site.store.big("middle", 3_000_000),
    ];
    let over = site.store.add_text("over", "over", &[&wide, &small.root]);
    let got = site.push(&["-v", &over, &middle]).status(0);
    assert!(!got.stderr().contains("sent as it is"), "{}", got.stderr());
    assert_eq!(verified(site.there()), site.store.all_paths());
    // The main one, one for replies, six for the blocks, one for the other large path or none.
    let sessions = site.hosts[0].sshd.sessions();
    assert!((9..=11).contains(&sessions), "{sessions}");
    far.is_left_clean();
    // All of it is compressed where that is wanted, over several channels too.
    let far = Far::new("compression=zstd");
    let words = far.site.store.words("words", 40 << 20);
    far.site.push(&[&words]).status(0);
    assert_eq!(verified(far.site.there()), [words]);
    assert!(far.relay.came() < 30 << 20, "{}", far.relay.came());
    assert!(far.site.hosts[0].sshd.sessions() >= 8);
    far.is_left_clean();
}

#[test]
fn whatever_is_killed_nothing_is_half_and_nothing_is_left() {
    let far = Far::new("");
    let site = &far.site;
    let log = site.file("log");
    for (number, victim) in ["cat", "nix-store", "sh", "head"].into_iter().enumerate() {
        let wide = site.store.big(victim, 60_000_000 + number as u64);
        let mut child = start(site.command(&[&wide]), &log);
        wait_until("channels for blocks", || far.running("cat").len() == 6);
        let mut killed = Vec::new();
        while killed.is_empty() && child.try_wait().unwrap().is_none() {
            killed = far.running(victim);
            killed.iter().for_each(|pid| kill(*pid, Signal::KILL));
        }
        wait_until("its end", || child.try_wait().unwrap().is_some());
        let said = fs::read_to_string(&log).unwrap();
        assert!(child.wait().unwrap().success(), "{victim}: {said}");
        assert!(site.there().verify_path(&wide), "{victim}");
        far.is_left_clean();
    }
    let wide = site.store.big("last", 60_000_009);
    let mut child = start(site.command(&[&wide]), &log);
    wait_until("channels for blocks", || far.running("cat").len() == 6);
    kill(child.id(), Signal::KILL);
    child.wait().unwrap();
    far.is_left_clean();
    assert!(!site.there().is_valid(&wide));
    site.push(&[&wide]).status(0);
    verified(site.there());
}

#[test]
fn a_host_that_lacks_what_is_needed_gets_it_over_one_channel() {
    // No folder to make pipes in.
    let far = Far::new("");
    fs::remove_dir(far.temporary.path()).unwrap();
    let wide = far.site.store.big("wide", 60_000_000);
    let got = far.site.push(&["-v", &wide]).status(0);
    let told = got.stderr().matches("everything is sent as it is").count();
    assert_eq!(told, 1, "{}", got.stderr());
    assert_eq!(verified(far.site.there()), [wide]);
    fs::create_dir(far.temporary.path()).unwrap();
    far.is_left_clean();
    // Fewer channels than that would take.
    let far = Far::new("max-connections=3");
    let wide = far.site.store.big("wide", 60_000_000);
    far.site.push(&[&wide]).status(0);
    assert_eq!(verified(far.site.there()), [wide]);
    assert!(far.site.hosts[0].sshd.sessions() <= 4);
}
