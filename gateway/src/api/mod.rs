//! The REST routes: HTTP in, a command to `chat/` or `auth/`, the envelope out. No rule of the chat and no SQL stands here.
//! Each file holds the calls of one subject; `guard`, `envelope`, `extract`, `limits` and `cors` are what they share.

mod auth;
mod conversations;
mod cors;
mod envelope;
mod extract;
mod guard;
mod health;
mod limits;
mod messages;
mod openapi;
mod page;
mod people;

use std::sync::Arc;

use axum::Router;
use axum::extract::FromRef;
use axum::middleware::from_fn_with_state;
use ipnet::IpNet;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

pub use health::{Part, Readiness};

use crate::auth::AuthService;
use crate::chat::Chat;
use crate::config::{AppEnv, Config};
use crate::gate::Gate;
use guard::{Guard, REQUEST_TIMEOUT};
use limits::RequestLimits;

/// What the routes stand on.
pub struct State {
    /// The chat.
    pub chat: Arc<Chat>,
    /// Accounts and tokens.
    pub auth: Arc<AuthService>,
    /// What `/readyz` answers; whoever makes it has it watch the parts, and drains it.
    pub readiness: Arc<Readiness>,
}

/// The whole REST side, with `/healthz`, `/readyz` and the documentation. It has a fallback of its own, so what is merged
/// with it must have none. Requests must bear `ConnectInfo<SocketAddr>`.
pub fn router(state: State, config: &Config) -> Router {
    let State {
        chat,
        auth,
        readiness,
    } = state;
    let guarded = Guard {
        mode: config.env,
        patience: REQUEST_TIMEOUT,
        // The setting argues for its default: with 16 connections to the database, as usual, and a database so slow that
        // each request takes one for 50 ms, the last of 256 still has its answer within a second. On a sound one it is
        // never reached; what comes beyond it would wait longer than its caller.
        requests: Arc::new(Gate::new("requests", config.requests_in_flight)),
    };
    let inner = Inner {
        chat,
        auth,
        readiness,
        limits: Arc::new(RequestLimits::new(config.limits.requests_per_second)),
        mode: config.env,
        trusted_proxies: config.trusted_proxies.as_slice().into(),
    };
    let (router, document) = calls();
    router
        .merge(SwaggerUi::new("/api/docs").url("/api/openapi.json", document))
        .fallback(async || envelope::not_found())
        .layer(from_fn_with_state(guarded, guard::guard))
        .layer(cors::layer(config.origins.clone()))
        .with_state(inner)
}

/// The description of all calls, as it is served at `/api/openapi.json`.
pub fn document() -> utoipa::openapi::OpenApi {
    calls().1
}

/// Every call, once: the router and the document are made of the same table.
fn calls() -> (Router<Inner>, utoipa::openapi::OpenApi) {
    let (router, mut document) = OpenApiRouter::with_openapi(openapi::Document::openapi())
        .routes(routes!(auth::register))
        .routes(routes!(auth::login))
        .routes(routes!(auth::refresh))
        .routes(routes!(auth::logout))
        .routes(routes!(auth::show, auth::update))
        .routes(routes!(auth::change_password))
        .routes(routes!(conversations::list, conversations::open))
        .routes(routes!(conversations::show, conversations::delete))
        .routes(routes!(messages::list, messages::send))
        .routes(routes!(messages::read))
        .routes(routes!(messages::unread))
        .routes(routes!(messages::sync))
        .routes(routes!(people::online))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .split_for_parts();
    openapi::complete(&mut document);
    (router, document)
}

/// What every handler can reach.
#[derive(Clone)]
struct Inner {
    chat: Arc<Chat>,
    auth: Arc<AuthService>,
    readiness: Arc<Readiness>,
    limits: Arc<RequestLimits>,
    /// Whether cookies are for HTTPS only.
    mode: AppEnv,
    /// Whose `X-Forwarded-For` is believed.
    trusted_proxies: Arc<[IpNet]>,
}

impl FromRef<Inner> for Arc<Chat> {
    fn from_ref(inner: &Inner) -> Self {
        inner.chat.clone()
    }
}

impl FromRef<Inner> for Arc<AuthService> {
    fn from_ref(inner: &Inner) -> Self {
        inner.auth.clone()
    }
}
