-- What a session's key-values take, so that a write knows it without counting.
ALTER TABLE sessions ADD COLUMN kv_entries INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN kv_bytes INTEGER NOT NULL DEFAULT 0;
UPDATE sessions SET
    kv_entries = (SELECT count(*) FROM key_values AS kv WHERE kv.org = sessions.org AND kv.session = sessions.id),
    kv_bytes = (SELECT ifnull(sum(length(CAST(kv.key AS BLOB)) + length(kv.value)), 0) FROM key_values AS kv
        WHERE kv.org = sessions.org AND kv.session = sessions.id);
