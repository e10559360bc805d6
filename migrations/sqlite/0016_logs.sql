-- Logs of apps are in a file of their own, beside this one; `host/store-sqlite/src/log_segments.rs`
-- has its schema.
SELECT 1;
