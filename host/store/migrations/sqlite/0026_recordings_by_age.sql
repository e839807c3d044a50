-- When it was kept, so that it is found by its age without reading what is newer.
ALTER TABLE recordings ADD COLUMN recorded INTEGER NOT NULL DEFAULT 0;
UPDATE recordings SET recorded = (SELECT ifnull(ended, created) FROM turns WHERE turns.session = recordings.session AND turns.id = recordings.turn);
CREATE INDEX recordings_by_age ON recordings (org, recorded);
