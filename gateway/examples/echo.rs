//! The realtime layer by itself: a server for the official conformance suites of Engine.IO 4 and Socket.IO 5, with the
//! settings and answers that they expect. `cargo run --example echo`, then run a suite; `PORT` is 3000 if not set.

use std::error::Error;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use gateway::config::Origins;
use gateway::listener;
use gateway::realtime::{
    Accepted, Application, ConnectRequest, Connections, DisconnectReason, EngineMessage,
    EngineProgram, EngineSession, IncomingEvent, Refusal, Settings, Socket, engine_io_router,
    router,
};
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What the suites expect.
fn settings() -> Settings {
    Settings {
        ping_interval: Duration::from_millis(300),
        ping_timeout: Duration::from_millis(200),
        connect_timeout: Duration::from_millis(1_000),
        max_payload: 1_000_000,
        origins: Origins::Any,
        ..Settings::default()
    }
}

/// Answers in kind, on `/` and `/custom`.
struct Echo;

impl Application for Echo {
    type Session = ();

    fn accepts_namespace(&self, namespace: &str) -> bool {
        matches!(namespace, "/" | "/custom")
    }

    async fn connect(
        &self,
        socket: &Socket,
        request: ConnectRequest,
    ) -> Result<Accepted<()>, Refusal> {
        let auth = request.auth.as_deref().map_or("{}", RawValue::get);
        if let Ok(args) = RawValue::from_string(format!("[{auth}]")) {
            socket.emit_args("auth", &args, &[]);
        }
        Ok(Accepted {
            session: Arc::new(()),
            answer: None,
            recovery_id: None,
        })
    }

    async fn event(&self, socket: &Socket, _: &Arc<()>, event: IncomingEvent) {
        match (event.name.as_str(), event.ack) {
            ("message", _) => socket.emit_args("message-back", &event.args, &event.attachments),
            ("message-with-ack", Some(ack)) => ack.send_args(&event.args, &event.attachments),
            _ => {}
        }
    }

    fn disconnect(&self, _: &Socket, _: &Arc<()>, _: DisconnectReason) {}
}

impl EngineProgram for Echo {
    fn message(&self, session: &EngineSession, message: EngineMessage) {
        session.send(message);
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = match std::env::var("PORT") {
        Ok(port) => port.parse()?,
        Err(_) => 3000,
    };
    let connections = Connections::new(0);
    let echo = Arc::new(Echo);
    let app = router(Arc::clone(&echo), settings(), Arc::clone(&connections))
        .merge(engine_io_router(echo, settings(), connections));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    println!("listening on {}", listener.local_addr()?);
    listener::serve(listener, app, CancellationToken::new()).await;
    Ok(())
}
