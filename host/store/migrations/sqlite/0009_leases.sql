-- Who works a turn, and until when; null where nobody does. A lease counts only in the opening of the database in which it was taken.
ALTER TABLE turns ADD COLUMN owner BLOB;
ALTER TABLE turns ADD COLUMN opening BLOB;
ALTER TABLE turns ADD COLUMN leased_until INTEGER;
-- Grows each time the turn is taken: what writes for it under an earlier one has lost it.
ALTER TABLE turns ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
-- How often in a row it was taken from a holder that had gone, without having come further; and where the journal was the last time.
ALTER TABLE turns ADD COLUMN recoveries INTEGER NOT NULL DEFAULT 0;
ALTER TABLE turns ADD COLUMN recovered_after INTEGER NOT NULL DEFAULT 0;
CREATE INDEX turns_to_work ON turns (id) WHERE status IN ('queued', 'running');
