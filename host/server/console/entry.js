// One entry: its value, and changes that are guarded by its version.

import { json, path, send } from "./api.js";
import { may } from "./access.js";
import { html, link, useAction, useEffect, useLoad, useRef, useState } from "./ui.js";
import { Confirm, Definitions, Dialog, Field, HiddenCharacters, Refusal, Text } from "./ui.js";
import { Hex, JsonText, download } from "./values.js";
import { time } from "./text.js";

const JSON_TYPE = "application/json";

const place = (app, collection, key, query = {}) => path(["apps", app, "kv", "entry"], { collection, key, ...query });

/** Reads an entry; `null` if there is none. */
async function read(app, collection, key, signal) {
  let response;
  try {
    response = await send("GET", place(app, collection, key), { signal });
  } catch (problem) {
    if (problem.kind === "entry-not-found") return null;
    throw problem;
  }
  const bytes = new Uint8Array(await response.arrayBuffer());
  const isJson = response.headers.get("Content-Type") === JSON_TYPE;
  const at = (name) => response.headers.get(`Kvasm-${name}`);
  return {
    bytes, isJson, etag: response.headers.get("ETag"), text: isJson ? new TextDecoder().decode(bytes) : null,
    created: at("Created-At"), updated: at("Updated-At"), expires: at("Expires-At"),
  };
}

const version = (entry) => entry.etag.replaceAll('"', "");

/** JSON with line breaks, if that changes no digit of it. */
function indented(text) {
  try {
    const pretty = JSON.stringify(JSON.parse(text), null, 2);
    return JSON.stringify(JSON.parse(text)) === text ? pretty : text;
  } catch {
    return text;
  }
}

function Value({ entry }) {
  if (!entry) return html`<p class="empty">There is no such entry.</p>`;
  return html`<div class="value">${entry.isJson ? html`<${JsonText} text=${entry.text} />` : html`<${Hex} bytes=${entry.bytes} />`}</div>`;
}

function Editor({ draft, setDraft }) {
  return html`<div>
    <${Field} label="JSON"><textarea name="json" rows="10" spellcheck=${false} dir="ltr" value=${draft} onInput=${(event) => setDraft(event.target.value)}></textarea><//>
    <${HiddenCharacters} text=${draft} />
  </div>`;
}

/** A TTL in seconds, as typed, in milliseconds. */
function ttl(text) {
  if (text.trim() === "") return undefined;
  if (!/^\d{1,10}$/.test(text.trim())) throw new Error("The TTL is a whole number of seconds, or empty for none.");
  return Number(text) * 1000;
}

function checked(text) {
  try {
    JSON.parse(text);
  } catch (error) {
    throw new Error(`This is not JSON: ${error.message}`);
  }
  return text;
}

/** Both sides of a conflict. */
function Conflict({ theirs, mine, busy, onMine, onTheirs }) {
  const ref = useRef(null);
  useEffect(() => ref.current.scrollIntoView({ block: "nearest" }), []);
  return html`<section ref=${ref} class="note bad conflict" role="alert" aria-label="Conflict">
    <h3>${theirs ? "Someone else changed this entry" : "Someone else deleted this entry"}</h3>
    <p>Nothing was written. Compare both, then choose.</p>
    <div class="both">
      <div><h4>${theirs ? `Stored now, version ${version(theirs)}` : "Stored now"}</h4><${Value} entry=${theirs} /></div>
      <div><h4>Your edit</h4><div class="value"><${JsonText} text=${mine} /></div></div>
    </div>
    <p class="buttons">
      <button type="button" class="danger" disabled=${busy} onClick=${onMine}>${theirs ? `Write mine over version ${version(theirs)}` : "Write mine as a new entry"}</button>
      <button type="button" disabled=${busy} onClick=${onTheirs}>Discard mine</button>
    </p>
  </section>`;
}

function Edit({ app, collection, entryKey, entry, onDone, onCancel }) {
  const [draft, setDraft] = useState(() => indented(entry.text ?? ""));
  const left = entry.expires ? Math.max(1, Math.round((Number(entry.expires) - Date.now()) / 1000)) : "";
  const [seconds, setSeconds] = useState(String(left));
  const [conflict, setConflict] = useState(null);
  const save = useAction(async (over) => {
    const body = checked(draft);
    const headers = over ? { "If-Match": over.etag } : { "If-None-Match": "*" };
    try {
      await send("PUT", place(app, collection, entryKey, { ttl_ms: ttl(seconds) }), { body, type: JSON_TYPE, headers });
    } catch (problem) {
      if (problem.kind !== "precondition-failed") throw problem;
      setConflict({ theirs: await read(app, collection, entryKey) });
      return;
    }
    onDone();
  });
  return html`<form onSubmit=${(event) => { event.preventDefault(); save.start(entry); }}>
    <${Editor} draft=${draft} setDraft=${setDraft} />
    <${Field} label="Expires after seconds" hint="Empty: never"><input name="ttl" inputmode="numeric" value=${seconds} onInput=${(event) => setSeconds(event.target.value)} /><//>
    <${Refusal} problem=${save.problem} />
    ${conflict
      ? html`<${Conflict} theirs=${conflict.theirs} mine=${draft} busy=${save.busy} onMine=${() => save.start(conflict.theirs)} onTheirs=${onDone} />`
      : html`<p class="buttons"><button type="submit" class="primary" disabled=${save.busy}>Save over version ${version(entry)}</button>
        <button type="button" onClick=${onCancel}>Cancel</button></p>`}
  </form>`;
}

