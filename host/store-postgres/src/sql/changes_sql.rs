//! The log of changes. The triggers of the schema write it.

statements! {
    /// App, until: keeps its changes. Returns the start; NULL if it is new.
    KEEP_CHANGES = "INSERT INTO change_logs AS l (app_id, until) \
         SELECT $1, $2 FROM apps AS a WHERE a.id = $1 AND a.deleted_at IS NULL \
         ON CONFLICT (app_id) DO UPDATE SET until = greatest(l.until, excluded.until) \
         RETURNING l.start";
    /// App, position: sets the start of a new log. Returns it.
    START_CHANGES = "UPDATE change_logs AS l SET start = coalesce(l.start, $2) \
         WHERE l.app_id = $1 RETURNING l.start";
    /// The last position that was drawn; 0 if none was.
    LAST_POSITION = "SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END \
         FROM change_position AS s";
    /// A transaction id that is later than those of all positions drawn before, and the oldest one
    /// in progress when the statement began.
    MARK = "SELECT pg_current_xact_id()::text::bigint, \
         pg_snapshot_xmin(pg_current_snapshot())::text::bigint";
    /// The oldest transaction id in progress.
    OLDEST_RUNNING = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint";
    /// After a position, up to one: the apps with changes.
    CHANGED_APPS = "SELECT DISTINCT c.app_id FROM changes AS c \
         WHERE c.position > $1 AND c.position <= $2";
    /// App, after, to, limit, bytes: the start of the log, and changes. Without any, one row with
    /// the start alone.
    CHANGES = "SELECT l.start, p.position, p.at, p.version, p.collection, p.key, p.json, p.bytes \
         FROM change_logs AS l LEFT JOIN LATERAL (\
         SELECT s.position, s.at, s.version, s.collection, s.key, s.json::text AS json, s.bytes \
         FROM (\
         SELECT c.position, c.at, c.version, c.collection, c.key, c.json, c.bytes, c.size, \
         sum(c.size) OVER (ORDER BY c.position) AS total FROM changes AS c \
         WHERE c.app_id = $1 AND c.position > $2 AND c.position <= $3 \
         ORDER BY c.position LIMIT $4) AS s \
         WHERE s.total <= $5 OR s.total = s.size) AS p ON true \
         WHERE l.app_id = $1 ORDER BY p.position";
    /// App, now, before, bytes, limit: removes what is not retained, and raises the start. Returns
    /// the number removed, and whether the log is still kept.
    PRUNE_CHANGES = "WITH log AS MATERIALIZED (SELECT l.until > $2 AND EXISTS (SELECT 1 FROM apps AS a \
         WHERE a.id = $1 AND a.deleted_at IS NULL) AS kept FROM change_logs AS l \
         WHERE l.app_id = $1), \
         totals AS (SELECT c.position, c.at, sum(c.size) OVER (ORDER BY c.position DESC) AS total \
         FROM changes AS c WHERE c.app_id = $1), \
         cut AS MATERIALIZED (SELECT max(t.position) AS position FROM totals AS t, log \
         WHERE NOT log.kept OR t.at < $3 OR t.total > $4), \
         step AS MATERIALIZED (SELECT c.position FROM changes AS c, cut \
         WHERE c.app_id = $1 AND c.position <= cut.position ORDER BY c.position LIMIT $5), \
         gone AS (DELETE FROM changes AS c WHERE c.app_id = $1 \
         AND c.position IN (SELECT s.position FROM step AS s) RETURNING c.position), \
         raised AS (UPDATE change_logs AS l SET start = greatest(l.start, s.position) \
         FROM (SELECT max(s.position) AS position FROM step AS s) AS s \
         WHERE l.app_id = $1 AND s.position IS NOT NULL) \
         SELECT (SELECT count(*) FROM gone), log.kept FROM log";
    /// App, now: ends the log, if nothing is left of it and it is not kept.
    END_CHANGES = "DELETE FROM change_logs AS l WHERE l.app_id = $1 \
         AND NOT EXISTS (SELECT 1 FROM changes AS c WHERE c.app_id = $1) \
         AND (l.until <= $2 OR NOT EXISTS (SELECT 1 FROM apps AS a \
         WHERE a.id = $1 AND a.deleted_at IS NULL)) RETURNING 1";
    /// App: removes changes whose log has ended.
    DROP_CHANGES = "DELETE FROM changes AS c WHERE c.app_id = $1 \
         AND NOT EXISTS (SELECT 1 FROM change_logs AS l WHERE l.app_id = $1) RETURNING 1";
    /// After an app, limit: the apps that have a log.
    APPS_WITH_CHANGES = "SELECT l.app_id FROM change_logs AS l WHERE l.app_id > $1 \
         ORDER BY l.app_id LIMIT $2";
}
