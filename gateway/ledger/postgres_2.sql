-- The ledger in PostgreSQL, version 2: what schema_3.sql adds. `apply` writes whatever columns `request` has.
ALTER TABLE faregate.request ADD COLUMN plan text;
