//! Senders and listeners: the part that `fanout`, `typing`, `chat` and `soak` share. It sends at a pace, enters what is
//! heard into the books, and measures a window of it: warm-up, window, then a drain until everything has come or nothing
//! comes any more.

use std::collections::HashMap;
use std::ops::Range;

use crate::latency::Latencies;
use crate::ledger::{Counts, LaneId, Ledger};
use crate::machine::{self, Usage};
use crate::net::{ConnId, Driver, Net};
use crate::progress::Progress;
use crate::report::{self, per_million};
use crate::stamp::{self, Stamp};

use super::Timing;

const SECOND: u64 = 1_000_000_000;

/// How often the phases and the senders are looked at.
const LOOK: u64 = SECOND / 10;

/// How long a sender waits for what it sent before it gives that up and goes on. What is given up counts as lost unless it
/// comes after all.
const PATIENCE: u64 = 15 * SECOND;

/// How long the end waits for repeats once everything has come.
const AFTERMATH: u64 = SECOND / 4;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A stored message, of so many bytes of text.
    Message(usize),
    /// A passing sign.
    Typing,
}

/// When a sender sends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    /// So many under way for each sender; the sender's own `messageReceived` makes room for the next.
    Closed(u32),
    /// One under way for each sender; the next once every listener has it.
    OneAtATime,
    /// So many a second over all senders, whatever comes back. Times count from when a message was due.
    Open(f64),
}

/// One sender in one conversation.
#[derive(Debug)]
struct Stream {
    conn: ConnId,
    conversation: u32,
    sent: u32,
    /// Sent, and not yet back.
    under_way: u32,
    /// Deliveries that the one under way lacks, with `Pace::OneAtATime`.
    lacking: usize,
    /// How many listeners there are.
    listeners: usize,
    /// How many the server refused.
    refused: u32,
    /// When the last was sent or came back.
    progress_at: u64,
    /// When the last was sent.
    sent_at: u64,
}

/// Which of a listener's lanes an event belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// `chatMessage`, and `messageReceived` in its place.
    Message,
    /// `newMessageNotification`.
    Notification,
    /// `typingStatus`.
    Typing,
}

/// Counters that only rise.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    sent: u64,
    completed: u64,
    deliveries: u64,
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    WarmUp,
    Window,
    Drain,
}

/// A moment's counters and what the processes had used by then.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    at: u64,
    tally: Tally,
    servers: Usage,
    own: Usage,
}

/// The driver.
pub(super) struct Traffic {
    what: What,
    pace: Pace,
    timing: Timing,
    pids: Vec<u32>,
    progress: Progress,
    streams: Vec<Stream>,
    ledger: Ledger,
    /// By connection, then by `Kind`.
    lanes: Vec<[Option<LaneId>; 3]>,
    /// Of `What::Typing`: whose sign it is.
    stream_of_user: HashMap<u64, u32>,
    tally: Tally,
    heard: Latencies,
    answered: Latencies,
    /// Since the last progress line.
    recently: Latencies,
    phase: Phase,
    begun_at: u64,
    marks: Vec<Mark>,
    peak_rss: u64,
    looked: Mark,
    /// With `Pace::Open`: how many were due so far.
    due: u64,
    last_delivery_at: u64,
    complete_at: Option<u64>,
    gave_up: u64,
    errors: u64,
    first_error: Option<String>,
    gone: u64,
    payload: Vec<u8>,
}

impl Traffic {
    pub(super) fn new(
        what: What,
        pace: Pace,
        timing: Timing,
        pids: Vec<u32>,
        progress: Progress,
    ) -> Self {
        Self {
            what,
            pace,
            timing,
            pids,
            progress,
            streams: Vec::new(),
            ledger: Ledger::default(),
            lanes: Vec::new(),
            stream_of_user: HashMap::new(),
            tally: Tally::default(),
            heard: Latencies::new(),
            answered: Latencies::new(),
            recently: Latencies::new(),
            phase: Phase::WarmUp,
            begun_at: 0,
            marks: Vec::new(),
            peak_rss: 0,
            looked: Mark::default(),
            due: 0,
            last_delivery_at: 0,
            complete_at: None,
            gave_up: 0,
            errors: 0,
            first_error: None,
            gone: 0,
            payload: Vec::new(),
        }
    }

