//! One node's REST side with a database of its own, and the people in it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use gateway::api::{self, Part, Readiness};
use gateway::auth::{AccessTokens, AuthParts, AuthService};
use gateway::bus::Bus;
use gateway::bus::local::LocalBus;
use gateway::chat::{Chat, Foundations};
use gateway::cluster::local::{LocalPresence, LocalRateLimiter};
use gateway::config::Config;
use gateway::store::{self, NewAdmin, NewClient, SharedStore};
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use serde_json::{Value, json};
use shared::model::User;
use shared::{Role, Timestamp, UserId};
use tower::ServiceExt;

use super::schema::{self, Side};

/// Where requests come from, unless said otherwise.
pub(crate) const PEER: [u8; 4] = [127, 0, 0, 1];

/// No password's hash: for people who never sign in.
const NO_HASH: &str = "$2b$10$uuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuu";

/// A node's REST side.
pub(crate) struct World {
    pub(crate) store: SharedStore,
    pub(crate) chat: Arc<Chat>,
    pub(crate) readiness: Arc<Readiness>,
    router: Router,
    tokens: AccessTokens,
    document: Value,
    directory: PathBuf,
    next: AtomicU64,
}

/// Somebody with a good token.
#[derive(Clone)]
pub(crate) struct Person {
    pub(crate) user: User,
    pub(crate) token: String,
}

impl Person {
    pub(crate) fn id(&self) -> i64 {
        self.user.id.get()
    }

    /// The `Authorization` header.
    pub(crate) fn authorization(&self) -> String {
        format!("Bearer {}", self.token)
    }
}

impl World {
    /// A node in development mode, ready, without limits.
    pub(crate) async fn new() -> Self {
        Self::with(&[]).await
    }

    /// A node with these settings.
    pub(crate) async fn with(settings: &[(&str, &str)]) -> Self {
        let world = Self::unready(settings).await;
        world.readiness.report(Part::Database, Ok::<_, String>(()));
        world.readiness.report(Part::Bus, Ok::<_, String>(()));
        world
    }

    /// A node that has not asked its database and its bus yet.
    pub(crate) async fn unready(settings: &[(&str, &str)]) -> Self {
        Self::build(settings, true).await
    }

    /// A node that has not read yet which tokens were revoked.
    pub(crate) async fn without_revocations() -> Self {
        Self::build(&[], false).await
    }

