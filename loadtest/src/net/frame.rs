//! WebSocket frames (RFC 6455, section 5) as a client reads and writes them, straight from and into byte buffers. Only what
//! servers of this kind send: whole messages, not masked, without extensions.

/// A frame's meaning (section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opcode {
    /// A whole text message.
    Text,
    /// A whole binary message.
    Binary,
    /// The server says goodbye.
    Close,
    /// To be answered by a pong with the same payload.
    Ping,
    /// An answer to a ping.
    Pong,
}

/// One frame at the beginning of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    /// What it is.
    pub(super) opcode: Opcode,
    /// What it carries.
    pub(super) payload: &'a [u8],
    /// Bytes of the buffer it takes, its head included.
    pub(super) len: usize,
}

/// The server broke the protocol, or used a part of it that is not read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a whole, plain frame from a server (first bytes {0:#04x} {1:#04x})")]
pub(super) struct BadFrame(u8, u8);

/// The frame at the beginning of `buffer`; `None` while it is not all there.
pub(super) fn read(buffer: &[u8]) -> Result<Option<Frame<'_>>, BadFrame> {
    let [first, second, rest @ ..] = buffer else {
        return Ok(None);
    };
    // FIN, no extension bits, and a known opcode, all in one byte.
    let opcode = match first {
        0x81 => Opcode::Text,
        0x82 => Opcode::Binary,
        0x88 => Opcode::Close,
        0x89 => Opcode::Ping,
        0x8a => Opcode::Pong,
        _ => return Err(BadFrame(*first, *second)),
    };
    let (head, length): (usize, usize) = match second {
        0..=125 => (2, usize::from(*second)),
        126 => match rest {
            [a, b, ..] => (4, usize::from(u16::from_be_bytes([*a, *b]))),
            _ => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(bytes) => (
                10,
                usize::try_from(u64::from_be_bytes(*bytes))
                    .map_err(|_| BadFrame(*first, *second))?,
            ),
            None => return Ok(None),
        },
        // A server must not mask.
        _ => return Err(BadFrame(*first, *second)),
    };
    let Some(len) = head.checked_add(length) else {
        return Err(BadFrame(*first, *second));
    };
    Ok(buffer.get(head..len).map(|payload| Frame {
        opcode,
        payload,
        len,
    }))
}

/// Appends a masked frame with a payload made of `parts`.
pub(super) fn write(out: &mut Vec<u8>, opcode: Opcode, parts: &[&[u8]], mask: [u8; 4]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.reserve(length + 14);
    out.push(match opcode {
        Opcode::Text => 0x81,
        Opcode::Binary => 0x82,
        Opcode::Close => 0x88,
        Opcode::Ping => 0x89,
        Opcode::Pong => 0x8a,
    });
    #[expect(clippy::cast_possible_truncation, reason = "each arm's range says so")]
    match length {
        0..=125 => out.push(0x80 | length as u8),
        126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
    let begin = out.len();
    for part in parts {
        out.extend_from_slice(part);
    }
    for (byte, key) in out[begin..].iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_the_rfc() {
        // Section 5.7: a single-frame unmasked text message, and a masked one.
        let hello = read(&[0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        let frame = hello.unwrap().unwrap();
        assert_eq!(
            (frame.opcode, frame.payload, frame.len),
            (Opcode::Text, &b"Hello"[..], 7)
        );
        let mut out = Vec::new();
        write(
            &mut out,
            Opcode::Text,
            &[b"Hel", b"lo"],
            [0x37, 0xfa, 0x21, 0x3d],
        );
        let masked = [
            0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
        ];
        assert_eq!(out, masked);
    }

    #[test]
    fn what_a_server_must_not_send_is_an_error() {
        for bytes in [[0x01, 0x01], [0xc1, 0x01], [0x80, 0x01], [0x81, 0x81]] {
            assert!(read(&bytes).is_err(), "{bytes:?}");
        }
        let endless = [0x82, 127, 255, 255, 255, 255, 255, 255, 255, 255];
        assert!(read(&endless).is_err());
    }

    proptest! {
        #[test]
        fn a_frame_is_read_as_it_was_sent_and_only_once_it_is_whole(
            payload in prop::collection::vec(any::<u8>(), 0..70_000),
            cut in any::<prop::sample::Index>(),
        ) {
            // What a client writes, with a mask of zeroes and its bit taken out, is what a server writes.
            let mut bytes = Vec::new();
            write(&mut bytes, Opcode::Binary, &[&payload], [0; 4]);
            bytes[1] &= 0x7f;
            let head = bytes.len() - payload.len() - 4;
            bytes.drain(head..head + 4);
            let frame = read(&bytes).unwrap().unwrap();
            prop_assert_eq!(frame.payload, &payload[..]);
            prop_assert_eq!(frame.len, bytes.len());
            prop_assert_eq!(read(&bytes[..cut.index(bytes.len())]).unwrap(), None);
        }
    }
}
