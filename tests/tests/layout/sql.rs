//! Every statement on entries, and every key of the schema, starts with the app.
//!
//! The tests of `host/store-postgres/src/sql.rs`, which knows how Postgres statements are
//! assembled, check the same for them.

use super::files::{self, File};
use super::{assert_none, rust};
use std::collections::BTreeSet;

const TABLE: &str = "kv_entries";
/// Tables that belong to no app, or to both apps and the instance.
const SHARED: [&str; 9] = [
    "apps",
    "kv_version",
    "modules",
    "tokens",
    "audit",
    "health",
    "registry",
    "hosts",
    "host_minutes",
];
/// Indexes that find whether a shared module is still used by any app, and which app's schedule
/// is due or changes are new.
const SHARED_INDEXES: [&str; 4] = [
    "plugins_by_digest",
    "triggers_by_time",
    "deliveries_timers_due",
    "changes_by_position",
];
/// Tables of triggers and deliveries.
const EVENTS: [&str; 3] = ["deliveries", "dead_letters", "triggers"];
/// The statements that read over all apps, to find those with work to do.
const CROSS_APP_QUERIES: [&str; 3] = [
    "WHERE kind = 'timer' AND due_at > ?1",
    "WHERE due_at IS NOT NULL AND app_id > ?1 ORDER BY app_id, trigger_name LIMIT 1",
    "WHERE schedule IS NOT NULL AND {OPEN} AND (next_at IS NULL OR next_at <= ?1)",
];

/// Collapses whitespace to single spaces.
fn squeeze(sql: &str) -> String {
    let words: Vec<&str> = sql
        .split_whitespace()
        .filter(|word| *word != "\\")
        .collect();
    words.join(" ")
}

/// The errors in each use of the table in one statement.
fn wrong_uses(sql: &str) -> Vec<String> {
    let sql = squeeze(sql);
    let mut found = Vec::new();
    for (at, _) in sql.match_indices(TABLE) {
        let verb = sql[..at].trim_end().rsplit(' ').next().unwrap_or_default();
        let rest = &sql[at + TABLE.len()..];
        let verb = verb.trim_start_matches('(').to_uppercase();
        let is_led = match verb.as_str() {
            "INTO" => rest.trim_start().starts_with("(app_id,"),
            "FROM" | "UPDATE" => leads_its_where(rest),
            _ => false,
        };
        if !is_led {
            found.push(format!("the app does not lead {verb} {TABLE} in: {sql}"));
        }
    }
    found
}

/// Whether the next WHERE begins with the app, and no OR next to it undoes that.
fn leads_its_where(rest: &str) -> bool {
    let Some((between, condition)) = rest.split_once("WHERE ") else {
        return false;
    };
    let condition = condition.split(" RETURNING ").next().unwrap_or_default();
    let same_app = condition.starts_with("app_id = ?1 ") || condition == "app_id = ?1";
    if !same_app || between.contains(TABLE) || between.contains(')') {
        return false;
    }
    let mut depth = 0;
    for (at, c) in condition.char_indices() {
        match c {
            '(' => depth += 1,
            ')' if depth == 0 => break,
            ')' => depth -= 1,
            'O' if depth == 0
                && condition[..at].ends_with(' ')
                && condition[at..].starts_with("OR ") =>
            {
                return false;
            }
            _ => {}
        }
    }
    true
}

/// Whether a statement on triggers or deliveries does not name the app. A fragment without a
/// WHERE is completed by one that has it.
fn is_without_app(sql: &str) -> bool {
    let sql = squeeze(sql);
    let verbs = ["FROM", "INTO", "UPDATE", "JOIN"];
    let named = |table: &&str| {
        verbs
            .iter()
            .any(|verb| sql.contains(&format!("{verb} {table}")))
    };
    let is_part = !sql.contains("WHERE") && !sql.contains("INSERT");
    let is_led = sql.contains("app_id = ?1") || sql.contains("(app_id,") && sql.contains("INSERT");
    let is_finder = CROSS_APP_QUERIES.iter().any(|finder| sql.contains(finder));
    EVENTS.iter().any(named) && !is_part && !is_led && !is_finder
}

fn without_comments(sql: &str) -> String {
    let lines = sql.lines();
    let code = lines.map(|line| line.split("--").next().unwrap_or_default());
    code.collect::<Vec<_>>().join("\n")
}

/// The errors in the tables and indexes of a migration.
fn wrong_schema(sql: &str) -> Vec<String> {
    let sql = squeeze(&without_comments(sql)).replace("( ", "(");
    let mut found = Vec::new();
    for statement in sql.split(';').map(str::trim) {
        let words: Vec<&str> = statement.split(' ').collect();
        let is_index = matches!(
            words.as_slice(),
            ["CREATE", "INDEX", ..] | ["CREATE", "UNIQUE", "INDEX", ..]
        );
        let Some(open) = statement.find('(') else {
            continue;
        };
        let name = statement[..open].trim_end();
        let named = |table: &&str| name.split(' ').any(|word| word == *table);
        if SHARED.iter().chain(&SHARED_INDEXES).any(named) {
            continue;
        }
        let columns = &statement[open + 1..];
        // A key of several columns, or of this one alone.
        let first = columns.split(',').next().unwrap_or_default();
        let keyed = columns.contains("PRIMARY KEY (app_id,")
            || (first.starts_with("app_id ") && first.contains(" PRIMARY KEY"));
        if statement.starts_with("CREATE TABLE") && !keyed {
            found.push(format!("the key does not begin with app_id: {name}"));
        }
        if is_index && !columns.starts_with("app_id,") {
            found.push(format!("the index does not begin with app_id: {name}"));
        }
    }
    found
}

