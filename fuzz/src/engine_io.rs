//! Engine.IO packets and payloads. The input is a WebSocket text frame, and a polling payload too.

use shared::protocol::engine_io::{
    Packet, PacketError, SEPARATOR, binary_len, decode, decode_payload, push_binary, push_text,
};

/// Few, so that inputs come near it.
const MAX_PACKETS: usize = 8;

/// What is read is what the grammar says, and is read the same once written again.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    packet(text);
    payload(text);
}

fn packet(text: &str) {
    let decoded = decode(text);
    let mut chars = text.chars();
    let expected = match (chars.next(), chars.as_str()) {
        (None, _) => Err(PacketError::Empty),
        (Some('0'), data) => Ok(Packet::Open(data)),
        (Some('2'), data) => Ok(Packet::Ping(data)),
        (Some('3'), data) => Ok(Packet::Pong(data)),
        (Some('4'), data) => Ok(Packet::Message(data)),
        (Some('1'), "") => Ok(Packet::Close),
        (Some('5'), "") => Ok(Packet::Upgrade),
        (Some('6'), "") => Ok(Packet::Noop),
        (Some('1' | '5' | '6'), _) => Err(PacketError::UnexpectedData),
        (Some(_), _) => Err(PacketError::UnknownType),
    };
    assert_eq!(decoded, expected);
    if let Ok(packet) = decoded {
        assert_eq!(written(&packet), text);
    }
}

fn payload(text: &str) {
    let parts: Vec<_> = text.split(SEPARATOR).collect();
    let packets = match decode_payload(text, MAX_PACKETS) {
        Ok(packets) => packets,
        Err(PacketError::TooManyPackets) => return assert!(parts.len() > MAX_PACKETS),
        Err(PacketError::Base64) => return assert!(parts.iter().any(|part| part.starts_with('b'))),
        Err(_) => {
            let bad = |part: &&str| !part.starts_with('b') && decode(part).is_err();
            return assert!(parts.iter().any(bad));
        }
    };
    assert!(packets.len() <= MAX_PACKETS);
    assert_eq!(packets.len(), parts.len());
    for (packet, part) in packets.iter().zip(&parts) {
        match packet {
            Packet::Binary(_) => assert!(part.starts_with('b')),
            packet => assert_eq!(decode(part).as_ref(), Ok(packet)),
        }
    }
    let mut joined = String::new();
    for packet in &packets {
        let before = joined.len();
        match packet {
            Packet::Binary(bytes) => {
                push_binary(&mut joined, bytes);
                let separator = usize::from(before > 0);
                assert_eq!(
                    joined.len() - before,
                    binary_len(bytes.len()) - 1 + separator
                );
            }
            packet => push_text(&mut joined, &written(packet)),
        }
    }
    assert_eq!(decode_payload(&joined, MAX_PACKETS), Ok(packets));
}

/// A packet as the protocol's document writes it.
fn written(packet: &Packet<'_>) -> String {
    match packet {
        Packet::Open(data) => format!("0{data}"),
        Packet::Close => "1".to_owned(),
        Packet::Ping(data) => format!("2{data}"),
        Packet::Pong(data) => format!("3{data}"),
        Packet::Message(data) => format!("4{data}"),
        Packet::Upgrade => "5".to_owned(),
        Packet::Noop => "6".to_owned(),
        Packet::Binary(_) => unreachable!("a text frame is no binary message"),
    }
}
