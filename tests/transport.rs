//! The transport over ssh against a real sshd.

mod transport_support;

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ssh_substituter::config::host::Host;
use ssh_substituter::transport::{OpenSsh, Program, SshSettings, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use transport_support::{Sshd, ThrowAwayUser, alive, control, finish, greet, is_root, wait_until};

use Program::{AsConfigured, InUsualPlaces};

#[tokio::test]
async fn channels_and_processes_share_one_master() {
    let sshd = Sshd::start("");
    let ssh = sshd.ssh();
    let mut first = ssh.open(&sshd.host(), AsConfigured).await.unwrap();
    let mut second = ssh.open(&sshd.host(), AsConfigured).await.unwrap();
    greet(&mut first).await;
    greet(&mut second).await;
    let (_, _, status) = finish(first).await;
    assert_eq!(status, Some(0));
    drop((second, ssh));
    // As another process would.
    let mut third = sshd.ssh().open(&sshd.host(), AsConfigured).await.unwrap();
    greet(&mut third).await;
    assert_eq!(sshd.logins(), 1, "{}", sshd.log());
}

#[tokio::test]
async fn ten_that_begin_together_start_one_master() {
    let sshd = Sshd::start("MaxSessions 20");
    let opens = (0..10).map(|_| {
        let (ssh, host) = (sshd.ssh(), sshd.host());
        tokio::spawn(async move { ssh.open(&host, AsConfigured).await })
    });
    let opens: Vec<_> = opens.collect();
    let mut channels = Vec::new();
    for open in opens {
        channels.push(open.await.unwrap().unwrap());
    }
    for channel in &mut channels {
        greet(channel).await;
    }
    assert_eq!((sshd.logins(), sshd.masters().len()), (1, 1));
}

#[tokio::test]
async fn a_ninth_channel_gets_a_second_master() {
    let sshd = Sshd::start("");
    let ssh = sshd.ssh();
    let mut channels = Vec::new();
    for _ in 0..9 {
        channels.push(ssh.open(&sshd.host(), AsConfigured).await.unwrap());
    }
    for channel in &mut channels {
        greet(channel).await;
    }
    assert_eq!(sshd.masters().len(), 2);
    channels.clear();
    let _again = ssh.open(&sshd.host(), AsConfigured).await.unwrap();
    assert_eq!(sshd.logins(), 2);
}

#[tokio::test]
async fn a_master_that_others_have_filled_is_passed_over() {
    let sshd = Sshd::start("MaxSessions 2");
    let (theirs, ours) = (sshd.ssh(), sshd.ssh());
    let _first = theirs.open(&sshd.host(), AsConfigured).await.unwrap();
    let _second = theirs.open(&sshd.host(), AsConfigured).await.unwrap();
    let mut third = ours.open(&sshd.host(), AsConfigured).await.unwrap();
    greet(&mut third).await;
    assert_eq!(sshd.masters().len(), 2);
}

#[tokio::test]
async fn stale_sockets_are_replaced() {
    let sshd = Sshd::start("");
    drop(sshd.ssh().open(&sshd.host(), AsConfigured).await.unwrap());
    let socket = sshd.sockets().remove(0);
    control(&socket, "exit");
    wait_until("the master has gone", || !socket.exists());
    // Nobody listens at it, as after a crash.
    drop(UnixListener::bind(&socket).unwrap());
    let mut channel = sshd.ssh().open(&sshd.host(), AsConfigured).await.unwrap();
    greet(&mut channel).await;
    assert_eq!(sshd.logins(), 2);
}

#[tokio::test]
async fn a_master_with_a_dead_connection_is_replaced_in_time() {
    let sshd = Sshd::start("");
    let settings = SshSettings {
        connect_timeout: Duration::from_secs(8),
        ..sshd.settings()
    };
    let ssh = OpenSsh::new(settings);
    let mut channel = ssh
        .open(&sshd.host_running("echo $PPID; exec cat"), AsConfigured)
        .await
        .unwrap();
    let pid = read_line(&mut channel.stdout).await;
    // The session's sshd stands still: packets are taken by the kernel and never answered.
    signal("STOP", &pid);
    let opened = ssh.open(&sshd.host(), AsConfigured).await;
    signal("CONT", &pid);
    // Opened within the time for connecting, or it has failed.
    greet(&mut opened.unwrap()).await;
    assert_eq!(sshd.logins(), 2);
}

/// A stopped master keeps its sockets: nothing ends, and nothing is answered.
#[tokio::test]
async fn a_master_that_is_stopped_is_replaced_in_time() {
    let sshd = Sshd::start("");
    let ssh = sshd.ssh();
    let mut held = ssh.open(&sshd.host(), AsConfigured).await.unwrap();
    greet(&mut held).await;
    let pid = sshd.masters()[0].to_string();
    signal("STOP", &pid);
    let began = Instant::now();
    // By a process that has a channel on it, and by one that has not.
    let (one, two) = (sshd.host(), sshd.host());
    let other = sshd.ssh();
    let opened = tokio::join!(ssh.open(&one, AsConfigured), other.open(&two, AsConfigured));
    let stops = tokio::time::timeout(Duration::from_secs(20), held.child.link_unresponsive());
    let process = stops.await.expect("noticed");
    let took = began.elapsed();
    signal("CONT", &pid);
    let (mut one, mut two) = (opened.0.unwrap(), opened.1.unwrap());
    greet(&mut one).await;
    greet(&mut two).await;
    assert!(process.starts_with("the ssh process behind "), "{process}");
    assert!(held.child.is_link_unresponsive() && !one.child.is_link_unresponsive());
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_eq!(sshd.logins(), 2);
}

#[tokio::test]
async fn a_forced_command_serves() {
    let sshd = Sshd::start("ForceCommand nix-store --serve");
    let mut channel = sshd
        .ssh()
        .open(&sshd.host_running("exit 9"), AsConfigured)
        .await
        .unwrap();
    greet(&mut channel).await;
}

#[tokio::test]
async fn the_default_command_passes_a_wrapper_with_a_whitelist() {
    let sshd = Sshd::start(
        "ForceCommand test \"$SSH_ORIGINAL_COMMAND\" = 'nix-store --serve' && exec nix-store --serve",
    );
    let mut channel = sshd.ssh().open(&sshd.host(), AsConfigured).await.unwrap();
    greet(&mut channel).await;
}

#[tokio::test]
async fn nix_is_found_in_its_usual_places_under_every_login_shell() {
    if !is_root() {
        return;
    }
    // A PATH with a shell and nothing else.
    let bin = tempfile::tempdir().unwrap();
    fs::set_permissions(
        bin.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    std::os::unix::fs::symlink("/bin/sh", bin.path().join("sh")).unwrap();
    let sshd = Sshd::start(&format!("SetEnv PATH={}", bin.path().display()));
    let shells = ["/bin/sh", "/bin/bash", "/usr/bin/fish", "/usr/bin/tcsh"];
    for shell in shells.into_iter().filter(|shell| Path::new(shell).exists()) {
        let user = ThrowAwayUser::new(shell);
        let host = Host {
            user: Some(user.name.clone()),
            ..sshd.host()
        };
        let ssh = sshd.ssh();
        let (out, err, status) = finish(ssh.open(&host, AsConfigured).await.unwrap()).await;
        // tcsh has its own idea of a missing command's status.
        let expected = if shell.ends_with("tcsh") { 1 } else { 127 };
        assert_eq!(
            (out.as_str(), status),
            ("", Some(expected)),
            "{shell}: {err}"
        );

        user.install_nix_store();
        let mut channel = ssh.open(&host, InUsualPlaces).await.unwrap();
        greet(&mut channel).await;

        let host = Host {
            remote_program: [
                "sh",
                "-c",
                r#"echo "$0" "$1" "$@""#,
                "a b$c",
                "*?{x,y}~;&|<>()#",
            ]
            .map(str::to_owned)
            .to_vec(),
            remote_store: Some("/with space/$HOME".into()),
            ..host
        };
        for program in [AsConfigured, InUsualPlaces] {
            let (out, err, status) = finish(ssh.open(&host, program).await.unwrap()).await;
            assert_eq!(
                out, "a b$c *?{x,y}~;&|<>()# *?{x,y}~;&|<>()# --serve --store /with space/$HOME\n",
                "{shell}: {err}"
            );
            assert_eq!(status, Some(0), "{shell}: {err}");
        }
    }
}

#[tokio::test]
async fn an_idle_master_goes_away() {
    let sshd = Sshd::start("");
    let settings = SshSettings {
        idle_timeout: Duration::from_secs(1),
        ..sshd.settings()
    };
    let mut channel = OpenSsh::new(settings)
        .open(&sshd.host(), AsConfigured)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    // Not while it is used.
    greet(&mut channel).await;
    let master = sshd.masters()[0];
    drop(channel);
    wait_until("the master has gone", || !alive(master));
    assert_eq!(sshd.sockets(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn dropping_the_channel_ends_the_remote() {
    let sshd = Sshd::start("");
    let ssh = sshd.ssh();
    // One that only waits for input, and one that only writes.
    for script in [
        "echo $$; exec nix-store --serve",
        "echo $$; exec cat /dev/zero",
    ] {
        let mut channel = ssh
            .open(&sshd.host_running(script), AsConfigured)
            .await
            .unwrap();
        let pid: u32 = read_line(&mut channel.stdout).await.parse().unwrap();
        assert!(alive(pid));
        // The child alone is enough, whoever still holds the streams.
        let stdin = channel.stdin;
        drop(channel.child);
        wait_until("the remote program has gone", || !alive(pid));
        drop(stdin);
    }
}

#[tokio::test]
async fn a_connection_that_breaks_ends_the_channel() {
    let sshd = Sshd::start("");
    let ssh = sshd.ssh();
    let mut channel = ssh
        .open(&sshd.host_running("echo $PPID; exec cat"), AsConfigured)
        .await
        .unwrap();
    let pid = read_line(&mut channel.stdout).await;
    signal("KILL", &pid);
    let mut rest = Vec::new();
    channel.stdout.read_to_end(&mut rest).await.unwrap();
    assert_eq!(channel.child.wait().await, None);
    // And the next one finds its way.
    greet(&mut ssh.open(&sshd.host(), AsConfigured).await.unwrap()).await;
}

#[tokio::test]
async fn the_masters_streams_hold_nothing_of_ours() {
    let sshd = Sshd::start("");
    let channel = sshd.ssh().open(&sshd.host(), AsConfigured).await.unwrap();
    drop(channel);
    let master = sshd.masters()[0];
    // A session of its own: neither a Ctrl-C nor a closed terminal reaches it.
    assert_ne!(session_of(master), session_of(std::process::id()));
    for number in 0..3 {
        let target = fs::read_link(format!("/proc/{master}/fd/{number}")).unwrap();
        assert_eq!(target, Path::new("/dev/null"), "{number}");
    }
}

#[tokio::test]
async fn large_data_comes_through_unchanged() {
    let sshd = Sshd::start("");
    let mut channel = sshd
        .ssh()
        .open(&sshd.host_running("exec cat"), AsConfigured)
        .await
        .unwrap();
    let data: Vec<u8> = (0..8_000_000_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let (mut stdin, sent) = (channel.stdin, data.clone());
    let writing = tokio::spawn(async move {
        stdin.write_all(&sent).await.unwrap();
        stdin.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    channel.stdout.read_to_end(&mut back).await.unwrap();
    writing.await.unwrap();
    assert!(back == data);
    assert_eq!(channel.child.wait().await, Some(0));
}

#[tokio::test]
async fn the_users_configuration_counts_but_not_against_us() {
    let sshd = Sshd::start("");
    let config = format!(
        "Host alias\n HostName 127.0.0.1\n Port {}\n ControlMaster auto\n ControlPath {}\n \
         ControlPersist no\n RemoteCommand exit 7\n RequestTTY force\n LogLevel QUIET\n \
         UserKnownHostsFile /dev/null\n",
        sshd.port,
        sshd.at("theirs").display()
    );
    fs::write(sshd.at("ssh_config"), config).unwrap();
    let settings = SshSettings {
        ssh_options: vec!["-F".into(), sshd.at("ssh_config").display().to_string()],
        ..sshd.settings()
    };
    let host = Host {
        name: "alias".into(),
        port: None,
        ..sshd.host()
    };
    let ssh = OpenSsh::new(settings);
    greet(&mut ssh.open(&host, AsConfigured).await.unwrap()).await;
    assert!(!sshd.at("theirs").exists());
    assert_eq!(sshd.masters().len(), 1);
}

fn session_of(pid: u32) -> String {
    let ps = Command::new("ps")
        .args(["-o", "sid=", "-p", &pid.to_string()])
        .output();
    String::from_utf8(ps.unwrap().stdout).unwrap()
}

async fn read_line(from: &mut (dyn tokio::io::AsyncRead + Send + Unpin)) -> String {
    let mut line = Vec::new();
    loop {
        match from.read_u8().await.unwrap() {
            b'\n' => return String::from_utf8(line).unwrap(),
            byte => line.push(byte),
        }
    }
}

/// To one process, by its id.
fn signal(name: &str, pid: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), pid])
        .status()
        .unwrap();
    assert!(sent.success());
}