    /// Adds a sender. Streams are numbered 0, 1, 2 ...
    pub(super) fn sender(&mut self, conn: ConnId, user: u32, conversation: u32) {
        let stream = u32::try_from(self.streams.len()).unwrap_or(u32::MAX);
        self.stream_of_user.insert(user.into(), stream);
        self.streams.push(Stream {
            conn,
            conversation,
            sent: 0,
            under_way: 0,
            lacking: 0,
            listeners: 0,
            refused: 0,
            progress_at: 0,
            sent_at: 0,
        });
    }

    /// Adds a listener of streams that each have a conversation of their own.
    pub(super) fn listener(&mut self, conn: ConnId, kind: Kind, streams: Range<u32>) {
        let lane = self.ledger.lane(streams);
        self.set_lane(conn, kind, lane);
    }

    /// Adds a listener of the first `streams`, but for its own.
    pub(super) fn listener_of_others(&mut self, conn: ConnId, kind: Kind, streams: u32, own: u32) {
        let lane = self.ledger.lane_of_others(0..streams, own);
        self.set_lane(conn, kind, lane);
    }

    /// Adds a listener of streams that are all of one conversation.
    pub(super) fn listener_of_one(&mut self, conn: ConnId, kind: Kind, streams: Range<u32>) {
        let lane = self.ledger.lane_of_one_conversation(streams);
        self.set_lane(conn, kind, lane);
    }

    fn set_lane(&mut self, conn: ConnId, kind: Kind, lane: LaneId) {
        if self.lanes.len() <= conn.0 {
            self.lanes.resize(conn.0 + 1, [None; 3]);
        }
        self.lanes[conn.0][kind as usize] = Some(lane);
    }

    /// Does what is due, and says when to be woken next.
    pub(super) fn look(&mut self, net: &mut Net) -> u64 {
        let now = net.now();
        if self.begun_at == 0 {
            self.begin(now);
        }
        self.advance(net);
        if self.phase != Phase::Drain {
            match self.pace {
                Pace::Open(rate) => self.send_due(net, rate),
                Pace::Closed(_) | Pace::OneAtATime => self.wake_stalled(net),
            }
        }
        if now >= self.looked.at + SECOND {
            self.say(now);
        }
        let phase_end = match self.phase {
            Phase::WarmUp => self.window_begin(),
            Phase::Window => self.window_end(),
            Phase::Drain => u64::MAX,
        };
        let due = match self.pace {
            Pace::Open(rate) if self.phase != Phase::Drain => self.due_at(rate),
            _ => u64::MAX,
        };
        (now + LOOK).min(phase_end).min(due)
    }

    fn begin(&mut self, now: u64) {
        self.begun_at = now;
        self.looked.at = now;
        for (number, stream) in self.streams.iter_mut().enumerate() {
            stream.listeners = self
                .ledger
                .listeners(u32::try_from(number).unwrap_or(u32::MAX));
        }
    }

    fn window_begin(&self) -> u64 {
        self.begun_at + nanos(self.timing.warm_up)
    }

    fn window_end(&self) -> u64 {
        self.window_begin() + nanos(self.timing.measure)
    }

    fn mark(&self, at: u64) -> Mark {
        Mark {
            at,
            tally: self.tally,
            servers: machine::usage(&self.pids),
            own: machine::own_usage(),
        }
    }

