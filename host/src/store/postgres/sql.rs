//! Every statement of the Postgres store.
//!
//! They are written so that they also run on a distributed engine that shards by
//! `app_id`; the tests below hold each to it:
//! - what touches `kv_entries` or `app_usage` names `app_id = $1`, first in its
//!   WHERE, or inserts `$1` as its first column;
//! - `DO UPDATE SET` and `UPDATE SET` call no volatile function, so `nextval` is
//!   drawn in `VALUES` or `SELECT` and reaches them as `excluded.version`.
//!
//! Under READ COMMITTED a statement that waits for a row goes on with the newest
//! state of that row. What a row is expected to be is therefore asked in the
//! statement that changes it, or after a lock on it, never before.
//!
//! Locks are taken in this order, so that nobody waits in a circle: the app, its
//! entries by collection and key, its slots of usage by number; or the app, its
//! plugins, modules by digest. What changes only entries that are there may leave
//! out the app.

macro_rules! statements {
    ($($(#[doc = $doc:literal])* $name:ident = $sql:expr;)*) => {
        $(
            $(#[doc = $doc])*
            pub(in crate::store::postgres) const $name: &str = $sql;
        )*
        #[cfg(test)]
        pub(super) const ALL: &[(&str, &str)] = &[$((stringify!($name), $name)),*];
    };
}

pub(super) mod registry;
#[macro_use]
pub(super) mod usage;

/// What an entry's columns are read as; `read::entry` decodes them in this order.
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

/// One entry as parameters: app, collection, key, JSON, bytes, size, now, expiry.
/// It is written if the statement's part `held` has a row.
macro_rules! insert_one {
    () => {
        concat!(
            insert_columns!(),
            "SELECT $1, $2, $3, $4::text::jsonb, $5, $6, nextval('kv_version'), $7, $7, $8 \
             FROM held "
        )
    };
}

/// Holds the app before its entry. The foreign key alone would hold it last,
/// after the slot, and a deletion of the app takes them in the other order.
macro_rules! held_app {
    () => {
        "held AS (SELECT a.id FROM apps AS a WHERE a.id = $1 FOR KEY SHARE)"
    };
}

/// The version that was written, if any, and whether `held` had a row.
macro_rules! written_and_held {
    () => {
        "SELECT (SELECT w.version FROM written AS w), EXISTS (SELECT 1 FROM held)"
    };
}

/// Overwrites. The draw can be older than the version that is there, so the new
/// version is the larger of the draw and that version + 1. An expired entry
/// counts as absent: what replaces it is created now. For `app_usage` it is there
/// until it is replaced: `replaced` is its size, so that RETURNING has both sizes.
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

macro_rules! app_exists {
    () => {
        "EXISTS (SELECT 1 FROM apps AS a WHERE a.id = $1)"
    };
}

/// A page: app, collection, lower bound, upper bound or null, now, entries, bytes.
///
/// `before` sums what stands before an entry in the page, and a page ends with
/// the entry that reaches the bound; `followed` tells whether the range goes on.
/// The outer SELECT reads the values, of the page's entries only.
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

macro_rules! given_keys {
    () => {
        "unnest($2::text[], $3::text[]) AS k (collection, key)"
    };
}

/// App, collections, keys, JSON, bytes, sizes, expiries, now. No row comes back
/// if the app is not there.
///
/// Holds the app before any entry, as `LOCK_APP` does: the sort lets no row
/// through before the app is read. The foreign key alone would lock it last, and
/// deadlock with a deletion of the app.
macro_rules! set_many {
    () => {
        concat!(
            insert_columns!(),
            "SELECT $1, n.collection, n.key, n.json::jsonb, n.bytes, n.size, \
             nextval('kv_version'), $8::bigint, $8::bigint, n.expires_at \
             FROM (SELECT a.id FROM apps AS a WHERE a.id = $1 FOR KEY SHARE) AS held, \
             unnest($2::text[], $3::text[], $4::text[], $5::bytea[], $6::integer[], $7::bigint[]) \
             AS n (collection, key, json, bytes, size, expires_at) \
             ORDER BY n.collection COLLATE \"C\", n.key COLLATE \"C\" ",
            overwrite!(),
            "RETURNING e.collection, e.key, e.version, e.size, e.replaced"
        )
    };
}

statements! {
    /// App, the name to go on after, how many. Steps from one collection to the
    /// next through the primary key.
    COLLECTIONS = "WITH RECURSIVE names (name) AS ( \
        (SELECT e.collection FROM kv_entries AS e WHERE e.app_id = $1 AND e.collection > $2 \
         ORDER BY e.collection LIMIT 1) \
        UNION ALL \
        SELECT (SELECT e.collection FROM kv_entries AS e \
                WHERE e.app_id = $1 AND e.collection > names.name ORDER BY e.collection LIMIT 1) \
        FROM names WHERE names.name IS NOT NULL) \
        SELECT names.name FROM names WHERE names.name IS NOT NULL LIMIT $3";
    /// Whether the app is there.
    APP_EXISTS = concat!("SELECT ", app_exists!());
    /// Holds the app against deletion until the transaction ends. First in every
    /// transaction, as it is in a deletion: so the two cannot deadlock.
    LOCK_APP = "SELECT a.id FROM apps AS a WHERE a.id = $1 FOR KEY SHARE";

    /// Key, now.
    GET = concat!(
        "SELECT ", entry_columns!("e"), " FROM kv_entries AS e WHERE ",
        this_entry!(), " AND ", live!("$4")
    );
    /// Key, now. Whether the app is there comes second, for commits.
    HAS = concat!(
        "SELECT EXISTS (SELECT 1 FROM kv_entries AS e WHERE ", this_entry!(), " AND ",
        live!("$4"), "), ", app_exists!()
    );
    /// See `page!`.
    KEYS_FORWARD = page_keys!("ASC");
    /// See `page!`.
    KEYS_REVERSE = page_keys!("DESC");
    /// See `page!`.
    ENTRIES_FORWARD = page_entries!("ASC");
    /// See `page!`.
    ENTRIES_REVERSE = page_entries!("DESC");

    /// Sets an entry whatever there is: `insert_one!` and the slot that counts it;
    /// see `written_and_held!`.
    SET = concat!(
        "WITH ", held_app!(), ", written AS (", insert_one!(), overwrite!(),
        "RETURNING e.version, e.size, e.replaced), ", count_written!("$9"), written_and_held!()
    );
    /// Sets an entry if there is none, or an expired one. As `SET`.
    SET_IF_ABSENT = concat!(
        "WITH ", held_app!(), ", written AS (", insert_one!(), overwrite!(),
        "WHERE e.expires_at <= excluded.updated_at RETURNING e.version, e.size, e.replaced), ",
        count_written!("$9"), written_and_held!()
    );
    /// Sets an entry if it has version `$10`; whether there is the app comes
    /// second. Here `held` locks the entry in the state that was asked for, so it
    /// can be neither changed nor gone when the INSERT, which would create it,
    /// comes to it.
    SET_IF_VERSION = concat!(
        "WITH held AS (SELECT 1 FROM kv_entries AS e WHERE ", this_entry!(),
        " AND e.version = $10 AND ", live!("$7"), " FOR UPDATE), written AS (", insert_one!(),
        overwrite!(), "RETURNING e.version, e.size, e.replaced), ", count_written!("$9"),
        "SELECT (SELECT w.version FROM written AS w), ", app_exists!()
    );
    /// Key, now, slot: whether there was a live entry, whether there is the app.
    DELETE = concat!(
        "WITH gone AS (DELETE FROM kv_entries AS e WHERE ", this_entry!(), " RETURNING ",
        live!("$4"), " AS live, e.size), ", count_gone!("$5"),
        "SELECT coalesce((SELECT g.live FROM gone AS g), false), ", app_exists!()
    );
    /// Key, now, slot, version: whether it was deleted, whether there is the app.
    DELETE_IF_VERSION = concat!(
        "WITH gone AS (DELETE FROM kv_entries AS e WHERE ", this_entry!(), " AND ", live!("$4"),
        " AND e.version = $6 RETURNING e.size), ", count_gone!("$5"),
        "SELECT EXISTS (SELECT 1 FROM gone), ", app_exists!()
    );

    /// App, collections, keys, the time before all times. Holds keys, whether they
    /// have an entry or not: nobody else can create, change or delete it until
    /// this transaction ends. An entry that is there is locked and stays as it is
    /// (`WHERE false` comes after the lock). What is put in an empty place has
    /// expired, so nobody ever sees it, and has no size, so it does not count: what
    /// replaces it is a new entry.
    ///
    /// The order of the keys is the same in every statement that takes several,
    /// so that those wait for each other and do not deadlock.
    HOLD = concat!(
        insert_columns!(),
        "SELECT $1, k.collection, k.key, NULL, ''::bytea, 0, 0, $4::bigint, $4::bigint, $4::bigint FROM ",
        given_keys!(), " ORDER BY k.collection COLLATE \"C\", k.key COLLATE \"C\" \
         ON CONFLICT (app_id, collection, key) DO UPDATE SET size = e.size WHERE false"
    );
    /// App, collections, keys, now: the versions of the live entries.
    FIND = concat!(
        "SELECT e.collection, e.key, e.version FROM ", given_keys!(), ", kv_entries AS e WHERE ",
        these_entries!(), " AND ", live!("$4")
    );
    /// App, collections, keys, the time before all times. Makes entries count as
    /// deleted for a SET that follows in the same transaction. A DELETE would not
    /// do: who waits for the row would find it gone, and not see the new one.
    EXPIRE = concat!(
        "UPDATE kv_entries AS e SET expires_at = $4 FROM ", given_keys!(), " WHERE ",
        these_entries!()
    );
    /// App, collections, keys, now: what was there, whether it was live, its size.
    DELETE_MANY = concat!(
        "DELETE FROM kv_entries AS e USING ", given_keys!(), " WHERE ", these_entries!(),
        " RETURNING e.collection, e.key, ", live!("$4"), ", e.size"
    );
    /// See `set_many!`, and the slot that counts it.
    SET_MANY = concat!(
        "WITH written AS (", set_many!(), "), ", count_written!("$9"),
        "SELECT w.collection, w.key, w.version FROM written AS w"
    );
    /// See `set_many!`. Returns the size and what it replaced, for the transaction
    /// to count.
    SET_MANY_UNCOUNTED = set_many!();
    /// All entries of an app that is about to be deleted. The foreign keys would
    /// take them along, but perhaps after its slots.
    DELETE_ALL = "DELETE FROM kv_entries AS e WHERE e.app_id = $1";
    /// Draws versions for sets that a later operation of the same batch replaces.
    DRAW = "SELECT nextval('kv_version') FROM generate_series(1, $1::integer)";
    /// Whether the database answers.
    PING = "SELECT 1";
    /// Keys are compared as UTF-8, and only a database in UTF-8 holds them all.
    ENCODING = "SHOW server_encoding";
}

#[cfg(test)]
mod tests {
    use super::{ALL, registry, usage};

    fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
        let lists = [ALL, registry::ALL, usage::ALL].into_iter().flatten();
        lists.copied()
    }

    /// The places of a needle in a statement, each with what follows it.
    fn after<'a>(sql: &'a str, needle: &str) -> Vec<&'a str> {
        sql.match_indices(needle)
            .map(|(at, found)| &sql[at + found.len()..])
            .collect()
    }

    /// Asserts it of every use of a table, and counts them.
    fn led_by_the_app(table: &str, alias: &str) -> usize {
        let named = format!("{table} AS {alias}");
        let condition_begins = format!("{alias}.app_id = $1");
        let mut uses = 0;
        for (name, sql) in all() {
            for rest in after(sql, &named) {
                uses += 1;
                let is_insert = rest.starts_with(" (");
                if is_insert {
                    assert!(
                        rest.starts_with(" (app_id, "),
                        "{name} inserts another column first"
                    );
                    let values = rest.split_once(") ").map(|(_, values)| values);
                    let first = values.is_some_and(|values| {
                        values.starts_with("VALUES ($1, ") || values.starts_with("SELECT $1, ")
                    });
                    assert!(first, "{name} does not insert $1 as the app");
                } else {
                    let condition = rest.split_once("WHERE ").map(|(_, condition)| condition);
                    let further = condition.and_then(|c| c.strip_prefix(&condition_begins));
                    let first = further.is_some_and(|further| {
                        let ends = further.is_empty() || further.starts_with(')');
                        let goes_on = [" AND ", " ORDER BY ", " GROUP BY ", " RETURNING "];
                        ends || goes_on.iter().any(|word| further.starts_with(word))
                    });
                    assert!(first, "{name} does not begin a WHERE with the app");
                }
            }
            assert_eq!(
                after(sql, table).len(),
                after(sql, &named).len() + after(sql, &format!("{table}_")).len(),
                "{name} names {table} in a way that this test does not read"
            );
        }
        uses
    }

    #[test]
    fn each_use_of_entries_leads_with_the_app() {
        let uses = led_by_the_app("kv_entries", "e");
        assert!(uses >= 15, "only {uses} uses were found");
    }

    #[test]
    fn each_use_of_usage_leads_with_the_app() {
        let uses = led_by_the_app("app_usage", "u");
        assert!(uses >= 8, "only {uses} uses were found");
    }

    #[test]
    fn no_update_calls_a_volatile_function() {
        let volatile = [
            "nextval",
            "now(",
            "random",
            "clock_timestamp",
            "gen_random_uuid",
            "statement_timestamp",
            "timeofday",
            "setval",
            "lastval",
            "currval",
        ];
        let mut updates = 0;
        for (name, sql) in all() {
            for rest in after(sql, " SET ") {
                updates += 1;
                let end = rest.find(" RETURNING ").unwrap_or(rest.len());
                for function in volatile {
                    assert!(
                        !rest[..end].contains(function),
                        "{name} calls {function} in SET"
                    );
                }
            }
        }
        assert!(updates >= 5, "only {updates} updates were found");
    }

    #[test]
    fn the_clock_is_the_hosts() {
        for (name, sql) in all() {
            for clock in [
                "now()",
                "current_timestamp",
                "clock_timestamp",
                "localtimestamp",
            ] {
                assert!(
                    !sql.to_lowercase().contains(clock),
                    "{name} reads the database's clock"
                );
            }
        }
    }

    #[test]
    fn no_other_file_has_sql_of_its_own() {
        let files = [
            ("batch.rs", include_str!("batch.rs")),
            ("change.rs", include_str!("change.rs")),
            ("commit.rs", include_str!("commit.rs")),
            ("lease.rs", include_str!("lease.rs")),
            ("mod.rs", include_str!("mod.rs")),
            ("plan.rs", include_str!("plan.rs")),
            ("plugins.rs", include_str!("plugins.rs")),
            ("pool.rs", include_str!("pool.rs")),
            ("read.rs", include_str!("read.rs")),
            ("registry.rs", include_str!("registry.rs")),
            ("transaction.rs", include_str!("transaction.rs")),
            ("usage.rs", include_str!("usage.rs")),
        ];
        for (file, text) in files {
            for word in [
                "SELECT ",
                "INSERT ",
                "UPDATE ",
                "DELETE FROM",
                "FROM kv_",
                "INTO kv_",
            ] {
                assert!(!text.contains(word), "{file} has {word}");
            }
        }
    }
}
