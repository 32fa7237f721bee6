//! What the generator writes into the text of a message so that it knows it again, whoever shows it: which stream it
//! belongs to, its number there, and when it was sent. And the one number it reads of what the server adds: `seq`.

use std::sync::LazyLock;

use memchr::memmem::Finder;

/// A message's name. Streams are the generator's own: one sender in one conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Which stream.
    pub stream: u32,
    /// 0, 1, 2 ... within the stream.
    pub number: u32,
    /// Nanoseconds on the generator's clock at which it was, or should have been, sent.
    pub sent_at: u64,
}

/// Begins a stamp. Nothing else a server sends has these bytes, and JSON need not escape them.
const MARK: &[u8] = b"#lt:";

/// Hexadecimal digits of a stamp's fields, in their order.
const DIGITS: [usize; 3] = [8, 8, 16];

/// Bytes of a stamp.
pub const LENGTH: usize = MARK.len() + DIGITS[0] + DIGITS[1] + DIGITS[2];

static MARK_FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(MARK));
static SEQ_FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"seq\":"));

impl Stamp {
    /// Appends the stamp.
    pub fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(MARK);
        let fields = [u64::from(self.stream), u64::from(self.number), self.sent_at];
        for (field, digits) in fields.into_iter().zip(DIGITS) {
            for place in (0..digits).rev() {
                out.push(b"0123456789abcdef"[(field >> (4 * place)) as usize & 0xf]);
            }
        }
    }

    /// The first stamp in a text.
    pub fn find(text: &[u8]) -> Option<Self> {
        let at = MARK_FINDER.find(text)? + MARK.len();
        let mut digits = text.get(at..at + LENGTH - MARK.len())?;
        let mut fields = [0; DIGITS.len()];
        for (field, count) in fields.iter_mut().zip(DIGITS) {
            let (own, rest) = digits.split_at(count);
            *field = hexadecimal(own)?;
            digits = rest;
        }
        Some(Self {
            stream: u32::try_from(fields[0]).ok()?,
            number: u32::try_from(fields[1]).ok()?,
            sent_at: fields[2],
        })
    }
}

/// The `seq` of the message in a payload, where the server numbers messages.
pub fn seq(payload: &[u8]) -> Option<u64> {
    let digits = &payload[SEQ_FINDER.find(payload)? + 6..];
    let count = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    std::str::from_utf8(&digits[..count]).ok()?.parse().ok()
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_stamp_is_found_as_it_was_written(stream: u32, number: u32, sent_at: u64, around in "[ -~]{0,80}") {
            let stamp = Stamp { stream, number, sent_at };
            let mut text = around.replace("#lt:", "").into_bytes();
            stamp.write(&mut text);
            text.extend_from_slice(around.as_bytes());
            prop_assert_eq!(Stamp::find(&text), Some(stamp));
        }
    }

    #[test]
    fn what_is_no_stamp_is_none() {
        assert_eq!(Stamp::find(b"hello"), None);
        assert_eq!(Stamp::find(b"#lt:0001"), None);
        assert_eq!(Stamp::find(&[b'#'; 64]), None);
    }

    #[test]
    fn seq_is_not_taken_for_event_seq() {
        let payload = br#"{"conversationId":1,"eventSeq":9,"message":{"seq":41,"eventSeq":9}}"#;
        assert_eq!(seq(payload), Some(41));
        assert_eq!(seq(br#"{"eventSeq":9}"#), None);
    }
}
