//! All connections of this node: who may still come, how many there are, and how they are sent elsewhere. What a
//! connection does is not known here.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use metrics::{counter, gauge};
use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::application::CloseKind;
use super::socket::Link;
use crate::gate::{self, Gate, Pass};
use crate::telemetry::metrics as names;

/// How often it is told how much waits in the outboxes.
const MEASURE_INTERVAL: Duration = Duration::from_secs(5);

/// How often a batch of connections is closed while draining: often enough that batches stay small.
const DRAIN_TICK: Duration = Duration::from_millis(100);

/// How long a draining node keeps everybody, so that the balancer can see that it is not ready any more: a client that is
/// sent away before is led back here, refused, and waits twice as long before its next try. The shipped balancer asks every
/// second and believes the third answer.
const NOTICE: Duration = Duration::from_secs(4);

/// At most this part of the whole time is spent on that: a short drain has its batches, too.
const NOTICE_PART: u32 = 3;

/// How long a client that is turned away while draining should wait: another node takes it at once.
const DRAINING_RETRY: Duration = Duration::from_secs(1);

/// How many clients may be on their way in at once: let in no further than the door, and not in yet. A processor lets in some
/// thousand a second, so the last of these waits a few seconds, well within the 20 s that a stock client does; who comes
/// after would only make all of them wait longer. Wide enough, too, that it takes hundreds of silent connections a second to
/// keep others out: one that does not ask to come in is closed after 10 s.
const HANDSHAKES: usize = 4096;

/// The connections of one node.
#[derive(Debug)]
pub struct Connections {
    /// Guards the list; held for one insertion or removal, or to copy it.
    open: Mutex<HashMap<u64, Arc<Link>>>,
    next: AtomicU64,
    draining: AtomicBool,
    limiter: Option<DefaultDirectRateLimiter>,
    /// The clients on their way in.
    handshakes: Gate,
}

/// A client that can't come in now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Busy {
    /// When it may be worth another try.
    pub(super) retry_after: Duration,
}

impl Connections {
    /// No connections yet, and at most `per_second` new ones a second, in bursts of as many; 0: as many as come.
    pub fn new(per_second: u32) -> Arc<Self> {
        Self::bounded(per_second, HANDSHAKES)
    }

    /// The same with at most so many clients on their way in at once.
    pub fn bounded(per_second: u32, handshakes: usize) -> Arc<Self> {
        Arc::new(Self {
            open: Mutex::new(HashMap::new()),
            next: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            limiter: NonZeroU32::new(per_second)
                .map(|per_second| RateLimiter::direct(Quota::per_second(per_second))),
            handshakes: Gate::new("handshakes", handshakes),
        })
    }

