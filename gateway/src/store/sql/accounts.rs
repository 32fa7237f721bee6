//! `Users` and `Clients`: the accounts, and which client is whose.

use async_trait::async_trait;
use shared::model::User;
use shared::{ClientId, Role, Timestamp, UserId};

use super::SqlStore;
use super::dialect::Dialect;
use super::fault::Fault;
use super::query::{Query, Row};
use super::replica::Source;
use super::rows::{self, USER};
use super::transaction::{Tx, transact};
use crate::store::{
    Accounts, Credentials, EmailTaken, NewAdmin, NewClient, ProfileChange, StoreError,
};

/// The width of `Clients.name`, `company`, `country` and `contactPerson`, in characters; `Users` has wider ones.
pub(super) const CLIENT_COLUMN: usize = 100;

#[async_trait]
impl Accounts for SqlStore {
    async fn user(&self, id: UserId) -> Result<Option<User>, StoreError> {
        let query = Query::new(format!("SELECT {USER} FROM Users u WHERE u.id = ?")).bind(id);
        match self.db.first(query).await? {
            Some(row) => Ok(Some(rows::user(&mut row.cells())?)),
            None => Ok(None),
        }
    }

    async fn users(&self, reader: UserId, ids: &[UserId]) -> Result<Vec<User>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(mut replica) = self.replica_for(reader).await
            && let Ok(found) = users(&mut replica, ids).await
        {
            return Ok(found);
        }
        Ok(users(&mut Source::Primary(self), ids).await?)
    }

    async fn credentials(&self, email: &str) -> Result<Option<Credentials>, StoreError> {
        let sql = format!(
            "SELECT {USER}, u.password FROM Users u WHERE u.emailLower = LOWER(?) ORDER BY u.id LIMIT 1"
        );
        Ok(self.load_credentials(Query::new(sql).bind(email)).await?)
    }

    async fn credentials_of(&self, id: UserId) -> Result<Option<Credentials>, StoreError> {
        let sql = format!("SELECT {USER}, u.password FROM Users u WHERE u.id = ?");
        Ok(self.load_credentials(Query::new(sql).bind(id)).await?)
    }

    async fn register_client(
        &self,
        account: &NewClient,
    ) -> Result<Result<User, EmailTaken>, StoreError> {
        let at = self.keepable(account.at).await?;
        let dialect = self.dialect();
        let outcome: Result<_, Fault> = transact!(
            self.db,
            |tx| register_client(tx, account, at),
            stands: |made| is_made(tx, dialect, made, &account.password_hash)
        );
        Ok(taken_if_duplicate(outcome)?)
    }

    async fn create_admin(
        &self,
        account: &NewAdmin,
    ) -> Result<Result<User, EmailTaken>, StoreError> {
        let at = self.keepable(account.at).await?;
        let dialect = self.dialect();
        let outcome: Result<_, Fault> = transact!(
            self.db,
            |tx| create_admin(tx, account, at),
            stands: |made| is_made(tx, dialect, made, &account.password_hash)
        );
        Ok(taken_if_duplicate(outcome)?)
    }

    async fn update_profile(
        &self,
        id: UserId,
        change: &ProfileChange,
    ) -> Result<Option<User>, StoreError> {
        self.note_writers([id]).await?;
        let at = self.keepable(Timestamp::now()).await?;
        let mut query = Query::new("UPDATE Users SET updatedAt = ?").bind(at);
        for (assignment, value) in [
            (", firstName = ?", &change.first_name),
            (", lastName = ?", &change.last_name),
            (", company = ?", &change.company),
            (", phone = ?", &change.phone),
            (", profilePicture = ?", &change.profile_picture),
        ] {
            if let Some(value) = value {
                query.push(assignment);
                query.push_value(value.as_ref());
            }
        }
        if let Some(completed) = change.is_onboarding_completed {
            query.push(", isOnboardingCompleted = ?");
            query.push_value(completed);
        }
        query.push(" WHERE id = ?");
        self.db.run(query.bind(id)).await?;
        self.user(id).await
    }
}

