-- What calls were answered from outside, so that they can be replayed. It goes with its turn.
CREATE TABLE recordings (
    org     TEXT NOT NULL,
    session BLOB NOT NULL,
    turn    BLOB NOT NULL,
    call    BLOB NOT NULL,
    digest  BLOB NOT NULL,
    content BLOB NOT NULL,
    UNIQUE (session, turn, call),
    FOREIGN KEY (org, session) REFERENCES sessions (org, id) ON DELETE CASCADE,
    FOREIGN KEY (session, turn) REFERENCES turns (session, id) ON DELETE CASCADE
) STRICT;
CREATE INDEX recordings_of_org ON recordings (org, session);
CREATE INDEX recordings_of_turn ON recordings (turn, call);
