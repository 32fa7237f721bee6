//! Socket.IO 5, by `docs/socket.io-protocol/v5-current.md` of the Socket.IO repository.

use std::time::Duration;

use gateway::realtime::{DisconnectReason, Settings};

use crate::support::{Client, Server, settings};

async fn engine(server: &Server) -> Client {
    let mut client = server
        .websocket("/socket.io/?EIO=4&transport=websocket")
        .await;
    assert!(client.text().await.starts_with("0{"));
    client
}

#[tokio::test]
async fn namespaces_are_joined_and_left() {
    let mut server = Server::start(settings()).await;
    let mut client = engine(&server).await;
    client.send("40{\"token\":\"good\"}").await;
    let main = client.text().await;
    assert!(main.starts_with("40{\"sid\":\"") && main.ends_with("\"}"));
    client.send("40/custom,{\"token\":\"good\"}").await;
    let custom = client.text().await;
    assert!(custom.starts_with("40/custom,{\"sid\":\""));
    assert_ne!(main[2..], custom[10..]);
    client.send("42/custom,7[\"echo\",\"there\"]").await;
    assert_eq!(client.text().await, "43/custom,7[\"there\"]");
    client.send("41/custom,").await;
    assert_eq!(
        server.disconnected().await,
        ("/custom".to_owned(), DisconnectReason::ClientDisconnect)
    );
    client.send("428[\"echo\",\"here\"]").await;
    assert_eq!(client.text().await, "438[\"here\"]");
    // The connection's goodbye is not the socket's.
    client.send("1").await;
    assert_eq!(
        server.disconnected().await,
        ("/".to_owned(), DisconnectReason::TransportClose)
    );
}

