//! A MariaDB of a test's own, which it may freeze, kill and start again. No assertions about the gateway here.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySqlConnection};

/// How long a server may take to start, on a busy machine too.
const START: Duration = Duration::from_secs(60);

/// A private MariaDB with an empty database `chat`.
pub(crate) struct MariaDb {
    pub(crate) port: u16,
    folder: PathBuf,
    /// What else it is started with.
    options: Vec<String>,
    process: Option<Child>,
}

impl MariaDb {
    /// Starts one on a free port.
    pub(crate) async fn start() -> Self {
        Self::start_with(Vec::new()).await
    }

    /// Starts one with more options.
    pub(crate) async fn start_with(options: Vec<String>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        drop(listener);
        let name = format!("chat-test-mariadb-{port}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a folder for MariaDB");
        let installed = command("mariadb-install-db", &folder)
            .args(["--no-defaults", "--skip-test-db"])
            .arg("--auth-root-authentication-method=normal")
            .arg(format!("--user={}", me()))
            .arg(format!("--datadir={}", data(&folder).display()))
            .output()
            .expect("MariaDB is installed");
        assert!(installed.status.success(), "{installed:?}");
        let mut server = Self {
            port,
            folder,
            options,
            process: None,
        };
        server.restart().await;
        server
            .sql(&["CREATE DATABASE chat CHARACTER SET utf8mb4"])
            .await;
        server
    }

    /// Starts it, or starts it again, and waits until it answers.
    pub(crate) async fn restart(&mut self) {
        self.spawn();
        let give_up = Instant::now() + START;
        while MySqlConnection::connect(&self.server()).await.is_err() {
            assert!(Instant::now() < give_up, "MariaDB did not start");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Starts it without waiting.
    pub(crate) fn spawn(&mut self) {
        self.kill();
        let process = command("mariadbd", &self.folder)
            .arg("--no-defaults")
            .arg(format!("--datadir={}", data(&self.folder).display()))
            .arg(format!("--socket={}", self.folder.join("socket").display()))
            .arg(format!("--port={}", self.port))
            .arg(format!("--user={}", me()))
            .args(["--bind-address=127.0.0.1", "--character-set-server=utf8mb4"])
            .args(&self.options)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.process = Some(process.expect("MariaDB is installed"));
    }

    /// Ends it without a word, as a power cut would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("a process of our own");
            process.wait().expect("its end");
        }
    }

    /// Stops it from answering, with its connections open.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    /// The address of the database, for everybody.
    pub(crate) fn url(&self) -> String {
        format!("{}chat", self.server())
    }

    /// Plain SQL as the one who may do everything.
    pub(crate) async fn sql(&self, statements: &[&str]) {
        let mut conn = self.root().await;
        for sql in statements {
            let sql = sqlx::raw_sql(AssertSqlSafe((*sql).to_owned()));
            conn.execute(sql).await.expect("SQL of the test's own");
        }
        conn.close().await.expect("a connection of the test's own");
    }

    /// A connection of the one who may do everything.
    pub(crate) async fn root(&self) -> MySqlConnection {
        MySqlConnection::connect(&self.server())
            .await
            .expect("a running MariaDB")
    }

    fn server(&self) -> String {
        format!("mysql://root@127.0.0.1:{}/", self.port)
    }

    fn signal(&self, name: &str) {
        let process = self.process.as_ref().expect("a running MariaDB");
        let status = Command::new("kill")
            .args([name, &process.id().to_string()])
            .status();
        assert!(status.expect("kill is installed").success());
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A program of MariaDB's, which Debian keeps where only root looks. Its temporary files are named by process ids, which
/// several containers with one `/tmp` may share: they go where the data is.
fn command(program: &str, folder: &Path) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command.env("TMPDIR", folder);
    command
}

/// Who runs this: MariaDB does not run as root unless told to.
fn me() -> String {
    let id = Command::new("id").arg("-un").output();
    let name = id.expect("id is installed").stdout;
    String::from_utf8_lossy(&name).trim().to_owned()
}

fn data(folder: &Path) -> PathBuf {
    folder.join("data")
}
