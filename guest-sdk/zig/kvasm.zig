//! Kvasm plugins in Zig.
//!
//!     const kvasm = @import("kvasm");
//!
//!     comptime {
//!         kvasm.function("hello", hello);
//!     }
//!
//!     fn hello(name: []const u8) ![]const u8 {
//!         return kvasm.print("Hello, {s}!", .{name});
//!     }
//!
//! Each call runs in a fresh instance: variables last for one call, entries stay. `allocator` never
//! frees: memory is discarded with the instance.

const builtin = @import("builtin");
const std = @import("std");

pub const records = @import("records.zig");
pub const http_frames = @import("http.zig");
pub const Request = http_frames.Request;
pub const Response = http_frames.Response;
pub const Delivery = http_frames.Delivery;
pub const Header = http_frames.Header;
pub const Entry = records.Entry;
pub const Batch = @import("batch.zig").Batch;
pub const Collection = @import("collection.zig").Collection;
pub const ListOptions = @import("collection.zig").ListOptions;

const host = @import("host.zig");

const is_wasm = builtin.cpu.arch.isWasm();
var arena = std.heap.ArenaAllocator.init(if (is_wasm) std.heap.wasm_allocator else std.heap.page_allocator);
/// Memory that is discarded after the call.
pub const allocator: std.mem.Allocator = arena.allocator();

/// A host call that failed, by its status, as docs/abi.md describes them. `errorMessage` has the
/// reason. The last three are for a function to return: `refuse`, `failForGood` and `retryAfter`.
pub const Error = error{
    NotFound,
    Conflict,
    Denied,
    Invalid,
    TooLarge,
    Quota,
    RateLimited,
    Type,
    Unavailable,
    Internal,
    Unsupported,
    Remote,
    UnknownStatus,
    Malformed,
    Refused,
    FailedForGood,
    Later,
    OutOfMemory,
};

/// Returns a result that is zero or more, or the error of a status.
pub fn check(status: i64) Error!u64 {
    if (status >= 0) return @intCast(status);
    inline for (statuses, 1..) |failure, number| {
        if (status == -@as(i64, number)) return failure;
    }
    return Error.UnknownStatus;
}

/// The errors of the statuses -1, -2, and so on.
const statuses = [_]Error{
    Error.NotFound,
    Error.Conflict,
    Error.Denied,
    Error.Invalid,
    Error.TooLarge,
    Error.Quota,
    Error.RateLimited,
    Error.Type,
    Error.Unavailable,
    Error.Internal,
    Error.Unsupported,
    Error.Remote,
};

// --- Declarations: call these in a comptime block ---

/// Exports a function that can be called by name: it takes the input and returns the output.
pub fn function(comptime name: []const u8, comptime run: anytype) void {
    exported(name, run, "{\"kind\":\"function\",\"name\":\"" ++ name ++ "\"}");
}

/// The same, and its writes take effect together, or not at all. It is run again if what it has read
/// has changed.
pub fn transaction(comptime name: []const u8, comptime run: anytype) void {
    exported(name, run, "{\"kind\":\"function\",\"name\":\"" ++ name ++ "\",\"transaction\":true}");
}

/// Exports the handler of HTTP requests: it takes a `Request` and returns a `Response`.
pub fn http(comptime name: []const u8, comptime run: fn (Request) anyerror!Response) void {
    requests(name, run, "{\"kind\":\"http\",\"name\":\"" ++ name ++ "\"}");
}

/// The same, and each request is a transaction.
pub fn httpTransaction(comptime name: []const u8, comptime run: fn (Request) anyerror!Response) void {
    requests(name, run, "{\"kind\":\"http\",\"name\":\"" ++ name ++ "\",\"transaction\":true}");
}

fn requests(comptime name: []const u8, comptime run: fn (Request) anyerror!Response, comptime line: []const u8) void {
    const Handler = struct {
        fn handle(bytes: []const u8) anyerror![]const u8 {
            const response = try run(try Request.decode(allocator, bytes));
            return response.encode(allocator);
        }
    };
    exported(name, Handler.handle, line);
}

pub const Watch = struct { collection: []const u8, prefix: []const u8 = "" };

