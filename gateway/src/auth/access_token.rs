//! Access tokens: JSON Web Tokens (RFC 7519) signed with HS256. Made, read and nothing else: whether one was revoked is
//! `revocations`' to say.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::DateTime;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use shared::model::User;
use shared::{ErrorCode, Role, Timestamp, UserId};

use crate::config::Secret;
use crate::failure::Failure;
use crate::store::Viewer;

/// How long an access token is good after it was issued. Also the most that is believed of somebody else's token, whatever
/// its `exp`: a revocation is remembered for as long.
pub const ACCESS_TOKEN_LIFE: Duration = Duration::from_secs(60 * 60);

/// More than any token of these claims needs (an e-mail address is 255 characters at most), and little enough that nobody
/// makes a node hash megabytes.
const MAX_TOKEN_BYTES: usize = 4096;

/// Who a token speaks for. Holds no token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The account.
    pub user: UserId,
    /// Its address, when the token was issued.
    pub email: String,
    /// Its role, when the token was issued.
    pub role: Role,
    /// The session the token belongs to; `None` for a token that the old system made.
    pub session: Option<String>,
    /// When the token was issued, to the second.
    pub issued_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// SHA-256 of the token, in hex: the token's name where it has no session.
    pub token_hash: String,
}

impl Identity {
    /// As the chat sees the holder.
    pub const fn viewer(&self) -> Viewer {
        Viewer {
            user: self.user,
            role: self.role,
        }
    }

    /// What a revocation calls this token by: its session, or its own hash.
    pub fn handle(&self) -> &str {
        self.session.as_deref().unwrap_or(&self.token_hash)
    }

    /// Since when the holder has been signed in: what "every token up to a moment" is compared with. A session's id tells
    /// it to the millisecond (it is a UUIDv7), `iat` only to the second, which would end a sign-in that follows a change
    /// of password within that second.
    pub fn signed_in_at(&self) -> Timestamp {
        self.session
            .as_deref()
            .and_then(session_began)
            .unwrap_or(self.issued_at)
    }
}

/// A new session's id.
pub(super) fn new_session_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

fn session_began(id: &str) -> Option<Timestamp> {
    let (seconds, nanos) = uuid::Uuid::parse_str(id).ok()?.get_timestamp()?.to_unix();
    DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos).map(Timestamp)
}

/// Bytes of a secret's hash in its id: more than enough to tell a handful of secrets apart, and no help in guessing one.
const KEY_ID_BYTES: usize = 6;

/// A secret's name, the `kid` in the header of the tokens it signs (RFC 7515, section 4.1.4): a piece of its hash, so that
/// every node calls it the same, and no secret itself.
pub fn key_id(secret: &Secret) -> String {
    // The prefix keeps the name apart from whatever else hashes the same secret.
    let hash = Sha256::new()
        .chain_update("chat-gateway kid\0")
        .chain_update(secret.expose())
        .finalize();
    URL_SAFE_NO_PAD.encode(&hash[..KEY_ID_BYTES])
}

/// A secret that tokens may be signed with.
struct AcceptedKey {
    id: String,
    key: DecodingKey,
}

/// Makes and reads access tokens.
pub struct AccessTokens {
    signing: EncodingKey,
    /// What every token made here begins with.
    header: Header,
    /// The signing secret's first, then those of a rotation under way, and the old system's.
    accepted: Vec<AcceptedKey>,
    validation: Validation,
}

