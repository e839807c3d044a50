-- What model calls took, by day (days since 1970, UTC), agent and model; '' for one that is not known. Absent counts were not
-- measured. Cost is in millionths.
CREATE TABLE usage_days (
    org                 TEXT NOT NULL REFERENCES orgs (name),
    day                 INTEGER NOT NULL,
    agent               TEXT NOT NULL,
    model               TEXT NOT NULL,
    calls               INTEGER NOT NULL,
    unmeasured          INTEGER NOT NULL,
    input_tokens        INTEGER,
    output_tokens       INTEGER,
    cached_input_tokens INTEGER,
    reasoning_tokens    INTEGER,
    cost                INTEGER,
    PRIMARY KEY (org, day, agent, model)
) STRICT, WITHOUT ROWID;

ALTER TABLE sessions ADD COLUMN spent_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN spent_cost INTEGER NOT NULL DEFAULT 0;
-- Who works it, as its `turn.started` says.
ALTER TABLE turns ADD COLUMN agent TEXT NOT NULL DEFAULT '';
ALTER TABLE turns ADD COLUMN model TEXT NOT NULL DEFAULT '';

-- What is held for a model call that runs, until it is known what it took. One that a crash left counts until its end.
CREATE TABLE reservations (
    turn    BLOB PRIMARY KEY,
    org     TEXT NOT NULL,
    session BLOB NOT NULL,
    tokens  INTEGER NOT NULL,
    cost    INTEGER NOT NULL,
    until   INTEGER NOT NULL,
    FOREIGN KEY (session, turn) REFERENCES turns (session, id) ON DELETE CASCADE
) STRICT;
CREATE INDEX reservations_of_org ON reservations (org, session);

-- Which budgets were told of, so that each is told once. `session` is null for those of the whole org.
CREATE TABLE budgets_told (
    org     TEXT NOT NULL REFERENCES orgs (name),
    session BLOB,
    since   INTEGER NOT NULL,
    budget  TEXT NOT NULL,
    most    INTEGER NOT NULL,
    percent INTEGER NOT NULL,
    FOREIGN KEY (org, session) REFERENCES sessions (org, id) ON DELETE CASCADE
) STRICT;
CREATE UNIQUE INDEX budgets_told_once ON budgets_told (org, ifnull(session, x''), budget);
