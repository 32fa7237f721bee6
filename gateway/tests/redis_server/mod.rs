//! Redis for tests: the shared one, and private ones that a test may stop, restart and kill. No assertions about the
//! gateway here.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use gateway::bus::redis::RedisSettings;

/// The Redis all tests share, with names of this test's own.
///
/// # Panics
///
/// If there is none.
pub(crate) fn shared_redis() -> RedisSettings {
    let url = std::env::var("TEST_REDIS_URL")
        .expect("TEST_REDIS_URL names no Redis: run the tests with `make test`");
    own_names(url)
}

/// A Redis of this test's own, empty at every start.
pub(crate) struct RedisServer {
    port: u16,
    directory: PathBuf,
    /// What else it is started with.
    options: Vec<String>,
    process: Option<Child>,
}

impl RedisServer {
    /// Starts one on a free port.
    pub(crate) fn start() -> Self {
        let mut server = Self::reserve();
        server.restart();
        server
    }

    /// Starts one with more options.
    #[allow(dead_code, reason = "only one of the suites needs it")]
    pub(crate) fn start_with(options: Vec<String>) -> Self {
        let mut server = Self::reserve();
        server.options = options;
        server.restart();
        server
    }

    /// Finds a free port for one that does not run yet.
    pub(crate) fn reserve() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let directory =
            std::env::temp_dir().join(format!("chat-test-redis-{port}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory for Redis");
        Self {
            port,
            directory,
            options: Vec::new(),
            process: None,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn settings(&self) -> RedisSettings {
        own_names(format!("redis://127.0.0.1:{}/", self.port))
    }

    /// Starts it, empty, on the same port.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let mut process = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--port", &self.port.to_string(), "--dir"])
            .arg(&self.directory)
            .args(&self.options)
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-server is installed");
        let lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        self.process = Some(process);
        let mut said = lines.map_while(Result::ok);
        assert!(
            said.any(|line| line.contains("Ready to accept connections")),
            "Redis did not start"
        );
        // It stops when nobody reads what it says.
        std::thread::spawn(move || said.for_each(drop));
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("a process of our own");
            process.wait().expect("its end");
        }
    }

    /// Stops it from answering, with its connections open: to a client it looks like a link that was cut silently.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, name: &str) {
        let process = self.process.as_ref().expect("a running Redis");
        let status = Command::new("kill")
            .args([name, &process.id().to_string()])
            .status();
        assert!(status.expect("kill is installed").success());
    }

    /// Asks it something on a connection of its own.
    pub(crate) async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let client =
            redis::Client::open(format!("redis://127.0.0.1:{}/", self.port)).expect("an address");
        let mut connection = client
            .get_multiplexed_async_connection()
            .await
            .expect("a connection");
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command
            .query_async(&mut connection)
            .await
            .expect("an answer")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn own_names(url: String) -> RedisSettings {
    let mut settings = RedisSettings::new(url);
    settings.prefix = format!("test:{:016x}:", rand::random::<u64>());
    settings.command_timeout = Duration::from_secs(2);
    settings
}
