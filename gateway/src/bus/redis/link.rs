//! The subscription link: one connection that hears what this node wished for, watched, and made anew whenever it is lost.
//! What is heard goes through `ear` to `hand_on`; what is wished stands in `wishes`.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng;
use redis::aio::MultiplexedConnection;
use shared::Room;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::commands::{Commands, unavailable};
use super::ear::{Bounds, Channels, Ear, Marker};
use super::echo::{Echo, Silence};
use super::hand_on::Stage;
use super::history::{HeardRooms, History};
use super::rights;
use super::wishes::{Wishes, Work};
use crate::bus::{BusError, metrics};

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
    /// Which rooms are heard, or were when the link broke. Guarded for one writer, whose calls share the link.
    pub(super) heard: Mutex<HeardRooms>,
    pub(super) history: History,
    /// The version of the wishes that is fulfilled. `subscribe` waits on the other end.
    pub(super) fulfilled: watch::Sender<u64>,
    /// Whether a connection stands, with all its subscriptions.
    pub(super) up: watch::Sender<bool>,
    /// The node's calls to itself.
    pub(super) echo: Arc<Echo>,
    /// To `HandOn`. One slot: while a backlog is read and one waits, no further connection is made.
    pub(super) stages: mpsc::Sender<Stage>,
    pub(super) closing: CancellationToken,
}

/// One connection, with all subscriptions wished for when it was made.
struct Live {
    connection: MultiplexedConnection,
    marker: Marker,
    broken: CancellationToken,
    /// Whose data its Redis follows.
    data: String,
}

