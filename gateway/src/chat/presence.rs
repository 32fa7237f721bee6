//! Who is online: this node's share of it, and its announcements.
//!
//! Sockets come and go by the thousand, and the shared count may be away: so what a node holds (`Tracker`) is a table of
//! wishes, and one task brings the shared count after it, retrying what failed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use metrics::gauge;
use parking_lot::Mutex;
use shared::event::{OnlineUsers, PresenceChange, name};
use shared::model::OnlineUser;
use shared::{Delivery, Role, Room, Timestamp, UserId};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::{Chat, raw, signs};
use crate::bus::Bus;
use crate::cluster::Presence;
use crate::failure::Failure;
use crate::store::{SharedStore, Viewer};
use crate::telemetry::metrics as names;

/// How often the node's lease is renewed: a few times within `cluster::NODE_LEASE`.
const RENEW_INTERVAL: Duration = Duration::from_secs(5);

/// How often those whose grace has ended are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How long a socket that comes in waits to be counted. Presence must not keep anybody out.
const ARRIVAL_TIMEOUT: Duration = Duration::from_millis(500);

/// How long what failed waits for its next try.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// How many people's changes are told to the shared count at a time.
const CONCURRENCY: usize = 32;

impl Chat {
    /// A socket of somebody has come to this node. Returns when others can see them online, or a moment later.
    pub async fn arrive(&self, who: Viewer) {
        self.tracker.arrive(who.user, who.role).await;
    }

    /// A socket of somebody has left this node.
    pub fn depart(&self, who: Viewer) {
        self.tracker.depart(who.user);
    }

    /// Who is online, as far as the viewer may see: an admin everybody, a client its agents.
    pub async fn online(&self, viewer: Viewer) -> Result<OnlineUsers, Failure> {
        let online = match viewer.role {
            Role::Admin => self.presence.online().await?,
            Role::User => {
                self.presence
                    .online_among(&self.store.counterparts(viewer).await?)
                    .await?
            }
        };
        let ids: Vec<_> = online.iter().map(|(id, _)| *id).collect();
        let mut users: Vec<_> = self
            .store
            .users(viewer.user, &ids)
            .await?
            .into_iter()
            .map(|user| OnlineUser {
                id: user.id,
                role: user.role,
                first_name: user.first_name,
                last_name: user.last_name,
            })
            .collect();
        users.sort_by_key(|user| user.id);
        Ok(OnlineUsers { users })
    }
}

/// Counts this node's sockets by person.
pub(super) struct Tracker {
    shared: Arc<Table>,
}

/// Held by the tracker and its tasks.
struct Table {
    people: Mutex<People>,
    /// Wakes the task when `changed` has somebody.
    wake: Notify,
    store: SharedStore,
    bus: Arc<dyn Bus>,
    presence: Arc<dyn Presence>,
}

#[derive(Default)]
struct People {
    here: HashMap<UserId, Person>,
    /// Who is not as the shared count has them.
    changed: HashSet<UserId>,
}

struct Person {
    role: Role,
    /// Sockets on this node.
    sockets: usize,
    /// Whether the shared count knows this node has them.
    counted: bool,
    /// Wakes those who wait to be counted.
    settled: Arc<Notify>,
}

impl Tracker {
    pub(super) fn start(
        store: &SharedStore,
        bus: &Arc<dyn Bus>,
        presence: &Arc<dyn Presence>,
        stop: CancellationToken,
    ) -> (Self, Vec<JoinHandle<()>>) {
        let table = Arc::new(Table {
            people: Mutex::default(),
            wake: Notify::new(),
            store: store.clone(),
            bus: bus.clone(),
            presence: presence.clone(),
        });
        let follow = tokio::spawn(table.clone().follow(stop.clone()));
        let tend = tokio::spawn(table.clone().tend(stop));
        (Self { shared: table }, vec![follow, tend])
    }

