//! The few words in which MySQL and SQLite differ. Whole statements that differ stand beside their use.

/// Which database is spoken to; MariaDB counts as MySQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    MySql,
    Sqlite,
}

impl Dialect {
    /// Locks the rows a SELECT reads until the transaction ends. SQLite's transactions lock the whole database when
    /// they begin, so there it is nothing.
    pub(super) const fn for_update(self) -> &'static str {
        match self {
            Self::MySql => " FOR UPDATE",
            Self::Sqlite => "",
        }
    }

    /// The database's clock, milliseconds since 1970.
    pub(super) const fn now_ms(self) -> &'static str {
        match self {
            Self::MySql => "CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)",
            Self::Sqlite => "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
        }
    }

    /// After a table's name in a SELECT: it is read by that index.
    pub(super) fn by_index(self, name: &str) -> String {
        match self {
            Self::MySql => format!("FORCE INDEX ({name})"),
            Self::Sqlite => format!("INDEXED BY {name}"),
        }
    }

    /// By how much the ids of the rows of one INSERT differ.
    pub(super) const fn id_step(self) -> &'static str {
        match self {
            Self::MySql => "@@auto_increment_increment",
            Self::Sqlite => "1",
        }
    }

    /// A DATETIME as milliseconds since 1970; NULL for what is no time.
    pub(super) fn millis(self, time: &str) -> String {
        match self {
            Self::MySql => format!(
                "TIMESTAMPDIFF(MICROSECOND, TIMESTAMP'1970-01-01 00:00:00', {time}) DIV 1000"
            ),
            Self::Sqlite => format!(
                "(CAST(strftime('%s', {time}) AS INTEGER) * 1000 + CAST(substr(strftime('%f', {time}), 4) AS INTEGER))"
            ),
        }
    }
}
