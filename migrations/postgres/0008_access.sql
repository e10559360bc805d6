-- The last change of what administrators change: the identity of its audit row. It is
-- written in the transaction of the change, so that a host which reads one row knows
-- whether the apps and tokens that it has in memory are still as they were. A row and
-- not a sequence, which others see before the transaction commits.
CREATE TABLE registry (
    id smallint PRIMARY KEY CHECK (id = 1),
    generation uuid NOT NULL
);

INSERT INTO registry (id, generation) VALUES (1, '00000000-0000-0000-0000-000000000000');
