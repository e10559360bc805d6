// HTTP handlers, requests to other servers, and handlers of changes, in AssemblyScript.

import * as host from "./host";
import { FAILED, OK, Reader, Writer, errorMessage, exit, output, textOf, utf8 } from "./kvasm";

// --- JSON, as much as the heads need ---

/** Reads valid JSON; other text is read safely, with any result. */
class Json {
  position: i32 = 0;

  constructor(public text: string) {}

  eat(mark: i32): bool {
    while (this.position < this.text.length && this.text.charCodeAt(this.position) <= 0x20) this.position++;
    if (this.position >= this.text.length || this.text.charCodeAt(this.position) != mark) return false;
    this.position++;
    return true;
  }

  /** Takes the text of the next value. */
  value(): string {
    while (this.position < this.text.length && this.text.charCodeAt(this.position) <= 0x20) this.position++;
    const from = this.position;
    let depth = 0;
    let quoted = false;
    for (; this.position < this.text.length; this.position++) {
      const c = this.text.charCodeAt(this.position);
      if (quoted) {
        if (c == 0x5c) this.position++; // \
        if (c == 0x22) quoted = false; // "
        if (c == 0x22 && depth == 0) return this.text.slice(from, ++this.position);
      } else if (c == 0x22) {
        quoted = true;
      } else if (c == 0x7b || c == 0x5b) {
        depth++; // { [
      } else if (c == 0x7d || c == 0x5d) {
        if (depth == 0) break; // } ]
        if (--depth == 0) return this.text.slice(from, ++this.position);
      } else if (depth == 0 && (c == 0x2c || c == 0x3a)) {
        break; // , :
      }
    }
    return this.text.slice(from, this.position).trim();
  }
}

/** The text of a JSON string; "" for any other value. */
function unquote(json: string): string {
  if (json.length < 2 || json.charCodeAt(0) != 0x22) return "";
  let text = "";
  for (let i = 1; i < json.length - 1; i++) {
    let c = json.charCodeAt(i);
    if (c == 0x5c) {
      c = json.charCodeAt(++i);
      if (c == 0x75) {
        c = <i32>parseInt(json.slice(i + 1, i + 5), 16); // A pair of surrogates is two units here too.
        i += 4;
      } else if (c == 0x62) c = 8;
      else if (c == 0x66) c = 12;
      else if (c == 0x6e) c = 10;
      else if (c == 0x72) c = 13;
      else if (c == 0x74) c = 9;
    }
    text += String.fromCharCode(c);
  }
  return text;
}

/** Returns a JSON string. */
export function quote(text: string): string {
  let json = '"';
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c < 0x20) json += "\\u00" + (c < 16 ? "0" : "1") + (c & 15).toString(16);
    else if (c == 0x22 || c == 0x5c) json += "\\" + String.fromCharCode(c);
    else json += String.fromCharCode(c);
  }
  return json + '"';
}

/** A JSON object: its members' values are kept as they are written. */
export class Head {
  private members: Map<string, string> = new Map();

  constructor(json: string) {
    const reader = new Json(json);
    let more = reader.eat(0x7b) && !reader.eat(0x7d);
    while (more) {
      const name = unquote(reader.value());
      reader.eat(0x3a);
      this.members.set(name, reader.value());
      more = reader.eat(0x2c);
    }
  }

  raw(name: string): string {
    return this.members.has(name) ? this.members.get(name) : "";
  }

  text(name: string): string {
    return unquote(this.raw(name));
  }

  number(name: string): i64 {
    return I64.parseInt(this.raw(name));
  }

  headers(): string[][] {
    const headers: string[][] = [];
    const reader = new Json(this.raw("headers"));
    if (!reader.eat(0x5b)) return headers;
    while (reader.eat(0x5b)) {
      const name = unquote(reader.value());
      reader.eat(0x2c);
      headers.push([name, unquote(reader.value())]);
      reader.eat(0x5d);
      reader.eat(0x2c);
    }
    return headers;
  }
}

/** A head of JSON and a body. */
export class Frame {
  head: Head;
  body: ArrayBuffer;
  malformed: bool;

  constructor(bytes: ArrayBuffer) {
    const reader = new Reader(bytes);
    this.head = new Head(textOf(reader.sized()));
    this.body = reader.rest();
    this.malformed = reader.malformed;
  }
}

function headersJson(headers: string[][]): string {
  let json = "[";
  for (let i = 0; i < headers.length; i++) {
    if (i > 0) json += ",";
    json += "[" + quote(headers[i][0]) + "," + quote(headers[i][1]) + "]";
  }
  return json + "]";
}