/**
 * `change` is the last change of the entry and `gap` grows when one may be missing, while changes are
 * followed. What is being edited or deleted is left alone then.
 */
export function Entry({ app, collection, entryKey, change, gap, onDeleted }) {
  const loaded = useLoad((signal) => read(app, collection, entryKey, signal), [app, collection, entryKey]);
  const [mode, setMode] = useState("tree");
  const [deleting, setDeleting] = useState(false);
  const entry = loaded.data;
  const done = () => { setMode("tree"); loaded.reload(); };
  const isBusy = mode === "edit" || deleting;
  const isStale = Boolean(change) && Boolean(entry) && (change.isDeleted || BigInt(change.version) > BigInt(version(entry)));
  useEffect(() => { if ((change || gap > 0) && !isBusy) loaded.reload(); }, [change, gap]);
  return html`<section class="entry" aria-label="Entry">
    <h2><${Text} value=${entryKey} /></h2>
    <${Refusal} problem=${loaded.problem} />
    ${!loaded.loading && entry === null && html`<p class="empty">There is no such entry.</p>`}
    ${entry && html`<div>
      <${Definitions} rows=${[
        ["Version", version(entry)], ["Type", entry.isJson ? "JSON" : "bytes"],
        ["Created", time(entry.created ?? undefined)], ["Updated", time(entry.updated ?? undefined)],
        ["Expires", entry.expires ? time(entry.expires) : "never"],
      ]} />
      ${mode !== "edit" && html`<p class="buttons">
        ${entry.isJson && may("script:write") && html`<button type="button" onClick=${() => setMode("edit")}>Edit</button>`}
        ${entry.isJson && html`<button type="button" aria-pressed=${mode === "text"} onClick=${() => setMode(mode === "text" ? "tree" : "text")}>As text</button>`}
        <button type="button" onClick=${() => download(entryKey, entry.bytes)}>Download</button>
        <button type="button" onClick=${loaded.reload}>Reload</button>
        ${may("script:write") && html`<button type="button" class="danger" onClick=${() => setDeleting(true)}>Delete</button>`}
      </p>`}
      ${isStale && isBusy && html`<p class="note" role="status">Someone else has ${change.isDeleted ? "deleted" : "changed"} this entry meanwhile${change.isDeleted ? "" : `: version ${change.version}`}. Your edit is kept; saving it shows both.</p>`}
      ${mode === "edit" && html`<${Edit} app=${app} collection=${collection} entryKey=${entryKey} entry=${entry} onDone=${done} onCancel=${done} />`}
      ${mode === "text" && html`<pre class="value"><${Text} value=${entry.text} block /></pre>`}
      ${mode === "tree" && html`<${Value} entry=${entry} />`}
    </div>`}
    ${deleting && html`<${Confirm} title="Delete the entry" action=${`Delete version ${version(entry)}`}
      onConfirm=${() => send("DELETE", place(app, collection, entryKey), { headers: { "If-Match": entry.etag } })}
      onClose=${() => setDeleting(false)} closed=${() => { location.hash = link(["apps", app, "entries"], { collection }); onDeleted(); }}>
      <p>Deletes <${Text} value=${entryKey} />, unless it has changed since.</p>
    <//>`}
  </section>`;
}

export function NewEntry({ app, collection: first, onClose, onDone }) {
  const [collection, setCollection] = useState(first);
  const [key, setKey] = useState("");
  const [draft, setDraft] = useState("{}");
  const [seconds, setSeconds] = useState("");
  const create = useAction(async () => {
    const body = checked(draft);
    const target = place(app, collection, key, { ttl_ms: ttl(seconds) });
    await send("PUT", target, { body, type: JSON_TYPE, headers: { "If-None-Match": "*" } });
  });
  useEffect(() => {
    if (!create.done) return;
    onClose();
    onDone();
    location.hash = link(["apps", app, "entries"], { collection, key });
  }, [create.done]);
  return html`<${Dialog} title="New entry" onClose=${onClose}><form onSubmit=${(event) => { event.preventDefault(); create.start(); }}>
    <${Field} label="Collection"><input name="collection" required value=${collection} onInput=${(event) => setCollection(event.target.value)} /><//>
    <${Field} label="Key"><input name="key" required value=${key} onInput=${(event) => setKey(event.target.value)} /><//>
    <${Editor} draft=${draft} setDraft=${setDraft} />
    <${Field} label="Expires after seconds" hint="Empty: never"><input inputmode="numeric" value=${seconds} onInput=${(event) => setSeconds(event.target.value)} /><//>
    <${Refusal} problem=${create.problem} />
    <p class="buttons"><button type="submit" class="primary" disabled=${create.busy}>Create</button><button type="button" onClick=${onClose}>Cancel</button></p>
  </form><//>`;
}