async fn users(source: &mut Source<'_>, ids: &[UserId]) -> Result<Vec<User>, Fault> {
    let mut users = Vec::with_capacity(ids.len());
    for chunk in ids.chunks(256) {
        let mut query = Query::new(format!("SELECT {USER} FROM Users u WHERE u.id IN "));
        query.push_list(chunk);
        for row in source.all(query).await? {
            users.push(rows::user(&mut row.cells())?);
        }
    }
    Ok(users)
}

/// A row of `Clients` that belongs to an account.
pub(super) struct OwnClient {
    pub(super) id: ClientId,
    pub(super) active: bool,
    /// Whether the row doesn't say yet whose it is.
    unlinked: bool,
}

/// The clients of an account, oldest first: those linked to it, and those with its address that are linked to none.
/// The old system let several clients share one address.
pub(super) fn own_clients_query(user: UserId) -> Query {
    Query::new(
        "SELECT id, status, 0 FROM Clients WHERE userId = ? \
         UNION ALL \
         SELECT cl.id, cl.status, 1 FROM Users u JOIN Clients cl ON cl.emailLower = u.emailLower \
         WHERE u.id = ? AND u.role = 'user' AND cl.userId IS NULL \
         ORDER BY 1",
    )
    .bind(user)
    .bind(user)
}

pub(super) fn own_clients(found: &[Row]) -> Result<Vec<OwnClient>, Fault> {
    found
        .iter()
        .map(|row| {
            let mut cells = row.cells();
            Ok(OwnClient {
                id: ClientId::new(cells.int()?),
                active: rows::is_client_active(cells.opt_text()?.as_deref()),
                unlinked: cells.bool()?,
            })
        })
        .collect()
}

/// Writes down whose a client is, where it was found by its address.
pub(super) fn link_query(client: ClientId, user: UserId) -> Query {
    Query::new("UPDATE Clients SET userId = ? WHERE id = ? AND userId IS NULL")
        .bind(user)
        .bind(client)
}

/// Those of them that still have to be linked.
pub(super) fn unlinked(clients: &[OwnClient]) -> impl Iterator<Item = ClientId> {
    clients
        .iter()
        .filter(|client| client.unlinked)
        .map(|client| client.id)
}

/// What becomes a row of `Clients`.
pub(super) struct ClientRow<'a> {
    pub(super) user: UserId,
    pub(super) email: &'a str,
    pub(super) first_name: Option<&'a str>,
    pub(super) last_name: Option<&'a str>,
    pub(super) company: Option<&'a str>,
    pub(super) phone: Option<&'a str>,
    pub(super) country: Option<&'a str>,
    pub(super) at: Timestamp,
}

/// Makes a client's row: named after the person, or, without a name, by the address.
pub(super) async fn insert_client(tx: &mut Tx, client: ClientRow<'_>) -> Result<ClientId, Fault> {
    let name = [client.first_name, client.last_name]
        .into_iter()
        .flatten()
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    let name = if name.is_empty() { client.email } else { &name };
    let query = Query::new(
        "INSERT INTO Clients (name, email, company, country, phone, status, userId, createdAt, updatedAt) \
         VALUES (?, ?, ?, ?, ?, 'active', ?, ?, ?)",
    )
    .bind(cut(name))
    .bind(client.email)
    .bind(client.company.map(cut))
    .bind(cut(client.country.filter(|name| !name.trim().is_empty()).unwrap_or("Unknown")))
    .bind(client.phone)
    .bind(client.user)
    .bind(client.at)
    .bind(client.at);
    Ok(ClientId::new(tx.run(query).await?.id()))
}

impl SqlStore {
    /// The clients of an account, linked to it as of now.
    pub(super) async fn clients_of(&self, user: UserId) -> Result<Vec<ClientId>, Fault> {
        let clients = own_clients(&self.db.all(own_clients_query(user)).await?)?;
        for client in unlinked(&clients) {
            self.db.run(link_query(client, user)).await?;
        }
        Ok(clients.into_iter().map(|client| client.id).collect())
    }

    async fn load_credentials(&self, query: Query) -> Result<Option<Credentials>, Fault> {
        let Some(row) = self.db.first(query).await? else {
            return Ok(None);
        };
        let mut cells = row.cells();
        Ok(Some(Credentials {
            user: rows::user(&mut cells)?,
            password_hash: cells.text()?,
        }))
    }
}

