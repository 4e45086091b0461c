-- Budgets: what teams and keys may spend, and what each hold and entry takes of it. Lists are JSON text.

-- One budget in one period; amounts are nano-units of its own currency. `lim` is what the last hold found in the policies, `ceiling`
-- the highest that ever was: at every commit spent + held <= ceiling + overrun.
CREATE TABLE budget (
    team TEXT NOT NULL,
    budget TEXT NOT NULL,
    key TEXT NOT NULL,
    period TEXT NOT NULL,
    currency TEXT NOT NULL,
    lim INTEGER NOT NULL,
    ceiling INTEGER NOT NULL,
    spent INTEGER NOT NULL,
    held INTEGER NOT NULL CHECK (held >= 0),
    peak INTEGER NOT NULL,
    overrun INTEGER NOT NULL CHECK (overrun >= 0),
    resets_at INTEGER,
    ver INTEGER NOT NULL,
    PRIMARY KEY (team, budget, key, period, currency)
) STRICT, WITHOUT ROWID;

-- What the hold has of each of its budgets; it stays when the hold ends, for what is learned late. NULL: it has none.
ALTER TABLE hold ADD COLUMN claims TEXT;
-- Digests of the Idempotency-Key and of the body. A hold that was released gives its key back.
ALTER TABLE hold ADD COLUMN idem TEXT;
ALTER TABLE hold ADD COLUMN fingerprint TEXT;
CREATE UNIQUE INDEX hold_idem ON hold (idem) WHERE idem IS NOT NULL;

-- What the entry costs in each budget's currency, and at which rate.
ALTER TABLE entry ADD COLUMN claims TEXT;

PRAGMA user_version = 2;
