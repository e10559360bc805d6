//! Hosts and their minutes. They refer to no app, so that a write of them locks nothing that a call
//! needs.

statements! {
    /// Identity, name, version, whether it stops: records a heartbeat by the database's clock. Returns
    /// the time.
    BEAT = "INSERT INTO hosts AS h (id, name, version, stopped, started_at, seen_at) \
         SELECT $1, $2, $3, $4, s.at, s.at \
         FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS at) AS s \
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, version = excluded.version, \
         stopped = excluded.stopped, seen_at = excluded.seen_at RETURNING h.seen_at";
    /// Limit: the hosts, the last seen first.
    HOSTS = "SELECT h.id, h.name, h.version, h.stopped, h.started_at, h.seen_at FROM hosts AS h \
         ORDER BY h.seen_at DESC, h.id LIMIT $1";
    /// The columns: replaces a minute of a host. Its commit does not wait for the disk.
    RECORD_MINUTE = "INSERT INTO host_minutes AS m \
         (minute, host, d00, d01, d02, d03, d04, d05, d06, d07, d08, d09, d10, d11, d12, d13, \
         d14, d15, failed, delivered, undelivered, lag_ms, apps, pending, letters, paused, \
         store_bytes) \
         SELECT  $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, \
         $18, $19, $20, $21, $22, $23, $24, $25, $26, $27 \
         FROM (SELECT set_config('synchronous_commit', 'off', true)) AS s \
         ON CONFLICT (minute, host) DO UPDATE SET  d00 = excluded.d00, d01 = excluded.d01, \
         d02 = excluded.d02, d03 = excluded.d03, d04 = excluded.d04, d05 = excluded.d05, \
         d06 = excluded.d06, d07 = excluded.d07, d08 = excluded.d08, d09 = excluded.d09, \
         d10 = excluded.d10, d11 = excluded.d11, d12 = excluded.d12, d13 = excluded.d13, \
         d14 = excluded.d14, d15 = excluded.d15, failed = excluded.failed, \
         delivered = excluded.delivered, undelivered = excluded.undelivered, \
         lag_ms = excluded.lag_ms, apps = excluded.apps, pending = excluded.pending, \
         letters = excluded.letters, paused = excluded.paused, \
         store_bytes = excluded.store_bytes";
    /// From, to, width: the minutes from one to before another, summed up.
    HISTORY = "SELECT (m.minute / $3) * $3 AS first, \
         sum(m.d00)::bigint, sum(m.d01)::bigint, sum(m.d02)::bigint, sum(m.d03)::bigint, \
         sum(m.d04)::bigint, sum(m.d05)::bigint, sum(m.d06)::bigint, sum(m.d07)::bigint, \
         sum(m.d08)::bigint, sum(m.d09)::bigint, sum(m.d10)::bigint, sum(m.d11)::bigint, \
         sum(m.d12)::bigint, sum(m.d13)::bigint, sum(m.d14)::bigint, sum(m.d15)::bigint, \
         sum(m.failed)::bigint, sum(m.delivered)::bigint, sum(m.undelivered)::bigint, \
         max(m.lag_ms), max(m.apps), max(m.pending), max(m.letters), max(m.paused), \
         max(m.store_bytes) \
         FROM host_minutes AS m WHERE m.minute >= $1 AND m.minute < $2 GROUP BY 1 ORDER BY 1";
    /// From, to, rows, limit: removes minutes outside of a range, and the oldest beyond a number of
    /// rows.
    PRUNE_HISTORY = "WITH cut AS (SELECT greatest($1 - 1, (SELECT m.minute FROM host_minutes AS m \
         ORDER BY m.minute DESC OFFSET $3 LIMIT 1)) AS minute), \
         old AS (SELECT m.minute, m.host FROM host_minutes AS m, cut AS c \
         WHERE m.minute <= c.minute OR m.minute > $2 ORDER BY m.minute, m.host LIMIT $4 \
         FOR UPDATE OF m SKIP LOCKED) \
         DELETE FROM host_minutes AS m USING old AS o \
         WHERE m.minute = o.minute AND m.host = o.host RETURNING 1";
    /// Before, after, number to keep: removes hosts.
    PRUNE_HOSTS = "DELETE FROM hosts AS h WHERE h.seen_at < $1 OR h.seen_at > $2 OR h.id NOT IN \
         (SELECT k.id FROM hosts AS k ORDER BY k.seen_at DESC, k.id LIMIT $3) RETURNING 1";
}
