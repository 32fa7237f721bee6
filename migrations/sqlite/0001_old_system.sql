-- The four tables of the old system, as a fresh database gets them: for SQLite. Where they exist they stay as
-- they are. The columns this program adds to them stand in gateway/src/store/sql/schema/columns.rs, as for MySQL.
-- AUTOINCREMENT: an id is never given twice, since a deleted conversation leaves its log's last row behind.

CREATE TABLE IF NOT EXISTS Users (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    email VARCHAR(255) NOT NULL,
    password VARCHAR(255) NOT NULL,
    role VARCHAR(5) DEFAULT 'user' CHECK (role IN ('user', 'admin')),
    firstName VARCHAR(255),
    lastName VARCHAR(255),
    company VARCHAR(255),
    phone VARCHAR(255),
    profilePicture VARCHAR(255),
    isOnboardingCompleted BOOLEAN DEFAULT 0,
    createdAt DATETIME,
    updatedAt DATETIME,
    UNIQUE (email)
);

CREATE TABLE IF NOT EXISTS Clients (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name VARCHAR(100) NOT NULL,
    email VARCHAR(255) NOT NULL,
    company VARCHAR(100),
    country VARCHAR(100) NOT NULL,
    phone VARCHAR(255),
    contactPerson VARCHAR(100),
    status VARCHAR(8) DEFAULT 'active' CHECK (status IN ('active', 'inactive')),
    createdAt DATETIME,
    updatedAt DATETIME
);

CREATE TABLE IF NOT EXISTS Conversations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    clientId INTEGER NOT NULL,
    agencyId INTEGER NOT NULL,
    lastMessage TEXT,
    lastMessageTime DATETIME,
    unreadCount INTEGER DEFAULT 0,
    isActive BOOLEAN DEFAULT 1,
    createdAt DATETIME,
    updatedAt DATETIME,
    CONSTRAINT unique_conversation UNIQUE (clientId, agencyId),
    FOREIGN KEY (clientId) REFERENCES Clients (id),
    FOREIGN KEY (agencyId) REFERENCES Users (id)
);

CREATE TABLE IF NOT EXISTS Messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    conversationId INTEGER NOT NULL,
    senderId INTEGER NOT NULL,
    receiverId INTEGER NOT NULL,
    senderType VARCHAR(6) NOT NULL CHECK (senderType IN ('client', 'agency')),
    content TEXT NOT NULL,
    isRead BOOLEAN DEFAULT 0,
    readAt DATETIME,
    createdAt DATETIME,
    updatedAt DATETIME,
    FOREIGN KEY (conversationId) REFERENCES Conversations (id),
    FOREIGN KEY (senderId) REFERENCES Users (id),
    FOREIGN KEY (receiverId) REFERENCES Users (id)
);
