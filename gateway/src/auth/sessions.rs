//! Signing in, staying signed in, signing out. Tokens' and passwords' own rules are next door; how they travel (header,
//! cookie, body) is `api`'s.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use shared::envelope::{Notice, Revocation, RevocationScope};
use shared::model::User;
use shared::{ErrorCode, Timestamp};
use tokio_util::sync::CancellationToken;

use super::access_token::{
    ACCESS_TOKEN_LIFE, AccessTokens, Identity, invalid, missing, new_session_id,
};
use super::account::{
    Login, NewAccount, PasswordChange, ProfilePatch, RefreshIn, Registration, is_storable_address,
    trimmed_address,
};
use super::limits::{account_key, address_key};
use super::password::{Passwords, wrong_credentials};
use super::refresh_token;
use super::revocations::{POLL_INTERVAL, Revocations};
use crate::bus::Bus;
use crate::cluster::{RateLimiter, RetryAfter};
use crate::config::Secret;
use crate::failure::Failure;
use crate::store::{
    Accounts, Credentials, EmailTaken, NewAdmin, NewSession, RefreshRotation, RotationOutcome,
    Sessions, SharedStore, TokenHash,
};
use crate::telemetry::metrics as names;

/// For how long a spent refresh token is taken for a second tab's.
const GRACE: Duration = Duration::from_secs(10);

/// How often what has expired is deleted. Nothing depends on it but the tables' size.
const PRUNE_INTERVAL: Duration = Duration::from_secs(10 * 60);

/// How soon the first reading of the revocations is tried again.
const FIRST_POLL_RETRY: Duration = Duration::from_millis(250);

/// Signing in and out. Share it behind an `Arc`.
pub struct AuthService {
    accounts: Arc<dyn Accounts>,
    sessions: Arc<dyn Sessions>,
    /// Tells the other nodes of revocations; they would find them by themselves, a little later.
    bus: Arc<dyn Bus>,
    /// Counts sign-ins over all nodes.
    limiter: Arc<dyn RateLimiter>,
    tokens: AccessTokens,
    passwords: Passwords,
    revocations: Arc<Revocations>,
    refresh_life: Duration,
    logins_per_minute: u32,
}

/// What the service is made of.
pub struct AuthParts {
    /// Accounts and sessions.
    pub store: SharedStore,
    /// Where revocations are announced.
    pub bus: Arc<dyn Bus>,
    /// Where sign-ins are counted.
    pub limiter: Arc<dyn RateLimiter>,
    /// Signs and reads access tokens.
    pub tokens: AccessTokens,
    /// After how long a session ends that is not refreshed.
    pub refresh_life: Duration,
    /// Sign-ins a minute for an address and for an account; 0: no limit.
    pub logins_per_minute: u32,
}

/// Somebody has signed in. Holds tokens: it has no `Debug`.
pub struct SignedIn {
    /// The access token.
    pub token: String,
    /// How long it is good, seconds.
    pub expires_in: u64,
    /// Who.
    pub user: User,
    /// The session's first refresh token.
    pub refresh: IssuedRefresh,
    /// How the client wants to have it.
    pub refresh_in: RefreshIn,
}

/// A refresh token for the client to keep.
pub struct IssuedRefresh {
    /// The token itself.
    pub token: Secret,
    /// How long it is good: a cookie's `Max-Age`.
    pub life: Duration,
}

/// A session goes on. Holds tokens: it has no `Debug`.
pub struct Refreshed {
    /// The access token.
    pub token: String,
    /// How long it is good, seconds.
    pub expires_in: u64,
    /// The next refresh token; `None` for a second tab, which has the one that the first tab got.
    pub refresh: Option<IssuedRefresh>,
}

impl AuthService {
    /// Puts the service together. It lets nobody in until `poll_revocations` or `run` has read the revocations.
    pub fn new(parts: AuthParts) -> Self {
        Self {
            accounts: Arc::<dyn crate::store::Store>::clone(&parts.store),
            sessions: parts.store,
            bus: parts.bus,
            limiter: parts.limiter,
            tokens: parts.tokens,
            passwords: Passwords::default(),
            revocations: Arc::default(),
            refresh_life: parts.refresh_life,
            logins_per_minute: parts.logins_per_minute,
        }
    }

