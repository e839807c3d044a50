-- Who holds something is a turn, or a session whose conversation is summed up while no turn is open. What is held now belongs to turns
-- that a restart ended.
DROP TABLE reservations;
CREATE TABLE reservations (
    holder  BLOB PRIMARY KEY,
    org     TEXT NOT NULL,
    session BLOB NOT NULL,
    tokens  INTEGER NOT NULL,
    cost    INTEGER NOT NULL,
    until   INTEGER NOT NULL,
    FOREIGN KEY (org, session) REFERENCES sessions (org, id) ON DELETE CASCADE
) STRICT;
CREATE INDEX reservations_of_session ON reservations (org, session);

CREATE INDEX budgets_told_of_session ON budgets_told (org, session) WHERE session IS NOT NULL;
