//! Notes in Zig, and a greeting that counts its visits.
//!
//! Each call runs in a fresh instance: variables last for one call, entries stay.

const std = @import("std");
const kvasm = @import("kvasm");

pub const panic = kvasm.panic;

const notes = kvasm.Collection{ .name = "notes" };
const visits = kvasm.Collection{ .name = "visits" };
const stats = kvasm.Collection{ .name = "stats" };

comptime {
    kvasm.function("hello", hello);
    kvasm.function("set", set);
    kvasm.function("get", get);
    kvasm.function("list", names);
    kvasm.transaction("rename_note", rename);
    kvasm.function("clear", clear);
    kvasm.http("handle", handle);
    kvasm.onChange("count", .{ .collection = "notes" }, count);
}

/// Greets the name in the input, and counts its visits. Concurrent calls lose none.
fn hello(name: []const u8) ![]const u8 {
    if (name.len < 1 or name.len > 64) return kvasm.refuse("the input must be a name of 1 to 64 bytes");
    while (true) {
        const before = try visits.entry(name);
        const visit = if (before) |entry| 1 + try std.fmt.parseInt(u64, entry.value, 10) else 1;
        const version = if (before) |entry| entry.version else 0;
        const text = try kvasm.print("{d}", .{visit});
        // Only if no other call has written it since.
        visits.set(name, text, .{ .if_version = version }) catch |failure| {
            if (failure == error.Conflict) continue;
            return failure;
        };
        return kvasm.print("Hello, {s}! Visit {d}.\n", .{ name, visit });
    }
}

/// Keeps a note: the input is "name=text".
fn set(input: []const u8) ![]const u8 {
    const at = std.mem.indexOfScalar(u8, input, '=') orelse
        return kvasm.refuse("the input must be name=text");
    try notes.set(input[0..at], input[at + 1 ..], .{});
    return "";
}

/// Returns the note of this name.
fn get(name: []const u8) ![]const u8 {
    return try notes.get(name) orelse kvasm.refuse("there is no such note");
}

/// Returns all names with this prefix, one per line.
fn names(prefix: []const u8) ![]const u8 {
    var lines: std.ArrayList(u8) = .empty;
    var list = notes.list(.{ .prefix = prefix, .page_size = 100 });
    while (try list.next()) |note| {
        try lines.appendSlice(kvasm.allocator, note.key);
        try lines.append(kvasm.allocator, '\n');
    }
    return lines.items;
}

/// Gives a note another name: the input is "old=new". A transaction: all of it takes effect, or
/// nothing, and it is run again if another call has changed what it has read.
fn rename(input: []const u8) ![]const u8 {
    const at = std.mem.indexOfScalar(u8, input, '=') orelse
        return kvasm.refuse("the input must be old=new");
    const from, const to = .{ input[0..at], input[at + 1 ..] };
    const text = try notes.get(from) orelse return kvasm.refuse("there is no such note");
    _ = try notes.delete(from);
    // The delete takes no effect either.
    if (try notes.has(to)) return kvasm.refuse("there is a note of the new name");
    try notes.set(to, text, .{});
    return "";
}

/// Deletes all notes at once, up to 1,000, and returns how many there were.
fn clear(_: []const u8) ![]const u8 {
    var batch = kvasm.Batch{};
    var list = notes.list(.{});
    while (batch.len() < 1000) {
        const note = try list.next() orelse break;
        try batch.delete(notes, note.key);
    }
    _ = try batch.commit();
    return kvasm.print("{d}", .{batch.len()});
}

/// Requests to the app: GET / lists the names, GET /name returns a note, PUT /name keeps one.
fn handle(request: kvasm.Request) !kvasm.Response {
    const name = request.path[1..];
    if (std.mem.eql(u8, request.method, "GET")) {
        if (name.len == 0) return .text(200, try names(""));
        const note = try notes.get(name) orelse return .text(404, "there is no such note");
        return .text(200, note);
    }
    if (std.mem.eql(u8, request.method, "PUT") and name.len > 0) {
        try notes.set(name, request.body, .{});
        return .{ .status = 204 };
    }
    return .{ .status = 405, .headers = &.{.{ "allow", "GET, PUT" }} };
}

/// Called after each change of a note, with an exactly-once effect on entries: counts the writes and
/// the deletes.
fn count(change: kvasm.Delivery) !void {
    kvasm.log(.info, "{s} {s}", .{ change.kind, change.key });
    _ = try stats.increment(change.kind, 1);
}
