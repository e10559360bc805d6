// What needs a person, the hosts, and what they did.

import { get, path } from "./api.js";
import { isOfOneApp, may } from "./access.js";
import { html, link, useEffect, useLoad, useRef, useState } from "./ui.js";
import { Definitions, Refusal, Table, Text } from "./ui.js";
import { Chart, useColours } from "./chart.js";
import { count, plural, size, time } from "./text.js";

const REFRESH_MS = 15_000;

/** Loads again while the page is visible, and as soon as it is again. */
function useRefresh(reload) {
  const latest = useRef(reload);
  latest.current = reload;
  useEffect(() => {
    const look = () => document.visibilityState === "visible" && latest.current();
    const timer = setInterval(look, REFRESH_MS);
    document.addEventListener("visibilitychange", look);
    return () => {
      clearInterval(timer);
      document.removeEventListener("visibilitychange", look);
    };
  }, []);
}

function duration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 120_000) return `${(ms / 1000).toFixed(1)} s`;
  const minutes = Math.floor(ms / 60_000);
  return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h`;
}

const micro = (us) => (us === null || us === undefined ? "–" : us < 1000 ? `${us} µs` : `${Number((us / 1000).toPrecision(3))} ms`);

const KINDS = [
  ["paused_triggers", ["app with paused triggers", "apps with paused triggers"], "triggers", (one) => plural(one.amount, "trigger")],
  ["late_schedules", ["late schedule", "late schedules"], "triggers", (one) => html`<${Text} value=${one.name} />, late by ${duration(one.amount)}`],
  ["overdue", ["app with overdue deliveries", "apps with overdue deliveries"], "deliveries", (one) => `for ${duration(one.amount)}`],
  ["quotas", ["quota used for 90 % or more", "quotas used for 90 % or more"], "overview", (one) => html`<${Text} value=${one.name} />, ${count(one.amount)} %`],
  ["dead_letters", ["app with dead letters", "apps with dead letters"], "letters", (one) => plural(one.amount, "dead letter")],
];

function Concern({ list, title, tab, detail }) {
  const left = list.total - list.worst.length;
  return html`<li><strong>${plural(list.total, ...title)}</strong>
    <ul class="inline">${list.worst.map((one) => html`<li key=${`${one.app}/${one.name ?? ""}`}>
      <a href=${link(["apps", one.app, tab])}><${Text} value=${one.app} /></a> <span>${detail(one)}</span></li>`)}
      ${left > 0 && html`<li>and ${count(left)} more</li>`}</ul></li>`;
}

function Attention({ data }) {
  const { attention, hosts } = data;
  const kinds = attention ? KINDS.filter(([name]) => attention[name].total > 0) : [];
  const tasks = data.failing_tasks;
  const bad = hosts.gone > 0 || tasks.length > 0 || kinds.length > 0;
  const as = attention ? `Apps as of ${time(attention.sampled_at)} UTC.` : "The apps have not been looked at yet.";
  if (!bad) return html`<p class=${attention ? "note good" : "note"} role="note">${attention && "Nothing needs a person. "}${as}</p>`;
  return html`<section class="note bad attention" aria-label="Needs a person">
    <strong>Needs a person</strong>
    <ul>
      ${hosts.gone > 0 && html`<li><strong>${plural(hosts.gone, "host")} gone</strong> without a goodbye; see below.</li>`}
      ${tasks.length > 0 && html`<li><strong>Background tasks failing</strong> on the host that answered: <${Text} value=${tasks.join(", ")} /></li>`}
      ${kinds.map(([name, title, tab, detail]) => html`<${Concern} key=${name} list=${attention[name]} title=${title} tab=${tab} detail=${detail} />`)}
    </ul>
    <p class="dim">${as}</p>
  </section>`;
}

const HOSTS = [
  ["Host", (host) => html`<${Text} value=${host.name} />`],
  ["State", (host) => (host.state === "gone" ? html`<span class="level error">gone</span>` : html`<${Text} value=${host.state} />`)],
  ["Last seen (UTC)", (host) => html`<span class="nowrap">${time(host.seen_at)}</span>`],
  ["Since (UTC)", (host) => html`<span class="nowrap">${time(host.started_at)}</span>`],
  ["Version", (host) => html`<${Text} value=${host.version} />`],
  ["Process", (host) => html`<code title=${host.id}>${host.id.slice(-12)}</code>`],
];

function Hosts({ hosts }) {
  const left = hosts.alive + hosts.gone + hosts.stopped - hosts.list.length;
  return html`<section aria-label="Hosts">
    <h2>Hosts</h2>
    <p>${plural(hosts.alive, "host")} alive${hosts.gone > 0 && `, ${count(hosts.gone)} gone`}${hosts.stopped > 0 && `, ${count(hosts.stopped)} stopped within a day`}.</p>
    ${hosts.list.length > 0 && html`<${Table} rows=${hosts.list} columns=${HOSTS} what="hosts" />`}
    ${left > 0 && html`<p class="dim">and ${count(left)} more</p>`}
  </section>`;
}

const orNull = (value) => value ?? null;

/** The charts: title, series by label, how to write a value, and a sentence. */
function charts({ series, total }, words) {
  const values = (read) => series.map(read);
  const last = (read) => series.map(read).findLast((value) => value !== null && value !== undefined);
  const whole = (value) => count(value ?? 0);
  return [
    ["Runs of functions", { runs: values((one) => one.calls), failed: values((one) => one.failed) }, whole,
      `${plural(total.calls, "run")} ${words}, of which ${count(total.failed)} failed.`],
    ["Duration (estimated)", { p50: values((one) => orNull(one.p50_us)), p99: values((one) => orNull(one.p99_us)) }, micro,
      `Half of the runs ${words} took at most ${micro(total.p50_us)}, 99 % at most ${micro(total.p99_us)}.`],
    ["Deliveries", { done: values((one) => one.delivered), "failed attempts": values((one) => one.undelivered) }, whole,
      `${plural(total.delivered, "delivery", "deliveries")} ${words}, and ${plural(total.undelivered, "failed attempt")}.`],
    ["Longest lag of a delivery", { lag: values((one) => one.lag_ms) }, duration,
      `A delivery was late by at most ${duration(total.lag_ms)} ${words}.`],
    ["Waiting", { outstanding: values((one) => orNull(one.pending)), "dead letters": values((one) => orNull(one.dead_letters)) }, whole,
      `${whole(last((one) => one.pending))} outstanding deliveries and ${whole(last((one) => one.dead_letters))} dead letters now.`],
    ["Size of the database", { size: values((one) => orNull(one.store_bytes)) }, size,
      `The database has ${size(last((one) => one.store_bytes) ?? 0)} now.`],
  ];
}

const NUMBERS = [
  ["From (UTC)", (row) => html`<span class="nowrap">${time(row.at).slice(0, 16)}</span>`],
  ["Runs", (row) => count(row.calls)],
  ["Failed", (row) => count(row.failed)],
  ["p50", (row) => micro(row.p50_us)],
  ["p99", (row) => micro(row.p99_us)],
  ["Delivered", (row) => count(row.delivered)],
  ["Failed attempts", (row) => count(row.undelivered)],
  ["Lag", (row) => duration(row.lag_ms)],
  ["Outstanding", (row) => (row.pending === null ? "–" : count(row.pending))],
  ["Dead letters", (row) => (row.dead_letters === null ? "–" : count(row.dead_letters))],
  ["Database", (row) => (row.store_bytes === null ? "–" : size(row.store_bytes))],
];

/** The numbers of the charts; made only when asked for. */
function Numbers({ series }) {
  const [open, setOpen] = useState(false);
  return html`<details onToggle=${(event) => setOpen(event.target.open)}>
    <summary>The charts as a table</summary>
    ${open && html`<${Table} rows=${series.toReversed()} columns=${NUMBERS} what="numbers" id=${(row) => row.at} />`}
  </details>`;
}

function Shown({ data }) {
  const colours = useColours();
  const words = data.window === "1d" ? "in the last day" : "in the last hour";
  const times = data.series.map((one) => one.at);
  const last = data.series.findLast((one) => one.apps !== null);
  return html`<div>
    <${Attention} data=${data} />
    <${Definitions} rows=${[
      ["Runs", count(data.total.calls)],
      ["Failed", count(data.total.failed)],
      ["p50, p99 (estimated)", `${micro(data.total.p50_us)}, ${micro(data.total.p99_us)}`],
      ["Deliveries", count(data.total.delivered)],
      last && ["Apps", count(last.apps)],
      last && ["Paused triggers", count(last.paused_triggers)],
    ]} />
    <div class="charts">${charts(data, words).map(([title, series, format, summary]) => html`
      <${Chart} key=${title} title=${title} times=${times} format=${format} summary=${summary} colours=${colours}
        series=${Object.entries(series).map(([label, values]) => ({ label, values }))} />`)}</div>
    <${Numbers} series=${data.series} />
    <${Hosts} hosts=${data.hosts} />
  </div>`;
}

function Loaded() {
  const [span, setSpan] = useState("1h");
  const loaded = useLoad((signal) => get(path(["overview"], { window: span }), signal), [span]);
  useRefresh(loaded.reload);
  const kept = useRef(null);
  if (loaded.data) kept.current = loaded.data;
  const choice = (name, label) => html`<button type="button" aria-pressed=${span === name} onClick=${() => setSpan(name)}>${label}</button>`;
  return html`<div>
    <h1 tabindex="-1">Overview</h1>
    <div class="buttons" role="group" aria-label="Time">${choice("1h", "Last hour")}${choice("1d", "Last day")}
      <span class="dim">${kept.current && `As of ${time(kept.current.now).slice(0, 19)} UTC`}</span></div>
    <${Refusal} problem=${loaded.problem} />
    ${kept.current && html`<${Shown} data=${kept.current} />`}
  </div>`;
}

export function Overview() {
  if (may("app:read") && !isOfOneApp()) return html`<${Loaded} />`;
  return html`<div>
    <h1 tabindex="-1">Overview</h1>
    <p class="note" role="note">To see all hosts and apps, a token needs the scope <code>app:read</code> for all apps, which this one does not have.</p>
  </div>`;
}
