// The log of an app, followed as it grows.

import { lines, path, reconnecting, send } from "./api.js";
import { html, link, useEffect, useRef, useState, Field, Refusal, Table, Text } from "./ui.js";
import { time } from "./text.js";

/** Rows kept on the page. */
const ROWS_MAX = 500;
const FIRST = 100;
const LEVELS = ["trace", "debug", "info", "warn", "error"];

export function LogTable({ app, rows }) {
  const columns = [
    ["Time (UTC)", (row) => html`<span class="nowrap">${time(row.at)}</span>`],
    ["Level", (row) => html`<span class=${`level ${row.level}`}>${row.level}</span>`],
    ["Function", (row) => html`<${Text} value=${row.function} />`],
    ["Message", (row) => html`<span class="message"><${Text} value=${row.message} block /></span>
      ${row.source === "host" && html` <span class="dim">(host)</span>`}${row.discarded && html` <span class="dim">(discarded run)</span>`}
      ${row.cost && html` <span class="dim">${row.cost.cpu_us} µs</span>`}`],
    ["Request", (row) => html`<a href=${link(["apps", app, "logs"], { request: row.request_id })}><code title=${row.request_id}>${row.request_id.slice(-12)}</code></a>`],
  ];
  return html`<${Table} rows=${rows} columns=${columns} what="log lines" id=${(row) => `${row.seq} ${row.at}`} />`;
}

/**
 * Follows the log until the signal; reconnects where it ended. That is a time and not a sequence
 * number, which begins again when the host restarts.
 */
function follow(app, filter, signal, show, tell) {
  let since;
  let newest = new Set();
  return reconnecting(signal, tell, async () => {
    const limit = since === undefined ? FIRST : ROWS_MAX;
    const target = path(["apps", app, "logs"], { ...filter, since, limit, follow: "true" });
    const response = await send("GET", target, { signal });
    tell("following");
    for await (const some of lines(response)) {
      const fresh = some.filter((row) => row.at !== since || !newest.has(row.seq));
      if (fresh.length === 0) continue;
      const last = Math.max(...fresh.map((row) => row.at));
      if (last !== since) newest = new Set();
      since = last;
      for (const row of fresh) if (row.at === since) newest.add(row.seq);
      show(fresh);
    }
  });
}

async function once(app, filter, signal, show) {
  const response = await send("GET", path(["apps", app, "logs"], { ...filter, limit: FIRST }), { signal });
  for await (const some of lines(response)) show(some);
}

export function Logs({ app, query }) {
  const [level, setLevel] = useState("");
  const [request, setRequest] = useState(query.request ?? "");
  const [name, setName] = useState(query.function ?? "");
  const [following, setFollowing] = useState(true);
  const [turn, setTurn] = useState(0);
  const [rows, setRows] = useState([]);
  const [state, setState] = useState("");
  const [problem, setProblem] = useState(null);
  const [only, setOnly] = useState("");
  const waiting = useRef([]);
  useEffect(() => {
    setRequest(query.request ?? "");
    setName(query.function ?? "");
  }, [query.request, query.function]);
  useEffect(() => {
    const stop = new AbortController();
    setRows([]);
    setProblem(null);
    waiting.current = [];
    // A flood is drawn twice a second.
    const draw = setInterval(() => {
      if (waiting.current.length === 0) return;
      const more = waiting.current;
      waiting.current = [];
      setRows((old) => [...old, ...more].slice(-ROWS_MAX));
    }, 500);
    const show = (some) => {
      waiting.current = [...waiting.current, ...some].slice(-ROWS_MAX);
    };
    const filter = { level, request: query.request, function: query.function };
    const run = following ? follow(app, filter, stop.signal, show, setState) : once(app, filter, stop.signal, show);
    run.then(() => setState(""), (error) => { if (!stop.signal.aborted) { setProblem(error); setState(""); } });
    return () => { clearInterval(draw); stop.abort(); };
  }, [app, level, query.request, query.function, following, turn]);
  const text = only.toLowerCase();
  const found = text === "" ? rows : rows.filter((row) => `${row.message} ${row.function}`.toLowerCase().includes(text));
  return html`<div>
    <form class="tools" onSubmit=${(event) => { event.preventDefault(); location.hash = link(["apps", app, "logs"], { request: request.trim(), function: name.trim() }); }}>
      <${Field} label="Level at least"><select value=${level} onChange=${(event) => setLevel(event.target.value)}>
        <option value="">all</option>${LEVELS.map((each) => html`<option value=${each}>${each}</option>`)}</select><//>
      <${Field} label="Request id"><input name="request" value=${request} onInput=${(event) => setRequest(event.target.value)} /><//>
      <${Field} label="Function"><input name="function" value=${name} onInput=${(event) => setName(event.target.value)} /><//>
      <button type="submit">Filter</button>
      <${Field} label="Shown lines with"><input type="search" value=${only} onInput=${(event) => setOnly(event.target.value)} /><//>
      <label class="check"><input type="checkbox" checked=${following} onChange=${(event) => setFollowing(event.target.checked)} /> Follow</label>
      ${!following && html`<button type="button" onClick=${() => setTurn(turn + 1)}>Reload</button>`}
    </form>
    <p class="dim">Lines of all hosts, the newest last; at most ${ROWS_MAX} are shown. <span role="status">${state}</span></p>
    ${query.request && html`<p><a href=${link(["apps", app, "calls"], { request: query.request })}>The call of this request</a></p>`}
    <${Refusal} problem=${problem} />
    ${found.length > 0 ? html`<${LogTable} app=${app} rows=${found} />` : !problem && html`<p class="empty">No lines.</p>`}
  </div>`;
}
