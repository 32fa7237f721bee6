//! Which access tokens are no longer good, in memory. The database is the truth and is asked every few seconds; a notice on
//! the bus only makes it quicker. Who closes sockets listens here; how a revocation comes about is `sessions`'.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use shared::envelope::{Revocation, RevocationScope};
use shared::{Timestamp, UserId};
use tokio::sync::broadcast;

use super::access_token::{ACCESS_TOKEN_LIFE, Identity};
use crate::store::{Sessions, StoreError};

/// How often the database is asked: how long a token may outlive its revocation on a node that missed the notice.
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// How far clocks of nodes may differ, and how long a transaction may take to commit after its moment was noted: each poll
/// looks back that much further than the one before it began.
const OVERLAP: Duration = Duration::from_secs(60);

/// Revocations that a listener may fall behind before it has to look at all its sockets.
const BACKLOG: usize = 1024;

/// The revocations that still matter.
pub struct Revocations {
    /// Guards the set itself; held for a look-up or an insertion.
    known: RwLock<Known>,
    /// Tells listeners on this node of every revocation, once.
    fresh: broadcast::Sender<Revocation>,
    /// When the last successful poll began; `None` before the first.
    polled: Mutex<Option<Timestamp>>,
    /// Whether the database was ever read: before, nobody knows which tokens are good.
    loaded: AtomicBool,
}

#[derive(Default)]
struct Known {
    /// By `sid`, or by the token's hash: until when it matters.
    handles: HashMap<String, Timestamp>,
    /// By user: everything up to a moment, but what bears a handle.
    users: HashMap<UserId, Vec<Sweep>>,
}

struct Sweep {
    keep: Option<String>,
    /// Milliseconds since 1970.
    at: i64,
    forget_at: Timestamp,
}

impl Default for Revocations {
    fn default() -> Self {
        Self {
            known: RwLock::default(),
            fresh: broadcast::Sender::new(BACKLOG),
            polled: Mutex::new(None),
            loaded: AtomicBool::new(false),
        }
    }
}

impl Revocations {
    /// Whether the database has been read since this node started.
    pub fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
    }

    /// Whether a token is no longer good, though it is genuine and has not expired.
    pub fn is_revoked(&self, identity: &Identity) -> bool {
        let known = self.known.read();
        known.handles.contains_key(identity.handle())
            || known.users.get(&identity.user).is_some_and(|sweeps| {
                let since = identity.signed_in_at().unix_millis();
                sweeps.iter().any(|sweep| {
                    since <= sweep.at && sweep.keep.as_deref() != Some(identity.handle())
                })
            })
    }

    /// Takes a revocation in, wherever it was heard of, and tells the listeners if it is news. True if it is.
    pub fn insert(&self, revocation: &Revocation) -> bool {
        self.insert_at(revocation, Timestamp::now())
    }

    /// Every revocation from now on, each once. A listener that has fallen behind (`RecvError::Lagged`) has to ask
    /// `is_revoked` for each of its sockets.
    pub fn listen(&self) -> broadcast::Receiver<Revocation> {
        self.fresh.subscribe()
    }

    /// Takes in what the database has that is not known yet, and drops what has become pointless.
    pub async fn poll(&self, store: &dyn Sessions) -> Result<(), StoreError> {
        let now = Timestamp::now();
        let look_back = (*self.polled.lock()).map_or_else(
            || Timestamp(now.0 - ACCESS_TOKEN_LIFE - OVERLAP),
            |last| Timestamp(last.0 - OVERLAP),
        );
        for revocation in store.revocations_since(look_back).await? {
            self.insert_at(&revocation, now);
        }
        *self.polled.lock() = Some(now);
        self.loaded.store(true, Ordering::Release);
        self.forget(now);
        Ok(())
    }

    fn insert_at(&self, revocation: &Revocation, now: Timestamp) -> bool {
        // Beyond any calendar is as good as for ever, which is no revocation of ours.
        let Some(forget_at) = forget_at(revocation) else {
            return false;
        };
        let is_news = now < forget_at && self.known.write().add(revocation, forget_at);
        if is_news {
            // Fails only where nobody listens.
            let _ = self.fresh.send(revocation.clone());
        }
        is_news
    }

    fn forget(&self, now: Timestamp) {
        let mut known = self.known.write();
        known.handles.retain(|_, forget_at| now < *forget_at);
        known.users.retain(|_, sweeps| {
            sweeps.retain(|sweep| now < sweep.forget_at);
            !sweeps.is_empty()
        });
    }
}