impl AccessTokens {
    /// Signs with `secret`; reads what `previous` signed, too.
    pub fn new(secret: &Secret, previous: &[Secret]) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        // `exp` is compared here, to the millisecond and against a given moment; `aud` means nothing to this system.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.validate_nbf = true;
        validation.leeway = 0;
        Self {
            signing: EncodingKey::from_secret(secret.expose().as_bytes()),
            header: Header {
                kid: Some(key_id(secret)),
                ..Header::new(Algorithm::HS256)
            },
            accepted: std::iter::once(secret)
                .chain(previous)
                .map(|secret| AcceptedKey {
                    id: key_id(secret),
                    key: DecodingKey::from_secret(secret.expose().as_bytes()),
                })
                .collect(),
            validation,
        }
    }

    /// A token for a user's session, good from `now` for `ACCESS_TOKEN_LIFE`.
    pub fn issue(&self, user: &User, session: &str, now: Timestamp) -> Result<String, Failure> {
        let issued = now.0.timestamp();
        let claims = IssuedClaims {
            id: user.id,
            email: &user.email,
            role: user.role,
            iat: issued,
            exp: issued + ACCESS_TOKEN_LIFE.as_secs().cast_signed(),
            sid: session,
        };
        jsonwebtoken::encode(&self.header, &claims, &self.signing).map_err(Failure::internal)
    }

    /// Reads a token: `INVALID_TOKEN` where nobody here signed it or it lacks a claim, `TOKEN_EXPIRED` from the moment of
    /// its `exp` on (RFC 7519, section 4.1.4), without leeway.
    pub fn read(&self, token: &str, now: Timestamp) -> Result<Identity, Failure> {
        let claims = self.claims(token).ok_or_else(invalid)?;
        let issued_at = claims.iat.moment().ok_or_else(invalid)?;
        let expires_at = claims
            .exp
            .moment()
            .ok_or_else(invalid)?
            .min(Timestamp(issued_at.0 + ACCESS_TOKEN_LIFE));
        if now >= expires_at {
            return Err(Failure::new(
                ErrorCode::TokenExpired,
                "the token has expired",
            ));
        }
        Ok(Identity {
            user: claims.id,
            email: claims.email,
            role: claims.role,
            session: claims.sid,
            issued_at,
            expires_at,
            token_hash: hex(&Sha256::digest(token)),
        })
    }

    fn claims(&self, token: &str) -> Option<Claims> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        // Whoever did not make the token here (the old system) names no key, or one of its own: then any may fit.
        let kid = jsonwebtoken::decode_header(token).ok()?.kid;
        let named = self
            .accepted
            .iter()
            .find(|key| Some(&key.id) == kid.as_ref());
        let candidates = named.map_or(&self.accepted[..], std::slice::from_ref);
        for candidate in candidates {
            match jsonwebtoken::decode::<Claims>(token, &candidate.key, &self.validation) {
                Ok(data) => return Some(data.claims),
                Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {}
                Err(_) => return None,
            }
        }
        None
    }
}

/// The token of an `Authorization` header (RFC 6750, section 2.1; the scheme's case does not matter).
/// `MISSING_TOKEN` where there is no header or no token in it, `INVALID_TOKEN` for another scheme.
pub fn bearer(authorization: Option<&str>) -> Result<&str, Failure> {
    let header = authorization.map(str::trim).unwrap_or_default();
    let (scheme, token) = header.split_once(' ').unwrap_or((header, ""));
    match (scheme, token.trim()) {
        ("", _) => Err(missing()),
        (scheme, token) if scheme.eq_ignore_ascii_case("bearer") => {
            if token.is_empty() {
                Err(missing())
            } else {
                Ok(token)
            }
        }
        _ => Err(Failure::new(
            ErrorCode::InvalidToken,
            "the Authorization header must be: Bearer <token>",
        )),
    }
}

/// No token where one is needed.
pub(super) fn missing() -> Failure {
    Failure::new(ErrorCode::MissingToken, "a token is needed")
}

/// A token that is not good, for whatever reason: which one is nobody's business.
pub(super) fn invalid() -> Failure {
    Failure::new(ErrorCode::InvalidToken, "the token is not valid")
}

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;

    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[derive(Serialize)]
struct IssuedClaims<'a> {
    id: UserId,
    email: &'a str,
    role: Role,
    iat: i64,
    exp: i64,
    sid: &'a str,
}

#[derive(Deserialize)]
struct Claims {
    id: UserId,
    email: String,
    role: Role,
    iat: NumericDate,
    exp: NumericDate,
    #[serde(default)]
    sid: Option<String>,
}

/// Seconds since 1970, maybe with a fraction (RFC 7519, section 2).
#[derive(Deserialize)]
#[serde(transparent)]
struct NumericDate(f64);

impl NumericDate {
    /// The moment, to the millisecond; `None` for what no calendar holds (a float becomes the nearest integer there is).
    fn moment(&self) -> Option<Timestamp> {
        DateTime::from_timestamp_millis((self.0 * 1000.0) as i64).map(Timestamp)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn now() -> Timestamp {
        Timestamp::from_unix_seconds(NOW).unwrap()
    }

    fn at_millis(millis: i64) -> Timestamp {
        Timestamp(DateTime::from_timestamp_millis(millis).unwrap())
    }

    fn tokens() -> AccessTokens {
        AccessTokens::new(&Secret::new("current"), &[Secret::new("previous")])
    }

    fn user() -> User {
        User {
            id: UserId::new(7),
            email: "ann@example.com".into(),
            role: Role::Admin,
            first_name: None,
            last_name: None,
            company: None,
            phone: None,
            profile_picture: None,
            is_onboarding_completed: false,
            created_at: None,
            updated_at: None,
        }
    }

    fn signed(algorithm: Algorithm, secret: &str, claims: &Value) -> String {
        let key = EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&Header::new(algorithm), claims, &key).unwrap()
    }

