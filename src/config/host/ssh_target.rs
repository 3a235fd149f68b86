//! Shell commands for a host, spelled out to be pasted: parts of hints.

use std::path::Path;

use super::Host;

/// The other way than a signature to have a host's paths accepted.
const TRUSTING: &str = "add trusted=true to the host's URL, which accepts all that it sends";

/// A host, taken apart again from its text in a message, as the argument of ssh commands.
pub struct SshTarget<'a> {
    text: &'a str,
    host: Option<Host>,
}

impl<'a> SshTarget<'a> {
    /// The host that `text` names; a text that names none stands for itself.
    #[must_use]
    pub fn of(text: &'a str) -> Self {
        let host = Host::parse(text).ok();
        Self { text, host }
    }

    /// `-p PORT USER@NAME`
    fn arguments(&self, port_flag: &str) -> String {
        let Some(host) = &self.host else {
            return self.text.to_owned();
        };
        let port = host.port.map(|port| format!("{port_flag} {port} "));
        let port = port.unwrap_or_default();
        // ssh takes what follows the last `@` for the host, and decodes nothing.
        let destination = match &host.user {
            Some(user) => format!("{user}@{}", host.name),
            None => host.name.clone(),
        };
        format!("{port}{}", shell_words::quote(&destination))
    }

    /// `ssh -p PORT USER@NAME COMMAND`
    #[must_use]
    pub fn ssh(&self, command: &str) -> String {
        format!("ssh {} {command}", self.arguments("-p"))
    }

    /// A verbose log-in.
    #[must_use]
    pub fn verbose_ssh(&self) -> String {
        format!("ssh -v {} true", self.arguments("-p"))
    }

    /// The command that lets the public key of this key file, or ssh's own choice, in.
    #[must_use]
    pub fn copy_id(&self, key: Option<&Path>) -> String {
        let key = key.map(|key| {
            let key = key.to_string_lossy();
            format!("-i {} ", shell_words::quote(&key))
        });
        format!(
            "ssh-copy-id {}{}",
            key.unwrap_or_default(),
            self.arguments("-p")
        )
    }

    /// The command that prints the host's keys.
    #[must_use]
    pub fn keyscan(&self) -> String {
        let mut bare = Self::of(self.text);
        if let Some(host) = &mut bare.host {
            host.user = None;
        }
        format!("ssh-keyscan {}", bare.arguments("-p"))
    }

    /// `[NAME]:PORT`, as known_hosts has it.
    #[must_use]
    pub fn known_as(&self) -> String {
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

    /// The command that signs a path there.
    fn sign(&self, path: &str) -> String {
        self.ssh(&format!(
            "nix store sign --key-file FILE --recursive {path}"
        ))
    }

    /// How to have a path accepted that no trusted key has signed.
    #[must_use]
    pub fn sign_or_trust(&self, path: &str) -> String {
        let sign = self.sign(path);
        format!(
            "sign there: '{sign}', and add the public key to trusted-public-keys; or {TRUSTING}"
        )
    }

    /// The same where a key is in trusted-public-keys already: the second half of a hint.
    #[must_use]
    pub fn sign_again_or_trust(&self, path: &str) -> String {
        format!("'{}'; or {TRUSTING}", self.sign(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_hold_user_name_and_port() {
        assert_eq!(SshTarget::of("h").ssh("true"), "ssh h true");
        assert_eq!(SshTarget::of("u@h:22").ssh("true"), "ssh -p 22 u@h true");
        assert_eq!(SshTarget::of("[::1]:22").ssh("true"), "ssh -p 22 ::1 true");
        assert_eq!(SshTarget::of("u@v@h").ssh("true"), "ssh u@v@h true");
        assert_eq!(SshTarget::of("V%5Cu@h").ssh("true"), "ssh 'V\\u@h' true");
        assert_eq!(
            SshTarget::of("u@h:22").copy_id(Some(Path::new("/a b"))),
            "ssh-copy-id -i '/a b' -p 22 u@h"
        );
        assert_eq!(SshTarget::of("u@h:22").keyscan(), "ssh-keyscan -p 22 h");
        assert_eq!(SshTarget::of("u@h:22").known_as(), "[h]:22");
    }
}
