//! The bus between nodes: Redis pub/sub, a channel for each room, and a script (`publish.lua`) that keeps the order. The
//! parts: `commands` is the way to Redis, through its `door`, `link` the way back with its `ear` and `wishes`, `frame` what
//! travels, `rights` and `echo` the proofs, `hand_on` what the relay gets, with what was missed from the `history`.
//!
//! One Redis (6 or later), or one that fails over to a replica under the same address; not a Redis Cluster, whose nodes do
//! not share a script's keys.

mod commands;
mod door;
mod ear;
mod echo;
mod frame;
mod hand_on;
mod history;
mod link;
mod rights;
mod wishes;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use redis::Script;
use shared::envelope::Notice;
use shared::{Envelope, Room, Timestamp};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Bus, BusError, Incoming, Kept, Place, Publication, PublishOutcome, metrics};
pub(crate) use commands::unavailable;
pub use commands::{Commands, RedisSettings};
pub use door::{ClientFiles, TlsFiles, UselessFile};
use ear::{Bounds, Channels};
use echo::Echo;
use hand_on::HandOn;
use history::{HeardRooms, History};
use link::{Link, LinkSettings, room_channel};
use wishes::Wishes;

/// How much a `RedisBus` remembers and holds, and how it watches its link.
#[derive(Debug, Clone)]
pub struct RedisBusSettings {
    /// How long Redis remembers where a conversation stands, since its last change.
    pub head_ttl: Duration,
    /// How long Redis keeps envelopes that came before their elder. Their publishers come again much sooner.
    pub parked_ttl: Duration,
    /// How far ahead of its conversation's head an envelope may come and still be kept.
    pub window: i64,
    /// About how many envelopes Redis keeps for nodes and clients that missed them. A client may have been away for two minutes,
    /// and of a quiet one it is known only what it had up to two minutes before that: together at 500 messages a second,
    /// which is more than a house of this kind sends. (A node that takes clients in holds less of it at a time.)
    pub history: u64,
    /// The same in bytes, whichever is reached first. A message of a line or two takes a kilobyte; only a crowd that
    /// writes long ones comes near this, and shortens what a node may miss.
    pub history_bytes: u64,
    /// What may wait for the relay, taken apart.
    pub queue: usize,
    /// What may have been heard and not been taken apart: frames.
    pub backlog: usize,
    /// The same in bytes. Beyond either the link is cut: the relay has fallen behind by more than it could make good.
    pub backlog_bytes: usize,
    /// How often the link is asked for a sign of life.
    pub probe_every: Duration,
    /// How long the sign may take: with `probe_every`, how long a link that was cut silently goes unnoticed.
    pub probe_timeout: Duration,
    /// The first wait before a lost link is made anew; it doubles from there.
    pub reconnect_min: Duration,
    /// The longest wait. Readiness is to be true again within ten seconds.
    pub reconnect_max: Duration,
}

impl Default for RedisBusSettings {
    fn default() -> Self {
        Self {
            head_ttl: Duration::from_secs(7 * 24 * 60 * 60),
            parked_ttl: Duration::from_secs(5 * 60),
            window: 256,
            history: 120_000,
            history_bytes: 128 * 1024 * 1024,
            queue: 1024,
            backlog: 16 * 1024,
            backlog_bytes: 64 * 1024 * 1024,
            probe_every: Duration::from_secs(2),
            probe_timeout: Duration::from_secs(3),
            reconnect_min: Duration::from_millis(100),
            reconnect_max: Duration::from_secs(2),
        }
    }
}

