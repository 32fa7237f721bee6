//! The subscription link: one connection that hears what this node wished for, watched, and made anew whenever it is lost.
//! What is heard goes through `ear`; what is wished stands in `wishes`.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use redis::aio::MultiplexedConnection;
use shared::Room;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::commands::{Commands, unavailable};
use super::ear::{Backlog, Bounds, Channels, Ear};
use super::echo::{Echo, Silence};
use super::wishes::{Wishes, Work};
use crate::bus::{BusError, Incoming, metrics};

/// How the link is watched and made anew.
#[derive(Debug, Clone)]
pub(super) struct LinkSettings {
    pub(super) bounds: Bounds,
    pub(super) probe_every: Duration,
    pub(super) probe_timeout: Duration,
    pub(super) reconnect_min: Duration,
    pub(super) reconnect_max: Duration,
    /// Rooms in one SUBSCRIBE: a returning node must not hold Redis up with all of its rooms at once.
    pub(super) batch: usize,
}

/// The link, as the task that keeps it.
pub(super) struct Link {
    pub(super) commands: Commands,
    pub(super) channels: Channels,
    pub(super) settings: LinkSettings,
    pub(super) wishes: Arc<Wishes>,
    /// The version of the wishes that is fulfilled. `subscribe` waits on the other end.
    pub(super) fulfilled: watch::Sender<u64>,
    /// Whether a connection stands, with all its subscriptions.
    pub(super) up: watch::Sender<bool>,
    /// The node's calls to itself.
    pub(super) echo: Arc<Echo>,
    /// To `hand_on`. One slot: while a backlog is read and one waits, no further connection is made.
    pub(super) stages: mpsc::Sender<Stage>,
    pub(super) closing: CancellationToken,
}

/// What was heard on one connection, for `hand_on`.
pub(super) struct Stage {
    backlog: Backlog,
    /// Whether something may have been missed before it.
    after_gap: bool,
}

/// One connection, with all subscriptions wished for when it was made.
struct Live {
    connection: MultiplexedConnection,
    broken: CancellationToken,
}

impl Link {
    /// Keeps the link until the bus closes.
    pub(super) async fn keep(self) {
        // Nothing is missed before the first connection, unless it took more than one attempt: then some `subscribe`
        // may have failed that its caller let pass.
        let mut after_gap = false;
        let mut wait = self.settings.reconnect_min;
        loop {
            // No connection before there is somewhere to put what it hears.
            let Ok(slot) = self.stages.reserve().await else {
                return;
            };
            let made = tokio::select! {
                made = self.connect() => made,
                () = self.closing.cancelled() => return,
            };
            let failure = match made {
                Err(failure) => failure,
                Ok((live, backlog)) => {
                    slot.send(Stage { backlog, after_gap });
                    if after_gap {
                        metrics::interrupted();
                        tracing::info!("the subscription link is back");
                    }
                    self.up.send_replace(true);
                    let begun = Instant::now();
                    let end = self.serve(live).await;
                    self.up.send_replace(false);
                    let Err(failure) = end else {
                        return;
                    };
                    if begun.elapsed() > self.settings.reconnect_max {
                        wait = self.settings.reconnect_min;
                    }
                    after_gap = false;
                    failure
                }
            };
            if !after_gap {
                tracing::warn!(error = %failure, "the subscription link is down");
            }
            after_gap = true;
            // What ended the link likely ended those for commands: the first to publish again shall not find that out.
            self.commands.start_afresh();
            tokio::select! {
                () = tokio::time::sleep(jittered(wait)) => {}
                () = self.closing.cancelled() => return,
            }
            wait = (wait * 2).min(self.settings.reconnect_max);
        }
    }

    async fn connect(&self) -> Result<(Live, Backlog), BusError> {
        let broken = CancellationToken::new();
        let (ear, backlog) = Ear::new(
            self.channels.clone(),
            self.settings.bounds,
            Arc::clone(&self.echo),
            broken.clone(),
        );
        let connection = self.commands.listen(ear).await.map_err(unavailable)?;
        let mut live = Live { connection, broken };
        let own = vec![self.channels.nodes.clone(), self.channels.own.clone()];
        self.subscribe(&mut live, own).await?;
        let work = self.wishes.everything();
        self.fulfil(&mut live, work).await?;
        Ok((live, backlog))
    }

