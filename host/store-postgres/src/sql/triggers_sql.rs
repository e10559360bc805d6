//! Triggers.

macro_rules! trigger_columns {
    () => {
        "t.name, t.origin, t.function, t.collection, t.prefix, t.on_set, t.on_delete, \
         t.schedule, t.next_at, t.attempts_max, t.age_max_ms, t.created_at, \
         t.paused, t.failures, t.series, t.probe_at, t.probe, t.probes_failed, t.url, t.secret \
         FROM triggers AS t WHERE "
    };
}

macro_rules! insert_trigger {
    () => {
        "INSERT INTO triggers AS t (app_id, name, origin, function, collection, prefix, on_set, \
         on_delete, schedule, next_at, attempts_max, age_max_ms, created_at, paused, failures, \
         series, probe_at, probe, probes_failed, url, secret) "
    };
}

statements! {
    /// App.
    TRIGGERS = concat!("SELECT ", trigger_columns!(), "t.app_id = $1 AND ", app_exists!(), " ORDER BY t.name");
    /// App: the number of its triggers, which does not change while the app is locked.
    COUNT_TRIGGERS = "SELECT count(*) FROM triggers AS t WHERE t.app_id = $1";
    /// App, name.
    TRIGGER = concat!("SELECT ", trigger_columns!(), "t.app_id = $1 AND t.name = $2");
    /// The columns of a trigger. Changes of triggers lock the app, like those of plugins.
    SET_TRIGGER = concat!(
        insert_trigger!(),
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, \
         $16, $17, $18, $19, $20, $21) \
         ON CONFLICT (app_id, name) DO UPDATE SET origin = excluded.origin, \
         function = excluded.function, collection = excluded.collection, \
         prefix = excluded.prefix, on_set = excluded.on_set, on_delete = excluded.on_delete, \
         schedule = excluded.schedule, next_at = excluded.next_at, \
         attempts_max = excluded.attempts_max, age_max_ms = excluded.age_max_ms, \
         created_at = excluded.created_at, paused = excluded.paused, \
         failures = excluded.failures, series = excluded.series, probe_at = excluded.probe_at, \
         probe = excluded.probe, probes_failed = excluded.probes_failed, \
         url = excluded.url, secret = excluded.secret"
    );
    /// App, trigger.
    DELETE_TRIGGER = "DELETE FROM triggers AS t WHERE t.app_id = $1 AND t.name = $2 RETURNING t.name";
    /// App, trigger: whether it exists and has outstanding deliveries.
    HAS_DELIVERIES = "SELECT EXISTS (SELECT 1 FROM triggers AS t WHERE t.app_id = $1 AND t.name = $2) \
        AND EXISTS (SELECT 1 FROM deliveries AS d WHERE d.app_id = $1 AND d.trigger_name = $2)";
    /// App, trigger: its health, locked until the transaction ends.
    HOLD_STANDING = "SELECT t.paused, t.failures, t.series, t.probe_at, t.probe, t.probes_failed \
        FROM triggers AS t WHERE t.app_id = $1 AND t.name = $2 FOR NO KEY UPDATE";
    /// App, trigger, its new health.
    SET_STANDING = "UPDATE triggers AS t SET paused = $3, failures = $4, series = $5, \
        probe_at = $6, probe = $7, probes_failed = $8 \
        WHERE t.app_id = $1 AND t.name = $2 RETURNING t.name";
    /// App, trigger, now, end of the lease, lease: records the claim of a probe of a trigger that
    /// is paused by failures, if it is due. Returns the series of failures.
    PROBE = "UPDATE triggers AS t SET probe_at = $4, probe = $5 \
        WHERE t.app_id = $1 AND t.name = $2 AND t.paused = 'failures' \
        AND coalesce(t.probe_at, 0) <= $3 RETURNING t.series";
    /// App, trigger, lease, now: the probe was released, or there was nothing to claim.
    RELEASE_PROBE = "UPDATE triggers AS t SET probe_at = $4, probe = NULL \
        WHERE t.app_id = $1 AND t.name = $2 AND t.probe = $3";
    /// App, trigger, beyond, now: makes a probe due that would wait until after `beyond`.
    RESCUE_PROBE = "UPDATE triggers AS t SET probe_at = $4 WHERE t.app_id = $1 AND t.name = $2 \
        AND t.paused = 'failures' AND t.probe_at > $3";
    /// A deleted app: paused deliveries are not claimed.
    PAUSE_ALL = "UPDATE triggers AS t SET paused = 'operator' WHERE t.app_id = $1";
    /// App, names: removes triggers that the plugin no longer declares.
    UNDECLARE = "DELETE FROM triggers AS t WHERE t.app_id = $1 AND t.origin = 'plugin' \
        AND NOT (t.name = ANY($2))";
    /// App, names, collections, prefixes, on sets, on deletions, schedules, attempts, ages, now: the
    /// triggers that the plugin declares. An operator's trigger with the same name stays.
    DECLARE = concat!(
        insert_trigger!(),
        "SELECT $1, n.name, 'plugin', n.name, n.collection, n.prefix, n.on_set, n.on_delete, \
         n.schedule, NULL, n.attempts_max, n.age_max_ms, $10, NULL, 0, 0, NULL, NULL, 0, NULL, NULL \
         FROM unnest($2::text[], $3::text[], $4::text[], \
         $5::boolean[], $6::boolean[], $7::text[], $8::bigint[], $9::bigint[]) \
         AS n (name, collection, prefix, on_set, on_delete, schedule, attempts_max, age_max_ms) \
         ORDER BY n.name COLLATE \"C\" \
         ON CONFLICT (app_id, name) DO UPDATE SET collection = excluded.collection, \
         prefix = excluded.prefix, on_set = excluded.on_set, on_delete = excluded.on_delete, \
         schedule = excluded.schedule, attempts_max = excluded.attempts_max, \
         age_max_ms = excluded.age_max_ms, next_at = CASE \
         WHEN (t.collection, t.prefix, t.on_set, t.on_delete, t.schedule) IS NOT DISTINCT FROM \
         (excluded.collection, excluded.prefix, excluded.on_set, excluded.on_delete, \
         excluded.schedule) THEN t.next_at END WHERE t.origin = 'plugin' \
         AND (t.collection, t.prefix, t.on_set, t.on_delete, t.schedule, t.attempts_max, \
         t.age_max_ms) IS DISTINCT FROM (excluded.collection, excluded.prefix, excluded.on_set, \
         excluded.on_delete, excluded.schedule, excluded.attempts_max, excluded.age_max_ms)"
    );
    /// App: a new version starts without failures, and unpaused.
    RESUME = "UPDATE triggers AS t SET failures = 0, series = t.series + 1, probe_at = NULL, \
        probe = NULL, probes_failed = 0, \
        paused = CASE WHEN t.paused = 'operator' THEN t.paused END \
        WHERE t.app_id = $1 AND (t.failures <> 0 OR t.paused = 'failures')";
    /// Now, limit, and the position after which to start (a time, an app, a name): the schedules of
    /// all apps that are due or not planned yet. It finds apps, so it does not name one. Those that
    /// are not planned count as due at the beginning of time.
    SCHEDULES = concat!(
        "SELECT t.app_id, ", trigger_columns!(), "t.schedule IS NOT NULL \
         AND t.paused IS DISTINCT FROM 'operator' AND ", open_at!("$1"), " \
         AND coalesce(t.next_at, 0) <= $1 \
         AND (coalesce(t.next_at, 0), t.app_id, t.name) > ($3, $4, $5) ORDER BY coalesce(t.next_at, 0), t.app_id, t.name LIMIT $2"
    );
    /// App, trigger, its planned time, when it is due next, the run to create or null, now, the
    /// ordering key of schedules, the event: plans a schedule, and creates a run if none is
    /// outstanding. Returns whether it did.
    ///
    /// The second of two waits for the trigger, and then finds another planned time. An app that is
    /// locked exclusively, as by its deletion, is not waited for.
    TICK = concat!(
        "WITH held AS (SELECT a.id FROM apps AS a WHERE a.id = $1 FOR KEY SHARE NOWAIT), planned AS (UPDATE triggers AS t SET next_at = $4 \
         WHERE t.app_id = $1 AND t.name = $2 AND t.next_at IS NOT DISTINCT FROM $3 \
         AND ", open_at!("$6"), " AND EXISTS (SELECT 1 FROM held) RETURNING t.name, t.function), \
         made AS (", insert_delivery!(),
        "SELECT $1, p.name, nextval('delivery_seq'), p.function, $6, $6, $5, $7, $8, 1, \
         'schedule', NULL, NULL, NULL, 0, NULL, NULL, ", followers_max!(), ", NULL FROM planned AS p \
         WHERE $5::bigint IS NOT NULL AND NOT EXISTS (SELECT 1 FROM deliveries AS d \
         WHERE d.app_id = $1 AND d.trigger_name = $2 AND d.chain = $7) RETURNING d.seq) \
         SELECT EXISTS (SELECT 1 FROM made)"
    );
}
