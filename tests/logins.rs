//! Logins are scarce: what hosts see of ours after they have refused one. A real ssh and a real sshd.

mod transport_support;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ssh_substituter::config::host::Host;
use ssh_substituter::transport::{OpenSsh, Program, Transport, TransportError, TransportErrorKind};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use transport_support::{Sshd, ThrowAwayUser, greet, is_root};

/// Stands before an sshd, admits only so many connections and closes the others.
struct Relay {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl Relay {
    async fn admits(sshd: &Sshd, most: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, to) = (listener.local_addr().unwrap().port(), sshd.port);
        let connections = Arc::<AtomicUsize>::default();
        let seen = connections.clone();
        // Ends with the test's runtime.
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                if seen.fetch_add(1, Ordering::SeqCst) < most {
                    let mut to = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                    tokio::spawn(async move { copy_bidirectional(&mut from, &mut to).await });
                }
            }
        });
        Self { port, connections }
    }

    fn host(&self, sshd: &Sshd) -> Host {
        Host {
            port: Some(self.port),
            ..sshd.host()
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn after_a_refusal_there_is_no_further_connection_not_even_by_the_next_process() {
    let sshd = Sshd::start("");
    let relay = Relay::admits(&sshd, 1).await;
    // One connection takes eight channels.
    let mut held = Vec::new();
    for process in 0..3 {
        let ssh = sshd.ssh();
        let host = relay.host(&sshd);
        for _ in 0..12 {
            match ssh.open(&host, Program::AsConfigured).await {
                Ok(channel) => held.push(channel),
                Err(error) if matches!(error.kind, TransportErrorKind::NoFurtherSession) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        if process == 0 {
            assert_eq!(held.len(), 8);
            greet(&mut held[7]).await;
        }
        assert_eq!(relay.connections(), 2, "process {process}");
    }
}

/// Several hosts on one address count together: sshd and firewalls know the address only.
#[tokio::test]
async fn wrong_keys_at_one_address_are_not_all_tried_at_once() {
    let sshd = Sshd::start("");
    let ssh = OpenSsh::new(sshd.settings());
    let mut wrong = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let key = sshd.at(name);
        fs::copy(sshd.at("other"), &key).unwrap();
        wrong.push(Host {
            ssh_key: Some(key),
            ..sshd.host()
        });
    }
    let ssh = Arc::new(ssh);
    let mut opens = JoinSet::new();
    for host in wrong.clone() {
        let ssh = ssh.clone();
        opens.spawn(async move { ssh.open(&host, Program::AsConfigured).await.err() });
    }
    let errors = opens.join_all().await;
    let count = |is_it: fn(&TransportError) -> bool| {
        let errors = errors.iter().flatten();
        errors.filter(|error| is_it(error)).count()
    };
    let denied = count(|error| matches!(error.kind, TransportErrorKind::PermissionDenied { .. }));
    let held_back = count(|error| matches!(error.kind, TransportErrorKind::LoginHeldBack { .. }));
    assert_eq!((denied, held_back), (2, 2), "{errors:?}");
    // The next process knows, under whatever name.
    let next = OpenSsh::new(sshd.settings());
    let host = Host {
        name: "localhost".into(),
        ..wrong[3].clone()
    };
    let error = next.open(&host, Program::AsConfigured).await.err().unwrap();
    assert!(
        matches!(error.kind, TransportErrorKind::LoginHeldBack { wait, .. } if wait <= Duration::from_secs(8)),
        "{error:?}"
    );
    assert_eq!(sshd.log().matches("Connection from").count(), 2);
}

#[tokio::test]
async fn a_wrong_key_does_not_hold_up_the_right_one() {
    let sshd = Sshd::start("");
    let ssh = sshd.ssh();
    let wrong = Host {
        ssh_key: Some(sshd.at("other")),
        ..sshd.host()
    };
    assert!(ssh.open(&wrong, Program::AsConfigured).await.is_err());
    let mut channel = ssh.open(&sshd.host(), Program::AsConfigured).await.unwrap();
    greet(&mut channel).await;
}

/// Two accounts behind one address, at the same moment.
#[tokio::test]
async fn one_logs_in_at_a_time_at_each_address() {
    if !is_root() {
        return;
    }
    let sshd = Sshd::start("");
    let users: Vec<_> = (0..3).map(|_| ThrowAwayUser::new("/bin/sh")).collect();
    let ssh = Arc::new(sshd.ssh());
    let mut opens = JoinSet::new();
    for user in &users {
        let host = Host {
            user: Some(user.name.clone()),
            ..sshd.host()
        };
        let ssh = ssh.clone();
        opens.spawn(async move { ssh.open(&host, Program::AsConfigured).await.is_ok() });
    }
    assert_eq!(opens.join_all().await, [true; 3]);
    let log = sshd.log();
    let (mut under_way, mut most) = (0_usize, 0);
    for line in log.lines() {
        if line.contains("Connection from") {
            under_way += 1;
        } else if line.contains("Accepted publickey") {
            under_way -= 1;
        }
        most = most.max(under_way);
    }
    assert_eq!((most, sshd.logins()), (1, 3), "{log}");
}
