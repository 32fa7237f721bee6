//! A server with a program that does what the tests ask of it, and clients that speak in literal bytes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use gateway::listener;
use gateway::realtime::{
    Accepted, Application, CloseKind, ConnectRequest, Connections, DisconnectReason, EngineMessage,
    EngineProgram, EngineSession, Event, IncomingEvent, Refusal, Settings, Socket,
    engine_io_router, router,
};
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes, shorter than patience.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<Connections>,
    /// Every `disconnect` the program heard of: the namespace, and why.
    disconnects: mpsc::UnboundedReceiver<(String, DisconnectReason)>,
    stop: CancellationToken,
}

/// The answer to a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Settings with a heartbeat that no test meets unless it wants to.
pub(crate) fn settings() -> Settings {
    Settings::default()
}

impl Server {
    pub(crate) async fn start(settings: Settings) -> Self {
        Self::start_with(settings, Connections::new(0)).await
    }

    pub(crate) async fn start_with(settings: Settings, connections: Arc<Connections>) -> Self {
        let (sender, disconnects) = mpsc::unbounded_channel();
        let program = Arc::new(Program {
            disconnects: sender,
        });
        let app = router(
            Arc::clone(&program),
            settings.clone(),
            Arc::clone(&connections),
        )
        .merge(engine_io_router(
            program,
            settings,
            Arc::clone(&connections),
        ));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(listener::serve(listener, app, stop.clone()));
        Self {
            address,
            connections,
            disconnects,
            stop,
        }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends a request with any further header lines, and reads the whole answer.
    pub(crate) async fn request(&self, line: &str, headers: &str, body: &str) -> Answer {
        self.begin(line, headers, body).await.answer().await
    }

    /// Sends a request.
    pub(crate) async fn begin(&self, line: &str, headers: &str, body: &str) -> Pending {
        let mut stream = self.connect().await;
        let request = format!(
            "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        Pending(stream)
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.request(&format!("GET {path}"), "", "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        self.request(&format!("POST {path}"), "", body).await
    }

    pub(crate) async fn websocket(&self, path: &str) -> Client {
        self.try_websocket(path, &[]).await.unwrap()
    }

    pub(crate) async fn try_websocket(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Client, Error> {
        let mut request = format!("ws://{}{path}", self.address)
            .into_client_request()
            .unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let (socket, _) = tokio_tungstenite::client_async(request, self.connect().await).await?;
        Ok(Client(socket))
    }

    /// Why a socket of the namespace ended.
    pub(crate) async fn disconnected(&mut self) -> (String, DisconnectReason) {
        within(self.disconnects.recv()).await.unwrap()
    }

    /// Waits until every connection is gone.
    pub(crate) async fn empty(&self) {
        within(async {
            while !self.connections.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A request that was sent.
pub(crate) struct Pending(pub(crate) TcpStream);

impl Pending {
    pub(crate) async fn answer(mut self) -> Answer {
        let mut bytes = Vec::new();
        within(self.0.read_to_end(&mut bytes)).await.unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        Answer {
            status: head
                .split(' ')
                .nth(1)
                .map_or(0, |code| code.parse().unwrap()),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }
}

/// A WebSocket client.
pub(crate) struct Client(pub(crate) WebSocketStream<TcpStream>);

impl Client {
    pub(crate) async fn send(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.unwrap();
    }

    pub(crate) async fn send_binary(&mut self, bytes: &'static [u8]) {
        self.0.send(Message::binary(bytes)).await.unwrap();
    }

    /// The next frame that is not a WebSocket ping.
    pub(crate) async fn frame(&mut self) -> Option<Message> {
        within(async {
            loop {
                match self.0.next().await {
                    Some(Ok(Message::Ping(_))) => {}
                    Some(Ok(message)) => return Some(message),
                    Some(Err(_)) | None => return None,
                }
            }
        })
        .await
    }

    pub(crate) async fn text(&mut self) -> String {
        match self.frame().await {
            Some(Message::Text(text)) => text.to_string(),
            other => panic!("not a text frame: {other:?}"),
        }
    }

    pub(crate) async fn binary(&mut self) -> Bytes {
        match self.frame().await {
            Some(Message::Binary(bytes)) => bytes,
            other => panic!("not a binary frame: {other:?}"),
        }
    }

    /// Skips everything up to the end, says goodbye in turn, and gives the close code.
    pub(crate) async fn close_code(&mut self) -> u16 {
        let mut code = 1006;
        while let Some(frame) = self.frame().await {
            if let Message::Close(frame) = frame {
                code = frame.map_or(1005, |frame| frame.code.into());
            }
        }
        code
    }

    /// Connected to the main namespace of Socket.IO.
    pub(crate) async fn socket_io(server: &Server) -> Self {
        let mut client = server
            .websocket("/socket.io/?EIO=4&transport=websocket")
            .await;
        assert!(client.text().await.starts_with("0{"));
        client.send("40{\"token\":\"good\"}").await;
        assert!(client.text().await.starts_with("40{\"sid\":\""));
        client
    }

    /// Let in at `/ws`.
    pub(crate) async fn plain(server: &Server) -> Self {
        let headers = [("authorization", "Bearer good")];
        server.try_websocket("/ws", &headers).await.unwrap()
    }
}

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("nothing happened for a long time")
}

fn json(text: impl Into<String>) -> Box<RawValue> {
    RawValue::from_string(text.into()).unwrap()
}

/// Does what an event's name says.
struct Program {
    disconnects: mpsc::UnboundedSender<(String, DisconnectReason)>,
}

impl Application for Program {
    type Session = ();

    fn accepts_namespace(&self, namespace: &str) -> bool {
        namespace == "/" || namespace.starts_with("/custom")
    }

    async fn connect(
        &self,
        socket: &Socket,
        request: ConnectRequest,
    ) -> Result<Accepted<()>, Refusal> {
        let token = match (&request.auth, &socket.handshake().authorization) {
            (Some(auth), _) => auth.get(),
            (None, Some(header)) if header.expose() == "Bearer good" => r#"{"token":"good"}"#,
            _ => "",
        };
        match token {
            r#"{"token":"good"}"# => {}
            r#"{"token":"early"}"# => {
                socket.emit(&Arc::new(Event::new("early", json("1"), false)));
            }
            r#"{"token":"hang"}"# => std::future::pending().await,
            _ => {
                return Err(Refusal {
                    message: "Invalid token".to_owned(),
                    data: json(r#"{"code":"INVALID_TOKEN"}"#),
                    http_status: 401,
                    body: json(r#"{"success":false}"#),
                    close_code: 4401,
                    come_back: false,
                });
            }
        }
        Ok(Accepted {
            session: Arc::new(()),
            answer: Some(json(r#"{"success":true}"#)),
            recovery_id: None,
        })
    }

    async fn event(&self, socket: &Socket, _: &Arc<()>, event: IncomingEvent) {
        match event.name.as_str() {
            "message" => socket.emit_args("message-back", &event.args, &event.attachments),
            "close" => {
                socket.emit(&Arc::new(Event::new("last", json("1"), false)));
                socket.close(match event.args.get() {
                    "[\"unauthorized\"]" => CloseKind::Unauthorized,
                    "[\"expired\"]" => CloseKind::Expired,
                    other => panic!("unknown kind {other}"),
                });
                socket.emit(&Arc::new(Event::new("after", json("1"), false)));
            }
            "panic" => panic!("as asked"),
            "hang" => std::future::pending().await,
            "flood" => {
                let text = "x".repeat(100_000);
                let event = Arc::new(Event::new("flood", json(format!("\"{text}\"")), false));
                while !socket.is_closed() {
                    socket.emit(&event);
                    tokio::task::yield_now().await;
                }
            }
            "later" => {
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    if let Some(ack) = event.ack {
                        ack.send_args(&event.args, &event.attachments);
                    }
                });
            }
            "burst" => {
                let text = "x".repeat(100_000);
                for number in 0..200 {
                    let data = json(format!("[{number},\"{text}\"]"));
                    socket.emit(&Arc::new(Event::new("burst", data, false)));
                }
            }
            "ask" => {
                let socket = socket.clone();
                let event = Arc::new(Event::new("question", json("1"), false));
                tokio::spawn(async move {
                    let asked = socket.emit_with_ack(&event, Duration::from_millis(200));
                    let (args, attachments) = match asked.await {
                        Ok(answer) => (answer.args, answer.attachments),
                        Err(error) => (json(format!("[\"{error}\"]")), Vec::new()),
                    };
                    socket.emit_args("answer", &args, &attachments);
                });
            }
            _ => {
                if let Some(ack) = event.ack {
                    ack.send_args(&event.args, &event.attachments);
                }
            }
        }
    }

    fn disconnect(&self, socket: &Socket, _: &Arc<()>, reason: DisconnectReason) {
        assert!(socket.is_closed());
        let _ = self
            .disconnects
            .send((socket.namespace().to_owned(), reason));
    }
}

impl EngineProgram for Program {
    fn message(&self, session: &EngineSession, message: EngineMessage) {
        session.send(message);
    }
}
