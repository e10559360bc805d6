// Export of entries to a file, and import from one, with progress. Neither is held in memory.

import { Problem, json, path, send } from "./api.js";
import { may } from "./access.js";
import { html, useAction, useEffect, useRef, useState, Field, Lacks, Refusal, Text } from "./ui.js";
import { download } from "./values.js";
import { count, plural, size } from "./text.js";

const MIB = 1024 * 1024;
/** Bytes that are handed to the browser's store of files at once. */
const PART = 4 * MIB;
/** Without access to files the browser keeps an export until it is complete. */
const KEPT_MAX = 1024 * MIB;
/** An import is sent in pieces of whole lines of about this size, so that its progress is known. */
const PIECE = MIB;
/** The longest line that is read: more than a server accepts. */
const LINE_MAX = 64 * MIB;
const LINE_FEED = 10;

/** Where an export is written: a file that the person chooses, or, if the browser cannot do that, a download. */
async function target(name) {
  if (typeof showSaveFilePicker === "function") {
    const handle = await showSaveFilePicker({ suggestedName: name });
    const file = await handle.createWritable();
    return { write: (bytes) => file.write(bytes), close: () => file.close(), drop: () => file.abort() };
  }
  let parts = [];
  let open = [];
  let [waiting, all] = [0, 0];
  return {
    async write(bytes) {
      all += bytes.length;
      if (all > KEPT_MAX) throw new Error(`This browser can only save ${size(KEPT_MAX)} at once. Export one collection at a time, or use "kvasm kv export".`);
      open.push(bytes);
      waiting += bytes.length;
      if (waiting < PART) return;
      // The content of a Blob is not in the memory of the page.
      parts.push(new Blob(open));
      [open, waiting] = [[], 0];
    },
    async close() {
      download(name, new Blob([...parts, ...open]));
    },
    async drop() {
      [parts, open] = [[], []];
    },
  };
}

/** A controller that ends with the view, and progress that is drawn a few times a second. */
function useRun() {
  const stop = useRef(null);
  const [progress, setProgress] = useState(null);
  const drawn = useRef(0);
  useEffect(() => () => stop.current?.abort(), []);
  return {
    progress,
    begin: () => {
      stop.current = new AbortController();
      drawn.current = 0;
      return stop.current.signal;
    },
    cancel: () => stop.current?.abort(),
    show: (now) => {
      if (now !== null && performance.now() - drawn.current < 200) return;
      drawn.current = performance.now();
      setProgress(now);
    },
  };
}

const isAbort = (error) => error.name === "AbortError";

async function exportTo(app, collection, signal, show) {
  let file;
  try {
    file = await target(`${app}${collection ? `-${collection}` : ""}.jsonl`);
  } catch (error) {
    if (isAbort(error)) return "Cancelled.";
    throw error;
  }
  let [bytes, lines] = [0, 0];
  try {
    const response = await send("GET", path(["apps", app, "kv", "export"], { collection }), { signal });
    const reader = response.body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      bytes += value.length;
      for (const byte of value) if (byte === LINE_FEED) lines += 1;
      await file.write(value);
      // The whole answer may be there already, which the signal does not end.
      signal.throwIfAborted();
      show({ text: `${plural(lines, "entry", "entries")}, ${size(bytes)}` });
    }
    await file.close();
    return `Exported ${plural(lines, "entry", "entries")}, ${size(bytes)}.`;
  } catch (error) {
    await file.drop().catch(() => {});
    if (signal.aborted) return "Cancelled. Nothing was saved.";
    if (error instanceof Problem && error.status !== 0) throw error;
    throw new Error(`The export ended early, after ${plural(lines, "entry", "entries")}. Nothing was saved. ${error.message}`);
  }
}

/** Pieces of a file that end with a line, except for the last: `{bytes, lines}`. */
async function* pieces(file) {
  const reader = file.stream().getReader();
  let waiting = [];
  let length = 0;
  const all = () => {
    const joined = new Uint8Array(length);
    let at = 0;
    for (const part of waiting) {
      joined.set(part, at);
      at += part.length;
    }
    return joined;
  };
  const piece = (bytes) => {
    let lines = 0;
    for (const byte of bytes) if (byte === LINE_FEED) lines += 1;
    return { bytes, lines };
  };
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    waiting.push(value);
    length += value.length;
    if (length < PIECE || !value.includes(LINE_FEED)) {
      if (length > LINE_MAX) throw new Error(`The file has a line of more than ${size(LINE_MAX)}.`);
      continue;
    }
    const joined = all();
    const end = joined.lastIndexOf(LINE_FEED) + 1;
    yield piece(joined.subarray(0, end));
    waiting = [joined.slice(end)];
    length = joined.length - end;
  }
  if (length > 0) yield piece(all());
}

