//! Backups and their way back: through the database's own tools on MySQL (`tools`), through SQLite itself on SQLite.
//!
//! After a restore the numbers go on far beyond those of the backup. What was handed out since and is lost now, is still
//! known to others: the place a client will `sync` from, the place where the bus stands, ids in tokens that are still good.
//! None of them may ever mean something else, so each conversation's `lastEventSeq` and the tables' next ids jump ahead. A
//! client or a bus that meets the jump takes it for a gap, which each of them can mend. What was handed out after an earlier restore of
//! the same backup is known to others as well, and to no database any more: so they jump the further the later it is.

mod tools;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::{Duration, Instant};

use chrono::Utc;
use sqlx::sqlite::SqliteConnectOptions;
use tokio::time::sleep;

use super::SqlStore;
use super::conn::Conn;
use super::db::Db;
use super::dialect::Dialect;
use super::fault::Fault;
use super::query::Query;
use super::schema;
use crate::store::types::UNFINISHED_RESTORE;
use crate::store::{Restored, Settings, StoreError, UpkeepError};

/// How far numbers jump after a restore, at least: more than was ever written between two backups, and little of an INT. Further by the
/// time since the backup's last change: an id a second is more than accounts and conversations need between two restores, of
/// `eventSeq`, which is a BIGINT, there is one a millisecond.
const JUMP: i64 = 1_000_000;

/// Since when the clock counts by which numbers jump further, milliseconds since 1970, where the backup has no change that is later: the
/// beginning of 2025.
const CLOCK_BEGINS: i64 = 1_735_689_600_000;

/// How long connections that have been ended may take to let a file or a database go.
const LETTING_GO: Duration = Duration::from_secs(2);

/// The line that the tools end a whole dump with.
const COMPLETE: &str = "-- Dump completed";

/// What every SQLite file begins with.
const SQLITE_FILE: &[u8] = b"SQLite format 3\0";

impl SqlStore {
    /// See `Upkeep::backup`.
    pub(super) async fn back_up(&self, to: &Path) -> Result<u64, UpkeepError> {
        if to.exists() {
            return Err(UpkeepError::Hindered(format!(
                "{} is there already",
                to.display()
            )));
        }
        let partial = with_suffix(to, ".partial");
        let outcome = self.write_backup(&partial, to).await;
        if outcome.is_err() {
            let _ = fs::remove_file(&partial);
        }
        outcome
    }

    async fn write_backup(&self, partial: &Path, to: &Path) -> Result<u64, UpkeepError> {
        let named = |error| file_error(partial, error);
        let _ = fs::remove_file(partial);
        let file = private(partial).map_err(named)?;
        match self.dialect() {
            Dialect::MySql => {
                let mut conn = self.db.unhurried().await?;
                // A backup of a part would be restored as if it were all.
                if schema::is_half_restored(&mut conn, Dialect::MySql).await? {
                    return Err(UpkeepError::Hindered(UNFINISHED_RESTORE.to_owned()));
                }
                drop(conn);
                tools::dump(&self.address, file.try_clone().map_err(named)?).await?;
                is_whole_dump(partial).map_err(named)?;
            }
            Dialect::Sqlite => {
                let mut conn = self.db.unhurried().await?;
                let path = partial.to_string_lossy().into_owned();
                conn.run(Query::new("VACUUM INTO ?").bind(path)).await?;
                let copy = sqlite_db(partial)?;
                let mut conn = copy.unhurried().await?;
                is_sound(&mut conn).await?;
                close_file(conn).await?;
            }
        }
        // Written through another handle: the data are the file's, whoever wrote them.
        file.sync_all().map_err(named)?;
        put_in_place(partial, to)?;
        Ok(file.metadata().map_err(named)?.len())
    }

    /// See `Upkeep::restore`.
    pub(super) async fn put_back(
        &self,
        from: &Path,
        replace: bool,
    ) -> Result<Restored, UpkeepError> {
        match self.dialect() {
            Dialect::MySql => self.put_back_dump(from, replace).await,
            Dialect::Sqlite => self.put_back_file(from, replace).await,
        }
    }

