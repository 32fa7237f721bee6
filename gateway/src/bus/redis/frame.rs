//! What stands on a room's channel: a line that names the place, then the envelope. Written by `publish.lua`.

use shared::Envelope;

/// The name of a place in the order of everything published: `epoch:offset`. Compared, never calculated with.
pub(super) type Place<'a> = &'a [u8];

/// A frame, taken apart but not parsed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) place: Place<'a>,
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
            place: &line[..place_end],
            sent_at: sent_at.parse().ok()?,
            payload,
        })
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
        assert_eq!(frame.place, b"9f3a:12");
        assert_eq!(frame.sent_at, 1_700_000_000_000);
        assert_eq!(frame.payload, b"{\"a\":\"\n\"}");
        for bad in ["", "\n", "9f3a:12:17", "12\n{}", "9f3a:12:x\n{}"] {
            assert_eq!(Frame::split(bad.as_bytes()), None, "{bad}");
        }
    }
}
