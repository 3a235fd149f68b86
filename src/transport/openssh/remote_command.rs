//! The remote command as one line that login shells of every kind (sh, bash, zsh, fish, tcsh)
//! split into the same words.
//!
//! Only single quotes mean the same in all of them, and in fish and csh not for every character:
//! hence the words that cannot be passed at all. Simple words stay as they are, so that the default
//! is exactly `nix-store --serve`, which wrappers look for in `SSH_ORIGINAL_COMMAND`.

use crate::config::host::Host;
use crate::transport::{Program, TransportError, TransportErrorKind};

/// Adds where Nix usually is, then becomes its arguments. At the end of PATH, so that what the
/// host's owner has put first stays first.
const IN_USUAL_PLACES: &str = r#"PATH="$PATH:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin:$HOME/.nix-profile/bin"; export PATH; exec "$@""#;

/// The line that starts that program of `host`.
pub(super) fn line(host: &Host, program: Program) -> Result<String, TransportError> {
    if program == Program::Shell {
        return Ok("sh".to_owned());
    }
    let mut words: Vec<&str> = Vec::new();
    if matches!(
        program,
        Program::InUsualPlaces | Program::WithWriteInUsualPlaces
    ) {
        words.extend(["sh", "-c", IN_USUAL_PLACES, "sh"]);
    }
    words.extend(host.remote_program.iter().map(String::as_str));
    words.push("--serve");
    if matches!(
        program,
        Program::WithWrite | Program::WithWriteInUsualPlaces
    ) {
        words.push("--write");
    }
    if let Some(store) = &host.remote_store {
        words.extend(["--store", store]);
    }
    let mut line = String::new();
    for word in words {
        let bad = || TransportErrorKind::BadCommand(word.to_owned());
        let quoted = quote(word).ok_or_else(|| TransportError::new(host, bad()))?;
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&quoted);
    }
    Ok(line)
}

fn quote(word: &str) -> Option<String> {
    if word
        .chars()
        .any(|c| matches!(c, '\'' | '\\' | '!' | '`') || c.is_control())
    {
        return None;
    }
    // The home folder is for the remote shell to find.
    let (home, rest) = match word.strip_prefix("~/") {
        Some(rest) => ("~/", rest),
        None => ("", word),
    };
    // `=x` is a path search in zsh, `%x` a job.
    let simple = !(word.is_empty() || word.starts_with(['=', '%']))
        && rest
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_./:=@%+,-".contains(&b));
    Some(if simple {
        word.to_owned()
    } else {
        format!("{home}'{rest}'")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(program: &[&str], store: Option<&str>) -> Host {
        Host {
            remote_program: program.iter().map(|word| (*word).to_owned()).collect(),
            remote_store: store.map(str::to_owned),
            ..Host::parse("h").unwrap()
        }
    }

    #[test]
    fn the_default_is_exactly_what_wrappers_expect() {
        let host = host(&["nix-store"], None);
        assert_eq!(
            line(&host, Program::AsConfigured).unwrap(),
            "nix-store --serve"
        );
        let usual = line(&host, Program::InUsualPlaces).unwrap();
        assert!(usual.starts_with("sh -c 'PATH=\"$PATH:/run/"), "{usual}");
        assert!(
            usual.ends_with("exec \"$@\"' sh nix-store --serve"),
            "{usual}"
        );
        assert_eq!(line(&host, Program::Shell).unwrap(), "sh");
        assert_eq!(
            line(&host, Program::WithWrite).unwrap(),
            "nix-store --serve --write"
        );
        let usual = line(&host, Program::WithWriteInUsualPlaces).unwrap();
        assert!(
            usual.ends_with("exec \"$@\"' sh nix-store --serve --write"),
            "{usual}"
        );
    }

    #[test]
    fn words_are_quoted_only_when_they_must() {
        let host = host(&["~/my bin/nix-store", "=x", ""], Some("/a b$c"));
        assert_eq!(
            line(&host, Program::AsConfigured).unwrap(),
            "~/'my bin/nix-store' '=x' '' --serve --store '/a b$c'"
        );
        assert_eq!(quote("~/bin/x").unwrap(), "~/bin/x");
        assert_eq!(quote("~user").unwrap(), "'~user'");
    }

    #[test]
    fn words_that_shells_disagree_about_are_refused() {
        for word in ["it's", "a\\b", "hi!", "`id`", "a\nb"] {
            let error = line(&host(&["nix-store", word], None), Program::AsConfigured);
            let kind = error.unwrap_err().kind;
            assert!(matches!(kind, TransportErrorKind::BadCommand(_)), "{word}");
        }
    }
}