    async fn put_back_dump(&self, from: &Path, replace: bool) -> Result<Restored, UpkeepError> {
        is_whole_dump(from).map_err(|error| file_error(from, error))?;
        // Before anything is dropped.
        tools::find_loader()?;
        let mut conn = self.db.unhurried().await?;
        is_alone(&mut conn).await?;
        // Whoever begins to migrate just now has done so by then, and is seen; later ones wait until this connection ends.
        schema::take_turn(&mut conn).await?;
        is_alone(&mut conn).await?;
        let mark = schema::RESTORE_UNFINISHED;
        let tables = conn
            .all(Query::new(format!(
                "SELECT TABLE_TYPE, TABLE_NAME FROM information_schema.TABLES \
                 WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME <> '{mark}'",
            )))
            .await?;
        if !tables.is_empty() && !replace {
            return Err(not_empty());
        }
        // An account without the right to must not leave a mark that it can't take away. There is no such table.
        conn.raw("DROP TABLE IF EXISTS RestoreRights").await?;
        // Before the first table goes: while it is there, no node serves this database. One may be there from before.
        let was_marked = schema::is_half_restored(&mut conn, Dialect::MySql).await?;
        conn.raw(&format!(
            "CREATE TABLE IF NOT EXISTS {mark} (id INT NOT NULL PRIMARY KEY)"
        ))
        .await?;
        // A node that does not migrate takes no turn: one that came just before the mark serves for a moment yet.
        if let Err(hindered) = is_alone(&mut conn).await {
            if !was_marked {
                conn.raw(&format!("DROP TABLE {mark}")).await?;
            }
            return Err(hindered);
        }
        conn.raw("SET SESSION foreign_key_checks = 0").await?;
        for row in tables {
            let mut cells = row.cells();
            let kind = match cells.text()?.as_str() {
                "VIEW" => "VIEW",
                _ => "TABLE",
            };
            let name = cells.text()?.replace('`', "``");
            conn.raw(&format!("DROP {kind} `{name}`")).await?;
        }
        let turn = conn;
        let file = File::open(from).map_err(|error| file_error(from, error))?;
        tools::load(&self.address, file).await?;
        // The other may have been idle for longer than the way to the database bears.
        let mut conn = self.db.unhurried().await?;
        schema::bring_up_to_date(&mut conn, Dialect::MySql).await?;
        jump(&mut conn, Dialect::MySql).await?;
        let restored = count(&mut conn).await?;
        conn.raw(&format!("DROP TABLE {mark}")).await?;
        drop(turn);
        Ok(restored)
    }

    async fn put_back_file(&self, from: &Path, replace: bool) -> Result<Restored, UpkeepError> {
        let target = sqlite_options(&self.address)?.get_filename().to_owned();
        let named = |error| file_error(from, error);
        let mut begin = [0; 16];
        let mut file = File::open(from).map_err(named)?;
        if file.read_exact(&mut begin).is_err() || begin != SQLITE_FILE {
            return Err(UpkeepError::Hindered(format!(
                "{} is no backup of an SQLite database",
                from.display()
            )));
        }
        if target.exists() {
            let mut conn = self.db.unhurried().await?;
            let tables = Query::new("SELECT COUNT(*) FROM sqlite_master WHERE type = 'table'");
            let tables = conn.first(tables).await?.map_or(Ok(0), |row| row.int())?;
            if tables > 0 && !replace {
                return Err(not_empty());
            }
            drop(conn);
            self.db.close().await;
            // A database that others have open can't leave this mode: so nobody has, and the log beside it is gone.
            let give_up = Instant::now() + LETTING_GO;
            while close_file(sqlite_db(&target)?.unhurried().await?)
                .await
                .is_err()
            {
                if Instant::now() > give_up {
                    return Err(UpkeepError::Hindered(
                        "somebody has this database open: stop the node first".to_owned(),
                    ));
                }
                sleep(LETTING_GO / 20).await;
            }
        }
        let partial = with_suffix(&target, ".restoring");
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).map_err(|error| file_error(folder, error))?;
        }
        let _ = fs::remove_file(&partial);
        let to = |error| file_error(&partial, error);
        let mut copy = private(&partial).map_err(to)?;
        file.seek(SeekFrom::Start(0)).map_err(named)?;
        io::copy(&mut file, &mut copy).map_err(to)?;
        let mut conn = sqlite_db(&partial)?.unhurried().await?;
        is_sound(&mut conn).await?;
        schema::bring_up_to_date(&mut conn, Dialect::Sqlite).await?;
        jump(&mut conn, Dialect::Sqlite).await?;
        let restored = count(&mut conn).await?;
        close_file(conn).await?;
        copy.sync_all().map_err(to)?;
        put_in_place(&partial, &target)?;
        Ok(restored)
    }
}

/// Fails where others are connected to this MySQL database.
async fn is_alone(conn: &mut Conn) -> Result<(), UpkeepError> {
    // What has just ended may be seen for a moment.
    let give_up = Instant::now() + LETTING_GO;
    loop {
        let others = Query::new(
            "SELECT COUNT(*) FROM information_schema.PROCESSLIST \
             WHERE DB = DATABASE() AND ID <> CONNECTION_ID()",
        );
        if conn.first(others).await?.map_or(Ok(0), |row| row.int())? == 0 {
            return Ok(());
        }
        if Instant::now() > give_up {
            return Err(UpkeepError::Hindered(
                "others are connected to this database: stop the nodes first".to_owned(),
            ));
        }
        sleep(LETTING_GO / 20).await;
    }
}

fn not_empty() -> UpkeepError {
    UpkeepError::Hindered(
        "the database is not empty: with --replace-everything all that is in it goes".to_owned(),
    )
}

/// Makes a file that only its owner can read.
fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Gives a whole file its name, for good.
fn put_in_place(partial: &Path, to: &Path) -> Result<(), UpkeepError> {
    let named = |error| file_error(to, error);
    fs::rename(partial, to).map_err(named)?;
    let folder = match to.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(named)
}

