//! How a statement fails, and which failures are worth another try. No text of the database's own gets out of here that
//! could hold a row's content.

use sqlx::mysql::MySqlDatabaseError;

use crate::gate::Full;
use crate::store::{StoreError, UpkeepError};

/// A failed statement.
#[derive(Debug)]
pub(super) enum Fault {
    /// As the driver reports it.
    Sql(sqlx::Error),
    /// It took longer than the statement timeout.
    TooSlow,
    /// A row was there before ours, where the second attempt will find it.
    Overtaken,
    /// Too many wait for a connection already: refused before anything was begun.
    Full(Full),
}

/// What is told of a fault: where it happened and its code, not the database's sentence, which may quote values.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Told(String);

// Codes of MySQL and MariaDB. https://dev.mysql.com/doc/mysql-errors/8.0/en/server-error-reference.html
const DUPLICATE_ENTRY: u16 = 1062;
const NO_SUCH_TABLE: u16 = 1146;
const UNKNOWN_COLUMN: u16 = 1054;
/// A text that its column's character set does not have, or that is longer than the column.
const UNSTORABLE: [u16; 2] = [1366, 1406];
const LOCK_WAIT_TIMEOUT: u16 = 1205;
const DEADLOCK: u16 = 1213;
/// The server has no connection left, or none left for this user.
const TOO_MANY_CONNECTIONS: [u16; 3] = [1040, 1203, 1226];
/// The server goes, or has ended this connection: a shutdown, a kill, a link that broke.
const CONNECTION_ENDED: [u16; 8] = [1053, 1077, 1152, 1158, 1159, 1160, 1161, 1927];
/// A statement that is longer than the server takes; it hangs up after saying so.
const PACKET_TOO_LARGE: u16 = 1153;
/// The server takes no writes: it is, or has become, a replica.
const READ_ONLY: [u16; 3] = [1290, 1792, 1836];
/// The server is there, but not for us, or not just now: a missing or not yet granted database, a killed or slow statement.
const PASSING: [u16; 7] = [1044, 1045, 1049, 1129, 1317, 1969, 3024];

// Primary result codes of SQLite. https://www.sqlite.org/rescode.html
const SQLITE_BUSY: u32 = 5;
const SQLITE_LOCKED: u32 = 6;
/// Read-only, I/O error, disk full, can't open.
const SQLITE_PASSING: [u32; 4] = [8, 10, 13, 14];

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Fault> for UpkeepError {
    fn from(fault: Fault) -> Self {
        Self::Store(fault.into())
    }
}

impl From<Full> for Fault {
    fn from(full: Full) -> Self {
        Self::Full(full)
    }
}

impl Fault {
    /// Whether a unique key stood in the way.
    pub(super) fn is_duplicate(&self) -> bool {
        match self {
            Self::Sql(sqlx::Error::Database(error)) => {
                error.is_unique_violation() || mysql_code(error.as_ref()) == Some(DUPLICATE_ENTRY)
            }
            _ => false,
        }
    }

    /// Whether a table or a column is missing.
    pub(super) fn is_missing_schema(&self) -> bool {
        let Self::Sql(sqlx::Error::Database(error)) = self else {
            return false;
        };
        match mysql_code(error.as_ref()) {
            Some(code) => code == NO_SUCH_TABLE || code == UNKNOWN_COLUMN,
            None => {
                error.message().starts_with("no such table")
                    || error.message().starts_with("no such column")
            }
        }
    }

    /// Whether the whole transaction, which was not committed, may be tried again at once: others stood in its way, or its
    /// connection ended under it.
    pub(super) fn is_worth_a_retry(&self) -> bool {
        self.is_contention() || self.is_lost_connection()
    }

    /// Whether others stood in the way: the statement was not done, and may be tried again on the same connection.
    pub(super) fn is_contention(&self) -> bool {
        match self {
            Self::Overtaken => true,
            Self::Sql(sqlx::Error::Database(error)) => match mysql_code(error.as_ref()) {
                Some(code) => code == DEADLOCK || code == LOCK_WAIT_TIMEOUT,
                None => {
                    matches!(
                        sqlite_code(error.as_ref()),
                        Some(SQLITE_BUSY | SQLITE_LOCKED)
                    )
                }
            },
            Self::TooSlow | Self::Full(_) | Self::Sql(_) => false,
        }
    }

    /// Whether the connection ended under the statement.
    pub(super) fn is_lost_connection(&self) -> bool {
        match self {
            Self::Sql(sqlx::Error::Io(_)) => !self.is_mistrust(),
            Self::Sql(_) => self
                .server_code()
                .is_some_and(|code| CONNECTION_ENDED.contains(&code)),
            Self::TooSlow | Self::Overtaken | Self::Full(_) => false,
        }
    }

