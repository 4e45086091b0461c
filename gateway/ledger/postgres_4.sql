-- The ledger in PostgreSQL, version 4: what schema_5.sql adds, corrections and months that were archived.

-- What tells this ledger from every other one.
INSERT INTO faregate.meta (name, value) VALUES ('id', substr(md5(random()::text || clock_timestamp()::text || pg_backend_pid()), 1, 16));

-- Money that a host billed otherwise than was charged, appended and never changed. `at` is the instant it belongs to, `made` when it was
-- written by the database's clock, `claims` what it moved in each budget and what it could not give back.
CREATE TABLE faregate.correction (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text NOT NULL UNIQUE,
    at bigint NOT NULL,
    team text NOT NULL,
    key text NOT NULL,
    route text NOT NULL,
    host text NOT NULL,
    model text NOT NULL,
    currency text NOT NULL,
    nano bigint NOT NULL,
    cls text NOT NULL,
    reason text NOT NULL,
    source text NOT NULL,
    request text,
    claims jsonb,
    made bigint NOT NULL
);
CREATE INDEX correction_at ON faregate.correction (at);

-- Files that hold requests which are no longer here; `done` once all of one are gone. `sha256` is that of its contents.
CREATE TABLE faregate.archive (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    month text NOT NULL,
    part integer NOT NULL,
    file text NOT NULL,
    sha256 text NOT NULL,
    made bigint NOT NULL,
    done integer NOT NULL,
    UNIQUE (month, part)
);

-- What was archived of a month, by team and currency.
CREATE TABLE faregate.closed (
    month text NOT NULL,
    team text NOT NULL,
    currency text NOT NULL,
    nano bigint NOT NULL,
    requests bigint NOT NULL,
    estimated bigint NOT NULL,
    PRIMARY KEY (month, team, currency)
);

-- What must be known for ever of a request that was archived: that it was, so that it is not charged again; its Idempotency-Key; and
-- where something may still be learned late (it was not settled), what it was charged and which budgets it had.
CREATE TABLE faregate.gone (
    rid text PRIMARY KEY,
    archive bigint NOT NULL,
    state text NOT NULL CHECK (state IN ('settled', 'released', 'expired')),
    currency text NOT NULL,
    nano bigint NOT NULL,
    claims jsonb,
    idem text,
    fingerprint text
);
CREATE INDEX gone_idem ON faregate.gone (idem) WHERE idem IS NOT NULL;

-- The part of `spent` whose requests were archived.
ALTER TABLE faregate.budget ADD COLUMN archived bigint NOT NULL DEFAULT 0;

-- An entry may go only with its request, once that is in an archive; a correction never.
CREATE OR REPLACE FUNCTION faregate.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND TG_TABLE_NAME = 'entry' THEN
        -- In a statement of its own: a correction has no `rid`.
        IF EXISTS (SELECT FROM faregate.gone WHERE gone.rid = old.rid) THEN
            RETURN old;
        END IF;
    END IF;
    RAISE EXCEPTION '% are append-only', CASE TG_TABLE_NAME WHEN 'entry' THEN 'entries' ELSE 'corrections' END
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER correction_is_not_changed BEFORE UPDATE OR DELETE ON faregate.correction
    FOR EACH ROW EXECUTE FUNCTION faregate.refuse_change();
CREATE TRIGGER correction_is_not_emptied BEFORE TRUNCATE ON faregate.correction
    FOR EACH STATEMENT EXECUTE FUNCTION faregate.refuse_change();

-- `apply` as it was, but that it knows the Idempotency-Keys of archived requests, and the ids where a hold is forced.
DO $patch$
DECLARE
    before text := pg_get_functiondef('faregate.apply(jsonb, jsonb)'::regprocedure);
    after text := before;
