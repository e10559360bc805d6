// The page of an app: its tabs and overview.

import { get, path } from "./api.js";
import { html, link, useLoad, Definitions, Refusal, Text, Usage } from "./ui.js";
import { count, size, time } from "./text.js";
import { Versions } from "./versions.js";
import { Call } from "./call.js";
import { Calls } from "./calls.js";
import { Logs } from "./logs.js";
import { Entries } from "./entries.js";
import { Deliveries, Timers, Triggers } from "./events.js";
import { Letters } from "./letters.js";
import { Settings } from "./settings.js";
import { Tokens } from "./tokens.js";
import { Audit } from "./audit.js";

const TABS = [
  ["overview", "Overview", Overview],
  ["versions", "Versions", Versions],
  ["call", "Call", Call],
  ["calls", "Calls", Calls],
  ["logs", "Log", Logs],
  ["entries", "Entries", Entries],
  ["triggers", "Triggers", Triggers],
  ["timers", "Timers", Timers],
  ["deliveries", "Deliveries", Deliveries],
  ["letters", "Dead letters", Letters],
  ["settings", "Settings", Settings],
  ["tokens", "Tokens", Tokens],
  ["audit", "Audit", Audit],
];

export function App({ app, tab = "overview", query }) {
  const [name, title, View] = TABS.find(([known]) => known === tab) ?? TABS[0];
  return html`<div>
    <p class="crumbs"><a href=${link(["apps"])}>Apps</a> / <${Text} value=${app} /></p>
    <h1 tabindex="-1"><${Text} value=${app} /> <span class="dim">${title}</span></h1>
    <nav class="tabs" aria-label="Views of the app">${TABS.map(([known, label]) => html`
      <a href=${link(["apps", app, known])} aria-current=${known === name ? "page" : undefined}>${label}</a>`)}</nav>
    <${View} key=${name} app=${app} query=${query} />
  </div>`;
}

function Attention({ app, info, letters }) {
  const paused = (info?.paused_triggers ?? []).map((trigger) => html`<li>
    The trigger <a href=${link(["apps", app, "triggers"])}><${Text} value=${trigger.name} /></a> is paused
    (${trigger.paused === "failures" ? "after failures" : "by an operator"})${trigger.probe_at ? `; next probe ${time(trigger.probe_at)}` : ""}.</li>`);
  const dead = letters?.dead_letters.length
    ? html`<li>There are <a href=${link(["apps", app, "letters"])}>dead letters</a>; the newest of ${time(letters.dead_letters[0].dead_at)}.</li>`
    : null;
  if (!paused.length && !dead) return null;
  return html`<div class="note bad"><strong>Needs a person</strong><ul>${paused}${dead}</ul></div>`;
}

function Overview({ app }) {
  const info = useLoad((signal) => get(path(["apps", app]), signal), [app]);
  const usage = useLoad((signal) => get(path(["apps", app, "usage"]), signal), [app]);
  const letters = useLoad((signal) => get(path(["apps", app, "dead-letters"], { limit: 1 }), signal), [app]);
  const { data } = info;
  return html`<div>
    <${Refusal} problem=${info.problem} />
    <${Attention} app=${app} info=${data} letters=${letters.data} />
    ${data && html`<${Definitions} rows=${[
      ["Active version", data.plugin ? html`${data.plugin.version} <code class="dim">${data.plugin.digest.slice(0, 12)}</code>` : "none"],
      ["Calls without a token", data.public ? "allowed" : "refused"],
      usage.data && ["Entries", html`<${Usage} used=${usage.data.entries} limit=${usage.data.limits.entries} format=${count} label="Entries" />`],
      usage.data && ["Bytes", html`<${Usage} used=${usage.data.bytes} limit=${usage.data.limits.bytes} format=${size} label="Bytes" />`],
      usage.data && ["Outstanding deliveries", html`<${Usage} used=${usage.data.deliveries} limit=${usage.data.deliveries_max} format=${count} label="Deliveries" />`],
      ["Calls per second", data.limits.calls_per_second ?? "no limit"],
      ["Concurrent calls", data.limits.calls_at_once ?? "no limit"],
      ["Created", time(data.created_at)],
      ["Id", html`<code>${data.id}</code>`],
    ]} />`}
  </div>`;
}
