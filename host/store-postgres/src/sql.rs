//! The statements of the Postgres store.
//!
//! They also run on a distributed engine that shards by `app_id`; the tests below enforce that:
//! - a statement on a table that is keyed by app names `app_id = $1`, first in its WHERE, or
//!   inserts `$1` as its first column, except for those that find the apps with work to do;
//! - `DO UPDATE SET` and `UPDATE SET` call no volatile function, so `nextval` is drawn in `VALUES`
//!   or `SELECT` and reaches them as `excluded.version`.
//!
//! Under READ COMMITTED a statement that waits for a row continues with the newest state of that
//! row. The expected state of a row is therefore checked in the statement that changes it, or after
//! a lock on it, never before.
//!
//! Locks are taken in this order, to avoid deadlocks: the app; the kept answer; the delivery that is acknowledged,
//! failed or renewed; entries by collection and key; dead letters by identity; the trigger; the
//! next delivery of the ordering key; the slots of usage by number. Or the app, its plugins,
//! modules by digest, its triggers by name; and the row of the registry after all others. A
//! statement that inserts a row that refers to the app locks the app first: the foreign key alone
//! would lock it last. A statement that only changes or removes existing rows may leave out the
//! app. A claim waits for nothing, a sweep only for its slot.

macro_rules! statements {
    ($($(#[doc = $doc:literal])* $name:ident = $sql:expr;)*) => {
        $(
            $(#[doc = $doc])*
            pub(crate) const $name: &str = $sql;
        )*
        #[cfg(test)]
        pub(super) const ALL: &[(&str, &str)] = &[$((stringify!($name), $name)),*];
    };
}

/// Locks the app before its entry. The foreign key alone would lock it last, after the slot, while
/// a deletion of the app takes them in the other order.
macro_rules! held_app {
    () => {
        "held AS (SELECT a.id FROM apps AS a WHERE a.id = $1 AND a.deleted_at IS NULL \
         FOR KEY SHARE)"
    };
}

/// Whether the app exists. Its rows remain for a while after its deletion.
macro_rules! app_exists {
    () => {
        "EXISTS (SELECT 1 FROM apps AS a WHERE a.id = $1 AND a.deleted_at IS NULL)"
    };
}

#[macro_use]
pub(super) mod usage_sql;
#[macro_use]
pub(super) mod outbox_sql;
#[macro_use]
pub(super) mod logs_sql;
pub(super) mod answers_sql;
pub(super) mod calls_sql;
pub(super) mod changes_sql;
pub(super) mod dead_letters_sql;
pub(super) mod hosts_sql;
pub(super) mod registry_sql;
pub(super) mod server_sql;
pub(super) mod settings_sql;
pub(super) mod timers_sql;
pub(super) mod triggers_sql;

/// The columns of an entry; `entries::entry` decodes them in this order.
macro_rules! entry_columns {
    ($table:literal) => {
        concat!(
            $table,
            ".json::text, ",
            $table,
            ".bytes, ",
            $table,
            ".version, ",
            $table,
            ".created_at, ",
            $table,
            ".updated_at, ",
            $table,
            ".expires_at"
        )
    };
}

macro_rules! live {
    ($now:literal) => {
        concat!("(e.expires_at IS NULL OR e.expires_at > ", $now, ")")
    };
}

/// The entry `$1, $2, $3`.
macro_rules! this_entry {
    () => {
        "e.app_id = $1 AND e.collection = $2 AND e.key = $3"
    };
}

macro_rules! insert_columns {
    () => {
        "INSERT INTO kv_entries AS e (app_id, collection, key, json, bytes, size, version, \
         created_at, updated_at, expires_at) "
    };
}

/// One entry as parameters: app, collection, key, JSON, bytes, size, now, expiry. It is written if
/// the given part of the statement has a row.
macro_rules! insert_one {
    ($if:literal) => {
        concat!(
            insert_columns!(),
            "SELECT $1, $2, $3, $4::text::jsonb, $5, $6, nextval('kv_version'), $7, $7, $8 FROM ",
            $if,
            " "
        )
    };
}

/// Ends the statement that sets one entry, `$1` to `$8`: counts it in the slot `$9`, creates the
/// deliveries of the event `$10, $11, $12` (ordering key, identity, depth) with the trace context
/// `$13`, and returns the written version, if any, whether the app exists, and the number of deliveries.
macro_rules! set_fires {
    () => {
        concat!(
            "RETURNING e.version, e.size, e.replaced), ",
            fired!(
                "$7",
                "$10, $11, $12",
                "$13",
                concat!(
                    "'set', $2, $3, w.version, $6 + ",
                    traced_bytes!("$13"),
                    ", $4, $5"
                ),
                "written AS w",
                "t.on_set"
            ),
            ", ",
            count_written!("$9", queued!()),
            "SELECT (SELECT w.version FROM written AS w), ",
            held_and_fired!()
        )
    };
}

/// Ends the statement that deletes the entry `$1, $2, $3` at `$4`: counts it in the slot `$5`,
/// creates the deliveries of the event of size `$6` and `$7, $8, $9` (ordering key, identity,
/// depth) with the trace context `$10`, and returns whether there was an entry, whether the app exists, and the number of
/// deliveries.
macro_rules! delete_fires {
    () => {
        concat!(
            " RETURNING ",
            live!("$4"),
            " AS live, e.size, e.version), ",
            fired!(
                "$4",
                "$7, $8, $9",
                "$10",
                concat!(
                    "'delete', $2, $3, g.version, $6 + ",
                    traced_bytes!("$10"),
                    ", NULL, NULL"
                ),
                "gone AS g",
                "t.on_delete AND g.live"
            ),
            ", ",
            count_gone!("$5", queued!()),
            "SELECT coalesce((SELECT g.live FROM gone AS g), false), ",
            held_and_fired!()
        )
    };
}

macro_rules! held_and_fired {
    () => {
        "EXISTS (SELECT 1 FROM held), (SELECT count(*) FROM fired)"
    };
}

/// Overwrites an entry. The drawn version can be older than the existing one, so the new version is
/// the larger of the draw and the existing version + 1. An expired entry counts as absent: its
/// replacement is created now. For `app_usage` it exists until it is replaced: `replaced` is its
/// size, so that RETURNING has both sizes.
macro_rules! overwrite {
    () => {
        "ON CONFLICT (app_id, collection, key) DO UPDATE SET \
         json = excluded.json, bytes = excluded.bytes, size = excluded.size, \
         replaced = e.size, version = greatest(excluded.version, e.version + 1), \
         created_at = CASE WHEN e.expires_at <= excluded.updated_at \
             THEN excluded.created_at ELSE e.created_at END, \
         updated_at = excluded.updated_at, expires_at = excluded.expires_at "
    };
}

/// Whether an entry holds an integer, as in `JsonText::as_integer`: a number that Postgres, which
/// writes numbers out, writes with digits only.
macro_rules! integer {
    () => {
        "CASE jsonb_typeof(e.json) WHEN 'number' THEN e.json::text ~ '^-?[0-9]+$' ELSE false END"
    };
}

/// A page: app, collection, lower bound, upper bound or null, now, entries, bytes.
///
/// `before` is the sum of the sizes before an entry in the page. A page ends with the entry that
/// reaches the limit; `followed` tells whether the range continues. The outer SELECT reads only the
/// values of the page's entries.
macro_rules! page {
    ($inner:literal, $outer:expr, $bytes:literal, $order:literal) => {
        concat!(
            "SELECT p.key, p.followed",
            $outer,
            " FROM (SELECT e.key, ",
            $inner,
            "sum(",
            $bytes,
            ") OVER page - ",
            $bytes,
            " AS before, \
             lead(true) OVER page AS followed \
             FROM kv_entries AS e \
             WHERE e.app_id = $1 AND e.collection = $2 AND e.key >= $3 ",
            // Above every key: the last character, once more than a key can hold it.
            "AND e.key < coalesce($4, repeat(chr(1114111), 257)) AND ",
            live!("$5"),
            " AND ",
            app_exists!(),
            " WINDOW page AS (ORDER BY e.key ",
            $order,
            " ROWS UNBOUNDED PRECEDING) \
             ORDER BY e.key ",
            $order,
            " LIMIT $6) AS p \
             WHERE p.before < $7 ORDER BY p.key ",
            $order
        )
    };
}

macro_rules! page_keys {
    ($order:literal) => {
        page!("", "", "octet_length(e.key)", $order)
    };
}

macro_rules! page_entries {
    ($order:literal) => {
        page!(
            "e.json, e.bytes, e.version, e.created_at, e.updated_at, e.expires_at, ",
            concat!(", ", entry_columns!("p")),
            "(e.size - octet_length(e.collection))",
            $order
        )
    };
}

/// The entries of `$1` whose collections and keys are the arrays `$2` and `$3`.
macro_rules! these_entries {
    () => {
        "e.app_id = $1 AND e.collection = k.collection AND e.key = k.key"
    };
}

/// Columns of the live entry at `$4` of each given key, looked up one by one regardless of the
/// planner's estimate of the table's size.
macro_rules! each_given {
    ($columns:literal) => {
        concat!(
            "LATERAL (SELECT ",
            $columns,
            " FROM kv_entries AS e WHERE ",
            these_entries!(),
            " AND ",
            live!("$4"),
            " LIMIT 1) AS f"
        )
    };
}

macro_rules! given_keys {
    () => {
        "unnest($2::text[], $3::text[]) AS k (collection, key)"
    };
}

/// App, collections, keys, JSON, bytes, sizes, expiries, now. Returns no row if the app does not
/// exist or does not meet a condition.
///
/// Locks the app before any entry, like `LOCK_APP`: the sort lets no row through before the app is
/// read. The foreign key alone would lock it last, and deadlock with a deletion of the app.
macro_rules! set_many {
    ($condition:literal) => {
        concat!(
            insert_columns!(),
            "SELECT $1, n.collection, n.key, n.json::jsonb, n.bytes, n.size, \
             nextval('kv_version'), $8::bigint, $8::bigint, n.expires_at \
             FROM (SELECT a.id FROM apps AS a WHERE a.id = $1 AND a.deleted_at IS NULL",
            $condition,
            " FOR KEY SHARE) AS held, \
             unnest($2::text[], $3::text[], $4::text[], $5::bytea[], $6::integer[], $7::bigint[]) \
             AS n (collection, key, json, bytes, size, expires_at) \
             ORDER BY n.collection COLLATE \"C\", n.key COLLATE \"C\" ",
            overwrite!(),
            "RETURNING e.collection, e.key, e.version, e.size, e.replaced"
        )
    };
}

statements! {
    /// App, the name to continue after, limit. Steps from one collection to the next through the
    /// primary key.
    COLLECTIONS = "WITH RECURSIVE names (name) AS ( \
        (SELECT e.collection FROM kv_entries AS e WHERE e.app_id = $1 AND e.collection > $2 \
         ORDER BY e.collection LIMIT 1) \
        UNION ALL \
        SELECT (SELECT e.collection FROM kv_entries AS e \
                WHERE e.app_id = $1 AND e.collection > names.name ORDER BY e.collection LIMIT 1) \
        FROM names WHERE names.name IS NOT NULL) \
        SELECT names.name FROM names WHERE names.name IS NOT NULL \
        AND EXISTS (SELECT 1 FROM apps AS a WHERE a.id = $1 AND a.deleted_at IS NULL) LIMIT $3";
    /// Whether the app exists.
    APP_EXISTS = concat!("SELECT ", app_exists!());
    /// Locks the app against deletion until the transaction ends. First in every transaction, as in
    /// a deletion, so that the two cannot deadlock.
    LOCK_APP = "SELECT a.id FROM apps AS a WHERE a.id = $1 AND a.deleted_at IS NULL FOR KEY SHARE";
    /// App, collections. As `LOCK_APP`, and returns those of the collections that a trigger
    /// watches.
    LOCK_APP_AND_LOOK = "SELECT ARRAY(SELECT DISTINCT t.collection FROM triggers AS t \
        WHERE t.app_id = $1 AND t.collection = ANY($2)) \
        FROM apps AS a WHERE a.id = $1 AND a.deleted_at IS NULL FOR KEY SHARE";

    /// Key, now.
    GET = concat!(
        "SELECT ", entry_columns!("e"), " FROM kv_entries AS e WHERE ",
        this_entry!(), " AND ", live!("$4"), " AND ", app_exists!()
    );
    /// App, collections, keys, now, bytes: the live entries, each with its position in the arrays
    /// and whether the values exceed the bytes in total. The value and the remaining columns are
    /// null if they do.
    GET_MANY = concat!(
        "SELECT p.at, p.bytes_together > $5, CASE WHEN p.bytes_together <= $5 THEN p.json::text END, \
         CASE WHEN p.bytes_together <= $5 THEN p.bytes END, p.version, p.created_at, p.updated_at, \
         p.expires_at FROM (SELECT k.at, f.json, f.bytes, f.version, f.created_at, f.updated_at, \
         f.expires_at, sum(f.size - octet_length(k.collection) - octet_length(k.key)) OVER () \
         AS bytes_together \
         FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS k (collection, key, at), ",
        each_given!("e.json, e.bytes, e.version, e.created_at, e.updated_at, e.expires_at, e.size"),
        " WHERE ", app_exists!(), ") AS p"
    );
    /// Key, now. The second column is whether the app exists, for commits.
    HAS = concat!(
        "SELECT EXISTS (SELECT 1 FROM kv_entries AS e WHERE ", this_entry!(), " AND ",
        live!("$4"), " AND ", app_exists!(), "), ", app_exists!()
    );
    /// See `page!`.
    KEYS_FORWARD = page_keys!("ASC");
    /// See `page!`.
    KEYS_REVERSE = page_keys!("DESC");
    /// See `page!`.
    ENTRIES_FORWARD = page_entries!("ASC");
    /// See `page!`.
    ENTRIES_REVERSE = page_entries!("DESC");

    /// Sets an entry unconditionally; see `insert_one!` and `set_fires!`.
    SET = concat!(
        "WITH ", held_app!(), ", written AS (", insert_one!("held"), overwrite!(), set_fires!()
    );
    /// Sets an entry if it is absent or expired. As `SET`.
    SET_IF_ABSENT = concat!(
        "WITH ", held_app!(), ", written AS (", insert_one!("held"), overwrite!(),
        "WHERE e.expires_at <= excluded.updated_at ", set_fires!()
    );
    /// Sets an entry if it has version `$14`. As `SET`. Here `expected` locks the entry in the
    /// requested state, so it can be neither changed nor deleted before the INSERT, which would
    /// otherwise create it.
    SET_IF_VERSION = concat!(
        "WITH ", held_app!(), ", expected AS (SELECT 1 FROM kv_entries AS e WHERE ",
        this_entry!(), " AND e.version = $14 AND ", live!("$7"),
        " AND EXISTS (SELECT 1 FROM held) FOR UPDATE), written AS (",
        insert_one!("expected"), overwrite!(), set_fires!()
    );
    /// Deletes an entry; see `delete_fires!`. Locks the app, for which it may create deliveries.
    DELETE = concat!(
        "WITH ", held_app!(), ", gone AS (DELETE FROM kv_entries AS e WHERE ", this_entry!(),
        " AND EXISTS (SELECT 1 FROM held)", delete_fires!()
    );
    /// Deletes an entry if it has version `$11`. As `DELETE`.
    DELETE_IF_VERSION = concat!(
        "WITH ", held_app!(), ", gone AS (DELETE FROM kv_entries AS e WHERE ", this_entry!(),
        " AND ", live!("$4"), " AND e.version = $11 AND EXISTS (SELECT 1 FROM held)",
        delete_fires!()
    );
    /// App, collection, key, delta, the size of the names, now, slot; ordering key, identity and
    /// depth of the event; the trace context. Adds to an entry, or creates it with the delta if it is absent or
    /// expired. Returns the version, whether the app exists, how many deliveries it created, and
    /// the new value; no version if the value is not an integer. Fails if the sum is out of range.
    INCREMENT = concat!(
        "WITH ", held_app!(), ", written AS (", insert_columns!(),
        "SELECT $1, $2, $3, $4::bigint::text::jsonb, NULL, $5 + octet_length($4::bigint::text), \
         nextval('kv_version'), $6, $6, NULL FROM held \
         ON CONFLICT (app_id, collection, key) DO UPDATE SET \
         json = CASE WHEN e.expires_at <= excluded.updated_at THEN excluded.json \
             ELSE (e.json::bigint + $4::bigint)::text::jsonb END, \
         bytes = NULL, \
         size = CASE WHEN e.expires_at <= excluded.updated_at THEN excluded.size \
             ELSE $5 + octet_length((e.json::bigint + $4::bigint)::text) END, \
         replaced = e.size, version = greatest(excluded.version, e.version + 1), \
         created_at = CASE WHEN e.expires_at <= excluded.updated_at \
             THEN excluded.created_at ELSE e.created_at END, \
         updated_at = excluded.updated_at, \
         expires_at = CASE WHEN e.expires_at > excluded.updated_at THEN e.expires_at END \
         WHERE e.expires_at <= excluded.updated_at OR ", integer!(), " \
         RETURNING e.version, e.size, e.replaced, e.json::text AS json), ",
        fired!("$6", "$8, $9, $10", "$11",
            concat!("'set', $2, $3, w.version, w.size + ", traced_bytes!("$11"), ", w.json, NULL"),
            "written AS w", "t.on_set"), ", ",
        count_written!("$7", queued!()), "SELECT (SELECT w.version FROM written AS w), ",
        held_and_fired!(), ", (SELECT w.json::bigint FROM written AS w)"
    );

    /// App, collections, keys, the time before all times. Locks keys, whether or not they have an
    /// entry: no other transaction can create, change or delete them until this transaction ends.
    /// An existing entry is locked and not changed (`WHERE false` comes after the lock). A
    /// placeholder for an absent one has expired, so it is never visible, and has no size, so it
    /// does not count: its replacement is a new entry.
    ///
    /// The order of the keys is the same in every statement that takes several, so that they wait
    /// for each other and do not deadlock.
    HOLD = concat!(
        insert_columns!(),
        "SELECT $1, k.collection, k.key, NULL, ''::bytea, 0, 0, $4::bigint, $4::bigint, $4::bigint FROM ",
        given_keys!(), " ORDER BY k.collection COLLATE \"C\", k.key COLLATE \"C\" \
         ON CONFLICT (app_id, collection, key) DO UPDATE SET size = e.size WHERE false"
    );
    /// App, collections, keys, now: the versions of the live entries.
    FIND = concat!(
        "SELECT k.collection, k.key, f.version FROM ", given_keys!(), ", ",
        each_given!("e.version")
    );
    /// App, collections, keys, now: each key with the version of its live entry, if any, and
    /// whether the app exists.
    LOOK = concat!(
        "SELECT k.collection, k.key, f.version, ", app_exists!(), " FROM ", given_keys!(),
        " LEFT JOIN ", each_given!("e.version"), " ON true"
    );
    /// A whole batch; see the function, created by migration 9, for its parameters.
    COMMIT_ENTRIES = "SELECT c.outcome, c.of_collection, c.of_key, c.of_version \
        FROM commit_entries($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) AS c";
    /// App, collections, keys, the time before all times. Makes entries count as deleted for a SET
    /// that follows in the same transaction. A DELETE would not do: a statement that waits for the
    /// row would see it as deleted, and not see the new one.
    EXPIRE = concat!(
        "UPDATE kv_entries AS e SET expires_at = $4 FROM ", given_keys!(), " WHERE ",
        these_entries!()
    );
    /// App, collections, keys, now: deletes entries. Returns each with whether it was live, its
    /// size and version.
    DELETE_MANY = concat!(
        "DELETE FROM kv_entries AS e USING ", given_keys!(), " WHERE ", these_entries!(),
        " RETURNING e.collection, e.key, ", live!("$4"), ", e.size, e.version"
    );
    /// App, collections, keys, now: when the live entries expire, and their values if they are
    /// numbers.
    NUMBERS = concat!(
        "SELECT k.collection, k.key, f.expires_at, \
         CASE jsonb_typeof(f.json) WHEN 'number' THEN f.json::text END FROM ",
        given_keys!(), ", ", each_given!("e.expires_at, e.json")
    );
    /// See `set_many!`; and the slot. Writes nothing if a trigger watches one of the collections:
    /// this statement creates no deliveries.
    SET_MANY = concat!(
        "WITH written AS (", set_many!(" AND NOT EXISTS (SELECT 1 FROM triggers AS t \
            WHERE t.app_id = $1 AND t.collection = ANY($2))"), "), ", count_written!("$9", nothing_queued!()),
        "SELECT w.collection, w.key, w.version FROM written AS w"
    );
    /// See `set_many!`. Returns the new and the replaced size, for the transaction to count.
    SET_MANY_UNCOUNTED = set_many!("");
    /// A deleted app, limit: removes its entries.
    REAP_ENTRIES = concat!(
        "WITH few AS (SELECT e.collection, e.key FROM kv_entries AS e WHERE e.app_id = $1 \
         LIMIT $2 FOR UPDATE SKIP LOCKED) \
         DELETE FROM kv_entries AS e USING few AS k WHERE ", these_entries!(), " RETURNING 1"
    );
    /// Draws versions for sets that a later operation of the same batch replaces.
    DRAW = "SELECT nextval('kv_version') FROM generate_series(1, $1::integer)";
}

#[cfg(test)]
mod tests;
