// Triggers: on changes and by schedule, to functions and webhooks.

import { get, json, path, send } from "./api.js";
import { may } from "./access.js";
import { html, useAction, useEffect, useLoad, useState } from "./ui.js";
import { Confirm, Dialog, Field, HiddenCharacters, Lacks, Refusal, Table, Text } from "./ui.js";
import { plural, shown, time } from "./text.js";

const HOUR = 60 * 60 * 1000;
const EMPTY = {
  name: "", when: "changes", collection: "", prefix: "", set: true, delete: true, schedule: "",
  to: "function", function: "", url: "", secret: "", attempts: "", hours: "",
};

export function watches(row) {
  if (row.schedule) return `schedule ${row.schedule}`;
  if (row.collection) return `${(row.on ?? []).join(", ")} in ${row.collection}${row.prefix ? `, keys from ${row.prefix}` : ""}`;
  return "timers";
}

/** A positive number as typed, or `undefined` for the default. */
function number(text, what) {
  if (text.trim() === "") return undefined;
  if (!/^[1-9]\d{0,5}$/.test(text.trim())) throw new Error(`${what} is a whole number, or empty for the default.`);
  return Number(text);
}

/** A time in hours as typed, in milliseconds. */
function age(text) {
  if (text.trim() === "") return undefined;
  if (!/^\d{1,3}(\.\d+)?$/.test(text.trim())) throw new Error("The number of hours is a number, or empty for the default.");
  return Math.round(Number(text) * HOUR);
}

/** The form of a trigger that exists. */
const formOf = (row) => ({
  name: row.name,
  when: row.schedule ? "schedule" : "changes",
  collection: row.collection ?? "",
  prefix: row.prefix ?? "",
  set: (row.on ?? []).includes("set"),
  delete: (row.on ?? []).includes("delete"),
  schedule: row.schedule ?? "",
  to: row.url ? "webhook" : "function",
  function: row.function ?? "",
  url: row.url ?? "",
  secret: row.secret ?? "",
  attempts: String(row.attempts_max),
  hours: String(row.age_max_ms / HOUR),
});

/** What the form says, as the API reads it. */
function put(form) {
  const made = { attempts_max: number(form.attempts, "The number of attempts") };
  const oldest = age(form.hours);
  if (oldest !== undefined) made.age_max_ms = oldest;
  if (form.when === "schedule") {
    made.schedule = form.schedule.trim();
  } else {
    if (!form.set && !form.delete) throw new Error("Choose writes, deletions or both.");
    made.collection = form.collection;
    if (form.prefix !== "") made.prefix = form.prefix;
    made.on = ["set", "delete"].filter((kind) => form[kind]);
  }
  if (form.to === "webhook") return { ...made, url: form.url.trim(), secret: form.secret.trim() };
  return form.function.trim() === "" ? made : { ...made, function: form.function.trim() };
}

/** `row`: the trigger to change, or none for a new one. */
function Form({ app, row, rows, onClose, onDone }) {
  const [form, setForm] = useState(row ? formOf(row) : EMPTY);
  const functions = useLoad((signal) => get(path(["apps", app, "functions"]), signal), [app]);
  const change = (name) => (event) => setForm({ ...form, [name]: event.target.type === "checkbox" ? event.target.checked : event.target.value });
  const input = (name, more = {}) => html`<input name=${`trigger-${name}`} autocomplete="off" spellcheck=${false} value=${form[name]} onInput=${change(name)} ...${more} />`;
  const existing = rows.find((other) => other.name === form.name.trim());
  const create = useAction(() => json("PUT", path(["apps", app, "triggers", form.name.trim()]), put(form)));
  useEffect(() => { if (create.done) onDone(); }, [create.done]);
  const known = [...new Set([...(functions.data?.functions ?? []), ...(functions.data?.triggers ?? []).map((trigger) => trigger.name)])];
  return html`<${Dialog} title=${row ? "Change the trigger" : "New trigger"} onClose=${onClose}><form onSubmit=${(event) => { event.preventDefault(); create.start(); }}>
    <${Field} label="Name">${input("name", { required: true, readonly: Boolean(row), maxlength: 64, pattern: "[A-Za-z0-9_.\\-]+" })}<//>
    ${existing && html`<p class="note" role="note">It replaces the trigger of this name, that of ${existing.origin === "plugin" ? "the plugin" : "an operator"}, completely.</p>`}
    <${Field} label="When"><select name="trigger-when" value=${form.when} onChange=${change("when")}>
      <option value="changes">An entry changes</option><option value="schedule">On a schedule</option></select><//>
    ${form.when === "schedule"
      ? html`<${Field} label="Schedule" hint="Minute, hour, day, month and weekday, in UTC, such as 0 3 * * *">${input("schedule", { required: true })}<//>`
      : html`<${Field} label="Collection">${input("collection", { required: true })}<//>
        <${Field} label="Key begins with" hint="Empty: all keys">${input("prefix")}<//>
        <fieldset><legend>Changes</legend>
          <label class="check"><input type="checkbox" checked=${form.set} onChange=${change("set")} /> writes</label>
          <label class="check"><input type="checkbox" checked=${form.delete} onChange=${change("delete")} /> deletions</label></fieldset>`}
    <${Field} label="Calls"><select name="trigger-to" value=${form.to} onChange=${change("to")}>
      <option value="function">A function of the plugin</option><option value="webhook">A webhook</option></select><//>
    ${form.to === "function"
      ? html`<${Field} label="Function" hint="Empty: the name of the trigger">${input("function", { list: "trigger-functions" })}<//>
        <datalist id="trigger-functions">${known.map((name) => html`<option key=${name} value=${name}>${shown(name)}</option>`)}</datalist>`
      : html`<${Field} label="URL">${input("url", { required: true, type: "url" })}<//>
        <${Field} label="Secret" hint="Name of the secret that signs the requests; it must be set">${input("secret", { required: true })}<//>`}
    <${HiddenCharacters} text=${form.collection + form.prefix + form.function} />
    <${Field} label="Attempts" hint="1 to 100; empty: 12">${input("attempts", { inputmode: "numeric" })}<//>
    <${Field} label="Oldest delivery, in hours" hint="1 to 720; empty: 24">${input("hours", { inputmode: "decimal" })}<//>
    <${Refusal} problem=${create.problem} />
    <p class="buttons"><button type="submit" class=${existing ? "danger" : "primary"} disabled=${create.busy}>${existing ? "Replace" : "Create"}</button>
      <button type="button" onClick=${onClose}>Cancel</button></p>
  </form><//>`;
}

