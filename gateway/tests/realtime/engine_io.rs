//! Engine.IO 4, by `docs/engine.io-protocol/v4-current.md` of the Socket.IO repository.

use std::time::Duration;

use gateway::realtime::Settings;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Client, Server, settings, within};

const POLLING: &str = "/engine.io/?EIO=4&transport=polling";
const WEBSOCKET: &str = "/engine.io/?EIO=4&transport=websocket";

async fn open_polling(server: &Server) -> String {
    let answer = server.get(POLLING).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let handshake: Value = serde_json::from_str(answer.body.strip_prefix('0').unwrap()).unwrap();
    handshake["sid"].as_str().unwrap().to_owned()
}

fn polling(sid: &str) -> String {
    format!("{POLLING}&sid={sid}")
}

fn upgrade(sid: &str) -> String {
    format!("{WEBSOCKET}&sid={sid}")
}

/// A heartbeat that can be waited for.
fn quick() -> Settings {
    Settings {
        ping_interval: Duration::from_millis(100),
        ping_timeout: Duration::from_millis(100),
        ..settings()
    }
}

#[tokio::test]
async fn the_handshake_says_what_the_session_may_do() {
    let server = Server::start(settings()).await;
    let answer = server.get(POLLING).await;
    let handshake: Value = serde_json::from_str(&answer.body[1..]).unwrap();
    assert_eq!(handshake["upgrades"], serde_json::json!(["websocket"]));
    assert_eq!(handshake["pingInterval"], 25000);
    assert_eq!(handshake["pingTimeout"], 20000);
    assert_eq!(handshake["maxPayload"], 1_000_000);
    assert!(handshake["sid"].as_str().unwrap().len() >= 20);

    let mut client = server.websocket(WEBSOCKET).await;
    let text = client.text().await;
    let handshake: Value = serde_json::from_str(&text[1..]).unwrap();
    assert_eq!(handshake["upgrades"], serde_json::json!([]));
    assert_eq!(server.connections.len(), 2);
}

#[tokio::test]
async fn bad_handshakes_are_refused_as_the_reference_server_does() {
    let server = Server::start(settings()).await;
    for (line, body) in [
        (
            "GET /engine.io/",
            r#"{"code":0,"message":"Transport unknown"}"#,
        ),
        (
            "GET /engine.io/?EIO=4",
            r#"{"code":0,"message":"Transport unknown"}"#,
        ),
        (
            "GET /engine.io/?EIO=4&transport=abc",
            r#"{"code":0,"message":"Transport unknown"}"#,
        ),
        (
            "GET /engine.io/?EIO=4&transport=polling&sid=abc",
            r#"{"code":1,"message":"Session ID unknown"}"#,
        ),
        (
            "POST /engine.io/?EIO=4&transport=polling",
            r#"{"code":2,"message":"Bad handshake method"}"#,
        ),
        (
            "PUT /engine.io/?EIO=4&transport=polling",
            r#"{"code":2,"message":"Bad handshake method"}"#,
        ),
        (
            "GET /engine.io/?EIO=4&transport=websocket",
            r#"{"code":3,"message":"Bad request"}"#,
        ),
        (
            "GET /engine.io/?transport=polling",
            r#"{"code":5,"message":"Unsupported protocol version"}"#,
        ),
        (
            "GET /engine.io/?EIO=3&transport=polling",
            r#"{"code":5,"message":"Unsupported protocol version"}"#,
        ),
    ] {
        let answer = server.request(line, "", "").await;
        assert_eq!((answer.status, answer.body.as_str()), (400, body), "{line}");
    }
    assert!(server.connections.is_empty());
}

#[tokio::test]
async fn payloads_carry_text_and_binary_in_order() {
    let server = Server::start(settings()).await;
    let path = polling(&open_polling(&server).await);
    for body in [
        "4hello",
        "4test1\u{1e}4test2\u{1e}4test3",
        "4hello\u{1e}bAQIDBA==",
    ] {
        let answer = server.post(&path, body).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
        assert_eq!(server.get(&path).await.body, body);
    }
}

#[tokio::test]
async fn a_poll_waits_for_something_to_say() {
    let server = Server::start(settings()).await;
    let path = polling(&open_polling(&server).await);
    let poll = server.begin(&format!("GET {path}"), "", "").await;
    server.post(&path, "4late").await;
    assert_eq!(poll.answer().await.body, "4late");
}

