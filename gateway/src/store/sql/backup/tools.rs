//! The tools of MySQL and MariaDB: which one is here, and how they are told where the database is. The password goes through a
//! file that only its owner can read: arguments and environments can be seen by others.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use percent_encoding::percent_decode_str;
use url::Url;

use super::private;
use crate::store::UpkeepError;

/// The most of a tool's complaint that is repeated.
const COMPLAINT: usize = 600;

/// Writes a consistent dump of a database, while others write.
pub(super) async fn dump(address: &str, to: File) -> Result<(), UpkeepError> {
    run(
        address,
        ["mariadb-dump", "mysqldump"],
        &[
            "--single-transaction",
            "--quick",
            "--hex-blob",
            "--no-tablespaces",
            "--default-character-set=utf8mb4",
        ],
        Stdio::null(),
        to.into(),
    )
    .await
}

/// The programs that run a dump's statements.
const LOADERS: [&str; 2] = ["mariadb", "mysql"];

/// Fails where there is no program to `load` with.
pub(super) fn find_loader() -> Result<(), UpkeepError> {
    find(LOADERS).map(drop)
}

/// Runs a dump's statements in a database.
pub(super) async fn load(address: &str, from: File) -> Result<(), UpkeepError> {
    run(
        address,
        LOADERS,
        &["--default-character-set=utf8mb4"],
        from.into(),
        Stdio::null(),
    )
    .await
}

async fn run(
    address: &str,
    programs: [&str; 2],
    arguments: &[&str],
    input: Stdio,
    output: Stdio,
) -> Result<(), UpkeepError> {
    let program = find(programs)?;
    let (options, database) = options(address)?;
    let defaults = Defaults::write(&options)?;
    let mut command = Command::new(&program);
    command
        .arg(format!("--defaults-file={}", defaults.0.display()))
        .args(arguments)
        .arg(database)
        .stdin(input)
        .stdout(output)
        .stderr(Stdio::piped());
    let outcome = tokio::task::spawn_blocking(move || command.output()).await;
    drop(defaults);
    let name = program.display();
    let outcome = outcome
        .map_err(|error| UpkeepError::Hindered(format!("{name}: {error}")))?
        .map_err(|error| UpkeepError::File(name.to_string(), error))?;
    if outcome.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&outcome.stderr);
    let complaint: String = complaint.trim().chars().take(COMPLAINT).collect();
    Err(UpkeepError::Hindered(format!("{name} failed: {complaint}")))
}

/// The first of some programs that is in the `PATH`.
fn find(programs: [&str; 2]) -> Result<PathBuf, UpkeepError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    programs
        .iter()
        .flat_map(|program| std::env::split_paths(&path).map(move |folder| folder.join(program)))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| {
            UpkeepError::Hindered(format!(
                "needs {} or {} in the PATH: in Debian of the package mariadb-client, elsewhere of mysql-client",
                programs[0], programs[1]
            ))
        })
}

/// An options file, gone with this.
struct Defaults(PathBuf);

impl Defaults {
    fn write(options: &str) -> Result<Self, UpkeepError> {
        let name = format!("chat-gateway-{}.cnf", uuid::Uuid::new_v4().simple());
        let path = std::env::temp_dir().join(name);
        let named = |error| UpkeepError::File("an options file".to_owned(), error);
        let mut file = private(&path).map_err(named)?;
        let written = Self(path);
        file.write_all(options.as_bytes()).map_err(named)?;
        Ok(written)
    }
}

impl Drop for Defaults {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The contents of an options file for an address, and the database's name. What only one of MySQL's and MariaDB's tools
/// knows is `loose`.
fn options(address: &str) -> Result<(String, String), UpkeepError> {
    let wrong = || UpkeepError::Hindered("DATABASE_URL is no mysql:// address".to_owned());
    let url = Url::parse(address).map_err(|_| wrong())?;
    let decoded = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let database = decoded(url.path().trim_start_matches('/'));
    let mut text = String::from("[client]\n");
    let mut set = |name: &str, value: &str| {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"");
        let _ = writeln!(text, "{name}=\"{value}\"");
    };
    set("host", url.host_str().ok_or_else(wrong)?);
    set("port", &url.port().unwrap_or(3306).to_string());
    set("user", &decoded(url.username()));
    if let Some(password) = url.password() {
        set("password", &decoded(password));
    }
    let mut mode = "PREFERRED".to_owned();
    for (key, value) in url.query_pairs() {
        match &*key {
            "sslmode" | "ssl-mode" => mode = value.to_uppercase().replace('-', "_"),
            "sslca" | "ssl-ca" => set("ssl-ca", &value),
            "sslcert" | "ssl-cert" => set("ssl-cert", &value),
            "sslkey" | "ssl-key" => set("ssl-key", &value),
            "socket" => set("socket", &value),
            _ => {}
        }
    }
    set("loose-ssl-mode", &mode);
    let flags: &[&str] = match mode.as_str() {
        "DISABLED" => &["loose-skip-ssl"],
        "PREFERRED" => &["loose-disable-ssl-verify-server-cert"],
        "REQUIRED" => &["loose-ssl", "loose-disable-ssl-verify-server-cert"],
        _ => &["loose-ssl", "loose-ssl-verify-server-cert"],
    };
    for flag in flags {
        let _ = writeln!(text, "{flag}");
    }
    text.push_str("[mysqldump]\nloose-set-gtid-purged=OFF\nloose-column-statistics=0\n");
    Ok((text, database))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_becomes_options() {
        let (text, database) = options(
            "mysql://me%40x:p%22a%5Cs%23+s%3D1%261@db:3307/chat?ssl-mode=verify_ca&ssl-ca=/ca.pem",
        )
        .unwrap();
        assert_eq!(database, "chat");
        for line in [
            "host=\"db\"",
            "port=\"3307\"",
            "user=\"me@x\"",
            "password=\"p\\\"a\\\\s#+s=1&1\"",
            "ssl-ca=\"/ca.pem\"",
            "loose-ssl-mode=\"VERIFY_CA\"",
            "loose-ssl-verify-server-cert",
        ] {
            assert!(text.lines().any(|one| one == line), "{line}\n{text}");
        }
        assert!(options("not an address").is_err());
    }
}
