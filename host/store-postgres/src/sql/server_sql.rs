//! The server: its sessions, locks, connection limits and applied migrations.

statements! {
    /// The current session.
    SESSION = "SELECT pg_backend_pid()";
    /// Whether a migration was ever applied.
    HAS_MIGRATIONS = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL";
    /// The applied migrations, with their checksums.
    MIGRATIONS = "SELECT m.version, m.checksum FROM _sqlx_migrations AS m \
        WHERE m.success ORDER BY m.version";
    /// Relative to the last drawn version.
    SKIP_VERSIONS = "SELECT setval('kv_version', nextval('kv_version') + $1)";
    /// Releases the lock of a failed migration.
    UNLOCK = "SELECT pg_advisory_unlock_all()";
    /// Sessions of this database that may block a migration: identity, name, state, and its
    /// duration in seconds.
    LOCK_HOLDERS = "SELECT s.pid, coalesce(s.application_name, ''), coalesce(s.state, 'unknown'), \
        coalesce(extract(epoch FROM clock_timestamp() - s.state_change), 0)::bigint \
        FROM pg_stat_activity AS s WHERE s.datname = current_database() \
        AND s.pid <> pg_backend_pid() AND (s.xact_start IS NOT NULL OR EXISTS \
        (SELECT 1 FROM pg_locks AS k WHERE k.pid = s.pid AND k.locktype = 'advisory' \
        AND k.granted)) ORDER BY s.state_change NULLS FIRST";
    /// The age in seconds of the oldest snapshot that another session holds, in this database or in
    /// none (that of a standby). Snapshots in other databases do not matter here.
    OLDEST_SNAPSHOT = "SELECT coalesce(extract(epoch FROM max(clock_timestamp() \
        - s.xact_start)), 0)::bigint FROM pg_stat_activity AS s \
        WHERE s.backend_xmin IS NOT NULL AND s.pid <> pg_backend_pid() \
        AND (s.datname = current_database() OR s.datid IS NULL)";
    /// The maximum number of connections to the server, how many are reserved, and how many there
    /// are; then the maximum and the number for the role, and for the database. -1 means no limit.
    ROOM = "SELECT current_setting('max_connections')::bigint, \
        CASE WHEN r.rolsuper THEN 0 ELSE current_setting('superuser_reserved_connections')::bigint \
        + coalesce(current_setting('reserved_connections', true), '0')::bigint END, \
        (SELECT count(*) FROM pg_stat_activity AS s WHERE s.datid IS NOT NULL \
        AND s.pid <> pg_backend_pid()), \
        CASE WHEN r.rolsuper THEN -1 ELSE r.rolconnlimit::bigint END, \
        (SELECT count(*) FROM pg_stat_activity AS s WHERE s.usename = current_user \
        AND s.pid <> pg_backend_pid()), \
        CASE WHEN r.rolsuper THEN -1 ELSE b.datconnlimit::bigint END, \
        (SELECT count(*) FROM pg_stat_activity AS s WHERE s.datid = b.oid \
        AND s.pid <> pg_backend_pid()) \
        FROM pg_roles AS r, pg_database AS b \
        WHERE r.rolname = current_user AND b.datname = current_database()";
    /// The server's clock, in ms since 1970.
    CLOCK = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
    /// Keys are compared as UTF-8, and only a database in UTF-8 can hold them all.
    ENCODING = "SHOW server_encoding";
    /// Now, filler: a write that checks whether the database accepts writes.
    PROBE = "UPDATE health SET at = $1, filler = $2 WHERE id = 1";
}
