-- Why a request went where it went: the candidates with their quotes, the turn of the conversation, where its prefix broke. JSON text, as
-- gateway/ledger/notes.py writes it; NULL: nobody planned, as for a request that expired.
ALTER TABLE request ADD COLUMN plan TEXT;

PRAGMA user_version = 3;