fn migrations(engine: &str) -> Vec<File> {
    files::all(&format!("migrations/{engine}"), ".sql")
}

fn numbers(engine: &str) -> BTreeSet<String> {
    let number = |file: File| {
        let name = file.path.rsplit('/').next().unwrap_or_default().to_owned();
        name.split('_').next().unwrap_or_default().to_owned()
    };
    migrations(engine).into_iter().map(number).collect()
}

#[test]
fn every_sqlite_statement_filters_by_app_first() {
    let mut uses = 0;
    let mut findings = Vec::new();
    let stores = ["host/store-sqlite/src", "host/store-postgres/src"];
    for file in stores.iter().flat_map(|store| files::all(store, ".rs")) {
        let statements = rust::read(&file.text).strings;
        if file.path.contains("store-sqlite/") {
            let without = statements.iter().filter(|sql| is_without_app(sql));
            findings.extend(without.map(|sql| format!("{}: no app in {sql}", file.path)));
        }
        let statements = statements.iter().filter(|sql| sql.contains(TABLE));
        if file.path.contains("store-postgres/") {
            let other = !(file.path.ends_with("/sql.rs") || file.path.contains("/sql/"));
            findings.extend(
                statements
                    .filter(|_| other)
                    .map(|sql| format!("{}: {sql}", file.path)),
            );
            continue;
        }
        for sql in statements {
            uses += sql.matches(TABLE).count();
            let wrong = wrong_uses(sql).into_iter();
            findings.extend(wrong.map(|finding| format!("{}: {finding}", file.path)));
        }
    }
    assert_none(&findings);
    assert!(uses >= 5, "only {uses} uses of {TABLE} were found");
}

#[test]
fn every_schema_key_starts_with_the_app() {
    for engine in ["sqlite", "postgres"] {
        let files = migrations(engine);
        assert_none(
            &files
                .iter()
                .flat_map(|file| wrong_schema(&file.text))
                .collect::<Vec<_>>(),
        );
        assert!(files.iter().any(|file| file.text.contains(TABLE)));
    }
}

#[test]
fn both_engines_have_the_same_migrations() {
    assert_eq!(numbers("sqlite"), numbers("postgres"));
}

#[test]
fn statement_without_app_filter_is_detected() {
    for bad in [
        "SELECT value FROM kv_entries",
        "SELECT value FROM kv_entries WHERE key = ?1 AND app_id = ?2",
        "SELECT value FROM kv_entries WHERE app_id = ?1 OR key = ?2",
        "SELECT value FROM kv_entries WHERE app_id <> ?1",
        "SELECT value FROM kv_entries JOIN kv_entries AS b WHERE app_id = ?1 AND key = ?2",
        "SELECT (SELECT key FROM kv_entries) FROM apps WHERE app_id = ?1 AND key = ?2",
        "DELETE FROM kv_entries\n   WHERE collection = ?1",
        "UPDATE kv_entries SET size = 0",
        "INSERT INTO kv_entries (key, app_id) VALUES (?1, ?2)",
    ] {
        assert!(!wrong_uses(bad).is_empty(), "{bad}");
    }
    for good in [
        "SELECT value FROM kv_entries\n   WHERE app_id = ?1 AND (a IS NULL OR b = ?2)",
        "SELECT (SELECT min(key) FROM kv_entries WHERE app_id = ?1 AND key > n) FROM names WHERE a OR b",
        "DELETE FROM kv_entries WHERE app_id = ?1 RETURNING a OR b",
        "INSERT INTO kv_entries\n (app_id, key) VALUES (?1, ?2)",
    ] {
        assert_none(&wrong_uses(good));
    }
}

#[test]
fn delivery_statement_without_app_filter_is_detected() {
    for bad in [
        "SELECT seq FROM deliveries WHERE due_at <= ?1",
        "DELETE FROM dead_letters\n   WHERE id = ?1",
        "UPDATE triggers SET failures = 0 WHERE name = ?1",
        "INSERT INTO deliveries (seq) SELECT 1 WHERE 1",
    ] {
        assert!(is_without_app(bad), "{bad}");
    }
    for good in [
        "SELECT seq FROM deliveries WHERE app_id = ?1 AND due_at <= ?2",
        "INSERT INTO deliveries (app_id, seq) VALUES (?1, ?2)",
        "SELECT d.seq FROM deliveries AS d",
        "no statement names deliveries",
    ] {
        assert!(!is_without_app(good), "{good}");
    }
}

#[test]
fn schema_key_without_the_app_is_detected() {
    for bad in [
        "CREATE TABLE t (\n  id INTEGER PRIMARY KEY,\n app_id BLOB);",
        "CREATE TABLE t (app_id uuid, key text, PRIMARY KEY (key, app_id));",
        "-- PRIMARY KEY (app_id, x)\nCREATE TABLE t (key text PRIMARY KEY);",
        "CREATE INDEX i ON kv_entries (collection);",
        "CREATE UNIQUE INDEX i ON kv_entries (collection, app_id);",
    ] {
        assert_eq!(wrong_schema(bad).len(), 1, "{bad}");
    }
    let good = "CREATE TABLE apps (id BLOB PRIMARY KEY);\n\
        CREATE TABLE t (app_id uuid, k text,\n PRIMARY KEY (app_id, k)) STRICT;\n\
        CREATE TABLE u (app_id BLOB NOT NULL PRIMARY KEY, n INTEGER);\n\
        CREATE INDEX i ON t (app_id, k);";
    assert_none(&wrong_schema(good));
}
