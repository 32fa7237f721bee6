//! Connections that are passed from hand to hand. The driver's pool asks a connection whether it lives before it is lent and again
//! when it comes back: two round trips for a statement that takes one. Here one that was seen alive a moment ago goes to who
//! comes next as it is; the pool looks at it again every few seconds, and opens and closes all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::pool::PoolConnection;
use sqlx::{Database, Pool};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::fault::Fault;
use crate::telemetry::pool::PoolMeter;

/// How long a connection goes from hand to hand before the pool looks at it.
const UNSEEN: Duration = Duration::from_secs(2);

/// How long to wait before a server that lets nobody in is asked again; a connection of our own may be free before.
const DOOR_PAUSE: Duration = Duration::from_millis(100);

/// How long a connection may take to come back into its pool, where it is tried once more: on a link that died silently
/// it never would, and its place in the pool would be lost with it.
const RETURN: Duration = Duration::from_secs(5);

/// The connections to one server. A clone is the same.
pub(super) struct Connections<D: Database> {
    inner: Arc<Inner<D>>,
}

struct Inner<D: Database> {
    pool: Pool<D>,
    /// As many as the pool may open: whoever has one finds a connection, warm or from the pool.
    places: Arc<Semaphore>,
    /// The last one used comes first.
    warm: Mutex<Vec<Lent<D>>>,
    /// How many wait for the pool, which may get no more of the server: what becomes free goes to them.
    waiting: AtomicUsize,
    /// What is told of them.
    meter: PoolMeter,
}

struct Lent<D: Database> {
    conn: PoolConnection<D>,
    seen: Instant,
}

/// A connection of one's own until it is dropped.
pub(super) struct Held<D: Database> {
    /// There until the end.
    lent: Option<Lent<D>>,
    /// Where it comes from, and its place there; none for one that belongs to no pool of ours.
    home: Option<(Connections<D>, OwnedSemaphorePermit)>,
    /// No statement of its is under way.
    pub(super) rests: bool,
    discarded: bool,
}

impl<D: Database> Clone for Connections<D> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<D: Database> Connections<D> {
    pub(super) fn new(pool: Pool<D>, meter: PoolMeter) -> Self {
        let places = pool.options().get_max_connections() as usize;
        Self {
            inner: Arc::new(Inner {
                pool,
                places: Arc::new(Semaphore::new(places)),
                warm: Mutex::new(Vec::new()),
                waiting: AtomicUsize::new(0),
                meter,
            }),
        }
    }

    /// Waits for a connection. A server that lets nobody in just now is asked again: one that restarts is back in a moment,
    /// and where it has too many connections, one of ours will do.
    pub(super) async fn acquire(&self, by: Instant) -> Result<Held<D>, Fault> {
        let begun = Instant::now();
        let answer = self.hold(by).await;
        let size = self.inner.pool.size() as usize;
        let places = self.inner.pool.options().get_max_connections() as usize;
        let used = places.saturating_sub(self.inner.places.available_permits());
        let idle = size.saturating_sub(used);
        self.inner
            .meter
            .asked(begun.elapsed(), size.saturating_sub(idle), idle);
        answer
    }

    async fn hold(&self, by: Instant) -> Result<Held<D>, Fault> {
        let place = timeout_at(by, self.inner.places.clone().acquire_owned())
            .await
            .map_err(|_| sqlx::Error::PoolTimedOut)?
            .map_err(|_| sqlx::Error::PoolClosed)?;
        let lent = self.lend(by).await?;
        Ok(Held {
            lent: Some(lent),
            home: Some((self.clone(), place)),
            rests: true,
            discarded: false,
        })
    }

