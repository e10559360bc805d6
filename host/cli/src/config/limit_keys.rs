//! The configuration keys of limits, and of new apps.

use super::keys::{Key, key};
use super::text::*;

/// The keys, in the order of the docs.
pub(super) const LIMIT_KEYS: &[Key] = &[
    key!(
        "limits.value",
        "size of a value",
        size,
        show_size,
        limits.value_bytes
    ),
    key!(
        "limits.page_entries",
        "entries per page",
        at_least_1,
        to_string,
        limits.page_entries
    ),
    key!(
        "limits.page",
        "total size of the keys and values in a page",
        size,
        show_size,
        limits.page_bytes
    ),
    key!(
        "limits.module",
        "size of a plugin's module",
        size,
        show_size,
        limits.module_bytes
    ),
    key!(
        "limits.input",
        "size of the input of a call",
        size,
        show_size,
        limits.input_bytes
    ),
    key!(
        "limits.output",
        "size of the output of a call",
        size,
        show_size,
        limits.output_bytes
    ),
    key!(
        "limits.log_line",
        "size of a line of a plugin's log",
        size,
        show_size,
        limits.log_line_bytes
    ),
    key!(
        "limits.log_lines",
        "log lines per call",
        from_str,
        to_string,
        limits.log_lines
    ),
    key!(
        "limits.memory",
        "total memory of a plugin instance",
        size,
        show_size,
        limits.memory_bytes
    ),
    key!(
        "limits.memories",
        "number of memories of a plugin",
        at_least_1,
        to_string,
        limits.memories
    ),
    key!(
        "limits.tables",
        "number of tables of a plugin",
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
        "duration of a call, including waiting, loading and committing",
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
        "limits.idempotency",
        "how long the answer of a call with an idempotency key is kept",
        duration,
        show_duration,
        limits.idempotency
    ),
    key!(
        "limits.fetches",
        "outbound HTTP requests per run",
        from_str,
        to_string,
        limits.fetches
    ),
    key!(
        "new_apps.entries",
        "maximum number of entries of a new app, or none",
        limit,
        show_limit,
        new_apps.quota.entries
    ),
    key!(
        "new_apps.bytes",
        "maximum total bytes of the entries of a new app, or none",
        size_limit,
        show_size_limit,
        new_apps.quota.bytes
    ),
    key!(
        "new_apps.calls_per_second",
        "calls per second of a new app, on each host, or none",
        limit,
        show_limit,
        new_apps.calls_per_second
    ),
    key!(
        "new_apps.calls_at_once",
        "concurrent calls of a new app, on each host, or none",
        limit,
        show_limit,
        new_apps.calls_at_once
    ),
];
