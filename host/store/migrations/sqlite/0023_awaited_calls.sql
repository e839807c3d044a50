-- Calls whose results come from outside, and have not come. One that a tool handed on has a callback, and its row stays after its end,
-- so that who comes late is told; that of one that a client runs goes with it.
CREATE TABLE awaited_calls (
    call     BLOB PRIMARY KEY,
    org      TEXT NOT NULL REFERENCES orgs (name) ON DELETE CASCADE,
    session  BLOB NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    turn     BLOB NOT NULL,
    expires  INTEGER NOT NULL,
    callback BLOB UNIQUE,
    -- The SHA-256 of what ends it, never that itself.
    token    BLOB CHECK ((token IS NULL) = (callback IS NULL)),
    -- `given`: the result is here, and not in the journal yet.
    state    TEXT NOT NULL CHECK (state IN ('open', 'given', 'settled')),
    result   TEXT CHECK ((result IS NOT NULL) = (state = 'given')),
    -- Of the request that gave it: the same again is no other.
    request  BLOB,
    -- How often progress was told, and when last.
    reports  INTEGER NOT NULL DEFAULT 0,
    reported INTEGER,
    FOREIGN KEY (session, turn) REFERENCES turns (session, id) ON DELETE CASCADE
) STRICT;
CREATE INDEX awaited_calls_of_turn ON awaited_calls (session, turn);
CREATE INDEX awaited_calls_of_org ON awaited_calls (org);
CREATE INDEX awaited_calls_given ON awaited_calls (turn) WHERE state = 'given';

CREATE TRIGGER awaited_call_settled AFTER UPDATE OF state ON awaited_calls
WHEN new.state = 'settled' AND new.callback IS NULL BEGIN
    DELETE FROM awaited_calls WHERE call = new.call;
END;

-- Those that clients are asked to run just now.
INSERT INTO awaited_calls (call, org, session, turn, expires, state)
SELECT unhex(substr(json_extract(asked.value, '$.call_id'), 6)), t.org, t.session, t.id, t.waits_until, 'open'
FROM turns t
JOIN events e ON e.session = t.session AND e.turn = t.id
JOIN json_each(e.body, '$.data.calls') asked
WHERE t.status = 'awaiting_results' AND t.waits_until IS NOT NULL AND json_extract(e.body, '$.type') = 'results.requested'
  AND NOT EXISTS (
      SELECT 1 FROM events d
      WHERE d.session = t.session AND d.turn = t.id AND json_extract(d.body, '$.type') = 'tool.completed'
        AND json_extract(d.body, '$.data.call') = json_extract(asked.value, '$.call_id'));