    async fn build(settings: &[(&str, &str)], has_revocations: bool) -> Self {
        let directory =
            std::env::temp_dir().join(format!("chat-test-api-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&directory).unwrap();
        let url = format!("sqlite://{}/chat.db", directory.display());
        let mut values = BTreeMap::from(
            [
                ("DATABASE_URL", url.as_str()),
                ("JWT_SECRET", "a secret for tests of at least 32 bytes"),
                ("RATE_LIMIT_REQUESTS_PER_SECOND", "0"),
                ("RATE_LIMIT_LOGINS_PER_MINUTE", "0"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        values.extend(
            settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        let config = Config::from_map(&values).unwrap();

        let store = store::open(&store::Settings::new(url)).unwrap();
        store.migrate().await.unwrap();
        let bus: Arc<dyn Bus> = Arc::new(LocalBus::default());
        let foundations = Foundations {
            store: store.clone(),
            bus: bus.clone(),
            presence: Arc::<LocalPresence>::default(),
            writers: 1,
        };
        // The chat's tasks end with the test's runtime.
        let (chat, _) = Chat::start(foundations);
        let secret = config.jwt_secret().unwrap();
        let auth = Arc::new(AuthService::new(AuthParts {
            store: store.clone(),
            bus,
            limiter: Arc::new(LocalRateLimiter::new()),
            tokens: AccessTokens::new(&secret, &[]),
            refresh_life: config.auth.refresh_life,
            logins_per_minute: config.limits.logins_per_minute,
        }));
        if has_revocations {
            auth.poll_revocations().await.unwrap();
        }
        let readiness = Arc::new(Readiness::new());
        let state = api::State {
            chat: chat.clone(),
            auth,
            readiness: readiness.clone(),
        };
        Self {
            store,
            chat,
            readiness,
            router: api::router(state, &config),
            tokens: AccessTokens::new(&secret, &[]),
            document: serde_json::to_value(api::document()).unwrap(),
            directory,
            next: AtomicU64::new(1),
        }
    }

    /// The OpenAPI document.
    pub(crate) fn document(&self) -> &Value {
        &self.document
    }

    /// An address that nobody has.
    pub(crate) fn fresh_email(&self, name: &str) -> String {
        format!(
            "{name}-{}@example.com",
            self.next.fetch_add(1, Ordering::Relaxed)
        )
    }

    /// A client that never signs in: it is given a token.
    pub(crate) async fn client(&self) -> Person {
        let account = NewClient {
            email: self.fresh_email("client"),
            password_hash: NO_HASH.to_owned(),
            first_name: "Carla".to_owned(),
            last_name: "Client".to_owned(),
            company: Some("Acme".to_owned()),
            phone: None,
            country: None,
            at: Timestamp::now(),
        };
        self.signed_in(
            self.store
                .register_client(&account)
                .await
                .unwrap()
                .ok()
                .unwrap(),
        )
    }

    /// An agent, likewise.
    pub(crate) async fn agent(&self) -> Person {
        let account = NewAdmin {
            email: self.fresh_email("agent"),
            password_hash: NO_HASH.to_owned(),
            first_name: Some("Ada".to_owned()),
            last_name: None,
            at: Timestamp::now(),
        };
        self.signed_in(
            self.store
                .create_admin(&account)
                .await
                .unwrap()
                .ok()
                .unwrap(),
        )
    }

    /// A good token of somebody who is in no table.
    pub(crate) fn nobody(&self, role: Role) -> Person {
        self.signed_in(User {
            id: UserId::new(987_654),
            email: "nobody@example.com".to_owned(),
            role,
            first_name: None,
            last_name: None,
            company: None,
            phone: None,
            profile_picture: None,
            is_onboarding_completed: false,
            created_at: None,
            updated_at: None,
        })
    }

    /// A token of somebody that ended an hour ago.
    pub(crate) fn expired_token(&self, user: &User) -> String {
        let then = Timestamp(Timestamp::now().0 - chrono::TimeDelta::hours(2));
        self.tokens
            .issue(user, &uuid::Uuid::now_v7().to_string(), then)
            .unwrap()
    }

    fn signed_in(&self, user: User) -> Person {
        let token = self
            .tokens
            .issue(&user, &uuid::Uuid::now_v7().to_string(), Timestamp::now())
            .unwrap();
        Person { user, token }
    }

    /// Opens a conversation; returns its path.
    pub(crate) async fn converse(&self, client: &Person, agent: &Person) -> String {
        let body = json!({ "agencyId": agent.id() });
        let answer = self
            .post("/api/chat/conversations")
            .by(client)
            .json(&body)
            .await;
        assert!(
            matches!(answer.status.as_u16(), 200 | 201),
            "{}",
            answer.body
        );
        format!("/api/chat/conversations/{}", answer.body["data"]["id"])
    }

    pub(crate) fn get(&self, path: &str) -> Call<'_> {
        self.call(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &str) -> Call<'_> {
        self.call(Method::POST, path)
    }

    pub(crate) fn patch(&self, path: &str) -> Call<'_> {
        self.call(Method::PATCH, path)
    }

    pub(crate) fn delete(&self, path: &str) -> Call<'_> {
        self.call(Method::DELETE, path)
    }

    pub(crate) fn call(&self, method: Method, path: &str) -> Call<'_> {
        Call {
            world: self,
            method,
            path: path.to_owned(),
            headers: HeaderMap::new(),
            peer: IpAddr::from(PEER),
        }
    }

    /// The document's description of a call, for a path with real ids.
    fn operation(&self, method: &Method, path: &str) -> Option<&Value> {
        let path = path.split('?').next().unwrap_or_default();
        let fits = |pattern: &str| {
            let (mut one, mut other) = (pattern.split('/'), path.split('/'));
            pattern.split('/').count() == path.split('/').count()
                && one
                    .by_ref()
                    .zip(other.by_ref())
                    .all(|(part, real)| part == real || part.starts_with('{'))
        };
        let items = self.document["paths"].as_object()?;
        let (_, item) = items.iter().find(|(pattern, _)| fits(pattern))?;
        item.get(method.as_str().to_lowercase())
    }

    /// Panics where an answer is not as the document says.
    fn hold_against_document(&self, call: &Call<'_>, sent: &[u8], answer: &Answer) {
        let Some(operation) = self.operation(&call.method, &call.path) else {
            return;
        };
        let (method, path, status) = (&call.method, &call.path, answer.status.as_u16());
        let response = &operation["responses"][status.to_string()];
        assert!(
            response.is_object(),
            "{method} {path} answers {status}, which is not described: {}",
            answer.body
        );
        let expected = &response["content"]["application/json"]["schema"];
        if expected.is_null() {
            assert!(
                answer.body.is_null(),
                "{method} {path} {status} is described without a body: {}",
                answer.body
            );
        } else if let Err(fault) =
            schema::check(&self.document, expected, &answer.body, Side::Answered)
        {
            panic!("{method} {path} {status}: {fault}: {}", answer.body);
        }
        let described = &operation["requestBody"]["content"]["application/json"]["schema"];
        if answer.status.is_success() && !sent.is_empty() {
            let sent: Value = serde_json::from_slice(sent).unwrap();
            if let Err(fault) = schema::check(&self.document, described, &sent, Side::Sent) {
                panic!("{method} {path} takes what is not described: {fault}: {sent}");
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The system's own cleaning takes what is still in use.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A request that is being written.
pub(crate) struct Call<'a> {
    world: &'a World,
    method: Method,
    path: String,
    headers: HeaderMap,
    peer: IpAddr,
}

impl Call<'_> {
    pub(crate) fn by(self, person: &Person) -> Self {
        self.token(&person.token)
    }

    pub(crate) fn token(self, token: &str) -> Self {
        self.header(AUTHORIZATION, &format!("Bearer {token}"))
    }

    pub(crate) fn cookie(self, refresh_token: &str) -> Self {
        self.header(
            COOKIE,
            &format!("theme=dark; refresh_token={refresh_token}"),
        )
    }

    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Self {
        self.headers
            .append(name, HeaderValue::from_str(value).unwrap());
        self
    }

    pub(crate) fn from(mut self, peer: &str) -> Self {
        self.peer = peer.parse().unwrap();
        self
    }

    /// Sends it without a body.
    pub(crate) async fn send(self) -> Answer {
        self.raw(Vec::new()).await
    }

    /// Sends it with a body of JSON.
    pub(crate) async fn json(self, body: &Value) -> Answer {
        self.header(CONTENT_TYPE, "application/json")
            .raw(body.to_string().into_bytes())
            .await
    }

    /// Sends it with these bytes, and no other header than were given.
    pub(crate) async fn raw(self, body: Vec<u8>) -> Answer {
        let answer = self.body(Body::from(body.clone())).await;
        self.world.hold_against_document(&self, &body, &answer);
        answer
    }

    /// Sends it with a body of any kind.
    pub(crate) async fn body(&self, body: Body) -> Answer {
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(&self.path)
            .body(body)
            .unwrap();
        *request.headers_mut() = self.headers.clone();
        request
            .extensions_mut()
            .insert(ConnectInfo(SocketAddr::new(self.peer, 4711)));
        let response = self.world.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 10_000_000).await.unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let is_json = parts
            .headers
            .get(CONTENT_TYPE)
            .is_some_and(|value| value == "application/json");
        let body = if is_json {
            serde_json::from_slice(&bytes).unwrap()
        } else {
            Value::Null
        };
        Answer {
            status: parts.status,
            headers: parts.headers,
            body,
            text,
        }
    }
}

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Null where the body is not JSON.
    pub(crate) body: Value,
    pub(crate) text: String,
}

impl Answer {
    /// The data of a success.
    #[track_caller]
    pub(crate) fn data(&self, status: u16) -> &Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.body["success"], true);
        &self.body["data"]
    }