/// Exports a handler that is called after entries were set or deleted.
pub fn onChange(
    comptime name: []const u8,
    comptime watch: Watch,
    comptime run: fn (Delivery) anyerror!void,
) void {
    const prefix = if (watch.prefix.len == 0) "" else ",\"prefix\":\"" ++ watch.prefix ++ "\"";
    delivered(name, run, "{\"kind\":\"on_change\",\"name\":\"" ++ name ++ "\",\"collection\":\"" ++
        watch.collection ++ "\"" ++ prefix ++ "}");
}

/// Exports a handler that is called by a schedule of five fields, in UTC.
pub fn cron(
    comptime name: []const u8,
    comptime schedule: []const u8,
    comptime run: fn (Delivery) anyerror!void,
) void {
    delivered(name, run, "{\"kind\":\"cron\",\"name\":\"" ++ name ++ "\",\"schedule\":\"" ++ schedule ++ "\"}");
}

/// Exports the handler of timers.
pub fn onTimer(comptime run: fn (Delivery) anyerror!void) void {
    delivered("on_timer", run, "{\"kind\":\"on_timer\",\"name\":\"on_timer\"}");
}

/// Adds a line of JSON to the custom section that declares the plugin, such as a need.
pub fn declare(comptime line: []const u8) void {
    if (!is_wasm) return;
    _ = struct {
        comptime {
            asm (".section .custom_section.kvasm.plugin.v1,\"\",@\n.ascii \"" ++ escaped(line) ++ "\\n\"\n");
        }
        const referenced = {};
    }.referenced;
}

/// Returns a text as it is written in a string of the assembler.
fn escaped(comptime text: []const u8) []const u8 {
    @setEvalBranchQuota(100_000);
    comptime var out: []const u8 = "";
    inline for (text) |c| out = out ++ (if (c == '"' or c == '\\') "\\" else "") ++ &[_]u8{c};
    return out;
}

fn delivered(comptime name: []const u8, comptime run: fn (Delivery) anyerror!void, comptime line: []const u8) void {
    const Handler = struct {
        fn handle(bytes: []const u8) anyerror![]const u8 {
            try run(try Delivery.decode(allocator, bytes));
            return "";
        }
    };
    exported(name, Handler.handle, line);
}

fn exported(
    comptime name: []const u8,
    comptime run: fn ([]const u8) anyerror![]const u8,
    comptime line: []const u8,
) void {
    if (!is_wasm) return;
    const Export = struct {
        fn call() callconv(.c) i32 {
            return exitCode(run);
        }
    };
    @export(&Export.call, .{ .name = name });
    declare(line);
}

fn exitCode(run: *const fn ([]const u8) anyerror![]const u8) i32 {
    const failure = fail: {
        const in = input() catch |failure| break :fail failure;
        const out = run(in) catch |failure| break :fail failure;
        write(out) catch |failure| break :fail failure;
        return 0;
    };
    switch (failure) {
        Error.Refused => return 3,
        Error.FailedForGood => return 2,
        Error.Later => return 4,
        else => {},
    }
    const reason = if (isStatus(failure)) errorMessage() else "";
    write(if (reason.len > 0) reason else @errorName(failure)) catch {};
    return 1;
}

/// Whether an error is that of a host call, whose reason is then the last one.
fn isStatus(failure: anyerror) bool {
    inline for (statuses) |status| {
        if (failure == status) return true;
    }
    return failure == Error.UnknownStatus;
}

/// Rejects the call's input: the caller's fault, and the reason is for the caller.
pub fn refuse(reason: []const u8) Error {
    write(reason) catch {};
    return Error.Refused;
}

/// Fails for good: the same input would fail again, so a delivery is not retried.
pub fn failForGood(reason: []const u8) Error {
    write(reason) catch {};
    return Error.FailedForGood;
}

/// Runs a delivery again after a wait, from a second to 30 days, which is no failure.
pub fn retryAfter(ms: u64) Error {
    write(print("{d}", .{ms}) catch "") catch {};
    return Error.Later;
}

// --- Input, output, log ---

pub fn print(comptime format: []const u8, arguments: anytype) ![]const u8 {
    return std.fmt.allocPrint(allocator, format, arguments);
}

/// Returns the address of bytes. An empty slice may have one outside memory, which the host refuses.
pub fn at(bytes: []const u8) ?*const anyopaque {
    return if (bytes.len == 0) null else bytes.ptr;
}

