//! The one place that turns a failure into what the outside is told: the error envelope that REST, acknowledgements and
//! `error` events share, and its counterpart for success. Also the one place that counts and logs failures. Why a call
//! fails, and in which words, is decided where it fails; HTTP is `api`'s.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use shared::ErrorCode;

use crate::bus::BusError;
use crate::config::AppEnv;
use crate::gate::{self, Full};
use crate::store::StoreError;
use crate::telemetry::metrics as names;

/// How long a client is asked to wait when something the gateway lives on is away: long enough that a crowd of clients
/// does not hold it down, short enough that nobody gives up.
const UNAVAILABLE_RETRY: Duration = Duration::from_secs(2);

/// Why a call was not done, as its caller is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For programs.
    pub code: ErrorCode,
    /// For people. Names no internals.
    pub message: Cow<'static, str>,
    /// For developers: shown in development mode only, logged for failures of the server's own. Never holds a row's
    /// content, a token, a password or a message's text.
    pub details: Option<String>,
    /// How long to wait before trying again, where that is known.
    pub retry_after: Option<Duration>,
    /// Whether it is counted only: it was written down elsewhere, once for many.
    pub is_told: bool,
}

impl Failure {
    /// A failure in the caller's own words.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            details: None,
            retry_after: None,
            is_told: false,
        }
    }

    /// What was sent is not what was asked for.
    pub fn validation(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::ValidationError, message)
    }

    /// JSON that can't be read as what it should be. The reader's own words may quote the input, so they go back to the
    /// sender and are not logged.
    pub fn unreadable(error: &serde_json::Error) -> Self {
        // serde_json ends with a line and a column, which mean nothing to whoever filled in a form.
        let text = error.to_string();
        let (reason, _) = text.rsplit_once(" at line ").unwrap_or((&text, ""));
        Self::validation(format!("the payload can't be read: {reason}"))
    }

    /// The caller may not do this.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::Forbidden, message)
    }

    /// Too often.
    pub fn rate_limited(retry_after: Duration) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(ErrorCode::RateLimited, "too many requests, try again later")
        }
    }

    /// Something this gateway lives on is away.
    pub fn unavailable(cause: impl fmt::Display) -> Self {
        Self {
            details: Some(cause.to_string()),
            retry_after: Some(UNAVAILABLE_RETRY),
            ..Self::new(
                ErrorCode::ServiceUnavailable,
                "the service is unavailable just now, try again in a moment",
            )
        }
    }

    /// Too much is under way on this node: refused before anything was begun.
    pub fn overloaded() -> Self {
        Self {
            retry_after: Some(gate::retry_after()),
            is_told: true,
            ..Self::new(
                ErrorCode::ServiceUnavailable,
                "too much at once just now, try again in a moment",
            )
        }
    }

    /// A fault of the gateway's own.
    pub fn internal(cause: impl fmt::Display) -> Self {
        Self {
            details: Some(cause.to_string()),
            ..Self::new(ErrorCode::InternalError, "something went wrong on our side")
        }
    }

    /// Whole seconds to wait, rounded up and at least one: the value of `Retry-After`.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after
            .map(|wait| (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1))
    }

    /// The error envelope.
    pub fn envelope(&self, mode: AppEnv) -> Box<RawValue> {
        self.render(mode, None)
    }

    /// The error envelope of an `error` event: with the name of the event that failed.
    pub fn envelope_for(&self, mode: AppEnv, event: &str) -> Box<RawValue> {
        self.render(mode, Some(event))
    }

    /// Counts the failure and, where it is the server's own, writes it down. To be called once, where the failure is
    /// answered. A caller's mistakes are only seen at debug level, and without their words, which may quote the input.
    pub fn log(&self) {
        metrics::counter!(names::ERRORS, "code" => self.code.as_str()).increment(1);
        if self.is_told {
            return;
        }
        if self.code.http_status() >= 500 {
            tracing::error!(
                code = self.code.as_str(),
                details = self.details.as_deref(),
                "{}",
                self.message
            );
        } else {
            tracing::debug!(code = self.code.as_str(), "a call was refused");
        }
    }

    fn render(&self, mode: AppEnv, event: Option<&str>) -> Box<RawValue> {
        let envelope = ErrorEnvelope {
            success: false,
            error: ErrorBody {
                code: self.code,
                message: &self.message,
                details: match mode {
                    AppEnv::Development => self.details.as_deref(),
                    AppEnv::Production => None,
                },
                retry_after_ms: self
                    .retry_after
                    .map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
            },
            event,
        };
        // Strings and a flag: there is nothing in it that serde_json could refuse.
        to_raw_value(&envelope).unwrap_or_else(|_| RawValue::NULL.to_owned())
    }
}

