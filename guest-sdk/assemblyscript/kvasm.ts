// Kvasm plugins in AssemblyScript. Copy this file and transform.mjs, whose decorators declare what
// each exported function is:
//
//   @callable
//   export function hello(): i32 {
//     return kvasm.answer("Hello, " + kvasm.inputText());
//   }
//
// Each call runs in a fresh instance: globals last for one call, entries stay. AssemblyScript has no
// exceptions to catch: a host call that fails, and `throw`, end the call with exit code 1 and the
// message as its output. What is normal, as an absent entry, is a result: null or false.

import * as host from "./host";

/** Exit codes of an exported function. */
export const OK: i32 = 0;
export const FAILED: i32 = 1;

/** Statuses of the host, as docs/abi.md describes them. */
export const NOT_FOUND: i64 = -1;
export const CONFLICT: i64 = -2;

const FORMAT_JSON: i32 = 0;
const FORMAT_BYTES: i32 = 1;
const WITH_HEADER: i32 = 1;
const HEADER_BYTES: i32 = 24;

@external("wasi_snapshot_preview1", "proc_exit")
declare function proc_exit(code: i32): void;

/** Ends the call with an exit code and an output. A transaction is discarded. */
export function exit(code: i32, message: string): void {
  answer(message);
  proc_exit(code);
  unreachable();
}

/** Rejects the call's input: the caller's fault, and the reason is for the caller. */
export function refuse(reason: string): void {
  exit(3, reason);
}

/** Fails for good: the same input would fail again, so a delivery is not retried. */
export function failForGood(reason: string): void {
  exit(2, reason);
}

/** Runs a delivery again after a wait, from 1,000 ms to 30 days, which is no failure. */
export function retryAfter(ms: i64): void {
  exit(4, ms.toString());
}

/** What `throw` and failed assertions call. */
export function abort(message: string | null, file: string | null, line: u32, column: u32): void {
  const text = "panicked: " + (message ? message : "");
  logError(text + " (" + (file ? file : "?") + ":" + line.toString() + ":" + column.toString() + ")");
  exit(FAILED, text);
}

/** Returns the reason of the last status. */
export function errorMessage(): string {
  const text = new ArrayBuffer(4096);
  const length = host.error_message(at(text), text.byteLength);
  return String.UTF8.decodeUnsafe(at(text), <usize>min(length, <i64>text.byteLength));
}

/** Ends the call with the host's reason if a status is an error. */
export function check(status: i64): i64 {
  if (status < 0) exit(FAILED, errorMessage());
  return status;
}

// --- Input, output, log ---

// @ts-ignore: decorator
@inline
function at(bytes: ArrayBuffer): usize {
  return changetype<usize>(bytes);
}

export function utf8(text: string): ArrayBuffer {
  return String.UTF8.encode(text);
}

export function textOf(bytes: ArrayBuffer): string {
  return String.UTF8.decode(bytes);
}

export function input(): ArrayBuffer {
  const bytes = new ArrayBuffer(<i32>host.input_len());
  host.input_read(0, at(bytes), bytes.byteLength);
  return bytes;
}

export function inputText(): string {
  return textOf(input());
}

/** Appends to the output. */
export function output(bytes: ArrayBuffer): void {
  check(host.output_write(at(bytes), bytes.byteLength));
}

/** Appends text to the output. Returns the exit code of success. */
export function answer(text: string): i32 {
  const bytes = utf8(text);
  host.output_write(at(bytes), bytes.byteLength);
  return OK;
}

function log(level: i32, line: string): void {
  const bytes = utf8(line);
  host.log(level, at(bytes), bytes.byteLength);
}

export function logError(line: string): void {
  log(1, line);
}

export function logWarn(line: string): void {
  log(2, line);
}

export function logInfo(line: string): void {
  log(3, line);
}

export function nowMs(): i64 {
  return host.now_ms();
}

export function random(length: i32): ArrayBuffer {
  const bytes = new ArrayBuffer(length);
  check(host.random_fill(at(bytes), length));
  return bytes;
}

/** A JSON object with the app, the function, the caller and the request id. */
export function context(): string {
  return textOf(result(host.context(0, 0)));
}

