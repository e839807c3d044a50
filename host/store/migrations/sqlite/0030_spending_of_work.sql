-- Steps, calls of tools and time are counted beside tokens and money. Days before this do not tell them; of sessions, steps and calls
-- follow from their journals.
ALTER TABLE usage_days ADD COLUMN steps INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage_days ADD COLUMN tool_calls INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage_days ADD COLUMN worked_ms INTEGER NOT NULL DEFAULT 0;

ALTER TABLE sessions ADD COLUMN spent_steps INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN spent_tool_calls INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN spent_ms INTEGER NOT NULL DEFAULT 0;
UPDATE sessions SET spent_steps = told.steps, spent_tool_calls = told.calls
FROM (
    SELECT session,
        sum(json_extract(body, '$.type') IN ('step.completed', 'step.failed')) AS steps,
        sum(json_extract(body, '$.type') = 'tool.requested') AS calls
    FROM events WHERE turn IS NOT NULL GROUP BY session
) AS told
WHERE told.session = sessions.id;

-- For how long the turn was worked, as far as it is counted.
ALTER TABLE turns ADD COLUMN worked_ms INTEGER NOT NULL DEFAULT 0;

ALTER TABLE reservations ADD COLUMN steps INTEGER NOT NULL DEFAULT 0;
ALTER TABLE reservations ADD COLUMN tool_calls INTEGER NOT NULL DEFAULT 0;
ALTER TABLE reservations ADD COLUMN ms INTEGER NOT NULL DEFAULT 0;