fn file_error(path: &Path, error: io::Error) -> UpkeepError {
    UpkeepError::File(path.display().to_string(), error)
}

/// Fails where a dump is not whole: its tool was stopped, or the disk was full.
fn is_whole_dump(path: &Path) -> io::Result<()> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(200)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    let end = String::from_utf8_lossy(&end);
    if end.lines().any(|line| line.starts_with(COMPLETE)) {
        Ok(())
    } else {
        Err(io::Error::other("it is not a whole dump"))
    }
}

fn sqlite_options(url: &str) -> Result<SqliteConnectOptions, UpkeepError> {
    SqliteConnectOptions::from_str(url)
        .map_err(|error| UpkeepError::Store(StoreError::from(Fault::from(error))))
}

/// Another SQLite file, opened as the store's own is.
fn sqlite_db(path: &Path) -> Result<Db, UpkeepError> {
    let url = format!("sqlite://{}", path.display());
    Db::open(&url, &Settings::new(&*url), "database")
        .map_err(|error| UpkeepError::Hindered(error.to_string()))
}

/// Leaves one file alone, without a log beside it. Fails where another has it open.
async fn close_file(mut conn: Conn) -> Result<(), Fault> {
    conn.raw("PRAGMA busy_timeout = 0").await?;
    let row = conn
        .first(Query::new("PRAGMA journal_mode = DELETE"))
        .await?;
    match row
        .map_or(Ok(String::new()), |row| row.cells().text())?
        .as_str()
    {
        "delete" => Ok(()),
        _ => Err(Fault::TooSlow),
    }
}

async fn is_sound(conn: &mut Conn) -> Result<(), UpkeepError> {
    let row = conn.first(Query::new("PRAGMA integrity_check")).await?;
    let answer = row.map_or(Ok(String::new()), |row| row.cells().text())?;
    if answer == "ok" {
        Ok(())
    } else {
        Err(UpkeepError::Hindered(
            "SQLite finds the copy damaged: run PRAGMA integrity_check on the database".to_owned(),
        ))
    }
}

/// See the top of this file. What was still to be published is on the way to nobody any more.
async fn jump(conn: &mut Conn, dialect: Dialect) -> Result<(), Fault> {
    let last = Query::new("SELECT MAX(createdAt) FROM ConversationEvents");
    let last = match conn.first(last).await? {
        Some(row) => row.cells().opt_int()?.unwrap_or(0),
        None => 0,
    };
    let since_ms = (Utc::now().timestamp_millis() - last.max(CLOCK_BEGINS)).max(0);
    let mut statements = vec![
        format!(
            "UPDATE Conversations SET lastEventSeq = lastEventSeq + {}",
            JUMP + since_ms
        ),
        "DELETE FROM Outbox".to_owned(),
    ];
    for (table, others) in [
        ("Users", None),
        ("Clients", None),
        (
            "Conversations",
            Some("SELECT MAX(conversationId) FROM ConversationEvents"),
        ),
        ("Messages", Some("SELECT MAX(id) FROM ArchivedMessages")),
    ] {
        let mut highest = 0;
        let own = format!("SELECT MAX(id) FROM {table}");
        for sql in [Some(own), others.map(str::to_owned)].into_iter().flatten() {
            if let Some(row) = conn.first(Query::new(sql)).await? {
                highest = highest.max(row.cells().opt_int()?.unwrap_or(0));
            }
        }
        let next = highest + JUMP + since_ms / 1000;
        match dialect {
            Dialect::MySql => {
                statements.push(format!("ALTER TABLE {table} AUTO_INCREMENT = {next}"));
            }
            Dialect::Sqlite => statements.extend([
                format!("DELETE FROM sqlite_sequence WHERE name = '{table}'"),
                format!("INSERT INTO sqlite_sequence (name, seq) VALUES ('{table}', {next})"),
            ]),
        }
    }
    for statement in statements {
        conn.raw(&statement).await?;
    }
    Ok(())
}

async fn count(conn: &mut Conn) -> Result<Restored, Fault> {
    let mut counts = [0; 5];
    let queries = [
        "SELECT COUNT(*) FROM Users",
        "SELECT COUNT(*) FROM Conversations",
        "SELECT COUNT(*) FROM Messages",
        "SELECT COUNT(*) FROM ArchivedMessages",
        "SELECT COUNT(*) FROM Conversations c WHERE c.lastSeq <> \
         (SELECT COUNT(m.seq) FROM Messages m WHERE m.conversationId = c.id) + \
         (SELECT COUNT(*) FROM ArchivedMessages a WHERE a.conversationId = c.id)",
    ];
    for (count, sql) in counts.iter_mut().zip(queries) {
        *count = conn
            .first(Query::new(sql))
            .await?
            .map_or(Ok(0), |row| row.int())?;
    }
    let [users, conversations, messages, archived, incomplete] = counts;
    Ok(Restored {
        users,
        conversations,
        messages,
        archived,
        incomplete,
    })
}
