-- Times are nanoseconds since 1970, UTC. Ids are the 16 bytes of their UUID. Digests are 32 bytes.
-- Structured values are JSON text. Every row of an org names it, so that every query can be scoped by it.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE orgs (
    name    TEXT PRIMARY KEY,
    created INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE keys (
    id      BLOB PRIMARY KEY,
    org     TEXT NOT NULL REFERENCES orgs (name),
    label   TEXT NOT NULL,
    token   BLOB NOT NULL UNIQUE,
    created INTEGER NOT NULL,
    revoked INTEGER
) STRICT;
CREATE INDEX keys_by_org ON keys (org, created, id) WHERE revoked IS NULL;

CREATE TABLE agents (
    org    TEXT NOT NULL REFERENCES orgs (name),
    name   TEXT NOT NULL,
    config TEXT NOT NULL,
    PRIMARY KEY (org, name)
) STRICT;

CREATE TABLE components (
    org      TEXT NOT NULL REFERENCES orgs (name),
    name     TEXT NOT NULL,
    digest   BLOB NOT NULL,
    manifest TEXT NOT NULL,
    tools    TEXT NOT NULL,
    added    INTEGER NOT NULL,
    PRIMARY KEY (org, name)
) STRICT;

-- A grant is given to exact code. It outlives a change of version, so going back needs no new decision;
-- it does not outlive the component.
CREATE TABLE grants (
    org       TEXT NOT NULL,
    component TEXT NOT NULL,
    digest    BLOB NOT NULL,
    what      TEXT NOT NULL,
    PRIMARY KEY (org, component, digest),
    FOREIGN KEY (org, component) REFERENCES components (org, name) ON DELETE CASCADE
) STRICT;

CREATE TABLE sessions (
    id        BLOB PRIMARY KEY,
    org       TEXT NOT NULL REFERENCES orgs (name),
    agent     TEXT NOT NULL,
    title     TEXT,
    metadata  TEXT NOT NULL,
    narrowing TEXT NOT NULL,
    created   INTEGER NOT NULL,
    updated   INTEGER NOT NULL,
    last_seq  INTEGER NOT NULL DEFAULT 0,
    UNIQUE (org, id)
) STRICT;
CREATE INDEX sessions_by_age ON sessions (org, created, id);

CREATE TABLE turns (
    id        BLOB PRIMARY KEY,
    org       TEXT NOT NULL,
    session   BLOB NOT NULL,
    status    TEXT NOT NULL,
    first_seq INTEGER NOT NULL,
    created   INTEGER NOT NULL,
    ended     INTEGER,
    UNIQUE (session, id),
    FOREIGN KEY (org, session) REFERENCES sessions (org, id) ON DELETE CASCADE
) STRICT;
CREATE INDEX turns_in_order ON turns (session, first_seq);
CREATE INDEX turns_of_org ON turns (org, session);
-- One open turn per session, whatever the code above it believes.
CREATE UNIQUE INDEX turns_open ON turns (session) WHERE ended IS NULL;

CREATE TABLE idempotency (
    session BLOB NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    key     TEXT NOT NULL,
    request BLOB NOT NULL,
    turn    BLOB NOT NULL,
    created INTEGER NOT NULL,
    PRIMARY KEY (session, key),
    FOREIGN KEY (session, turn) REFERENCES turns (session, id) ON DELETE CASCADE
) STRICT;
CREATE INDEX idempotency_by_age ON idempotency (created);
CREATE INDEX idempotency_by_turn ON idempotency (session, turn);

CREATE TABLE events (
    session BLOB NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    seq     INTEGER NOT NULL,
    id      BLOB NOT NULL,
    time    INTEGER NOT NULL,
    turn    BLOB,
    source  TEXT NOT NULL,
    body    TEXT NOT NULL,
    FOREIGN KEY (session, turn) REFERENCES turns (session, id) ON DELETE CASCADE
) STRICT;
CREATE UNIQUE INDEX events_in_order ON events (session, seq);
CREATE INDEX events_of_turn ON events (session, turn, seq) WHERE turn IS NOT NULL;

-- `session` is null for what belongs to the whole org. Unique indexes treat nulls as different, hence ifnull.
CREATE TABLE key_values (
    org     TEXT NOT NULL REFERENCES orgs (name),
    session BLOB,
    key     TEXT NOT NULL,
    value   BLOB NOT NULL,
    FOREIGN KEY (org, session) REFERENCES sessions (org, id) ON DELETE CASCADE
) STRICT;
CREATE UNIQUE INDEX key_values_by_key ON key_values (org, ifnull(session, x''), key);
CREATE INDEX key_values_of_session ON key_values (org, session) WHERE session IS NOT NULL;

CREATE TABLE secrets (
    org      TEXT NOT NULL REFERENCES orgs (name),
    session  BLOB,
    name     TEXT NOT NULL,
    version  INTEGER NOT NULL,
    envelope TEXT NOT NULL,
    FOREIGN KEY (org, session) REFERENCES sessions (org, id) ON DELETE CASCADE
) STRICT;
CREATE UNIQUE INDEX secrets_by_name ON secrets (org, ifnull(session, x''), name);
CREATE INDEX secrets_of_session ON secrets (org, session) WHERE session IS NOT NULL;

CREATE TABLE ledger (
    id      BLOB PRIMARY KEY,
    org     TEXT NOT NULL REFERENCES orgs (name),
    session BLOB,
    time    INTEGER NOT NULL,
    settled INTEGER NOT NULL,
    entry   TEXT NOT NULL,
    FOREIGN KEY (org, session) REFERENCES sessions (org, id) ON DELETE CASCADE
) STRICT;
CREATE INDEX ledger_in_order ON ledger (org, session, time, id);