    /// Whether one of the two ends does not take the other's certificate. No wait mends that, and what it is shall be told. (The
    /// library reports it as data that makes no sense.)
    fn is_mistrust(&self) -> bool {
        match self {
            Self::Sql(sqlx::Error::Tls(_)) => true,
            Self::Sql(sqlx::Error::Io(error)) => error.kind() == std::io::ErrorKind::InvalidData,
            _ => false,
        }
    }

    /// Whether the connection is of no more use: it has ended, an overdue statement is in its way, or it leads to a server
    /// that is no longer the one to write to, and a new one may lead elsewhere.
    pub(super) fn spoils_connection(&self) -> bool {
        self.is_lost_connection()
            || self.is_mistrust()
            || matches!(self, Self::TooSlow | Self::Sql(sqlx::Error::Protocol(_)))
            || self
                .server_code()
                .is_some_and(|code| code == PACKET_TOO_LARGE || READ_ONLY.contains(&code))
    }

    /// Whether nobody is let in just now, though the server is there or soon will be.
    pub(super) fn is_closed_door(&self) -> bool {
        self.is_lost_connection()
            || self
                .server_code()
                .is_some_and(|code| TOO_MANY_CONNECTIONS.contains(&code))
    }

    fn server_code(&self) -> Option<u16> {
        match self {
            Self::Sql(sqlx::Error::Database(error)) => mysql_code(error.as_ref()),
            _ => None,
        }
    }

    fn is_passing(&self) -> bool {
        match self {
            Self::TooSlow | Self::Overtaken | Self::Full(_) => true,
            Self::Sql(sqlx::Error::Database(error)) => match mysql_code(error.as_ref()) {
                Some(code) => {
                    code == DEADLOCK
                        || code == LOCK_WAIT_TIMEOUT
                        || PASSING.contains(&code)
                        || CONNECTION_ENDED.contains(&code)
                        || TOO_MANY_CONNECTIONS.contains(&code)
                        || READ_ONLY.contains(&code)
                }
                None => sqlite_code(error.as_ref()).is_some_and(|code| {
                    code == SQLITE_BUSY || code == SQLITE_LOCKED || SQLITE_PASSING.contains(&code)
                }),
            },
            Self::Sql(error) => matches!(
                error,
                sqlx::Error::Io(_)
                    | sqlx::Error::Tls(_)
                    | sqlx::Error::Protocol(_)
                    | sqlx::Error::PoolTimedOut
                    | sqlx::Error::PoolClosed
                    | sqlx::Error::WorkerCrashed
            ),
        }
    }

    fn is_unstorable(&self) -> bool {
        let Self::Sql(sqlx::Error::Database(error)) = self else {
            return false;
        };
        mysql_code(error.as_ref()).is_some_and(|code| UNSTORABLE.contains(&code))
    }

    fn told(&self) -> Told {
        Told(match self {
            Self::TooSlow => "a statement took too long".to_owned(),
            Self::Overtaken => "others kept changing the same rows".to_owned(),
            Self::Full(full) => full.to_string(),
            Self::Sql(sqlx::Error::Database(error)) => match mysql_code(error.as_ref()) {
                // These name tables, columns and users, nothing else.
                Some(NO_SUCH_TABLE | UNKNOWN_COLUMN | 1044 | 1049 | 1064 | 1142 | 1364) => {
                    error.message().to_owned()
                }
                Some(1045) => {
                    "the user or the password is wrong, or TLS or a certificate is missing (MySQL error 1045)".to_owned()
                }
                Some(code) => format!("MySQL error {code}"),
                // SQLite's sentences never quote values.
                None => format!("SQLite: {}", error.message()),
            },
            Self::Sql(sqlx::Error::ColumnDecode { index, .. }) => {
                format!("column {index} holds something unexpected")
            }
            Self::Sql(sqlx::Error::PoolTimedOut) => {
                "no connection in time: the server is not there, or all connections are in use"
                    .to_owned()
            }
            Self::Sql(error) if self.is_mistrust() => format!("TLS: {error}"),
            Self::Sql(error) => error.to_string(),
        })
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        if let Fault::Full(full) = fault {
            return Self::Full(full);
        }
        let told = Box::new(fault.told());
        if fault.is_passing() {
            Self::Unavailable(told)
        } else if fault.is_unstorable() {
            Self::Unstorable(told)
        } else {
            Self::Internal(told)
        }
    }
}

fn mysql_code(error: &dyn sqlx::error::DatabaseError) -> Option<u16> {
    error
        .try_downcast_ref::<MySqlDatabaseError>()
        .map(MySqlDatabaseError::number)
}

/// The primary code: SQLite's extended codes carry it in their low byte.
fn sqlite_code(error: &dyn sqlx::error::DatabaseError) -> Option<u32> {
    error.code()?.parse::<u32>().ok().map(|code| code & 0xff)
}
