// Entries of an app: collections, keys by prefix, and one entry.

import { get, path } from "./api.js";
import { may } from "./access.js";
import { html, link, useEffect, usePages, useRef, useState } from "./ui.js";
import { Field, Lacks, Listing, Pager, Refusal, Text } from "./ui.js";
import { Entry, NewEntry } from "./entry.js";
import { Transfer } from "./transfer.js";
import { watch } from "./watch.js";

const PAGE = 50;
/** Changed keys that are kept until they are drawn, and that are marked in the list. */
const CHANGED_MAX = 1000;
/** How often a list that changes is read again. */
const REFRESH_MS = 1000;

function Collections({ app, current }) {
  const pages = usePages(async (after, signal) => {
    const page = await get(path(["apps", app, "kv", "collections"], { after, limit: PAGE }), signal);
    return { rows: page.collections, next: page.next };
  }, [app]);
  return html`<nav class="collections" aria-label="Collections"><h2>Collections</h2>
    <${Refusal} problem=${pages.problem} />
    ${!pages.loading && !pages.problem && pages.rows.length === 0 && html`<p class="empty">The app has no entries.</p>`}
    <ul>${pages.rows.map((name) => html`<li key=${`c${name}`}><a href=${link(["apps", app, "entries"], { collection: name })}
      aria-current=${name === current ? "page" : undefined}><${Text} value=${name} /></a></li>`)}</ul>
    ${(pages.next || pages.back) && html`<${Pager} pages=${pages} what="collections" />`}
  </nav>`;
}

/**
 * Changes of a collection while `live`: `changes`, the last one of each key, `gap`, which grows when some
 * may be missing, and the state of the stream. `drawn` is called after a change, at most once a second.
 */
function useChanges(app, collection, live, drawn) {
  const [changes, setChanges] = useState({ keys: new Map(), gap: 0 });
  const [state, setState] = useState("");
  const [problem, setProblem] = useState(null);
  const draw = useRef(drawn);
  draw.current = drawn;
  useEffect(() => {
    setChanges({ keys: new Map(), gap: 0 });
    setState("");
    setProblem(null);
    if (!live) return undefined;
    const stop = new AbortController();
    let waiting = new Map();
    let gap = 0;
    const timer = setInterval(() => {
      if ((waiting.size === 0 && gap === 0) || !draw.current()) return;
      const [now, missed] = [waiting, gap];
      waiting = new Map();
      gap = 0;
      setChanges((old) => ({ keys: new Map([...old.keys, ...now].slice(-CHANGED_MAX)), gap: old.gap + missed }));
    }, REFRESH_MS);
    const changed = (key, change) => {
      // More than that at once is a flood, of which the list shows the result.
      if (waiting.size >= CHANGED_MAX && !waiting.has(key)) gap = 1;
      else waiting.set(key, change);
    };
    watch(app, { collection }, stop.signal, { changed, missed: () => { gap = 1; }, tell: setState }).then(
      () => setState(""),
      (error) => { if (!stop.signal.aborted) { setProblem(error); setState(""); } },
    );
    return () => { clearInterval(timer); stop.abort(); };
  }, [app, collection, live]);
  return { ...changes, state, problem };
}

function Keys({ app, collection, chosen, prefix, turn, live, onChanges }) {
  const [typed, setTyped] = useState(prefix);
  const [applied, setApplied] = useState(prefix);
  useEffect(() => {
    const timer = setTimeout(() => setApplied(typed), 250);
    return () => clearTimeout(timer);
  }, [typed]);
  const pages = usePages(async (cursor, signal) => {
    const page = await get(path(["apps", app, "kv", "list"], { collection, prefix: applied, cursor, limit: PAGE }), signal);
    return { rows: page.entries, next: page.cursor };
  }, [app, collection, applied, turn]);
  const changes = useChanges(app, collection, live, () => {
    // A slow answer is waited for.
    if (pages.loading) return false;
    pages.reload();
    return true;
  });
  useEffect(() => onChanges(changes), [changes.keys, changes.gap]);
  const change = (key) => {
    const last = changes.keys.get(key);
    return last && html` <span class="badge">changed, version ${last.version}</span>`;
  };
  const target = (key) => link(["apps", app, "entries"], { collection, key });
  const columns = [["Key", ({ key }) => html`<a class="key" href=${target(key)} aria-current=${key === chosen ? "true" : undefined}><${Text} value=${key} /></a>${change(key)}`]];
  return html`<section aria-label="Keys">
    <h2><${Text} value=${collection} /></h2>
    <${Field} label="Key begins with"><input type="search" name="prefix" value=${typed} onInput=${(event) => setTyped(event.target.value)} /><//>
    ${live && html`<p role="status">${changes.state === "live" ? "Changes are shown as they are made." : changes.state}</p>`}
    <${Refusal} problem=${changes.problem} />
    <${Listing} pages=${pages} columns=${columns} what="keys" id=${(row) => `k${row.key}`} />
  </section>`;
}

export function Entries({ app, query }) {
  const { collection, key } = query;
  const [adding, setAdding] = useState(false);
  const [turn, setTurn] = useState(0);
  const [live, setLive] = useState(false);
  const [changes, setChanges] = useState({ keys: new Map(), gap: 0 });
  const changed = () => setTurn((old) => old + 1);
  return html`<div>
    <${Lacks} scope="script:write" to="change an entry" />
    <p class="buttons">${may("script:write") && html`<button type="button" onClick=${() => setAdding(true)}>New entry</button>`}
      ${may("script:read") && html`<label class="check"><input type="checkbox" name="live" checked=${live} onChange=${(event) => setLive(event.target.checked)} /> Live</label>`}</p>
    <${Lacks} scope="script:read" to="follow, export or import entries" />
    ${may("script:read") && html`<${Transfer} app=${app} collection=${collection} onDone=${changed} />`}
    <div class="columns">
      <${Collections} key=${`t${turn}`} app=${app} current=${collection} />
      ${collection && html`<${Keys} key=${`c${collection}`} app=${app} collection=${collection} chosen=${key} prefix="" turn=${turn} live=${live} onChanges=${setChanges} />`}
      ${collection && key && html`<${Entry} key=${JSON.stringify([collection, key])} app=${app} collection=${collection} entryKey=${key} change=${changes.keys.get(key)} gap=${changes.gap} onDeleted=${changed} />`}
    </div>
    ${adding && html`<${NewEntry} app=${app} collection=${collection ?? ""} onClose=${() => setAdding(false)} onDone=${changed} />`}
  </div>`;
}
