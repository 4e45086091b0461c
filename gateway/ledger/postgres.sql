-- The ledger in PostgreSQL, version 1: the tables of schema.sql and schema_2.sql, in the schema `faregate` of one database.
-- Amounts are integers of nano-units of `currency`; instants are microseconds UTC since 1970; lists are JSON.

-- What all replicas must agree on, such as the version of these tables.
CREATE TABLE faregate.meta (
    name text PRIMARY KEY,
    value text NOT NULL
);

-- One row for each request that had money reserved; `expires` is the end of its lease by the database's clock.
CREATE TABLE faregate.hold (
    rid text PRIMARY KEY,
    state text NOT NULL CHECK (state IN ('held', 'settled', 'released', 'expired')),
    nano bigint NOT NULL CHECK (nano >= 0),
    currency text NOT NULL,
    expected bigint NOT NULL CHECK (expected >= 0),
    worst bigint NOT NULL CHECK (worst >= 0),
    expires bigint NOT NULL,
    owner text NOT NULL,
    team text NOT NULL,
    key text NOT NULL,
    route text NOT NULL,
    host text NOT NULL,
    model text NOT NULL,
    card text NOT NULL,
    policies text NOT NULL,
    started bigint NOT NULL,
    -- What it has of each of its budgets; it stays when the hold ends, for what is learned late. NULL: it has none.
    claims jsonb,
    -- Digests of the Idempotency-Key and of the body. A hold that was released gives its key back.
    idem text,
    fingerprint text
);

CREATE INDEX open_hold ON faregate.hold (expires) WHERE state = 'held';
CREATE UNIQUE INDEX hold_idem ON faregate.hold (idem) WHERE idem IS NOT NULL;

-- What became of a request. `nano` is always the sum of its entries; sources and parts are NULL where there is no usage.
CREATE TABLE faregate.request (
    rid text PRIMARY KEY,
    team text NOT NULL,
    key text NOT NULL,
    route text NOT NULL,
    host text NOT NULL,
    model text NOT NULL,
    contract text NOT NULL,
    edits text NOT NULL,
    cache_hit bigint,
    cache_miss bigint,
    output bigint,
    reasoning bigint,
    cache_hit_source text,
    cache_miss_source text,
    output_source text,
    reasoning_source text,
    currency text NOT NULL,
    nano bigint NOT NULL,
    cache_hit_nano bigint,
    cache_miss_nano bigint,
    output_nano bigint,
    card text NOT NULL,
    "window" text NOT NULL,
    policies text NOT NULL,
    started bigint NOT NULL,
    ended bigint NOT NULL,
    status text NOT NULL,
    stopped text,
    attempts text NOT NULL,
    expected bigint NOT NULL,
    worst bigint NOT NULL,
    host_nano bigint,
    disputed integer NOT NULL,
    stream integer NOT NULL,
    -- The newest first, where two ended in one microsecond.
    kept bigint GENERATED ALWAYS AS IDENTITY
);

CREATE INDEX request_ended ON faregate.request (ended, kept);

-- Every movement of money, appended and never changed: the history of a request is its entries in the order of seq.
CREATE TABLE faregate.entry (
    rid text NOT NULL,
    seq integer NOT NULL,
    kind text NOT NULL CHECK (kind IN ('settle', 'expire', 'adjust')),
    nano bigint NOT NULL,
    currency text NOT NULL,
    source text NOT NULL CHECK (source IN ('reported', 'counted', 'estimate', 'none')),
    at bigint NOT NULL,
    -- What it costs in each budget's currency, and at which rate.
    claims jsonb,
    PRIMARY KEY (rid, seq)
);

CREATE FUNCTION faregate.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'entries are append-only' USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER entry_is_not_changed BEFORE UPDATE OR DELETE ON faregate.entry FOR EACH ROW EXECUTE FUNCTION faregate.refuse_change();
CREATE TRIGGER entry_is_not_emptied BEFORE TRUNCATE ON faregate.entry FOR EACH STATEMENT EXECUTE FUNCTION faregate.refuse_change();

-- One budget in one period; amounts are nano-units of its own currency. `lim` is what the last hold found in the policies, `ceiling`
-- the highest that ever was. The last check is the bound itself: a commit that broke it would be refused.
CREATE TABLE faregate.budget (
    team text NOT NULL,
    budget text NOT NULL,
    key text NOT NULL,
    period text NOT NULL,
    currency text NOT NULL,
    lim bigint NOT NULL,
    ceiling bigint NOT NULL,
    spent bigint NOT NULL,
    held bigint NOT NULL CHECK (held >= 0),
    peak bigint NOT NULL,
    overrun bigint NOT NULL CHECK (overrun >= 0),
    resets_at bigint,
    ver bigint NOT NULL,
    PRIMARY KEY (team, budget, key, period, currency),
    CHECK (spent + held <= ceiling + overrun)
)
-- A hot budget is written with every batch: room on its page, and old versions cleaned away early.
WITH (fillfactor = 30, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- A charge above its hold is never refused; this is where it shows.
CREATE VIEW faregate.overrun AS
    SELECT rid, request.currency, request.nano - hold.nano AS nano
    FROM faregate.request JOIN faregate.hold USING (rid) WHERE request.nano > hold.nano;
