-- This program's own tables. Times in them are milliseconds since 1970.

-- The log of durable changes. No foreign key to Conversations: the last row of a deleted one outlives it.
CREATE TABLE IF NOT EXISTS ConversationEvents (
    conversationId INT NOT NULL,
    eventSeq BIGINT NOT NULL,
    kind VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    actorId INT NOT NULL,
    messageId INT NULL,
    unreadCount INT NULL,
    payload MEDIUMTEXT NULL,
    createdAt BIGINT NOT NULL,
    PRIMARY KEY (conversationId, eventSeq)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- Changes that may not have been published: a row for each conversation of a transaction.
CREATE TABLE IF NOT EXISTS Outbox (
    id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    conversationId INT NOT NULL,
    firstEventSeq BIGINT NOT NULL,
    lastEventSeq BIGINT NOT NULL,
    createdAt BIGINT NOT NULL,
    KEY outbox_age (createdAt, id),
    KEY outbox_conversation (conversationId, firstEventSeq)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS Sessions (
    id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    userId INT NOT NULL,
    createdAt BIGINT NOT NULL,
    expiresAt BIGINT NOT NULL,
    endedAt BIGINT NULL,
    KEY sessions_user (userId),
    KEY sessions_expiry (expiresAt)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS RefreshTokens (
    hash BINARY(32) NOT NULL PRIMARY KEY,
    sessionId VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    createdAt BIGINT NOT NULL,
    spentAt BIGINT NULL,
    KEY refresh_tokens_session (sessionId)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS TokenRevocations (
    id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    userId INT NOT NULL,
    scope VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    subject VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL,
    revokedAt BIGINT NOT NULL,
    KEY token_revocations_age (revokedAt, id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- How far the schema and the adoption of old rows have come.
CREATE TABLE IF NOT EXISTS SchemaProgress (
    name VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