fn atMut(bytes: []u8) ?*anyopaque {
    return if (bytes.len == 0) null else bytes.ptr;
}

pub fn input() Error![]const u8 {
    const bytes = try allocator.alloc(u8, @intCast(host.input_len()));
    _ = host.input_read(0, atMut(bytes), bytes.len);
    return bytes;
}

/// Appends to the output.
pub fn write(bytes: []const u8) Error!void {
    _ = try check(host.output_write(at(bytes), bytes.len));
}

/// Returns the reason of the last status; empty if there was none.
pub fn errorMessage() []const u8 {
    const buffer = allocator.alloc(u8, 4096) catch return "";
    const len = host.error_message(buffer.ptr, buffer.len);
    return if (len > 0 and len <= buffer.len) buffer[0..@intCast(len)] else "";
}

/// Copies a result that the host has kept.
pub fn result(len: i64) Error![]const u8 {
    const bytes = try allocator.alloc(u8, @intCast(try check(len)));
    _ = host.result_read(0, atMut(bytes), bytes.len);
    return bytes;
}

pub const Level = enum(i32) { err = 1, warn, info, debug, trace };

pub fn log(level: Level, comptime format: []const u8, arguments: anytype) void {
    const line = print(format, arguments) catch return;
    _ = host.log(@backingInt(level), at(line), line.len);
}

/// Logs a panic, and traps: `pub const panic = kvasm.panic;` in the root file.
pub const panic = std.debug.FullPanic(struct {
    fn panicked(message: []const u8, _: ?usize) noreturn {
        log(.err, "panicked: {s}", .{message});
        @trap();
    }
}.panicked);

pub fn nowMs() i64 {
    return host.now_ms();
}

/// Fills at most 65,536 bytes with secure random ones.
pub fn random(bytes: []u8) Error!void {
    _ = try check(host.random_fill(atMut(bytes), bytes.len));
}

/// A JSON object with the app, the function, the caller and the request id.
pub fn context() Error![]const u8 {
    return result(host.context(null, 0));
}

/// A configuration value of the app. `error.NotFound`: it is not set.
pub fn config(name: []const u8) Error![]const u8 {
    return result(host.config_get(at(name), name.len, null, 0));
}

/// A secret of the app, which the plugin must declare and the app grant.
pub fn secret(name: []const u8) Error![]const u8 {
    return result(host.secret_get(at(name), name.len, null, 0));
}

/// Dead letters as JSON, newest first, after the one with the id `before`, if that is not empty.
pub fn deadLetters(before: []const u8, limit: i32) Error![]const u8 {
    return result(host.dead_letters(at(before), before.len, limit, null, 0));
}

/// Sends a request to another server, whose origin the plugin must declare and the app grant.
pub fn fetch(request: http_frames.Outbound) !Response {
    const bytes = try request.encode(allocator);
    return Response.decode(allocator, try result(host.http_fetch(at(bytes), bytes.len, null, 0)));
}

/// Makes a part of a call a transaction: what `run` writes takes effect together, or not at all if it
/// fails. It is run again if what it has read has changed.
pub fn inTransaction(argument: anytype, run: fn (@TypeOf(argument)) anyerror!void) anyerror!void {
    while (true) {
        _ = try check(host.transaction_begin());
        const failed = run(argument);
        const ended = if (failed) |_| host.transaction_commit() else |_| host.transaction_drop();
        _ = check(ended) catch |status| {
            if (status == Error.Conflict) continue;
            try failed;
            return status;
        };
        return failed;
    }
}

/// Calls the handler of timers once, at a Unix time in milliseconds.
pub fn timerAt(name: []const u8, ms: i64, payload: []const u8) Error!void {
    _ = try check(host.timer_set(at(name), name.len, 0, ms, at(payload), payload.len));
}

/// Calls the handler of timers once, after a duration in milliseconds.
pub fn timerAfter(name: []const u8, ms: i64, payload: []const u8) Error!void {
    _ = try check(host.timer_set(at(name), name.len, 1, ms, at(payload), payload.len));
}

/// Returns whether the timer was set.
pub fn timerCancel(name: []const u8) Error!bool {
    return try check(host.timer_cancel(at(name), name.len)) == 1;
}
