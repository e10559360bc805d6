//! Frames of a head, which is JSON, and a body: HTTP requests and responses, and deliveries.

const std = @import("std");
const kvasm = @import("kvasm.zig");
const records = @import("records.zig");
const Allocator = std.mem.Allocator;

/// Name and value.
pub const Header = [2][]const u8;

const Frame = struct { head: []const u8, body: []const u8 };

fn split(bytes: []const u8) records.Malformed!Frame {
    var reader = records.Reader{ .rest = bytes };
    const head = try reader.sized();
    return .{ .head = head, .body = reader.rest };
}

fn join(allocator: Allocator, head: anytype, body: []const u8) ![]const u8 {
    const options = std.json.Stringify.Options{ .emit_null_optional_fields = false };
    var writer = records.Writer{ .allocator = allocator };
    try writer.sized(try std.json.Stringify.valueAlloc(allocator, head, options));
    try writer.put(body);
    return writer.bytes.items;
}

fn parse(comptime T: type, allocator: Allocator, json: []const u8) !T {
    const options = std.json.ParseOptions{ .ignore_unknown_fields = true };
    return std.json.parseFromSliceLeaky(T, allocator, json, options) catch error.Malformed;
}

fn find(headers: []const Header, name: []const u8) ?[]const u8 {
    for (headers) |header| {
        if (std.ascii.eqlIgnoreCase(header[0], name)) return header[1];
    }
    return null;
}

pub const Request = struct {
    method: []const u8,
    /// Begins with "/". It and `query` are percent-encoded, as the client sent them.
    path: []const u8,
    query: []const u8,
    headers: []const Header,
    body: []const u8 = "",

    pub fn decode(allocator: Allocator, bytes: []const u8) !Request {
        const frame = try split(bytes);
        var request = try parse(Request, allocator, frame.head);
        request.body = frame.body;
        return request;
    }

    pub fn header(self: Request, name: []const u8) ?[]const u8 {
        return find(self.headers, name);
    }
};

pub const Response = struct {
    status: u16,
    headers: []const Header = &.{},
    body: []const u8 = "",

    pub fn text(status: u16, body: []const u8) Response {
        return .{ .status = status, .headers = &.{.{ "content-type", "text/plain; charset=utf-8" }}, .body = body };
    }

    pub fn json(status: u16, body: []const u8) Response {
        return .{ .status = status, .headers = &.{.{ "content-type", "application/json" }}, .body = body };
    }

    /// Returns the response with one more header. An array literal of values that are not known when the
    /// plugin is compiled is on the stack, and gone when the handler has returned: use this instead.
    pub fn with(self: Response, name: []const u8, value: []const u8) !Response {
        const headers = try kvasm.allocator.alloc(Header, self.headers.len + 1);
        @memcpy(headers[0..self.headers.len], self.headers);
        headers[self.headers.len] = .{ name, value };
        return .{ .status = self.status, .headers = headers, .body = self.body };
    }

    pub fn encode(self: Response, allocator: Allocator) ![]const u8 {
        return join(allocator, .{ .status = self.status, .headers = self.headers }, self.body);
    }

    pub fn decode(allocator: Allocator, bytes: []const u8) !Response {
        const frame = try split(bytes);
        var response = try parse(Response, allocator, frame.head);
        response.body = frame.body;
        return response;
    }

    pub fn header(self: Response, name: []const u8) ?[]const u8 {
        return find(self.headers, name);
    }
};

/// A request to another server.
pub const Outbound = struct {
    method: []const u8 = "GET",
    url: []const u8,
    headers: []const Header = &.{},
    timeout_ms: ?u64 = null,
    body: []const u8 = "",

    pub fn encode(self: Outbound, allocator: Allocator) ![]const u8 {
        const head = .{
            .method = self.method,
            .url = self.url,
            .headers = self.headers,
            .timeout_ms = self.timeout_ms,
        };
        return join(allocator, head, self.body);
    }
};

/// What a handler of changes, a schedule or timers receives.
pub const Delivery = struct {
    /// "set", "delete", "schedule" or "timer".
    kind: []const u8,
    /// The same in every attempt and replay.
    event_id: []const u8,
    trigger: []const u8,
    attempt: u32,
    depth: u32 = 1,
    at_ms: i64 = 0,
    /// Of a change: the entry, and the version that was written or deleted.
    collection: []const u8 = "",
    key: []const u8 = "",
    version: u64 = 0,
    /// The name of a timer.
    timer: []const u8 = "",
    /// The value that was set, or the payload of a timer.
    body: []const u8 = "",

    pub fn decode(allocator: Allocator, bytes: []const u8) !Delivery {
        const frame = try split(bytes);
        var delivery = try parse(Delivery, allocator, frame.head);
        delivery.body = frame.body;
        return delivery;
    }
};
