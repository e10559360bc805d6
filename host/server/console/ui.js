// Parts that all views use.

import { h, render, Fragment } from "./vendor/preact.js";
import { useEffect, useMemo, useRef, useState } from "./vendor/hooks.js";
import htm from "./vendor/htm.js";
import { may } from "./access.js";
import { hidden, pieces } from "./text.js";

export const html = htm.bind(h);
export { Fragment, render, useEffect, useMemo, useRef, useState };

const TEXT_MAX = 20_000;
const PIECES_MAX = 500;

/** Text of others, isolated in its direction, with hidden characters written out. */
export function Text({ value, block = false }) {
  const text = String(value ?? "");
  const found = pieces(text.slice(0, TEXT_MAX), block, PIECES_MAX);
  const left = Math.max(0, text.length - TEXT_MAX) + (found.at(-1)?.rest ?? 0);
  return html`<bdi class="text">${found.map((piece) => (
    piece.mark ? html`<span class="mark">${piece.mark}</span>` : piece.text
  ))}${left > 0 && html`<span class="dim"> … ${left} more characters</span>`}</bdi>`;
}

/** A link within the console. */
export function link(segments, query = {}) {
  const given = new URLSearchParams(Object.entries(query).filter(([, value]) => value));
  const text = given.toString();
  return `#/${segments.map(encodeURIComponent).join("/")}${text ? `?${text}` : ""}`;
}

/** Why a request was refused. A missing scope is not an error: it is a sentence. */
export function Refusal({ problem }) {
  if (!problem) return null;
  const isScope = problem.status === 403;
  return html`<div class=${isScope ? "note" : "note bad"} role=${isScope ? "note" : "alert"}>
    <strong>${isScope ? "Not with this token" : problem.title}</strong>
    <p><${Text} value=${problem.message} block /></p>
    ${problem.unmet?.length > 0 && html`<${Unmet} unmet=${problem.unmet} />`}
    ${problem.requestId && html`<p class="dim">Request <code><${Text} value=${problem.requestId} /></code></p>`}
  </div>`;
}

/** A sentence about what needs a scope that the token does not have. */
export function Lacks({ scope, to }) {
  if (may(scope)) return null;
  return html`<p class="note" role="note">To ${to}, a token needs the scope <code>${scope}</code>, which this one does not have.</p>`;
}

/** A permission, as text. */
export function grantText(grant) {
  if (grant.kind === "http_origin") return `requests to ${grant.origin}`;
  if (grant.kind === "secret") return `reads of the secret ${grant.name}`;
  return grant.kind;
}

function Unmet({ unmet }) {
  const text = (need) => {
    if (need.missing === "grant") return `Not granted: ${grantText(need.grant)}`;
    if (need.missing === "config") return `Configuration value ${need.name} (${need.type}) is not set`;
    if (need.missing === "config_type") return `Configuration value ${need.name} is not of the type ${need.type}`;
    return `Secret ${need.name} is not set`;
  };
  return html`<ul>${unmet.map((need) => html`<li><${Text} value=${text(need)} /></li>`)}</ul>`;
}

/** Loads data when `deps` change; a request that is no longer needed is cancelled. */
export function useLoad(load, deps) {
  const [turn, setTurn] = useState(0);
  const [state, setState] = useState({ loading: true });
  useEffect(() => {
    const stop = new AbortController();
    setState((old) => ({ ...old, loading: true }));
    load(stop.signal).then(
      (data) => !stop.signal.aborted && setState({ data, loading: false }),
      (problem) => !stop.signal.aborted && setState({ problem, loading: false }),
    );
    return () => stop.abort();
  }, [...deps, turn]);
  return { ...state, reload: () => setTurn((old) => old + 1) };
}

/** One page of a list at a time. `load(cursor, signal)` returns `{rows, next}`. */
export function usePages(load, deps) {
  const key = JSON.stringify(deps);
  const [place, setPlace] = useState({ key, cursors: [undefined] });
  const cursors = place.key === key ? place.cursors : [undefined];
  const state = useLoad((signal) => load(cursors.at(-1), signal), [key, cursors.at(-1)]);
  return {
    ...state,
    rows: state.data?.rows ?? [],
    number: cursors.length,
    back: cursors.length > 1 ? () => setPlace({ key, cursors: cursors.slice(0, -1) }) : null,
    next: state.data?.next ? () => setPlace({ key, cursors: [...cursors, state.data.next] }) : null,
  };
}

