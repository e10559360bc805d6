//! What apps use: the slots that count it.

/// [`ENTRY_BYTES`](kvasm_core::ENTRY_BYTES): a test compares them.
macro_rules! entry_bytes {
    () => {
        "192"
    };
}

/// [`DELIVERY_BYTES`](kvasm_core::DELIVERY_BYTES): a test compares them.
macro_rules! delivery_bytes {
    () => {
        "768"
    };
}

/// What a dead letter takes: as `DeadLetter::bytes`.
macro_rules! letter_bytes {
    ($table:literal) => {
        concat!(
            "greatest(",
            $table,
            ".size, ",
            delivery_bytes!(),
            ") + octet_length(",
            $table,
            ".error) + coalesce(octet_length(",
            $table,
            ".trace), 0)"
        )
    };
}

/// Whether `u`, a slot, has not enough granted for `d`, a change of what is used.
/// What takes no more than before is never refused.
macro_rules! over_grant {
    () => {
        "(d.entries > 0 AND coalesce(u.entries + d.entries > u.entries_granted, false)) \
         OR (d.bytes > 0 AND coalesce(u.bytes + d.bytes > u.bytes_granted, false)) \
         OR (d.queued > 0 AND u.queued + d.queued > u.queued_granted)"
    };
}

/// Counts a change in one slot of the app `$1`. A write that changes nothing of
/// what is used does not touch the slot.
macro_rules! count {
    ($change:expr, $slot:literal, $refused:expr) => {
        concat!(
            "UPDATE app_usage AS u \
             SET entries = u.entries + d.entries, bytes = u.bytes + d.bytes, \
             queued = u.queued + d.queued, refused = ",
            $refused,
            " FROM (",
            $change,
            ") AS d WHERE u.app_id = $1 AND u.slot = ",
            $slot,
            " AND (d.entries <> 0 OR d.bytes <> 0 OR d.queued <> 0)"
        )
    };
}

/// What the deliveries take that the statement's part `fired` has made.
macro_rules! queued {
    () => {
        " + (SELECT coalesce(sum(f.size), 0) FROM fired AS f) AS bytes, \
         (SELECT count(*) FROM fired AS f) AS queued"
    };
}

/// In place of `queued!` where a statement makes no deliveries.
macro_rules! nothing_queued {
    () => {
        " AS bytes, 0 AS queued"
    };
}

/// Counts what the statement's part `written` has set, and the deliveries besides.
macro_rules! count_written {
    ($slot:literal, $besides:expr) => {
        concat!(
            "counted AS (",
            count!(
                concat!(
                    "SELECT coalesce(sum((w.replaced = 0)::integer), 0) AS entries, \
                     coalesce(sum(w.size - w.replaced + ",
                    entry_bytes!(),
                    " * (w.replaced = 0)::integer), 0)",
                    $besides,
                    " FROM written AS w"
                ),
                $slot,
                over_grant!()
            ),
            ") "
        )
    };
}

/// Counts the entries that the statement's part `gone` has deleted, and the
/// deliveries besides.
macro_rules! count_gone {
    ($slot:literal, $besides:expr) => {
        concat!(
            "counted AS (",
            count!(
                concat!(
                    "SELECT -count(*) AS entries, -coalesce(sum(g.size + ",
                    entry_bytes!(),
                    "), 0)",
                    $besides,
                    " FROM gone AS g"
                ),
                $slot,
                over_grant!()
            ),
            ") "
        )
    };
}

/// Counts the dead letters that the statement's part `gone` has removed.
macro_rules! count_letters_gone {
    ($slot:literal) => {
        concat!(
            "counted AS (",
            count!(
                concat!(
                    "SELECT 0 AS entries, -coalesce(sum(",
                    letter_bytes!("g"),
                    "), 0) AS bytes, 0 AS queued FROM gone AS g"
                ),
                $slot,
                "false"
            ),
            ") "
        )
    };
}

/// Counts the dead letters that the statement's part `gone` has removed, and that
/// come into their queues again. It is not refused: who sends them again means it.
macro_rules! count_letters_replayed {
    ($slot:literal) => {
        concat!(
            "counted AS (",
            count!(
                concat!(
                    "SELECT 0 AS entries, coalesce(sum(g.size - (",
                    letter_bytes!("g"),
                    ")), 0) AS bytes, coalesce(sum((g.size > 0)::integer), 0) AS queued \
                     FROM gone AS g"
                ),
                $slot,
                "false"
            ),
            ") "
        )
    };
}

/// What a transaction has changed, as parameters.
macro_rules! change {
    () => {
        "SELECT $3::bigint AS entries, $4::bigint AS bytes, $5::bigint AS queued"
    };
}

statements! {
    /// App, and the number of its slots.
    CREATE = "INSERT INTO app_usage AS u (app_id, slot) \
        SELECT $1, s.slot FROM generate_series(0, $2 - 1) AS s (slot)";
    /// App, slot, entries, bytes, deliveries: counts what a transaction has changed.
    COUNT = count!(change!(), "$2", over_grant!());
    /// As `COUNT`, and is not refused.
    COUNT_ALWAYS = count!(change!(), "$2", "false");
    /// An app that is deleted.
    FORGET = "DELETE FROM app_usage AS u WHERE u.app_id = $1";
    /// Holds all slots of an app.
    HOLD = "SELECT u.slot FROM app_usage AS u WHERE u.app_id = $1 ORDER BY u.slot \
        FOR NO KEY UPDATE";
    /// What an app uses, and may use. After `HOLD`, in a statement of its own: one
    /// that waits sees the app as it was before the wait.
    TOTAL = "SELECT sum(u.entries)::bigint, a.entries_max, sum(u.bytes)::bigint, a.bytes_max, \
        sum(u.queued)::bigint \
        FROM app_usage AS u, apps AS a WHERE u.app_id = $1 AND a.id = $1 GROUP BY a.id";
    /// App, slot; entries and bytes to count there; what that slot and each other
    /// may take of entries, and of bytes; the same of deliveries. Null is no limit.
    DEAL = "UPDATE app_usage AS u SET \
        entries = u.entries + CASE WHEN u.slot = $2 THEN $3 ELSE 0 END, \
        bytes = u.bytes + CASE WHEN u.slot = $2 THEN $4 ELSE 0 END, \
        entries_granted = u.entries + CASE WHEN u.slot = $2 THEN $3 + $5 ELSE $6 END, \
        bytes_granted = u.bytes + CASE WHEN u.slot = $2 THEN $4 + $7 ELSE $8 END, \
        queued = u.queued + CASE WHEN u.slot = $2 THEN $9 ELSE 0 END, \
        queued_granted = u.queued + CASE WHEN u.slot = $2 THEN $9 + $10 ELSE $11 END \
        WHERE u.app_id = $1";
    /// What an app uses.
    USED = "SELECT coalesce(sum(u.entries), 0)::bigint, coalesce(sum(u.bytes), 0)::bigint, \
        coalesce(sum(u.queued), 0)::bigint \
        FROM app_usage AS u WHERE u.app_id = $1";
    /// The bytes of the database.
    SIZE = "SELECT pg_database_size(current_database())";
}