/** Copies a result that the host has kept. */
function result(length: i64): ArrayBuffer {
  const bytes = new ArrayBuffer(<i32>check(length));
  host.result_read(0, at(bytes), bytes.byteLength);
  return bytes;
}

/** A configuration value of the app; null if it is not set. */
export function config(name: string): string | null {
  const key = utf8(name);
  const length = host.config_get(at(key), key.byteLength, 0, 0);
  return length == NOT_FOUND ? null : textOf(result(length));
}

/** A secret of the app, which the plugin must declare and the app grant; null if it is not set. */
export function secret(name: string): ArrayBuffer | null {
  const key = utf8(name);
  const length = host.secret_get(at(key), key.byteLength, 0, 0);
  return length == NOT_FOUND ? null : result(length);
}

/** Dead letters as JSON, newest first, after the one with the id `before`, if that is not empty. */
export function deadLetters(before: string, limit: i32): string {
  const id = utf8(before);
  return textOf(result(host.dead_letters(at(id), id.byteLength, limit, 0, 0)));
}

// --- Packed records: docs/abi.md has the layouts ---

/** Reads from bytes. Past the end the results are zero, and `malformed` is true. */
export class Reader {
  position: i32 = 0;
  malformed: bool = false;

  constructor(public bytes: ArrayBuffer) {}

  take(length: i32): i32 {
    if (length < 0 || length > this.bytes.byteLength - this.position) {
      this.malformed = true;
      this.position = this.bytes.byteLength;
      return -1;
    }
    this.position += length;
    return this.position - length;
  }

  u32(): u32 {
    const position = this.take(4);
    return position < 0 ? 0 : load<u32>(at(this.bytes) + position);
  }

  u64(): u64 {
    const position = this.take(8);
    return position < 0 ? 0 : load<u64>(at(this.bytes) + position);
  }

  sized(): ArrayBuffer {
    const length = <i32>this.u32();
    const position = this.take(length);
    return position < 0 ? new ArrayBuffer(0) : this.bytes.slice(position, position + length);
  }

  rest(): ArrayBuffer {
    return this.bytes.slice(this.position);
  }

  /** Whether all of the bytes were read, and none was missing. */
  isWhole(): bool {
    return !this.malformed && this.position == this.bytes.byteLength;
  }
}

/** Collects bytes. */
export class Writer {
  private bytes: Uint8Array = new Uint8Array(64);
  length: i32 = 0;

  private room(more: i32): usize {
    const needed = this.length + more;
    if (needed > this.bytes.length) {
      const grown = new Uint8Array(needed * 2);
      grown.set(this.bytes);
      this.bytes = grown;
    }
    const place = this.bytes.dataStart + this.length;
    this.length = needed;
    return place;
  }

  u32(number: u32): Writer {
    store<u32>(this.room(4), number);
    return this;
  }

  u64(number: u64): Writer {
    store<u64>(this.room(8), number);
    return this;
  }

  put(bytes: ArrayBuffer): Writer {
    const place = this.room(bytes.byteLength);
    memory.copy(place, at(bytes), bytes.byteLength);
    return this;
  }

  sized(bytes: ArrayBuffer): Writer {
    return this.u32(bytes.byteLength).put(bytes);
  }

  text(text: string): Writer {
    return this.sized(utf8(text));
  }

  done(): ArrayBuffer {
    return this.bytes.buffer.slice(0, this.length);
  }
}

export class Entry {
  value: ArrayBuffer = new ArrayBuffer(0);
  version: u64 = 0;
  /** A Unix time in milliseconds; 0: never. */
  expiresAtMs: i64 = 0;
  isJson: bool = false;

  constructor(public key: string) {}

  get text(): string {
    return textOf(this.value);
  }

  readHeader(reader: Reader): void {
    this.version = reader.u64();
    this.expiresAtMs = <i64>reader.u64();
    this.isJson = reader.u32() == FORMAT_JSON;
    reader.u32();
  }
}

/** One page of a list. */
export class Page {
  entries: Entry[] = [];
  /** Empty at the end of the list. */
  cursor: ArrayBuffer;
  malformed: bool;

