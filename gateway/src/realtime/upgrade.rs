//! The opening handshake of a WebSocket (RFC 6455, section 4.2), and what every new connection is asked before it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::application::Handshake;
use super::client_address::client_address;
use super::connections::Busy;
use super::settings::Settings;
use crate::config::Secret;

/// How long the connection may take to come over after the 101.
const HANDOVER: Duration = Duration::from_secs(10);

/// A request that asks for a WebSocket, as it should be.
pub(super) struct WebSocketRequest {
    accept: HeaderValue,
    upgrade: OnUpgrade,
}

impl WebSocketRequest {
    /// `None`: it asks for something else, or in the wrong way.
    pub(super) fn parse(parts: &mut Parts) -> Option<Self> {
        let headers = &parts.headers;
        let is_websocket = parts.method == http::Method::GET
            && has_token(headers, header::CONNECTION, "upgrade")
            && has_token(headers, header::UPGRADE, "websocket")
            && headers
                .get(header::SEC_WEBSOCKET_VERSION)
                .is_some_and(|version| version == "13");
        if !is_websocket {
            return None;
        }
        let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
        let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()?;
        // Missing where the server under us can't upgrade: HTTP/1.0.
        let upgrade = parts.extensions.remove::<OnUpgrade>()?;
        Some(Self { accept, upgrade })
    }

    /// The 101, and the connection that comes after it was sent.
    pub(super) fn accept(self) -> (Response, ComingUpgrade) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, self.accept);
        (response, ComingUpgrade(self.upgrade))
    }
}

/// A connection that is about to become a WebSocket.
pub(super) struct ComingUpgrade(OnUpgrade);

impl ComingUpgrade {
    /// `None`: the client went away first.
    pub(super) async fn wait(self) -> Option<Upgraded> {
        tokio::time::timeout(HANDOVER, self.0).await.ok()?.ok()
    }
}

/// What is known of a client by its first request.
pub(super) fn handshake(parts: &Parts, settings: &Settings) -> Handshake {
    let peer = parts
        .extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |info| info.0.ip());
    Handshake {
        remote: client_address(peer, &parts.headers, &settings.trusted_proxies),
        authorization: parts
            .headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .map(Secret::new),
    }
}

/// The answer to a client that can't come in now.
pub(super) fn busy(busy: Busy) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    // Rounded up: who comes back a little early is refused again.
    let wait = busy.retry_after;
    let seconds = (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1);
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        value.to_str().is_ok_and(|value| {
            value
                .split(',')
                .any(|one| one.trim().eq_ignore_ascii_case(token))
        })
    })
}
