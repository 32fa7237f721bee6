//! The shape of every answer: the envelope of success, and the one place that makes a `Failure` an HTTP answer. Which
//! failure it is, is decided where it happens; the envelope's JSON is `failure`'s.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;
use shared::ErrorCode;

use crate::config::AppEnv;
use crate::failure::{Failure, success};

/// A success with data; 200, unless paired with another status.
pub(super) struct Data<T>(pub(super) T);

/// Marks a failure that is an answer and no fault: it is neither counted nor written down.
#[derive(Clone, Copy)]
pub(super) struct Expected;

impl<T: Serialize> IntoResponse for Data<T> {
    fn into_response(self) -> Response {
        match success(&self.0) {
            Ok(envelope) => {
                let mut response = Response::new(Body::empty());
                write(&mut response, &envelope);
                response
            }
            Err(failure) => failure.into_response(),
        }
    }
}

/// A failure travels through the layers as it is, and becomes an envelope in `finish`: only there it is known whether
/// details are shown, and only there it is logged.
impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = status(&self).into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// The last step of every answer. What came without an envelope (an unknown method, a file of the documentation that is
/// not there) gets one.
pub(super) fn finish(mut response: Response, mode: AppEnv) -> Response {
    let failure = response.extensions_mut().remove::<Failure>();
    let Some(failure) = failure.or_else(|| of_status(response.status())) else {
        return response;
    };
    if response.extensions_mut().remove::<Expected>().is_none() {
        failure.log();
    }
    // Data that can't be written fails after its status was set.
    *response.status_mut() = status(&failure);
    if let Some(seconds) = failure.retry_after_seconds() {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    write(&mut response, &failure.envelope(mode));
    response
}

/// The failure that a status alone stands for; `None` where it is none.
fn of_status(status: StatusCode) -> Option<Failure> {
    let (code, message) = match status {
        StatusCode::NOT_FOUND => return Some(not_found()),
        StatusCode::METHOD_NOT_ALLOWED => (
            ErrorCode::MethodNotAllowed,
            "this route has no such method: see the Allow header",
        ),
        StatusCode::PAYLOAD_TOO_LARGE => (ErrorCode::PayloadTooLarge, "the body is too large"),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            (ErrorCode::UnsupportedMediaType, "the body must be JSON")
        }
        status if status.is_client_error() => {
            (ErrorCode::ValidationError, "the request can't be read")
        }
        status if status.is_server_error() => {
            return Some(Failure::internal(format_args!(
                "an answer {status} without words"
            )));
        }
        _ => return None,
    };
    Some(Failure::new(code, message))
}

/// There is no such route.
pub(super) fn not_found() -> Failure {
    Failure::new(ErrorCode::NotFound, "there is no such route")
}

fn status(failure: &Failure) -> StatusCode {
    StatusCode::from_u16(failure.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn write(response: &mut Response, envelope: &RawValue) {
    *response.body_mut() = Body::from(envelope.get().to_owned());
    let headers: &mut HeaderMap = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // Tokens and what people wrote: nothing for a cache on the way.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
}
