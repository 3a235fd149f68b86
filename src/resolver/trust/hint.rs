//! How to have a path accepted that is refused.

use super::{Distrust, Why};
use crate::config::host::SshTarget;
use crate::hint::Hint;
use crate::model::SignatureError;

impl Hint for Distrust {
    /// Of the ways to have a path accepted, those that are left.
    fn hint(&self) -> Option<String> {
        let target = SshTarget::of(&self.host);
        let path = self.path.as_str();
        Some(match &self.why {
            // Nix 2.x takes no path without a hash from whoever answers it.
            Why::NoHash => "update Nix there; with Nix 1.x as the caller, trusted=true in the host's URL does as well".to_owned(),
            Why::Unproven(SignatureError::UnknownKeys(_)) => format!(
                "if you trust that key, add it to trusted-public-keys as NAME:BASE64; or sign there with one that stands in it: {}",
                target.sign_again_or_trust(path)
            ),
            Why::Unproven(SignatureError::Wrong(_)) => format!(
                "find out how the path came there; to have it all the same, sign it anew with a key that stands in trusted-public-keys: {}",
                target.sign_again_or_trust(path)
            ),
            Why::NoSize | Why::Unproven(SignatureError::Unsigned | SignatureError::Malformed) => {
                target.sign_or_trust(path)
            }
        })
    }
}
