//! A host as the URL that it is read from.

use std::fmt::Write;

use data_encoding::BASE64;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Compression, CompressionMode, DeltaMode, Host};

/// Characters that are percent-encoded in values: all but those that mean nothing anywhere.
const NOT_IN_A_VALUE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'.')
    .remove(b'_')
    .remove(b'-')
    .remove(b'/');

impl Host {
    /// The URL with all parameters that are not the default: [`Host::parse`] makes the same host of it.
    #[must_use]
    pub fn url(&self) -> String {
        // Taken apart, so that a new parameter is not forgotten.
        let Self {
            name: _,
            user: _,
            port: _,
            ssh_key,
            public_host_key,
            compress,
            compression: Compression { mode, level },
            limit_rate,
            delta,
            remote_program,
            remote_store,
            trusted,
            priority,
            max_connections,
        } = self;
        let default = Self::named(String::new());
        let program = remote_program.join(" ");
        let text = |value: &dyn ToString| Some(value.to_string());
        let set = |value: &bool| value.then(|| "true".to_owned());
        let params = [
            (
                "ssh-key",
                ssh_key
                    .as_ref()
                    .map(|key| key.to_string_lossy().into_owned()),
            ),
            (
                "base64-ssh-public-host-key",
                public_host_key
                    .as_ref()
                    .map(|key| BASE64.encode(key.as_bytes())),
            ),
            ("compress", set(compress)),
            (
                "compression",
                match mode {
                    CompressionMode::Auto => None,
                    CompressionMode::Zstd => Some("zstd".to_owned()),
                    CompressionMode::None => Some("none".to_owned()),
                },
            ),
            (
                "compression-level",
                text(level).filter(|_| *level != default.compression.level),
            ),
            (
                "limit-rate",
                limit_rate.as_ref().and_then(|rate| text(rate)),
            ),
            (
                "delta",
                match delta {
                    DeltaMode::Auto => None,
                    DeltaMode::Always => Some("always".to_owned()),
                    DeltaMode::Off => Some("off".to_owned()),
                },
            ),
            (
                "remote-program",
                Some(program).filter(|_| *remote_program != default.remote_program),
            ),
            ("remote-store", remote_store.clone()),
            (
                "priority",
                priority.as_ref().and_then(|number| text(number)),
            ),
            ("trusted", set(trusted)),
            (
                "max-connections",
                text(max_connections).filter(|_| *max_connections != default.max_connections),
            ),
        ];
        let mut url = format!("ssh://{self}");
        let mut separator = '?';
        for (name, value) in params {
            if let Some(value) = value {
                let value = utf8_percent_encode(&value, NOT_IN_A_VALUE);
                let _ = write!(url, "{separator}{name}={value}");
                separator = '&';
            }
        }
        url
    }
}

#[cfg(test)]
mod tests {
    use super::Host;

    #[test]
    fn the_same_host_is_read_from_it() {
        let key = "base64-ssh-public-host-key=c3NoLWVkMjU1MTkgQUFBQUMzTnphQzFsWkRJMU5URTVBQUFBSU5RdENIeEpIRWc1cHlqUXlqenlVUFoxS0tzQTFaNTcvZmxzaEdKVlhrOVE%3D";
        for (spec, url) in [
            ("a", "ssh://a"),
            (
                "ssh://u%40corp@[::1]:2222?max-connections=16",
                "ssh://u@corp@[::1]:2222",
            ),
            (
                "a?remote-program=serve --me&trusted=true&ssh-key=/k%25 y&priority=-3",
                "ssh://a?ssh-key=/k%25%20y&remote-program=serve%20--me&priority=-3&trusted=true",
            ),
            (
                "a?compress=true&compression=none&compression-level=7&delta=off&limit-rate=2M",
                "ssh://a?compress=true&compression=none&compression-level=7&limit-rate=2097152&delta=off",
            ),
            (
                "a?compression=zstd&delta=always&remote-store=/x&max-connections=3",
                "ssh://a?compression=zstd&delta=always&remote-store=/x&max-connections=3",
            ),
        ] {
            let host = Host::parse(spec).unwrap();
            assert_eq!(host.url(), url, "{spec}");
            assert_eq!(Host::parse(&host.url()).unwrap(), host, "{spec}");
        }
        let host = Host::parse(&format!("a?{key}")).unwrap();
        assert_eq!(Host::parse(&host.url()).unwrap(), host);
        assert!(host.public_host_key.is_some());
    }
}
