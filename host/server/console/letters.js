// Dead letters: inspect, replay and discard one, some, or all that a filter selects.

import { get, path } from "./api.js";
import { may } from "./access.js";
import { html, link, useEffect, usePages, useState, Dialog, Definitions, Field, Lacks, Listing, Text } from "./ui.js";
import { Bulk, Event } from "./events.js";
import { plural, time } from "./text.js";

const PAGE = 25;
const REASONS = ["attempts", "age", "deterministic", "depth"];

function Letter({ app, letter, onClose, onReplay, onDiscard }) {
  return html`<${Dialog} title="Dead letter" onClose=${onClose}>
    <${Definitions} rows=${[
      ["Trigger", html`<${Text} value=${letter.trigger} />`],
      ["Calls", html`<${Text} value=${letter.function ?? "a webhook"} />`],
      ["Reason", letter.reason], ["Since", time(letter.dead_at)],
      ["Attempts", html`${letter.attempts} <a href=${link(["apps", app, "calls"], { trigger: letter.trigger, failed: "true" })}>Failed calls of this trigger</a>`],
      ["Replays", letter.replays],
      letter.plugin_version && ["Version", letter.plugin_version],
    ]} />
    <h3>Error</h3><pre><${Text} value=${letter.error} block /></pre>
    ${letter.trace && html`<h3>Trace</h3><pre tabindex="0"><${Text} value=${letter.trace} block /></pre>`}
    <h3>Event</h3><${Event} event=${letter.event} />
    <p class="buttons">${may("script:write") && html`<button type="button" class="primary" onClick=${onReplay}>Replay</button>
      <button type="button" class="danger" onClick=${onDiscard}>Discard</button>`}
      <button type="button" onClick=${onClose}>Close</button></p>
  <//>`;
}

export function Letters({ app }) {
  const [typed, setTyped] = useState({ trigger: "", reason: "" });
  const [filter, setFilter] = useState(typed);
  const [chosen, setChosen] = useState([]);
  const [open, setOpen] = useState(null);
  const [bulk, setBulk] = useState(null);
  const [said, setSaid] = useState("");
  const pages = usePages(async (before, signal) => {
    const page = await get(path(["apps", app, "dead-letters"], { before, ...filter, limit: PAGE }), signal);
    return { rows: page.dead_letters, next: page.next };
  }, [app, filter]);
  useEffect(() => setChosen([]), [pages.data]);
  const given = Object.fromEntries(Object.entries(filter).filter(([, value]) => value !== ""));
  const matching = Object.keys(given).length ? given : { all: true };
  const ask = (verb, selection) => { setOpen(null); setBulk({ verb, selection }); };
  const toggle = (id) => setChosen(chosen.includes(id) ? chosen.filter((each) => each !== id) : [...chosen, id]);
  const columns = [
    ["Chosen", (row) => html`<input type="checkbox" aria-label=${`Choose ${row.id}`} checked=${chosen.includes(row.id)} onChange=${() => toggle(row.id)} />`, "script:write"],
    ["Since", (row) => html`<span class="nowrap">${time(row.dead_at)}</span>`],
    ["Trigger", (row) => html`<${Text} value=${row.trigger} />`],
    ["Event", (row) => html`<${Text} value=${`${row.event.kind} ${row.event.key ?? row.event.timer ?? ""}`} />`],
    ["Reason", (row) => `${row.reason}, ${plural(row.attempts, "attempt")}`],
    ["Error", (row) => html`<span class="message"><${Text} value=${row.error.split("\n")[0].slice(0, 300)} /></span>`],
    ["Actions", (row) => html`<button type="button" aria-label=${`Inspect ${row.id}`} onClick=${() => setOpen(row)}>Inspect</button>`],
  ];
  const pair = (selection, label) => html`
    <button type="button" class="primary" onClick=${() => ask("replay", selection)}>Replay ${label} …</button>
    <button type="button" class="danger" onClick=${() => ask("discard", selection)}>Discard ${label} …</button>`;
  const all = matching.all ? "all" : "all that match";
  return html`<div>
    <form class="tools" onSubmit=${(event) => { event.preventDefault(); setFilter(typed); }}>
      <${Field} label="Trigger"><input name="trigger" value=${typed.trigger} onInput=${(event) => setTyped({ ...typed, trigger: event.target.value.trim() })} /><//>
      <${Field} label="Reason"><select name="reason" value=${typed.reason} onChange=${(event) => setTyped({ ...typed, reason: event.target.value })}>
        <option value="">any</option>${REASONS.map((each) => html`<option value=${each}>${each}</option>`)}</select><//>
      <button type="submit">Filter</button>
    </form>
    <${Lacks} scope="script:write" to="replay or discard a dead letter" />
    <p class="buttons">${may("script:write") && (chosen.length > 0 ? pair({ ids: chosen }, `${chosen.length} chosen`) : pages.rows.length > 0 && pair(matching, all))}</p>
    <p role="status">${said}</p>
    <${Listing} pages=${pages} columns=${columns} what="dead letters" />
    ${open && html`<${Letter} app=${app} letter=${open} onClose=${() => setOpen(null)} onReplay=${() => ask("replay", { ids: [open.id] })}
      onDiscard=${() => ask("discard", { ids: [open.id] })} />`}
    ${bulk && html`<${Bulk} title=${bulk.verb === "replay" ? "Replay dead letters" : "Discard dead letters"}
      action=${bulk.verb === "replay" ? "Replay" : "Discard"} danger=${bulk.verb === "discard"} what=${["dead letter"]}
      target=${path(["apps", app, "dead-letters", bulk.verb])} selection=${bulk.selection} member="letters" onClose=${() => setBulk(null)}
      onDone=${(number) => { setBulk(null); setSaid(`${bulk.verb === "replay" ? "Replayed" : "Discarded"}: ${number}`); pages.reload(); }} />`}
  </div>`;
}