function Delete({ app, row, onClose, closed }) {
  const [fate, setFate] = useState("refuse");
  return html`<${Confirm} title="Delete the trigger" action="Delete the trigger" onClose=${onClose} closed=${closed}
    onConfirm=${() => send("DELETE", path(["apps", app, "triggers", row.name], { deliveries: fate }))}>
    <p>Deletes <${Text} value=${row.name} />.${row.origin === "plugin" ? " The plugin declares it, so the next activation creates it again." : ""}</p>
    <${Field} label="Outstanding deliveries"><select name="fate" value=${fate} onChange=${(event) => setFate(event.target.value)}>
      <option value="refuse">If there are any, do not delete</option>
      <option value="keep">Deliver them</option>
      ${may("script:write") && html`<option value="discard">Discard them</option>`}</select><//>
    <${Lacks} scope="script:write" to="discard its deliveries" />
  <//>`;
}

export function Triggers({ app }) {
  const loaded = useLoad((signal) => get(path(["apps", app, "triggers"]), signal), [app]);
  const [form, setForm] = useState(null);
  const [deleting, setDeleting] = useState(null);
  const change = useAction(async (row) => {
    await send("POST", path(["apps", app, "triggers", row.name, row.paused ? "resume" : "pause"]));
    loaded.reload();
  });
  const state = (row) => (row.paused
    ? html`<span class="level error">paused</span> ${row.paused === "failures" ? `after failures${row.probe_at ? `, probe ${time(row.probe_at)}` : ""}` : "by an operator"}`
    : html`running${row.failures > 0 && `, ${plural(row.failures, "failure")}`}`);
  const columns = [
    ["Trigger", (row) => html`<${Text} value=${row.name} /> <span class="dim">${row.origin}</span>`],
    ["Watches", (row) => html`<${Text} value=${watches(row)} />`],
    ["Calls", (row) => html`<${Text} value=${row.function ?? row.url} />`],
    ["Next", (row) => time(row.next_at)],
    ["Attempts", (row) => row.attempts_max],
    ["State", state],
    ["Actions", (row) => html`<span class="buttons"><button type="button" disabled=${change.busy} aria-label=${`${row.paused ? "Resume" : "Pause"} ${shown(row.name)}`}
      onClick=${() => change.start(row)}>${row.paused ? "Resume" : "Pause"}</button>
      ${(row.schedule || row.collection) && html`<button type="button" aria-label=${`Change ${shown(row.name)}`} onClick=${() => setForm({ row })}>Change</button>`}
      <button type="button" aria-label=${`Delete ${shown(row.name)}`} onClick=${() => setDeleting(row)}>Delete</button></span>`, "app:admin"],
  ];
  const rows = loaded.data?.triggers ?? [];
  return html`<div>
    <${Refusal} problem=${loaded.problem} /><${Refusal} problem=${change.problem} />
    <${Lacks} scope="app:admin" to="create, change, pause, resume or delete a trigger" />
    ${may("app:admin") && html`<p class="buttons"><button type="button" class="primary" onClick=${() => setForm({})}>New trigger</button></p>`}
    ${rows.length > 0 ? html`<${Table} rows=${rows} columns=${columns} what="triggers" />` : loaded.data && html`<p class="empty">No triggers.</p>`}
    <p class="buttons"><button type="button" onClick=${loaded.reload}>Reload</button></p>
    ${form && html`<${Form} app=${app} row=${form.row} rows=${rows} onClose=${() => setForm(null)} onDone=${() => { setForm(null); loaded.reload(); }} />`}
    ${deleting && html`<${Delete} app=${app} row=${deleting} onClose=${() => setDeleting(null)} closed=${() => { setDeleting(null); loaded.reload(); }} />`}
  </div>`;
}