    async fn lend(&self, by: Instant) -> Result<Lent<D>, Fault> {
        if let Some(lent) = self.take_warm() {
            return Ok(lent);
        }
        let _waits = Waits::new(&self.inner.waiting);
        loop {
            let answer = timeout_at(by, self.inner.pool.acquire()).await;
            match answer
                .unwrap_or(Err(sqlx::Error::PoolTimedOut))
                .map_err(Fault::Sql)
            {
                Ok(conn) => {
                    let seen = Instant::now();
                    return Ok(Lent { conn, seen });
                }
                Err(fault) if fault.is_closed_door() && Instant::now() + DOOR_PAUSE < by => {
                    sleep(DOOR_PAUSE).await;
                }
                Err(fault) => return Err(fault),
            }
            if let Some(lent) = self.take_warm() {
                return Ok(lent);
            }
        }
    }

    /// The one last used, if the pool has seen it a moment ago.
    fn take_warm(&self) -> Option<Lent<D>> {
        let last = self.inner.warm.lock().pop()?;
        if last.is_fresh() {
            return Some(last);
        }
        last.back_to_pool(None);
        self.look_at(|lent| !lent.is_fresh());
        None
    }

    /// Keeps one for who comes next; one that is in use when all are closed, or that somebody waits for at the pool, goes there.
    fn keep_warm(&self, lent: Lent<D>, place: OwnedSemaphorePermit) {
        let mut warm = self.inner.warm.lock();
        // Asked under the lock: what is put in before all are closed is closed with them.
        if self.inner.places.is_closed() || self.inner.waiting.load(Ordering::Relaxed) > 0 {
            return lent.back_to_pool(Some(place));
        }
        warm.push(lent);
        drop(warm);
        self.look_at(|lent| !lent.is_fresh());
    }

    /// Has the pool look at some of them.
    fn look_at(&self, which: impl Fn(&Lent<D>) -> bool) {
        let mut warm = self.inner.warm.lock();
        let mut index = 0;
        while index < warm.len() {
            if which(&warm[index]) {
                warm.remove(index).back_to_pool(None);
            } else {
                index += 1;
            }
        }
    }

    pub(super) async fn close(&self) {
        self.inner.places.close();
        self.inner.warm.lock().clear();
        self.inner.pool.close().await;
    }
}

/// Somebody waits for the pool, until it is dropped.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<D: Database> Lent<D> {
    fn is_fresh(&self) -> bool {
        self.seen.elapsed() < UNSEEN
    }

    /// Back into the pool, in bounded time, and only then is its place free. The pool would do it by itself, and wait for as long
    /// as its check of the connection takes.
    fn back_to_pool(mut self, place: Option<OwnedSemaphorePermit>) {
        tokio::spawn(async move {
            let _ = timeout(RETURN, self.conn.return_to_pool()).await;
            drop(place);
        });
    }
}

impl<D: Database> Held<D> {
    /// One that belongs to no pool of ours.
    pub(super) fn own(conn: PoolConnection<D>) -> Self {
        Self {
            lent: Some(Lent {
                conn,
                seen: Instant::now(),
            }),
            home: None,
            rests: true,
            discarded: false,
        }
    }

    pub(super) fn conn(&mut self) -> &mut D::Connection {
        match &mut self.lent {
            Some(lent) => &mut lent.conn,
            None => unreachable!("a held connection is there until it is dropped"),
        }
    }

    /// Ends the connection rather than lend it again.
    pub(super) fn discard(&mut self) {
        self.discarded = true;
    }

    /// It was lost under its statement: the others may have been lost with it, and are looked at before they are used.
    pub(super) fn suspect_others(&self) {
        if let Some((home, _)) = &self.home {
            home.look_at(|_| true);
        }
    }
}

impl<D: Database> Drop for Held<D> {
    fn drop(&mut self) {
        let Some(mut lent) = self.lent.take() else {
            return;
        };
        let home = self.home.take();
        if self.discarded {
            lent.conn.close_on_drop();
            return;
        }
        match home {
            Some((home, place)) if self.rests => home.keep_warm(lent, place),
            // Of a statement whose caller went away the pool waits for the end.
            Some((_, place)) => lent.back_to_pool(Some(place)),
            None => {}
        }
    }
}
