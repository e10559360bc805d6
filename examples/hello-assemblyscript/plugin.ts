// Notes in AssemblyScript, and a greeting that counts its visits.
//
// Each call runs in a fresh instance: globals last for one call, entries stay.

import * as kvasm from "../../guest-sdk/assemblyscript/kvasm";
import { Delivery, Request, Response } from "../../guest-sdk/assemblyscript/http";

const notes = new kvasm.Collection("notes");
const visits = new kvasm.Collection("visits");
const stats = new kvasm.Collection("stats");

/** Splits "left=right". */
function split(text: string, expected: string): string[] {
  const at = text.indexOf("=");
  if (at < 0) kvasm.refuse("the input must be " + expected);
  return [text.slice(0, at), text.slice(at + 1)];
}

/** Greets the name in the input, and counts its visits. Concurrent calls lose none. */
@callable
export function hello(): i32 {
  const name = kvasm.inputText();
  const length = String.UTF8.byteLength(name);
  if (length < 1 || length > 64) kvasm.refuse("the input must be a name of 1 to 64 bytes");
  let visit: i64 = 0;
  let kept = false;
  while (!kept) {
    const before = visits.entry(name);
    visit = (before ? I64.parseInt(before.text) : 0) + 1;
    // Only if no other call has written it since.
    kept = visits.setIf(name, kvasm.utf8(visit.toString()), before ? before.version : 0);
  }
  return kvasm.answer("Hello, " + name + "! Visit " + visit.toString() + ".\n");
}

/** Keeps a note: the input is "name=text". */
@callable
export function set(): i32 {
  const parts = split(kvasm.inputText(), "name=text");
  notes.setText(parts[0], parts[1]);
  return kvasm.OK;
}

/** Returns the note of this name. */
@callable
export function get(): i32 {
  const note = notes.get(kvasm.inputText());
  if (!note) {
    kvasm.refuse("there is no such note");
    return kvasm.FAILED;
  }
  kvasm.output(note);
  return kvasm.OK;
}

function names(prefix: string): string {
  const options = new kvasm.ListOptions();
  options.prefix = prefix;
  options.pageSize = 100;
  const list = notes.list(options);
  let lines = "";
  for (let note = list.next(); note; note = list.next()) lines += note.key + "\n";
  return lines;
}

/** Returns all names with this prefix, one per line. */
@callable
export function list(): i32 {
  return kvasm.answer(names(kvasm.inputText()));
}

/**
 * Gives a note another name: the input is "old=new". A transaction: all of it takes effect, or
 * nothing, and it is run again if another call has changed what it has read.
 */
@transaction
export function rename_note(): i32 {
  const parts = split(kvasm.inputText(), "old=new");
  const note = notes.get(parts[0]);
  if (!note) {
    kvasm.refuse("there is no such note");
    return kvasm.FAILED;
  }
  notes.delete(parts[0]);
  // The delete takes no effect either.
  if (notes.has(parts[1])) kvasm.refuse("there is a note of the new name");
  notes.set(parts[1], note);
  return kvasm.OK;
}

/** Deletes all notes at once, up to 1,000, and returns how many there were. */
@callable
export function clear(): i32 {
  const list = notes.list();
  const batch = new kvasm.Batch();
  for (let note = list.next(); note && batch.length < 1000; note = list.next()) batch.delete(notes, note.key);
  batch.commit();
  return kvasm.answer(batch.length.toString());
}

/** Requests to the app: GET / lists the names, GET /name returns a note, PUT /name keeps one. */
@http
export function handle(): i32 {
  const request = new Request(kvasm.input());
  const name = request.path.slice(1);
  if (request.method == "GET" && name == "") return Response.text(200, names("")).send();
  if (request.method == "GET") {
    const note = notes.get(name);
    if (!note) return Response.text(404, "there is no such note").send();
    return Response.text(200, "").withBody(note).send();
  }
  if (request.method == "PUT" && name != "") {
    notes.set(name, request.body);
    return new Response(204).send();
  }
  return new Response(405).with("allow", "GET, PUT").send();
}

/**
 * Called after each change of a note, with an exactly-once effect on entries: counts the writes and
 * the deletes.
 */
@onChange("notes")
export function count(): i32 {
  const change = new Delivery(kvasm.input());
  kvasm.logInfo(change.kind + " " + change.key);
  stats.increment(change.kind, 1);
  return kvasm.OK;
}
