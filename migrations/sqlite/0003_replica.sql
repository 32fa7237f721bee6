-- As on MySQL, though only that has replicas: one schema has one version.

CREATE TABLE IF NOT EXISTS ReplicaClock (
    id INTEGER NOT NULL PRIMARY KEY,
    at INTEGER NOT NULL
);

INSERT OR IGNORE INTO ReplicaClock (id, at) VALUES (1, 0);

CREATE TABLE IF NOT EXISTS UserWrites (
    userId INTEGER NOT NULL PRIMARY KEY,
    writesUntil INTEGER NOT NULL
);
