-- Old messages, moved out of `Messages` by `gateway archive`: the same rows with the same ids. No foreign keys: whoever
-- deletes a conversation without knowing of this table must not be stopped by it.

CREATE TABLE IF NOT EXISTS ArchivedMessages (
    id INT NOT NULL PRIMARY KEY,
    conversationId INT NOT NULL,
    senderId INT NOT NULL,
    receiverId INT NOT NULL,
    senderType ENUM('client', 'agency') NOT NULL,
    content MEDIUMTEXT NOT NULL,
    isRead BOOLEAN DEFAULT FALSE,
    readAt DATETIME(3),
    createdAt DATETIME(3),
    updatedAt DATETIME(3),
    seq BIGINT NOT NULL,
    eventSeq BIGINT NOT NULL,
    clientMessageId VARBINARY(256) NULL,
    UNIQUE KEY archived_messages_seq (conversationId, seq),
    KEY archived_messages_client_message (conversationId, senderId, clientMessageId)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
