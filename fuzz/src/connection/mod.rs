//! A whole connection: frames, broken ones too, into a server of the realtime layer with a small program on it, over pipes
//! in memory and a clock that jumps (so a minute of silence costs nothing).
//!
//! The input is a script. Its first line names the way in: `socket.io`, `engine.io`, `ws` (over WebSocket) or `polling`.
//! Each further line is a step, told by its first byte:
//!
//! | byte | step |
//! | --- | --- |
//! | `t`, `b` | a text or binary frame; while polling, a payload in a POST |
//! | `f` | a frame whose first byte (FIN, reserved bits, opcode) is the next one |
//! | `x` | bytes as they are, framed by nobody |
//! | `w` | so many seconds of silence, one digit |
//! | `g` | a poll |
//! | `u` | from polling over to a WebSocket, or a second one |
//! | `s` | the client reads no more |
//! | `d` | the node is drained |
//! | `e` | the client is cut off; the script ends |
//!
//! Where nothing cut it off, the client stays silent at the end. `program` is what the server runs, `client` the other end.

mod client;
mod program;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use gateway::realtime::{Connections, Settings, engine_io_router, router};
use http::Request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use shared::protocol::{engine_io, plain, socket_io};
use tokio::io::DuplexStream;
use tower::ServiceExt as _;

use client::{Client, Heard};
use program::Program;

/// More than anybody needs to come to any state.
const MAX_STEPS: usize = 64;

/// A small limit, so that inputs come over it.
const MAX_PAYLOAD: usize = 2_000;

/// In virtual time: a heartbeat's whole round (45 s), the closing of what is left of it, and a little.
const END: Duration = Duration::from_secs(60);

/// The bytes a pipe holds: little, so that writers have to wait.
const PIPE: usize = 1_024;

/// Nothing panics in any task, nothing is answered that nobody asked or twice, every socket that was let in is told of its
/// end once, all that the server says is grammatical, and the connection ends within its time.
pub fn check(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let Some(way) = lines.next().and_then(Way::parse) else {
        return;
    };
    let steps: Vec<&[u8]> = lines.take(MAX_STEPS).collect();
    let panics = crate::panics::count();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(play(way, &steps));
    drop(runtime);
    assert_eq!(
        crate::panics::count(),
        panics,
        "a task of the server panicked"
    );
}

/// The way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    SocketIo,
    EngineIo,
    Plain,
    Polling,
}

impl Way {
    fn parse(line: &[u8]) -> Option<Self> {
        match line {
            b"socket.io" => Some(Self::SocketIo),
            b"engine.io" => Some(Self::EngineIo),
            b"ws" => Some(Self::Plain),
            b"polling" => Some(Self::Polling),
            _ => None,
        }
    }

    const fn path(self) -> &'static str {
        match self {
            Self::SocketIo | Self::Polling => "/socket.io/?EIO=4",
            Self::EngineIo => "/engine.io/?EIO=4",
            Self::Plain => "/ws?",
        }
    }
}

/// A node's realtime layer.
#[derive(Clone)]
struct Server {
    router: Router,
    connections: Arc<Connections>,
    program: Arc<Program>,
}

impl Server {
    fn new() -> Self {
        let settings = Settings {
            max_payload: MAX_PAYLOAD,
            max_attachments: 3,
            max_namespaces: 2,
            outbox_bytes: 8_000,
            ..Settings::default()
        };
        let connections = Connections::new(0);
        let program = Arc::new(Program::new(&settings));
        let router = router(
            Arc::clone(&program),
            settings.clone(),
            Arc::clone(&connections),
        )
        .merge(engine_io_router(
            Arc::clone(&program),
            settings,
            Arc::clone(&connections),
        ));
        Self {
            router,
            connections,
            program,
        }
    }

    /// The client's end of a new connection.
    fn connect(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(PIPE);
        let router = self.router.clone();
        let service = service_fn(move |mut request: Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(peer());
            router.clone().oneshot(request.map(axum::body::Body::new))
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(theirs), service)
            .with_upgrades();
        tokio::spawn(async move {
            // A client that is cut off is no fault.
            let _ = connection.await;
        });
        ours
    }
}

fn peer() -> ConnectInfo<SocketAddr> {
    ConnectInfo((Ipv4Addr::LOCALHOST, 4242).into())
}

