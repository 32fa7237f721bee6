//! Signing in against a real store: SQLite, which needs no server. That both databases keep the same promises is the store
//! suite's to prove; HTTP and cookies are tested end to end.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gateway::auth::{
    AccessTokens, AuthParts, AuthService, Identity, Login, PasswordChange, Passwords, ProfilePatch,
    RefreshIn, Registration, SignedIn,
};
use gateway::bus::{Bus, BusError, Incoming, Kept, Place, Publication, PublishOutcome};
use gateway::cli::{self, AdminArgs};
use gateway::cluster::{RateLimiter, RetryAfter};
use gateway::config::Secret;
use gateway::failure::Failure;
use gateway::store::{RefreshRotation, RotationOutcome, Settings, SharedStore, open};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use shared::envelope::{Notice, RevocationScope};
use shared::{ErrorCode, Role, Room, Timestamp};
use tokio::sync::mpsc;

const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PASSWORD: &str = "correct horse";

/// Keeps what was announced, and can be away.
#[derive(Default)]
struct Announcements {
    heard: Mutex<Vec<Notice>>,
    is_away: Mutex<bool>,
}

#[async_trait]
impl Bus for Announcements {
    async fn publish(&self, _: &[Publication]) -> Result<Vec<PublishOutcome>, BusError> {
        unreachable!("signing in publishes no room events")
    }
    async fn announce(&self, notice: &Notice) -> Result<(), BusError> {
        if *self.is_away.lock() {
            return Err(BusError("away".into()));
        }
        self.heard.lock().push(notice.clone());
        Ok(())
    }
    async fn subscribe(&self, _: &[Room]) -> Result<(), BusError> {
        unreachable!("signing in joins no rooms")
    }
    async fn unsubscribe(&self, _: &[Room]) -> Result<(), BusError> {
        unreachable!("signing in joins no rooms")
    }
    fn incoming(&self) -> Option<mpsc::Receiver<Incoming>> {
        None
    }
    async fn here(&self) -> Result<Option<Place>, BusError> {
        Ok(None)
    }

    async fn kept_after(&self, _: Place, _: usize) -> Result<Option<Vec<Kept>>, BusError> {
        Ok(None)
    }

    async fn check(&self) -> Result<(), BusError> {
        Ok(())
    }
    async fn close(&self) {}
}

/// Counts down from the allowance and never refills.
#[derive(Default)]
struct Counter(Mutex<std::collections::HashMap<String, u32>>);

#[async_trait]
impl RateLimiter for Counter {
    async fn take(&self, key: &str, per_minute: u32) -> Result<(), RetryAfter> {
        let mut counts = self.0.lock();
        let count = counts.entry(key.to_owned()).or_default();
        *count += 1;
        if per_minute > 0 && *count > per_minute {
            Err(RetryAfter(Duration::from_secs(30)))
        } else {
            Ok(())
        }
    }
}

/// A database of its own, with as many nodes on it as asked for.
struct World {
    directory: PathBuf,
    store: SharedStore,
    bus: Arc<Announcements>,
    limiter: Arc<Counter>,
    logins_per_minute: u32,
}

impl World {
    async fn new() -> Self {
        let name = format!("gateway-auth-{:016x}", rand::random::<u64>());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let url = format!("sqlite://{}", directory.join("chat.db").display());
        let store = open(&Settings::new(url)).unwrap();
        store.migrate().await.unwrap();
        Self {
            directory,
            store,
            bus: Arc::default(),
            limiter: Arc::default(),
            logins_per_minute: 0,
        }
    }

    async fn node(&self) -> AuthService {
        let service = self.starting_node();
        service.poll_revocations().await.unwrap();
        service
    }

    fn starting_node(&self) -> AuthService {
        AuthService::new(AuthParts {
            store: self.store.clone(),
            bus: self.bus.clone(),
            limiter: self.limiter.clone(),
            tokens: AccessTokens::new(&Secret::new("a secret of this test"), &[]),
            refresh_life: Duration::from_secs(86_400),
            logins_per_minute: self.logins_per_minute,
        })
    }

