//! Engine.IO protocol 4: its packets, and the payloads that carry several of them over HTTP. Sessions, heartbeats and
//! upgrades are not here.
//!
//! Source: `docs/engine.io-protocol/v4-current.md` of the Socket.IO repository.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{
    GeneralPurpose, GeneralPurposeConfig, STANDARD as PADDED_BASE64,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The version in the `EIO` query parameter.
pub const VERSION: &str = "4";

/// Stands between the packets of a payload.
pub const SEPARATOR: char = '\u{1e}';

/// Begins a text packet that carries a message.
pub const MESSAGE: char = '4';

/// The packet that ends a session.
pub const CLOSE: &str = "1";
/// The heartbeat, server to client.
pub const PING: &str = "2";
/// The heartbeat's answer, client to server.
pub const PONG: &str = "3";
/// A client asks whether a WebSocket works.
pub const PROBE_PING: &str = "2probe";
/// It does.
pub const PROBE_PONG: &str = "3probe";
/// A client goes over to the WebSocket.
pub const UPGRADE: &str = "5";
/// Ends a poll that has nothing to say.
pub const NOOP: &str = "6";

/// Begins a binary message within a payload.
const BINARY: char = 'b';

/// Written with padding, read with or without it, as the JavaScript clients do.
const LENIENT_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// One packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet<'a> {
    /// 0: the handshake, server to client.
    Open(&'a str),
    /// 1: the session ends.
    Close,
    /// 2: the heartbeat, or a probe.
    Ping(&'a str),
    /// 3: its answer.
    Pong(&'a str),
    /// 4: a text message.
    Message(&'a str),
    /// 5: the client goes over to the WebSocket.
    Upgrade,
    /// 6: nothing.
    Noop,
    /// A binary message: a WebSocket frame of its own, or `b` and base64 within a payload.
    Binary(Bytes),
}

/// What the server says first: the data of an `Open` packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Handshake<'a> {
    /// The session's id: whoever knows it can speak for the client.
    pub sid: &'a str,
    /// The transports it may go over to.
    #[serde(borrow)]
    pub upgrades: Vec<&'a str>,
    /// Milliseconds.
    pub ping_interval: u64,
    /// Milliseconds.
    pub ping_timeout: u64,
    /// The most bytes of a payload, either way.
    pub max_payload: u64,
}

/// Why bytes are no packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// An empty packet.
    #[error("an empty packet")]
    Empty,
    /// A type that does not exist.
    #[error("an unknown packet type")]
    UnknownType,
    /// Data after a type that has none.
    #[error("data where there is none")]
    UnexpectedData,
    /// Base64 that is none.
    #[error("invalid base64")]
    Base64,
    /// More packets in one payload than allowed.
    #[error("too many packets in one payload")]
    TooManyPackets,
}

/// Reads a WebSocket text frame.
pub fn decode(text: &str) -> Result<Packet<'_>, PacketError> {
    let kind = text.chars().next().ok_or(PacketError::Empty)?;
    let data = &text[kind.len_utf8()..];
    let bare = |packet| {
        if data.is_empty() {
            Ok(packet)
        } else {
            Err(PacketError::UnexpectedData)
        }
    };
    match kind {
        '0' => Ok(Packet::Open(data)),
        '1' => bare(Packet::Close),
        '2' => Ok(Packet::Ping(data)),
        '3' => Ok(Packet::Pong(data)),
        MESSAGE => Ok(Packet::Message(data)),
        '5' => bare(Packet::Upgrade),
        '6' => bare(Packet::Noop),
        _ => Err(PacketError::UnknownType),
    }
}

/// Reads the body of a polling request: at most `max_packets` packets.
pub fn decode_payload(body: &str, max_packets: usize) -> Result<Vec<Packet<'_>>, PacketError> {
    let mut packets = Vec::new();
    for part in body.split(SEPARATOR) {
        if packets.len() == max_packets {
            return Err(PacketError::TooManyPackets);
        }
        packets.push(match part.strip_prefix(BINARY) {
            Some(base64) => Packet::Binary(
                LENIENT_BASE64
                    .decode(base64)
                    .map_err(|_| PacketError::Base64)?
                    .into(),
            ),
            None => decode(part)?,
        });
    }
    Ok(packets)
}