BEGIN
    after := replace(after, 'h.rid AS known, h.state,', 'coalesce(h.rid, past_self.rid) AS known, h.state,');
    after := replace(after, 'h.nano AS h_nano,', 'coalesce(h.nano, past_self.nano) AS h_nano,');
    after := replace(after, 'twin.rid AS twin, twin.state AS twin_state, twin.fingerprint AS twin_fp,',
        'coalesce(twin.rid, past_twin.rid) AS twin, coalesce(twin.state, past_twin.state) AS twin_state,
               coalesce(twin.fingerprint, past_twin.fingerprint) AS twin_fp,');
    after := replace(after, 'LEFT JOIN hold twin ON twin.idem = j.idem',
        'LEFT JOIN hold twin ON twin.idem = j.idem
        LEFT JOIN gone past_twin ON past_twin.idem = j.idem
        LEFT JOIN gone past_self ON j.forced AND past_self.rid = j.rid');
    -- A key has one request at most, here or archived.
    after := replace(after, 'UPDATE hold SET idem = NULL WHERE rid = ANY (freed);',
        'UPDATE hold SET idem = NULL WHERE rid = ANY (freed);
        UPDATE gone SET idem = NULL, fingerprint = NULL WHERE rid = ANY (freed);');
    -- A forced hold takes the key of a released request too: else the next request with it would be charged once more.
    after := replace(after, 'new_keyed := new_keyed || (o.twin IS NULL OR NOT o.forced);
                    IF o.twin IS NOT NULL AND NOT o.forced THEN',
        'new_keyed := new_keyed || (o.twin IS NULL OR NOT o.forced OR (o.twin_state = ''released'' AND o.twin_fp = o.fp));
                    IF o.twin IS NOT NULL AND (NOT o.forced OR (o.twin_state = ''released'' AND o.twin_fp = o.fp)) THEN');
    IF NOT (after LIKE '%past_self.rid) AS known%' AND after LIKE '%past_self.nano) AS h_nano%' AND after LIKE '%past_twin.rid) AS twin,%'
            AND after LIKE '%LEFT JOIN gone past_self%' AND after LIKE '%UPDATE gone SET idem = NULL%'
            AND after LIKE '%AND (NOT o.forced OR (o.twin_state%') THEN
        RAISE EXCEPTION 'faregate.apply is not that of version 3';
    END IF;
    EXECUTE after;
END $patch$;

-- Moves these amounts in budgets, [{team, budget, key, period, currency, nano}] in the order of their names, and answers what was moved.
-- `floor`: a budget gives back at most what it has spent, and `left_out` says what it did not.
CREATE FUNCTION faregate.move(claims jsonb, floor boolean) RETURNS jsonb LANGUAGE plpgsql
SET search_path = faregate, pg_catalog, pg_temp
AS $$
DECLARE
    c record;
    b budget;
    moved bigint;
    done jsonb;
BEGIN
    FOR c IN SELECT * FROM jsonb_to_recordset(claims) AS x(team text, budget text, key text, period text, currency text, nano bigint) LOOP
        SELECT * INTO STRICT b FROM budget WHERE (budget.team, budget.budget, budget.key, budget.period, budget.currency)
            = (c.team, c.budget, c.key, c.period, c.currency) FOR UPDATE;
        moved := CASE WHEN floor THEN greatest(c.nano, -greatest(0, b.spent)) ELSE c.nano END;
        UPDATE budget SET spent = b.spent + moved, ver = b.ver + 1, overrun = greatest(b.overrun, b.spent + moved + b.held - b.ceiling),
            peak = greatest(b.peak, b.spent + moved + b.held)
        WHERE (budget.team, budget.budget, budget.key, budget.period, budget.currency) = (c.team, c.budget, c.key, c.period, c.currency);
        done := coalesce(done, '[]') || jsonb_build_object('team', c.team, 'budget', c.budget, 'key', c.key, 'period', c.period,
            'currency', c.currency, 'nano', moved, 'left_out', c.nano - moved);
    END LOOP;
    RETURN done;
END $$;

-- Appends one correction, with the columns of its table and in `claims` what it would move. Answers "new", "same", or "other" where
-- its id is known with other contents.
CREATE FUNCTION faregate.correct(correction jsonb) RETURNS text LANGUAGE plpgsql
SET search_path = faregate, pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    now_us bigint := begin_batch();
    given correction;
    known correction;
BEGIN
    given := jsonb_populate_record(NULL::correction, correction);
    SELECT * INTO known FROM correction c WHERE c.id = given.id;
    IF FOUND THEN
        RETURN CASE WHEN (known.at, known.team, known.key, known.route, known.host, known.model, known.currency, known.nano, known.cls,
                known.reason, known.source, coalesce(known.request, ''))
            = (given.at, given.team, given.key, given.route, given.host, given.model, given.currency, given.nano, given.cls,
                given.reason, given.source, coalesce(given.request, '')) THEN 'same' ELSE 'other' END;
    END IF;
    INSERT INTO correction (id, at, team, key, route, host, model, currency, nano, cls, reason, source, request, claims, made)
    VALUES (given.id, given.at, given.team, given.key, given.route, given.host, given.model, given.currency, given.nano, given.cls,
        given.reason, given.source, given.request, move(given.claims, true), now_us);
    RETURN 'new';
END $$;

-- The end of a request that was archived, as `finish` of `apply`: the difference is a correction. {"error": …} as there.
CREATE FUNCTION faregate.finish_gone(op jsonb, rules jsonb, late jsonb) RETURNS text LANGUAGE plpgsql
SET search_path = faregate, pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    now_us bigint := begin_batch();
    was gone;
    step jsonb;
    charged bigint;
    claims jsonb;
BEGIN
    SELECT * INTO was FROM gone WHERE gone.rid = op->>'rid';
    IF NOT FOUND THEN
        RETURN '{"error":"unknown"}';
    END IF;
    step := rules->'steps'->(op->>'event')->was.state;
    IF step IS NULL THEN
        RETURN '{"done":false}';
    ELSIF was.currency <> op->>'currency' THEN
        RETURN concat('{"error":"currency","id":', to_json(was.currency), '}');
    END IF;
    charged := was.nano + (SELECT coalesce(sum(c.nano), 0) FROM correction c
        WHERE c.id IN (concat('late:', was.rid, ':settle'), concat('late:', was.rid, ':release')));
    SELECT jsonb_agg(claim - 'rate' - 'held' || jsonb_build_object('nano',
        cost((op->>'nano')::numeric, (claim->'rate'->>0)::numeric, (claim->'rate'->>1)::numeric)
        - cost(charged, (claim->'rate'->>0)::numeric, (claim->'rate'->>1)::numeric)) ORDER BY i)
    INTO claims FROM jsonb_array_elements(was.claims) WITH ORDINALITY x(claim, i);
    INSERT INTO correction (id, at, team, key, route, host, model, currency, nano, cls, reason, source, request, claims, made)
    SELECT late->>'id', (late->>'at')::bigint, late->>'team', late->>'key', late->>'route', late->>'host', late->>'model', was.currency,
           (op->>'nano')::bigint - charged, '', late->>'reason', late->>'source', was.rid, move(claims, false), now_us;
    UPDATE gone SET state = step->>0 WHERE gone.rid = was.rid;
    RETURN '{"done":true}';
END $$;

-- Lets requests leave for an archive, [[id, state], …]: those that are still in that state. Their sums go to the month's and to their
-- budgets', and what must be known of them for ever stays. Answers [how many, microseconds that it kept the lock].
CREATE FUNCTION faregate.retire(into_archive bigint, batch jsonb) RETURNS bigint[] LANGUAGE plpgsql
SET search_path = faregate, pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET jit = off
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
    now_us bigint := begin_batch();
    ids text[];
BEGIN
    SELECT array_agg(hold.rid) INTO ids
    FROM jsonb_array_elements(batch) one JOIN hold ON hold.rid = one->>0 AND hold.state = one->>1;
    IF ids IS NOT NULL THEN
        INSERT INTO gone (rid, archive, state, currency, nano, claims, idem, fingerprint)
        SELECT h.rid, into_archive, h.state, h.currency, coalesce(r.nano, 0), CASE WHEN h.state <> 'settled' THEN h.claims END, h.idem,
               CASE WHEN h.idem IS NOT NULL THEN h.fingerprint END
        FROM unnest(ids) AS u(rid) JOIN hold h ON h.rid = u.rid LEFT JOIN request r ON r.rid = u.rid;
        INSERT INTO closed AS c (month, team, currency, nano, requests, estimated)
        SELECT archive.month, r.team, r.currency, sum(r.nano), count(*), sum(CASE WHEN r.attempts LIKE '%"possible"%' THEN coalesce((
            SELECT sum((line ->> 'nano')::bigint) FROM jsonb_array_elements(r.attempts::jsonb) line
            WHERE line ->> 'billed' = 'possible'), 0) ELSE 0 END)
        FROM unnest(ids) AS u(rid) JOIN request r ON r.rid = u.rid JOIN archive ON archive.id = into_archive GROUP BY archive.month, r.team, r.currency
        ON CONFLICT (month, team, currency) DO UPDATE SET nano = c.nano + excluded.nano, requests = c.requests + excluded.requests,
            estimated = c.estimated + excluded.estimated;
        UPDATE budget b SET archived = b.archived + s.cost FROM (
            SELECT claim->>'team' AS team, claim->>'budget' AS budget, claim->>'key' AS key, claim->>'period' AS period,
                   claim->>'currency' AS currency, sum((claim->>'cost')::bigint)::bigint AS cost
            FROM unnest(ids) AS u(rid) JOIN entry e ON e.rid = u.rid, jsonb_array_elements(e.claims) AS claim GROUP BY 1, 2, 3, 4, 5
        ) s WHERE (b.team, b.budget, b.key, b.period, b.currency) = (s.team, s.budget, s.key, s.period, s.currency);
        DELETE FROM entry WHERE rid = ANY (ids);
        DELETE FROM request WHERE rid = ANY (ids);
        DELETE FROM hold WHERE rid = ANY (ids);
    END IF;
    RETURN ARRAY[coalesce(cardinality(ids), 0), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint - now_us];
END $$;
