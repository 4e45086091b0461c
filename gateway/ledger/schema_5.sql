-- Corrections, and months that were archived.

-- What all gateways on this file must agree on: `id` tells this ledger from every other one.
CREATE TABLE meta (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES ('id', lower(hex(randomblob(8))));

-- Money that a host billed otherwise than was charged, appended and never changed. `at` is the instant it belongs to, `made` when it was
-- written by the database's clock, `claims` (JSON text) what it moved in each budget and what it could not give back.
CREATE TABLE correction (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    at INTEGER NOT NULL,
    team TEXT NOT NULL,
    key TEXT NOT NULL,
    route TEXT NOT NULL,
    host TEXT NOT NULL,
    model TEXT NOT NULL,
    currency TEXT NOT NULL,
    nano INTEGER NOT NULL,
    cls TEXT NOT NULL,
    reason TEXT NOT NULL,
    source TEXT NOT NULL,
    request TEXT,
    claims TEXT,
    made INTEGER NOT NULL
) STRICT;
CREATE INDEX correction_at ON correction (at);
CREATE TRIGGER correction_is_not_changed BEFORE UPDATE ON correction BEGIN SELECT RAISE(ABORT, 'corrections are append-only'); END;
CREATE TRIGGER correction_is_not_deleted BEFORE DELETE ON correction BEGIN SELECT RAISE(ABORT, 'corrections are append-only'); END;

-- Files that hold requests which are no longer here; `done` once all of one are gone. `sha256` is that of its contents.
CREATE TABLE archive (
    id INTEGER PRIMARY KEY,
    month TEXT NOT NULL,
    part INTEGER NOT NULL,
    file TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    made INTEGER NOT NULL,
    done INTEGER NOT NULL,
    UNIQUE (month, part)
) STRICT;

-- What was archived of a month, by team and currency.
CREATE TABLE closed (
    month TEXT NOT NULL,
    team TEXT NOT NULL,
    currency TEXT NOT NULL,
    nano INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    PRIMARY KEY (month, team, currency)
) STRICT, WITHOUT ROWID;

-- What must be known for ever of a request that was archived: that it was, so that it is not charged again; its Idempotency-Key; and
-- where something may still be learned late (it was not settled), what it was charged and which budgets it had.
CREATE TABLE gone (
    rid TEXT NOT NULL PRIMARY KEY,
    archive INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state = 'settled' OR state = 'released' OR state = 'expired'),
    currency TEXT NOT NULL,
    nano INTEGER NOT NULL,
    claims TEXT,
    idem TEXT,
    fingerprint TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX gone_idem ON gone (idem) WHERE idem IS NOT NULL;

-- The part of `spent` whose requests were archived.
ALTER TABLE budget ADD COLUMN archived INTEGER NOT NULL DEFAULT 0;

-- An entry may go only with its request, once that is in an archive.
DROP TRIGGER entry_is_not_deleted;
CREATE TRIGGER entry_is_not_deleted BEFORE DELETE ON entry WHEN NOT EXISTS (SELECT 1 FROM gone WHERE gone.rid = old.rid)
BEGIN SELECT RAISE(ABORT, 'entries are append-only'); END;

PRAGMA user_version = 5;
