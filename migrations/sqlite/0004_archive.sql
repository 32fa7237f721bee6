-- Old messages, moved out of `Messages` by `gateway archive`: the same rows with the same ids. No foreign keys: whoever
-- deletes a conversation without knowing of this table must not be stopped by it.

CREATE TABLE IF NOT EXISTS ArchivedMessages (
    id INTEGER NOT NULL PRIMARY KEY,
    conversationId INTEGER NOT NULL,
    senderId INTEGER NOT NULL,
    receiverId INTEGER NOT NULL,
    senderType VARCHAR(6) NOT NULL,
    content TEXT NOT NULL,
    isRead BOOLEAN DEFAULT 0,
    readAt DATETIME,
    createdAt DATETIME,
    updatedAt DATETIME,
    seq INTEGER NOT NULL,
    eventSeq INTEGER NOT NULL,
    clientMessageId BLOB NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS archived_messages_seq ON ArchivedMessages (conversationId, seq);
CREATE INDEX IF NOT EXISTS archived_messages_client_message
    ON ArchivedMessages (conversationId, senderId, clientMessageId);
