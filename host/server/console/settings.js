// Settings of an app: public calls, limits, configuration, secrets, grants, deletion.

import { get, json, path, send } from "./api.js";
import { may } from "./access.js";
import { html, link, useAction, useLoad, useState } from "./ui.js";
import { Confirm, Field, Lacks, Refusal, Table, Text, grantText } from "./ui.js";
import { time } from "./text.js";

const LIMITS = [
  ["entries", "Entries"], ["bytes", "Bytes"], ["calls_per_second", "Calls per second"], ["calls_at_once", "Concurrent calls"],
];

function Limits({ app }) {
  const loaded = useLoad(async (signal) => {
    const response = await send("GET", path(["apps", app, "limits"]), { signal });
    return { etag: response.headers.get("ETag"), limits: await response.json() };
  }, [app]);
  const [edits, setEdits] = useState({});
  const save = useAction(async () => {
    const change = {};
    for (const [name, text] of Object.entries(edits)) {
      if (text.trim() !== "" && !/^\d{1,15}$/.test(text.trim())) throw new Error("A limit is a whole number, or empty for no limit.");
      change[name] = text.trim() === "" ? null : Number(text);
    }
    await json("PATCH", path(["apps", app, "limits"]), change, { headers: { "If-Match": loaded.data.etag } });
    setEdits({});
    loaded.reload();
    return "Saved.";
  });
  return html`<section><h2>Limits</h2>
    <${Refusal} problem=${loaded.problem} />
    ${loaded.data && html`<form onSubmit=${(event) => { event.preventDefault(); save.start(); }}>
      <div class="tools">${LIMITS.map(([name, label]) => html`<${Field} label=${label}>
        <input name=${name} inputmode="numeric" placeholder="no limit" value=${edits[name] ?? loaded.data.limits[name] ?? ""}
          onInput=${(event) => setEdits({ ...edits, [name]: event.target.value })} /><//>`)}
      </div>
      <${Refusal} problem=${save.problem} />
      <${Lacks} scope="instance:admin" to="change limits" />
      ${may("instance:admin") && html`<p class="buttons"><button type="submit" disabled=${save.busy || Object.keys(edits).length === 0}>Save limits</button>
        <span role="status">${save.done}</span></p>`}
    </form>`}
  </section>`;
}

function Public({ app }) {
  const loaded = useLoad((signal) => get(path(["apps", app]), signal), [app]);
  const change = useAction(async () => {
    await json("PATCH", path(["apps", app]), { public: !loaded.data.public });
    loaded.reload();
  });
  return html`<section><h2>Calls without a token</h2>
    <${Refusal} problem=${loaded.problem} />
    ${loaded.data && html`<p class="buttons"><span>They are ${loaded.data.public ? "allowed" : "refused"}.</span>
      ${may("app:admin") && html`<button type="button" disabled=${change.busy} onClick=${change.start}>${loaded.data.public ? "Refuse" : "Allow"} them</button>`}</p>`}
    <${Refusal} problem=${change.problem} />
  </section>`;
}

function Values({ app, kind, title, isSecret }) {
  const loaded = useLoad((signal) => get(path(["apps", app, kind]), signal), [app]);
  const [name, setName] = useState("");
  const [value, setValue] = useState("");
  const set = useAction(async () => {
    await send("PUT", path(["apps", app, kind, name]), { body: value, type: "text/plain" });
    setName("");
    setValue("");
    loaded.reload();
    return "Set.";
  });
  const unset = useAction(async (row) => {
    await send("DELETE", path(["apps", app, kind, row.name]));
    loaded.reload();
  });
  const columns = [
    ["Name", (row) => html`<code>${row.name}</code>`],
    !isSecret && ["Value", (row) => html`<${Text} value=${row.value} block />`],
    ["Actions", (row) => html`<button type="button" aria-label=${`Remove ${row.name}`} disabled=${unset.busy} onClick=${() => unset.start(row)}>Remove</button>`, "app:admin"],
  ].filter(Boolean);
  const rows = loaded.data?.[kind] ?? [];
  return html`<section><h2>${title}</h2>
    <${Refusal} problem=${loaded.problem} />
    ${rows.length > 0 && html`<${Table} rows=${rows} columns=${columns} what=${title} />`}
    <${Refusal} problem=${unset.problem} />
    ${loaded.data && may("app:admin") && html`<form class="tools" onSubmit=${(event) => { event.preventDefault(); set.start(); }}>
      <${Field} label="Name"><input required maxlength="64" autocomplete="off" value=${name} onInput=${(event) => setName(event.target.value)} /><//>
      <${Field} label="Value" hint=${isSecret ? "No one can read it back." : null}>
        <input type=${isSecret ? "password" : "text"} autocomplete="off" value=${value} onInput=${(event) => setValue(event.target.value)} /><//>
      <button type="submit" disabled=${set.busy}>Set</button><span role="status">${set.done}</span>
    </form>`}
    <${Refusal} problem=${set.problem} />
  </section>`;
}

