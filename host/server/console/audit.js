// Operations of administrators, newest first.

import { get, path } from "./api.js";
import { html, usePages, useState, Field, Listing, Text } from "./ui.js";
import { time } from "./text.js";

const PAGE = 50;
const NONE = { actor: "", action: "", app: "", since: "", until: "" };
const KINDS = ["app", "config", "deadletter", "delivery", "grant", "kv", "plugin", "secret", "secrets", "timer", "token", "trigger"];

/** A time as typed, in UTC, in milliseconds. */
const at = (text) => (text === "" ? undefined : Date.parse(`${text}Z`));

export function Audit({ app }) {
  const [typed, setTyped] = useState(NONE);
  const [filter, setFilter] = useState(NONE);
  const pages = usePages(async (before, signal) => {
    const wanted = { actor: filter.actor.trim(), action: filter.action.trim(), app: filter.app.trim(), since: at(filter.since), until: at(filter.until) };
    const page = await get(path(app ? ["apps", app, "audit"] : ["audit"], { before, ...wanted, limit: PAGE }), signal);
    return { rows: page.audit, next: page.next };
  }, [app ?? null, filter]);
  const columns = [
    ["Time (UTC)", (row) => html`<span class="nowrap">${time(row.at)}</span>`],
    ["Who", (row) => html`<${Text} value=${row.actor} />`],
    ["Operation", (row) => html`<code>${row.action}</code>`],
    !app && ["App", (row) => (row.app ? html`<${Text} value=${row.app} />` : "")],
    ["Details", (row) => html`<code class="message"><${Text} value=${JSON.stringify(row.detail)} /></code>`],
    ["Request", (row) => html`<code title=${row.request_id}>${row.request_id.slice(-12)}</code>`],
  ].filter(Boolean);
  const input = (name, label, more = {}) => html`<${Field} label=${label}>
    <input name=${`audit-${name}`} autocomplete="off" value=${typed[name]} onInput=${(event) => setTyped({ ...typed, [name]: event.target.value })} ...${more} /><//>`;
  const isSearch = Object.values(filter).some((text) => text !== "");
  return html`<div>
    ${!app && html`<h1 tabindex="-1">Audit</h1>`}
    <form class="tools" onSubmit=${(event) => { event.preventDefault(); setFilter(typed); }}>
      ${input("actor", "Who")}
      ${input("action", "Operation or kind", { list: "audit-kinds" })}
      <datalist id="audit-kinds">${KINDS.map((kind) => html`<option value=${kind}></option>`)}</datalist>
      ${!app && input("app", "App")}
      ${input("since", "From (UTC)", { type: "datetime-local", step: 1 })}
      ${input("until", "Before (UTC)", { type: "datetime-local", step: 1 })}
      <button type="submit">Filter</button>
      ${isSearch && html`<button type="button" onClick=${() => { setTyped(NONE); setFilter(NONE); }}>Show all</button>`}
    </form>
    ${isSearch && pages.next && html`<p class="dim">Each page searches a part of the log: the next one has older operations.</p>`}
    <${Listing} pages=${pages} columns=${columns} what="operations" />
  </div>`;
}
