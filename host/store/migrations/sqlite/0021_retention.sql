-- Since when a session is archived: it takes no turns. Since when it is being deleted: it reads as not there, and what is left of it goes
-- batch by batch.
ALTER TABLE sessions ADD COLUMN archived INTEGER;
ALTER TABLE sessions ADD COLUMN deleting INTEGER;
CREATE INDEX sessions_in_use ON sessions (org, created, id) WHERE archived IS NULL AND deleting IS NULL;
CREATE INDEX sessions_archived ON sessions (org, created, id) WHERE archived IS NOT NULL AND deleting IS NULL;
CREATE INDEX sessions_going ON sessions (id) WHERE deleting IS NOT NULL;

-- What is too old is found without reading what isn't.
CREATE INDEX ledger_by_age ON ledger (org, time);

-- Deliveries that were given up and are not remembered any more, since too many were.
ALTER TABLE webhooks ADD COLUMN forgotten INTEGER NOT NULL DEFAULT 0;
CREATE INDEX deliveries_over ON deliveries (webhook, state, id) WHERE next_at IS NULL;
