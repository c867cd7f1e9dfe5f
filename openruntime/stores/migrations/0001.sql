CREATE TABLE tasks (
    id          TEXT PRIMARY KEY,
    tenant      TEXT NOT NULL,
    status      TEXT NOT NULL,
    operation   TEXT NOT NULL,
    device      TEXT,
    tags        TEXT,                -- JSON list
    idempotency TEXT,
    finished    REAL,                -- NULL until the task has ended
    size        INTEGER NOT NULL,    -- bytes of the result, those in blobs included
    blobs       TEXT,                -- JSON list of the digests that this row counts
    meta        BLOB NOT NULL,
    inputs      BLOB,
    outputs     BLOB
);
CREATE INDEX tasks_history ON tasks (finished, size);
CREATE INDEX tasks_rare ON tasks (status, id) WHERE status IN ('failed', 'cancelled');
CREATE INDEX tasks_keys ON tasks (tenant, idempotency) WHERE idempotency IS NOT NULL;
CREATE INDEX tasks_blobs ON tasks (blobs) WHERE blobs IS NOT NULL;

CREATE TABLE shelf (
    namespace TEXT NOT NULL,
    key       TEXT NOT NULL,
    tenant    TEXT NOT NULL,
    expires   REAL NOT NULL,
    used      REAL NOT NULL,
    size      INTEGER NOT NULL,
    blobs     TEXT,
    meta      BLOB NOT NULL,
    arrays    BLOB NOT NULL,
    PRIMARY KEY (namespace, key)
);
CREATE INDEX shelf_used ON shelf (namespace, used, size);
CREATE INDEX shelf_blobs ON shelf (blobs) WHERE blobs IS NOT NULL;
