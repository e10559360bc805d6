//! `kvasm migrate`: migrates the schema of a store, and prepares a restored store.

use super::failure::{CommandOutcome, Failure};
use super::open::{self, StoreSpec};
use super::{Global, output};
use clap::Args;
use kvasm::metrics::Metrics;
use kvasm::store::{
    IncrementalVacuum, Migrate as When, PostgresOptions, PostgresStore, Schema, SchemaState,
    SqliteOptions, SqliteStore, StoreError,
};
use serde_json::json;

#[derive(Args)]
pub(super) struct MigrateArgs {
    /// Change nothing; report whether the schema is up to date (exit code 1 if it is not)
    #[arg(long, conflicts_with = "restored")]
    check: bool,
    /// After restoring a backup: skip the versions that entries may have had since the backup
    #[arg(long)]
    restored: bool,
}

pub(super) async fn run(global: &Global, migrate: MigrateArgs) -> Result<CommandOutcome, Failure> {
    let config = open::config(global)?;
    let spec = open::spec(global, &config)?;
    let on_postgres = |url: &str| PostgresOptions {
        url: url.to_owned(),
        ..config.postgres.clone()
    };
    if migrate.check {
        return check(global, &spec, on_postgres).await;
    }
    // Opening a store migrates it.
    drop(open::store(&spec, Metrics::default(), When::Always, &config).await?);
    let skipped = match migrate.restored {
        true => Some(skip_versions(&spec, on_postgres).await?),
        false => None,
    };
    report(global, &spec, skipped).await
}

fn at(spec: &StoreSpec) -> impl Fn(StoreError) -> Failure {
    let shown = spec.shown();
    move |error| Failure::from(error).at(&shown)
}

async fn check(
    global: &Global,
    spec: &StoreSpec,
    on_postgres: impl Fn(&str) -> PostgresOptions,
) -> Result<CommandOutcome, Failure> {
    let schema = match spec {
        StoreSpec::Memory => return Err(no_schema()),
        StoreSpec::Sqlite(path) => SqliteStore::schema(&SqliteOptions::new(path)).await,
        StoreSpec::Postgres(url) => PostgresStore::schema(&on_postgres(url)).await,
    };
    let schema = schema.map_err(at(spec))?;
    let Schema { found, needed } = schema;
    let (word, text) = match (schema.state(), found) {
        (SchemaState::Current, _) => ("current", "up to date".to_owned()),
        (SchemaState::Empty, _) => ("empty", "empty".to_owned()),
        (SchemaState::Older, found) => {
            let found = found.unwrap_or(0);
            let text = format!("older: schema {found}, but {needed} is required");
            ("older", text)
        }
        (SchemaState::Newer, found) => {
            let found = found.unwrap_or(0);
            let text = format!("newer: schema {found}, but this program requires {needed}");
            ("newer", text)
        }
    };
    let kind = spec.kind();
    let answer = json!({ "store": kind, "state": word, "schema": found, "needed": needed });
    output::object(global.json, &answer, || {
        format!("The {kind} store is {text}.")
    })?;
    Ok(match schema.state() {
        SchemaState::Current => CommandOutcome::Done,
        SchemaState::Empty | SchemaState::Older | SchemaState::Newer => CommandOutcome::NotFound,
    })
}

fn no_schema() -> Failure {
    Failure::user("a memory store has no schema; specify another with --store")
}

/// Returns the last version that was skipped.
async fn skip_versions(
    spec: &StoreSpec,
    on_postgres: impl Fn(&str) -> PostgresOptions,
) -> Result<i64, Failure> {
    let skipped = match spec {
        StoreSpec::Memory => return Err(no_schema()),
        StoreSpec::Sqlite(path) => SqliteStore::skip_versions(SqliteOptions::new(path)).await,
        StoreSpec::Postgres(url) => PostgresStore::skip_versions(&on_postgres(url)).await,
    };
    skipped.map_err(at(spec))
}

/// Reports the migration, and enables shrinking of a SQLite file.
async fn report(
    global: &Global,
    spec: &StoreSpec,
    skipped: Option<i64>,
) -> Result<CommandOutcome, Failure> {
    let kind = spec.kind();
    let mut answer = json!({ "store": kind, "up_to_date": true });
    let mut text = format!("The {kind} store is up to date.");
    let mut add = |field: &str, value: serde_json::Value, sentence: &str| {
        if let Some(fields) = answer.as_object_mut() {
            fields.insert(field.to_owned(), value);
        }
        text.push_str(sentence);
    };
    if let Some(last) = skipped {
        let sentence = format!("\nVersions of entries continue after {last}.");
        add("versions_after", last.into(), &sentence);
    }
    if let StoreSpec::Sqlite(path) = spec {
        let vacuum = SqliteStore::turn_on_incremental_vacuum(SqliteOptions::new(path)).await;
        let (word, sentence) = vacuumed(vacuum.map_err(at(spec))?);
        add("incremental_vacuum", word.into(), sentence);
    }
    output::object(global.json, &answer, || text)?;
    Ok(CommandOutcome::Done)
}

fn vacuumed(vacuum: IncrementalVacuum) -> (&'static str, &'static str) {
    match vacuum {
        IncrementalVacuum::WasOn => ("on", ""),
        IncrementalVacuum::TurnedOn => (
            "turned-on",
            "\nThe file was rewritten; from now on it shrinks when data is deleted.",
        ),
        IncrementalVacuum::InUse => (
            "in-use",
            "\nThe file does not shrink when data is deleted. To change that, stop every \
             process that has it open and run this command again.",
        ),
    }
}
