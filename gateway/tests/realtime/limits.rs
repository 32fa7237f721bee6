//! What a node bears: origins, bursts of connects, draining, slow readers, and clients that never come to an end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::SinkExt;
use gateway::config::Origins;
use gateway::realtime::{Connections, DisconnectReason, Settings};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::{Client, Server, settings, within};

const WEBSOCKETS: [&str; 3] = [
    "/engine.io/?EIO=4&transport=websocket",
    "/socket.io/?EIO=4&transport=websocket",
    "/ws",
];

fn status<T>(result: Result<T, Error>) -> u16 {
    match result {
        Err(Error::Http(response)) => response.status().as_u16(),
        Ok(_) => 101,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn websockets_of_foreign_pages_are_refused() {
    let server = Server::start(Settings {
        origins: Origins::These(vec!["https://a.example".to_owned()]),
        ..settings()
    })
    .await;
    for path in WEBSOCKETS {
        for (origin, expected) in [("https://a.example", 101), ("https://b.example", 403)] {
            let headers = [("origin", origin)];
            let result = server.try_websocket(path, &headers).await;
            assert_eq!(status(result), expected, "{path} {origin}");
        }
        assert_eq!(status(server.try_websocket(path, &[]).await), 101, "{path}");
    }
    let origin = "Origin: https://b.example\r\n";
    let line = "GET /socket.io/?EIO=4&transport=polling";
    let answer = server.request(line, origin, "").await;
    assert!(!answer.head.contains("access-control-allow-origin"));
}

#[tokio::test]
async fn connects_beyond_the_rate_are_told_to_come_back() {
    let server = Server::start_with(settings(), Connections::new(1)).await;
    let line = "GET /socket.io/?EIO=4&transport=polling";
    assert_eq!(server.request(line, "", "").await.status, 200);
    let answer = server.request(line, "", "").await;
    assert_eq!(answer.status, 503);
    assert!(answer.head.contains("retry-after: 1"));
}

#[tokio::test]
async fn so_many_are_on_their_way_in_at_once() {
    let server = Server::start_with(settings(), Connections::bounded(0, 2)).await;
    let polling = "GET /socket.io/?EIO=4&transport=polling";
    // On their way in: connected, and not in any namespace yet.
    let mut first = server.websocket(WEBSOCKETS[1]).await;
    let second = server.websocket("/ws").await;
    let answer = server.request(polling, "", "").await;
    assert_eq!(answer.status, 503);
    assert!(answer.head.contains("retry-after: "), "{}", answer.head);
    for path in WEBSOCKETS {
        assert_eq!(status(server.try_websocket(path, &[]).await), 503, "{path}");
    }
    // One is in, and makes room; so does one that goes.
    assert!(first.text().await.starts_with("0{"));
    first.send("40{\"token\":\"good\"}").await;
    assert!(first.text().await.starts_with("40{"));
    let third = server.websocket(WEBSOCKETS[1]).await;
    assert_eq!(server.request(polling, "", "").await.status, 503);
    drop(second);
    within(async {
        while server.request(polling, "", "").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    drop(third);
}

#[tokio::test]
async fn draining_closes_the_transports_and_takes_nobody_in() {
    let mut server = Server::start(settings()).await;
    let mut clients = [
        Client::socket_io(&server).await,
        Client::plain(&server).await,
    ];
    let path = "/engine.io/?EIO=4&transport=polling";
    let handshake = server.get(path).await.body;
    let sid = handshake.split('"').nth(3).unwrap().to_owned();
    let line = format!("GET {path}&sid={sid}");
    let poll = server.begin(&line, "", "").await;
    let connections = server.connections.clone();
    let drain = tokio::spawn(async move { connections.drain(Duration::from_millis(200)).await });
    for client in &mut clients {
        // No DISCONNECT comes before it: a stock client would stay away.
        match client.frame().await {
            Some(Message::Close(Some(frame))) => assert_eq!(u16::from(frame.code), 1012),
            other => panic!("{other:?}"),
        }
        drop(client.frame().await);
        assert_eq!(server.disconnected().await.1, DisconnectReason::Draining);
    }
    assert_eq!(poll.answer().await.body, "1");
    for path in WEBSOCKETS {
        assert_eq!(status(server.try_websocket(path, &[]).await), 503, "{path}");
    }
    within(drain).await.unwrap();
    server.empty().await;
}

#[tokio::test]
async fn a_client_gets_the_answer_it_waits_for_before_it_is_sent_away() {
    let server = Server::start(settings()).await;
    let mut client = Client::socket_io(&server).await;
    client.send("427[\"later\",1]").await;
    // Handled before the drain begins: events of one socket are taken in order.
    client.send("428[\"echo\",2]").await;
    assert_eq!(client.text().await, "438[2]");
    let connections = server.connections.clone();
    let drain = tokio::spawn(async move { connections.drain(Duration::ZERO).await });
    assert_eq!(client.text().await, "437[1]");
    match client.frame().await {
        Some(Message::Close(Some(frame))) => assert_eq!(u16::from(frame.code), 1012),
        other => panic!("{other:?}"),
    }
    drop(client);
    within(drain).await.unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_and_holds_nobody_up() {
    let mut server = Server::start(settings()).await;
    let mut slow = Client::socket_io(&server).await;
    let mut slow_too = Client::plain(&server).await;
    slow.send("42[\"flood\"]").await;
    slow_too.send(r#"{"event":"flood"}"#).await;
    let mut quick = Client::socket_io(&server).await;
    quick.send("421[\"echo\",1]").await;
    assert_eq!(quick.text().await, "431[1]");
    for _ in 0..2 {
        assert_eq!(server.disconnected().await.1, DisconnectReason::TooSlow);
    }
    assert_eq!(slow_too.close_code().await, 1013);
    assert_eq!(slow.close_code().await, 1013);
    drop(quick);
    server.empty().await;
}

#[tokio::test]
async fn a_client_that_reads_late_gets_all_of_it_in_order() {
    let server = Server::start(Settings {
        outbox_bytes: 100_000_000,
        ..settings()
    })
    .await;
    let mut client = Client::socket_io(&server).await;
    let mut quick = Client::plain(&server).await;
    client.send("42[\"burst\"]").await;
    // More than the kernel takes: by now the server waits for this client, and nobody else does.
    client.send("421[\"echo\"]").await;
    quick.send(r#"{"event":"echo","id":1}"#).await;
    quick.text().await;
    for number in 0..200 {
        let text = client.text().await;
        assert!(text.starts_with(&format!("42[\"burst\",[{number},")));
    }
    assert_eq!(client.text().await, "431[]");
}

#[tokio::test]
async fn a_client_that_is_never_let_in_is_closed() {
    let server = Server::start(Settings {
        connect_timeout: Duration::from_millis(100),
        ..settings()
    })
    .await;
    for path in ["/socket.io/?EIO=4&transport=websocket", "/ws"] {
        let mut client = server.websocket(path).await;
        assert_eq!(client.close_code().await, 4401, "{path}");
    }
    server.get("/socket.io/?EIO=4&transport=polling").await;
    // One that was refused has no more time than one that never asked.
    let mut client = server
        .websocket("/socket.io/?EIO=4&transport=websocket")
        .await;
    client.send("40{\"token\":\"bad\"}").await;
    assert_eq!(client.close_code().await, 4401);
    // Nor has one that left.
    let mut client = Client::socket_io(&server).await;
    client.send("41").await;
    assert_eq!(client.close_code().await, 4401);
    server.empty().await;
}

#[tokio::test]
async fn frames_over_the_limit_end_the_connection() {
    let server = Server::start(settings()).await;
    for path in WEBSOCKETS {
        let mut client = server.websocket(path).await;
        client.send(&"4".repeat(1_000_001)).await;
        assert_eq!(client.close_code().await, 1009, "{path}");
    }
    let mut client = server.websocket(WEBSOCKETS[0]).await;
    client.text().await;
    let fits = "4".repeat(1_000_000);
    client.send(&fits).await;
    assert_eq!(client.text().await, fits);
    drop(client);
    server.empty().await;
}

#[tokio::test]
async fn requests_that_never_end_are_given_up() {
    let server = Server::start(settings()).await;
    let mut head = server.connect().await;
    let start = b"GET /ws HTTP/1.1\r\nHost: local";
    head.write_all(start).await.unwrap();

    let path = "/engine.io/?EIO=4&transport=polling";
    let handshake = server.get(path).await.body;
    let sid = handshake.split('"').nth(3).unwrap();
    let mut body = server.connect().await;
    let start = format!(
        "POST {path}&sid={sid} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 9\r\n\r\n4"
    );
    body.write_all(start.as_bytes()).await.unwrap();

    // From here on the clock jumps to the next timer whenever nothing else happens.
    let start = Instant::now();
    tokio::time::pause();
    let mut answer = Vec::new();
    head.read_to_end(&mut answer).await.unwrap();
    let mut answer = String::new();
    body.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!((29..=31).contains(&start.elapsed().as_secs()));
}

/// Something that looks like a packet at first sight.
fn nonsense(rng: &mut StdRng) -> String {
    const PIECES: [&str; 24] = [
        "4",
        "40",
        "42",
        "43",
        "45",
        "46",
        "0",
        "1",
        "2",
        "3",
        "5",
        "6",
        "[",
        "]",
        "{",
        "}",
        "\"",
        ",",
        "-",
        "/custom",
        "\"event\":",
        "\"id\":",
        "é😀",
        "\u{1e}b",
    ];
    let pieces = rng.random_range(0..12);
    (0..pieces)
        .map(|_| PIECES[rng.random_range(0..PIECES.len())])
        .collect()
}

#[tokio::test]
async fn no_nonsense_brings_the_server_down_or_stays_in_it() {
    static PANICKED: AtomicBool = AtomicBool::new(false);

    // All of this test runs on this thread; what others do on theirs is theirs.
    let here = std::thread::current().id();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() == here {
            PANICKED.store(true, Ordering::SeqCst);
        }
        hook(info);
    }));
    let mut rng = StdRng::seed_from_u64(7);
    let server = Server::start(settings()).await;
    for round in 0..300 {
        let mut client = match round % 4 {
            0 => Client::socket_io(&server).await,
            1 => Client::plain(&server).await,
            2 => server.websocket(WEBSOCKETS[0]).await,
            _ => server.websocket("/ws").await,
        };
        for _ in 0..4 {
            let text = nonsense(&mut rng);
            let message = if rng.random_bool(0.2) {
                Message::binary(text)
            } else {
                Message::text(text)
            };
            // The server may have had enough.
            let _ = client.0.send(message).await;
        }
        let handshake = server.get("/engine.io/?EIO=4&transport=polling").await.body;
        let sid = handshake.split('"').nth(3).unwrap();
        let path = format!("/engine.io/?EIO=4&transport=polling&sid={sid}");
        server.post(&path, &nonsense(&mut rng)).await;
        server.post(&path, "1").await;
    }
    server.empty().await;
    let mut client = Client::socket_io(&server).await;
    client.send("421[\"echo\",1]").await;
    assert_eq!(client.text().await, "431[1]");
    assert!(!PANICKED.load(Ordering::SeqCst));
}

#[tokio::test]
async fn what_a_program_holds_is_let_go_when_its_client_leaves() {
    let mut server = Server::start(settings()).await;
    // A program that panics ends its own connection only, and is told so.
    let mut client = Client::socket_io(&server).await;
    client.send("42[\"panic\"]").await;
    client.close_code().await;
    assert_eq!(
        server.disconnected().await.1,
        DisconnectReason::TransportClose
    );
    // Work that does not end goes with the connection.
    let mut client = Client::socket_io(&server).await;
    client.send("42[\"hang\"]").await;
    let mut client_too = server.websocket("/ws").await;
    client_too
        .send(r#"{"event":"authenticate","data":{"token":"hang"}}"#)
        .await;
    server.connections.drain(Duration::ZERO).await;
    assert_eq!(server.disconnected().await.1, DisconnectReason::Draining);
    server.empty().await;
}
