// The calls of an app's plugin that have ended, the newest first.

import { path, rowsOf, send } from "./api.js";
import { html, link, usePages, useState, Field, Listing, Text } from "./ui.js";
import { plural, time } from "./text.js";

const PAGE = 50;
const OUTCOMES = ["ok", "failed", "trap", "deadline", "cpu_time", "conflict", "commit", "rejected", "busy", "host", "load", "cancelled", "deferred"];
const NOTHING = { function: "", trigger: "", outcome: "", slower: "", since: "" };
const MINUTES = [["", "any time"], [60, "the last hour"], [24 * 60, "the last day"], [7 * 24 * 60, "the last week"]];

const ms = (us) => `${(Number(us) / 1000).toFixed(us < 10_000 ? 2 : 0)} ms`;

function Cause({ row }) {
  const attempt = row.delivery && html` <${Text} value=${row.delivery.trigger} /> <span class="dim">#${row.delivery.attempt}${row.delivery.webhook ? ", webhook" : ""}</span>`;
  return html`${row.cause}${attempt}${row.replayed && html` <span class="dim">(kept answer)</span>`}`;
}

function Outcome({ row }) {
  const isBad = row.outcome !== "ok" && row.outcome !== "deferred";
  return html`<span class=${isBad ? "level error" : ""}>${row.outcome}</span>${row.blame && html` <span class="dim">(${row.blame})</span>`}
    ${row.cost?.runs > 1 && html` <span class="dim">${row.cost.runs} runs</span>`}
    ${row.error && html` <span class="message"><${Text} value=${row.error.slice(0, 300)} /></span>`}`;
}

export function Calls({ app, query }) {
  const [typed, setTyped] = useState({ ...NOTHING, trigger: query.trigger ?? "", outcome: query.failed ? "any failure" : "" });
  const [filter, setFilter] = useState(typed);
  const pages = usePages(async (before, signal) => {
    const { since, slower, outcome, ...rest } = filter;
    const target = path(["apps", app, "calls"], {
      ...rest,
      before,
      limit: PAGE,
      request: query.request,
      outcome: outcome === "any failure" ? "" : outcome,
      failed: outcome === "any failure" ? "true" : "",
      slower_us: slower && Math.round(Number(slower) * 1000),
      since: since && Date.now() - Number(since) * 60_000,
    });
    const response = await send("GET", target, { signal });
    return {
      rows: (await rowsOf(response)).reverse(),
      next: response.headers.get("Kvasm-Next"),
      leftOut: Number(response.headers.get("Kvasm-Left-Out") ?? 0),
    };
  }, [app, filter, query.request]);
  const set = (name) => (event) => setTyped({ ...typed, [name]: event.target.value });
  const input = (name, label) => html`<${Field} label=${label}><input name=${name} value=${typed[name]} onInput=${set(name)} /><//>`;
  const columns = [
    ["Time (UTC)", (row) => html`<span class="nowrap">${time(row.at)}</span>`],
    ["Function", (row) => html`<${Text} value=${row.function} />${row.version && html` <span class="dim">@${row.version}</span>`}`],
    ["Cause", (row) => html`<${Cause} row=${row} />`],
    ["Outcome", (row) => html`<${Outcome} row=${row} />`],
    ["Took", (row) => html`<span class="nowrap">${ms(row.duration_us)}</span>`],
    ["Waited", (row) => html`<span class="nowrap">${ms(row.waited_us)}</span>`],
    ["CPU", (row) => (row.cost ? html`<span class="nowrap">${ms(row.cost.cpu_us)}</span>` : "")],
    ["Log", (row) => html`<a href=${link(["apps", app, "logs"], { request: row.request_id })}><code title=${row.request_id}>${row.request_id.slice(-12)}</code></a>`],
  ];
  return html`<div>
    <form class="tools" onSubmit=${(event) => { event.preventDefault(); setFilter(typed); }}>
      ${input("function", "Function")}${input("trigger", "Trigger")}
      <${Field} label="Outcome"><select name="outcome" value=${typed.outcome} onChange=${set("outcome")}>
        <option value="">any</option><option value="any failure">any failure</option>
        ${OUTCOMES.map((each) => html`<option value=${each}>${each}</option>`)}</select><//>
      <${Field} label="Slower than (ms)"><input name="slower" type="number" min="0" step="any" value=${typed.slower} onInput=${set("slower")} /><//>
      <${Field} label="Within"><select name="since" value=${typed.since} onChange=${set("since")}>
        ${MINUTES.map(([minutes, label]) => html`<option value=${minutes}>${label}</option>`)}</select><//>
      <button type="submit">Filter</button>
    </form>
    ${query.request && html`<p>Only the request <code><${Text} value=${query.request} /></code>. <a href=${link(["apps", app, "calls"])}>All calls</a></p>`}
    ${pages.data?.leftOut > 0 && html`<p class="note" role="note">${plural(pages.data.leftOut, "more call")} of this page's time ${pages.data.leftOut === 1 ? "was" : "were"} not recorded.</p>`}
    <${Listing} pages=${pages} columns=${columns} what="calls" id=${(row) => `${row.seq} ${row.request_id}`} />
  </div>`;
}