    /// Fulfils wishes, and watches, until the connection is lost (an error) or the bus closes.
    async fn serve(&self, mut live: Live) -> Result<(), BusError> {
        // Beside the wishes, so that nobody who subscribes waits for a probe.
        let watch = self.watch(live.connection.clone(), live.broken.clone());
        tokio::pin!(watch);
        loop {
            tokio::select! {
                () = self.closing.cancelled() => return Ok(()),
                () = live.broken.cancelled() => return Err(lost()),
                failure = &mut watch => return Err(failure),
                () = self.wishes.rung() => {
                    let work = self.wishes.changes();
                    self.fulfil(&mut live, work).await?;
                }
            }
        }
    }

    async fn fulfil(&self, live: &mut Live, work: Work) -> Result<(), BusError> {
        for rooms in work.subscribe.chunks(self.settings.batch) {
            self.subscribe(live, self.names(rooms)).await?;
        }
        // Somebody waits for these, nobody for those below.
        self.fulfilled.send_replace(work.version);
        for rooms in work.unsubscribe.chunks(self.settings.batch) {
            let done = live.connection.unsubscribe(self.names(rooms));
            answer(&live.broken, self.commands.timeout(), done).await?;
        }
        Ok(())
    }

    async fn subscribe(&self, live: &mut Live, channels: Vec<String>) -> Result<(), BusError> {
        let done = live.connection.subscribe(channels);
        answer(&live.broken, self.commands.timeout(), done).await
    }

    /// Watches a connection until it is lost. One that was cut silently looks idle, and one to a Redis that is not the one
    /// for commands any more (a failover) looks well: only an answer, and an echo, prove that they are not.
    async fn watch(
        &self,
        mut connection: MultiplexedConnection,
        broken: CancellationToken,
    ) -> BusError {
        let ping = redis::cmd("PING");
        let mut probe = interval(self.settings.probe_every);
        probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            probe.tick().await;
            let within = self.settings.probe_timeout;
            let done = async { ping.query_async::<()>(&mut connection).await };
            if let Err(failure) = answer(&broken, within, done).await {
                return failure;
            }
            // A call that did not get out says nothing about the way in.
            if let Err(Silence::Deaf(failure)) = self.echo.call(&self.commands, within).await {
                return failure;
            }
        }
    }

    fn names(&self, rooms: &[Room]) -> Vec<String> {
        rooms
            .iter()
            .map(|room| room_channel(&self.commands, room))
            .collect()
    }
}

/// The channel of a room.
pub(super) fn room_channel(commands: &Commands, room: &Room) -> String {
    commands.channel(format_args!("room:{room}"))
}

/// Hands on what was heard, connection after connection: everything heard on the one, then the interruption, then
/// what is heard on the next. So nothing that comes after a gap is heard before the news of the gap.
pub(super) async fn hand_on(mut stages: mpsc::Receiver<Stage>, relay: mpsc::Sender<Incoming>) {
    while let Some(stage) = stages.recv().await {
        if stage.after_gap {
            // Without a relay nobody hears anything, and nothing waits for it.
            let _ = relay.send(Incoming::Interrupted).await;
        }
        stage.backlog.drain(&relay).await;
    }
}

/// What Redis answers, unless it is late or the connection is lost first.
async fn answer(
    broken: &CancellationToken,
    within: Duration,
    done: impl Future<Output = redis::RedisResult<()>>,
) -> Result<(), BusError> {
    tokio::select! {
        done = timeout(within, done) => match done {
            Ok(answer) => answer.map_err(unavailable),
            Err(late) => Err(unavailable(late)),
        },
        () = broken.cancelled() => Err(lost()),
    }
}

fn lost() -> BusError {
    BusError(
        "the subscription connection ended, or more was heard than the node keeps up with".into(),
    )
}

/// Between half and all of it: nodes that lost the same Redis must not come back all at once.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(0.5..=1.0))
}
