-- Since when an org is being deleted: nobody uses it any more, and what is left of it goes batch by batch.
ALTER TABLE orgs ADD COLUMN deleting INTEGER;
