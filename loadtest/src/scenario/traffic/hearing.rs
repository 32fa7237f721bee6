//! What is heard, and its entry into the books.

use crate::net::{ConnId, Net};
use crate::stamp::{self, Stamp};

use super::sending::is_typing;
use super::{Kind, Pace, Stream, Traffic, What};

/// By which event something was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Own,
    Message,
    Notification,
    Typing,
}

impl How {
    const fn kind(self) -> Kind {
        match self {
            Self::Own | Self::Message => Kind::Message,
            Self::Notification => Kind::Notification,
            Self::Typing => Kind::Typing,
        }
    }
}

impl Traffic {
    pub(super) fn heard_message(&mut self, net: &mut Net, conn: ConnId, payload: &[u8], how: How) {
        let Some(stamp) = Stamp::find(payload) else {
            // Somebody else's traffic.
            return;
        };
        self.enter(net, conn, stamp, stamp::seq(payload), how);
    }

    /// What a sender was refused makes room for its next, and is expected of nobody.
    pub(super) fn heard_error(&mut self, net: &mut Net, conn: ConnId, payload: &[u8]) {
        self.errors += 1;
        self.first_error
            .get_or_insert_with(|| String::from_utf8_lossy(payload).into_owned());
        let of_conn = |stream: &Stream| stream.conn == conn;
        let Some(number) = self.streams.iter().position(of_conn) else {
            return;
        };
        let stream = &mut self.streams[number];
        stream.refused += 1;
        stream.under_way = stream.under_way.saturating_sub(1);
        stream.progress_at = net.now();
        if let Pace::Turns(limit, step) = self.pace {
            self.turns_out = self.turns_out.saturating_sub(1);
            return self.take_turns(net, limit, step);
        }
        self.fill(net, number);
    }

    pub(super) fn heard_typing(&mut self, net: &mut Net, conn: ConnId, payload: &[u8]) {
        let user = number_after(payload, b"\"userId\":");
        let Some(stream) = user.and_then(|user| self.stream_of_user.get(&user).copied()) else {
            return;
        };
        let sender = &self.streams[stream as usize];
        let Some(last) = sender.sent.checked_sub(1) else {
            return;
        };
        // A sign bears no number, but every other one is "true": it is the last sent, or the one before.
        let says = memchr::memmem::find(payload, b"\"isTyping\":true").is_some();
        let number = if says == is_typing(last) {
            last
        } else {
            last.saturating_sub(1)
        };
        let stamp = Stamp {
            stream,
            number,
            sent_at: sender.sent_at,
        };
        self.enter(net, conn, stamp, None, How::Typing);
    }

    pub(super) fn enter(
        &mut self,
        net: &mut Net,
        conn: ConnId,
        stamp: Stamp,
        seq: Option<u64>,
        how: How,
    ) {
        let now = net.now();
        let lane = self
            .lanes
            .get(conn.0)
            .and_then(|lanes| lanes[how.kind() as usize]);
        let Some(lane) = lane else {
            return;
        };
        let fit = self.ledger.heard(lane, stamp.stream, stamp.number, seq);
        if !fit.is_new() {
            return;
        }
        self.tally.deliveries += 1;
        self.last_delivery_at = now;
        let took = now.saturating_sub(stamp.sent_at);
        if how == How::Own {
            self.answered.record(took);
            self.tally.completed += 1;
        } else if how != How::Notification {
            self.heard.record(took);
            self.recently.record(took);
        }
        let number = stamp.stream as usize;
        let stream = &mut self.streams[number];
        match self.pace {
            Pace::Closed(_) if how == How::Own => {
                stream.under_way = stream.under_way.saturating_sub(1);
            }
            Pace::Turns(limit, step) if how == How::Own => {
                stream.under_way = stream.under_way.saturating_sub(1);
                self.turns_out = self.turns_out.saturating_sub(1);
                return self.take_turns(net, limit, step);
            }
            Pace::OneAtATime if stamp.number + 1 == stream.sent => {
                stream.lacking = stream.lacking.saturating_sub(1);
                if stream.lacking > 0 {
                    return;
                }
                stream.under_way = 0;
                if self.what == What::Typing {
                    self.tally.completed += 1;
                }
            }
            _ => return,
        }
        stream.progress_at = now;
        self.fill(net, number);
    }
}

fn number_after(payload: &[u8], name: &[u8]) -> Option<u64> {
    let digits = &payload[memchr::memmem::find(payload, name)? + name.len()..];
    let count = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    std::str::from_utf8(&digits[..count]).ok()?.parse().ok()
}
