// Reads the golden vectors with the package for AssemblyScript: the input is guest-sdk/vectors.txt.
// Returns the cases that differ, and how many there were.

import * as kvasm from "../../../guest-sdk/assemblyscript/kvasm";
import { Delivery, Frame, Request, Response } from "../../../guest-sdk/assemblyscript/http";

function hex(bytes: ArrayBuffer): string {
  const view = Uint8Array.wrap(bytes);
  let text = "";
  for (let i = 0; i < view.length; i++) text += (view[i] < 16 ? "0" : "") + view[i].toString(16);
  return text;
}

function unhex(text: string): ArrayBuffer {
  const bytes = new Uint8Array(text.length / 2);
  for (let i = 0; i < bytes.length; i++) bytes[i] = <u8>parseInt(text.slice(2 * i, 2 * i + 2), 16);
  return bytes.buffer;
}

function value(entry: kvasm.Entry): string {
  const format = entry.isJson ? "0" : "1";
  return entry.version.toString() + "/" + entry.expiresAtMs.toString() + "/" + format + "/" + hex(entry.value);
}

function page(bytes: ArrayBuffer, values: bool): string {
  const page = new kvasm.Page(bytes, values);
  if (page.malformed) return "malformed";
  const entries: string[] = [];
  for (let i = 0; i < page.entries.length; i++) {
    const entry = page.entries[i];
    entries.push(hex(kvasm.utf8(entry.key)) + (values ? "/" + value(entry) : ""));
  }
  return "cursor=" + hex(page.cursor) + " entries=" + entries.join(",");
}

function slots(bytes: ArrayBuffer): string {
  const slots = kvasm.readSlots(bytes, []);
  if (!slots) return "malformed";
  const found: string[] = [];
  for (let i = 0; i < slots.length; i++) {
    const slot = slots[i];
    found.push(slot ? value(slot) : "-");
  }
  return found.join(",");
}

function applied(bytes: ArrayBuffer): string {
  const applied = kvasm.readApplied(bytes);
  if (!applied) return "malformed";
  const found: string[] = [];
  for (let i = 0; i < applied.length; i++) found.push(applied[i].result.toString() + "/" + applied[i].value.toString());
  return found.join(",");
}

function request(bytes: ArrayBuffer): string {
  if (new Frame(bytes).malformed) return "malformed";
  const request = new Request(bytes);
  const parts = [request.method, request.path, request.query].map<string>((text) => hex(kvasm.utf8(text)));
  const headers = request.headers.map<string>((pair) => hex(kvasm.utf8(pair[0])) + ":" + hex(kvasm.utf8(pair[1])));
  return parts.join(" ") + " " + hex(request.body) + " " + headers.join(",");
}

function delivery(bytes: ArrayBuffer): string {
  const it = new Delivery(bytes);
  const parts = [it.kind, it.collection, it.key].map<string>((text) => hex(kvasm.utf8(text)));
  return parts.join(" ") + " " + it.version.toString() + " " + hex(it.body);
}

/** What plugins write. */
function built(kind: string): ArrayBuffer {
  const notes = new kvasm.Collection("notes");
  if (kind == "keys") return kvasm.packKeys("notes", ["a", "é"]);
  if (kind == "batch") {
    const batch = new kvasm.Batch();
    batch.check(notes, "é", 1 << 40);
    batch.set(notes, "a", unhex("00ff"), 60000);
    batch.delete(notes, "b");
    batch.increment(new kvasm.Collection("stats"), "c", -2);
    batch.timerAfter("t", 5000, kvasm.utf8("p"));
    batch.timerCancel("u");
    return batch.packed();
  }
  if (kind == "response") return new Response(201).with("x-a", 'q"\\\u0001é').withBody(unhex("00")).frame();
  if (kind == "set-options") return kvasm.setOptions(60000, true, 7);
  return kvasm.deleteOptions(7);
}

@callable
export function check(): i32 {
  let out = "";
  let cases = 0;
  const lines = kvasm.inputText().split("\n");
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i];
    if (line == "" || line.startsWith("#")) continue;
    cases++;
    const first = line.indexOf(" ");
    const second = line.indexOf(" ", first + 1);
    const kind = line.slice(0, first);
    const digits = line.slice(first + 1, second);
    let expected = line.slice(second + 1);
    const bytes = unhex(digits == "-" ? "" : digits);
    let found: string;
    if (kind == "page") found = page(bytes, false);
    else if (kind == "page-values") found = page(bytes, true);
    else if (kind == "slots") found = slots(bytes);
    else if (kind == "applied") found = applied(bytes);
    else if (kind == "request") found = request(bytes);
    else if (kind == "delivery") found = delivery(bytes);
    else {
      found = hex(built(kind));
      expected = digits;
    }
    if (found != expected) out += line + "\n  found " + found + "\n";
  }
  return kvasm.answer(out + cases.toString());
}
