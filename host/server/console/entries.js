// Entries of an app: collections, keys by prefix, and one entry.

import { get, path } from "./api.js";
import { may } from "./access.js";
import { html, link, useEffect, usePages, useState } from "./ui.js";
import { Field, Lacks, Listing, Pager, Refusal, Text } from "./ui.js";
import { Entry, NewEntry } from "./entry.js";

const PAGE = 50;

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

function Keys({ app, collection, chosen, prefix, turn }) {
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
  const target = (key) => link(["apps", app, "entries"], { collection, key });
  const columns = [["Key", ({ key }) => html`<a class="key" href=${target(key)} aria-current=${key === chosen ? "true" : undefined}><${Text} value=${key} /></a>`]];
  return html`<section aria-label="Keys">
    <h2><${Text} value=${collection} /></h2>
    <${Field} label="Key begins with"><input type="search" name="prefix" value=${typed} onInput=${(event) => setTyped(event.target.value)} /><//>
    <${Listing} pages=${pages} columns=${columns} what="keys" id=${(row) => `k${row.key}`} />
  </section>`;
}

export function Entries({ app, query }) {
  const { collection, key } = query;
  const [adding, setAdding] = useState(false);
  const [turn, setTurn] = useState(0);
  const changed = () => setTurn(turn + 1);
  return html`<div>
    <${Lacks} scope="script:write" to="change an entry" />
    ${may("script:write") && html`<p class="buttons"><button type="button" onClick=${() => setAdding(true)}>New entry</button></p>`}
    <div class="columns">
      <${Collections} key=${`t${turn}`} app=${app} current=${collection} />
      ${collection && html`<${Keys} key=${`c${collection}`} app=${app} collection=${collection} chosen=${key} prefix="" turn=${turn} />`}
      ${collection && key && html`<${Entry} key=${JSON.stringify([collection, key])} app=${app} collection=${collection} entryKey=${key} onDeleted=${changed} />`}
    </div>
    ${adding && html`<${NewEntry} app=${app} collection=${collection ?? ""} onClose=${() => setAdding(false)} onDone=${changed} />`}
  </div>`;
}