/// A bus over one Redis.
///
/// `subscribe` notes the wish before it waits: where it fails, because the link is down for longer than a command may take,
/// the rooms stay wished for, and are heard as soon as the link is back, until `unsubscribe` takes them back.
///
/// A link that is back replays what the one before missed from a history in Redis. `Incoming::Interrupted` comes where
/// that does not reach back: Redis restarted, failed over, was emptied, or has trimmed it.
#[derive(Debug)]
pub struct RedisBus {
    commands: Commands,
    channels: Channels,
    script: Script,
    history: History,
    settings: RedisBusSettings,
    wishes: Arc<Wishes>,
    /// From the link: the version of the wishes that it fulfilled.
    fulfilled: watch::Receiver<u64>,
    /// From the link: whether it stands.
    up: watch::Receiver<bool>,
    /// The node's calls to itself; the link hears them.
    echo: Arc<Echo>,
    /// The relay's end, until it is taken.
    incoming: Mutex<Option<mpsc::Receiver<Incoming>>>,
    /// The link's and `hand_on`'s tasks, until they are closed.
    tasks: Mutex<Vec<JoinHandle<()>>>,
    closed: AtomicBool,
    /// Ends the link when the bus is closed or dropped.
    closing: CancellationToken,
}

impl Drop for RedisBus {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

/// The most envelopes in one call of the script: Redis serves nobody else meanwhile.
const CALL_ENVELOPES: usize = 256;

impl RedisBus {
    /// Opens a bus for a node, named by a random string. Redis need not be up: the link is made as soon as it is. To be
    /// called within a runtime.
    pub fn open(commands: Commands, node: &str, settings: RedisBusSettings) -> Self {
        let channels = Channels {
            nodes: commands.channel("nodes"),
            own: commands.channel(format_args!("node:{node}")),
        };
        let wishes = Arc::new(Wishes::default());
        let closing = CancellationToken::new();
        let (fulfilled_sender, fulfilled) = watch::channel(0);
        let (up_sender, up) = watch::channel(false);
        let echo = Arc::new(Echo::new(channels.own.clone()));
        let script = Script::new(include_str!("../publish.lua"));
        let history = History::new(&commands, script.clone());
        let (relay, incoming) = mpsc::channel(settings.queue.max(1));
        let (stages, staged) = mpsc::channel(1);
        let link = Link {
            commands: commands.clone(),
            channels: channels.clone(),
            settings: LinkSettings {
                bounds: Bounds {
                    frames: settings.backlog,
                    bytes: settings.backlog_bytes,
                },
                probe_every: settings.probe_every,
                probe_timeout: settings.probe_timeout,
                reconnect_min: settings.reconnect_min,
                reconnect_max: settings.reconnect_max,
                batch: 512,
            },
            wishes: Arc::clone(&wishes),
            heard: Mutex::new(HeardRooms::default()),
            history: history.clone(),
            fulfilled: fulfilled_sender,
            up: up_sender,
            echo: Arc::clone(&echo),
            stages,
            closing: closing.clone(),
        };
        let tasks = vec![
            tokio::spawn(link.keep()),
            tokio::spawn(HandOn::new(relay, history.clone(), commands.timeout()).run(staged)),
        ];
        Self {
            commands,
            channels,
            script,
            history,
            settings,
            wishes,
            fulfilled,
            up,
            echo,
            incoming: Mutex::new(Some(incoming)),
            tasks: Mutex::new(tasks),
            closed: AtomicBool::new(false),
            closing,
        }
    }

    async fn call(&self, envelopes: &[Publication]) -> Result<Vec<PublishOutcome>, BusError> {
        let mut call = self.script.key(history::stream_key(&self.commands));
        call.key(history::history_key(&self.commands))
            .arg(history::epoch_name())
            .arg(Timestamp::now().unix_millis())
            .arg(self.settings.head_ttl.as_secs().max(1))
            .arg(self.settings.parked_ttl.as_secs().max(1))
            .arg(self.settings.window)
            .arg(self.settings.history.max(1))
            .arg(self.settings.history_bytes.max(1));
        for publication in envelopes {
            let envelope = &*publication.envelope;
            if let Some(at) = envelope.position {
                call.key(self.commands.name(format_args!("head:{}", at.conversation)));
                call.key(
                    self.commands
                        .name(format_args!("parked:{}", at.conversation)),
                );
            }
            let seq = envelope.position.map_or(0, |at| at.event_seq.get());
            let begins_at = publication.begins_at.map_or(0, |first| first.get());
            let rooms = rooms(envelope);
            call.arg(seq).arg(begins_at).arg(rooms.len());
            for room in rooms {
                call.arg(room_channel(&self.commands, &room));
            }
            call.arg(serde_json::to_vec(envelope).map_err(unavailable)?);
        }
        let outcomes: Vec<u8> = self.commands.invoke_in_line(&call).await?;
        let outcomes: Vec<_> = outcomes.into_iter().filter_map(outcome).collect();
        if outcomes.len() != envelopes.len() {
            return Err(BusError(
                "the publish script answered something else".into(),
            ));
        }
        Ok(outcomes)
    }

