//! What a handler is given of a request: who calls, ids of the path, the query, the body. Whatever can't be read is a
//! `Failure` here, so that a handler sees only what is well-formed.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use axum::RequestPartsExt;
use axum::body::{Body as RequestBody, HttpBody};
use axum::extract::{ConnectInfo, FromRequest, FromRequestParts, Path, Request};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE};
use http::request::Parts;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use shared::ErrorCode;

use super::Inner;
use super::guard::Place;
use crate::auth::{Identity, bearer};
use crate::failure::Failure;
use crate::realtime::client_address;
use crate::store::Viewer;

/// The most bytes of a body: four times the longest message with every character escaped.
pub(super) const MAX_BODY: usize = 256 * 1024;

/// How much of a body that is refused is read all the same: a client that is still sending when the connection closes
/// never sees the answer. Who sends more than this does not mean well.
const MAX_DRAINED: usize = 1024 * 1024;

/// The refresh token's cookie.
pub(super) const REFRESH_COOKIE: &str = "refresh_token";

/// Somebody with a good access token who does not call too often.
pub(super) struct Caller(pub(super) Identity);

impl Caller {
    /// As the chat sees the caller.
    pub(super) fn viewer(&self) -> Viewer {
        self.0.viewer()
    }
}

impl FromRequestParts<Inner> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, inner: &Inner) -> Result<Self, Failure> {
        // A value that is no text is no scheme of ours either.
        let header = parts
            .headers
            .get(AUTHORIZATION)
            .map(|value| value.to_str().unwrap_or("?"));
        let identity = inner.auth.authenticate(bearer(header)?)?;
        inner.limits.take(identity.user)?;
        Ok(Self(identity))
    }
}

/// Where a request comes from, behind the trusted proxies.
pub(super) struct ClientAddress(pub(super) IpAddr);

impl FromRequestParts<Inner> for ClientAddress {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, inner: &Inner) -> Result<Self, Failure> {
        let ConnectInfo(peer) = parts
            .extract::<ConnectInfo<SocketAddr>>()
            .await
            .map_err(|_| Failure::internal("a request without a peer"))?;
        Ok(Self(client_address(
            peer.ip(),
            &parts.headers,
            &inner.trusted_proxies,
        )))
    }
}

/// The refresh token, where it came as a cookie.
pub(super) struct RefreshCookie(pub(super) Option<String>);

impl FromRequestParts<Inner> for RefreshCookie {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &Inner) -> Result<Self, Failure> {
        Ok(Self(cookie(&parts.headers, REFRESH_COOKIE)))
    }
}

/// The one id in the path.
pub(super) struct Id<T>(pub(super) T);

impl<T: FromStr<Err: std::fmt::Display>, S: Send + Sync> FromRequestParts<S> for Id<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let Path(text): Path<String> = parts
            .extract()
            .await
            .map_err(|_| Failure::validation("the id in the path can't be read"))?;
        text.parse()
            .map(Self)
            .map_err(|error| Failure::validation(format!("the id in the path {error}")))
    }
}

/// The query. Members that nobody asked for are passed over.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        match axum::extract::Query::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(rejection) => {
                // The cause bears the name of the member; the words around it are another library's.
                let cause = rejection
                    .source()
                    .map_or_else(|| rejection.body_text(), ToString::to_string);
                Err(Failure::validation(format!(
                    "the query can't be read: {cause}"
                )))
            }
        }
    }
}

/// A body of JSON: an object. An empty one is `{}`, and then needs no content type.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let (parts, body) = request.into_parts();
        if !body.is_end_stream() && !is_json(&parts.headers) {
            drain(body, 0).await;
            return Err(Failure::new(
                ErrorCode::UnsupportedMediaType,
                "the body must be JSON: Content-Type: application/json",
            ));
        }
        let reading = read(&parts.headers, body);
        let bytes = match parts.extensions.get::<Place>() {
            Some(place) => place.lend(reading).await??,
            None => reading.await?,
        };
        parse(if bytes.is_empty() { b"{}" } else { &bytes }).map(Self)
    }
}