    fn claims() -> Value {
        json!({"id": 7, "email": "ann@example.com", "role": "admin", "iat": NOW, "exp": NOW + 600})
    }

    fn code(token: &str) -> ErrorCode {
        tokens().read(token, now()).unwrap_err().code
    }

    #[test]
    fn what_is_issued_is_read() {
        let session = new_session_id();
        let token = tokens().issue(&user(), &session, now()).unwrap();
        let identity = tokens().read(&token, now()).unwrap();
        assert_eq!(identity.user, UserId::new(7));
        assert_eq!(identity.email, "ann@example.com");
        assert_eq!(identity.role, Role::Admin);
        assert_eq!(identity.session.as_deref(), Some(session.as_str()));
        assert_eq!(identity.issued_at, now());
        assert_eq!(
            identity.expires_at,
            Timestamp::from_unix_seconds(NOW + 3600).unwrap()
        );
        assert_eq!(identity.handle(), session);
    }

    #[test]
    fn a_token_of_the_old_system_is_as_good() {
        for id in [json!(7), json!("7")] {
            let mut claims = claims();
            claims["id"] = id;
            let token = signed(Algorithm::HS256, "previous", &claims);
            let identity = tokens().read(&token, now()).unwrap();
            assert_eq!(identity.user, UserId::new(7));
            assert_eq!(identity.session, None);
            assert_eq!(identity.handle(), identity.token_hash);
            assert_eq!(identity.token_hash.len(), 64);
            assert_eq!(identity.signed_in_at(), now());
        }
    }

    #[test]
    fn a_token_names_its_key_and_is_read_by_that_one_alone() {
        let token = tokens().issue(&user(), "s", now()).unwrap();
        let kid = jsonwebtoken::decode_header(&token).unwrap().kid.unwrap();
        assert_eq!(kid, key_id(&Secret::new("current")));
        assert_eq!(kid.len(), 8);
        assert!(!kid.contains("current"));
        assert_ne!(kid, key_id(&Secret::new("previous")));

        let with_kid = |kid: &str, secret: &str| {
            let header = Header {
                kid: Some(kid.to_owned()),
                ..Header::new(Algorithm::HS256)
            };
            let key = EncodingKey::from_secret(secret.as_bytes());
            jsonwebtoken::encode(&header, &claims(), &key).unwrap()
        };
        // A key that the token names and that did not sign it: no other is tried.
        assert_eq!(code(&with_kid(&kid, "previous")), ErrorCode::InvalidToken);
        // A name that nobody here gave: any key may have signed it, and a stranger's is none of them.
        for secret in ["current", "previous"] {
            assert!(tokens().read(&with_kid("key-1", secret), now()).is_ok());
        }
        assert_eq!(
            code(&with_kid("key-1", "stranger")),
            ErrorCode::InvalidToken
        );
    }

    #[test]
    fn a_rotation_in_two_steps_refuses_nobody() {
        let [old, new] = ["old", "new"].map(Secret::new);
        let before = AccessTokens::new(&old, &[]);
        let accepting = AccessTokens::new(&old, std::slice::from_ref(&new));
        let switched = AccessTokens::new(&new, std::slice::from_ref(&old));
        let after = AccessTokens::new(&new, &[]);
        // The states that nodes may have at the same time: one step apart.
        for nodes in [
            [&before, &accepting],
            [&accepting, &switched],
            [&switched, &after],
        ] {
            for issuer in nodes {
                let token = issuer.issue(&user(), "s", now()).unwrap();
                for reader in nodes {
                    assert!(reader.read(&token, now()).is_ok());
                }
            }
        }
        // In one step it would.
        let token = switched.issue(&user(), "s", now()).unwrap();
        assert!(before.read(&token, now()).is_err());
    }

