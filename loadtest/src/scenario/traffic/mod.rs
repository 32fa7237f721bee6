//! Senders and listeners: the part that `fanout`, `typing`, `chat` and `soak` share. It sends at a pace, enters what is
//! heard into the books, and measures a window of it: warm-up, window, then a drain until everything has come or nothing
//! comes any more.

mod hearing;
mod outcome;
mod sending;

use std::collections::HashMap;
use std::ops::Range;

use crate::latency::Latencies;
use crate::ledger::{LaneId, Ledger};
use crate::net::{ConnId, Driver, Net};
use crate::progress::Progress;

use super::Timing;
use hearing::How;
use outcome::{Mark, Tally};

const SECOND: u64 = 1_000_000_000;

/// How often the phases and the senders are looked at.
const LOOK: u64 = SECOND / 10;

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
    /// So many under way over all senders together; each `messageReceived` makes room for the sender whose turn it is, so
    /// many senders further on.
    Turns(u64, u64),
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

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    WarmUp,
    Window,
    Drain,
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
    /// Send to somebody else's `chatMessage` or `typingStatus`, in the window.
    heard: Latencies,
    /// Send to the sender's `messageReceived`, in the window.
    answered: Latencies,
    /// Since the last progress line.
    recently: Latencies,
    phase: Phase,
    begun_at: u64,
    /// The window's beginning and end, once they have come.
    marks: Vec<Mark>,
    peak_rss: u64,
    /// Of the last progress line.
    looked: Mark,
    /// With `Pace::Open` and `Pace::Turns`: how many were due so far.
    due: u64,
    /// With `Pace::Turns`: how many are under way.
    turns_out: u64,
    last_delivery_at: u64,
    /// When everything sent had come.
    complete_at: Option<u64>,
    gave_up: u64,
    errors: u64,
    first_error: Option<String>,
    /// Connections that the server ended.
    gone: u64,
    /// Where a payload is put together.
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
            turns_out: 0,
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
                Pace::Turns(limit, step) => self.wake_turns(net, limit, step),
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

    /// Goes on to the next phase when it is time.
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

fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}
