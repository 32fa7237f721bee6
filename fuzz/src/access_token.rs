//! Access tokens. The input is a token, or, where it begins with `{`, a header and claims in two lines that are signed
//! here: nobody but us can make such a token, and still nothing that it says may do harm.

use gateway::auth::{AccessTokens, bearer};
use gateway::config::Secret;
use jsonwebtoken::{Algorithm, EncodingKey};
use shared::{ErrorCode, Timestamp};

const SECRET: &str = "the secret of the fuzz targets, 32+";

/// The one token in the corpus that is good.
const GOOD: &str = include_str!("../corpus/access_token/good");

/// 2023-11-14 22:13:20 UTC; `GOOD` was issued then.
const NOW: i64 = 1_700_000_000;

/// Milliseconds: the longest life that is believed.
const HOUR: i64 = 3_600_000;

/// Only what was signed is believed, and not for longer than an hour, whatever it says.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    header(text);
    let tokens = AccessTokens::new(&Secret::new(SECRET), &[Secret::new("an elder one")]);
    if text.starts_with('{') {
        return signed(&tokens, text);
    }
    let read = tokens.read(text, now());
    if text == GOOD {
        let identity = read.unwrap();
        assert_eq!(
            (identity.user.get(), identity.email.as_str()),
            (7, "ann@example.com")
        );
    } else {
        assert_eq!(read.unwrap_err().code, ErrorCode::InvalidToken);
    }
}

fn now() -> Timestamp {
    Timestamp::from_unix_seconds(NOW).unwrap()
}

fn signed(tokens: &AccessTokens, text: &str) {
    let (header, claims) = text.split_once('\n').unwrap_or((text, ""));
    let message = format!("{}.{}", base64(header), base64(claims));
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let sign = |algorithm| jsonwebtoken::crypto::sign(message.as_bytes(), &key, algorithm).unwrap();
    let token = format!("{message}.{}", sign(Algorithm::HS256));
    match tokens.read(&token, now()) {
        Ok(identity) => {
            assert!(identity.user.get() > 0);
            assert!(identity.expires_at > now());
            let life = identity.expires_at.unix_millis() - identity.issued_at.unix_millis();
            assert!(life <= HOUR, "{life} ms");
            assert!(!identity.handle().is_empty() || identity.session.is_some());
            let algorithm = serde_json::from_str::<serde_json::Value>(header).unwrap();
            assert_eq!(algorithm["alg"], "HS256");
            // Good until its end and not at it.
            assert!(tokens.read(&token, identity.expires_at).is_err());
        }
        Err(failure) => assert!(
            matches!(
                failure.code,
                ErrorCode::InvalidToken | ErrorCode::TokenExpired
            ),
            "{}",
            failure.code
        ),
    }
    // The same under another algorithm's signature is nothing.
    let other = format!("{message}.{}", sign(Algorithm::HS512));
    assert!(tokens.read(&other, now()).is_err());
}

/// Whatever stands in an `Authorization` header, what is taken from it is a part of it.
fn header(text: &str) {
    match bearer(Some(text)) {
        Ok(token) => assert!(!token.is_empty() && token == token.trim() && text.contains(token)),
        Err(failure) => assert!(matches!(
            failure.code,
            ErrorCode::MissingToken | ErrorCode::InvalidToken
        )),
    }
}

/// Base64 for URLs, without padding (RFC 7515, section 2): written here, so that the library's is not held against itself.
fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits = chunk
            .iter()
            .chain([0, 0].iter())
            .take(3)
            .fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        for place in 0..=chunk.len() {
            out.push(char::from(DIGITS[bits >> (18 - 6 * place) & 63]));
        }
    }
    out
}
