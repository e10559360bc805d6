// The log of an app, followed as it grows.

import { lines, path, reconnecting, rowsOf, send } from "./api.js";
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

/** A page of the log, and from where older lines are searched, if there may be any. */
async function page(app, filter, before, signal) {
  const response = await send("GET", path(["apps", app, "logs"], { ...filter, before, limit: FIRST }), { signal });
  return { rows: await rowsOf(response), next: response.headers.get("Kvasm-Next") };
}

/** Reads older pages until there are enough lines: one page searches only a part of the log. */
async function older(app, filter, first, signal, showOlder) {
  let { rows, next } = first;
  let count = rows.length;
  while (next && count < FIRST && !signal.aborted) {
    ({ rows, next } = await page(app, filter, next, signal));
    count += rows.length;
    showOlder(rows);
  }
}

/**
 * Shows the first rows and follows the log from there until the signal; reconnects where it ended. That
 * is a time and not a sequence number, which begins again when the host restarts.
 */
function follow(app, filter, begin, signal, show, tell) {
  let isBegun = false;
  let since;
  let newest = new Set();
  const remember = (some) => {
    const last = Math.max(...some.map((row) => row.at));
    if (last !== since) newest = new Set();
    since = last;
    for (const row of some) if (row.at === since) newest.add(row.seq);
  };
  return reconnecting(signal, tell, async () => {
    if (!isBegun) {
      const rows = await begin();
      isBegun = true;
      if (rows.length > 0) remember(rows);
    }
    const target = path(["apps", app, "logs"], { ...filter, since, limit: ROWS_MAX, follow: "true" });
    const response = await send("GET", target, { signal });
    tell("following");
    for await (const some of lines(response)) {
      const fresh = some.filter((row) => row.at !== since || !newest.has(row.seq));
      if (fresh.length === 0) continue;
      remember(fresh);
      show(fresh);
    }
  });
}

export function Logs({ app, query }) {
  const [level, setLevel] = useState("");
  const [request, setRequest] = useState(query.request ?? "");
  const [name, setName] = useState(query.function ?? "");
  const [text, setText] = useState(query.text ?? "");
  const [following, setFollowing] = useState(true);
  const [turn, setTurn] = useState(0);
  const [rows, setRows] = useState([]);
  const [state, setState] = useState("");
  const [searching, setSearching] = useState(false);
  const [problem, setProblem] = useState(null);
  const waiting = useRef([]);
  useEffect(() => {
    setRequest(query.request ?? "");
    setName(query.function ?? "");
    setText(query.text ?? "");
  }, [query.request, query.function, query.text]);
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
    const filter = { level, request: query.request, function: query.function, grep: query.text };
    const unless = (change) => (value) => { if (!stop.signal.aborted) change(value); };
    const refused = unless((error) => { setProblem(error); setSearching(false); setState(""); });
    const showOlder = unless((some) => setRows((old) => [...some, ...old].slice(-ROWS_MAX)));
    const begin = async () => {
      const first = await page(app, filter, undefined, stop.signal);
      show(first.rows);
      older(app, filter, first, stop.signal, showOlder).then(unless(() => setSearching(false)), refused);
      return first.rows;
    };
    setSearching(true);
    const run = following ? follow(app, filter, begin, stop.signal, show, unless(setState)) : begin();
    run.then(unless(() => setState("")), refused);
    return () => { clearInterval(draw); stop.abort(); };
  }, [app, level, query.request, query.function, query.text, following, turn]);
  const filtered = () => link(["apps", app, "logs"], { request: request.trim(), function: name.trim(), text });
  return html`<div>
    <form class="tools" onSubmit=${(event) => { event.preventDefault(); location.hash = filtered(); }}>
      <${Field} label="Level at least"><select value=${level} onChange=${(event) => setLevel(event.target.value)}>
        <option value="">all</option>${LEVELS.map((each) => html`<option value=${each}>${each}</option>`)}</select><//>
      <${Field} label="Request id"><input name="request" value=${request} onInput=${(event) => setRequest(event.target.value)} /><//>
      <${Field} label="Function"><input name="function" value=${name} onInput=${(event) => setName(event.target.value)} /><//>
      <${Field} label="Text"><input name="text" value=${text} onInput=${(event) => setText(event.target.value)} /><//>
      <button type="submit">Filter</button>
      <label class="check"><input type="checkbox" checked=${following} onChange=${(event) => setFollowing(event.target.checked)} /> Follow</label>
      ${!following && html`<button type="button" onClick=${() => setTurn(turn + 1)}>Reload</button>`}
    </form>
    <p class="dim">Lines of all hosts, the newest last; at most ${ROWS_MAX} are shown. <span role="status">${state}</span></p>
    ${query.request && html`<p><a href=${link(["apps", app, "calls"], { request: query.request })}>The call of this request</a></p>`}
    <${Refusal} problem=${problem} />
    ${rows.length > 0 ? html`<${LogTable} app=${app} rows=${rows} />` : !problem && html`<p class="empty">${searching ? "Searching older lines." : "No lines."}</p>`}
  </div>`;
}