    async fn arrive(&self, user: UserId, role: Role) {
        let settled = {
            let mut people = self.shared.people.lock();
            let person = people.here.entry(user).or_insert_with(|| Person {
                role,
                sockets: 0,
                counted: false,
                settled: Arc::new(Notify::new()),
            });
            person.sockets += 1;
            if person.counted && person.sockets > 1 {
                return;
            }
            let settled = person.settled.clone();
            people.changed.insert(user);
            settled
        };
        // Registered before the task is woken, so that its answer can't be missed.
        let settled = settled.notified();
        tokio::pin!(settled);
        settled.as_mut().enable();
        self.shared.wake.notify_one();
        let _ = timeout(ARRIVAL_TIMEOUT, settled).await;
    }

    fn depart(&self, user: UserId) {
        let mut people = self.shared.people.lock();
        let Some(person) = people.here.get_mut(&user) else {
            return;
        };
        person.sockets = person.sockets.saturating_sub(1);
        if person.sockets == 0 {
            people.changed.insert(user);
            self.shared.wake.notify_one();
        }
    }
}

impl Table {
    /// Brings the shared count after this node's, until `stop`; then takes everybody out who has left.
    async fn follow(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let going = tokio::select! {
                () = self.wake.notified() => false,
                () = stop.cancelled() => true,
            };
            let changed: Vec<_> = self.people.lock().changed.drain().collect();
            // All of them, whatever becomes of one: whoever is left out here is not looked at again.
            let failed = stream::iter(changed)
                .map(|user| self.settle(user))
                .buffer_unordered(CONCURRENCY)
                .fold(false, |failed, settled| async move { failed | !settled })
                .await;
            if going {
                return;
            }
            if failed {
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
    }

    /// Tells the shared count about one person; false where that has to be tried again.
    async fn settle(&self, user: UserId) -> bool {
        let Some((role, wanted, counted)) = self
            .people
            .lock()
            .here
            .get(&user)
            .map(|person| (person.role, person.sockets > 0, person.counted))
        else {
            return true;
        };
        let told = match (wanted, counted) {
            (true, false) => match self.presence.arrive(user, role).await {
                Ok(true) => {
                    self.announce(name::USER_ONLINE, user, role).await;
                    Ok(())
                }
                Ok(false) => Ok(()),
                Err(error) => Err(error),
            },
            (false, true) => self.presence.depart(user).await,
            (true, true) | (false, false) => Ok(()),
        };
        let mut people = self.people.lock();
        let Some(person) = people.here.get_mut(&user) else {
            return true;
        };
        if let Err(error) = told {
            tracing::debug!(%error, %user, "presence could not be told");
            people.changed.insert(user);
            self.wake.notify_one();
            return false;
        }
        person.counted = wanted;
        person.settled.notify_waiters();
        let now_wanted = person.sockets > 0;
        if now_wanted != wanted {
            // It changed while the count was told.
            people.changed.insert(user);
            self.wake.notify_one();
        } else if !now_wanted {
            people.here.remove(&user);
        }
        true
    }

    /// Renews the lease, and announces those who have gone offline anywhere.
    async fn tend(self: Arc<Self>, stop: CancellationToken) {
        let mut renew = interval(RENEW_INTERVAL);
        let mut sweep = interval(SWEEP_INTERVAL);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let told = tokio::select! {
                () = stop.cancelled() => return,
                _ = renew.tick() => {
                    let here = self.counted();
                    self.presence.renew(&here).await
                }
                _ = sweep.tick() => {
                    self.measure();
                    match self.presence.sweep().await {
                    Ok(gone) => {
                        for (user, role) in gone {
                            self.announce(name::USER_OFFLINE, user, role).await;
                        }
                        Ok(())
                    }
                    Err(error) => Err(error),
                    }
                }
            };
            if let Err(error) = told {
                tracing::debug!(%error, "presence could not be tended");
            }
        }
    }

    fn measure(&self) {
        let mut present = [(Role::User, 0_u32), (Role::Admin, 0)];
        for person in self.people.lock().here.values() {
            for (role, count) in &mut present {
                *count += u32::from(person.role == *role && person.sockets > 0);
            }
        }
        for (role, count) in present {
            gauge!(names::PRESENT, "role" => role.as_str()).set(count);
        }
    }