#[tokio::test]
async fn payloads_that_break_the_protocol_end_the_session() {
    let server = Server::start(settings()).await;
    for body in ["abc", "", "4a\u{1e}", "b!", "2", "1x"] {
        let path = polling(&open_polling(&server).await);
        assert_eq!(server.post(&path, body).await.status, 400, "{body}");
        assert_eq!(server.get(&path).await.status, 400, "{body}");
    }
    server.empty().await;
}

#[tokio::test]
async fn two_polls_at_a_time_end_the_session() {
    let server = Server::start(settings()).await;
    let path = polling(&open_polling(&server).await);
    let line = format!("GET {path}");
    let (first, second) = (
        server.begin(&line, "", "").await,
        server.begin(&line, "", "").await,
    );
    let mut answers =
        [first.answer().await, second.answer().await].map(|answer| (answer.status, answer.body));
    answers.sort();
    assert_eq!(answers[0], (200, "1".to_owned()));
    assert_eq!(answers[1].0, 400);
    assert_eq!(server.get(&path).await.status, 400);
    server.empty().await;
}

#[tokio::test]
async fn two_posts_at_a_time_end_the_session() {
    let server = Server::start(settings()).await;
    let path = polling(&open_polling(&server).await);
    // One that never comes to its end.
    let mut first = server.connect().await;
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n4a");
    first.write_all(head.as_bytes()).await.unwrap();
    // The first may still be on its way: the posts themselves are fine.
    while server.post(&path, "4b").await.status == 200 {}
    server.empty().await;
}

#[tokio::test]
async fn a_cancelled_poll_ends_the_session() {
    let server = Server::start(settings()).await;
    let path = polling(&open_polling(&server).await);
    let poll = server.begin(&format!("GET {path}"), "", "").await;
    drop(poll);
    server.empty().await;
    assert_eq!(server.get(&path).await.status, 400);
}

#[tokio::test]
async fn payloads_over_the_limit_are_refused_and_the_session_lives() {
    let server = Server::start(settings()).await;
    let path = polling(&open_polling(&server).await);
    let fits = format!("4{}", "x".repeat(999_999));
    assert_eq!(server.post(&path, &fits).await.status, 200);
    assert_eq!(server.get(&path).await.body.len(), 1_000_000);

    let mut announced = server.connect().await;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 1000001\r\n\r\n"
    );
    announced.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(
        crate::support::Pending(announced).answer().await.status,
        413
    );

    let mut chunked = server.connect().await;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let chunk = format!("F4241\r\n{}\r\n0\r\n\r\n", "x".repeat(1_000_001));
    chunked.write_all(head.as_bytes()).await.unwrap();
    // The server may have answered, and hung up, before the end.
    let _ = chunked.write_all(chunk.as_bytes()).await;
    assert_eq!(crate::support::Pending(chunked).answer().await.status, 413);

    assert_eq!(server.post(&path, "4on").await.status, 200);
    assert_eq!(server.get(&path).await.body, "4on");
}

#[tokio::test]
async fn the_client_may_end_a_session() {
    let server = Server::start(settings()).await;
    let path = polling(&open_polling(&server).await);
    let poll = server.begin(&format!("GET {path}"), "", "").await;
    assert_eq!(server.post(&path, "1").await.body, "ok");
    assert_eq!(poll.answer().await.body, "6");
    assert_eq!(server.get(&path).await.status, 400);

    let mut client = server.websocket(WEBSOCKET).await;
    client.send("1").await;
    client.close_code().await;
    server.empty().await;
}

#[tokio::test]
async fn the_heartbeat_keeps_a_polling_session_and_its_lack_ends_it() {
    let server = Server::start(quick()).await;
    let path = polling(&open_polling(&server).await);
    for _ in 0..3 {
        assert_eq!(server.get(&path).await.body, "2");
        assert_eq!(server.post(&path, "3").await.status, 200);
    }
    assert_eq!(server.get(&path).await.body, "2");
    assert_eq!(server.get(&path).await.body, "1");
    assert_eq!(server.get(&path).await.status, 400);
    server.empty().await;
}

#[tokio::test]
async fn a_session_that_never_polls_again_ends_by_itself() {
    let server = Server::start(quick()).await;
    open_polling(&server).await;
    assert_eq!(server.connections.len(), 1);
    server.empty().await;
}

#[tokio::test]
async fn the_heartbeat_keeps_a_websocket_and_its_lack_ends_it() {
    let server = Server::start(quick()).await;
    let mut client = server.websocket(WEBSOCKET).await;
    client.text().await;
    for _ in 0..3 {
        assert_eq!(client.text().await, "2");
        client.send("3").await;
    }
    assert_eq!(client.text().await, "2");
    assert_eq!(client.close_code().await, 1001);
    server.empty().await;
}

