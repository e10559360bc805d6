//! What apps use: the slots that count it.

/// Whether `u`, a slot, has not enough granted for `d`, a change of what is used.
/// What takes no more than before is never refused.
macro_rules! over_grant {
    () => {
        "(d.entries > 0 AND coalesce(u.entries + d.entries > u.entries_granted, false)) \
         OR (d.bytes > 0 AND coalesce(u.bytes + d.bytes > u.bytes_granted, false))"
    };
}

/// Counts a change in one slot of the app `$1`. A write that changes nothing of
/// what is used does not touch the slot.
macro_rules! count {
    ($change:expr, $slot:literal) => {
        concat!(
            "UPDATE app_usage AS u \
             SET entries = u.entries + d.entries, bytes = u.bytes + d.bytes, refused = ",
            over_grant!(),
            " FROM (",
            $change,
            ") AS d WHERE u.app_id = $1 AND u.slot = ",
            $slot,
            " AND (d.entries <> 0 OR d.bytes <> 0)"
        )
    };
}

/// What the deliveries take that the statement's part `fired` has made.
macro_rules! queued {
    () => {
        " + (SELECT coalesce(sum(f.size), 0) FROM fired AS f)"
    };
}

/// Counts what the statement's part `written` has set, and bytes besides.
macro_rules! count_written {
    ($slot:literal, $besides:expr) => {
        concat!(
            "counted AS (",
            count!(
                concat!(
                    "SELECT coalesce(sum((w.replaced = 0)::integer), 0) AS entries, \
                     coalesce(sum(w.size - w.replaced), 0)",
                    $besides,
                    " AS bytes FROM written AS w"
                ),
                $slot
            ),
            ") "
        )
    };
}

/// Counts the entries that the statement's part `gone` has deleted, and bytes
/// besides.
macro_rules! count_gone {
    ($slot:literal, $besides:expr) => {
        concat!(
            "counted AS (",
            count!(
                concat!(
                    "SELECT -count(*) AS entries, -coalesce(sum(g.size), 0)",
                    $besides,
                    " AS bytes FROM gone AS g"
                ),
                $slot
            ),
            ") "
        )
    };
}

/// Counts what else the statement's part `gone` has deleted: bytes, no entries.
macro_rules! count_bytes_gone {
    ($slot:literal) => {
        concat!(
            "counted AS (",
            count!(
                "SELECT 0 AS entries, -coalesce(sum(g.size), 0) AS bytes FROM gone AS g",
                $slot
            ),
            ") "
        )
    };
}

statements! {
    /// App, and the number of its slots.
    CREATE = "INSERT INTO app_usage AS u (app_id, slot) \
        SELECT $1, s.slot FROM generate_series(0, $2 - 1) AS s (slot)";
    /// App, slot, entries, bytes: counts what a transaction has changed.
    COUNT = count!("SELECT $3::bigint AS entries, $4::bigint AS bytes", "$2");
    /// Holds all slots of an app.
    HOLD = "SELECT u.slot FROM app_usage AS u WHERE u.app_id = $1 ORDER BY u.slot \
        FOR NO KEY UPDATE";
    /// What an app uses, and may use. After `HOLD`, in a statement of its own: one
    /// that waits sees the app as it was before the wait.
    TOTAL = "SELECT sum(u.entries)::bigint, a.entries_max, sum(u.bytes)::bigint, a.bytes_max \
        FROM app_usage AS u, apps AS a WHERE u.app_id = $1 AND a.id = $1 GROUP BY a.id";
    /// App, slot; entries and bytes to count there; what that slot and each other
    /// may take of entries, and of bytes. Null is no limit.
    DEAL = "UPDATE app_usage AS u SET \
        entries = u.entries + CASE WHEN u.slot = $2 THEN $3 ELSE 0 END, \
        bytes = u.bytes + CASE WHEN u.slot = $2 THEN $4 ELSE 0 END, \
        entries_granted = u.entries + CASE WHEN u.slot = $2 THEN $3 + $5 ELSE $6 END, \
        bytes_granted = u.bytes + CASE WHEN u.slot = $2 THEN $4 + $7 ELSE $8 END \
        WHERE u.app_id = $1";
    /// What an app uses.
    USED = "SELECT coalesce(sum(u.entries), 0)::bigint, coalesce(sum(u.bytes), 0)::bigint \
        FROM app_usage AS u WHERE u.app_id = $1";
}
