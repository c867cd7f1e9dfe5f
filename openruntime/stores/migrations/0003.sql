CREATE TABLE pending (               -- promised tasks until they have ended: all that one commit accepted in one row
    number INTEGER PRIMARY KEY,      -- of two pages with the same task the higher one counts
    first  TEXT NOT NULL,            -- the smallest id
    tasks  BLOB NOT NULL
);
CREATE TABLE pending_left (          -- of pages partly ended when history was dropped last, which no longer tells of all ends
    number INTEGER PRIMARY KEY,
    ids    TEXT NOT NULL             -- JSON list of those that had not ended
);
