-- The hosts of this store, and what they did.

-- One row for each host process.
CREATE TABLE hosts (
    id         BLOB    PRIMARY KEY NOT NULL,
    name       TEXT    NOT NULL,
    version    TEXT    NOT NULL,
    started_at INTEGER NOT NULL,
    seen_at    INTEGER NOT NULL,
    -- Whether it ended in an orderly way.
    stopped    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row for each host and minute since 1970. `d00` to `d15` are the runs of functions by duration.
-- The last five are of the whole store, NULL if the host had not sampled it.
CREATE TABLE host_minutes (
    minute       INTEGER NOT NULL,
    host         BLOB    NOT NULL,
    d00          INTEGER NOT NULL,
    d01          INTEGER NOT NULL,
    d02          INTEGER NOT NULL,
    d03          INTEGER NOT NULL,
    d04          INTEGER NOT NULL,
    d05          INTEGER NOT NULL,
    d06          INTEGER NOT NULL,
    d07          INTEGER NOT NULL,
    d08          INTEGER NOT NULL,
    d09          INTEGER NOT NULL,
    d10          INTEGER NOT NULL,
    d11          INTEGER NOT NULL,
    d12          INTEGER NOT NULL,
    d13          INTEGER NOT NULL,
    d14          INTEGER NOT NULL,
    d15          INTEGER NOT NULL,
    failed       INTEGER NOT NULL,
    delivered    INTEGER NOT NULL,
    undelivered  INTEGER NOT NULL,
    lag_ms       INTEGER NOT NULL,
    apps         INTEGER,
    pending      INTEGER,
    letters      INTEGER,
    paused       INTEGER,
    store_bytes  INTEGER,
    PRIMARY KEY (minute, host)
) STRICT, WITHOUT ROWID;
