-- What a client asked for and was told that it is coming: the turn ends where it is, or at its next boundary.
ALTER TABLE turns ADD COLUMN cancel TEXT CHECK (cancel IN ('now', 'boundary'));
CREATE INDEX turns_to_cancel ON turns (id) WHERE cancel IS NOT NULL AND ended IS NULL;