impl Link {
    /// Keeps the link until the bus closes.
    pub(super) async fn keep(self) {
        let mut was_down = false;
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
                Ok((live, stage)) => {
                    slot.send(stage);
                    if was_down {
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
                    was_down = false;
                    failure
                }
            };
            if !was_down {
                tracing::warn!(error = %failure, "the subscription link is down");
            }
            was_down = true;
            // What ended the link likely ended those for commands: the first to publish again shall not find that out.
            self.commands.start_afresh();
            tokio::select! {
                () = tokio::time::sleep(jittered(wait)) => {}
                () = self.closing.cancelled() => return,
            }
            wait = (wait * 2).min(self.settings.reconnect_max);
        }
    }

    async fn connect(&self) -> Result<(Live, Stage), BusError> {
        let broken = CancellationToken::new();
        let (ear, marker, backlog) = Ear::new(
            self.channels.clone(),
            self.settings.bounds,
            Arc::clone(&self.echo),
            broken.clone(),
        );
        let mut connection = self.commands.listen(ear).await.map_err(unavailable)?;
        // First of all, so that a missing right is what is told.
        let mut asking = connection.clone();
        let allowed = rights::check(&self.commands, &mut asking);
        answer(&broken, self.commands.timeout(), allowed).await?;
        let own = vec![self.channels.nodes.clone(), self.channels.own.clone()];
        self.subscribe(&mut connection, &broken, own).await?;
        let work = self.wishes.everything();
        // Left since, and perhaps wished for again by somebody else: what was missed meanwhile is not theirs.
        self.heard.lock().remove(&work.unsubscribe);
        for rooms in work.subscribe.chunks(self.settings.batch) {
            self.subscribe(&mut connection, &broken, self.names(rooms))
                .await?;
        }
        // All that comes after this place is heard on this connection; what is missing before it, `hand_on` replays. Only
        // then may anybody hear that the wishes are fulfilled: what is published from there on comes after the place.
        let asked = std::time::Instant::now();
        let stand = self.history.stand(&mut connection);
        let stand = answer(&broken, self.commands.timeout(), stand).await?;
        let stand = stand.ok_or_else(|| BusError("Redis was emptied just now".into()))?;
        let rooms = {
            let mut heard = self.heard.lock();
            heard.add_missing(&work.subscribe, &stand.place);
            heard.clone()
        };
        self.fulfilled.send_replace(work.version);
        let data = stand.data.clone();
        let stage = Stage {
            backlog,
            connection: connection.clone(),
            broken: broken.clone(),
            stand,
            asked,
            rooms,
        };
        let live = Live {
            connection,
            marker,
            broken,
            data,
        };
        Ok((live, stage))
    }

    /// Fulfils wishes, and watches, until the connection is lost (an error) or the bus closes.
    async fn serve(&self, live: Live) -> Result<(), BusError> {
        // Beside the wishes, so that nobody who subscribes waits for a probe.
        let Live {
            mut connection,
            marker,
            broken,
            data,
        } = live;
        let watch = self.watch(connection.clone(), marker, broken.clone(), data);
        tokio::pin!(watch);
        loop {
            tokio::select! {
                () = self.closing.cancelled() => return Ok(()),
                () = broken.cancelled() => return Err(lost()),
                failure = &mut watch => return Err(failure),
                () = self.wishes.rung() => {
                    let work = self.wishes.changes();
                    self.fulfil(&mut connection, &broken, work).await?;
                }
            }
        }
    }

    async fn fulfil(
        &self,
        connection: &mut MultiplexedConnection,
        broken: &CancellationToken,
        work: Work,
    ) -> Result<(), BusError> {
        for rooms in work.subscribe.chunks(self.settings.batch) {
            let mut asking = connection.clone();
            let subscribed = self.subscribe(connection, broken, self.names(rooms));
            let place = self.history.place(&mut asking);
            // Both on their way at once. Where the place is read first, it is early, never late.
            let (subscribed, place) =
                tokio::join!(subscribed, timeout(self.commands.timeout(), place));
            subscribed?;
            let mut heard = self.heard.lock();
            match place.map_err(unavailable)?.map_err(unavailable)? {
                Some(place) => heard.add(rooms, &place),
                // Emptied just now: all that comes is after it.
                None => heard.add_from_start(rooms),
            }
        }
        // Somebody waits for these, nobody for those below.
        self.fulfilled.send_replace(work.version);
        self.heard.lock().remove(&work.unsubscribe);
        for rooms in work.unsubscribe.chunks(self.settings.batch) {
            let done = connection.unsubscribe(self.names(rooms));
            answer(broken, self.commands.timeout(), done).await?;
        }
        Ok(())
    }

    async fn subscribe(
        &self,
        connection: &mut MultiplexedConnection,
        broken: &CancellationToken,
        channels: Vec<String>,
    ) -> Result<(), BusError> {
        let done = connection.subscribe(channels);
        answer(broken, self.commands.timeout(), done).await
    }

    /// Watches a connection until it is lost, and notes how far it is sound. One that was cut silently looks idle, and one
    /// to a Redis that is not the one for commands any more (a failover) looks well: only an answer, and an echo, prove that
    /// they are not. One to a replica even hears the echo, and yet skips what a resynchronisation brings: so whose data
    /// Redis follows must not change.
    async fn watch(
        &self,
        mut connection: MultiplexedConnection,
        marker: Marker,
        broken: CancellationToken,
        data: String,
    ) -> BusError {
        let mut probe = interval(self.settings.probe_every);
        probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            probe.tick().await;
            let within = self.settings.probe_timeout;
            let asked = std::time::Instant::now();
            let stand = self.history.place_and_data(&mut connection);
            match answer(&broken, within, stand).await {
                Err(failure) => return failure,
                Ok((_, now)) if now != data => {
                    return BusError("Redis follows other data".into());
                }
                Ok((place, _)) => {
                    if let Some(place) = place {
                        marker.sound(place, asked);
                    }
                }
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

/// What Redis answers, unless it is late or the connection is lost first.
async fn answer<T>(
    broken: &CancellationToken,
    within: Duration,
    done: impl Future<Output = redis::RedisResult<T>>,
) -> Result<T, BusError> {
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
