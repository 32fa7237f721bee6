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
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn what_is_written_is_read(
            epoch in "[0-9a-f]{1,16}", kept: Option<u64>, number: u32, sent_at: i64, payload: Vec<u8>,
        ) {
            let place = kept.map_or_else(|| format!("~{number}"), |offset| offset.to_string());
            let name = format!("{epoch}:{place}");
            let mut bytes = format!("{name}:{sent_at}\n").into_bytes();
            bytes.extend(&payload);
            let frame = Frame::split(&bytes).expect("a frame");
            prop_assert_eq!(frame.name, name.as_bytes());
            prop_assert_eq!(frame.sent_at, sent_at);
            prop_assert_eq!(frame.payload, &payload);
            let epoch = u64::from_str_radix(&epoch, 16).unwrap();
            prop_assert_eq!(frame.place(), kept.map(|offset| Place { epoch, offset }));
        }

        /// Whatever stands on a channel, what is taken for a frame is the whole of it.
        #[test]
        fn nothing_is_lost_and_nothing_panics(line in "[0-9a-f~:+-]{0,24}", bytes: Vec<u8>) {
            let mut bytes = bytes;
            bytes.splice(0..0, line.into_bytes());
            let Some(frame) = Frame::split(&bytes) else { return Ok(()) };
            let written = [frame.name, b":"].concat();
            prop_assert!(bytes.starts_with(&written));
            let line = bytes.len() - frame.payload.len() - 1;
            prop_assert!(bytes.ends_with(frame.payload) && bytes[line] == b'\n');
            let sent_at = std::str::from_utf8(&bytes[written.len()..line]).unwrap();
            prop_assert_eq!(sent_at.parse(), Ok(frame.sent_at));
            if let Some(place) = frame.place() {
                let offset = format!("{}", place.offset);
                prop_assert!(frame.name.ends_with(offset.as_bytes()));
            }
            let _ = frame.envelope();
        }
    }
}
