//! What the package for Zig offers beside the example: timers, schedules, settings, requests to other
//! servers, transactions, and statuses. The folders features-* do the same in each language.

const std = @import("std");
const kvasm = @import("kvasm");

pub const panic = kvasm.panic;

const accounts = kvasm.Collection{ .name = "accounts" };
const orders = kvasm.Collection{ .name = "orders" };
const sum = kvasm.Collection{ .name = "sum" };

comptime {
    kvasm.declare("{\"kind\":\"config\",\"name\":\"greeting\",\"type\":\"string\"}");
    kvasm.declare("{\"kind\":\"secret\",\"name\":\"token\"}");
    kvasm.declare("{\"kind\":\"http_origin\",\"origin\":\"http://127.0.0.1:65530\"}");
    kvasm.function("noop", noop);
    kvasm.function("settings", settings);
    kvasm.function("fetch", fetch);
    kvasm.function("remind", remind);
    kvasm.function("forget", forget);
    kvasm.onTimer(onTimer);
    kvasm.cron("nightly", "0 3 * * *", nightly);
    kvasm.onChange("watch", .{ .collection = "orders", .prefix = "eu/" }, watch);
    kvasm.transaction("pay", pay);
    kvasm.function("pay_part", payPart);
    kvasm.transaction("bump", bump);
    kvasm.function("order", order);
    kvasm.function("statuses", statuses);
    kvasm.httpTransaction("handle", handle);
}

const Pair = struct { []const u8, []const u8 };

/// Splits at the first mark. Without one, the second part is empty.
fn split(text: []const u8, mark: u8) Pair {
    const at = std.mem.indexOfScalar(u8, text, mark) orelse return .{ text, "" };
    return .{ text[0..at], text[at + 1 ..] };
}

/// Does nothing: what a call costs.
fn noop(_: []const u8) ![]const u8 {
    return "";
}

/// Returns the configuration value and the secret.
fn settings(_: []const u8) ![]const u8 {
    const greeting = kvasm.config("greeting") catch |failure|
        if (failure == error.NotFound) "unset" else return failure;
    const token = kvasm.secret("token") catch |failure|
        if (failure == error.NotFound) "unset" else return failure;
    return kvasm.print("{s} {s}", .{ greeting, token });
}

/// Sends a request: the input is "METHOD URL\nbody".
fn fetch(input: []const u8) ![]const u8 {
    const line, const body = split(input, '\n');
    const method, const url = split(line, ' ');
    const response = kvasm.fetch(.{
        .method = method,
        .url = url,
        .headers = &.{ .{ "x-quoted", "a\"b" }, .{ "x-other", "c" } },
        .body = body,
    }) catch return kvasm.print("no answer: {s}", .{kvasm.errorMessage()});
    return kvasm.print("{d}|{s}|{s}", .{ response.status, response.header("x-a") orelse "none", response.body });
}

/// Sets a timer: the input is "name=ms".
fn remind(input: []const u8) ![]const u8 {
    const name, const text = split(input, '=');
    const ms = std.fmt.parseInt(i64, text, 10) catch return kvasm.refuse("not a number");
    try kvasm.timerAfter(name, ms, name);
    return "";
}

/// Cancels a timer.
fn forget(name: []const u8) ![]const u8 {
    return if (try kvasm.timerCancel(name)) "1" else "0";
}

fn onTimer(timer: kvasm.Delivery) !void {
    try (kvasm.Collection{ .name = "fired" }).add(timer.timer, 1);
    // What the run has written is discarded.
    if (std.mem.eql(u8, timer.body, "later") and kvasm.nowMs() < timer.at_ms + 1000)
        return kvasm.retryAfter(1000);
    try (kvasm.Collection{ .name = "payloads" }).set(timer.timer, timer.body, .{});
}

fn nightly(run: kvasm.Delivery) !void {
    try (kvasm.Collection{ .name = "ticks" }).add(run.kind, 1);
}

fn watch(change: kvasm.Delivery) !void {
    try (kvasm.Collection{ .name = "seen" }).add(change.key, 1);
    if (std.mem.eql(u8, change.body, "\"poison\"")) return kvasm.failForGood("poisoned");
}