    /// Asserts a 204.
    #[track_caller]
    pub(crate) fn nothing(&self) {
        assert_eq!(self.status, StatusCode::NO_CONTENT, "{}", self.text);
        assert_eq!(self.text, "");
    }

    /// Asserts a failure; returns its message.
    #[track_caller]
    pub(crate) fn failure(&self, status: u16, code: &str) -> &str {
        assert_eq!(
            (self.status.as_u16(), self.body["error"]["code"].as_str()),
            (status, Some(code)),
            "{}",
            self.text
        );
        assert_eq!(self.body["success"], false);
        let message = self.body["error"]["message"].as_str().unwrap_or_default();
        assert!(!message.is_empty());
        message
    }

    /// A header as text; empty where it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map(|value| value.to_str().unwrap())
            .unwrap_or_default()
    }

    /// The refresh token's cookie: its value and its attributes, in lower case.
    pub(crate) fn refresh_cookie(&self) -> Option<(String, Vec<String>)> {
        let cookie = self.headers.get(SET_COOKIE)?.to_str().unwrap();
        let (pair, attributes) = cookie.split_once(';').unwrap();
        let value = pair.strip_prefix("refresh_token=").unwrap().to_owned();
        Some((
            value,
            attributes
                .split(';')
                .map(|attribute| attribute.trim().to_lowercase())
                .collect(),
        ))
    }
}
