//! Every key of the configuration.

use super::Config;
use super::text::*;

/// A key: its name, what it is for, how it is read and shown.
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

/// Every key, in the order of the docs.
pub(super) const KEYS: &[Key] = &[
    key!(
        "listen",
        "address or name, and port, to listen on",
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
        "when an older schema is brought up to date: alone, if no other host can be using the store; or always",
        migrate,
        show_migrate,
        migrate
    ),
    key!(
        "cache_dir",
        "folder for compiled plugins, or none; in the cache directory by default",
        cache_dir,
        show_cache_dir,
        cache_dir
    ),
    key!(
        "sqlite.cache",
        "pages that each connection to SQLite keeps in memory, beside those that the system keeps",
        size,
        show_size,
        sqlite_cache
    ),
    key!(
        "postgres.connections",
        "connections to Postgres that this host opens at most",
        at_least_1,
        to_string,
        postgres.max_connections
    ),
    key!(
        "postgres.acquire_timeout",
        "how long a call waits for a connection to Postgres",
        milliseconds,
        show_duration,
        postgres.acquire_timeout
    ),
    key!(
        "postgres.statement_timeout",
        "the longest that a statement on Postgres may take",
        milliseconds,
        show_duration,
        postgres.statement_timeout
    ),
    key!(
        "admin.listen",
        "second address, for /healthz, /readyz and /metrics, with connections of its own; or none",
        limit,
        show_limit,
        admin_listen
    ),
    key!(
        "admin.api",
        "true: the API is served at admin.listen, and at listen only calls and health",
        from_str,
        to_string,
        admin.api
    ),
    key!(
        "admin.open",
        "true: /metrics needs no token at admin.listen; on a loopback address it never does",
        from_str,
        to_string,
        admin.open
    ),
    key!(
        "cache.bytes",
        "compiled plugins in the folder; those not used for longest are removed",
        size_u64,
        show_size_u64,
        cache.bytes
    ),
    key!(
        "cache.files",
        "files in the folder",
        at_least_1,
        to_string,
        cache.files
    ),
    key!(
        "log.format",
        "text or json",
        log_format,
        show_log_format,
        log_format
    ),
    key!(
        "log.filter",
        "what is logged, by level and module",
        log_filter,
        to_string,
        log_filter
    ),
    key!(
        "engine.instances",
        "plugin instances that exist at once",
        at_least_1,
        to_string,
        instances
    ),
    key!(
        "engine.memory",
        "memory of all plugin instances together",
        size_u64,
        show_size_u64,
        memory
    ),
    key!(
        "engine.modules",
        "compiled plugins that are kept in memory",
        at_least_1,
        to_string,
        modules
    ),
    key!(
        "engine.modules_bytes",
        "compiled plugins that are kept in memory, and the most that one may have",
        size,
        show_size,
        modules_bytes
    ),
    key!(
        "engine.compilers",
        "plugins that are compiled at once, and as many again that take long; auto is all cores but one",
        auto,
        show_auto,
        compilers
    ),
    key!(
        "engine.compile_time",
        "CPU time to compile a plugin",
        duration,
        show_duration,
        compile_time
    ),
    key!(
        "engine.compile_memory",
        "memory to compile a plugin",
        size,
        show_size,
        compile_memory
    ),
    key!(
        "server.connections",
        "connections that are open at once",
        permits,
        to_string,
        server.connections
    ),
    key!(
        "server.connections_of_address",
        "connections of one client address, or none behind a proxy",
        limit,
        show_limit,
        server.connections_of_address
    ),
    key!(
        "server.trusted_proxies",
        "addresses and networks of proxies, which are believed whose requests they forward",
        networks,
        show_networks,
        server.trusted_proxies
    ),
    key!(
        "server.bytes_in_flight",
        "bytes of requests and responses that the server holds at once",
        size,
        show_size,
        server.bytes_in_flight
    ),
    key!(
        "server.min_rate",
        "bytes per second that a client must take of an answer, or send of a body",
        size,
        show_size,
        server.min_rate
    ),
    key!(
        "server.head_timeout",
        "the longest that the head of a request may take",
        duration,
        show_duration,
        server.head_timeout
    ),
    key!(
        "server.idle_timeout",
        "how long a connection may stay without a request",
        duration,
        show_duration,
        server.idle_timeout
    ),
    key!(
        "server.body_timeout",
        "the longest that the body of a request may take",
        duration,
        show_duration,
        server.body_timeout
    ),
    key!(
        "server.write_timeout",
        "how far behind server.min_rate a client that takes an answer may be",
        duration,
        show_duration,
        server.write_timeout
    ),
    key!(
        "server.shutdown_delay",
        "how long a server that is stopping still takes requests, while /readyz answers 503",
        delay,
        show_duration,
        shutdown_delay
    ),
    key!(
        "server.drain_timeout",
        "how long running requests may go on when the server stops",
        duration,
        show_duration,
        server.drain_timeout
    ),
    key!(
        "server.queue",
        "calls of an app that may wait for others of it",
        from_str,
        to_string,
        queue
    ),
    key!(
        "dispatch.handlers",
        "handlers of changes and schedules that run at once",
        permits,
        to_string,
        dispatch.handlers
    ),
    key!(
        "dispatch.handlers_of_app",
        "handlers of one app that run at once",
        at_least_1,
        to_string,
        dispatch.handlers_of_app
    ),
    key!(
        "dispatch.poll",
        "how often deliveries that are due are looked for, when nothing wakes the host",
        duration,
        show_duration,
        dispatch.poll
    ),
    key!(
        "dispatch.upkeep",
        "how often expired entries, old dead letters and audit rows, and the rows of deleted apps are removed",
        duration,
        show_duration,
        dispatch.upkeep
    ),
    key!(
        "dispatch.sample",
        "how often the store is asked for the gauges of the metrics",
        duration,
        show_duration,
        dispatch.sample
    ),
    key!(
        "dispatch.letter_age",
        "how long a dead letter is kept",
        duration,
        show_duration,
        dispatch.letter_age
    ),
    key!(
        "dispatch.letters_of_app",
        "dead letters of an app that are kept",
        from_str,
        to_string,
        dispatch.letters_of_app
    ),
    key!(
        "dispatch.audit_age",
        "how long a row of the audit log is kept",
        duration,
        show_duration,
        dispatch.audit_age
    ),
    key!(
        "dispatch.audit_of_app",
        "rows of the audit log about one app that are kept",
        from_str,
        to_string,
        dispatch.audit_of_app
    ),
    key!(
        "limits.value",
        "a value",
        size,
        show_size,
        limits.value_bytes
    ),
    key!(
        "limits.page_entries",
        "entries in a page",
        at_least_1,
        to_string,
        limits.page_entries
    ),
    key!(
        "limits.page",
        "keys and values in a page",
        size,
        show_size,
        limits.page_bytes
    ),
    key!(
        "limits.module",
        "a plugin's module",
        size,
        show_size,
        limits.module_bytes
    ),
    key!(
        "limits.input",
        "the input of a call",
        size,
        show_size,
        limits.input_bytes
    ),
    key!(
        "limits.output",
        "the output of a call",
        size,
        show_size,
        limits.output_bytes
    ),
    key!(
        "limits.log_line",
        "a line of a plugin's log",
        size,
        show_size,
        limits.log_line_bytes
    ),
    key!(
        "limits.log_lines",
        "lines that a call may log",
        from_str,
        to_string,
        limits.log_lines
    ),
    key!(
        "limits.memory",
        "a plugin's memory, over all its memories",
        size,
        show_size,
        limits.memory_bytes
    ),
    key!(
        "limits.memories",
        "memories of a plugin",
        at_least_1,
        to_string,
        limits.memories
    ),
    key!(
        "limits.tables",
        "tables of a plugin",
        at_least_1,
        to_string,
        limits.tables
    ),
    key!(
        "limits.table_elements",
        "elements of a table, of 8 bytes each",
        at_least_1,
        to_string,
        limits.table_elements
    ),
    key!(
        "limits.wall_time",
        "a call, with waiting, loading and committing",
        duration,
        show_duration,
        limits.wall_time
    ),
    key!(
        "limits.cpu_time",
        "CPU time per call",
        duration,
        show_duration,
        limits.cpu_time
    ),
    key!(
        "new_apps.entries",
        "entries that a new app may have, or none for no limit",
        limit,
        show_limit,
        new_apps.quota.entries
    ),
    key!(
        "new_apps.bytes",
        "bytes that the entries of a new app may have",
        size_limit,
        show_size_limit,
        new_apps.quota.bytes
    ),
    key!(
        "new_apps.calls_per_second",
        "calls a second of a new app, on each host",
        limit,
        show_limit,
        new_apps.calls_per_second
    ),
    key!(
        "new_apps.calls_at_once",
        "calls of a new app that run at once, on each host",
        limit,
        show_limit,
        new_apps.calls_at_once
    ),
];
