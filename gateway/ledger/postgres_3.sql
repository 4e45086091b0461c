-- The ledger in PostgreSQL, version 3: what schema_4.sql adds. An extended hold names the attempts before the one that it is for, and a
-- hold that expires has their lines before its own.
ALTER TABLE faregate.hold ADD COLUMN attempts text;

-- `apply` as it was, but for one column more of the holds that it extends.
DO $patch$
DECLARE
    before text := pg_get_functiondef('faregate.apply(jsonb, jsonb)'::regprocedure);
    after text := before;
BEGIN
    after := replace(after, 'started = j.started, claims = u.claims', 'started = j.started, claims = u.claims, attempts = j.attempts');
    after := replace(after, 'expected bigint, worst bigint, team text, key text, route text, host text, model text, card text, policies text, started bigint)
        WHERE h.rid', 'expected bigint, worst bigint, team text, key text, route text, host text, model text, card text, policies text, started bigint,
            attempts text) WHERE h.rid');
    IF length(after) - length(before) < length(', attempts = j.attempts, attempts text') THEN
        RAISE EXCEPTION 'faregate.apply is not that of version 2';
    END IF;
    EXECUTE after;
END $patch$;

CREATE OR REPLACE FUNCTION faregate.reap(rules jsonb, most int) RETURNS bigint LANGUAGE plpgsql
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
            'attempts', (earlier || jsonb_build_object('host', host, 'model', model, 'outcome', 'gateway_error', 'billed', 'possible',
                'nano', charge - (SELECT coalesce(sum((line->>'nano')::bigint), 0) FROM jsonb_array_elements(earlier) line)))::text)))
    INTO overdue
    FROM (
        SELECT hold.*, coalesce(attempts, '[]')::jsonb AS earlier,
               CASE WHEN claims IS NOT NULL AND nano < worst THEN nano ELSE expected END AS charge
        FROM hold WHERE state = 'held' AND expires <= now_us ORDER BY expires LIMIT most
    ) h;
    IF overdue IS NOT NULL THEN
        PERFORM apply(overdue, rules);
    END IF;
    RETURN coalesce(jsonb_array_length(overdue), 0);
END $$;
