//! The people and conversations that every scenario is played with: written into a database as the old system would have
//! left it, so that any server under test can adopt or simply use it; and their access tokens, signed with the server's
//! own secret, so that nobody has to log in.
//!
//! Agents are the accounts 1 to `agents`, clients those above. Client *n* has the `Clients` row *n* and, up to
//! `conversations`, the conversation *n*; conversations are dealt to the first `staff` agents in blocks, so that those of
//! one agent lie side by side.

use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, Row};

/// The tables of the old system.
const OLD_TABLES: &str = include_str!("../../migrations/mysql/0001_old_system.sql");

/// Rows of one `INSERT`.
const ROWS: u32 = 1_000;

/// How long a token is good: as long as a login's. Longer runs renew them (`scenario::soak`).
const TOKEN_SECONDS: u64 = 60 * 60;

/// How many there are of each.
#[derive(Debug, Clone, Copy)]
pub struct World {
    /// Accounts of role `admin`.
    pub agents: u32,
    /// Accounts of role `user`.
    pub clients: u32,
    /// Conversations, of the first so many clients.
    pub conversations: u32,
    /// Agents who have conversations.
    pub staff: u32,
}

/// What the bench and the scenarios use where nothing else is said.
pub const USUAL: World = World {
    agents: 1_000,
    clients: 20_000,
    conversations: 500,
    staff: 10,
};

/// A database that can't be read or written.
pub type Fault = Box<dyn std::error::Error + Send + Sync>;

impl World {
    /// The account of the client with this number, from 1.
    pub const fn client(self, number: u32) -> u32 {
        self.agents + number
    }

    /// The agent, from 1, who has a conversation, from 1.
    pub const fn agent_of(self, conversation: u32) -> u32 {
        1 + (conversation - 1) * self.staff / self.conversations
    }

    /// Makes the tables and fills them. The database must be there, without these tables.
    pub async fn seed(self, database: &str) -> Result<(), Fault> {
        let mut sql = connect(database).await?;
        for statement in OLD_TABLES.split(";\n") {
            let lines = statement
                .lines()
                .filter(|line| !line.trim_start().starts_with("--"));
            let statement = lines.collect::<Vec<_>>().join("\n");
            if !statement.trim().is_empty() {
                sql.execute(AssertSqlSafe(statement)).await?;
            }
        }
        let user = |id: u32, role: &str| {
            // No password has this hash.
            format!(
                "({id},'{}','!','{role}','First{id}','Last{id}',NOW(),NOW())",
                email(id)
            )
        };
        let users = "Users(id,email,password,role,firstName,lastName,createdAt,updatedAt)";
        insert(&mut sql, users, self.agents, |n| user(n, "admin")).await?;
        insert(&mut sql, users, self.clients, |n| {
            user(self.client(n), "user")
        })
        .await?;
        let clients = "Clients(id,name,email,company,country,createdAt,updatedAt)";
        insert(&mut sql, clients, self.clients, |n| {
            let email = email(self.client(n));
            format!("({n},'Client {n}','{email}','Company {n}','Unknown',NOW(),NOW())")
        })
        .await?;
        let conversations = "Conversations(id,clientId,agencyId,createdAt,updatedAt)";
        insert(&mut sql, conversations, self.conversations, |n| {
            format!("({n},{n},{},NOW(),NOW())", self.agent_of(n))
        })
        .await?;
        sql.close().await?;
        Ok(())
    }
}

async fn insert(
    sql: &mut MySqlConnection,
    into: &str,
    count: u32,
    row: impl Fn(u32) -> String,
) -> Result<(), Fault> {
    for first in (1..=count).step_by(ROWS as usize) {
        let last = count.min(first + ROWS - 1);
        let rows: Vec<_> = (first..=last).map(&row).collect();
        let statement = format!("INSERT INTO {into} VALUES {}", rows.join(","));
        sql.execute(AssertSqlSafe(statement)).await?;
    }
    Ok(())
}

/// What the database shows of a run.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Stored {
    /// Rows of `Messages`.
    pub messages: u64,
    /// Conversations whose `lastMessage` is not the text that was sent last.
    pub stale_last_messages: u64,
}

/// Looks at what was stored. `last_texts` is what was sent last in the conversations 1, 2, 3 ...
pub async fn stored(database: &str, last_texts: &[Option<Vec<u8>>]) -> Result<Stored, Fault> {
    let mut sql = connect(database).await?;
    let count: i64 = sql
        .fetch_one("SELECT COUNT(*) FROM Messages")
        .await?
        .try_get(0)?;
    let rows = sql
        .fetch_all("SELECT id, CAST(COALESCE(lastMessage, '') AS BINARY) FROM Conversations")
        .await?;
    let mut stale = 0;
    for row in rows {
        let (id, text): (i32, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
        let index = usize::try_from(id - 1).unwrap_or(usize::MAX);
        if let Some(Some(sent)) = last_texts.get(index) {
            stale += u64::from(*sent != text);
        }
    }
    sql.close().await?;
    Ok(Stored {
        messages: count.unsigned_abs(),
        stale_last_messages: stale,
    })
}

/// Opens a connection to a database by its URL.
pub async fn connect(database: &str) -> Result<MySqlConnection, Fault> {
    let options: MySqlConnectOptions = database.parse()?;
    Ok(options.connect().await?)
}

fn email(account: u32) -> String {
    format!("account{account}@load.test")
}

/// Signs access tokens.
pub struct Tokens {
    key: EncodingKey,
    world: World,
}

#[derive(Serialize)]
struct Claims<'a> {
    id: u32,
    email: &'a str,
    role: &'a str,
    iat: u64,
    exp: u64,
}

impl Tokens {
    /// With the secret that the servers know.
    pub fn new(secret: &str, world: World) -> Self {
        Self {
            key: EncodingKey::from_secret(secret.as_bytes()),
            world,
        }
    }

    /// An account's token, good from now.
    pub fn of(&self, account: u32) -> Result<Rc<str>, Fault> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let is_agent = account <= self.world.agents;
        let claims = Claims {
            id: account,
            email: &email(account),
            role: if is_agent { "admin" } else { "user" },
            iat: now,
            exp: now + TOKEN_SECONDS,
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.key)?;
        Ok(token.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversations_are_dealt_in_even_blocks() {
        let mut of_agent = [0; 11];
        let mut last = 1;
        for conversation in 1..=500 {
            let agent = USUAL.agent_of(conversation);
            assert!(agent >= last);
            last = agent;
            of_agent[agent as usize] += 1;
        }
        assert_eq!(of_agent[1..], [50; 10]);
        assert_eq!(USUAL.client(1), 1_001);
    }

    #[test]
    fn a_token_says_who_it_is() {
        let tokens = Tokens::new("a secret", USUAL);
        let mut validation = jsonwebtoken::Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        let key = jsonwebtoken::DecodingKey::from_secret(b"a secret");
        let read = |account: u32| {
            let token = tokens.of(account).unwrap();
            jsonwebtoken::decode::<serde_json::Value>(&*token, &key, &validation)
                .unwrap()
                .claims
        };
        assert_eq!(read(1_000)["role"], "admin");
        let client = read(1_001);
        assert_eq!(
            (&client["role"], &client["id"]),
            (&"user".into(), &1_001.into())
        );
    }
}