/// The account's row goes in before anything is decided: its unique address makes one of two concurrent callers wait for
/// the other. `Clients.email` is not unique in an adopted database, so it could not.
async fn register_client(
    tx: &mut Tx,
    account: &NewClient,
    at: Timestamp,
) -> Result<Result<User, EmailTaken>, Fault> {
    if is_in(tx, "Users", &account.email).await? || is_in(tx, "Clients", &account.email).await? {
        return Ok(Err(EmailTaken));
    }
    let query = Query::new(
        "INSERT INTO Users (email, password, role, firstName, lastName, company, phone, isOnboardingCompleted, \
         createdAt, updatedAt) VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, ?)",
    )
    .bind(&account.email)
    .bind(&account.password_hash)
    .bind(Role::User.as_str())
    .bind(&account.first_name)
    .bind(&account.last_name)
    .bind(account.company.as_ref())
    .bind(account.phone.as_ref())
    .bind(at)
    .bind(at);
    let id = UserId::new(tx.run(query).await?.id());
    insert_client(
        tx,
        ClientRow {
            user: id,
            email: &account.email,
            first_name: Some(&account.first_name),
            last_name: Some(&account.last_name),
            company: account.company.as_deref(),
            phone: account.phone.as_deref(),
            country: account.country.as_deref(),
            at,
        },
    )
    .await?;
    Ok(Ok(inserted_user(tx, id).await?))
}

async fn create_admin(
    tx: &mut Tx,
    account: &NewAdmin,
    at: Timestamp,
) -> Result<Result<User, EmailTaken>, Fault> {
    if is_in(tx, "Users", &account.email).await? {
        return Ok(Err(EmailTaken));
    }
    let query = Query::new(
        "INSERT INTO Users (email, password, role, firstName, lastName, isOnboardingCompleted, createdAt, updatedAt) \
         VALUES (?, ?, ?, ?, ?, 0, ?, ?)",
    )
    .bind(&account.email)
    .bind(&account.password_hash)
    .bind(Role::Admin.as_str())
    .bind(account.first_name.as_ref())
    .bind(account.last_name.as_ref())
    .bind(at)
    .bind(at);
    let id = UserId::new(tx.run(query).await?.id());
    Ok(Ok(inserted_user(tx, id).await?))
}

/// Whether an account is there whose transaction is in doubt. No two hashes are alike, even of one password.
async fn is_made(
    tx: &mut Tx,
    dialect: Dialect,
    made: &Result<User, EmailTaken>,
    password_hash: &str,
) -> Result<bool, Fault> {
    let Ok(user) = made else { return Ok(true) };
    let sql = format!(
        "SELECT password FROM Users WHERE id = ?{}",
        dialect.for_update()
    );
    match tx.first(Query::new(sql).bind(user.id)).await? {
        Some(row) => Ok(row.cells().text()? == password_hash),
        None => Ok(false),
    }
}

async fn is_in(tx: &mut Tx, table: &str, email: &str) -> Result<bool, Fault> {
    let sql = format!("SELECT 1 FROM {table} WHERE emailLower = LOWER(?) LIMIT 1");
    Ok(tx.first(Query::new(sql).bind(email)).await?.is_some())
}

/// Read back rather than put together: a column's default is the database's affair.
async fn inserted_user(tx: &mut Tx, id: UserId) -> Result<User, Fault> {
    let query = Query::new(format!("SELECT {USER} FROM Users u WHERE u.id = ?")).bind(id);
    let row = tx.first(query).await?.ok_or(sqlx::Error::RowNotFound)?;
    rows::user(&mut row.cells())
}

fn taken_if_duplicate(
    outcome: Result<Result<User, EmailTaken>, Fault>,
) -> Result<Result<User, EmailTaken>, Fault> {
    match outcome {
        Err(fault) if fault.is_duplicate() => Ok(Err(EmailTaken)),
        outcome => outcome,
    }
}

/// As much of a text as fits the columns of `Clients`: there it is a copy, `Users` has the whole.
fn cut(text: &str) -> &str {
    match text.char_indices().nth(CLIENT_COLUMN) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}
