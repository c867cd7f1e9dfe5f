CREATE TABLE identity (id BLOB NOT NULL);  -- of this database among all: a log (`-wal`) left of another is not folded in
INSERT INTO identity VALUES (randomblob(16));