fn balance(account: []const u8) !i64 {
    const text = try accounts.get(account) orelse return 0;
    return std.fmt.parseInt(i64, text, 10);
}

/// Moves a coin. The first account is written before the check: a failure has to discard it.
fn move(payment: Pair) anyerror!void {
    const from, const to = payment;
    const left = try balance(from);
    const right = try balance(to);
    try accounts.setJson(from, try kvasm.print("{d}", .{left - 1}), .{});
    if (left < 1) return error.NoCoins;
    try accounts.setJson(to, try kvasm.print("{d}", .{right + 1}), .{});
}

/// Moves a coin: the input is "from=to".
fn pay(input: []const u8) ![]const u8 {
    move(split(input, '=')) catch |failure|
        return if (failure == error.NoCoins) kvasm.refuse("no coins") else failure;
    return "";
}

/// The same in a part of the call: the attempt is counted, whatever becomes of it.
fn payPart(input: []const u8) ![]const u8 {
    const payment = split(input, '=');
    try (kvasm.Collection{ .name = "attempts" }).add(payment[0], 1);
    kvasm.inTransaction(payment, move) catch |failure|
        return if (failure == error.NoCoins) "no coins" else failure;
    return "";
}

/// Adds blindly in a transaction.
fn bump(_: []const u8) ![]const u8 {
    try sum.add("n", 1);
    try sum.add("n", 1);
    return "";
}

/// Sets a new order and a timer in one batch.
fn order(key: []const u8) ![]const u8 {
    var batch = kvasm.Batch{};
    try batch.check(orders, key, 0);
    try batch.set(orders, key, .json, 0, "1");
    try batch.increment(sum, "orders", 1);
    try batch.timerAfter(key, 0, "ordered");
    try batch.timerCancel("none");
    const applied = batch.commit() catch |failure|
        return if (failure == error.Conflict) kvasm.refuse("a conflict") else failure;
    return kvasm.print("{d}", .{applied.len});
}

fn statusOf(failure: anyerror) i64 {
    return switch (failure) {
        error.NotFound => -1,
        error.Conflict => -2,
        error.Denied => -3,
        error.Invalid => -4,
        error.TooLarge => -5,
        error.Type => -8,
        else => 0,
    };
}

/// Returns the statuses of calls that fail.
fn statuses(_: []const u8) ![]const u8 {
    const c = kvasm.Collection{ .name = "c" };
    var found: [8]i64 = @splat(0);
    found[0] = if (try c.get("none")) |_| 0 else -1;
    c.set("k", "k", .{ .if_version = 7 }) catch |failure| {
        found[1] = statusOf(failure);
    };
    if (kvasm.secret("undeclared")) |_| {} else |failure| found[2] = statusOf(failure);
    if (kvasm.fetch(.{ .url = "http://undeclared.example/" })) |_| {} else |failure| found[3] = statusOf(failure);
    c.set("", "k", .{}) catch |failure| {
        found[4] = statusOf(failure);
    };
    const large = try kvasm.allocator.alloc(u8, 1024 * 1024 + 1);
    @memset(large, 0);
    c.set("k", large, .{}) catch |failure| {
        found[5] = statusOf(failure);
    };
    try c.setJson("k", "\"text\"", .{});
    if (c.increment("k", 1)) |_| {} else |failure| found[6] = statusOf(failure);
    kvasm.timerAfter("", 0, "k") catch |failure| {
        found[7] = statusOf(failure);
    };
    var text: []const u8 = "";
    for (found) |status| text = try kvasm.print("{s}{d} ", .{ text, status });
    return text;
}

/// Keeps the body of a request under its path. A transaction: a failure leaves nothing.
fn handle(request: kvasm.Request) !kvasm.Response {
    try (kvasm.Collection{ .name = "requests" }).set(request.path, request.body, .{});
    if (std.mem.eql(u8, request.body, "fail")) {
        try kvasm.write("on purpose");
        return error.OnPurpose;
    }
    const created = kvasm.Response{ .status = 201, .body = request.header("x-quoted") orelse "none" };
    return created.with("location", request.path);
}
