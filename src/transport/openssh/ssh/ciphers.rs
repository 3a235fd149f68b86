//! Which cipher to ask for first.
//!
//! OpenSSH's own order begins with chacha20-poly1305, for machines that cannot do better. Where the
//! processor has instructions for AES, AES-GCM takes less than half of its time, on both sides. So
//! when nobody has chosen ciphers (no `ssh_config`, no policy of the system, no `NIX_SSHOPTS`), the
//! same ones are offered with AES-GCM first. None is added and none is left out.

use super::config::{built_in_configuration, configuration};
use crate::config::host::Host;
use crate::transport::openssh::SshSettings;

/// The first cipher in OpenSSH's own order.
const DEFAULT_FIRST_CIPHER: &str = "chacha20-poly1305@openssh.com";

/// The ciphers to move to the front.
const FASTER_CIPHERS: [&str; 2] = ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com"];

/// The option that asks for the faster ciphers first, where that may be done and helps.
pub(in crate::transport::openssh) async fn option(
    host: &Host,
    settings: &SshSettings,
) -> Option<String> {
    if !has_aes() {
        return None;
    }
    let (chosen, built_in) = tokio::join!(
        configuration(host, settings),
        built_in_configuration(settings)
    );
    let ciphers = reordered(list(&chosen)?, list(&built_in)?)?;
    Some(format!("Ciphers={ciphers}"))
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

/// The ciphers in the output of `ssh -G`.
fn list(configuration: &str) -> Option<&str> {
    let mut lines = configuration.lines();
    lines.find_map(|line| line.strip_prefix("ciphers "))
}

fn reordered(chosen: &str, built_in: &str) -> Option<String> {
    if chosen != built_in || !chosen.starts_with(DEFAULT_FIRST_CIPHER) {
        return None;
    }
    let all: Vec<&str> = chosen.split(',').collect();
    let is_faster = |cipher: &&str| FASTER_CIPHERS.contains(cipher);
    let (mut order, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(is_faster);
    if order.is_empty() {
        return None;
    }
    order.extend(rest);
    Some(order.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUILT_IN: &str = "chacha20-poly1305@openssh.com,aes128-ctr,aes256-ctr,\
                            aes128-gcm@openssh.com,aes256-gcm@openssh.com";

    #[test]
    fn the_same_ciphers_come_in_another_order() {
        assert_eq!(
            reordered(BUILT_IN, BUILT_IN).unwrap(),
            "aes128-gcm@openssh.com,aes256-gcm@openssh.com,\
             chacha20-poly1305@openssh.com,aes128-ctr,aes256-ctr"
        );
    }

    #[test]
    fn what_somebody_has_chosen_stays() {
        let chosen = "chacha20-poly1305@openssh.com,aes128-gcm@openssh.com";
        assert_eq!(reordered(chosen, BUILT_IN), None);
        let other_first = "aes128-ctr,aes128-gcm@openssh.com";
        assert_eq!(reordered(other_first, other_first), None);
        let without = "chacha20-poly1305@openssh.com,aes128-ctr";
        assert_eq!(reordered(without, without), None);
    }

    #[test]
    fn the_list_is_found_in_what_ssh_prints() {
        assert_eq!(list("user u\nciphers a,b\nmacs c\n"), Some("a,b"));
        assert_eq!(list("user u\n"), None);
    }
}