function Grants({ app }) {
  const loaded = useLoad((signal) => get(path(["apps", app, "grants"]), signal), [app]);
  const [kind, setKind] = useState("http_origin");
  const [value, setValue] = useState("");
  const add = useAction(async () => {
    const grant = kind === "timers" ? { kind } : { kind, [kind === "secret" ? "name" : "origin"]: value };
    await json("POST", path(["apps", app, "grants"]), { grants: [grant] });
    setValue("");
    loaded.reload();
  });
  const revoke = useAction(async (grant) => {
    await json("POST", path(["apps", app, "grants", "revoke"]), { grants: [grant] });
    loaded.reload();
  });
  const columns = [
    ["Plugins may use", (row) => html`<${Text} value=${grantText(row.grant)} />`],
    ["Granted", (row) => time(row.granted_at)],
    ["Actions", (row) => html`<button type="button" aria-label=${`Revoke ${grantText(row.grant)}`} disabled=${revoke.busy} onClick=${() => revoke.start(row.grant)}>Revoke</button>`, "app:admin"],
  ];
  return html`<section><h2>Grants</h2>
    <${Refusal} problem=${loaded.problem} />
    ${loaded.data?.grants.length > 0 && html`<${Table} rows=${loaded.data.grants} columns=${columns} what="grants" id=${(row) => grantText(row.grant)} />`}
    <${Refusal} problem=${revoke.problem} />
    ${loaded.data && may("app:admin") && html`<form class="tools" onSubmit=${(event) => { event.preventDefault(); add.start(); }}>
      <${Field} label="Permission"><select value=${kind} onChange=${(event) => setKind(event.target.value)}>
        <option value="http_origin">Requests to an origin</option><option value="secret">Reads of a secret</option><option value="timers">Timers</option>
      </select><//>
      ${kind !== "timers" && html`<${Field} label=${kind === "secret" ? "Name of the secret" : "Origin"}>
        <input required autocomplete="off" value=${value} onInput=${(event) => setValue(event.target.value)} /><//>`}
      <button type="submit" disabled=${add.busy}>Grant</button>
    </form>`}
    <${Refusal} problem=${add.problem} />
  </section>`;
}

export function Settings({ app }) {
  const [deleting, setDeleting] = useState(false);
  return html`<div>
    <${Lacks} scope="app:admin" to="change these settings" />
    <${Public} app=${app} />
    <${Limits} app=${app} />
    <${Grants} app=${app} />
    <${Values} app=${app} kind="config" title="Configuration" />
    <${Values} app=${app} kind="secrets" title="Secrets" isSecret />
    ${may("app:admin") && html`<section><h2>Delete</h2>
      <p>Deletes the app with its plugins, entries, tokens and logs.</p>
      <button type="button" class="danger" onClick=${() => setDeleting(true)}>Delete the app</button>
    </section>`}
    ${deleting && html`<${Confirm} title="Delete the app" word=${app} action="Delete permanently"
      onConfirm=${() => send("DELETE", path(["apps", app]))} onClose=${() => setDeleting(false)}
      closed=${() => { location.hash = link(["apps"]); }}>
      <p>Nothing brings its data back.</p>
    <//>`}
  </div>`;
}