    fn advance(&mut self, net: &mut Net) {
        let now = net.now();
        match self.phase {
            Phase::WarmUp if now >= self.window_begin() => {
                self.heard.clear();
                self.answered.clear();
                self.marks.push(self.mark(now));
                self.phase = Phase::Window;
            }
            Phase::Window if now >= self.window_end() => {
                self.marks.push(self.mark(now));
                self.phase = Phase::Drain;
                self.last_delivery_at = self.last_delivery_at.max(now);
            }
            Phase::Drain => {
                let expected: u64 = self
                    .streams
                    .iter()
                    .map(|stream| {
                        u64::from(stream.sent.saturating_sub(stream.refused))
                            * stream.listeners as u64
                    })
                    .sum();
                if self.tally.deliveries >= expected {
                    self.complete_at.get_or_insert(now);
                }
                let is_over = match self.complete_at {
                    Some(at) => now >= at + AFTERMATH,
                    None => now >= self.last_delivery_at + nanos(self.timing.quiet),
                };
                if is_over {
                    net.stop();
                }
            }
            _ => {}
        }
    }

    /// With `Pace::Open`: when the next message is due.
    fn due_at(&self, rate: f64) -> u64 {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "nanoseconds of a run, and positive"
        )]
        let after = (self.due as f64 * SECOND as f64 / rate) as u64;
        self.begun_at + after
    }

    fn send_due(&mut self, net: &mut Net, rate: f64) {
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

    /// Sends where there is room, and gives up what does not come back.
    fn wake_stalled(&mut self, net: &mut Net) {
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

    fn fill(&mut self, net: &mut Net, number: usize) {
        let room = match self.pace {
            Pace::Closed(room) => room,
            Pace::OneAtATime => 1,
            Pace::Open(_) => 0,
        };
        if self.phase == Phase::Drain {
            return;
        }
        while self.streams[number].under_way < room {
            self.send(net, number, net.now());
        }
    }

    fn send(&mut self, net: &mut Net, number: usize, at: u64) {
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

    fn heard_message(&mut self, net: &mut Net, conn: ConnId, payload: &[u8], how: How) {
        let Some(stamp) = Stamp::find(payload) else {
            // Somebody else's traffic.
            return;
        };
        self.enter(net, conn, stamp, stamp::seq(payload), how);
    }

    /// What a sender was refused makes room for its next, and is expected of nobody.
    fn heard_error(&mut self, net: &mut Net, conn: ConnId, payload: &[u8]) {
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
        self.fill(net, number);
    }

    fn heard_typing(&mut self, net: &mut Net, conn: ConnId, payload: &[u8]) {
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

    fn enter(&mut self, net: &mut Net, conn: ConnId, stamp: Stamp, seq: Option<u64>, how: How) {
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

    fn say(&mut self, now: u64) {
        let mark = self.mark(now);
        self.peak_rss = self.peak_rss.max(mark.servers.rss_bytes);
        #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
        let seconds = (now - self.looked.at) as f64 / SECOND as f64;
        #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
        let rate = |now: u64, before: u64| (now - before) as f64 / seconds;
        let before = &self.looked;
        let recently = self.recently.percentiles();
        let phase = match self.phase {
            Phase::WarmUp => "warm-up",
            Phase::Window => "window",
            Phase::Drain => "drain",
        };
        self.progress.say(&format!(
            "{phase}: {:.0} messages/s, {:.0} deliveries/s, p50 {:.2} p99 {:.2} ms, servers {:.0}% {} MiB, generator {:.0}%",
            rate(mark.tally.sent, before.tally.sent),
            rate(mark.tally.deliveries, before.tally.deliveries),
            recently.p50,
            recently.p99,
            100.0 * (mark.servers.cpu_seconds - before.servers.cpu_seconds) / seconds,
            mark.servers.rss_bytes >> 20,
            100.0 * (mark.own.cpu_seconds - before.own.cpu_seconds) / seconds,
        ));
        self.recently.clear();
        self.looked = mark;
    }

    /// What was sent last in the conversations 1, 2, 3 ...; `None` where several sent, or nobody.
    pub(super) fn last_texts(&self) -> Vec<Option<Vec<u8>>> {
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

    /// What came of it.
    pub(super) fn report(&self) -> report::Traffic {
        let sent: Vec<_> = self.streams.iter().map(|stream| stream.sent).collect();
        let refused: Vec<_> = self.streams.iter().map(|stream| stream.refused).collect();
        let counts: Counts = self.ledger.close(&sent, &refused);
        let nothing = Mark::default();
        let (begin, end) = match self.marks.as_slice() {
            [begin, end] => (begin, end),
            _ => (&nothing, &nothing),
        };
        #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
        let seconds = (end.at - begin.at) as f64 / SECOND as f64;
        let deliveries = end.tally.deliveries - begin.tally.deliveries;
        let messages = match self.pace {
            // What is not waited for is counted by the way in.
            Pace::Open(_) => end.tally.sent - begin.tally.sent,
            _ => end.tally.completed - begin.tally.completed,
        };
        let cpu = end.servers.cpu_seconds - begin.servers.cpu_seconds;
        #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
        let per_second = |count: u64| count as f64 / seconds;
        report::Traffic {
            seconds,
            messages_per_second: per_second(messages),
            deliveries_per_second: per_second(deliveries),
            heard_ms: self.heard.percentiles(),
            answered_ms: self.answered.percentiles(),
            server_cpu_seconds_per_million_deliveries: per_million(cpu, deliveries),
            server_cpu_seconds_per_million_messages: per_million(cpu, messages),
            servers: report::Use {
                cpu_seconds: cpu,
                busy: cpu / seconds,
                rss_bytes: self.peak_rss.max(end.servers.rss_bytes),
            },
            generator: report::Use {
                cpu_seconds: end.own.cpu_seconds - begin.own.cpu_seconds,
                busy: (end.own.cpu_seconds - begin.own.cpu_seconds) / seconds,
                rss_bytes: end.own.rss_bytes,
            },
            sent: self.tally.sent,
            counts,
            gave_up: self.gave_up,
            errors: self.errors,
            first_error: self.first_error.clone(),
            connections_lost: self.gone,
            stored: None,
            samples: Vec::new(),
        }
    }
}

/// By which event something was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
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

impl Driver for Traffic {
    fn event(&mut self, net: &mut Net, conn: ConnId, name: &[u8], payload: &[u8]) {
        match name {
            b"chatMessage" => self.heard_message(net, conn, payload, How::Message),
            b"messageReceived" => self.heard_message(net, conn, payload, How::Own),
            b"newMessageNotification" => {
                self.heard_message(net, conn, payload, How::Notification);
            }
            b"typingStatus" => self.heard_typing(net, conn, payload),
            b"error" => self.heard_error(net, conn, payload),
            _ => {}
        }
    }

    fn gone(&mut self, _net: &mut Net, conn: ConnId, why: &str) {
        self.gone += 1;
        self.first_error
            .get_or_insert_with(|| format!("connection {}: {why}", conn.0));
    }

    fn alarm(&mut self, net: &mut Net) {
        let wake_at = self.look(net);
        net.wake_at(wake_at);
    }
}

/// A message's text: its stamp, filled up to a length.
fn write_text(out: &mut Vec<u8>, stamp: Stamp, bytes: usize) {
    stamp.write(out);
    let fill = bytes.saturating_sub(stamp::LENGTH);
    out.resize(out.len() + fill, b'.');
}

/// Whether the sign with this number says that its sender writes.
const fn is_typing(number: u32) -> bool {
    number.is_multiple_of(2)
}

fn number_after(payload: &[u8], name: &[u8]) -> Option<u64> {
    let digits = &payload[memchr::memmem::find(payload, name)? + name.len()..];
    let count = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    std::str::from_utf8(&digits[..count]).ok()?.parse().ok()
}

fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}
