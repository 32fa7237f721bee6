-- This program's own tables. Times in them are milliseconds since 1970.

-- The log of durable changes. No foreign key to Conversations: the last row of a deleted one outlives it.
CREATE TABLE IF NOT EXISTS ConversationEvents (
    conversationId INTEGER NOT NULL,
    eventSeq INTEGER NOT NULL,
    kind VARCHAR(16) NOT NULL,
    actorId INTEGER NOT NULL,
    messageId INTEGER NULL,
    unreadCount INTEGER NULL,
    payload TEXT NULL,
    createdAt INTEGER NOT NULL,
    PRIMARY KEY (conversationId, eventSeq)
);

-- Changes that may not have been published: a row for each conversation of a transaction.
CREATE TABLE IF NOT EXISTS Outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    conversationId INTEGER NOT NULL,
    firstEventSeq INTEGER NOT NULL,
    lastEventSeq INTEGER NOT NULL,
    createdAt INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS outbox_age ON Outbox (createdAt, id);
CREATE INDEX IF NOT EXISTS outbox_conversation ON Outbox (conversationId, firstEventSeq);

CREATE TABLE IF NOT EXISTS Sessions (
    id VARCHAR(64) NOT NULL PRIMARY KEY,
    userId INTEGER NOT NULL,
    createdAt INTEGER NOT NULL,
    expiresAt INTEGER NOT NULL,
    endedAt INTEGER NULL
);
CREATE INDEX IF NOT EXISTS sessions_user ON Sessions (userId);
CREATE INDEX IF NOT EXISTS sessions_expiry ON Sessions (expiresAt);

CREATE TABLE IF NOT EXISTS RefreshTokens (
    hash BLOB NOT NULL PRIMARY KEY,
    sessionId VARCHAR(64) NOT NULL,
    createdAt INTEGER NOT NULL,
    spentAt INTEGER NULL
);
CREATE INDEX IF NOT EXISTS refresh_tokens_session ON RefreshTokens (sessionId);

CREATE TABLE IF NOT EXISTS TokenRevocations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    userId INTEGER NOT NULL,
    scope VARCHAR(16) NOT NULL,
    subject VARCHAR(64) NULL,
    revokedAt INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS token_revocations_age ON TokenRevocations (revokedAt, id);

-- How far the schema and the adoption of old rows have come.
CREATE TABLE IF NOT EXISTS SchemaProgress (
    name VARCHAR(32) NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
);
