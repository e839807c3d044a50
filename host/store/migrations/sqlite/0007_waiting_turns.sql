-- When a turn that waits for a decision has waited long enough; null for every other.
ALTER TABLE turns ADD COLUMN waits_until INTEGER;
CREATE INDEX turns_waiting ON turns (waits_until) WHERE waits_until IS NOT NULL;