export function Pager({ pages, what }) {
  return html`<nav class="pager" aria-label=${`Pages of ${what}`}>
    <button type="button" disabled=${!pages.back || pages.loading} onClick=${pages.back}>Previous</button>
    <span role="status">Page ${pages.number}${pages.loading ? ", loading" : ""}</span>
    <button type="button" disabled=${!pages.next || pages.loading} onClick=${pages.next}>Next</button>
    <button type="button" disabled=${pages.loading} onClick=${pages.reload}>Reload</button>
  </nav>`;
}

/** A page of rows as a table, with its refusal and pager. `columns`: `[title, cell(row)]`, and the scope without which a column is left out. */
export function Listing({ pages, columns, what, id }) {
  const empty = !pages.loading && !pages.problem && pages.rows.length === 0;
  return html`<${Fragment}>
    <${Refusal} problem=${pages.problem} />
    ${pages.rows.length > 0 && html`<${Table} rows=${pages.rows} columns=${columns} what=${what} id=${id} />`}
    ${empty && html`<p class="empty">No ${what}.</p>`}
    <${Pager} pages=${pages} what=${what} />
  <//>`;
}

export function Table({ rows, columns: all, what, id = (row) => row.id ?? row.name }) {
  const columns = all.filter(([, , scope]) => !scope || may(scope));
  return html`<div class="scroll" role="region" aria-label=${`Table of ${what}`} tabindex="0"><table role="table">
    <thead role="rowgroup"><tr role="row">${columns.map(([title]) => html`<th role="columnheader" scope="col">${title}</th>`)}</tr></thead>
    <tbody role="rowgroup">${rows.map((row) => html`<tr role="row" key=${id(row)}>${columns.map(([title, cell]) => (
      html`<td role="cell" data-label=${title}><div>${cell(row)}</div></td>`))}</tr>`)}</tbody>
  </table></div>`;
}

export function Field({ label, children, hint }) {
  return html`<label class="field"><span>${label}</span>${children}${hint && html`<small>${hint}</small>`}</label>`;
}

/** Buttons and forms that send a request: busy meanwhile, then a refusal or what was done. */
export function useAction(run) {
  const [state, setState] = useState({});
  const start = async (...values) => {
    setState({ busy: true });
    try {
      const done = await run(...values);
      setState({ done: done ?? true });
    } catch (problem) {
      if (problem.name === "AbortError") return;
      setState({ problem });
    }
  };
  return { ...state, start, clear: () => setState({}) };
}

/** A modal dialog; Escape and its button close it. */
export function Dialog({ title, children, onClose }) {
  const ref = useRef(null);
  useEffect(() => {
    const before = document.activeElement;
    ref.current.showModal();
    return () => before?.focus?.();
  }, []);
  return html`<dialog ref=${ref} aria-label=${title} onCancel=${(event) => { event.preventDefault(); onClose(); }}>
    <h2>${title}</h2>
    ${children}
  </dialog>`;
}

/** Asks before something that cannot be undone; with `word`, it must be typed. */
export function Confirm({ title, children, word, action, danger = true, onConfirm, onClose, closed }) {
  const [typed, setTyped] = useState("");
  const act = useAction(onConfirm);
  useEffect(() => {
    if (act.done) (closed ?? onClose)();
  }, [act.done]);
  return html`<${Dialog} title=${title} onClose=${onClose}>
    <form onSubmit=${(event) => { event.preventDefault(); act.start(); }}>
      ${children}
      ${word && html`<${Field} label=${html`Type <code>${word}</code> to confirm`}>
        <input name="confirm" autocomplete="off" spellcheck=${false} value=${typed} onInput=${(event) => setTyped(event.target.value)} />
      <//>`}
      <${Refusal} problem=${act.problem} />
      <p class="buttons">
        <button type="submit" class=${danger ? "danger" : "primary"} disabled=${act.busy || (word && typed !== word)}>${action}</button>
        <button type="button" onClick=${onClose}>Cancel</button>
      </p>
    </form>
  <//>`;
}

/** Shows text that is being edited once more, if it has characters that the editor does not show. */
export function HiddenCharacters({ text }) {
  const found = hidden(text);
  if (found === 0) return null;
  return html`<div class="note"><p>Hidden characters in the text: ${found}</p><pre><${Text} value=${text} block /></pre></div>`;
}

/** How much of a limit is used. */
export function Usage({ used, limit, format, label }) {
  const text = limit === null || limit === undefined ? format(used) : `${format(used)} of ${format(limit)}`;
  return html`<span class="usage">
    ${limit > 0 && html`<meter min="0" max=${limit} high=${limit * 0.9} value=${Math.min(used, limit)} aria-label=${label}></meter>`}
    <span>${text}</span>
  </span>`;
}

export const Definitions = ({ rows }) => html`<dl>
  ${rows.filter(Boolean).map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}
</dl>`;
