//! `trusted-public-keys`.

use crate::config::origin::Origin;
use crate::config::settings::{Key, Settings};
use crate::config::value::printable;
use crate::model::{KeyError, PublicKey};

/// The keys, each once. A word that is no key is left out with a warning: fewer keys accept less, never more,
/// and a typing error does not disable everything. (Nix itself refuses to substitute at all.)
pub(super) fn public_keys(settings: &Settings, warnings: &mut Vec<String>) -> Vec<PublicKey> {
    let mut keys: Vec<PublicKey> = Vec::new();
    for (word, origin) in settings.get(Key::TrustedPublicKeys).words() {
        match word.parse() {
            Ok(key) if keys.contains(&key) => {}
            Ok(key) => keys.push(key),
            Err(error) => warnings.push(warning(word, origin, error)),
        }
    }
    keys
}

/// Never shows what follows the colon: somebody may have put a secret key there.
fn warning(word: &str, origin: &Origin, error: KeyError) -> String {
    let setting = Key::TrustedPublicKeys.name();
    let name = word.split_once(':').map(|(name, _)| name);
    let named = match name {
        Some(name) if !name.is_empty() => format!("the key {:?}", printable(name)),
        _ => "a key without a name".to_owned(),
    };
    let advice = match error {
        KeyError::Secret => {
            "; a secret key that others could read must be replaced, 'nix key convert-secret-to-public' gives the public one"
        }
        _ => "",
    };
    format!(
        "{origin}: {setting}: {named} is ignored: {error} (expected NAME:BASE64, 32 bytes in base64{advice})"
    )
}