async fn play(way: Way, steps: &[&[u8]]) -> Heard {
    let server = Server::new();
    let mut client = Client::open(server.clone(), way).await;
    for step in steps {
        if !client.step(step).await {
            break;
        }
    }
    let left = async {
        while !server.connections.is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let ended = tokio::time::timeout(END, left).await.is_ok();
    assert!(
        ended,
        "the connection is open long after its client's last word"
    );
    // What was written last is on its way to the client.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let asked = client.asked();
    let heard = client.end().await;
    judge(way, &heard, asked.as_ref(), &server.program);
    heard
}

/// What a client asked an answer for, by namespace and number, and how often.
type Asked = BTreeMap<(String, u64), usize>;

fn judge(way: Way, heard: &Heard, asked: Option<&Asked>, program: &Program) {
    let mut answers = Asked::new();
    let mut announced = 0;
    for text in &heard.texts {
        if way == Way::Plain {
            if let Some(id) = plain_answer(text) {
                *answers.entry((String::new(), id)).or_default() += 1;
            }
            continue;
        }
        let packet = engine_io::decode(text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
        let engine_io::Packet::Message(text) = packet else {
            continue;
        };
        if way == Way::EngineIo {
            continue;
        }
        let packet =
            socket_io::decode(text, usize::MAX).unwrap_or_else(|error| panic!("{error}: {text:?}"));
        match packet.body {
            socket_io::Body::Ack {
                id, attachments, ..
            } => {
                announced += attachments;
                *answers
                    .entry((packet.namespace.to_owned(), id))
                    .or_default() += 1;
            }
            socket_io::Body::Event { attachments, .. } => announced += attachments,
            _ => {}
        }
    }
    if way != Way::EngineIo {
        assert!(
            heard.binaries <= announced,
            "attachments that nobody announced"
        );
    }
    program.judge(answers.values().sum());
    // Frames that were put together by hand may have asked for anything.
    if let Some(asked) = asked {
        for (question, times) in &answers {
            let asked = asked.get(question).copied().unwrap_or_default();
            assert!(
                *times <= asked,
                "{question:?} is answered {times} times, asked {asked} times"
            );
        }
    }
}

/// The number of the question that a plain frame answers.
fn plain_answer(text: &str) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_str(text).unwrap();
    let answer = value.get("ack").map(|id| id.as_u64().unwrap());
    assert!(answer.is_some() != value["event"].is_string(), "{text:?}");
    assert!(value.get("data").is_some(), "{text:?}");
    answer
}

/// What the text of a frame asks an answer for.
fn question(way: Way, text: &str) -> Option<(String, u64)> {
    match way {
        Way::EngineIo => None,
        Way::Plain => Some((String::new(), plain::decode(text).ok()?.id?)),
        Way::SocketIo | Way::Polling => {
            let packet = socket_io::decode(text.strip_prefix('4')?, usize::MAX).ok()?;
            match packet.body {
                socket_io::Body::Event { id, .. } => Some((packet.namespace.to_owned(), id?)),
                _ => None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client hears of a script in the corpus, but for what differs from run to run.
    fn heard(script: &str) -> (Vec<String>, usize) {
        let path = format!("{}/corpus/connection/{script}", env!("CARGO_MANIFEST_DIR"));
        let input = std::fs::read(path).unwrap();
        let mut lines = input.split(|byte| *byte == b'\n');
        let way = Way::parse(lines.next().unwrap()).unwrap();
        let steps: Vec<_> = lines.collect();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let heard = runtime.block_on(play(way, &steps));
        let texts = heard.texts.into_iter();
        let texts = texts.filter(|text| !text.contains("\"sid\"")).collect();
        (texts, heard.binaries)
    }

    /// A harness that hears nothing would find nothing.
    #[test]
    fn scripts_are_played_and_heard() {
        for (script, texts, binaries) in [
            (
                "echo",
                &[r#"42["welcome",1]"#, r#"42["echo",1,{"a":"b"}]"#, "437[1]"][..],
                0,
            ),
            (
                "namespaces",
                &[
                    r#"42["welcome",1]"#,
                    r#"42/custom,["welcome",1]"#,
                    r#"44/c3,{"message":"Too many namespaces"}"#,
                    r#"44/unknown,{"message":"Invalid namespace"}"#,
                    "43/custom,3[1]",
                ],
                0,
            ),
            ("engine", &["4hello", "4"], 1),
            (
                "plain",
                &[
                    r#"{"ack":1,"data":null}"#,
                    r#"{"event":"welcome","data":1}"#,
                    r#"{"ack":7,"data":[{"a":1}]}"#,
                    r#"{"event":"echo","data":[[1]]}"#,
                    r#"{"ack":8,"data":[]}"#,
                ],
                0,
            ),
            (
                "polling_binary",
                &[
                    r#"42["welcome",1]"#,
                    r#"451-["echo",{"_placeholder":true,"num":0}]"#,
                    "1",
                ],
                1,
            ),
            // The heartbeat is what the silent client hears last.
            (
                "upgrade",
                &[
                    r#"42["welcome",1]"#,
                    "3probe",
                    "437[]",
                    r#"421["question",1]"#,
                    "2",
                ],
                0,
            ),
        ] {
            let expected: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(heard(script), (expected, binaries), "{script}");
        }
    }
}
