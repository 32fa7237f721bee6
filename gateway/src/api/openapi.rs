//! The description of the REST side (OpenAPI 3.1), made from the same registrations that make the router. What one call
//! takes and answers stands at its handler; here is what they share.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::json;
use shared::ErrorCode;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{ContentBuilder, RefOr, Response, ResponseBuilder};
use utoipa::{Modify, OpenApi, ToSchema};

use super::extract::REFRESH_COOKIE;

/// The document without its calls.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Chat gateway API",
        description = "The REST side of the chat between clients and their agency. Every answer is an envelope: \
            `{\"success\":true,\"data\":...}` or `{\"success\":false,\"error\":{\"code\",\"message\"}}`, with \
            `error.details` in development mode. Ids in bodies may be numbers or strings of digits. Times are UTC.",
    ),
    tags(
        (name = "accounts", description = "Signing in, staying signed in, profiles"),
        (name = "conversations", description = "Conversations between a client and its agency"),
        (name = "messages", description = "Messages, what was read of them, and what was missed"),
        (name = "people", description = "Who is online"),
        (name = "node", description = "The state of this node, for balancers and orchestrators"),
    ),
    modifiers(&SecuritySchemes),
)]
pub(super) struct Document;

/// The envelope of success, as `failure::success` writes it.
#[derive(Serialize, ToSchema)]
pub(super) struct Success<T> {
    /// Always true.
    #[schema(default = true)]
    success: bool,
    data: T,
}

struct SecuritySchemes;

impl Modify for SecuritySchemes {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let mut bearer = Http::new(HttpAuthScheme::Bearer);
        bearer.bearer_format = Some("JWT".to_owned());
        bearer.description = Some("An access token from register, login or refresh".to_owned());
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        let cookie = ApiKeyValue::with_description(
            REFRESH_COOKIE,
            "The refresh token that register or login set",
        );
        components.add_security_scheme(
            "refreshCookie",
            SecurityScheme::ApiKey(ApiKey::Cookie(cookie)),
        );
    }
}

/// Says what can't be derived: that what is answered is answered whole (a value that is missing is null, never left out,
/// while a body that is sent may leave it out), and that a body that may be left out may not be null.
pub(super) fn complete(document: &mut utoipa::openapi::OpenApi) {
    if let Some(components) = &mut document.components {
        for name in ANSWERED {
            if let Some(RefOr::T(Schema::Object(object))) = components.schemas.get_mut(name) {
                object.required = object.properties.keys().cloned().collect();
            }
        }
    }
    let items = document.paths.paths.values_mut();
    for body in items.filter_map(|item| item.post.as_mut()?.request_body.as_mut()) {
        let RefOr::T(body) = body else { continue };
        for content in body.content.values_mut() {
            let RefOr::T(content) = content else { continue };
            if let Some(RefOr::T(Schema::OneOf(either))) = &mut content.schema {
                let object = either
                    .items
                    .iter()
                    .find(|item| matches!(item, RefOr::Ref(_)))
                    .cloned();
                content.schema = object;
            }
        }
    }
}

/// The schemas of answers with members that may be null.
const ANSWERED: [&str; 7] = [
    "User",
    "Message",
    "Conversation",
    "ClientSummary",
    "AgencySummary",
    "OnlineUser",
    "ConversationPage",
];

/// What any call may fail with, whatever it does.
pub(super) const ANY: &[ErrorCode] = &[ErrorCode::InternalError, ErrorCode::ServiceUnavailable];

/// What a call with an access token may fail with.
pub(super) const BEARER: &[ErrorCode] = &[
    ErrorCode::MissingToken,
    ErrorCode::InvalidToken,
    ErrorCode::TokenExpired,
    ErrorCode::RateLimited,
];

/// What a call with a body may fail with.
pub(super) const BODY: &[ErrorCode] = &[
    ErrorCode::ValidationError,
    ErrorCode::PayloadTooLarge,
    ErrorCode::UnsupportedMediaType,
];

/// Names what a call may fail with: `failures!(Name: GROUP | GROUP, Code, Code)`. To be put among its responses.
macro_rules! failures {
    ($name:ident: $($group:ident)|+ $(, $code:ident)* $(,)?) => {
        struct $name;

        impl utoipa::IntoResponses for $name {
            fn responses() -> std::collections::BTreeMap<
                String,
                utoipa::openapi::RefOr<utoipa::openapi::Response>,
            > {
                $crate::api::openapi::responses(&[
                    $crate::api::openapi::ANY,
                    $($crate::api::openapi::$group,)*
                    &[$(shared::ErrorCode::$code),*],
                ])
            }
        }
    };
}
pub(super) use failures;

/// One response for each status, with the codes it may bear.
pub(super) fn responses(codes: &[&[ErrorCode]]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status = BTreeMap::<u16, Vec<ErrorCode>>::new();
    for code in codes.iter().copied().flatten() {
        let codes = by_status.entry(code.http_status()).or_default();
        if !codes.contains(code) {
            codes.push(*code);
        }
    }
    by_status
        .into_iter()
        .map(|(status, codes)| (status.to_string(), RefOr::T(response(status, &codes))))
        .collect()
}

fn response(status: u16, codes: &[ErrorCode]) -> Response {
    let names: Vec<_> = codes.iter().map(|code| code.as_str()).collect();
    let content = ContentBuilder::new()
        .schema(Some(envelope(&names, bids_wait(status))))
        .example(Some(
            json!({"success": false, "error": {"code": names[0], "message": "..."}}),
        ))
        .build();
    let mut response = ResponseBuilder::new()
        .description(names.join(", "))
        .content("application/json", content);
    if bids_wait(status) {
        let seconds = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(1))
            .build();
        let header = HeaderBuilder::new()
            .schema(Some(seconds))
            .description(Some("Seconds to wait before another try"))
            .build();
        response = response.header("Retry-After", header);
    }
    response.build()
}

/// Whether a caller is told how long to wait.
const fn bids_wait(status: u16) -> bool {
    matches!(status, 429 | 503)
}

fn envelope(codes: &[&str], bids_wait: bool) -> RefOr<Schema> {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let mut error = ObjectBuilder::new()
        .property("code", text().enum_values(Some(codes.iter().copied())))
        .property("message", text())
        .property(
            "details",
            text().description(Some("In development mode only")),
        )
        .required("code")
        .required("message");
    if bids_wait {
        let wait = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(0))
            .description(Some(
                "Milliseconds to wait before another try; finer than Retry-After",
            ));
        error = error.property("retryAfterMs", wait);
    }
    let success = ObjectBuilder::new()
        .schema_type(Type::Boolean)
        .enum_values(Some([false]));
    ObjectBuilder::new()
        .property("success", success)
        .property("error", error)
        .required("success")
        .required("error")
        .into()
}
