//! Substituters of Nix over HTTP that are this program, and whether they answer.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::AREA;
use crate::commands::doctor::finding::Finding;
use crate::config::{Config, ConfigError, Origin, Sources, Value, nix_setting};
use crate::http::SERVER_NAME;

/// How long a server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// How much of an answer is read, in bytes.
const ANSWER_MAX: u64 = 4096;

/// A substituter of Nix over HTTP, on this machine.
#[derive(Debug, PartialEq, Eq)]
struct HttpSubstituter {
    url: String,
    origin: Origin,
    /// Address or name, and port.
    authority: String,
    trusted: bool,
}

/// What is known of a server.
enum Answer {
    /// It is this program; its version.
    Ours(String),
    /// It is something else.
    Other,
    /// There is none.
    Nobody(String),
}

/// What there is to say of all of them, and whether any is or may be this program: whether Nix checks signatures of what comes
/// that way, `None` when there is none.
pub(super) async fn check(
    sources: &Sources,
    config: &Config,
) -> Result<(Vec<Finding>, Option<bool>), ConfigError> {
    let (mut all, mut asks_for_signatures) = (Vec::new(), None);
    for substituter in substituters(sources)? {
        let answer = timeout(ANSWER_TIMEOUT, ask(&substituter.authority)).await;
        let answer = answer.unwrap_or_else(|_| {
            let seconds = ANSWER_TIMEOUT.as_secs();
            Answer::Nobody(format!("no answer within {seconds} s"))
        });
        let HttpSubstituter { url, origin, .. } = &substituter;
        match answer {
            Answer::Other => continue,
            Answer::Ours(version) => {
                let text = format!("{origin}: {url}: {SERVER_NAME} {version} answers there");
                all.push(Finding::ok(AREA, text));
            }
            Answer::Nobody(why) => all.push(Finding::error(
                AREA,
                format!("{origin}: nobody answers at {url}: {why}"),
                format!(
                    "start it: 'ssh-substituter http --listen {}', or as a service (docs/http.md)",
                    substituter.authority
                ),
            )),
        }
        let asks = !substituter.trusted;
        if asks && config.require_sigs && config.http_signing_key.is_none() {
            let text =
                format!("{url}: Nix takes only what is signed on the hosts, or content-addressed");
            all.push(Finding::note(AREA, text).fix(
                "set http-signing-key, so that one key is enough ('ssh-substituter key generate' makes it)",
            ));
        }
        asks_for_signatures = Some(asks || asks_for_signatures.unwrap_or_default());
    }
    Ok((all, asks_for_signatures))
}

/// All that are on this machine. Others are other machines' matter.
fn substituters(sources: &Sources) -> Result<Vec<HttpSubstituter>, ConfigError> {
    let values = nix_setting(sources, "substituters")?;
    let words = values.iter().flat_map(|Value { text, origin }| {
        let words = text.split_ascii_whitespace();
        words.filter_map(move |word| HttpSubstituter::parse(word, origin))
    });
    Ok(words.collect())
}

impl HttpSubstituter {
    fn parse(url: &str, origin: &Origin) -> Option<Self> {
        let rest = url.strip_prefix("http://")?;
        let (base, query) = rest.split_once('?').unwrap_or((rest, ""));
        let authority = base.trim_end_matches('/');
        let (host, port) = authority.rsplit_once(':')?;
        let _: u16 = port.parse().ok()?;
        let is_here = host == "localhost" || host == "[::1]" || host.starts_with("127.");
        let is_true = |value: &str| matches!(value, "true" | "yes" | "1");
        let mut parameters = query.split('&').filter_map(|pair| pair.split_once('='));
        is_here.then(|| Self {
            url: url.to_owned(),
            origin: origin.clone(),
            authority: authority.to_owned(),
            trusted: parameters.any(|(name, value)| name == "trusted" && is_true(value)),
        })
    }
}

/// Who serves there.
async fn ask(authority: &str) -> Answer {
    let exchange = async {
        let mut stream = TcpStream::connect(authority).await?;
        let request =
            format!("GET /healthz HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_MAX).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = match exchange.await {
        Ok(answer) => answer,
        Err(error) => return Answer::Nobody(error.to_string()),
    };
    let answer = String::from_utf8_lossy(&answer);
    let mut lines = answer.lines().filter_map(|line| line.split_once(": "));
    let server = lines.find(|(name, _)| name.eq_ignore_ascii_case("server"));
    let version =
        server.and_then(|(_, value)| value.trim().strip_prefix(SERVER_NAME)?.strip_prefix('/'));
    version.map_or(Answer::Other, |version| Answer::Ours(version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_on_this_machine_are_recognised() {
        let parse = |url: &str| HttpSubstituter::parse(url, &Origin::Flag("--option"));
        for (url, authority, trusted) in [
            ("http://127.0.0.1:5001", "127.0.0.1:5001", false),
            ("http://localhost:80/?trusted=true", "localhost:80", true),
            ("http://[::1]:5001?priority=1&trusted=1", "[::1]:5001", true),
            (
                "http://127.0.0.1:5001?trusted=false",
                "127.0.0.1:5001",
                false,
            ),
        ] {
            let substituter = parse(url).unwrap();
            assert_eq!(
                (&*substituter.authority, substituter.trusted),
                (authority, trusted)
            );
        }
        for other in [
            "https://127.0.0.1:5001",
            "http://cache.example.org:5001",
            "http://127.0.0.1",
            "http://127.0.0.1:x",
            "ssh://localhost",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