#[tokio::test]
async fn refusals_say_why() {
    let server = Server::start(settings()).await;
    let mut client = engine(&server).await;
    for (connect, refusal) in [
        (
            "40",
            r#"44{"message":"Invalid token","data":{"code":"INVALID_TOKEN"}}"#,
        ),
        (
            "40{\"token\":\"bad\"}",
            r#"44{"message":"Invalid token","data":{"code":"INVALID_TOKEN"}}"#,
        ),
        ("40/random", r#"44/random,{"message":"Invalid namespace"}"#),
    ] {
        client.send(connect).await;
        assert_eq!(client.text().await, refusal);
    }
    client.send("40{\"token\":\"good\"}").await;
    assert!(client.text().await.starts_with("40{"));
}

#[tokio::test]
async fn namespaces_are_bounded() {
    let server = Server::start(settings()).await;
    let mut client = Client::socket_io(&server).await;
    for number in 0..7 {
        client
            .send(&format!("40/custom{number},{{\"token\":\"good\"}}"))
            .await;
        assert!(client.text().await.starts_with("40/custom"));
    }
    client.send("40/custom7,{\"token\":\"good\"}").await;
    assert_eq!(
        client.text().await,
        r#"44/custom7,{"message":"Too many namespaces"}"#
    );
}

#[tokio::test]
async fn what_is_emitted_early_follows_the_acceptance() {
    let server = Server::start(settings()).await;
    let mut client = engine(&server).await;
    client.send("40{\"token\":\"early\"}").await;
    assert!(client.text().await.starts_with("40{\"sid\""));
    assert_eq!(client.text().await, "42[\"early\",1]");
}

#[tokio::test]
async fn events_and_answers_keep_their_arguments() {
    let server = Server::start(settings()).await;
    let mut client = Client::socket_io(&server).await;
    client.send("42[\"message\",1,\"2\",{\"3\":[true]}]").await;
    assert_eq!(
        client.text().await,
        "42[\"message-back\",1,\"2\",{\"3\":[true]}]"
    );
    client.send("42456[\"echo\",1,\"2\",{\"3\":[false]}]").await;
    assert_eq!(client.text().await, "43456[1,\"2\",{\"3\":[false]}]");
    client.send("420[\"echo\"]").await;
    assert_eq!(client.text().await, "430[]");
}

#[tokio::test]
async fn binary_arguments_come_and_go() {
    let server = Server::start(settings()).await;
    let mut client = Client::socket_io(&server).await;
    let two = "[\"message\",{\"_placeholder\":true,\"num\":0},{\"_placeholder\":true,\"num\":1}]";
    client.send(&format!("452-{two}")).await;
    client.send_binary(&[1, 2, 3]).await;
    client.send_binary(&[4, 5]).await;
    assert_eq!(
        client.text().await,
        format!("452-{}", two.replace("message", "message-back"))
    );
    assert_eq!(client.binary().await.as_ref(), [1, 2, 3]);
    assert_eq!(client.binary().await.as_ref(), [4, 5]);
    client
        .send("451-789[\"echo\",{\"_placeholder\":true,\"num\":0}]")
        .await;
    client.send_binary(&[6]).await;
    assert_eq!(
        client.text().await,
        "461-789[{\"_placeholder\":true,\"num\":0}]"
    );
    assert_eq!(client.binary().await.as_ref(), [6]);
}

#[tokio::test]
async fn the_server_asks_too() {
    let server = Server::start(settings()).await;
    let mut client = Client::socket_io(&server).await;
    client.send("42[\"ask\"]").await;
    assert_eq!(client.text().await, "421[\"question\",1]");
    client.send("431[\"yes\"]").await;
    assert_eq!(client.text().await, "42[\"answer\",\"yes\"]");

    client.send("42[\"ask\"]").await;
    assert_eq!(client.text().await, "422[\"question\",1]");
    client
        .send("461-2[{\"_placeholder\":true,\"num\":0}]")
        .await;
    client.send_binary(&[9]).await;
    assert_eq!(
        client.text().await,
        "451-[\"answer\",{\"_placeholder\":true,\"num\":0}]"
    );
    assert_eq!(client.binary().await.as_ref(), [9]);

    client.send("42[\"ask\"]").await;
    assert_eq!(client.text().await, "423[\"question\",1]");
    assert_eq!(
        client.text().await,
        "42[\"answer\",\"the client did not answer in time\"]"
    );
    // Too late, and twice: no fault.
    client.send("433[1]").await;
    client.send("433[1]").await;
    client.send("429[\"echo\"]").await;
    assert_eq!(client.text().await, "439[]");
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_the_connection() {
    let mut server = Server::start(settings()).await;
    for packet in [
        "4",
        "4abc",
        "47",
        "42{}",
        "42[]",
        "42[null]",
        "42[\"a\"",
        "42abc[\"echo\"]",
        "42[\"connect\"]",
        "42[\"connect_error\"]",
        "42[\"disconnect\"]",
        "42[\"disconnecting\"]",
        "42[\"newListener\"]",
        "42[\"removeListener\"]",
        "42/custom,[\"echo\"]",
        "43[]",
        "44{\"message\":\"x\"}",
        "45[\"a\"]",
        "4511-[\"a\"]",
        "45x-[\"a\"]",
        "40[]",
    ] {
        let mut client = Client::socket_io(&server).await;
        client.send(packet).await;
        assert_eq!(client.close_code().await, 4400, "{packet}");
        assert_eq!(
            server.disconnected().await.1,
            DisconnectReason::ProtocolError
        );
    }
    // Before CONNECT.
    let mut client = engine(&server).await;
    client.send("42[\"echo\"]").await;
    assert_eq!(client.close_code().await, 4400);
    // Binary that nobody announced, and text where binary was.
    let mut client = Client::socket_io(&server).await;
    client.send_binary(&[1]).await;
    assert_eq!(client.close_code().await, 4400);
    let mut client = Client::socket_io(&server).await;
    client
        .send("451-[\"a\",{\"_placeholder\":true,\"num\":0}]")
        .await;
    client.send("42[\"echo\"]").await;
    assert_eq!(client.close_code().await, 4400);
    server.empty().await;
}

#[tokio::test]
async fn attachments_are_bounded_in_size_and_time() {
    static HALF: [u8; 600_000] = [0; 600_000];

    let server = Server::start(Settings {
        request_timeout: Duration::from_millis(200),
        ..settings()
    })
    .await;
    let mut client = Client::socket_io(&server).await;
    client.send("452-[\"a\"]").await;
    client.send_binary(&HALF).await;
    client.send_binary(&HALF).await;
    assert_eq!(client.close_code().await, 1009);
    let mut client = Client::socket_io(&server).await;
    client.send("452-[\"a\"]").await;
    client.send_binary(&[1]).await;
    assert_eq!(client.close_code().await, 4400);
    server.empty().await;
}

#[tokio::test]
async fn the_program_may_end_a_socket_for_good_or_its_transport() {
    let mut server = Server::start(settings()).await;
    let mut client = Client::socket_io(&server).await;
    client.send("40/custom,{\"token\":\"good\"}").await;
    client.text().await;
    client.send("42/custom,[\"close\",\"unauthorized\"]").await;
    assert_eq!(client.text().await, "42/custom,[\"last\",1]");
    assert_eq!(client.text().await, "41/custom,");
    assert_eq!(
        server.disconnected().await,
        ("/custom".to_owned(), DisconnectReason::Unauthorized)
    );
    // What crossed the DISCONNECT is dropped, and the other namespace lives.
    client.send("42/custom,1[\"echo\"]").await;
    client.send("422[\"echo\"]").await;
    assert_eq!(client.text().await, "432[]");
    client.send("40/custom,{\"token\":\"good\"}").await;
    assert!(client.text().await.starts_with("40/custom,"));

    client.send("42[\"close\",\"expired\"]").await;
    assert_eq!(client.text().await, "42[\"last\",1]");
    assert_eq!(client.close_code().await, 4401);
    for _ in 0..2 {
        assert_eq!(server.disconnected().await.1, DisconnectReason::Expired);
    }

    let mut client = Client::socket_io(&server).await;
    client.send("42[\"close\",\"unauthorized\"]").await;
    assert_eq!(client.text().await, "42[\"last\",1]");
    assert_eq!(client.text().await, "41");
    assert_eq!(client.close_code().await, 4401);
    server.empty().await;
}

#[tokio::test]
async fn a_client_that_vanishes_is_noticed() {
    let mut server = Server::start(settings()).await;
    drop(Client::socket_io(&server).await);
    assert_eq!(
        server.disconnected().await.1,
        DisconnectReason::TransportClose
    );
    server.empty().await;
}
