-- Records of calls are in the file of the logs, as `host/store-sqlite/src/log_segments.rs` says.
SELECT 1;