    #[test]
    fn it_ends_at_its_last_moment_without_leeway() {
        let token = signed(Algorithm::HS256, "current", &claims());
        let end = (NOW + 600) * 1000;
        assert!(tokens().read(&token, at_millis(end - 1)).is_ok());
        let error = tokens().read(&token, at_millis(end)).unwrap_err();
        assert_eq!(error.code, ErrorCode::TokenExpired);
    }

    #[test]
    fn a_longer_life_than_an_hour_is_not_believed() {
        let mut claims = claims();
        claims["exp"] = json!(NOW + 86_400);
        let token = signed(Algorithm::HS256, "current", &claims);
        let identity = tokens().read(&token, now()).unwrap();
        assert_eq!(identity.expires_at.unix_millis(), (NOW + 3600) * 1000);
    }

    #[test]
    fn only_hs256_by_a_known_secret_is_believed() {
        assert_eq!(
            code(&signed(Algorithm::HS256, "stranger", &claims())),
            ErrorCode::InvalidToken
        );
        for algorithm in [Algorithm::HS384, Algorithm::HS512] {
            assert_eq!(
                code(&signed(algorithm, "current", &claims())),
                ErrorCode::InvalidToken
            );
        }
        let payload = URL_SAFE_NO_PAD.encode(claims().to_string());
        for header in [r#"{"alg":"none","typ":"JWT"}"#, r#"{"alg":"RS256"}"#, "{}"] {
            let header = URL_SAFE_NO_PAD.encode(header);
            for signature in ["", "AAAA"] {
                assert_eq!(
                    code(&format!("{header}.{payload}.{signature}")),
                    ErrorCode::InvalidToken
                );
            }
        }
    }

    #[test]
    fn a_changed_token_is_another_token() {
        let token = signed(Algorithm::HS256, "current", &claims());
        // The last character of a 32-byte signature has spare bits: set, they would name the same signature.
        let (head, last) = token.split_at(token.len() - 1);
        let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        for other in alphabet.chars().filter(|c| !last.contains(*c)) {
            assert_eq!(code(&format!("{head}{other}")), ErrorCode::InvalidToken);
        }
        assert_eq!(code(&format!("{token}=")), ErrorCode::InvalidToken);
    }

    #[test]
    fn every_claim_is_needed_and_looked_at() {
        for name in ["id", "email", "role", "iat", "exp"] {
            let mut claims = claims();
            claims.as_object_mut().unwrap().remove(name);
            let token = signed(Algorithm::HS256, "current", &claims);
            assert_eq!(code(&token), ErrorCode::InvalidToken, "{name}");
        }
        for (name, value) in [
            ("id", json!(0)),
            ("id", json!("x")),
            ("id", json!(1.5)),
            ("role", json!("root")),
            ("exp", json!("soon")),
            ("exp", json!(1e300)),
            ("iat", json!(null)),
            ("iat", json!(-1e300)),
            ("sid", json!(5)),
        ] {
            let mut claims = claims();
            claims[name] = value;
            let token = signed(Algorithm::HS256, "current", &claims);
            assert_eq!(code(&token), ErrorCode::InvalidToken, "{name}");
        }
    }

    #[test]
    fn rubbish_is_no_token() {
        for rubbish in [
            "",
            ".",
            "..",
            "a.b.c",
            "not a token",
            "\u{1F512}.\u{1F512}.x",
        ] {
            assert_eq!(code(rubbish), ErrorCode::InvalidToken);
        }
        assert_eq!(code(&"a".repeat(1_000_000)), ErrorCode::InvalidToken);
    }

    #[test]
    fn the_header_is_read_as_clients_write_it() {
        assert_eq!(bearer(Some("Bearer abc")).unwrap(), "abc");
        assert_eq!(bearer(Some("bearer  abc ")).unwrap(), "abc");
        for missing in [None, Some(""), Some("Bearer"), Some("Bearer ")] {
            assert_eq!(bearer(missing).unwrap_err().code, ErrorCode::MissingToken);
        }
        for other in ["Basic abc", "abc"] {
            assert_eq!(
                bearer(Some(other)).unwrap_err().code,
                ErrorCode::InvalidToken
            );
        }
    }

    #[test]
    fn a_session_tells_when_it_began() {
        let before = Timestamp::now();
        let mut identity = tokens()
            .read(&signed(Algorithm::HS256, "current", &claims()), now())
            .unwrap();
        identity.session = Some(new_session_id());
        assert!(identity.signed_in_at() >= before);
        identity.session = Some("somebody else's".into());
        assert_eq!(identity.signed_in_at(), now());
    }
}