    fn announced(&self) -> Vec<RevocationScope> {
        let heard = self.bus.heard.lock();
        heard
            .iter()
            .map(|Notice::Revoked(revocation)| revocation.scope.clone())
            .collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn registration(changes: &Value) -> Registration {
    let mut body = json!({
        "email": "Ann@Example.com", "password": PASSWORD, "firstName": "Ann", "lastName": "Lee",
    });
    for (name, value) in changes.as_object().unwrap() {
        body[name] = value.clone();
    }
    serde_json::from_value(body).unwrap()
}

async fn register(node: &AuthService) -> SignedIn {
    node.register(&registration(&json!({}))).await.unwrap()
}

async fn login(node: &AuthService, email: &str, password: &str) -> Result<SignedIn, Failure> {
    let login = Login {
        email: email.to_owned(),
        password: password.to_owned(),
        refresh_in: None,
    };
    node.login(&login, HOME).await
}

fn code<T>(outcome: Result<T, Failure>) -> ErrorCode {
    outcome.map(|_| ()).unwrap_err().code
}

fn identity(node: &AuthService, signed_in: &SignedIn) -> Identity {
    node.authenticate(&signed_in.token).unwrap()
}

#[tokio::test]
async fn a_client_registers_signs_in_and_is_known() {
    let world = World::new().await;
    let node = world.node().await;
    let body = registration(&json!({"role": "admin", "refreshIn": "body"}));
    let signed_in = node.register(&body).await.unwrap();
    assert_eq!(signed_in.user.role, Role::User);
    assert_eq!(signed_in.expires_in, 3600);
    assert_eq!(signed_in.refresh_in, RefreshIn::Body);

    let again = login(&node, " ann@example.COM ", PASSWORD).await.unwrap();
    assert_eq!(again.user.id, signed_in.user.id);
    assert_eq!(again.user.email, "Ann@Example.com");
    assert_eq!(again.refresh_in, RefreshIn::Cookie);

    let identity = identity(&node, &again);
    assert_eq!(identity.user, signed_in.user.id);
    assert_eq!(identity.role, Role::User);
    assert_eq!(node.profile(&identity).await.unwrap(), again.user);
}

#[tokio::test]
async fn an_address_is_one_persons() {
    let world = World::new().await;
    let node = world.node().await;
    register(&node).await;
    let other = registration(&json!({"email": "ANN@example.com"}));
    assert_eq!(code(node.register(&other).await), ErrorCode::EmailTaken);
}

#[tokio::test]
async fn names_that_no_clients_row_can_hold_whole_do_not_break_it() {
    let world = World::new().await;
    let node = world.node().await;
    let long = registration(&json!({"firstName": "ä".repeat(255), "lastName": "b".repeat(255)}));
    let signed_in = node.register(&long).await.unwrap();
    assert_eq!(signed_in.user.first_name, Some("ä".repeat(255)));
}

#[tokio::test]
async fn wrong_credentials_are_wrong_in_one_way() {
    let world = World::new().await;
    let node = world.node().await;
    register(&node).await;
    for (email, password) in [
        ("ann@example.com", "wrong horse"),
        ("bob@example.com", PASSWORD),
        ("ann@example.com", &"a".repeat(10_000)),
        (&"a".repeat(10_000), PASSWORD),
        ("' OR 1=1 --", "x"),
        ("ann@example.com\0", PASSWORD),
    ] {
        let failure = login(&node, email, password).await.err().unwrap();
        assert_eq!(failure.code, ErrorCode::InvalidCredentials);
        assert_eq!(
            failure.message,
            "the e-mail address or the password is wrong"
        );
    }
    assert_eq!(code(login(&node, "", "").await), ErrorCode::ValidationError);
}

#[tokio::test]
async fn sign_ins_are_limited_by_address_and_by_account() {
    let mut world = World::new().await;
    world.logins_per_minute = 2;
    let node = world.node().await;
    let try_from = async |email: &str, remote: [u8; 4]| {
        let login = Login {
            email: email.to_owned(),
            password: "wrong horse".to_owned(),
            refresh_in: None,
        };
        node.login(&login, remote.into()).await.err().unwrap()
    };
    for last in [1, 2] {
        let failure = try_from("ann@example.com", [192, 0, 2, last]).await;
        assert_eq!(failure.code, ErrorCode::InvalidCredentials);
    }
    let by_account = try_from("ANN@example.com", [192, 0, 2, 3]).await;
    assert_eq!(by_account.code, ErrorCode::RateLimited);
    assert_eq!(by_account.retry_after_seconds(), Some(30));

    for email in ["bob@example.com", "eve@example.com"] {
        try_from(email, [192, 0, 2, 9]).await;
    }
    let by_address = try_from("joe@example.com", [192, 0, 2, 9]).await;
    assert_eq!(by_address.code, ErrorCode::RateLimited);
    assert!(
        world
            .limiter
            .0
            .lock()
            .keys()
            .all(|key| !key.contains("example"))
    );
}

#[tokio::test]
async fn a_session_goes_on_by_rotation_and_two_tabs_share_it() {
    let world = World::new().await;
    let node = world.node().await;
    let first = register(&node).await;
    let shown = Some(first.refresh.token.expose());

    let rotated = node.refresh(shown).await.unwrap();
    let fresh = rotated.refresh.unwrap();
    let session = identity(&node, &first).session;
    assert_eq!(node.authenticate(&rotated.token).unwrap().session, session);

    let second_tab = node.refresh(shown).await.unwrap();
    assert!(second_tab.refresh.is_none());
    assert_eq!(second_tab.expires_in, 3600);

    assert!(node.refresh(Some(fresh.token.expose())).await.is_ok());
}

#[tokio::test]
async fn what_is_no_refresh_token_says_so() {
    let world = World::new().await;
    let node = world.node().await;
    for missing in [None, Some("")] {
        assert_eq!(code(node.refresh(missing).await), ErrorCode::MissingToken);
    }
    let unknown = "A".repeat(43);
    for rubbish in ["x", &unknown, &"A".repeat(100_000)] {
        assert_eq!(
            code(node.refresh(Some(rubbish)).await),
            ErrorCode::InvalidToken
        );
    }
}

#[tokio::test]
async fn a_spent_token_shown_late_ends_its_family_everywhere() {
    let world = World::new().await;
    let node = world.node().await;
    let signed_in = register(&node).await;
    let shown = signed_in.refresh.token.expose();
    // Spent eleven seconds ago, on another node.
    let now = Timestamp::now();
    let rotation = RefreshRotation {
        spent: Sha256::digest(shown).into(),
        fresh: [7; 32],
        at: Timestamp(now.0 - Duration::from_secs(11)),
        grace_ms: 10_000,
        expires_at: Timestamp(now.0 + Duration::from_secs(86_400)),
    };
    world.store.rotate_refresh(&rotation).await.unwrap();
    let session = identity(&node, &signed_in).session.unwrap();

    assert_eq!(
        code(node.refresh(Some(shown)).await),
        ErrorCode::InvalidToken
    );
    assert_eq!(
        code(node.authenticate(&signed_in.token)),
        ErrorCode::InvalidToken
    );
    assert_eq!(world.announced(), [RevocationScope::Session(session)]);
    let next = RefreshRotation {
        spent: [7; 32],
        fresh: [8; 32],
        at: now,
        ..rotation
    };
    let outcome = world.store.rotate_refresh(&next).await.unwrap();
    assert!(matches!(outcome, RotationOutcome::Unknown));
}

#[tokio::test]
async fn signing_out_ends_one_session_on_every_node() {
    let world = World::new().await;
    let (here, there) = (world.node().await, world.node().await);
    let gone = register(&here).await;
    let stays = login(&here, "ann@example.com", PASSWORD).await.unwrap();
    let mut sockets = there.revocations().listen();

    let identity = identity(&here, &gone);
    here.logout(&identity).await.unwrap();
    assert_eq!(
        code(here.authenticate(&gone.token)),
        ErrorCode::InvalidToken
    );
    let shown = gone.refresh.token.expose();
    assert_eq!(
        code(here.refresh(Some(shown)).await),
        ErrorCode::InvalidToken
    );
    assert!(here.authenticate(&stays.token).is_ok());
    let session = RevocationScope::Session(identity.session.clone().unwrap());
    assert_eq!(world.announced(), std::slice::from_ref(&session));

    // The other node missed the notice: it finds the revocation in the database.
    assert!(there.authenticate(&gone.token).is_ok());
    there.poll_revocations().await.unwrap();
    assert_eq!(
        code(there.authenticate(&gone.token)),
        ErrorCode::InvalidToken
    );
    assert_eq!(sockets.try_recv().unwrap().scope, session);
    assert!(there.authenticate(&stays.token).is_ok());
}

#[tokio::test]
async fn a_broken_bus_does_not_keep_anybody_signed_in() {
    let world = World::new().await;
    let node = world.node().await;
    let signed_in = register(&node).await;
    *world.bus.is_away.lock() = true;
    node.logout(&identity(&node, &signed_in)).await.unwrap();
    assert_eq!(
        code(node.authenticate(&signed_in.token)),
        ErrorCode::InvalidToken
    );
}

#[tokio::test]
async fn a_token_without_a_session_is_signed_out_by_itself() {
    let world = World::new().await;
    let node = world.node().await;
    let signed_in = register(&node).await;
    let claims = json!({
        "id": signed_in.user.id.to_string(), "email": signed_in.user.email, "role": "user",
        "iat": Timestamp::now().0.timestamp(), "exp": Timestamp::now().0.timestamp() + 600,
    });
    let old = jsonwebtoken::encode(
        &jsonwebtoken::Header::default(),
        &claims,
        &jsonwebtoken::EncodingKey::from_secret(b"a secret of this test"),
    )
    .unwrap();
    let identity = node.authenticate(&old).unwrap();
    node.logout(&identity).await.unwrap();
    assert_eq!(code(node.authenticate(&old)), ErrorCode::InvalidToken);
    assert!(node.authenticate(&signed_in.token).is_ok());
    let restarted = world.node().await;
    assert_eq!(code(restarted.authenticate(&old)), ErrorCode::InvalidToken);
}

#[tokio::test]
async fn a_new_password_ends_every_other_session() {
    let world = World::new().await;
    let node = world.node().await;
    let mine = register(&node).await;
    let other = login(&node, "ann@example.com", PASSWORD).await.unwrap();
    let identity = identity(&node, &mine);
    let change = async |current: &str, new: &str| {
        let change = PasswordChange {
            current_password: current.to_owned(),
            new_password: new.to_owned(),
        };
        node.change_password(&identity, &change).await
    };

    let wrong = change("wrong horse", "battery staple").await;
    assert_eq!(code(wrong), ErrorCode::InvalidCredentials);
    let short = change(PASSWORD, "short").await;
    assert_eq!(code(short), ErrorCode::ValidationError);
    assert!(node.authenticate(&other.token).is_ok());

    change(PASSWORD, "battery staple").await.unwrap();
    assert!(node.authenticate(&mine.token).is_ok());
    assert!(
        node.refresh(Some(mine.refresh.token.expose()))
            .await
            .is_ok()
    );
    assert_eq!(
        code(node.authenticate(&other.token)),
        ErrorCode::InvalidToken
    );
    let shown = other.refresh.token.expose();
    assert_eq!(
        code(node.refresh(Some(shown)).await),
        ErrorCode::InvalidToken
    );

    let old = login(&node, "ann@example.com", PASSWORD).await;
    assert_eq!(code(old), ErrorCode::InvalidCredentials);
    // Within the same second, so with an `iat` that lies before the change.
    let new = login(&node, "ann@example.com", "battery staple")
        .await
        .unwrap();
    assert!(node.authenticate(&new.token).is_ok());
    assert!(world.node().await.authenticate(&new.token).is_ok());
}

#[tokio::test]
async fn nobody_is_let_in_before_the_revocations_are_read() {
    let world = World::new().await;
    let signed_in = register(&world.node().await).await;
    let starting = world.starting_node();
    assert_eq!(
        code(starting.authenticate(&signed_in.token)),
        ErrorCode::ServiceUnavailable
    );
    starting.poll_revocations().await.unwrap();
    assert!(starting.authenticate(&signed_in.token).is_ok());
}

#[tokio::test]
async fn a_profile_changes_where_it_may() {
    let world = World::new().await;
    let node = world.node().await;
    let signed_in = register(&node).await;
    let patch = |body: Value| serde_json::from_value::<ProfilePatch>(body).unwrap();
    let identity = identity(&node, &signed_in);
    let body = json!({"company": " Acme ", "isOnboardingCompleted": true, "role": "admin", "email": "x@y.zz"});
    let user = node.update_profile(&identity, patch(body)).await.unwrap();
    assert_eq!(user.company.as_deref(), Some("Acme"));
    assert!(user.is_onboarding_completed);
    assert_eq!(user.role, Role::User);
    assert_eq!(user.email, "Ann@Example.com");
    let cleared = node.update_profile(&identity, patch(json!({"company": null})));
    assert_eq!(cleared.await.unwrap().company, None);
    let too_long = node.update_profile(&identity, patch(json!({"phone": "1".repeat(256)})));
    assert_eq!(code(too_long.await), ErrorCode::ValidationError);
}

#[tokio::test]
async fn the_command_line_makes_an_admin() {
    let world = World::new().await;
    let node = world.node().await;
    let arguments = AdminArgs {
        email: "Boss@Example.com".to_owned(),
        password_stdin: true,
        first_name: Some("Bea".to_owned()),
        last_name: None,
    };
    let password = cli::read_password(format!("{PASSWORD}\n").as_bytes()).unwrap();
    let create = || cli::create_admin(world.store.as_ref(), &arguments, &password);
    assert_eq!(create().await.unwrap().role, Role::Admin);
    assert_eq!(code(create().await), ErrorCode::EmailTaken);
    let signed_in = login(&node, "boss@example.com", PASSWORD).await.unwrap();
    assert_eq!(identity(&node, &signed_in).role, Role::Admin);
}

#[tokio::test]
async fn old_hashes_sign_in() {
    let world = World::new().await;
    let node = world.node().await;
    let signed_in = register(&node).await;
    // As bcryptjs wrote it.
    let hash = Passwords::default().hash("old password").await.unwrap();
    let old = hash.replacen("$2b$", "$2a$", 1);
    let user = signed_in.user.id;
    let changed = world
        .store
        .change_password(user, &old, None, Timestamp::now());
    changed.await.unwrap();
    assert!(
        login(&node, "ann@example.com", "old password")
            .await
            .is_ok()
    );
}
