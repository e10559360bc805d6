// The table of apps.

import { get, json, path } from "./api.js";
import { isOfOneApp, may } from "./access.js";
import { html, link, useEffect, usePages, useState, useAction } from "./ui.js";
import { Dialog, Field, Listing, Refusal, Usage } from "./ui.js";
import { count, size } from "./text.js";

const PAGE = 25;
const ORDER = "-0123456789_abcdefghijklmnopqrstuvwxyz";
const NAME_MAX = 64;

/** A cursor before the first name with this prefix: the list has a cursor, but no prefix. */
export function before(prefix) {
  const last = ORDER.indexOf(prefix.at(-1));
  const rest = prefix.slice(0, -1);
  // No character comes before `-`: the prefix without it is the name just before.
  if (last <= 0) return rest === "" ? undefined : rest;
  return (rest + ORDER[last - 1]).padEnd(NAME_MAX, "z");
}

async function load(prefix, cursor, signal) {
  if (prefix !== "" && !/^[a-z0-9_-]{1,64}$/.test(prefix)) return { rows: [] };
  const after = cursor ?? (prefix === "" ? undefined : before(prefix));
  const page = await get(path(["apps"], { after, limit: PAGE, usage: true }), signal);
  const rows = page.apps.filter((app) => app.name.startsWith(prefix));
  return { rows, next: rows.length === page.apps.length ? page.next : undefined };
}

function UsageCells({ usage: data }) {
  if (!data) return html`<span class="dim">–</span>`;
  return html`<span class="usages">
    <${Usage} used=${data.entries} limit=${data.limits.entries} format=${count} label="Entries" /> entries,${" "}
    <${Usage} used=${data.bytes} limit=${data.limits.bytes} format=${size} label="Bytes" />
    ${data.deliveries > 0 && html`, ${count(data.deliveries)} deliveries`}
  </span>`;
}

const COLUMNS = [
  ["App", (app) => html`<a href=${link(["apps", app.name])}>${app.name}</a>`],
  ["Version", (app) => (app.plugin ? app.plugin.version : html`<span class="dim">none</span>`)],
  ["Calls without a token", (app) => (app.public ? "allowed" : "refused")],
  ["Usage", (app) => html`<${UsageCells} usage=${app.usage} />`],
];

function Create({ onClose }) {
  const [name, setName] = useState("");
  const [open, setOpen] = useState(false);
  const create = useAction(async () => {
    const app = await json("POST", path(["apps"]), { name, public: open });
    onClose();
    location.hash = link(["apps", app.name]);
  });
  return html`<${Dialog} title="New app" onClose=${onClose}>
    <form onSubmit=${(event) => { event.preventDefault(); create.start(); }}>
      <${Field} label="Name" hint="1 to 64 of a-z, 0-9, - and _">
        <input name="name" required maxlength="64" pattern="[a-z0-9_\\-]+" autocomplete="off" value=${name} onInput=${(event) => setName(event.target.value)} />
      <//>
      <label class="check"><input type="checkbox" checked=${open} onChange=${(event) => setOpen(event.target.checked)} /> Allow calls without a token</label>
      <${Refusal} problem=${create.problem} />
      <p class="buttons"><button type="submit" class="primary" disabled=${create.busy}>Create</button>
        <button type="button" onClick=${onClose}>Cancel</button></p>
    </form>
  <//>`;
}

/** For a token that may not list apps, but knows the name of one. */
function Open() {
  const [name, setName] = useState("");
  return html`<form onSubmit=${(event) => { event.preventDefault(); location.hash = link(["apps", name]); }}>
    <${Field} label="Open an app by its name"><input name="open" required value=${name} onInput=${(event) => setName(event.target.value)} /><//>
    <p class="buttons"><button type="submit">Open</button></p>
  </form>`;
}

export function Apps() {
  const [typed, setTyped] = useState("");
  const [prefix, setPrefix] = useState("");
  const [creating, setCreating] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setPrefix(typed), 250);
    return () => clearTimeout(timer);
  }, [typed]);
  const pages = usePages((cursor, signal) => load(prefix, cursor, signal), [prefix]);
  return html`<div>
    <h1 tabindex="-1">Apps</h1>
    <div class="tools">
      <${Field} label="Name begins with"><input type="search" name="search" value=${typed} onInput=${(event) => setTyped(event.target.value)} /><//>
      ${may("app:admin") && !isOfOneApp() && html`<button type="button" class="primary" onClick=${() => setCreating(true)}>New app</button>`}
    </div>
    <${Listing} pages=${pages} columns=${COLUMNS} what="apps" />
    ${pages.problem?.status === 403 && html`<${Open} />`}
    ${creating && html`<${Create} onClose=${() => setCreating(false)} />`}
  </div>`;
}
