//! The codes a failure can bear, and the status that REST gives each. The words of a failure are not here: they belong
//! to the place that fails.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What went wrong, as a client's program reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "the names are those of the wire and say it")]
pub enum ErrorCode {
    ValidationError,
    EmptyMessage,
    UnknownEvent,
    MissingToken,
    InvalidToken,
    TokenExpired,
    InvalidCredentials,
    Forbidden,
    ConversationNotFound,
    UserNotFound,
    NotFound,
    MethodNotAllowed,
    PayloadTooLarge,
    UnsupportedMediaType,
    EmailTaken,
    ClientHasNoAccount,
    NoAgent,
    Conflict,
    RateLimited,
    InternalError,
    ServiceUnavailable,
}

impl ErrorCode {
    /// Every code, for documentation and for metrics that start at zero.
    pub const ALL: [Self; 21] = [
        Self::ValidationError,
        Self::EmptyMessage,
        Self::UnknownEvent,
        Self::MissingToken,
        Self::InvalidToken,
        Self::TokenExpired,
        Self::InvalidCredentials,
        Self::Forbidden,
        Self::ConversationNotFound,
        Self::UserNotFound,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::PayloadTooLarge,
        Self::UnsupportedMediaType,
        Self::EmailTaken,
        Self::ClientHasNoAccount,
        Self::NoAgent,
        Self::Conflict,
        Self::RateLimited,
        Self::InternalError,
        Self::ServiceUnavailable,
    ];

    /// The code's name on the wire and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ValidationError => "VALIDATION_ERROR",
            Self::EmptyMessage => "EMPTY_MESSAGE",
            Self::UnknownEvent => "UNKNOWN_EVENT",
            Self::MissingToken => "MISSING_TOKEN",
            Self::InvalidToken => "INVALID_TOKEN",
            Self::TokenExpired => "TOKEN_EXPIRED",
            Self::InvalidCredentials => "INVALID_CREDENTIALS",
            Self::Forbidden => "FORBIDDEN",
            Self::ConversationNotFound => "CONVERSATION_NOT_FOUND",
            Self::UserNotFound => "USER_NOT_FOUND",
            Self::NotFound => "NOT_FOUND",
            Self::MethodNotAllowed => "METHOD_NOT_ALLOWED",
            Self::PayloadTooLarge => "PAYLOAD_TOO_LARGE",
            Self::UnsupportedMediaType => "UNSUPPORTED_MEDIA_TYPE",
            Self::EmailTaken => "EMAIL_TAKEN",
            Self::ClientHasNoAccount => "CLIENT_HAS_NO_ACCOUNT",
            Self::NoAgent => "NO_AGENT",
            Self::Conflict => "CONFLICT",
            Self::RateLimited => "RATE_LIMITED",
            Self::InternalError => "INTERNAL_ERROR",
            Self::ServiceUnavailable => "SERVICE_UNAVAILABLE",
        }
    }

    /// The HTTP status that REST answers with.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::ValidationError | Self::EmptyMessage | Self::UnknownEvent => 400,
            Self::MissingToken
            | Self::InvalidToken
            | Self::TokenExpired
            | Self::InvalidCredentials => 401,
            Self::Forbidden => 403,
            Self::ConversationNotFound | Self::UserNotFound | Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::PayloadTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::EmailTaken | Self::ClientHasNoAccount | Self::NoAgent | Self::Conflict => 409,
            Self::RateLimited => 429,
            Self::InternalError => 500,
            Self::ServiceUnavailable => 503,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serde_writes_the_same_name() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }
}
