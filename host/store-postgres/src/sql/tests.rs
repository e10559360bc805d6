//! Invariants of every statement, including those within functions.

use super::{
    ALL, answers_sql, calls_sql, changes_sql, dead_letters_sql, hosts_sql, logs_sql, outbox_sql,
    registry_sql, server_sql, settings_sql, timers_sql, triggers_sql, usage_sql,
};
use std::sync::LazyLock;

/// The functions that are statements of their own, each on one line.
static FUNCTIONS: LazyLock<[(&str, String); 1]> = LazyLock::new(|| {
    let text = include_str!("../../../../migrations/postgres/0009_commits.sql");
    let code = text
        .lines()
        .map(|line| line.split("--").next().unwrap_or(""));
    [(
        "commit_entries",
        squeezed(&code.collect::<Vec<_>>().join(" ")),
    )]
});

/// Collapses white space to single spaces, and removes it within brackets.
fn squeezed(sql: &str) -> String {
    let words: Vec<_> = sql.split_whitespace().collect();
    words.join(" ").replace("( ", "(").replace(" )", ")")
}

fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lists = [
        ALL,
        registry_sql::ALL,
        usage_sql::ALL,
        outbox_sql::ALL,
        dead_letters_sql::ALL,
        answers_sql::ALL,
        triggers_sql::ALL,
        server_sql::ALL,
        timers_sql::ALL,
        settings_sql::ALL,
        logs_sql::ALL,
        calls_sql::ALL,
        changes_sql::ALL,
        hosts_sql::ALL,
    ];
    let functions = FUNCTIONS.iter().map(|(name, sql)| (*name, sql.as_str()));
    lists.into_iter().flatten().copied().chain(functions)
}

/// The occurrences of a needle in a statement, each with the text after it.
fn after<'a>(sql: &'a str, needle: &str) -> Vec<&'a str> {
    sql.match_indices(needle)
        .map(|(at, found)| &sql[at + found.len()..])
        .collect()
}

/// The statements that find work, of any app.
const FINDERS: [&str; 5] = [
    "DUE",
    "NEXT_TIMER",
    "SCHEDULES",
    "APPS_WITH_LOG",
    "APPS_WITH_CALLS",
];

/// Checks every use of a table, and returns their number.
fn led_by_the_app(table: &str, alias: &str) -> usize {
    let named = format!("{table} AS {alias}");
    let condition_begins = format!("{alias}.app_id = $1");
    let mut uses = 0;
    for (name, sql) in all().filter(|(name, _)| !FINDERS.contains(name)) {
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
                    let goes_on = [
                        " AND ",
                        " ORDER BY ",
                        " GROUP BY ",
                        " RETURNING ",
                        " LIMIT ",
                    ];
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
fn every_entry_statement_filters_by_app_first() {
    let uses = led_by_the_app("kv_entries", "e");
    assert!(uses >= 15, "only {uses} uses were found");
}

#[test]
fn every_usage_statement_filters_by_app_first() {
    let uses = led_by_the_app("app_usage", "u");
    assert!(uses >= 8, "only {uses} uses were found");
}

#[test]
fn every_settings_statement_filters_by_app_first() {
    for (table, alias, least) in [("app_settings", "s", 6), ("app_grants", "g", 5)] {
        let uses = led_by_the_app(table, alias);
        assert!(uses >= least, "only {uses} uses of {table} were found");
    }
}

#[test]
fn every_log_statement_filters_by_app_first() {
    for table in ["log_segments", "call_segments"] {
        let uses = led_by_the_app(table, "g");
        assert!(uses >= 4, "only {uses} uses of {table} were found");
    }
}

#[test]
fn every_outbox_statement_filters_by_app_first() {
    for (table, alias, least) in [
        ("triggers", "t", 20),
        ("deliveries", "d", 20),
        ("dead_letters", "l", 8),
        ("kept_answers", "k", 7),
    ] {
        let uses = led_by_the_app(table, alias);
        assert!(uses >= least, "only {uses} uses of {table} were found");
    }
}

#[test]
fn sql_constants_match_the_model() {
    use kvasm_core as model;
    assert_eq!(entry_bytes!(), model::ENTRY_BYTES.to_string());
    assert_eq!(delivery_bytes!(), model::DELIVERY_BYTES.to_string());
    assert_eq!(
        followers_max!(),
        model::TRIGGERED_DELIVERIES_MAX.to_string()
    );
}

/// Tables that a distributed engine keeps whole on each machine, and those that it shards by app.
const WHOLE: [&str; 6] = ["apps", "modules", "tokens", "audit", "health", "registry"];
const CUT: [&str; 10] = [
    "app_settings",
    "kv_entries",
    "app_usage",
    "plugins",
    "triggers",
    "deliveries",
    "dead_letters",
    "kept_answers",
    "log_segments",
    "call_segments",
];

/// The tables that follow one of these words.
fn tables_after<'a>(sql: &'a str, words: &[&str]) -> Vec<&'a str> {
    let names = words.iter().flat_map(|word| after(sql, word));
    let names = names.map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphabetic() && c != '_');
        &rest[..end.unwrap_or(rest.len())]
    });
    names.collect()
}

#[test]
fn updates_of_unsharded_tables_use_no_sharded_table() {
    let mut changes = 0;
    for (name, sql) in all() {
        let changed = tables_after(sql, &["INSERT INTO ", "UPDATE ", "DELETE FROM "]);
        if !changed.iter().any(|table| WHOLE.contains(table)) {
            continue;
        }
        changes += 1;
        let named = tables_after(sql, &["FROM ", "JOIN ", "INTO ", "UPDATE ", "USING ", ", "]);
        for table in named {
            assert!(
                !CUT.contains(&table),
                "{name} changes {changed:?} and names {table}"
            );
        }
    }
    assert!(changes >= 10, "only {changes} were found");
}

