//! `/`: a page for people, without scripts.

use std::fmt::Write as _;

use super::status::{Served, Status};

/// What a browser may do with the page: nothing but show it.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; \
    frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

const HEAD: &str = "<!DOCTYPE html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width\">
<meta http-equiv=\"refresh\" content=\"5\">
<title>ssh-substituter</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222; background: #fff }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .3em .6em; border-bottom: 1px solid #ccc; overflow-wrap: anywhere }
td.number, th.number { text-align: right; white-space: nowrap }
pre { background: #eee; padding: .8em; overflow-x: auto }
.bad { color: #a00; font-weight: bold }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #222 } pre { background: #333 } .bad { color: #f88 } }
</style>
</head>
<body>
<h1>Binary cache over ssh</h1>
";

/// The page. `authority` is the address by which the browser came; `signs` names the key that signs what is served.
pub(super) fn render(
    status: &Status,
    served: Served,
    authority: &str,
    signs: Option<&str>,
) -> String {
    let mut page = HEAD.to_owned();
    put_usage(&mut page, authority, signs);
    put_hosts(&mut page, status);
    put_transfers(&mut page, status);
    let Served {
        narinfos,
        narinfos_missing,
        nars,
        bytes,
    } = served;
    // Writing to a string cannot fail.
    let _ = write!(
        page,
        "<h2>Served since the start</h2>\n<table>\n\
         <tr><td>Paths that clients asked about, and hosts have</td><td class=\"number\">{narinfos}</td></tr>\n\
         <tr><td>Paths that no host has</td><td class=\"number\">{narinfos_missing}</td></tr>\n\
         <tr><td>NARs</td><td class=\"number\">{nars}</td></tr>\n\
         <tr><td>Bytes of NARs</td><td class=\"number\">{}</td></tr>\n</table>\n\
         <p>Numbers for Prometheus: <a href=\"/metrics\">/metrics</a></p>\n</body>\n</html>\n",
        size(bytes)
    );
    page
}

fn put_usage(page: &mut String, authority: &str, signs: Option<&str>) {
    let authority = escaped(authority);
    let _ = write!(
        page,
        "<h2>How to use it</h2>\n<p>In nix.conf:</p>\n<pre>extra-substituters = http://{authority}"
    );
    if let Some(key) = signs {
        let key = escaped(key);
        let _ = write!(page, "\nextra-trusted-public-keys = {key}");
    }
    page.push_str("</pre>\n");
    if signs.is_none() {
        page.push_str(
            "<p>Nothing is signed here (<code>http-signing-key</code> is not set): Nix accepts what a key that it trusts has \
             signed on the hosts, or everything with <code>?trusted=true</code> behind the URL.</p>\n",
        );
    }
}

fn put_hosts(page: &mut String, status: &Status) {
    page.push_str("<h2>Hosts</h2>\n");
    if status.hosts.is_empty() {
        page.push_str(
            "<p class=\"bad\">There are none: see <code>ssh-substituter-hosts</code>.</p>\n",
        );
        return;
    }
    page.push_str(
        "<table>\n<tr><th>Host</th><th>State</th><th class=\"number\">Latency</th><th class=\"number\">Throughput</th>\
         <th class=\"number\">Connections</th><th class=\"number\">Received</th></tr>\n",
    );
    for host in &status.hosts {
        let state = match host.is_well {
            true => "well",
            false => "<span class=\"bad\">failing</span>",
        };
        let latency = host
            .latency
            .map(|time| format!("{:.0} ms", time.as_secs_f64() * 1e3));
        let rate = host.rate.map(|rate| format!("{}/s", size(rate)));
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{state}</td><td class=\"number\">{}</td><td class=\"number\">{}</td>\
             <td class=\"number\">{}</td><td class=\"number\">{}</td></tr>",
            escaped(&host.name),
            latency.unwrap_or_default(),
            rate.unwrap_or_default(),
            host.connections,
            size(host.nar_bytes),
        );
    }
    page.push_str("</table>\n");
}

fn put_transfers(page: &mut String, status: &Status) {
    page.push_str("<h2>Transfers now</h2>\n");
    if status.transfers.is_empty() {
        page.push_str("<p>None.</p>\n");
        return;
    }
    page.push_str(
        "<table>\n<tr><th>Path</th><th>From</th><th class=\"number\">Of</th><th class=\"number\">Came</th>\
         <th class=\"number\">Time</th></tr>\n",
    );
    for transfer in &status.transfers {
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td>\
             <td class=\"number\">{:.0} s</td></tr>",
            escaped(&transfer.path),
            escaped(&transfer.host),
            size(transfer.size),
            size(transfer.bytes),
            transfer.time.as_secs_f64(),
        );
    }
    page.push_str("</table>\n");
}

/// Text that is not ours, for HTML.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A number of bytes.
fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = units[0];
    for next in &units[1..] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::http::{HostStatus, TransferStatus};

    #[test]
    fn what_others_wrote_stays_text() {
        let evil = "<script>alert('\"&')</script>";
        let status = Status {
            hosts: vec![HostStatus {
                name: evil.to_owned(),
                ..HostStatus::default()
            }],
            transfers: vec![TransferStatus {
                path: evil.to_owned(),
                host: evil.to_owned(),
                bytes: 1,
                size: 2,
                time: Duration::ZERO,
            }],
            ..Status::default()
        };
        let page = render(&status, Served::default(), evil, Some(evil));
        assert!(!page.contains("<script"), "{page}");
        let text = "&lt;script&gt;alert(&#39;&quot;&amp;&#39;)&lt;/script&gt;";
        assert_eq!(page.matches(text).count(), 5, "{page}");
    }

    #[test]
    fn numbers_of_bytes_are_readable() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1 << 20, "1.0 MiB"),
            (1_610_612_736, "1.5 GiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