function find(headers: string[][], name: string): string | null {
  for (let i = 0; i < headers.length; i++) if (headers[i][0] == name) return headers[i][1];
  return null;
}

// --- Requests to the app ---

export class Request {
  method: string;
  /** Begins with "/". It and `query` are percent-encoded, as the client sent them. */
  path: string;
  query: string;
  headers: string[][];
  body: ArrayBuffer;

  /** Reads the input of the handler: `new Request(kvasm.input())`. */
  constructor(bytes: ArrayBuffer) {
    const frame = new Frame(bytes);
    if (frame.malformed) throw new Error("malformed request");
    this.method = frame.head.text("method");
    this.path = frame.head.text("path");
    this.query = frame.head.text("query");
    this.headers = frame.head.headers();
    this.body = frame.body;
  }

  /** The first header of this name, which is in lower case. */
  header(name: string): string | null {
    return find(this.headers, name);
  }
}

export class Response {
  headers: string[][] = [];
  body: ArrayBuffer = new ArrayBuffer(0);

  constructor(public status: i32) {}

  static text(status: i32, text: string): Response {
    return new Response(status).with("content-type", "text/plain; charset=utf-8").withBody(utf8(text));
  }

  static json(status: i32, json: string): Response {
    return new Response(status).with("content-type", "application/json").withBody(utf8(json));
  }

  with(name: string, value: string): Response {
    this.headers.push([name, value]);
    return this;
  }

  withBody(body: ArrayBuffer): Response {
    this.body = body;
    return this;
  }

  header(name: string): string | null {
    return find(this.headers, name);
  }

  frame(): ArrayBuffer {
    const head = '{"status":' + this.status.toString() + ',"headers":' + headersJson(this.headers) + "}";
    return new Writer().text(head).put(this.body).done();
  }

  /** Sends it as the output of the handler. Returns the exit code for the handler to return. */
  send(): i32 {
    output(this.frame());
    return OK;
  }
}

/**
 * Sends a request to another server, whose origin the plugin must declare and the app grant. Returns the
 * response of any status; null if there is none, for the reason that `errorMessage` returns.
 */
export function tryFetch(
  method: string,
  url: string,
  headers: string[][] = [],
  body: ArrayBuffer = new ArrayBuffer(0),
): Response | null {
  const head = '{"method":' + quote(method) + ',"url":' + quote(url) + ',"headers":' + headersJson(headers) + "}";
  const request = new Writer().text(head).put(body).done();
  const length = host.http_fetch(changetype<usize>(request), request.byteLength, 0, 0);
  if (length < 0) return null;
  const bytes = new ArrayBuffer(<i32>length);
  host.result_read(0, changetype<usize>(bytes), bytes.byteLength);
  const frame = new Frame(bytes);
  const response = new Response(<i32>frame.head.number("status"));
  response.headers = frame.head.headers();
  response.body = frame.body;
  return response;
}

/** The same; without a response it ends the call. */
export function fetch(
  method: string,
  url: string,
  headers: string[][] = [],
  body: ArrayBuffer = new ArrayBuffer(0),
): Response {
  const response = tryFetch(method, url, headers, body);
  if (!response) {
    exit(FAILED, errorMessage());
    unreachable();
  }
  return response;
}

// --- Deliveries ---

/** The input of a handler of changes, a schedule or a timer: `new Delivery(kvasm.input())`. */
export class Delivery {
  /** "set", "delete", "schedule" or "timer". */
  kind: string;
  /** The same in every attempt and replay. */
  eventId: string;
  trigger: string;
  attempt: i64;
  /** 1, plus one for each handler in the chain of changes that led to this one. */
  depth: i64;
  atMs: i64;
  /** Of a change: the entry, and the version that was written or deleted. */
  collection: string;
  key: string;
  version: u64;
  /** The name of a timer. */
  timer: string;
  /** The value that was set, or the payload of a timer. */
  body: ArrayBuffer;

  constructor(bytes: ArrayBuffer) {
    const frame = new Frame(bytes);
    if (frame.malformed) throw new Error("malformed delivery");
    const head = frame.head;
    this.kind = head.text("kind");
    this.eventId = head.text("event_id");
    this.trigger = head.text("trigger");
    this.attempt = head.number("attempt");
    this.depth = head.number("depth");
    this.atMs = head.number("at_ms");
    this.collection = head.text("collection");
    this.key = head.text("key");
    this.version = <u64>head.number("version");
    this.timer = head.text("timer");
    this.body = frame.body;
  }
}