#[test]
fn recursive_statements_filter_every_part_by_app() {
    let mut parts = 0;
    let finds_apps = |name: &str| FINDERS.contains(&name);
    for (name, sql) in all().filter(|(name, sql)| sql.contains("RECURSIVE") && !finds_apps(name)) {
        for table in CUT {
            for rest in after(sql, &format!("FROM {table} AS ")) {
                parts += 1;
                let condition = rest.split_once("WHERE ").map(|(_, condition)| condition);
                let named = condition.is_some_and(|c| c[1..].starts_with(".app_id = $1"));
                assert!(named, "{name} does not name the app in {rest}");
            }
        }
    }
    assert!(parts >= 2, "only {parts} were found");
}

#[test]
fn skip_locked_statements_filter_by_app() {
    for (name, sql) in all().filter(|(_, sql)| sql.contains("SKIP LOCKED")) {
        let cut = CUT
            .iter()
            .any(|table| !after(sql, &format!("FROM {table} AS ")).is_empty());
        assert!(!cut || sql.contains(".app_id = $1"), "{name}");
    }
}

#[test]
fn cross_app_statements_are_read_only() {
    for (name, sql) in all().filter(|(name, _)| FINDERS.contains(name)) {
        for word in ["INSERT ", "UPDATE ", "DELETE "] {
            assert!(!sql.contains(word), "{name} writes");
        }
    }
}

#[test]
fn statements_call_no_volatile_functions() {
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
            let ends = [" RETURNING ", ";"].iter().filter_map(|end| rest.find(end));
            let end = ends.min().unwrap_or(rest.len());
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

/// The parts that a function shares with a transaction, so that neither is changed alone.
#[test]
fn commit_function_matches_the_transaction() {
    let [(_, function)] = &*FUNCTIONS;
    let named = |sql: &str, names: &[(&str, &str)]| {
        let renamed = |sql: String, (from, to): &(&str, &str)| sql.replace(from, to);
        names.iter().fold(squeezed(sql), renamed)
    };
    let delivery = [
        ("$2", "of_trigger"),
        ("$3", "of_chain"),
        ("$4", "of_seq"),
        ("$5", "of_lease"),
    ];
    let done = [delivery[0], delivery[1], delivery[2], ("$5", "now_ms")];
    let before_all_times = "(-9223372036854775808)::bigint";
    let held = [
        (
            "unnest($2::text[], $3::text[])",
            "unnest(collections, keys)",
        ),
        ("$4::bigint", before_all_times),
    ];
    let parts = [
        named(super::LOCK_APP, &[("SELECT a.id", "PERFORM 1")]),
        named(outbox_sql::HOLD_DELIVERY, &delivery)
            .replace("d.size, d.series", "d.size INTO delivered"),
        named(super::HOLD, &held),
        named(outbox_sql::FINISH, &done),
        squeezed(overwrite!()),
        squeezed(over_grant!()),
        named(live!("$4"), &[("$4", "now_ms")]),
        format!("{} * (g.size <> 0)::integer", entry_bytes!()),
        format!("{} * (w.replaced = 0)::integer", entry_bytes!()),
    ];
    for part in parts {
        assert!(function.contains(&part), "no {part:?} in {function}");
    }
}

#[test]
fn statements_use_the_host_clock() {
    // The duration of a session's state is a matter of the server's clock, and hosts compare their
    // clocks with it.
    let about_the_server = ["LOCK_HOLDERS", "OLDEST_SNAPSHOT", "CLOCK", "BEAT"];
    for (name, sql) in all().filter(|(name, _)| !about_the_server.contains(name)) {
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
fn sql_is_only_in_the_sql_modules() {
    let files = [
        ("batch.rs", include_str!("../batch.rs")),
        ("change.rs", include_str!("../change.rs")),
        ("commit.rs", include_str!("../commit.rs")),
        ("compact.rs", include_str!("../compact.rs")),
        ("connector.rs", include_str!("../connector.rs")),
        ("handling.rs", include_str!("../handling.rs")),
        ("hosts.rs", include_str!("../hosts.rs")),
        ("migrate.rs", include_str!("../migrate.rs")),
        ("shortage.rs", include_str!("../shortage.rs")),
        ("sessions.rs", include_str!("../sessions.rs")),
        ("tls.rs", include_str!("../tls.rs")),
        ("fire.rs", include_str!("../fire.rs")),
        ("tombstone.rs", include_str!("../tombstone.rs")),
        ("scan_start.rs", include_str!("../scan_start.rs")),
        ("increments.rs", include_str!("../increments.rs")),
        ("dead_letters.rs", include_str!("../dead_letters.rs")),
        ("single_trip.rs", include_str!("../single_trip.rs")),
        ("outbox.rs", include_str!("../outbox.rs")),
        ("rows.rs", include_str!("../rows.rs")),
        ("triggers.rs", include_str!("../triggers.rs")),
        ("lease.rs", include_str!("../lease.rs")),
        ("lib.rs", include_str!("../lib.rs")),
        ("plan.rs", include_str!("../plan.rs")),
        ("plugins.rs", include_str!("../plugins.rs")),
        ("pool.rs", include_str!("../pool.rs")),
        ("entries.rs", include_str!("../entries.rs")),
        ("registry.rs", include_str!("../registry.rs")),
        ("clock_repair.rs", include_str!("../clock_repair.rs")),
        ("survey.rs", include_str!("../survey.rs")),
        ("transaction.rs", include_str!("../transaction.rs")),
        ("upkeep.rs", include_str!("../upkeep.rs")),
        ("usage.rs", include_str!("../usage.rs")),
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
