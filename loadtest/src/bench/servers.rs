//! What the systems under test stand on: a private MariaDB and Redis on the load's core, with all their files in a folder
//! of their own.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use super::processes::{Process, free_port};
use crate::world::{self, Fault, World};

/// MariaDB and Redis, while they run.
pub(crate) struct Servers {
    mysql_port: u16,
    redis_port: u16,
    runtime: tokio::runtime::Runtime,
    databases: u32,
    mariadb: Process,
    redis: Process,
}

impl Servers {
    /// Starts both, and returns when they answer.
    pub(crate) fn start(folder: &Path) -> io::Result<Self> {
        let mysql_port = free_port()?;
        let redis_port = free_port()?;
        Ok(Self {
            mariadb: start_mariadb(&folder.join("mariadb"), mysql_port)?,
            redis: start_redis(&folder.join("redis"), redis_port)?,
            mysql_port,
            redis_port,
            databases: 0,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
        })
    }

    /// Their processes.
    pub(crate) fn pids(&self) -> [u32; 2] {
        [self.mariadb.pid(), self.redis.pid()]
    }

    /// A new database with everybody in it.
    pub(crate) fn database(&mut self, world: World) -> Result<String, Fault> {
        self.databases += 1;
        let root = format!("mysql://root@127.0.0.1:{}/", self.mysql_port);
        // The one before is done with.
        let drop = format!("DROP DATABASE IF EXISTS bench_{}", self.databases - 1);
        let create = format!("CREATE DATABASE bench_{}", self.databases);
        let database = format!("{root}bench_{}", self.databases);
        self.runtime.block_on(async {
            let mut sql = world::connect(&format!("{root}mysql")).await?;
            for statement in [drop, create] {
                sqlx::Executor::execute(&mut sql, sqlx::AssertSqlSafe(statement)).await?;
            }
            world.seed(&database).await
        })?;
        Ok(database)
    }

    /// Redis, emptied.
    pub(crate) fn redis(&self) -> io::Result<String> {
        use std::io::{Read, Write};
        let mut stream = TcpStream::connect(("127.0.0.1", self.redis_port))?;
        stream.write_all(b"FLUSHALL\r\n")?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer)?;
        Ok(format!("redis://127.0.0.1:{}/", self.redis_port))
    }
}

fn start_mariadb(folder: &Path, port: u16) -> io::Result<Process> {
    fs::create_dir_all(folder)?;
    let data = folder.join("data");
    let user = std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
    if data.is_dir() {
        fs::remove_dir_all(&data)?;
    }
    let installed = Command::new("mariadb-install-db")
        .args([
            "--no-defaults",
            "--skip-test-db",
            "--auth-root-authentication-method=normal",
        ])
        .arg(format!("--datadir={}", data.display()))
        .arg(format!("--user={user}"))
        .output()?;
    if !installed.status.success() {
        let why = String::from_utf8_lossy(&installed.stderr).into_owned();
        return Err(io::Error::other(format!("mariadb-install-db: {why}")));
    }
    // A commit is on the disk before it is answered; room enough in memory and log that nothing else is waited for.
    let mut command = Command::new("mariadbd");
    command
        .args([
            "--no-defaults",
            "--bind-address=127.0.0.1",
            "--max-connections=1000",
        ])
        .args([
            "--character-set-server=utf8mb4",
            "--innodb-flush-log-at-trx-commit=1",
        ])
        .args(["--innodb-buffer-pool-size=1G", "--innodb-log-file-size=1G"])
        .arg(format!("--port={port}"))
        .arg(format!("--user={user}"))
        .arg(format!("--datadir={}", data.display()))
        .arg(format!("--socket={}", folder.join("socket").display()))
        .arg(format!("--pid-file={}", folder.join("pid").display()));
    let mut process = Process::start("mariadb", &mut command, folder)?;
    process.until(|| listens(port))?;
    Ok(process)
}

fn start_redis(folder: &Path, port: u16) -> io::Result<Process> {
    fs::create_dir_all(folder)?;
    let mut command = Command::new("redis-server");
    command
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .arg("--port")
        .arg(port.to_string())
        .arg("--dir")
        .arg(folder);
    let mut process = Process::start("redis", &mut command, folder)?;
    process.until(|| listens(port))?;
    Ok(process)
}

fn listens(port: u16) -> bool {
    TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).is_ok()
}
