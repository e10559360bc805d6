-- The last change of what administrators change: the identity of its audit row. It is
-- written in the transaction of the change, so that a host which reads one row knows
-- whether the apps and tokens that it has in memory are still as they were.
CREATE TABLE registry (
    id         INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    generation BLOB    NOT NULL CHECK (length(generation) = 16)
) STRICT;

INSERT INTO registry (id, generation) VALUES (1, zeroblob(16));
