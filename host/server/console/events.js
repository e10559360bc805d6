// Timers and outstanding deliveries.

import { get, json, path } from "./api.js";
import { may } from "./access.js";
import { html, useAction, useLoad, usePages, useState } from "./ui.js";
import { Confirm, Definitions, Dialog, Field, Lacks, Listing, Refusal, Text } from "./ui.js";
import { Hex, Tree, fromBase64 } from "./values.js";
import { plural, shown, size, time } from "./text.js";

export { Triggers } from "./triggers.js";

const PAGE = 25;

/** An event: what happened, and the value that was written. */
export function Event({ event }) {
  return html`<div>
    <${Definitions} rows=${[
      ["Event", html`<${Text} value=${event.kind} />`],
      ["At", time(event.at)],
      event.collection && ["Collection", html`<${Text} value=${event.collection} />`],
      event.key !== null && event.key !== undefined && ["Key", html`<${Text} value=${event.key} />`],
      event.version && ["Version", event.version],
      event.timer && ["Timer", html`<${Text} value=${event.timer} />`],
      ["Depth", event.depth],
      ["Event id", html`<code>${event.id}</code>`],
      event.trace_id && ["Trace", html`<code><${Text} value=${event.trace_id} /></code>`],
    ]} />
    ${event.json !== undefined && html`<div class="value"><${Tree} value=${event.json} /></div>`}
    ${event.bytes !== undefined && html`<div class="value"><${Hex} bytes=${fromBase64(event.bytes)} /></div>`}
  </div>`;
}

/** Counts what a selection would affect, then asks. */
export function Bulk({ title, action, target, selection, member, what, danger, onClose, onDone }) {
  const counted = useLoad((signal) => json("POST", target, { ...selection, dry_run: true }, { signal }), [target]);
  const number = counted.data?.[member];
  return html`<${Confirm} title=${title} action=${number === undefined ? action : `${action} ${plural(number, ...what)}`} danger=${danger}
    onConfirm=${async () => { const done = await json("POST", target, selection); onDone(done[member]); }} onClose=${onClose} closed=${() => {}}>
    <${Refusal} problem=${counted.problem} />
    <p role="status">${number === undefined ? "Counting …" : html`A dry run found <strong>${plural(number, ...what)}</strong>, of at most 1,000 at once.`}</p>
    ${danger && html`<p>This cannot be undone.</p>`}
  <//>`;
}

export function Timers({ app }) {
  const pages = usePages(async (after, signal) => {
    const page = await get(path(["apps", app, "timers"], { after, limit: PAGE }), signal);
    return { rows: page.timers, next: page.next };
  }, [app]);
  const [cancelling, setCancelling] = useState(null);
  const run = useAction(async (row) => {
    const { done } = await json("POST", path(["apps", app, "timers", "run"]), { timer: row.timer });
    pages.reload();
    return done ? "It is due now." : "There is no such timer, or its handler is running.";
  });
  const columns = [
    ["Timer", (row) => html`<${Text} value=${row.timer} />`],
    ["Set for", (row) => time(row.at)],
    ["State", (row) => `${row.state}, ${plural(row.attempts, "attempt")}`],
    ["Error", (row) => (row.error ? html`<${Text} value=${row.error} block />` : "")],
    ["Payload", (row) => { const { length } = fromBase64(row.payload); return size(length); }],
    ["Actions", (row) => html`<span class="buttons"><button type="button" aria-label=${`Run ${shown(row.timer)} now`} onClick=${() => run.start(row)}>Run now</button>
      <button type="button" aria-label=${`Cancel ${shown(row.timer)}`} onClick=${() => setCancelling(row)}>Cancel</button></span>`, "script:write"],
  ];
  return html`<div>
    <${Refusal} problem=${run.problem} /><p role="status">${run.done}</p>
    <${Lacks} scope="script:write" to="run or cancel a timer" />
    <${Listing} pages=${pages} columns=${columns} what="timers" id=${(row) => `t${row.timer}`} />
    ${cancelling && html`<${Confirm} title="Cancel the timer" action="Cancel the timer" onClose=${() => setCancelling(null)}
      closed=${() => { setCancelling(null); pages.reload(); }}
      onConfirm=${() => json("POST", path(["apps", app, "timers", "cancel"]), { timer: cancelling.timer })}>
      <p><${Text} value=${cancelling.timer} /></p><//>`}
  </div>`;
}

export function Deliveries({ app }) {
  const [trigger, setTrigger] = useState("");
  const [applied, setApplied] = useState("");
  const [open, setOpen] = useState(null);
  const [bulk, setBulk] = useState(null);
  const [said, setSaid] = useState("");
  const pages = usePages(async (after, signal) => {
    const page = await get(path(["apps", app, "deliveries"], { after, trigger: applied, limit: PAGE }), signal);
    return { rows: page.deliveries, next: page.next };
  }, [app, applied]);
  const columns = [
    ["Trigger", (row) => html`<${Text} value=${row.trigger} />`],
    ["Event", (row) => html`<${Text} value=${`${row.event.kind} ${row.event.key ?? row.event.timer ?? ""}`} />`],
    ["State", (row) => `${row.state}, attempt ${row.attempts} of ${row.attempts_max}`],
    ["Due", (row) => time(row.due_at)],
    ["Error", (row) => (row.error ? html`<span class="message"><${Text} value=${row.error} block /></span>` : "")],
    ["Actions", (row) => html`<span class="buttons"><button type="button" aria-label=${`Inspect ${row.event.id}`} onClick=${() => setOpen(row)}>Inspect</button>
      ${may("script:write") && html`<button type="button" aria-label=${`Discard ${row.event.id}`} onClick=${() => setBulk({ events: [row.event.id], trigger: row.trigger })}>Discard</button>`}</span>`],
  ];
  return html`<div>
    <form class="tools" onSubmit=${(event) => { event.preventDefault(); setApplied(trigger.trim()); }}>
      <${Field} label="Trigger"><input name="trigger" value=${trigger} onInput=${(event) => setTrigger(event.target.value)} /><//>
      <button type="submit">Filter</button>
      ${may("script:write") && html`<button type="button" class="danger" onClick=${() => setBulk(applied === "" ? { all: true } : { trigger: applied })}>Discard ${applied === "" ? "all" : "those of the trigger"} …</button>`}
    </form>
    <${Lacks} scope="script:write" to="discard a delivery" />
    <p role="status">${said}</p>
    <${Listing} pages=${pages} columns=${columns} what="deliveries" id=${(row) => `${row.event.id} ${row.trigger}`} />
    ${open && html`<${Dialog} title="Delivery" onClose=${() => setOpen(null)}>
      ${open.error && html`<pre><${Text} value=${open.error} block /></pre>`}<${Event} event=${open.event} />
      <p class="buttons"><button type="button" onClick=${() => setOpen(null)}>Close</button></p><//>`}
    ${bulk && html`<${Bulk} title="Discard deliveries" action="Discard" danger what=${["delivery", "deliveries"]} target=${path(["apps", app, "deliveries", "discard"])}
      selection=${bulk} member="deliveries" onClose=${() => setBulk(null)}
      onDone=${(number) => { setBulk(null); setSaid(`Discarded: ${number}`); pages.reload(); }} />`}
  </div>`;
}
