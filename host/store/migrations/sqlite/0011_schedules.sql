-- What recurs by itself. `revision` counts the changes: who fires a schedule or changes it says which one was seen.
CREATE TABLE schedules (
    id BLOB PRIMARY KEY,
    org TEXT NOT NULL REFERENCES orgs (name) ON DELETE CASCADE,
    -- Where its turns go; NULL: each into a session of its own.
    session BLOB REFERENCES sessions (id) ON DELETE CASCADE,
    plan TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('active', 'paused', 'ended')),
    next_at INTEGER CHECK ((next_at IS NOT NULL) = (state = 'active')),
    runs INTEGER NOT NULL DEFAULT 0,
    revision INTEGER NOT NULL DEFAULT 0,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL
) STRICT;

CREATE INDEX schedules_of_org ON schedules (org, created DESC, id DESC);
CREATE INDEX schedules_of_session ON schedules (session) WHERE session IS NOT NULL;
CREATE INDEX schedules_planned ON schedules (next_at, id) WHERE next_at IS NOT NULL;

-- What came of each time. The key is what lets a schedule fire once for each.
CREATE TABLE schedule_runs (
    schedule BLOB NOT NULL REFERENCES schedules (id) ON DELETE CASCADE,
    fire_at INTEGER NOT NULL,
    cause TEXT NOT NULL CHECK (cause IN ('due', 'asked')),
    outcome TEXT NOT NULL CHECK (outcome IN ('fired', 'skipped', 'missed', 'failed')),
    reason TEXT,
    message TEXT,
    -- Times that were missed together.
    count INTEGER NOT NULL DEFAULT 1,
    session BLOB,
    turn BLOB,
    recorded INTEGER NOT NULL,
    PRIMARY KEY (schedule, fire_at)
) STRICT, WITHOUT ROWID;
