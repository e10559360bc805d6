//! The configuration keys.

use super::Config;
use super::egress_keys::EGRESS_KEYS;
use super::limit_keys::LIMIT_KEYS;
use super::otel_keys::OTEL_KEYS;
use super::text::*;

/// A key: its name, its help text, and how it is parsed and printed.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) set: fn(&mut Config, &str) -> Result<(), String>,
    pub(super) show: fn(&Config) -> String,
}

macro_rules! key {
    ($name:literal, $help:literal, $read:path, $show:path, $($field:ident).+) => {
        Key {
            name: $name,
            help: $help,
            set: |config, text| {
                config.$($field).+ = $read(text)?;
                Ok(())
            },
            show: |config| $show(&config.$($field).+),
        }
    };
}

pub(super) use key;

/// All keys, in the order of the docs.
pub(super) fn all() -> impl Iterator<Item = &'static Key> {
    let first = KEYS.iter().chain(LIMIT_KEYS).chain(EGRESS_KEYS);
    first.chain(OTEL_KEYS)
}

const KEYS: &[Key] = &[
    key!(
        "listen",
        "address or host name, and port, for calls and pages of plugins",
        from_str,
        to_string,
        listen
    ),
    key!(
        "store",
        "sqlite:PATH or postgres:URL; a SQLite file in the data directory by default",
        store,
        show_store,
        store
    ),
    key!(
        "migrate",
        "migration of an older schema: alone (only if no other host uses the store) or always",
        migrate,
        show_migrate,
        migrate
    ),
    key!(
        "host_name",
        "name of this host in the overview of hosts; auto: that of the machine",
        host_name,
        show_host_name,
        dispatch.host_name
    ),
    key!(
        "cache_dir",
        "folder for compiled plugins, or none; in the cache directory by default",
        cache_dir,
        show_cache_dir,
        cache_dir
    ),
    key!(
        "secrets.key_file",
        "file with the keys for secrets; for SQLite, by default a file beside the store",
        path,
        show_path,
        secrets_key_file
    ),
    key!(
        "sqlite.cache",
        "page cache of each SQLite connection, in addition to the system's page cache",
        size,
        show_size,
        sqlite_cache
    ),
    key!(
        "postgres.connections",
        "maximum number of connections to Postgres, for this host",
        at_least_1,
        to_string,
        postgres.max_connections
    ),
    key!(
        "postgres.acquire_timeout",
        "timeout for getting a connection to Postgres",
        milliseconds,
        show_duration,
        postgres.acquire_timeout
    ),
    key!(
        "postgres.statement_timeout",
        "timeout of a statement on Postgres",
        milliseconds,
        show_duration,
        postgres.statement_timeout
    ),
    key!(
        "admin.listen",
        "address for the API, the console, /metrics and health checks; or none: then the API is at listen, without the console",
        limit,
        show_limit,
        admin_listen
    ),
    key!(
        "admin.api",
        "false: serve the API at listen, and only /metrics and health checks at admin.listen",
        from_str,
        to_string,
        admin.api
    ),
    key!(
        "admin.open",
        "true: serve /metrics without a token at admin.listen; a loopback address never needs one",
        from_str,
        to_string,
        admin.open
    ),
    key!(
        "admin.console",
        "false: no console at admin.listen; it is never served without the API",
        from_str,
        to_string,
        admin.console
    ),
    key!(
        "admin.connections",
        "maximum number of open connections to admin.listen; half of them may watch changes and follow logs",
        permits,
        to_string,
        server.admin_connections
    ),
    key!(
        "pages.domain",
        "domain below which each app has a host name of its own, {app}.DOMAIN; or none",
        limit,
        show_limit,
        server.pages.domain
    ),
    key!(
        "pages.paths",
        "false: pages of plugins only below pages.domain, not at /a/{app}/",
        from_str,
        to_string,
        server.pages.paths
    ),
    key!(
        "pages.sandbox",
        "what a browser lets pages at /a/{app}/ do: strict (only display), scripts, or off",
        from_str,
        to_string,
        server.pages.sandbox
    ),
    key!(
        "cache.bytes",
        "maximum size of the compiled plugins in the folder; the least recently used are removed",
        size_u64,
        show_size_u64,
        cache.bytes
    ),
    key!(
        "cache.files",
        "maximum number of files in the folder",
        at_least_1,
        to_string,
        cache.files
    ),
    key!(
        "log.format",
        "format of log lines: text or json",
        log_format,
        show_log_format,
        log_format
    ),
    key!(
        "log.filter",
        "log filter, by level and module",
        log_filter,
        to_string,
        log_filter
    ),
    key!(
        "engine.instances",
        "maximum number of plugin instances",
        at_least_1,
        to_string,
        instances
    ),
    key!(
        "engine.memory",
        "maximum memory of all plugin instances together",
        size_u64,
        show_size_u64,
        memory
    ),
    key!(
        "engine.modules",
        "maximum number of compiled plugins in memory",
        at_least_1,
        to_string,
        modules
    ),
    key!(
        "engine.modules_bytes",
        "maximum size of the compiled plugins in memory, and of each of them",
        size,
        show_size,
        modules_bytes
    ),
    key!(
        "engine.compilers",
        "concurrent compilations, and as many again for slow ones; auto is all cores but one",
        auto,
        show_auto,
        compilers
    ),
    key!(
        "engine.compile_time",
        "CPU time for compiling a plugin",
        duration,
        show_duration,
        compile_time
    ),
    key!(
        "engine.compile_memory",
        "memory for compiling a plugin",
        size,
        show_size,
        compile_memory
    ),
    key!(
        "server.connections",
        "maximum number of open connections",
        permits,
        to_string,
        server.connections
    ),
    key!(
        "server.connections_of_address",
        "maximum number of connections of one client address; use none behind a proxy",
        limit,
        show_limit,
        server.connections_of_address
    ),
    key!(
        "server.trusted_proxies",
        "addresses and networks of proxies whose forwarding headers are trusted",
        networks,
        show_networks,
        server.trusted_proxies
    ),
    key!(
        "server.bytes_in_flight",
        "maximum bytes of requests and responses in memory",
        size,
        show_size,
        server.bytes_in_flight
    ),
    key!(
        "server.min_rate",
        "minimum rate, in bytes per second, at which a client must read a response or send a body",
        size,
        show_size,
        server.min_rate
    ),
    key!(
        "server.head_timeout",
        "timeout of a request head",
        duration,
        show_duration,
        server.head_timeout
    ),
    key!(
        "server.idle_timeout",
        "timeout of an idle connection",
        duration,
        show_duration,
        server.idle_timeout
    ),
    key!(
        "server.body_timeout",
        "timeout of a request body",
        duration,
        show_duration,
        server.body_timeout
    ),
    key!(
        "server.write_timeout",
        "how far behind server.min_rate a client that reads a response may fall",
        duration,
        show_duration,
        server.write_timeout
    ),
    key!(
        "server.shutdown_delay",
        "how long a stopping server still accepts requests while /readyz answers 503",
        duration_or_zero,
        show_duration,
        shutdown_delay
    ),
    key!(
        "server.drain_timeout",
        "how long running requests may take to finish when the server stops",
        duration,
        show_duration,
        server.drain_timeout
    ),
    key!(
        "server.queue",
        "calls of an app that may queue behind its other calls",
        from_str,
        to_string,
        queue
    ),
    key!(
        "dispatch.handlers",
        "concurrent handlers of changes and schedules",
        permits,
        to_string,
        dispatch.handlers
    ),
    key!(
        "dispatch.handlers_of_app",
        "concurrent handlers of one app",
        at_least_1,
        to_string,
        dispatch.handlers_of_app
    ),
    key!(
        "dispatch.poll",
        "interval of polling for due deliveries, if no notification arrives",
        duration,
        show_duration,
        dispatch.poll
    ),
    key!(
        "dispatch.upkeep",
        "interval of removing expired entries, old dead letters and audit rows, and deleted apps",
        duration,
        show_duration,
        dispatch.upkeep
    ),
    key!(
        "dispatch.sample",
        "interval of sampling the store for the gauges of the metrics",
        duration,
        show_duration,
        dispatch.sample
    ),
    key!(
        "dispatch.letter_age",
        "how long a dead letter is kept",
        duration,
        show_duration,
        dispatch.dead_letter_retention
    ),
    key!(
        "dispatch.letters_of_app",
        "maximum number of dead letters per app",
        from_str,
        to_string,
        dispatch.dead_letters_per_app
    ),
    key!(
        "dispatch.audit_age",
        "how long an audit row is kept",
        duration,
        show_duration,
        dispatch.audit_age
    ),
    key!(
        "dispatch.audit_of_app",
        "maximum number of audit rows per app",
        from_str,
        to_string,
        dispatch.audit_of_app
    ),
    key!(
        "health.stalled",
        "how long a background task may work on the same item before /readyz answers 503; or none",
        duration_limit,
        show_duration_limit,
        health.stalled
    ),
    key!(
        "health.overdue",
        "how long the oldest due delivery may wait before /readyz answers 503",
        duration_limit,
        show_duration_limit,
        health.overdue
    ),
    key!(
        "health.late",
        "by how much a schedule may be late before /readyz answers 503",
        duration_limit,
        show_duration_limit,
        health.late
    ),
    key!(
        "health.unlogged",
        "how long storing the logs of apps may fail before /readyz answers 503",
        duration_limit,
        show_duration_limit,
        health.unlogged
    ),
    key!(
        "logs.age",
        "how long a line of an app's log is kept",
        duration,
        show_duration,
        dispatch.logs.age
    ),
    key!(
        "logs.bytes_of_app",
        "size of the stored log of an app; the oldest lines are removed",
        size_u64,
        show_size_u64,
        dispatch.logs.bytes_of_app
    ),
    key!(
        "calls.age",
        "how long the record of a call is kept",
        duration,
        show_duration,
        dispatch.calls.age
    ),
    key!(
        "calls.bytes_of_app",
        "size of the stored records of an app's calls; the oldest are removed; 0 records no calls",
        size_or_zero,
        show_size_u64,
        dispatch.calls.bytes_of_app
    ),
    key!(
        "history.age",
        "how long what the hosts did in each minute is kept",
        duration,
        show_duration,
        dispatch.history.age
    ),
    key!(
        "history.rows",
        "maximum number of minutes that are kept, of all hosts together",
        from_str,
        to_string,
        dispatch.history.rows
    ),
    key!(
        "watch.watchers",
        "maximum number of watchers of changes on this host",
        at_least_1,
        to_string,
        watch.watchers
    ),
    key!(
        "watch.watchers_of_app",
        "maximum number of watchers of an app's changes on this host",
        at_least_1,
        to_string,
        watch.watchers_of_app
    ),
    key!(
        "watch.age",
        "how long a change is kept for watchers that resume, once the app is watched",
        duration,
        show_duration,
        watch.history.age
    ),
    key!(
        "watch.bytes_of_app",
        "size of the changes that are kept of an app; the oldest ones are removed",
        size_u64,
        show_size_u64,
        watch.history.bytes
    ),
];
