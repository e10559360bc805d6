//! Batches: checks and writes that take effect together, or not at all.

const kvasm = @import("kvasm.zig");
const host = @import("host.zig");
const records = @import("records.zig");

pub const Format = enum(u32) { json = 0, bytes = 1 };

/// At most 1,000 checks and operations.
pub const Batch = struct {
    checks: records.Writer = .{ .allocator = kvasm.allocator },
    ops: records.Writer = .{ .allocator = kvasm.allocator },
    checks_count: u32 = 0,
    ops_count: u32 = 0,

    pub fn len(self: Batch) usize {
        return self.checks_count + self.ops_count;
    }

    /// The entry must have this version before the batch; 0: it must not exist.
    pub fn check(self: *Batch, collection: kvasm.Collection, key: []const u8, version: u64) !void {
        self.checks_count += 1;
        try self.checks.sized(collection.name);
        try self.checks.sized(key);
        try self.checks.int(u64, version);
    }

    fn op(self: *Batch, kind: u32, collection: []const u8, key: []const u8) !void {
        self.ops_count += 1;
        try self.ops.int(u32, kind);
        try self.ops.sized(collection);
        try self.ops.sized(key);
    }

    /// With a `ttl_ms` of 0 the entry does not expire.
    pub fn set(
        self: *Batch,
        collection: kvasm.Collection,
        key: []const u8,
        format: Format,
        ttl_ms: u64,
        value: []const u8,
    ) !void {
        try self.op(0, collection.name, key);
        try self.ops.int(u32, @backingInt(format));
        try self.ops.int(u64, ttl_ms);
        try self.ops.sized(value);
    }

    pub fn delete(self: *Batch, collection: kvasm.Collection, key: []const u8) !void {
        try self.op(1, collection.name, key);
    }

    pub fn increment(self: *Batch, collection: kvasm.Collection, key: []const u8, delta: i64) !void {
        try self.op(2, collection.name, key);
        try self.ops.int(i64, delta);
    }

    fn timer(self: *Batch, name: []const u8, flags: u32, ms: i64, payload: []const u8) !void {
        try self.op(3, "", name);
        try self.ops.int(u32, flags);
        try self.ops.int(i64, ms);
        try self.ops.sized(payload);
    }

    pub fn timerAt(self: *Batch, name: []const u8, ms: i64, payload: []const u8) !void {
        try self.timer(name, 0, ms, payload);
    }

    pub fn timerAfter(self: *Batch, name: []const u8, ms: i64, payload: []const u8) !void {
        try self.timer(name, 1, ms, payload);
    }

    pub fn timerCancel(self: *Batch, name: []const u8) !void {
        try self.op(4, "", name);
    }

    pub fn encode(self: Batch) ![]const u8 {
        var packed_batch = records.Writer{ .allocator = kvasm.allocator };
        try packed_batch.int(u32, self.checks_count);
        try packed_batch.put(self.checks.bytes.items);
        try packed_batch.int(u32, self.ops_count);
        try packed_batch.put(self.ops.bytes.items);
        return packed_batch.bytes.items;
    }

    /// Applies the batch. `error.Conflict`: a check failed.
    pub fn commit(self: Batch) ![]records.Applied {
        const bytes = try self.encode();
        const len_of_result = host.kv_commit(kvasm.at(bytes), bytes.len, null, 0);
        return records.decodeApplied(kvasm.allocator, try kvasm.result(len_of_result));
    }
};
