//! The built binary as a test sees it from outside: HTTP, plain sockets, metrics, its memory. No assertion about overload
//! stands here.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use gateway::auth::AccessTokens;
use gateway::config::Secret;
use gateway::store::{NewAdmin, NewClient, Settings, SharedStore, open};
use serde_json::{Value, json};
use shared::Timestamp;
use shared::model::User;
use sqlx::{AssertSqlSafe, Connection as _, MySqlConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

const SECRET: &str = "a secret for tests of at least 32 bytes";

/// No password's hash: nobody signs in here.
const NO_HASH: &str = "$2b$10$uuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuu";

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running node.
pub(crate) struct Node {
    process: Child,
    port: u16,
    metrics_port: u16,
    /// The test's own way to the database.
    store: SharedStore,
    url: String,
}

/// Somebody with a good token.
#[derive(Clone)]
pub(crate) struct Person {
    token: String,
}

/// An answer to a request.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<u64>,
    pub(crate) body: Value,
    pub(crate) after: Duration,
}

impl Node {
    /// Starts one on a database and waits until it is ready.
    pub(crate) async fn start(url: &str, settings: &[(&str, String)]) -> Self {
        let (port, metrics_port) = (free_port(), free_port());
        let process = Command::new(env!("CARGO_BIN_EXE_gateway"))
            .env_clear()
            .env("HOST", "127.0.0.1")
            .env("PORT", port.to_string())
            .env("METRICS_ADDR", format!("127.0.0.1:{metrics_port}"))
            .env("DATABASE_URL", url)
            .env("JWT_SECRET", SECRET)
            .env("APP_ENV", "production")
            .env("RATE_LIMIT_REQUESTS_PER_SECOND", "0")
            .env("RATE_LIMIT_EVENTS_PER_SECOND", "0")
            .envs(settings.iter().map(|(name, value)| (*name, value.as_str())))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let node = Self {
            process,
            port,
            metrics_port,
            store: open(&Settings::new(url)).unwrap(),
            url: url.to_owned(),
        };
        node.ready().await;
        node
    }

    /// Waits until it says that it is ready.
    pub(crate) async fn ready(&self) {
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = self.ask("GET", "/readyz", None, None).await
                && answer.status == 200
            {
                return;
            }
            assert!(Instant::now() < give_up, "the node is not ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn client(&self) -> Person {
        let account = NewClient {
            email: "client@example.com".to_owned(),
            password_hash: NO_HASH.to_owned(),
            first_name: "Carla".to_owned(),
            last_name: "Client".to_owned(),
            company: None,
            phone: None,
            country: None,
            at: Timestamp::now(),
        };
        signed_in(&self.store.register_client(&account).await.unwrap().unwrap())
    }

    pub(crate) async fn agent(&self) -> Person {
        let account = NewAdmin {
            email: "agent@example.com".to_owned(),
            password_hash: NO_HASH.to_owned(),
            first_name: None,
            last_name: None,
            at: Timestamp::now(),
        };
        signed_in(&self.store.create_admin(&account).await.unwrap().unwrap())
    }

    pub(crate) async fn get(&self, path: &str, person: &Person) -> Answer {
        self.ask("GET", path, Some(person), None).await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, person: &Person, body: &Value) -> Answer {
        self.ask("POST", path, Some(person), Some(body))
            .await
            .unwrap()
    }

    /// A plain socket of somebody, let in.
    pub(crate) async fn socket(&self, person: &Person) -> Socket {
        let mut request = format!("ws://127.0.0.1:{}/ws", self.port)
            .into_client_request()
            .unwrap();
        let token = format!("Bearer {}", person.token).parse().unwrap();
        request.headers_mut().insert("authorization", token);
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (socket, _) = tokio_tungstenite::client_async(request, stream)
            .await
            .unwrap();
        Socket(socket)
    }

    /// Every sample that is shown, by its name with its labels.
    pub(crate) async fn metrics(&self) -> BTreeMap<String, f64> {
        let text = fetch(
            self.metrics_port,
            "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        );
        let text = text.await.unwrap();
        text.lines()
            .filter(|line| line.starts_with("chat_"))
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect()
    }

    /// What it holds in memory, KiB.
    pub(crate) fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most it ever held, KiB.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.status("VmHWM:")
    }

    fn status(&self, key: &str) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// The only number that plain SQL answers.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let mut conn = MySqlConnection::connect(&self.url).await.unwrap();
        let sql = AssertSqlSafe(sql.to_owned());
        sqlx::query_scalar(sql).fetch_one(&mut conn).await.unwrap()
    }

    /// `None` where nobody listens yet.
    async fn ask(
        &self,
        method: &str,
        path: &str,
        person: Option<&Person>,
        body: Option<&Value>,
    ) -> Option<Answer> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let token = person.map_or("", |person| person.token.as_str());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let begun = Instant::now();
        let answer = fetch(self.port, &request).await?;
        let after = begun.elapsed();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let retry_after = head
            .lines()
            .find_map(|line| line.strip_prefix("retry-after: "))
            .map(|seconds| seconds.parse().unwrap());
        Some(Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            retry_after,
            body: serde_json::from_str(body).unwrap_or_default(),
            after,
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A plain socket.
pub(crate) struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    pub(crate) async fn send(&mut self, id: usize, event: &str, data: &Value) {
        let frame = json!({ "event": event, "data": data, "id": id });
        self.0.send(Message::text(frame.to_string())).await.unwrap();
    }

    /// The next acknowledgement: its id and the envelope. Events are passed over.
    pub(crate) async fn answer(&mut self) -> (usize, Value) {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.0.next()).await;
            if let Some(answer) = read(&next.unwrap().unwrap().unwrap()) {
                return answer;
            }
        }
    }

    /// One that is there already, if any.
    pub(crate) async fn answer_at_hand(&mut self) -> Option<(usize, Value)> {
        let next = tokio::time::timeout(Duration::ZERO, self.0.next())
            .await
            .ok()?;
        read(&next.unwrap().unwrap())
    }
}

fn read(message: &Message) -> Option<(usize, Value)> {
    let Message::Text(text) = message else {
        return None;
    };
    let mut frame: Value = serde_json::from_str(text).unwrap();
    let id = frame["ack"].as_u64()?;
    Some((usize::try_from(id).unwrap(), frame["data"].take()))
}

fn signed_in(user: &User) -> Person {
    let tokens = AccessTokens::new(&Secret::new(SECRET), &[]);
    let token = tokens.issue(user, "session", Timestamp::now()).unwrap();
    Person { token }
}

/// Sends a request and reads until the other end closes.
async fn fetch(port: u16, request: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer));
    read.await.unwrap().ok()?;
    Some(answer)
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
