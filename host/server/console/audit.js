// Operations of administrators, newest first.

import { get, path } from "./api.js";
import { html, usePages, Listing, Text } from "./ui.js";
import { time } from "./text.js";

const PAGE = 50;

export function Audit({ app }) {
  const pages = usePages(async (before, signal) => {
    const page = await get(path(app ? ["apps", app, "audit"] : ["audit"], { before, limit: PAGE }), signal);
    return { rows: page.audit, next: page.next };
  }, [app ?? null]);
  const columns = [
    ["Time (UTC)", (row) => html`<span class="nowrap">${time(row.at)}</span>`],
    ["Who", (row) => html`<${Text} value=${row.actor} />`],
    ["Operation", (row) => html`<code>${row.action}</code>`],
    !app && ["App", (row) => (row.app ? html`<${Text} value=${row.app} />` : "")],
    ["Details", (row) => html`<code class="message"><${Text} value=${JSON.stringify(row.detail)} /></code>`],
    ["Request", (row) => html`<code title=${row.request_id}>${row.request_id.slice(-12)}</code>`],
  ].filter(Boolean);
  return html`<div>
    ${!app && html`<h1 tabindex="-1">Audit</h1>`}
    <${Listing} pages=${pages} columns=${columns} what="operations" />
  </div>`;
}
