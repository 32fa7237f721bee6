//! One statement with its values, and one row of an answer, whichever database is asked. No statement stands here.

use std::borrow::Cow;
use std::fmt::Write as _;

use chrono::{DateTime, NaiveDateTime, Utc};
use shared::{ClientId, ConversationId, EventSeq, MessageId, Seq, Timestamp, UserId};
use sqlx::mysql::{MySqlArguments, MySqlRow};
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Arguments, AssertSqlSafe, Column as _, Row as _, SqlSafeStr, SqlStr, TypeInfo as _};

use super::fault::Fault;

/// How SQLite's columns of the type DATETIME are written: as the old system's library writes them, so that both read
/// and order each other's rows.
const SQLITE_TIME: &str = "%Y-%m-%d %H:%M:%S%.3f +00:00";

/// A statement with `?` for each of its values. Values never get into the text.
#[derive(Clone)]
pub(super) struct Query {
    sql: Cow<'static, str>,
    values: Vec<Value>,
}

/// A value for a `?`.
#[derive(Clone)]
pub(super) enum Value {
    Int(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
    Time(Option<Timestamp>),
}

impl Query {
    pub(super) fn new(sql: impl Into<Cow<'static, str>>) -> Self {
        Self {
            sql: sql.into(),
            values: Vec::new(),
        }
    }

    /// The value of the next `?`.
    pub(super) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// More of the text. Only what this program wrote may come here.
    pub(super) fn push(&mut self, sql: &str) {
        self.sql.to_mut().push_str(sql);
    }

    /// The same query within another, which has no values of its own before it.
    pub(super) fn wrap(mut self, before: &str, after: &str) -> Self {
        self.sql = format!("{before}{}{after}", self.sql).into();
        self
    }

    /// A value, its `?` having been pushed.
    pub(super) fn push_value(&mut self, value: impl Into<Value>) {
        self.values.push(value.into());
    }

    /// `(?, ?, ...)` with these values, the last one repeated up to a power of two: so a statement has few lengths, and
    /// each connection's cache of prepared statements holds all of them.
    pub(super) fn push_list<T: Copy + Into<Value>>(&mut self, values: &[T]) {
        self.push("(");
        let padded = values.len().next_power_of_two().max(1);
        for index in 0..padded {
            self.push(if index == 0 { "?" } else { ", ?" });
            match values.get(index).or(values.last()) {
                Some(value) => self.push_value(*value),
                None => self.push_value(Value::Int(None)),
            }
        }
        self.push(")");
    }

    /// `row` as many times as there are `rows`: `(?, ...), (?, ...)`. Their values are pushed afterwards, row by row.
    pub(super) fn push_rows(&mut self, rows: usize, row: &str) {
        let sql = self.sql.to_mut();
        for index in 0..rows {
            let _ = write!(sql, "{}{row}", if index == 0 { "" } else { ", " });
        }
    }

    /// The statements one after another as MySQL reads them, their values written as literals. Text is written in hexadecimal,
    /// which holds no quote and needs no escaping, whatever the server's `sql_mode`.
    pub(super) fn in_one_text(queries: &[Self]) -> String {
        let mut text = String::with_capacity(queries.iter().map(|query| 2 * query.sql.len()).sum());
        for query in queries {
            // No statement of this program has a `?` that is not a value's.
            let mut pieces = query.sql.split('?');
            text.push_str(pieces.next().unwrap_or_default());
            for (piece, value) in pieces.zip(&query.values) {
                value.write_literal(&mut text);
                text.push_str(piece);
            }
            text.push_str(";\n");
        }
        text
    }

    pub(super) fn into_mysql(self) -> Result<(SqlStr, MySqlArguments), Fault> {
        let mut arguments = MySqlArguments::default();
        for value in self.values {
            match value {
                Value::Int(value) => arguments.add(value),
                Value::Text(value) => arguments.add(value),
                Value::Bytes(value) => arguments.add(value),
                Value::Time(value) => arguments.add(value.map(|time| time.0.naive_utc())),
            }
            .map_err(sqlx::Error::Encode)?;
        }
        Ok((AssertSqlSafe(self.sql).into_sql_str(), arguments))
    }

