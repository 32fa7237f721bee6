//! Raw inserts: messages written to the database by prepared statements on several connections, each by itself or many in
//! one transaction that brings their conversations up to date, too.

use std::time::{Duration, Instant};

use serde::Serialize;
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Connection};

use crate::world::{Fault, World, connect};

/// How many connections write single rows: enough that they share the log's flushes.
const SINGLE_WRITERS: u32 = 32;

/// How many connections write transactions.
const BATCH_WRITERS: u32 = 4;

/// How many messages a second the database takes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Inserts {
    /// Messages of one transaction.
    pub batch: u32,
    /// Messages a second over all connections.
    pub per_second: f64,
}

/// Writes for as long as the window, after a warm-up of a tenth of it, to a seeded database.
pub fn inserts(
    database: &str,
    world: World,
    batch: u32,
    window: Duration,
) -> Result<Inserts, Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let writers = if batch == 1 {
            SINGLE_WRITERS
        } else {
            BATCH_WRITERS
        };
        let begin = Instant::now() + window / 10;
        let writing = (0..writers).map(|number| {
            let writer = Writer {
                world,
                batch,
                number,
                writers,
            };
            writer.write(database, begin, begin + window)
        });
        let written = futures_util::future::try_join_all(writing).await?;
        let messages: u32 = written.iter().sum();
        Ok(Inserts {
            batch,
            per_second: f64::from(messages) / window.as_secs_f64(),
        })
    })
}

struct Writer {
    world: World,
    batch: u32,
    number: u32,
    writers: u32,
}

impl Writer {
    /// Returns how many messages were written between two moments.
    async fn write(self, database: &str, begin: Instant, end: Instant) -> Result<u32, Fault> {
        let mut sql = connect(database).await?;
        let mut turn = 0;
        let mut written = 0;
        while Instant::now() < end {
            if self.batch == 1 {
                self.insert(&mut sql, turn).await?;
            } else {
                let mut transaction = sql.begin().await?;
                self.insert(&mut transaction, turn).await?;
                self.upsert(&mut transaction, turn).await?;
                transaction.commit().await?;
            }
            turn += 1;
            let now = Instant::now();
            if now >= begin && now < end {
                written += self.batch;
            }
        }
        sql.close().await?;
        Ok(written)
    }

    /// The conversations of a turn. Each writer has its own, so that none waits for another's lock; in the order of their
    /// ids.
    fn conversations(&self, turn: u32) -> impl Iterator<Item = u32> + use<> {
        let own = self.world.conversations / self.writers;
        let (first, batch) = (self.number * own, self.batch);
        (0..batch).map(move |row| 1 + first + (turn * batch + row) % own.max(1))
    }

    async fn insert(&self, sql: &mut MySqlConnection, turn: u32) -> Result<(), Fault> {
        let rows = vec!["(?,?,?,'client',?,NOW(3),NOW(3))"; self.batch as usize].join(",");
        let statement = format!(
            "INSERT INTO Messages(conversationId,senderId,receiverId,senderType,content,createdAt,updatedAt) VALUES {rows}"
        );
        let mut query = sqlx::query(AssertSqlSafe(statement));
        for conversation in self.conversations(turn) {
            query = query
                .bind(conversation)
                .bind(self.world.client(conversation))
                .bind(self.world.agent_of(conversation))
                .bind(TEXT);
        }
        query.execute(sql).await?;
        Ok(())
    }

    async fn upsert(&self, sql: &mut MySqlConnection, turn: u32) -> Result<(), Fault> {
        let rows = vec!["(?,?,?,?,NOW(3),1)"; self.batch as usize].join(",");
        let statement = format!(
            "INSERT INTO Conversations(id,clientId,agencyId,lastMessage,lastMessageTime,unreadCount) VALUES {rows} \
             ON DUPLICATE KEY UPDATE lastMessage=VALUES(lastMessage),lastMessageTime=VALUES(lastMessageTime),\
             unreadCount=unreadCount+1"
        );
        let mut query = sqlx::query(AssertSqlSafe(statement));
        for conversation in self.conversations(turn) {
            query = query
                .bind(conversation)
                .bind(conversation)
                .bind(self.world.agent_of(conversation))
                .bind(TEXT);
        }
        query.execute(sql).await?;
        Ok(())
    }
}

/// As long as the messages of the scenarios.
const TEXT: &str = "....................................................................................................";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::USUAL;

    #[test]
    fn writers_do_not_share_conversations() {
        let writer = |number| Writer {
            world: USUAL,
            batch: 100,
            number,
            writers: 4,
        };
        let mut seen = std::collections::HashSet::new();
        for number in 0..4 {
            let own: std::collections::HashSet<_> = (0..20)
                .flat_map(|turn| writer(number).conversations(turn))
                .collect();
            assert_eq!(own.len(), 125);
            assert!(
                own.iter()
                    .all(|id| (1..=500).contains(id) && seen.insert(*id))
            );
        }
        assert_eq!(
            writer(0).conversations(0).collect::<Vec<_>>(),
            (1..=100).collect::<Vec<_>>()
        );
    }
}
