// What the package for AssemblyScript offers beside the example: timers, schedules, settings, requests
// to other servers, transactions, and statuses. The folders features-* do the same in each language.

import * as kvasm from "../../../guest-sdk/assemblyscript/kvasm";
import * as host from "../../../guest-sdk/assemblyscript/host";
import { Delivery, Request, Response, tryFetch } from "../../../guest-sdk/assemblyscript/http";

//! {"kind":"config","name":"greeting","type":"string"}
//! {"kind":"secret","name":"token"}
//! {"kind":"http_origin","origin":"http://127.0.0.1:65530"}

const accounts = new kvasm.Collection("accounts");
const orders = new kvasm.Collection("orders");
const sum = new kvasm.Collection("sum");

/** Splits at the first mark. Without one, the second part is empty. */
function split(text: string, mark: string): string[] {
  const at = text.indexOf(mark);
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)];
}

/** Does nothing: what a call costs. */
@callable
export function noop(): i32 {
  return kvasm.OK;
}

/** Returns the configuration value and the secret. */
@callable
export function settings(): i32 {
  const greeting = kvasm.config("greeting");
  const token = kvasm.secret("token");
  return kvasm.answer((greeting ? greeting : "unset") + " " + (token ? kvasm.textOf(token) : "unset"));
}

/** Sends a request: the input is "METHOD URL\nbody". */
@callable
export function fetch(): i32 {
  const parts = split(kvasm.inputText(), "\n");
  const line = split(parts[0], " ");
  const headers = [["x-quoted", 'a"b'], ["x-other", "c"]];
  const response = tryFetch(line[0], line[1], headers, kvasm.utf8(parts[1]));
  if (!response) return kvasm.answer("no answer: " + kvasm.errorMessage());
  const header = response.header("x-a");
  return kvasm.answer(
    response.status.toString() + "|" + (header ? header : "none") + "|" + kvasm.textOf(response.body),
  );
}

/** Sets a timer: the input is "name=ms". */
@callable
export function remind(): i32 {
  const parts = split(kvasm.inputText(), "=");
  const first = parts[1].length > 0 ? parts[1].charCodeAt(0) : 0;
  if (first < 0x30 || first > 0x39) kvasm.refuse("not a number");
  kvasm.timerAfter(parts[0], I64.parseInt(parts[1]), kvasm.utf8(parts[0]));
  return kvasm.OK;
}

/** Cancels a timer. */
@callable
export function forget(): i32 {
  return kvasm.answer(kvasm.timerCancel(kvasm.inputText()) ? "1" : "0");
}

@onTimer
export function on_timer(): i32 {
  const timer = new Delivery(kvasm.input());
  new kvasm.Collection("fired").add(timer.timer, 1);
  // What the run has written is discarded.
  if (kvasm.textOf(timer.body) == "later" && kvasm.nowMs() < timer.atMs + 1000) kvasm.retryAfter(1000);
  new kvasm.Collection("payloads").set(timer.timer, timer.body);
  return kvasm.OK;
}

@cron("0 3 * * *")
export function nightly(): i32 {
  const run = new Delivery(kvasm.input());
  new kvasm.Collection("ticks").add(run.kind, 1);
  return kvasm.OK;
}

@onChange("orders", "eu/")
export function watch(): i32 {
  const change = new Delivery(kvasm.input());
  new kvasm.Collection("seen").add(change.key, 1);
  if (kvasm.textOf(change.body) == '"poison"') kvasm.failForGood("poisoned");
  return kvasm.OK;
}

// AssemblyScript has no closures: a part of a call gets its arguments in global variables.
let from: string = "";
let to: string = "";

function balance(account: string): i64 {
  const text = accounts.getText(account);
  return text ? I64.parseInt(text) : 0;
}

/** Moves a coin. The first account is written before the check: a failure has to discard it. */
function move(): bool {
  const left = balance(from);
  const right = balance(to);
  accounts.setJson(from, (left - 1).toString());
  if (left < 1) return false;
  accounts.setJson(to, (right + 1).toString());
  return true;
}

/** Moves a coin: the input is "from=to". */
@transaction
export function pay(): i32 {
  const parts = split(kvasm.inputText(), "=");
  from = parts[0];
  to = parts[1];
  if (!move()) kvasm.refuse("no coins");
  return kvasm.OK;
}

/** The same in a part of the call: the attempt is counted, whatever becomes of it. */
@callable
export function pay_part(): i32 {
  const parts = split(kvasm.inputText(), "=");
  from = parts[0];
  to = parts[1];
  new kvasm.Collection("attempts").add(from, 1);
  return kvasm.answer(kvasm.attempt(move) ? "" : "no coins");
}

/** Adds blindly in a transaction. */
@transaction
export function bump(): i32 {
  sum.add("n", 1);
  sum.add("n", 1);
  return kvasm.OK;
}

/** Sets a new order and a timer in one batch. */
@callable
export function order(): i32 {
  const key = kvasm.inputText();
  const batch = new kvasm.Batch();
  batch.check(orders, key, 0);
  batch.setJson(orders, key, "1");
  batch.increment(sum, "orders", 1);
  batch.timerAfter(key, 0, kvasm.utf8("ordered"));
  batch.timerCancel("none");
  const applied = batch.commit();
  if (!applied) {
    kvasm.refuse("a conflict");
    return kvasm.FAILED;
  }
  return kvasm.answer(applied.length.toString());
}

/** Returns the statuses of calls that fail: of the imports, as the package ends the call instead. */
@callable
export function statuses(): i32 {
  const c = kvasm.utf8("c");
  const k = kvasm.utf8("k");
  const none = kvasm.utf8("none");
  const undeclared = kvasm.utf8("undeclared");
  const large = new ArrayBuffer(1024 * 1024 + 1);
  const wrong = kvasm.setOptions(0, true, 7);
  const head = '{"method":"GET","url":"http://undeclared.example/"}';
  const request = new kvasm.Writer().text(head).done();
  const sum = new ArrayBuffer(8);
  const at = (bytes: ArrayBuffer): usize => changetype<usize>(bytes);
  const found: i64[] = [
    host.kv_get(at(c), 1, at(none), 4, 1, 0, 0, 0),
    host.kv_set(at(c), 1, at(k), 1, at(k), 1, 1, at(wrong)),
    host.secret_get(at(undeclared), undeclared.byteLength, 0, 0),
    host.http_fetch(at(request), request.byteLength, 0, 0),
    host.kv_set(at(c), 1, at(k), 0, at(k), 1, 1, 0),
    host.kv_set(at(c), 1, at(k), 1, at(large), large.byteLength, 1, 0),
  ];
  new kvasm.Collection("c").setJson("k", '"text"');
  found.push(host.kv_increment(at(c), 1, at(k), 1, 1, at(sum)));
  found.push(host.timer_set(at(k), 0, 1, 0, at(k), 1));
  let text = "";
  for (let i = 0; i < found.length; i++) text += found[i].toString() + " ";
  return kvasm.answer(text);
}

/** Keeps the body of a request under its path. A transaction: a failure leaves nothing. */
@httpTransaction
export function handle(): i32 {
  const request = new Request(kvasm.input());
  new kvasm.Collection("requests").set(request.path, request.body);
  if (kvasm.textOf(request.body) == "fail") throw new Error("on purpose");
  const quoted = request.header("x-quoted");
  return new Response(201)
    .with("location", request.path)
    .withBody(kvasm.utf8(quoted ? quoted : "none"))
    .send();
}