  constructor(bytes: ArrayBuffer, values: bool) {
    const reader = new Reader(bytes);
    const count = reader.u32();
    this.cursor = reader.sized();
    for (let i: u32 = 0; i < count && !reader.malformed; i++) {
      const entry = new Entry(textOf(reader.sized()));
      if (values) {
        entry.readHeader(reader);
        entry.value = reader.sized();
      }
      this.entries.push(entry);
    }
    this.malformed = !reader.isWhole();
  }
}

/** Reads the slots of getMany: null for an absent entry. Returns null for malformed bytes. */
export function readSlots(bytes: ArrayBuffer, keys: string[]): Array<Entry | null> | null {
  const reader = new Reader(bytes);
  const count = reader.u32();
  const slots: Array<Entry | null> = [];
  for (let i: u32 = 0; i < count && !reader.malformed; i++) {
    if (reader.u32() == 0) {
      slots.push(null);
      continue;
    }
    const entry = new Entry(i < <u32>keys.length ? keys[i] : "");
    entry.readHeader(reader);
    entry.value = reader.sized();
    slots.push(entry);
  }
  return reader.isWhole() ? slots : null;
}

/** The result of one operation of a batch. */
export class Applied {
  constructor(
    /** The new version of a set and an increment; of a delete and of a cancelled timer, 1 if there was one. */
    public result: u64,
    /** The new value of an increment. */
    public value: i64,
  ) {}
}

/** Reads the result of a batch. Returns null for malformed bytes. */
export function readApplied(bytes: ArrayBuffer): Applied[] | null {
  const reader = new Reader(bytes);
  const count = reader.u32();
  const applied: Applied[] = [];
  for (let i: u32 = 0; i < count && !reader.malformed; i++) {
    const result = reader.u64();
    applied.push(new Applied(result, <i64>reader.u64()));
  }
  return reader.isWhole() ? applied : null;
}

export function packKeys(collection: string, keys: string[]): ArrayBuffer {
  const writer = new Writer().u32(keys.length);
  for (let i = 0; i < keys.length; i++) writer.text(collection).text(keys[i]);
  return writer.done();
}

// --- Entries ---

export class ListOptions {
  prefix: string = "";
  start: string = "";
  end: string = "";
  values: bool = false;
  reverse: bool = false;
  /** Entries that are read at once; 0: the host's number. */
  pageSize: u32 = 0;
}

/** A list that reads page by page. */
export class List {
  private page: Page | null = null;
  private index: i32 = 0;

  constructor(private collection: Collection, private options: ListOptions) {}

  /** Returns the next entry, or null at the end. */
  next(): Entry | null {
    while (true) {
      const page = this.page;
      if (page && this.index < page.entries.length) return page.entries[this.index++];
      if (page && page.cursor.byteLength == 0) return null;
      this.page = this.collection.page(this.options, page ? page.cursor : new ArrayBuffer(0));
      this.index = 0;
    }
  }
}

/** Entries under keys. It exists while it has entries. */
export class Collection {
  private bytes: ArrayBuffer;

  constructor(public name: string) {
    this.bytes = utf8(name);
  }

  /** A value of either kind; null if the entry does not exist. */
  get(key: string): ArrayBuffer | null {
    const k = utf8(key);
    const length = host.kv_get(at(this.bytes), this.bytes.byteLength, at(k), k.byteLength, FORMAT_BYTES, 0, 0, 0);
    return length == NOT_FOUND ? null : result(length);
  }

  getText(key: string): string | null {
    const value = this.get(key);
    return value ? textOf(value) : null;
  }

  /** The entry with its version; null if it does not exist. */
  entry(key: string): Entry | null {
    const k = utf8(key);
    const length = host.kv_get(
      at(this.bytes), this.bytes.byteLength, at(k), k.byteLength, FORMAT_BYTES, WITH_HEADER, 0, 0,
    );
    if (length == NOT_FOUND) return null;
    const all = result(length);
    const entry = new Entry(key);
    entry.readHeader(new Reader(all));
    entry.value = all.slice(HEADER_BYTES);
    return entry;
  }