#[tokio::test]
async fn frames_that_break_the_protocol_end_a_websocket() {
    let server = Server::start(settings()).await;
    for frame in ["abc", "", "2", "2probe", "1x"] {
        let mut client = server.websocket(WEBSOCKET).await;
        client.text().await;
        client.send(frame).await;
        assert_eq!(client.close_code().await, 4400, "{frame}");
    }
    server.empty().await;
}

#[tokio::test]
async fn websocket_frames_carry_text_and_binary() {
    let server = Server::start(settings()).await;
    let mut client = server.websocket(WEBSOCKET).await;
    client.text().await;
    client.send("4hello").await;
    client.send_binary(&[1, 2, 3, 4]).await;
    assert_eq!(client.text().await, "4hello");
    assert_eq!(client.binary().await.as_ref(), [1, 2, 3, 4]);
}

async fn probe(server: &Server, sid: &str) -> Client {
    let mut client = server.websocket(&upgrade(sid)).await;
    client.send("2probe").await;
    assert_eq!(client.text().await, "3probe");
    client
}

#[tokio::test]
async fn an_upgrade_releases_the_poll_and_keeps_every_message_in_order() {
    let server = Server::start(settings()).await;
    let sid = open_polling(&server).await;
    let path = polling(&sid);
    let poll = server.begin(&format!("GET {path}"), "", "").await;
    let mut client = probe(&server, &sid).await;
    assert_eq!(poll.answer().await.body, "6");
    // Nobody polls for these two: they must come by the WebSocket.
    server.post(&path, "41\u{1e}bAg==").await;
    client.send("5").await;
    client.send("43").await;
    assert_eq!(client.text().await, "41");
    assert_eq!(client.binary().await.as_ref(), [2]);
    assert_eq!(client.text().await, "43");
    assert_eq!(server.get(&path).await.status, 400);
    assert_eq!(server.post(&path, "4x").await.status, 400);
    // A second WebSocket gets nowhere, and the first goes on.
    server.websocket(&upgrade(&sid)).await.close_code().await;
    client.send("44").await;
    assert_eq!(client.text().await, "44");
    drop(client);
    server.empty().await;
}

#[tokio::test]
async fn a_poll_that_comes_during_an_upgrade_is_let_go() {
    let server = Server::start(settings()).await;
    let sid = open_polling(&server).await;
    let _client = probe(&server, &sid).await;
    assert_eq!(server.get(&polling(&sid)).await.body, "6");
}

#[tokio::test]
async fn a_failed_upgrade_leaves_the_session_where_it_was() {
    let server = Server::start(Settings {
        upgrade_timeout: Duration::from_millis(100),
        ..settings()
    })
    .await;
    let sid = open_polling(&server).await;
    // Not a probe; a probe and no upgrade; nothing at all.
    let mut client = server.websocket(&upgrade(&sid)).await;
    client.send("4hello").await;
    assert_eq!(client.close_code().await, 4400);
    let mut client = probe(&server, &sid).await;
    assert_eq!(client.close_code().await, 4400);
    let mut client = server.websocket(&upgrade(&sid)).await;
    assert_eq!(client.close_code().await, 4400);
    let path = polling(&sid);
    assert_eq!(server.post(&path, "4still").await.status, 200);
    assert_eq!(server.get(&path).await.body, "4still");
}

#[tokio::test]
async fn pages_of_other_origins_may_read_what_they_are_allowed_to() {
    let server = Server::start(settings()).await;
    let origin = "Origin: https://a.example\r\n";
    let answer = server.request(&format!("GET {POLLING}"), origin, "").await;
    assert!(
        answer
            .head
            .contains("access-control-allow-origin: https://a.example")
    );
    assert!(
        answer
            .head
            .contains("access-control-allow-credentials: true")
    );
    let asks = format!(
        "{origin}Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n"
    );
    let answer = server.request("OPTIONS /engine.io/", &asks, "").await;
    assert_eq!(answer.status, 204);
    assert!(
        answer
            .head
            .contains("access-control-allow-headers: authorization")
    );
    assert!(
        answer
            .head
            .contains("access-control-allow-methods: get, post")
    );
}

/// Asks for a WebSocket on a bare connection.
async fn ask(server: &Server, path: &str) -> TcpStream {
    let mut stream = server.connect().await;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Neither end has anything to say, and the client must know that it is in.
#[tokio::test]
async fn a_handshake_that_nothing_follows_is_not_kept_back() {
    let server = Server::start(settings()).await;
    let mut stream = ask(&server, "/ws").await;
    let mut answer = [0; 12];
    within(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101");
}