/// `application/json`, whatever its parameters, or a type of its family (RFC 6839, section 3.1).
fn is_json(headers: &HeaderMap) -> bool {
    let essence = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map(|essence| essence.trim().to_ascii_lowercase());
    essence.is_some_and(|essence| {
        essence == "application/json"
            || (essence.starts_with("application/") && essence.ends_with("+json"))
    })
}

async fn read(headers: &HeaderMap, mut body: RequestBody) -> Result<Bytes, Failure> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<u64>().ok());
    if announced.is_some_and(|length| length > MAX_BODY as u64) {
        drain(body, 0).await;
        return Err(too_large());
    }
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Failure::validation("the body broke off"))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > MAX_BODY {
            drain(body, bytes.len() + data.len()).await;
            return Err(too_large());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

/// Reads what is left of a refused body, within bounds. The guard bounds its time.
async fn drain(mut body: RequestBody, mut seen: usize) {
    while let Some(Ok(frame)) = body.frame().await {
        seen += frame.data_ref().map_or(0, Bytes::len);
        if seen > MAX_DRAINED {
            return;
        }
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    // Also where nobody reads it: JSON is UTF-8 (RFC 8259, section 8.1).
    let text =
        std::str::from_utf8(bytes).map_err(|_| Failure::validation("the body must be UTF-8"))?;
    // A struct can be read from an array, too; this interface has objects only.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(Failure::validation("the body must be a JSON object"));
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        Failure::validation(match path.as_str() {
            "." | "?" => format!("the body can't be read: {error}"),
            path => format!("the body can't be read: {path}: {error}"),
        })
    })?;
    reader
        .end()
        .map_err(|error| Failure::validation(format!("the body can't be read: {error}")))?;
    Ok(value)
}

fn too_large() -> Failure {
    Failure::new(
        ErrorCode::PayloadTooLarge,
        "the body must have at most 256 KiB",
    )
}

/// A cookie's value (RFC 6265, section 5.4). Clients may send several lines.
fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, value)| *key == name && !value.is_empty())
        .map(|(_, value)| value.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Sample {
        #[serde(default)]
        name: Option<String>,
        #[serde(default)]
        list: Vec<i64>,
    }

    fn complaint(body: &[u8]) -> String {
        let failure = parse::<Sample>(body).unwrap_err();
        assert_eq!(failure.code, ErrorCode::ValidationError);
        failure.message.into_owned()
    }

    #[test]
    fn the_member_that_is_wrong_is_named() {
        assert!(complaint(br#"{"name":7}"#).contains("name: invalid type"));
        assert!(complaint(br#"{"list":[1,"x"]}"#).contains("list[1]: invalid type"));
        assert!(complaint(br#"{"name":"#).contains("EOF"));
        assert!(complaint(br#"{"name":"x"}{}"#).contains("trailing"));
    }

    #[test]
    fn only_objects_are_bodies() {
        for body in ["[]", "null", "\"x\"", "17", "", "\u{feff}{}"] {
            assert_eq!(
                complaint(body.as_bytes()),
                "the body must be a JSON object",
                "{body}"
            );
        }
        assert_eq!(
            parse::<Sample>(b" \n{}").unwrap(),
            Sample {
                name: None,
                list: Vec::new()
            }
        );
        let deep = format!("{{\"more\":{}", "[".repeat(100_000));
        assert!(parse::<Sample>(deep.as_bytes()).is_err());
    }

    #[test]
    fn json_has_many_names() {
        for (value, expected) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/merge-patch+json", true),
            ("text/plain", false),
            ("text/json+application/json", false),
            ("application/x-www-form-urlencoded", false),
            ("nonsense", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, value.parse().unwrap())]);
            assert_eq!(is_json(&headers), expected, "{value}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(
            COOKIE,
            "a=b; xrefresh_token=no; refresh_token=".parse().unwrap(),
        );
        headers.append(
            COOKIE,
            "c; refresh_token=yes=1; refresh_token=later"
                .parse()
                .unwrap(),
        );
        assert_eq!(cookie(&headers, REFRESH_COOKIE).as_deref(), Some("yes=1"));
        assert_eq!(cookie(&headers, "missing"), None);
    }
}