/// The envelope of success. Fails only where `data` has no JSON form, which is a fault of the program.
pub fn success<T: Serialize + ?Sized>(data: &T) -> Result<Box<RawValue>, Failure> {
    to_raw_value(&SuccessEnvelope {
        success: true,
        data,
    })
    .map_err(Failure::internal)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)?;
        match &self.details {
            Some(details) => write!(f, " ({details})"),
            None => Ok(()),
        }
    }
}

impl Error for Failure {}

impl From<Full> for Failure {
    fn from(_: Full) -> Self {
        Self::overloaded()
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full(full) => full.into(),
            StoreError::Unavailable(_) => Self::unavailable(error),
            StoreError::Internal(_) => Self::internal(error),
            // Nothing is cut or replaced to make it fit.
            StoreError::Unstorable(_) => Self {
                details: Some(error.to_string()),
                ..Self::validation("the database can't hold some of these characters")
            },
        }
    }
}

impl From<BusError> for Failure {
    fn from(error: BusError) -> Self {
        Self::unavailable(error)
    }
}

#[derive(Serialize)]
struct ErrorEnvelope<'a> {
    success: bool,
    error: ErrorBody<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    code: ErrorCode,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a str>,
    /// Sockets have no `Retry-After`, and whole seconds are long for them.
    #[serde(rename = "retryAfterMs", skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

#[derive(Serialize)]
struct SuccessEnvelope<'a, T: Serialize + ?Sized> {
    success: bool,
    data: &'a T,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_for_development_only() {
        let failure = Failure {
            details: Some("user 7".to_owned()),
            ..Failure::forbidden("not yours")
        };
        assert_eq!(
            failure.envelope(AppEnv::Development).get(),
            r#"{"success":false,"error":{"code":"FORBIDDEN","message":"not yours","details":"user 7"}}"#
        );
        assert_eq!(
            failure.envelope(AppEnv::Production).get(),
            r#"{"success":false,"error":{"code":"FORBIDDEN","message":"not yours"}}"#
        );
    }

    #[test]
    fn an_error_event_names_the_event_that_failed() {
        assert_eq!(
            Failure::new(ErrorCode::EmptyMessage, "nothing \"said\"")
                .envelope_for(AppEnv::Production, "chatMessage")
                .get(),
            r#"{"success":false,"error":{"code":"EMPTY_MESSAGE","message":"nothing \"said\""},"event":"chatMessage"}"#
        );
    }

    #[test]
    fn success_bears_its_data() {
        assert_eq!(
            success(&["a"]).unwrap().get(),
            r#"{"success":true,"data":["a"]}"#
        );
        assert_eq!(
            success(&()).unwrap().get(),
            r#"{"success":true,"data":null}"#
        );
    }

    #[test]
    fn what_the_outside_does_is_told_in_general_words() {
        let away = Failure::from(StoreError::Unavailable("db-7 refused".into()));
        assert_eq!(away.code, ErrorCode::ServiceUnavailable);
        assert!(!away.message.contains("db-7"));
        assert!(away.details.as_deref().unwrap().contains("db-7"));
        assert!(away.retry_after.is_some());

        let broken = Failure::from(StoreError::Internal("no such table".into()));
        assert_eq!(broken.code, ErrorCode::InternalError);
        assert!(!broken.envelope(AppEnv::Production).get().contains("table"));

        assert_eq!(
            Failure::from(BusError("gone".into())).code,
            ErrorCode::ServiceUnavailable
        );
    }

    #[test]
    fn who_is_to_come_back_is_told_when() {
        let failure = Failure::rate_limited(Duration::from_millis(1250));
        assert_eq!(
            failure.envelope(AppEnv::Production).get(),
            r#"{"success":false,"error":{"code":"RATE_LIMITED","message":"too many requests, try again later","retryAfterMs":1250}}"#
        );
        let overloaded = Failure::from(Full { what: "tests" });
        assert_eq!(overloaded.code, ErrorCode::ServiceUnavailable);
        assert!(overloaded.retry_after.is_some() && overloaded.is_told);
    }

    #[test]
    fn retry_after_is_rounded_up() {
        let after =
            |millis| Failure::rate_limited(Duration::from_millis(millis)).retry_after_seconds();
        assert_eq!(after(0), Some(1));
        assert_eq!(after(1), Some(1));
        assert_eq!(after(1000), Some(1));
        assert_eq!(after(1001), Some(2));
    }
}