    /// The revocations this node knows of: the relay inserts what the bus announces, and whoever keeps sockets listens.
    pub const fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    /// Whom an access token speaks for. `MISSING_TOKEN`, `INVALID_TOKEN` or `TOKEN_EXPIRED` where it is not good;
    /// `SERVICE_UNAVAILABLE` while this node has not yet read which tokens were revoked.
    pub fn authenticate(&self, token: &str) -> Result<Identity, Failure> {
        let refuse = |reason: &'static str, failure: Failure| {
            metrics::counter!(names::AUTH_FAILURES, "reason" => reason).increment(1);
            Err(failure)
        };
        if token.is_empty() {
            return refuse("missing_token", missing());
        }
        if !self.revocations.is_loaded() {
            return Err(Failure::unavailable("the revocations are not read yet"));
        }
        match self.tokens.read(token, Timestamp::now()) {
            Ok(identity) if self.revocations.is_revoked(&identity) => {
                refuse("revoked_token", invalid())
            }
            Ok(identity) => Ok(identity),
            Err(failure) if failure.code == ErrorCode::TokenExpired => {
                refuse("expired_token", failure)
            }
            Err(failure) => refuse("invalid_token", failure),
        }
    }

    /// Makes a client's account and signs it in. `VALIDATION_ERROR`, `EMAIL_TAKEN`.
    pub async fn register(&self, registration: &Registration) -> Result<SignedIn, Failure> {
        let mut account = registration.check(Timestamp::now())?;
        account.password_hash = self.passwords.hash(&registration.password).await?;
        let user = self
            .accounts
            .register_client(&account)
            .await?
            .map_err(email_taken)?;
        self.sign_in(user, &new_session_id(), registration.refresh_in)
            .await
    }

    /// Signs somebody in. `INVALID_CREDENTIALS` for an unknown address, a wrong password and one that nobody can have, in
    /// the same time; `RATE_LIMITED` for too many tries from one address or for one account.
    pub async fn login(&self, login: &Login, remote: IpAddr) -> Result<SignedIn, Failure> {
        let email = trimmed_address(&login.email);
        if email.is_empty() || login.password.is_empty() {
            return Err(Failure::validation("email and password must not be empty"));
        }
        self.limit("login_address", &address_key(remote)).await?;
        self.limit("login_account", &account_key(email)).await?;
        let credentials = if is_storable_address(email) {
            self.accounts.credentials(email).await?
        } else {
            None
        };
        let hash = credentials
            .as_ref()
            .map(|known| known.password_hash.as_str());
        let matches = self.passwords.verify(&login.password, hash).await?;
        match credentials {
            Some(known) if matches => self.begin_checked(known, login.refresh_in).await,
            _ => Err(refused_credentials()),
        }
    }

    /// Goes on with a session. `MISSING_TOKEN` without a refresh token, `INVALID_TOKEN` for one that is unknown, ended or
    /// long spent; the last ends its session everywhere.
    pub async fn refresh(&self, shown: Option<&str>) -> Result<Refreshed, Failure> {
        let shown = shown
            .filter(|token| !token.is_empty())
            .ok_or_else(missing)?;
        let spent = refresh_token::read(shown).ok_or_else(invalid)?;
        let now = Timestamp::now();
        let (refresh, fresh) = self.new_refresh();
        let outcome = self
            .sessions
            .rotate_refresh(&RefreshRotation {
                spent,
                fresh,
                at: now,
                grace_ms: GRACE.as_millis().try_into().unwrap_or(i64::MAX),
                expires_at: Timestamp(now.0 + self.refresh_life),
            })
            .await?;
        match outcome {
            RotationOutcome::Rotated { user, session_id } => {
                self.refreshed(&user, &session_id, Some(refresh))
            }
            RotationOutcome::Grace { user, session_id } => self.refreshed(&user, &session_id, None),
            RotationOutcome::Reused(revocation) => {
                metrics::counter!(names::AUTH_FAILURES, "reason" => "refresh_reused").increment(1);
                tracing::warn!(
                    user = revocation.user.get(),
                    "a spent refresh token was shown again: its session was ended"
                );
                self.announce(revocation).await;
                Err(invalid())
            }
            RotationOutcome::Unknown => Err(invalid()),
        }
    }

    /// Ends the token's session, or the token itself where it has none.
    pub async fn logout(&self, identity: &Identity) -> Result<(), Failure> {
        let now = Timestamp::now();
        let scope = match &identity.session {
            Some(session) => RevocationScope::Session(session.clone()),
            None => RevocationScope::Token(identity.token_hash.clone()),
        };
        let revocation = Revocation {
            user: identity.user,
            scope,
            at: now.unix_millis(),
        };
        match &identity.session {
            Some(session) => {
                self.sessions
                    .end_session(session, identity.user, now)
                    .await?
            }
            None => self.sessions.revoke(&revocation).await?,
        }
        self.announce(revocation).await;
        Ok(())
    }

    /// Sets a new password and ends every other session of the user. `INVALID_CREDENTIALS` where the current one is
    /// wrong; tries count like sign-ins to the account.
    pub async fn change_password(
        &self,
        identity: &Identity,
        change: &PasswordChange,
    ) -> Result<(), Failure> {
        Passwords::check_new(&change.new_password)?;
        let known = self
            .accounts
            .credentials_of(identity.user)
            .await?
            .ok_or_else(user_not_found)?;
        self.limit("login_account", &account_key(&known.user.email))
            .await?;
        let hash = Some(known.password_hash.as_str());
        if !self
            .passwords
            .verify(&change.current_password, hash)
            .await?
        {
            return Err(refused_credentials());
        }
        let fresh = self.passwords.hash(&change.new_password).await?;
        let keep = identity.handle();
        let now = Timestamp::now();
        self.sessions
            .change_password(identity.user, &fresh, Some(keep), now)
            .await?;
        self.announce(Revocation {
            user: identity.user,
            scope: RevocationScope::AllBut(Some(keep.to_owned())),
            at: now.unix_millis(),
        })
        .await;
        Ok(())
    }

    /// The caller's own account.
    pub async fn profile(&self, identity: &Identity) -> Result<User, Failure> {
        self.accounts
            .user(identity.user)
            .await?
            .ok_or_else(user_not_found)
    }

    /// Changes the caller's own account, and returns it as it is then.
    pub async fn update_profile(
        &self,
        identity: &Identity,
        patch: ProfilePatch,
    ) -> Result<User, Failure> {
        self.accounts
            .update_profile(identity.user, &patch.check()?)
            .await?
            .ok_or_else(user_not_found)
    }

    /// Reads the revocations once: to be done before the node is ready.
    pub async fn poll_revocations(&self) -> Result<(), Failure> {
        Ok(self.revocations.poll(self.sessions.as_ref()).await?)
    }

    /// Keeps the revocations up to date and deletes what has expired, until `stop`. A database that is away is asked again
    /// at the next turn.
    pub async fn run(&self, stop: CancellationToken) {
        let mut prune = tokio::time::interval(PRUNE_INTERVAL);
        prune.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_failing = false;
        loop {
            let outcome = self.poll_revocations().await;
            // Once for each outage, not every few seconds.
            if let Err(failure) = &outcome
                && !is_failing
            {
                failure.log();
            }
            is_failing = outcome.is_err();
            // Nobody is let in before the first success.
            let pause = if self.revocations.is_loaded() {
                POLL_INTERVAL
            } else {
                FIRST_POLL_RETRY
            };
            let poll = tokio::time::sleep(pause);
            tokio::pin!(poll);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = &mut poll => break,
                    _ = prune.tick() => self.prune().await,
                }
            }
        }
    }

    async fn prune(&self) {
        loop {
            match self.sessions.prune_sessions(Timestamp::now()).await {
                Ok(0) => return,
                Ok(count) => tracing::debug!(count, "expired sessions and revocations deleted"),
                Err(error) => return Failure::from(error).log(),
            }
        }
    }

    /// Begins a session on a password that was right a moment ago. Comparing takes a while: a new password that was set
    /// meanwhile has ended the sessions there were, and must not miss this one.
    async fn begin_checked(
        &self,
        known: Credentials,
        refresh_in: Option<RefreshIn>,
    ) -> Result<SignedIn, Failure> {
        let session = new_session_id();
        let user = known.user.id;
        let signed_in = self.sign_in(known.user, &session, refresh_in).await?;
        let current = self.accounts.credentials_of(user).await?;
        if current.is_some_and(|current| current.password_hash == known.password_hash) {
            return Ok(signed_in);
        }
        self.sessions
            .end_session(&session, user, Timestamp::now())
            .await?;
        Err(refused_credentials())
    }

    async fn sign_in(
        &self,
        user: User,
        session: &str,
        refresh_in: Option<RefreshIn>,
    ) -> Result<SignedIn, Failure> {
        let now = Timestamp::now();
        let (refresh, refresh_hash) = self.new_refresh();
        self.sessions
            .begin_session(&NewSession {
                id: session.to_owned(),
                user: user.id,
                refresh_hash,
                at: now,
                expires_at: Timestamp(now.0 + self.refresh_life),
            })
            .await?;
        Ok(SignedIn {
            token: self.tokens.issue(&user, session, now)?,
            expires_in: ACCESS_TOKEN_LIFE.as_secs(),
            user,
            refresh,
            refresh_in: refresh_in.unwrap_or_default(),
        })
    }

    fn refreshed(
        &self,
        user: &User,
        session: &str,
        refresh: Option<IssuedRefresh>,
    ) -> Result<Refreshed, Failure> {
        Ok(Refreshed {
            token: self.tokens.issue(user, session, Timestamp::now())?,
            expires_in: ACCESS_TOKEN_LIFE.as_secs(),
            refresh,
        })
    }

    fn new_refresh(&self) -> (IssuedRefresh, TokenHash) {
        let (token, hash) = refresh_token::make();
        let issued = IssuedRefresh {
            token,
            life: self.refresh_life,
        };
        (issued, hash)
    }

    /// Makes a revocation that the database has known to everybody. Where the bus is away, the other nodes' next poll
    /// finds it: that is no failure of the call.
    async fn announce(&self, revocation: Revocation) {
        self.revocations.insert(&revocation);
        if let Err(error) = self.bus.announce(&Notice::Revoked(revocation)).await {
            tracing::warn!(%error, "a revocation was not announced: other nodes learn of it by polling");
        }
    }

    async fn limit(&self, limit: &'static str, key: &str) -> Result<(), Failure> {
        match self.limiter.take(key, self.logins_per_minute).await {
            Ok(()) => Ok(()),
            Err(RetryAfter(wait)) => {
                metrics::counter!(names::RATE_LIMITED, "limit" => limit).increment(1);
                Err(Failure::rate_limited(wait))
            }
        }
    }
}

/// Makes an agency account. `VALIDATION_ERROR`, `EMAIL_TAKEN`.
pub async fn create_admin(
    accounts: &dyn Accounts,
    passwords: &Passwords,
    account: NewAccount,
    password: &str,
) -> Result<User, Failure> {
    let password_hash = passwords.hash(password).await?;
    let admin = NewAdmin {
        email: account.email,
        password_hash,
        first_name: account.first_name,
        last_name: account.last_name,
        at: Timestamp::now(),
    };
    accounts.create_admin(&admin).await?.map_err(email_taken)
}

fn refused_credentials() -> Failure {
    metrics::counter!(names::AUTH_FAILURES, "reason" => "credentials").increment(1);
    wrong_credentials()
}

fn email_taken(_: EmailTaken) -> Failure {
    Failure::new(
        ErrorCode::EmailTaken,
        "an account with this e-mail address exists already",
    )
}

fn user_not_found() -> Failure {
    Failure::new(ErrorCode::UserNotFound, "there is no such account")
}