/// Adds an encoded text packet to a payload.
pub fn push_text(payload: &mut String, packet: &str) {
    separate(payload);
    payload.push_str(packet);
}

/// Adds a binary message to a payload.
pub fn push_binary(payload: &mut String, message: &[u8]) {
    separate(payload);
    payload.push(BINARY);
    PADDED_BASE64.encode_string(message, payload);
}

/// How many bytes `push_binary` adds for a message of `len` bytes, the separator included.
pub const fn binary_len(len: usize) -> usize {
    len.div_ceil(3) * 4 + 2
}

/// The first packet of a session.
pub fn encode_handshake(handshake: &Handshake<'_>) -> String {
    let mut text = String::from("0");
    // Strings and numbers only: there is nothing in it that can't be written.
    text.push_str(&serde_json::to_string(handshake).unwrap_or_default());
    text
}

fn separate(payload: &mut String) {
    if !payload.is_empty() {
        payload.push(SEPARATOR);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn packets_are_read_from_text_frames() {
        for (text, packet) in [
            ("0{}", Packet::Open("{}")),
            ("1", Packet::Close),
            ("2", Packet::Ping("")),
            ("2probe", Packet::Ping("probe")),
            ("3", Packet::Pong("")),
            ("4hello", Packet::Message("hello")),
            ("4", Packet::Message("")),
            ("5", Packet::Upgrade),
            ("6", Packet::Noop),
        ] {
            assert_eq!(decode(text), Ok(packet), "{text}");
        }
        for (text, error) in [
            ("", PacketError::Empty),
            ("abc", PacketError::UnknownType),
            ("7", PacketError::UnknownType),
            ("é", PacketError::UnknownType),
            ("bAQ==", PacketError::UnknownType),
            ("1x", PacketError::UnexpectedData),
            ("5x", PacketError::UnexpectedData),
        ] {
            assert_eq!(decode(text), Err(error), "{text}");
        }
    }

    #[test]
    fn payloads_hold_packets_side_by_side() {
        assert_eq!(
            decode_payload("4hello\u{1e}2\u{1e}bAQIDBA==\u{1e}bAQIDBA", 4),
            Ok(vec![
                Packet::Message("hello"),
                Packet::Ping(""),
                Packet::Binary(Bytes::from_static(&[1, 2, 3, 4])),
                Packet::Binary(Bytes::from_static(&[1, 2, 3, 4])),
            ])
        );
        for (body, error) in [
            ("", PacketError::Empty),
            ("4a\u{1e}", PacketError::Empty),
            ("4a\u{1e}4b\u{1e}4c", PacketError::TooManyPackets),
            ("b!", PacketError::Base64),
        ] {
            assert_eq!(decode_payload(body, 2), Err(error), "{body}");
        }
    }

    #[test]
    fn the_handshake_is_written_as_the_protocol_shows_it() {
        let handshake = Handshake {
            sid: "lv_VI97HAXpY6yYWAAAC",
            upgrades: vec!["websocket"],
            ping_interval: 25000,
            ping_timeout: 20000,
            max_payload: 1_000_000,
        };
        assert_eq!(
            encode_handshake(&handshake),
            r#"0{"sid":"lv_VI97HAXpY6yYWAAAC","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#
        );
    }

    #[test]
    fn the_length_of_binary_is_known_beforehand() {
        for len in 0..10 {
            let mut payload = String::from("2");
            push_binary(&mut payload, &vec![7; len]);
            assert_eq!(payload.len() - 1, binary_len(len));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(texts in prop::collection::vec("[^\u{1e}]*", 1..5), blob: Vec<u8>) {
            let mut payload = String::new();
            for text in &texts {
                push_text(&mut payload, &format!("4{text}"));
            }
            push_binary(&mut payload, &blob);
            let mut expected: Vec<_> = texts.iter().map(|text| Packet::Message(text)).collect();
            expected.push(Packet::Binary(blob.into()));
            prop_assert_eq!(decode_payload(&payload, 10), Ok(expected));
        }

        #[test]
        fn no_input_panics(text in ".*") {
            let _ = decode_payload(&text, 100);
        }
    }
}
