//! ssh's configuration for a host, as `ssh -G` prints it: after all files and options, without connecting to anything.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::arguments::{self, MasterFiles};
use super::{environment, relative_paths};
use crate::config::host::Host;
use crate::transport::openssh::SshSettings;

/// How long `ssh -G` may take (`Match exec` may run anything).
pub(in crate::transport::openssh) const SSH_CONFIG_TIMEOUT: Duration = Duration::from_millis(500);

/// What `ssh -G` prints for a host; empty when it fails.
pub(in crate::transport::openssh) async fn configuration(
    host: &Host,
    settings: &SshSettings,
) -> String {
    let nowhere = Path::new("/dev/null");
    let paths = MasterFiles {
        socket: nowhere,
        log: nowhere,
        known_hosts: None,
    };
    printed(
        settings,
        arguments::master_arguments(host, settings, &paths),
    )
    .await
}

/// What `ssh -G` prints without any configuration.
pub(in crate::transport::openssh) async fn built_in_configuration(
    settings: &SshSettings,
) -> String {
    let words = ["-F", "/dev/null", "--", "localhost"];
    printed(settings, words.map(OsString::from).into()).await
}

async fn printed(settings: &SshSettings, words: Vec<OsString>) -> String {
    let mut command = tokio::process::Command::new(&settings.program);
    environment::prepare(&mut command, settings);
    let output = command
        .arg("-G")
        .args(words)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    output.map_or(String::new(), |output| {
        String::from_utf8_lossy(&output.stdout).into_owned()
    })
}

/// Further options for a host that make the relative paths in ssh's own configuration absolute. Takes as long as
/// `ssh -G` does.
pub(in crate::transport::openssh) async fn absolute_path_options(
    host: &Host,
    settings: &SshSettings,
) -> Vec<String> {
    let folder = std::env::current_dir().unwrap_or_default();
    if folder.as_os_str().is_empty() || folder == Path::new("/") {
        return Vec::new();
    }
    relative_paths::of_printed(&configuration(host, settings).await, &folder)
}
