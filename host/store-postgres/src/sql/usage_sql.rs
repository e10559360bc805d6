//! Usage counters of apps: the slots.

/// [`ENTRY_BYTES`](kvasm_core::ENTRY_BYTES); a test compares them.
macro_rules! entry_bytes {
    () => {
        "192"
    };
}

/// [`DELIVERY_BYTES`](kvasm_core::DELIVERY_BYTES); a test compares them.
macro_rules! delivery_bytes {
    () => {
        "768"
    };
}

/// The cost of a dead letter, as in `DeadLetter::bytes`.
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

/// Whether the change `d` exceeds the grant of the slot `u`. A change that adds nothing is never
/// refused.
macro_rules! over_grant {
    () => {
        "(d.entries > 0 AND coalesce(u.entries + d.entries > u.entries_granted, false)) \
         OR (d.bytes > 0 AND coalesce(u.bytes + d.bytes > u.bytes_granted, false)) \
         OR (d.queued > 0 AND u.queued + d.queued > u.queued_granted)"
    };
}

/// Counts a change in one slot of the app `$1`. A write that does not change the usage does not
/// touch the slot.
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

/// The usage of the deliveries that the CTE `fired` has created.
macro_rules! queued {
    () => {
        " + (SELECT coalesce(sum(f.size), 0) FROM fired AS f) AS bytes, \
         (SELECT count(*) FROM fired AS f) AS queued"
    };
}

/// Replaces `queued!` where a statement creates no deliveries.
macro_rules! nothing_queued {
    () => {
        " AS bytes, 0 AS queued"
    };
}

/// Counts the entries that the CTE `written` has set, and the deliveries.
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

/// Counts the entries that the CTE `gone` has deleted, and the deliveries.
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

/// Counts the dead letters that the CTE `gone` has removed.
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

/// Counts the dead letters that the CTE `gone` has turned back into deliveries. It is never
/// refused, because a replay is an explicit request.
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

/// The changes of a transaction, as parameters.
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
    /// As `COUNT`, but never refused.
    COUNT_ALWAYS = count!(change!(), "$2", "false");
    /// A deleted app.
    FORGET = "DELETE FROM app_usage AS u WHERE u.app_id = $1";
    /// Locks all slots of an app.
    HOLD = "SELECT u.slot FROM app_usage AS u WHERE u.app_id = $1 ORDER BY u.slot \
        FOR NO KEY UPDATE";
    /// What an app uses, and its limits. After `HOLD`, in a separate statement: a statement that
    /// waits sees the app as it was before the wait.
    TOTAL = "SELECT sum(u.entries)::bigint, a.entries_max, sum(u.bytes)::bigint, a.bytes_max, \
        sum(u.queued)::bigint \
        FROM app_usage AS u, apps AS a WHERE u.app_id = $1 AND a.id = $1 GROUP BY a.id";
    /// App, slot; entries and bytes to count there; how many entries that slot and each other may
    /// use, the same for bytes, and for deliveries. Null means no limit.
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
