//! User, name and port of a host spec; the grammar stands in the parent module.

use std::net::Ipv6Addr;

use percent_encoding::percent_decode_str;

use super::{Host, HostErrorKind};

/// Longest host name (RFC 1035) and, for want of a better figure, login name; in bytes.
const MAX_NAME_LEN: usize = 255;

const NAME_EXPECTED: &str = "1 to 255 characters of A-Za-z0-9._- that start with a letter, a digit or _, \
     or an IPv6 address in brackets";
pub(super) const PORT_EXPECTED: &str = "a number from 1 to 65535, once";
const USER_EXPECTED: &str = "1 to 255 characters of A-Za-z0-9._+@-, or percent-encoded also :%#=,~^/\\, \
     that do not start with - or end with \\";

/// What a login name may hold besides letters and digits. Domains (`alice@corp`, `CORP\\alice`) and
/// jump services (`alice@target#22`) have such names; those of ssh's own `valid_ruser` that a shell
/// would take for its own (ssh's `ProxyCommand` may hold the name) are not among them.
const USER_MARKS: &[u8] = b"._+-@:%#=,~^/\\";

/// Parses what stands before the parameters of `spec`: `[ssh://][user@]name[:port][/]`.
pub(super) fn parse(rest: &str) -> Result<Host, HostErrorKind> {
    let rest = strip_scheme(rest)?;
    let authority = match rest.split_once('/') {
        Some((authority, "")) => authority,
        Some((_, path)) => {
            return Err(HostErrorKind::part("path", &format!("/{path}"), "none"));
        }
        None => rest,
    };
    let (user, address) = match authority.rsplit_once('@') {
        Some((user, address)) => (Some(user), address),
        None => (None, authority),
    };
    let (name, port) = split_address(address)?;
    let mut host = Host::named(name);
    host.user = user.map(parse_user).transpose()?;
    host.port = port.map(parse_port).transpose()?;
    Ok(host)
}

fn strip_scheme(rest: &str) -> Result<&str, HostErrorKind> {
    match rest.split_once("://") {
        Some(("ssh", rest)) => Ok(rest),
        Some((scheme, _)) => Err(HostErrorKind::part("scheme", scheme, "ssh")),
        None => Ok(rest),
    }
}

/// Splits `name:port`, `[v6]:port`; gives the validated name and the raw port.
fn split_address(address: &str) -> Result<(String, Option<&str>), HostErrorKind> {
    let refused = |name: &str| HostErrorKind::part("name", name, NAME_EXPECTED);
    if let Some(rest) = address.strip_prefix('[') {
        let (inner, after) = rest.split_once(']').ok_or_else(|| refused(address))?;
        let name = parse_v6(inner).ok_or_else(|| refused(address))?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((name, Some(port))),
            None if after.is_empty() => Ok((name, None)),
            None => Err(refused(address)),
        };
    }
    let (name, port) = match address.split_once(':') {
        // Two colons: an IPv6 address without brackets, whose end could as well be a port.
        Some((_, port)) if port.contains(':') => return Err(refused(address)),
        Some((name, port)) => (name, Some(port)),
        None => (address, None),
    };
    if !is_name(name) {
        return Err(refused(name));
    }
    Ok((name.to_owned(), port))
}

fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME_LEN
        && name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// What stands between the brackets, in the address's canonical spelling. A zone follows `%`, in
/// URLs `%25` (RFC 6874).
fn parse_v6(inner: &str) -> Option<String> {
    let (address, zone) = match inner.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (inner, None),
    };
    let address: Ipv6Addr = address.parse().ok()?;
    let Some(zone) = zone else {
        return Some(address.to_string());
    };
    let zone = match zone.strip_prefix("25") {
        Some(decoded) if !decoded.is_empty() => decoded,
        _ => zone,
    };
    let valid = !zone.is_empty()
        && zone.len() <= MAX_NAME_LEN
        && zone
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    valid.then(|| format!("{address}%{zone}"))
}