impl Known {
    fn add(&mut self, revocation: &Revocation, forget_at: Timestamp) -> bool {
        match &revocation.scope {
            RevocationScope::Session(handle) | RevocationScope::Token(handle) => {
                self.handles.insert(handle.clone(), forget_at).is_none()
            }
            RevocationScope::AllBut(keep) => {
                let sweeps = self.users.entry(revocation.user).or_default();
                match sweeps.iter_mut().find(|sweep| sweep.keep == *keep) {
                    // A later one with the same exception means all that the earlier did.
                    Some(sweep) if revocation.at <= sweep.at => return false,
                    Some(sweep) => {
                        sweep.at = revocation.at;
                        sweep.forget_at = forget_at;
                    }
                    None => sweeps.push(Sweep {
                        keep: keep.clone(),
                        at: revocation.at,
                        forget_at,
                    }),
                }
                true
            }
        }
    }
}

/// When the youngest token that a revocation can mean has expired, on every clock.
fn forget_at(revocation: &Revocation) -> Option<Timestamp> {
    let at = chrono::DateTime::from_timestamp_millis(revocation.at)?;
    let life = chrono::TimeDelta::from_std(ACCESS_TOKEN_LIFE + OVERLAP).ok()?;
    at.checked_add_signed(life).map(Timestamp)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use async_trait::async_trait;
    use shared::Role;

    use super::super::access_token::new_session_id;
    use super::*;
    use crate::store::{NewSession, RefreshRotation, RotationOutcome};

    fn identity(session: Option<&str>, issued_at: Timestamp) -> Identity {
        Identity {
            user: UserId::new(7),
            email: "ann@example.com".into(),
            role: Role::User,
            session: session.map(str::to_owned),
            issued_at,
            expires_at: Timestamp(issued_at.0 + ACCESS_TOKEN_LIFE),
            token_hash: "ab".repeat(32),
        }
    }

    fn revocation(scope: RevocationScope, at: Timestamp) -> Revocation {
        Revocation {
            user: UserId::new(7),
            scope,
            at: at.unix_millis(),
        }
    }

    fn later(at: Timestamp, millis: i64) -> Timestamp {
        Timestamp(at.0 + chrono::TimeDelta::milliseconds(millis))
    }

    #[test]
    fn a_session_takes_its_tokens_with_it() {
        let revocations = Revocations::default();
        let now = Timestamp::now();
        assert!(revocations.insert(&revocation(RevocationScope::Session("s1".into()), now)));
        assert!(revocations.is_revoked(&identity(Some("s1"), now)));
        assert!(!revocations.is_revoked(&identity(Some("s2"), now)));
        assert!(!revocations.is_revoked(&identity(None, now)));
    }

    #[test]
    fn a_token_without_a_session_goes_alone() {
        let revocations = Revocations::default();
        let now = Timestamp::now();
        revocations.insert(&revocation(RevocationScope::Token("ab".repeat(32)), now));
        assert!(revocations.is_revoked(&identity(None, now)));
        assert!(!revocations.is_revoked(&identity(Some("s1"), now)));
    }

    #[test]
    fn a_new_password_ends_all_but_the_one_who_changed_it() {
        let revocations = Revocations::default();
        let now = Timestamp::now();
        let kept = RevocationScope::AllBut(Some("s1".into()));
        revocations.insert(&revocation(kept, now));
        assert!(!revocations.is_revoked(&identity(Some("s1"), now)));
        assert!(revocations.is_revoked(&identity(Some("s2"), now)));
        assert!(revocations.is_revoked(&identity(None, now)));
        assert!(!revocations.is_revoked(&identity(Some("s2"), later(now, 1000))));

        let mut other = identity(Some("s2"), now);
        other.user = UserId::new(8);
        assert!(!revocations.is_revoked(&other));
    }

    #[test]
    fn a_token_without_a_session_can_be_the_one_that_stays() {
        let revocations = Revocations::default();
        let now = Timestamp::now();
        let kept = RevocationScope::AllBut(Some("ab".repeat(32)));
        revocations.insert(&revocation(kept, now));
        assert!(!revocations.is_revoked(&identity(None, now)));
        revocations.insert(&revocation(RevocationScope::AllBut(None), now));
        assert!(revocations.is_revoked(&identity(None, now)));
    }

    #[test]
    fn who_signs_in_right_after_a_change_stays() {
        let revocations = Revocations::default();
        // The token's `iat` is cut to the second, and so lies before the change.
        let change = later(Timestamp::now(), -2);
        revocations.insert(&revocation(RevocationScope::AllBut(None), change));
        let issued = Timestamp::from_unix_seconds(change.0.timestamp()).unwrap();
        assert!(!revocations.is_revoked(&identity(Some(&new_session_id()), issued)));
    }

    #[test]
    fn listeners_hear_each_once() {
        let revocations = Revocations::default();
        let mut listener = revocations.listen();
        let now = Timestamp::now();
        let first = revocation(RevocationScope::AllBut(None), now);
        assert!(revocations.insert(&first));
        assert!(!revocations.insert(&first));
        let second = revocation(RevocationScope::AllBut(None), later(now, 1));
        assert!(revocations.insert(&second));
        assert_eq!(listener.try_recv().unwrap(), first);
        assert_eq!(listener.try_recv().unwrap(), second);
        assert!(listener.try_recv().is_err());
    }

    #[test]
    fn what_can_mean_no_living_token_is_forgotten() {
        let revocations = Revocations::default();
        let now = Timestamp::now();
        for scope in [
            RevocationScope::Session("s1".into()),
            RevocationScope::AllBut(None),
        ] {
            revocations.insert_at(&revocation(scope, now), now);
        }
        let end = Timestamp(now.0 + ACCESS_TOKEN_LIFE + OVERLAP);
        revocations.forget(later(end, -1));
        assert!(revocations.is_revoked(&identity(Some("s1"), now)));
        revocations.forget(end);
        assert!(revocations.known.read().handles.is_empty());
        assert!(revocations.known.read().users.is_empty());
        let old = revocation(RevocationScope::Session("s1".into()), now);
        assert!(!revocations.insert_at(&old, end));
        let never = Revocation {
            at: i64::MAX,
            ..old
        };
        assert!(!revocations.insert_at(&never, now));
    }

    /// Answers `revocations_since` from a script, and notes what was asked.
    #[derive(Default)]
    struct Script {
        answers: Mutex<VecDeque<Result<Vec<Revocation>, StoreError>>>,
        asked: Mutex<Vec<Timestamp>>,
    }

    #[async_trait]
    impl Sessions for Script {
        async fn begin_session(&self, _: &NewSession) -> Result<(), StoreError> {
            unreachable!()
        }
        async fn rotate_refresh(&self, _: &RefreshRotation) -> Result<RotationOutcome, StoreError> {
            unreachable!()
        }
        async fn end_session(&self, _: &str, _: UserId, _: Timestamp) -> Result<(), StoreError> {
            unreachable!()
        }
        async fn change_password(
            &self,
            _: UserId,
            _: &str,
            _: Option<&str>,
            _: Timestamp,
        ) -> Result<(), StoreError> {
            unreachable!()
        }
        async fn revoke(&self, _: &Revocation) -> Result<(), StoreError> {
            unreachable!()
        }
        async fn revocations_since(&self, since: Timestamp) -> Result<Vec<Revocation>, StoreError> {
            self.asked.lock().push(since);
            self.answers.lock().pop_front().unwrap()
        }
        async fn prune_sessions(&self, _: Timestamp) -> Result<u64, StoreError> {
            unreachable!()
        }
    }

    #[tokio::test]
    async fn the_database_is_asked_for_all_then_for_the_news_with_an_overlap() {
        let revocations = Revocations::default();
        let mut listener = revocations.listen();
        let start = Timestamp::now();
        let ended = revocation(RevocationScope::Session("s1".into()), start);
        let script = Script::default();
        script.answers.lock().extend([
            Err(StoreError::Unavailable("not up yet".into())),
            Ok(vec![ended.clone()]),
            Ok(vec![ended.clone()]),
        ]);

        assert!(revocations.poll(&script).await.is_err());
        assert!(!revocations.is_loaded());
        revocations.poll(&script).await.unwrap();
        assert!(revocations.is_loaded());
        assert!(revocations.is_revoked(&identity(Some("s1"), start)));
        revocations.poll(&script).await.unwrap();
        assert_eq!(listener.try_recv().unwrap(), ended);
        assert!(listener.try_recv().is_err());

        let asked = script.asked.lock().clone();
        for everything in &asked[..2] {
            assert!(start.0 - everything.0 >= chrono::TimeDelta::seconds(3600));
        }
        let overlap = start.0 - asked[2].0;
        assert!(
            overlap > chrono::TimeDelta::seconds(50) && overlap <= chrono::TimeDelta::seconds(60)
        );
    }
}
