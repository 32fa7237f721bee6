//! Reading from a replica what may lag: whether it has come far enough, and for whom.
//!
//! - **How far it is** says a clock in the database (`ReplicaClock`), which the nodes set forward: what was committed before a time
//!   that the replica knows, it knows, too. It is read on the same connection as the answer, so several replicas may stand behind
//!   one address. One that is further behind than the limit is not read.
//! - **Whoever wrote reads it**, on whatever node: before a write its user is noted (`UserWrites`), with a time by which all that
//!   the note covers is committed. A replica whose clock has not passed that time is not for this reader. A note covers what is
//!   written for a while, so that whoever writes on costs one small statement now and then; without a replica nothing is noted.
//! - **Pages of messages** need neither: the reader knows which change is the conversation's last, from looking whether it may be
//!   read, and the replica says whether it has that one.
//!
//! Whatever fails here is answered by the database itself.

use std::collections::{BTreeSet, HashMap};
use std::sync::Weak;
use std::time::Duration;

use metrics::{counter, gauge};
use parking_lot::Mutex;
use shared::{ClientId, ConversationId, EventSeq, UserId};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::SqlStore;
use super::accounts::{own_clients, own_clients_query};
use super::conn::Conn;
use super::db::Db;
use super::fault::Fault;
use super::query::{Query, Row};
use crate::store::Settings;
use crate::telemetry::metrics as names;

/// How often the clock is set forward, at the most.
const BEAT: Duration = Duration::from_secs(1);

/// Beyond what a write may take by all its limits: for what no limit counts.
const SPARE: Duration = Duration::from_secs(1);

/// How long the replica may take to give a connection. Whoever waits in vain still has to ask the database.
const PATIENCE: Duration = Duration::from_millis(500);

/// For so long a replica that failed is not asked again.
const REST: Duration = Duration::from_secs(1);

/// Notes that are kept in mind before those that have ended are cleared away.
const NOTES: usize = 10_000;

/// Users in one statement.
const USERS: usize = 128;

/// What became of a read that might have gone to the replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Replica,
    OwnWrite,
    Behind,
    Down,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Replica, Self::OwnWrite, Self::Behind, Self::Down];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Replica => "replica",
            Self::OwnWrite => "own_write",
            Self::Behind => "behind",
            Self::Down => "down",
        }
    }

    fn count(self) {
        counter!(names::REPLICA_READS, "result" => self.as_str()).increment(1);
    }
}

/// A copy of the database that may lag.
pub(super) struct Replica {
    pub(super) db: Db,
    /// How far behind it may be and still be read; zero: it is not read.
    limit: Duration,
    /// How long before the end of a note a write may still begin that it covers: as long as a write takes.
    lead: Duration,
    /// When each note of this node's was made. What another node noted is in the database.
    noted: Mutex<HashMap<UserId, Instant>>,
    /// Until when it is not asked.
    resting_until: Mutex<Option<Instant>>,
    /// How far behind it was, and when; when the node began, before it has said so.
    seen: Mutex<(Duration, Instant)>,
    /// Ends the clock.
    pub(super) stop: CancellationToken,
}

/// What the database says of a reader: its time (milliseconds since 1970), when it was asked at the latest, and by when all that
/// the reader has written is committed.
struct Note {
    now: i64,
    asked: Instant,
    until: Option<i64>,
}

/// Which of the two did not answer.
enum Trouble {
    Database,
    Replica,
}

/// Where a reader reads.
pub(super) enum Source<'a> {
    Primary(&'a SqlStore),
    Replica(&'a Replica, Conn),
}

impl Source<'_> {
    pub(super) async fn all(&mut self, query: Query) -> Result<Vec<Row>, Fault> {
        match self {
            Self::Primary(store) => store.db.all(query).await,
            Self::Replica(replica, conn) => replica.heed(conn.all(query).await),
        }
    }

    pub(super) async fn first(&mut self, query: Query) -> Result<Option<Row>, Fault> {
        Ok(self.all(query).await?.into_iter().next())
    }

    /// The clients of an account. A replica can't note whose they are where that was found by the address.
    pub(super) async fn clients_of(&mut self, user: UserId) -> Result<Vec<ClientId>, Fault> {
        match self {
            Self::Primary(store) => store.clients_of(user).await,
            Self::Replica(..) => {
                let clients = own_clients(&self.all(own_clients_query(user)).await?)?;
                Ok(clients.into_iter().map(|client| client.id).collect())
            }
        }
    }
}