    pub(super) fn into_sqlite(self) -> Result<(SqlStr, SqliteArguments), Fault> {
        let mut arguments = SqliteArguments::default();
        for value in self.values {
            match value {
                Value::Int(value) => arguments.add(value),
                Value::Text(value) => arguments.add(value),
                Value::Bytes(value) => arguments.add(value),
                Value::Time(value) => {
                    arguments.add(value.map(|time| time.0.format(SQLITE_TIME).to_string()))
                }
            }
            .map_err(sqlx::Error::Encode)?;
        }
        Ok((AssertSqlSafe(self.sql).into_sql_str(), arguments))
    }
}

impl Value {
    /// As MySQL reads it in a statement's text.
    /// <https://dev.mysql.com/doc/refman/8.4/en/hexadecimal-literals.html>
    fn write_literal(&self, out: &mut String) {
        let written = match self {
            Self::Int(Some(number)) => write!(out, "{number}"),
            Self::Text(Some(text)) => {
                out.push_str("_utf8mb4 ");
                write_hex(out, text.as_bytes());
                Ok(())
            }
            Self::Bytes(Some(bytes)) => {
                write_hex(out, bytes);
                Ok(())
            }
            Self::Time(Some(time)) => {
                write!(out, "'{}'", time.0.format("%Y-%m-%d %H:%M:%S%.3f"))
            }
            Self::Int(None) | Self::Text(None) | Self::Bytes(None) | Self::Time(None) => {
                out.push_str("NULL");
                Ok(())
            }
        };
        debug_assert!(written.is_ok(), "a String takes everything");
    }
}

fn write_hex(out: &mut String, bytes: &[u8]) {
    out.push_str("x'");
    for byte in bytes {
        for half in [byte >> 4, byte & 0xF] {
            out.push(char::from(b"0123456789abcdef"[usize::from(half)]));
        }
    }
    out.push('\'');
}

macro_rules! value {
    ($variant:ident: $($from:ty => |$value:ident| $into:expr;)*) => {
        $(
            impl From<$from> for Value {
                fn from($value: $from) -> Self {
                    Self::$variant(Some($into))
                }
            }
            impl From<Option<$from>> for Value {
                fn from(value: Option<$from>) -> Self {
                    Self::$variant(value.map(|$value| $into))
                }
            }
        )*
    };
}

value!(Int:
    i64 => |value| value;
    u32 => |value| i64::from(value);
    bool => |value| i64::from(value);
    UserId => |id| id.get();
    ClientId => |id| id.get();
    ConversationId => |id| id.get();
    MessageId => |id| id.get();
    Seq => |seq| seq.get();
    EventSeq => |seq| seq.get();
);
value!(Text:
    &str => |text| text.to_owned();
    &String => |text| text.clone();
    String => |text| text;
);
value!(Bytes: &[u8] => |bytes| bytes.to_vec(););
value!(Time: Timestamp => |time| time;);

/// One row of an answer.
pub(super) enum Row {
    MySql(MySqlRow),
    Sqlite(SqliteRow),
}

impl Row {
    /// Its values from the first on.
    pub(super) fn cells(&self) -> Cells<'_> {
        Cells { row: self, next: 0 }
    }

    /// Its only value.
    pub(super) fn int(&self) -> Result<i64, Fault> {
        self.cells().int()
    }
}

/// Reads a row's values in the order of its columns. The column's declared type is not checked, only that the value can
/// be read: an adopted database may declare an INT as BIGINT and a BOOLEAN as anything.
pub(super) struct Cells<'r> {
    row: &'r Row,
    next: usize,
}

macro_rules! next {
    ($cells:ident, $type:ty) => {{
        let index = $cells.next;
        $cells.next += 1;
        match $cells.row {
            Row::MySql(row) => row.try_get_unchecked::<$type, _>(index),
            Row::Sqlite(row) => row.try_get_unchecked::<$type, _>(index),
        }
        .map_err(Fault::from)
    }};
}

