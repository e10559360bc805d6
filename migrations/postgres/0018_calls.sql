-- Records of calls, in segments like those of logs.

-- Consecutive records of calls of one app, written by one host. As in `log_segments`, positions are
-- microseconds since 1970, and there is no reference to the app.
CREATE TABLE call_segments (
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
