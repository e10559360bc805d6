//! Reads the golden vectors with the package for Zig: the input is guest-sdk/vectors.txt. Returns the
//! cases that differ, and how many there were.

const std = @import("std");
const kvasm = @import("kvasm");
const records = kvasm.records;

pub const panic = kvasm.panic;
const allocator = kvasm.allocator;

comptime {
    kvasm.function("check", check);
}

fn value(entry: kvasm.Entry) ![]const u8 {
    const format: u8 = if (entry.is_json) 0 else 1;
    return kvasm.print("{d}/{d}/{d}/{x}", .{ entry.version, entry.expires_at_ms, format, entry.value });
}

fn append(out: *std.ArrayList(u8), separator: []const u8, text: []const u8) !void {
    try out.appendSlice(allocator, separator);
    try out.appendSlice(allocator, text);
}

fn page(bytes: []const u8, values: bool) ![]const u8 {
    const decoded = try records.Page.decode(allocator, bytes, values);
    var out: std.ArrayList(u8) = .empty;
    try append(&out, "", try kvasm.print("cursor={x} entries=", .{decoded.cursor}));
    for (decoded.entries, 0..) |entry, i| {
        try append(&out, if (i > 0) "," else "", try kvasm.print("{x}", .{entry.key}));
        if (values) try append(&out, "/", try value(entry));
    }
    return out.items;
}

fn slots(bytes: []const u8) ![]const u8 {
    var out: std.ArrayList(u8) = .empty;
    for (try records.decodeSlots(allocator, bytes, &.{}), 0..) |slot, i| {
        try append(&out, if (i > 0) "," else "", if (slot) |entry| try value(entry) else "-");
    }
    return out.items;
}

fn applied(bytes: []const u8) ![]const u8 {
    var out: std.ArrayList(u8) = .empty;
    for (try records.decodeApplied(allocator, bytes), 0..) |one, i| {
        try append(&out, if (i > 0) "," else "", try kvasm.print("{d}/{d}", .{ one.result, one.value }));
    }
    return out.items;
}

fn request(bytes: []const u8) ![]const u8 {
    const it = try kvasm.Request.decode(allocator, bytes);
    var out: std.ArrayList(u8) = .empty;
    try append(&out, "", try kvasm.print("{x} {x} {x} {x} ", .{ it.method, it.path, it.query, it.body }));
    for (it.headers, 0..) |header, i| {
        try append(&out, if (i > 0) "," else "", try kvasm.print("{x}:{x}", .{ header[0], header[1] }));
    }
    return out.items;
}

fn delivery(bytes: []const u8) ![]const u8 {
    const it = try kvasm.Delivery.decode(allocator, bytes);
    return kvasm.print("{x} {x} {x} {d} {x}", .{ it.kind, it.collection, it.key, it.version, it.body });
}

/// What plugins write.
fn built(kind: []const u8) ![]const u8 {
    const notes = kvasm.Collection{ .name = "notes" };
    if (std.mem.eql(u8, kind, "keys")) return records.encodeKeys(allocator, "notes", &.{ "a", "é" });
    if (std.mem.eql(u8, kind, "batch")) {
        var batch = kvasm.Batch{};
        try batch.check(notes, "é", 1 << 40);
        try batch.set(notes, "a", .bytes, 60_000, "\x00\xff");
        try batch.delete(notes, "b");
        try batch.increment(.{ .name = "stats" }, "c", -2);
        try batch.timerAfter("t", 5_000, "p");
        try batch.timerCancel("u");
        return batch.encode();
    }
    if (std.mem.eql(u8, kind, "response")) {
        const headers = [_]kvasm.Header{.{ "x-a", "q\"\\\x01é" }};
        return (kvasm.Response{ .status = 201, .headers = &headers, .body = "\x00" }).encode(allocator);
    }
    if (std.mem.eql(u8, kind, "set-options")) {
        const options = records.SetOptions{ .ttl_ms = 60_000, .if_version = 7 };
        return allocator.dupe(u8, &options.encode());
    }
    const options = records.DeleteOptions{ .if_version = 7 };
    return allocator.dupe(u8, &options.encode());
}

fn meaning(kind: []const u8, bytes: []const u8) ![]const u8 {
    if (std.mem.eql(u8, kind, "page")) return page(bytes, false);
    if (std.mem.eql(u8, kind, "page-values")) return page(bytes, true);
    if (std.mem.eql(u8, kind, "slots")) return slots(bytes);
    if (std.mem.eql(u8, kind, "applied")) return applied(bytes);
    if (std.mem.eql(u8, kind, "request")) return request(bytes);
    if (std.mem.eql(u8, kind, "delivery")) return delivery(bytes);
    return "";
}

fn check(input: []const u8) ![]const u8 {
    var out: std.ArrayList(u8) = .empty;
    var cases: usize = 0;
    var lines = std.mem.tokenizeScalar(u8, input, '\n');
    while (lines.next()) |line| {
        if (line[0] == '#') continue;
        cases += 1;
        var words = std.mem.splitScalar(u8, line, ' ');
        const kind = words.next().?;
        const hex = words.next().?;
        const bytes = try allocator.alloc(u8, hex.len / 2);
        if (hex.len > 1) _ = try std.fmt.hexToBytes(bytes, hex);
        var expected = words.rest();
        var found = meaning(kind, bytes) catch |failure| if (failure == error.Malformed) "malformed" else return failure;
        if (found.len == 0 and expected.len > 0) {
            found = try kvasm.print("{x}", .{try built(kind)});
            expected = hex;
        }
        if (!std.mem.eql(u8, found, expected)) {
            try append(&out, "", try kvasm.print("{s}\n  found {s}\n", .{ line, found }));
        }
    }
    try append(&out, "", try kvasm.print("{d}", .{cases}));
    return out.items;
}
