//! The built binary: whether it is ready, and all that it has said. No assertions about a server here.

use std::fs::File;
use std::net::TcpListener;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::certificates::Folder;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `gateway doctor` says of settings, and whether it is content.
pub(crate) fn doctor(settings: &[(&str, String)]) -> (bool, String) {
    let folder = Folder::new();
    let output = command(&folder)
        .arg("doctor")
        .envs(settings.iter().map(|(name, value)| (*name, value.as_str())))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    (output.status.success(), said)
}

/// The binary, with an SQLite file in a folder.
fn command(folder: &Folder) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gateway"));
    command
        .env_clear()
        .env("HOST", "127.0.0.1")
        .env("METRICS_ADDR", "")
        .env(
            "DATABASE_URL",
            format!("sqlite://{}/chat.db", folder.path("data").display()),
        )
        .env("JWT_SECRET", "a secret for tests of at least 32 bytes")
        .env("APP_ENV", "production");
    command
}

/// A running node, whose SQLite file, where it has one, and log are in a folder of its own.
pub(crate) struct Node {
    process: Child,
    port: u16,
    folder: Folder,
}

impl Node {
    pub(crate) fn start(settings: &[(&str, String)]) -> Self {
        let folder = Folder::new();
        let port = free_port();
        let log = File::create(folder.path("log")).unwrap();
        let process = command(&folder)
            .env("PORT", port.to_string())
            .envs(settings.iter().map(|(name, value)| (*name, value.as_str())))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self {
            process,
            port,
            folder,
        }
    }

    /// All that it has said.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path("log")).unwrap()
    }

    /// The status of `/readyz`; `None` where nobody listens yet.
    pub(crate) async fn readiness(&self) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        let ask = "GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(ask.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer))
    }

    pub(crate) async fn is_ready(&self) {
        self.until("the node is not ready", async || {
            matches!(self.readiness().await, Some((200, _)))
        })
        .await;
    }

    /// Waits until it has said something, and is not ready for want of a part.
    pub(crate) async fn wants(&self, part: &str, said: &str) {
        self.until(&format!("it never said {said}"), async || {
            self.log().contains(said)
                && matches!(self.readiness().await, Some((503, answer)) if answer.contains(part))
        })
        .await;
    }

    /// Waits for its end by itself; its status.
    pub(crate) async fn end(&mut self) -> Option<i32> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < give_up, "it goes on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until(&self, otherwise: &str, is_so: impl AsyncFn() -> bool) {
        let give_up = Instant::now() + PATIENCE;
        while !is_so().await {
            assert!(Instant::now() < give_up, "{otherwise}:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
