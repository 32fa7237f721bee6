//! Long-polling as a transport: what a connection's task knows of the requests that carry it. The requests themselves
//! are in `http`.
//!
//! The two meet in a mailbox. A poll leaves an envelope in it, in which the task puts the next payload; a post leaves its
//! packets, and gets its answer when they have been handled, so a slow program slows its client down here as well. An
//! upgrade leaves a WebSocket, and the polling ends: what came before it in the mailbox has been handled before what the
//! WebSocket brings, and what was not sent by a poll is sent by the WebSocket.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use shared::protocol::engine_io;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::super::application::DisconnectReason;
use super::super::connection::{End, Fault};
use super::super::frame::{Frame, Kind};
use super::super::wire::Wire;

/// Requests of one session at a time: a poll, a post, a probe and its outcome. More only wait.
const MAILBOX: usize = 4;

/// How long a poll is held while an upgrade is being tried: the client waits for it before it goes over.
const PROBING_POLL: Duration = Duration::from_millis(100);

/// How long a session that the server ended waits for a poll to say so.
const LAST_POLL: Duration = Duration::from_secs(2);

/// How long a session that the client ended waits for a poll that was sent at the same time.
const CROSSING_POLL: Duration = Duration::from_millis(100);

/// The sessions of this node that began with polling, by their id.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    /// Guards the list; held for one look-up, insertion or removal.
    list: Mutex<HashMap<Box<str>, Entry>>,
}

/// What is known of a session by its id.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    /// Requests carry it.
    Polling(Arc<Session>),
    /// It has gone over to WebSocket: requests that still name it are told apart from those that name no session.
    Upgraded,
}

/// What a request knows of a session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) mailbox: mpsc::Sender<Command>,
    /// A post is being read: a second one breaks the protocol.
    posting: AtomicBool,
    /// A WebSocket is being tried, or has been taken: there is no second one.
    upgrading: AtomicBool,
}

/// What a request leaves in the mailbox.
pub(super) enum Command {
    /// Wants the next payload.
    Poll(oneshot::Sender<Payload>),
    /// Brings packets.
    Post(Box<Post>),
    /// A WebSocket answered the probe: polls are let go.
    Probing,
    /// It came to nothing.
    ProbeFailed,
    /// The client has gone over.
    Upgrade(Box<Wire>),
    /// The client broke the protocol.
    Broken,
}

/// What a poll gets. Where the envelope is dropped without one, the session is gone.
pub(super) type Payload = String;

/// What one request brought.
#[derive(Debug)]
pub(crate) struct Post {
    /// What is not handled yet.
    pub(crate) packets: VecDeque<Inbound>,
    /// Dropped where the session ends first.
    accepted: oneshot::Sender<()>,
}

/// A packet that means something to a connection.
#[derive(Debug)]
pub(crate) enum Inbound {
    Text(String),
    Binary(Bytes),
    Pong,
    Close,
}

/// The transport, as the connection's task holds it.
pub(crate) struct Polling {
    mailbox: mpsc::Receiver<Command>,
    /// The poll that waits for something to say.
    poll: Option<oneshot::Sender<Payload>>,
    /// What goes into its payload.
    batch: VecDeque<Frame>,
    probing: bool,
    /// When the poll is let go, while probing.
    release_at: Option<Instant>,
    /// In the list until the session ends.
    listed: Option<Listed>,
}

/// A session's place in the list.
pub(crate) struct Listed {
    sessions: Arc<Sessions>,
    sid: Box<str>,
}

impl Sessions {
    pub(super) fn get(&self, sid: &str) -> Option<Entry> {
        self.list.lock().get(sid).cloned()
    }

    /// Opens a session: it is in the list as long as its transport lives.
    pub(super) fn open(self: &Arc<Self>, sid: &str) -> Polling {
        let (sender, mailbox) = mpsc::channel(MAILBOX);
        let session = Session {
            mailbox: sender,
            posting: AtomicBool::new(false),
            upgrading: AtomicBool::new(false),
        };
        let entry = Entry::Polling(Arc::new(session));
        self.list.lock().insert(sid.into(), entry);
        Polling {
            mailbox,
            poll: None,
            batch: VecDeque::new(),
            probing: false,
            release_at: None,
            listed: Some(Listed {
                sessions: Arc::clone(self),
                sid: sid.into(),
            }),
        }
    }
}

impl Session {
    /// Begins a post, unless one is going on.
    pub(super) fn begin_post(&self) -> Option<Flag<'_>> {
        Flag::raise(&self.posting)
    }

    /// Begins an upgrade, unless one is going on or done.
    pub(super) fn begin_upgrade(&self) -> bool {
        !self.upgrading.swap(true, Ordering::AcqRel)
    }

    /// Another upgrade may be tried.
    pub(super) fn upgrade_failed(&self) {
        self.upgrading.store(false, Ordering::Release);
    }
}

/// A flag that is up as long as this lives.
pub(super) struct Flag<'a>(&'a AtomicBool);

impl<'a> Flag<'a> {
    fn raise(flag: &'a AtomicBool) -> Option<Self> {
        (!flag.swap(true, Ordering::AcqRel)).then_some(Self(flag))
    }
}

impl Drop for Flag<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Post {
    pub(super) fn new(packets: VecDeque<Inbound>) -> (Self, oneshot::Receiver<()>) {
        let (accepted, receiver) = oneshot::channel();
        (Self { packets, accepted }, receiver)
    }

    /// All of it was handled.
    pub(crate) fn accept(self) {
        // The client hung up: it will learn from the next poll.
        let _ = self.accepted.send(());
    }
}

