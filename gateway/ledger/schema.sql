-- The embedded ledger. Amounts are integers of nano-units of `currency`; instants are microseconds UTC since 1970.
-- A CHECK says OR and not IN: SQLite builds the list of an IN anew for each row, which cost more than writing the row.

-- One row for each request that had money reserved; `expires` is the end of its lease by the database's clock.
CREATE TABLE hold (
    rid TEXT NOT NULL PRIMARY KEY,
    state TEXT NOT NULL CHECK (state = 'held' OR state = 'settled' OR state = 'released' OR state = 'expired'),
    nano INTEGER NOT NULL CHECK (nano >= 0),
    currency TEXT NOT NULL,
    expected INTEGER NOT NULL CHECK (expected >= 0),
    worst INTEGER NOT NULL CHECK (worst >= 0),
    expires INTEGER NOT NULL,
    owner TEXT NOT NULL,
    team TEXT NOT NULL,
    key TEXT NOT NULL,
    route TEXT NOT NULL,
    host TEXT NOT NULL,
    model TEXT NOT NULL,
    card TEXT NOT NULL,
    policies TEXT NOT NULL,
    started INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX open_hold ON hold (expires) WHERE state = 'held';

-- What became of a request. `nano` is always the sum of its entries; sources and parts are NULL where there is no usage.
CREATE TABLE request (
    rid TEXT NOT NULL PRIMARY KEY,
    team TEXT NOT NULL,
    key TEXT NOT NULL,
    route TEXT NOT NULL,
    host TEXT NOT NULL,
    model TEXT NOT NULL,
    contract TEXT NOT NULL,
    edits TEXT NOT NULL,
    cache_hit INTEGER,
    cache_miss INTEGER,
    output INTEGER,
    reasoning INTEGER,
    cache_hit_source TEXT,
    cache_miss_source TEXT,
    output_source TEXT,
    reasoning_source TEXT,
    currency TEXT NOT NULL,
    nano INTEGER NOT NULL,
    cache_hit_nano INTEGER,
    cache_miss_nano INTEGER,
    output_nano INTEGER,
    card TEXT NOT NULL,
    window TEXT NOT NULL,
    policies TEXT NOT NULL,
    started INTEGER NOT NULL,
    ended INTEGER NOT NULL,
    status TEXT NOT NULL,
    stopped TEXT,
    attempts TEXT NOT NULL,
    expected INTEGER NOT NULL,
    worst INTEGER NOT NULL,
    host_nano INTEGER,
    disputed INTEGER NOT NULL,
    stream INTEGER NOT NULL
) STRICT;

CREATE INDEX request_ended ON request (ended);

-- Every movement of money, appended and never changed: the history of a request is its entries in the order of seq.
CREATE TABLE entry (
    rid TEXT NOT NULL,
    seq INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind = 'settle' OR kind = 'expire' OR kind = 'adjust'),
    nano INTEGER NOT NULL,
    currency TEXT NOT NULL,
    source TEXT NOT NULL CHECK (source = 'reported' OR source = 'counted' OR source = 'estimate' OR source = 'none'),
    at INTEGER NOT NULL,
    PRIMARY KEY (rid, seq)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER entry_is_not_changed BEFORE UPDATE ON entry BEGIN SELECT RAISE(ABORT, 'entries are append-only'); END;
CREATE TRIGGER entry_is_not_deleted BEFORE DELETE ON entry BEGIN SELECT RAISE(ABORT, 'entries are append-only'); END;

-- A charge above its hold is never refused; this is where it shows.
CREATE VIEW overrun AS
    SELECT rid, request.currency, request.nano - hold.nano AS nano FROM request JOIN hold USING (rid) WHERE request.nano > hold.nano;

-- "Fare", and the version of this schema.
PRAGMA application_id = 0x46617265;
PRAGMA user_version = 1;
