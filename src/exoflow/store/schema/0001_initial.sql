-- Heads: one row per workflow. "number" is its short name in the journal, "wish" a request that anyone may leave, "seal" a digest over
-- the other columns.
CREATE TABLE heads (
    number      INTEGER PRIMARY KEY,
    workflow_id TEXT NOT NULL UNIQUE
                CHECK (length(workflow_id) BETWEEN 1 AND 200 AND workflow_id NOT GLOB '*[^A-Za-z0-9._:-]*'),
    epoch       INTEGER NOT NULL,
    owner       TEXT,
    status      TEXT NOT NULL,
    created_ms  INTEGER NOT NULL,
    updated_ms  INTEGER NOT NULL,
    digest      TEXT NOT NULL,
    note        TEXT NOT NULL,
    seal        BLOB NOT NULL,
    wish        TEXT
) STRICT;

CREATE INDEX heads_by_status ON heads (status, workflow_id);
CREATE INDEX wishes ON heads (owner) WHERE wish IS NOT NULL;

-- Journals: id = number * 2^33 + (2^32 if retired) + seq. One integer, because a row then lies next to its neighbours in one tree with
-- nothing beside it, and what recovery reads (the rows of one workflow that are not retired, in order) is one range.
-- "seal" is a digest over workflow_id, seq and body; the payload is the caller's to check.
CREATE TABLE journal (
    id      INTEGER PRIMARY KEY,
    seal    BLOB NOT NULL,
    body    BLOB NOT NULL,
    payload BLOB
) STRICT;

CREATE TABLE owners (
    owner     TEXT PRIMARY KEY NOT NULL,
    host      TEXT NOT NULL,
    pid       INTEGER NOT NULL,
    lock_path TEXT NOT NULL,
    beat      INTEGER NOT NULL,
    lease_s   REAL NOT NULL
) STRICT, WITHOUT ROWID;
