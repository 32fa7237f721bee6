//! Refresh tokens: opaque, random, known to the store by their hash only.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::config::Secret;
use crate::store::TokenHash;

/// As much as can't be guessed, and the hash of it needs no salt.
const BYTES: usize = 32;

/// A new token, and what the store keeps of it.
pub(super) fn make() -> (Secret, TokenHash) {
    let token = URL_SAFE_NO_PAD.encode(rand::random::<[u8; BYTES]>());
    let hash = digest(&token);
    (Secret::new(token), hash)
}

/// What the store keeps of a token that was shown; `None` where it has not the shape of one.
pub(super) fn read(token: &str) -> Option<TokenHash> {
    // 32 bytes are 43 characters of base64.
    let shaped = token.len() == (BYTES * 8).div_ceil(6)
        && URL_SAFE_NO_PAD
            .decode(token)
            .is_ok_and(|bytes| bytes.len() == BYTES);
    shaped.then(|| digest(token))
}

fn digest(token: &str) -> TokenHash {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_read() {
        let (token, hash) = make();
        assert_eq!(read(token.expose()), Some(hash));
        assert_ne!(make().1, hash);
    }

    #[test]
    fn what_was_never_made_is_not_looked_up() {
        for other in ["", "abc", &"a".repeat(44), &"!".repeat(43), &"é".repeat(22)] {
            assert_eq!(read(other), None);
        }
    }
}
