-- Nothing on SQLite; the number is that of a change on Postgres.
SELECT 1;
