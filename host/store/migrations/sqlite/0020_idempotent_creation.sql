-- The request that made it, for one that repeats it: the client's key, and the digest of what it asked for.
ALTER TABLE schedules ADD COLUMN idempotency_key TEXT;
ALTER TABLE schedules ADD COLUMN request BLOB;
CREATE UNIQUE INDEX schedules_by_key ON schedules (org, idempotency_key) WHERE idempotency_key IS NOT NULL;
ALTER TABLE webhooks ADD COLUMN idempotency_key TEXT;
ALTER TABLE webhooks ADD COLUMN request BLOB;
CREATE UNIQUE INDEX webhooks_by_key ON webhooks (org, idempotency_key) WHERE idempotency_key IS NOT NULL;
