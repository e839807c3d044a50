-- A grant is given to exact code and what it asked for: the manifest that was decided about. Of a version that is not installed
-- nobody knows any more what it asked for, so its grant goes.
DELETE FROM grants WHERE NOT EXISTS (
    SELECT 1 FROM components AS c WHERE c.org = grants.org AND c.name = grants.component AND c.digest = grants.digest);
ALTER TABLE grants ADD COLUMN request TEXT NOT NULL DEFAULT '';
UPDATE grants SET request = (
    SELECT c.manifest FROM components AS c WHERE c.org = grants.org AND c.name = grants.component AND c.digest = grants.digest);