    fn is_open(&self) -> Result<(), BusError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(BusError("it was closed".into()));
        }
        Ok(())
    }
}

#[async_trait]
impl Bus for RedisBus {
    async fn publish(&self, envelopes: &[Publication]) -> Result<Vec<PublishOutcome>, BusError> {
        self.is_open()?;
        let begun = Instant::now();
        let mut outcomes = Vec::with_capacity(envelopes.len());
        for batch in envelopes.chunks(CALL_ENVELOPES) {
            outcomes.extend(self.call(batch).await?);
        }
        metrics::published(&outcomes, begun.elapsed());
        Ok(outcomes)
    }

    async fn announce(&self, notice: &Notice) -> Result<(), BusError> {
        self.is_open()?;
        let notice = serde_json::to_vec(notice).map_err(unavailable)?;
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(&self.channels.nodes).arg(notice);
        self.commands.query(&publish).await
    }

    async fn subscribe(&self, rooms: &[Room]) -> Result<(), BusError> {
        self.is_open()?;
        let version = self.wishes.add(rooms);
        let mut fulfilled = self.fulfilled.clone();
        let done = fulfilled.wait_for(|done| *done >= version);
        match tokio::time::timeout(self.commands.timeout(), done).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(ended)) => Err(unavailable(ended)),
            Err(late) => Err(unavailable(late)),
        }
    }

    async fn unsubscribe(&self, rooms: &[Room]) -> Result<(), BusError> {
        self.wishes.remove(rooms);
        Ok(())
    }

    fn incoming(&self) -> Option<mpsc::Receiver<Incoming>> {
        self.incoming.lock().take()
    }

    async fn here(&self) -> Result<Option<Place>, BusError> {
        let answer = self.commands.query_all(&self.history.ask_here()).await?;
        Ok(history::read_here(answer))
    }

    async fn kept_after(&self, place: Place, limit: usize) -> Result<Option<Vec<Kept>>, BusError> {
        let ask = self.history.ask_kept(place, limit);
        let answer = self.commands.query_all(&ask).await?;
        let kept = |entry: history::Entry| Kept {
            offset: entry.offset,
            envelope: hand_on::readable(serde_json::from_slice(&entry.payload)).map(Arc::new),
        };
        let entries = history::read_kept(place, answer);
        Ok(entries.map(|entries| entries.into_iter().map(kept).collect()))
    }

    async fn check(&self) -> Result<(), BusError> {
        self.is_open()?;
        if !*self.up.borrow() {
            return Err(BusError("the subscription link is down".into()));
        }
        let heard = self.echo.call(&self.commands, self.commands.timeout());
        Ok(heard.await?)
    }

    async fn close(&self) {
        // Every `publish` waits for its answer, so what was published is out.
        self.closed.store(true, Ordering::Release);
        self.closing.cancel();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for mut task in tasks {
            // `HandOn` ends with the last frame; a relay that takes no more must not hold the end up.
            if tokio::time::timeout(self.commands.timeout(), &mut task)
                .await
                .is_err()
            {
                task.abort();
            }
        }
    }
}

/// Every room of an envelope, once. There may be hundreds: an agent's absence goes to all of its clients.
fn rooms(envelope: &Envelope) -> Vec<Room> {
    let mut seen = HashSet::new();
    let mut rooms = Vec::new();
    for room in envelope.deliveries.iter().flat_map(|to| &to.rooms) {
        if seen.insert(room) {
            rooms.push(*room);
        }
    }
    rooms
}

fn outcome(number: u8) -> Option<PublishOutcome> {
    Some(match number {
        1 => PublishOutcome::Published,
        2 => PublishOutcome::Repeat,
        3 => PublishOutcome::Parked,
        4 => PublishOutcome::UnknownHead,
        _ => return None,
    })
}