impl Replica {
    pub(super) fn new(db: Db, settings: &Settings) -> Self {
        for outcome in Outcome::ALL {
            counter!(names::REPLICA_READS, "result" => outcome.as_str()).increment(0);
        }
        Self {
            lead: db.acquire_timeout + db.timeout + SPARE,
            db,
            limit: settings.replica_lag,
            noted: Mutex::default(),
            resting_until: Mutex::default(),
            seen: Mutex::new((Duration::ZERO, Instant::now())),
            stop: CancellationToken::new(),
        }
    }

    /// How long a note holds: as long again as the last write that it covers may take.
    fn life(&self) -> Duration {
        self.lead * 2
    }

    fn was_noted_within(&self, user: UserId, time: Duration) -> bool {
        let noted = self.noted.lock();
        noted.get(&user).is_some_and(|at| at.elapsed() < time)
    }

    fn remember(&self, users: &[UserId], at: Instant) {
        let mut noted = self.noted.lock();
        if noted.len() + users.len() > NOTES {
            let life = self.life();
            noted.retain(|_, at| at.elapsed() < life);
        }
        noted.extend(users.iter().map(|user| (*user, at)));
    }

    fn is_resting(&self) -> bool {
        self.resting_until
            .lock()
            .is_some_and(|end| Instant::now() < end)
    }

    /// A replica that failed is left alone for a moment.
    fn heed<T>(&self, answer: Result<T, Fault>) -> Result<T, Fault> {
        if answer.is_err() {
            *self.resting_until.lock() = Some(Instant::now() + REST);
        }
        answer
    }

    async fn connection(&self) -> Result<Conn, Fault> {
        let by = Instant::now() + PATIENCE.min(self.db.acquire_timeout);
        let mut conn = self.heed(self.db.reader(by, None).await)?;
        // A server that is there and says nothing is found out as soon.
        conn.by = Some(by);
        Ok(conn)
    }

    /// A connection, where it has come far enough for a reader with such a note.
    async fn fit(&self, note: Note) -> Result<(Outcome, Option<Conn>), Fault> {
        if note.until.is_some_and(|until| until > note.now) {
            return Ok((Outcome::OwnWrite, None));
        }
        let mut conn = self.connection().await?;
        let at = self.heed(read_clock(&mut conn).await)?;
        let lag = between(at, note.now) + note.asked.elapsed();
        conn.by = None;
        Ok(if lag > self.limit {
            (Outcome::Behind, None)
        } else if note.until.is_some_and(|until| until >= at) {
            (Outcome::OwnWrite, None)
        } else {
            (Outcome::Replica, Some(conn))
        })
    }

    /// How often the clock is set forward: a limit must be many times that.
    fn beat(&self) -> Duration {
        match self.limit {
            Duration::ZERO => BEAT,
            limit => (limit / 4).min(BEAT),
        }
    }
}

impl SqlStore {
    /// Notes that users are about to write, so that they will read it. To be called before the write begins.
    pub(super) async fn note_writers(
        &self,
        users: impl IntoIterator<Item = UserId> + Send,
    ) -> Result<(), Fault> {
        let Some(replica) = &self.replica else {
            return Ok(());
        };
        // In order: two nodes that note the same users must not wait for each other.
        let users: BTreeSet<UserId> = users
            .into_iter()
            .filter(|user| !replica.was_noted_within(*user, replica.life() - replica.lead))
            .collect();
        let users: Vec<UserId> = users.into_iter().collect();
        for chunk in users.chunks(USERS) {
            let at = Instant::now();
            let mut query = Query::new("INSERT INTO UserWrites (userId, writesUntil) VALUES ");
            query.push_rows(
                chunk.len(),
                &format!("(?, {} + ?)", self.dialect().now_ms()),
            );
            for user in chunk {
                query.push_value(*user);
                query.push_value(millis(replica.life()));
            }
            query.push(
                " ON DUPLICATE KEY UPDATE writesUntil = GREATEST(writesUntil, VALUES(writesUntil))",
            );
            self.db.run_of_all(query).await?;
            replica.remember(chunk, at);
        }
        Ok(())
    }