    fn counted(&self) -> Vec<(UserId, Role)> {
        let people = self.people.lock();
        people
            .here
            .iter()
            .filter(|(_, person)| person.counted)
            .map(|(user, person)| (*user, person.role))
            .collect()
    }

    /// Tells those who may see it. A passing sign: what gets lost is mended by the next `onlineUsers`.
    async fn announce(&self, event: &'static str, user: UserId, role: Role) {
        if let Err(failure) = self.try_announce(event, user, role).await {
            tracing::debug!(code = %failure.code, %user, event, "presence could not be announced");
        }
    }

    async fn try_announce(
        &self,
        event: &'static str,
        user_id: UserId,
        role: Role,
    ) -> Result<(), Failure> {
        let mut rooms = vec![Room::Role(Role::Admin)];
        if role == Role::Admin {
            let clients = self
                .store
                .counterparts(Viewer {
                    user: user_id,
                    role,
                })
                .await?;
            rooms.extend(clients.into_iter().map(Room::User));
        }
        let at = Timestamp::now();
        let sign = Delivery {
            event: event.to_owned(),
            rooms,
            data: raw(&PresenceChange { user_id, role, at })?,
            origin: None,
            // Nobody needs to be told of themselves.
            except_user: Some(user_id),
            lapse: None,
        };
        signs::publish(&*self.bus, sign).await
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::bus::BusError;
    use crate::bus::local::LocalBus;
    use crate::store;

    /// Fails a few times before it counts anybody.
    #[derive(Default)]
    struct Shaky {
        failures: Mutex<usize>,
        online: Mutex<HashMap<UserId, Role>>,
    }

    impl Shaky {
        fn stumble(&self) -> Result<(), BusError> {
            let mut failures = self.failures.lock();
            if *failures > 0 {
                *failures -= 1;
                return Err(BusError("away".into()));
            }
            Ok(())
        }
    }

    #[async_trait]
    impl Presence for Shaky {
        async fn arrive(&self, user: UserId, role: Role) -> Result<bool, BusError> {
            self.stumble()?;
            Ok(self.online.lock().insert(user, role).is_none())
        }
        async fn depart(&self, user: UserId) -> Result<(), BusError> {
            self.stumble()?;
            self.online.lock().remove(&user);
            Ok(())
        }
        async fn renew(&self, _: &[(UserId, Role)]) -> Result<(), BusError> {
            Ok(())
        }
        async fn sweep(&self) -> Result<Vec<(UserId, Role)>, BusError> {
            Ok(Vec::new())
        }
        async fn online(&self) -> Result<Vec<(UserId, Role)>, BusError> {
            Ok(self
                .online
                .lock()
                .iter()
                .map(|(user, role)| (*user, *role))
                .collect())
        }
        async fn online_among(&self, _: &[UserId]) -> Result<Vec<(UserId, Role)>, BusError> {
            self.online().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn everybody_is_told_of_however_often_it_failed() {
        // Clients are announced without a look into the store: it is never opened.
        let store = store::open(&store::Settings::new("sqlite://unused.db")).unwrap();
        let shaky = Arc::new(Shaky::default());
        let bus: Arc<dyn Bus> = Arc::new(LocalBus::default());
        let presence: Arc<dyn Presence> = shaky.clone();
        let (tracker, _) = Tracker::start(&store, &bus, &presence, CancellationToken::new());
        let people = || (1..=200).map(UserId::new);
        let tracker = &tracker;

        *shaky.failures.lock() = 50;
        stream::iter(people())
            .for_each_concurrent(None, |user| tracker.arrive(user, Role::User))
            .await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(shaky.online.lock().len(), 200);

        *shaky.failures.lock() = 50;
        people().for_each(|user| tracker.depart(user));
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(shaky.online.lock().is_empty());
        assert!(tracker.shared.people.lock().here.is_empty());
    }
}
