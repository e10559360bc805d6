//! Logs of apps. Segments refer to no app, so that a write of them locks nothing.

/// An append. Its commit does not wait for the disk.
macro_rules! append_segment {
    ($table:literal) => {
        concat!(
            "INSERT INTO ",
            $table,
            " AS g (app_id, last, id, first, host, records, bytes, body) \
             SELECT $1, $2, $3, $4, $5, $6, octet_length($7), $7 \
             FROM (SELECT set_config('synchronous_commit', 'off', true)) AS s \
             ON CONFLICT DO NOTHING"
        )
    };
}

macro_rules! segment_page {
    ($table:literal) => {
        concat!(
            "SELECT g.last, g.id, g.first, g.host, g.records, g.body FROM ",
            $table,
            " AS g WHERE g.app_id = $1 AND g.last >= $2 AND (g.last, g.id) < ($3, $4) \
             AND g.first <= $5 AND g.host IS DISTINCT FROM $6 \
             ORDER BY g.last DESC, g.id DESC LIMIT $7"
        )
    };
}

macro_rules! prune_old_segments {
    ($table:literal) => {
        concat!(
            "WITH old AS (SELECT g.last, g.id FROM ",
            $table,
            " AS g WHERE g.app_id = $1 AND g.last < $2 ORDER BY g.last, g.id LIMIT $3 \
             FOR UPDATE SKIP LOCKED) \
             DELETE FROM ",
            $table,
            " AS g USING old AS o \
             WHERE g.app_id = $1 AND g.last = o.last AND g.id = o.id RETURNING 1"
        )
    };
}

macro_rules! prune_excess_segments {
    ($table:literal) => {
        concat!(
            "WITH totals AS (SELECT g.last, g.id, \
             sum(g.bytes) OVER (ORDER BY g.last DESC, g.id DESC) AS total FROM ",
            $table,
            " AS g WHERE g.app_id = $1 AND true), \
             old AS (SELECT t.last, t.id FROM totals AS t WHERE t.total > $2 \
             ORDER BY t.last, t.id LIMIT $3) \
             DELETE FROM ",
            $table,
            " AS g USING old AS o \
             WHERE g.app_id = $1 AND g.last = o.last AND g.id = o.id RETURNING 1"
        )
    };
}

/// One step through the index for each app.
macro_rules! apps_with_segments {
    ($table:literal) => {
        concat!(
            "WITH RECURSIVE found (app_id) AS (SELECT (SELECT g.app_id FROM ",
            $table,
            " AS g WHERE g.app_id > $1 ORDER BY g.app_id LIMIT 1) UNION ALL \
             SELECT (SELECT g.app_id FROM ",
            $table,
            " AS g WHERE g.app_id > f.app_id ORDER BY g.app_id LIMIT 1) \
             FROM found AS f WHERE f.app_id IS NOT NULL) \
             SELECT f.app_id FROM found AS f WHERE f.app_id IS NOT NULL LIMIT $2"
        )
    };
}

statements! {
    /// App, last position, identity, first position, host, number of records, body. Nothing if the
    /// identity exists.
    APPEND_LOG = append_segment!("log_segments");
    /// App, from; before a last position and an identity; to; not of a host; limit.
    LOG_PAGE = segment_page!("log_segments");
    /// App, position, limit: removes older segments.
    PRUNE_OLD_LOG = prune_old_segments!("log_segments");
    /// App, bytes, limit: removes the oldest segments beyond a size.
    PRUNE_EXCESS_LOG = prune_excess_segments!("log_segments");
    /// After an app, limit: the apps that have segments.
    APPS_WITH_LOG = apps_with_segments!("log_segments");
}
