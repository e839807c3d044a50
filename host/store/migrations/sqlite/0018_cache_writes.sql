-- Of the input, what was written to the provider's cache, by day; absent where it was not measured, as before this was counted.
ALTER TABLE usage_days ADD COLUMN cache_write_tokens INTEGER;
