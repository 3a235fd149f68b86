//! A serve loop in a child process on this machine: for the tests, and for stores that need no ssh.

use std::io;
use std::process::{Command, Stdio};

use async_trait::async_trait;

use super::closing_pipe::ClosingPipe;
use super::{Channel, Child, Program, Transport, TransportError};
use crate::config::host::Host;

type MakeCommand = dyn Fn(&Host) -> Command + Send + Sync;

/// Starts a local command for each channel.
pub struct ProcessTransport {
    command: Box<MakeCommand>,
    shell: Option<Box<MakeCommand>>,
    writes: bool,
}

impl ProcessTransport {
    /// `command` gives the serve program to run for a host; its stdin, stdout and stderr become
    /// pipes. There is no shell.
    pub fn new(command: impl Fn(&Host) -> Command + Send + Sync + 'static) -> Self {
        Self {
            command: Box::new(command),
            shell: None,
            writes: false,
        }
    }

    /// The same, where the command may write: it is also what runs as [`Program::WithWrite`].
    #[must_use]
    pub fn with_write(mut self) -> Self {
        self.writes = true;
        self
    }

    /// The same, with what `shell` gives as [`Program::Shell`].
    #[must_use]
    pub fn with_shell(mut self, shell: impl Fn(&Host) -> Command + Send + Sync + 'static) -> Self {
        self.shell = Some(Box::new(shell));
        self
    }
}

#[async_trait]
impl Transport for ProcessTransport {
    async fn open(&self, host: &Host, program: Program) -> Result<Channel, TransportError> {
        let command = match (program, &self.shell) {
            (Program::AsConfigured | Program::InUsualPlaces, _) => &self.command,
            (Program::Shell, Some(shell)) => shell,
            // Locally no account forbids the plain command, and there may be no shell.
            (Program::WithWrite, _) if self.writes => &self.command,
            (Program::WithWrite | Program::WithWriteInUsualPlaces, _) | (Program::Shell, None) => {
                return Ok(ended());
            }
        };
        let failed = |source| TransportError::local(host, "start the local program", source);
        let mut child = tokio::process::Command::from(command(host))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // The runtime also reaps what was killed on drop.
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let lost = || failed(io::ErrorKind::BrokenPipe.into());
        Ok(Channel {
            stdin: Box::new(ClosingPipe::new(child.stdin.take().ok_or_else(lost)?)),
            stdout: Box::new(child.stdout.take().ok_or_else(lost)?),
            stderr: Box::new(child.stderr.take().ok_or_else(lost)?),
            child: Box::new(LocalChild(child)),
            opened_in: None,
        })
    }
}

/// A channel to a program that has ended already.
fn ended() -> Channel {
    Channel {
        stdin: Box::new(tokio::io::sink()),
        stdout: Box::new(tokio::io::empty()),
        stderr: Box::new(tokio::io::empty()),
        child: Box::new(NoChild),
        opened_in: None,
    }
}

struct NoChild;

#[async_trait]
impl Child for NoChild {
    async fn wait(self: Box<Self>) -> Option<i32> {
        Some(1)
    }
}

struct LocalChild(tokio::process::Child);

#[async_trait]
impl Child for LocalChild {
    async fn wait(mut self: Box<Self>) -> Option<i32> {
        self.0.wait().await.ok()?.code()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn host() -> Host {
        Host::parse("here").unwrap()
    }

    fn shell(script: &'static str) -> ProcessTransport {
        ProcessTransport::new(move |_| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        })
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_shutdown_is_the_end_of_file() {
        let transport = shell("cat; echo done >&2; exit 3");
        let mut channel = transport
            .open(&host(), Program::AsConfigured)
            .await
            .unwrap();
        channel.stdin.write_all(b"two words").await.unwrap();
        channel.stdin.shutdown().await.unwrap();
        let (mut out, mut err) = (String::new(), String::new());
        channel.stdout.read_to_string(&mut out).await.unwrap();
        channel.stderr.read_to_string(&mut err).await.unwrap();
        assert_eq!((out.as_str(), err.as_str()), ("two words", "done\n"));
        assert_eq!(channel.child.wait().await, Some(3));
    }

    #[tokio::test]
    async fn dropping_the_channel_kills_and_reaps() {
        let transport = shell("echo $$; exec sleep 1000");
        let mut channel = transport
            .open(&host(), Program::AsConfigured)
            .await
            .unwrap();
        let mut pid = Vec::new();
        while pid.last() != Some(&b'\n') {
            pid.push(channel.stdout.read_u8().await.unwrap());
        }
        let entry = format!("/proc/{}", String::from_utf8(pid).unwrap().trim());
        assert!(Path::new(&entry).exists());
        drop(channel);
        for _ in 0..100 {
            if !Path::new(&entry).exists() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{entry} is still there");
    }

    #[tokio::test]
    async fn a_missing_program_is_an_error_with_its_cause() {
        let transport = ProcessTransport::new(|_| Command::new("/nowhere/to/be/found"));
        let error = transport.open(&host(), Program::AsConfigured).await.err();
        assert!(error.is_some_and(|error| error.is_local()));
    }
}
