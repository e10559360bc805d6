-- Logs of apps.

-- Consecutive records of one app's log, written by one host. Positions are microseconds since 1970.
-- There is no reference to the app, so that a write locks nothing else; the host removes the
-- segments of deleted apps.
CREATE TABLE log_segments (
    app_id uuid NOT NULL,
    last bigint NOT NULL,
    id uuid NOT NULL,
    first bigint NOT NULL,
    host uuid NOT NULL,
    records integer NOT NULL,
    bytes integer NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (app_id, last, id)
);
