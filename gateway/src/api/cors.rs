//! Which pages of other origins may call: the headers of cross-origin requests (Fetch standard, section 3.3).

use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::config::Origins;

/// How long a browser may remember what a preflight said: the most that Chromium keeps.
const PREFLIGHT_LIFE: Duration = Duration::from_secs(2 * 60 * 60);

/// The layer for these origins. With credentials an answer must name the one origin, never `*`: so it is echoed.
pub(super) fn layer(origins: Origins) -> CorsLayer {
    let allow = move |origin: &HeaderValue, _: &http::request::Parts| {
        origin.to_str().is_ok_and(|origin| origins.allow(origin))
    };
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(allow))
        .allow_credentials(true)
        .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE])
        .allow_headers([AUTHORIZATION, CONTENT_TYPE])
        .expose_headers([RETRY_AFTER])
        .max_age(PREFLIGHT_LIFE)
}
