//! Base64 as Nix reads it: padding stands at the end alone.

use data_encoding::BASE64;

/// The bytes of a text; `None` when it is not base64. The crate would also take several texts, each with
/// its padding, behind one another; Nix stops at the first `=`.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    if text.trim_end_matches('=').contains('=') {
        return None;
    }
    BASE64.decode(text.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn padding_stands_at_the_end_alone() {
        assert_eq!(decode("YWI="), Some(b"ab".to_vec()));
        assert_eq!(decode("YQ=="), Some(b"a".to_vec()));
        for text in ["YQ==YQ==", "YWI=YWJj", "YWI", "YWJ=", "=", "Y=I="] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
