-- The four tables of the old system, as a fresh database gets them: with milliseconds. Where they exist they stay as
-- they are. The columns this program adds to them stand in gateway/src/store/sql/schema/columns.rs, since MySQL can't
-- say ADD COLUMN IF NOT EXISTS.
--
-- Every file here must bear being run again after it was cut short: MySQL commits each of these statements by itself.

CREATE TABLE IF NOT EXISTS Users (
    id INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    email VARCHAR(255) NOT NULL,
    password VARCHAR(255) NOT NULL,
    role ENUM('user', 'admin') DEFAULT 'user',
    firstName VARCHAR(255),
    lastName VARCHAR(255),
    company VARCHAR(255),
    phone VARCHAR(255),
    profilePicture VARCHAR(255),
    isOnboardingCompleted BOOLEAN DEFAULT FALSE,
    createdAt DATETIME(3),
    updatedAt DATETIME(3),
    UNIQUE KEY email (email)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS Clients (
    id INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    name VARCHAR(100) NOT NULL,
    email VARCHAR(255) NOT NULL,
    company VARCHAR(100),
    country VARCHAR(100) NOT NULL,
    phone VARCHAR(255),
    contactPerson VARCHAR(100),
    status ENUM('active', 'inactive') DEFAULT 'active',
    createdAt DATETIME(3),
    updatedAt DATETIME(3)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS Conversations (
    id INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    clientId INT NOT NULL,
    agencyId INT NOT NULL,
    lastMessage TEXT,
    lastMessageTime DATETIME(3),
    unreadCount INT DEFAULT 0,
    isActive BOOLEAN DEFAULT TRUE,
    createdAt DATETIME(3),
    updatedAt DATETIME(3),
    UNIQUE KEY unique_conversation (clientId, agencyId),
    FOREIGN KEY (clientId) REFERENCES Clients (id),
    FOREIGN KEY (agencyId) REFERENCES Users (id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS Messages (
    id INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    conversationId INT NOT NULL,
    senderId INT NOT NULL,
    receiverId INT NOT NULL,
    senderType ENUM('client', 'agency') NOT NULL,
    content TEXT NOT NULL,
    isRead BOOLEAN DEFAULT FALSE,
    readAt DATETIME(3),
    createdAt DATETIME(3),
    updatedAt DATETIME(3),
    FOREIGN KEY (conversationId) REFERENCES Conversations (id),
    FOREIGN KEY (senderId) REFERENCES Users (id),
    FOREIGN KEY (receiverId) REFERENCES Users (id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
