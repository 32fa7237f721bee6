-- What reading from a replica needs. Times are milliseconds since 1970 by the clock of the database that is written to.

-- The clock: nodes set it forward every second or so, and how far a replica has come is what it reads there.
CREATE TABLE IF NOT EXISTS ReplicaClock (
    id TINYINT NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

INSERT IGNORE INTO ReplicaClock (id, at) VALUES (1, 0);

-- Who has written lately, and until when their writes may come: a replica that has not got that far is not for them. Noted before
-- they write, a while ahead, so that not every write notes it. No foreign key: nothing is locked for it.
CREATE TABLE IF NOT EXISTS UserWrites (
    userId INT NOT NULL PRIMARY KEY,
    writesUntil BIGINT NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
