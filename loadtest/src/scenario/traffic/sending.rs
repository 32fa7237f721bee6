//! When a sender sends, and what.

use crate::net::Net;
use crate::stamp::{self, Stamp};

use super::{Pace, Phase, SECOND, Traffic, What};

/// How long a sender waits for what it sent before it gives that up and goes on. What is given up counts as lost unless it
/// comes after all.
const PATIENCE: u64 = 15 * SECOND;

impl Traffic {
    /// With `Pace::Open`: when the next message is due.
    pub(super) fn due_at(&self, rate: f64) -> u64 {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "nanoseconds of a run, and positive"
        )]
        let after = (self.due as f64 * SECOND as f64 / rate) as u64;
        self.begun_at + after
    }

    pub(super) fn send_due(&mut self, net: &mut Net, rate: f64) {
        loop {
            let at = self.due_at(rate);
            if at > net.now() {
                return;
            }
            let stream = (self.due % self.streams.len() as u64) as usize;
            self.send(net, stream, at);
            self.due += 1;
        }
    }

    /// With `Pace::Turns`: sends where there is room, and gives up all that is under way once nothing comes any more.
    pub(super) fn wake_turns(&mut self, net: &mut Net, limit: u64, step: u64) {
        let since = self.last_delivery_at.max(self.begun_at);
        if self.turns_out > 0 && net.now() > since + PATIENCE {
            self.gave_up += self.turns_out;
            self.turns_out = 0;
        }
        self.take_turns(net, limit, step);
    }

    pub(super) fn take_turns(&mut self, net: &mut Net, limit: u64, step: u64) {
        while self.turns_out < limit && self.phase != Phase::Drain {
            let stream = (self.due * step % self.streams.len() as u64) as usize;
            self.due += 1;
            self.turns_out += 1;
            self.send(net, stream, net.now());
        }
    }

    /// Sends where there is room, and gives up what does not come back.
    pub(super) fn wake_stalled(&mut self, net: &mut Net) {
        let now = net.now();
        for number in 0..self.streams.len() {
            let stream = &mut self.streams[number];
            if stream.under_way > 0 && now > stream.progress_at + PATIENCE {
                self.gave_up += u64::from(stream.under_way);
                stream.under_way = 0;
            }
            self.fill(net, number);
        }
    }

    pub(super) fn fill(&mut self, net: &mut Net, number: usize) {
        let room = match self.pace {
            Pace::Closed(room) => room,
            Pace::OneAtATime => 1,
            Pace::Open(_) | Pace::Turns(..) => 0,
        };
        if self.phase == Phase::Drain {
            return;
        }
        while self.streams[number].under_way < room {
            self.send(net, number, net.now());
        }
    }

    pub(super) fn send(&mut self, net: &mut Net, number: usize, at: u64) {
        let stream = &mut self.streams[number];
        let stamp = Stamp {
            stream: u32::try_from(number).unwrap_or(u32::MAX),
            number: stream.sent,
            sent_at: at,
        };
        let name = match self.what {
            What::Message(bytes) => {
                self.payload.clear();
                self.payload.extend_from_slice(b"{\"conversationId\":");
                let conversation = stream.conversation.to_string();
                self.payload.extend_from_slice(conversation.as_bytes());
                self.payload.extend_from_slice(b",\"message\":\"");
                write_text(&mut self.payload, stamp, bytes);
                self.payload.extend_from_slice(b"\"}");
                "chatMessage"
            }
            What::Typing => {
                self.payload = format!(
                    "{{\"conversationId\":{},\"isTyping\":{}}}",
                    stream.conversation,
                    is_typing(stream.sent)
                )
                .into_bytes();
                "typing"
            }
        };
        stream.sent += 1;
        stream.under_way += 1;
        stream.lacking = stream.listeners;
        stream.sent_at = at;
        stream.progress_at = net.now();
        self.tally.sent += 1;
        net.send(stream.conn, name, &self.payload, None);
    }

    /// What was sent last in the conversations 1, 2, 3 ...; `None` where several sent, or nobody.
    pub(in crate::scenario) fn last_texts(&self) -> Vec<Option<Vec<u8>>> {
        let What::Message(bytes) = self.what else {
            return Vec::new();
        };
        let mut texts = Vec::new();
        for (number, stream) in self.streams.iter().enumerate() {
            let index = stream.conversation as usize;
            if texts.len() < index {
                texts.resize(index, None);
            }
            let senders = self.streams.iter();
            if senders
                .filter(|other| other.conversation == stream.conversation)
                .count()
                > 1
            {
                // Which of them came last is not known.
                continue;
            }
            let Some(last) = stream.sent.checked_sub(1) else {
                continue;
            };
            let stamp = Stamp {
                stream: u32::try_from(number).unwrap_or(u32::MAX),
                number: last,
                sent_at: stream.sent_at,
            };
            let mut text = Vec::new();
            write_text(&mut text, stamp, bytes);
            texts[index - 1] = Some(text);
        }
        texts
    }
}

/// A message's text: its stamp, filled up to a length.
pub(super) fn write_text(out: &mut Vec<u8>, stamp: Stamp, bytes: usize) {
    stamp.write(out);
    let fill = bytes.saturating_sub(stamp::LENGTH);
    out.resize(out.len() + fill, b'.');
}

/// Whether the sign with this number says that its sender writes.
pub(super) const fn is_typing(number: u32) -> bool {
    number.is_multiple_of(2)
}
