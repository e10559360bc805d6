//! Entries under keys.

const kvasm = @import("kvasm.zig");
const host = @import("host.zig");
const records = @import("records.zig");
const Format = @import("batch.zig").Format;

const Range = extern struct {
    ptr: ?[*]const u8 = null,
    len: usize = 0,

    fn of(bytes: []const u8) Range {
        return .{ .ptr = if (bytes.len == 0) null else bytes.ptr, .len = bytes.len };
    }
};

const RawListOptions = extern struct {
    size: u32 = @sizeOf(RawListOptions),
    mask: u32,
    prefix: Range,
    start: Range,
    end: Range,
    cursor: Range,
    limit: u32,
    reverse: u32,
    values: u32,
};

pub const ListOptions = struct {
    prefix: []const u8 = "",
    start: []const u8 = "",
    end: []const u8 = "",
    values: bool = false,
    reverse: bool = false,
    /// Entries that are read at once; 0: the host's number.
    page_size: u32 = 0,
};

/// A list that reads page by page.
pub const List = struct {
    collection: Collection,
    options: ListOptions,
    page: ?records.Page = null,
    index: usize = 0,

    /// Returns the next entry, or null at the end.
    pub fn next(self: *List) !?kvasm.Entry {
        while (true) {
            const cursor = if (self.page) |page| cursor: {
                if (self.index < page.entries.len) {
                    defer self.index += 1;
                    return page.entries[self.index];
                }
                if (page.cursor.len == 0) return null;
                break :cursor page.cursor;
            } else "";
            self.page = try self.collection.page(self.options, cursor);
            self.index = 0;
        }
    }
};

/// A collection exists while it has entries.
pub const Collection = struct {
    name: []const u8,

    fn read(self: Collection, key: []const u8, flags: i32) kvasm.Error![]const u8 {
        const bytes = @backingInt(Format.bytes);
        return kvasm.result(host.kv_get(kvasm.at(self.name), self.name.len, kvasm.at(key), key.len, bytes, flags, null, 0));
    }

    /// Returns a value of either format; null if the entry does not exist.
    pub fn get(self: Collection, key: []const u8) kvasm.Error!?[]const u8 {
        return self.read(key, 0) catch |failure| if (failure == kvasm.Error.NotFound) null else failure;
    }

    /// Returns an entry with its version; null if it does not exist.
    pub fn entry(self: Collection, key: []const u8) kvasm.Error!?kvasm.Entry {
        const bytes = self.read(key, 1) catch |failure|
            return if (failure == kvasm.Error.NotFound) null else failure;
        var reader = records.Reader{ .rest = bytes };
        var found = kvasm.Entry{ .key = key };
        try found.readHeader(&reader);
        found.value = reader.rest;
        return found;
    }

    fn write(self: Collection, key: []const u8, value: []const u8, format: Format, options: records.SetOptions) kvasm.Error!void {
        const raw = options.encode();
        _ = try kvasm.check(host.kv_set(
            kvasm.at(self.name),
            self.name.len,
            kvasm.at(key),
            key.len,
            kvasm.at(value),
            value.len,
            @intCast(@backingInt(format)),
            &raw,
        ));
    }

    /// Writes bytes. With `if_version`, `error.Conflict`: the entry has another version.
    pub fn set(self: Collection, key: []const u8, value: []const u8, options: records.SetOptions) kvasm.Error!void {
        try self.write(key, value, .bytes, options);
    }

    /// Writes JSON text, which other plugins and the operator's tools show as such.
    pub fn setJson(self: Collection, key: []const u8, json: []const u8, options: records.SetOptions) kvasm.Error!void {
        try self.write(key, json, .json, options);
    }

    pub fn has(self: Collection, key: []const u8) kvasm.Error!bool {
        return try kvasm.check(host.kv_has(kvasm.at(self.name), self.name.len, kvasm.at(key), key.len)) == 1;
    }

    /// Returns whether the entry existed.
    pub fn delete(self: Collection, key: []const u8) kvasm.Error!bool {
        return try kvasm.check(host.kv_delete(kvasm.at(self.name), self.name.len, kvasm.at(key), key.len, null)) == 1;
    }

    /// Deletes the entry if it has this version. `error.Conflict`: it has another one.
    pub fn deleteIf(self: Collection, key: []const u8, version: u64) kvasm.Error!void {
        const raw = (records.DeleteOptions{ .if_version = version }).encode();
        _ = try kvasm.check(host.kv_delete(kvasm.at(self.name), self.name.len, kvasm.at(key), key.len, &raw));
    }

    /// Adds to an integer, atomically, and returns the sum. An absent entry counts as 0.
    pub fn increment(self: Collection, key: []const u8, delta: i64) kvasm.Error!i64 {
        var sum: i64 = 0;
        _ = try kvasm.check(host.kv_increment(kvasm.at(self.name), self.name.len, kvasm.at(key), key.len, delta, &sum));
        return sum;
    }

    /// Adds to an integer. In a transaction it reads nothing, so that those who add do not conflict.
    pub fn add(self: Collection, key: []const u8, delta: i64) kvasm.Error!void {
        _ = try kvasm.check(host.kv_add(kvasm.at(self.name), self.name.len, kvasm.at(key), key.len, delta));
    }

    /// Lists entries in the order of their keys' bytes.
    pub fn list(self: Collection, options: ListOptions) List {
        return .{ .collection = self, .options = options };
    }

    pub fn page(self: Collection, options: ListOptions, cursor: []const u8) !records.Page {
        const spans = [_][]const u8{ options.prefix, options.start, options.end, cursor };
        var mask: u32 = 32 | 64;
        for (spans, 0..) |span, bit| {
            if (span.len > 0) mask |= @as(u32, 1) << @intCast(bit);
        }
        if (options.page_size > 0) mask |= 16;
        const raw = RawListOptions{
            .mask = mask,
            .prefix = .of(options.prefix),
            .start = .of(options.start),
            .end = .of(options.end),
            .cursor = .of(cursor),
            .limit = options.page_size,
            .reverse = @intFromBool(options.reverse),
            .values = @intFromBool(options.values),
        };
        const bytes = try kvasm.result(host.kv_list(kvasm.at(self.name), self.name.len, &raw, null, 0));
        return records.Page.decode(kvasm.allocator, bytes, options.values);
    }

    /// Reads up to 1,000 entries at once: null for absent ones.
    pub fn getMany(self: Collection, keys: []const []const u8) ![]?kvasm.Entry {
        const request = try records.encodeKeys(kvasm.allocator, self.name, keys);
        const bytes = try kvasm.result(host.kv_get_many(kvasm.at(request), request.len, null, 0));
        return records.decodeSlots(kvasm.allocator, bytes, keys);
    }
};
