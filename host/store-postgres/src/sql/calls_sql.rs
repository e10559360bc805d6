//! Records of calls, in a table like that of logs.

statements! {
    /// As `logs_sql::APPEND_LOG`.
    APPEND_CALLS = append_segment!("call_segments");
    /// As `logs_sql::LOG_PAGE`.
    CALL_PAGE = segment_page!("call_segments");
    /// As `logs_sql::PRUNE_OLD_LOG`.
    PRUNE_OLD_CALLS = prune_old_segments!("call_segments");
    /// As `logs_sql::PRUNE_EXCESS_LOG`.
    PRUNE_EXCESS_CALLS = prune_excess_segments!("call_segments");
    /// As `logs_sql::APPS_WITH_LOG`.
    APPS_WITH_CALLS = apps_with_segments!("call_segments");
}
