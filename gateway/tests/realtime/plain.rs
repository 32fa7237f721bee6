//! Plain sockets at `/ws`.

use std::time::Duration;

use futures_util::SinkExt;
use gateway::realtime::{DisconnectReason, Settings};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::{Client, Server, settings, within};

#[tokio::test]
async fn a_token_in_the_header_is_decided_before_the_upgrade() {
    let server = Server::start(settings()).await;
    let headers = [("authorization", "Bearer bad")];
    match server.try_websocket("/ws", &headers).await {
        Err(Error::Http(response)) => {
            assert_eq!(response.status(), 401);
            assert_eq!(response.headers()["content-type"], "application/json");
            let body = response.body().as_deref().unwrap_or_default();
            assert_eq!(body, br#"{"success":false}"#);
        }
        _ => panic!("let in"),
    }
    assert!(server.connections.is_empty());
    let mut client = Client::plain(&server).await;
    client
        .send(r#"{"event":"echo","data":{"a":1},"id":7}"#)
        .await;
    assert_eq!(client.text().await, r#"{"ack":7,"data":[{"a":1}]}"#);
    client.send(r#"{"event":"message","data":2}"#).await;
    assert_eq!(
        client.text().await,
        r#"{"event":"message-back","data":[2]}"#
    );
}

#[tokio::test]
async fn a_token_in_the_first_frame_is_answered() {
    let server = Server::start(settings()).await;
    let mut client = server.websocket("/ws").await;
    client
        .send(r#"{"event":"authenticate","data":{"token":"good"},"id":0}"#)
        .await;
    assert_eq!(client.text().await, r#"{"ack":0,"data":{"success":true}}"#);
    let mut client = server.websocket("/ws").await;
    client
        .send(r#"{"event":"authenticate","data":{"token":"early"}}"#)
        .await;
    assert_eq!(client.text().await, r#"{"event":"early","data":1}"#);
}

#[tokio::test]
async fn a_bad_token_is_answered_and_the_socket_closed() {
    let server = Server::start(settings()).await;
    for (frame, answer) in [
        (
            r#"{"event":"authenticate","data":{"token":"bad"},"id":3}"#,
            r#"{"ack":3,"data":{"success":false}}"#,
        ),
        (
            r#"{"event":"authenticate","data":{"token":"bad"}}"#,
            r#"{"event":"error","data":{"event":"authenticate","success":false}}"#,
        ),
        (
            r#"{"event":"authenticate","id":3}"#,
            r#"{"ack":3,"data":{"success":false}}"#,
        ),
    ] {
        let mut client = server.websocket("/ws").await;
        client.send(frame).await;
        assert_eq!(client.text().await, answer);
        assert_eq!(client.close_code().await, 4401);
    }
    let mut client = server.websocket("/ws").await;
    client.send(r#"{"event":"echo","id":1}"#).await;
    assert_eq!(client.close_code().await, 4401);
    server.empty().await;
}

#[tokio::test]
async fn malformed_frames_close_the_socket() {
    let mut server = Server::start(settings()).await;
    for frame in [
        Message::text("x"),
        Message::text(""),
        Message::text("[]"),
        Message::text("null"),
        Message::text("{}"),
        Message::text(r#"{"event":1}"#),
        Message::text(r#"{"event":"echo","id":"7"}"#),
        Message::text(r#"{"event":"echo","id":-7}"#),
        Message::text(r#"{"event":"echo","id":1.5}"#),
        Message::text(r#"{"event":"echo","id":null}"#),
        Message::binary(&br#"{"event":"echo"}"#[..]),
    ] {
        let mut client = Client::plain(&server).await;
        client.0.send(frame.clone()).await.unwrap();
        assert_eq!(client.close_code().await, 4400, "{frame}");
        assert_eq!(
            server.disconnected().await.1,
            DisconnectReason::ProtocolError
        );
    }
    let mut client = server.websocket("/ws").await;
    client.send("x").await;
    assert_eq!(client.close_code().await, 4400);
    server.empty().await;
}

#[tokio::test]
async fn the_client_says_goodbye() {
    let mut server = Server::start(settings()).await;
    let mut client = Client::plain(&server).await;
    within(client.0.close(None)).await.unwrap();
    client.close_code().await;
    assert_eq!(
        server.disconnected().await.1,
        DisconnectReason::ClientDisconnect
    );
    server.empty().await;
}

#[tokio::test]
async fn the_program_may_close_it() {
    let mut server = Server::start(settings()).await;
    for (kind, reason) in [
        ("unauthorized", DisconnectReason::Unauthorized),
        ("expired", DisconnectReason::Expired),
    ] {
        let mut client = Client::plain(&server).await;
        client
            .send(&format!("{{\"event\":\"close\",\"data\":\"{kind}\"}}"))
            .await;
        assert_eq!(client.text().await, r#"{"event":"last","data":1}"#);
        assert_eq!(client.close_code().await, 4401, "{kind}");
        assert_eq!(server.disconnected().await.1, reason);
    }
}

#[tokio::test]
async fn websocket_pings_keep_it_and_silence_ends_it() {
    let mut server = Server::start(Settings {
        ping_interval: Duration::from_millis(50),
        ping_timeout: Duration::from_millis(50),
        ..settings()
    })
    .await;
    let mut client = Client::plain(&server).await;
    // Reading answers the pings.
    let reads = tokio::time::timeout(Duration::from_millis(400), client.frame()).await;
    assert!(reads.is_err(), "closed although it answers");
    client.send(r#"{"event":"echo","id":1}"#).await;
    assert_eq!(client.text().await, r#"{"ack":1,"data":[]}"#);
    // Not reading does not.
    assert_eq!(server.disconnected().await.1, DisconnectReason::PingTimeout);
    server.empty().await;
}

#[tokio::test]
async fn other_requests_are_told_to_upgrade() {
    let server = Server::start(settings()).await;
    assert_eq!(server.get("/ws").await.status, 426);
}