    /// How many connections are open, those that are just closing included.
    pub fn len(&self) -> usize {
        self.open.lock().len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells now and then how much waits in the outboxes, until `stop`.
    pub async fn measure(self: Arc<Self>, stop: CancellationToken) {
        let [all, fullest] = ["all", "fullest"].map(|of| gauge!(names::OUTBOX_BYTES, "of" => of));
        let mut turn = tokio::time::interval(MEASURE_INTERVAL);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(turn.tick()).await.is_some() {
            // Not looked into under the list's lock: whoever comes in or goes would wait for it.
            let links: Vec<_> = self.open.lock().values().cloned().collect();
            let bytes = links.iter().map(|link| link.outbox.bytes());
            let (sum, most) = bytes.fold((0, 0), |(sum, most), one| (sum + one, one.max(most)));
            #[expect(clippy::cast_precision_loss, reason = "memory is less than 2^52 bytes")]
            {
                all.set(sum as f64);
                fullest.set(most as f64);
            }
        }
    }

    /// Refuses new connections from now on. A moment later, when balancers have noticed, closes the open ones (`Draining`)
    /// in small even batches, each once its client has the answers it waits for; all that takes `over`.
    /// Returns when the last is gone, which may be a few seconds after it; not before balancers have noticed, even if none is
    /// open: requests still come here until then.
    pub async fn drain(&self, over: Duration) {
        // Whoever was admitted before this and registers after it is closed at once, by `register`.
        self.draining.store(true, Ordering::SeqCst);
        let mut links: Vec<_> = self.open.lock().values().cloned().collect();
        let total = links.len() as u128;
        let end = Instant::now() + over;
        let notice = NOTICE.min(over / NOTICE_PART);
        let noticed = Instant::now() + notice;
        let spread = over - notice;
        let mut tick = tokio::time::interval(DRAIN_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.is_empty() || Instant::now() < noticed {
            tick.tick().await;
            let left = end.saturating_duration_since(Instant::now()).min(spread);
            let keep = total * left.as_millis() / spread.as_millis().max(1);
            let keep = usize::try_from(keep).unwrap_or(usize::MAX);
            for link in links.drain(keep.min(links.len())..) {
                link.outbox.leave();
            }
        }
    }

    /// Whether a new connection may come in. The pass is to be kept until the client is let in, or has gone.
    pub(super) fn admit(&self) -> Result<Pass, Busy> {
        if self.draining.load(Ordering::SeqCst) {
            return Err(Busy {
                retry_after: DRAINING_RETRY,
            });
        }
        let pass = self.handshakes.enter().map_err(|_| Busy {
            retry_after: gate::retry_after(),
        })?;
        if let Some(limiter) = &self.limiter
            && let Err(until) = limiter.check()
        {
            counter!(names::RATE_LIMITED, "limit" => "connects").increment(1);
            return Err(Busy {
                retry_after: until.wait_time_from(DefaultClock::default().now()),
            });
        }
        Ok(pass)
    }

    /// Takes a connection into the list until the result is dropped.
    pub(super) fn register(self: &Arc<Self>, link: &Arc<Link>) -> Registration {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.lock().insert(number, Arc::clone(link));
        // Admitted just before draining began, and perhaps too late for its list.
        if self.draining.load(Ordering::SeqCst) {
            link.outbox.end(CloseKind::Draining);
        }
        Registration {
            connections: Arc::clone(self),
            number,
        }
    }
}

/// A connection's place in the list.
#[derive(Debug)]
pub(super) struct Registration {
    connections: Arc<Connections>,
    number: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.connections.open.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use std::net::{IpAddr, Ipv4Addr};

    use super::super::application::Handshake;
    use super::*;

    fn link() -> Arc<Link> {
        let handshake = Handshake {
            remote: IpAddr::V4(Ipv4Addr::LOCALHOST),
            authorization: None,
        };
        Arc::new(Link::new(handshake, 100, true))
    }

    #[test]
    fn connects_are_counted_by_the_second() {
        let connections = Connections::new(2);
        assert!(connections.admit().is_ok() && connections.admit().is_ok());
        let busy = connections.admit().unwrap_err();
        assert!(busy.retry_after <= Duration::from_secs(1));
        assert!(Connections::new(0).admit().is_ok());
    }

    #[test]
    fn so_many_are_on_their_way_in_at_once() {
        let connections = Connections::bounded(0, 2);
        let first = connections.admit().unwrap();
        let _second = connections.admit().unwrap();
        let busy = connections.admit().unwrap_err();
        assert!(busy.retry_after >= Duration::from_secs(1));
        let link = link();
        link.comes_in(first);
        assert!(connections.admit().is_err());
        link.is_in();
        assert!(connections.admit().is_ok());
    }

    fn is_leaving(link: &Arc<Link>) -> bool {
        let signals = link.outbox.collect(0, |_| 0, &mut VecDeque::new());
        signals.leaving
    }

    /// How many are told to leave by then.
    async fn leaving_after(at: Duration, since: Instant, links: &[Arc<Link>]) -> usize {
        tokio::time::sleep_until(since + at).await;
        links.iter().filter(|link| is_leaving(link)).count()
    }

    #[tokio::test(start_paused = true)]
    async fn draining_takes_its_time_and_lets_nobody_in() {
        let begun = Instant::now();
        let connections = Connections::new(0);
        let links: Vec<_> = (0..10).map(|_| link()).collect();
        let mut open: Vec<_> = links
            .iter()
            .map(|link| (Arc::clone(link), connections.register(link)))
            .collect();
        let drain = tokio::spawn({
            let connections = Arc::clone(&connections);
            async move { connections.drain(Duration::from_secs(30)).await }
        });
        // As long as a balancer may still lead them back here, nobody leaves.
        let early = leaving_after(Duration::from_millis(3_900), begun, &links).await;
        assert_eq!(early, 0);
        assert!(connections.admit().is_err());
        let half = leaving_after(Duration::from_secs(17), begun, &links).await;
        assert!((4..=6).contains(&half), "{half} after half the time");
        let all = leaving_after(Duration::from_secs(31), begun, &links).await;
        assert_eq!(all, 10);
        assert!(!drain.is_finished());
        open.clear();
        drain.await.unwrap();
        assert!(connections.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_node_stays_until_balancers_have_noticed() {
        for (over, stays) in [
            (30, NOTICE),
            (3, Duration::from_secs(1)),
            (0, Duration::ZERO),
        ] {
            let begun = Instant::now();
            Connections::new(0).drain(Duration::from_secs(over)).await;
            let stayed = begun.elapsed();
            assert!(
                stays <= stayed && stayed <= stays + DRAIN_TICK,
                "{over}: {stayed:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_drain_has_its_batches_too() {
        let begun = Instant::now();
        let connections = Connections::new(0);
        let links: Vec<_> = (0..10).map(|_| link()).collect();
        let open: Vec<_> = links
            .iter()
            .map(|link| connections.register(link))
            .collect();
        let drain = tokio::spawn({
            let connections = Arc::clone(&connections);
            async move { connections.drain(Duration::from_secs(3)).await }
        });
        let half = leaving_after(Duration::from_secs(2), begun, &links).await;
        assert!((4..=6).contains(&half), "{half} half way through");
        drop(open);
        drain.await.unwrap();
    }
}
