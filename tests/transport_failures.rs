//! How the transport over ssh fails, and that nothing is left of a failure.

#[path = "support/ports.rs"]
#[expect(dead_code, reason = "a part of it is used")]
mod ports;
mod transport_support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ssh_substituter::config::host::Host;
use ssh_substituter::transport::{
    OpenSsh, Phase, Program, SshSettings, Transport, TransportError, TransportErrorKind,
};
use transport_support::{Sshd, alive, greet, wait_until};

use Program::AsConfigured;

async fn error(ssh: &OpenSsh, host: &Host) -> TransportError {
    match ssh.open(host, AsConfigured).await {
        Ok(_) => panic!("it opened"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_host_that_allows_no_session_is_an_error() {
    let sshd = Sshd::start("MaxSessions 0");
    let error = error(&sshd.ssh(), &sshd.host()).await;
    assert!(
        matches!(error.kind, TransportErrorKind::SessionRefused),
        "{error:?}"
    );
}

#[tokio::test]
async fn host_keys_are_checked() {
    let sshd = Sshd::start("");
    let unknown = SshSettings {
        ssh_options: [
            "-F",
            "none",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "GlobalKnownHostsFile=/dev/null",
        ]
        .map(str::to_owned)
        .to_vec(),
        ..sshd.settings()
    };
    let host = Host {
        public_host_key: None,
        ..sshd.host()
    };
    let unknown = error(&OpenSsh::new(unknown), &host).await;
    assert!(
        matches!(unknown.kind, TransportErrorKind::HostKeyUnknown),
        "{unknown:?}"
    );

    let host = Host {
        public_host_key: Some(fs::read_to_string(sshd.at("other.pub")).unwrap()),
        ..sshd.host()
    };
    let changed = error(&sshd.ssh(), &host).await;
    assert!(
        matches!(changed.kind, TransportErrorKind::HostKeyChanged { .. }),
        "{changed:?}"
    );
    assert_eq!(sshd.logins(), 0);
}

#[tokio::test]
async fn a_wrong_key_is_permission_denied() {
    let sshd = Sshd::start("");
    let host = Host {
        ssh_key: Some(sshd.at("other")),
        ..sshd.host()
    };
    let denied = error(&sshd.ssh(), &host).await;
    assert!(
        matches!(&denied.kind, TransportErrorKind::PermissionDenied { methods, identity, .. }
            if methods == &["publickey"] && *identity == host.ssh_key),
        "{denied:?}"
    );
    assert!(
        denied.ssh_output.contains("Permission denied"),
        "{denied:?}"
    );
}

#[tokio::test]
async fn hosts_that_are_not_there_have_errors_of_their_own() {
    let sshd = Sshd::start("");
    let host = Host {
        port: Some(ports::closed_port()),
        ..sshd.host()
    };
    let refused = error(&sshd.ssh(), &host).await;
    assert!(
        matches!(refused.kind, TransportErrorKind::Refused),
        "{refused:?}"
    );

    let host = Host {
        name: "no-such-host.invalid".into(),
        ..sshd.host()
    };
    let unknown = error(&sshd.ssh(), &host).await;
    assert!(
        matches!(&unknown.kind, TransportErrorKind::HostNameUnknown(name) if *name == host.name),
        "{unknown:?}"
    );

    let settings = SshSettings {
        program: "/nowhere/ssh".into(),
        ..sshd.settings()
    };
    let missing = error(&OpenSsh::new(settings), &sshd.host()).await;
    assert!(
        matches!(missing.kind, TransportErrorKind::SshMissing { .. }),
        "{missing:?}"
    );
}

/// A proxy that never answers and whose process id can be read.
fn silent_proxy(sshd: &Sshd, limit: Duration) -> (SshSettings, PathBuf) {
    let pid = sshd.at("proxy.pid");
    let proxy = format!(
        "ProxyCommand=sh -c 'echo $$ > {}; exec sleep 1000'",
        pid.display()
    );
    let settings = SshSettings {
        // ssh's own limit must not be what ends it.
        ssh_options: ["-F", "none", "-o", "ConnectTimeout=999", "-o", &proxy]
            .map(str::to_owned)
            .to_vec(),
        connect_timeout: limit,
        ..sshd.settings()
    };
    (settings, pid)
}

fn pid_in(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Waits for a proxy to start; its process id.
async fn started(path: &Path) -> u32 {
    loop {
        if let Some(pid) = pid_in(path) {
            return pid;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_silent_proxy_hits_the_limit_and_leaves_nothing() {
    let sshd = Sshd::start("");
    let (settings, pid) = silent_proxy(&sshd, Duration::from_secs(3));
    let began = Instant::now();
    let late = error(&OpenSsh::new(settings), &sshd.host()).await;
    assert!(
        matches!(
            late.kind,
            TransportErrorKind::TimedOut {
                phase: Phase::Connect,
                ..
            }
        ),
        "{late:?}"
    );
    // ssh itself would wait for 999 s.
    assert!(began.elapsed() < Duration::from_secs(20));
    let pid = pid_in(&pid).unwrap();
    wait_until("the proxy has gone", || !alive(pid));
}

#[tokio::test]
async fn a_cancelled_open_leaves_nothing() {
    let sshd = Sshd::start("");
    let (settings, pid) = silent_proxy(&sshd, Duration::from_secs(30));
    let ssh = OpenSsh::new(settings);
    let host = sshd.host();
    let pid = tokio::select! {
        _ = ssh.open(&host, AsConfigured) => panic!("the proxy has answered"),
        pid = started(&pid) => pid,
    };
    wait_until("the proxy has gone", || !alive(pid));
    // And the lock is free again.
    let mut channel = sshd.ssh().open(&host, AsConfigured).await.unwrap();
    greet(&mut channel).await;
}

#[tokio::test]
async fn waiting_behind_another_is_limited_too() {
    let sshd = Sshd::start("");
    let (slow, pid) = silent_proxy(&sshd, Duration::from_secs(30));
    let (quick, _) = silent_proxy(&sshd, Duration::from_secs(2));
    let host = sshd.host();
    let first = tokio::spawn({
        let host = host.clone();
        async move { error(&OpenSsh::new(slow), &host).await }
    });
    started(&pid).await;
    let late = error(&OpenSsh::new(quick), &host).await;
    // Half the time behind the other one, then on a connection of its own.
    assert!(
        matches!(late.kind, TransportErrorKind::TimedOut { after, .. } if after.as_secs() < 15),
        "{late:?}"
    );
    assert!(!first.is_finished(), "the other one waits");
    first.abort();
}
