-- The attempts before the one that the hold is for, and what each may have been billed: JSON text as in `request`; NULL: there are none.
ALTER TABLE hold ADD COLUMN attempts TEXT;

PRAGMA user_version = 4;
