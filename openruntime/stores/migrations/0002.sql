CREATE TABLE pages (                 -- history that nobody was promised: many completed tasks in one row
    number     INTEGER PRIMARY KEY,  -- names the file with the results, where they are not here
    first      TEXT NOT NULL,        -- the smallest and the largest id
    last       TEXT NOT NULL,
    count      INTEGER NOT NULL,
    size       INTEGER NOT NULL,     -- bytes of the results
    finished   REAL NOT NULL,        -- the newest
    tenants    TEXT NOT NULL,        -- JSON lists of what occurs
    operations TEXT NOT NULL,
    devices    TEXT NOT NULL,
    tags       TEXT NOT NULL,
    checksum   INTEGER,              -- CRC-32 of the file; NULL where there is none
    tasks      BLOB NOT NULL,
    outputs    BLOB
);
CREATE INDEX pages_ids ON pages (last, first);
CREATE INDEX pages_history ON pages (finished, count, size);
