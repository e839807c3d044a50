-- Where an org is told what happens in its sessions. What is to be told is written in the transaction of the event that tells it.
CREATE TABLE webhooks (
    id BLOB PRIMARY KEY,
    org TEXT NOT NULL REFERENCES orgs (name) ON DELETE CASCADE,
    settings TEXT NOT NULL,
    -- What it is told: a list of types of events, `family.*` and `*`.
    events TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('active', 'paused', 'disabled')),
    -- Deliveries that wait, and events that were not told since too many waited.
    pending INTEGER NOT NULL DEFAULT 0,
    dropped INTEGER NOT NULL DEFAULT 0,
    revision INTEGER NOT NULL DEFAULT 0,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL
) STRICT;

CREATE INDEX webhooks_of_org ON webhooks (org, created DESC, id DESC);
CREATE INDEX webhooks_to_tell ON webhooks (id) WHERE state = 'active' AND pending > 0;

CREATE TABLE deliveries (
    id BLOB PRIMARY KEY,
    webhook BLOB NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    org TEXT NOT NULL,
    session BLOB NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    event BLOB NOT NULL,
    type TEXT NOT NULL,
    turn BLOB,
    state TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'dead')),
    next_at INTEGER CHECK ((next_at IS NOT NULL) = (state = 'pending')),
    attempts INTEGER NOT NULL DEFAULT 0,
    status INTEGER,
    message TEXT,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL
) STRICT;

CREATE INDEX deliveries_due ON deliveries (webhook, next_at, id) WHERE next_at IS NOT NULL;
CREATE INDEX deliveries_of_webhook ON deliveries (webhook, id DESC);
CREATE INDEX deliveries_of_session ON deliveries (session);

CREATE TRIGGER delivery_made AFTER INSERT ON deliveries WHEN new.state = 'pending' BEGIN
    UPDATE webhooks SET pending = pending + 1 WHERE id = new.webhook;
END;
CREATE TRIGGER delivery_changed AFTER UPDATE OF state ON deliveries WHEN old.state <> new.state BEGIN
    UPDATE webhooks SET pending = pending + (new.state = 'pending') - (old.state = 'pending') WHERE id = new.webhook;
END;
CREATE TRIGGER delivery_gone AFTER DELETE ON deliveries WHEN old.state = 'pending' BEGIN
    UPDATE webhooks SET pending = pending - 1 WHERE id = old.webhook;
END;
