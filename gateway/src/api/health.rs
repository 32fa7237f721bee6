//! Whether the process lives, and whether it can do its work: for balancers and orchestrators. The database and the bus
//! are asked in the background, so that a storm of probes reaches neither.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::Inner;
use super::envelope::{Data, Expected};
use super::openapi::{Success, responses};
use crate::bus::Bus;
use crate::failure::Failure;
use crate::store::SharedStore;

/// How often the parts are asked. With `PATIENCE` well within the 10 s after which a probe must tell the truth.
const INTERVAL: Duration = Duration::from_secs(2);

/// How often they are asked while one is down: a node that starts, or heals, should not wait to say so.
const INTERVAL_DOWN: Duration = Duration::from_millis(250);

/// How long a part may take to answer before it counts as down.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long a part may take to answer for the first time before that is written down: a database that is migrated first and
/// a link that is made first are nothing to worry about.
const FIRST_ANSWER: Duration = Duration::from_secs(3);

/// An answer older than this says nothing any more.
const STALE: Duration = Duration::from_secs(10);

/// What a node needs to do its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The database, with this version's schema.
    Database,
    /// The way to the other nodes.
    Bus,
}

impl Part {
    const ALL: [Self; 2] = [Self::Database, Self::Bus];

    /// The part's name in logs and answers.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Bus => "bus",
        }
    }
}

/// Whether this node is ready. Share it behind an `Arc`; it begins as not ready.
#[derive(Debug, Default)]
pub struct Readiness {
    state: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    draining: bool,
    /// Whether the node's sockets wait for what the bus missed.
    catching_up: Option<watch::Receiver<bool>>,
    /// What is known of each part of `Part::ALL`.
    parts: [Watched; 2],
}

#[derive(Debug, Default)]
struct Watched {
    /// What it answered last, and when.
    last: Option<Answer>,
    /// Since when it has not worked, and whether that was written down.
    down: Option<(Instant, bool)>,
}

#[derive(Debug, Clone, Copy)]
struct Answer {
    works: bool,
    at: Instant,
}

impl Readiness {
    /// Nothing has answered yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The node takes no more work: it is not ready from now on, whatever its parts answer.
    pub fn drain(&self) {
        self.state.lock().draining = true;
    }

    /// From now on the node is not ready while this is true: while what the bus missed is looked for, nothing newer reaches
    /// its sockets, and another node serves a client better.
    pub fn heed(&self, catching_up: watch::Receiver<bool>) {
        self.state.lock().catching_up = Some(catching_up);
    }

    /// Takes in what a part answered. A change is written down.
    pub fn report<E: Display>(&self, part: Part, answer: Result<(), E>) {
        let now = Answer {
            works: answer.is_ok(),
            at: Instant::now(),
        };
        let mut state = self.state.lock();
        let Watched { last, down } = &mut state.parts[part as usize];
        let worked = last.replace(now).is_some_and(|before| before.works);
        match answer {
            Ok(()) => {
                *down = None;
                if !worked {
                    tracing::info!(part = part.as_str(), "answers");
                }
            }
            Err(error) => {
                let (since, told) = down.get_or_insert((now.at, false));
                if !*told && (worked || now.at - *since >= FIRST_ANSWER) {
                    *told = true;
                    tracing::warn!(part = part.as_str(), %error, "does not answer");
                }
            }
        }
    }