async function importFrom(app, file, signal, show) {
  let [sent, lines, imported, expired] = [0, 0, 0, 0];
  const before = () => (imported > 0 ? `${plural(imported, "entry was", "entries were")} imported before. ` : "");
  try {
    for await (const piece of pieces(file)) {
      if (signal.aborted) return `Cancelled. ${before()}`;
      show({ value: sent, max: file.size, text: `${size(sent)} of ${size(file.size)}, ${plural(imported, "entry", "entries")}` });
      const done = await json("POST", path(["apps", app, "kv", "import"]), undefined, { body: piece.bytes, type: "application/jsonl", signal });
      sent += piece.bytes.length;
      lines += piece.lines;
      imported += done.imported;
      expired += done.expired;
    }
  } catch (error) {
    if (signal.aborted) return `Cancelled. ${before()}Of the lines from ${count(lines + 1)} on, some may have been imported too.`;
    const where = `The part that begins with line ${count(lines + 1)} of the file failed, so its lines count from there`;
    if (!(error instanceof Problem)) throw new Error(`${before()}${error.message}`);
    if (error.status === 403) throw error;
    const lost = error.status === 0 ? " Some of it may have been imported: importing the file again writes the same entries." : "";
    error.message = `${before()}${where}: ${error.message}${lost}`;
    throw error;
  }
  return `Imported ${plural(imported, "entry", "entries")}${expired > 0 ? `; ${plural(expired, "line")} had expired` : ""}.`;
}

function Progress({ run, busy, label }) {
  if (!busy) return null;
  const now = run.progress;
  return html`<p class="buttons"><progress max=${now?.max} value=${now?.value} aria-label=${label}></progress>
    <span>${now?.text ?? "Beginning …"}</span>
    <button type="button" onClick=${run.cancel}>Cancel</button></p>`;
}

export function Transfer({ app, collection, onDone }) {
  const run = useRun();
  const [file, setFile] = useState(null);
  const input = useRef(null);
  const out = useAction(async (only) => {
    const done = await exportTo(app, only, run.begin(), run.show);
    run.show(null);
    return done;
  });
  const into = useAction(async () => {
    try {
      return await importFrom(app, file, run.begin(), run.show);
    } finally {
      run.show(null);
      onDone();
    }
  });
  const busy = out.busy || into.busy;
  return html`<details class="transfer"><summary>Export and import</summary>
    <section aria-label="Export">
      <p class="buttons">
        <button type="button" disabled=${busy} onClick=${() => { into.clear(); out.start(undefined); }}>Export all entries</button>
        ${collection && html`<button type="button" disabled=${busy} onClick=${() => { into.clear(); out.start(collection); }}>Export the collection</button>`}
      </p>
      <${Progress} run=${run} busy=${out.busy} label="Export" />
      <p role="status">${out.done}</p>
      <${Refusal} problem=${out.problem} />
    </section>
    <section aria-label="Import">
      <${Lacks} scope="script:write" to="import entries" />
      ${may("script:write") && html`<form class="tools" onSubmit=${(event) => { event.preventDefault(); out.clear(); into.start(); }}>
        <${Field} label="File" hint="JSON Lines, as an export has them. Entries of the same key are overwritten.">
          <input ref=${input} type="file" name="import" required accept=".jsonl,.ndjson,.json,.txt" disabled=${busy} onChange=${(event) => { into.clear(); setFile(event.target.files[0] ?? null); }} /><//>
        <button type="submit" class="primary" disabled=${busy || !file}>Import</button>
      </form>`}
      ${into.busy && html`<p>Importing <${Text} value=${file?.name} /></p>`}
      <${Progress} run=${run} busy=${into.busy} label="Import" />
      <p role="status">${into.done}</p>
      <${Refusal} problem=${into.problem} />
    </section>
  </details>`;
}
