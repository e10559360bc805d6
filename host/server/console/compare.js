// Two versions of a plugin side by side.

import { get, path } from "./api.js";
import { html, useEffect, useLoad, useState, Field, Refusal, Table, Text, grantText } from "./ui.js";
import { size, time } from "./text.js";
import { watches } from "./triggers.js";

const NAMES_MAX = 200;

/** What a version may do, as lines of text. */
function permissions({ needs = {} }) {
  return [
    ...(needs.http ?? []).map((origin) => grantText({ kind: "http_origin", origin })),
    ...(needs.secrets ?? []).map(({ name }) => grantText({ kind: "secret", name })),
    ...(needs.timers ? ["timers"] : []),
  ];
}

const settings = ({ needs = {} }) => (needs.config ?? []).map((need) => `${need.name}: ${need.type}${need.required === false ? ", optional" : ""}`);

const withPolicy = (trigger) => [
  watches(trigger),
  trigger.attempts_max && `${trigger.attempts_max} attempts`,
  trigger.age_max_ms && `for ${trigger.age_max_ms / 1000} s`,
].filter(Boolean).join(", ");

const triggersOf = (kind) => ({ triggers = [] }) => triggers.filter(kind).map((trigger) => `${trigger.name}: ${withPolicy(trigger)}`);

const PARTS = [
  ["Functions", ({ functions }) => functions],
  ["HTTP handler", ({ http }) => (http ? [http] : [])],
  ["Triggers", triggersOf((trigger) => !trigger.schedule)],
  ["Schedules", triggersOf((trigger) => trigger.schedule)],
  ["Watched collections", ({ triggers = [] }) => [...new Set(triggers.map((trigger) => trigger.collection).filter(Boolean))]],
  ["Permissions", permissions],
  ["Configuration", settings],
];

/** What only one of two lists has, and how many both have. */
export function difference(left, right) {
  const [ofLeft, ofRight] = [new Set(left), new Set(right)];
  return {
    left: left.filter((each) => !ofRight.has(each)),
    right: right.filter((each) => !ofLeft.has(each)),
    same: left.filter((each) => ofRight.has(each)).length,
  };
}

function Lines({ lines }) {
  if (lines.length === 0) return html`<span class="dim">–</span>`;
  return html`<ul>${lines.slice(0, NAMES_MAX).map((line) => html`<li key=${line}><${Text} value=${line} /></li>`)}
    ${lines.length > NAMES_MAX && html`<li class="dim">and ${lines.length - NAMES_MAX} more</li>`}</ul>`;
}

function Result({ left, right }) {
  const rows = PARTS.map(([name, of]) => ({ name, ...difference(of(left), of(right)) }));
  const grown = right.size - left.size;
  const columns = [
    ["Part", (row) => row.name],
    [`Only in ${left.version}`, (row) => html`<${Lines} lines=${row.left} />`],
    [`Only in ${right.version}`, (row) => html`<${Lines} lines=${row.right} />`],
    ["In both", (row) => row.same],
  ];
  const about = (row) => html`<p>Version ${row.version}: ${size(row.size)}, <code>${row.digest.slice(0, 12)}</code>, uploaded ${time(row.created_at)} by <${Text} value=${row.created_by} /></p>`;
  return html`<div role="region" aria-label="Comparison">
    ${about(left)}${about(right)}
    <p>${left.digest === right.digest ? "Both have the same module." : `Version ${right.version} is ${size(Math.abs(grown))} ${grown < 0 ? "smaller" : "larger"} than version ${left.version}.`}</p>
    <${Table} rows=${rows} columns=${columns} what="differences" />
  </div>`;
}

/** `chosen`: the versions to compare at first, as numbers or `null`. */
export function Compare({ app, chosen }) {
  const [typed, setTyped] = useState(["", ""]);
  const [asked, setAsked] = useState(null);
  useEffect(() => {
    if (!chosen) return;
    setTyped(chosen.map(String));
    setAsked(chosen.map(String));
  }, [chosen]);
  const of = (version, signal) => get(path(["apps", app, "plugins", version]), signal);
  const loaded = useLoad(async (signal) => (asked ? Promise.all(asked.map((version) => of(version, signal))) : null), [app, asked]);
  const field = (at, label) => html`<${Field} label=${label}><input name=${at === 0 ? "left" : "right"} required inputmode="numeric" pattern="[1-9][0-9]*" value=${typed[at]}
    onInput=${(event) => setTyped(typed.map((text, index) => (index === at ? event.target.value : text)))} /><//>`;
  return html`<section aria-label="Compare"><h2>Compare</h2>
    <form class="tools" onSubmit=${(event) => { event.preventDefault(); setAsked([...typed]); }}>
      ${field(0, "Version")}${field(1, "With version")}
      <button type="submit">Compare</button>
    </form>
    <${Refusal} problem=${loaded.problem} />
    ${loaded.data && html`<${Result} left=${loaded.data[0]} right=${loaded.data[1]} />`}
  </section>`;
}