    /// What keeps this node from being ready; empty where it is.
    pub fn obstacles(&self) -> Vec<&'static str> {
        self.obstacles_at(Instant::now())
    }

    /// Asks the parts again and again, until `stop`.
    pub async fn watch(
        self: Arc<Self>,
        store: SharedStore,
        bus: Arc<dyn Bus>,
        stop: CancellationToken,
    ) {
        loop {
            self.ask(&store, &bus).await;
            let works = self.obstacles_at(Instant::now()).is_empty();
            let pause = if works { INTERVAL } else { INTERVAL_DOWN };
            if stop.run_until_cancelled(sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Asks the parts once.
    pub async fn ask(&self, store: &SharedStore, bus: &Arc<dyn Bus>) {
        let (database, way) = tokio::join!(
            timeout(PATIENCE, ask_database(store)),
            timeout(PATIENCE, async {
                bus.check().await.map_err(|error| error.to_string())
            }),
        );
        self.report(Part::Database, database.unwrap_or_else(|_| Err(too_slow())));
        self.report(Part::Bus, way.unwrap_or_else(|_| Err(too_slow())));
    }

    fn obstacles_at(&self, now: Instant) -> Vec<&'static str> {
        let state = self.state.lock();
        let works = |part: Part| {
            state.parts[part as usize].last.is_some_and(|answer| {
                answer.works && now.saturating_duration_since(answer.at) <= STALE
            })
        };
        let down = Part::ALL
            .into_iter()
            .filter(|part| !works(*part))
            .map(Part::as_str);
        let catching_up = state.catching_up.as_ref();
        let catching_up = catching_up.is_some_and(|catching_up| *catching_up.borrow());
        state
            .draining
            .then_some("draining")
            .into_iter()
            .chain(down)
            .chain(catching_up.then_some("catching up"))
            .collect()
    }
}

async fn ask_database(store: &SharedStore) -> Result<(), String> {
    match store.check().await {
        Ok(state) => state
            .obstacle()
            .map_or(Ok(()), |obstacle| Err(obstacle.to_owned())),
        Err(error) => Err(error.to_string()),
    }
}

fn too_slow() -> String {
    "no answer in time".to_owned()
}

/// What a probe is told.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// `alive`, or `ready`.
    status: &'static str,
}

/// Whether the process lives
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "node",
    responses((status = 200, description = "It does", body = Success<Health>)),
)]
pub(super) async fn healthz() -> Data<Health> {
    Data(Health { status: "alive" })
}

struct NotReady;

impl utoipa::IntoResponses for NotReady {
    fn responses()
    -> std::collections::BTreeMap<String, utoipa::openapi::RefOr<utoipa::openapi::Response>> {
        responses(&[&[shared::ErrorCode::ServiceUnavailable]])
    }
}

/// Whether this node can do its work
///
/// Its database and its bus answer, it is not looking for what the bus missed, and it is not draining; true within 10 seconds. The message names what is missing.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "node",
    responses((status = 200, description = "It can", body = Success<Health>), NotReady),
)]
pub(super) async fn readyz(State(inner): State<Inner>) -> Response {
    let mut obstacles = inner.readiness.obstacles();
    if !inner.auth.revocations().is_loaded() {
        obstacles.push("sessions");
    }
    if obstacles.is_empty() {
        return Data(Health { status: "ready" }).into_response();
    }
    let mut failure = Failure::unavailable("a probe");
    failure.details = None;
    failure.message = format!("not ready: {}", obstacles.join(", ")).into();
    let mut response = failure.into_response();
    // A node that is starting or draining is no fault, and a part that is down was written down once.
    response.extensions_mut().insert(Expected);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Result<(), &str> = Ok(());

    #[test]
    fn a_node_is_ready_when_all_its_parts_have_answered() {
        let readiness = Readiness::default();
        assert_eq!(readiness.obstacles(), ["database", "bus"]);
        readiness.report(Part::Database, GOOD);
        assert_eq!(readiness.obstacles(), ["bus"]);
        readiness.report(Part::Bus, GOOD);
        assert!(readiness.obstacles().is_empty());
        readiness.report(Part::Database, Err("gone"));
        assert_eq!(readiness.obstacles(), ["database"]);
        readiness.report(Part::Database, GOOD);
        assert!(readiness.obstacles().is_empty());
    }

    #[test]
    fn a_node_that_catches_up_is_not_ready() {
        let readiness = Readiness::default();
        readiness.report(Part::Database, GOOD);
        readiness.report(Part::Bus, GOOD);
        let catching_up = watch::Sender::new(false);
        readiness.heed(catching_up.subscribe());
        assert!(readiness.obstacles().is_empty());
        catching_up.send_replace(true);
        assert_eq!(readiness.obstacles(), ["catching up"]);
        catching_up.send_replace(false);
        assert!(readiness.obstacles().is_empty());
    }

    #[test]
    fn an_old_answer_is_none() {
        let readiness = Readiness::default();
        readiness.report(Part::Database, GOOD);
        readiness.report(Part::Bus, GOOD);
        let later = |seconds| readiness.obstacles_at(Instant::now() + Duration::from_secs(seconds));
        assert!(later(9).is_empty());
        assert_eq!(later(11), ["database", "bus"]);
    }

    #[test]
    fn draining_is_for_good() {
        let readiness = Readiness::default();
        readiness.report(Part::Database, GOOD);
        readiness.report(Part::Bus, GOOD);
        readiness.drain();
        assert_eq!(readiness.obstacles(), ["draining"]);
    }
}
