-- The trace in which an event was caused.

-- The encoded trace context: 16 bytes of trace id, 8 of span id, 1 of flags, and the tracestate.
-- NULL for events outside of traces, and for those of earlier versions. It counts in `size`.
ALTER TABLE deliveries ADD COLUMN trace_context bytea;
ALTER TABLE dead_letters ADD COLUMN trace_context bytea;