impl Polling {
    /// Takes what requests have left. A WebSocket, once there is one, takes this transport's place.
    pub(crate) fn poll_commands(
        &mut self,
        cx: &mut Context<'_>,
        post: &mut Option<Box<Post>>,
        busy: &mut bool,
    ) -> Result<Option<Wire>, End> {
        while let Poll::Ready(Some(command)) = self.mailbox.poll_recv(cx) {
            *busy = true;
            match command {
                Command::Poll(second) if self.poll.is_some() => {
                    // The first gets the session's end, the second nothing.
                    self.unlist();
                    drop(second);
                    return Err(Fault::Protocol.into());
                }
                Command::Poll(poll) => {
                    self.poll = Some(poll);
                    self.release_at = self.probing.then(|| Instant::now() + PROBING_POLL);
                }
                Command::Post(_) if post.is_some() => return Err(Fault::Protocol.into()),
                Command::Post(new) => *post = Some(new),
                Command::Probing => {
                    self.probing = true;
                    self.release_at = self.poll.is_some().then(Instant::now);
                }
                Command::ProbeFailed => {
                    self.probing = false;
                    self.release_at = None;
                }
                Command::Upgrade(wire) => return Ok(Some(*wire)),
                Command::Broken => return Err(Fault::Protocol.into()),
            }
        }
        // A poll that was cancelled may have taken a payload with it, for all the client knows: nothing is certain now.
        if let Some(poll) = &mut self.poll
            && poll.poll_closed(cx).is_ready()
        {
            self.poll = None;
            return Err(End::LOST);
        }
        Ok(None)
    }

    /// The transport is left for a WebSocket. A poll that still waits is refused: the client should have waited for it.
    pub(crate) fn leave(&mut self) -> Option<Listed> {
        let listed = self.listed.take();
        if let Some(listed) = &listed {
            let mut list = listed.sessions.list.lock();
            list.insert(listed.sid.clone(), Entry::Upgraded);
        }
        listed
    }

    /// How many bytes of frames can be sent now.
    pub(crate) fn room(&self, max_payload: usize) -> usize {
        if self.poll.is_some() { max_payload } else { 0 }
    }

    /// Where frames to be sent are put.
    pub(crate) fn batch(&mut self) -> &mut VecDeque<Frame> {
        &mut self.batch
    }

    /// Answers the poll with what there is. True where it did.
    pub(crate) fn answer(&mut self) -> Result<bool, End> {
        if self.batch.is_empty() {
            return Ok(false);
        }
        let Some(poll) = self.poll.take() else {
            return Ok(false);
        };
        self.release_at = None;
        match poll.send(payload(&mut self.batch)) {
            Ok(()) => Ok(true),
            Err(_) => Err(End::LOST),
        }
    }

    /// Lets a poll go that would hold up an upgrade.
    pub(crate) fn check_clock(&mut self, now: Instant) {
        if self.release_at.is_some_and(|at| at <= now) {
            self.release_at = None;
            self.reply(engine_io::NOOP.to_owned());
        }
    }

    /// When `check_clock` has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.release_at
    }

    /// Ends the session and tells the client, in the poll that waits or in one that is on its way.
    pub(crate) async fn close(mut self: Box<Self>, end: End, post: Option<Box<Post>>) {
        let goodbye = if end.reason == DisconnectReason::ClientDisconnect {
            // It knows already: the poll is only let go.
            if let Some(post) = post {
                post.accept();
            }
            engine_io::NOOP.to_owned()
        } else {
            let mut last = payload(&mut self.batch);
            engine_io::push_text(&mut last, engine_io::CLOSE);
            // A post that is not accepted is refused, and must not find the session listed afterwards.
            if end.reason == DisconnectReason::ProtocolError {
                self.unlist();
            }
            drop(post);
            last
        };
        let patience = match end.reason {
            DisconnectReason::ClientDisconnect => CROSSING_POLL,
            DisconnectReason::Draining
            | DisconnectReason::Unauthorized
            | DisconnectReason::Expired
            | DisconnectReason::Busy
            | DisconnectReason::TooSlow
            | DisconnectReason::Resync => LAST_POLL,
            _ => Duration::ZERO,
        };
        if self.poll.is_none() && self.listed.is_some() && !patience.is_zero() {
            // Out of time: the client is told by an unknown session id.
            let _ = tokio::time::timeout(patience, self.wait_for_poll()).await;
        }
        self.unlist();
        self.reply(goodbye);
    }

    async fn wait_for_poll(&mut self) {
        while let Some(command) = self.mailbox.recv().await {
            if let Command::Poll(poll) = command {
                self.poll = Some(poll);
                return;
            }
        }
    }

    fn reply(&mut self, payload: Payload) {
        if let Some(poll) = self.poll.take() {
            // Gone meanwhile: there is nobody to tell.
            let _ = poll.send(payload);
        }
    }

    /// From now on the session's id is unknown. Comes before any answer that says so.
    fn unlist(&mut self) {
        self.listed = None;
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.sessions.list.lock().remove(&self.sid);
    }
}

fn payload(frames: &mut VecDeque<Frame>) -> Payload {
    let mut payload = String::with_capacity(frames.iter().map(Frame::polling_cost).sum());
    for frame in frames.drain(..) {
        match frame.kind() {
            Kind::Text => engine_io::push_text(&mut payload, &frame.as_text()),
            Kind::Binary => engine_io::push_binary(&mut payload, frame.payload()),
            Kind::Control | Kind::Opening => {}
        }
    }
    payload
}
