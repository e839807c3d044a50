-- Calls that run on in the background. Each follows from its `job.queued` in the journal, which has what it is called with.
CREATE TABLE jobs (
    id         BLOB PRIMARY KEY,
    org        TEXT NOT NULL REFERENCES orgs (name) ON DELETE CASCADE,
    session    BLOB NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    turn       BLOB NOT NULL,
    call       BLOB NOT NULL UNIQUE,
    tool       TEXT NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('queued', 'running', 'ended')),
    -- How the call ended, in one word.
    status     TEXT CHECK ((status IS NOT NULL) = (state = 'ended')),
    -- Whether it may run again after a stop of the host.
    repeats    INTEGER NOT NULL,
    attempts   INTEGER NOT NULL DEFAULT 0,
    -- In which opening of the database it was taken: one of an earlier one runs nowhere any more.
    opening    BLOB,
    stopping   INTEGER NOT NULL DEFAULT 0,
    queued_seq INTEGER NOT NULL,
    ended_seq  INTEGER CHECK ((ended_seq IS NOT NULL) = (state = 'ended')),
    -- Where in the journal a model was told its end.
    told_seq   INTEGER,
    created    INTEGER NOT NULL,
    started    INTEGER,
    ended      INTEGER,
    message    TEXT,
    fraction   REAL,
    log        TEXT NOT NULL DEFAULT '',
    FOREIGN KEY (session, turn) REFERENCES turns (session, id) ON DELETE CASCADE
) STRICT;
CREATE INDEX jobs_of_session ON jobs (session, id);
CREATE INDEX jobs_of_turn ON jobs (session, turn);
CREATE INDEX jobs_unfinished ON jobs (org, state) WHERE state <> 'ended';
CREATE INDEX jobs_at_work ON jobs (id) WHERE state <> 'ended';
CREATE INDEX jobs_untold ON jobs (session, ended_seq) WHERE state = 'ended' AND told_seq IS NULL;
