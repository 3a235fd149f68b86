//! Commands for a host, spelled out to be pasted.

use std::path::Path;

use crate::config::Host;

/// A host as it stands in messages, taken apart again.
pub(super) struct Login<'a> {
    text: &'a str,
    host: Option<Host>,
}

impl<'a> Login<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        let host = Host::parse(text).ok();
        Self { text, host }
    }

    /// `-p PORT USER@NAME`
    pub(super) fn words(&self, port_flag: &str) -> String {
        let Some(host) = &self.host else {
            return self.text.to_owned();
        };
        let port = host.port.map(|port| format!("{port_flag} {port} "));
        let port = port.unwrap_or_default();
        // ssh takes what is behind the last `@` for the host, and decodes nothing.
        let login = match &host.user {
            Some(user) => format!("{user}@{}", host.name),
            None => host.name.clone(),
        };
        format!("{port}{}", shell_words::quote(&login))
    }

    /// `ssh … COMMAND`
    pub(super) fn ssh(&self, command: &str) -> String {
        format!("ssh {} {command}", self.words("-p"))
    }

    /// A log-in that tells what it does.
    pub(super) fn verbose_ssh(&self) -> String {
        format!("ssh -v {} true", self.words("-p"))
    }

    pub(super) fn copy_id(&self, key: Option<&Path>) -> String {
        let key = key.map(|key| {
            let key = key.to_string_lossy();
            format!("-i {} ", shell_words::quote(&key))
        });
        format!(
            "ssh-copy-id {}{}",
            key.unwrap_or_default(),
            self.words("-p")
        )
    }

    pub(super) fn keyscan(&self) -> String {
        let mut bare = Self::of(self.text);
        if let Some(host) = &mut bare.host {
            host.user = None;
        }
        format!("ssh-keyscan {}", bare.words("-p"))
    }

    /// `[NAME]:PORT`, as known_hosts has it.
    pub(super) fn known_as(&self) -> String {
        match &self.host {
            Some(Host {
                name,
                port: Some(port),
                ..
            }) => format!("[{name}]:{port}"),
            Some(host) => host.name.clone(),
            None => self.text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_hold_user_name_and_port() {
        assert_eq!(Login::of("h").ssh("true"), "ssh h true");
        assert_eq!(Login::of("u@h:22").ssh("true"), "ssh -p 22 u@h true");
        assert_eq!(Login::of("[::1]:22").ssh("true"), "ssh -p 22 ::1 true");
        assert_eq!(Login::of("u@v@h").ssh("true"), "ssh u@v@h true");
        assert_eq!(Login::of("V%5Cu@h").ssh("true"), "ssh 'V\\u@h' true");
        assert_eq!(
            Login::of("u@h:22").copy_id(Some(Path::new("/a b"))),
            "ssh-copy-id -i '/a b' -p 22 u@h"
        );
        assert_eq!(Login::of("u@h:22").keyscan(), "ssh-keyscan -p 22 h");
        assert_eq!(Login::of("u@h:22").known_as(), "[h]:22");
    }
}