  private write(key: string, value: ArrayBuffer, format: i32, options: ArrayBuffer): i64 {
    const k = utf8(key);
    return host.kv_set(
      at(this.bytes), this.bytes.byteLength, at(k), k.byteLength, at(value), value.byteLength, format,
      at(options),
    );
  }

  /** Writes bytes. With a ttl of 0 the entry does not expire. */
  set(key: string, value: ArrayBuffer, ttlMs: u64 = 0): void {
    check(this.write(key, value, FORMAT_BYTES, setOptions(ttlMs, false, 0)));
  }

  setText(key: string, text: string, ttlMs: u64 = 0): void {
    this.set(key, utf8(text), ttlMs);
  }

  /** Writes JSON text, which other plugins and the operator's tools show as such. */
  setJson(key: string, json: string, ttlMs: u64 = 0): void {
    check(this.write(key, utf8(json), FORMAT_JSON, setOptions(ttlMs, false, 0)));
  }

  /** Writes only if the entry has this version; 0: if it does not exist. Returns false otherwise. */
  setIf(key: string, value: ArrayBuffer, version: u64): bool {
    const status = this.write(key, value, FORMAT_BYTES, setOptions(0, true, version));
    return status == CONFLICT ? false : check(status) >= 0;
  }

  has(key: string): bool {
    const k = utf8(key);
    return check(host.kv_has(at(this.bytes), this.bytes.byteLength, at(k), k.byteLength)) == 1;
  }

  /** Returns whether the entry existed. */
  delete(key: string): bool {
    const k = utf8(key);
    return check(host.kv_delete(at(this.bytes), this.bytes.byteLength, at(k), k.byteLength, 0)) == 1;
  }

  /** Deletes the entry if it has this version. Returns false otherwise. */
  deleteIf(key: string, version: u64): bool {
    const k = utf8(key);
    const options = deleteOptions(version);
    const status = host.kv_delete(at(this.bytes), this.bytes.byteLength, at(k), k.byteLength, at(options));
    return status == CONFLICT ? false : check(status) >= 0;
  }

  /** Adds to an integer, atomically, and returns the sum. An absent entry counts as 0. */
  increment(key: string, delta: i64): i64 {
    const k = utf8(key);
    const sum = new ArrayBuffer(8);
    check(host.kv_increment(at(this.bytes), this.bytes.byteLength, at(k), k.byteLength, delta, at(sum)));
    return load<i64>(at(sum));
  }

  /** Adds to an integer. In a transaction it reads nothing, so that those who add do not conflict. */
  add(key: string, delta: i64): void {
    const k = utf8(key);
    check(host.kv_add(at(this.bytes), this.bytes.byteLength, at(k), k.byteLength, delta));
  }

  /** Lists entries in the order of their keys' bytes. */
  list(options: ListOptions = new ListOptions()): List {
    return new List(this, options);
  }

  page(list: ListOptions, cursor: ArrayBuffer): Page {
    const prefix = utf8(list.prefix);
    const start = utf8(list.start);
    const end = utf8(list.end);
    const spans = [prefix, start, end, cursor];
    let mask: u32 = 32 | 64;
    for (let i = 0; i < 4; i++) if (spans[i].byteLength > 0) mask |= 1 << i;
    if (list.pageSize > 0) mask |= 16;
    const options = new Writer().u32(52).u32(mask);
    for (let i = 0; i < 4; i++) options.u32(<u32>at(spans[i])).u32(spans[i].byteLength);
    const packed = options.u32(list.pageSize).u32(list.reverse ? 1 : 0).u32(list.values ? 1 : 0).done();
    const length = host.kv_list(at(this.bytes), this.bytes.byteLength, at(packed), 0, 0);
    const page = new Page(result(length), list.values);
    if (page.malformed) throw new Error("malformed answer of the host");
    return page;
  }

  /** Reads up to 1,000 entries at once: null for absent ones. */
  getMany(keys: string[]): Array<Entry | null> {
    const packed = packKeys(this.name, keys);
    const slots = readSlots(result(host.kv_get_many(at(packed), packed.byteLength, 0, 0)), keys);
    if (!slots) throw new Error("malformed answer of the host");
    return slots;
  }
}

