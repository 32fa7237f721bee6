//! Where the sockets stand in the HTTP server's tree. The server must hand on the peer's address as axum's
//! `ConnectInfo<SocketAddr>` and let connections be upgraded.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::routing::any;

use super::application::Application;
use super::connections::Connections;
use super::engine_io::{BareRiders, EngineIo, EngineProgram, Riders};
use super::plain::Plain;
use super::settings::Settings;
use super::socket_io::SocketIoRiders;

/// Where stock Socket.IO clients look.
pub const SOCKET_IO_PATH: &str = "/socket.io/";

/// Where bare Engine.IO clients look.
pub const ENGINE_IO_PATH: &str = "/engine.io/";

/// Where plain sockets are.
pub const PLAIN_PATH: &str = "/ws";

/// Socket.IO at `SOCKET_IO_PATH` and plain sockets at `PLAIN_PATH`, both for one program. Their connections are listed in
/// `connections`, which several routers may share.
pub fn router<A: Application>(
    application: Arc<A>,
    settings: Settings,
    connections: Arc<Connections>,
) -> Router {
    let settings = Arc::new(settings);
    let riders = SocketIoRiders {
        application: Arc::clone(&application),
        settings: Arc::clone(&settings),
    };
    let plain = Arc::new(Plain {
        application,
        settings: Arc::clone(&settings),
        connections: Arc::clone(&connections),
    });
    engine(SOCKET_IO_PATH, EngineIo::new(settings, connections, riders)).route(
        PLAIN_PATH,
        any(move |request: Request| Arc::clone(&plain).handle(request)),
    )
}

/// Bare Engine.IO at `ENGINE_IO_PATH`.
pub fn engine_io_router<P: EngineProgram>(
    program: Arc<P>,
    settings: Settings,
    connections: Arc<Connections>,
) -> Router {
    let riders = BareRiders(program);
    engine(
        ENGINE_IO_PATH,
        EngineIo::new(Arc::new(settings), connections, riders),
    )
}

/// With and without the slash at the end.
fn engine<F: Riders>(path: &str, server: EngineIo<F>) -> Router {
    let server = Arc::new(server);
    let handler = any(move |request: Request| Arc::clone(&server).handle(request));
    Router::new()
        .route(path, handler.clone())
        .route(path.trim_end_matches('/'), handler)
}