    /// The replica, where it may be read for this reader just now; else the database is to be read.
    pub(super) async fn replica_for(&self, reader: UserId) -> Option<Source<'_>> {
        let replica = self.replica.as_ref()?;
        if replica.limit.is_zero() {
            return None;
        }
        let found = async {
            if replica.was_noted_within(reader, replica.life()) {
                return Ok((Outcome::OwnWrite, None));
            }
            if replica.is_resting() {
                return Ok((Outcome::Down, None));
            }
            // Asked after the note was looked for: so what the replica has is not older than what that needs.
            let note = self.note_of(reader).await;
            let note = note.map_err(|_| Trouble::Database)?;
            let found = replica.fit(note).await;
            found.map_err(|_| Trouble::Replica)
        };
        let (outcome, conn) = match found.await {
            Ok(found) => found,
            Err(Trouble::Replica) => (Outcome::Down, None),
            // It will say so itself, to whom it is asked for.
            Err(Trouble::Database) => return None,
        };
        outcome.count();
        Some(Source::Replica(replica, conn?))
    }

    /// Until when a reader's own writes may come, as far as is noted.
    async fn note_of(&self, reader: UserId) -> Result<Note, Fault> {
        let asked = Instant::now();
        let query = Query::new(format!(
            "SELECT {}, (SELECT writesUntil FROM UserWrites WHERE userId = ?)",
            self.dialect().now_ms()
        ));
        let row = self.db.first(query.bind(reader)).await?;
        let row = row.ok_or(sqlx::Error::RowNotFound)?;
        let mut cells = row.cells();
        Ok(Note {
            now: cells.int()?,
            asked,
            until: cells.opt_int()?,
        })
    }

    /// The replica, where it has a conversation's change.
    pub(super) async fn replica_with(
        &self,
        conversation: ConversationId,
        change: EventSeq,
    ) -> Option<Source<'_>> {
        let replica = self.replica.as_ref()?;
        if replica.limit.is_zero() {
            return None;
        }
        let found = async {
            if replica.is_resting() {
                return Ok((Outcome::Down, None));
            }
            let query = Query::new("SELECT lastEventSeq FROM Conversations WHERE id = ?");
            let mut conn = replica.connection().await?;
            let row = replica.heed(conn.first(query.bind(conversation)).await)?;
            conn.by = None;
            let has = row.map_or(Ok(0), |row| row.int())?;
            Ok::<_, Fault>(if has >= change.get() {
                (Outcome::Replica, Some(conn))
            } else {
                (Outcome::Behind, None)
            })
        };
        let (outcome, conn) = found.await.unwrap_or((Outcome::Down, None));
        outcome.count();
        Some(Source::Replica(replica, conn?))
    }

    /// Sets the clock forward, and looks how far the replica is behind it.
    async fn tick(&self, replica: &Replica) -> Result<Duration, Fault> {
        let now = self.dialect().now_ms();
        // Of many nodes one sets it.
        let set = Query::new(format!(
            "UPDATE ReplicaClock SET at = {now} WHERE id = 1 AND at <= {now} - ?"
        ));
        let set = set.bind(millis(replica.beat() / 2));
        self.db.run_of_all(set).await?;
        let asked = Instant::now();
        let now = Query::new(format!("SELECT {now}"));
        let now = self
            .db
            .first_of_all(now)
            .await?
            .ok_or(sqlx::Error::RowNotFound)?
            .int()?;
        let mut conn = replica.connection().await?;
        let at = read_clock(&mut conn).await?;
        Ok(between(at, now) + asked.elapsed())
    }

    /// As `tick`, and tells of it.
    async fn tick_and_tell(&self, replica: &Replica, was_read: &mut Option<bool>) {
        let lag = match self.tick(replica).await {
            Ok(lag) => {
                *replica.seen.lock() = (lag, Instant::now());
                lag
            }
            // It has come no further, for all that is known.
            Err(_) => {
                let (lag, at) = *replica.seen.lock();
                lag + at.elapsed()
            }
        };
        gauge!(names::REPLICA_LAG).set(lag.as_secs_f64());
        let is_read = !replica.limit.is_zero() && lag <= replica.limit && !replica.is_resting();
        if was_read.replace(is_read) != Some(is_read) && !replica.limit.is_zero() {
            if is_read {
                tracing::info!("the replica is read");
            } else {
                tracing::warn!(
                    seconds = lag.as_secs(),
                    "the replica is not there or too far behind: everything is read from the database itself"
                );
            }
        }
    }
}

/// Keeps the clock for as long as the store is there.
pub(super) async fn keep_clock(store: Weak<SqlStore>, stop: CancellationToken) {
    let mut was_read = None;
    loop {
        let Some(store) = store.upgrade() else { return };
        let Some(replica) = &store.replica else {
            return;
        };
        let pause = replica.beat();
        let told = store.tick_and_tell(replica, &mut was_read);
        if stop.run_until_cancelled(told).await.is_none() {
            return;
        }
        drop(store);
        if stop
            .run_until_cancelled(tokio::time::sleep(pause))
            .await
            .is_none()
        {
            return;
        }
    }
}

async fn read_clock(conn: &mut Conn) -> Result<i64, Fault> {
    let query = Query::new("SELECT at FROM ReplicaClock WHERE id = 1");
    // None is one that has never been set: it has come nowhere yet.
    conn.first(query).await?.map_or(Ok(0), |row| row.int())
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 4)
}

fn between(at: i64, now: i64) -> Duration {
    Duration::from_millis(u64::try_from(now - at).unwrap_or(0))
}