impl Cells<'_> {
    pub(super) fn int(&mut self) -> Result<i64, Fault> {
        let index = self.next;
        self.opt_int()?.ok_or_else(|| {
            Fault::Sql(sqlx::Error::ColumnDecode {
                index: index.to_string(),
                source: sqlx::error::UnexpectedNullError.into(),
            })
        })
    }

    /// A whole number. MySQL makes a DECIMAL, which it sends as text, of some sums of integers of unlike types.
    pub(super) fn opt_int(&mut self) -> Result<Option<i64>, Fault> {
        let index = self.next;
        if let Row::MySql(row) = self.row
            && row.column(index).type_info().name() == "DECIMAL"
        {
            let text: Option<String> = next!(self, Option<String>)?;
            return text.map(|text| text.parse()).transpose().map_err(
                |error: std::num::ParseIntError| {
                    Fault::Sql(sqlx::Error::ColumnDecode {
                        index: index.to_string(),
                        source: error.into(),
                    })
                },
            );
        }
        next!(self, Option<i64>)
    }

    pub(super) fn bool(&mut self) -> Result<bool, Fault> {
        Ok(self.int()? != 0)
    }

    pub(super) fn text(&mut self) -> Result<String, Fault> {
        next!(self, String)
    }

    pub(super) fn opt_text(&mut self) -> Result<Option<String>, Fault> {
        next!(self, Option<String>)
    }

    pub(super) fn opt_bytes(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        next!(self, Option<Vec<u8>>)
    }

    /// A DATETIME. What is no time (MySQL's zero date, a word in SQLite) counts as missing: one such row must not make
    /// a whole page unreadable.
    pub(super) fn time(&mut self) -> Result<Option<Timestamp>, Fault> {
        let index = self.next;
        self.next += 1;
        Ok(match self.row {
            Row::MySql(row) => row
                .try_get_unchecked::<Option<NaiveDateTime>, _>(index)
                .ok()
                .flatten()
                .map(|time| Timestamp(time.and_utc())),
            Row::Sqlite(row) => row
                .try_get_unchecked::<Option<String>, _>(index)?
                .as_deref()
                .and_then(parse_sqlite_time),
        })
    }
}

/// Reads what SQLite's own date functions read, so that SQL and this program agree on what is a time.
/// <https://www.sqlite.org/lang_datefunc.html>
fn parse_sqlite_time(text: &str) -> Option<Timestamp> {
    const ZONED: [&str; 4] = [
        "%Y-%m-%d %H:%M:%S%.f %:z",
        "%Y-%m-%d %H:%M:%S%.f%:z",
        "%Y-%m-%dT%H:%M:%S%.f%:z",
        "%Y-%m-%dT%H:%M:%S%.f %:z",
    ];
    const BARE: [&str; 4] = [
        "%Y-%m-%d %H:%M:%S%.f",
        "%Y-%m-%dT%H:%M:%S%.f",
        "%Y-%m-%d %H:%M",
        "%Y-%m-%dT%H:%M",
    ];
    let bare = text.trim_end_matches('Z').trim_end();
    let time: Option<DateTime<Utc>> = BARE
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(bare, format).ok())
        .map(|time| time.and_utc())
        .or_else(|| {
            ZONED
                .iter()
                .find_map(|format| DateTime::parse_from_str(text, format).ok())
                .map(|time| time.to_utc())
        })
        .or_else(|| {
            let date = chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
            Some(date.and_time(chrono::NaiveTime::MIN).and_utc())
        });
    time.and_then(|time| DateTime::from_timestamp_millis(time.timestamp_millis()))
        .map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlite_times_are_read_in_every_usual_form() {
        for text in [
            "2024-01-02 03:04:05.678 +00:00",
            "2024-01-02 03:04:05.678",
            "2024-01-02T03:04:05.678Z",
            "2024-01-02 05:04:05.678+02:00",
            "2024-01-02T03:04:05.678999Z",
        ] {
            let time = parse_sqlite_time(text).unwrap();
            assert_eq!(time.to_string(), "2024-01-02T03:04:05.678Z", "{text}");
        }
        assert_eq!(
            parse_sqlite_time("2024-01-02").unwrap().to_string(),
            "2024-01-02T00:00:00.000Z"
        );
        assert_eq!(parse_sqlite_time("soon"), None);
    }

    #[test]
    fn values_in_a_text_can_neither_end_it_nor_be_taken_for_a_placeholder() {
        let hostile = "'; DROP TABLE Users -- \\ ?";
        let insert = Query::new("INSERT INTO a VALUES (?, ?, ?, ?)")
            .bind(-7_i64)
            .bind(hostile)
            .bind(None::<Timestamp>)
            .bind(b"?\0".as_slice());
        let text = Query::in_one_text(&[insert, Query::new("SELECT 1")]);
        let hex: String = hostile.bytes().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            text,
            format!("INSERT INTO a VALUES (-7, _utf8mb4 x'{hex}', NULL, x'3f00');\nSELECT 1;\n")
        );
    }

    #[test]
    fn lists_are_padded_to_few_lengths() {
        let mut query = Query::new("IN ");
        query.push_list(&[1_i64, 2, 3]);
        assert_eq!(query.sql, "IN (?, ?, ?, ?)");
        assert!(matches!(query.values.last(), Some(Value::Int(Some(3)))));
    }
}
