-- By what time housekeeping goes, taken before a clock that is wrong has written anything.
INSERT OR IGNORE INTO meta (key, value)
SELECT 'housekeeping_clock', max(updated) FROM sessions HAVING max(updated) IS NOT NULL;
