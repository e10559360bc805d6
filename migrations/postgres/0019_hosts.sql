-- The hosts of this store, and what they did.

-- One row for each host process. The times are of the database's clock.
CREATE TABLE hosts (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    version text NOT NULL,
    started_at bigint NOT NULL,
    seen_at bigint NOT NULL,
    -- Whether it ended in an orderly way.
    stopped boolean NOT NULL
);

-- One row for each host and minute since 1970. `d00` to `d15` are the runs of functions by duration.
-- The last five are of the whole store, NULL if the host had not sampled it.
CREATE TABLE host_minutes (
    minute bigint NOT NULL,
    host uuid NOT NULL,
    d00 bigint NOT NULL,
    d01 bigint NOT NULL,
    d02 bigint NOT NULL,
    d03 bigint NOT NULL,
    d04 bigint NOT NULL,
    d05 bigint NOT NULL,
    d06 bigint NOT NULL,
    d07 bigint NOT NULL,
    d08 bigint NOT NULL,
    d09 bigint NOT NULL,
    d10 bigint NOT NULL,
    d11 bigint NOT NULL,
    d12 bigint NOT NULL,
    d13 bigint NOT NULL,
    d14 bigint NOT NULL,
    d15 bigint NOT NULL,
    failed bigint NOT NULL,
    delivered bigint NOT NULL,
    undelivered bigint NOT NULL,
    lag_ms bigint NOT NULL,
    apps bigint,
    pending bigint,
    letters bigint,
    paused bigint,
    store_bytes bigint,
    PRIMARY KEY (minute, host)
);
