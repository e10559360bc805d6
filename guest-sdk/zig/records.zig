//! The packed records of the ABI: integers are little-endian, texts follow their length, and there is
//! no padding. docs/abi.md has the layouts.

const std = @import("std");
const Allocator = std.mem.Allocator;

pub const Malformed = error{Malformed};

/// Takes records off the front of bytes.
pub const Reader = struct {
    rest: []const u8,

    pub fn take(self: *Reader, len: usize) Malformed![]const u8 {
        if (len > self.rest.len) return error.Malformed;
        defer self.rest = self.rest[len..];
        return self.rest[0..len];
    }

    pub fn int(self: *Reader, comptime T: type) Malformed!T {
        const bytes = try self.take(@sizeOf(T));
        return std.mem.readInt(T, bytes[0..@sizeOf(T)], .little);
    }

    pub fn sized(self: *Reader) Malformed![]const u8 {
        return self.take(try self.int(u32));
    }

    pub fn end(self: Reader) Malformed!void {
        if (self.rest.len > 0) return error.Malformed;
    }
};

/// Collects bytes.
pub const Writer = struct {
    allocator: Allocator,
    bytes: std.ArrayList(u8) = .empty,

    pub fn put(self: *Writer, bytes: []const u8) !void {
        try self.bytes.appendSlice(self.allocator, bytes);
    }

    pub fn int(self: *Writer, comptime T: type, number: T) !void {
        var bytes: [@sizeOf(T)]u8 = undefined;
        std.mem.writeInt(T, &bytes, number, .little);
        try self.put(&bytes);
    }

    pub fn sized(self: *Writer, bytes: []const u8) !void {
        try self.int(u32, @intCast(bytes.len));
        try self.put(bytes);
    }
};

/// A value with its metadata. A list without values has only keys.
pub const Entry = struct {
    key: []const u8,
    value: []const u8 = "",
    /// Increases with each write of the key, and is never reused.
    version: u64 = 0,
    /// A Unix time in milliseconds; 0: never.
    expires_at_ms: i64 = 0,
    is_json: bool = false,

    pub fn readHeader(self: *Entry, reader: *Reader) Malformed!void {
        self.version = try reader.int(u64);
        self.expires_at_ms = try reader.int(i64);
        self.is_json = try reader.int(u32) == 0;
        _ = try reader.int(u32);
    }
};

pub const Page = struct {
    entries: []Entry,
    /// Empty at the end of the list.
    cursor: []const u8,

    pub fn decode(allocator: Allocator, bytes: []const u8, values: bool) !Page {
        var reader = Reader{ .rest = bytes };
        const count = try reader.int(u32);
        const cursor = try reader.sized();
        var entries: std.ArrayList(Entry) = .empty;
        for (0..count) |_| {
            var entry = Entry{ .key = try reader.sized() };
            if (values) {
                try entry.readHeader(&reader);
                entry.value = try reader.sized();
            }
            try entries.append(allocator, entry);
        }
        try reader.end();
        return .{ .entries = entries.items, .cursor = cursor };
    }
};

/// Returns an entry for each slot, and null for an absent one. `keys` are those that were asked for.
pub fn decodeSlots(allocator: Allocator, bytes: []const u8, keys: []const []const u8) ![]?Entry {
    var reader = Reader{ .rest = bytes };
    var slots: std.ArrayList(?Entry) = .empty;
    for (0..try reader.int(u32)) |i| {
        switch (try reader.int(u32)) {
            0 => try slots.append(allocator, null),
            1 => {
                var entry = Entry{ .key = if (i < keys.len) keys[i] else "" };
                try entry.readHeader(&reader);
                entry.value = try reader.sized();
                try slots.append(allocator, entry);
            },
            else => return error.Malformed,
        }
    }
    try reader.end();
    return slots.items;
}

pub fn encodeKeys(allocator: Allocator, collection: []const u8, keys: []const []const u8) ![]const u8 {
    var writer = Writer{ .allocator = allocator };
    try writer.int(u32, @intCast(keys.len));
    for (keys) |key| {
        try writer.sized(collection);
        try writer.sized(key);
    }
    return writer.bytes.items;
}

/// The result of one operation of a batch.
pub const Applied = struct {
    /// The new version of a set and an increment; of a delete and of a cancelled timer, 1 if there was
    /// one.
    result: u64,
    /// The new value of an increment.
    value: i64,
};

pub fn decodeApplied(allocator: Allocator, bytes: []const u8) ![]Applied {
    var reader = Reader{ .rest = bytes };
    var applied: std.ArrayList(Applied) = .empty;
    for (0..try reader.int(u32)) |_| {
        try applied.append(allocator, .{ .result = try reader.int(u64), .value = try reader.int(i64) });
    }
    try reader.end();
    return applied.items;
}

pub const SetOptions = struct {
    /// 0: the entry does not expire.
    ttl_ms: u64 = 0,
    /// Write only if the entry has this version; 0: if it does not exist.
    if_version: ?u64 = null,

    pub fn encode(self: SetOptions) [24]u8 {
        var bytes: [24]u8 = undefined;
        const mask: u32 = @as(u32, @intFromBool(self.ttl_ms != 0)) | @as(u32, @intFromBool(self.if_version != null)) << 1;
        std.mem.writeInt(u32, bytes[0..4], 24, .little);
        std.mem.writeInt(u32, bytes[4..8], mask, .little);
        std.mem.writeInt(u64, bytes[8..16], self.ttl_ms, .little);
        std.mem.writeInt(u64, bytes[16..24], self.if_version orelse 0, .little);
        return bytes;
    }
};

pub const DeleteOptions = struct {
    /// Delete only if the entry has this version.
    if_version: u64,

    pub fn encode(self: DeleteOptions) [16]u8 {
        var bytes: [16]u8 = undefined;
        std.mem.writeInt(u32, bytes[0..4], 16, .little);
        std.mem.writeInt(u32, bytes[4..8], 1, .little);
        std.mem.writeInt(u64, bytes[8..16], self.if_version, .little);
        return bytes;
    }
};