fn parse_user(raw: &str) -> Result<String, HostErrorKind> {
    let decoded = decode(raw);
    let is_user = |user: &String| {
        user.len() <= MAX_NAME_LEN
            && !user.is_empty()
            && !user.starts_with('-')
            && !user.ends_with('\\')
            && user
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || USER_MARKS.contains(&b))
    };
    // In a URL a password would follow a plain colon.
    if let Some(user) = decoded.as_ref().filter(|user| is_user(user))
        && !raw.contains(':')
    {
        return Ok(user.clone());
    }
    let user = decoded.unwrap_or_else(|| raw.to_owned());
    Err(HostErrorKind::part("user", &user, USER_EXPECTED))
}

/// A port, as it stands after the colon or in Lix's `port` parameter.
pub(super) fn parse_port(raw: &str) -> Result<u16, HostErrorKind> {
    // Digits are checked by hand: Rust's own parser would take "+22".
    let digits = raw.bytes().all(|b| b.is_ascii_digit());
    match raw.parse::<u16>() {
        Ok(port) if digits && port != 0 => Ok(port),
        _ => Err(HostErrorKind::part("port", raw, PORT_EXPECTED)),
    }
}

/// Percent-decodes; `None` where an escape is malformed or the outcome is not UTF-8.
pub(super) fn decode(text: &str) -> Option<String> {
    let well_formed = text.split('%').skip(1).all(|rest| {
        rest.as_bytes()
            .get(..2)
            .is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    if !well_formed {
        return None;
    }
    let decoded = percent_decode_str(text).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Host, HostErrorKind};

    fn error(spec: &str) -> String {
        match Host::parse(spec) {
            Ok(host) => panic!("{spec:?} became {host:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn reads_every_form() {
        for (spec, user, name, port) in [
            ("a", None, "a", None),
            ("a.example.org", None, "a.example.org", None),
            ("_x-1", None, "_x-1", None),
            ("192.0.2.1:22", None, "192.0.2.1", Some(22)),
            ("u@a", Some("u"), "a", None),
            ("u.v_w+x-1@a:2222", Some("u.v_w+x-1"), "a", Some(2222)),
            ("ssh://a", None, "a", None),
            ("ssh://a/", None, "a", None),
            ("ssh://a?", None, "a", None),
            ("ssh://u%2Dv@a:65535", Some("u-v"), "a", Some(65535)),
            ("ssh://u%40v@a", Some("u@v"), "a", None),
            ("u@v@a:22", Some("u@v"), "a", Some(22)),
            ("u@v@[::1]", Some("u@v"), "::1", None),
            ("ssh://u%40t%2322%3Ax@a", Some("u@t#22:x"), "a", None),
            ("ssh://V%5cu@a", Some("V\\u"), "a", None),
            ("V\\u@a", Some("V\\u"), "a", None),
            ("ssh://u%2fv%25w@a", Some("u/v%w"), "a", None),
            ("u@[::1]:2222", Some("u"), "::1", Some(2222)),
            ("ssh://[2001:DB8::1]", None, "2001:db8::1", None),
            ("[fe80::1%eth0.5]", None, "fe80::1%eth0.5", None),
            ("ssh://[fe80::1%25eth0]:1", None, "fe80::1%eth0", Some(1)),
        ] {
            let host = Host::parse(spec).unwrap();
            let mut expected = Host::named(name.to_owned());
            expected.user = user.map(str::to_owned);
            expected.port = port;
            assert_eq!(host, expected, "{spec}");
        }
    }

    #[test]
    fn refuses_what_is_no_name() {
        for spec in [
            "",
            "-v",
            "-oProxyCommand=x",
            ".",
            "..",
            ".a",
            "a b",
            "a\n",
            "a\u{0}",
            "a;b",
            "a$b",
            "a`b",
            "a'b",
            "a*",
            "a,b",
            "bücher.example",
            "ssh://",
            "u@",
            "ssh://u@:22",
            "::1",
            "fe80::1:22",
            "[::1",
            "[::1]22",
            "[a]",
            "[]",
            "[::1%]",
            "[::1%e;f]",
            "[1.2.3.4]",
            "a%41",
            "a#b",
        ] {
            let error = error(spec);
            assert!(error.contains("has the name"), "{error}");
        }
        assert!(Host::parse(&"a".repeat(255)).is_ok());
        assert!(Host::parse(&"a".repeat(256)).is_err());
        let long = format!("ssh://a?system-features={}", "x".repeat(4096));
        assert!(
            matches!(Host::parse(&long), Err(error) if error.kind == HostErrorKind::TooLong(4096))
        );
    }

    #[test]
    fn refuses_what_is_no_user() {
        for spec in [
            "@a",
            "-l@a",
            "u v@a",
            "u:password@a",
            "ssh://%2dl@a",
            "u%5c@a",
            "ssh://u%24%28v%29@a",
            "ssh://u%3bv@a",
            "ssh://u%27@a",
            "ssh://u%20-v@a",
            "ssh://u%0a@a",
            "ssh://u%4@a",
            "ssh://u%zz@a",
            "ssh://%ff@a",
            "$u@a",
            "ü@a",
        ] {
            let error = error(spec);
            assert!(error.contains("has the user"), "{error}");
        }
    }

    #[test]
    fn refuses_what_is_no_port() {
        for spec in [
            "a:", "a:0", "a:65536", "a:+22", "a:-1", "a:ssh", "[::1]:", "a: 22",
        ] {
            let error = error(spec);
            assert!(error.contains("has the port"), "{error}");
        }
    }

    #[test]
    fn refuses_other_stores_and_paths() {
        for (spec, why) in [
            ("ssh-ng://a", "scheme \"ssh-ng\": expected ssh"),
            ("https://a", "scheme \"https\""),
            ("SSH://a", "scheme \"SSH\""),
            ("ssh://a/nix", "path \"/nix\""),
            ("a/b", "path \"/b\""),
            ("/nix/store", "path \"/nix/store\""),
        ] {
            let error = error(spec);
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn messages_are_short_and_hold_no_control_characters() {
        let error = error(&format!("\u{1b}[31m{}", "x".repeat(1000)));
        assert!(error.len() < 800, "{error}");
        assert!(!error.contains('\u{1b}'), "{error}");
    }

    /// Strings that get further into the parser than wholly arbitrary ones.
    fn near_misses() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("ssh://".to_owned()),
            Just("[::1]".to_owned()),
            Just("%25".to_owned()),
            Just("?priority=1".to_owned()),
            "[-a-zA-Z0-9._@:%?=&/\\[\\] ]{1,3}",
            "[a-z]{1,8}",
            "\\PC",
        ];
        prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
    }

    fn check(spec: &str) -> Result<(), TestCaseError> {
        let Ok(host) = Host::parse(spec) else {
            return Ok(());
        };
        prop_assert!(!host.name.is_empty() && !host.name.starts_with('-'));
        let v6 = host.name.contains(':');
        let allowed =
            |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c) || (v6 && ":%".contains(c));
        prop_assert!(host.name.chars().all(allowed), "{:?}", host.name);
        if let Some(user) = &host.user {
            prop_assert!(!user.is_empty() && !user.starts_with('-'));
            let allowed = |c: char| c.is_ascii_alphanumeric() || "._+-@:%#=,~^/\\".contains(c);
            prop_assert!(user.chars().all(allowed), "{user:?}");
        }
        let again = Host::parse(&host.to_string()).unwrap();
        prop_assert!(again.same_as(&host));
        Ok(())
    }

    proptest! {
        #[test]
        fn whatever_comes_never_yields_an_unsafe_host(spec in any::<String>()) {
            check(&spec)?;
        }

        #[test]
        fn near_misses_never_yield_an_unsafe_host(spec in near_misses()) {
            check(&spec)?;
        }

        #[test]
        fn what_is_a_host_parses(
            user in "[a-zA-Z0-9._+@][a-zA-Z0-9._+@-]{0,20}",
            name in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,40}",
            port in 1u16..,
        ) {
            let host = Host::parse(&format!("{user}@{name}:{port}")).unwrap();
            prop_assert_eq!(host.user, Some(user));
            prop_assert_eq!(host.name, name);
            prop_assert_eq!(host.port, Some(port));
        }
    }
}
