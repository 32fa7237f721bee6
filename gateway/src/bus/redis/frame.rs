//! What stands on a room's channel: a line that names the place, then the envelope. Written by `publish.lua`.

use shared::Envelope;

use crate::bus::Place;

/// A frame, taken apart but not parsed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    /// The frame's name, which its copies share: `epoch:offset`, or `epoch:~number` for what is not kept.
    pub(super) name: &'a [u8],
    /// By the publisher's clock, milliseconds since 1970.
    pub(super) sent_at: i64,
    pub(super) payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// `None` for what `publish.lua` did not write.
    pub(super) fn split(bytes: &'a [u8]) -> Option<Self> {
        let end = bytes.iter().position(|&byte| byte == b'\n')?;
        let (line, payload) = (&bytes[..end], &bytes[end + 1..]);
        let place_end = line.iter().rposition(|&byte| byte == b':')?;
        let sent_at = std::str::from_utf8(&line[place_end + 1..]).ok()?;
        Some(Self {
            name: &line[..place_end],
            sent_at: sent_at.parse().ok()?,
            payload,
        })
    }

    /// Its place; `None` for what is not kept.
    pub(super) fn place(&self) -> Option<Place> {
        std::str::from_utf8(self.name).ok()?.parse().ok()
    }

    pub(super) fn envelope(&self) -> Result<Envelope, serde_json::Error> {
        serde_json::from_slice(self.payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_a_line_and_a_payload() {
        let frame = Frame::split(b"9f3a:12:1700000000000\n{\"a\":\"\n\"}").expect("a frame");
        assert_eq!(frame.name, b"9f3a:12");
        let (epoch, offset) = (0x9f3a, 12);
        assert_eq!(frame.place(), Some(Place { epoch, offset }));
        let passing = Frame::split(b"9f3a:~7:1700000000000\n{}").expect("a frame");
        assert_eq!((passing.name, passing.place()), (&b"9f3a:~7"[..], None));
        assert_eq!(frame.sent_at, 1_700_000_000_000);
        assert_eq!(frame.payload, b"{\"a\":\"\n\"}");
        for bad in ["", "\n", "9f3a:12:17", "12\n{}", "9f3a:12:x\n{}"] {
            assert_eq!(Frame::split(bad.as_bytes()), None, "{bad}");
        }
    }
}
