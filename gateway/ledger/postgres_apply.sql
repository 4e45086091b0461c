-- What the ledger in PostgreSQL does: a batch of operations is one call of `apply`, so one transaction. It takes the lock of all
-- ledgers of this database first: batches of several replicas go one after another, none can wait for another in a circle, and no client
-- can keep the lock, because the server runs the call to its end by itself.

CREATE FUNCTION faregate.begin_batch() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(7307199661);
    -- Whatever the server is set to: who is told has it on the disk.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    RETURN (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
END $$;

-- Claim.cost: rounded up once. Amounts are never below 0.
CREATE FUNCTION faregate.cost(nano numeric, num numeric, den numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS
    'SELECT CASE WHEN num = den THEN nano ELSE div(nano * num + den - 1, den) END';

-- Claim.affords
CREATE FUNCTION faregate.affords(amount numeric, num numeric, den numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS
    'SELECT CASE WHEN num = den THEN greatest(0, amount) ELSE div(greatest(0, amount) * den, num) END';

-- gateway.budgets.granted; floor(), because what is left may be below 0.
CREATE FUNCTION faregate.granted(asked numeric, lowest numeric, worst numeric, held numeric, rest numeric, share numeric)
RETURNS numeric LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN worst <= held + floor(rest / share) THEN worst
        WHEN lowest > greatest(0, held + rest) THEN NULL
        ELSE greatest(lowest, least(asked, held + floor(rest / share)))
    END $$;

-- The name of a budget in one period, as one text.
CREATE FUNCTION faregate.name_of(claim jsonb) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_build_array(claim->'team', claim->'budget', claim->'key', claim->'period', claim->'currency')::text $$;

-- Applies a JSON array of operations in their order, and answers a JSON array of results. A batch has each request, and each
-- Idempotency-Key, at most once. `rules` is what the gateway decides: its SHARE, and as `steps` the table of states:
-- event -> state -> [next state, kind of entry].
-- The loop computes, and writes nothing; each table is then written by one statement for the whole batch.
CREATE FUNCTION faregate.apply(batch jsonb, rules jsonb) RETURNS text LANGUAGE plpgsql
-- Every row is found by its key, however small the tables were when the plan was made.
SET search_path = faregate, pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET jit = off
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
    now_us bigint := begin_batch();
    share numeric := rules->'share';
    o record; k int; s int; step jsonb; moved numeric; charge numeric; part numeric; most numeric; has bigint; rest bigint; committed bigint;
    refusal text; answer text; shares jsonb;
    answers text[] := '{}';
    -- The budgets of the batch: `slots` gives the place of each in the arrays.
    slots jsonb; b_name jsonb[]; b_lim bigint[]; b_ceiling bigint[]; b_spent bigint[]; b_held bigint[]; b_peak bigint[];
    b_overrun bigint[]; b_ends bigint[]; b_ver bigint[]; b_was bigint[];
    -- What is to be written: new holds, extended holds (their place in the batch), freed Idempotency-Keys, ended holds, entries, rows.
    new_at int[] := '{}'; new_nano bigint[] := '{}'; new_claims jsonb[] := '{}'; new_keyed boolean[] := '{}';
    ext_at int[] := '{}'; ext_nano bigint[] := '{}'; ext_claims jsonb[] := '{}';
    freed text[] := '{}'; end_rid text[] := '{}'; end_state text[] := '{}'; row_at int[] := '{}'; late text[] := '{}';
    e_rid text[] := '{}'; e_seq int[] := '{}'; e_kind text[] := '{}'; e_nano bigint[] := '{}'; e_currency text[] := '{}';
    e_source text[] := '{}'; e_claims jsonb[] := '{}';
BEGIN
    SELECT coalesce(jsonb_object_agg(n.name, n.slot), '{}'), array_agg(n.claim ORDER BY n.slot),
           array_agg(coalesce(b.lim, 0) ORDER BY n.slot), array_agg(coalesce(b.ceiling, 0) ORDER BY n.slot),
           array_agg(coalesce(b.spent, 0) ORDER BY n.slot), array_agg(coalesce(b.held, 0) ORDER BY n.slot),
           array_agg(coalesce(b.peak, 0) ORDER BY n.slot), array_agg(coalesce(b.overrun, 0) ORDER BY n.slot),
           array_agg(b.resets_at ORDER BY n.slot), array_agg(coalesce(b.ver, 0) ORDER BY n.slot),
           array_agg(coalesce(b.ver, 0) ORDER BY n.slot)
    INTO slots, b_name, b_lim, b_ceiling, b_spent, b_held, b_peak, b_overrun, b_ends, b_ver, b_was
    FROM (
        SELECT d.name, d.claim, row_number() OVER () AS slot FROM (
            SELECT DISTINCT ON (name_of(c.claim)) name_of(c.claim) AS name, c.claim FROM (
                SELECT jsonb_array_elements(op->'claims') FROM jsonb_array_elements(batch) op
                UNION ALL
                SELECT jsonb_array_elements(h.claims) FROM jsonb_array_elements(batch) op JOIN hold h ON h.rid = op->>'rid'
            ) c(claim)
        ) d
    ) n
    LEFT JOIN budget b ON (b.team, b.budget, b.key, b.period, b.currency)
        = (n.claim->>'team', n.claim->>'budget', n.claim->>'key', n.claim->>'period', n.claim->>'currency');

    FOR o IN
        SELECT j.*, h.rid AS known, h.state, h.owner AS maker, h.nano AS h_nano, h.currency AS h_currency, h.claims AS h_claims,
               p.at, p.num, p.den, q.at AS h_at, q.num AS h_num, q.den AS h_den, q.held AS h_held,
               twin.rid AS twin, twin.state AS twin_state, twin.fingerprint AS twin_fp, past.seq, past.nano AS past_nano
        FROM ROWS FROM (jsonb_to_recordset(batch) AS (op text, rid text, nano numeric, lowest numeric, worst numeric, currency text,
                owner text, forced boolean, idem text, fp text, claims jsonb, lims bigint[], ends bigint[], finish boolean[], event text,
                source text)) WITH ORDINALITY
            AS j(op, rid, nano, lowest, worst, currency, owner, forced, idem, fp, claims, lims, ends, finish, event, source, n)
        LEFT JOIN hold h ON h.rid = j.rid
        LEFT JOIN hold twin ON twin.idem = j.idem
        LEFT JOIN LATERAL (
            SELECT array_agg((slots->>name_of(c))::int ORDER BY i) AS at, array_agg((c->'rate'->>0)::numeric ORDER BY i) AS num,
                   array_agg((c->'rate'->>1)::numeric ORDER BY i) AS den
            FROM jsonb_array_elements(j.claims) WITH ORDINALITY x(c, i)
        ) p ON j.claims IS NOT NULL
        LEFT JOIN LATERAL (
            SELECT array_agg((slots->>name_of(c))::int ORDER BY i) AS at, array_agg((c->'rate'->>0)::numeric ORDER BY i) AS num,
                   array_agg((c->'rate'->>1)::numeric ORDER BY i) AS den, array_agg((c->>'held')::bigint ORDER BY i) AS held
            FROM jsonb_array_elements(h.claims) WITH ORDINALITY x(c, i)
        ) q ON h.claims IS NOT NULL
        LEFT JOIN LATERAL (
            SELECT coalesce(max(entry.seq), 0) AS seq, coalesce(sum(entry.nano), 0) AS nano FROM entry WHERE entry.rid = j.rid
        ) past ON j.op = 'finish' AND h.state <> 'held'
        ORDER BY j.n
    LOOP
        answer := NULL;
        IF o.op = 'hold' AND o.known IS NOT NULL THEN
            IF o.forced OR (o.state = 'held' AND o.maker = o.owner) THEN
                -- The answer that was lost.
                answer := concat('{"nano":', o.h_nano, ',"budgets":[');
                FOR k IN 1 .. coalesce(cardinality(o.h_at), 0) LOOP
                    s := o.h_at[k];
                    answer := concat(answer, CASE WHEN k > 1 THEN ',' END, '[', b_lim[s], ',', b_spent[s], ',', b_held[s], ',', b_peak[s],
                        ',', b_overrun[s], ',', coalesce(b_ends[s]::text, 'null'), ']');
                END LOOP;
                answer := answer || ']}';
            ELSE
                answer := '{"error":"known"}';
            END IF;
        ELSIF o.op = 'hold' AND o.twin IS NOT NULL AND NOT o.forced AND (o.twin_fp <> o.fp OR o.twin_state <> 'released') THEN
            answer := CASE WHEN o.twin_fp <> o.fp THEN '{"error":"mismatch"}' WHEN o.twin_state = 'held' THEN '{"error":"in_flight"}'
                ELSE concat('{"error":"done","id":', to_json(o.twin), '}') END;
        ELSIF o.op = 'extend' AND o.state IS DISTINCT FROM 'held' THEN
            answer := '{"error":"not_held"}';
        ELSIF o.op = 'extend' AND o.at IS DISTINCT FROM o.h_at THEN
            answer := '{"error":"others"}';
        ELSIF o.op IN ('hold', 'extend') THEN
            refusal := NULL;
            IF o.at IS NULL OR o.forced THEN
                most := o.nano;
            ELSE
                most := o.worst;
                FOR k IN 1 .. cardinality(o.at) LOOP
                    s := o.at[k];
                    has := CASE WHEN o.op = 'extend' THEN o.h_held[k] ELSE 0 END;
                    rest := CASE WHEN o.op = 'extend' THEN b_lim[s] ELSE o.lims[k] END - b_spent[s] - b_held[s];
                    part := granted(cost(o.nano, o.num[k], o.den[k]), cost(o.lowest, o.num[k], o.den[k]),
                        cost(o.worst, o.num[k], o.den[k]), has, rest, share);
                    IF part IS NULL AND (o.op = 'hold' OR NOT o.finish[k]) THEN
                        refusal := concat('{"error":"exceeded","claim":', k - 1, ',"asked":', cost(o.lowest, o.num[k], o.den[k]) - has,
                            ',"budgets":[[', rest + b_spent[s] + b_held[s], ',', b_spent[s], ',', b_held[s], ',', b_peak[s], ',',
                            b_overrun[s], ',', coalesce(CASE WHEN o.op = 'hold' THEN o.ends[k] ELSE b_ends[s] END::text, 'null'), ']]}');
                        EXIT;
                    END IF;
                    most := least(most, affords(coalesce(part, cost(o.lowest, o.num[k], o.den[k])), o.num[k], o.den[k]));
                END LOOP;
                most := greatest(most, o.lowest);
            END IF;
            answer := refusal;
            IF refusal IS NULL THEN
                shares := NULL;
                answer := concat('{"nano":', most, ',"budgets":[');
                FOR k IN 1 .. coalesce(cardinality(o.at), 0) LOOP
                    s := o.at[k];
                    has := CASE WHEN o.op = 'extend' THEN o.h_held[k] ELSE 0 END;
                    IF o.op = 'hold' THEN
                        b_lim[s] := o.lims[k];
                        b_ends[s] := o.ends[k];
                        b_ceiling[s] := greatest(b_ceiling[s], o.lims[k]);
                    END IF;
                    part := cost(most, o.num[k], o.den[k]);
                    committed := b_spent[s] + b_held[s];
                    b_held[s] := b_held[s] + part - has;
                    b_overrun[s] := b_overrun[s] + greatest(0, b_spent[s] + b_held[s] - greatest(b_lim[s], committed));
                    b_peak[s] := greatest(b_peak[s], b_spent[s] + b_held[s]);
                    b_ver[s] := b_ver[s] + 1;
                    shares := coalesce(shares, '[]') || ((o.claims->(k - 1)) || jsonb_build_object('held', part));
                    answer := concat(answer, CASE WHEN k > 1 THEN ',' END, '[', b_lim[s], ',', b_spent[s], ',', b_held[s], ',', b_peak[s],
                        ',', b_overrun[s], ',', coalesce(b_ends[s]::text, 'null'), ']');
                END LOOP;
                answer := answer || ']}';
                IF o.op = 'hold' THEN
                    new_at := new_at || (o.n - 1)::int;
                    new_nano := new_nano || most::bigint;
                    new_claims := array_append(new_claims, shares);
                    -- A forced hold leaves an Idempotency-Key that is known where it is.
                    new_keyed := new_keyed || (o.twin IS NULL OR NOT o.forced);
                    IF o.twin IS NOT NULL AND NOT o.forced THEN
                        freed := array_append(freed, o.twin);
                    END IF;
                ELSE
                    ext_at := ext_at || (o.n - 1)::int;
                    ext_nano := ext_nano || most::bigint;
                    ext_claims := array_append(ext_claims, shares);
                END IF;
            END IF;
        ELSIF o.known IS NULL THEN
            answer := '{"error":"unknown"}';
        ELSE
            step := rules->'steps'->o.event->o.state;
            IF step IS NULL OR (o.op = 'abandon' AND o.state <> 'held') THEN
                answer := '{"done":false}';
            ELSIF o.op = 'finish' AND o.currency <> o.h_currency THEN
                answer := concat('{"error":"currency","id":', to_json(o.h_currency), '}');
            ELSE
                answer := '{"done":true}';
                shares := NULL;
                charge := CASE WHEN step->>1 IS NULL THEN 0 ELSE o.nano END;
                FOR k IN 1 .. coalesce(cardinality(o.h_at), 0) LOOP
                    s := o.h_at[k];
                    moved := cost(charge, o.h_num[k], o.h_den[k]);
                    IF o.state = 'held' THEN
                        b_held[s] := b_held[s] - o.h_held[k];
                        b_overrun[s] := b_overrun[s] + greatest(0, moved - o.h_held[k]);
                        b_spent[s] := b_spent[s] + moved;
                    ELSIF step->>1 IS NOT NULL THEN
                        moved := moved - cost(o.past_nano, o.h_num[k], o.h_den[k]);
                        b_spent[s] := b_spent[s] + moved;
                        b_overrun[s] := greatest(b_overrun[s], b_spent[s] + b_held[s] - b_ceiling[s]);
                    END IF;
                    b_peak[s] := greatest(b_peak[s], b_spent[s] + b_held[s]);
                    b_ver[s] := b_ver[s] + 1;
                    shares := coalesce(shares, '[]') || ((o.h_claims->(k - 1)) - 'held' || jsonb_build_object('cost', moved));
                END LOOP;
                end_rid := array_append(end_rid, o.rid);
                end_state := array_append(end_state, step->>0);
                IF o.op = 'finish' THEN
                    row_at := row_at || (o.n - 1)::int;
                    IF o.state <> 'held' THEN
                        late := array_append(late, o.rid);
                    END IF;
                    IF step->>1 IS NOT NULL THEN
                        e_rid := array_append(e_rid, o.rid);
                        e_seq := array_append(e_seq, coalesce(o.seq, 0) + 1);
                        e_kind := array_append(e_kind, step->>1);
                        e_nano := array_append(e_nano, (o.nano - coalesce(o.past_nano, 0))::bigint);
                        e_currency := array_append(e_currency, o.currency);
                        e_source := array_append(e_source, CASE WHEN step->>1 = 'expire' THEN 'estimate' ELSE o.source END);
                        e_claims := array_append(e_claims, shares);
                    END IF;
                END IF;
            END IF;
        END IF;
        answers := array_append(answers, answer);
    END LOOP;

    IF freed <> '{}' THEN
        UPDATE hold SET idem = NULL WHERE rid = ANY (freed);
    END IF;
    IF b_name IS NOT NULL THEN
        INSERT INTO budget AS b (team, budget, key, period, currency, lim, ceiling, spent, held, peak, overrun, resets_at, ver)
        SELECT u.name->>'team', u.name->>'budget', u.name->>'key', u.name->>'period', u.name->>'currency',
               u.lim, u.ceiling, u.spent, u.held, u.peak, u.overrun, u.ends, u.ver
        FROM unnest(b_name, b_lim, b_ceiling, b_spent, b_held, b_peak, b_overrun, b_ends, b_ver, b_was)
            AS u(name, lim, ceiling, spent, held, peak, overrun, ends, ver, was)
        WHERE u.ver > u.was
        ON CONFLICT (team, budget, key, period, currency) DO UPDATE SET lim = excluded.lim, ceiling = excluded.ceiling,
            spent = excluded.spent, held = excluded.held, peak = excluded.peak, overrun = excluded.overrun, resets_at = excluded.resets_at,
            ver = excluded.ver;
    END IF;
    IF new_at <> '{}' THEN
        INSERT INTO hold (rid, state, nano, currency, expected, worst, expires, owner, team, key, route, host, model, card, policies, started,
            claims, idem, fingerprint)
        SELECT j.rid, 'held', u.nano, j.currency, j.expected, j.worst, now_us + j.lease, j.owner, j.team, j.key, j.route, j.host, j.model,
               j.card, j.policies, j.started, u.claims, CASE WHEN u.keyed THEN j.idem END, CASE WHEN u.keyed THEN j.fp END
        FROM unnest(new_at, new_nano, new_claims, new_keyed) AS u(at, nano, claims, keyed), jsonb_to_record(batch->u.at) AS j(rid text, currency text,
            expected bigint, worst bigint, lease bigint, owner text, team text, key text, route text, host text, model text, card text,
            policies text, started bigint, idem text, fp text);
    END IF;
    IF ext_at <> '{}' THEN
        UPDATE hold h SET nano = u.nano, currency = j.currency, expected = j.expected, worst = j.worst, team = j.team, key = j.key,
            route = j.route, host = j.host, model = j.model, card = j.card, policies = j.policies, started = j.started, claims = u.claims
        FROM unnest(ext_at, ext_nano, ext_claims) AS u(at, nano, claims), jsonb_to_record(batch->u.at) AS j(rid text, currency text,
            expected bigint, worst bigint, team text, key text, route text, host text, model text, card text, policies text, started bigint)
        WHERE h.rid = j.rid;
    END IF;
    IF end_rid <> '{}' THEN
        UPDATE hold h SET state = u.state FROM unnest(end_rid, end_state) AS u(rid, state) WHERE h.rid = u.rid;
        INSERT INTO entry (rid, seq, kind, nano, currency, source, at, claims)
        SELECT u.rid, u.seq, u.kind, u.nano, u.currency, u.source, now_us, u.claims
        FROM unnest(e_rid, e_seq, e_kind, e_nano, e_currency, e_source, e_claims) AS u(rid, seq, kind, nano, currency, source, claims);
        IF late <> '{}' THEN
            DELETE FROM request WHERE rid = ANY (late);
        END IF;
        INSERT INTO request OVERRIDING USER VALUE
        SELECT r.* FROM unnest(row_at) AS u(at), jsonb_populate_record(NULL::request, batch->u.at->'row') AS r;
    END IF;
    RETURN '[' || array_to_string(answers, ',') || ']';
END $$;

-- Gives those of these holds that are open a new lease; the number of them.
CREATE FUNCTION faregate.renew(ids text[], lease bigint) RETURNS bigint LANGUAGE plpgsql
SET search_path = faregate, pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET jit = off
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    now_us bigint := begin_batch();
    renewed bigint;
BEGIN
    UPDATE hold SET expires = now_us + lease FROM unnest(ids) AS u(rid) WHERE hold.rid = u.rid AND hold.state = 'held';
    GET DIAGNOSTICS renewed = ROW_COUNT;
    RETURN renewed;
END $$;

-- Expires holds whose lease is over, at most so many; the number of them. Each is charged what it was expected to cost, or, where its
-- stream stretched it, what it held: that is nearer to the truth. Only the hold is known, so the rest of its row is empty.
CREATE FUNCTION faregate.reap(rules jsonb, most int) RETURNS bigint LANGUAGE plpgsql
SET search_path = faregate, pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET jit = off
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    now_us bigint := begin_batch();
    overdue jsonb;
BEGIN
    SELECT jsonb_agg(jsonb_build_object('op', 'finish', 'event', 'expire', 'rid', rid, 'nano', charge, 'currency', currency, 'row',
        jsonb_build_object('rid', rid, 'team', team, 'key', key, 'route', route, 'host', host, 'model', model, 'contract', '', 'edits', '[]',
            'currency', currency, 'nano', charge, 'card', card, 'window', '', 'policies', policies, 'started', started, 'ended', now_us,
            'status', 'gateway_error', 'stopped', 'expired', 'expected', expected, 'worst', worst, 'disputed', 0, 'stream', 0,
            'attempts', json_build_array(json_build_object('host', host, 'model', model, 'outcome', 'gateway_error', 'billed', 'possible',
                'nano', charge))::text)))
    INTO overdue
    FROM (
        SELECT hold.*, CASE WHEN claims IS NOT NULL AND nano < worst THEN nano ELSE expected END AS charge
        FROM hold WHERE state = 'held' AND expires <= now_us ORDER BY expires LIMIT most
    ) h;
    IF overdue IS NOT NULL THEN
        PERFORM apply(overdue, rules);
    END IF;
    RETURN coalesce(jsonb_array_length(overdue), 0);
END $$;
