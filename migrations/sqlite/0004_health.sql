-- What the readiness probe writes: one row, overwritten each time. `filler` makes
-- the probe need room on the disk.
CREATE TABLE health (
    id     INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    at     INTEGER NOT NULL,
    filler BLOB    NOT NULL
) STRICT;

INSERT INTO health (id, at, filler) VALUES (1, 0, x'');
