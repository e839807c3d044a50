-- Turns may wait for their turn. Of a session's turns one at most has begun and not ended, whatever the code above it believes.
DROP INDEX turns_open;
CREATE UNIQUE INDEX turns_at_work ON turns (session) WHERE ended IS NULL AND status <> 'queued';
CREATE INDEX turns_not_ended ON turns (session, first_seq) WHERE ended IS NULL;
