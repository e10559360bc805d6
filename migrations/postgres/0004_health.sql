-- What the readiness probe writes: one row, overwritten each time. `filler` makes
-- the probe need room on the disk, so it is kept out of line and not compressed.
CREATE TABLE health (
    id smallint PRIMARY KEY CHECK (id = 1),
    at bigint NOT NULL,
    filler bytea NOT NULL
);
ALTER TABLE health ALTER COLUMN filler SET STORAGE EXTERNAL;

INSERT INTO health (id, at, filler) VALUES (1, 0, '');
