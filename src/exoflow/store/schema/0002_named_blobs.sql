-- Which workflow (by its number) names which blob, until it is deleted: what nobody names can be collected. The blob '*' stands for any:
-- a workflow that was begun before this table may name all of them.
CREATE TABLE named (
    number INTEGER NOT NULL,
    blob   TEXT NOT NULL,
    PRIMARY KEY (number, blob)
) STRICT, WITHOUT ROWID;

CREATE INDEX named_by_blob ON named (blob);

INSERT INTO named SELECT number, '*' FROM heads;