export function setOptions(ttlMs: u64, conditional: bool, version: u64): ArrayBuffer {
  const mask: u32 = (ttlMs > 0 ? 1 : 0) | (conditional ? 2 : 0);
  return new Writer().u32(24).u32(mask).u64(ttlMs).u64(version).done();
}

export function deleteOptions(version: u64): ArrayBuffer {
  return new Writer().u32(16).u32(1).u64(version).done();
}

/** Checks and writes that take effect together, or not at all: at most 1,000. */
export class Batch {
  private checks: Writer = new Writer();
  private ops: Writer = new Writer();
  private checksCount: u32 = 0;
  private opsCount: u32 = 0;

  get length(): i32 {
    return this.checksCount + this.opsCount;
  }

  /** The entry must have this version before the batch; 0: it must not exist. */
  check(collection: Collection, key: string, version: u64): void {
    this.checksCount++;
    this.checks.text(collection.name).text(key).u64(version);
  }

  private op(kind: u32, collection: string, key: string): Writer {
    this.opsCount++;
    return this.ops.u32(kind).text(collection).text(key);
  }

  set(collection: Collection, key: string, value: ArrayBuffer, ttlMs: u64 = 0): void {
    this.op(0, collection.name, key).u32(FORMAT_BYTES).u64(ttlMs).sized(value);
  }

  setJson(collection: Collection, key: string, json: string, ttlMs: u64 = 0): void {
    this.op(0, collection.name, key).u32(FORMAT_JSON).u64(ttlMs).text(json);
  }

  delete(collection: Collection, key: string): void {
    this.op(1, collection.name, key);
  }

  increment(collection: Collection, key: string, delta: i64): void {
    this.op(2, collection.name, key).u64(delta);
  }

  timerAt(name: string, ms: i64, payload: ArrayBuffer): void {
    this.op(3, "", name).u32(0).u64(ms).sized(payload);
  }

  timerAfter(name: string, ms: i64, payload: ArrayBuffer): void {
    this.op(3, "", name).u32(1).u64(ms).sized(payload);
  }

  timerCancel(name: string): void {
    this.op(4, "", name);
  }

  packed(): ArrayBuffer {
    return new Writer().u32(this.checksCount).put(this.checks.done()).u32(this.opsCount).put(this.ops.done()).done();
  }

  /** Applies the batch. Returns a result for each operation, or null if a check failed. */
  commit(): Applied[] | null {
    const packed = this.packed();
    const length = host.kv_commit(at(packed), packed.byteLength, 0, 0);
    return length == CONFLICT ? null : readApplied(result(length));
  }
}

/**
 * Makes a part of a call a transaction. `run` is called again if what it has read has changed.
 * AssemblyScript has no closures: pass what it needs in global variables.
 */
export function transaction(run: () => void): void {
  while (true) {
    check(host.transaction_begin());
    run();
    const status = host.transaction_commit();
    if (status != CONFLICT) {
      check(status);
      return;
    }
  }
}

/**
 * The same, and what `run` has written is discarded if it returns false: then the result is false too.
 */
export function attempt(run: () => bool): bool {
  while (true) {
    check(host.transaction_begin());
    const done = run();
    const status = done ? host.transaction_commit() : host.transaction_drop();
    if (status != CONFLICT) {
      check(status);
      return done;
    }
  }
}

// --- Timers ---

/** Calls on_timer once, at a Unix time in milliseconds. */
export function timerAt(name: string, ms: i64, payload: ArrayBuffer): void {
  const bytes = utf8(name);
  check(host.timer_set(at(bytes), bytes.byteLength, 0, ms, at(payload), payload.byteLength));
}

/** Calls on_timer once, after a duration in milliseconds. */
export function timerAfter(name: string, ms: i64, payload: ArrayBuffer): void {
  const bytes = utf8(name);
  check(host.timer_set(at(bytes), bytes.byteLength, 1, ms, at(payload), payload.byteLength));
}

/** Returns whether the timer was set. */
export function timerCancel(name: string): bool {
  const bytes = utf8(name);
  return check(host.timer_cancel(at(bytes), bytes.byteLength)) == 1;
}
